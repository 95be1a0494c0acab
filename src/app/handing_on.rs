//! What finished files are handed on with: the guard of outgoing requests, the object store, and who keeps it in order.

use super::AppError;
use crate::{
    config::DaemonConfig,
    control::Control,
    deliver::{
        HookSettings, Keeper, KeeperWaker, Outgoing, RetrySchedule, Settings, Store, Subscriptions,
        UploadSettings, WebhookSettings,
    },
    library::Library,
};

pub(super) struct HandingOn {
    outgoing: Outgoing,
    pub webhooks: Subscriptions,
    pub store: Option<Store>,
    pub keeper: KeeperWaker,
}

impl HandingOn {
    /// Asks nobody; reads certificates and credentials, so it blocks on the disk.
    pub async fn new(config: &DaemonConfig, library: &Library) -> Result<Self, AppError> {
        let outgoing = Outgoing::new(config.allow_delivery.clone())?;
        let store = config.store.as_ref().map(|store| Store::new(store, outgoing.clone())).transpose()?;
        let urls = config.delivery.webhooks.iter().map(|url| url.to_string()).collect();
        let webhooks = Subscriptions::open(library.clone(), urls).await?;
        Ok(Self { outgoing, webhooks, store, keeper: KeeperWaker::default() })
    }

    pub fn settings(&self, config: &DaemonConfig) -> Settings {
        let delivery = &config.delivery;
        Settings {
            hooks: HookSettings {
                timeout: config.limits.hook_timeout,
                concurrency: config.limits.hook_concurrency,
                ..HookSettings::new(config.paths.records.clone())
            },
            webhooks: WebhookSettings {
                concurrency: delivery.webhook_concurrency,
                timeout: delivery.webhook_timeout,
                secrets: delivery.webhook_secrets.clone().into(),
                outgoing: Some(self.outgoing.clone()),
                subscriptions: Some(self.webhooks.clone()),
            },
            uploads: UploadSettings {
                concurrency: delivery.upload_concurrency,
                outgoing: Some(self.outgoing.clone()),
                store: self.store.clone(),
            },
            retry: RetrySchedule { give_up_after: delivery.give_up_after, ..RetrySchedule::default() },
        }
    }

    /// `None` where there is no store.
    pub fn keep(&self, library: &Library, config: &DaemonConfig, control: Control) -> Option<Keeper> {
        let (store, kept) = (self.store.clone()?, config.store.as_ref()?.keep_local);
        let told = move |recording, part| {
            let control = control.clone();
            tokio::spawn(async move { control.part_changed(recording, part).await });
        };
        Some(Keeper::start(library.clone(), store, kept, self.keeper.clone(), told))
    }
}
