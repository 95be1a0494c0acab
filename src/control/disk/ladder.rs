//! The ladder: what is done with how much room. Pure.
//!
//! It goes down at once, and climbs when there is a quarter more room than the mark asks for; the marks that held when it
//! went down hold until it is up again, so that recordings that ended for want of room, and need none any more, do not bring
//! themselves back.

use crate::config::DiskRule;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long nothing climbs after a write found no room: a quota, or another program, is not in the numbers.
const FULL_FOR: Duration = Duration::from_secs(10);

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    #[default]
    Enough,
    /// It is told.
    Low,
    /// Nothing new is recorded.
    Refusing,
    /// What is recorded is ended.
    Ending,
}

/// With less free than each of these, the next of [`Mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Marks {
    pub warn_bytes: u64,
    pub refuse_bytes: u64,
    pub end_bytes: u64,
}

impl Marks {
    /// As `rule` says for a disk of `total` bytes; and not less than what is `needed` so that running recordings can end,
    /// for which starts are refused before.
    pub fn of(rule: &DiskRule, total: u64, needed: u64) -> Self {
        let end_bytes = rule.end.of(total).max(needed);
        let refuse_bytes = rule.refuse.of(total).max(end_bytes).max(needed.saturating_add(needed / 2));
        Self { warn_bytes: rule.warn.of(total).max(refuse_bytes), refuse_bytes, end_bytes }
    }

    fn at(&self, free: u64) -> Mark {
        match free {
            free if free < self.end_bytes => Mark::Ending,
            free if free < self.refuse_bytes => Mark::Refusing,
            free if free < self.warn_bytes => Mark::Low,
            _ => Mark::Enough,
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            warn_bytes: self.warn_bytes.max(other.warn_bytes),
            refuse_bytes: self.refuse_bytes.max(other.refuse_bytes),
            end_bytes: self.end_bytes.max(other.end_bytes),
        }
    }

    fn widened(self) -> Self {
        let widen = |bytes: u64| bytes.saturating_add(bytes / 4);
        Self {
            warn_bytes: widen(self.warn_bytes),
            refuse_bytes: widen(self.refuse_bytes),
            end_bytes: widen(self.end_bytes),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Ladder {
    mark: Mark,
    /// The highest since it left the top.
    held: Marks,
    /// Nothing climbs before.
    not_before: Option<Instant>,
}

impl Ladder {
    pub fn mark(&self) -> Mark {
        self.mark
    }

    pub fn step(&mut self, free: u64, marks: Marks, now: Instant) {
        let down = marks.at(free);
        if down >= self.mark {
            self.mark = down;
        } else if self.not_before.is_none_or(|at| now >= at) {
            self.not_before = None;
            self.mark = self.held.max(marks).widened().at(free).min(self.mark);
        }
        self.held = if self.mark == Mark::Enough { Marks::default() } else { self.held.max(marks) };
    }

    /// A write found no room.
    pub fn full(&mut self, now: Instant) {
        self.mark = Mark::Ending;
        self.not_before = now.checked_add(FULL_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::{Mark::*, *};
    use crate::config::Space;

    const MARKS: Marks = Marks { warn_bytes: 400, refuse_bytes: 200, end_bytes: 100 };

    fn run(steps: &[(u64, Mark)]) {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        for (n, (free, mark)) in steps.iter().enumerate() {
            ladder.step(*free, MARKS, now);
            assert_eq!(ladder.mark(), *mark, "step {n}: {free} free");
        }
    }

    #[test]
    fn it_goes_down_at_once_and_climbs_with_a_quarter_more() {
        run(&[(400, Enough), (399, Low), (400, Low), (499, Low), (500, Enough)]);
        run(&[(199, Refusing), (249, Refusing), (250, Low), (450, Low), (500, Enough)]);
        run(&[(99, Ending), (124, Ending), (125, Refusing), (99, Ending), (500, Enough)]);
        run(&[(0, Ending), (u64::MAX, Enough)]);
        run(&[(300, Low), (50, Ending), (300, Low), (199, Refusing)]);
    }

    /// Recordings that were ended needed no room any more, the marks fell, and all began again: every few seconds.
    #[test]
    fn what_ended_for_want_of_room_does_not_bring_itself_back() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        let busy = Marks { warn_bytes: 3_000, refuse_bytes: 3_000, end_bytes: 2_000 };
        ladder.step(1_999, busy, now);
        assert_eq!(ladder.mark(), Ending);
        ladder.step(1_999, MARKS, now);
        assert_eq!(ladder.mark(), Ending);
        ladder.step(3_000, MARKS, now);
        assert_eq!(ladder.mark(), Refusing);
        ladder.step(3_750, MARKS, now);
        assert_eq!(ladder.mark(), Enough);
        ladder.step(450, MARKS, now);
        assert_eq!(ladder.mark(), Enough, "that was then");
    }

    #[test]
    fn a_write_that_found_no_room_counts_more_than_the_numbers() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        ladder.full(now);
        ladder.step(10_000, MARKS, now + FULL_FOR / 2);
        assert_eq!(ladder.mark(), Ending);
        ladder.step(10_000, MARKS, now + FULL_FOR);
        assert_eq!(ladder.mark(), Enough);
    }

    #[test]
    fn the_marks_leave_room_for_what_has_to_end() {
        let rule = DiskRule { warn: Space::Share(1000), refuse: Space::Share(500), end: Space::Bytes(7) };
        let marks = |needed| {
            let Marks { warn_bytes, refuse_bytes, end_bytes } = Marks::of(&rule, 1_000, needed);
            (warn_bytes, refuse_bytes, end_bytes)
        };
        assert_eq!(marks(0), (100, 50, 7));
        assert_eq!(marks(20), (100, 50, 20));
        assert_eq!(marks(60), (100, 90, 60));
        assert_eq!(marks(200), (300, 300, 200));
    }
}
