//! Opening the catalog; one that is damaged makes room for a new one, which is filled from the manifests.

use super::{
    HandOn, LibraryError,
    catalog::{from_json, get, id_of, part_of, recording_of},
    outbox, sql,
    storage::rename_new,
};
use chrono::Utc;
use futures_util::TryStreamExt;
use sqlx::{
    ConnectOptions, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

static MIGRATIONS: Migrator = sqlx::migrate!("src/library/migrations");

/// Primary result codes of SQLite (sqlite.org/rescode.html).
const SQLITE_ERROR: i32 = 1;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;
const RESERVE_BYTES: u64 = 512 << 10;
/// Names that are tried for a damaged catalog within one second.
const MAX_ASIDE: u32 = 100;

/// The connection that writes, to a catalog that is checked and has the tables of this version.
///
/// A file that is damaged, or no database at all, is renamed to `FILE.corrupt-TIME` (with its `-wal` and `-shm`), never
/// over another, and an empty catalog takes its place. The database of a newer version, or of another program, is an
/// error: it is not touched.
pub(super) async fn open(options: &SqliteConnectOptions) -> Result<SqlitePool, LibraryError> {
    let file = options.get_filename();
    let thorough = !is_as_closed(file);
    let mut opened = checked(options, thorough).await;
    if opened.as_ref().is_err_and(is_disk_error) && fs::remove_file(reserve_of(file)).is_ok() {
        tracing::error!(catalog = %file.display(), "the disk of the catalog is full: its reserve is used up; make room");
        opened = checked(options, thorough).await;
    } else {
        // Without it a later start may fail; this one need not.
        let _ = keep_reserve(file);
    }
    let error = match opened {
        Err(error) if is_damage(&error) => error,
        other => return other,
    };
    let aside = set_aside(file)
        .map_err(|e| LibraryError::Open { file: file.to_path_buf(), source: sqlx::Error::Io(e) })?;
    tracing::error!(
        catalog = %file.display(), kept = %aside.display(), %error,
        "the catalog is damaged: it was set aside, and a new one is made from the manifests in the records folder"
    );
    let pool = checked(options, thorough).await?;
    match keep_owed(&pool, &aside).await {
        Ok(deliveries) => {
            tracing::warn!(deliveries, "were still to be made; they are made when their files are entered");
        }
        Err(error) => {
            tracing::error!(%error, "what was still to be delivered is lost with the damaged catalog")
        }
    }
    Ok(pool)
}

/// A new catalog in memory. Its one connection is the catalog, so it is never closed for its age.
pub(super) async fn in_memory() -> Result<SqlitePool, LibraryError> {
    let options = SqliteConnectOptions::new().in_memory(true);
    let file = options.get_filename().to_path_buf();
    let open = |source| LibraryError::Open { file: file.clone(), source };
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.connect_with(options).await.map_err(open)?;
    check(&pool, &file, false).await?;
    Ok(pool)
}

/// A catalog in WAL mode cannot be opened, not even to be read, without 32 KiB for its `-shm`; so a daemon that was ended
/// would not start again on a full disk. `FILE.reserve` keeps that, and some room for what is recorded then.
fn reserve_of(file: &Path) -> PathBuf {
    with_suffix(file, ".reserve")
}

/// Makes the reserve of the catalog `file` where it is missing. Blocks.
pub(super) fn keep_reserve(file: &Path) -> io::Result<()> {
    let reserve = reserve_of(file);
    if fs::metadata(&reserve).is_ok_and(|found| found.len() >= RESERVE_BYTES) {
        return Ok(());
    }
    let kept = fs::write(&reserve, vec![0; RESERVE_BYTES as usize]);
    if kept.is_err() {
        // Half of it would only take what others need.
        let _ = fs::remove_file(&reserve);
    }
    kept
}

/// What SQLite says of a full disk depends on the file that does not fit.
fn is_disk_error(error: &LibraryError) -> bool {
    matches!(error, LibraryError::Open { source, .. } if [SQLITE_IOERR, SQLITE_FULL].contains(&code(source)))
        || matches!(error, LibraryError::Migrate { source, .. }
            if is_code(source, SQLITE_IOERR) || is_code(source, SQLITE_FULL))
}

async fn checked(options: &SqliteConnectOptions, thorough: bool) -> Result<SqlitePool, LibraryError> {
    let file = options.get_filename();
    let open = |source| LibraryError::Open { file: file.to_path_buf(), source };
    let pool =
        SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
    match check(&pool, file, thorough).await {
        Ok(()) => Ok(pool),
        Err(error) => {
            pool.close().await;
            Err(error)
        }
    }
}

/// Notes in `FILE.closed` how the catalog was closed. Blocks.
pub(super) fn note_closed(file: &Path) -> io::Result<()> {
    fs::write(with_suffix(file, ".closed"), looks(file)?)
}

/// Whether the last daemon closed it, and nobody has written to it since, nor put another in its place.
fn is_as_closed(file: &Path) -> bool {
    // Who closes a catalog leaves none.
    let has_wal = fs::metadata(with_suffix(file, "-wal")).is_ok_and(|found| found.len() > 0);
    let noted = fs::read_to_string(with_suffix(file, ".closed"));
    !has_wal && noted.is_ok_and(|noted| looks(file).is_ok_and(|now| now == noted))
}

fn looks(file: &Path) -> io::Result<String> {
    let found = fs::metadata(file)?;
    Ok(format!("{} {}.{:09} {}", found.len(), found.mtime(), found.mtime_nsec(), found.ino()))
}

/// `thorough`: also whether every index holds what its table does, and every row what is written there. With a million rows that
/// takes many times as long.
async fn check(pool: &SqlitePool, file: &Path, thorough: bool) -> Result<(), LibraryError> {
    let open = |source| LibraryError::Open { file: file.to_path_buf(), source };
    let damaged = |what: String| LibraryError::Damaged { file: file.to_path_buf(), what };
    let pragma = if thorough { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let found: String = sqlx::query_scalar(pragma).fetch_one(pool).await.map_err(open)?;
    if found != "ok" {
        return Err(damaged(found));
    }
    if let Err(source) = MIGRATIONS.run(pool).await {
        let nonsense = is_code(&source, SQLITE_ERROR) || matches!(source, MigrateError::VersionMismatch(_));
        if is_ours(pool).await && (nonsense || has_a_hole(pool).await) {
            return Err(damaged(format!("its tables are not those of any version: {source}")));
        }
        return Err(LibraryError::Migrate { file: file.to_path_buf(), source });
    }
    if !thorough {
        return Ok(());
    }
    match read_all(pool).await {
        Err(error) if is_nonsense(&error) => Err(damaged(error.to_string())),
        // An error of the disk is told by whoever meets it next.
        _ => Ok(()),
    }
}

/// Reads every row as others will: damage within a page is nothing that SQLite's own check sees.
async fn read_all(pool: &SqlitePool) -> Result<(), LibraryError> {
    const WHAT: &str = "read its rows";
    let mut rows = sqlx::query("SELECT * FROM recording").fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(sql(WHAT))? {
        recording_of(&row)?;
        if let Some(hand_on) = get::<Option<String>>(&row, "hand_on")? {
            from_json::<HandOn>("hand_on", hand_on)?;
        }
    }
    drop(rows);
    let mut rows = sqlx::query("SELECT * FROM part").fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(sql(WHAT))? {
        id_of(&row, "recording_id")?;
        part_of(&row)?;
    }
    drop(rows);
    let mut rows = sqlx::query("SELECT * FROM writing").fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(sql(WHAT))? {
        id_of(&row, "recording_id")?;
        get::<u32>(&row, "number")?;
        get::<&str>(&row, "file")?;
        get::<Option<i64>>(&row, "started_at_ms")?;
    }
    Ok(())
}

/// What this version does not write, nor an older one. A later one that writes new words has a migration of its own, be
/// it an empty one: its catalog has been refused before.
fn is_nonsense(error: &LibraryError) -> bool {
    match error {
        LibraryError::Value { .. } => true,
        LibraryError::Sql {
            source: sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnDecode { .. },
            ..
        } => true,
        LibraryError::Sql { source, .. } => {
            [SQLITE_ERROR, SQLITE_CORRUPT, SQLITE_NOTADB].contains(&code(source))
        }
        _ => false,
    }
}

/// Notes what a damaged catalog still had to deliver.
async fn keep_owed(pool: &SqlitePool, aside: &Path) -> Result<usize, sqlx::Error> {
    let old = SqliteConnectOptions::new().filename(aside).read_only(true);
    outbox::owed::keep(pool, &mut old.connect().await?).await
}

/// Whether it lacks a migration older than the newest it has: one of a newer version has all of ours.
async fn has_a_hole(pool: &SqlitePool) -> bool {
    let applied = sqlx::query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(pool).await;
    let applied: Vec<i64> = applied.unwrap_or_default();
    let newest = applied.iter().max().copied().unwrap_or(0);
    MIGRATIONS.iter().any(|ours| ours.version < newest && !applied.contains(&ours.version))
}

/// Whether a version of this program made the tables, and not another program.
async fn is_ours(pool: &SqlitePool) -> bool {
    let ours = sqlx::query_scalar("SELECT description = 'catalog' FROM _sqlx_migrations WHERE version = 1");
    ours.fetch_one(pool).await.unwrap_or(false)
}

fn is_damage(error: &LibraryError) -> bool {
    match error {
        LibraryError::Damaged { .. } => true,
        LibraryError::Open { source, .. } => [SQLITE_CORRUPT, SQLITE_NOTADB].contains(&code(source)),
        LibraryError::Migrate { source, .. } => {
            is_code(source, SQLITE_CORRUPT) || is_code(source, SQLITE_NOTADB)
        }
        _ => false,
    }
}

fn is_code(error: &MigrateError, wanted: i32) -> bool {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => code(source) == wanted,
        _ => false,
    }
}

/// SQLite's primary result code; 0 for what is no error of SQLite.
fn code(error: &sqlx::Error) -> i32 {
    let code = error.as_database_error().and_then(|e| e.code());
    code.and_then(|code| code.parse::<i32>().ok()).map_or(0, |code| code & 0xff)
}

/// Renames the database and what belongs to it; answers its new name.
fn set_aside(file: &Path) -> io::Result<PathBuf> {
    let time = Utc::now().format("%Y%m%dT%H%M%SZ");
    for n in 1..=MAX_ASIDE {
        let number = if n == 1 { String::new() } else { format!("_{n}") };
        let aside = with_suffix(file, &format!(".corrupt-{time}{number}"));
        if !rename_new(file, &aside)? {
            continue;
        }
        for suffix in ["-wal", "-shm"] {
            match rename_new(&with_suffix(file, suffix), &with_suffix(&aside, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(false) => fs::remove_file(with_suffix(file, suffix))?,
                _ => {}
            }
        }
        if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        return Ok(aside);
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "damaged catalogs have taken every name; remove some"))
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}
