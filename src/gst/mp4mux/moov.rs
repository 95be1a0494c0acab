//! The two `moov` boxes: the empty one that opens a fragmented file and the full one that ends a plain file.

use super::boxes::{boxed, default_sample_flags, full_box};
use super::index::runs;
use super::track::Track;
use bytes::BufMut;

/// Ticks a second of `mvhd` and of edit list durations: exact for milliseconds.
const MOVIE_TIMESCALE: u64 = 90_000;
/// Seconds from 1904-01-01, the epoch of MP4, to 1970-01-01.
const EPOCH_1904: u64 = 2_082_844_800;

/// A track with its number in the file and the start of the file in its ticks.
pub(super) struct Numbered<'a> {
    pub id: u32,
    pub base: i64,
    pub track: &'a Track,
}

/// The `moov` of a fragmented file: tracks without samples, then `mvex`. `created_s` is Unix time.
pub(super) fn opening(out: &mut Vec<u8>, tracks: &[Numbered], created_s: u64) {
    boxed(out, b"moov", |b| {
        mvhd(b, created_s, 0, tracks);
        for numbered in tracks {
            trak(b, numbered, created_s, Edit::opening(numbered.track).as_ref(), false);
        }
        boxed(b, b"mvex", |b| {
            for numbered in tracks {
                full_box(b, b"trex", 0, 0, |b| {
                    b.put_u32(numbered.id);
                    b.put_u32(1);
                    b.put_u64(0);
                    b.put_u32(default_sample_flags(numbered.track.format.is_video()));
                });
            }
        });
    });
}

/// The `moov` of the finished file, for tracks that have samples, all of them settled.
pub(super) fn closing(out: &mut Vec<u8>, tracks: &[Numbered], created_s: u64) {
    let edits: Vec<_> = tracks.iter().map(Edit::of).collect();
    let duration = edits.iter().map(Edit::end).max().unwrap_or(0);
    boxed(out, b"moov", |b| {
        mvhd(b, created_s, duration, tracks);
        for (numbered, edit) in tracks.iter().zip(&edits) {
            trak(b, numbered, created_s, Some(edit), true);
        }
    });
}

/// How long the finished file plays.
pub(super) fn duration_ms(tracks: &[Numbered]) -> u64 {
    tracks.iter().map(|t| Edit::of(t).end()).max().unwrap_or(0) / (MOVIE_TIMESCALE / 1000)
}

/// How a track's media lies on the file's timeline (14496-12, 8.6.6).
struct Edit {
    /// Nothing is shown for this long, movie ticks.
    empty: u64,
    /// Then the media from here on, track ticks.
    media_time: u64,
    /// For this long, movie ticks.
    duration: u64,
}

impl Edit {
    fn of(numbered: &Numbered) -> Self {
        let track = numbered.track;
        let timescale = i64::from(track.format.timescale);
        let start = track.start().map_or(0, |s| s.pts - numbered.base);
        let skipped = start.min(0).unsigned_abs();
        let media_time = track.media_time() + skipped;
        let shown = u64::try_from(track.index.presentation_end()).unwrap_or(0).saturating_sub(media_time);
        let movie_ticks = |ticks: u64, round_up: i64| {
            let product = u128::from(ticks) * u128::from(MOVIE_TIMESCALE) + round_up as u128;
            u64::try_from(product / timescale as u128).unwrap_or(u64::MAX)
        };
        Self {
            empty: movie_ticks(start.max(0).unsigned_abs(), timescale / 2),
            media_time,
            duration: movie_ticks(shown, timescale - 1),
        }
    }

    /// For fragments: where a track starts is in their `tfdt`, how long it lasts is not known.
    fn opening(track: &Track) -> Option<Self> {
        let media_time = track.start().map_or(0, |_| track.media_time());
        (media_time > 0).then_some(Self { empty: 0, media_time, duration: 0 })
    }

    fn end(&self) -> u64 {
        self.empty.saturating_add(self.duration)
    }

    fn write(&self, out: &mut Vec<u8>) {
        boxed(out, b"edts", |b| {
            full_box(b, b"elst", 1, 0, |b| {
                b.put_u32(if self.empty > 0 { 2 } else { 1 });
                if self.empty > 0 {
                    edit_entry(b, self.empty, -1);
                }
                edit_entry(b, self.duration, self.media_time as i64);
            });
        });
    }
}

fn edit_entry(out: &mut Vec<u8>, duration: u64, media_time: i64) {
    out.put_u64(duration);
    out.put_i64(media_time);
    out.put_u32(1 << 16);
}

fn mvhd(out: &mut Vec<u8>, created_s: u64, duration: u64, tracks: &[Numbered]) {
    full_box(out, b"mvhd", 1, 0, |b| {
        b.put_u64(created_s + EPOCH_1904);
        b.put_u64(created_s + EPOCH_1904);
        b.put_u32(MOVIE_TIMESCALE as u32);
        b.put_u64(duration);
        b.put_u32(1 << 16);
        b.put_u16(1 << 8);
        b.put_bytes(0, 10);
        matrix(b);
        b.put_bytes(0, 24);
        b.put_u32(tracks.iter().map(|t| t.id).max().unwrap_or(0) + 1);
    });
}

fn matrix(out: &mut Vec<u8>) {
    for value in [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30] {
        out.put_u32(value);
    }
}

fn trak(out: &mut Vec<u8>, numbered: &Numbered, created_s: u64, edit: Option<&Edit>, full: bool) {
    boxed(out, b"trak", |b| {
        tkhd(b, numbered, created_s, edit.map_or(0, Edit::end));
        if let Some(edit) = edit {
            edit.write(b);
        }
        let track = numbered.track;
        boxed(b, b"mdia", |b| {
            mdhd(b, track, created_s, full);
            hdlr(b, track.format.is_video());
            boxed(b, b"minf", |b| {
                match track.format.is_video() {
                    true => full_box(b, b"vmhd", 0, 1, |b| b.put_u64(0)),
                    false => full_box(b, b"smhd", 0, 0, |b| b.put_u32(0)),
                }
                dinf(b);
                stbl(b, track, full);
            });
        });
    });
}

fn tkhd(out: &mut Vec<u8>, numbered: &Numbered, created_s: u64, duration: u64) {
    const ENABLED_IN_MOVIE: u32 = 3;
    let format = &numbered.track.format;
    full_box(out, b"tkhd", 1, ENABLED_IN_MOVIE, |b| {
        b.put_u64(created_s + EPOCH_1904);
        b.put_u64(created_s + EPOCH_1904);
        b.put_u32(numbered.id);
        b.put_u32(0);
        b.put_u64(duration);
        b.put_bytes(0, 12);
        b.put_u16(if format.is_video() { 0 } else { 1 << 8 });
        b.put_u16(0);
        matrix(b);
        b.put_u32(format.display.0);
        b.put_u32(format.display.1);
    });
}

fn mdhd(out: &mut Vec<u8>, track: &Track, created_s: u64, full: bool) {
    const UNDETERMINED: u16 = 0x55c4;
    let duration = if full { track.index.durations.iter().map(u64::from).sum() } else { 0 };
    full_box(out, b"mdhd", 1, 0, |b| {
        b.put_u64(created_s + EPOCH_1904);
        b.put_u64(created_s + EPOCH_1904);
        b.put_u32(track.format.timescale);
        b.put_u64(duration);
        b.put_u16(UNDETERMINED);
        b.put_u16(0);
    });
}

fn hdlr(out: &mut Vec<u8>, video: bool) {
    let (kind, name) = if video { (b"vide", b"VideoHandler\0") } else { (b"soun", b"SoundHandler\0") };
    full_box(out, b"hdlr", 0, 0, |b| {
        b.put_u32(0);
        b.put_slice(kind);
        b.put_bytes(0, 12);
        b.put_slice(name);
    });
}

fn dinf(out: &mut Vec<u8>) {
    boxed(out, b"dinf", |b| {
        full_box(b, b"dref", 0, 0, |b| {
            b.put_u32(1);
            full_box(b, b"url ", 0, 1, |_| {});
        });
    });
}

fn stbl(out: &mut Vec<u8>, track: &Track, full: bool) {
    boxed(out, b"stbl", |b| {
        full_box(b, b"stsd", 0, 0, |b| {
            b.put_u32(1);
            b.put_slice(&track.format.entry);
        });
        if full {
            return sample_tables(b, track);
        }
        for kind in [b"stts", b"stsc", b"stco"] {
            full_box(b, kind, 0, 0, |b| b.put_u32(0));
        }
        full_box(b, b"stsz", 0, 0, |b| b.put_u64(0));
    });
}

fn sample_tables(out: &mut Vec<u8>, track: &Track) {
    let index = &track.index;
    pairs(out, b"stts", 0, runs(index.durations.iter()));
    if index.compositions.iter().any(|c| c != 0) {
        let version = u8::from(index.compositions.iter().any(|c| c < 0));
        pairs(out, b"ctts", version, runs(index.compositions.iter().map(|c| c as u32)));
    }
    if track.format.is_video() && index.sync_samples().count() < index.len() {
        full_box(out, b"stss", 0, 0, |b| {
            b.put_u32(index.sync_samples().count() as u32);
            index.sync_samples().for_each(|number| b.put_u32(number));
        });
    }
    stsz(out, track);
    chunks(out, track);
}

fn pairs(out: &mut Vec<u8>, kind: &[u8; 4], version: u8, runs: Vec<(u32, u32)>) {
    full_box(out, kind, version, 0, |b| {
        b.put_u32(runs.len() as u32);
        for (count, value) in runs {
            b.put_u32(count);
            b.put_u32(value);
        }
    });
}

fn stsz(out: &mut Vec<u8>, track: &Track) {
    let index = &track.index;
    let first = index.sizes().next().unwrap_or(0);
    let constant = first > 0 && index.sizes().all(|size| size == first);
    full_box(out, b"stsz", 0, 0, |b| {
        b.put_u32(if constant { first } else { 0 });
        b.put_u32(index.len() as u32);
        if !constant {
            index.sizes().for_each(|size| b.put_u32(size));
        }
    });
}

fn chunks(out: &mut Vec<u8>, track: &Track) {
    let chunks = &track.index.chunks;
    full_box(out, b"stsc", 0, 0, |b| {
        let runs = runs(chunks.iter().map(|c| c.samples));
        b.put_u32(runs.len() as u32);
        let mut number = 1;
        for (count, samples) in runs {
            b.put_u32(number);
            b.put_u32(samples);
            b.put_u32(1);
            number += count;
        }
    });
    let large = chunks.last().is_some_and(|c| c.offset > u64::from(u32::MAX));
    full_box(out, if large { b"co64" } else { b"stco" }, 0, 0, |b| {
        b.put_u32(chunks.len() as u32);
        for chunk in chunks {
            match large {
                true => b.put_u64(chunk.offset),
                false => b.put_u32(chunk.offset as u32),
            }
        }
    });
}
