//! Waiting for a state, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` sees something; panics with `what` when it has seen nothing within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        thread::sleep(POLL_EVERY);
    }
}

/// [`wait_for`] a condition.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}
