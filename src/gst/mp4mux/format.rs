//! From caps to what a track needs: its sample entry, its timescale and how its access units are timed.

use super::boxes::{boxed, full_box};
use super::video;
use crate::media::Bits;
use crate::media::MediaKind;
use bytes::BufMut;
use gstreamer as gst;

/// Codec configuration longer than this is refused.
const MAX_CODEC_DATA_BYTES: usize = 64 * 1024;
/// One tick is 1/90 ms, so milliseconds are exact.
pub(super) const VIDEO_TIMESCALE: u32 = 90_000;
/// The media rate of Opus in MP4, whatever the input was sampled at.
const OPUS_RATE: u32 = 48_000;

/// Why caps cannot become a track.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum FormatError {
    #[error("this codec or stream format does not go into MP4")]
    Unsupported,
    #[error("the caps have no usable field {0}")]
    Field(&'static str),
    #[error("codec_data is not a valid {0}")]
    CodecData(&'static str),
}

/// A track's fixed properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub kind: MediaKind,
    /// The whole sample entry box for `stsd`.
    pub entry: Vec<u8>,
    /// Ticks a second.
    pub timescale: u32,
    /// Presentation size, 16.16 fixed point; 0 for audio.
    pub display: (u32, u32),
    /// How long an access unit lasts where nothing else says so, ticks.
    pub nominal: u32,
    /// Every access unit lasts exactly `nominal`, so timestamps within 1 ms of that are rounding, not gaps.
    pub constant: bool,
    /// Decoder delay at the start, ticks.
    pub pre_skip: u32,
    /// Access units may begin with an AV1 temporal delimiter, which does not belong in a file.
    pub temporal_delimiters: bool,
}

impl Format {
    pub fn from_caps(caps: &gst::CapsRef) -> Result<Self, FormatError> {
        let s = caps.structure(0).ok_or(FormatError::Unsupported)?;
        let stream_format = s.get::<&str>("stream-format").ok();
        match (s.name().as_str(), stream_format) {
            ("video/x-h264", Some("avc")) => video::h264(s, b"avc1"),
            ("video/x-h264", Some("avc3")) => video::h264(s, b"avc3"),
            ("video/x-h265", Some("hvc1")) => video::h265(s, b"hvc1"),
            ("video/x-h265", Some("hev1")) => video::h265(s, b"hev1"),
            ("video/x-av1", Some("obu-stream")) => video::av1(s),
            ("video/x-vp9", _) => video::vp9(s),
            ("audio/x-opus", _) => opus(s),
            ("audio/mpeg", format) => match (s.get::<i32>("mpegversion"), s.get::<i32>("layer")) {
                (Ok(4), _) if format == Some("raw") => aac(s),
                (Ok(1), Ok(3)) => mp3(s),
                _ => Err(FormatError::Unsupported),
            },
            _ => Err(FormatError::Unsupported),
        }
    }

    pub fn is_video(&self) -> bool {
        self.kind == MediaKind::Video
    }

    /// Goes on with access units of `next`, as far as the same decoder takes them: false, with nothing changed, where
    /// it does not.
    ///
    /// Video may change its parameters when they are in the access units: AV1 and VP9 have them there, H.264 and H.265
    /// from here on have to. Their sample entry says so from now on (`avc3`, `hev1`; 14496-15, 5.3.3 and 8.3.3), and
    /// the picture is as large as the largest.
    pub fn go_on(&mut self, next: &Format) -> bool {
        if self.entry == next.entry {
            return true;
        }
        let kind = |entry: &[u8]| entry.get(4..8).and_then(|kind| <[u8; 4]>::try_from(kind).ok());
        let (Some(old), Some(new)) = (kind(&self.entry), kind(&next.entry)) else { return false };
        if !self.is_video() || video::in_band_kind(&old) != video::in_band_kind(&new) {
            return false;
        }
        self.entry[4..8].copy_from_slice(video::in_band_kind(&old));
        if let Some(size) = video::entry_size(&next.entry) {
            video::grow(&mut self.entry, size);
        }
        self.display = (self.display.0.max(next.display.0), self.display.1.max(next.display.1));
        true
    }
}

/// The caps' `codec_data`, at least `min` bytes of it.
pub(super) fn codec_data(s: &gst::StructureRef, min: usize) -> Result<Vec<u8>, FormatError> {
    let field = FormatError::Field("codec_data");
    let buffer = s.get::<gst::Buffer>("codec_data").map_err(|_| FormatError::Field("codec_data"))?;
    if buffer.size() < min || buffer.size() > MAX_CODEC_DATA_BYTES {
        return Err(field);
    }
    Ok(buffer.map_readable().map_err(|_| field)?.to_vec())
}

/// `value` in the range a 16-bit field holds, from 1.
pub(super) fn positive_u16(s: &gst::StructureRef, field: &str) -> Option<u16> {
    s.get::<i32>(field).ok().and_then(|v| u16::try_from(v).ok()).filter(|v| *v > 0)
}

/// A sample rate that can be a timescale, and half a second to spare in every 32-bit duration.
fn rate(s: &gst::StructureRef) -> Option<u32> {
    s.get::<i32>("rate").ok().and_then(|v| u32::try_from(v).ok()).filter(|v| (1_000..=768_000).contains(v))
}

fn audio(entry: Vec<u8>, timescale: u32, nominal: u32) -> Format {
    Format {
        kind: MediaKind::Audio,
        entry,
        timescale,
        display: (0, 0),
        nominal,
        constant: true,
        pre_skip: 0,
        temporal_delimiters: false,
    }
}

fn aac(s: &gst::StructureRef) -> Result<Format, FormatError> {
    let config = codec_data(s, 2)?;
    let parsed = AudioConfig::parse(&config).ok_or(FormatError::CodecData("AudioSpecificConfig"))?;
    let rate = rate(s).or(parsed.rate).ok_or(FormatError::Field("rate"))?;
    let channels = positive_u16(s, "channels").unwrap_or(2);
    let core_rate = parsed.rate.unwrap_or(rate).max(1);
    let nominal = u64::from(parsed.frame_samples) * u64::from(rate) / u64::from(core_rate);
    let nominal = u32::try_from(nominal).unwrap_or(parsed.frame_samples).max(1);
    let entry = mp4a(channels, rate, 0x40, Some(&config));
    Ok(audio(entry, rate, nominal))
}

fn mp3(s: &gst::StructureRef) -> Result<Format, FormatError> {
    let rate = rate(s).ok_or(FormatError::Field("rate"))?;
    let channels = positive_u16(s, "channels").unwrap_or(2);
    let (object_type, frame_samples) = if rate >= 32_000 { (0x6b, 1152) } else { (0x69, 576) };
    Ok(audio(mp4a(channels, rate, object_type, None), rate, frame_samples))
}

/// The part of an AudioSpecificConfig that timing needs (14496-3, 1.6.2.1).
struct AudioConfig {
    /// Of the core coder; `None` for a reserved index.
    rate: Option<u32>,
    frame_samples: u32,
}

impl AudioConfig {
    fn parse(config: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(config);
        let object_type = Self::object_type(&mut bits)?;
        let rate = Self::rate(&mut bits)?;
        bits.take(4)?;
        if matches!(object_type, 5 | 29) {
            Self::rate(&mut bits)?;
            Self::object_type(&mut bits)?;
        }
        let short = bits.flag().unwrap_or(false);
        Some(Self { rate, frame_samples: if short { 960 } else { 1024 } })
    }

    fn object_type(bits: &mut Bits) -> Option<u32> {
        match bits.take(5)? {
            31 => Some(32 + bits.take(6)?),
            object_type => Some(object_type),
        }
    }

    fn rate(bits: &mut Bits) -> Option<Option<u32>> {
        const RATES: [u32; 13] =
            [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];
        match bits.take(4)? {
            15 => bits.take(24).map(Some),
            index => Some(RATES.get(index as usize).copied()),
        }
    }
}

fn audio_entry(kind: &[u8; 4], channels: u16, rate: u32, config: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    boxed(&mut out, kind, |b| {
        b.put_bytes(0, 6);
        b.put_u16(1);
        b.put_bytes(0, 8);
        b.put_u16(channels);
        b.put_u16(16);
        b.put_u32(0);
        b.put_u32(u16::try_from(rate).map_or(0, |r| u32::from(r) << 16));
        config(b);
    });
    out
}

fn mp4a(channels: u16, rate: u32, object_type: u8, specific: Option<&[u8]>) -> Vec<u8> {
    const AUDIO_STREAM: u8 = 0x15;
    audio_entry(b"mp4a", channels, rate, |b| {
        full_box(b, b"esds", 0, 0, |b| {
            let specific_len = specific.map_or(0, |s| s.len() + 5);
            descriptor(b, 3, 3 + (5 + 13 + specific_len) + (5 + 1));
            b.put_u16(0);
            b.put_u8(0);
            descriptor(b, 4, 13 + specific_len);
            b.put_u8(object_type);
            b.put_u8(AUDIO_STREAM);
            b.put_bytes(0, 3 + 4 + 4);
            if let Some(specific) = specific {
                descriptor(b, 5, specific.len());
                b.put_slice(specific);
            }
            descriptor(b, 6, 1);
            b.put_u8(2);
        });
    })
}

/// Tag and length of an MPEG-4 descriptor, the length in four groups of 7 bits (14496-1, 8.3.3).
fn descriptor(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.put_u8(tag);
    for (shift, more) in [(21, 0x80), (14, 0x80), (7, 0x80), (0, 0)] {
        out.put_u8((len >> shift) as u8 & 0x7f | more);
    }
}

fn opus(s: &gst::StructureRef) -> Result<Format, FormatError> {
    let head = match opus_head(s) {
        Some(head) => OpusHead::parse(&head).ok_or(FormatError::CodecData("OpusHead"))?,
        None => OpusHead::from_fields(s)?,
    };
    let entry = audio_entry(b"Opus", u16::from(head.channels), OPUS_RATE, |b| {
        boxed(b, b"dOps", |b| {
            b.put_u8(0);
            b.put_u8(head.channels);
            b.put_u16(head.pre_skip);
            b.put_u32(head.input_rate);
            b.put_i16(head.gain);
            b.put_u8(head.family);
            b.put_slice(&head.mapping);
        });
    });
    let nominal = OPUS_RATE / 50;
    Ok(Format { constant: false, pre_skip: u32::from(head.pre_skip), ..audio(entry, OPUS_RATE, nominal) })
}

fn opus_head(s: &gst::StructureRef) -> Option<Vec<u8>> {
    let header = s
        .get::<gst::ArrayRef>("streamheader")
        .ok()
        .and_then(|headers| headers.as_slice().first().and_then(|first| first.get::<gst::Buffer>().ok()));
    let head = header.or_else(|| s.get::<gst::Buffer>("codec_data").ok())?;
    let head = head.map_readable().ok()?;
    (head.len() <= MAX_CODEC_DATA_BYTES).then(|| head.to_vec())
}

/// Opus identification header (RFC 7845, 5.1).
struct OpusHead {
    channels: u8,
    pre_skip: u16,
    input_rate: u32,
    gain: i16,
    family: u8,
    /// Stream count, coupled count and channel mapping; empty in family 0.
    mapping: Vec<u8>,
}

impl OpusHead {
    fn parse(head: &[u8]) -> Option<Self> {
        let head = head.strip_prefix(b"OpusHead")?;
        let (&[_, channels, skip0, skip1, r0, r1, r2, r3, g0, g1, family], rest) =
            head.split_first_chunk()?;
        let mapping = match family {
            0 => &[],
            _ => rest.get(..2 + usize::from(channels))?,
        };
        (channels > 0).then(|| Self {
            channels,
            pre_skip: u16::from_le_bytes([skip0, skip1]),
            input_rate: u32::from_le_bytes([r0, r1, r2, r3]),
            gain: i16::from_le_bytes([g0, g1]),
            family,
            mapping: mapping.to_vec(),
        })
    }

    /// RTP carries no identification header: mono or stereo at mapping family 0.
    fn from_fields(s: &gst::StructureRef) -> Result<Self, FormatError> {
        let channels = s.get::<i32>("channels").unwrap_or(2);
        let channels = u8::try_from(channels)
            .ok()
            .filter(|c| matches!(c, 1 | 2))
            .ok_or(FormatError::Field("channels"))?;
        let input_rate = rate(s).unwrap_or(OPUS_RATE);
        Ok(Self { channels, pre_skip: 0, input_rate, gain: 0, family: 0, mapping: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_configs_give_rate_and_frame_length() {
        for (config, rate, frame) in [
            (&[0x12, 0x10][..], 44_100, 1024),
            (&[0x11, 0x90], 48_000, 1024),
            (&[0x12, 0x14], 44_100, 960),
            // Explicit SBR: the core runs at half the output rate.
            (&[0x2b, 0x11, 0x88, 0x00], 24_000, 1024),
        ] {
            let parsed = AudioConfig::parse(config).expect("valid");
            assert_eq!((parsed.rate, parsed.frame_samples), (Some(rate), frame), "{config:02x?}");
        }
        assert!(AudioConfig::parse(&[0x12]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn headers_from_outside_never_panic(data in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            AudioConfig::parse(&data);
            OpusHead::parse(&data);
            OpusHead::parse(&[b"OpusHead", &data[..]].concat());
        }
    }

    #[test]
    fn unsupported_caps_are_refused() {
        gst::init().expect("GStreamer");
        for caps in [
            "video/x-h264,stream-format=byte-stream,alignment=au",
            "video/x-h264,stream-format=avc,alignment=au,width=320,height=180",
            "video/x-vp8,width=320,height=180",
            "video/x-vp9",
            "audio/mpeg,mpegversion=4,stream-format=adts,rate=48000,channels=2",
            "audio/mpeg,mpegversion=4,stream-format=raw,rate=48000,channels=2,codec_data=(buffer)12",
            "audio/x-opus,channels=6",
            "audio/x-opus,channels=2,codec_data=(buffer)0011",
        ] {
            let parsed = caps.parse::<gst::Caps>().expect("caps");
            assert!(Format::from_caps(&parsed).is_err(), "{caps}");
        }
    }
}
