//! TLS: the certificate of `[tls]` for who publishes here, the `client`'s side for who is pulled from, and reading an
//! encrypted connection as cheaply as a plain one.

mod client;

pub(super) use client::connect;

use super::drain::drain;
use crate::config::Tls;
use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsStream,
    rustls::{
        self, AlertDescription, ConnectionCommon, InvalidMessage, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
};

/// A chain of certificates has a few KiB.
const MAX_PEM_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("[tls] {key}: cannot read {}: {source}", file.display())]
    Read { key: &'static str, file: PathBuf, source: io::Error },
    #[error("[tls] {key}: {} holds no {key} in PEM (-----BEGIN ...); {what}", file.display())]
    Pem { key: &'static str, file: PathBuf, what: String },
    #[error("[tls] key: {} does not belong to the certificate in {}", key.display(), certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("[tls] {} with {} cannot be used: {source}", certificate.display(), key.display())]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// The server's certificate and key, read again when their files change.
pub struct Certificate {
    files: Tls,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    stamps: Stamps,
}

/// When certificate and key were changed last, as far as that can be told.
type Stamps = [Option<SystemTime>; 2];

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.files.certificate).finish()
    }
}

impl Certificate {
    /// Reads both files and sees that they fit together. Blocks on the disk.
    pub fn load(files: &Tls) -> Result<Self, TlsError> {
        let stamps = stamps(files);
        let acceptor = acceptor(files)?;
        Ok(Self { files: files.clone(), current: Mutex::new(Current { acceptor, stamps }) })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current().acceptor.clone()
    }

    /// True when the files have changed and hold for connections from now on. Files that cannot be used change nothing
    /// and are told once. Blocks on the disk.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let stamps = stamps(&self.files);
        if std::mem::replace(&mut self.current().stamps, stamps) == stamps {
            return Ok(false);
        }
        let acceptor = acceptor(&self.files)?;
        self.current().acceptor = acceptor;
        Ok(true)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &Tls) -> Stamps {
    [&files.certificate, &files.key].map(|file| fs::metadata(file).and_then(|m| m.modified()).ok())
}

fn acceptor(files: &Tls) -> Result<TlsAcceptor, TlsError> {
    let Tls { certificate, key } = files;
    let bytes = read("certificate", certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| no_pem("certificate", certificate, &e))?;
    if chain.is_empty() {
        return Err(no_pem("certificate", certificate, &pem::Error::NoItemsFound));
    }
    let bytes = read("key", key)?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| no_pem("key", key, &e))?;
    let (certificate, key) = (certificate.clone(), key.clone());
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate, key },
            source => TlsError::Unusable { certificate, key, source },
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        // A FIFO would block or never end.
        if !fs::metadata(file)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        File::open(file)?.take(MAX_PEM_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| TlsError::Read { key, file: file.to_owned(), source })
}

fn no_pem(key: &'static str, file: &Path, error: &pem::Error) -> TlsError {
    let what = match error {
        pem::Error::NoItemsFound => "are certificate and key the wrong way round?".to_owned(),
        // The reader's own words may hold parts of the key.
        _ => "the file is damaged".to_owned(),
    };
    TlsError::Pem { key, file: file.to_owned(), what }
}

/// Why a handshake or a connection failed, in words for the operator.
pub(super) fn explain(error: &io::Error) -> String {
    use AlertDescription as Alert;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate),
        )) => format!("the publisher does not trust the certificate in [tls] ({alert:?})"),
        Some(rustls::Error::AlertReceived(alert)) => format!("the publisher ended TLS: {alert:?}"),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it does not speak TLS: rtmps:// belongs to this port, rtmp:// to another".into()
        }
        Some(other) => format!("TLS: {other}"),
        None => format!("{error}"),
    }
}

/// As [`drain`] for an encrypted socket: takes what waits in the socket and in TLS, without waiting. Asking the stream
/// itself would wait for the socket's low-water mark.
pub(super) fn drain_tls<E: From<io::Error>>(
    stream: &mut TlsStream<TcpStream>,
    take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    match stream {
        TlsStream::Client(stream) => {
            let (socket, tls) = stream.get_mut();
            drain_side(socket, tls, take)
        }
        TlsStream::Server(stream) => {
            let (socket, tls) = stream.get_mut();
            drain_side(socket, tls, take)
        }
    }
}

fn drain_side<Side, E: From<io::Error>>(
    socket: &TcpStream,
    tls: &mut ConnectionCommon<Side>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    let mut open = take_plain(tls, &mut take)?;
    let more = drain(socket, |mut bytes| {
        while open && !bytes.is_empty() {
            open = tls.read_tls(&mut bytes)? > 0;
            tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            open &= take_plain(tls, &mut take)?;
        }
        Ok::<(), E>(())
    })?;
    Ok(more && open)
}

/// Hands on what is decrypted; false after the peer's goodbye.
fn take_plain<Side, E: From<io::Error>>(
    tls: &mut ConnectionCommon<Side>,
    take: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    let mut reader = tls.reader();
    loop {
        let taken = match reader.fill_buf() {
            Ok([]) => return Ok(false),
            Ok(bytes) => {
                take(bytes)?;
                bytes.len()
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        reader.consume(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        _dir: tempfile::TempDir,
        files: Tls,
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn files(certificate: &str, key: &str) -> Files {
        let dir = tempfile::tempdir().expect("a folder");
        let files = Tls { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
        fs::write(&files.certificate, certificate).expect("written");
        fs::write(&files.key, key).expect("written");
        Files { _dir: dir, files }
    }

    #[test]
    fn what_is_wrong_with_the_files_is_told_with_their_names() {
        let ((cert, key), (_, other)) = (pair(), pair());
        Certificate::load(&files(&cert, &key).files).expect("they fit");
        for (cert, key, words) in [
            (cert.as_str(), other.as_str(), "key.pem does not belong to the certificate in"),
            (&key, &cert, "cert.pem holds no certificate in PEM"),
            (&cert, "", "key.pem holds no key in PEM"),
            (&cert, &cert, "key.pem holds no key in PEM"),
            ("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", &key, "cert.pem holds no"),
        ] {
            let error = Certificate::load(&files(cert, key).files).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let gone = Tls { certificate: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into() };
        let error = Certificate::load(&gone).expect_err("no files").to_string();
        assert!(
            error.starts_with("[tls] certificate: cannot read /nowhere/cert.pem: No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let (cert, key) = pair();
        let on_disk = files(&cert, &key);
        let certificate = Certificate::load(&on_disk.files).expect("they fit");
        assert!(!certificate.reload().expect("unchanged"));
        let renew = |cert: &str, key: &str, seconds| {
            fs::write(&on_disk.files.certificate, cert).expect("written");
            fs::write(&on_disk.files.key, key).expect("written");
            let later = SystemTime::now() + std::time::Duration::from_secs(seconds);
            File::options()
                .write(true)
                .open(&on_disk.files.key)
                .expect("open")
                .set_modified(later)
                .expect("set");
        };
        renew(&pair().0, &key, 10);
        assert!(matches!(certificate.reload(), Err(TlsError::Mismatch { .. })));
        assert!(!certificate.reload().expect("told once"));
        let (cert, key) = pair();
        renew(&cert, &key, 20);
        assert!(certificate.reload().expect("they fit"));
    }
}
