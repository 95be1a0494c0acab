//! What the integration tests and the benchmark share: an RTMP publisher and an FLV reader; and for the tests
//! the daemon in a folder of its own, and what ffmpeg says of a file.
//!
//! Written by hand and without the `reeld` crate, so that a misreading of the protocol in the daemon
//! cannot hide behind the same misreading in its tests. A crate of its own, not a `mod support;`,
//! because a test that uses half of a shared module would be warned about the other half.

pub mod amf0;
pub mod avsync;
pub mod browser;
pub mod camera;
pub mod chunk;
pub mod daemon;
pub mod enhanced;
pub mod faultfs;
pub mod flv;
pub mod http;
pub mod lab;
pub mod live;
pub mod media;
pub mod play;
pub mod receiver;
pub mod relay;
pub mod rtmp;
pub mod rtsp;
pub mod s3;
pub mod small_disk;
pub mod tap;
pub mod wait;
pub mod ws;
