//! The worker of one kind of delivery.

use super::{Delivered, Outcome, Settings, Tell, Waker, hook, upload, webhook};
use crate::library::{
    Delivery, DeliveryKind, DeliveryState, Due, HookResult, Job, Library, LibraryError, OutboxId, Tried,
    shown_target,
};
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

/// The outbox is looked at this often even when nothing is due: the wall clock may have been set.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// First and longest pause after the catalog could not be read or written.
const CATALOG_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest error that is told.
const MAX_ERROR_CHARS: usize = 500;

pub(super) struct Worker {
    kind: DeliveryKind,
    means: Means,
    wake: Arc<Notify>,
    /// The deadline, once draining.
    drain: watch::Receiver<Option<Instant>>,
    running: JoinSet<()>,
    in_flight: HashMap<Id, UnderWay>,
}

/// What every attempt needs.
#[derive(Clone)]
struct Means {
    library: Library,
    settings: Arc<Settings>,
    tell: Tell,
    /// Of the workers of all kinds.
    wake: Waker,
}

struct UnderWay {
    id: OutboxId,
    target: String,
}

impl Worker {
    pub fn new(
        kind: DeliveryKind,
        library: Library,
        settings: Arc<Settings>,
        tell: Tell,
        waker: &Waker,
        drain: watch::Receiver<Option<Instant>>,
    ) -> Self {
        let (wake, means) = (waker.of(kind), Means { library, settings, tell, wake: waker.clone() });
        Self { kind, means, wake, drain, running: JoinSet::new(), in_flight: HashMap::new() }
    }

    pub async fn run(mut self) {
        let mut catalog_pause = CATALOG_PAUSE.0;
        loop {
            let deadline = *self.drain.borrow_and_update();
            if deadline.is_some() && self.kind == DeliveryKind::Upload {
                // The next start goes on with them.
                return self.running.shutdown().await;
            }
            let pause = match self.start_due(deadline.is_some()).await {
                Ok(pause) => {
                    catalog_pause = CATALOG_PAUSE.0;
                    pause
                }
                Err(error) => {
                    tracing::error!(%error, kind = self.kind.as_str(), "deliveries wait: the outbox cannot be read");
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
                    let (kind, running) = (self.kind.as_str(), self.running.len());
                    tracing::warn!(kind, running, "cutting off deliveries that did not end in time");
                    return self.running.shutdown().await;
                }
            }
        }
    }

    /// Starts what is due while there are free places; answers how long to wait for the next.
    async fn start_due(&mut self, draining: bool) -> Result<Duration, LibraryError> {
        let now = Utc::now();
        loop {
            let free = self.means.settings.places(self.kind).saturating_sub(self.running.len());
            if free == 0 {
                return Ok(LONGEST_SLEEP);
            }
            let due = self.due(now, free).await?;
            let mut started = 0;
            for delivery in due {
                let retry = draining && delivery.attempts > 0;
                if !retry && self.has_place(&delivery.target) {
                    self.start(delivery);
                    started += 1;
                }
            }
            if started == 0 {
                break;
            }
        }
        let next = self.means.library.outbox_next_due(self.kind, now).await?;
        let Some(next) = next else { return Ok(LONGEST_SLEEP) };
        Ok((next - Utc::now()).to_std().unwrap_or_default().min(LONGEST_SLEEP))
    }

    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<Delivery>, LibraryError> {
        let without: Vec<OutboxId> = self.in_flight.values().map(|u| u.id).collect();
        let mut not_to: Vec<String> = self.in_flight.values().map(|u| u.target.clone()).collect();
        not_to.retain(|target| !self.has_place(target));
        not_to.sort_unstable();
        not_to.dedup();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let due = Due { kind: self.kind, now, limit, without: &without, not_to: &not_to };
        self.means.library.outbox_due(due).await
    }

    fn has_place(&self, target: &str) -> bool {
        let taken = self.in_flight.values().filter(|u| u.target == target).count();
        taken < self.means.settings.places_per_target(self.kind)
    }

    fn start(&mut self, delivery: Delivery) {
        let under_way = UnderWay { id: delivery.id, target: delivery.target.clone() };
        let task = self.running.spawn(deliver(self.means.clone(), delivery));
        self.in_flight.insert(task.id(), under_way);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
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

/// What an attempt came to, and what follows.
struct Ended {
    tried: Tried,
    at: DateTime<Utc>,
    next: Next,
}

enum Next {
    Done,
    Retry(DateTime<Utc>),
    GiveUp,
    Unsubscribe,
}

/// One attempt, from its beginning until its result is in the catalog.
async fn deliver(means: Means, delivery: Delivery) {
    let ended = attempt(&means, &delivery).await;
    log(&delivery, &ended);
    // The place is kept until the result is stored: what has lost its result would be tried again at once.
    let mut pause = CATALOG_PAUSE.0;
    while let Err(error) = store(&means.library, delivery.id, &ended).await {
        tracing::error!(%error, key = delivery.key, "the result of a delivery cannot be stored");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(CATALOG_PAUSE.1);
    }
    if matches!(ended.next, Next::GiveUp) {
        // Webhooks are told of it.
        means.wake.wake();
    }
    (means.tell)(delivered(delivery, ended));
}

async fn attempt(means: &Means, delivery: &Delivery) -> Ended {
    let attempts = delivery.attempts.saturating_add(1);
    // A fault of ours in one of them is a failure like others: without a result it would be tried again at once.
    let (outcome, hook) = AssertUnwindSafe(outcome(means, delivery, attempts))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| (Outcome::failed("a fault in reeld, which the log of the daemon tells"), None));
    let at = Utc::now();
    let (next, error) = match outcome {
        Outcome::Done => (Next::Done, None),
        Outcome::GiveUp { error } => (Next::GiveUp, Some(error)),
        Outcome::Unsubscribe { error } => (Next::Unsubscribe, Some(error)),
        Outcome::Failed { error, retry_after } => {
            let next = means.settings.retry.next(attempts, delivery.first_tried_at, retry_after, at);
            (next.map_or(Next::GiveUp, Next::Retry), Some(error))
        }
    };
    let error = error.map(|text| text.chars().take(MAX_ERROR_CHARS).collect());
    Ended { tried: Tried { attempts, error, hook }, at, next }
}

async fn outcome(means: &Means, delivery: &Delivery, attempts: u32) -> (Outcome, Option<HookResult>) {
    match &delivery.job {
        Job::Webhook(job) => (webhook::deliver(delivery, job, &means.settings.webhooks).await, None),
        Job::Upload(_) => (upload::deliver(delivery, &means.settings.uploads, &means.library).await, None),
        Job::Hook(job) => {
            let Some(part) = &delivery.of else {
                let error = "the catalog has no such part any more".into();
                return (Outcome::GiveUp { error }, None);
            };
            let run = hook::run(delivery, job, part, &means.settings.hooks).await;
            let outcome = match run.exit {
                Some(0) => Outcome::Done,
                Some(code) => Outcome::failed(format!("exit code {code}")),
                // It says itself how it ended.
                None => Outcome::failed(run.output.lines().last().unwrap_or("it did not end by itself")),
            };
            (outcome, Some(HookResult { exit: run.exit, attempts, output: run.output }))
        }
    }
}

async fn store(library: &Library, id: OutboxId, ended: &Ended) -> Result<(), LibraryError> {
    let Ended { tried, at, next } = ended;
    match next {
        Next::Done => library.outbox_done(id, tried).await,
        Next::Retry(next_at) => library.outbox_retry(id, tried, *at, *next_at).await,
        Next::GiveUp => library.outbox_give_up(id, tried).await,
        Next::Unsubscribe => library.outbox_unsubscribe(id, tried).await,
    }
}

fn delivered(delivery: Delivery, ended: Ended) -> Delivered {
    Delivered {
        recording: delivery.recording,
        part: delivery.part,
        kind: delivery.kind,
        target: shown_target(delivery.kind, &delivery.target),
        key: delivery.key,
        state: match ended.next {
            Next::Done => DeliveryState::Done,
            Next::Retry(_) => DeliveryState::Failed,
            Next::GiveUp | Next::Unsubscribe => DeliveryState::Dead,
        },
        attempts: ended.tried.attempts,
        error: ended.tried.error,
    }
}

fn log(delivery: &Delivery, ended: &Ended) {
    let Delivery { key, kind, part, .. } = delivery;
    let (kind, target) = (kind.as_str(), shown_target(*kind, &delivery.target));
    let recording = delivery.recording.map(|id| id.to_string());
    let Tried { attempts, error, hook } = &ended.tried;
    let output = hook.as_ref().map(|hook| &hook.output);
    match &ended.next {
        Next::Done => tracing::info!(key, kind, recording, part, target, attempts, "delivered"),
        Next::Retry(next) => {
            tracing::warn!(key, kind, recording, part, target, attempts, error, output, %next, "delivery failed");
        }
        Next::GiveUp => {
            tracing::error!(
                key,
                kind,
                recording,
                part,
                target,
                attempts,
                error,
                output,
                "delivery failed; giving up"
            );
        }
        Next::Unsubscribe => {
            tracing::warn!(key, kind, recording, target, error, "the receiver wants to be told no more");
        }
    }
}
