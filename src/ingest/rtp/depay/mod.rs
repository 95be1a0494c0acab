//! Access units from RTP payloads, one file per payload format. Pure and bounded: bytes in, units out.
//!
//! A unit is given out only when every packet of it came. It ends at the packet with the marker, or, in sequence, at
//! the first packet of another timestamp (some senders set no marker).

mod aac;
mod asc;
mod assembly;
mod av1;
mod g711;
mod h264;
mod h265;
mod latm;
mod nal;
mod opus;
mod picture_size;
pub(in crate::ingest) mod vp8;
pub(in crate::ingest) mod vp9;

#[cfg(test)]
mod tests;

use super::Format;
use crate::media::{Codec, VideoSize};
use gstreamer as gst;

/// One packet of one RTP stream. Packets come in sequence; before a packet whose predecessors are missing comes
/// [`Depay::lost`].
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Without header, extensions and padding. An empty one is passed over.
    pub payload: &'a [u8],
    pub timestamp: u32,
    pub marker: bool,
    pub sequence: u16,
}

/// One access unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// In the form the caps of the last [`TrackConfig`] name: H.264 and H.265 as NAL units with 4-byte lengths,
    /// without parameter sets, delimiters and filler; AV1 as OBUs with sizes, without temporal delimiters; VP8 a frame;
    /// VP9 a frame, or a superframe of a picture's spatial layers; raw AAC; an Opus packet; G.711 samples.
    pub payload: Vec<u8>,
    /// Ticks of the stream's clock rate. Audio units after the first of a packet have theirs counted on.
    pub timestamp: u32,
    /// True for a picture that can be decoded without others, and for all audio.
    pub key: bool,
    /// Ticks, where the codec tells.
    pub duration: Option<u32>,
}

/// What the track is. Told before its first unit and again whenever it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackConfig {
    pub caps: gst::Caps,
    /// Video only, where the stream tells it.
    pub size: Option<VideoSize>,
    /// Audio only, Hz.
    pub rate: Option<u32>,
    /// Audio only.
    pub channels: Option<u32>,
    /// Units that may come before another in decoding order and after it in output order; `None` when not told.
    pub reorder: Option<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Config(TrackConfig),
    Unit(Unit),
}

/// Takes the payload format of one RTP stream apart.
pub trait Depay: Send {
    fn push(&mut self, packet: Packet<'_>, out: &mut Vec<Output>);

    /// Packets before the next one never came. The unit under way is dropped; the one the next packet belongs to too,
    /// unless that packet is known to be its first.
    fn lost(&mut self);

    /// The stream ends. Gives out the unit under way if its sender ends units without a marker.
    fn finish(&mut self, out: &mut Vec<Output>);

    /// Units dropped so far because a part of them was missing or wrong, or because what is needed to decode them
    /// (parameter sets, a first key frame) had not come.
    fn dropped(&self) -> u64;
}

/// A session description that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{codec} over RTP: {what}")]
pub struct DepayError {
    pub codec: Codec,
    pub what: &'static str,
}

/// Biggest access unit.
const MAX_UNIT_BYTES: usize = 8 << 20;

/// Most values in one format parameter.
const MAX_LISTED: usize = 64;

/// A depayloader for what `format` describes.
pub fn make(format: &Format) -> Result<Box<dyn Depay>, DepayError> {
    Ok(match format.codec {
        Codec::H264 => Box::new(h264::H264::new(format)?),
        Codec::H265 => Box::new(h265::H265::new(format)?),
        Codec::Av1 => Box::new(av1::Av1::new()),
        Codec::Vp8 => Box::new(vp8::Vp8::new()),
        Codec::Vp9 => Box::new(vp9::Vp9::new()),
        Codec::Aac if latm::Latm::is_described_by(format) => Box::new(latm::Latm::new(format)?),
        Codec::Aac => Box::new(aac::Aac::new(format)?),
        Codec::Opus => Box::new(opus::Opus::new(format)?),
        Codec::Pcma | Codec::Pcmu => Box::new(g711::G711::new(format)?),
        codec @ (Codec::Mp3 | Codec::Vorbis) => {
            return Err(DepayError { codec, what: "no payload format that reeld reads" });
        }
    })
}

/// A config that is known from the session description alone: told once, before the first unit.
struct Told(Option<TrackConfig>);

impl Told {
    fn audio(track: crate::ingest::caps::AudioTrackCaps) -> Self {
        let (rate, channels) = (Some(track.rate), Some(track.channels));
        Told(Some(TrackConfig { caps: track.caps, size: None, rate, channels, reorder: Some(0) }))
    }

    fn tell(&mut self, out: &mut Vec<Output>) {
        out.extend(self.0.take().map(Output::Config));
    }
}

/// Binary values in a format parameter, separated by commas; what is not base64 is passed over.
fn base64_list(value: Option<&str>) -> Vec<Vec<u8>> {
    use base64::Engine;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
    let items = value.unwrap_or_default().split(',').take(MAX_LISTED);
    items.filter_map(|item| ENGINE.decode(item.trim()).ok()).collect()
}
