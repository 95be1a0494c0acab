use crate::ingest::{drain::drain, tls::drain_tls};
use std::io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// The socket of a publisher, or of a server that is played; plain or with TLS.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self::Tls(Box::new(stream.into()))
    }

    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Waits for bytes; 0 at the end.
    pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes).await,
            Self::Tls(stream) => stream.read(bytes).await,
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
    }

    /// Hands all that waits to `take`; false at the end. Never waits.
    pub fn drain<E: From<io::Error>>(&mut self, take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<bool, E> {
        match self {
            Self::Plain(socket) => drain(socket, take),
            Self::Tls(stream) => drain_tls(stream, take),
        }
    }
}
