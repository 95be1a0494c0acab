use chrono::{DateTime, Utc};
use gstreamer as gst;

/// Index of a track within its stream's [`Tracks`](super::Tracks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u8);

/// One encoded access unit, shared by reference from the socket to the file.
///
/// `buffer` holds the whole access unit in the form its track's caps name (H.264 as avc/au: NAL units
/// with 4-byte lengths; AAC raw, without ADTS) and carries
/// `pts` and `dts` (running time of the stream, ns; dts never goes back within a track),
/// `duration` where the protocol tells it, and `DELTA_UNIT` on everything that is not a key frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub track: TrackId,
    pub buffer: gst::Buffer,
}

/// What a frame takes beside its payload, roughly: the buffer, its memory's header, the list entry.
const FRAME_OVERHEAD_BYTES: usize = 512;

impl Frame {
    /// Memory the frame takes, bytes: what limits on queues count, so that tiny frames are not free.
    pub fn cost_bytes(&self) -> usize {
        self.buffer.size() + FRAME_OVERHEAD_BYTES
    }

    /// True for a video key frame and for every audio frame.
    pub fn is_key(&self) -> bool {
        !self.buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
    }

    /// Decoding time, ns of the stream's running time; falls back to the presentation time.
    pub fn dts_ns(&self) -> u64 {
        self.buffer.dts_or_pts().map_or(0, gst::ClockTime::nseconds)
    }

    /// Presentation time, ns of the stream's running time.
    pub fn pts_ns(&self) -> u64 {
        self.buffer.pts().or(self.buffer.dts()).map_or(0, gst::ClockTime::nseconds)
    }

    /// The same access unit `by_ns` later (negative: earlier). The payload stays shared; a time before 0 becomes 0.
    pub fn shifted(&self, by_ns: i64) -> Self {
        let moved = |time: gst::ClockTime| {
            gst::ClockTime::from_nseconds(time.nseconds().saturating_add_signed(by_ns))
        };
        let mut buffer = self.buffer.clone();
        let (pts, dts) = (buffer.pts().map(moved), buffer.dts().map(moved));
        let unit = buffer.make_mut();
        unit.set_pts(pts);
        unit.set_dts(dts);
        Self { track: self.track, buffer }
    }
}

/// Why media is missing, or why its timeline is not the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GapKind {
    /// The sender's timestamps jumped back or far ahead; the recording's timeline goes on without the jump.
    TimestampJump,
    /// A consumer fell behind and its queue overflowed: frames were left out.
    Overflow,
    /// Packets were lost on the way here: access units were left out up to the next key frame.
    PacketLoss,
    /// The source was away and came back; the recording's timeline goes on without the time between.
    Reconnect,
    /// The recording was paused; its timeline goes on without the time between.
    Pause,
    /// The recording went over to another stream; its timeline goes on.
    Switch,
}

/// One irregularity of a recording, as told in the manifest (`lost.gaps[]`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    pub kind: GapKind,
    /// Where it is, ms of the stream's running time (in a manifest: of the file's media time).
    pub at_ms: u64,
    /// Length: for a jump how far the sender's clock moved (negative: back), for an overflow or packet loss the media
    /// time left out, for the others the wall time without media.
    pub by_ms: i64,
    /// Wall-clock time at which it begins; `None` where a publisher tells it: the hub knows, or the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Access units left out, as far as known; 0 for a jump, a reconnect, a pause and a switch.
    pub frames: u64,
    /// Packets lost; 0 but for packet loss.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub packets: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
