//! Who is told what happens, and where a start call may have things sent to.

use super::{Control, ControlError, StartOptions, SubscriptionInfo, WatchEnd};
use serde_json::Value;
use std::time::Duration;

/// Events of the bus that begin so are news of the daemon itself. Those of recordings are put into the outbox where the
/// catalog is told what they tell.
const NEWS: &str = "disk.";
/// How often news is offered to the catalog, and the pause after the first refusal; it doubles.
const PUT_TRIES: u32 = 8;
const PUT_PAUSE: Duration = Duration::from_millis(250);

impl Control {
    /// Tells the webhooks of the configuration the news of the daemon itself, until the bus is closed.
    pub async fn tell_webhooks(self) {
        let Ok(mut watch) = self.inner.events.watch(None) else { return };
        loop {
            match watch.next().await {
                Ok(batch) => {
                    for (event, data) in batch.iter().filter_map(|told| news(&told.json)) {
                        self.tell_news(&event, data).await;
                    }
                }
                Err(WatchEnd::Closed) => return,
                // The catalog stood still for thousands of events.
                Err(WatchEnd::TooSlow) => match self.inner.events.watch(None) {
                    Ok(again) => watch = again,
                    Err(_) => return,
                },
            }
        }
    }

    async fn tell_news(&self, event: &str, data: Value) {
        let facts = &self.inner.facts;
        let mut pause = PUT_PAUSE;
        // A full disk may be that of the catalog.
        for _ in 0..PUT_TRIES {
            match self.inner.library.put_event(&facts.webhooks.urls(), event, data.clone()).await {
                Ok(()) => return facts.deliveries.wake(),
                Err(error) => tracing::error!(%error, event, "webhooks are not told yet"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::error!(event, "webhooks are not told");
    }

    /// The webhooks of the configuration.
    pub fn webhooks(&self) -> Vec<SubscriptionInfo> {
        self.inner.facts.webhooks.told()
    }

    /// Those that answered 410 are told again of recordings that begin from now on. Answers how many these are.
    pub async fn subscribe_webhooks(&self) -> Result<usize, ControlError> {
        let subscribed = self.inner.facts.webhooks.subscribe().await;
        subscribed.map_err(|e| ControlError::Failed(e.to_string()))
    }

    /// Checks the URLs of a start call as far as they can be before they are connected to, and puts them into one notation.
    pub(super) fn check_deliveries(&self, options: &mut StartOptions) -> Result<(), ControlError> {
        let StartOptions { webhooks, uploads, .. } = options;
        for (field, urls) in [("webhookUrl", webhooks), ("uploadUrl", uploads)] {
            for url in urls {
                let checked = self.inner.facts.allow_delivery.check(url);
                *url = checked.map_err(|refused| ControlError::DeliveryNotAllowed { field, refused })?.into();
            }
        }
        Ok(())
    }
}

/// Type and data of an event of the bus that is news of the daemon itself.
fn news(json: &str) -> Option<(String, Value)> {
    // Few are; the others, which may be long, are not read.
    if !json.contains(&format!("\"type\":\"{NEWS}")) {
        return None;
    }
    let Ok(Value::Object(mut data)) = serde_json::from_str(json) else { return None };
    let event = data.remove("type")?.as_str()?.to_owned();
    for numbering in ["seq", "at"] {
        data.remove(numbering);
    }
    event.starts_with(NEWS).then_some((event, Value::Object(data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_news_of_the_daemon_is_told_from_the_bus() {
        let low = r#"{"seq":7,"at":"2026-11-21T10:00:00Z","type":"disk.low","disk":{"freeBytes":5}}"#;
        assert_eq!(news(low), Some(("disk.low".into(), json!({"disk": {"freeBytes": 5}}))));
        for other in [
            r#"{"seq":7,"at":"","type":"recording.part","recording":{"streamName":"\"type\":\"disk.low"}}"#,
            r#"{"seq":7,"at":"","type":"recording.part","recording":{"type":"disk.low"}}"#,
            r#"{"seq":7,"at":"","type":"config.failed"}"#,
        ] {
            assert_eq!(news(other), None, "{other}");
        }
    }
}
