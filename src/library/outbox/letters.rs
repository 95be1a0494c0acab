//! The outbox as people look at it: listed, tried again, dropped.

use super::{
    super::{
        DeliveryKind, Library, LibraryError, Page, RecordingId,
        catalog::{get, time},
        sql,
    },
    OutboxId,
    put::{self, Line},
    queue::{kind_of, recording_of},
    shown_target,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite, sqlite::SqliteRow};

/// An entry of the outbox, as the API tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
pub struct Letter {
    pub id: OutboxId,
    /// `msg_UUID`: what a receiver can drop doubles by.
    pub key: String,
    pub kind: DeliveryKind,
    /// Without credentials.
    pub target: String,
    /// What a webhook tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[schema(required)]
    pub recording_id: Option<RecordingId>,
    /// Number of the part.
    #[schema(required)]
    pub part: Option<u32>,
    pub state: LetterState,
    /// Attempts that have ended.
    pub attempts: u32,
    #[schema(required)]
    pub first_tried_at: Option<DateTime<Utc>>,
    /// When it is tried again; of `failed` only.
    #[schema(required)]
    pub next_at: Option<DateTime<Utc>>,
    #[schema(required)]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EntryState)]
pub enum LetterState {
    /// Not tried yet.
    Pending,
    /// The last attempt failed; it is tried again.
    Failed,
    /// It waits for an earlier one of its recording and target.
    Held,
    /// Given up.
    Dead,
}

impl LetterState {
    pub const ALL: [LetterState; 4] =
        [LetterState::Pending, LetterState::Failed, LetterState::Held, LetterState::Dead];

    pub fn as_str(self) -> &'static str {
        match self {
            LetterState::Pending => "pending",
            LetterState::Failed => "failed",
            LetterState::Held => "held",
            LetterState::Dead => "dead",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    fn of(state: &str, attempts: u32) -> Self {
        match (state, attempts) {
            ("dead", _) => LetterState::Dead,
            ("held", _) => LetterState::Held,
            (_, 0) => LetterState::Pending,
            _ => LetterState::Failed,
        }
    }

    fn condition(self) -> &'static str {
        match self {
            LetterState::Pending => " AND state = 'waiting' AND attempts = 0",
            LetterState::Failed => " AND state = 'waiting' AND attempts > 0",
            LetterState::Held => " AND state = 'held'",
            LetterState::Dead => " AND state = 'dead'",
        }
    }
}

/// Which entries are meant; `None` is all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LetterFilter {
    pub state: Option<LetterState>,
    pub kind: Option<DeliveryKind>,
    pub recording: Option<RecordingId>,
    /// 1 to [`MAX_LIMIT`](super::super::Filter::MAX_LIMIT) entries a page.
    pub limit: u32,
    pub cursor: Option<String>,
}

impl LetterFilter {
    fn push(&self, query: &mut QueryBuilder<Sqlite>) {
        if let Some(state) = self.state {
            query.push(state.condition());
        }
        if let Some(kind) = self.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(recording) = self.recording {
            query.push(" AND recording_id = ").push_bind(recording.to_string());
        }
    }
}

impl Library {
    /// A page of the outbox, oldest first.
    pub async fn letters(&self, filter: &LetterFilter) -> Result<Page<Letter>, LibraryError> {
        if !(1..=super::super::Filter::MAX_LIMIT).contains(&filter.limit) {
            return Err(LibraryError::Limit(filter.limit));
        }
        let after = match &filter.cursor {
            Some(cursor) => cursor.parse::<i64>().map_err(|_| LibraryError::Cursor)?,
            None => 0,
        };
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, key, kind, target, recording_id, part, state, attempts, first_tried_at_ms, next_at_ms, error, \
             event FROM outbox WHERE id > ",
        );
        query.push_bind(after);
        filter.push(&mut query);
        query.push(" ORDER BY id LIMIT ").push_bind(i64::from(filter.limit) + 1);
        let rows = query.build().fetch_all(self.readers()).await.map_err(sql("read the outbox"))?;
        let mut items = rows.iter().map(letter_of).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > filter.limit as usize;
        items.truncate(filter.limit as usize);
        let next_cursor = items.last().filter(|_| more).map(|letter| letter.id.to_string());
        Ok(Page { items, next_cursor })
    }

    /// One entry.
    pub async fn letter(&self, id: OutboxId) -> Result<Option<Letter>, LibraryError> {
        let row = sqlx::query("SELECT * FROM outbox WHERE id = ?")
            .bind(id)
            .fetch_optional(self.readers())
            .await
            .map_err(sql("read the outbox"))?;
        row.as_ref().map(letter_of).transpose()
    }

    /// Makes an entry due at once; a dead one begins anew. False when there is none. Wake the deliveries after it.
    pub async fn retry_letter(&self, id: OutboxId) -> Result<bool, LibraryError> {
        const WHAT: &str = "try a delivery again";
        let mut tx = self.write(WHAT).await?;
        let revived = sqlx::query(
            "UPDATE outbox SET attempts = CASE state WHEN 'dead' THEN 0 ELSE attempts END, \
             first_tried_at_ms = CASE state WHEN 'dead' THEN NULL ELSE first_tried_at_ms END, \
             next_at_ms = 0, state = CASE state WHEN 'held' THEN 'held' ELSE 'waiting' END WHERE id = ?",
        );
        let revived = revived.bind(id).execute(&mut *tx).await.map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(revived.rows_affected() > 0)
    }

    /// Tries again every dead entry of this kind and recording, if any; answers how many. Wake the deliveries after it.
    pub async fn retry_dead(
        &self,
        kind: Option<DeliveryKind>,
        recording: Option<RecordingId>,
    ) -> Result<u64, LibraryError> {
        const WHAT: &str = "try deliveries again";
        let dead =
            LetterFilter { state: Some(LetterState::Dead), kind, recording, ..LetterFilter::default() };
        let mut query = QueryBuilder::<Sqlite>::new(
            "UPDATE outbox SET state = 'waiting', attempts = 0, first_tried_at_ms = NULL, next_at_ms = 0 WHERE true",
        );
        dead.push(&mut query);
        let mut tx = self.write(WHAT).await?;
        let revived = query.build().execute(&mut *tx).await.map_err(sql(WHAT))?;
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(revived.rows_affected())
    }

    /// Takes an entry out undelivered. False when there is none.
    pub async fn drop_letter(&self, id: OutboxId) -> Result<bool, LibraryError> {
        const WHAT: &str = "drop a delivery";
        let mut tx = self.write(WHAT).await?;
        let row = sqlx::query("DELETE FROM outbox WHERE id = ? RETURNING recording_id, kind, target")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await
            .map_err(sql(WHAT))?;
        let Some(row) = row else { return Ok(false) };
        let line = Line {
            recording: get(&row, "recording_id")?,
            kind: kind_of(&row)?,
            target: get(&row, "target")?,
        };
        put::release(&mut tx, &line, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))?;
        Ok(true)
    }
}

fn letter_of(row: &SqliteRow) -> Result<Letter, LibraryError> {
    let (state, attempts): (String, u32) = (get(row, "state")?, get(row, "attempts")?);
    let state = LetterState::of(&state, attempts);
    let (kind, target): (DeliveryKind, String) = (kind_of(row)?, get(row, "target")?);
    let at = |column| -> Result<Option<DateTime<Utc>>, LibraryError> {
        get::<Option<i64>>(row, column)?.map(|ms| time(ms, column)).transpose()
    };
    Ok(Letter {
        id: get(row, "id")?,
        key: get(row, "key")?,
        kind,
        target: shown_target(kind, &target),
        event: get(row, "event")?,
        recording_id: recording_of(row)?,
        part: get(row, "part")?,
        state,
        attempts,
        first_tried_at: at("first_tried_at_ms")?,
        next_at: if state == LetterState::Failed { at("next_at_ms")? } else { None },
        error: get(row, "error")?,
    })
}
