//! One publisher without its TCP socket: what its requests and packets do to the hub, and its UDP sockets.

use super::{
    Shared,
    message::Incoming,
    request::Announced,
    session::{Event, Session},
    transport::Lower,
    udp::{PacketKind, UdpPair},
};
use crate::{
    hub::{Announce, EndReason, HubError, Publisher},
    ingest::{
        drain::{short_ticks, ticks},
        rtp::{
            depay::DepayError,
            receiver::{Arrival, Media, Receiver},
        },
        session_id,
    },
    media::{NameError, Protocol, split_path},
};
use rtsp_types::{Request, StatusCode};
use std::{io, net::SocketAddr, time::Duration};
use tokio::time::Interval;

/// How often a publisher hears how its packets arrive (RFC 3550, 6.2).
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Packets may be overtaken by the TEARDOWN that follows them on another socket: so long they are still taken.
const UDP_STRAGGLERS: Duration = Duration::from_millis(100);

/// Why an announced stream is not taken.
#[derive(Debug, thiserror::Error)]
enum RefuseError {
    #[error("publish path {path:?}: {source}")]
    Name { path: String, source: NameError },
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Media(#[from] DepayError),
}

impl RefuseError {
    fn status(&self) -> StatusCode {
        match self {
            RefuseError::Name { .. } => StatusCode::BadRequest,
            // Not 453: that is about bandwidth, and clients try again.
            RefuseError::Hub(HubError::NameTaken { .. }) => StatusCode::Forbidden,
            RefuseError::Hub(HubError::TooManyStreams(_)) => StatusCode::ServiceUnavailable,
            RefuseError::Media(_) => StatusCode::UnsupportedMediaType,
        }
    }
}

/// The connection without its TCP socket: requests and packets in, access units to the hub, answers out.
pub(super) struct Peer<'a> {
    pub shared: &'a Shared,
    remote: SocketAddr,
    local: SocketAddr,
    pub session: Session,
    /// The name is taken from ANNOUNCE on; the frames come from RECORD on.
    publisher: Option<Publisher>,
    pub receiver: Option<Receiver>,
    /// By stream; `None` for those on the connection.
    udp: Vec<Option<UdpPair>>,
    /// Since the server's start.
    recording_since: Duration,
    reported: Duration,
    /// The stream was torn down and waits for packets that TEARDOWN overtook.
    pub torn_down: bool,
}

impl<'a> Peer<'a> {
    pub fn new(shared: &'a Shared, remote: SocketAddr, local: SocketAddr) -> Self {
        let id = hex::encode(rand::random::<[u8; 8]>());
        Self {
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
        }
    }

    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Whether any stream comes on the connection itself.
    pub fn is_interleaved(&self) -> bool {
        self.session.streams().iter().any(|s| s.lower == Lower::Tcp)
    }

    /// Done when someone asked the stream that is announced, and not recorded yet, to end.
    pub fn kicked(&self) -> impl Future<Output = ()> + use<> {
        let stream = self.publisher.as_ref().map(|publisher| publisher.stream().clone());
        async {
            match stream {
                Some(stream) => stream.kicked().await,
                None => std::future::pending().await,
            }
        }
    }

    /// One message of the connection.
    pub fn take(&mut self, incoming: Incoming<'_>) {
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
        let opened = UdpPair::bind(self.local, self.remote, client_port);
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
    pub fn finish(&mut self, reason: EndReason) {
        self.publisher = None;
        let foreign: u64 = self.udp.drain(..).flatten().map(|pair| pair.foreign()).sum();
        let reason = if std::mem::take(&mut self.torn_down) { EndReason::Unpublished } else { reason };
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.finish(reason.clone());
        let unusable = receiver.faults();
        let stream = receiver.publisher().stream();
        let frames = stream.snapshot().frames;
        let name = &stream.announce().name;
        tracing::info!(
            session = %stream.id(), stream = %name, frames, unusable, foreign, "publish ended: {reason}"
        );
    }

    pub fn drain_udp(&mut self) -> io::Result<()> {
        let now = self.now();
        let Self { udp, receiver, .. } = self;
        for (stream, pair) in udp.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            pair.drain(|kind, packet| hand_on(receiver.as_mut(), stream, kind, packet, now))?;
        }
        Ok(())
    }

    /// Waits for packets that were sent before the end and are still on their way; only UDP has such.
    pub async fn wait_for_stragglers(&mut self) {
        if self.udp.is_empty() || self.receiver.is_none() {
            return;
        }
        tokio::time::sleep(UDP_STRAGGLERS).await;
        if let Err(error) = self.drain_udp() {
            tracing::debug!(remote = %self.remote, "the last packets were not read: {error}");
        }
        self.flush();
    }

    pub fn flush(&mut self) {
        let now = self.now();
        if let Some(receiver) = &mut self.receiver {
            receiver.flush(now);
        }
    }

    /// Reports that are due: sent over UDP, or handed back framed for the connection.
    pub fn reports(&mut self) -> Vec<u8> {
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

    pub fn is_silent(&self) -> bool {
        let Some(receiver) = &self.receiver else { return false };
        let heard = receiver.last_media().max(self.recording_since);
        self.now().saturating_sub(heard) > self.shared.limits.publisher_timeout
    }

    /// When the sockets are drained.
    pub fn ticks(&self) -> Interval {
        match self.udp.iter().flatten().all(UdpPair::is_roomy) {
            true => ticks(self.shared.started),
            false => short_ticks(self.shared.started),
        }
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
