//! Codec parameters: which changes of them a file under way can take, and the form in which they go in front of a
//! key frame.

use crate::media::{Codec, MediaKind, Track, Tracks};
use gstreamer as gst;

/// How tracks differ from those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The same codecs on the same tracks, and only video with other parameters, in a form that goes into the access
    /// units: the file under way can go on with them.
    Fits,
    /// As `Fits`, with more tracks behind: the file under way can go on without those.
    Grows,
    Other,
}

impl Change {
    pub fn of(before: &Tracks, next: &Tracks) -> Self {
        let goes_on = |(before, next): (&Track, &Track)| {
            let same = before.codec == next.codec && before.caps == next.caps;
            same || (before.codec == next.codec && changes_in_band(before) && changes_in_band(next))
        };
        let (had, has) = (before.iter().len(), next.iter().len());
        if had == 0 || had > has || !before.iter().zip(next.iter()).all(goes_on) {
            return Change::Other;
        }
        if had == has { Change::Fits } else { Change::Grows }
    }
}

fn changes_in_band(track: &Track) -> bool {
    match track.codec {
        Codec::H264 | Codec::H265 => in_band(track).is_some(),
        codec => codec.kind() == MediaKind::Video,
    }
}

/// The parameter sets of an H.264 or H.265 track as NAL units with 4-byte lengths, in the order of its `codec_data`;
/// `None` for what cannot be read, for access units whose lengths are shorter, and for other codecs.
pub(super) fn in_band(track: &Track) -> Option<Vec<u8>> {
    let data = track.caps.structure(0)?.get::<gst::Buffer>("codec_data").ok()?;
    let data = data.map_readable().ok()?;
    let mut sets = Vec::with_capacity(data.len() + 16);
    match track.codec {
        Codec::H264 => avcc(&data, &mut sets)?,
        Codec::H265 => hvcc(&data, &mut sets)?,
        _ => return None,
    }
    (!sets.is_empty()).then_some(sets)
}

/// ISO/IEC 14496-15, 5.3.3.1.2.
fn avcc(data: &[u8], out: &mut Vec<u8>) -> Option<()> {
    const PROFILES_WITH_EXTENSION: [u8; 4] = [100, 110, 122, 144];
    let (&[_, profile, _, _, lengths, sps], rest) = data.split_first_chunk()?;
    four_byte(lengths)?;
    let rest = nal_units(usize::from(sps & 0x1F), rest, out)?;
    let (&pps, rest) = rest.split_first()?;
    let rest = nal_units(usize::from(pps), rest, out)?;
    if let (true, Some((&[_, _, _, extensions], rest))) =
        (PROFILES_WITH_EXTENSION.contains(&profile), rest.split_first_chunk())
    {
        nal_units(usize::from(extensions), rest, out)?;
    }
    Some(())
}

/// ISO/IEC 14496-15, 8.3.3.1.2.
fn hvcc(data: &[u8], out: &mut Vec<u8>) -> Option<()> {
    const VPS_SPS_PPS: std::ops::RangeInclusive<u8> = 32..=34;
    let (head, mut rest) = data.split_first_chunk::<23>()?;
    four_byte(head[21])?;
    for _ in 0..head[22] {
        let (&[kind, high, low], nals) = rest.split_first_chunk()?;
        let count = usize::from(u16::from_be_bytes([high, low]));
        let mut others = Vec::new();
        let kept = VPS_SPS_PPS.contains(&(kind & 0x3F));
        rest = nal_units(count, nals, if kept { &mut *out } else { &mut others })?;
    }
    Some(())
}

/// `lengths`: how long those in the access units are, less one, in the lowest two bits.
fn four_byte(lengths: u8) -> Option<()> {
    (lengths & 3 == 3).then_some(())
}

/// Appends `count` NAL units that each follow a 16-bit length; returns what comes after them.
fn nal_units<'a>(count: usize, mut data: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    for _ in 0..count {
        let (length, rest) = data.split_first_chunk()?;
        let (nal, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        out.extend((nal.len() as u32).to_be_bytes());
        out.extend(nal);
        data = rest;
    }
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TrackId;

    fn track(codec: Codec, caps: &str) -> Track {
        gst::init().expect("GStreamer");
        let caps = caps.parse().expect("caps");
        Track { id: TrackId(0), codec, caps, size: None, rate: None, channels: None }
    }

    #[test]
    fn parameter_sets_get_four_byte_lengths() {
        // Version, profile, compatibility, level, length size, then 1 SPS of 2 bytes and 1 PPS of 1.
        let avcc = "video/x-h264,codec_data=(buffer)014200 1effe1 0002 6742 01 0001 68".replace(' ', "");
        // avcC of the high profile: chroma format, bit depths, 1 SPS extension.
        let high = "video/x-h264,codec_data=(buffer)016400 1effe1 0002 6764 01 0001 68 fdf8f8 01 0001 6d";
        // 22 bytes, then 2 arrays: an SEI of 1 byte (left out) and an SPS of 2.
        let hvcc = format!(
            "video/x-h265,codec_data=(buffer){}0f 02 27 0001 0001 4e 21 0001 0002 4201",
            "01".repeat(21)
        );
        for (codec, caps, expected) in [
            (Codec::H264, avcc.clone(), Some(vec![0, 0, 0, 2, 0x67, 0x42, 0, 0, 0, 1, 0x68])),
            (
                Codec::H264,
                high.replace(' ', ""),
                Some(vec![0, 0, 0, 2, 0x67, 0x64, 0, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x6d]),
            ),
            (Codec::H265, hvcc.replace(' ', ""), Some(vec![0, 0, 0, 2, 0x42, 1])),
            (Codec::H264, avcc[..avcc.len() - 2].to_owned(), None),
            // Lengths of 2 bytes.
            (Codec::H264, avcc.replace("1effe1", "1efde1"), None),
            (Codec::H265, hvcc.replace("0f 02 27", "0d 02 27").replace(' ', ""), None),
            (Codec::H264, "video/x-h264".to_owned(), None),
            (Codec::Vp8, "video/x-vp8".to_owned(), None),
        ] {
            assert_eq!(in_band(&track(codec, &caps)), expected, "{caps}");
        }
    }

    #[test]
    fn what_a_file_can_take() {
        let tracks = |list: &[(Codec, &str)]| {
            let with_id = |(n, (codec, caps)): (usize, &(Codec, &str))| Track {
                id: TrackId(n as u8),
                ..track(*codec, caps)
            };
            Tracks::new(list.iter().enumerate().map(with_id).collect())
        };
        let h264 = (Codec::H264, "video/x-h264,codec_data=(buffer)0142001effe100026742010001 68");
        let h264 = (h264.0, &*h264.1.replace(' ', ""));
        let other = (Codec::H264, "video/x-h264,codec_data=(buffer)0142001effe10002674301000168");
        // Its access units have lengths of 2 bytes.
        let short = (Codec::H264, "video/x-h264,codec_data=(buffer)0142001efde10002674301000168");
        let broken = (Codec::H264, "video/x-h264,codec_data=(buffer)0142");
        let (vp8, larger) = ((Codec::Vp8, "video/x-vp8,width=320"), (Codec::Vp8, "video/x-vp8,width=640"));
        let (aac, faster) = ((Codec::Aac, "audio/mpeg,rate=44100"), (Codec::Aac, "audio/mpeg,rate=48000"));
        for (before, next, expected) in [
            (vec![h264, aac], vec![other, aac], Change::Fits),
            (vec![h264, aac], vec![h264, aac], Change::Fits),
            (vec![vp8], vec![larger], Change::Fits),
            (vec![h264], vec![broken], Change::Other),
            (vec![h264], vec![short], Change::Other),
            (vec![short], vec![h264], Change::Other),
            (vec![short], vec![short], Change::Fits),
            (vec![h264, aac], vec![h264, faster], Change::Other),
            (vec![h264], vec![h264, aac], Change::Grows),
            (vec![h264], vec![other, aac], Change::Grows),
            (vec![h264], vec![broken, aac], Change::Other),
            (vec![h264, aac], vec![h264], Change::Other),
            (vec![h264], vec![vp8], Change::Other),
            (vec![], vec![h264], Change::Other),
        ] {
            assert_eq!(Change::of(&tracks(&before), &tracks(&next)), expected, "{before:?} {next:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_configuration_panics(data in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = (avcc(&data, &mut Vec::new()), hvcc(&data, &mut Vec::new()));
        }
    }
}
