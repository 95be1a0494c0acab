//! One connection to an RTMP server: socket, time-outs and the feed around the pure protocol.

use super::player::{Event, PlayError, Player, Target};
use crate::ingest::{
    drain::{READ_EARLY_BYTES, forget_readiness, set_receive_low_water, ticks},
    rtmp::{
        chunk::{ChunkError, ChunkLimits, ChunkReader},
        feed::Feed,
        handshake::{ClientHandshake, HandshakeError},
        socket::Socket,
    },
    source::{PullError, Scheme, Source},
    tls,
};
use crate::media::Protocol;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout;

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the server to take our goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

impl From<PlayError> for PullError {
    fn from(error: PlayError) -> Self {
        PullError::Protocol(error.to_string())
    }
}

impl From<ChunkError> for PullError {
    fn from(error: ChunkError) -> Self {
        PullError::Protocol(error.to_string())
    }
}

impl From<HandshakeError> for PullError {
    fn from(error: HandshakeError) -> Self {
        PullError::Protocol(error.to_string())
    }
}

/// One connection that plays.
pub(super) struct Reading<'a> {
    socket: Socket,
    heard: Heard<'a>,
}

/// The connection without its socket: bytes in, access units to the hub, answers out.
struct Heard<'a> {
    source: &'a Source,
    feed: &'a mut Option<Feed>,
    remote: SocketAddr,
    local: SocketAddr,
    reader: ChunkReader,
    player: Player,
    last_media: Option<Instant>,
}

impl<'a> Reading<'a> {
    /// Connects, to an address that the rules allow, and asks to play up to the server's consent; each of the steps within
    /// `connect_timeout`. What the server calls itself by is the name in the URI, also where TLS checks it.
    pub async fn open(source: &'a Source, feed: &'a mut Option<Feed>) -> Result<Self, PullError> {
        let (uri, limit) = (source.uri(), source.limits().connect_timeout);
        let tcp = source.connect(uri.host(), uri.port()).await?;
        let (remote, local) = (tcp.peer_addr()?, tcp.local_addr()?);
        let socket = match uri.scheme() {
            Scheme::Rtmps => {
                let encrypted = timeout(limit, tls::connect(uri.host(), tcp)).await;
                let encrypted = encrypted.map_err(|_| PullError::Timeout { what: "TLS", limit })?;
                Socket::tls(encrypted.map_err(|error| PullError::Protocol(error.to_string()))?)
            }
            _ => Socket::Plain(tcp),
        };
        let heard = Heard {
            source,
            feed,
            remote,
            local,
            reader: ChunkReader::new(ChunkLimits::default()),
            player: Player::new(Target::of(uri)),
            last_media: None,
        };
        let mut reading = Self { socket, heard };
        let playing = timeout(limit, reading.ask()).await;
        playing.map_err(|_| PullError::Timeout { what: "answer", limit })??;
        Ok(reading)
    }

    /// Handshake and commands, until the server plays.
    async fn ask(&mut self) -> Result<(), PullError> {
        self.send(&ClientHandshake::hello(rand::random())).await?;
        let mut handshake = Some(ClientHandshake::default());
        let mut scratch = vec![0; 8 << 10];
        while !self.heard.player.is_playing() {
            let n = self.socket.read(&mut scratch).await?;
            if n == 0 {
                return Err(PullError::Closed);
            }
            let mut input = &scratch[..n];
            if let Some(open) = &mut handshake {
                let mut answer = Vec::new();
                let done = open.read(&mut input, &mut answer)?;
                self.send(&answer).await?;
                if !done {
                    continue;
                }
                handshake = None;
            }
            let taken = self.heard.take(input);
            self.heard.flush();
            taken?;
            self.send_answers().await?;
        }
        Ok(())
    }

    /// Reads media to the end of the connection; always returns why it ended.
    pub async fn run(&mut self) -> PullError {
        match self.read().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn read(&mut self) -> Result<Infallible, PullError> {
        let begun = Instant::now();
        let source = self.heard.source;
        set_receive_low_water(self.socket.tcp(), READ_EARLY_BYTES)?;
        let mut tick = ticks(source.started());
        loop {
            let (mut early, mut stopping) = (false, false);
            tokio::select! {
                _ = tick.tick() => {}
                ready = self.socket.tcp().readable() => { ready?; early = true; }
                () = source.stopped() => stopping = true,
            }
            let drained = self.drain();
            if early {
                forget_readiness(self.socket.tcp());
            }
            if stopping {
                return Err(PullError::Stopped);
            }
            drained?;
            if let Err(error) = self.send_answers().await {
                // The server is gone; what it sent before has arrived and is still to be read.
                self.drain()?;
                return Err(error);
            }
            self.heard.in_time(begun)?;
        }
    }

    /// Hands on all that has arrived; media before an error counts.
    fn drain(&mut self) -> Result<(), PullError> {
        let Self { socket, heard } = self;
        let drained = socket.drain(|bytes| heard.take(bytes));
        heard.flush();
        match drained? {
            true => Ok(()),
            false => Err(PullError::Closed),
        }
    }

    /// The server may be gone; then nobody misses it.
    pub async fn goodbye(&mut self) {
        self.heard.player.close();
        let _ = timeout(GOODBYE_TIMEOUT, async {
            self.send_answers().await?;
            Ok::<_, PullError>(self.socket.shutdown().await?)
        })
        .await;
    }

    async fn send_answers(&mut self) -> Result<(), PullError> {
        let answer = self.heard.player.outgoing();
        self.send(&answer).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = timeout(WRITE_TIMEOUT, self.socket.send(bytes)).await;
        Ok(sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
    }
}

impl Heard<'_> {
    fn take(&mut self, mut input: &[u8]) -> Result<(), PullError> {
        self.player.received(input.len());
        while let Some(message) = self.reader.next(&mut input)? {
            let mut event = self.player.handle(message)?;
            while let Some(e) = event {
                self.on_event(e)?;
                event = self.player.next_event()?;
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), PullError> {
        let of_use = match event {
            Event::Video { timestamp_ms, payload } => {
                let now = self.source.started().elapsed();
                self.media_feed()?.video(timestamp_ms, payload, now)
            }
            Event::Audio { timestamp_ms, payload } => {
                let now = self.source.started().elapsed();
                self.media_feed()?.audio(timestamp_ms, payload, now)
            }
            Event::Metadata(metadata) => {
                self.feed()?.metadata(&metadata);
                false
            }
            Event::Unreadable(error) => {
                tracing::debug!(source = %self.source.id(), "a message is left out: {error}");
                false
            }
        };
        if of_use {
            self.last_media = Some(Instant::now());
            self.source.live();
        }
        Ok(())
    }

    /// For media; the first of a connection follows the absence of the source.
    fn media_feed(&mut self) -> Result<&mut Feed, PullError> {
        let first = self.last_media.is_none();
        if first {
            self.last_media = Some(Instant::now());
        }
        let feed = self.feed()?;
        if first {
            feed.reconnected();
        }
        Ok(feed)
    }

    /// Takes the stream's name on the first connection.
    fn feed(&mut self) -> Result<&mut Feed, PullError> {
        Ok(match &mut *self.feed {
            Some(feed) => feed,
            none => {
                let publisher = self.source.publish(Protocol::Rtmp, self.remote, self.local)?;
                none.insert(Feed::new(publisher))
            }
        })
    }

    fn flush(&mut self) {
        if let Some(feed) = self.feed {
            feed.flush(self.source.started().elapsed());
        }
    }

    fn in_time(&self, begun: Instant) -> Result<(), PullError> {
        let limits = self.source.limits();
        match self.last_media {
            None if begun.elapsed() > limits.connect_timeout => {
                Err(PullError::Timeout { what: "media", limit: limits.connect_timeout })
            }
            Some(at) if at.elapsed() > limits.publisher_timeout => {
                Err(PullError::Silent(limits.publisher_timeout))
            }
            _ => Ok(()),
        }
    }
}
