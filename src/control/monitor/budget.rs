//! How much processor time the looks may take.

use std::time::Duration;

/// Time that was not used is kept for so long.
const KEPT: Duration = Duration::from_secs(20);

/// Earns a share of real time and pays what was used. What one look took too much is paid back before the next.
#[derive(Debug)]
pub(super) struct Budget {
    /// Of one core.
    share: f64,
    saved_s: f64,
    at: Duration,
}

impl Budget {
    /// `now`: time since any fixed origin.
    pub fn new(share: f64, now: Duration) -> Self {
        Self { share, saved_s: KEPT.as_secs_f64() * share, at: now }
    }

    /// `used`: processor time since the last call.
    pub fn pay(&mut self, used: Duration, now: Duration) {
        let earned = now.saturating_sub(self.at).as_secs_f64() * self.share;
        self.at = now;
        let most = KEPT.as_secs_f64() * self.share;
        self.saved_s = (self.saved_s + earned).min(most) - used.as_secs_f64();
    }

    pub fn allows(&self) -> bool {
        self.saved_s > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_used_than_the_share() {
        let (share, look) = (0.02, Duration::from_millis(30));
        let mut budget = Budget::new(share, Duration::ZERO);
        let mut used = Duration::ZERO;
        for ms in (0..600_000).step_by(100) {
            let now = Duration::from_millis(ms);
            let takes = if budget.allows() { look } else { Duration::ZERO };
            used += takes;
            budget.pay(takes, now);
        }
        let (used, earned) = (used.as_secs_f64(), 600.0 * share);
        assert!((earned..earned + KEPT.as_secs_f64() * share + 0.1).contains(&used), "{used}");
    }

    #[test]
    fn an_expensive_look_is_paid_back_first() {
        let mut budget = Budget::new(0.02, Duration::ZERO);
        budget.pay(Duration::from_secs(2), Duration::from_secs(1));
        let free = (1..200).find(|s| {
            budget.pay(Duration::ZERO, Duration::from_secs(*s));
            budget.allows()
        });
        assert!(free.is_some_and(|s| (75..100).contains(&s)), "{free:?}");
    }
}
