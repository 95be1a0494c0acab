//! When what failed is tried again.

use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// A receiver that asks to be left alone for longer is asked after this time all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// When what failed is tried again: after `first`, then twice as long each time up to `longest`, each ± 20 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    pub first: Duration,
    pub longest: Duration,
    /// Counted from the first failure.
    pub give_up_after: Duration,
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            longest: Duration::from_secs(3600),
            give_up_after: Duration::from_secs(72 * 3600),
        }
    }
}

impl RetrySchedule {
    /// Pause after failure number `attempts` (from 1); `spread` is 0 for 20 % less, 1 for 20 % more.
    fn pause(&self, attempts: u32, spread: f64) -> Duration {
        let doubled = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest).mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0))
    }

    /// Not before `retry_after`, if the receiver said that. `None`: it has failed for long enough.
    pub(super) fn next(
        &self,
        attempts: u32,
        first_tried_at: Option<DateTime<Utc>>,
        retry_after: Option<Duration>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let tried_for = first_tried_at.map_or(TimeDelta::zero(), |first| now - first);
        let give_up_after = TimeDelta::from_std(self.give_up_after).unwrap_or(TimeDelta::MAX);
        if tried_for >= give_up_after {
            return None;
        }
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let pause = self.pause(attempts, rand::random_range(0.0..=1.0)).max(asked);
        now.checked_add_signed(TimeDelta::from_std(pause).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let schedule = RetrySchedule::default();
        for (attempts, seconds) in
            [(1, 5), (2, 10), (3, 20), (10, 2560), (11, 3600), (33, 3600), (u32::MAX, 3600)]
        {
            assert_eq!(schedule.pause(attempts, 0.5), Duration::from_secs(seconds), "{attempts}");
        }
        assert_eq!(schedule.pause(1, 0.0), Duration::from_secs(4));
        assert_eq!(schedule.pause(1, 1.0), Duration::from_secs(6));
    }

    #[test]
    fn what_failed_is_given_up_after_its_time_and_a_receiver_may_ask_for_more() {
        let (schedule, now) = (RetrySchedule::default(), Utc::now());
        let next =
            |hours, retry_after| schedule.next(20, Some(now - TimeDelta::hours(hours)), retry_after, now);
        assert_eq!(next(72, None), None);
        assert!(next(71, None).is_some_and(|at| at > now));
        let asked = |seconds| next(1, Some(Duration::from_secs(seconds))).expect("a time") - now;
        assert!(asked(1) < TimeDelta::hours(2));
        assert_eq!(asked(7200), TimeDelta::hours(2));
        assert_eq!(asked(u64::MAX), TimeDelta::hours(24));
    }
}
