//! Where parts, sources and waits meet: every access unit that was sent is in exactly one part, in order and in step.

#[path = "seams/rotation.rs"]
mod rotation;
#[path = "seams/window.rs"]
mod window;

use std::sync::Arc;
use support::lab::{Reel, ops};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

/// With a key frame every half second.
fn reel() -> Arc<Reel> {
    Reel::flashing(TMP, 24, 15)
}

/// `scripts/crashlab ops` has the long one.
#[test]
fn pauses_splits_switches_and_reconnects_leave_one_recording_whole_and_in_step() {
    let plan = ops::Plan { seed: 4, pauses: 15, splits: 8, switches: 4, reconnects: 4, pace_ms: 600 };
    let outcome = ops::run(REELD, &reel(), &plan, |_| {});
    println!("{outcome:?}");
    assert!(outcome.faults.is_empty(), "{plan:?}: {:#?}", outcome.faults);
}
