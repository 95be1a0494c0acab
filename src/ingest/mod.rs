//! What brings live streams in. One folder per protocol; all of them publish to the hub.

pub mod caps;
pub mod rtmp;
pub mod rtp;
pub mod rtsp;
pub mod source;
pub mod tls;
pub mod whip;

mod drain;

use std::net::SocketAddr;

/// Id of a publisher's connection, safe in a file name: URL-safe base64 of `/REMOTE/LOCAL`, as Flashphoner forms it.
pub(crate) fn session_id(remote: SocketAddr, local: SocketAddr) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(format!("/{remote}/{local}"))
}
