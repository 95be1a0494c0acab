use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);
/// Part by which a wait is longer or shorter than its share, so that many cameras behind one switch do not return at once.
const JITTER: f64 = 0.2;
/// A connection that was live for so long counts as good: the next wait is the first one again.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// How long to wait before the next connection.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// A connection ended that was live for `live`. `chance`: 0 to 1, at random.
    pub fn next(&mut self, live: Duration, chance: f64) -> Duration {
        if live >= GOOD_AFTER {
            self.attempts = 0;
        }
        let share = FIRST.saturating_mul(1 << self.attempts.min(5)).min(MOST);
        self.attempts = self.attempts.saturating_add(1);
        share.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0)).min(MOST)
    }

    /// Connections that failed or ended since the last good one.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_cap_and_begin_anew_after_a_good_connection() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..7).map(|_| backoff.next(Duration::ZERO, 0.5).as_secs()).collect();
        assert_eq!((waits, backoff.attempts()), (vec![1, 2, 4, 8, 16, 30, 30], 7));
        assert_eq!(backoff.next(Duration::from_secs(29), 0.5).as_secs(), 30);
        assert_eq!(backoff.next(Duration::from_secs(31), 0.5).as_secs(), 1);
        assert_eq!(backoff.next(Duration::ZERO, 0.0).as_millis(), 1600);
        assert_eq!(backoff.next(Duration::ZERO, 1.0).as_millis(), 4800);
    }
}
