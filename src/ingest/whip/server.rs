//! The WHIP sessions of this daemon, and the verbs of the protocol (RFC 9725 §4) on them.

use super::{
    answer::{Answer, AnswerError},
    candidate::MAX_CANDIDATES,
    inbox::Inbox,
    offer::{Credentials, Offer, OfferError},
    peer::{Peer, PeerError},
    sdpfrag::{Fragment, FragmentError, restarted},
    session::{Command, Session},
    state::Limits,
};
use crate::{
    config::Webrtc,
    hub::{Announce, EndReason, Hub, HubError, Publisher},
    ingest::{
        drain::common_origin,
        rtp::{Arrival, Media, Receiver},
        session_id,
    },
    media::{NameError, Protocol, split_path},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// Requests to one session that may wait.
const COMMANDS: usize = 8;
/// How long a request waits for its session to take it, and DELETE for the end.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
/// How long the refusal of an offer waits for what was begun for it to be gone.
const STOP_LIMIT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct WhipSettings {
    pub webrtc: Webrtc,
    /// Time from the offer to the first packet.
    pub connect_timeout: Duration,
    /// A publisher that sends no usable media for this long is ended.
    pub publisher_timeout: Duration,
    pub max_sessions: usize,
}

/// Who wants to publish what.
#[derive(Debug)]
pub struct PublishRequest {
    /// `ROOM/STREAM` or `STREAM`, decoded.
    pub path: String,
    pub record: bool,
    /// Of the HTTP connection.
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// The offer, of bounded length.
    pub offer: Vec<u8>,
}

/// A session has begun.
#[derive(Debug)]
pub struct Accepted {
    /// Whoever knows it can end the session.
    pub id: String,
    /// The SDP answer.
    pub answer: String,
    /// Of the ICE generation, in quotes.
    pub etag: String,
}

/// What a PATCH came to.
#[derive(Debug)]
pub enum Patched {
    /// The candidates are taken.
    Trickled,
    /// A new ICE generation has begun: ours of it as a fragment, and its ETag.
    Restarted { fragment: String, etag: String },
}

#[derive(Debug, thiserror::Error)]
pub enum WhipError {
    #[error("{0}")]
    BadOffer(String),
    #[error("{0}")]
    Unusable(String),
    #[error("the path after /whip/: {0}")]
    Name(#[from] NameError),
    #[error("{0}")]
    NameTaken(HubError),
    #[error("{0}")]
    TooManyStreams(HubError),
    #[error("[limits] max_connections = {0} WebRTC publishers are connected; try again later")]
    Busy(usize),
    #[error("no free port in [webrtc] udp_ports {}-{}; widen it", .0.start(), .0.end())]
    NoPort(RangeInclusive<u16>),
    #[error("the daemon is ending and takes no new streams")]
    ShuttingDown,
    #[error("there is no WHIP session at this path; it may have ended by itself")]
    UnknownSession,
    #[error("{0}")]
    Fragment(#[from] FragmentError),
    #[error("a session takes at most {MAX_CANDIDATES} candidates")]
    TooManyCandidates,
    #[error("If-Match is missing: send the ETag of the answer")]
    IfMatchMissing,
    #[error("If-Match is not the session's ETag, {0}")]
    IfMatchWrong(String),
    #[error("an ICE restart is not possible here; DELETE the session and POST a new offer")]
    NoRestart,
    #[error("{0}")]
    Failed(String),
}

impl From<HubError> for WhipError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::NameTaken { .. } => WhipError::NameTaken(error),
            HubError::TooManyStreams(_) => WhipError::TooManyStreams(error),
        }
    }
}

impl From<OfferError> for WhipError {
    fn from(error: OfferError) -> Self {
        match error {
            OfferError::Malformed(what) => WhipError::BadOffer(what),
            OfferError::Unusable(what) => WhipError::Unusable(what),
        }
    }
}

impl From<PeerError> for WhipError {
    fn from(error: PeerError) -> Self {
        WhipError::Failed(error.to_string())
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct WhipStats {
    pub sessions: usize,
    pub accepted: u64,
    /// Offers that were not accepted, whatever the reason.
    pub refused: u64,
}

struct Entry {
    commands: mpsc::Sender<Command>,
    /// Ours, and the section that tells them.
    candidates: Vec<String>,
    mid: String,
    ice: Mutex<Generation>,
}

/// What changes with an ICE restart.
struct Generation {
    etag: String,
    /// The publisher's.
    credentials: Credentials,
    /// Candidates of the publisher taken so far.
    taken: usize,
}

impl Entry {
    fn ice(&self) -> MutexGuard<'_, Generation> {
        self.ice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, command: Command) -> Result<(), WhipError> {
        let sent = self.commands.send_timeout(command, REQUEST_LIMIT).await;
        sent.map_err(|_| WhipError::UnknownSession)
    }

    async fn restart(&self, theirs: Credentials, candidates: usize) -> Result<Patched, WhipError> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Restart(theirs.clone(), answer)).await?;
        let ours = timeout(REQUEST_LIMIT, answered)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(WhipError::UnknownSession)?;
        let ours = ours.ok_or(WhipError::NoRestart)?;
        let fragment = restarted(&ours, &self.mid, &self.candidates);
        let generation = Generation::new(theirs, candidates);
        let etag = generation.etag.clone();
        *self.ice() = generation;
        Ok(Patched::Restarted { fragment, etag })
    }
}

impl Generation {
    fn new(credentials: Credentials, taken: usize) -> Self {
        Self { etag: format!("\"{}\"", Uuid::new_v4().simple()), credentials, taken }
    }

    /// Err unless `if_match` names this generation, or any (RFC 9110 §13.1.1).
    fn check(&self, if_match: Option<&str>) -> Result<(), WhipError> {
        let if_match = if_match.ok_or(WhipError::IfMatchMissing)?.trim();
        let names_it = if_match == "*" || if_match.split(',').any(|tag| tag.trim() == self.etag);
        names_it.then_some(()).ok_or_else(|| WhipError::IfMatchWrong(self.etag.clone()))
    }

    fn take(&mut self, candidates: usize) -> Result<(), WhipError> {
        let taken = self.taken + candidates;
        if taken > MAX_CANDIDATES {
            return Err(WhipError::TooManyCandidates);
        }
        self.taken = taken;
        Ok(())
    }
}

/// Takes WebRTC publishers and publishes their streams to the hub.
pub struct WhipServer {
    hub: Hub,
    settings: WhipSettings,
    ice_servers: Vec<String>,
    sessions: Mutex<HashMap<String, Arc<Entry>>>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    origin: Instant,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl WhipServer {
    pub fn new(hub: Hub, settings: WhipSettings) -> Self {
        Self {
            hub,
            ice_servers: ice_servers(&settings.webrtc),
            places: Arc::new(Semaphore::new(settings.max_sessions)),
            settings,
            sessions: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            origin: common_origin(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Values of the `Link` headers that tell publishers of STUN and TURN servers (RFC 9725 §4.6). They hold the TURN
    /// credentials: only for who publishes.
    pub fn ice_servers(&self) -> &[String] {
        &self.ice_servers
    }

    pub fn stats(&self) -> WhipStats {
        WhipStats {
            sessions: self.sessions().len(),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Takes an offer: the stream is in the hub, and its session runs, when this returns. Let it run to its end.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<Accepted, WhipError> {
        let remote = request.remote;
        let outcome = self.begin(request).await;
        let counter = if outcome.is_ok() { &self.accepted } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        match &outcome {
            Ok(_) => {}
            // One line for all publishers together: it is the daemon's configuration that has to change.
            Err(error @ WhipError::NoPort(_)) => tracing::warn!("WHIP offer refused: {error}"),
            Err(error) => tracing::info!(%remote, "WHIP offer refused: {error}"),
        }
        outcome
    }

    async fn begin(self: &Arc<Self>, request: PublishRequest) -> Result<Accepted, WhipError> {
        if self.shutdown.is_cancelled() {
            return Err(WhipError::ShuttingDown);
        }
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| WhipError::Busy(self.settings.max_sessions))?;
        let offer = Offer::parse(&request.offer)?;
        let mut receiver = self.receiver(&request, &offer)?;

        let inbox = Arc::new(Inbox::default());
        let (webrtc, theirs) = (self.settings.webrtc.clone(), inbox.clone());
        let loopback = request.remote.ip().to_canonical().is_loopback();
        let peer = tokio::task::spawn_blocking(move || Peer::start(&webrtc, loopback, theirs)).await;
        let mut peer = peer.map_err(|e| WhipError::Failed(e.to_string()))??;
        match self.answer(&offer, &peer).await {
            Ok(answer) => Ok(self.run(offer, receiver, peer, inbox, answer, place)),
            Err(error) => {
                receiver.finish(EndReason::Failed(error.to_string()));
                // It ends by itself when this takes too long.
                if let Some(stopped) = peer.stop() {
                    let _ = timeout(STOP_LIMIT, stopped).await;
                }
                Err(error)
            }
        }
    }

    async fn answer(&self, offer: &Offer, peer: &Peer) -> Result<Answer, WhipError> {
        let webrtc = &self.settings.webrtc;
        let (sdp, gathered) = peer.answer(&offer.sdp).await?;
        Answer::make(&sdp, &offer.sections, webrtc.announce_ip, gathered).map_err(|error| match error {
            AnswerError::NoPort => WhipError::NoPort(webrtc.udp_ports.clone()),
            error => WhipError::Failed(error.to_string()),
        })
    }

    fn receiver(&self, request: &PublishRequest, offer: &Offer) -> Result<Receiver, WhipError> {
        let (room, name) = split_path(&request.path)?;
        let publisher = self.hub.publish(Announce {
            room,
            name,
            protocol: Protocol::Webrtc,
            remote: request.remote,
            session_id: session_id(request.remote, request.local),
            record: request.record,
        })?;
        let media = offer.formats().map(|f| Media { formats: vec![f.clone()], arrival: Arrival::InOrder });
        Receiver::new(publisher, media.collect()).map_err(|e| WhipError::Unusable(e.to_string()))
    }

    fn run(
        self: &Arc<Self>,
        offer: Offer,
        mut receiver: Receiver,
        peer: Peer,
        inbox: Arc<Inbox>,
        answer: Answer,
        place: OwnedSemaphorePermit,
    ) -> Accepted {
        tell(receiver.publisher(), &offer);
        let (commands, received) = mpsc::channel(COMMANDS);
        let id = Uuid::new_v4().to_string();
        let generation = Generation::new(offer.credentials.clone(), offer.candidates);
        let etag = generation.etag.clone();
        let session = Session {
            peer,
            inbox,
            receiver,
            commands: received,
            payload_types: offer.formats().map(|f| f.payload_type).collect(),
            limits: Limits {
                connect: self.settings.connect_timeout,
                silence: self.settings.publisher_timeout,
            },
            origin: self.origin,
            shutdown: self.shutdown.clone(),
        };
        let Answer { sdp, candidates, mid, .. } = answer;
        let entry = Entry { commands, candidates, mid, ice: Mutex::new(generation) };
        self.sessions().insert(id.clone(), Arc::new(entry));
        let (server, key) = (self.clone(), id.clone());
        self.tasks.spawn(session.run(move || {
            server.sessions().remove(&key);
            drop(place);
        }));
        Accepted { id, answer: sdp, etag }
    }

    /// Trickled candidates (RFC 9725 §4.3.2) or an ICE restart (§4.3.3). `if_match`: the header's value.
    pub async fn patch(&self, id: &str, if_match: Option<&str>, body: &[u8]) -> Result<Patched, WhipError> {
        let entry = self.entry(id)?;
        let fragment = Fragment::parse(body)?;
        let Fragment { credentials, candidates } = fragment;
        let restart = {
            let mut ice = entry.ice();
            ice.check(if_match)?;
            ice.take(candidates.len())?;
            credentials.filter(|theirs| *theirs != ice.credentials)
        };
        let patched = match restart {
            Some(theirs) => entry.restart(theirs, candidates.len()).await?,
            None => Patched::Trickled,
        };
        if !candidates.is_empty() {
            entry.send(Command::Candidates(candidates)).await?;
        }
        Ok(patched)
    }

    /// Ends the session; what it has sent before is with the hub when this returns.
    pub async fn delete(&self, id: &str) -> Result<(), WhipError> {
        let entry = self.entry(id)?;
        let (goodbye, done) = oneshot::channel();
        entry.send(Command::Delete(goodbye)).await?;
        drop(entry);
        // It answers by dropping its end.
        timeout(REQUEST_LIMIT, done).await.map_or_else(
            |_| Err(WhipError::Failed("the session does not come to its end".into())),
            |_| Ok(()),
        )
    }

    /// Ends every session; the streams end as if kicked. Waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.shutdown.cancel();
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!("WebRTC publishers did not end within {} s", limit.as_secs_f32());
        }
    }

    fn entry(&self, id: &str) -> Result<Arc<Entry>, WhipError> {
        self.sessions().get(id).cloned().ok_or(WhipError::UnknownSession)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(publisher: &Publisher, offer: &Offer) {
    let stream = publisher.stream();
    let codecs: Vec<_> = offer.formats().map(|f| f.codec.as_str()).collect();
    let announce = stream.announce();
    tracing::info!(
        session = %stream.id(), room = %announce.room, stream = %announce.name, remote = %announce.remote,
        codecs = codecs.join("+"), "publishing over WebRTC"
    );
}

/// RFC 9725 §4.6, and RFC 7064 and 7065 for the URIs.
fn ice_servers(webrtc: &Webrtc) -> Vec<String> {
    use url::Url;
    let place = |url: &Url| {
        let host = url.host_str().unwrap_or_default();
        url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    };
    let decoded = |text: &str| {
        let escaped = text.replace('+', "%2B").replace('&', "%26");
        form_urlencoded::parse(format!("v={escaped}").as_bytes())
            .next()
            .map(|(_, v)| v.replace(['"', '\\'], ""))
    };
    let stun = webrtc.stun.iter().map(|url| format!("<stun:{}>; rel=\"ice-server\"", place(url)));
    let turn = webrtc.turn.iter().map(|url| {
        let user = decoded(url.username()).unwrap_or_default();
        let password = decoded(url.password().unwrap_or_default()).unwrap_or_default();
        format!(
            "<{}:{}>; rel=\"ice-server\"; username=\"{user}\"; credential=\"{password}\"; credential-type=\"password\"",
            url.scheme(),
            place(url)
        )
    });
    stun.chain(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ice_servers_are_told_as_links() {
        let webrtc = Webrtc {
            stun: Some("stun://stun.example.org:3478".parse().unwrap()),
            turn: vec!["turn://me:p%2Fw+1@turn.example.org".parse().unwrap()],
            ..Webrtc::default()
        };
        assert_eq!(
            ice_servers(&webrtc),
            [
                "<stun:stun.example.org:3478>; rel=\"ice-server\"",
                "<turn:turn.example.org>; rel=\"ice-server\"; username=\"me\"; credential=\"p/w+1\"; credential-type=\"password\""
            ]
        );
    }
}
