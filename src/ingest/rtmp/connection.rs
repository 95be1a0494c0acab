//! One RTMP connection: socket, time-outs and the hub around the pure protocol.

use super::{
    RtmpLimits, Shared,
    chunk::{ChunkError, ChunkLimits, ChunkReader},
    feed::Feed,
    handshake::{Handshake, HandshakeError},
    publish::PublishRequest,
    session::{CloseReason, Event, Session, SessionError},
    socket::Socket,
    takeover::Holder,
};
use crate::{
    hub::{Announce, EndReason, HubError, Publisher},
    ingest::{
        drain::{READ_EARLY_BYTES, forget_readiness, set_receive_low_water, ticks},
        session_id, tls,
    },
    media::{NameError, Protocol, split_path},
};
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout;

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a silent publisher to end when another takes its name over.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{}", tls::explain(.0))]
    Io(#[from] io::Error),
    #[error("nothing was published within {} s (handshake_timeout)", .0.as_secs_f32())]
    HandshakeTimeout(Duration),
    #[error("no media for {} s (publisher_timeout){}", after.as_secs_f32(), because(fault.as_deref()))]
    Silent { after: Duration, fault: Option<String> },
    #[error("publish path {path:?}: {source}")]
    Name { path: String, source: NameError },
    #[error(transparent)]
    Refused(#[from] HubError),
    #[error("the name is held by a silent publisher that does not end")]
    TakeoverFailed,
    #[error("it wants to play; reeld takes publishers only")]
    Play,
    #[error("the server is ending")]
    ShuttingDown,
    #[error("ended by request")]
    Kicked,
    #[error("its publisher is back on another connection")]
    Replaced,
    #[error("closed")]
    Closed,
}

impl ConnectionError {
    /// How a stream that was live on this connection ended.
    fn end_reason(&self) -> EndReason {
        match self {
            ConnectionError::Silent { fault: None, .. } => EndReason::TimedOut,
            ConnectionError::ShuttingDown | ConnectionError::Kicked => EndReason::Kicked,
            ConnectionError::Io(_) | ConnectionError::Closed | ConnectionError::Replaced => {
                EndReason::Disconnected
            }
            other => EndReason::Failed(other.to_string()),
        }
    }
}

/// Silence with a reason: what came could not be used.
fn because(fault: Option<&str>) -> String {
    fault.map(|fault| format!("; what came last cannot be used: {fault}")).unwrap_or_default()
}

pub(super) struct Connection<'a> {
    socket: Socket,
    /// `None` once it is done.
    handshake: Option<Handshake>,
    peer: Peer<'a>,
}

/// The connection without its socket: bytes in, access units to the hub, answers out.
struct Peer<'a> {
    shared: &'a Shared,
    remote: SocketAddr,
    local: SocketAddr,
    reader: ChunkReader,
    session: Session,
    live: Option<Live>,
    /// A publish whose name is still held by a connection that is ending.
    taking_over: Option<(PublishRequest, Holder)>,
    last_media: Instant,
}

/// What is being published.
struct Live {
    feed: Feed,
    holder: Holder,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, socket: Socket, remote: SocketAddr) -> io::Result<Self> {
        socket.tcp().set_nodelay(true)?;
        let local = socket.tcp().local_addr()?;
        let limits = ChunkLimits::for_messages_of(shared.limits.max_message_bytes);
        let peer = Peer {
            shared,
            remote,
            local,
            reader: ChunkReader::new(limits),
            session: Session::default(),
            live: None,
            taking_over: None,
            last_media: Instant::now(),
        };
        Ok(Self { socket, handshake: Some(Handshake::new(rand::random())), peer })
    }

    /// Serves the connection to its end; always returns why it ended.
    pub async fn run(&mut self) -> ConnectionError {
        let error = match self.serve().await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        self.end(&error).await;
        error
    }

    fn limits(&self) -> &RtmpLimits {
        &self.peer.shared.limits
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, ConnectionError> {
        let limit = self.limits().handshake_timeout;
        let shutdown = self.peer.shared.shutdown.clone();
        loop {
            tokio::select! {
                opened = timeout(limit, self.open()) => opened.map_err(|_| ConnectionError::HandshakeTimeout(limit))??,
                () = shutdown.cancelled() => return Err(ConnectionError::ShuttingDown),
            }
            self.publish_until_end().await?;
        }
    }

    /// Handshake and commands up to an accepted publish. After an unpublish: commands only.
    async fn open(&mut self) -> Result<(), ConnectionError> {
        let mut scratch = vec![0; 8 << 10];
        while self.peer.live.is_none() {
            let n = self.socket.read(&mut scratch).await?;
            if n == 0 {
                return Err(ConnectionError::Closed);
            }
            let mut input = &scratch[..n];
            if let Some(handshake) = &mut self.handshake {
                let mut answer = Vec::new();
                let done = handshake.read(&mut input, &mut answer)?;
                self.send(&answer).await?;
                if !done {
                    continue;
                }
                self.handshake = None;
            }
            let mut taken = self.peer.take(&mut input);
            if taken.is_ok() {
                taken = self.peer.take_over().await;
            }
            self.send_answers().await?;
            taken?;
        }
        self.peer.flush();
        Ok(())
    }

    /// Reads media until the publisher says goodbye (`Ok`) or the connection ends.
    async fn publish_until_end(&mut self) -> Result<(), ConnectionError> {
        self.peer.last_media = Instant::now();
        set_receive_low_water(self.socket.tcp(), READ_EARLY_BYTES)?;
        let mut tick = ticks(self.peer.shared.started);
        let shutdown = self.peer.shared.shutdown.clone();
        while let Some(live) = &mut self.peer.live {
            let mut early = false;
            let mut ending = None;
            tokio::select! {
                _ = tick.tick() => {}
                ready = self.socket.tcp().readable() => { ready?; early = true; }
                () = live.feed.publisher().kicked() => ending = Some(ConnectionError::Kicked),
                () = live.holder.replaced() => ending = Some(ConnectionError::Replaced),
                () = shutdown.cancelled() => ending = Some(ConnectionError::ShuttingDown),
            }
            let drained = self.drain();
            if early {
                forget_readiness(self.socket.tcp());
            }
            self.peer.flush();
            self.send_answers().await?;
            drained?;
            if let Some(ending) = ending {
                return Err(ending);
            }
            let after = self.limits().publisher_timeout;
            if self.peer.last_media.elapsed() > after {
                return Err(ConnectionError::Silent { after, fault: self.peer.fault() });
            }
        }
        set_receive_low_water(self.socket.tcp(), 1)?;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ConnectionError> {
        let Self { socket, peer, .. } = self;
        match socket.drain(|mut bytes| peer.take(&mut bytes))? {
            true => Ok(()),
            false => Err(ConnectionError::Closed),
        }
    }

    async fn end(&mut self, error: &ConnectionError) {
        self.peer.session.end_publish(&error.to_string());
        self.peer.unpublish(error.end_reason());
        // The peer may be gone; then nobody misses the answer.
        let _ = self.send_answers().await;
        let _ = timeout(WRITE_TIMEOUT, self.socket.shutdown()).await;
    }

    async fn send_answers(&mut self) -> Result<(), ConnectionError> {
        let answer = self.peer.session.outgoing();
        self.send(&answer).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = timeout(WRITE_TIMEOUT, self.socket.send(bytes)).await;
        Ok(sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
    }
}

impl Peer<'_> {
    fn take(&mut self, input: &mut &[u8]) -> Result<(), ConnectionError> {
        self.session.received(input.len());
        while let Some(message) = self.reader.next(input)? {
            let mut event = self.session.handle(message)?;
            while let Some(e) = event {
                self.on_event(e)?;
                event = self.session.next_event()?;
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), ConnectionError> {
        let now = self.shared.started.elapsed();
        match (event, &mut self.live) {
            (Event::Video { timestamp_ms, payload }, Some(live)) => {
                if live.feed.video(timestamp_ms, payload, now) {
                    self.last_media = Instant::now();
                }
            }
            (Event::Audio { timestamp_ms, payload }, Some(live)) => {
                if live.feed.audio(timestamp_ms, payload, now) {
                    self.last_media = Instant::now();
                }
            }
            (Event::Metadata(metadata), Some(live)) => live.feed.metadata(&metadata),
            (Event::Publish(request), _) => self.publish(request)?,
            (Event::Unpublish, _) => {
                self.taking_over = None;
                self.unpublish(EndReason::Unpublished);
            }
            (Event::Close(CloseReason::Play), _) => return Err(ConnectionError::Play),
            (Event::BadMetadata(e), _) => tracing::debug!(remote = %self.remote, "metadata is left out: {e}"),
            (Event::Video { .. } | Event::Audio { .. } | Event::Metadata(_), None) => {}
        }
        Ok(())
    }

    /// Answers a publish, or leaves the answer to [`take_over`](Self::take_over).
    fn publish(&mut self, request: PublishRequest) -> Result<(), ConnectionError> {
        let announced = self.announce(&request).map(|announce| {
            let name = (announce.room.clone(), announce.name.clone());
            (name, self.shared.hub.publish(announce))
        });
        let refused = match announced {
            Ok((_, Ok(publisher))) => {
                self.begin(publisher, &request);
                return Ok(());
            }
            Ok((name, Err(taken @ HubError::NameTaken { .. }))) => {
                let now = self.shared.started.elapsed();
                if let Some(holder) = self.shared.names.to_replace(&name, self.remote.ip(), now) {
                    self.taking_over = Some((request, holder));
                    return Ok(());
                }
                taken.into()
            }
            Ok((_, Err(error))) => error.into(),
            Err(error) => error,
        };
        let code = match refused {
            // The name is good, and may be published later.
            ConnectionError::Refused(HubError::TooManyStreams(_)) => "NetStream.Publish.Denied",
            _ => "NetStream.Publish.BadName",
        };
        self.session.refuse_publish(code, &refused.to_string());
        Err(refused)
    }

    /// Ends the silent connection that holds the name which is asked for, and publishes in its place. What comes
    /// before the answer belongs to no stream.
    async fn take_over(&mut self) -> Result<(), ConnectionError> {
        let Some((request, holder)) = self.taking_over.take() else { return Ok(()) };
        tracing::info!(
            session = %holder.session, remote = %self.remote,
            "the silent publisher is ended: its host publishes under the same name again"
        );
        holder.replace();
        // When it does not end in time, the name is still taken and the answer says so.
        let _ = timeout(TAKEOVER_LIMIT, holder.gone()).await;
        let taken = self.publish(request);
        match self.taking_over.take() {
            None => taken,
            Some((request, _)) => {
                let text = format!("{:?} is still being ended", request.path);
                self.session.refuse_publish("NetStream.Publish.BadName", &text);
                Err(ConnectionError::TakeoverFailed)
            }
        }
    }

    fn announce(&self, request: &PublishRequest) -> Result<Announce, ConnectionError> {
        let (room, name) = split_path(&request.path)
            .map_err(|source| ConnectionError::Name { path: request.path.clone(), source })?;
        Ok(Announce {
            room,
            name,
            protocol: Protocol::Rtmp,
            remote: self.remote,
            session_id: session_id(self.remote, self.local),
            record: wants_record(&request.query),
        })
    }

    fn begin(&mut self, publisher: Publisher, request: &PublishRequest) {
        let stream = publisher.stream();
        let Announce { room, name, .. } = stream.announce();
        tracing::info!(
            session = %stream.id(), %room, stream = %name, remote = %self.remote, encoder = %request.flash_ver,
            "publishing"
        );
        let holder = Holder::new(stream.id(), self.remote.ip(), self.shared.started.elapsed());
        self.shared.names.hold((room.clone(), name.clone()), holder.clone());
        self.live = Some(Live { feed: Feed::new(publisher), holder });
        self.session.accept_publish();
    }

    fn unpublish(&mut self, reason: EndReason) {
        let Some(Live { mut feed, holder }) = self.live.take() else { return };
        let faults = feed.faults();
        feed.finish(reason.clone());
        let stream = feed.publisher().stream();
        let Announce { room, name, .. } = stream.announce();
        self.shared.names.release(&(room.clone(), name.clone()), &holder);
        let frames = stream.snapshot().frames;
        tracing::info!(session = %stream.id(), stream = %name, frames, faults, "publish ended: {reason}");
    }

    fn flush(&mut self) {
        let now = self.shared.started.elapsed();
        if let Some(live) = &mut self.live {
            live.feed.flush(now);
            live.holder.media(now.saturating_sub(self.last_media.elapsed()));
        }
    }

    fn fault(&self) -> Option<String> {
        self.live.as_ref().and_then(|live| live.feed.last_fault()).map(ToString::to_string)
    }
}

/// `record=true` in the publish URL.
fn wants_record(query: &[(String, String)]) -> bool {
    query.iter().any(|(key, value)| key == "record" && (value.eq_ignore_ascii_case("true") || value == "1"))
}
