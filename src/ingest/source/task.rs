//! The life of one source: connect, wait, connect again, until it is removed.

use super::{
    Failure, Pull, PullError, SourceId, SourceLimits, SourceSnapshot, SourceState, SourceUri,
    backoff::Backoff, reach,
};
use crate::{
    config::Transport,
    hub::{Announce, EndReason, Hub, Publisher, Stream},
    ingest::session_id,
    media::{Protocol, RoomName, StreamName},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

/// Time a connection has to say goodbye once its source is removed.
pub(super) const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// One source, as its `Pull` sees it.
pub struct Source {
    pub(super) id: SourceId,
    pub(super) uri: SourceUri,
    pub(super) room: RoomName,
    pub(super) name: StreamName,
    pub(super) transport: Transport,
    pub(super) record: bool,
    pub(super) added_at: DateTime<Utc>,
    pub(super) hub: Hub,
    pub(super) limits: Arc<SourceLimits>,
    /// Origin of the read ticks, common to all sources, and of the times given to receivers.
    pub(super) started: Instant,
    pub(super) state: Mutex<State>,
    pub(super) told: watch::Sender<SourceState>,
    pub(super) stop: CancellationToken,
    /// Cancelled once there is a stream in the hub.
    pub(super) published: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    /// When the connection under way became live.
    live_from: Option<Instant>,
    /// The hub's stream, from the first [`publish`](Source::publish) on.
    stream: Option<Arc<Stream>>,
}

impl Source {
    pub fn id(&self) -> SourceId {
        self.id
    }

    pub fn uri(&self) -> &SourceUri {
        &self.uri
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    pub fn limits(&self) -> &SourceLimits {
        &self.limits
    }

    /// Origin of the tick grid and of monotonic times.
    pub(in crate::ingest) fn started(&self) -> Instant {
        self.started
    }

    /// Resolves `host` once and connects to an address that the rules allow, within `connect_timeout`. For the source
    /// itself and for where it redirects to.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, PullError> {
        reach::connect(host, port, &self.limits).await
    }

    /// Takes the stream's name in the hub, for a source that has no publisher yet.
    pub fn publish(
        &self,
        protocol: Protocol,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<Publisher, PullError> {
        let publisher = self.hub.publish(Announce {
            room: self.room.clone(),
            name: self.name.clone(),
            protocol,
            remote,
            session_id: session_id(remote, local),
            record: self.record,
        })?;
        let stream = publisher.stream();
        tracing::info!(
            source = %self.id, session = %stream.id(), room = %self.room, stream = %self.name, %remote, "pulling"
        );
        self.state().stream = Some(stream.clone());
        self.published.cancel();
        Ok(publisher)
    }

    /// Media arrives on this connection.
    pub fn live(&self) {
        let mut state = self.state();
        if state.live_from.is_none() {
            state.live_from = Some(Instant::now());
            state.stream.iter().for_each(|stream| stream.set_away(false));
            drop(state);
            self.told.send_replace(SourceState::Live { since: Utc::now() });
            tracing::info!(source = %self.id, uri = %self.uri, "source is live");
        }
    }

    /// Done when the source is to end: it was removed, its session was ended, or the daemon ends.
    pub async fn stopped(&self) {
        let kicked = async {
            self.published.cancelled().await;
            let stream = self.state().stream.clone();
            match stream {
                Some(stream) => stream.kicked().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = kicked => {}
        }
    }

    pub(super) fn snapshot(&self) -> SourceSnapshot {
        let state = self.state();
        SourceSnapshot {
            id: self.id,
            uri: self.uri.to_string(),
            scheme: self.uri.scheme(),
            room: self.room.clone(),
            name: self.name.clone(),
            transport: self.transport,
            record: self.record,
            added_at: self.added_at,
            state: self.told.borrow().clone(),
            session: state.stream.as_ref().map(|s| s.id()),
        }
    }

    /// A connection begins, after `failure` of the one before.
    fn begin(&self, failure: Option<Failure>) {
        self.state().live_from = None;
        self.told.send_replace(SourceState::Connecting { failure });
    }

    /// The connection has ended; its stream waits for the next one.
    fn away(&self, told: SourceState) {
        self.state().stream.iter().for_each(|stream| stream.set_away(true));
        self.told.send_replace(told);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the source until it is stopped.
pub(super) async fn run(source: &Source, mut pull: impl Pull) {
    let mut backoff = Backoff::default();
    let mut failure = None;
    loop {
        source.begin(failure.take());
        let error = one_connection(source, &mut pull).await;
        if matches!(error, PullError::Stopped) {
            break;
        }
        let live = source.state().live_from.map_or(Duration::ZERO, |from| from.elapsed());
        let wait = backoff.next(live, rand::random());
        let (reason, attempts) = (error.to_string(), backoff.attempts());
        tracing::warn!(
            source = %source.id, uri = %source.uri, attempts, "source is away, next try in {:.1} s: {reason}",
            wait.as_secs_f32()
        );
        let next_try = Utc::now() + TimeDelta::milliseconds(wait.as_millis() as i64);
        let failed = failure.insert(Failure { reason, attempts }).clone();
        source.away(SourceState::Waiting { failure: failed, next_try });
        tokio::select! {
            () = sleep(wait) => {}
            () = source.stopped() => break,
        }
    }
    pull.finish(EndReason::Kicked);
    tracing::info!(source = %source.id, uri = %source.uri, "source removed");
}

/// One connection; one that does not end soon after the source was stopped is broken off.
async fn one_connection(source: &Source, pull: &mut impl Pull) -> PullError {
    let given_up = async {
        source.stopped().await;
        sleep(GOODBYE_LIMIT).await;
    };
    tokio::select! {
        error = pull.connection(source) => error,
        () = given_up => PullError::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::SourceRules, hub::PrerollRule};

    /// Once who waited from before the first connection, as what breaks off a stuck one does, never heard of it.
    #[tokio::test]
    async fn who_waited_before_the_stream_began_hears_that_it_is_ended() {
        let (hub, _publishing) = Hub::new(1 << 20, PrerollRule::default());
        let limit = Duration::from_secs(1);
        let source = Source {
            id: SourceId::random(),
            uri: SourceUri::parse("rtsp://camera.lan/x").expect("a URI"),
            room: RoomName::default(),
            name: StreamName::new("cam").expect("a name"),
            transport: Transport::Tcp,
            record: false,
            added_at: Utc::now(),
            hub,
            limits: Arc::new(SourceLimits {
                connect_timeout: limit,
                publisher_timeout: limit,
                max_sources: 1,
                rules: SourceRules::default(),
            }),
            started: Instant::now(),
            state: Mutex::default(),
            told: watch::Sender::new(SourceState::Connecting { failure: None }),
            stop: CancellationToken::new(),
            published: CancellationToken::new(),
        };
        let mut stopped = std::pin::pin!(source.stopped());
        tokio::select! {
            biased;
            () = &mut stopped => panic!("nobody ended it"),
            () = std::future::ready(()) => {}
        }
        let here: SocketAddr = ([127, 0, 0, 1], 554).into();
        let publisher = source.publish(Protocol::Rtsp, here, here).expect("a free name");
        publisher.stream().kick();
        tokio::time::timeout(limit, stopped).await.expect("heard");
    }
}
