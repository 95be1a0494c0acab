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
    ingest::session_id,
    media::{NameError, Protocol, split_path},
};
use socket2::SockRef;
use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::{MissedTickBehavior, timeout},
};

/// How often a publisher's socket is drained. Reading per message costs a wake-up per message and three times
/// the CPU; all connections share the tick's phase, so that one wake-up serves them all.
const READ_TICK: Duration = Duration::from_millis(100);
/// A fast publisher is read before the tick once this much waits in the socket.
const READ_EARLY_BYTES: libc::c_int = 64 << 10;
/// Most that is read from one publisher at a stretch, so that others get their turn.
const READ_AT_ONCE_BYTES: usize = 4 << 20;
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    /// Where sockets are read to; a message's bytes are copied once from here to the access unit.
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> = RefCell::new(vec![MaybeUninit::uninit(); 128 << 10].into());
}

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
    shared: &'a Shared,
    socket: TcpStream,
    remote: SocketAddr,
    local: SocketAddr,
    reader: ChunkReader,
    /// `None` once it is done.
    handshake: Option<Handshake>,
    session: Session,
    feed: Option<Feed>,
    last_media: Instant,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, socket: TcpStream, remote: SocketAddr) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let limits = ChunkLimits::for_messages_of(shared.limits.max_message_bytes);
        Ok(Self {
            shared,
            socket,
            remote,
            local,
            reader: ChunkReader::new(limits),
            handshake: Some(Handshake::new(rand::random())),
            session: Session::default(),
            feed: None,
            last_media: Instant::now(),
        })
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
        &self.shared.limits
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, ConnectionError> {
        let limit = self.limits().handshake_timeout;
        let shutdown = self.shared.shutdown.clone();
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
        while self.feed.is_none() {
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
            let taken = self.take(&mut input);
            self.send_answers().await?;
            taken?;
        }
        self.flush();
        Ok(())
    }

    /// Reads media until the publisher says goodbye (`Ok`) or the connection ends.
    async fn publish_until_end(&mut self) -> Result<(), ConnectionError> {
        self.last_media = Instant::now();
        set_receive_low_water(&self.socket, READ_EARLY_BYTES)?;
        let mut tick = tokio::time::interval_at(self.shared.next_tick(READ_TICK), READ_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let shutdown = self.shared.shutdown.clone();
        while let Some(feed) = &mut self.feed {
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
                // Forget the readiness that was just used up; the error means "nothing more", as intended.
                let _ =
                    self.socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            self.flush();
            self.send_answers().await?;
            drained?;
            if let Some(ending) = ending {
                return Err(ending);
            }
            if self.last_media.elapsed() > self.limits().publisher_timeout {
                return Err(ConnectionError::Silent(self.limits().publisher_timeout));
            }
        }
        set_receive_low_water(&self.socket, 1)?;
        Ok(())
    }

    /// Reads all that waits in the socket. The socket's own readiness is not asked: with a low-water mark it
    /// tells only of what is worth an early wake-up.
    fn drain(&mut self) -> Result<(), ConnectionError> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut total = 0;
            while total < READ_AT_ONCE_BYTES {
                let n = match SockRef::from(&self.socket).recv(scratch) {
                    Ok(0) => return Err(ConnectionError::Closed),
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e.into()),
                };
                total += n;
                // SAFETY: recv has written the first n bytes.
                let mut input = unsafe { std::slice::from_raw_parts(scratch.as_ptr().cast::<u8>(), n) };
                self.take(&mut input)?;
                if n < scratch.len() {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

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

    async fn end(&mut self, error: &ConnectionError) {
        self.session.end_publish(&error.to_string());
        self.unpublish(error.end_reason());
        // The peer may be gone; then nobody misses the answer.
        let _ = self.send_answers().await;
        let _ = timeout(WRITE_TIMEOUT, self.socket.shutdown()).await;
    }

    async fn send_answers(&mut self) -> Result<(), ConnectionError> {
        let answer = self.session.outgoing();
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

/// SO_RCVLOWAT (socket(7)): the socket counts as readable from so many bytes on, at its end, or on an error.
fn set_receive_low_water(socket: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    let (value, length) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    // SAFETY: the descriptor is open as long as `socket`; value and length describe one c_int.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `record=true` in the publish URL.
fn wants_record(query: &[(String, String)]) -> bool {
    query.iter().any(|(key, value)| key == "record" && (value.eq_ignore_ascii_case("true") || value == "1"))
}
