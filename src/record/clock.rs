//! A recording's media time. It runs as its stream's running time does until a pause, a reconnect or another stream; then
//! it goes on where it was, audio and video moved by the same amount.

use super::writer::Span;
use crate::media::Frame;
use std::borrow::Cow;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Media time = running time of the stream + this.
    shift_ns: i64,
    /// What is shown before this, media time, belongs to what was left out.
    floor_ns: u64,
}

impl Clock {
    pub fn media_ns(&self, stream_ns: u64) -> u64 {
        stream_ns.saturating_add_signed(self.shift_ns)
    }

    pub fn stream_ns(&self, media_ns: u64) -> u64 {
        media_ns.saturating_sub_signed(self.shift_ns)
    }

    /// The access unit on the media clock; `None` for what belongs to a time that was left out.
    pub fn place<'f>(&self, frame: &'f Frame) -> Option<Cow<'f, Frame>> {
        if self.media_ns(frame.pts_ns()) < self.floor_ns {
            return None;
        }
        Some(if self.shift_ns == 0 { Cow::Borrowed(frame) } else { Cow::Owned(frame.shifted(self.shift_ns)) })
    }

    /// `first`, a key frame, follows what was written: shown when that ends, and decoded later than all of it.
    pub fn go_on(&mut self, written: Span, first: &Frame) {
        let Some(last_dts_ns) = written.last_dts_ns else { return };
        let shown = ahead(written.end_pts_ns, first.pts_ns());
        let decoded = ahead(last_dts_ns.saturating_add(1), first.dts_ns());
        self.shift_ns = shown.max(decoded);
        self.floor_ns = self.media_ns(first.pts_ns());
    }
}

/// `to - from`.
fn ahead(to: u64, from: u64) -> i64 {
    i64::try_from(i128::from(to) - i128::from(from)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::TrackId;
    use gstreamer as gst;

    fn frame(pts_ms: u64, dts_ms: u64) -> Frame {
        gst::init().expect("GStreamer");
        let mut buffer = gst::Buffer::new();
        let unit = buffer.make_mut();
        unit.set_pts(gst::ClockTime::from_mseconds(pts_ms));
        unit.set_dts(gst::ClockTime::from_mseconds(dts_ms));
        Frame { track: TrackId(0), buffer }
    }

    fn placed(clock: &Clock, pts_ms: u64, dts_ms: u64) -> Option<(u64, u64)> {
        let frame = frame(pts_ms, dts_ms);
        let placed = clock.place(&frame)?;
        Some((placed.pts_ns() / 1_000_000, placed.dts_ns() / 1_000_000))
    }

    fn written(end_ms: u64, last_dts_ms: u64) -> Span {
        Span {
            first_pts_ns: Some(0),
            end_pts_ns: end_ms * 1_000_000,
            last_dts_ns: Some(last_dts_ms * 1_000_000),
            ..Span::default()
        }
    }

    #[test]
    fn goes_on_where_it_was_with_both_tracks_moved_alike() {
        let mut clock = Clock::default();
        assert_eq!(placed(&clock, 10_000, 9_900), Some((10_000, 9_900)));
        clock.go_on(written(12_000, 11_900), &frame(20_000, 19_960));
        assert_eq!(placed(&clock, 20_000, 19_960), Some((12_000, 11_960)));
        assert_eq!(placed(&clock, 20_010, 20_010), Some((12_010, 12_010)));
        // Sound from before the key frame.
        assert_eq!(placed(&clock, 19_990, 19_990), None);
        let ns = 20_000_000_000;
        assert_eq!(clock.stream_ns(clock.media_ns(ns)), ns);
    }

    /// Another stream reorders its pictures further than the one before: decoding times must not go back.
    #[test]
    fn never_decodes_before_what_is_written() {
        let mut clock = Clock::default();
        clock.go_on(written(12_000, 11_960), &frame(500, 300));
        let (pts, dts) = placed(&clock, 500, 300).expect("placed");
        assert!(dts >= 11_960, "{dts}");
        assert_eq!(pts - dts, 200);
    }

    #[test]
    fn nothing_written_moves_nothing() {
        let mut clock = Clock::default();
        clock.go_on(Span::default(), &frame(20_000, 20_000));
        assert_eq!(clock, Clock::default());
    }
}
