//! Makes the rows: by SQLite itself, in bulk, with the indexes made at the end.

use std::path::Path;

use anyhow::Result;
use sqlx::{
    AssertSqlSafe, ConnectOptions, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// Start of the first recording, Unix ms; each begins a second after the one before.
pub const FIRST_MS: i64 = 1_700_000_000_000;
pub const STEP_MS: i64 = 1_000;
/// Half of all recordings are in it, and none of them failed.
pub const BIG_ROOM: &str = "court";
/// Of a hundred small rooms.
pub const SMALL_ROOM: &str = "room-7";
/// Of a thousand streams. It is in the big room and in small ones.
pub const STREAM: &str = "camera-41";

/// Version 4, with nothing but chance in it, as the daemon makes them.
const UUID: &str = "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) \
                    || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))";

const RECORDINGS: &str = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ROWS), \
     named AS (SELECT i, CASE WHEN i % 2 = 0 THEN 'court' ELSE 'room-' || (i / 2 % 100) END AS room FROM n) \
     INSERT INTO recording (id, status, room_name, room_id, stream_name, media_session_id, session_id, protocol, \
     container, started_at_ms, ended_at_ms, duration_ms, size, lost, error) \
     SELECT UUID, CASE WHEN i % 50 = 1 THEN 'failed' WHEN i % 50 = 2 THEN 'recovered' ELSE 'completed' END, room, \
     room, 'camera-' || (i / 3 % 1000), UUID, 'LzEwLjAuMC4xOjUwMDAvMTAuMC4wLjI6MTkzNQ', 'rtmp', 'mp4', \
     1700000000000 + i * 1000, 1700000060000 + i * 1000, 60000, 15000000, \
     '{\"packets\":0,\"frames\":0,\"gaps\":[]}', CASE WHEN i % 50 = 1 THEN 'the disk is full' END FROM named";

const PARTS: &str = "INSERT INTO part (recording_id, number, file, name, size, sha256, started_at_ms, duration_ms, \
     video, audio, gaps, hook) \
     SELECT id, number, '/srv/records/' || stream_name || '-' || started_at_ms || '_' || number || '.mp4', \
     stream_name || '-' || started_at_ms || '_' || number || '.mp4', 15000000, lower(hex(randomblob(32))), \
     started_at_ms, 60000, \
     '{\"codec\":\"h264\",\"width\":1280,\"height\":720,\"frames\":1800,\"keyframes\":30}', \
     '{\"codec\":\"aac\",\"rate\":48000,\"channels\":2,\"frames\":2812}', '[]', \
     '{\"exit\":0,\"attempts\":1,\"output\":\"\"}' \
     FROM recording JOIN (SELECT 1 AS number UNION ALL SELECT 2 UNION ALL SELECT 3) \
     ON number = 1 OR recording.rowid % 10 = 0";

/// Fills the empty catalog `file`, which nobody has open.
pub async fn fill(file: &Path, rows: u32) -> Result<()> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-262144");
    let mut catalog = options.connect().await?;
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name IN ('recording', 'part') \
         AND sql IS NOT NULL",
    )
    .fetch_all(&mut catalog)
    .await?;
    for (name, _) in &indexes {
        run(&mut catalog, format!("DROP INDEX {name}")).await?;
    }
    run(&mut catalog, RECORDINGS.replace("ROWS", &rows.to_string()).replace("UUID", UUID)).await?;
    run(&mut catalog, PARTS.to_owned()).await?;
    for (_, sql) in indexes {
        run(&mut catalog, sql).await?;
    }
    run(&mut catalog, "PRAGMA wal_checkpoint(TRUNCATE)".to_owned()).await?;
    Ok(())
}

async fn run(catalog: &mut SqliteConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(catalog).await?;
    Ok(())
}
