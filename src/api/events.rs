//! `GET /api/v1/events`: what happens, told over a WebSocket (RFC 6455), one JSON object a message.
//!
//! A client that does not read holds up nobody: it has its place on the bus, and is closed with a reason once it has lost
//! that, or takes too long for one message.

use super::{
    Answer, allow,
    openapi::{Operation, Tag, integer},
    origin,
    problem::{Kind, Problem, quoted},
};
use crate::control::{EventMessage, EventWatch, Events, NoWatch, Told, WatchEnd};
use futures_util::{SinkExt, StreamExt};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use warp::{
    Filter, Rejection,
    filters::ws::{Message, WebSocket, Ws},
    http::{HeaderMap, Method},
    reply::Reply,
};

/// Longest message taken from a client: it has nothing to say but pongs and its goodbye.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// How long a client may take over its goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Heartbeats that a client may leave unanswered.
const MAX_UNANSWERED: u32 = 3;

/// RFC 6455, 7.4.1.
const GOING_AWAY: u16 = 1001;
const POLICY_VIOLATION: u16 = 1008;

#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How often a client is told that the connection lives, and asked whether it does.
    heartbeat: Duration,
    /// How long one write may take.
    write: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(15), write: Duration::from_secs(10) }
    }
}

/// How the telling ended.
#[derive(Debug)]
enum End {
    /// The client went away, or said goodbye.
    Gone,
    /// It is told why, with a close code.
    Over(u16, String),
}

impl From<WatchEnd> for End {
    fn from(end: WatchEnd) -> Self {
        let code = match end {
            WatchEnd::Closed => GOING_AWAY,
            WatchEnd::TooSlow => POLICY_VIOLATION,
        };
        End::Over(code, end.to_string())
    }
}

pub(super) fn routes(
    events: Events,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    routes_at(events, Pace::default())
}

fn routes_at(
    events: Events,
    pace: Pace,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let upgrade = warp::ws().map(Some).or(warp::any().map(|| None)).unify();
    warp::path!("api" / "v1" / "events")
        .and(warp::method())
        .and(warp::query::<Vec<(String, String)>>())
        .and(warp::header::headers_cloned())
        .and(upgrade)
        .map(move |method, pairs: Vec<(String, String)>, headers, upgrade| {
            open(&method, &pairs, &headers, upgrade, &events, pace)
        })
}

fn open(
    method: &Method,
    pairs: &[(String, String)],
    headers: &HeaderMap,
    upgrade: Option<Ws>,
    events: &Events,
    pace: Pace,
) -> Answer {
    allow(method, "GET")?;
    // A browser opens WebSockets to any host for any page: only pages of this one may read.
    origin::check(headers)?;
    let cursor = cursor(pairs)?;
    let upgrade = upgrade.ok_or_else(|| {
        Problem::new(
            Kind::UpgradeRequired,
            "events are told over a WebSocket: open ws://HOST/api/v1/events (version 13)",
        )
    })?;
    let watch = events.watch(cursor)?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    Ok(upgrade.on_upgrade(move |socket| serve(socket, watch, pace)).into_response())
}

pub(super) fn operations() -> Vec<Operation> {
    let about = "A WebSocket (RFC 6455, version 13). Each message is a text of one JSON object, an `EventMessage`; a client \
        has nothing to say but pongs.\n\n\
        - First comes `hello`; where events after `cursor` are not known any more, then `sync`: read the lists again.\n\
        - Every 15 s comes `heartbeat`, with a ping.\n\
        - `seq` is the `cursor` to come back with.\n\
        - Close codes: 1001, the daemon is ending; 1008 with a reason, the client reads too slowly or answers no pings.\n\n\
        Browsers are let in from pages of this host only.";
    let watch = Operation::get(Tag::Events, "/api/v1/events", "watchEvents", "Watch what happens")
        .about(about)
        .query("cursor", integer(0, u64::MAX), "`seq` of the last event that the client knows")
        .answers::<EventMessage>(101, "The connection is a WebSocket now; this is one of its messages")
        .example(serde_json::json!({
            "seq": 1_772_366_400_000_001_u64, "at": "2026-03-01T12:00:00.000001Z", "type": "recording.deleted",
            "recordingId": "5a0f2d53-6a55-4a5e-9f0b-2f4f3f1c9e77",
        }))
        .problems(&[
            Kind::BadParameter,
            Kind::BadCursor,
            Kind::OriginNotAllowed,
            Kind::UpgradeRequired,
            Kind::TooManyWatchers,
            Kind::ShuttingDown,
        ]);
    vec![watch]
}

impl From<NoWatch> for Problem {
    fn from(why: NoWatch) -> Self {
        let kind = match why {
            NoWatch::TooMany => Kind::TooManyWatchers,
            NoWatch::Closed => Kind::ShuttingDown,
        };
        Problem::new(kind, why.to_string())
    }
}

fn cursor(pairs: &[(String, String)]) -> Result<Option<u64>, Problem> {
    match pairs {
        [] => Ok(None),
        [(name, value)] if name == "cursor" => value.parse().map(Some).map_err(|_| {
            let detail =
                format!("cursor is {}; give the `seq` of the last event that you know", quoted(value));
            Problem::new(Kind::BadCursor, detail)
        }),
        [(name, _), ..] => {
            let detail = format!("{} is given, and this call takes one `cursor`", quoted(name));
            Err(Problem::new(Kind::BadParameter, detail))
        }
    }
}

/// Until the client has gone or is sent away.
async fn serve(mut socket: WebSocket, mut watch: EventWatch, pace: Pace) {
    let goodbye = match tell(&mut socket, &mut watch, pace).await {
        End::Gone => None,
        End::Over(code, reason) => {
            tracing::info!(code, reason, "a client that watches events is sent away");
            Some(Message::close_with(code, reason))
        }
    };
    let leave = async {
        match goodbye {
            Some(goodbye) => socket.send(goodbye).await?,
            None => socket.flush().await?,
        }
        // Its own goodbye; a socket that is closed with something unread takes back what was written.
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, warp::Error>(())
    };
    // One that does not read now does not read its goodbye.
    let _ = timeout(CLOSE_LIMIT, leave).await;
}

async fn tell(socket: &mut WebSocket, watch: &mut EventWatch, pace: Pace) -> End {
    let mut beat = interval_at(Instant::now() + pace.heartbeat, pace.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = 0;
    let mut messages: Vec<_> = watch.greeting().into_iter().map(Message::text).collect();
    loop {
        if let Err(end) = write(socket, std::mem::take(&mut messages), pace.write).await {
            return end;
        }
        tokio::select! {
            told = watch.next() => match told {
                Ok(told) => messages.extend(told.iter().map(message)),
                Err(end) => return end.into(),
            },
            heard = socket.next() => match heard {
                Some(Ok(message)) if message.is_close() => return End::Gone,
                Some(Ok(_)) => unanswered = 0,
                Some(Err(_)) | None => return End::Gone,
            },
            _ = beat.tick() => {
                if unanswered == MAX_UNANSWERED {
                    return End::Over(POLICY_VIOLATION, "no answer to pings".into());
                }
                unanswered += 1;
                messages.extend([Message::ping(""), Message::text(watch.heartbeat())]);
            }
        }
    }
}

fn message(told: &Arc<Told>) -> Message {
    Message::text(told.json.as_str())
}

async fn write(socket: &mut WebSocket, messages: Vec<Message>, limit: Duration) -> Result<(), End> {
    if messages.is_empty() {
        return Ok(());
    }
    let all = async {
        for message in messages {
            socket.feed(message).await?;
        }
        socket.flush().await
    };
    match timeout(limit, all).await {
        Ok(written) => written.map_err(|_| End::Gone),
        Err(_) => Err(WatchEnd::TooSlow.into()),
    }
}

#[cfg(test)]
mod tests;
