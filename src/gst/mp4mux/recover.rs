//! The end of a file that its muxer was not able to end: what was read back from it becomes the `moov` it would have
//! got. Reading is elsewhere; this knows how the muxer writes.

use super::boxes::{PLACEHOLDER_BYTES, large_mdat_header, placeholder};
use super::format::Format;
use super::index::{Chunk, Column, Index};
use super::moov::{self, Numbered};
use super::track::{Start, Track};
use super::video;
use crate::media::MediaKind;

/// What the opening `moov` says of a track.
#[derive(Clone, Debug)]
pub struct TrackHead {
    pub id: u32,
    pub kind: MediaKind,
    /// The whole sample entry box.
    pub entry: Vec<u8>,
    /// Ticks a second.
    pub timescale: u32,
    /// Of `tkhd`, 16.16 fixed point.
    pub display: (u32, u32),
    /// It has an edit list: the composition offsets in the fragments are from decoding times.
    pub declared: bool,
}

/// Where the samples of a track in one fragment are.
#[derive(Clone, Copy, Debug)]
pub struct RunHead {
    pub track: u32,
    /// Of its `tfdt`, ticks.
    pub decode_time: u64,
    /// Bytes from the start of the file.
    pub offset: u64,
}

/// A sample of a fragment; times in ticks of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentSample {
    pub duration: u32,
    /// Below 2^31.
    pub size: u32,
    pub composition: i32,
    pub sync: bool,
}

/// A file of `reeldmp4mux` as far as it has been read back. It keeps what the final `moov` needs, at most 12 bytes a
/// sample.
pub struct Remains {
    created_s: u64,
    tracks: Vec<Remaining>,
}

struct Remaining {
    head: TrackHead,
    index: Index,
    /// Decoding time of its first sample, as fragments tell it.
    begin: u64,
    /// Decoding time where its last sample but one ends, as the durations have it.
    settled: u64,
    /// The last sample's duration is known when the next one comes.
    last: Option<u32>,
    key_frames: u64,
}

/// A track of a file that has been read back.
#[derive(Clone, Copy, Debug)]
pub struct TrackSum<'a> {
    pub head: &'a TrackHead,
    pub frames: u64,
    pub key_frames: u64,
}

/// How a file ends.
pub struct Ending {
    /// The final `moov`.
    pub moov: Vec<u8>,
    pub duration_ms: u64,
}

impl Remains {
    /// `created_s` is Unix time.
    pub fn new(created_s: u64, heads: Vec<TrackHead>) -> Self {
        let track = |head| Remaining {
            head,
            index: Index::default(),
            begin: 0,
            settled: 0,
            last: None,
            key_frames: 0,
        };
        Self { created_s, tracks: heads.into_iter().map(track).collect() }
    }

    pub fn heads(&self) -> impl Iterator<Item = &TrackHead> {
        self.tracks.iter().map(|t| &t.head)
    }

    /// Tracks that have samples.
    pub fn sums(&self) -> impl Iterator<Item = TrackSum<'_>> {
        let used = self.tracks.iter().filter(|t| !t.index.is_empty());
        used.map(|t| TrackSum { head: &t.head, frames: t.index.len() as u64, key_frames: t.key_frames })
    }

    /// Adds the next run of a track; one of a track that is not known is passed over.
    pub fn add(&mut self, run: &RunHead, samples: impl IntoIterator<Item = FragmentSample>) {
        let Some(track) = self.tracks.iter_mut().find(|t| t.head.id == run.track) else { return };
        let before = track.index.len();
        let mut begins = Some(run.decode_time);
        for sample in samples {
            track.add(&sample, begins.take());
        }
        let samples = (track.index.len() - before) as u32;
        if samples > 0 {
            track.index.chunks.push(Chunk { offset: run.offset, samples });
        }
    }

    /// Parameter sets of the track are in its access units; `size`: of the pictures they are for. See
    /// `Format::go_on`.
    pub fn goes_on_in_band(&mut self, track: u32, size: Option<(u16, u16)>) {
        let Some(track) = self.tracks.iter_mut().find(|t| t.head.id == track) else { return };
        let head = &mut track.head;
        let Some(kind) = head.entry.get(4..8).and_then(|kind| <[u8; 4]>::try_from(kind).ok()) else { return };
        head.entry[4..8].copy_from_slice(video::in_band_kind(&kind));
        if let Some((width, height)) = size {
            video::grow(&mut head.entry, (width, height));
            let fixed = |pixels: u16| u32::from(pixels) << 16;
            head.display = (head.display.0.max(fixed(width)), head.display.1.max(fixed(height)));
        }
    }

    /// The end of the file, as the muxer would have written it. Of a track that came after the header two things may
    /// differ: how far its decoding is ahead (what is shown when is the same), and pictures from before the beginning
    /// stay squeezed to it (`Track::run`).
    pub fn end(self) -> Ending {
        let used = self.tracks.into_iter().filter(|t| !t.index.is_empty());
        let tracks: Vec<_> = used.map(|t| (t.head.id, t.into_track())).collect();
        let numbered: Vec<_> =
            tracks.iter().map(|(id, track)| Numbered { id: *id, base: 0, track }).collect();
        let mut out = Vec::new();
        moov::closing(&mut out, &numbered, self.created_s);
        Ending { moov: out, duration_ms: moov::duration_ms(&numbered) }
    }
}

impl Remaining {
    /// `begins`: of the first sample of a run, its decoding time. It tells when the run before ended: the muxer did not
    /// know while it wrote that.
    fn add(&mut self, sample: &FragmentSample, begins: Option<u64>) {
        match (self.last, begins) {
            (Some(_), Some(begins)) => self.settle(begins),
            (Some(duration), None) => self.settle(self.settled + u64::from(duration)),
            (None, begins) => {
                self.begin = begins.unwrap_or(0);
                self.settled = self.begin;
            }
        }
        self.last = Some(sample.duration);
        self.index.push(sample.size, sample.composition, sample.sync);
        self.key_frames += u64::from(sample.sync);
    }

    /// The last sample ends at `end`, or a tick after it began.
    fn settle(&mut self, end: u64) {
        let duration = u32::try_from(end.saturating_sub(self.settled)).unwrap_or(u32::MAX).max(1);
        self.index.durations.push(duration);
        self.settled += u64::from(duration);
    }

    /// The fragments of a track that is not declared do not tell its reorder delay: as long as any picture needs it.
    fn into_track(mut self) -> Track {
        if let Some(duration) = self.last {
            self.index.durations.push(duration);
        }
        let compositions = || self.index.compositions.iter();
        let delay = match self.head.declared {
            true => i64::from(compositions().next().unwrap_or(0)),
            false => -i64::from(compositions().min().unwrap_or(0).min(0)),
        };
        if !self.head.declared && delay > 0 {
            let mut shifted = Column::default();
            for composition in compositions() {
                shifted.push((i64::from(composition) + delay).min(i64::from(i32::MAX)) as i32);
            }
            self.index.compositions = shifted;
        }
        let pts = i64::try_from(self.begin).unwrap_or(i64::MAX).min(i64::MAX / 4);
        let start = Start { pts_ns: 0, pts, dts: pts - delay };
        Track::found(format(self.head), start, self.index)
    }
}

fn format(head: TrackHead) -> Format {
    Format {
        pre_skip: pre_skip(&head.entry),
        kind: head.kind,
        entry: head.entry,
        timescale: head.timescale,
        display: head.display,
        nominal: 0,
        constant: false,
        temporal_delimiters: false,
    }
}

/// Of an Opus sample entry: what its decoder drops at the beginning, ticks. 0 for any other.
fn pre_skip(entry: &[u8]) -> u32 {
    const PRE_SKIP: std::ops::Range<usize> = 46..48;
    let opus = entry.get(4..8) == Some(b"Opus") && entry.get(40..44) == Some(b"dOps");
    let told = entry.get(PRE_SKIP).filter(|_| opus).and_then(|b| <[u8; 2]>::try_from(b).ok());
    told.map_or(0, |skip| u32::from(u16::from_be_bytes(skip)))
}

/// What stands between `ftyp` and the opening `moov`: a `free` box while the file is being written, in the end the
/// header of an `mdat` that is `total_bytes` long.
pub fn join(total_bytes: Option<u64>) -> [u8; PLACEHOLDER_BYTES as usize] {
    let mut out = Vec::with_capacity(PLACEHOLDER_BYTES as usize);
    match total_bytes {
        Some(total_bytes) => out = large_mdat_header(total_bytes),
        None => placeholder(&mut out),
    }
    out.try_into().expect("both are as long as the placeholder")
}
