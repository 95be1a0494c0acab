//! RTSP 1.0 (RFC 2326): the server that streams are pushed to, and the parts a client needs too.

mod client;
pub mod message;
pub mod request;
pub mod sdp;
pub mod session;
pub mod transport;
pub mod udp;

pub use client::RtspPull;
