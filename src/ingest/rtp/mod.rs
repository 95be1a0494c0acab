//! RTP (RFC 3550), for every way in that uses it: RTSP pushed and pulled, and WebRTC.
//!
//! Packets go `reorder` → `depay` (access units) → `clock` (sender reports put all tracks on one clock) → `dts`
//! (decoding order gets its times) → `media::Timeline` → hub. All but `output`, which owns the hub's publisher, is
//! pure. `section` is one m= section as far as its access units, `receiver` all of a publisher.

mod clock;
pub mod depay;
mod dts;
mod hold;
mod output;
pub mod receiver;
mod reorder;
mod report;
mod section;
mod sender;

pub use receiver::{Arrival, Media, Receiver};

use crate::media::Codec;

/// What a session description says about one RTP stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub codec: Codec,
    pub payload_type: u8,
    /// Hz of the RTP timestamps.
    pub clock_rate: u32,
    /// Audio only; 1 when the description does not say.
    pub channels: u32,
    /// `a=fmtp`, keys in lower case, in order.
    pub fmtp: Vec<(String, String)>,
}

impl Format {
    /// The value of a format parameter; `key` in lower case.
    pub fn fmtp(&self, key: &str) -> Option<&str> {
        self.fmtp.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}
