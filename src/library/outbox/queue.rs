//! What is due, and what became of it.

use super::{
    super::{
        DeliveryKind, HookResult, Library, LibraryError,
        catalog::{count_of, from_json, get, session_of, time, time_of, to_json},
        sql,
    },
    DeliveredPart, Delivery, HELD_ATTEMPTS, Job, OutboxId,
    put::{self, Line},
};
use crate::library::RecordingId;
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};
use std::path::PathBuf;

/// What an attempt came to, as it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tried {
    /// With this one.
    pub attempts: u32,
    pub error: Option<String>,
    /// Of a hook; it is kept with the part.
    pub hook: Option<HookResult>,
}

/// What is asked for of the entries that are due.
#[derive(Clone, Copy, Debug)]
pub struct Due<'a> {
    pub kind: DeliveryKind,
    pub now: DateTime<Utc>,
    /// At most so many.
    pub limit: u32,
    /// These are under way.
    pub without: &'a [OutboxId],
    /// Targets that are given no more for now.
    pub not_to: &'a [String],
}

impl Library {
    /// Entries to deliver now: first those never tried, oldest first, then by due time. An entry is one of them until
    /// `outbox_done`, `outbox_retry`, `outbox_give_up` or `outbox_unsubscribe`.
    pub async fn outbox_due(&self, due: Due<'_>) -> Result<Vec<Delivery>, LibraryError> {
        let rows = due_query(&due).build().fetch_all(self.readers()).await;
        let rows = rows.map_err(sql("read the outbox"))?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            match delivery_of(row) {
                Ok(delivery) => found.push(delivery),
                // One row that cannot be read must not stand in the way of the others.
                Err(e) => self.bury(get(row, "id")?, e).await?,
            }
        }
        Ok(found)
    }

    /// When the next entry is due after `now`; `None` when none is waiting for its time.
    pub async fn outbox_next_due(
        &self,
        kind: DeliveryKind,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, LibraryError> {
        let next: Option<i64> = sqlx::query_scalar(
            "SELECT min(next_at_ms) FROM outbox WHERE kind = ? AND state = 'waiting' AND next_at_ms > ?",
        )
        .bind(kind.as_str())
        .bind(now.timestamp_millis())
        .fetch_one(self.readers())
        .await
        .map_err(sql("read the outbox"))?;
        next.map(|ms| time(ms, "next_at_ms")).transpose()
    }

    /// Takes a delivered entry out, and keeps the result. Nothing happens to an entry that is gone (its recording was
    /// deleted); so it is with the others.
    pub async fn outbox_done(&self, id: OutboxId, tried: &Tried) -> Result<(), LibraryError> {
        const WHAT: &str = "take a delivery out of the outbox";
        let mut tx = self.write(WHAT).await?;
        let Some(entry) = keep_result(&mut tx, id, tried, WHAT).await? else { return Ok(()) };
        if entry.kind != DeliveryKind::Hook && entry.line.recording.is_some() {
            sqlx::query(
                "INSERT INTO delivered (recording_id, part, kind, target, event, attempts) \
                 SELECT recording_id, part, kind, target, event, ? FROM outbox WHERE id = ?",
            )
            .bind(tried.attempts)
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        }
        take_out(&mut tx, id, WHAT).await?;
        put::release(&mut tx, &entry.line, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Puts off an entry that failed at `now` until `next_at`, and keeps the result.
    pub async fn outbox_retry(
        &self,
        id: OutboxId,
        tried: &Tried,
        now: DateTime<Utc>,
        next_at: DateTime<Utc>,
    ) -> Result<(), LibraryError> {
        const WHAT: &str = "put off a delivery";
        let mut tx = self.write(WHAT).await?;
        let Some(entry) = keep_result(&mut tx, id, tried, WHAT).await? else { return Ok(()) };
        sqlx::query(
            "UPDATE outbox SET first_tried_at_ms = coalesce(first_tried_at_ms, ?), next_at_ms = ?, \
             holds = holds AND ? WHERE id = ?",
        )
        .bind(now.timestamp_millis())
        .bind(next_at.timestamp_millis())
        .bind(tried.attempts < HELD_ATTEMPTS)
        .bind(id)
        .execute(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        put::release(&mut tx, &entry.line, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Gives up an entry: it stays in the outbox as `dead`, with its attempts, and is not tried again. The recording's webhooks
    /// are told (`delivery.failed`).
    pub async fn outbox_give_up(&self, id: OutboxId, tried: &Tried) -> Result<(), LibraryError> {
        const WHAT: &str = "give up a delivery";
        let mut tx = self.write(WHAT).await?;
        let Some(entry) = keep_result(&mut tx, id, tried, WHAT).await? else { return Ok(()) };
        sqlx::query("UPDATE outbox SET state = 'dead', holds = 0 WHERE id = ?")
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        put::tell_dead(&mut tx, &entry, tried, WHAT).await?;
        put::release(&mut tx, &entry.line, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// A receiver wants to be told no more: takes the entry out, and all others to it of the same recording, which forgets
    /// it.
    pub async fn outbox_unsubscribe(&self, id: OutboxId, tried: &Tried) -> Result<(), LibraryError> {
        const WHAT: &str = "end a subscription";
        let mut tx = self.write(WHAT).await?;
        let Some(entry) = keep_result(&mut tx, id, tried, WHAT).await? else { return Ok(()) };
        put::unsubscribe(&mut tx, &entry.line, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Keeps how far an upload has come, for the next attempt.
    pub async fn outbox_progress(
        &self,
        id: OutboxId,
        progress: &serde_json::Value,
    ) -> Result<(), LibraryError> {
        const WHAT: &str = "note how far an upload is";
        let mut tx = self.write(WHAT).await?;
        sqlx::query("UPDATE outbox SET progress = ? WHERE id = ?")
            .bind(to_json(progress))
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))
    }

    async fn bury(&self, id: OutboxId, error: LibraryError) -> Result<(), LibraryError> {
        const WHAT: &str = "give up a delivery";
        tracing::error!(outbox = id, %error, "giving up a delivery that cannot be read");
        let mut tx = self.write(WHAT).await?;
        let row = sqlx::query(
            "UPDATE outbox SET state = 'dead', holds = 0, error = ? WHERE id = ? RETURNING recording_id, kind, target",
        )
        .bind(error.to_string())
        .bind(id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        if let Some(row) = row {
            put::release(&mut tx, &line_of(&row)?, WHAT).await?;
        }
        tx.commit().await.map_err(sql(WHAT))
    }
}

pub(in crate::library) fn due_query(due: &Due<'_>) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT o.*, r.stream_name, r.room_name, r.media_session_id, r.container, p.file, p.name, p.poster, \
         p.started_at_ms, p.duration_ms, p.size, p.sha256, p.video IS NOT NULL AS has_video FROM outbox o \
         LEFT JOIN recording r ON r.id = o.recording_id \
         LEFT JOIN part p ON p.recording_id = o.recording_id AND p.number = o.part WHERE o.state = 'waiting'",
    );
    query.push(" AND o.kind = ").push_bind(due.kind.as_str());
    query.push(" AND o.next_at_ms <= ").push_bind(due.now.timestamp_millis());
    if !due.without.is_empty() {
        let mut ids = query.push(" AND o.id NOT IN (").separated(", ");
        due.without.iter().for_each(|id| _ = ids.push_bind(*id));
        query.push(")");
    }
    if !due.not_to.is_empty() {
        let mut targets = query.push(" AND o.target NOT IN (").separated(", ");
        due.not_to.iter().for_each(|target| _ = targets.push_bind(target.clone()));
        query.push(")");
    }
    query.push(" ORDER BY o.next_at_ms, o.id LIMIT ").push_bind(due.limit);
    query
}

/// The entry that something became of.
pub(super) struct Entry {
    pub key: String,
    pub kind: DeliveryKind,
    pub line: Line,
    pub part: Option<u32>,
    /// `type` of the event it tells.
    pub event: Option<String>,
}

async fn take_out(tx: &mut SqliteConnection, id: OutboxId, what: &'static str) -> Result<(), LibraryError> {
    sqlx::query("DELETE FROM outbox WHERE id = ?").bind(id).execute(tx).await.map_err(sql(what))?;
    Ok(())
}

/// Stores a result with the entry, and that of a hook with its part; `None` when the entry is gone.
async fn keep_result(
    tx: &mut SqliteConnection,
    id: OutboxId,
    tried: &Tried,
    what: &'static str,
) -> Result<Option<Entry>, LibraryError> {
    let row = sqlx::query(
        "UPDATE outbox SET attempts = ?, error = ? WHERE id = ? RETURNING key, kind, target, recording_id, part, event",
    )
    .bind(tried.attempts)
    .bind(&tried.error)
    .bind(id)
    .fetch_optional(&mut *tx)
    .await
    .map_err(sql(what))?;
    let Some(row) = row else { return Ok(None) };
    let entry = Entry {
        key: get(&row, "key")?,
        kind: kind_of(&row)?,
        line: line_of(&row)?,
        part: get(&row, "part")?,
        event: get(&row, "event")?,
    };
    if let (Some(hook), Some(recording), Some(part)) = (&tried.hook, &entry.line.recording, entry.part) {
        sqlx::query("UPDATE part SET hook = ? WHERE recording_id = ? AND number = ?")
            .bind(to_json(hook))
            .bind(recording)
            .bind(part)
            .execute(tx)
            .await
            .map_err(sql(what))?;
    }
    Ok(Some(entry))
}

pub(super) fn kind_of(row: &SqliteRow) -> Result<DeliveryKind, LibraryError> {
    let value: String = get(row, "kind")?;
    DeliveryKind::parse(&value).ok_or(LibraryError::Value { column: "kind", value })
}

fn line_of(row: &SqliteRow) -> Result<Line, LibraryError> {
    Ok(Line { recording: get(row, "recording_id")?, kind: kind_of(row)?, target: get(row, "target")? })
}

pub(super) fn recording_of(row: &SqliteRow) -> Result<Option<RecordingId>, LibraryError> {
    let Some(value) = get::<Option<String>>(row, "recording_id")? else { return Ok(None) };
    RecordingId::parse(&value).map(Some).ok_or(LibraryError::Value { column: "recording_id", value })
}

fn delivery_of(row: &SqliteRow) -> Result<Delivery, LibraryError> {
    let first_tried_at: Option<i64> = get(row, "first_tried_at_ms")?;
    let progress: Option<String> = get(row, "progress")?;
    let job: Job = from_json("job", get(row, "job")?)?;
    Ok(Delivery {
        id: get(row, "id")?,
        key: get(row, "key")?,
        recording: recording_of(row)?,
        part: get(row, "part")?,
        kind: job.kind(),
        target: get(row, "target")?,
        attempts: get(row, "attempts")?,
        first_tried_at: first_tried_at.map(|ms| time(ms, "first_tried_at_ms")).transpose()?,
        job,
        progress: progress.map(|json| from_json("progress", json)).transpose()?,
        of: part_of(row)?,
    })
}

fn part_of(row: &SqliteRow) -> Result<Option<DeliveredPart>, LibraryError> {
    let Some(file) = get::<Option<String>>(row, "file")? else { return Ok(None) };
    Ok(Some(DeliveredPart {
        stream_name: get(row, "stream_name")?,
        room_name: get(row, "room_name")?,
        media_session_id: session_of(get(row, "media_session_id")?)?,
        container: get(row, "container")?,
        file: PathBuf::from(file),
        name: get(row, "name")?,
        poster: get::<Option<String>>(row, "poster")?.map(PathBuf::from),
        started_at: time_of(row, "started_at_ms")?,
        duration_ms: count_of(row, "duration_ms")?,
        size: count_of(row, "size")?,
        sha256: get(row, "sha256")?,
        has_video: get(row, "has_video")?,
    }))
}
