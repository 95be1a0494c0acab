//! The muxer without its GStreamer element: access units in, pieces of the file out.

use super::boxes::{self, PLACEHOLDER_BYTES};
use super::format::Format;
use super::moov::{self, Numbered};
use super::track::{AccessUnit, Track};
use gstreamer as gst;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// A fragment is cut before its media grows past this.
const MAX_FRAGMENT_BYTES: u64 = 8 << 20;
/// A larger access unit is an error.
const MAX_ACCESS_UNIT_BYTES: usize = 256 << 20;
/// A track with more samples (18 days at 60 a second) would make tables past what 32-bit box sizes hold.
const MAX_SAMPLES: usize = 100_000_000;
/// How much media is kept while a requested pad has no caps.
const MAX_UNSTARTED_MS: u32 = 10_000;
const MAX_UNSTARTED_BYTES: u64 = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum MuxError {
    #[error("{pad}: media before caps")]
    NoCaps { pad: String },
    #[error(
        "{pad}: no caps came while other pads delivered {MAX_UNSTARTED_MS} ms or {MAX_UNSTARTED_BYTES} bytes"
    )]
    Unstarted { pad: String },
    #[error("{pad}: codec parameters changed")]
    Changed { pad: String },
    #[error("{pad}: an access unit of {bytes} bytes, the most is {MAX_ACCESS_UNIT_BYTES}")]
    TooLarge { pad: String, bytes: usize },
    #[error("{pad}: more than {MAX_SAMPLES} access units in one file")]
    TooMany { pad: String },
}

/// The next piece of the file, in order.
pub(super) enum Piece {
    /// Goes after everything before it.
    Append(gst::BufferList),
    /// Overwrites what is at `offset` (bytes from the start of the file).
    Overwrite { offset: u64, buffer: gst::Buffer },
    /// Nothing follows.
    End,
}

/// What a pad feeds.
struct Slot {
    pad: String,
    video: bool,
    track: Option<Track>,
    ended: bool,
}

/// Where the file begins, settled when its header is written.
#[derive(Clone, Copy)]
struct Opened {
    base_ns: i64,
    created_s: u64,
}

pub(super) struct Muxer {
    fragment_ms: u32,
    /// By pad; a slot's number is its track's, less one.
    slots: Vec<Slot>,
    /// Ticks of all tracks count from here: the first PTS that came.
    origin_ns: Option<i64>,
    opened: Option<Opened>,
    /// Length of the file so far.
    offset: u64,
    placeholder_at: u64,
    sequence: u32,
    pending_bytes: u64,
    ended: bool,
    pieces: VecDeque<Piece>,
}

impl Muxer {
    pub fn new(fragment_ms: u32) -> Self {
        Self {
            fragment_ms,
            slots: Vec::new(),
            origin_ns: None,
            opened: None,
            offset: 0,
            placeholder_at: 0,
            sequence: 0,
            pending_bytes: 0,
            ended: false,
            pieces: VecDeque::new(),
        }
    }

    pub fn fragment_ms(&self) -> u32 {
        self.fragment_ms
    }

    pub fn set_fragment_ms(&mut self, fragment_ms: u32) {
        self.fragment_ms = fragment_ms;
    }

    /// Adds a pad; `None` once the file has begun. Slots are numbered from 0.
    pub fn add(&mut self, pad: &str, video: bool) -> Option<usize> {
        if self.opened.is_some() || self.ended {
            return None;
        }
        self.slots.push(Slot { pad: pad.to_owned(), video, track: None, ended: false });
        Some(self.slots.len() - 1)
    }

    /// The same pads, a new file.
    pub fn reset(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        *self = Self::new(self.fragment_ms);
        self.slots = slots;
        for slot in &mut self.slots {
            slot.track = None;
            slot.ended = false;
        }
    }

    pub fn set_format(&mut self, slot: usize, format: Format) -> Result<(), MuxError> {
        let opened = self.opened.is_some();
        let slot = &mut self.slots[slot];
        match &mut slot.track {
            Some(track) if opened || !track.index.is_empty() => {
                let goes_on = track.format.go_on(&format);
                goes_on.then_some(()).ok_or_else(|| MuxError::Changed { pad: slot.pad.clone() })
            }
            None if opened => Err(MuxError::Unstarted { pad: slot.pad.clone() }),
            _ => {
                slot.track = Some(Track::new(format));
                Ok(())
            }
        }
    }

    /// Takes one access unit. Pieces it completes are taken with `next_piece`.
    pub fn push(&mut self, slot: usize, mut unit: AccessUnit) -> Result<(), MuxError> {
        let origin_ns = *self.origin_ns.get_or_insert(unit.pts_ns.or(unit.dts_ns).unwrap_or(0));
        let entry = &mut self.slots[slot];
        let Some(track) = &mut entry.track else { return Err(MuxError::NoCaps { pad: entry.pad.clone() }) };
        if unit.buffer.size() > MAX_ACCESS_UNIT_BYTES {
            return Err(MuxError::TooLarge { pad: entry.pad.clone(), bytes: unit.buffer.size() });
        }
        if track.index.len() >= MAX_SAMPLES {
            return Err(MuxError::TooMany { pad: entry.pad.clone() });
        }
        if track.format.temporal_delimiters {
            strip_temporal_delimiter(&mut unit.buffer);
        }
        if unit.buffer.size() == 0 {
            return Ok(());
        }
        let sample = track.place(&unit, origin_ns);
        track.settle(sample.dts);
        if self.is_due(slot, sample.dts, u64::from(sample.size)) {
            self.cut();
        } else {
            self.check_unstarted(slot, sample.dts)?;
        }
        if let Some(track) = &mut self.slots[slot].track {
            let pts_ns = unit.pts_ns.or(unit.dts_ns).unwrap_or(origin_ns);
            track.append(sample, pts_ns, unit.buffer);
            self.pending_bytes += u64::from(sample.size);
        }
        Ok(())
    }

    /// No more access units on `slot`. When that was the last open one the file is finished: as a plain MP4
    /// if what was written can be overwritten.
    pub fn end(&mut self, slot: usize, overwritable: bool) {
        self.slots[slot].ended = true;
        if self.ended || self.slots.iter().any(|s| !s.ended) {
            return;
        }
        self.ended = true;
        for track in self.slots.iter_mut().filter_map(|s| s.track.as_mut()) {
            track.settle_last();
        }
        if self.slots.iter().any(|s| s.track.is_some()) {
            self.cut();
            if overwritable {
                self.close();
            }
        }
        self.pieces.push_back(Piece::End);
    }

    /// A released pad delivers nothing more; what it delivered stays.
    pub fn release(&mut self, slot: usize) {
        self.slots[slot].ended = true;
    }

    pub fn release_named(&mut self, pad: &str) {
        if let Some(slot) = self.slots.iter().position(|s| s.pad == pad) {
            self.release(slot);
        }
    }

    pub fn next_piece(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    pub fn has_pieces(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Whether the pending media makes a fragment before a sample of `size` at `dts` joins it. Video paces the
    /// fragments; audio alone does where there is none, and after twice the time where video is late.
    fn is_due(&self, slot: usize, dts: i64, size: u64) -> bool {
        if self.pending_bytes == 0 || self.unstarted().is_some() {
            return false;
        }
        let paces = self.slots[slot].video || !self.slots.iter().any(|s| s.video && !s.ended);
        let limit_ms = if paces { self.fragment_ms } else { self.fragment_ms.saturating_mul(2) };
        let spans = self.slots[slot].track.as_ref().is_some_and(|t| t.spans(dts, limit_ms));
        spans || self.pending_bytes + size > MAX_FRAGMENT_BYTES
    }

    fn unstarted(&self) -> Option<&Slot> {
        self.slots.iter().find(|s| s.track.is_none() && !s.ended)
    }

    fn check_unstarted(&self, slot: usize, dts: i64) -> Result<(), MuxError> {
        let Some(silent) = self.unstarted() else { return Ok(()) };
        let spans = self.slots[slot].track.as_ref().is_some_and(|t| t.spans(dts, MAX_UNSTARTED_MS));
        if spans || self.pending_bytes > MAX_UNSTARTED_BYTES {
            return Err(MuxError::Unstarted { pad: silent.pad.clone() });
        }
        Ok(())
    }

    /// Puts out all pending media as one fragment, after the header if that is still to come.
    fn cut(&mut self) {
        let mut boxes = Vec::new();
        let opened = match self.opened {
            Some(opened) => opened,
            None => self.open(&mut boxes),
        };
        let mut buffers = Vec::new();
        if self.pending_bytes > 0 {
            self.fragment(&mut boxes, &mut buffers, opened.base_ns);
        } else {
            self.offset += boxes.len() as u64;
        }
        if boxes.is_empty() {
            return;
        }
        let list = std::iter::once(gst::Buffer::from_mut_slice(boxes)).chain(buffers);
        self.pieces.push_back(Piece::Append(list.collect()));
    }

    /// Writes the header. The file begins at the lowest first PTS known by now.
    fn open(&mut self, out: &mut Vec<u8>) -> Opened {
        let base_ns = self.earliest_ns();
        let created_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let opened = Opened { base_ns, created_s };
        self.opened = Some(opened);
        boxes::ftyp(out);
        self.placeholder_at = out.len() as u64;
        boxes::placeholder(out);
        moov::opening(out, &self.numbered(base_ns), created_s);
        self.slots.iter_mut().filter_map(|s| s.track.as_mut()).for_each(Track::declare);
        opened
    }

    fn earliest_ns(&self) -> i64 {
        let starts = self.slots.iter().filter_map(|s| s.track.as_ref()?.start());
        starts.map(|s| s.pts_ns).min().unwrap_or(0)
    }

    fn fragment(&mut self, boxes: &mut Vec<u8>, buffers: &mut Vec<gst::Buffer>, base_ns: i64) {
        let samples: usize = self.slots.iter().filter_map(|s| s.track.as_ref()).map(Track::pending_len).sum();
        boxes.reserve(256 + samples * 16);
        buffers.reserve(samples);
        self.sequence = self.sequence.wrapping_add(1);
        let moof_at = self.offset + boxes.len() as u64;
        let runs = self.numbered(base_ns).into_iter().filter_map(|n| n.track.run(n.id, n.base));
        let mut offset = moof_at + boxes::fragment(boxes, self.sequence, runs);
        for track in self.slots.iter_mut().filter_map(|s| s.track.as_mut()) {
            offset = track.take_pending(offset, buffers);
        }
        self.offset = offset;
        self.pending_bytes = 0;
    }

    /// Appends the full `moov`, then turns everything between `ftyp` and it into one `mdat`. A track that came
    /// after the header with an earlier first PTS moves the beginning of the file here.
    fn close(&mut self) {
        let Some(opened) = self.opened else { return };
        let mut tracks = self.numbered(self.earliest_ns());
        tracks.retain(|n| !n.track.index.is_empty());
        let mut out = Vec::new();
        moov::closing(&mut out, &tracks, opened.created_s);
        let mdat = boxes::large_mdat_header(self.offset - self.placeholder_at);
        debug_assert_eq!(mdat.len() as u64, PLACEHOLDER_BYTES);
        self.offset += out.len() as u64;
        let mut index = gst::Buffer::from_mut_slice(out);
        // On the disk before the fragments are hidden: a power cut in between would leave a file without any index.
        index.make_mut().set_flags(gst::BufferFlags::SYNC_AFTER);
        self.pieces.push_back(Piece::Append(std::iter::once(index).collect()));
        let buffer = gst::Buffer::from_mut_slice(mdat);
        self.pieces.push_back(Piece::Overwrite { offset: self.placeholder_at, buffer });
    }

    fn numbered(&self, base_ns: i64) -> Vec<Numbered<'_>> {
        let origin_ns = self.origin_ns.unwrap_or(base_ns);
        let tracks = (1..).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.track.as_ref()?)));
        tracks.map(|(id, track)| Numbered { id, base: track.ticks(base_ns, origin_ns), track }).collect()
    }
}

/// Temporal delimiters do not belong in MP4 (AV1-ISOBMFF, 2.4); one opens a temporal unit as the bytes 12 00.
fn strip_temporal_delimiter(buffer: &mut gst::Buffer) {
    let mut head = [0; 2];
    if buffer.copy_to_slice(0, &mut head).is_err() || head != [0x12, 0] {
        return;
    }
    if let Ok(rest) = buffer.copy_region(gst::BufferCopyFlags::all(), 2..) {
        *buffer = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syncs(list: &gst::BufferList) -> bool {
        list.iter().any(|b| b.flags().contains(gst::BufferFlags::SYNC_AFTER))
    }

    /// The fragments were hidden behind one `mdat` before the index was on the disk: a power cut in between left neither.
    #[test]
    fn the_index_is_synced_before_the_fragments_are_hidden_and_nothing_else_is() {
        gst::init().expect("GStreamer");
        let caps: gst::Caps =
            "audio/x-opus,rate=48000,channels=2,channel-mapping-family=0".parse().expect("caps");
        let mut muxer = Muxer::new(400);
        let slot = muxer.add("audio_0", false).expect("a slot");
        muxer.set_format(slot, Format::from_caps(&caps).expect("Opus")).expect("taken");
        for n in 0..100 {
            let at = Some(n * 20_000_000);
            let buffer = gst::Buffer::from_mut_slice(vec![1; 10]);
            let unit =
                AccessUnit { pts_ns: at, dts_ns: at, duration_ns: Some(20_000_000), sync: true, buffer };
            muxer.push(slot, unit).expect("taken");
        }
        muxer.end(slot, true);
        let pieces: Vec<_> = std::iter::from_fn(|| muxer.next_piece()).collect();
        let [fragments @ .., Piece::Append(index), Piece::Overwrite { buffer, .. }, Piece::End] = &pieces[..]
        else {
            panic!("{} pieces", pieces.len());
        };
        assert!(syncs(index) && !buffer.flags().contains(gst::BufferFlags::SYNC_AFTER));
        assert!(fragments.len() >= 4);
        assert!(fragments.iter().all(|p| matches!(p, Piece::Append(list) if !syncs(list))));
    }
}
