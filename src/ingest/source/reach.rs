//! From a host to a connection, within the operator's rules.

use super::{PullError, SourceLimits};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
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
    let connected = timeout(limits.connect_timeout, async {
        let mut last = None;
        for address in addresses(host, port, limits).await? {
            match TcpStream::connect(address).await {
                Ok(socket) => return Ok(socket),
                Err(e) => last = Some(e),
            }
        }
        Err(PullError::Connect(last.unwrap_or_else(|| io::ErrorKind::NotFound.into())))
    });
    let elapsed = |_| PullError::Timeout { what: "connection", limit: limits.connect_timeout };
    let socket = connected.await.map_err(elapsed)??;
    socket.set_nodelay(true)?;
    Ok(socket)
}
