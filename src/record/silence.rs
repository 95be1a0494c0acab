//! Access units without a sound, for muxers and encoders that wait for one.

use crate::media::{Codec, Track};
use gstreamer as gst;

/// The silence of one track: the same access unit over and over.
pub(super) struct Silence {
    unit: gst::Memory,
    duration_ns: u64,
}

impl Silence {
    /// `None` for what no silence is known of: MP3, Vorbis, AAC other than mono and stereo LC, video.
    pub fn of(track: &Track) -> Option<Self> {
        const PACKET_NS: u64 = 20_000_000;
        let (unit, duration_ns) = match track.codec {
            // CELT, full band, 20 ms, mono (RFC 6716, 3.1).
            Codec::Opus => (vec![0xF8, 0xFF, 0xFE], PACKET_NS),
            Codec::Pcma => (vec![0xD5; packet_bytes(track)?], PACKET_NS),
            Codec::Pcmu => (vec![0xFF; packet_bytes(track)?], PACKET_NS),
            Codec::Aac => aac(track)?,
            _ => return None,
        };
        Some(Self { unit: gst::Memory::from_slice(unit), duration_ns })
    }

    /// Access units that follow each other from `from_ns` on, none ending after `until_ns`; and where the last one ends.
    pub fn fill(&self, from_ns: u64, until_ns: u64) -> (impl Iterator<Item = gst::Buffer>, u64) {
        let count = until_ns.saturating_sub(from_ns) / self.duration_ns;
        let units = (0..count).map(move |n| self.unit_at(from_ns + n * self.duration_ns));
        (units, from_ns + count * self.duration_ns)
    }

    /// The access unit that begins at `ns`; where it ends.
    pub fn one(&self, ns: u64) -> (gst::Buffer, u64) {
        (self.unit_at(ns), ns + self.duration_ns)
    }

    fn unit_at(&self, ns: u64) -> gst::Buffer {
        let mut buffer = gst::Buffer::new();
        let unit = buffer.make_mut();
        unit.append_memory(self.unit.clone());
        unit.set_pts(gst::ClockTime::from_nseconds(ns));
        unit.set_duration(gst::ClockTime::from_nseconds(self.duration_ns));
        buffer
    }
}

/// 20 ms of 8-bit samples.
fn packet_bytes(track: &Track) -> Option<usize> {
    const MOST: usize = 1 << 16;
    let samples = track.rate.unwrap_or(8_000) as usize / 50;
    samples.checked_mul(track.channels.unwrap_or(1) as usize).filter(|bytes| (1..=MOST).contains(bytes))
}

/// A raw data block whose spectrum is empty (ISO/IEC 14496-3, 4.4.2): no scale factor bands, then the end.
fn aac(track: &Track) -> Option<(Vec<u8>, u64)> {
    const LOW_COMPLEXITY: u8 = 2;
    const SAMPLES_NS: u64 = 1_024 * 1_000_000_000;
    let data = track.caps.structure(0)?.get::<gst::Buffer>("codec_data").ok()?;
    let data = data.map_readable().ok()?;
    // With SBR, which an extension may tell, an access unit is something else; ffmpeg's encoder says that there is none.
    let (first, second) = match *data.as_slice() {
        [first, second] => (first, second),
        [first, second, 0x56, 0xE5, has_sbr] if has_sbr & 0x80 == 0 => (first, second),
        _ => return None,
    };
    let (object, channels, short_frames) = (first >> 3, second >> 3 & 0xF, second & 4 != 0);
    let unit = match (object, short_frames, channels) {
        (LOW_COMPLEXITY, false, 1) => vec![0, 0, 0, 7],
        (LOW_COMPLEXITY, false, 2) => vec![0x21, 0, 0, 0, 0, 0x1C],
        _ => return None,
    };
    let rate = track.rate.filter(|rate| *rate > 0)?;
    Some((unit, SAMPLES_NS / u64::from(rate)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TrackId;

    fn silence(codec: Codec, caps: &str, rate: u32) -> Option<(Vec<u8>, u64)> {
        gst::init().expect("GStreamer");
        let caps = caps.parse().expect("caps");
        let track = Track { id: TrackId(1), codec, caps, size: None, rate: Some(rate), channels: None };
        let (unit, end_ns) = Silence::of(&track)?.one(0);
        Some((unit.map_readable().expect("memory").to_vec(), end_ns))
    }

    #[test]
    fn what_silence_is() {
        let aac = |config| silence(Codec::Aac, &format!("audio/mpeg,codec_data=(buffer){config}"), 48_000);
        assert_eq!(silence(Codec::Opus, "audio/x-opus", 48_000), Some((vec![0xF8, 0xFF, 0xFE], 20_000_000)));
        assert_eq!(silence(Codec::Pcma, "audio/x-alaw", 8_000), Some((vec![0xD5; 160], 20_000_000)));
        assert_eq!(silence(Codec::Pcmu, "audio/x-mulaw", 0), None);
        assert_eq!(aac("1188"), Some((vec![0, 0, 0, 7], 21_333_333)));
        assert_eq!(aac("1190"), Some((vec![0x21, 0, 0, 0, 0, 0x1C], 21_333_333)));
        assert_eq!(aac("119056e500"), aac("1190"));
        // 5.1, frames of 960 samples, HE-AAC, SBR in an extension, something else, nothing.
        for config in ["11b0", "1194", "2b11", "119056e580", "119056e5", "11"] {
            assert_eq!(aac(config), None, "{config}");
        }
        assert_eq!(silence(Codec::Mp3, "audio/mpeg", 48_000), None);
    }

    #[test]
    fn units_fill_a_stretch_without_going_past_it() {
        gst::init().expect("GStreamer");
        let silence = Silence { unit: gst::Memory::from_slice([1]), duration_ns: 20 };
        let (units, end_ns) = silence.fill(100, 159);
        let times: Vec<_> = units.map(|u| u.pts().map_or(0, gst::ClockTime::nseconds)).collect();
        assert_eq!((times, end_ns), (vec![100, 120], 140));
        assert_eq!(silence.fill(100, 90).0.count(), 0);
    }
}
