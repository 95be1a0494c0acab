//! Accepting TCP connections of one protocol, so many at a time.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After a failed accept (out of descriptors), how long to wait for the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of one protocol, over all its listeners.
pub(super) struct Acceptor {
    protocol: &'static str,
    max_connections: usize,
    places: Arc<Semaphore>,
    connections: TaskTracker,
    shutdown: CancellationToken,
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionStats {
    /// Open now.
    pub connections: usize,
    pub accepted: u64,
    /// Turned away because `max_connections` were open.
    pub refused: u64,
}

impl Acceptor {
    pub fn new(protocol: &'static str, max_connections: usize) -> Self {
        Self {
            protocol,
            max_connections,
            places: Arc::new(Semaphore::new(max_connections)),
            connections: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Cancelled when [`stop`](Self::stop) begins: a connection ends by itself then.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            connections: self.max_connections - self.places.available_permits(),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Hands each connection to `serve`, in a task of its own, until [`stop`](Self::stop).
    pub async fn accept<F>(&self, listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let protocol = self.protocol;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            let (socket, remote) = match accepted {
                Ok(pair) => pair,
                Err(e) => {
                    tracing::warn!("{protocol}: cannot accept a connection: {e}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                // One line when the limit is met, not one per knock.
                if self.refused.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
                    let max = self.max_connections;
                    tracing::warn!(%remote, max, "{protocol} connection refused: [limits] max_connections are open");
                }
                continue;
            };
            self.accepted.fetch_add(1, Ordering::Relaxed);
            let served = serve(socket, remote);
            self.connections.spawn(async move {
                served.await;
                drop(place);
            });
        }
    }

    /// Accepts no more, tells every connection to end, and waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.shutdown.cancel();
        self.connections.close();
        if timeout(limit, self.connections.wait()).await.is_err() {
            tracing::warn!("{} connections did not end within {} s", self.protocol, limit.as_secs_f32());
        }
    }
}
