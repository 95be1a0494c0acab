use super::{connection::Connection, socket::Socket, takeover::Names};
use crate::{
    hub::Hub,
    ingest::{
        accept::{Acceptor, ConnectionStats},
        drain::common_origin,
        tls::{self, Certificate},
    },
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

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
    acceptor: Acceptor,
}

pub(super) struct Shared {
    pub hub: Hub,
    pub limits: RtmpLimits,
    pub shutdown: CancellationToken,
    pub started: Instant,
    pub names: Names,
}

impl RtmpServer {
    pub fn new(hub: Hub, limits: RtmpLimits) -> Self {
        let acceptor = Acceptor::new("RTMP", limits.max_connections);
        let shared = Shared {
            hub,
            limits,
            shutdown: acceptor.shutdown(),
            started: common_origin(),
            names: Names::default(),
        };
        Self { shared: Arc::new(shared), acceptor }
    }

    /// RTMPS included.
    pub fn stats(&self) -> ConnectionStats {
        self.acceptor.stats()
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
        let serve = |socket, remote| serve_one(self.shared.clone(), socket, remote, certificate.cloned());
        self.acceptor.accept(listener, serve).await;
    }

    /// Ends every connection; the streams end as if kicked. Waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.acceptor.stop(limit).await;
    }
}

async fn serve_one(
    shared: Arc<Shared>,
    socket: TcpStream,
    remote: SocketAddr,
    certificate: Option<Arc<Certificate>>,
) {
    let socket = match certificate {
        None => Socket::Plain(socket),
        Some(certificate) => match encrypted(&shared, socket, &certificate).await {
            Ok(socket) => socket,
            Err(why) => {
                tracing::info!(%remote, "RTMPS connection ended: {why}");
                return;
            }
        },
    };
    let ended = match Connection::new(&shared, socket, remote) {
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
