use std::{collections::VecDeque, sync::Arc};

/// One event as it is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub seq: u64,
    /// The whole object.
    pub json: String,
}

/// The newest events, numbered without gaps.
pub(super) struct Ring {
    events: VecDeque<Arc<Told>>,
    newest: u64,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Ring {
    /// The first event gets the number after `before`.
    pub fn new(before: u64, max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), newest: before, bytes: 0, max_events, max_bytes }
    }

    /// Number of the last event.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// `text` makes the event of its number. The oldest give way; the newest is kept whatever its size.
    pub fn push(&mut self, text: impl FnOnce(u64) -> String) {
        self.newest += 1;
        let told = Told { seq: self.newest, json: text(self.newest) };
        self.bytes += told.json.len();
        self.events.push_back(Arc::new(told));
        while self.events.len() > 1 && (self.events.len() > self.max_events || self.bytes > self.max_bytes) {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.json.len();
        }
    }

    /// At most `limit` of the events after number `seq`, oldest first. `None` when not all of them are kept, or there was
    /// no such number.
    pub fn after(&self, seq: u64, limit: usize) -> Option<Vec<Arc<Told>>> {
        let missing = usize::try_from(self.newest.checked_sub(seq)?).ok()?;
        let skip = self.events.len().checked_sub(missing)?;
        Some(self.events.range(skip..).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(count: u64, max_events: usize, max_bytes: usize) -> Ring {
        let mut ring = Ring::new(100, max_events, max_bytes);
        (0..count).for_each(|_| ring.push(|seq| format!("{seq:010}")));
        ring
    }

    fn seqs(ring: &Ring, after: u64, limit: usize) -> Option<Vec<u64>> {
        Some(ring.after(after, limit)?.iter().map(|t| t.seq).collect())
    }

    #[test]
    fn what_comes_after_a_number_is_told_as_far_as_it_is_kept() {
        let ring = filled(5, 3, 1 << 20);
        for (after, limit, told) in [
            (105, 9, Some(vec![])),
            (104, 9, Some(vec![105])),
            (102, 9, Some(vec![103, 104, 105])),
            (102, 2, Some(vec![103, 104])),
            (102, 0, Some(vec![])),
            (101, 9, None),
            (0, 9, None),
            (106, 9, None),
            (u64::MAX, 9, None),
        ] {
            assert_eq!(seqs(&ring, after, limit), told, "after {after}, at most {limit}");
        }
        assert_eq!(seqs(&filled(0, 3, 1 << 20), 100, 9), Some(vec![]), "before the first");
    }

    #[test]
    fn a_ring_is_bounded_in_bytes_and_keeps_the_newest_whatever_its_size() {
        let mut ring = filled(10, 100, 35);
        assert_eq!(seqs(&ring, 107, 9), Some(vec![108, 109, 110]));
        assert_eq!(seqs(&ring, 106, 9), None);
        ring.push(|_| "x".repeat(1_000));
        assert_eq!(seqs(&ring, 110, 9), Some(vec![111]));
        ring.push(|_| "y".into());
        assert_eq!((seqs(&ring, 110, 9), seqs(&ring, 111, 9)), (None, Some(vec![112])));
    }

    proptest! {
        #[test]
        fn a_reader_that_keeps_up_sees_every_number_once(
            sizes in proptest::collection::vec(0usize..60, 0..200),
            max_events in 1usize..20,
            max_bytes in 0usize..400,
        ) {
            let mut ring = Ring::new(7, max_events, max_bytes);
            for (at, size) in (ring.newest()..).zip(sizes) {
                ring.push(|_| "z".repeat(size));
                let told = ring.after(at, 1_000).expect("it keeps up");
                prop_assert_eq!(told.iter().map(|t| t.seq).collect::<Vec<_>>(), vec![at + 1]);
                let kept = ring.events.iter().map(|t| t.json.len()).sum::<usize>();
                prop_assert_eq!(kept, ring.bytes);
                prop_assert!(ring.events.len() <= max_events);
                prop_assert!(kept <= max_bytes || ring.events.len() == 1);
            }
        }
    }
}
