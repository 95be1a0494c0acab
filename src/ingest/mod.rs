//! What brings live streams in. One folder per protocol; all of them publish to the hub.

pub mod caps;
pub mod rtmp;
pub mod rtp;
pub mod rtsp;
pub mod source;
pub mod tls;
pub mod whip;

mod accept;
mod drain;

pub use accept::ConnectionStats;

use std::net::SocketAddr;

/// Id of a publisher's connection, safe in a file name: URL-safe base64 of `/REMOTE/LOCAL`, as Flashphoner forms it.
pub(crate) fn session_id(remote: SocketAddr, local: SocketAddr) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(format!("/{remote}/{local}"))
}

/// RFC 3986, 2.1; what is no escape stays.
fn percent_decoded(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let mut byte = [*first];
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let decoded = escaped.is_some_and(|hex| hex::decode_to_slice(hex, &mut byte).is_ok());
        bytes.push(if decoded { byte[0] } else { *first });
        rest = if decoded { &after[2..] } else { after };
    }
    bytes
}
