//! The short crash lab: a few kills with fixed seeds, and a short soak. `scripts/crashlab` runs the long ones.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use support::lab::{
    Reel,
    kills::{KillLab, STAGES},
    soak,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const SEED: u64 = 4;

/// One lab at a time: what a kill costs is measured in ms, and the machine may have two cores.
static MACHINE: Mutex<()> = Mutex::new(());

/// With a key frame every half second.
fn reel() -> Arc<Reel> {
    Reel::flashing(TMP, 24, 15)
}

#[test]
fn kill_9_at_any_stage_costs_a_second_at_most_and_no_hook() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lab = KillLab::new(REELD, reel(), SEED);
    for stage in STAGES {
        let killed = lab.kill(stage);
        println!("{killed:?}");
        assert!(killed.faults.is_empty(), "seed {SEED}, {stage}: {:#?}", killed.faults);
    }
}

#[test]
fn streams_that_rotate_lose_nothing() {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = soak::Plan {
        streams: 5,
        length: Duration::from_secs(10),
        rotation: "2".to_owned(),
        sample_every: Duration::from_secs(5),
    };
    let outcome = soak::run(REELD, &reel(), &plan, |_, _| {});
    assert!(outcome.faults.is_empty(), "{:#?}", outcome.faults);
    assert!(outcome.parts >= plan.streams * 4, "{} parts", outcome.parts);
    assert!(outcome.video >= 5 * 10 * 29, "{} pictures", outcome.video);
}
