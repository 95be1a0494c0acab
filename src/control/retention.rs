//! Deletes recordings as `[limits] retention_*` ask, off every other's way.

use super::{Control, Inner};
use crate::library::{LibraryError, Stock, select};
use bytesize::ByteSize;
use chrono::Utc;
use std::{
    sync::{Weak, atomic::Ordering},
    time::Duration,
};

/// How often it is looked whether a rule asks for something, which takes two rows; and how long nothing is deleted after a
/// recording was, at least: its room is seen by then.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
/// Recordings that could not be deleted, until the next look.
const MOST_FAILURES: usize = 5;

/// Runs until the control is dropped.
pub(super) async fn keep(control: Weak<Inner>) {
    let Some(wake) = control.upgrade().map(|inner| inner.retention_wake.clone()) else { return };
    loop {
        let Some(inner) = control.upgrade() else { return };
        let control_now = Control { inner };
        if let Err(error) = control_now.delete_old().await {
            tracing::error!(%error, "retention cannot look for old recordings");
        }
        drop(control_now);
        tokio::time::sleep(PAUSE).await;
        // Who wakes it too early is heard after the pause; nobody has to.
        let _ = tokio::time::timeout(LOOK_EVERY - PAUSE, wake.notified()).await;
    }
}

impl Control {
    async fn delete_old(&self) -> Result<(), LibraryError> {
        let (library, rule) = (&self.inner.library, &self.inner.facts.retention);
        // What is being entered may be locked.
        if library.is_recovering() || self.is_shutting_down() {
            return Ok(());
        }
        let disk = self.inner.disk.info();
        let bytes = library.bytes_held().await?;
        let mut stock = Stock { bytes, free_bytes: disk.free_bytes, disk_bytes: disk.total_bytes };
        let (mut last, mut failures) = (None, 0);
        loop {
            let page = library.ended_first(last.as_ref()).await?;
            let (selected, more) = select(rule, &page, &mut stock, Utc::now());
            for (id, why) in selected {
                match library.delete(&id).await {
                    Ok(()) => {
                        let (free, held) = (ByteSize(disk.free_bytes), ByteSize(bytes));
                        tracing::info!(recording = %id, %free, %held, "deleted: [limits] {why}");
                        self.inner.deleted_by_retention.fetch_add(1, Ordering::Relaxed);
                        self.tell_deleted(id, Some(why));
                    }
                    // It was locked, or deleted, in between.
                    Err(LibraryError::Locked(_) | LibraryError::Unknown(_)) => {}
                    Err(error) => {
                        tracing::error!(recording = %id, %error, "cannot be deleted for [limits] {why}");
                        if matches!(error, LibraryError::NotRemoved { .. }) {
                            self.tell_deleted(id, Some(why));
                        }
                        failures += 1;
                    }
                }
                if failures >= MOST_FAILURES || self.is_shutting_down() {
                    return Ok(());
                }
            }
            last = page.last().copied();
            if !more {
                return Ok(());
            }
        }
    }

    /// Recordings that were deleted to make room.
    pub fn deleted_by_retention(&self) -> u64 {
        self.inner.deleted_by_retention.load(Ordering::Relaxed)
    }
}
