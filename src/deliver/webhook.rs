//! Calls a webhook: one attempt.

use super::Outcome;
use crate::library::Delivery;
use std::time::Duration;

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// How many are called at the same time, at least 1.
    pub concurrency: usize,
    /// Longest time of one call.
    pub timeout: Duration,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self { concurrency: 8, timeout: Duration::from_secs(10) }
    }
}

/// One attempt.
pub(super) async fn deliver(_delivery: &Delivery, _settings: &WebhookSettings) -> Outcome {
    Outcome::failed("webhooks are not built in yet")
}
