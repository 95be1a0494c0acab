//! What a damaged catalog still had to deliver: kept aside in the one that takes its place, until the manifests tell of the
//! recordings and parts again.

use super::{
    super::{
        DeliveryKind, LibraryError, RecordingId,
        catalog::{from_json, get, to_json},
        sql,
    },
    HandOn, HookJob, Job,
    put::{self, Draft},
};
use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

/// Deliveries that are taken over, at most.
const MAX_OWED: usize = 1_000_000;
const OF_THIS_VERSION: &str =
    "SELECT key, kind, recording_id, part, job, state, attempts, error, progress FROM outbox ORDER BY id";
/// It knew hooks only; the job was theirs.
const BEFORE_ALL_KINDS: &str = "SELECT 'msg_' || lower(hex(randomblob(16))) AS key, kind, recording_id, part, job, \
     state, attempts, NULL AS error, NULL AS progress FROM outbox ORDER BY id";

/// Notes what the damaged catalog `old` still had to deliver, and what was to be done with recordings that had not ended, as far as
/// that can be read in it. Answers how many deliveries that are.
pub(in crate::library) async fn keep(
    pool: &SqlitePool,
    old: &mut SqliteConnection,
) -> Result<usize, sqlx::Error> {
    let knows_all = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('outbox') WHERE name = 'key')",
    );
    let knows_all = knows_all.fetch_one(&mut *old).await?;
    let mut tx = pool.begin().await?;
    let mut kept = 0;
    let mut rows = sqlx::query(if knows_all { OF_THIS_VERSION } else { BEFORE_ALL_KINDS }).fetch(&mut *old);
    // What cannot be read ends it.
    while let Ok(Some(row)) = rows.try_next().await {
        if kept == MAX_OWED {
            break;
        }
        let Some(draft) = draft_of(&row) else { continue };
        if keep_one(&mut tx, &draft).await? {
            kept += 1;
        }
    }
    drop(rows);
    if knows_all {
        keep_hand_on(&mut tx, old).await?;
    }
    tx.commit().await?;
    Ok(kept)
}

/// `None` for what this version would not write.
fn draft_of(row: &SqliteRow) -> Option<Draft> {
    let recording: Option<String> = row.try_get("recording_id").ok()?;
    let recording = match recording {
        Some(id) => Some(RecordingId::parse(&id)?),
        None => None,
    };
    let job: String = row.try_get("job").ok()?;
    let hook = || serde_json::from_str::<HookJob>(&job).ok().map(Job::Hook);
    let progress: Option<String> = row.try_get("progress").ok()?;
    Some(Draft {
        key: row.try_get("key").ok()?,
        recording,
        part: row.try_get("part").ok()?,
        job: serde_json::from_str(&job).ok().or_else(hook)?,
        dead: row.try_get::<String, _>("state").ok()? == "dead",
        attempts: row.try_get("attempts").ok()?,
        error: row.try_get("error").ok()?,
        progress: progress.and_then(|json| serde_json::from_str(&json).ok()),
    })
}

/// News of the daemon itself waits for no manifest.
async fn keep_one(tx: &mut SqliteConnection, draft: &Draft) -> Result<bool, sqlx::Error> {
    let Some(recording) = &draft.recording else {
        return Ok(put::insert(tx, draft, "take over a delivery").await.is_ok());
    };
    let insert = sqlx::query(
        "INSERT OR IGNORE INTO owed (key, kind, recording_id, part, job, dead, attempts, error, progress) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    );
    let insert = insert
        .bind(&draft.key)
        .bind(draft.job.kind().as_str())
        .bind(recording.to_string())
        .bind(draft.part)
        .bind(to_json(&draft.job))
        .bind(draft.dead)
        .bind(draft.attempts)
        .bind(&draft.error)
        .bind(draft.progress.as_ref().map(to_json));
    Ok(insert.execute(tx).await?.rows_affected() > 0)
}

async fn keep_hand_on(tx: &mut SqliteConnection, old: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query_as::<_, (String, String)>(
        "SELECT id, hand_on FROM recording WHERE hand_on IS NOT NULL AND status NOT IN ('completed', 'failed', 'recovered')",
    )
    .fetch(old);
    while let Ok(Some((id, hand_on))) = rows.try_next().await {
        if RecordingId::parse(&id).is_none() || serde_json::from_str::<HandOn>(&hand_on).is_err() {
            continue;
        }
        let insert = sqlx::query("INSERT OR IGNORE INTO owed_hand_on (recording_id, hand_on) VALUES (?, ?)");
        insert.bind(id).bind(hand_on).execute(&mut *tx).await?;
    }
    Ok(())
}

/// What was to be done with a recording that is entered again.
pub(in crate::library) async fn hand_on_of(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    what: &'static str,
) -> Result<Option<HandOn>, LibraryError> {
    let json: Option<String> = sqlx::query_scalar("SELECT hand_on FROM owed_hand_on WHERE recording_id = ?")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(sql(what))?;
    json.map(|json| from_json("hand_on", json)).transpose()
}

/// Puts in again what was owed of a recording that is entered: with a `part` its files, else its news. Answers how many.
pub(in crate::library) async fn restore(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    part: Option<u32>,
    what: &'static str,
) -> Result<usize, LibraryError> {
    let rows = sqlx::query(
        "SELECT number, key, kind, recording_id, part, job, CASE dead WHEN 1 THEN 'dead' ELSE 'waiting' END AS state, attempts, error, \
         progress FROM owed WHERE recording_id = ?1 AND CASE WHEN ?2 IS NULL THEN kind = 'webhook' \
         ELSE kind != 'webhook' AND part = ?2 END ORDER BY number",
    )
    .bind(id.to_string())
    .bind(part)
    .fetch_all(&mut *tx)
    .await
    .map_err(sql(what))?;
    for row in &rows {
        if let Some(draft) = draft_of(row) {
            put::insert(tx, &draft, what).await?;
        }
        let taken = sqlx::query("DELETE FROM owed WHERE number = ?").bind(get::<i64>(row, "number")?);
        taken.execute(&mut *tx).await.map_err(sql(what))?;
    }
    Ok(rows.len())
}

/// Every recording of before is entered: what is left is of files that are gone. Answers how many.
pub(in crate::library) async fn forget(
    tx: &mut SqliteConnection,
    what: &'static str,
) -> Result<u64, LibraryError> {
    let left = sqlx::query("DELETE FROM owed WHERE kind != ?").bind(DeliveryKind::Webhook.as_str());
    let left = left.execute(&mut *tx).await.map_err(sql(what))?.rows_affected();
    for table in ["DELETE FROM owed", "DELETE FROM owed_hand_on"] {
        sqlx::query(table).execute(&mut *tx).await.map_err(sql(what))?;
    }
    Ok(left)
}
