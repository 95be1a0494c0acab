//! Lists of recordings: filters and pages.

use super::{Library, LibraryError, Recording, RecordingId, Status, catalog, sql};
use crate::media::MediaSessionId;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, Sqlite};
use std::{ffi::OsStr, path::Path};
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

impl Library {
    /// The recording and the number of the part whose finished file is called `name`. A name that cannot be that of a file is
    /// nobody's.
    pub async fn part_named(&self, name: &str) -> Result<Option<(RecordingId, u32)>, LibraryError> {
        const WHAT: &str = "look for a file";
        if Path::new(name).file_name() != Some(OsStr::new(name)) {
            return Ok(None);
        }
        let file = self.storage().folder().join(name);
        let row = sqlx::query("SELECT recording_id, number FROM part WHERE file = ?")
            .bind(catalog::path_text(&file)?)
            .fetch_optional(self.readers())
            .await
            .map_err(sql(WHAT))?;
        row.map(|row| Ok((catalog::id_of(&row, "recording_id")?, catalog::get(&row, "number")?))).transpose()
    }
}

/// One row more than the page, to know whether there is a next one.
///
/// The index is named, not left to SQLite: whatever is asked for, the rows are walked in the order of the list, and none
/// is read that the page does not have. (Of several filters that no index has together, the most selective chooses.)
fn select(filter: &Filter) -> Result<QueryBuilder<Sqlite>, LibraryError> {
    let bounds = Bounds::of(filter)?;
    let index = index_of(filter);
    let mut query = QueryBuilder::new("");
    match filter.status {
        None if index != BY_TIME => {
            // Each status has its own order in the index; SQLite merges them as it goes.
            for (n, status) in Status::ALL.into_iter().enumerate() {
                query.push(if n == 0 { "" } else { " UNION ALL " });
                push_rows(&mut query, filter, &bounds, index, Some(status));
            }
        }
        status => push_rows(&mut query, filter, &bounds, index, status),
    }
    query.push(" ORDER BY started_at_ms DESC, id DESC LIMIT ").push_bind(i64::from(filter.limit) + 1);
    Ok(query)
}

const BY_TIME: &str = "recording_by_time";

/// All but [`BY_TIME`] have the status before the time.
fn index_of(filter: &Filter) -> &'static str {
    match filter {
        Filter { media_session_id: Some(_), .. } => "recording_by_session",
        Filter { stream: Some(_), room: Some(_), .. } => "recording_by_stream_in_room",
        Filter { stream: Some(_), .. } => "recording_by_stream",
        Filter { room_id: Some(_), .. } => "recording_by_room_id",
        Filter { room: Some(_), .. } => "recording_by_room",
        Filter { status: Some(_), .. } => "recording_by_status",
        _ => BY_TIME,
    }
}

fn push_rows(
    query: &mut QueryBuilder<Sqlite>,
    filter: &Filter,
    bounds: &Bounds,
    index: &'static str,
    status: Option<Status>,
) {
    let equal = [
        ("media_session_id", filter.media_session_id.map(|id| id.to_string())),
        ("stream_name", filter.stream.clone()),
        ("room_name", filter.room.clone()),
        ("room_id", filter.room_id.clone()),
        ("status", status.map(|s| s.as_str().to_owned())),
    ];
    query.push(format_args!("SELECT * FROM recording INDEXED BY {index} WHERE 1 = 1"));
    for (column, value) in equal {
        if let Some(value) = value {
            query.push(format_args!(" AND {column} = ")).push_bind(value);
        }
    }
    if let Some(from_ms) = bounds.from_ms {
        query.push(" AND started_at_ms >= ").push_bind(from_ms);
    }
    if let Some((before_ms, id)) = &bounds.before {
        query.push(" AND (started_at_ms, id) < (").push_bind(*before_ms);
        query.push(", ").push_bind(id.clone()).push(")");
    }
}

/// Between which places of the list a page lies. There is one upper end: of two, SQLite would look for one in the index, and
/// walk over what lies between both.
struct Bounds {
    from_ms: Option<i64>,
    /// Start time and id; no id is less than the empty text.
    before: Option<(i64, String)>,
}

impl Bounds {
    fn of(filter: &Filter) -> Result<Self, LibraryError> {
        let to = filter.to.map(|to| (to.timestamp_millis(), String::new()));
        let cursor = filter.cursor.as_deref().map(Cursor::decode).transpose()?;
        let cursor = cursor.map(|c| (c.started_at_ms, c.id.to_string()));
        let before = match (to, cursor) {
            (Some(to), Some(cursor)) => Some(to.min(cursor)),
            (to, cursor) => to.or(cursor),
        };
        Ok(Self { from_ms: filter.from.map(|from| from.timestamp_millis()), before })
    }
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
        let all = Filter { cursor, from: Some(Utc::now()), to: Some(Utc::now()), ..Filter::default() };
        let text = || Some("a".to_owned());
        let room = Filter { room: text(), ..all.clone() };
        let room_id = Filter { room_id: text(), ..all.clone() };
        let stream = Filter { stream: text(), ..all.clone() };
        let both = Filter { stream: text(), ..room.clone() };
        let session = Filter { media_session_id: Some(MediaSessionId::random()), ..both.clone() };
        let cases = [
            (&room, "recording_by_room", "room_name=? AND status=?"),
            (&room_id, "recording_by_room_id", "room_id=? AND status=?"),
            (&stream, "recording_by_stream", "stream_name=? AND status=?"),
            (&both, "recording_by_stream_in_room", "stream_name=? AND room_name=? AND status=?"),
            (&session, "recording_by_session", "media_session_id=? AND status=?"),
            (&all, "recording_by_status", "status=?"),
        ];
        for (filter, index, equal) in cases {
            let failed = Filter { status: Some(Status::Failed), ..filter.clone() };
            let [step] = &plan(&library, &failed).await[..] else { panic!("{filter:?}") };
            assert_eq!(step, &walk(index, equal));
            if index == "recording_by_status" {
                continue;
            }
            let steps = plan(&library, filter).await;
            let (merges, walks): (Vec<_>, Vec<_>) =
                steps.iter().map(String::as_str).partition(|s| !s.starts_with("SEARCH"));
            assert!(merges.iter().all(|s| ["MERGE (UNION ALL)", "LEFT", "RIGHT"].contains(s)), "{steps:?}");
            assert_eq!(walks, [&*walk(index, equal); Status::ALL.len()]);
        }
        let by_time =
            "SEARCH recording USING INDEX recording_by_time (started_at_ms>? AND (started_at_ms,id)<(?,?))";
        assert_eq!(plan(&library, &all).await, [by_time]);
        let newest = plan(&library, &Filter::default()).await;
        assert_eq!(newest, ["SCAN recording USING INDEX recording_by_time"]);
    }

    fn walk(index: &str, equal: &str) -> String {
        format!(
            "SEARCH recording USING INDEX {index} ({equal} AND started_at_ms>? AND (started_at_ms,id)<(?,?))"
        )
    }

    async fn plan(library: &Library, filter: &Filter) -> Vec<String> {
        let query = format!("EXPLAIN QUERY PLAN {}", select(filter).unwrap().into_string());
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(library.readers()).await.unwrap();
        rows.iter().map(|row| row.get("detail")).collect()
    }

    #[test]
    fn a_page_begins_after_the_cursor_or_before_the_end_whichever_is_less() {
        let at = |ms| DateTime::from_timestamp_millis(ms).unwrap();
        let id = RecordingId::random();
        let cursor = Cursor { started_at_ms: 5_000, id }.encode();
        let before = |to: Option<i64>, cursor: Option<&String>| {
            let filter = Filter { to: to.map(at), cursor: cursor.cloned(), ..Filter::default() };
            Bounds::of(&filter).unwrap().before
        };
        let (end, place) = (|ms| Some((ms, String::new())), Some((5_000, id.to_string())));
        assert_eq!(before(None, None), None);
        assert_eq!(before(Some(4_000), None), end(4_000));
        assert_eq!(before(None, Some(&cursor)), place);
        assert_eq!(before(Some(6_000), Some(&cursor)), place);
        assert_eq!(before(Some(5_000), Some(&cursor)), end(5_000));
        assert_eq!(before(Some(4_000), Some(&cursor)), end(4_000));
    }
}
