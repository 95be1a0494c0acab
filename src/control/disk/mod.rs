//! The disk of the records folder: looked at by a thread ([`watch`]), judged by the [`ladder`], with what is written and what
//! the ends of the recordings still need ([`forecast`]); what follows from it is done by the [`keeper`].

mod forecast;
mod keeper;
mod ladder;
mod watch;

pub(super) use keeper::keep;
pub use ladder::{Mark, Marks};

use super::{ControlError, DiskInfo};
use crate::{
    config::DiskRule,
    library::{RecordingId, Storage},
};
use bytesize::ByteSize;
use forecast::{Forecast, Writer};
use ladder::Ladder;
use std::{
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use watch::{Orders, Seen, Watch};

/// A disk that has not answered for this long cannot be recorded to.
const MUST_ANSWER: Duration = Duration::from_secs(10);
/// Room that is kept beside what indexes need: a share of the disk, and no more than this.
const MOST_ROOM: u64 = 8 << 20;
const ROOM_SHARE: u64 = 64;
/// Of the disk, that indexes may have kept for them.
const INDEX_SHARE: u64 = 16;

/// Looks at the disk until it is dropped.
pub(super) struct Disk {
    folder: PathBuf,
    rule: DiskRule,
    watch: Watch,
    standing: Mutex<Standing>,
    refused: AtomicU64,
    ended: AtomicU64,
    /// The disk was full, and what could not be finished then is still to be.
    behind: AtomicBool,
}

struct Standing {
    ladder: Ladder,
    /// What was told last.
    told: Mark,
    forecast: Forecast,
    marks: Marks,
}

/// What follows from a look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// The mark that was passed.
    passed: Option<Mark>,
    /// Recordings that are to be ended now.
    end: Vec<RecordingId>,
}

impl Disk {
    /// Blocks on the disk once.
    pub fn watch(storage: Storage, rule: DiskRule) -> Self {
        let folder = storage.folder().to_owned();
        let watch = Watch::start(storage);
        let disk = Self {
            folder,
            rule,
            watch,
            standing: Mutex::new(Standing {
                ladder: Ladder::default(),
                told: Mark::Enough,
                forecast: Forecast::default(),
                marks: Marks::default(),
            }),
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            behind: AtomicBool::new(false),
        };
        // What is asked first finds it judged.
        let _ = disk.step(&[], Instant::now());
        disk.standing().told = Mark::Enough;
        disk
    }

    /// As it was when it last answered.
    pub fn info(&self) -> DiskInfo {
        let Seen { free_bytes, total_bytes, .. } = self.watch.seen();
        let standing = self.standing();
        let rate = standing.forecast.bytes_per_second();
        let left = free_bytes.saturating_sub(standing.marks.end_bytes);
        DiskInfo {
            path: self.folder.clone(),
            free_bytes,
            total_bytes,
            bytes_per_second: rate,
            seconds_to_full: left.checked_div(rate),
            mark: standing.ladder.mark(),
            marks: standing.marks,
            reserved_bytes: self.watch.room_bytes(),
        }
    }

    /// Whether there can be recorded to it; if not, why.
    pub fn ready(&self) -> Result<(), String> {
        let path = self.folder.display();
        let seen = self.watch.seen();
        let silent = seen.at.elapsed();
        if silent > MUST_ANSWER {
            return Err(format!("the disk of {path} has not answered for {} s", silent.as_secs()));
        }
        seen.writable.map_err(|e| format!("the records folder {path} cannot be written to: {e}"))?;
        let standing = self.standing();
        match standing.ladder.mark() {
            Mark::Enough | Mark::Low => Ok(()),
            Mark::Refusing | Mark::Ending => Err(format!(
                "the disk of the records folder {path} is full: {} are free, and with less than {} nothing new is \
                 recorded ([limits] disk_refuse = \"{}\", and what running recordings need to end); delete recordings, \
                 or make room otherwise: it goes on by itself",
                ByteSize(seen.free_bytes),
                ByteSize(standing.marks.refuse_bytes),
                self.rule.refuse,
            )),
        }
    }

    /// Whether a recording may begin, as far as the disk is concerned.
    pub fn admits(&self) -> Result<(), ControlError> {
        if self.standing().ladder.mark() < Mark::Refusing {
            return Ok(());
        }
        self.ready().map_err(ControlError::DiskFull)
    }

    /// A recording found no room, whatever the looks say: nothing is begun, and what runs is ended, until they say
    /// otherwise for a while.
    pub fn was_full(&self) {
        self.standing().ladder.full(Instant::now());
    }

    /// A file could not be finished for want of room: it is when there is some.
    pub fn note_behind(&self) {
        self.behind.store(true, Ordering::Relaxed);
    }

    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Recordings that were ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Judges the newest look. `writers`: every recording under way.
    fn step(&self, writers: &[Writer], now: Instant) -> Step {
        let seen = self.watch.seen();
        let mut standing = self.standing();
        standing.forecast.look(writers, now);
        let needs = standing.forecast.needs(writers, seen.total_bytes);
        let kept = self.watch.room_bytes();
        let marks = Marks::of(&self.rule, seen.total_bytes, needs.saturating_sub(kept));
        standing.marks = marks;
        standing.ladder.step(seen.free_bytes, marks, now);
        let mark = standing.ladder.mark();
        let tight = seen.free_bytes.saturating_add(kept) <= needs;
        let end = match mark {
            Mark::Ending => standing.forecast.to_end(writers, tight),
            _ => Vec::new(),
        };
        self.watch.order(Orders {
            hurry: mark > Mark::Enough,
            // Less would take from those that end now; more is made when there is room.
            keep_room: (mark < Mark::Ending).then(|| room(writers, seen.total_bytes)),
            give_back: mark == Mark::Ending && tight,
            seen: Some(seen.at),
        });
        let passed = (mark != standing.told).then_some(mark);
        standing.told = mark;
        Step { passed, end }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much is kept for the ends of recordings, in whole pieces, so that it seldom changes.
fn room(writers: &[Writer], total: u64) -> u64 {
    const PIECE: u64 = 256 << 10;
    let indexes: u64 = writers.iter().map(|w| w.footprint.index_bytes + forecast::PER_FILE).sum();
    let base = (total / ROOM_SHARE).min(MOST_ROOM);
    base + indexes.min(total / INDEX_SHARE).next_multiple_of(PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Space;

    fn disk(seen: Seen) -> Disk {
        let mark = |bytes| Space::Bytes(bytes);
        let rule = DiskRule { warn: mark(30 << 20), refuse: mark(20 << 20), end: mark(10 << 20) };
        let disk = Disk {
            folder: "/records".into(),
            rule,
            watch: Watch::of(seen),
            standing: Mutex::new(Standing {
                ladder: Ladder::default(),
                told: Mark::Enough,
                forecast: Forecast::default(),
                marks: Marks::default(),
            }),
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            behind: AtomicBool::new(false),
        };
        disk.step(&[], Instant::now());
        disk
    }

    fn seen(at: Instant, free_bytes: u64, writable: rustix::io::Result<()>) -> Disk {
        disk(Seen { at, free_bytes, total_bytes: 1 << 40, writable })
    }

    #[test]
    fn what_keeps_it_from_being_recorded_to_is_named() {
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(MUST_ANSWER + Duration::from_secs(1)) else { return };
        assert_eq!(seen(now, 1 << 30, Ok(())).ready(), Ok(()));
        assert_eq!(seen(now, 25 << 20, Ok(())).ready(), Ok(()), "it is told, and goes on");
        let cases = [
            (seen(long_ago, 1 << 30, Ok(())), "has not answered for 11 s"),
            (seen(now, 1 << 30, Err(rustix::io::Errno::ROFS)), "cannot be written to"),
            (seen(now, 15 << 20, Ok(())), "is full: 15.0 MiB are free"),
        ];
        for (disk, expected) in cases {
            let why = disk.ready().expect_err(expected);
            assert!(why.contains(expected) && why.contains("/records"), "{why}");
        }
    }

    #[test]
    fn a_full_disk_admits_nothing_and_says_what_to_do() {
        let now = Instant::now();
        assert!(seen(now, 25 << 20, Ok(())).admits().is_ok());
        let full = seen(now, 5 << 20, Ok(()));
        let why = full.admits().expect_err("it is full").to_string();
        assert!(why.contains("5.0 MiB are free") && why.contains("disk_refuse = \"20.0 MiB\""), "{why}");
        assert!(why.contains("delete recordings"), "{why}");
        let info = full.info();
        assert_eq!((info.mark, info.marks.end_bytes), (Mark::Ending, 10 << 20));
        assert_eq!(info.seconds_to_full, None, "nothing is written");
    }

    #[test]
    fn a_disk_without_room_is_full_whatever_its_numbers_say() {
        let disk = seen(Instant::now(), 1 << 30, Ok(()));
        assert!(disk.admits().is_ok());
        disk.was_full();
        assert!(disk.admits().is_err());
        assert_eq!(disk.step(&[], Instant::now()).passed, Some(Mark::Ending));
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(disk.step(&[], later).passed, Some(Mark::Enough));
    }

    #[test]
    fn the_room_that_is_kept_suits_the_disk() {
        assert_eq!(room(&[], 64 << 20), 1 << 20);
        assert_eq!(room(&[], 10 << 40), MOST_ROOM);
    }
}
