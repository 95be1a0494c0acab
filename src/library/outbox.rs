//! The outbox: hooks that are still to run, kept until they succeed or are given up.
//!
//! The hooks of one recording run in the order of its parts: a later part is held until each earlier one is
//! through, or has failed `HELD_ATTEMPTS` times, so that one bad file does not keep back the rest for days.

use super::{
    DeliveryKind, DeliveryState, HookResult, Library, LibraryError, Part, PartDelivery, RecordingId, Status,
    catalog::{count_of, from_json, get, id_of, path_text, session_of, time, to_json},
    sql,
};
use crate::media::MediaSessionId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use std::path::PathBuf;

/// After so many failures an entry no longer holds back the later parts of its recording.
pub(super) const HELD_ATTEMPTS: u32 = 5;

/// Identity of an entry.
pub type OutboxId = i64;

/// What [`commit_part`](Library::commit_part) puts in the outbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookJob {
    /// Absolute path.
    pub script: PathBuf,
    /// What the script is told as `REELD_STATUS`.
    pub status: Status,
}

/// An entry whose time has come, with all its hook is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub id: OutboxId,
    pub recording: RecordingId,
    /// Number of the part.
    pub part: u32,
    /// How often it has failed.
    pub attempts: u32,
    /// When it failed first.
    pub first_tried_at: Option<DateTime<Utc>>,
    pub job: HookJob,
    pub stream_name: String,
    pub room_name: String,
    pub media_session_id: MediaSessionId,
    pub container: String,
    /// Absolute path.
    pub file: PathBuf,
    pub duration_ms: u64,
    /// Bytes.
    pub size: u64,
}

impl Library {
    /// At most `limit` entries to deliver at `now`: first those never tried, oldest first, then by due time.
    /// An entry stays in this list until `outbox_done`, `outbox_retry` or `outbox_give_up`.
    pub async fn outbox_due(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<Delivery>, LibraryError> {
        let rows = sqlx::query(
            "SELECT o.id, o.recording_id, o.part, o.attempts, o.first_tried_at_ms, o.job, r.stream_name, \
             r.room_name, r.media_session_id, r.container, p.file, p.duration_ms, p.size FROM outbox o \
             JOIN recording r ON r.id = o.recording_id \
             JOIN part p ON p.recording_id = o.recording_id AND p.number = o.part \
             WHERE o.kind = 'hook' AND o.state = 'waiting' AND o.next_at_ms <= ? \
             ORDER BY o.next_at_ms, o.id LIMIT ?",
        )
        .bind(now.timestamp_millis())
        .bind(limit)
        .fetch_all(self.readers())
        .await
        .map_err(sql("read the outbox"))?;

        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            match delivery_of(row) {
                Ok(delivery) => due.push(delivery),
                // One row that cannot be read must not stand in the way of the others.
                Err(e) => self.bury(get(row, "id")?, e).await?,
            }
        }
        Ok(due)
    }

    /// When the next entry is due after `now`; `None` when none is waiting for its time.
    pub async fn outbox_next_due(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, LibraryError> {
        let next: Option<i64> = sqlx::query_scalar(
            "SELECT min(next_at_ms) FROM outbox WHERE kind = 'hook' AND state = 'waiting' AND next_at_ms > ?",
        )
        .bind(now.timestamp_millis())
        .fetch_one(self.readers())
        .await
        .map_err(sql("read the outbox"))?;
        next.map(|ms| time(ms, "next_at_ms")).transpose()
    }

    /// Takes a delivered entry out, and keeps the result with the part. Nothing happens to an entry that is gone
    /// (its recording was deleted).
    pub async fn outbox_done(&self, id: OutboxId, result: &HookResult) -> Result<(), LibraryError> {
        const WHAT: &str = "take a delivery out of the outbox";
        let mut tx = self.write(WHAT).await?;
        let Some(recording) = keep_result(&mut tx, id, result, WHAT).await? else { return Ok(()) };
        sqlx::query("DELETE FROM outbox WHERE id = ?").bind(id).execute(&mut *tx).await.map_err(sql(WHAT))?;
        release(&mut tx, &recording, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Puts off an entry that failed at `now` until `next_at`, and keeps the result with the part.
    pub async fn outbox_retry(
        &self,
        id: OutboxId,
        result: &HookResult,
        now: DateTime<Utc>,
        next_at: DateTime<Utc>,
    ) -> Result<(), LibraryError> {
        const WHAT: &str = "put off a delivery";
        let mut tx = self.write(WHAT).await?;
        let Some(recording) = keep_result(&mut tx, id, result, WHAT).await? else { return Ok(()) };
        sqlx::query(
            "UPDATE outbox SET attempts = ?, first_tried_at_ms = coalesce(first_tried_at_ms, ?), next_at_ms = ? \
             WHERE id = ?",
        )
        .bind(result.attempts)
        .bind(now.timestamp_millis())
        .bind(next_at.timestamp_millis())
        .bind(id)
        .execute(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        release(&mut tx, &recording, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Gives up an entry: it stays in the outbox as `dead`, with its attempts, and is not tried again.
    pub async fn outbox_give_up(&self, id: OutboxId, result: &HookResult) -> Result<(), LibraryError> {
        const WHAT: &str = "give up a delivery";
        let mut tx = self.write(WHAT).await?;
        let Some(recording) = keep_result(&mut tx, id, result, WHAT).await? else { return Ok(()) };
        sqlx::query("UPDATE outbox SET state = 'dead', attempts = ? WHERE id = ?")
            .bind(result.attempts)
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        release(&mut tx, &recording, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    async fn bury(&self, id: OutboxId, error: LibraryError) -> Result<(), LibraryError> {
        const WHAT: &str = "give up a delivery";
        tracing::error!(outbox = id, %error, "giving up a delivery that cannot be read");
        let mut tx = self.write(WHAT).await?;
        let recording: Option<String> =
            sqlx::query_scalar("UPDATE outbox SET state = 'dead' WHERE id = ? RETURNING recording_id")
                .bind(id)
                .fetch_optional(&mut *tx)
                .await
                .map_err(sql(WHAT))?;
        if let Some(recording) = recording {
            release(&mut tx, &recording, WHAT).await?;
        }
        tx.commit().await.map_err(sql(WHAT))
    }
}

/// Enters a hook, due at once unless an earlier part of the recording holds it back.
pub(super) async fn insert(
    tx: &mut SqliteConnection,
    recording: &RecordingId,
    part: u32,
    job: &HookJob,
    what: &'static str,
) -> Result<(), LibraryError> {
    path_text(&job.script)?;
    sqlx::query(
        "INSERT INTO outbox (kind, recording_id, part, job, state, attempts, next_at_ms) \
         SELECT 'hook', ?1, ?2, ?3, CASE WHEN EXISTS (SELECT 1 FROM outbox WHERE recording_id = ?1 AND \
         kind = 'hook' AND (state = 'held' OR (state = 'waiting' AND attempts < ?4))) \
         THEN 'held' ELSE 'waiting' END, 0, 0",
    )
    .bind(recording.to_string())
    .bind(part)
    .bind(to_json(job))
    .bind(HELD_ATTEMPTS)
    .execute(tx)
    .await
    .map_err(sql(what))?;
    Ok(())
}

/// Lets the next held part of a recording go, when nothing holds it back any more.
async fn release(tx: &mut SqliteConnection, recording: &str, what: &'static str) -> Result<(), LibraryError> {
    sqlx::query(
        "UPDATE outbox SET state = 'waiting' WHERE id = (SELECT id FROM outbox WHERE recording_id = ?1 AND \
         kind = 'hook' AND state = 'held' ORDER BY part LIMIT 1) AND NOT EXISTS (SELECT 1 FROM outbox WHERE \
         recording_id = ?1 AND kind = 'hook' AND state = 'waiting' AND attempts < ?2)",
    )
    .bind(recording)
    .bind(HELD_ATTEMPTS)
    .execute(tx)
    .await
    .map_err(sql(what))?;
    Ok(())
}

/// Stores a result with the part an entry is for; answers the recording's id, `None` when the entry is gone.
async fn keep_result(
    tx: &mut SqliteConnection,
    id: OutboxId,
    result: &HookResult,
    what: &'static str,
) -> Result<Option<String>, LibraryError> {
    sqlx::query_scalar(
        "UPDATE part SET hook = ?1 FROM outbox o WHERE o.id = ?2 AND part.recording_id = o.recording_id \
         AND part.number = o.part RETURNING part.recording_id",
    )
    .bind(to_json(result))
    .bind(id)
    .fetch_optional(tx)
    .await
    .map_err(sql(what))
}

/// The parts of some recordings, each with its entry in the outbox, if any; the list of ids follows.
pub(super) const PARTS_WITH_DELIVERIES: &str = "SELECT part.*, o.state AS delivery_state, o.attempts AS \
     delivery_attempts FROM part LEFT JOIN outbox o ON o.recording_id = part.recording_id AND o.kind = 'hook' \
     AND o.part = part.number WHERE part.recording_id IN (";

/// How far the hook of `part` is; `None` when it has none. An entry is taken out when its hook is done, so a result
/// without an entry is that of a success.
pub(super) fn state_of(row: &SqliteRow, part: &Part) -> Result<Option<PartDelivery>, LibraryError> {
    let waiting: Option<String> = get(row, "delivery_state")?;
    let (state, attempts) = match (waiting.as_deref(), &part.hook) {
        (None, None) => return Ok(None),
        (None, Some(hook)) => (DeliveryState::Done, hook.attempts),
        (Some(state), _) => match (state, get(row, "delivery_attempts")?) {
            ("dead", attempts) => (DeliveryState::Dead, attempts),
            (_, 0) => (DeliveryState::Pending, 0),
            (_, attempts) => (DeliveryState::Failed, attempts),
        },
    };
    Ok(Some(PartDelivery { kind: DeliveryKind::Hook, part: part.number, state, attempts }))
}

fn delivery_of(row: &SqliteRow) -> Result<Delivery, LibraryError> {
    let first_tried_at: Option<i64> = get(row, "first_tried_at_ms")?;
    Ok(Delivery {
        id: get(row, "id")?,
        recording: id_of(row, "recording_id")?,
        part: get(row, "part")?,
        attempts: get(row, "attempts")?,
        first_tried_at: first_tried_at.map(|ms| time(ms, "first_tried_at_ms")).transpose()?,
        job: from_json("job", get(row, "job")?)?,
        stream_name: get(row, "stream_name")?,
        room_name: get(row, "room_name")?,
        media_session_id: session_of(get(row, "media_session_id")?)?,
        container: get(row, "container")?,
        file: PathBuf::from(get::<String>(row, "file")?),
        duration_ms: count_of(row, "duration_ms")?,
        size: count_of(row, "size")?,
    })
}
