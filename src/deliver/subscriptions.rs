//! The webhooks of the configuration, and which of them want to be told no more.

use crate::library::{DeliveryKind, Library, LibraryError, shown_target};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `[delivery] webhooks`. A cheap handle; all clones are the same.
#[derive(Clone)]
pub struct Subscriptions {
    library: Library,
    list: Arc<Mutex<Vec<Subscription>>>,
}

struct Subscription {
    url: String,
    gone: Option<DateTime<Utc>>,
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.told()).finish()
    }
}

/// A webhook as it is told: by scheme, host and port, as its path may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Webhook)]
pub struct SubscriptionInfo {
    pub target: String,
    /// It answered 410 then, and is told nothing of what has begun since. `null`: it is told.
    #[schema(required)]
    pub unsubscribed_at: Option<DateTime<Utc>>,
}

impl Subscriptions {
    /// `urls` as the configuration names them.
    pub async fn open(library: Library, urls: Vec<String>) -> Result<Self, LibraryError> {
        let gone = library.webhooks_gone(&urls).await?;
        let since = |url: &String| gone.iter().find(|(other, _)| other == url).map(|(_, at)| *at);
        let list: Vec<_> = urls.into_iter().map(|url| Subscription { gone: since(&url), url }).collect();
        for Subscription { url, .. } in list.iter().filter(|s| s.gone.is_some()) {
            let target = shown_target(DeliveryKind::Webhook, url);
            tracing::warn!(%target, "told no events, as it answered 410; POST /api/v1/webhooks/subscribe tells it again");
        }
        Ok(Self { library, list: Arc::new(Mutex::new(list)) })
    }

    /// The URLs that are told.
    pub fn urls(&self) -> Vec<String> {
        self.list().iter().filter(|s| s.gone.is_none()).map(|s| s.url.clone()).collect()
    }

    pub fn told(&self) -> Vec<SubscriptionInfo> {
        let info = |s: &Subscription| SubscriptionInfo {
            target: shown_target(DeliveryKind::Webhook, &s.url),
            unsubscribed_at: s.gone,
        };
        self.list().iter().map(info).collect()
    }

    /// `url` answered 410. Nothing happens where the configuration does not name it.
    pub(super) async fn gone(&self, url: &str) -> Result<(), LibraryError> {
        if !self.urls().iter().any(|known| known == url) {
            return Ok(());
        }
        let now = Utc::now();
        self.library.webhook_gone(url, now).await?;
        for s in self.list().iter_mut().filter(|s| s.url == url) {
            s.gone.get_or_insert(now);
        }
        let target = shown_target(DeliveryKind::Webhook, url);
        tracing::warn!(%target, "it answered 410 and is told no more events; POST /api/v1/webhooks/subscribe tells it again");
        Ok(())
    }

    /// All of them are told again, of what begins from now on. Answers how many were not.
    pub async fn subscribe(&self) -> Result<usize, LibraryError> {
        let gone: Vec<String> =
            self.list().iter().filter(|s| s.gone.is_some()).map(|s| s.url.clone()).collect();
        self.library.webhooks_back(&gone).await?;
        for s in self.list().iter_mut().filter(|s| gone.contains(&s.url)) {
            s.gone = None;
        }
        Ok(gone.len())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Subscription>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
