//! One RTMP connection: socket, time-outs and the hub around the pure protocol.

use super::{
    RtmpLimits, Shared,
    chunk::{ChunkError, ChunkLimits, ChunkReader},
    feed::Feed,
    handshake::{Handshake, HandshakeError},
    publish::PublishRequest,
    session::{CloseReason, Event, Session, SessionError},
};
use crate::{
    hub::{Announce, EndReason, HubError},
    ingest::{
        drain::{READ_EARLY_BYTES, drain, forget_readiness, set_receive_low_water, ticks},
        session_id,
    },
    media::{NameError, Protocol, split_path},
};
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nothing was published within {} s (handshake_timeout)", .0.as_secs_f32())]
    HandshakeTimeout(Duration),
    #[error("no media for {} s (publisher_timeout)", .0.as_secs_f32())]
    Silent(Duration),
    #[error("publish path {path:?}: {source}")]
    Name { path: String, source: NameError },
    #[error(transparent)]
    NameTaken(#[from] HubError),
    #[error("it wants to play; reeld takes publishers only")]
    Play,
    #[error("the server is ending")]
    ShuttingDown,
    #[error("ended by request")]
    Kicked,
    #[error("closed")]
    Closed,
}

impl ConnectionError {
    /// How a stream that was live on this connection ended.
    fn end_reason(&self) -> EndReason {
        match self {
            ConnectionError::Silent(_) => EndReason::TimedOut,
            ConnectionError::ShuttingDown | ConnectionError::Kicked => EndReason::Kicked,
            ConnectionError::Io(_) | ConnectionError::Closed => EndReason::Disconnected,
            other => EndReason::Failed(other.to_string()),
        }
    }
}

pub(super) struct Connection<'a> {
    socket: TcpStream,
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
    feed: Option<Feed>,
    last_media: Instant,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, socket: TcpStream, remote: SocketAddr) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let limits = ChunkLimits::for_messages_of(shared.limits.max_message_bytes);
        let peer = Peer {
            shared,
            remote,
            local,
            reader: ChunkReader::new(limits),
            session: Session::default(),
            feed: None,
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
        while self.peer.feed.is_none() {
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
            let taken = self.peer.take(&mut input);
            self.send_answers().await?;
            taken?;
        }
        self.peer.flush();
        Ok(())
    }

    /// Reads media until the publisher says goodbye (`Ok`) or the connection ends.
    async fn publish_until_end(&mut self) -> Result<(), ConnectionError> {
        self.peer.last_media = Instant::now();
        set_receive_low_water(&self.socket, READ_EARLY_BYTES)?;
        let mut tick = ticks(self.peer.shared.started);
        let shutdown = self.peer.shared.shutdown.clone();
        while let Some(feed) = &mut self.peer.feed {
            let mut early = false;
            let mut ending = None;
            tokio::select! {
                _ = tick.tick() => {}
                ready = self.socket.readable() => { ready?; early = true; }
                () = feed.publisher().kicked() => ending = Some(ConnectionError::Kicked),
                () = shutdown.cancelled() => ending = Some(ConnectionError::ShuttingDown),
            }
            let drained = self.drain();
            if early {
                forget_readiness(&self.socket);
            }
            self.peer.flush();
            self.send_answers().await?;
            drained?;
            if let Some(ending) = ending {
                return Err(ending);
            }
            if self.peer.last_media.elapsed() > self.limits().publisher_timeout {
                return Err(ConnectionError::Silent(self.limits().publisher_timeout));
            }
        }
        set_receive_low_water(&self.socket, 1)?;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ConnectionError> {
        let Self { socket, peer, .. } = self;
        match drain(socket, |mut bytes| peer.take(&mut bytes))? {
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
        let sent = timeout(WRITE_TIMEOUT, self.socket.write_all(bytes)).await;
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
        match (event, &mut self.feed) {
            (Event::Video { timestamp_ms, payload }, Some(feed)) => {
                if feed.video(timestamp_ms, payload, now) {
                    self.last_media = Instant::now();
                }
            }
            (Event::Audio { timestamp_ms, payload }, Some(feed)) => {
                if feed.audio(timestamp_ms, payload, now) {
                    self.last_media = Instant::now();
                }
            }
            (Event::Metadata(metadata), Some(feed)) => feed.metadata(&metadata),
            (Event::Publish(request), _) => self.publish(&request)?,
            (Event::Unpublish, _) => self.unpublish(EndReason::Unpublished),
            (Event::Close(CloseReason::Play), _) => return Err(ConnectionError::Play),
            (Event::BadMetadata(e), _) => tracing::debug!(remote = %self.remote, "metadata is left out: {e}"),
            (Event::Video { .. } | Event::Audio { .. } | Event::Metadata(_), None) => {}
        }
        Ok(())
    }

    fn publish(&mut self, request: &PublishRequest) -> Result<(), ConnectionError> {
        let refused = split_path(&request.path)
            .map_err(|source| ConnectionError::Name { path: request.path.clone(), source })
            .and_then(|(room, name)| {
                let session_id = session_id(self.remote, self.local);
                let record = wants_record(&request.query);
                let announce = Announce {
                    room,
                    name,
                    protocol: Protocol::Rtmp,
                    remote: self.remote,
                    session_id,
                    record,
                };
                Ok(self.shared.hub.publish(announce)?)
            });
        match refused {
            Ok(publisher) => {
                let stream = publisher.stream();
                tracing::info!(
                    session = %stream.id(), room = %stream.announce().room, stream = %stream.announce().name,
                    remote = %self.remote, encoder = %request.flash_ver, "publishing"
                );
                self.feed = Some(Feed::new(publisher));
                self.session.accept_publish();
                Ok(())
            }
            Err(error) => {
                self.session.refuse_publish("NetStream.Publish.BadName", &error.to_string());
                Err(error)
            }
        }
    }

    fn unpublish(&mut self, reason: EndReason) {
        let Some(mut feed) = self.feed.take() else { return };
        let faults = feed.faults();
        feed.finish(reason.clone());
        let stream = feed.publisher().stream();
        let frames = stream.snapshot().frames;
        let stream_name = &stream.announce().name;
        tracing::info!(session = %stream.id(), stream = %stream_name, frames, faults, "publish ended: {reason}");
    }

    fn flush(&mut self) {
        let now = self.shared.started.elapsed();
        if let Some(feed) = &mut self.feed {
            feed.flush(now);
        }
    }
}

/// `record=true` in the publish URL.
fn wants_record(query: &[(String, String)]) -> bool {
    query.iter().any(|(key, value)| key == "record" && (value.eq_ignore_ascii_case("true") || value == "1"))
}
