//! Deleting a recording, so that nothing half-deleted comes back.
//!
//! 1. One transaction: its rows (parts, files being written, outbox) go, and the names of its files are noted in
//!    `deleting`, of its objects in the store in `deleting_remote` (`remote.rs` says what becomes of those). From here on
//!    nobody is told of it.
//! 2. Of each part: the file, then its manifest, then its poster. A manifest without its file is no recording; a
//!    file without its manifest would be taken for somebody's, and adopted.
//! 3. fsync the folder.
//! 4. The notes go.
//!
//! A crash in between leaves the notes: the next start goes on at 2, before it looks for files that nobody knows. Where the
//! catalog is lost at the same time, a file that still has its manifest is entered again: nothing else tells of it.

use super::{
    Library, LibraryError, Manifest, RecordingId, Storage,
    catalog::{get, id_of, status_of},
    files::poster_of,
    remote::note_remote,
    sql,
};
use sqlx::sqlite::SqliteRow;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// A file of a deleted recording.
#[derive(Clone, Debug)]
pub(super) struct Doomed {
    file: PathBuf,
    recording: RecordingId,
    number: u32,
    /// Bytes it had; `None` for a `.part`.
    size: Option<u64>,
    /// It was noted by an earlier daemon: by now its name may be another file's.
    left_over: bool,
    /// The catalog has another recording's file of this name.
    taken: bool,
}

const NOTED: &str = "SELECT d.file, d.recording_id, d.number, d.size, \
     EXISTS (SELECT 1 FROM part WHERE part.file = d.file) \
     OR EXISTS (SELECT 1 FROM writing WHERE writing.file = d.file) AS taken FROM deleting d";

impl Library {
    /// Deletes a recording that has ended, with its files, manifests and posters. Who reads one of them reads on.
    ///
    /// [`Locked`](LibraryError::Locked) while it is locked, [`NotEnded`](LibraryError::NotEnded) while it is recorded or made whole. After
    /// [`NotRemoved`](LibraryError::NotRemoved) the catalog has forgotten it, and the next start tries the rest again.
    pub async fn delete(&self, id: &RecordingId) -> Result<(), LibraryError> {
        let _files = self.inner.files.lock().await;
        let doomed = self.forget(id).await?;
        self.remove_files(doomed).await
    }

    /// Step 1.
    pub(super) async fn forget(&self, id: &RecordingId) -> Result<Vec<Doomed>, LibraryError> {
        const WHAT: &str = "delete a recording";
        let text = id.to_string();
        let mut tx = self.write(WHAT).await?;
        let row = sqlx::query(
            "SELECT status, locked, EXISTS (SELECT 1 FROM writing WHERE recording_id = ?1) AS unfinished FROM recording \
             WHERE id = ?1",
        )
        .bind(&text)
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(WHAT))?
        .ok_or(LibraryError::Unknown(*id))?;
        let status = status_of(&row)?;
        // A failed one may just now be made whole.
        let in_work = get::<bool>(&row, "unfinished")? && self.inner.recovering.load(Ordering::SeqCst) > 0;
        if !status.is_final() || in_work {
            return Err(LibraryError::NotEnded { id: *id, status });
        }
        if get(&row, "locked")? {
            return Err(LibraryError::Locked(*id));
        }
        note_remote(&mut tx, id, WHAT).await?;
        for statement in [
            "INSERT OR REPLACE INTO deleting SELECT file, recording_id, number, size FROM part WHERE recording_id = ?",
            "INSERT OR REPLACE INTO deleting SELECT file, recording_id, number, NULL FROM writing WHERE recording_id = ?",
            "DELETE FROM recording WHERE id = ?",
        ] {
            sqlx::query(statement).bind(&text).execute(&mut *tx).await.map_err(sql(WHAT))?;
        }
        let noted = sqlx::query(sqlx::AssertSqlSafe(format!("{NOTED} WHERE d.recording_id = ?")));
        let rows = noted.bind(&text).fetch_all(&mut *tx).await.map_err(sql(WHAT))?;
        let doomed = rows.iter().map(|row| doomed_of(row, false)).collect::<Result<_, _>>()?;
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(doomed)
    }

    /// Steps 2 to 4. The first file that could not be removed is the error; the others are gone.
    async fn remove_files(&self, doomed: Vec<Doomed>) -> Result<(), LibraryError> {
        const WHAT: &str = "note that files are gone";
        if doomed.is_empty() {
            return Ok(());
        }
        let storage = self.storage().clone();
        let removed = tokio::task::spawn_blocking(move || remove_all(&storage, doomed));
        let (gone, error) = removed.await.unwrap_or_else(|e| {
            let folder = self.storage().folder().to_path_buf();
            (Vec::new(), Some(LibraryError::NotRemoved { file: folder, source: io::Error::other(e) }))
        });
        let mut tx = self.write(WHAT).await?;
        for Doomed { file, .. } in gone {
            let note =
                sqlx::query("DELETE FROM deleting WHERE file = ?").bind(file.to_string_lossy().into_owned());
            note.execute(&mut *tx).await.map_err(sql(WHAT))?;
        }
        tx.commit().await.map_err(sql(WHAT))?;
        error.map_or(Ok(()), Err)
    }

    /// Goes on with what an earlier daemon had begun to delete. For the start, before anything is recorded.
    pub(super) async fn end_deletions(&self) -> Result<(), LibraryError> {
        let _files = self.inner.files.lock().await;
        let rows = sqlx::query(NOTED).fetch_all(self.readers()).await;
        let rows = rows.map_err(sql("read what is to be deleted"))?;
        let doomed = rows.iter().map(|row| doomed_of(row, true)).collect::<Result<Vec<_>, _>>()?;
        if doomed.is_empty() {
            return Ok(());
        }
        tracing::info!(files = doomed.len(), "were to be deleted when the last daemon ended");
        if let Err(error) = self.remove_files(doomed).await {
            tracing::error!(%error, "left to the next start");
        }
        Ok(())
    }
}

fn doomed_of(row: &SqliteRow, left_over: bool) -> Result<Doomed, LibraryError> {
    Ok(Doomed {
        file: PathBuf::from(get::<String>(row, "file")?),
        recording: id_of(row, "recording_id")?,
        number: get(row, "number")?,
        size: get::<Option<i64>>(row, "size")?.map(i64::unsigned_abs),
        left_over,
        taken: get(row, "taken")?,
    })
}

/// Those that are gone now, and why another one is not. Blocks.
fn remove_all(storage: &Storage, doomed: Vec<Doomed>) -> (Vec<Doomed>, Option<LibraryError>) {
    let (mut gone, mut error) = (Vec::new(), None);
    for doomed in doomed {
        match remove(storage, &doomed) {
            Ok(()) => gone.push(doomed),
            Err(source) => {
                error.get_or_insert(LibraryError::NotRemoved { file: doomed.file, source });
            }
        }
    }
    match storage.sync_folder() {
        Ok(()) => (gone, error),
        Err(e) => (Vec::new(), Some(e.into())),
    }
}

fn remove(storage: &Storage, doomed: &Doomed) -> io::Result<()> {
    let file = &doomed.file;
    if doomed.taken || !storage.holds(file) || !is_its_own(doomed)? {
        tracing::warn!(file = %file.display(), recording = %doomed.recording, "is not the deleted recording's; left there");
        return Ok(());
    }
    // Of a lock that was given up when the daemon died.
    if let Err(error) = storage.unmark_locked(&doomed.recording) {
        tracing::warn!(%error, "is left there");
    }
    for path in [file, &Manifest::path_of(file), &poster_of(file)] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// A manifest tells whose a file is. Where there is none, what an earlier daemon has noted counts for a file of that size.
fn is_its_own(doomed: &Doomed) -> io::Result<bool> {
    if let Ok(manifest) = Manifest::read(&Manifest::path_of(&doomed.file)) {
        return Ok(manifest.recording.id == doomed.recording && manifest.part.number == doomed.number);
    }
    let Some(size) = doomed.size.filter(|_| doomed.left_over) else { return Ok(true) };
    match size_of(&doomed.file)? {
        Some(found) => Ok(found == size),
        None => Ok(true),
    }
}

fn size_of(file: &Path) -> io::Result<Option<u64>> {
    match fs::symlink_metadata(file) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
