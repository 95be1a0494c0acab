//! Waiting for a state, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Whether the condition holds within `limit`.
pub fn reached(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        let holds = condition();
        if holds || Instant::now() >= until {
            return holds;
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Looks until `look` sees something; panics with `what` when it has seen nothing within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let mut seen = None;
    reached(limit, || {
        seen = look();
        seen.is_some()
    });
    seen.unwrap_or_else(|| panic!("{what}: not within {limit:?}"))
}

/// [`wait_for`] a condition.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}
