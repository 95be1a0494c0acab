//! The catalog as somebody else's: read beside a running daemon, or none, without a trace.

use super::{
    LibraryError, RecordingId,
    catalog::{count_of, get, id_of},
    sql,
};
use sqlx::{
    ConnectOptions, Connection, Row, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow},
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Parts on one page.
const PAGE: i64 = 500;
/// How often a page is read again because a daemon started meanwhile.
const MAX_TRIES: u32 = 3;

/// A part as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPart {
    pub recording: RecordingId,
    pub number: u32,
    pub file: PathBuf,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Where it is, when its file is in the store only.
    pub remote: Option<String>,
}

/// Reads a catalog and changes nothing: no migration, no lock that outlasts one page.
#[derive(Clone, Debug)]
pub struct ReadOnlyCatalog {
    file: PathBuf,
}

type Bound = Query<'static, Sqlite, SqliteArguments>;

impl ReadOnlyCatalog {
    /// Fails when there is no such file.
    pub fn open(file: &Path) -> Result<Self, LibraryError> {
        let open = |e| LibraryError::Open { file: file.into(), source: sqlx::Error::Io(e) };
        std::fs::metadata(file).map_err(open)?;
        Ok(Self { file: file.into() })
    }

    /// How many finished parts there are, and their bytes together.
    pub async fn totals(&self) -> Result<(u64, u64), LibraryError> {
        let rows = self
            .rows(|| sqlx::query("SELECT count(*) AS parts, coalesce(sum(size), 0) AS bytes FROM part"))
            .await?;
        rows.first().map_or(Ok((0, 0)), |row| Ok((count_of(row, "parts")?, count_of(row, "bytes")?)))
    }

    /// The next page of parts after `last`, in the order of the recordings' ids; empty behind the last.
    pub async fn parts_after(&self, last: Option<&KnownPart>) -> Result<Vec<KnownPart>, LibraryError> {
        let after = last.map_or((String::new(), 0), |p| (p.recording.to_string(), p.number));
        let page = || {
            sqlx::query(
                "SELECT * FROM part \
                 WHERE (recording_id, number) > (?, ?) ORDER BY recording_id, number LIMIT ?",
            )
            .bind(after.0.clone())
            .bind(after.1)
            .bind(PAGE)
        };
        self.rows(page).await?.iter().map(part_of).collect()
    }

    pub async fn part(&self, id: RecordingId, number: u32) -> Result<Option<KnownPart>, LibraryError> {
        let one = || {
            sqlx::query(
                "SELECT * FROM part \
                 WHERE recording_id = ? AND number = ?",
            )
            .bind(id.to_string())
            .bind(number)
        };
        self.rows(one).await?.first().map(part_of).transpose()
    }

    /// Whether part `number` is not finished, as the catalog has it.
    pub async fn is_writing(&self, id: RecordingId, number: u32) -> Result<bool, LibraryError> {
        let one = || {
            sqlx::query("SELECT 1 FROM writing WHERE recording_id = ? AND number = ?")
                .bind(id.to_string())
                .bind(number)
        };
        Ok(!self.rows(one).await?.is_empty())
    }

    /// Whether `file` is the `.part` of a part that is not finished, as the catalog has it.
    pub async fn is_writing_to(&self, file: &Path) -> Result<bool, LibraryError> {
        let Some(file) = file.to_str() else { return Ok(false) };
        let one = || sqlx::query("SELECT 1 FROM writing WHERE file = ?").bind(file.to_owned());
        Ok(!self.rows(one).await?.is_empty())
    }

    /// Without a journal nobody has the catalog open. Then it is read as a file that does not change, as SQLite
    /// would create a journal even to read; should a daemon start meanwhile, it is read again.
    async fn rows(&self, query: impl Fn() -> Bound) -> Result<Vec<SqliteRow>, LibraryError> {
        for _ in 0..MAX_TRIES {
            let unused = !self.has_journal();
            let read = self.rows_once(&query, unused).await;
            if !unused || !self.has_journal() {
                return read;
            }
        }
        self.rows_once(&query, false).await
    }

    async fn rows_once(
        &self,
        query: impl Fn() -> Bound,
        unused: bool,
    ) -> Result<Vec<SqliteRow>, LibraryError> {
        let open = |source| LibraryError::Open { file: self.file.clone(), source };
        let options = SqliteConnectOptions::new()
            .filename(&self.file)
            .read_only(true)
            .immutable(unused)
            .busy_timeout(BUSY_TIMEOUT);
        let mut connection = options.connect().await.map_err(open)?;
        let rows = query().fetch_all(&mut connection).await.map_err(sql("read what is recorded"))?;
        connection.close().await.map_err(sql("be closed"))?;
        Ok(rows)
    }

    fn has_journal(&self) -> bool {
        let mut journal = OsString::from(&self.file);
        journal.push("-wal");
        Path::new(&journal).exists()
    }
}

fn part_of(row: &SqliteRow) -> Result<KnownPart, LibraryError> {
    Ok(KnownPart {
        recording: id_of(row, "recording_id")?,
        number: get(row, "number")?,
        file: PathBuf::from(get::<String>(row, "file")?),
        size: count_of(row, "size")?,
        sha256: get(row, "sha256")?,
        remote: remote_of(row)?,
    })
}

/// The catalog of an older version has nothing in a store.
fn remote_of(row: &SqliteRow) -> Result<Option<String>, LibraryError> {
    let is_old = row.try_column("remote").is_err();
    if is_old || get::<bool>(row, "local")? { Ok(None) } else { get(row, "remote") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{HandOn, Library, testing};
    use std::collections::BTreeSet;

    fn names(folder: &Path) -> BTreeSet<OsString> {
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect()
    }

    async fn enter(library: &Library, numbers: std::ops::Range<u32>) -> RecordingId {
        let recording = testing::recording(0);
        library.begin(&recording, &HandOn::default()).await.unwrap();
        for number in numbers {
            library.commit_part(&recording.id, &testing::part(number)).await.unwrap();
        }
        recording.id
    }

    async fn count(catalog: &ReadOnlyCatalog) -> usize {
        let (mut seen, mut last) = (0, None);
        loop {
            let page = catalog.parts_after(last.as_ref()).await.unwrap();
            let Some(end) = page.last() else { return seen };
            (seen, last) = (seen + page.len(), Some(end.clone()));
        }
    }

    #[tokio::test]
    async fn it_is_read_beside_a_daemon_and_without_one() {
        let (dir, library) = testing::library().await;
        let state = dir.path().join("state");
        let file = state.join("reeld.db");
        let catalog = ReadOnlyCatalog::open(&file).unwrap();
        enter(&library, 1..PAGE as u32 + 4).await;
        assert_eq!(count(&catalog).await, PAGE as usize + 3);
        assert_eq!(catalog.totals().await.unwrap(), (PAGE as u64 + 3, 1000 * (PAGE as u64 + 3)));
        // What is committed meanwhile is seen, and nobody waits for a reader.
        let id = enter(&library, 1..3).await;
        assert_eq!(count(&catalog).await, PAGE as usize + 5);
        assert_eq!(catalog.part(id, 2).await.unwrap().unwrap().file, testing::part(2).file);
        assert_eq!(catalog.part(id, 3).await.unwrap(), None);

        library.begin_part(&id, 3, Path::new("/records/x.mp4.part"), chrono::Utc::now()).await.unwrap();
        assert!(catalog.is_writing(id, 3).await.unwrap() && !catalog.is_writing(id, 2).await.unwrap());
        assert!(catalog.is_writing_to(Path::new("/records/x.mp4.part")).await.unwrap());

        library.close().await;
        let (before, bytes) = (names(&state), std::fs::read(&file).unwrap());
        assert_eq!(count(&catalog).await, PAGE as usize + 5);
        assert_eq!(names(&state), before, "nothing is left behind");
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }

    #[tokio::test]
    async fn what_is_no_catalog_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.db");
        let error = ReadOnlyCatalog::open(&file).unwrap_err().to_string();
        assert!(error.contains("x.db"), "{error}");
        std::fs::write(&file, "this is a text file, not a database, and long enough").unwrap();
        assert!(ReadOnlyCatalog::open(&file).unwrap().totals().await.is_err());
    }
}
