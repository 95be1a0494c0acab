//! Lists of recordings: filters and pages.

use super::{Library, LibraryError, Recording, RecordingId, Status, catalog, sql};
use crate::media::MediaSessionId;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;

const CURSOR_BYTES: usize = 24;

/// Which recordings, and which page of them. What is `None` does not filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub room: Option<String>,
    pub room_id: Option<String>,
    pub stream: Option<String>,
    pub media_session_id: Option<MediaSessionId>,
    pub status: Option<Status>,
    /// Started at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Started before this time.
    pub to: Option<DateTime<Utc>>,
    /// 1 to [`Filter::MAX_LIMIT`].
    pub limit: u32,
    /// [`Page::next_cursor`] of the page before.
    pub cursor: Option<String>,
}

impl Filter {
    /// The most recordings on one page.
    pub const MAX_LIMIT: u32 = 1_000;
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            room: None,
            room_id: None,
            stream: None,
            media_session_id: None,
            status: None,
            from: None,
            to: None,
            limit: 100,
            cursor: None,
        }
    }
}

/// One page of a list, newest first.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T = Recording> {
    pub items: Vec<T>,
    /// `None` on the last page.
    pub next_cursor: Option<String>,
}

impl Library {
    /// The recordings that fit `filter`, newest first; those that start in the same ms by id. Pages hold
    /// together while recordings are added.
    pub async fn list(&self, filter: &Filter) -> Result<Page, LibraryError> {
        const WHAT: &str = "list recordings";
        if !(1..=Filter::MAX_LIMIT).contains(&filter.limit) {
            return Err(LibraryError::Limit(filter.limit));
        }
        let mut query = select(filter)?;
        let mut connection = self.readers().acquire().await.map_err(sql(WHAT))?;
        let rows = query.build().fetch_all(&mut *connection).await.map_err(sql(WHAT))?;

        let limit = filter.limit as usize;
        let mut items = rows.iter().take(limit).map(catalog::recording_of).collect::<Result<Vec<_>, _>>()?;
        catalog::read_parts(&mut connection, &mut items).await?;
        let next_cursor = items.last().filter(|_| rows.len() > limit).map(Cursor::after).map(Cursor::encode);
        Ok(Page { items, next_cursor })
    }
}

/// One row more than the page, to know whether there is a next one.
fn select(filter: &Filter) -> Result<QueryBuilder<Sqlite>, LibraryError> {
    let session = filter.media_session_id.map(|id| id.to_string());
    let equal = [
        ("media_session_id", session.as_deref()),
        ("stream_name", filter.stream.as_deref()),
        ("room_id", filter.room_id.as_deref()),
        ("room_name", filter.room.as_deref()),
        ("status", filter.status.map(Status::as_str)),
    ];
    let mut query = QueryBuilder::new("SELECT * FROM recording WHERE 1 = 1");
    // The first, which is the most selective, chooses the index; the unary `+` keeps the others from it.
    let mut plus = "";
    for (column, value) in equal {
        let Some(value) = value else { continue };
        query.push(format_args!(" AND {plus}{column} = ")).push_bind(value.to_owned());
        plus = "+";
    }
    if let Some(from) = filter.from {
        query.push(" AND started_at_ms >= ").push_bind(from.timestamp_millis());
    }
    if let Some(to) = filter.to {
        query.push(" AND started_at_ms < ").push_bind(to.timestamp_millis());
    }
    if let Some(cursor) = &filter.cursor {
        let Cursor { started_at_ms, id } = Cursor::decode(cursor)?;
        query.push(" AND (started_at_ms, id) < (").push_bind(started_at_ms);
        query.push(", ").push_bind(id.to_string()).push(")");
    }
    query.push(" ORDER BY started_at_ms DESC, id DESC LIMIT ").push_bind(i64::from(filter.limit) + 1);
    Ok(query)
}

/// Place in a list: the last recording that was told. To others it is opaque text: base64url of the start
/// time (8 bytes, big-endian ms) and the id (16 bytes).
#[derive(Debug, PartialEq)]
struct Cursor {
    started_at_ms: i64,
    id: RecordingId,
}

impl Cursor {
    fn after(recording: &Recording) -> Self {
        Self { started_at_ms: recording.started_at_ms, id: recording.id }
    }

    fn encode(self) -> String {
        let mut bytes = self.started_at_ms.to_be_bytes().to_vec();
        bytes.extend(self.id.0.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Result<Self, LibraryError> {
        let mut bytes = [0; CURSOR_BYTES];
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| LibraryError::Cursor)?;
        let (started_at_ms, id) = bytes[..len].split_first_chunk().ok_or(LibraryError::Cursor)?;
        let id = Uuid::from_slice(id).map_err(|_| LibraryError::Cursor)?;
        Ok(Self { started_at_ms: i64::from_be_bytes(*started_at_ms), id: RecordingId(id) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::testing;
    use sqlx::Row;

    /// A list that sorts or scans is slow once there are a million recordings.
    #[tokio::test]
    async fn every_filter_walks_its_index_in_order() {
        let (_dir, library) = testing::library().await;
        let cursor = Some(Cursor::after(&testing::recording(0)).encode());
        let all = Filter { cursor, ..Filter::default() };
        let room = Filter { room: Some("a".into()), ..all.clone() };
        let stream = Filter { stream: Some("a".into()), ..room.clone() };
        let cases = [
            (all.clone(), "recording_by_time"),
            (Filter { from: Some(Utc::now()), to: Some(Utc::now()), ..all.clone() }, "recording_by_time"),
            (Filter { room_id: Some("a".into()), ..all.clone() }, "recording_by_room_id"),
            (Filter { status: Some(Status::Failed), ..all.clone() }, "recording_by_status"),
            (Filter { status: Some(Status::Failed), ..room.clone() }, "recording_by_room"),
            (Filter { status: Some(Status::Failed), ..stream.clone() }, "recording_by_stream"),
            (Filter { media_session_id: Some(MediaSessionId::random()), ..stream }, "recording_by_session"),
        ];
        for (filter, index) in cases {
            let query = format!("EXPLAIN QUERY PLAN {}", select(&filter).unwrap().into_string());
            let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(library.readers()).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|r| r.get("detail")).collect();
            let walks = matches!(plan.as_slice(), [step] if step.contains(&format!("USING INDEX {index} (")));
            assert!(walks, "{filter:?}: {plan:?}");
        }
    }
}
