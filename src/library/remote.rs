//! Copies of parts in an object store, and the end of their local ones.
//!
//! An upload ends with [`set_remote`](Library::set_remote): the manifest, then the row tell where the copy is. A local file
//! is given up by [`free_local`](Library::free_local), which is never the last copy's end:
//!
//! 1. The caller has just seen the object in the store: its size and its checksum are the part's.
//! 2. Under the lock of the files: the row still tells of that object, and nothing of the part is left to be delivered.
//! 3. The manifest that says so (`remote`, `local: false`) takes the place of the one before; fsync the folder.
//! 4. The file goes; fsync the folder.
//! 5. The row tells it.
//!
//! A crash after 3 or 4 leaves a row that says the file is here: the next pass does all of it again, and a file that is
//! gone already is not missed. A catalog that is made anew has the part from its manifest, with or without the file.
//!
//! Deleting a recording notes its objects, and uploads that were not ended, in `deleting_remote`, in the transaction that takes
//! the rows out ([`note_remote`]). A note goes when the store has none of it any more, however long that takes.

use super::{
    Library, LibraryError, Manifest, Part, RecordingId, Storage, StorageError,
    catalog::{count_of, get, id_of},
    files::with_suffix,
    sql,
    storage::io_error,
};
use chrono::{DateTime, Utc};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Parts or notes that are read at once.
const PAGE: i64 = 100;

/// An object that is a part's copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `s3://bucket/prefix/NAME.EXT`.
    pub url: String,
    /// As the store told it when the object was whole; `None` where it tells none.
    pub etag: Option<String>,
}

/// A part that is in the store, and whose file is still here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCopy {
    pub recording: RecordingId,
    pub number: u32,
    pub remote: Remote,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Where the next page begins.
    pub after: (i64, i64),
}

/// What is to go from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDeletion {
    pub object: Remote,
    pub recording: RecordingId,
    pub number: u32,
    /// A multipart upload to end, of the same object.
    pub upload: Option<String>,
}

/// What an upload needs to know of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadFacts {
    pub part: Part,
    pub remote: Option<Remote>,
    /// Its poster may still be made.
    pub poster_awaited: bool,
}

impl Library {
    /// `None`: there is no such part (any more).
    pub async fn upload_facts(
        &self,
        id: &RecordingId,
        number: u32,
    ) -> Result<Option<UploadFacts>, LibraryError> {
        let row = sqlx::query("SELECT * FROM part WHERE recording_id = ? AND number = ?")
            .bind(id.to_string())
            .bind(number)
            .fetch_optional(self.readers())
            .await
            .map_err(sql("read a part"))?;
        let facts = |row: &SqliteRow| {
            let part = super::catalog::part_of(row)?;
            let poster_awaited = part.poster.is_none() && get::<i64>(row, "poster_tries")? > 0;
            Ok(UploadFacts { part, remote: remote_of(row)?, poster_awaited })
        };
        row.as_ref().map(facts).transpose()
    }

    /// Notes, in the manifest and in the row, that a part is in the store too. False: there is no such part any more, and
    /// `remote` is noted to be deleted.
    pub async fn set_remote(
        &self,
        id: &RecordingId,
        number: u32,
        remote: &Remote,
        now: DateTime<Utc>,
    ) -> Result<bool, LibraryError> {
        const WHAT: &str = "note a copy in the store";
        let _files = self.inner.files.lock().await;
        let Some(UploadFacts { part, .. }) = self.upload_facts(id, number).await? else {
            let mut tx = self.write(WHAT).await?;
            note(&mut tx, id, number, remote, WHAT).await?;
            tx.commit().await.map_err(sql(WHAT))?;
            return Ok(false);
        };
        if part.remote.as_ref() != Some(&remote.url) {
            let (file, url) = (part.file, remote.url.clone());
            self.change_manifest(*id, number, file, move |part| part.remote = Some(url)).await?;
        }
        let mut tx = self.write(WHAT).await?;
        sqlx::query(
            "UPDATE part SET remote = ?, remote_etag = ?, remote_at_ms = coalesce(remote_at_ms, ?) \
             WHERE recording_id = ? AND number = ?",
        )
        .bind(&remote.url)
        .bind(&remote.etag)
        .bind(now.timestamp_millis())
        .bind(id.to_string())
        .bind(number)
        .execute(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(true)
    }

    /// The next parts whose files may go: in the store since `before` or longer, and everything delivered. A delivery that
    /// was given up is not delivered.
    pub async fn local_copies(
        &self,
        before: DateTime<Utc>,
        after: (i64, i64),
    ) -> Result<Vec<LocalCopy>, LibraryError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT p.rowid AS place, p.* FROM part p INDEXED BY part_to_free WHERE {DELIVERED} \
             AND p.remote_at_ms <= ?1 AND (p.remote_at_ms, p.rowid) > (?2, ?3) \
             ORDER BY p.remote_at_ms, p.rowid LIMIT ?4"
        )))
        .bind(before.timestamp_millis())
        .bind(after.0)
        .bind(after.1)
        .bind(PAGE)
        .fetch_all(self.readers())
        .await
        .map_err(sql("read which files may go"))?;
        let copy = |row: &SqliteRow| {
            let remote = remote_of(row)?;
            Ok(LocalCopy {
                recording: id_of(row, "recording_id")?,
                number: get(row, "number")?,
                remote: remote.ok_or(LibraryError::Value { column: "remote", value: String::new() })?,
                size: count_of(row, "size")?,
                sha256: get(row, "sha256")?,
                after: (get(row, "remote_at_ms")?, get(row, "place")?),
            })
        };
        rows.iter().map(copy).collect()
    }

    /// Deletes the local file of a part whose copy in the store has just been looked at. False: it may not go (any more).
    pub async fn free_local(&self, copy: &LocalCopy) -> Result<bool, LibraryError> {
        const WHAT: &str = "note that a file is in the store only";
        let _files = self.inner.files.lock().await;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT p.file FROM part p WHERE {DELIVERED} AND p.recording_id = ? AND p.number = ? AND p.remote = ?"
        )))
        .bind(copy.recording.to_string())
        .bind(copy.number)
        .bind(&copy.remote.url)
        .fetch_optional(self.readers())
        .await
        .map_err(sql(WHAT))?;
        let Some(row) = row else { return Ok(false) };
        let file = PathBuf::from(get::<String>(&row, "file")?);
        if !self.storage().holds(&file) {
            return Ok(false);
        }
        let url = copy.remote.url.clone();
        let told = move |part: &mut Part| {
            part.remote = Some(url);
            part.local = false;
        };
        self.change_manifest(copy.recording, copy.number, file.clone(), told).await?;
        let storage = self.storage().clone();
        let removed = tokio::task::spawn_blocking(move || remove(&storage, &file)).await;
        removed.map_err(|e| io_error("cannot delete", self.storage().folder())(io::Error::other(e)))??;
        let mut tx = self.write(WHAT).await?;
        sqlx::query("UPDATE part SET local = 0 WHERE recording_id = ? AND number = ?")
            .bind(copy.recording.to_string())
            .bind(copy.number)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(true)
    }

    /// The next objects that are to go, behind `after` (empty: the first).
    pub async fn remote_deletions(&self, after: &str) -> Result<Vec<RemoteDeletion>, LibraryError> {
        let rows = sqlx::query("SELECT * FROM deleting_remote WHERE object > ? ORDER BY object LIMIT ?")
            .bind(after)
            .bind(PAGE)
            .fetch_all(self.readers())
            .await
            .map_err(sql("read what is to go from the store"))?;
        let deletion = |row: &SqliteRow| {
            Ok(RemoteDeletion {
                object: Remote { url: get(row, "object")?, etag: get(row, "etag")? },
                recording: id_of(row, "recording_id")?,
                number: get(row, "number")?,
                upload: get(row, "upload")?,
            })
        };
        rows.iter().map(deletion).collect()
    }

    /// The store has none of it any more.
    pub async fn remote_deleted(&self, done: &RemoteDeletion) -> Result<(), LibraryError> {
        const WHAT: &str = "note that an object is gone";
        let mut tx = self.write(WHAT).await?;
        sqlx::query("DELETE FROM deleting_remote WHERE object = ? AND recording_id = ? AND number = ?")
            .bind(&done.object.url)
            .bind(done.recording.to_string())
            .bind(done.number)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Who calls holds the lock of the files.
    async fn change_manifest(
        &self,
        id: RecordingId,
        number: u32,
        file: PathBuf,
        change: impl FnOnce(&mut Part) + Send + 'static,
    ) -> Result<(), LibraryError> {
        let (storage, path) = (self.storage().clone(), Manifest::path_of(&file));
        let replace = move || {
            replace_manifest(&file, (id, number), change)?;
            storage.sync_folder()
        };
        let replaced = tokio::task::spawn_blocking(replace).await;
        Ok(replaced.map_err(|e| io_error("cannot replace", &path)(io::Error::other(e)))??)
    }
}

/// Of a part `p`: it is in the store, its file is here, and it has nothing left to be delivered, nor to be made.
pub(super) const DELIVERED: &str = "p.remote IS NOT NULL AND p.local = 1 AND p.poster_tries = 0 AND NOT EXISTS \
     (SELECT 1 FROM outbox o WHERE o.recording_id = p.recording_id AND (o.part = p.number OR o.part IS NULL))";

/// Of a recording whose rows are about to go: its objects, and uploads that were not ended. Their progress tells of them.
pub(super) async fn note_remote(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    what: &'static str,
) -> Result<(), LibraryError> {
    for statement in [
        "INSERT OR REPLACE INTO deleting_remote SELECT json_extract(progress, '$.object'), recording_id, part, NULL, \
         json_extract(progress, '$.upload') FROM outbox WHERE recording_id = ? \
         AND json_extract(progress, '$.object') IS NOT NULL",
        "INSERT OR REPLACE INTO deleting_remote SELECT remote, recording_id, number, remote_etag, NULL FROM part \
         WHERE recording_id = ? AND remote IS NOT NULL",
    ] {
        sqlx::query(statement).bind(id.to_string()).execute(&mut *tx).await.map_err(sql(what))?;
    }
    Ok(())
}

async fn note(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    number: u32,
    remote: &Remote,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query(
        "INSERT OR REPLACE INTO deleting_remote (object, recording_id, number, etag) VALUES (?, ?, ?, ?)",
    )
    .bind(&remote.url)
    .bind(id.to_string())
    .bind(number)
    .bind(&remote.etag)
    .execute(tx)
    .await
    .map_err(sql(what))?;
    Ok(())
}

fn remote_of(row: &SqliteRow) -> Result<Option<Remote>, LibraryError> {
    let url: Option<String> = get(row, "remote")?;
    let etag = get(row, "remote_etag")?;
    Ok(url.map(|url| Remote { url, etag }))
}

/// Puts a changed manifest in the place of the one of `file`, in one rename. One that is another part's is an error. Blocks;
/// who calls syncs the folder.
pub(super) fn replace_manifest(
    file: &Path,
    of: (RecordingId, u32),
    change: impl FnOnce(&mut Part),
) -> Result<(), StorageError> {
    let path = Manifest::path_of(file);
    let mut manifest = Manifest::read(&path)?;
    if (manifest.recording.id, manifest.part.number) != of {
        let other = io::Error::other("it is another recording's");
        return Err(io_error("cannot replace", &path)(other));
    }
    change(&mut manifest.part);
    let temp = with_suffix(file, ".temp");
    let placed = manifest
        .write(&temp)
        .map_err(StorageError::from)
        .and_then(|()| fs::rename(&temp, &path).map_err(io_error("cannot replace", &path)));
    if placed.is_err() {
        let _ = fs::remove_file(&temp);
    }
    placed
}

/// A file that is gone is no error. Blocks.
fn remove(storage: &Storage, file: &Path) -> Result<(), StorageError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("cannot delete", file)(e)),
        _ => {}
    }
    storage.sync_folder()
}
