//! What finished files are handed on with: the guard of outgoing requests, the object store, and who keeps it in order.

use super::AppError;
use crate::{
    config::DaemonConfig,
    control::Control,
    deliver::{HookSettings, Keeper, KeeperWaker, Outgoing, Settings, Store, UploadSettings},
    library::Library,
};

pub(super) struct HandingOn {
    outgoing: Outgoing,
    pub store: Option<Store>,
    pub keeper: KeeperWaker,
}

impl HandingOn {
    /// Asks nobody; reads certificates and credentials, so it blocks on the disk.
    pub fn new(config: &DaemonConfig) -> Result<Self, AppError> {
        let outgoing = Outgoing::new(config.allow_delivery.clone())?;
        let store = config.store.as_ref().map(|store| Store::new(store, outgoing.clone())).transpose()?;
        Ok(Self { outgoing, store, keeper: KeeperWaker::default() })
    }

    pub fn settings(&self, config: &DaemonConfig) -> Settings {
        let folder = config.paths.records.clone();
        Settings {
            hooks: HookSettings {
                timeout: config.limits.hook_timeout,
                concurrency: config.limits.hook_concurrency,
                ..HookSettings::new(folder.clone())
            },
            uploads: UploadSettings {
                concurrency: config.delivery.upload_concurrency,
                outgoing: Some(self.outgoing.clone()),
                store: self.store.clone(),
            },
            ..Settings::new(folder)
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
