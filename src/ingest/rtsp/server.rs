use super::connection::Connection;
use crate::{hub::Hub, ingest::drain::common_origin};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After a failed accept (out of descriptors), how long to wait for the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    connections: TaskTracker,
}

pub(super) struct Shared {
    pub hub: Hub,
    pub limits: RtspLimits,
    pub shutdown: CancellationToken,
    /// Origin of the read ticks, and of the times given to receivers.
    pub started: Instant,
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtspStats {
    pub connections: usize,
    pub accepted: u64,
    /// Turned away because `max_connections` were open.
    pub refused: u64,
}

impl RtspServer {
    pub fn new(hub: Hub, limits: RtspLimits) -> Self {
        let shared = Shared {
            hub,
            limits,
            shutdown: CancellationToken::new(),
            started: common_origin(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), connections: TaskTracker::new() }
    }

    pub fn stats(&self) -> RtspStats {
        RtspStats {
            connections: self.shared.open.load(Ordering::Relaxed),
            accepted: self.shared.accepted.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }

    /// Accepts connections until [`stop`](Self::stop).
    pub async fn serve(&self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.shared.limits.max_connections));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.shutdown.cancelled() => return,
            };
            let (socket, remote) = match accepted {
                Ok(pair) => pair,
                Err(e) => {
                    tracing::warn!("RTSP: cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                // One line when the limit is met, not one per knock.
                if self.shared.refused.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
                    let max = self.shared.limits.max_connections;
                    tracing::warn!(%remote, max, "RTSP connection refused: [limits] max_connections are open");
                }
                continue;
            };
            self.shared.accepted.fetch_add(1, Ordering::Relaxed);
            let shared = self.shared.clone();
            self.connections.spawn(async move {
                shared.open.fetch_add(1, Ordering::Relaxed);
                serve_one(&shared, socket, remote).await;
                shared.open.fetch_sub(1, Ordering::Relaxed);
                drop(place);
            });
        }
    }

    /// Ends every connection; the streams end as if kicked. Waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.shared.shutdown.cancel();
        self.connections.close();
        if tokio::time::timeout(limit, self.connections.wait()).await.is_err() {
            tracing::warn!("RTSP connections did not end within {} s", limit.as_secs_f32());
        }
    }
}

async fn serve_one(shared: &Shared, socket: TcpStream, remote: SocketAddr) {
    let ended = match Connection::new(shared, socket, remote) {
        Ok(mut connection) => connection.run().await,
        Err(e) => e.into(),
    };
    tracing::info!(%remote, "RTSP connection ended: {ended}");
}
