//! Sources: streams that reeld fetches itself, from RTSP cameras and RTMP servers.
//!
//! [`Sources`] is the registry. Each source has one task, which connects, waits when that fails or ends, and connects again
//! for ever. A protocol is a `Pull`: one connection at a time. The hub's stream is made on the first connection and
//! lives until the source is removed, so that a recording goes on by itself when the source returns.

mod backoff;
mod reach;
mod registry;
mod task;
mod uri;

pub use registry::{SourceRequest, Sources, SourcesError};
pub use task::Source;
pub use uri::{Credentials, Scheme, SourceUri, UriError};

use crate::{
    config::{SourceRules, Transport},
    hub::{EndReason, HubError},
    media::MediaSessionId,
};
use chrono::{DateTime, Utc};
use std::{fmt, future::Future, io, time::Duration};
use uuid::Uuid;

/// One protocol's way to fetch one source. It is kept for all connections of the source and owns what must live across
/// them: the hub's publisher and its timeline.
pub(in crate::ingest) trait Pull: Send + 'static {
    /// One connection, from resolving the host to its end; always says why it ended. It
    /// - connects with [`Source::connect`] only, which applies the operator's rules;
    /// - bounds the time up to the first media by [`SourceLimits::connect_timeout`], and silence by
    ///   [`SourceLimits::publisher_timeout`];
    /// - takes the stream's name with [`Source::publish`] on the first connection, goes on with the same publisher and a
    ///   reconnect gap on later ones, and says [`Source::live`] when media arrives;
    /// - returns [`PullError::Stopped`] soon after [`Source::stopped`], having said goodbye to the server.
    fn connection(&mut self, source: &Source) -> impl Future<Output = PullError> + Send;

    /// The source is removed: hands on what is left and ends the hub's stream, if there is one.
    fn finish(&mut self, reason: EndReason);
}

/// Why a connection of a source ended. Its text is shown in the API: it holds no credentials, and nothing that the
/// server said but numbers.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("the host name cannot be resolved: {0}")]
    Resolve(io::Error),
    #[error("{host} is at {address}, which [limits] allow_sources does not allow")]
    NotAllowed { host: String, address: std::net::IpAddr },
    #[error("cannot connect: {0}; check host and port, and that the server runs")]
    Connect(io::Error),
    #[error("no {what} within {} s ([limits] connect_timeout)", .limit.as_secs_f32())]
    Timeout { what: &'static str, limit: Duration },
    #[error("no media for {} s ([limits] publisher_timeout)", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the source closed the connection")]
    Closed,
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The protocol's own words.
    #[error("{0}")]
    Protocol(String),
    /// The source is removed, its session was ended, or the daemon ends.
    #[error("ended from here")]
    Stopped,
}

/// `[limits]`, as far as they concern sources.
#[derive(Clone, Debug)]
pub struct SourceLimits {
    /// For each of: resolve and connect, the exchange up to playing, the first media.
    pub connect_timeout: Duration,
    /// A live source that sends no usable media for this long is connected to anew.
    pub publisher_timeout: Duration,
    pub max_sources: usize,
    pub rules: SourceRules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct SourceId(Uuid);

impl SourceId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a source is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SourceState {
    /// The first connection, or another one after `failure`.
    Connecting {
        #[serde(flatten)]
        failure: Option<Failure>,
    },
    /// Media arrives.
    Live { since: DateTime<Utc> },
    Waiting {
        #[serde(flatten)]
        failure: Failure,
        next_try: DateTime<Utc>,
    },
}

/// The last connection failed or ended for `reason`; `attempts` of them in a row.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    pub reason: String,
    pub attempts: u32,
}

/// A source at one moment, as it is told outside.
#[derive(Clone, Debug)]
pub struct SourceSnapshot {
    pub id: SourceId,
    /// Without credentials.
    pub uri: String,
    pub scheme: Scheme,
    pub room: crate::media::RoomName,
    pub name: crate::media::StreamName,
    pub transport: Transport,
    /// Recorded whatever the policy says.
    pub record: bool,
    pub added_at: DateTime<Utc>,
    pub state: SourceState,
    /// The hub's stream, once the source has been connected; it stays while the source waits.
    pub session: Option<MediaSessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_value};

    /// Once the reason was gone whenever an attempt was under way, up to 10 s of it against 1 s of waiting.
    #[test]
    fn an_attempt_after_a_failure_tells_why() {
        let failure = Failure { reason: "cannot connect".into(), attempts: 3 };
        let next_try = DateTime::UNIX_EPOCH;
        for (state, want) in [
            (SourceState::Connecting { failure: None }, json!({"state": "connecting"})),
            (
                SourceState::Connecting { failure: Some(failure.clone()) },
                json!({"state": "connecting", "reason": "cannot connect", "attempts": 3}),
            ),
            (
                SourceState::Waiting { failure, next_try },
                json!({"state": "waiting", "reason": "cannot connect", "attempts": 3, "nextTry": next_try}),
            ),
            (SourceState::Live { since: next_try }, json!({"state": "live", "since": next_try})),
        ] {
            assert_eq!(to_value(&state).expect("JSON"), want);
        }
    }
}
