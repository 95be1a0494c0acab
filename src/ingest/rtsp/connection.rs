//! One RTSP connection: sockets, time-outs and the hub around the pure protocol.

use super::{
    RtspLimits, Shared,
    message::{Incoming, MessageError, MessageReader},
    request::Announced,
    session::{Event, Session},
    transport::Lower,
    udp::{PacketKind, UdpPair, packet_buffer},
};
use crate::{
    hub::{Announce, EndReason, HubError, Publisher},
    ingest::{
        drain::{READ_EARLY_BYTES, drain, forget_readiness, set_receive_low_water, ticks},
        rtp::{
            depay::DepayError,
            receiver::{Arrival, Media, Receiver},
        },
        session_id,
    },
    media::{NameError, Protocol, split_path},
};
use rtsp_types::{Request, StatusCode};
use std::{cell::RefCell, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a publisher hears how its packets arrive (RFC 3550, 6.2).
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How often UDP sockets are drained when the kernel keeps little for them.
const SHORT_TICK: Duration = Duration::from_millis(20);
/// Packets may be overtaken by the TEARDOWN that follows them on another socket: so long they are still taken.
const UDP_STRAGGLERS: Duration = Duration::from_millis(100);

thread_local! {
    /// Where UDP packets are read to.
    static PACKET: RefCell<Vec<u8>> = RefCell::new(packet_buffer());
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nothing was published within {} s (handshake_timeout)", .0.as_secs_f32())]
    HandshakeTimeout(Duration),
    #[error("no media for {} s (publisher_timeout)", .0.as_secs_f32())]
    Silent(Duration),
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

/// Why an announced stream is not taken.
#[derive(Debug, thiserror::Error)]
enum RefuseError {
    #[error("publish path {path:?}: {source}")]
    Name { path: String, source: NameError },
    #[error(transparent)]
    NameTaken(#[from] HubError),
    #[error(transparent)]
    Media(#[from] DepayError),
}

impl RefuseError {
    fn status(&self) -> StatusCode {
        match self {
            RefuseError::Name { .. } => StatusCode::BadRequest,
            // Not 453: that is about bandwidth, and clients try again.
            RefuseError::NameTaken(_) => StatusCode::Forbidden,
            RefuseError::Media(_) => StatusCode::UnsupportedMediaType,
        }
    }
}

pub(super) struct Connection<'a> {
    socket: TcpStream,
    reader: MessageReader,
    peer: Peer<'a>,
    /// What the socket did not take of a report; always sent before anything else.
    unsent: Vec<u8>,
}

/// The connection without its TCP socket: requests and packets in, access units to the hub, answers out.
struct Peer<'a> {
    shared: &'a Shared,
    remote: SocketAddr,
    local: SocketAddr,
    session: Session,
    /// The name is taken from ANNOUNCE on; the frames come from RECORD on.
    publisher: Option<Publisher>,
    receiver: Option<Receiver>,
    /// By stream; `None` for those on the connection.
    udp: Vec<Option<UdpPair>>,
    /// Since the server's start.
    recording_since: Duration,
    reported: Duration,
    /// The stream was torn down and waits for packets that TEARDOWN overtook.
    torn_down: bool,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, socket: TcpStream, remote: SocketAddr) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let id = hex::encode(rand::random::<[u8; 8]>());
        let peer = Peer {
            shared,
            remote,
            local,
            session: Session::new(id, shared.limits.publisher_timeout),
            publisher: None,
            receiver: None,
            udp: Vec::new(),
            recording_since: Duration::ZERO,
            reported: Duration::ZERO,
            torn_down: false,
        };
        Ok(Self { socket, reader: MessageReader::default(), peer, unsent: Vec::new() })
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

    fn limits(&self) -> &RtspLimits {
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
            self.record_until_end().await?;
        }
    }

    /// Requests up to an accepted RECORD, each answered at once.
    async fn open(&mut self) -> Result<(), ConnectionError> {
        let mut scratch = vec![0; 8 << 10];
        while self.peer.receiver.is_none() {
            let n = self.socket.read(&mut scratch).await?;
            if n == 0 {
                return Err(ConnectionError::Closed);
            }
            let peer = &mut self.peer;
            let taken = self.reader.read(&scratch[..n], |incoming| peer.take(incoming));
            self.send_answers().await?;
            taken?;
        }
        self.peer.flush();
        Ok(())
    }

    /// Reads media until the publisher says goodbye (`Ok`) or the connection ends.
    async fn record_until_end(&mut self) -> Result<(), ConnectionError> {
        // What comes over UDP leaves only requests to the connection: they are answered at once.
        let interleaved = self.peer.session.streams().iter().any(|s| s.lower == Lower::Tcp);
        set_receive_low_water(&self.socket, if interleaved { READ_EARLY_BYTES } else { 1 })?;
        let mut tick = self.peer.ticks();
        let shutdown = self.peer.shared.shutdown.clone();
        while let Some(receiver) = &mut self.peer.receiver {
            let mut early = false;
            let mut ending = None;
            tokio::select! {
                _ = tick.tick() => {}
                ready = self.socket.readable() => { ready?; early = true; }
                () = receiver.publisher().kicked() => ending = Some(ConnectionError::Kicked),
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
            if self.peer.torn_down {
                self.peer.wait_for_stragglers().await;
                self.peer.finish(EndReason::Unpublished);
                break;
            }
            self.report()?;
            if self.peer.is_silent() {
                return Err(ConnectionError::Silent(self.limits().publisher_timeout));
            }
        }
        set_receive_low_water(&self.socket, 1)?;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ConnectionError> {
        let Self { socket, reader, peer, .. } = self;
        peer.drain_udp()?;
        let open = drain(socket, |bytes| reader.read(bytes, |incoming| peer.take(incoming)));
        match open? {
            true => Ok(()),
            false => Err(ConnectionError::Closed),
        }
    }

    /// Receiver reports, and requests for key frames. What the socket does not take at once is not waited for: a
    /// publisher that never reads must not be held up by what it does not want to hear.
    fn report(&mut self) -> Result<(), ConnectionError> {
        let packets = self.peer.reports();
        if packets.is_empty() || !self.unsent.is_empty() {
            return Ok(());
        }
        let sent = match self.socket.try_write(&packets) {
            Ok(sent) => sent,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        // A packet that has begun must end, or what follows it cannot be read.
        self.unsent.extend_from_slice(&packets[sent..]);
        Ok(())
    }

    async fn end(&mut self, error: &ConnectionError) {
        if let ConnectionError::Message(fault) = error {
            self.peer.session.bad_request(&fault.to_string());
        }
        self.peer.wait_for_stragglers().await;
        self.peer.finish(error.end_reason());
        // The peer may be gone; then nobody misses the answer.
        let _ = self.send_answers().await;
        let _ = timeout(WRITE_TIMEOUT, self.socket.shutdown()).await;
    }

    async fn send_answers(&mut self) -> Result<(), ConnectionError> {
        let answer = self.peer.session.outgoing();
        if answer.is_empty() {
            return Ok(());
        }
        self.unsent.extend_from_slice(&answer);
        let sent = timeout(WRITE_TIMEOUT, self.socket.write_all(&self.unsent)).await;
        self.unsent.clear();
        Ok(sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
    }
}

impl Peer<'_> {
    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    fn take(&mut self, incoming: Incoming<'_>) -> Result<(), ConnectionError> {
        match incoming {
            Incoming::Data { channel, payload } => {
                if let Some((stream, kind)) = self.session.channel(channel) {
                    let now = self.now();
                    hand_on(self.receiver.as_mut(), stream, kind, payload, now);
                }
            }
            Incoming::Request(request) => self.request(&request),
            // Nothing was asked.
            Incoming::Response(_) => {}
        }
        Ok(())
    }

    fn request(&mut self, request: &Request<Vec<u8>>) {
        match self.session.handle(request) {
            Event::Answered => {}
            Event::Announce(announced) => match self.announce(&announced) {
                Ok(publisher) => {
                    self.publisher = Some(publisher);
                    self.session.accept();
                }
                Err(error) => self.refuse(&error),
            },
            Event::Udp { stream, client_port } => self.open_udp(stream, client_port),
            Event::Record => match self.record() {
                Ok(()) => self.session.accept(),
                Err(error) => self.refuse(&error),
            },
            Event::Teardown => self.tear_down(),
        }
    }

    fn refuse(&mut self, error: &RefuseError) {
        tracing::info!(remote = %self.remote, "RTSP publisher refused: {error}");
        self.session.refuse(error.status(), &error.to_string());
    }

    fn announce(&mut self, announced: &Announced) -> Result<Publisher, RefuseError> {
        // A stream that was torn down and waits for stragglers makes room.
        self.finish(EndReason::Unpublished);
        let path = &announced.path;
        let named = split_path(path);
        let (room, name) = named.map_err(|source| RefuseError::Name { path: path.clone(), source })?;
        let announce = Announce {
            room,
            name,
            protocol: Protocol::Rtsp,
            remote: self.remote,
            session_id: session_id(self.remote, self.local),
            record: announced.wants_record(),
        };
        let publisher = self.shared.hub.publish(announce)?;
        let stream = publisher.stream();
        tracing::info!(
            session = %stream.id(), room = %stream.announce().room, stream = %stream.announce().name,
            remote = %self.remote, encoder = %announced.user_agent, "announced"
        );
        Ok(publisher)
    }

    fn open_udp(&mut self, stream: usize, client_port: Option<(u16, u16)>) {
        let opened = UdpPair::bind(self.local.ip(), self.remote.ip(), client_port);
        match opened.and_then(|pair| Ok((pair.ports()?, pair))) {
            Ok((ports, pair)) => {
                if self.udp.len() <= stream {
                    self.udp.resize_with(stream + 1, || None);
                }
                self.udp[stream] = Some(pair);
                self.session.accept_udp(ports);
            }
            Err(error) => {
                tracing::warn!(remote = %self.remote, "no UDP ports for an RTSP publisher: {error}");
                self.session.refuse(StatusCode::ServiceUnavailable, "no UDP ports are free; use TCP");
            }
        }
    }

    fn record(&mut self) -> Result<(), RefuseError> {
        let media = self.session.streams().iter().map(|setup| Media {
            formats: setup.formats.clone(),
            arrival: match setup.lower {
                Lower::Tcp => Arrival::InOrder,
                Lower::Udp => Arrival::Unordered,
            },
        });
        let media = media.collect();
        // RECORD is told once for each announcement, which left a publisher.
        let Some(publisher) = self.publisher.take() else { return Ok(()) };
        let stream = publisher.stream().clone();
        for (pair, setup) in self.udp.iter_mut().zip(self.session.streams()) {
            // The client tried UDP first and then set the section up again.
            pair.take_if(|_| setup.lower == Lower::Tcp);
        }
        self.receiver = Some(Receiver::new(publisher, media)?);
        self.recording_since = self.now();
        self.reported = self.now();
        let transports = self.session.streams().iter().map(|s| format!("{:?}", s.lower).to_lowercase());
        let transports = transports.collect::<Vec<_>>().join(",");
        tracing::info!(session = %stream.id(), stream = %stream.announce().name, transports, "publishing");
        Ok(())
    }

    fn tear_down(&mut self) {
        self.publisher = None;
        match self.udp.is_empty() {
            // All that came before it on the connection has been taken.
            true => self.finish(EndReason::Unpublished),
            false => self.torn_down = true,
        }
    }

    /// Hands on what is left and ends the stream, if there is one.
    fn finish(&mut self, reason: EndReason) {
        self.publisher = None;
        let foreign: u64 = self.udp.drain(..).flatten().map(|pair| pair.foreign()).sum();
        let reason = if std::mem::take(&mut self.torn_down) { EndReason::Unpublished } else { reason };
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.finish(reason.clone());
        let stream = receiver.publisher().stream();
        let frames = stream.snapshot().frames;
        let name = &stream.announce().name;
        tracing::info!(session = %stream.id(), stream = %name, frames, foreign, "publish ended: {reason}");
    }

    fn drain_udp(&mut self) -> io::Result<()> {
        let now = self.now();
        let Self { udp, receiver, .. } = self;
        PACKET.with_borrow_mut(|buffer| {
            for (stream, pair) in udp.iter_mut().enumerate() {
                let Some(pair) = pair else { continue };
                pair.drain(buffer, |kind, packet| hand_on(receiver.as_mut(), stream, kind, packet, now))?;
            }
            Ok(())
        })
    }

    /// Waits for packets that were sent before the end and are still on their way; only UDP has such.
    async fn wait_for_stragglers(&mut self) {
        if self.udp.is_empty() || self.receiver.is_none() {
            return;
        }
        tokio::time::sleep(UDP_STRAGGLERS).await;
        if let Err(error) = self.drain_udp() {
            tracing::debug!(remote = %self.remote, "the last packets were not read: {error}");
        }
        self.flush();
    }

    fn flush(&mut self) {
        let now = self.now();
        if let Some(receiver) = &mut self.receiver {
            receiver.flush(now);
        }
    }

    /// Reports that are due: sent over UDP, or handed back framed for the connection.
    fn reports(&mut self) -> Vec<u8> {
        let now = self.now();
        let mut framed = Vec::new();
        let Some(receiver) = &mut self.receiver else { return framed };
        let wanted = receiver.key_frame_wanted(now).map(|(stream, _)| stream);
        let due = now.saturating_sub(self.reported) >= REPORT_EVERY;
        if due {
            self.reported = now;
        }
        for stream in 0..self.session.streams().len() {
            let pli = wanted == Some(stream);
            if !due && !pli {
                continue;
            }
            let mut packet = Vec::new();
            receiver.report(stream, now, pli, &mut packet);
            match (self.udp.get(stream), self.session.report_channel(stream)) {
                (Some(Some(pair)), _) => pair.report(&packet),
                (_, Some(channel)) => frame(channel, &packet, &mut framed),
                _ => {}
            }
        }
        framed
    }

    fn is_silent(&self) -> bool {
        let Some(receiver) = &self.receiver else { return false };
        let heard = receiver.last_media().max(self.recording_since);
        self.now().saturating_sub(heard) > self.shared.limits.publisher_timeout
    }

    /// When the sockets are drained.
    fn ticks(&self) -> Interval {
        if self.udp.iter().flatten().all(UdpPair::is_roomy) {
            return ticks(self.shared.started);
        }
        let mut ticks = interval(SHORT_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }
}

fn hand_on(receiver: Option<&mut Receiver>, stream: usize, kind: PacketKind, packet: &[u8], now: Duration) {
    match (receiver, kind) {
        (Some(receiver), PacketKind::Rtp) => {
            receiver.rtp(stream, packet, now);
        }
        (Some(receiver), PacketKind::Rtcp) => receiver.rtcp(stream, packet, now),
        (None, _) => {}
    }
}

/// Appends an interleaved packet (RFC 2326, 10.12). Empty or too long ones are left out.
fn frame(channel: u8, packet: &[u8], out: &mut Vec<u8>) {
    if let (false, Ok(length)) = (packet.is_empty(), u16::try_from(packet.len())) {
        out.extend_from_slice(&[b'$', channel]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(packet);
    }
}
