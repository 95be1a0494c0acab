//! The life of a recording in the catalog.

use super::{
    AudioPart, HandOn, Health, Library, LibraryError, Lost, Part, Recording, RecordingId, Status, VideoPart,
    health,
    outbox::{self, News},
    posters, sql,
};
use crate::media::{Gap, MediaSessionId};
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};
use std::path::{Path, PathBuf};

impl Library {
    /// Enters a recording that begins, without its parts. `hand_on`: what is to be done with them.
    pub async fn begin(&self, recording: &Recording, hand_on: &HandOn) -> Result<(), LibraryError> {
        const WHAT: &str = "enter a recording";
        let mut tx = self.write(WHAT).await?;
        insert_recording(&mut tx, recording, hand_on, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Notes where part `number` is being written, until [`commit_part`](Self::commit_part) or
    /// [`discard_part`](Self::discard_part): what a later start finishes when the daemon dies before.
    /// `started_at` is the time of its first frame.
    pub async fn begin_part(
        &self,
        id: &RecordingId,
        number: u32,
        file: &Path,
        started_at: DateTime<Utc>,
    ) -> Result<(), LibraryError> {
        const WHAT: &str = "enter a file being written";
        let mut tx = self.write(WHAT).await?;
        sqlx::query(
            "INSERT OR REPLACE INTO writing (recording_id, number, file, started_at_ms) VALUES (?, ?, ?, ?)",
        )
        .bind(id.to_string())
        .bind(number)
        .bind(path_text(file)?)
        .bind(started_at.timestamp_millis())
        .execute(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Forgets a part that never got a frame.
    pub async fn discard_part(&self, id: &RecordingId, number: u32) -> Result<(), LibraryError> {
        const WHAT: &str = "forget a part";
        let mut tx = self.write(WHAT).await?;
        end_part(&mut tx, id, number, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Moves a recording forward to a status that is not final, or from paused back to recording; asking for the one it
    /// has does nothing.
    pub async fn update_status(&self, id: &RecordingId, status: Status) -> Result<(), LibraryError> {
        const WHAT: &str = "change a status";
        let mut tx = self.write(WHAT).await?;
        advance(&mut tx, id, status, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Enters a finished part, adds it to the recording's totals and puts what is to be done with it in the outbox:
    /// all or nothing. Wake the deliveries after it.
    pub async fn commit_part(&self, id: &RecordingId, part: &Part) -> Result<(), LibraryError> {
        self.commit(id, part, Status::Completed, &HandOn::default()).await
    }

    /// `status`: what a hook is told; `otherwise`: what is to be done where the recording does not say.
    pub(super) async fn commit(
        &self,
        id: &RecordingId,
        part: &Part,
        status: Status,
        otherwise: &HandOn,
    ) -> Result<(), LibraryError> {
        const WHAT: &str = "enter a part";
        let mut tx = self.write(WHAT).await?;
        let totals =
            sqlx::query("UPDATE recording SET duration_ms = duration_ms + ?, size = size + ? WHERE id = ?")
                .bind(to_sql(part.duration_ms))
                .bind(to_sql(part.size))
                .bind(id.to_string())
                .execute(&mut *tx)
                .await
                .map_err(sql(WHAT))?;
        if totals.rows_affected() == 0 {
            return Err(LibraryError::Unknown(*id));
        }
        insert_part(&mut tx, id, part, WHAT).await?;
        end_part(&mut tx, id, part.number, WHAT).await?;
        outbox::put_part(&mut tx, id, part, status, otherwise, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// Ends a recording all of whose parts are committed.
    pub async fn complete(
        &self,
        id: &RecordingId,
        ended_at: DateTime<Utc>,
        lost: &Lost,
    ) -> Result<(), LibraryError> {
        self.end(id, Status::Completed, ended_at, lost, None).await
    }

    /// Ends a recording that the last daemon left behind, all of whose files have been made whole.
    pub async fn recovered(
        &self,
        id: &RecordingId,
        ended_at: DateTime<Utc>,
        lost: &Lost,
    ) -> Result<(), LibraryError> {
        self.end(id, Status::Recovered, ended_at, lost, None).await
    }

    /// Ends a recording with an error; its committed parts stay.
    pub async fn fail(
        &self,
        id: &RecordingId,
        ended_at: DateTime<Utc>,
        lost: &Lost,
        error: &str,
    ) -> Result<(), LibraryError> {
        self.end(id, Status::Failed, ended_at, lost, Some(error)).await
    }

    /// What a recording under way has lost until now, so that it is known after a crash.
    pub async fn note_lost(&self, id: &RecordingId, lost: &Lost) -> Result<(), LibraryError> {
        const WHAT: &str = "note what is lost";
        let mut tx = self.write(WHAT).await?;
        sqlx::query("UPDATE recording SET lost = ? WHERE id = ?")
            .bind(to_json(lost))
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))
    }

    async fn end(
        &self,
        id: &RecordingId,
        status: Status,
        ended_at: DateTime<Utc>,
        lost: &Lost,
        error: Option<&str>,
    ) -> Result<(), LibraryError> {
        const WHAT: &str = "end a recording";
        let mut tx = self.write(WHAT).await?;
        advance(&mut tx, id, status, WHAT).await?;
        sqlx::query("UPDATE recording SET ended_at_ms = ?, lost = ?, error = ? WHERE id = ?")
            .bind(ended_at.timestamp_millis())
            .bind(to_json(lost))
            .bind(error)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        let news = if status == Status::Failed { News::Failed } else { News::Completed };
        outbox::put_event(&mut tx, id, news, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

    /// One recording with its parts and what their hooks did.
    pub async fn get(&self, id: &RecordingId) -> Result<Option<Recording>, LibraryError> {
        const WHAT: &str = "read a recording";
        let mut connection = self.readers().acquire().await.map_err(sql(WHAT))?;
        let row = sqlx::query("SELECT * FROM recording WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&mut *connection)
            .await
            .map_err(sql(WHAT))?;
        let Some(row) = row else { return Ok(None) };
        let mut found = [recording_of(&row)?];
        read_parts(&mut connection, &mut found).await?;
        let [recording] = found;
        Ok(Some(recording))
    }
}

async fn advance(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    wanted: Status,
    what: &'static str,
) -> Result<(), LibraryError> {
    let row = sqlx::query("SELECT status FROM recording WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(what))?
        .ok_or(LibraryError::Unknown(*id))?;
    let now = status_of(&row)?;
    let resumes = now == Status::Paused && wanted == Status::Recording;
    if now.is_final() || (now > wanted && !resumes) {
        return Err(LibraryError::Past { id: *id, now, wanted });
    }
    sqlx::query("UPDATE recording SET status = ? WHERE id = ?")
        .bind(wanted.as_str())
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(sql(what))?;
    if now == Status::Starting && matches!(wanted, Status::Recording | Status::Paused) {
        outbox::put_event(tx, id, News::Started, what).await?;
    }
    Ok(())
}

/// A recording without its parts.
pub(super) async fn insert_recording(
    tx: &mut SqliteConnection,
    recording: &Recording,
    hand_on: &HandOn,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query(
        "INSERT INTO recording (id, status, room_name, room_id, stream_name, media_session_id, session_id, \
         protocol, container, started_at_ms, ended_at_ms, duration_ms, size, lost, error, hand_on, locked) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(recording.id.to_string())
    .bind(recording.status.as_str())
    .bind(&recording.room_name)
    .bind(&recording.room_id)
    .bind(&recording.stream_name)
    .bind(recording.media_session_id.to_string())
    .bind(&recording.session_id)
    .bind(recording.protocol.as_str())
    .bind(&recording.container)
    .bind(recording.started_at_ms)
    .bind(recording.ended_at.map(|t| t.timestamp_millis()))
    .bind(to_sql(recording.duration_ms))
    .bind(to_sql(recording.size))
    .bind(to_json(&recording.lost))
    .bind(&recording.error)
    .bind(to_json(hand_on))
    .bind(recording.locked)
    .execute(tx)
    .await
    .map_err(sql(what))?;
    Ok(())
}

pub(super) async fn insert_part(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    part: &Part,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query(
        "INSERT INTO part (recording_id, number, file, name, size, sha256, started_at_ms, duration_ms, video, \
         audio, gaps, hook, lost, degraded, poster, poster_tries, remote, remote_at_ms, local) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id.to_string())
    .bind(part.number)
    .bind(path_text(&part.file)?)
    .bind(&part.name)
    .bind(to_sql(part.size))
    .bind(&part.sha256)
    .bind(part.started_at.timestamp_millis())
    .bind(to_sql(part.duration_ms))
    .bind(part.video.as_ref().map(to_json))
    .bind(part.audio.as_ref().map(to_json))
    .bind(to_json(&part.gaps))
    .bind(part.hook.as_ref().map(to_json))
    .bind(to_json(&part.lost))
    .bind(to_json(&part.degraded))
    .bind(part.poster.as_deref().map(path_text).transpose()?)
    .bind(if part.video.is_some() && part.poster.is_none() && part.local { posters::TRIES } else { 0 })
    .bind(&part.remote)
    .bind(part.remote.as_ref().map(|_| Utc::now().timestamp_millis()))
    .bind(part.local)
    .execute(tx)
    .await
    .map_err(sql(what))?;
    Ok(())
}

pub(super) async fn end_part(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    number: u32,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query("DELETE FROM writing WHERE recording_id = ? AND number = ?")
        .bind(id.to_string())
        .bind(number)
        .execute(tx)
        .await
        .map_err(sql(what))?;
    Ok(())
}

/// Fills in `parts` and `deliveries` of each recording, with two queries.
pub(super) async fn read_parts(
    connection: &mut SqliteConnection,
    recordings: &mut [Recording],
) -> Result<(), LibraryError> {
    if recordings.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM part WHERE recording_id IN (");
    let mut ids = query.separated(", ");
    for recording in recordings.iter() {
        ids.push_bind(recording.id.to_string());
    }
    query.push(") ORDER BY recording_id, number");
    let rows = query.build().fetch_all(&mut *connection).await.map_err(sql("read parts"))?;

    let mut by_id: Vec<&mut Recording> = recordings.iter_mut().collect();
    by_id.sort_by_key(|r| r.id);
    for row in rows {
        let id = id_of(&row, "recording_id")?;
        if let Ok(at) = by_id.binary_search_by_key(&id, |r| r.id) {
            let part = part_of(&row)?;
            by_id[at].degrade(&part.degraded);
            by_id[at].parts.push(part);
        }
    }
    outbox::read_deliveries(connection, &mut by_id).await
}

/// A recording with its newest parts and gaps, at most so many of each, without deliveries; and whether it has more.
pub(super) async fn read_newest(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    most: u32,
    what: &'static str,
) -> Result<(Recording, bool), LibraryError> {
    let row = sqlx::query("SELECT * FROM recording WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(sql(what))?
        .ok_or(LibraryError::Unknown(*id))?;
    let mut recording = recording_of(&row)?;
    let rows = sqlx::query("SELECT * FROM part WHERE recording_id = ? ORDER BY number DESC LIMIT ?")
        .bind(id.to_string())
        .bind(most.saturating_add(1))
        .fetch_all(tx)
        .await
        .map_err(sql(what))?;
    for row in rows.iter().rev() {
        let part = part_of(row)?;
        recording.degrade(&part.degraded);
        recording.parts.push(part);
    }
    let partial = recording.keep_newest(most as usize);
    Ok((recording, partial))
}

/// A recording without its parts.
pub(super) fn recording_of(row: &SqliteRow) -> Result<Recording, LibraryError> {
    let session: String = get(row, "media_session_id")?;
    let protocol: String = get(row, "protocol")?;
    let started_at = time_of(row, "started_at_ms")?;
    let health: Vec<Health> = from_json("health", get(row, "health")?)?;
    Ok(Recording {
        id: id_of(row, "id")?,
        status: status_of(row)?,
        degraded: health::holding(&health).map(|reason| reason.to_string()).collect(),
        health,
        room_name: get(row, "room_name")?,
        room_id: get(row, "room_id")?,
        stream_name: get(row, "stream_name")?,
        media_session_id: session_of(session)?,
        session_id: get(row, "session_id")?,
        protocol: serde_json::from_value(protocol.as_str().into())
            .map_err(|_| LibraryError::Value { column: "protocol", value: protocol })?,
        container: get(row, "container")?,
        started_at,
        ended_at: get::<Option<i64>>(row, "ended_at_ms")?.map(|ms| time(ms, "ended_at_ms")).transpose()?,
        started_at_ms: started_at.timestamp_millis(),
        duration_ms: count_of(row, "duration_ms")?,
        size: count_of(row, "size")?,
        parts: Vec::new(),
        lost: from_json("lost", get(row, "lost")?)?,
        deliveries: Vec::new(),
        error: get(row, "error")?,
        locked: get(row, "locked")?,
    })
}

pub(super) fn part_of(row: &SqliteRow) -> Result<Part, LibraryError> {
    let video: Option<String> = get(row, "video")?;
    let audio: Option<String> = get(row, "audio")?;
    let hook: Option<String> = get(row, "hook")?;
    Ok(Part {
        number: get(row, "number")?,
        file: PathBuf::from(get::<String>(row, "file")?),
        name: get(row, "name")?,
        size: count_of(row, "size")?,
        sha256: get(row, "sha256")?,
        started_at: time_of(row, "started_at_ms")?,
        duration_ms: count_of(row, "duration_ms")?,
        video: video.map(|v| from_json::<VideoPart>("video", v)).transpose()?,
        audio: audio.map(|a| from_json::<AudioPart>("audio", a)).transpose()?,
        hook: hook.map(|h| from_json("hook", h)).transpose()?,
        poster: get::<Option<String>>(row, "poster")?.map(PathBuf::from),
        gaps: from_json::<Vec<Gap>>("gaps", get(row, "gaps")?)?,
        lost: from_json("lost", get(row, "lost")?)?,
        degraded: from_json("degraded", get(row, "degraded")?)?,
        remote: get(row, "remote")?,
        local: get(row, "local")?,
    })
}

pub(super) fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, LibraryError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(column).map_err(sql("read a row"))
}

pub(super) fn id_of(row: &SqliteRow, column: &'static str) -> Result<RecordingId, LibraryError> {
    let value: String = get(row, column)?;
    RecordingId::parse(&value).ok_or(LibraryError::Value { column, value })
}

pub(super) fn session_of(value: String) -> Result<MediaSessionId, LibraryError> {
    MediaSessionId::parse(&value).ok_or(LibraryError::Value { column: "media_session_id", value })
}

pub(super) fn count_of(row: &SqliteRow, column: &'static str) -> Result<u64, LibraryError> {
    let value: i64 = get(row, column)?;
    u64::try_from(value).map_err(|_| LibraryError::Value { column, value: value.to_string() })
}

pub(super) fn time_of(row: &SqliteRow, column: &'static str) -> Result<DateTime<Utc>, LibraryError> {
    time(get(row, column)?, column)
}

pub(super) fn time(ms: i64, column: &'static str) -> Result<DateTime<Utc>, LibraryError> {
    DateTime::from_timestamp_millis(ms).ok_or_else(|| LibraryError::Value { column, value: ms.to_string() })
}

pub(super) fn status_of(row: &SqliteRow) -> Result<Status, LibraryError> {
    let value: String = get(row, "status")?;
    Status::parse(&value).ok_or(LibraryError::Value { column: "status", value })
}

pub(super) fn from_json<T: DeserializeOwned>(column: &'static str, value: String) -> Result<T, LibraryError> {
    serde_json::from_str(&value).map_err(|_| {
        // These may hold credentials.
        let is_secret = matches!(column, "job" | "hand_on" | "progress");
        LibraryError::Value { column, value: if is_secret { "…".to_owned() } else { value } }
    })
}

pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain objects with text keys and UTF-8 paths are JSON")
}

/// SQLite has signed 64-bit numbers; no byte count or duration comes near their end.
pub(super) fn to_sql(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn path_text(path: &Path) -> Result<&str, LibraryError> {
    path.to_str()
        .ok_or_else(|| LibraryError::Value { column: "file", value: path.to_string_lossy().into_owned() })
}
