//! Hands finished files and news on. What is to be delivered is in the library's outbox, so nothing is forgotten when
//! the daemon dies: a delivery happens at least once.

mod hook;
mod outgoing;
mod schedule;
mod sign;
mod subscriptions;
mod upload;
mod webhook;
mod worker;

pub use outgoing::{Outgoing, OutgoingError, RedirectError, host_of, told};
pub use schedule::RetrySchedule;
pub use subscriptions::{SubscriptionInfo, Subscriptions};
pub use upload::{Keeper, KeeperWaker, Store, StoreError, UploadSettings};
pub use webhook::WebhookSettings;

use crate::library::{DeliveryKind, DeliveryState, Library, RecordingId};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};
use worker::Worker;

/// How deliveries are made. Each kind has places of its own: a slow upload keeps no hook waiting.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hooks: HookSettings,
    pub webhooks: WebhookSettings,
    pub uploads: UploadSettings,
    pub retry: RetrySchedule,
}

impl Settings {
    /// The defaults, with scripts run in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            hooks: HookSettings::new(folder),
            webhooks: WebhookSettings::default(),
            uploads: UploadSettings::default(),
            retry: RetrySchedule::default(),
        }
    }

    /// How many of a kind are under way at the same time.
    fn places(&self, kind: DeliveryKind) -> usize {
        let places = match kind {
            DeliveryKind::Hook => self.hooks.concurrency,
            DeliveryKind::Webhook => self.webhooks.concurrency,
            DeliveryKind::Upload => self.uploads.concurrency,
        };
        places.max(1)
    }

    /// How many of these may be to one target: a receiver that answers nobody leaves places for the others.
    fn places_per_target(&self, kind: DeliveryKind) -> usize {
        let places = self.places(kind);
        if kind == DeliveryKind::Webhook { places.div_ceil(2) } else { places }
    }
}

/// How hooks are run.
#[derive(Clone, Debug, PartialEq)]
pub struct HookSettings {
    /// Longest run of one script.
    pub timeout: Duration,
    /// How many scripts run at the same time, at least 1.
    pub concurrency: usize,
    /// Working directory of the scripts.
    pub folder: PathBuf,
}

impl HookSettings {
    /// The defaults, with scripts run in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { timeout: Duration::from_secs(60), concurrency: 4, folder }
    }
}

/// What one attempt came to. Errors are told to people: no credentials in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// To be tried again, not before `retry_after` has passed.
    Failed {
        error: String,
        retry_after: Option<Duration>,
    },
    /// Trying again would not help.
    GiveUp {
        error: String,
    },
    /// The receiver wants to be told no more of this recording.
    Unsubscribe {
        error: String,
    },
}

impl Outcome {
    pub fn failed(error: impl Into<String>) -> Self {
        Self::Failed { error: error.into(), retry_after: None }
    }
}

/// What one attempt came to, and is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The same in every attempt.
    pub key: String,
    /// `None`: news of the daemon.
    pub recording: Option<RecordingId>,
    /// Number of the part; `None` for news.
    pub part: Option<u32>,
    pub kind: DeliveryKind,
    /// Without credentials.
    pub target: String,
    /// Never `Pending`.
    pub state: DeliveryState,
    /// Attempts that have ended.
    pub attempts: u32,
    pub error: Option<String>,
}

type Tell = Arc<dyn Fn(Delivered) + Send + Sync>;

/// The running deliveries. Dropping it cuts off what is under way; the entries stay in the outbox.
#[derive(Debug)]
pub struct Deliveries {
    wake: Waker,
    drain: watch::Sender<Option<Instant>>,
    /// One for each kind.
    workers: JoinSet<()>,
}

impl Deliveries {
    /// Begins with what is in the outbox. `tell` is called, on a tokio thread, after each attempt. Needs a tokio runtime.
    pub fn start(
        library: Library,
        settings: Settings,
        tell: impl Fn(Delivered) + Send + Sync + 'static,
    ) -> Self {
        let wake = Waker::default();
        let (drain, drained) = watch::channel(None);
        let (settings, tell): (_, Tell) = (Arc::new(settings), Arc::new(tell));
        let mut workers = JoinSet::new();
        for kind in DeliveryKind::ALL {
            let worker =
                Worker::new(kind, library.clone(), settings.clone(), tell.clone(), &wake, drained.clone());
            workers.spawn(worker.run());
        }
        Self { wake, drain, workers }
    }

    /// A handle for those who put something in the outbox.
    pub fn waker(&self) -> Waker {
        self.wake.clone()
    }

    /// Runs hooks and webhooks that were never tried to their end, starts no retries and no uploads, and cuts off what is
    /// still under way after `limit`, uploads at once. What did not end stays in the outbox for the next start.
    pub async fn drain(mut self, limit: Duration) {
        self.drain.send_replace(Some(Instant::now() + limit));
        while let Some(ended) = self.workers.join_next().await {
            if let Err(e) = ended {
                tracing::error!(error = %e, "a delivery worker ended with a fault");
            }
        }
    }
}

/// Wakes the deliveries after something was put in the outbox. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Waker {
    hooks: Arc<Notify>,
    webhooks: Arc<Notify>,
    uploads: Arc<Notify>,
}

impl Waker {
    pub fn wake(&self) {
        [&self.hooks, &self.webhooks, &self.uploads].into_iter().for_each(|worker| worker.notify_one());
    }

    fn of(&self, kind: DeliveryKind) -> Arc<Notify> {
        match kind {
            DeliveryKind::Hook => self.hooks.clone(),
            DeliveryKind::Webhook => self.webhooks.clone(),
            DeliveryKind::Upload => self.uploads.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
