//! When each file is to be synced, without a clock of its own.

use super::Id;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Steps of the golden section spread any number of points evenly over a circle.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

pub(super) struct Schedule {
    /// Zero: a file is due when something was written to it.
    interval: Duration,
    /// `None`: not due until something is written.
    due: HashMap<Id, Option<Instant>>,
    /// How many were added.
    added: u64,
}

impl Schedule {
    pub fn new(interval: Duration) -> Self {
        Self { interval, due: HashMap::new(), added: 0 }
    }

    /// Its first sync is at most one interval away. Files that begin together are spread over the interval.
    pub fn add(&mut self, id: Id, now: Instant) {
        self.added += 1;
        let part = 1.0 - (self.added as f64 * GOLDEN).fract();
        let first = (!self.interval.is_zero()).then(|| now + self.interval.mul_f64(part));
        self.due.insert(id, first);
    }

    pub fn written(&mut self, id: Id, now: Instant) {
        if let Some(due @ None) = self.due.get_mut(&id) {
            *due = Some(now);
        }
    }

    pub fn remove(&mut self, id: Id) {
        self.due.remove(&id);
    }

    pub fn next(&self) -> Option<Instant> {
        self.due.values().flatten().min().copied()
    }

    /// The file that has been due the longest, and since when. It is due again one interval after it was.
    pub fn take_due(&mut self, now: Instant) -> Option<(Id, Instant)> {
        let due = self.due.iter().filter_map(|(&id, &due)| Some((id, due?)));
        let (id, due) = due.min_by_key(|&(_, due)| due).filter(|&(_, due)| due <= now)?;
        let next = (!self.interval.is_zero()).then(|| due + self.interval);
        self.due.insert(id, next);
        Some((id, due))
    }

    /// Syncs that were due meanwhile are made up for by one.
    pub fn skip_missed(&mut self, id: Id, now: Instant) {
        if let Some(Some(due)) = self.due.get_mut(&id) {
            *due = now.max(*due);
        }
    }

    /// Try once more at `at`.
    pub fn again(&mut self, id: Id, at: Instant) {
        if let Some(due) = self.due.get_mut(&id) {
            *due = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn each_file_is_due_once_per_interval_and_they_are_spread() {
        let start = Instant::now();
        let mut schedule = Schedule::new(5 * S);
        (0..50).for_each(|id| schedule.add(id, start));
        let mut last = HashMap::new();
        let (mut now, mut per_slot) = (start, HashMap::new());
        while now < start + 60 * S {
            now = schedule.next().expect("fifty are due some time");
            let (id, due) = schedule.take_due(now).expect("one is due");
            schedule.skip_missed(id, now);
            assert_eq!(due, now);
            let before = last.insert(id, now);
            let since = before.map_or(now - start, |before| now - before);
            assert!(since <= 5 * S && (before.is_none() || since == 5 * S), "{id}: {since:?}");
            *per_slot.entry((now - start).as_millis() / 500).or_insert(0_u32) += 1;
        }
        // The loop ended in the middle of it.
        per_slot.remove(&120);
        let (min, max) = (per_slot.values().min(), per_slot.values().max());
        assert!(min >= Some(&4) && max <= Some(&6), "{per_slot:?}");
    }

    #[test]
    fn after_a_stall_each_is_due_once_and_the_longest_waiting_first() {
        let start = Instant::now();
        let mut schedule = Schedule::new(S);
        (0..3).for_each(|id| schedule.add(id, start));
        let back = start + 20 * S;
        let mut order = Vec::new();
        for _ in 0..3 {
            let (id, due) = schedule.take_due(back).expect("all are due");
            schedule.skip_missed(id, back);
            order.push((due, id));
        }
        assert!(order.is_sorted(), "{order:?}");
        let mut ids: Vec<_> = order.iter().map(|&(_, id)| id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2], "each once");
    }

    #[test]
    fn without_an_interval_a_file_is_due_when_something_was_written() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::ZERO);
        schedule.add(7, start);
        assert_eq!(schedule.next(), None);
        schedule.written(7, start + S);
        schedule.written(7, start + 2 * S);
        assert_eq!(schedule.take_due(start + 3 * S), Some((7, start + S)));
        assert_eq!(schedule.take_due(start + 3 * S), None);
        schedule.written(7, start + 4 * S);
        schedule.remove(7);
        schedule.written(7, start + 4 * S);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn what_could_not_be_synced_is_tried_again() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::ZERO);
        schedule.add(1, start);
        schedule.written(1, start);
        assert_eq!(schedule.take_due(start), Some((1, start)));
        schedule.again(1, start + S);
        assert_eq!((schedule.take_due(start), schedule.take_due(start + S)), (None, Some((1, start + S))));
    }
}
