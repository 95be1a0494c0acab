use super::connection::Connection;
use crate::{
    hub::Hub,
    ingest::{
        accept::{Acceptor, ConnectionStats},
        drain::common_origin,
    },
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct RtspLimits {
    /// Time from connect to an accepted RECORD.
    pub handshake_timeout: Duration,
    /// A publisher that sends no usable media for this long is dropped.
    pub publisher_timeout: Duration,
    pub max_connections: usize,
}

/// An RTSP server that publishes to the hub.
pub struct RtspServer {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

pub(super) struct Shared {
    pub hub: Hub,
    pub limits: RtspLimits,
    pub shutdown: CancellationToken,
    /// Origin of the read ticks, and of the times given to receivers.
    pub started: Instant,
}

impl RtspServer {
    pub fn new(hub: Hub, limits: RtspLimits) -> Self {
        let acceptor = Acceptor::new("RTSP", limits.max_connections);
        let shared = Shared { hub, limits, shutdown: acceptor.shutdown(), started: common_origin() };
        Self { shared: Arc::new(shared), acceptor }
    }

    pub fn stats(&self) -> ConnectionStats {
        self.acceptor.stats()
    }

    /// Accepts connections until [`stop`](Self::stop).
    pub async fn serve(&self, listener: TcpListener) {
        let serve = |socket, remote| serve_one(self.shared.clone(), socket, remote);
        self.acceptor.accept(listener, serve).await;
    }

    /// Ends every connection; the streams end as if kicked. Waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.acceptor.stop(limit).await;
    }
}

async fn serve_one(shared: Arc<Shared>, socket: TcpStream, remote: SocketAddr) {
    let ended = match Connection::new(&shared, socket, remote) {
        Ok(mut connection) => connection.run().await,
        Err(e) => e.into(),
    };
    tracing::info!(%remote, "RTSP connection ended: {ended}");
}
