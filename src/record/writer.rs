//! One file being written: access units → (elements the template asks for) → muxer → file.
//!
//! The access units are pushed straight into the muxer's pads from a writer thread of the pool. An `appsrc` or
//! `queue` would own a thread per track and a wake-up per buffer; see ARCHITECTURE.md.

use super::{
    books::Totals,
    feed::{Feed, TrackCounts},
    sync::{Behind, SyncGuard, SyncStats, Syncer},
    usage::Usage,
    volume::index_bytes,
};
use crate::{
    gst::{Pipeline, PipelineError, Template, TrackPlan, make_elements, mp4mux::is_mp4mux},
    media::{Codec, Frame, MediaKind, Tracks},
};
use gstreamer::{self as gst, prelude::*};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How much media is written before a track that has sent nothing, and that the file waits for, is silent or left out.
const SILENT_TRACK_MS: u64 = 2_000;
/// How long a muxer may take to write its index.
const FINISH_DEADLINE: Duration = Duration::from_secs(30);
/// A disk that takes longer to sync a file is one that a muxer may have to wait for.
const DISK_ANSWERS: Duration = Duration::from_secs(2);

/// With more than this in front of a muxer that has all its tracks, the disk is slow and frames wait in the hub.
pub(super) const BEHIND_BYTES: u32 = 4 << 20;
/// Most that may wait in front of a muxer: for a track of which nothing comes, or while the recording is told something.
pub(super) const MAX_QUEUED_BYTES: u32 = 32 << 20;

/// What the files of all recordings share.
#[derive(Clone)]
pub(super) struct Means {
    pub totals: Arc<Totals>,
    pub syncer: Arc<Syncer>,
}

pub(super) struct Writer {
    pipeline: Pipeline,
    feeds: Vec<Feed>,
    /// In front of the pads of a muxer that blocks.
    queues: Vec<gst::Element>,
    span: Span,
    /// What was written, without what the container adds.
    bytes: u64,
    /// Why the file is less than what was asked for.
    degraded: Vec<String>,
    path: PathBuf,
    sync: SyncGuard,
    stats: Arc<SyncStats>,
    behind: Option<Behind>,
    /// A write failed: the file has holes and must not pass for a whole one.
    failed: Option<PipelineError>,
    _usage: Usage,
}

/// What became of an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Written,
    /// Silence was written for it.
    Taken,
    /// The file has no track for it, or none any more.
    NoTrack,
}

/// Media time covered, ns of the stream's running time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub first_pts_ns: Option<u64>,
    pub end_pts_ns: u64,
    /// Decoding time of what is decoded last, of any track.
    pub last_dts_ns: Option<u64>,
    pub last_video_dts_ns: Option<u64>,
}

/// What a closed file holds.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub tracks: Vec<TrackCounts>,
    pub span: Span,
    /// Why it is less than what was asked for.
    pub degraded: Vec<String>,
}

impl Writer {
    /// Builds and starts the pipeline that writes `file`. `base_ns`: running time of the file's beginning. `repeat`:
    /// parameters will change, so those of H.264 and H.265 are repeated at every key frame.
    pub fn open(
        template: &Template,
        plans: &[TrackPlan],
        tracks: &Tracks,
        file: &Path,
        base_ns: u64,
        repeat: bool,
        means: &Means,
    ) -> Result<Self, PipelineError> {
        let pipeline = Pipeline::new();
        let mux = template.make_muxer().map_err(|e| PipelineError::Build(e.to_string()))?;
        let sink = file_sink(file, template.write_buffer_bytes)?;
        pipeline.add(&mux)?;
        pipeline.add(&sink)?;
        mux.link(&sink)?;
        let mut queues = Vec::new();
        let targets = plans
            .iter()
            .map(|plan| track_entry(&pipeline, &mux, plan, tracks, &mut queues))
            .collect::<Result<Vec<_>, _>>()?;
        pipeline.set_state(gst::State::Playing)?;
        let feeds = targets
            .into_iter()
            .zip(plans)
            .zip(tracks.iter())
            .map(|((target, plan), track)| {
                Feed::start(&target, plan, track, base_ns, is_mp4mux(&mux), repeat)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let transcoded = feeds.iter().filter(|f| f.is_transcoded()).count();
        let usage = Usage::new(means.totals.clone(), pipeline.threads(), transcoded);
        Ok(Self {
            pipeline,
            feeds,
            queues,
            span: Span::default(),
            bytes: 0,
            degraded: Vec::new(),
            path: file.into(),
            sync: means.syncer.add(file),
            stats: means.syncer.stats(),
            behind: None,
            failed: None,
            _usage: usage,
        })
    }

    /// What is written from now on belongs to `tracks`: those of the beginning with other parameters
    /// ([`params::fits`](super::params::fits)).
    pub fn set_tracks(&mut self, tracks: &Tracks) {
        self.feeds.iter_mut().zip(tracks.iter()).for_each(|(feed, track)| feed.set_track(track));
    }

    /// Hands one access unit to the muxer. May block while the disk does.
    pub fn write(&mut self, frame: &Frame) -> Result<Place, PipelineError> {
        let Some(feed) = self.feeds.get_mut(usize::from(frame.track.0)).filter(|f| !f.is_ended()) else {
            return Ok(Place::NoTrack);
        };
        if !feed.has_room(frame) {
            return Ok(Place::Taken);
        }
        if let Err(flow) = feed.push(frame) {
            let unknown = || PipelineError::Build(format!("the muxer refused a buffer: {flow}"));
            let error = self.pipeline.take_error().unwrap_or_else(unknown);
            self.failed = Some(error.clone());
            return Err(error);
        }
        let kind = feed.counts().kind;
        self.bytes += frame.buffer.size() as u64;
        self.span.extend(frame, kind);
        self.go_on_without_silent_tracks(kind, frame.dts_ns());
        Ok(Place::Written)
    }

    /// Whether the file has a track for it, and still.
    pub fn has_place(&self, frame: &Frame) -> bool {
        self.feeds.get(usize::from(frame.track.0)).is_some_and(|f| !f.is_ended())
    }

    /// What was written, without what the container adds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Access units in the file.
    pub fn units(&self) -> u64 {
        self.feeds.iter().map(|f| f.counts().frames).sum()
    }

    /// What its index takes at most.
    pub fn index_bytes(&self) -> u64 {
        index_bytes(self.units())
    }

    /// Notes why the file is less than what was asked for.
    pub fn degrade(&mut self, reason: String) {
        self.degraded.push(reason);
    }

    /// An error that came up behind the muxer's back, if any.
    pub fn check(&mut self) -> Result<(), PipelineError> {
        self.sync.written();
        if let Some(error) = self.pipeline.take_error().or_else(|| self.sync.error().map(not_synced)) {
            self.failed = Some(error.clone());
            return Err(error);
        }
        match (self.is_behind(BEHIND_BYTES), &self.behind) {
            (true, None) => self.behind = Some(Behind::new(self.stats.clone())),
            (false, Some(_)) => self.behind = None,
            _ => {}
        }
        if self.most_queued() > MAX_QUEUED_BYTES {
            self.go_on_without_missing_tracks();
        }
        Ok(())
    }

    /// More than `most_bytes` wait in front of the muxer because the disk does not take what comes out of it. A muxer that
    /// waits for one of its tracks is not behind: what it waits for comes with the frames.
    pub fn is_behind(&self, most_bytes: u32) -> bool {
        self.most_queued() > most_bytes && self.missing_tracks().next().is_none()
    }

    fn most_queued(&self) -> u32 {
        self.queues.iter().map(queued_bytes).max().unwrap_or(0)
    }

    /// Tracks whose queue is empty, by their place in `feeds`. Either every track has a queue, or none.
    fn missing_tracks(&self) -> impl Iterator<Item = usize> {
        let pairs = self.feeds.iter().zip(&self.queues).enumerate();
        pairs.filter(|(_, (feed, queue))| !feed.is_ended() && queued_bytes(queue) == 0).map(|(n, _)| n)
    }

    /// The other tracks have filled the memory there is for waiting.
    fn go_on_without_missing_tracks(&mut self) {
        for n in self.missing_tracks().collect::<Vec<_>>() {
            let codec = self.feeds[n].counts().track.codec;
            let reason = format!(
                "the {codec} track ends before the others: nothing came of it while they sent {} MiB",
                MAX_QUEUED_BYTES >> 20
            );
            tracing::warn!("{reason}");
            self.degraded.push(reason);
            self.feeds[n].end();
        }
    }

    /// What a transcoded track will be is known with its first access unit only, and GStreamer's muxers wait for each of
    /// their tracks: one that is silent gets silence, or is left out where that is not known.
    fn go_on_without_silent_tracks(&mut self, kind: MediaKind, now_ns: u64) {
        let begun = self.span.duration_ms() >= SILENT_TRACK_MS;
        for feed in &mut self.feeds {
            let codec = feed.counts().track.codec;
            let reason = if begun && feed.is_unheard() {
                let outcome = if feed.begin_silent() { "silence is in its place" } else { "it is left out" };
                format!("the {codec} track sent nothing in the first {SILENT_TRACK_MS} ms: {outcome}")
            } else if kind == MediaKind::Video && feed.is_missed(now_ns) {
                format!("the {codec} track ends before the pictures: it fell silent")
            } else {
                continue;
            };
            tracing::warn!("{reason}");
            self.degraded.push(reason);
            if feed.is_unheard() || feed.is_missed(now_ns) {
                feed.end();
            }
        }
        if kind == MediaKind::Video {
            self.feeds.iter_mut().for_each(|f| f.fill_behind(now_ns));
        }
    }

    pub fn span(&self) -> Span {
        self.span
    }

    /// Ends every track and waits until the muxer has written its index. Blocks; not for a writer thread.
    pub fn finish(self) -> (Written, Result<(), PipelineError>) {
        let (mut feeds, mut degraded) = (self.feeds, self.degraded);
        for feed in &mut feeds {
            if let Some(ms) = feed.ends_early_by_ms(self.span.end_pts_ns) {
                let codec = feed.counts().track.codec;
                degraded.push(format!("the {codec} track ends {ms} ms before the file does"));
            }
            feed.end();
        }
        let failed = self.failed.map_or(Ok(()), Err);
        let ended = failed.and_then(|()| wait_eos(&self.pipeline, &self.path));
        let ended = self.pipeline.set_state(gst::State::Null).and(ended);
        let ended = ended.and(self.sync.end().map_err(|e| not_synced(&e)));
        let tracks = feeds.iter().filter(|f| f.is_in_file()).map(|f| f.counts().clone()).collect();
        (Written { tracks, span: self.span, degraded }, ended)
    }
}

impl Span {
    fn extend(&mut self, frame: &Frame, kind: MediaKind) {
        let pts = frame.pts_ns();
        let step = match (kind, self.last_video_dts_ns) {
            (MediaKind::Audio, _) => 0,
            (MediaKind::Video, None) => 0,
            (MediaKind::Video, Some(last)) => frame.dts_ns().saturating_sub(last),
        };
        if kind == MediaKind::Video {
            self.last_video_dts_ns = Some(frame.dts_ns());
        }
        let duration = frame.buffer.duration().map_or(step, gst::ClockTime::nseconds);
        self.last_dts_ns = self.last_dts_ns.max(Some(frame.dts_ns()));
        self.first_pts_ns = Some(self.first_pts_ns.map_or(pts, |first| first.min(pts)));
        self.end_pts_ns = self.end_pts_ns.max(pts + duration);
    }

    pub fn duration_ms(&self) -> u64 {
        self.first_pts_ns.map_or(0, |first| self.end_pts_ns.saturating_sub(first) / 1_000_000)
    }
}

fn queued_bytes(queue: &gst::Element) -> u32 {
    queue.property("current-level-bytes")
}

fn not_synced(error: &io::Error) -> PipelineError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PipelineError::DiskFull,
        _ => PipelineError::NotSynced(error.to_string()),
    }
}

/// Waits as long as the disk makes the muxer wait. A muxer that does not finish although the disk answers never will.
fn wait_eos(pipeline: &Pipeline, file: &Path) -> Result<(), PipelineError> {
    loop {
        let ended = pipeline.wait_eos(FINISH_DEADLINE);
        let Err(PipelineError::NoEos { .. }) = &ended else { return ended };
        let asked = Instant::now();
        // Returns when the disk has taken what is written. An error is met again by whoever finishes the file.
        let _ = File::open(file).and_then(|f| f.sync_all());
        if asked.elapsed() < DISK_ANSWERS {
            return ended;
        }
        tracing::warn!(file = %file.display(), "finishing the file waits for the disk, which is slow");
    }
}

fn file_sink(file: &Path, write_buffer_bytes: u32) -> Result<gst::Element, PipelineError> {
    let sink = gst::ElementFactory::make("filesink").build()?;
    sink.set_property("location", file);
    sink.set_property("sync", false);
    sink.set_property("async", false);
    if write_buffer_bytes == 0 {
        sink.set_property_from_str("buffer-mode", "unbuffered");
    } else {
        sink.set_property_from_str("buffer-mode", "full");
        sink.set_property("buffer-size", write_buffer_bytes);
    }
    Ok(sink)
}

/// The pad to push a track's access units into.
fn track_entry(
    pipeline: &Pipeline,
    mux: &gst::Element,
    plan: &TrackPlan,
    tracks: &Tracks,
    queues: &mut Vec<gst::Element>,
) -> Result<gst::Pad, PipelineError> {
    let missing = |what: &str| PipelineError::Build(format!("{} track: {what}", plan.codec));
    let track = tracks.get(plan.track).ok_or_else(|| missing("its plan is for another stream"))?;
    let Some(elements) = &plan.elements else {
        let pad =
            request_pad(mux, &track.caps).ok_or_else(|| missing("the muxer has no pad for its caps"))?;
        return unblocked(pipeline, mux, pad, queues).map_err(|e| missing(&e.to_string()));
    };
    let bin = make_elements(elements).map_err(|e| PipelineError::Build(e.to_string()))?;
    pipeline.add(&bin)?;
    let source = bin.static_pad("src").ok_or_else(|| missing("the elements have no open source pad"))?;
    let mux_pad = request_pad(mux, &source.query_caps(None))
        .ok_or_else(|| missing("the muxer has no pad for what the elements make"))?;
    let entry = unblocked(pipeline, mux, mux_pad, queues).map_err(|e| missing(&e.to_string()))?;
    source.link(&entry).map_err(|e| missing(&e.to_string()))?;
    if plan.codec == Codec::Vorbis {
        skip_headers(&source);
    }
    if plan.codec != track.codec {
        smooth(&source, plan.codec == Codec::Aac);
    }
    bin.static_pad("sink").ok_or_else(|| missing("the elements have no open sink pad"))
}

/// Leaves out the headers that Vorbis comes with: they are in the caps, where muxers take them from, and `webmmux`
/// counts their missing times into the length of the file.
fn skip_headers(source: &gst::Pad) {
    source.add_probe(gst::PadProbeType::BUFFER, |_, info| match info.buffer() {
        Some(buffer) if buffer.flags().contains(gst::BufferFlags::HEADER) => gst::PadProbeReturn::Drop,
        _ => gst::PadProbeReturn::Ok,
    });
}

/// What an audio encoder's timestamps are measured against.
#[derive(Default)]
struct Smooth {
    /// Duration of the first access unit, which was left out.
    delay: Option<gst::ClockTime>,
    /// Where the one before ends.
    end: gst::ClockTime,
}

/// Evens out the timestamps of an audio encoder. `priming`: its first access unit is its start-up delay (AAC); it is left
/// out and the others move up, so that sound stays beside the pictures. None begins before the one before has ended,
/// as the last of vorbisenc do.
fn smooth(source: &gst::Pad, priming: bool) {
    const ROUNDING: gst::ClockTime = gst::ClockTime::from_useconds(100);
    let state = Mutex::new(Smooth::default());
    source.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let duration = buffer.duration().unwrap_or_default();
        if priming && state.delay.is_none() {
            state.delay = Some(duration);
            return gst::PadProbeReturn::Drop;
        }
        let delay = state.delay.unwrap_or_default();
        let unit = buffer.make_mut();
        let in_place = |time: gst::ClockTime| {
            let time = time.saturating_sub(delay);
            if time + ROUNDING < state.end { state.end } else { time }
        };
        let (pts, dts) = (unit.pts().map(in_place), unit.dts().map(in_place));
        unit.set_pts(pts);
        unit.set_dts(dts);
        state.end = pts.map_or(state.end, |pts| pts + duration);
        gst::PadProbeReturn::Ok
    });
}

/// The pad in front of a muxer's pad that never blocks. GStreamer's muxers block a pad until every other pad has data,
/// and one thread feeds all the pads here: each gets a queue with a thread of its own, whose length
/// [`Writer::check`] bounds. `reeldmp4mux` never blocks and needs none.
fn unblocked(
    pipeline: &Pipeline,
    mux: &gst::Element,
    pad: gst::Pad,
    queues: &mut Vec<gst::Element>,
) -> Result<gst::Pad, PipelineError> {
    if is_mp4mux(mux) {
        return Ok(pad);
    }
    let queue = gst::ElementFactory::make("queue").build()?;
    for limit in ["max-size-buffers", "max-size-bytes"] {
        queue.set_property(limit, 0_u32);
    }
    queue.set_property("max-size-time", 0_u64);
    pipeline.add(&queue)?;
    let no_pad = || PipelineError::Build("a queue has no pads".into());
    let source = queue.static_pad("src").ok_or_else(no_pad)?;
    source.link(&pad).map_err(|e| PipelineError::Build(e.to_string()))?;
    let entry = queue.static_pad("sink").ok_or_else(no_pad)?;
    queues.push(queue);
    Ok(entry)
}

/// A request pad of the muxer whose template takes `caps`.
fn request_pad(mux: &gst::Element, caps: &gst::Caps) -> Option<gst::Pad> {
    let templates = mux.pad_template_list();
    let fits = |t: &&gst::PadTemplate| {
        t.direction() == gst::PadDirection::Sink
            && t.presence() == gst::PadPresence::Request
            && t.caps().can_intersect(caps)
    };
    templates.iter().find(fits).and_then(|t| mux.request_pad(t, None, Some(caps)))
}

#[cfg(test)]
mod tests;
