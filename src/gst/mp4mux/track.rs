//! One track: places access units on its timeline, keeps those not yet written and the index of all.

use super::boxes::{Run, RunSample};
use super::format::Format;
use super::index::{Chunk, Index};
use gstreamer as gst;

/// One encoded access unit as it came in. Times are running time in ns.
pub(super) struct AccessUnit {
    pub buffer: gst::Buffer,
    pub pts_ns: Option<i64>,
    pub dts_ns: Option<i64>,
    pub duration_ns: Option<u64>,
    pub sync: bool,
}

/// A sample on its track's timeline, in ticks since the muxer's origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub dts: i64,
    pub composition: i32,
    /// What it is thought to last until the next sample tells.
    pub duration: u32,
    pub size: u32,
    pub sync: bool,
}

/// The first sample's times, ticks since the muxer's origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub pts_ns: i64,
    pub pts: i64,
    pub dts: i64,
}

pub(super) struct Track {
    pub format: Format,
    pending: Vec<(Sample, gst::Buffer)>,
    pending_bytes: u64,
    start: Option<Start>,
    last: Option<Sample>,
    /// Whether the opening `moov` has this track's reorder delay in an edit list.
    declared: bool,
    pub index: Index,
}

impl Track {
    pub fn new(format: Format) -> Self {
        let (pending, index) = (Vec::new(), Index::default());
        Self { format, pending, pending_bytes: 0, start: None, last: None, declared: false, index }
    }

    /// A track of a file that was read back: all of its samples are written and settled.
    pub fn found(format: Format, start: Start, index: Index) -> Self {
        Self { start: Some(start), index, ..Self::new(format) }
    }

    pub fn start(&self) -> Option<Start> {
        self.start
    }

    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Ticks after the origin; both times in ns.
    pub fn ticks(&self, time_ns: i64, origin_ns: i64) -> i64 {
        const NS: i128 = 1_000_000_000;
        let product = (i128::from(time_ns) - i128::from(origin_ns)) * i128::from(self.format.timescale);
        let ticks = (product + NS / 2).div_euclid(NS);
        // A quarter of the range leaves room to add and subtract.
        ticks.clamp(i128::from(i64::MIN / 4), i128::from(i64::MAX / 4)) as i64
    }

    /// Where `unit` goes. Decoding times of a track always rise; rounding of constant-length audio access units
    /// is taken out as long as it stays within 1 ms of their timestamps.
    pub fn place(&self, unit: &AccessUnit, origin_ns: i64) -> Sample {
        let after_last = || self.last.map_or(0, |last| last.dts + i64::from(last.duration));
        let pts_ns = unit.pts_ns.or(unit.dts_ns);
        let pts = pts_ns.map_or_else(after_last, |ns| self.ticks(ns, origin_ns));
        let wanted = match unit.dts_ns {
            Some(ns) if self.format.is_video() => self.ticks(ns, origin_ns),
            _ => pts,
        };
        let dts = self.next_dts(wanted, pts);
        let composition = if self.format.is_video() { pts - dts } else { 0 };
        Sample {
            dts,
            composition: composition.clamp(i64::from(i32::MIN / 2), i64::from(i32::MAX / 2)) as i32,
            duration: self.expected_duration(unit, dts),
            size: unit.buffer.size() as u32,
            sync: unit.sync,
        }
    }

    fn next_dts(&self, wanted: i64, pts: i64) -> i64 {
        let Some(last) = self.last else { return wanted.min(pts) };
        let expected = last.dts + i64::from(self.format.nominal);
        let tolerance = u64::from(self.format.timescale / 1000 + 1);
        if self.format.constant && wanted.abs_diff(expected) <= tolerance {
            return expected;
        }
        wanted.clamp(last.dts + 1, last.dts + i64::from(u32::MAX))
    }

    fn expected_duration(&self, unit: &AccessUnit, dts: i64) -> u32 {
        if self.format.constant {
            return self.format.nominal;
        }
        let told = unit.duration_ns.and_then(|ns| i64::try_from(ns).ok()).map(|ns| self.ticks(ns, 0));
        let told = told.and_then(|t| u32::try_from(t).ok()).filter(|t| *t > 0);
        let step = || self.last.and_then(|last| u32::try_from(dts - last.dts).ok());
        told.or_else(step).unwrap_or(self.format.nominal)
    }

    /// The sample before one that decodes at `dts` ends there.
    pub fn settle(&mut self, dts: i64) {
        let Some(last) = &mut self.last else { return };
        last.duration = u32::try_from(dts - last.dts).unwrap_or(u32::MAX);
        let duration = last.duration;
        self.index.durations.push(duration);
        if let Some((sample, _)) = self.pending.last_mut() {
            sample.duration = duration;
        }
    }

    /// No sample follows: the last one lasts as long as expected.
    pub fn settle_last(&mut self) {
        if let Some(last) = self.last.take() {
            self.index.durations.push(last.duration);
        }
    }

    /// `settle` has been called for this sample.
    pub fn append(&mut self, sample: Sample, pts_ns: i64, buffer: gst::Buffer) {
        let pts = sample.dts + i64::from(sample.composition);
        self.start.get_or_insert(Start { pts_ns, pts, dts: sample.dts });
        self.last = Some(sample);
        self.index.push(sample.size, sample.composition, sample.sync);
        self.pending_bytes += u64::from(sample.size);
        self.pending.push((sample, buffer));
    }

    /// Whether a sample at `dts` would make the pending media as long as `limit_ms`.
    pub fn spans(&self, dts: i64, limit_ms: u32) -> bool {
        let Some((first, _)) = self.pending.first() else { return false };
        let limit_ticks = i64::from(limit_ms) * i64::from(self.format.timescale) / 1000;
        dts - first.dts >= limit_ticks
    }

    /// The pending samples as a run of a fragment. `base` is the start of the file in this track's ticks.
    ///
    /// Media from before `base`, of a track that came after the header was written, has no decoding times: it decodes at
    /// once, so that the next fragment does not lie over this one, and is shown at the beginning.
    pub fn run(
        &self,
        track_id: u32,
        base: i64,
    ) -> Option<Run<impl ExactSizeIterator<Item = RunSample> + '_>> {
        let (first, _) = self.pending.first()?;
        let delay = self.delay();
        let not_declared = if self.declared { 0 } else { delay };
        let decode_time = first.dts + delay - base;
        let mut before_base = decode_time.saturating_neg().max(0);
        Some(Run {
            track_id,
            video: self.format.is_video(),
            decode_time: u64::try_from(decode_time).unwrap_or(0),
            bytes: self.pending_bytes,
            samples: self.pending.iter().map(move |(sample, _)| {
                let late = before_base;
                let cut = late.min(i64::from(sample.duration) - 1).max(0);
                before_base -= cut;
                let composition = i64::from(sample.composition) - not_declared;
                RunSample {
                    duration: sample.duration - cut as u32,
                    size: sample.size,
                    composition: composition.min((composition - late).max(0)) as i32,
                    sync: sample.sync,
                }
            }),
        })
    }

    /// Reorder delay: how long after its decoding time the first sample is shown.
    pub fn delay(&self) -> i64 {
        self.start.map_or(0, |start| start.pts - start.dts)
    }

    /// Where presentation begins in the media, ticks: the reorder delay and what the decoder drops.
    pub fn media_time(&self) -> u64 {
        self.delay().unsigned_abs() + u64::from(self.format.pre_skip)
    }

    /// The opening `moov` is written now: fragments lean on its edit list if the delay is known.
    pub fn declare(&mut self) {
        self.declared = self.start.is_some();
    }

    /// Hands out the pending access units, which are written at `offset`; returns where they end.
    pub fn take_pending(&mut self, offset: u64, into: &mut Vec<gst::Buffer>) -> u64 {
        if self.pending.is_empty() {
            return offset;
        }
        self.index.chunks.push(Chunk { offset, samples: self.pending.len() as u32 });
        into.extend(self.pending.drain(..).map(|(_, buffer)| buffer));
        offset + std::mem::take(&mut self.pending_bytes)
    }
}
