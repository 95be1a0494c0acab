//! One track on its way into the muxer of a file.

use super::{params, silence::Silence};
use crate::{
    gst::{PipelineError, TrackPlan},
    media::{Codec, Frame, MediaKind, Track, VideoSize},
};
use gstreamer::{self as gst, prelude::*};

const S: u64 = 1_000_000_000;
/// Audio this far behind the pictures is silent. Interleaving and jitter stay below.
const SILENT_AFTER_NS: u64 = 2 * S;
/// How far behind the pictures silence is written, so that what is only late still finds its place.
const STAY_BEHIND_NS: u64 = S;
/// Silence that is written at once, at most: about 10 ms of work for the encoder.
const FILL_STEP_NS: u64 = S;
/// A longer gap in transcoded audio, where no pictures have paced silence into it, is not filled: an hour of it would be
/// encoded in one go. The timestamps have the gap then.
const MAX_FILL_NS: u64 = 5 * S;
/// Sound of which no silence is known may be missing this long where the muxer waits for it.
const GIVEN_UP_AFTER_NS: u64 = 5 * S;

/// Indexed by its `TrackId`.
pub(super) struct Feed {
    pad: gst::Pad,
    counts: TrackCounts,
    /// Running time of the file's beginning.
    base_ns: u64,
    /// The muxer is `reeldmp4mux`: it waits for no track, and takes other caps while it writes.
    ours: bool,
    /// Goes in front of every key frame, since the first change of parameters at the latest.
    in_band: Option<gst::Memory>,
    /// Elements are in the way: what the muxer gets is known with the first access unit only.
    through_elements: bool,
    /// It is decoded and encoded again.
    transcoded: bool,
    /// What stands for sound that is not sent.
    silence: Option<Silence>,
    /// Of audio: where its last access unit or silence ends, ns of the stream's running time.
    end_ns: Option<u64>,
    /// Silence was written up to here.
    silent_until_ns: u64,
    /// When its last access unit is shown, ns of the stream's running time.
    last_pts_ns: u64,
    ended: bool,
}

/// What went into one track of a file.
#[derive(Clone, Debug)]
pub(super) struct TrackCounts {
    pub kind: MediaKind,
    /// Codec in the file.
    pub codec: Codec,
    /// As it was last, with the largest picture.
    pub track: Track,
    pub frames: u64,
    pub keyframes: u64,
}

impl Feed {
    /// `ours`: the muxer is `reeldmp4mux`. `repeat`: parameter sets go in front of every key frame from the first one
    /// on. A player that goes back over a change has those of later pictures in its decoder, and many do not read the
    /// sample entry again.
    pub fn start(
        target: &gst::Pad,
        plan: &TrackPlan,
        track: &Track,
        base_ns: u64,
        ours: bool,
        repeat: bool,
    ) -> Result<Self, PipelineError> {
        let refused = |what: String| PipelineError::Build(format!("{} track: {what}", track.codec));
        let pad = gst::Pad::builder(gst::PadDirection::Src).build();
        pad.set_active(true)?;
        // The pad has no parent element, so its place in a hierarchy cannot be checked.
        pad.link_full(target, gst::PadLinkCheck::empty()).map_err(|e| refused(e.to_string()))?;
        pad.push_event(gst::event::StreamStart::new(&format!("track-{}", track.id.0)));
        if !pad.push_event(gst::event::Caps::new(&track.caps)) {
            return Err(refused(format!("{} is not accepted", track.caps)));
        }
        let counts = TrackCounts {
            kind: track.kind(),
            codec: plan.codec,
            track: track.clone(),
            frames: 0,
            keyframes: 0,
        };
        let through_elements = plan.elements.is_some();
        let feed = Self {
            pad,
            counts,
            base_ns,
            ours,
            in_band: params::in_band(track).filter(|_| repeat).map(gst::Memory::from_slice),
            through_elements,
            transcoded: plan.codec != track.codec,
            silence: Silence::of(track),
            end_ns: None,
            silent_until_ns: 0,
            last_pts_ns: 0,
            ended: false,
        };
        feed.begin_at(base_ns);
        Ok(feed)
    }

    pub fn counts(&self) -> &TrackCounts {
        &self.counts
    }

    pub fn is_transcoded(&self) -> bool {
        self.transcoded
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The file waits for it: nothing has come yet of what the muxer wants to see of each track before it writes.
    pub fn is_unheard(&self) -> bool {
        let waited_for = self.through_elements || !self.ours;
        waited_for && !self.ended && self.end_ns.is_none() && self.counts.frames == 0
    }

    /// The muxer waits for sound that cannot be replaced, and has for long while the pictures came to `video_ns`.
    pub fn is_missed(&self, video_ns: u64) -> bool {
        let replaced = self.ours || self.transcoded || self.silence.is_some();
        let missed = |end_ns: u64| end_ns + GIVEN_UP_AFTER_NS <= video_ns;
        !self.ended && !replaced && self.end_ns.is_some_and(missed)
    }

    /// How much before `end_ns`, where the file ends, it ended; `None` when it did not, or that was told already.
    pub fn ends_early_by_ms(&self, end_ns: u64) -> Option<u64> {
        let early_ns = end_ns.saturating_sub(self.last_pts_ns);
        let told = self.ended || self.counts.frames == 0;
        (!told && early_ns > GIVEN_UP_AFTER_NS).then_some(early_ns / 1_000_000)
    }

    /// There is something of it in the file.
    pub fn is_in_file(&self) -> bool {
        self.counts.frames > 0 || self.silent_until_ns > 0
    }

    /// Sound that has not begun is silence from the beginning of the file until it does; false where that is not known.
    pub fn begin_silent(&mut self) -> bool {
        let Some(silence) = &self.silence else { return false };
        let (unit, end_ns) = silence.one(self.base_ns);
        self.push_silence(unit);
        self.end_ns = Some(end_ns);
        self.silent_until_ns = end_ns;
        true
    }

    /// What follows has these parameters. Muxers but ours refuse to hear of it, and need not: H.264 and H.265 get
    /// theirs in front of the key frames, the others have them there.
    pub fn set_track(&mut self, track: &Track) {
        let before = &self.counts.track;
        if before.caps == track.caps {
            return;
        }
        let sets = params::in_band(track);
        if self.in_band.is_some() || params::in_band(before) != sets {
            self.in_band = sets.map(gst::Memory::from_slice);
        }
        if self.ours && !self.through_elements {
            // Caps that are refused after all are an error on the bus, which the next check returns.
            let _ = self.pad.push_event(gst::event::Caps::new(&track.caps));
        }
        let size = largest(before.size, track.size);
        self.counts.track = Track { size, ..track.clone() };
    }

    /// Makes the track ready for an access unit. False when silence stands in its place.
    pub fn has_room(&mut self, frame: &Frame) -> bool {
        if self.counts.kind != MediaKind::Audio {
            return true;
        }
        let pts = frame.pts_ns();
        let end = pts + frame.buffer.duration().map_or(1, gst::ClockTime::nseconds);
        if end <= self.silent_until_ns {
            return false;
        }
        let leaps = self.transcoded && self.end_ns.is_some_and(|last| pts > last + MAX_FILL_NS);
        self.end_ns = Some(self.end_ns.map_or(end, |last| last.max(end)));
        if leaps {
            self.begin_at(pts);
        }
        true
    }

    pub fn push(&mut self, frame: &Frame) -> Result<(), gst::FlowError> {
        let mut buffer = frame.buffer.clone();
        if let Some(sets) = self.in_band.as_ref().filter(|_| frame.is_key()) {
            // Copies the buffer's header; the memory of the frame stays shared.
            buffer.make_mut().prepend_memory(sets.clone());
        }
        self.pad.push(buffer)?;
        self.last_pts_ns = self.last_pts_ns.max(frame.pts_ns());
        self.counts.frames += 1;
        self.counts.keyframes += u64::from(frame.is_key());
        Ok(())
    }

    /// The pictures have come to `video_ns`: audio that is silent (muted, or Opus with DTX) is told to be, a step at a
    /// time. Transcoded, and in a muxer that waits for it, it goes on as silence; otherwise it has a gap.
    pub fn fill_behind(&mut self, video_ns: u64) {
        let silent = |end: &u64| !self.ended && end + SILENT_AFTER_NS <= video_ns;
        let Some(from) = self.end_ns.filter(silent) else { return };
        let until = (video_ns - STAY_BEHIND_NS).min(from + FILL_STEP_NS);
        if self.transcoded || self.ours {
            self.tell_gap(from, until);
            self.end_ns = Some(until);
            self.silent_until_ns = if self.transcoded { until } else { self.silent_until_ns };
            return;
        }
        let Some(silence) = &self.silence else { return };
        let (units, end_ns) = silence.fill(from, until);
        units.for_each(|unit| self.push_silence(unit));
        self.end_ns = Some(end_ns);
        self.silent_until_ns = end_ns;
    }

    fn tell_gap(&self, from_ns: u64, until_ns: u64) {
        let gap = gst::event::Gap::builder(gst::ClockTime::from_nseconds(from_ns))
            .duration(gst::ClockTime::from_nseconds(until_ns - from_ns));
        // Elements that do not take it have a gap in their timestamps instead.
        let _ = self.pad.push_event(gap.build());
    }

    fn push_silence(&self, unit: gst::Buffer) {
        // What is refused here is refused again with the next access unit, which tells.
        let _ = self.pad.push(unit);
    }

    /// Nothing follows.
    pub fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            // A pad that refuses EOS has an error on the bus, which whoever waits for the end returns.
            let _ = self.pad.push_event(gst::event::Eos::new());
        }
    }

    /// What follows begins at `ns` of the stream's running time.
    fn begin_at(&self, ns: u64) {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(gst::ClockTime::from_nseconds(ns));
        segment.set_base(gst::ClockTime::from_nseconds(ns - self.base_ns.min(ns)));
        // A pad that refuses it refuses the buffers, too.
        let _ = self.pad.push_event(gst::event::Segment::new(&segment));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(peer) = self.pad.peer() {
            // Both ends go away with the pipeline; a refused unlink changes nothing.
            let _ = self.pad.unlink(&peer);
        }
        let _ = self.pad.set_active(false);
    }
}

fn largest(one: Option<VideoSize>, other: Option<VideoSize>) -> Option<VideoSize> {
    let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
    Some(VideoSize { width: a.width.max(b.width), height: a.height.max(b.height) })
}
