//! One RTSP connection: its TCP socket and its time-outs.

use super::{
    RtspLimits, Shared,
    message::{MessageError, MessageReader},
    peer::Peer,
};
use crate::{
    hub::EndReason,
    ingest::drain::{READ_EARLY_BYTES, drain, forget_readiness, set_receive_low_water},
};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

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
    #[error("it sends requests without waiting for an answer")]
    Flooded,
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
    reader: MessageReader,
    peer: Peer<'a>,
    /// What the socket did not take of a report; always sent before anything else.
    unsent: Vec<u8>,
}

impl<'a> Connection<'a> {
    pub fn new(shared: &'a Shared, socket: TcpStream, remote: SocketAddr) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let peer = Peer::new(shared, remote, local);
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
            let n = tokio::select! {
                read = self.socket.read(&mut scratch) => read?,
                () = self.peer.kicked() => return Err(ConnectionError::Kicked),
            };
            if n == 0 {
                return Err(ConnectionError::Closed);
            }
            let peer = &mut self.peer;
            let taken = self.reader.read(&scratch[..n], |incoming| {
                peer.take(incoming);
                Ok::<_, ConnectionError>(())
            });
            self.send_answers().await?;
            taken?;
        }
        self.peer.flush();
        Ok(())
    }

    /// Reads media until the publisher says goodbye (`Ok`) or the connection ends.
    async fn record_until_end(&mut self) -> Result<(), ConnectionError> {
        // What comes over UDP leaves only requests to the connection: they are answered at once.
        let interleaved = self.peer.is_interleaved();
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
        let open = drain(socket, |bytes| {
            reader.read(bytes, |incoming| {
                peer.take(incoming);
                match peer.session.is_flooded() {
                    true => Err(ConnectionError::Flooded),
                    false => Ok(()),
                }
            })
        });
        match open? {
            true => Ok(()),
            false => Err(ConnectionError::Closed),
        }
    }

    /// Receiver reports, and requests for key frames. What the socket does not take at once is not waited for: a
    /// publisher that never reads must not be held up by what it does not want to hear.
    fn report(&mut self) -> Result<(), ConnectionError> {
        let packets = self.peer.reports();
        if !self.unsent.is_empty() {
            let sent = self.try_write(&self.unsent)?;
            self.unsent.drain(..sent);
        }
        if packets.is_empty() || !self.unsent.is_empty() {
            return Ok(());
        }
        match self.try_write(&packets)? {
            0 => {}
            // A packet that has begun must end, or what follows it cannot be read.
            sent => self.unsent.extend_from_slice(&packets[sent..]),
        }
        Ok(())
    }

    /// How much of `bytes` the socket takes now.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.try_write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
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
