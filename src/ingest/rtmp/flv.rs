//! Bodies of audio and video messages: FLV 10.1 (Annex E.4), HEVC under its customary legacy id, and Enhanced
//! RTMP v1 and v2 with one track; [`multitrack`](super::multitrack) makes one of several.

use crate::{
    ingest::caps::CapsError,
    media::{Codec, MediaKind},
};
use std::fmt;

/// A codec's four characters (Enhanced RTMP).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FourCc(pub [u8; 4]);

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FourCc({self})")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    #[error("{what}: {needed} bytes needed, the message has {have}")]
    Truncated { what: &'static str, needed: usize, have: usize },
    #[error("video codec {id} ({name}) is not supported; send H.264, or HEVC, AV1 or VP9 over Enhanced RTMP")]
    VideoCodec { id: u8, name: &'static str },
    #[error("audio codec {id} ({name}) is not supported; send AAC, MP3, G.711, or Opus over Enhanced RTMP")]
    AudioCodec { id: u8, name: &'static str },
    #[error("{kind} codec {four_cc}{} is not supported; send {}", in_words(*four_cc), supported(kind))]
    FourCc { kind: &'static str, four_cc: FourCc },
    #[error("{kind} packet type {id} ({name}) of Enhanced RTMP is not supported")]
    PacketType { kind: &'static str, id: u8, name: &'static str },
    #[error(transparent)]
    Config(#[from] CapsError),
}

impl FlvError {
    /// Whether it concerns all messages of a track, because its codec is not supported.
    pub fn is_of_codec(&self) -> bool {
        matches!(self, Self::VideoCodec { .. } | Self::AudioCodec { .. } | Self::FourCc { .. })
    }
}

fn in_words(four_cc: FourCc) -> &'static str {
    match &four_cc.0 {
        b"ac-3" => " (AC-3)",
        b"ec-3" => " (E-AC-3)",
        b"fLaC" => " (FLAC)",
        b"vvc1" => " (H.266/VVC)",
        _ => "",
    }
}

fn supported(kind: &str) -> &'static str {
    match kind {
        "video" => "H.264, HEVC, AV1, VP9 or VP8",
        _ => "AAC, Opus, MP3 or G.711",
    }
}

/// Packet types that audio and video number differently.
#[derive(Clone, Copy)]
pub(super) struct PacketTypes {
    pub name: &'static str,
    pub multitrack: u8,
    video: bool,
}

impl PacketTypes {
    pub fn of(kind: MediaKind) -> Self {
        match kind {
            MediaKind::Video => Self { name: "video", multitrack: 6, video: true },
            MediaKind::Audio => Self { name: "audio", multitrack: 5, video: false },
        }
    }

    /// Whether a message that begins with `first` has the header of Enhanced RTMP.
    pub fn is_enhanced(self, first: u8) -> bool {
        if self.video { first & 0x80 != 0 } else { first >> 4 == 9 }
    }
}

/// What a video message holds. Offsets are into the message's payload, up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoTag {
    /// `avcC`, `hvcC`, `av1C` or `vpcC`.
    SequenceHeader {
        codec: Codec,
        offset: usize,
    },
    /// One access unit. Presentation is `cts_ms` after the message's timestamp, which is its decoding time.
    Frame {
        codec: Codec,
        key: bool,
        cts_ms: i32,
        offset: usize,
    },
    EndOfSequence {
        codec: Codec,
    },
    /// Nothing to record: colour metadata, a seek command.
    Ignored,
}

/// What an audio message holds. Offsets are into the message's payload, up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioTag {
    /// `AudioSpecificConfig` or `OpusHead`.
    SequenceHeader {
        codec: Codec,
        offset: usize,
    },
    Frame {
        codec: Codec,
        offset: usize,
    },
    EndOfSequence {
        codec: Codec,
    },
    Ignored,
}

impl VideoTag {
    /// What [`video_track_caps`](crate::ingest::caps::video_track_caps) asks for, when this message has it: the sequence header;
    /// of VP8 and VP9 every key frame, because their header (which some encoders do not send) does not tell the size.
    pub fn config(self, payload: &[u8]) -> Option<(Codec, &[u8])> {
        match self {
            VideoTag::SequenceHeader { codec: Codec::Vp8 | Codec::Vp9, .. } => None,
            VideoTag::SequenceHeader { codec, offset }
            | VideoTag::Frame { codec: codec @ (Codec::Vp8 | Codec::Vp9), key: true, offset, .. } => {
                Some((codec, payload.get(offset..)?))
            }
            _ => None,
        }
    }
}

impl AudioTag {
    /// What [`audio_track_caps`](crate::ingest::caps::audio_track_caps) asks for, when this message has it: the sequence
    /// header; of MP3 any frame; of G.711 the first byte of any message. Frames of one MP3 track differ here, so look
    /// at a frame only while its track is unknown.
    pub fn config(self, payload: &[u8]) -> Option<(Codec, &[u8])> {
        match self {
            AudioTag::SequenceHeader { codec, offset } => Some((codec, payload.get(offset..)?)),
            AudioTag::Frame { codec: Codec::Mp3, offset } => Some((Codec::Mp3, payload.get(offset..)?)),
            AudioTag::Frame { codec: codec @ (Codec::Pcma | Codec::Pcmu), .. } => {
                Some((codec, payload.get(..1)?))
            }
            _ => None,
        }
    }
}

/// Reads the header of a video message's body.
pub fn parse_video(payload: &[u8]) -> Result<VideoTag, FlvError> {
    let first = byte(payload, 0, "video header")?;
    if first & 0x80 != 0 {
        return enhanced_video(payload);
    }
    if Frame::of(first >> 4) == Frame::Command {
        return Ok(VideoTag::Ignored);
    }
    let codec = match first & 0x0F {
        7 => Codec::H264,
        12 => Codec::H265,
        id => return Err(FlvError::VideoCodec { id, name: video_codec_name(id) }),
    };
    match byte(payload, 1, "video packet type")? {
        0 => Ok(VideoTag::SequenceHeader { codec, offset: require(payload, 5, "video header")? }),
        1 => video_frame(payload, codec, first >> 4, 2, true),
        2 => Ok(VideoTag::EndOfSequence { codec }),
        id => Err(FlvError::PacketType { kind: "video", id, name: "unknown" }),
    }
}

fn enhanced_video(payload: &[u8]) -> Result<VideoTag, FlvError> {
    let first = payload[0];
    let frame_type = (first >> 4) & 0x07;
    let (packet_type, at) = skip_mod_ex(payload, first & 0x0F)?;
    if Frame::of(frame_type) == Frame::Command || packet_type == 4 {
        return Ok(VideoTag::Ignored);
    }
    if packet_type > 3 {
        let name = match packet_type {
            5 => "MPEG-2 TS sequence start",
            6 => "multitrack",
            _ => "unknown",
        };
        return Err(FlvError::PacketType { kind: "video", id: packet_type, name });
    }
    let four_cc = four_cc(payload, at)?;
    let codec = match &four_cc.0 {
        b"avc1" => Codec::H264,
        b"hvc1" => Codec::H265,
        b"av01" => Codec::Av1,
        b"vp09" => Codec::Vp9,
        b"vp08" => Codec::Vp8,
        _ => return Err(FlvError::FourCc { kind: "video", four_cc }),
    };
    let body = at + 4;
    match packet_type {
        0 => Ok(VideoTag::SequenceHeader { codec, offset: require(payload, body, "sequence header")? }),
        2 => Ok(VideoTag::EndOfSequence { codec }),
        _ => {
            let has_cts = packet_type == 1 && matches!(codec, Codec::H264 | Codec::H265);
            video_frame(payload, codec, frame_type, body, has_cts)
        }
    }
}

/// The OBU header of a temporal delimiter and its size, 0 (AV1, 5.3 and 5.6).
const TEMPORAL_DELIMITER: [u8; 2] = [0x12, 0x00];

fn video_frame(
    payload: &[u8],
    codec: Codec,
    frame_type: u8,
    at: usize,
    has_cts: bool,
) -> Result<VideoTag, FlvError> {
    let mut offset = require(payload, if has_cts { at + 3 } else { at }, "video frame")?;
    let cts_ms = match payload[at..offset] {
        [a, b, c] => i32::from_be_bytes([a, b, c, 0]) >> 8,
        _ => 0,
    };
    // Files hold temporal units without their delimiter, which some encoders leave in (AV1 in ISOBMFF, 2.4).
    if codec == Codec::Av1 && payload[offset..].starts_with(&TEMPORAL_DELIMITER) {
        offset += TEMPORAL_DELIMITER.len();
    }
    if offset == payload.len() {
        return Ok(VideoTag::Ignored);
    }
    Ok(VideoTag::Frame { codec, key: Frame::of(frame_type) == Frame::Key, cts_ms, offset })
}

/// Reads the header of an audio message's body.
pub fn parse_audio(payload: &[u8]) -> Result<AudioTag, FlvError> {
    let first = byte(payload, 0, "audio header")?;
    let codec = match first >> 4 {
        2 | 14 => Codec::Mp3,
        7 => Codec::Pcma,
        8 => Codec::Pcmu,
        9 => return enhanced_audio(payload),
        10 => {
            return match byte(payload, 1, "AAC packet type")? {
                0 => Ok(AudioTag::SequenceHeader { codec: Codec::Aac, offset: 2 }),
                1 => Ok(audio_frame(payload, Codec::Aac, 2)),
                id => Err(FlvError::PacketType { kind: "audio", id, name: "unknown" }),
            };
        }
        id => return Err(FlvError::AudioCodec { id, name: audio_codec_name(id) }),
    };
    Ok(audio_frame(payload, codec, 1))
}

fn enhanced_audio(payload: &[u8]) -> Result<AudioTag, FlvError> {
    let (packet_type, at) = skip_mod_ex(payload, payload[0] & 0x0F)?;
    if packet_type == 4 {
        return Ok(AudioTag::Ignored);
    }
    if packet_type > 2 {
        let name = if packet_type == 5 { "multitrack" } else { "unknown" };
        return Err(FlvError::PacketType { kind: "audio", id: packet_type, name });
    }
    let four_cc = four_cc(payload, at)?;
    let codec = match &four_cc.0 {
        b"Opus" => Codec::Opus,
        b"mp4a" => Codec::Aac,
        b".mp3" => Codec::Mp3,
        _ => return Err(FlvError::FourCc { kind: "audio", four_cc }),
    };
    match packet_type {
        0 => Ok(AudioTag::SequenceHeader { codec, offset: at + 4 }),
        1 => Ok(audio_frame(payload, codec, at + 4)),
        _ => Ok(AudioTag::EndOfSequence { codec }),
    }
}

fn audio_frame(payload: &[u8], codec: Codec, offset: usize) -> AudioTag {
    if offset == payload.len() { AudioTag::Ignored } else { AudioTag::Frame { codec, offset } }
}

/// Steps over packet modifiers (Enhanced RTMP v2, "ModEx"); gives the packet type behind them and where the
/// FourCC begins. Each modifier takes at least two bytes, so this ends.
pub(super) fn skip_mod_ex(payload: &[u8], mut packet_type: u8) -> Result<(u8, usize), FlvError> {
    const MOD_EX: u8 = 7;
    const WHAT: &str = "packet modifier";
    let mut at = 1;
    while packet_type == MOD_EX {
        let mut size = usize::from(byte(payload, at, WHAT)?) + 1;
        at += 1;
        if size == 256 {
            let long = [byte(payload, at, WHAT)?, byte(payload, at + 1, WHAT)?];
            size = usize::from(u16::from_be_bytes(long)) + 1;
            at += 2;
        }
        at += size;
        packet_type = byte(payload, at, WHAT)? & 0x0F;
        at += 1;
    }
    Ok((packet_type, at))
}

#[derive(PartialEq, Eq)]
enum Frame {
    Key,
    Other,
    Command,
}

impl Frame {
    fn of(frame_type: u8) -> Self {
        match frame_type & 0x07 {
            // 4: a key frame made by a server.
            1 | 4 => Frame::Key,
            5 => Frame::Command,
            _ => Frame::Other,
        }
    }
}

fn byte(payload: &[u8], at: usize, what: &'static str) -> Result<u8, FlvError> {
    payload.get(at).copied().ok_or(FlvError::Truncated { what, needed: at + 1, have: payload.len() })
}

pub(super) fn require(payload: &[u8], needed: usize, what: &'static str) -> Result<usize, FlvError> {
    match payload.len() {
        have if have < needed => Err(FlvError::Truncated { what, needed, have }),
        _ => Ok(needed),
    }
}

pub(super) fn four_cc(payload: &[u8], at: usize) -> Result<FourCc, FlvError> {
    let end = require(payload, at + 4, "FourCC")?;
    Ok(FourCc(payload[at..end].try_into().expect("the slice has 4 bytes")))
}

fn video_codec_name(id: u8) -> &'static str {
    match id {
        2 => "Sorenson H.263",
        3 => "Screen video",
        4 => "On2 VP6",
        5 => "On2 VP6 with alpha",
        6 => "Screen video 2",
        _ => "unknown",
    }
}

fn audio_codec_name(id: u8) -> &'static str {
    match id {
        0 | 3 => "PCM",
        1 => "ADPCM",
        4..=6 => "Nellymoser",
        11 => "Speex",
        15 => "device-specific",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(head: &[u8], body: &str) -> Vec<u8> {
        [head, body.as_bytes()].concat()
    }

    #[test]
    fn video_messages() {
        use Codec::*;
        let frame = |codec, key, cts_ms, offset| Ok(VideoTag::Frame { codec, key, cts_ms, offset });
        let header = |codec, offset| Ok(VideoTag::SequenceHeader { codec, offset });
        let cases: Vec<(&[u8], &str, Result<VideoTag, FlvError>)> = vec![
            (&[0x17, 0, 0, 0, 0], "avcC", header(H264, 5)),
            (&[0x17, 1, 0, 0, 80], "au", frame(H264, true, 80, 5)),
            (&[0x27, 1, 0xFF, 0xFF, 0xFE], "au", frame(H264, false, -2, 5)),
            (&[0x37, 1, 0, 0, 0], "au", frame(H264, false, 0, 5)),
            (&[0x17, 1, 0, 0, 0], "", Ok(VideoTag::Ignored)),
            (&[0x17, 2, 0, 0, 0], "", Ok(VideoTag::EndOfSequence { codec: H264 })),
            (&[0x1C, 0, 0, 0, 0], "hvcC", header(H265, 5)),
            (&[0x2C, 1, 0, 1, 0], "au", frame(H265, false, 256, 5)),
            (&[0x57, 0], "", Ok(VideoTag::Ignored)),
            (&[0x22], "x", Err(FlvError::VideoCodec { id: 2, name: "Sorenson H.263" })),
            (&[0x90], "hvc1hvcC", header(H265, 5)),
            (&[0x91], "hvc1\0\0\x05au", frame(H265, true, 5, 8)),
            (&[0xA3], "hvc1au", frame(H265, false, 0, 5)),
            (&[0x91], "avc1\0\0\x05au", frame(H264, true, 5, 8)),
            (&[0x91], "av01tu", frame(Av1, true, 0, 5)),
            (&[0x91], "av01\x12\0tu", frame(Av1, true, 0, 7)),
            (&[0xA1], "av01\x12\0", Ok(VideoTag::Ignored)),
            (&[0x93], "vp09fr", frame(Vp9, true, 0, 5)),
            (&[0xA1], "vp08fr", frame(Vp8, false, 0, 5)),
            (&[0x92], "av01", Ok(VideoTag::EndOfSequence { codec: Av1 })),
            (&[0x94], "hvc1meta", Ok(VideoTag::Ignored)),
            (&[0xD1], "\0", Ok(VideoTag::Ignored)),
            // A nanosecond offset of 3 bytes, then a coded frame.
            (&[0x97, 2, 1, 2, 3, 0x01], "hvc1\0\0\x05au", frame(H265, true, 5, 13)),
            (&[0x97, 0, 9, 0x07, 0, 9, 0x03], "av01tu", frame(Av1, true, 0, 11)),
            (&[0x91], "vvc1au", Err(FlvError::FourCc { kind: "video", four_cc: FourCc(*b"vvc1") })),
            (&[0x96], "\0av01", Err(FlvError::PacketType { kind: "video", id: 6, name: "multitrack" })),
            (
                &[0x95],
                "av01",
                Err(FlvError::PacketType { kind: "video", id: 5, name: "MPEG-2 TS sequence start" }),
            ),
            (&[], "", Err(FlvError::Truncated { what: "video header", needed: 1, have: 0 })),
            (&[0x17, 1, 0, 0], "", Err(FlvError::Truncated { what: "video frame", needed: 5, have: 4 })),
            (&[0x91], "hvc", Err(FlvError::Truncated { what: "FourCC", needed: 5, have: 4 })),
        ];
        for (head, body, want) in cases {
            assert_eq!(parse_video(&payload(head, body)), want, "{head:02x?} {body:?}");
        }
    }

    #[test]
    fn audio_messages() {
        use Codec::*;
        let frame = |codec, offset| Ok(AudioTag::Frame { codec, offset });
        let cases: Vec<(&[u8], &str, Result<AudioTag, FlvError>)> = vec![
            (&[0xAF, 0], "asc", Ok(AudioTag::SequenceHeader { codec: Aac, offset: 2 })),
            (&[0xAF, 1], "raw", frame(Aac, 2)),
            (&[0xAF, 1], "", Ok(AudioTag::Ignored)),
            (&[0x2F], "mp3", frame(Mp3, 1)),
            (&[0x72], "alaw", frame(Pcma, 1)),
            (&[0x82], "mulaw", frame(Pcmu, 1)),
            (&[0x90], "OpusOpusHead", Ok(AudioTag::SequenceHeader { codec: Opus, offset: 5 })),
            (&[0x91], "Opusfr", frame(Opus, 5)),
            (&[0x91], "mp4araw", frame(Aac, 5)),
            (&[0x91], ".mp3fr", frame(Mp3, 5)),
            (&[0x92], "Opus", Ok(AudioTag::EndOfSequence { codec: Opus })),
            (&[0x94], "Opus", Ok(AudioTag::Ignored)),
            (&[0x97, 0, 9, 0x01], "Opusfr", frame(Opus, 8)),
            (&[0x91], "fLaCfr", Err(FlvError::FourCc { kind: "audio", four_cc: FourCc(*b"fLaC") })),
            (&[0x95], "\0", Err(FlvError::PacketType { kind: "audio", id: 5, name: "multitrack" })),
            (&[0xB2], "x", Err(FlvError::AudioCodec { id: 11, name: "Speex" })),
            (&[0xAF], "", Err(FlvError::Truncated { what: "AAC packet type", needed: 2, have: 1 })),
        ];
        for (head, body, want) in cases {
            assert_eq!(parse_audio(&payload(head, body)), want, "{head:02x?} {body:?}");
        }
    }

    #[test]
    fn a_long_modifier_has_a_16_bit_size() {
        let long = [&[0x97, 0xFF, 0x01, 0x00][..], &[9; 257], &[0x03], b"hvc1au"].concat();
        let want = VideoTag::Frame { codec: Codec::H265, key: true, cts_ms: 0, offset: 4 + 257 + 1 + 4 };
        assert_eq!(parse_video(&long), Ok(want));
    }

    #[test]
    fn errors_name_the_codec() {
        let text = |kind, four_cc: &[u8; 4]| FlvError::FourCc { kind, four_cc: FourCc(*four_cc) }.to_string();
        let send = "send H.264, HEVC, AV1, VP9 or VP8";
        assert_eq!(text("video", b"\0\xFFab"), format!(r"video codec \x00\xffab is not supported; {send}"));
        let send = "send AAC, Opus, MP3 or G.711";
        for (four_cc, name) in [(b"ac-3", "AC-3"), (b"ec-3", "E-AC-3"), (b"fLaC", "FLAC")] {
            let want = format!("audio codec {} ({name}) is not supported; {send}", four_cc.escape_ascii());
            assert_eq!(text("audio", four_cc), want);
        }
    }

    #[test]
    fn configurations_come_from_headers_or_from_frames() {
        let video = |payload: &'static [u8]| parse_video(payload).unwrap().config(payload);
        let audio = |payload: &'static [u8]| parse_audio(payload).unwrap().config(payload);
        assert_eq!(video(b"\x17\0\0\0\0avcC"), Some((Codec::H264, &b"avcC"[..])));
        assert_eq!(video(b"\x17\x01\0\0\0au"), None);
        assert_eq!(video(b"\x90vp09vpcC"), None);
        assert_eq!(video(b"\x91vp09key"), Some((Codec::Vp9, &b"key"[..])));
        assert_eq!(video(b"\xA1vp09delta"), None);
        assert_eq!(audio(b"\xAF\0asc"), Some((Codec::Aac, &b"asc"[..])));
        assert_eq!(audio(b"\xAF\x01raw"), None);
        assert_eq!(audio(b"\x2Fmp3"), Some((Codec::Mp3, &b"mp3"[..])));
        assert_eq!(audio(b"\x72alaw"), Some((Codec::Pcma, &b"\x72"[..])));
    }

    proptest! {
        #[test]
        fn offsets_stay_inside(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(VideoTag::SequenceHeader { offset, .. } | VideoTag::Frame { offset, .. }) = parse_video(&payload) {
                prop_assert!(offset <= payload.len());
            }
            if let Ok(AudioTag::SequenceHeader { offset, .. } | AudioTag::Frame { offset, .. }) = parse_audio(&payload) {
                prop_assert!(offset <= payload.len());
            }
        }
    }
}
