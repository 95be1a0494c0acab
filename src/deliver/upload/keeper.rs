//! What is done about the store beside uploads: local files go once they may, and what was deleted here goes there.

use super::{
    MAX_SMALL_BYTES, beside, owner_of,
    store::{Found, Store, StoreError},
};
use crate::{
    config::KeepLocal,
    library::{Library, LibraryError, LocalCopy, Manifest, RecordingId, RemoteDeletion},
};
use chrono::{TimeDelta, Utc};
use object_store::path::Path;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

/// Looked this often even when nobody wakes it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const SHORTEST_SLEEP: Duration = Duration::from_secs(1);
/// First and longest pause after the store, or the catalog, was not there.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Library(#[from] LibraryError),
}

/// The running task. Dropping it ends it; what it had begun is done by the next one.
#[derive(Debug)]
pub struct Keeper(JoinHandle<()>);

/// Wakes it after a delivery, or a deletion. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct KeeperWaker(Arc<Notify>);

impl KeeperWaker {
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl Keeper {
    /// Needs a tokio runtime. `told` is called when a part's file is in the store only.
    pub fn start(
        library: Library,
        store: Store,
        keep_local: KeepLocal,
        wake: KeeperWaker,
        told: impl Fn(RecordingId, u32) + Send + Sync + 'static,
    ) -> Self {
        let work = Work { library, store, keep_local, told: Box::new(told) };
        Self(tokio::spawn(work.run(wake)))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Work {
    library: Library,
    store: Store,
    keep_local: KeepLocal,
    told: Box<dyn Fn(RecordingId, u32) + Send + Sync>,
}

impl Work {
    async fn run(self, wake: KeeperWaker) {
        let mut pause = PAUSE.0;
        loop {
            let done = async {
                // What cannot go from the store keeps no file here.
                let freed = self.free_local().await;
                self.delete_remote().await?;
                freed
            };
            match done.await {
                Ok(()) => {
                    pause = PAUSE.0;
                    let _ = timeout(self.sleep(), wake.0.notified()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, again_in_s = pause.as_secs(), "files wait for the store");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn sleep(&self) -> Duration {
        match self.keep_local {
            KeepLocal::For(kept) if !kept.is_zero() => (kept / 10).clamp(SHORTEST_SLEEP, LONGEST_SLEEP),
            _ => LONGEST_SLEEP,
        }
    }

    /// The files whose time is over, all deliveries of which succeeded.
    async fn free_local(&self) -> Result<(), KeeperError> {
        let KeepLocal::For(kept) = self.keep_local else { return Ok(()) };
        let kept = TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX);
        let Some(before) = Utc::now().checked_sub_signed(kept) else { return Ok(()) };
        let mut after = (i64::MIN, 0);
        loop {
            let page = self.library.local_copies(before, after).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.after;
            for copy in page {
                self.free_one(&copy).await?;
            }
        }
    }

    /// An object that is not what was uploaded keeps its file here; a store that is not there ends the pass.
    async fn free_one(&self, copy: &LocalCopy) -> Result<(), KeeperError> {
        let (recording, part, object) = (copy.recording, copy.number, &copy.remote.url);
        match self.store.has(&copy.remote, copy.size, &copy.sha256).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(%recording, part, object, "is not in the store as it was uploaded; its file stays here");
                return Ok(());
            }
            Err(error @ StoreError::Elsewhere(_)) => {
                tracing::warn!(%recording, part, %error, "its file stays here");
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
        match self.library.free_local(copy).await {
            Ok(true) => {
                tracing::info!(%recording, part, object, "delivered; its local file is deleted");
                (self.told)(recording, part);
            }
            Ok(false) => {}
            // One that cannot go keeps no other here.
            Err(error) => tracing::error!(%recording, part, %error, "its local file stays"),
        }
        Ok(())
    }

    async fn delete_remote(&self) -> Result<(), KeeperError> {
        let mut after = String::new();
        loop {
            let page = self.library.remote_deletions(&after).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.object.url.clone();
            for deletion in page {
                match self.delete_one(&deletion).await {
                    Ok(()) => self.library.remote_deleted(&deletion).await?,
                    Err(error @ StoreError::Elsewhere(_)) => {
                        tracing::warn!(recording = %deletion.recording, %error, "is left in the store");
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }

    /// The file, its poster, and last its manifest, which tells whose they are. What is another part's stays.
    async fn delete_one(&self, deletion: &RemoteDeletion) -> Result<(), StoreError> {
        let place = self.store.at(&deletion.object.url)?;
        if let Some(upload) = &deletion.upload {
            self.store.abort_parts(&place, upload).await?;
        }
        let owner = owner_of(deletion.recording, deletion.number);
        let etag = deletion.object.etag.as_deref();
        let is_own = |found: &Found| match &found.owner {
            Some(theirs) => *theirs == owner,
            None => etag.is_some() && found.etag.as_deref() == etag,
        };
        if let Some(found) = self.store.head(&place).await? {
            if !is_own(&found) {
                tracing::warn!(object = deletion.object.url, "is another recording's by now; left there");
                return Ok(());
            }
            self.store.delete(&place).await?;
        }
        let manifest = beside(&place, ".json");
        let poster = beside(&place, ".jpg");
        if self.store.head(&poster).await?.is_some_and(|found| is_own(&found)) {
            self.store.delete(&poster).await?;
        }
        if self.is_manifest_of(&manifest, deletion).await? {
            self.store.delete(&manifest).await?;
        }
        tracing::info!(recording = %deletion.recording, object = deletion.object.url, "deleted from the store");
        Ok(())
    }

    async fn is_manifest_of(&self, place: &Path, deletion: &RemoteDeletion) -> Result<bool, StoreError> {
        let Some(bytes) = self.store.get_small(place, MAX_SMALL_BYTES).await? else { return Ok(false) };
        let manifest = serde_json::from_slice::<Manifest>(&bytes);
        let of = |m: Manifest| (m.recording.id, m.part.number) == (deletion.recording, deletion.number);
        Ok(manifest.is_ok_and(of))
    }
}
