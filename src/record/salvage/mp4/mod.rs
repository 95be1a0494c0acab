//! Ends a file of `reeldmp4mux` as the muxer would have: `ftyp free moov (moof mdat)*` becomes `ftyp mdat moov`.
//!
//! In place, in steps that may be cut short by another crash. Whatever state they, or the muxer's own end, left the
//! file in, its fragments are where they were, behind the opening `moov`; so they are read from there, whether the box
//! in front of that is still `free` or an `mdat` over all of it, and the rest follows from them:
//!
//! - A final `moov` that is whole stays: only the header may be left to write.
//! - One that is not is written again, behind the last whole fragment. If the header was turned, by a muxer whose last
//!   pages a power cut kept from the disk, it is turned back first, so that the file plays at any moment.
//! - The header is turned only when all it spans is synced. Its 16 bytes are in one sector: all or none get there.

mod boxes;
mod fragment;
mod opening;
mod syntax;

use super::{
    found::{Found, Kind, Track},
    pages::Pages,
};
use crate::{
    gst::mp4mux::{Ending, Remains, TrackHead, join},
    media::{Codec, MediaKind},
};
use boxes::{BoxAt, child, children, descendant, u32_at};
use fragment::{Fragment, Run};
use opening::Opening;
use std::{fs::File, io, os::unix::fs::FileExt};
use syntax::Judge;

/// What was not synced when the power went is shorter: seconds of media, or what a stalled disk held up. Behind a longer
/// rest there may be pictures: such a file is damaged within, and cutting it off would lose them.
const MAX_CUT_BYTES: u64 = 512 << 20;
/// A fragment without a hole, but with something in it that is no access unit, may be what a power cut left. When more
/// media than this follows, it was synced long before: it is what the publisher sent.
const MAX_UNSYNCED_MS: u64 = 60_000;

/// One thing that is done to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Cuts the file off there, and appends.
    End { at: u64, moov: Vec<u8> },
    /// Writes what is between `ftyp` and the opening `moov`.
    Join { at: u64, bytes: [u8; 16] },
    /// All before is on the disk before what comes next.
    Sync,
}

/// Finishes the file and syncs it; `None`, with nothing changed, when it is none of ours, or there is no access unit in it.
pub(super) fn finish(file: &File) -> io::Result<Option<Found>> {
    let Some((steps, found)) = plan(file)? else { return Ok(None) };
    steps.iter().try_for_each(|step| step.take(file))?;
    Ok(Some(found))
}

impl Step {
    pub fn take(&self, file: &File) -> io::Result<()> {
        match self {
            Step::End { at, moov } => {
                file.set_len(*at)?;
                // A disk that is full takes a part of it: without that the file plays as fragments.
                file.write_all_at(moov, *at).inspect_err(|_| drop(file.set_len(*at)))
            }
            Step::Join { at, bytes } => file.write_all_at(bytes, *at),
            Step::Sync => file.sync_all(),
        }
    }
}

/// What is to be done to the file, and what is in it then. Reads it once.
pub(super) fn plan(file: &File) -> io::Result<Option<(Vec<Step>, Found)>> {
    let mut pages = Pages::new(file)?;
    let Some(opening) = Opening::read(&mut pages)? else { return Ok(None) };
    let Some(scan) = Scan::of(&mut pages, &opening)? else { return Ok(None) };
    let whole = scan.whole;
    if pages.len - whole > MAX_CUT_BYTES {
        let error = format!("it is damaged at byte {whole} of {}; a player may find what follows", pages.len);
        return Err(io::Error::other(error));
    }
    let (Ending { moov, duration_ms }, tracks) = scan.end();
    let turned = join(Some(whole - opening.join_at));
    let mut steps = Vec::new();
    if !has_ended(&mut pages, whole, &moov)? {
        if opening.is_joined() {
            steps.extend([Step::Join { at: opening.join_at, bytes: join(None) }, Step::Sync]);
        }
        steps.extend([Step::End { at: whole, moov }, Step::Sync]);
        steps.push(Step::Join { at: opening.join_at, bytes: turned });
    } else if opening.join != turned {
        // The pages of the last one may not have been synced.
        steps.extend([Step::Sync, Step::Join { at: opening.join_at, bytes: turned }]);
    }
    steps.push(Step::Sync);
    Ok(Some((steps, Found { duration_ms, tracks })))
}

/// The fragments of a file.
struct Scan {
    remains: Remains,
    /// Where the last one ends that is whole.
    whole: u64,
    /// Fragments that hold something else than access units, and their times.
    doubts: Vec<(u64, u64)>,
    end_ms: u64,
}

impl Scan {
    /// `None` when no fragment is whole.
    fn of(pages: &mut Pages, opening: &Opening) -> io::Result<Option<Self>> {
        let scan = Self::until(pages, opening, pages.len)?;
        let late = |(_, ms): &&(u64, u64)| *ms + MAX_UNSYNCED_MS >= scan.end_ms;
        let scan = match scan.doubts.iter().find(late) {
            Some((at, _)) => Self::until(pages, opening, *at)?,
            None => scan,
        };
        Ok((scan.whole > opening.media_at).then_some(scan))
    }

    fn until(pages: &mut Pages, opening: &Opening, end: u64) -> io::Result<Self> {
        let remains = Remains::new(opening.created_s, opening.tracks.clone());
        let mut judges: Vec<_> = opening.tracks.iter().map(Judge::new).collect();
        let mut scan = Self { remains, whole: opening.media_at, doubts: Vec::new(), end_ms: 0 };
        while scan.whole < end {
            let Some(fragment) = Fragment::read(pages, scan.whole)? else { break };
            if pages.has_hole(fragment.at, fragment.end)? {
                break;
            }
            scan.take(pages, &mut judges, &fragment)?;
            scan.whole = fragment.end;
        }
        Ok(scan)
    }

    fn take(&mut self, pages: &Pages, judges: &mut [Judge], fragment: &Fragment) -> io::Result<()> {
        let mut doubtful = false;
        for run in &fragment.runs {
            let Some(judge) = judges.iter_mut().find(|j| j.track == run.head.track) else { continue };
            match judge.look(pages, run)? {
                Some(in_band) if in_band.found => self.remains.goes_on_in_band(judge.track, in_band.size),
                Some(_) => {}
                // They never were what the codec says: no measure of what may have been lost.
                None if !self.remains.sums().any(|sum| sum.head.id == judge.track) => judge.give_up(),
                None => doubtful = true,
            }
            self.end_ms = self.end_ms.max(self.end_ms_of(run));
            self.remains.add(&run.head, run.samples.iter().copied());
        }
        if doubtful {
            self.doubts.push((fragment.at, self.end_ms));
        }
        Ok(())
    }

    fn end_ms_of(&self, run: &Run) -> u64 {
        let timescale = self.remains.heads().find(|h| h.id == run.head.track).map_or(1, |h| h.timescale);
        let ticks: u64 = run.samples.iter().map(|s| u64::from(s.duration)).sum();
        let ms =
            u128::from(run.head.decode_time.saturating_add(ticks)) * 1000 / u128::from(1_u32.max(timescale));
        u64::try_from(ms).unwrap_or(u64::MAX / 2)
    }

    fn end(self) -> (Ending, Vec<Track>) {
        let tracks = self.remains.sums().map(|sum| Track {
            codec: codec(&sum.head.entry),
            kind: kind(sum.head),
            frames: sum.frames,
            key_frames: sum.key_frames,
        });
        let tracks = tracks.collect();
        (self.remains.end(), tracks)
    }
}

/// Whether the file ends with a final `moov` that says of the samples what `moov` does. The muxer's own may know more of
/// times than its fragments tell.
fn has_ended(pages: &mut Pages, at: u64, moov: &[u8]) -> io::Result<bool> {
    const MORE_BYTES: u64 = 1 << 20;
    let found = BoxAt::expect(pages, at, b"moov")?.filter(|found| found.end == pages.len);
    let Some(found) = found else { return Ok(false) };
    let Some(bytes) = pages.bytes(at, found.end, moov.len() as u64 * 2 + MORE_BYTES)? else {
        return Ok(false);
    };
    if bytes == moov {
        return Ok(true);
    }
    if pages.has_hole(at, found.end)? {
        return Ok(false);
    }
    Ok(tables(&bytes).is_some_and(|found| Some(found) == tables(moov)))
}

/// What a final `moov` says of a track: where its samples are, which are key frames, and of how many it tells times.
#[derive(PartialEq, Eq)]
struct Tables<'a> {
    places: Vec<&'a [u8]>,
    timed: u64,
    composed: u64,
}

fn tables(moov: &[u8]) -> Option<Vec<Tables<'_>>> {
    const PLACES: [&[u8; 4]; 5] = [b"stsz", b"stsc", b"stco", b"co64", b"stss"];
    let moov = child(moov, b"moov")?;
    let traks = children(moov).filter(|(kind, _)| kind == b"trak");
    let table = |(_, trak)| {
        let stbl = descendant(trak, &[b"mdia", b"minf", b"stbl"])?;
        let places = PLACES.iter().filter_map(|kind| child(stbl, kind)).collect();
        let timed = counted(child(stbl, b"stts")?)?;
        let composed = child(stbl, b"ctts").map_or(Some(timed), counted)?;
        child(stbl, b"stsd")?;
        Some(Tables { places, timed, composed })
    };
    traks.map(table).collect()
}

/// How many samples the runs of an `stts` or `ctts` are for.
fn counted(table: &[u8]) -> Option<u64> {
    let runs = table.get(8..)?;
    (runs.len() == (u32_at(table, 4)? as usize).checked_mul(8)?).then_some(())?;
    runs.chunks_exact(8).map(|run| u32_at(run, 0).map(u64::from)).sum()
}

/// Our word for the codec of a sample entry (RFC 6381 names).
fn codec(entry: &[u8]) -> String {
    let kind = entry.get(4..8).unwrap_or_default();
    let known = match kind {
        b"avc1" | b"avc3" => Some(Codec::H264),
        b"hvc1" | b"hev1" => Some(Codec::H265),
        b"av01" => Some(Codec::Av1),
        b"vp09" => Some(Codec::Vp9),
        b"Opus" => Some(Codec::Opus),
        b"mp4a" => Some(object_type(entry)),
        _ => None,
    };
    known.map_or_else(|| String::from_utf8_lossy(kind).into_owned(), |codec| codec.to_string())
}

/// The codec of an `mp4a`, from the object type of its `esds` (14496-1, 7.2.6.6), which our muxer puts in one place.
fn object_type(entry: &[u8]) -> Codec {
    const OBJECT_TYPE: usize = 36 + 12 + 8 + 5;
    match entry.get(OBJECT_TYPE) {
        Some(0x69 | 0x6b) => Codec::Mp3,
        _ => Codec::Aac,
    }
}

fn kind(head: &TrackHead) -> Kind {
    let number = |at: usize| {
        let bytes = head.entry.get(at..).and_then(|b| b.first_chunk());
        bytes.map(|b| u32::from(u16::from_be_bytes(*b))).filter(|n| *n > 0)
    };
    match head.kind {
        MediaKind::Video => Kind::Video { width: number(32), height: number(34) },
        MediaKind::Audio => Kind::Audio { rate: Some(head.timescale), channels: number(24) },
    }
}
