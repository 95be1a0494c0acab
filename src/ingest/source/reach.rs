//! From a host to a connection, within the operator's rules.

use super::{PullError, SourceLimits};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// The addresses of `host` that may be connected to, at least one.
pub(super) async fn addresses(
    host: &str,
    port: u16,
    limits: &SourceLimits,
) -> Result<Vec<SocketAddr>, PullError> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) => lookup_host((host, port)).await.map_err(PullError::Resolve)?.take(MAX_ADDRESSES).collect(),
    };
    let (allowed, refused): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| limits.rules.allows(host, address.ip()));
    match (allowed.is_empty(), refused.first()) {
        (false, _) => Ok(allowed),
        (true, Some(first)) => Err(PullError::NotAllowed { host: host.to_owned(), address: first.ip() }),
        (true, None) => Err(PullError::Resolve(io::ErrorKind::NotFound.into())),
    }
}

/// Resolves once, checks, and connects to an address that was checked. Within `connect_timeout`.
pub(super) async fn connect(host: &str, port: u16, limits: &SourceLimits) -> Result<TcpStream, PullError> {
    let limit = limits.connect_timeout;
    let until = Instant::now() + limit;
    let too_late = PullError::Timeout { what: "connection", limit };
    let found = timeout_at(until, addresses(host, port, limits)).await;
    let socket = match found {
        Ok(found) => connect_any(&found?, until).await?.ok_or(too_late)?,
        Err(_) => return Err(too_late),
    };
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Tries one address after the other, each for its share of the time that is left: one that never answers, as IPv6 behind
/// some routers, leaves time for the rest. `None`: the last one did not answer in time.
async fn connect_any(addresses: &[SocketAddr], until: Instant) -> Result<Option<TcpStream>, PullError> {
    let mut last = Ok(None);
    for (tried, address) in addresses.iter().enumerate() {
        let share = until.saturating_duration_since(Instant::now()) / (addresses.len() - tried) as u32;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(Some(socket)),
            Ok(Err(e)) => last = Err(PullError::Connect(e)),
            Err(_) => last = Ok(None),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, time::Duration};
    use tokio::net::TcpSocket;

    /// Once the first address had all the time, and a camera with an unreachable IPv6 address was never pulled.
    #[tokio::test]
    async fn an_address_that_never_answers_leaves_time_for_the_next() {
        let listen = |backlog| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
            socket.listen(backlog).expect("listening")
        };
        let (full, good) = (listen(1), listen(8));
        let [mute, answering] = [&full, &good].map(|listener| listener.local_addr().expect("bound"));
        // Nobody accepts: once its queue is full it answers no more.
        let mut waiting = Vec::new();
        while let Ok(Ok(socket)) = timeout(Duration::from_millis(300), TcpStream::connect(mute)).await {
            waiting.push(socket);
            assert!(waiting.len() < 100, "a queue of one takes no hundred");
        }
        let until = Instant::now() + Duration::from_secs(2);
        let socket = connect_any(&[mute, answering], until).await.expect("no error").expect("connected");
        assert_eq!(socket.peer_addr().expect("connected"), answering);
        let nothing = connect_any(&[mute], Instant::now() + Duration::from_millis(200)).await;
        assert!(matches!(nothing, Ok(None)));
    }
}
