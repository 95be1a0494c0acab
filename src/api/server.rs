//! The HTTP/1.1 server. `warp::serve` bounds neither the number of connections nor the time a client may sit on one,
//! so the routes are served through hyper here.

use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{convert::Infallible, future::Future, net::SocketAddr, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use warp::{Filter, Reply};

/// Connections served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 512;
/// Longest wait for a request's whole head; on a kept-alive connection this includes the pause before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest request head, and what is read ahead of a body.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a client may leave an answer unread.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed for want of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Both ends of the HTTP connection that a request came on; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

/// Serves `routes` until `shutdown` is done; then takes no more requests and returns when those under way are answered.
/// How long that takes is the verbs' affair: bound it with a time-out. Dropping the future closes every connection.
pub async fn serve<F, R>(listener: TcpListener, routes: F, shutdown: impl Future<Output = ()>)
where
    F: Filter<Extract = (R,), Error = Infallible> + Clone + Send + Sync + 'static,
    R: Reply + 'static,
{
    let ending = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => note_panic(ended),
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => { connections.spawn(connection(stream, routes.clone(), ending.clone())); }
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    ending.cancel();
    while let Some(ended) = connections.join_next().await {
        note_panic(ended);
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an HTTP connection broke off by a fault of ours");
    }
}

async fn connection<F, R>(stream: TcpStream, routes: F, ending: CancellationToken)
where
    F: Filter<Extract = (R,), Error = Infallible> + Clone + Send + Sync + 'static,
    R: Reply + 'static,
{
    if let Err(error) = set_options(&stream) {
        tracing::debug!(%error, "an HTTP connection was gone at once");
        return;
    }
    let Ok(peer) = stream.peer_addr().and_then(|remote| Ok(Peer { remote, local: stream.local_addr()? }))
    else {
        return;
    };
    let routes = TowerToHyperService::new(warp::service(routes));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        routes.call(request)
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = ending.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel also ends a connection whose peer keeps its window shut for this long (tcp(7)).
    rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_TIMEOUT.as_millis() as u32)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::{Notify, oneshot},
    };

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server whose only answer waits for `release`, and how to stop it.
    async fn start(
        entered: std::sync::Arc<Notify>,
        release: std::sync::Arc<Notify>,
    ) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let routes = warp::any().then(move || {
            let (entered, release) = (entered.clone(), release.clone());
            async move {
                entered.notify_one();
                release.notified().await;
                "done"
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, routes, async {
            let _ = stopped.await;
        }));
        (address, stop, server)
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_before_the_server_ends() {
        let (entered, release) = Default::default();
        let (address, stop, server) =
            start(std::sync::Arc::clone(&entered), std::sync::Arc::clone(&release)).await;
        let mut idle = TcpStream::connect(address).await.expect("connects");
        let mut busy = TcpStream::connect(address).await.expect("connects");
        busy.write_all(GET).await.expect("writes");
        entered.notified().await;

        stop.send(()).expect("the server listens");
        assert_eq!(idle.read(&mut [0; 16]).await.expect("reads"), 0, "an idle connection is closed");
        assert!(!server.is_finished());
        release.notify_one();
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.expect("reads");
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
        server.await.expect("it ends");
        TcpStream::connect(address).await.expect_err("nothing listens");
    }
}
