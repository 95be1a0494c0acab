//! TLS on the client's side, towards servers that streams are pulled from.

use std::{io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, InvalidMessage, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{InvalidDnsNameError, ServerName},
    },
};

/// Its text repeats nothing that the server said but the kind of its alert.
#[derive(Debug, thiserror::Error)]
pub(in crate::ingest) enum ClientTlsError {
    #[error(
        "this machine has no root certificates to check a server's with; apt-get install ca-certificates"
    )]
    NoRoots,
    #[error("TLS needs a host name or an address")]
    Host(#[from] InvalidDnsNameError),
    #[error("TLS cannot be used here: {0}")]
    Unusable(rustls::Error),
    #[error("{}", explain(.0))]
    Handshake(io::Error),
}

/// Encrypts `socket` once the server has shown a certificate for `host` (a name, or an address without brackets) that the
/// system's roots vouch for: those of ca-certificates, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Without a deadline.
pub(in crate::ingest) async fn connect(
    host: &str,
    socket: TcpStream,
) -> Result<TlsStream<TcpStream>, ClientTlsError> {
    let name = ServerName::try_from(host.to_owned())?;
    // Read for each connection, so that a root that is added or withdrawn holds from the next one on.
    let roots = tokio::task::spawn_blocking(roots).await.unwrap_or_else(|_| RootCertStore::empty());
    if roots.is_empty() {
        return Err(ClientTlsError::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ClientTlsError::Unusable)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(ClientTlsError::Handshake)
}

/// What cannot be read is left out: one broken file must not cost all others.
fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn explain(error: &io::Error) -> String {
    use CertificateError as Bad;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            Bad::UnknownIssuer => {
                "nobody whom this machine trusts vouches for the server's certificate; add its issuer to \
                 /usr/local/share/ca-certificates and run update-ca-certificates"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate is for another host name"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "the server's certificate has expired",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet; is the clock right?"
            }
            _ => "the server's certificate is not valid",
        }
        .into(),
        Some(rustls::Error::AlertReceived(alert)) => format!("the server ended TLS: {alert:?}"),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the server does not speak TLS; is it rtmp:// and not rtmps://?".into()
        }
        Some(_) => "the server and this machine do not agree on TLS".into(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection in the TLS handshake; is it rtmp:// and not rtmps://?".into()
        }
        None => format!("the connection broke in the TLS handshake: {error}"),
    }
}
