//! Locks: a recording that nobody deletes, by a call or by retention, until it is unlocked.
//!
//! The catalog is an index that may be lost, so a lock is a file too: `.reeld-ID.lock` in the records folder, empty. It is
//! there before the catalog knows of the lock, and goes after the catalog has forgotten it; a catalog that is made
//! anew takes the lock over when it enters the recording. A crash in between may lock what was not to be, never the
//! other way round.

use super::{
    Library, LibraryError, RecordingId, Storage, StorageError, catalog::get, sql, storage::io_error,
};
use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

impl Library {
    /// Locks or unlocks a recording, also one that is being recorded; asking for what it is does nothing.
    pub async fn set_locked(&self, id: &RecordingId, locked: bool) -> Result<(), LibraryError> {
        const WHAT: &str = "lock a recording";
        // No deletion comes in between.
        let _files = self.inner.files.lock().await;
        // A marker is not left behind for what is not there.
        self.is_locked(id).await?.ok_or(LibraryError::Unknown(*id))?;
        if locked {
            self.mark(id, Storage::mark_locked).await?;
        }
        let mut tx = self.write(WHAT).await?;
        let changed = sqlx::query("UPDATE recording SET locked = ? WHERE id = ?")
            .bind(locked)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))?;
        if changed.rows_affected() == 0 {
            return Err(LibraryError::Unknown(*id));
        }
        if !locked {
            self.mark(id, Storage::unmark_locked).await?;
        }
        Ok(())
    }

    /// `None`: there is no such recording.
    pub async fn is_locked(&self, id: &RecordingId) -> Result<Option<bool>, LibraryError> {
        const WHAT: &str = "look whether a recording is locked";
        let row = sqlx::query("SELECT locked FROM recording WHERE id = ?").bind(id.to_string());
        let row = row.fetch_optional(self.readers()).await.map_err(sql(WHAT))?;
        row.map(|row| get(&row, "locked")).transpose()
    }

    async fn mark(
        &self,
        id: &RecordingId,
        change: fn(&Storage, &RecordingId) -> Result<(), StorageError>,
    ) -> Result<(), LibraryError> {
        let (storage, id) = (self.storage().clone(), *id);
        let done = tokio::task::spawn_blocking(move || change(&storage, &id)).await;
        let broken = |e| io_error("cannot change", self.storage().folder())(io::Error::other(e));
        Ok(done.map_err(broken)??)
    }
}

impl Storage {
    fn marker(&self, id: &RecordingId) -> PathBuf {
        self.folder().join(format!(".reeld-{id}.lock"))
    }

    /// Whether a lock was put on it. Blocks.
    pub(super) fn is_marked_locked(&self, id: &RecordingId) -> bool {
        fs::symlink_metadata(self.marker(id)).is_ok()
    }

    /// Durable when it returns. Blocks.
    fn mark_locked(&self, id: &RecordingId) -> Result<(), StorageError> {
        let marker = self.marker(id);
        File::create(&marker).and_then(|file| file.sync_all()).map_err(io_error("cannot create", &marker))?;
        self.sync_folder()
    }

    /// Blocks.
    pub(super) fn unmark_locked(&self, id: &RecordingId) -> Result<(), StorageError> {
        let marker = self.marker(id);
        match fs::remove_file(&marker) {
            Ok(()) => self.sync_folder(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("cannot remove", &marker)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, recover, reopen};
    use super::*;
    use crate::library::{HandOn, Identity, Lost, Manifest, Part};
    use chrono::Utc;

    /// A completed recording with one file.
    async fn recorded(library: &Library) -> RecordingId {
        let recording = testing::recording(0);
        library.begin(&recording, &HandOn::default()).await.unwrap();
        let file = library.storage().reserve(|_| "cam".into(), "mp4").unwrap();
        fs::write(file.path(), "frames").unwrap();
        let describe = |f: &crate::library::FinishedFile| Part {
            file: f.file.clone(),
            name: f.name.clone(),
            size: f.size,
            sha256: f.sha256.clone(),
            ..testing::part(1)
        };
        let manifest =
            |f: &crate::library::FinishedFile| Manifest::new(Identity::from(&recording), describe(f));
        let finished = library.storage().finish(file, |_| "cam".into(), manifest).unwrap();
        library.commit_part(&recording.id, &describe(&finished)).await.unwrap();
        library.complete(&recording.id, Utc::now(), &Lost::default()).await.unwrap();
        recording.id
    }

    #[tokio::test]
    async fn what_is_locked_is_not_deleted() {
        let (_dir, library) = testing::library().await;
        let id = recorded(&library).await;
        for _ in 0..2 {
            library.set_locked(&id, true).await.unwrap();
        }
        assert!(library.get(&id).await.unwrap().unwrap().locked);
        assert!(matches!(library.delete(&id).await, Err(LibraryError::Locked(locked)) if locked == id));
        for _ in 0..2 {
            library.set_locked(&id, false).await.unwrap();
        }
        assert!(!library.storage().is_marked_locked(&id));
        library.delete(&id).await.unwrap();
        assert!(matches!(library.set_locked(&id, true).await, Err(LibraryError::Unknown(_))));
        assert!(!library.storage().is_marked_locked(&id), "no marker is left of a call for nothing");
    }

    #[tokio::test]
    async fn a_lock_is_still_there_when_the_catalog_is_lost() {
        let (dir, library) = testing::library().await;
        let id = recorded(&library).await;
        library.set_locked(&id, true).await.unwrap();
        library.close().await;
        fs::remove_dir_all(dir.path().join("state")).unwrap();
        let library = reopen(&dir).await;
        recover(&library, &HandOn::default(), |_| Ok(None)).await;
        assert!(library.get(&id).await.unwrap().expect("it is entered").locked);
        assert!(matches!(library.delete(&id).await, Err(LibraryError::Locked(_))));
    }
}
