//! Messages that carry several tracks (Enhanced RTMP v2, "Multitrack"). Track 0 is the main one; it is recorded, the
//! others are not.

use super::flv::{FlvError, PacketTypes, four_cc, require, skip_mod_ex};
use crate::media::MediaKind;

/// Low four bits of the byte behind the header: the packet type of every track in the message.
const PACKET_TYPE: u8 = 0x0F;
const MOD_EX: u8 = 7;
const FOUR_CC_BYTES: usize = 4;
const TRACK_ID_BYTES: usize = 1;
const SIZE_BYTES: usize = 3;

/// `AvMultitrackType`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    OneTrack,
    ManyTracks,
    ManyTracksManyCodecs,
}

/// Where the message of the main track begins in `payload`: 0 in a message that is not multitrack, `None` in one
/// that holds other tracks only. A multitrack message is cut at the end of its track 0, whose header is written in
/// front of its body, so that what is there reads as a message with one track. No byte of the body moves.
pub fn main_track(kind: MediaKind, payload: &mut Vec<u8>) -> Result<Option<usize>, FlvError> {
    let types = PacketTypes::of(kind);
    let Some(&first) = payload.first() else { return Ok(Some(0)) };
    if !types.is_enhanced(first) {
        return Ok(Some(0));
    }
    let (packet_type, at) = skip_mod_ex(payload, first & PACKET_TYPE)?;
    if packet_type != types.multitrack {
        return Ok(Some(0));
    }
    let Some(main) = find(payload, at, types)? else { return Ok(None) };
    payload.truncate(main.end);
    let header = main.body - FOUR_CC_BYTES - 1;
    payload[header] = (first & !PACKET_TYPE) | main.packet_type;
    payload[header + 1..main.body].copy_from_slice(&main.four_cc);
    Ok(Some(header))
}

struct MainTrack {
    packet_type: u8,
    four_cc: [u8; FOUR_CC_BYTES],
    body: usize,
    end: usize,
}

/// `at`: where the multitrack header begins.
fn find(payload: &[u8], at: usize, types: PacketTypes) -> Result<Option<MainTrack>, FlvError> {
    const WHAT: &str = "multitrack header";
    require(payload, at + 1, WHAT)?;
    let packet_type = payload[at] & PACKET_TYPE;
    let nested = packet_type == types.multitrack || packet_type == MOD_EX;
    let layout = match payload[at] >> 4 {
        0 if !nested => Layout::OneTrack,
        1 if !nested => Layout::ManyTracks,
        2 if !nested => Layout::ManyTracksManyCodecs,
        _ => {
            let (kind, id) = (types.name, payload[at]);
            return Err(FlvError::PacketType { kind, id, name: "multitrack of an unknown kind" });
        }
    };
    let mut at = at + 1;
    let mut codec = None;
    if layout != Layout::ManyTracksManyCodecs {
        codec = Some(four_cc(payload, at)?.0);
        at += FOUR_CC_BYTES;
    }
    while at < payload.len() {
        let four_cc = match codec {
            Some(codec) => codec,
            None => {
                at += FOUR_CC_BYTES;
                four_cc(payload, at - FOUR_CC_BYTES)?.0
            }
        };
        require(payload, at + TRACK_ID_BYTES, WHAT)?;
        let track = payload[at];
        let mut body = at + TRACK_ID_BYTES;
        let mut end = payload.len();
        if layout != Layout::OneTrack {
            body = require(payload, body + SIZE_BYTES, WHAT)?;
            let size = u32::from_be_bytes([0, payload[body - 3], payload[body - 2], payload[body - 1]]);
            end = require(payload, body + size as usize, "track of a multitrack message")?;
        }
        if track == 0 {
            return Ok(Some(MainTrack { packet_type, four_cc, body, end }));
        }
        at = end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::flv::{AudioTag, VideoTag, parse_audio, parse_video};
    use super::*;
    use crate::media::Codec;
    use proptest::prelude::*;

    fn main_of(kind: MediaKind, message: &[u8]) -> Option<Vec<u8>> {
        let mut payload = message.to_vec();
        main_track(kind, &mut payload).unwrap().map(|at| payload[at..].to_vec())
    }

    #[test]
    fn track_0_is_taken_whatever_the_layout() {
        let plain = b"\x91hvc1\0\0\x05frame";
        let cases: [&[u8]; 6] = [
            plain,
            b"\x96\x01hvc1\0\0\0\x05frame",
            b"\x96\x11hvc1\0\0\0\x08\0\0\x05frame\x01\0\0\x05other",
            b"\x96\x11hvc1\x02\0\0\x05other\0\0\0\x08\0\0\x05frame",
            b"\x96\x21av01\x01\0\0\x05otherhvc1\0\0\0\x08\0\0\x05frame",
            // A nanosecond offset before it.
            b"\x97\x02\x01\x02\x03\x06\x01hvc1\0\0\0\x05frame",
        ];
        for message in cases {
            let main = main_of(MediaKind::Video, message).expect("track 0");
            assert_eq!(main, plain, "{}", message.escape_ascii());
            let tag = VideoTag::Frame { codec: Codec::H265, key: true, cts_ms: 5, offset: 8 };
            assert_eq!(parse_video(&main), Ok(tag));
        }
        let main =
            main_of(MediaKind::Audio, b"\x95\x10Opus\0\0\0\x08OpusHead\x01\0\0\x01x").expect("track 0");
        assert_eq!(main, b"\x90OpusOpusHead");
        assert_eq!(parse_audio(&main), Ok(AudioTag::SequenceHeader { codec: Codec::Opus, offset: 5 }));
    }

    #[test]
    fn other_tracks_alone_and_other_messages_are_told_apart() {
        for other in
            [&b"\x96\x01hvc1\x01\0\0\0frame"[..], b"\x96\x11hvc1\x02\0\0\x01x\x03\0\0\0", b"\x96\x21"]
        {
            assert_eq!(main_of(MediaKind::Video, other), None, "{}", other.escape_ascii());
        }
        for message in [&b""[..], b"\x17\x01\0\0\0x", b"\xaf\x01x", b"\x96"] {
            // 0x96 is multitrack in a video message only.
            assert_eq!(main_of(MediaKind::Audio, message).as_deref(), Some(message));
        }
    }

    #[test]
    fn a_broken_one_is_an_error() {
        let error = |message: &[u8]| main_track(MediaKind::Video, &mut message.to_vec()).unwrap_err();
        for cut in [&b"\x96"[..], b"\x96\x01hv", b"\x96\x11hvc1\0\0\0", b"\x96\x11hvc1\0\0\0\x09short"] {
            assert!(matches!(error(cut), FlvError::Truncated { .. }), "{}", cut.escape_ascii());
        }
        for nested in [&b"\x96\x06hvc1"[..], b"\x96\x07hvc1", b"\x96\x31hvc1"] {
            assert!(matches!(error(nested), FlvError::PacketType { .. }), "{}", nested.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn random_messages_do_no_harm(tail in prop::collection::vec(0u8..40, 0..60), audio: bool) {
            let kind = if audio { MediaKind::Audio } else { MediaKind::Video };
            let mut payload = [&[if audio { 0x95 } else { 0x96 }][..], &tail].concat();
            let length = payload.len();
            if let Ok(Some(at)) = main_track(kind, &mut payload) {
                prop_assert!(at <= payload.len() && payload.len() <= length);
            }
        }
    }
}
