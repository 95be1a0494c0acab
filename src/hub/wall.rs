use chrono::{DateTime, TimeDelta, Utc};
use std::collections::VecDeque;

/// Absences of the source that are remembered one by one. Only what is still kept of the past is asked for.
const MAX_MOVES: usize = 64;

/// Which wall-clock time belongs to a stream's running time. That goes on without the time in which the source was away;
/// the wall clock does not.
#[derive(Default)]
pub(super) struct WallClock {
    /// When running time 0 was.
    origin: Option<DateTime<Utc>>,
    /// From these running times on, ns, ascending, it was then.
    moves: VecDeque<(u64, DateTime<Utc>)>,
}

impl WallClock {
    /// Running time `ns` is `at`; only the first call counts.
    pub fn begin(&mut self, ns: u64, at: DateTime<Utc>) {
        self.origin.get_or_insert_with(|| at - nanos(ns));
    }

    /// What is at `from_ns` of the running time or later comes after `away_ms` without media.
    pub fn away(&mut self, from_ns: u64, away_ms: i64) {
        let (Some(before), Some(away)) = (self.origin_at(from_ns), TimeDelta::try_milliseconds(away_ms))
        else {
            return;
        };
        let Some(origin) = before.checked_add_signed(away) else { return };
        if self.moves.len() == MAX_MOVES {
            self.origin = self.moves.pop_front().map(|(_, origin)| origin);
        }
        self.moves.push_back((from_ns, origin));
    }

    /// `None` before the beginning.
    pub fn at(&self, ns: u64) -> Option<DateTime<Utc>> {
        self.origin_at(ns).map(|origin| origin + nanos(ns))
    }

    fn origin_at(&self, ns: u64) -> Option<DateTime<Utc>> {
        let moved = self.moves.iter().rev().find(|(from_ns, _)| *from_ns <= ns);
        moved.map(|(_, origin)| *origin).or(self.origin)
    }
}

fn nanos(ns: u64) -> TimeDelta {
    TimeDelta::nanoseconds(i64::try_from(ns).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_wall_clock_goes_on_while_the_source_is_away() {
        let began = DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time");
        let mut clock = WallClock::default();
        assert_eq!(clock.at(10 * S), None);
        clock.away(10 * S, 1_000);
        clock.begin(10 * S, began);
        clock.begin(0, began);
        let after =
            |clock: &WallClock, s: u64| (clock.at(s * S).expect("it has begun") - began).num_seconds();
        assert_eq!([after(&clock, 10), after(&clock, 15)], [0, 5]);
        clock.away(15 * S, 60_000);
        clock.away(20 * S, 3_600_000);
        assert_eq!([10, 14, 15, 19, 20, 25].map(|s| after(&clock, s)), [0, 4, 65, 69, 3_670, 3_675]);
        clock.away(30 * S, i64::MAX);
        for n in 0..1_000 {
            clock.away((30 + n) * S, 1_000);
        }
        assert_eq!((clock.moves.len(), after(&clock, 1_029)), (MAX_MOVES, 1_019 + 60 + 3_600 + 1_000));
    }
}
