//! Who is told what happens, and where a start call may have things sent to.

use super::{Control, ControlError, StartOptions, SubscriptionInfo};

impl Control {
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
