//! WHIP (RFC 9725): browsers and encoders publish over WebRTC.
//!
//! [`offer`] reads the publisher's offer and keeps of it what reeld takes, [`answer`] makes `webrtcbin`'s answer fit to
//! be sent, [`sdpfrag`] reads trickled candidates (RFC 8840), [`state`] says when a session ends. All of these are
//! pure. `peer` is one `webrtcbin`, `inbox` what its threads leave for us, `session` the task that takes it from there
//! to the [RTP receiver](super::rtp), `server` the map of sessions and the verbs of the protocol.

pub mod answer;
pub mod candidate;
pub mod offer;
pub mod sdpfrag;
pub mod state;

mod inbox;
mod interfaces;
mod nice;
mod peer;
mod server;
mod session;

pub use server::{Accepted, Patched, PublishRequest, WhipError, WhipServer, WhipSettings, WhipStats};
