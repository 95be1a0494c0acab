//! What is told of the deliveries of a recording.

use super::{
    super::{
        DeliveryKind, DeliveryState, LibraryError, PartDelivery, Recording,
        catalog::{get, id_of, time},
        sql,
    },
    queue::kind_of,
    shown_target,
};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, sqlite::SqliteRow};

/// Fills in `deliveries` of recordings, sorted by id, whose parts are read.
pub(in crate::library) async fn read_deliveries(
    connection: &mut SqliteConnection,
    by_id: &mut [&mut Recording],
) -> Result<(), LibraryError> {
    // An entry is taken out when its hook is done, so a success without an entry is all that is left of it.
    for recording in by_id.iter_mut() {
        let done = recording.parts.iter().filter_map(|part| {
            let hook = part.hook.as_ref().filter(|hook| hook.exit == Some(0))?;
            Some(PartDelivery::hook(part.number, DeliveryState::Done, hook.attempts))
        });
        recording.deliveries = done.collect();
    }
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT recording_id, part, kind, target, attempts, 'done' AS state, NULL AS next_at_ms, NULL AS error, event \
         FROM delivered WHERE recording_id IN (",
    );
    push_ids(&mut query, by_id);
    query.push(
        ") UNION ALL SELECT recording_id, part, kind, target, attempts, state, next_at_ms, error, \
         event FROM outbox WHERE recording_id IN (",
    );
    push_ids(&mut query, by_id);
    query.push(")");
    let rows = query.build().fetch_all(connection).await.map_err(sql("read deliveries"))?;
    for row in &rows {
        let id = id_of(row, "recording_id")?;
        if let Ok(at) = by_id.binary_search_by_key(&id, |r| r.id) {
            by_id[at].deliveries.push(delivery_of(row)?);
        }
    }
    for recording in by_id.iter_mut() {
        recording.deliveries.sort_by_key(|d| (d.part.unwrap_or(0), d.kind));
    }
    Ok(())
}

fn push_ids(query: &mut QueryBuilder<Sqlite>, of: &[&mut Recording]) {
    let mut ids = query.separated(", ");
    for recording in of {
        ids.push_bind(recording.id.to_string());
    }
}

fn delivery_of(row: &SqliteRow) -> Result<PartDelivery, LibraryError> {
    let (state, attempts): (String, u32) = (get(row, "state")?, get(row, "attempts")?);
    let state = state_of(&state, attempts);
    let (kind, target): (DeliveryKind, String) = (kind_of(row)?, get(row, "target")?);
    let next_at: Option<i64> = get(row, "next_at_ms")?;
    let next_at = next_at.filter(|_| state == DeliveryState::Failed);
    Ok(PartDelivery {
        kind,
        part: get(row, "part")?,
        event: get(row, "event")?,
        state,
        attempts,
        target: Some(shown_target(kind, &target)),
        next_at: next_at.map(|ms| time(ms, "next_at_ms")).transpose()?,
        error: get(row, "error")?,
    })
}

/// `state`: the word of the table, or `done`.
pub(super) fn state_of(state: &str, attempts: u32) -> DeliveryState {
    match (state, attempts) {
        ("done", _) => DeliveryState::Done,
        ("dead", _) => DeliveryState::Dead,
        (_, 0) => DeliveryState::Pending,
        _ => DeliveryState::Failed,
    }
}
