//! Hands finished files on. What is to be delivered is in the library's outbox, so nothing is forgotten when
//! the daemon dies: a delivery happens at least once.

mod hook;
mod outgoing;
mod sign;

pub use outgoing::{Outgoing, OutgoingError, RedirectError, host_of, told};

use crate::library::{
    Delivery, DeliveryKind, DeliveryState, HookResult, Library, LibraryError, OutboxId, RecordingId,
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::{Id, JoinHandle, JoinSet},
    time::Instant,
};

/// The outbox is looked at this often even when nothing is due: the wall clock may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// First and longest pause after the catalog could not be read or written.
const CATALOG_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest error of [`Delivered`].
const MAX_ERROR_CHARS: usize = 500;

/// How hooks are run.
#[derive(Clone, Debug, PartialEq)]
pub struct HookSettings {
    /// Longest run of one script.
    pub timeout: Duration,
    /// How many scripts run at the same time, at least 1.
    pub concurrency: usize,
    pub retry: RetrySchedule,
    /// Working directory of the scripts.
    pub folder: PathBuf,
}

impl HookSettings {
    /// The defaults, with scripts run in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { timeout: Duration::from_secs(60), concurrency: 4, retry: RetrySchedule::default(), folder }
    }
}

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

    /// `None`: it has failed for long enough.
    fn next(
        &self,
        attempts: u32,
        first_tried_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let tried_for = first_tried_at.map_or(TimeDelta::zero(), |first| now - first);
        let give_up_after = TimeDelta::from_std(self.give_up_after).unwrap_or(TimeDelta::MAX);
        if tried_for >= give_up_after {
            return None;
        }
        let pause = TimeDelta::from_std(self.pause(attempts, rand::random_range(0.0..=1.0))).ok()?;
        now.checked_add_signed(pause)
    }
}

/// What one run of a delivery came to, and is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub recording: RecordingId,
    /// Number of the part.
    pub part: u32,
    pub kind: DeliveryKind,
    /// Never `Pending`.
    pub state: DeliveryState,
    /// Runs that have ended.
    pub attempts: u32,
    pub error: Option<String>,
}

type Tell = Arc<dyn Fn(Delivered) + Send + Sync>;

/// The running deliveries. Dropping it kills the scripts that run; their entries stay in the outbox.
#[derive(Debug)]
pub struct Deliveries {
    wake: Arc<Notify>,
    drain: watch::Sender<Option<Instant>>,
    worker: JoinHandle<()>,
}

impl Deliveries {
    /// Begins with what is in the outbox. `tell` is called, on a tokio thread, after each run. Needs a tokio runtime.
    pub fn start(
        library: Library,
        settings: HookSettings,
        tell: impl Fn(Delivered) + Send + Sync + 'static,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let (drain, drained) = watch::channel(None);
        let worker = Worker {
            library,
            settings: Arc::new(settings),
            tell: Arc::new(tell),
            wake: wake.clone(),
            drain: drained,
            running: JoinSet::new(),
            in_flight: HashMap::new(),
        };
        Self { wake, drain, worker: tokio::spawn(worker.run()) }
    }

    /// A handle for those who commit parts.
    pub fn waker(&self) -> Waker {
        Waker(self.wake.clone())
    }

    /// Runs what was never tried to its end, starts no retries, and kills what still runs after `limit`. What
    /// did not end stays in the outbox for the next start.
    pub async fn drain(mut self, limit: Duration) {
        self.drain.send_replace(Some(Instant::now() + limit));
        if let Err(e) = (&mut self.worker).await {
            tracing::error!(error = %e, "the delivery worker ended with a fault");
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// Wakes the deliveries after a commit. A cheap clone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Notify>);

impl Waker {
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

struct Worker {
    library: Library,
    settings: Arc<HookSettings>,
    tell: Tell,
    wake: Arc<Notify>,
    /// The deadline, once draining.
    drain: watch::Receiver<Option<Instant>>,
    running: JoinSet<()>,
    in_flight: HashMap<Id, OutboxId>,
}

impl Worker {
    async fn run(mut self) {
        let mut catalog_pause = CATALOG_PAUSE.0;
        loop {
            let deadline = *self.drain.borrow_and_update();
            let pause = match self.start_due(deadline.is_some()).await {
                Ok(pause) => {
                    catalog_pause = CATALOG_PAUSE.0;
                    pause
                }
                Err(error) => {
                    tracing::error!(%error, "hooks wait: the outbox cannot be read");
                    catalog_pause = (catalog_pause * 2).min(CATALOG_PAUSE.1);
                    catalog_pause
                }
            };
            if deadline.is_some() && self.running.is_empty() {
                return;
            }
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = self.wake.notified() => {}
                changed = self.drain.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause), if deadline.is_none() => {}
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    tracing::warn!(running = self.running.len(), "ending hooks that did not end in time");
                    self.running.shutdown().await;
                    return;
                }
            }
        }
    }

    /// Starts what is due while there are free places; answers how long to wait for the next.
    async fn start_due(&mut self, draining: bool) -> Result<Duration, LibraryError> {
        let places = self.settings.concurrency.max(1);
        if self.running.len() >= places {
            return Ok(LONGEST_SLEEP);
        }
        let now = Utc::now();
        // As many as can be running, and as many more as can be started.
        let limit = u32::try_from(places.saturating_mul(2)).unwrap_or(u32::MAX);
        for delivery in self.library.outbox_due(now, limit).await? {
            let in_flight = self.in_flight.values().any(|id| *id == delivery.id);
            if in_flight || (draining && delivery.attempts > 0) {
                continue;
            }
            if self.running.len() >= places {
                break;
            }
            let id = delivery.id;
            let task = self.running.spawn(deliver(
                self.library.clone(),
                self.settings.clone(),
                self.tell.clone(),
                delivery,
            ));
            self.in_flight.insert(task.id(), id);
        }
        let Some(next) = self.library.outbox_next_due(now).await? else { return Ok(LONGEST_SLEEP) };
        Ok((next - Utc::now()).to_std().unwrap_or_default().min(LONGEST_SLEEP))
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(e) => {
                tracing::error!(error = %e, "a delivery ended with a fault");
                e.id()
            }
        };
        self.in_flight.remove(&task);
    }
}

/// One attempt, from the start of the script until its result is in the catalog.
async fn deliver(library: Library, settings: Arc<HookSettings>, tell: Tell, delivery: Delivery) {
    let run = hook::run(&delivery, &settings).await;
    let result =
        HookResult { exit: run.exit, attempts: delivery.attempts.saturating_add(1), output: run.output };
    let now = Utc::now();
    let next = match result.exit {
        Some(0) => Next::Done,
        _ => match settings.retry.next(result.attempts, delivery.first_tried_at, now) {
            Some(at) => Next::Retry(at),
            None => Next::GiveUp,
        },
    };
    log(&delivery, &result, &next);

    // The place is kept until the result is stored: a script whose result is lost would be run again at once.
    let mut pause = CATALOG_PAUSE.0;
    while let Err(error) = store(&library, delivery.id, &result, now, &next).await {
        tracing::error!(%error, recording = %delivery.recording, part = delivery.part, "the result of a hook cannot be stored");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(CATALOG_PAUSE.1);
    }
    tell(delivered(&delivery, &result, &next));
}

enum Next {
    Done,
    Retry(DateTime<Utc>),
    GiveUp,
}

async fn store(
    library: &Library,
    id: OutboxId,
    result: &HookResult,
    now: DateTime<Utc>,
    next: &Next,
) -> Result<(), LibraryError> {
    match next {
        Next::Done => library.outbox_done(id, result).await,
        Next::Retry(at) => library.outbox_retry(id, result, now, *at).await,
        Next::GiveUp => library.outbox_give_up(id, result).await,
    }
}

fn delivered(delivery: &Delivery, result: &HookResult, next: &Next) -> Delivered {
    let error = match result.exit {
        Some(0) => None,
        Some(code) => Some(format!("exit code {code}")),
        // It says itself how it ended.
        None => result.output.lines().last().map(|line| line.chars().take(MAX_ERROR_CHARS).collect()),
    };
    Delivered {
        recording: delivery.recording,
        part: delivery.part,
        kind: DeliveryKind::Hook,
        state: match next {
            Next::Done => DeliveryState::Done,
            Next::Retry(_) => DeliveryState::Failed,
            Next::GiveUp => DeliveryState::Dead,
        },
        attempts: result.attempts,
        error,
    }
}

fn log(delivery: &Delivery, result: &HookResult, next: &Next) {
    let Delivery { recording, part, job, .. } = delivery;
    let HookResult { exit, attempts, output } = result;
    let script = job.script.display();
    match next {
        Next::Done => tracing::info!(%recording, part, %script, attempts, "hook done"),
        Next::Retry(at) => {
            tracing::warn!(%recording, part, %script, ?exit, attempts, output, next = %at, "hook failed");
        }
        Next::GiveUp => {
            tracing::error!(%recording, part, %script, ?exit, attempts, output, "hook failed; giving up");
        }
    }
}

#[cfg(test)]
mod tests;
