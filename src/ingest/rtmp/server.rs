use super::{connection::Connection, socket::Socket, takeover::Names};
use crate::{
    hub::Hub,
    ingest::{
        drain::common_origin,
        tls::{self, Certificate},
    },
};
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
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After a failed accept (out of descriptors), how long to wait for the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the certificate's files are looked at.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct RtmpLimits {
    /// Time from connect to an accepted publish.
    pub handshake_timeout: Duration,
    /// A publisher that sends no usable media for this long is dropped.
    pub publisher_timeout: Duration,
    pub max_connections: usize,
    pub max_message_bytes: usize,
}

/// An RTMP server that publishes to the hub.
pub struct RtmpServer {
    shared: Arc<Shared>,
    connections: TaskTracker,
    places: Arc<Semaphore>,
}

pub(super) struct Shared {
    pub hub: Hub,
    pub limits: RtmpLimits,
    pub shutdown: CancellationToken,
    pub started: Instant,
    pub names: Names,
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtmpStats {
    pub connections: usize,
    pub accepted: u64,
    /// Turned away because `max_connections` were open.
    pub refused: u64,
}

impl RtmpServer {
    pub fn new(hub: Hub, limits: RtmpLimits) -> Self {
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let shared = Shared {
            hub,
            limits,
            shutdown: CancellationToken::new(),
            started: common_origin(),
            names: Names::default(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), connections: TaskTracker::new(), places }
    }

    pub fn stats(&self) -> RtmpStats {
        RtmpStats {
            connections: self.shared.open.load(Ordering::Relaxed),
            accepted: self.shared.accepted.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }

    /// Accepts connections until [`stop`](Self::stop).
    pub async fn serve(&self, listener: TcpListener) {
        self.accept(listener, None).await;
    }

    /// As [`serve`](Self::serve) for RTMPS. A certificate that is renewed on the disk holds for new connections within
    /// a minute.
    pub async fn serve_tls(&self, listener: TcpListener, certificate: Arc<Certificate>) {
        tokio::select! {
            () = self.accept(listener, Some(&certificate)) => {}
            () = renew(certificate.clone()) => {}
        }
    }

    async fn accept(&self, listener: TcpListener, certificate: Option<&Arc<Certificate>>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.shutdown.cancelled() => return,
            };
            let (socket, remote) = match accepted {
                Ok(pair) => pair,
                Err(e) => {
                    tracing::warn!("RTMP: cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                // One line when the limit is met, not one per knock.
                if self.shared.refused.fetch_add(1, Ordering::Relaxed).is_multiple_of(100) {
                    let max = self.shared.limits.max_connections;
                    tracing::warn!(%remote, max, "RTMP connection refused: [limits] max_connections are open");
                }
                continue;
            };
            self.shared.accepted.fetch_add(1, Ordering::Relaxed);
            let shared = self.shared.clone();
            let certificate = certificate.cloned();
            self.connections.spawn(async move {
                shared.open.fetch_add(1, Ordering::Relaxed);
                serve_one(&shared, socket, remote, certificate).await;
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
            tracing::warn!("RTMP connections did not end within {} s", limit.as_secs_f32());
        }
    }
}

async fn serve_one(
    shared: &Shared,
    socket: TcpStream,
    remote: SocketAddr,
    certificate: Option<Arc<Certificate>>,
) {
    let socket = match certificate {
        None => Socket::Plain(socket),
        Some(certificate) => match encrypted(shared, socket, &certificate).await {
            Ok(socket) => socket,
            Err(why) => {
                tracing::info!(%remote, "RTMPS connection ended: {why}");
                return;
            }
        },
    };
    let ended = match Connection::new(shared, socket, remote) {
        Ok(mut connection) => connection.run().await,
        Err(e) => e.into(),
    };
    tracing::info!(%remote, "RTMP connection ended: {ended}");
}

/// The TLS handshake, within `handshake_timeout`.
async fn encrypted(shared: &Shared, socket: TcpStream, certificate: &Certificate) -> Result<Socket, String> {
    let limit = shared.limits.handshake_timeout;
    let accepted = tokio::select! {
        accepted = timeout(limit, certificate.acceptor().accept(socket)) => accepted,
        () = shared.shutdown.cancelled() => return Err("the server is ending".into()),
    };
    match accepted {
        Ok(Ok(stream)) => Ok(Socket::tls(stream)),
        Ok(Err(e)) => Err(tls::explain(&e)),
        Err(_) => Err(format!("no TLS handshake within {} s (handshake_timeout)", limit.as_secs_f32())),
    }
}

/// Follows the certificate's files for as long as it is awaited.
async fn renew(certificate: Arc<Certificate>) {
    loop {
        tokio::time::sleep(CERTIFICATE_EVERY).await;
        let files = certificate.clone();
        match tokio::task::spawn_blocking(move || files.reload()).await {
            Ok(Ok(true)) => tracing::info!("the certificate of RTMPS is loaded again"),
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(e)) => tracing::error!("not loaded, the old certificate stays in force: {e}"),
        }
    }
}
