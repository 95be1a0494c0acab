//! How busy the processors are, and what new work follows from that.
//!
//! A look a second, smoothed over a few. Work at a lower priority (`nice`) does not count: it gives way.

mod sample;

pub(super) use sample::Share;
use sample::Times;
use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A load that has begun counts to two thirds after so long.
const SMOOTH_OVER: Duration = Duration::from_secs(3);
/// The mark of [`Cpu::busy`] where `max_cpu` is off, percent.
const DEFAULT_MAX_PERCENT: u8 = 90;

/// New work that there is no processor time for. Each refuses what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusing {
    #[default]
    Nothing,
    /// What has to be decoded and encoded.
    Transcodes,
    /// What is only copied, too.
    Copies,
}

/// The load at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Of all work on the processors that the daemon may use, smoothed.
    pub share: Share,
    pub refusing: Refusing,
}

/// The gauge. A cheap handle; all clones are the same. It looks until the last one is dropped.
#[derive(Clone)]
pub(super) struct Cpu {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    load: RwLock<Load>,
    /// One look has failed; told once.
    blind: AtomicBool,
}

impl Cpu {
    /// `max_percent`: `[limits] max_cpu`, for the marks. Call it on a tokio thread.
    pub fn watch(max_percent: Option<u8>) -> Self {
        let inner = Arc::new(Inner::default());
        let watched = Arc::downgrade(&inner);
        let marks = Marks::of(max_percent.unwrap_or(DEFAULT_MAX_PERCENT));
        tokio::spawn(async move {
            let mut before = Times::now();
            let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(inner) = watched.upgrade() else { return };
                // The kernel makes these files up: reading them waits for no disk.
                before = inner.look(before, marks);
            }
        });
        Self { inner }
    }

    pub fn load(&self) -> Load {
        *self.inner.load.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work that can wait should.
    pub fn busy(&self) -> bool {
        self.load().refusing != Refusing::Nothing
    }
}

impl Inner {
    fn look(&self, before: Option<Times>, marks: Marks) -> Option<Times> {
        let now = Times::now();
        if now.is_none() && !self.blind.swap(true, Ordering::Relaxed) {
            tracing::warn!("/proc does not tell how busy the processors are: [limits] max_cpu has no effect");
        }
        if let Some((share, elapsed)) = before.zip(now.as_ref()).and_then(|(b, n)| n.since(&b)) {
            let mut load = self.load.write().unwrap_or_else(PoisonError::into_inner);
            *load = load.step(share, elapsed, marks);
        }
        now
    }
}

impl Load {
    fn step(self, share: Share, elapsed: Duration, marks: Marks) -> Self {
        let weight = 1.0 - (-elapsed.as_secs_f64() / SMOOTH_OVER.as_secs_f64()).exp();
        let smooth = |before: f64, now: f64| before + (now - before) * weight;
        let share = Share { all: smooth(self.share.all, share.all), own: smooth(self.share.own, share.own) };
        Self { share, refusing: marks.refusing(self.refusing, share.all) }
    }
}

/// Shares of the processors at which new work is refused, and below which it is taken again.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Marks {
    transcodes: Band,
    copies: Band,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Band {
    on: f64,
    off: f64,
}

impl Marks {
    /// Copying costs a tenth of what transcoding does: it goes on until four fifths of what is left are gone, too.
    fn of(max_percent: u8) -> Self {
        let max = f64::from(max_percent) / 100.0;
        let left = 1.0 - max;
        Self {
            transcodes: Band { on: max, off: 0.9 * max },
            copies: Band { on: max + 0.8 * left, off: max + 0.4 * left },
        }
    }

    fn refusing(self, before: Refusing, share: f64) -> Refusing {
        let met = |band: Band, of: Refusing| share >= band.on || (before >= of && share >= band.off);
        match () {
            () if met(self.copies, Refusing::Copies) => Refusing::Copies,
            () if met(self.transcodes, Refusing::Transcodes) => Refusing::Transcodes,
            () => Refusing::Nothing,
        }
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(start: Load, all: f64, seconds: u32) -> Load {
        let share = Share { all, own: 0.0 };
        (0..seconds).fold(start, |load, _| load.step(share, SECOND, Marks::of(90)))
    }

    #[test]
    fn what_costs_more_is_refused_first_and_taken_again_last() {
        use Refusing::{Copies, Nothing, Transcodes};
        let cases = [
            (Nothing, 0.5, Nothing),
            (Nothing, 0.89, Nothing),
            (Nothing, 0.9, Transcodes),
            (Nothing, 0.97, Transcodes),
            (Nothing, 0.98, Copies),
            (Transcodes, 0.82, Transcodes),
            (Transcodes, 0.80, Nothing),
            (Transcodes, 0.95, Transcodes),
            (Transcodes, 0.99, Copies),
            (Copies, 0.95, Copies),
            (Copies, 0.93, Transcodes),
            (Copies, 0.82, Transcodes),
            (Copies, 0.5, Nothing),
        ];
        for (before, share, then) in cases {
            assert_eq!(Marks::of(90).refusing(before, share), then, "{before:?} at {share}");
        }
    }

    #[test]
    fn the_marks_keep_their_order_whatever_the_limit() {
        for percent in 1..=100 {
            let Marks { transcodes, copies } = Marks::of(percent);
            let rising = [transcodes.off, transcodes.on, copies.off, copies.on];
            assert!(rising.is_sorted() && copies.on <= 1.0, "{percent}: {rising:?}");
        }
    }

    #[test]
    fn a_burst_refuses_nothing_and_a_load_that_stays_does() {
        let calm = after(Load::default(), 0.3, 60);
        assert!((calm.share.all - 0.3).abs() < 0.01, "{calm:?}");
        let burst = after(calm, 1.0, 2);
        assert_eq!(burst.refusing, Refusing::Nothing, "{burst:?}");
        let loaded = after(calm, 1.0, 7);
        assert_eq!(loaded.refusing, Refusing::Transcodes, "{loaded:?}");
        let full = after(calm, 1.0, 15);
        assert_eq!(full.refusing, Refusing::Copies, "{full:?}");
        assert_eq!(after(full, 0.5, 1).refusing, Refusing::Transcodes);
        assert_eq!(after(full, 0.3, 10).refusing, Refusing::Nothing);
    }

    #[test]
    fn a_look_that_was_late_counts_for_all_the_time_it_covers() {
        let share = Share { all: 1.0, own: 0.5 };
        let one = Load::default().step(share, 10 * SECOND, Marks::of(90)).share;
        let ten = (0..10).fold(Load::default(), |l, _| l.step(share, SECOND, Marks::of(90))).share;
        assert!((one.all - ten.all).abs() < 1e-9 && (one.own - ten.own).abs() < 1e-9, "{one:?} {ten:?}");
    }

    #[tokio::test]
    async fn the_gauge_sees_its_own_process_work() {
        let cpu = Cpu::watch(Some(90));
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while cpu.load().share.own == 0.0 && begun.elapsed() < 20 * SECOND {
            sum = (0..1_000_000_u64).fold(sum, |s, n| std::hint::black_box(s.wrapping_mul(31) ^ n));
            tokio::task::yield_now().await;
        }
        let load = cpu.load();
        assert!(load.share.own > 0.0 && load.share.all >= load.share.own, "{load:?} {sum}");
    }
}
