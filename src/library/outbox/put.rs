//! What is put into the outbox, and the order it leaves in. All of it happens in the transaction of what it tells.

use super::{
    super::{
        DeliveryKind, Library, LibraryError, Part, RecordingId, Status,
        catalog::{from_json, get, path_text, read_newest, to_json},
        sql,
    },
    HandOn, HookJob, Job, PART_NEWS, Tried, UploadJob, WebhookJob,
    queue::Entry,
    shown_target,
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use sqlx::SqliteConnection;
use uuid::Uuid;

/// Parts and gaps of a recording that are told with it: the newest.
const TOLD_PARTS: u32 = 50;

/// Whether an entry that is put into a line now has to wait.
pub(in crate::library) const HOLDS: &str = "SELECT EXISTS (SELECT 1 FROM outbox WHERE recording_id IS ?1 AND \
     kind = ?2 AND target = ?3 AND holds = 1) OR EXISTS (SELECT 1 FROM outbox WHERE recording_id IS ?1 AND kind = ?2 AND \
     target = ?3 AND state = 'held')";
/// Lets the next held entry of a line go, when nothing holds it back any more.
pub(in crate::library) const RELEASE: &str = "UPDATE outbox SET state = 'waiting', holds = 1 WHERE id = (SELECT id \
     FROM outbox WHERE recording_id IS ?1 AND kind = ?2 AND target = ?3 AND state = 'held' ORDER BY place, id LIMIT 1) \
     AND NOT EXISTS (SELECT 1 FROM outbox WHERE recording_id IS ?1 AND kind = ?2 AND target = ?3 AND holds = 1)";

/// Entries that keep their order: of one recording (`None`: the daemon's own news) and target.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub recording: Option<String>,
    pub kind: DeliveryKind,
    pub target: String,
}

/// What happens to a recording that its webhooks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::library) enum News {
    Started,
    /// This part is finished.
    Part(u32),
    Completed,
    Failed,
    Degraded,
    /// Nothing is wrong with it any more.
    Healthy,
}

impl News {
    fn name(self) -> &'static str {
        match self {
            News::Started => "recording.started",
            News::Part(_) => PART_NEWS,
            News::Completed => "recording.completed",
            News::Failed => "recording.failed",
            News::Degraded => "recording.degraded",
            News::Healthy => "recording.healthy",
        }
    }

    fn part(self) -> Option<u32> {
        match self {
            News::Part(number) => Some(number),
            _ => None,
        }
    }
}

impl Library {
    /// Puts in news of the daemon itself for `webhooks` (URLs). `event` is the `type` and `data` the rest of the body. Wake the
    /// deliveries after it.
    pub async fn put_event(&self, webhooks: &[String], event: &str, data: Value) -> Result<(), LibraryError> {
        const WHAT: &str = "put news into the outbox";
        if webhooks.is_empty() {
            return Ok(());
        }
        let body = body(event, data);
        let mut tx = self.write(WHAT).await?;
        for url in webhooks {
            let job = Job::Webhook(WebhookJob { url: url.clone(), event: body.clone() });
            insert(&mut tx, &Draft::new(None, None, job), WHAT).await?;
        }
        tx.commit().await.map_err(sql(WHAT))
    }
}

fn body(event: &str, data: Value) -> Value {
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({"type": event, "timestamp": at, "data": data})
}

/// Puts in what is to be done with a part that was entered in this transaction, as its recording's `hand_on` says, or else as
/// `otherwise`. `status`: what a hook is told.
pub(in crate::library) async fn put_part(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    part: &Part,
    status: Status,
    otherwise: &HandOn,
    what: &'static str,
) -> Result<(), LibraryError> {
    let known = hand_on_of(tx, id, what).await?;
    let HandOn { hook, webhooks, uploads } = known.as_ref().unwrap_or(otherwise);
    if let Some(script) = hook {
        path_text(script)?;
    }
    let hooks = hook.iter().map(|script| Job::Hook(HookJob { script: script.clone(), status }));
    let uploads = uploads.iter().map(|to| Job::Upload(UploadJob { to: to.clone() }));
    for job in hooks.chain(uploads) {
        insert(tx, &Draft::new(Some(id), Some(part.number), job), what).await?;
    }
    tell(tx, id, webhooks, News::Part(part.number), what).await?;
    if is_worse(tx, id, part, what).await? {
        tell(tx, id, webhooks, News::Degraded, what).await?;
    }
    Ok(())
}

/// Puts in news of a recording for each of its webhooks.
pub(in crate::library) async fn put_event(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    news: News,
    what: &'static str,
) -> Result<(), LibraryError> {
    let Some(HandOn { webhooks, .. }) = hand_on_of(tx, id, what).await? else { return Ok(()) };
    tell(tx, id, &webhooks, news, what).await
}

async fn tell(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    webhooks: &[String],
    news: News,
    what: &'static str,
) -> Result<(), LibraryError> {
    if webhooks.is_empty() {
        return Ok(());
    }
    let mut data = of_recording(tx, id, what).await?;
    if let Some(part) = news.part() {
        data["part"] = part.into();
    }
    put_webhooks(tx, id, webhooks, news.part(), &body(news.name(), data), what).await
}

async fn put_webhooks(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    webhooks: &[String],
    part: Option<u32>,
    event: &Value,
    what: &'static str,
) -> Result<(), LibraryError> {
    for url in webhooks {
        let job = Job::Webhook(WebhookJob { url: url.clone(), event: event.clone() });
        insert(tx, &Draft::new(Some(id), part, job), what).await?;
    }
    Ok(())
}

/// `recording` as it is in this transaction, and `partial` when it has more parts or gaps than are told.
async fn of_recording(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    what: &'static str,
) -> Result<Value, LibraryError> {
    let (recording, partial) = read_newest(tx, id, TOLD_PARTS, what).await?;
    let mut data = json!({"recording": recording});
    if partial {
        data["partial"] = true.into();
    }
    Ok(data)
}

/// Whether a part has a reason to be less than asked for that no other part of its recording has.
async fn is_worse(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    part: &Part,
    what: &'static str,
) -> Result<bool, LibraryError> {
    if part.degraded.is_empty() {
        return Ok(false);
    }
    let others: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT degraded FROM part WHERE recording_id = ? AND number != ? AND degraded != '[]'",
    )
    .bind(id.to_string())
    .bind(part.number)
    .fetch_all(tx)
    .await
    .map_err(sql(what))?;
    let others: Vec<Vec<String>> =
        others.into_iter().map(|json| from_json("degraded", json)).collect::<Result<_, _>>()?;
    Ok(part.degraded.iter().any(|reason| !others.iter().flatten().any(|other| other == reason)))
}

/// Tells the webhooks of a recording that a delivery of it is given up. One that is a webhook itself is told to the others only, and
/// that such news cannot be delivered is told to nobody: else two that are gone would tell each other for ever.
pub(super) async fn tell_dead(
    tx: &mut SqliteConnection,
    dead: &Entry,
    tried: &Tried,
    what: &'static str,
) -> Result<(), LibraryError> {
    const NAME: &str = "delivery.failed";
    let Some(id) = dead.line.recording.as_deref().and_then(RecordingId::parse) else { return Ok(()) };
    let Some(HandOn { mut webhooks, .. }) = hand_on_of(tx, &id, what).await? else { return Ok(()) };
    webhooks.retain(|url| dead.kind != DeliveryKind::Webhook || *url != dead.line.target);
    if webhooks.is_empty() || dead.event.as_deref() == Some(NAME) {
        return Ok(());
    }
    let mut data = of_recording(tx, &id, what).await?;
    data["delivery"] = json!({
        "key": dead.key,
        "kind": dead.kind,
        "target": shown_target(dead.kind, &dead.line.target),
        "part": dead.part,
        "state": "dead",
        "attempts": tried.attempts,
        "error": tried.error,
    });
    put_webhooks(tx, &id, &webhooks, None, &body(NAME, data), what).await
}

/// The entries of this line go, and its recording forgets the target.
pub(super) async fn unsubscribe(
    tx: &mut SqliteConnection,
    line: &Line,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query("DELETE FROM outbox WHERE recording_id IS ? AND kind = ? AND target = ? AND state != 'dead'")
        .bind(&line.recording)
        .bind(line.kind.as_str())
        .bind(&line.target)
        .execute(&mut *tx)
        .await
        .map_err(sql(what))?;
    let Some(id) = line.recording.as_deref().and_then(RecordingId::parse) else { return Ok(()) };
    let Some(mut hand_on) = hand_on_of(tx, &id, what).await? else { return Ok(()) };
    hand_on.webhooks.retain(|url| *url != line.target);
    keep_hand_on(tx, &id, &hand_on, what).await
}

async fn keep_hand_on(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    hand_on: &HandOn,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query("UPDATE recording SET hand_on = ? WHERE id = ?")
        .bind(to_json(hand_on))
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(sql(what))?;
    Ok(())
}

/// `None`: it began before this was kept.
async fn hand_on_of(
    tx: &mut SqliteConnection,
    id: &RecordingId,
    what: &'static str,
) -> Result<Option<HandOn>, LibraryError> {
    let row = sqlx::query("SELECT hand_on FROM recording WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(sql(what))?;
    let Some(row) = row else { return Ok(None) };
    let json: Option<String> = get(&row, "hand_on")?;
    json.map(|json| from_json("hand_on", json)).transpose()
}

/// An entry to be.
pub(super) struct Draft {
    pub key: String,
    pub recording: Option<RecordingId>,
    pub part: Option<u32>,
    pub job: Job,
    pub dead: bool,
    pub attempts: u32,
    pub error: Option<String>,
    pub progress: Option<Value>,
}

impl Draft {
    fn new(recording: Option<&RecordingId>, part: Option<u32>, job: Job) -> Self {
        let key = format!("msg_{}", Uuid::new_v4());
        let recording = recording.copied();
        Self { key, recording, part, job, dead: false, attempts: 0, error: None, progress: None }
    }
}

/// Enters one, due at once unless it is dead or an earlier one of its line holds it back.
pub(super) async fn insert(
    tx: &mut SqliteConnection,
    draft: &Draft,
    what: &'static str,
) -> Result<(), LibraryError> {
    let kind = draft.job.kind();
    let recording = draft.recording.map(|id| id.to_string());
    let line = Line { recording, kind, target: draft.job.target() };
    let state = match draft.dead {
        true => "dead",
        false if holds(tx, &line, what).await? => "held",
        false => "waiting",
    };
    let is_news = kind == DeliveryKind::Webhook;
    sqlx::query(
        "INSERT INTO outbox (key, kind, target, recording_id, part, place, event, job, state, holds, attempts, \
         next_at_ms, error, progress) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
    )
    .bind(&draft.key)
    .bind(kind.as_str())
    .bind(&line.target)
    .bind(&line.recording)
    .bind(draft.part)
    .bind(draft.part.filter(|_| !is_news).unwrap_or(0))
    .bind(draft.job.event())
    .bind(to_json(&draft.job))
    .bind(state)
    .bind(state == "waiting")
    .bind(draft.attempts)
    .bind(&draft.error)
    .bind(draft.progress.as_ref().map(to_json))
    .execute(tx)
    .await
    .map_err(sql(what))?;
    Ok(())
}

async fn holds(tx: &mut SqliteConnection, line: &Line, what: &'static str) -> Result<bool, LibraryError> {
    sqlx::query_scalar(HOLDS)
        .bind(&line.recording)
        .bind(line.kind.as_str())
        .bind(&line.target)
        .fetch_one(tx)
        .await
        .map_err(sql(what))
}

pub(super) async fn release(
    tx: &mut SqliteConnection,
    line: &Line,
    what: &'static str,
) -> Result<(), LibraryError> {
    sqlx::query(RELEASE)
        .bind(&line.recording)
        .bind(line.kind.as_str())
        .bind(&line.target)
        .execute(tx)
        .await
        .map_err(sql(what))?;
    Ok(())
}
