//! What has been recorded: the records folder ([`Storage`]), the manifest beside each file and the catalog.
//!
//! The manifests are the truth; the catalog (SQLite) is an index of them, plus what is still to be delivered
//! (the outbox). A part and its outbox row are committed in one transaction, so a file that is in the catalog
//! is never forgotten by its hook, nor by those who are to be told of it.

mod adopt;
mod catalog;
mod delete;
mod enter;
mod files;
mod health;
mod list;
mod lock;
mod manifest;
mod objects;
mod open;
mod outbox;
mod posters;
mod recover;
mod remote;
mod retention;
mod room;
mod salvage;
mod storage;
mod strays;
#[cfg(test)]
pub(crate) mod testing;
mod verify;
mod webhooks;

pub use files::{PartFiles, content_type, poster_of};
pub use health::{Health, HealthNews};
pub use list::{Filter, Page};
pub use manifest::{Identity, Manifest, ManifestError};
pub use objects::{
    AudioPart, DeliveryKind, DeliveryState, HookResult, Lost, Part, PartDelivery, PartLost, Recording,
    RecordingId, Status, VideoPart,
};
pub use outbox::{
    DeliveredPart, Delivery, Due, HandOn, HookJob, Job, Letter, LetterFilter, LetterState, OutboxId, Tried,
    UploadJob, UploadTo, WebhookJob, shown_target,
};
pub use posters::PosterJob;
pub use recover::Interrupted;
pub use remote::{LocalCopy, Remote, RemoteDeletion, UploadFacts};
pub use retention::{DeletedFor, Ended, Stock, select};
pub use salvage::{Inspect, MakeWhole, Salvaged};
pub use storage::{FinishedFile, PartFile, Storage, StorageError};
pub use verify::{KnownPart, ReadOnlyCatalog};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::{
    path::PathBuf,
    str::FromStr,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("[database] url: {0:?} is not a database this version knows; write sqlite:FILE")]
    Url(String),
    #[error(
        "the catalog {file} cannot be opened: {source}; check [database] url, and that the file and its folder are \
         writable for the user reeld runs as"
    )]
    Open { file: PathBuf, source: sqlx::Error },
    #[error("the tables of the catalog {file} cannot be brought to this version: {source}")]
    Migrate { file: PathBuf, source: sqlx::migrate::MigrateError },
    #[error("the catalog {file} is damaged: {what}")]
    Damaged { file: PathBuf, what: String },
    #[error("the catalog could not {what}: {source}")]
    Sql { what: &'static str, source: sqlx::Error },
    #[error("the catalog holds {value:?} as {column}, which this version cannot read")]
    Value { column: &'static str, value: String },
    #[error("the catalog has no recording {0}")]
    Unknown(RecordingId),
    #[error("recording {id} is {now} and cannot become {wanted}", now = .now.as_str(), wanted = .wanted.as_str())]
    Past { id: RecordingId, now: Status, wanted: Status },
    #[error("recording {id} is {}, and is not deleted before it has ended", .status.as_str())]
    NotEnded { id: RecordingId, status: Status },
    #[error("recording {0} is locked, and is not deleted before it is unlocked")]
    Locked(RecordingId),
    #[error(
        "the recording is out of the catalog, but {file} could not be removed: {source}; the next start tries again"
    )]
    NotRemoved { file: PathBuf, source: std::io::Error },
    #[error("limit is {0}; it can be 1 to {max}", max = Filter::MAX_LIMIT)]
    Limit(u32),
    #[error("the cursor is not one this server gave out; leave it out to begin with the newest recording")]
    Cursor,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn sql(what: &'static str) -> impl Fn(sqlx::Error) -> LibraryError {
    move |source| LibraryError::Sql { what, source }
}

/// The catalog and the records folder. A cheap clone.
#[derive(Clone, Debug)]
pub struct Library {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None`: in memory.
    file: Option<PathBuf>,
    /// One connection: SQLite has one writer at a time, and waiting here is in order and without a time-out.
    writer: SqlitePool,
    readers: SqlitePool,
    storage: Storage,
    /// Held while files of finished parts are removed or replaced.
    files: tokio::sync::Mutex<()>,
    /// Recoveries under way.
    recovering: AtomicUsize,
}

impl Library {
    /// Opens the catalog at `url` (`sqlite:FILE`, or just the file's path), creating it and its folder when
    /// missing, and brings its tables up to date. One that is damaged is set aside, and an empty one takes its place:
    /// [`recover`](Self::recover) fills it from the manifests.
    ///
    /// The journal is a WAL with `synchronous=FULL`: what a method here has committed survives a power cut.
    pub async fn open(url: &str, storage: Storage) -> Result<Self, LibraryError> {
        let options = options(url)?;
        let file = options.get_filename().to_path_buf();
        if let Some(folder) = file.parent() {
            let open = |e| LibraryError::Open { file: file.clone(), source: sqlx::Error::Io(e) };
            tokio::fs::create_dir_all(folder).await.map_err(open)?;
        }
        let writer = open::open(&options).await?;
        let open = |source| LibraryError::Open { file: file.clone(), source };
        let readers =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(open)?;
        Ok(Self::with(Some(file), writer, readers, storage))
    }

    /// A catalog that is gone with the last clone: for one recording without a daemon, of which the file and its manifest
    /// are all that stays.
    pub async fn in_memory(storage: Storage) -> Result<Self, LibraryError> {
        let writer = open::in_memory().await?;
        Ok(Self::with(None, writer.clone(), writer, storage))
    }

    fn with(file: Option<PathBuf>, writer: SqlitePool, readers: SqlitePool, storage: Storage) -> Self {
        let (files, recovering) = (tokio::sync::Mutex::default(), AtomicUsize::new(0));
        Self { inner: Arc::new(Inner { file, writer, readers, storage, files, recovering }) }
    }

    pub fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    /// Waits for what is running and closes the catalog. Later calls fail.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
        let Some(file) = self.inner.file.clone() else { return };
        // A start on a full disk used it up; where it cannot be made now, the next start tries again.
        // And without the note it takes longer.
        let _ =
            tokio::task::spawn_blocking(move || (open::keep_reserve(&file), open::note_closed(&file))).await;
    }

    fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// A transaction that holds the write lock from its start, so that it cannot fail half-way because another
    /// process wrote.
    async fn write(&self, what: &'static str) -> Result<Transaction<'static, Sqlite>, LibraryError> {
        self.inner.writer.begin_with("BEGIN IMMEDIATE").await.map_err(sql(what))
    }
}

fn options(url: &str) -> Result<SqliteConnectOptions, LibraryError> {
    let options = match url.split_once("://") {
        _ if url.starts_with("sqlite:") => {
            SqliteConnectOptions::from_str(url).map_err(|_| LibraryError::Url(url.into()))?
        }
        // The rest of such a URL may hold a password.
        Some((scheme, _)) => return Err(LibraryError::Url(format!("{scheme}://..."))),
        None if url.is_empty() => return Err(LibraryError::Url(String::new())),
        None => SqliteConnectOptions::new().filename(url),
    };
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT))
}

#[cfg(test)]
mod catalog_tests;
#[cfg(test)]
mod delete_tests;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod recover_tests;
#[cfg(test)]
mod remote_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let file = |url| options(url).map(|o| o.get_filename().to_path_buf());
        assert_eq!(file("sqlite:/var/x.db").unwrap(), PathBuf::from("/var/x.db"));
        assert_eq!(file("sqlite:///var/x.db").unwrap(), PathBuf::from("/var/x.db"));
        assert_eq!(file("state/x.db").unwrap(), PathBuf::from("state/x.db"));
        let error = file("postgres://me:secret@db/x").unwrap_err().to_string();
        assert!(error.contains("postgres") && !error.contains("secret"), "{error}");
        assert!(file("").is_err());
    }

    #[tokio::test]
    async fn a_catalog_in_memory_takes_a_recording_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let library = Library::in_memory(storage.clone()).await.unwrap();
        let recording = testing::recording(0);
        library.begin(&recording, &HandOn::default()).await.unwrap();
        assert_eq!(library.get(&recording.id).await.unwrap().map(|r| r.id), Some(recording.id));
        // Not one for the whole process.
        let other = Library::in_memory(storage).await.unwrap();
        assert_eq!(other.get(&recording.id).await.unwrap(), None);
        library.close().await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!std::path::Path::new(":memory:").exists());
    }

    #[tokio::test]
    async fn a_catalog_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x.db")).unwrap();
        let storage = Storage::open(&dir.path().join("records")).unwrap();
        let url = dir.path().join("x.db");
        let error = Library::open(url.to_str().unwrap(), storage).await.unwrap_err().to_string();
        assert!(error.contains("x.db"), "{error}");
        assert!(url.is_dir());
    }
}
