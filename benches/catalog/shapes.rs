//! The lists that are timed.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use reeld::library::{Filter, Library, Status};

use crate::fill::{BIG_ROOM, FIRST_MS, SMALL_ROOM, STEP_MS, STREAM};

/// One list.
pub struct Shape {
    pub name: String,
    pub filter: Filter,
}

/// Every combination of filters: of each its newest page, one from the middle on, and one of a window of time.
pub async fn all(library: &Library, rows: u32, limit: u32) -> Result<Vec<Shape>> {
    let at = |row: u32| time(FIRST_MS + i64::from(row) * STEP_MS);
    let everything = Filter { limit, ..Filter::default() };
    let (middle, tenth) = (at(rows / 2)?, at(rows / 2 + rows / 10)?);
    let before = Filter { to: Some(middle), limit: 1, ..Filter::default() };
    let newest = library.list(&before).await?;
    let session = newest.items.first().context("a recording")?.media_session_id;
    let cursor = newest.next_cursor.context("a recording before the middle")?;

    let room = |name: &str| Filter { room: Some(name.into()), ..everything.clone() };
    let stream = |filter: Filter| Filter { stream: Some(STREAM.into()), ..filter };
    let lists = [
        ("all", everything.clone()),
        ("room (half of all)", room(BIG_ROOM)),
        ("room (small)", room(SMALL_ROOM)),
        ("room id", Filter { room_id: Some(BIG_ROOM.into()), ..everything.clone() }),
        ("stream", stream(everything.clone())),
        ("room, stream", stream(room(BIG_ROOM))),
        ("session", Filter { media_session_id: Some(session), ..everything.clone() }),
    ];
    let statuses = [None, Some(Status::Completed), Some(Status::Failed), Some(Status::Recording)];
    let mut shapes = Vec::new();
    for (name, list) in lists {
        for status in statuses {
            let list = Filter { status, ..list.clone() };
            let name = status.map_or(name.to_owned(), |s| format!("{name}, {}", s.as_str()));
            let deep = Filter { cursor: Some(cursor.clone()), ..list.clone() };
            let window = Filter { from: Some(middle), to: Some(tenth), ..list.clone() };
            // The end is not what bounds this page: the cursor is.
            let both = Filter { from: Some(at(0)?), to: Some(at(rows)?), ..deep.clone() };
            for (place, filter) in [
                ("", list),
                (", from the middle on", deep),
                (", a tenth of the time", window),
                (", in all the time, from the middle on", both),
            ] {
                shapes.push(Shape { name: format!("{name}{place}"), filter });
            }
        }
    }
    Ok(shapes)
}

fn time(ms: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms).context("a time")
}
