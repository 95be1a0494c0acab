//! The guard that every outgoing request goes through: nothing is sent to an address that `[limits] allow_delivery` does
//! not let pass, whatever a URL, a name's addresses or a redirect say.
//!
//! Addresses in URLs are checked before a request is sent; names are resolved here and not by the client, and it is given
//! those addresses alone that were checked: a name that changes its answer in between gains nothing. Both holds for each
//! redirect too. A proxy of the environment is not used, as it would resolve names itself.

use crate::config::{DeliveryRefused, DeliveryRules};
use reqwest::{
    Client, Method, Request, RequestBuilder, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::{Action, Attempt, Policy},
};
use std::{error::Error, fmt, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::lookup_host;
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, RootCertStore, crypto::ring::default_provider,
};
use url::Url;

/// From a name to a connection with its TLS handshake done.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What was sent and is not acknowledged for so long ends a connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);
const MAX_IDLE_PER_HOST: usize = 8;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
const MAX_REDIRECTS: usize = 3;

/// Why a request came to no answer. Its text holds no user, password, path or query.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    #[error(transparent)]
    Refused(#[from] DeliveryRefused),
    /// A redirect to somewhere that may not be sent to, or one too many.
    #[error("{host} redirects, and {why}")]
    Redirect { host: String, why: RedirectError },
    #[error("{host} cannot be connected to: {what}")]
    Connect { host: String, what: String },
    #[error("{host} did not answer in time")]
    TimedOut { host: String },
    /// It had begun; the other side may have got it.
    #[error("the connection to {host} broke: {what}")]
    Broken { host: String, what: String },
    #[error("no request can be made of it: {0}")]
    Unusable(String),
}

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("{0}")]
    Refused(DeliveryRefused),
    #[error("has done so {MAX_REDIRECTS} times")]
    TooMany,
    #[error("from https to http")]
    Downgrade,
}

/// A client for requests to hosts that users name. A cheap clone; all clones share their connections.
#[derive(Clone)]
pub struct Outgoing {
    client: Client,
    rules: Arc<DeliveryRules>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Reads the system's root certificates (those of ca-certificates, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`), so it
    /// blocks on the disk.
    ///
    /// The client speaks HTTP/1.1, keeps no cookies, sends no `Referer`, and follows 307 and 308 only (with the others a
    /// POST would become a GET), at most three times and never from https to http. It has a time limit for connecting
    /// and for what is not acknowledged, none for an answer: who sends sets that.
    pub fn new(rules: DeliveryRules) -> Result<Self, OutgoingError> {
        let rules = Arc::new(rules);
        let client = Client::builder()
            .tls_backend_preconfigured(tls()?)
            .no_proxy()
            .http1_only()
            .referer(false)
            .dns_resolver(Checked(rules.clone()))
            .redirect(redirects(rules.clone()))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .user_agent(concat!("reeld/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| OutgoingError::Unusable(innermost(&e)))?;
        Ok(Self { client, rules })
    }

    pub fn rules(&self) -> &DeliveryRules {
        &self.rules
    }

    /// A request, once `url` may be sent to. It is sent by [`execute`](Self::execute).
    pub fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, OutgoingError> {
        Ok(self.client.request(method, self.rules.check(url)?))
    }

    /// Sends a request, once its URL may be sent to. An answer of any status is an answer.
    pub async fn execute(&self, request: Request) -> Result<Response, OutgoingError> {
        self.rules.check_url(request.url())?;
        let host = host_of(request.url());
        self.client.execute(request).await.map_err(|e| told(host, &e))
    }
}

/// `HOST[:PORT]`: what may be shown of a URL that something is sent to.
pub fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What an error of the client comes to, as of an answer's body. `host` as of [`host_of`].
pub fn told(host: String, error: &reqwest::Error) -> OutgoingError {
    if let Some(refused) = cause::<DeliveryRefused>(error) {
        return refused.clone().into();
    }
    if let Some(why) = cause::<RedirectError>(error) {
        return OutgoingError::Redirect { host, why: why.clone() };
    }
    match error {
        e if e.is_connect() && e.is_timeout() => {
            OutgoingError::Connect { host, what: format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()) }
        }
        e if e.is_connect() => OutgoingError::Connect { host, what: connecting(e) },
        e if e.is_timeout() => OutgoingError::TimedOut { host },
        e if e.is_builder() => OutgoingError::Unusable(innermost(e)),
        e => OutgoingError::Broken { host, what: innermost(e) },
    }
}

fn connecting(error: &reqwest::Error) -> String {
    use CertificateError as Bad;
    // An error of a custom kind hides what it holds from `source`.
    let tls = causes(error).find_map(|e| {
        let inner = || e.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>();
        e.downcast_ref::<rustls::Error>().or_else(inner)
    });
    match tls {
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer)) => {
            "nobody whom this machine trusts vouches for its certificate; add its issuer to \
             /usr/local/share/ca-certificates, run update-ca-certificates and start the daemon again"
                .into()
        }
        Some(rustls::Error::InvalidCertificate(bad)) => format!("its certificate is not valid: {bad}"),
        Some(rustls::Error::AlertReceived(alert)) => format!("it ended TLS: {alert:?}"),
        Some(_) => "it and this machine do not agree on TLS; is it http:// and not https://?".into(),
        None => innermost(error),
    }
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    causes(error).find_map(|e| e.downcast_ref())
}

/// The last cause of an error: what the system said. The first would hold the URL.
fn innermost(error: &reqwest::Error) -> String {
    match causes(error).last() {
        Some(last) if !last.is::<reqwest::Error>() => last.to_string(),
        _ => "the request failed".to_owned(),
    }
}

fn tls() -> Result<ClientConfig, OutgoingError> {
    let mut roots = RootCertStore::empty();
    // What cannot be read is left out: one broken file must not cost all others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| OutgoingError::Unusable(e.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Resolves names to the addresses that may be sent to.
struct Checked(Arc<DeliveryRules>);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found = lookup_host((host, 0)).await?.take(MAX_ADDRESSES);
            Ok(Box::new(allowed(&rules, host, found)?.into_iter()) as Addrs)
        })
    }
}

/// Those of `found` that may be sent to, at least one.
fn allowed(
    rules: &DeliveryRules,
    host: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in found {
        match rules.check_address(Some(host), address.ip()) {
            Ok(()) => allowed.push(address),
            Err(why) => refused = Some(why),
        }
    }
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(why)) => Err(why.into()),
        (true, None) => Err(io::Error::from(io::ErrorKind::NotFound).into()),
    }
}

fn redirects(rules: Arc<DeliveryRules>) -> Policy {
    Policy::custom(move |attempt| follow(&rules, attempt))
}

fn follow(rules: &DeliveryRules, attempt: Attempt) -> Action {
    if !matches!(attempt.status().as_u16(), 307 | 308) {
        return attempt.stop();
    }
    let was_secret = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    let why = match rules.check_url(attempt.url()) {
        Err(refused) => RedirectError::Refused(refused),
        Ok(()) if attempt.previous().len() > MAX_REDIRECTS => RedirectError::TooMany,
        Ok(()) if was_secret && attempt.url().scheme() == "http" => RedirectError::Downgrade,
        Ok(()) => return attempt.follow(),
    };
    attempt.error(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn outgoing(listed: &[&str]) -> Outgoing {
        let allow = listed.iter().map(|rule| rule.parse().expect("a rule")).collect();
        Outgoing::new(DeliveryRules { allow }).expect("a client")
    }

    /// Gives one answer to each connection, in order; answers its port.
    async fn server(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn answer(status: &str, headers: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n")
    }

    async fn post(outgoing: &Outgoing, url: &str) -> Result<u16, String> {
        let request = async {
            let request = outgoing.request(Method::POST, url)?.timeout(Duration::from_secs(5)).body("x");
            let request = request.build().map_err(|e| told(String::new(), &e))?;
            outgoing.execute(request).await
        };
        request.await.map(|answer| answer.status().as_u16()).map_err(|e| e.to_string())
    }

    /// Only once a name is connected to is it known which addresses it has.
    #[tokio::test]
    async fn a_name_of_a_private_address_is_refused_unless_it_is_listed() {
        let port = server(vec![answer("204 No Content", "")]).await;
        let url = format!("http://user:hunter2@localhost:{port}/hunter2?hunter2");
        let refused = post(&outgoing(&[]), &url).await.expect_err("refused");
        assert!(refused.contains("[limits] allow_delivery") && refused.contains("localhost"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(post(&outgoing(&["localhost"]), &url).await, Ok(204));
    }

    #[tokio::test]
    async fn a_request_that_was_not_checked_is_checked_when_it_is_sent() {
        let request = Request::new(Method::GET, "http://2130706433:9/".parse().expect("a URL"));
        let refused = outgoing(&[]).execute(request).await.expect_err("refused");
        assert!(matches!(refused, OutgoingError::Refused(_)), "{refused}");
    }

    #[tokio::test]
    async fn redirects_are_followed_within_the_rules() {
        let found = server(vec![answer("200 OK", "")]).await;
        let to = |status: &str, url: &str| answer(status, &format!("location: {url}\r\n"));
        let good = format!("http://127.0.0.1:{found}/");
        let far = "http://127.0.0.2:9/hunter2";
        let port = server(vec![
            to("307 Temporary Redirect", &good),
            to("302 Found", far),
            to("307 Temporary Redirect", far),
            to("308 Permanent Redirect", "ftp://127.0.0.1/"),
        ])
        .await;
        let (outgoing, url) = (outgoing(&["127.0.0.1"]), format!("http://127.0.0.1:{port}/"));
        assert_eq!(post(&outgoing, &url).await, Ok(200));
        // A POST would become a GET: the answer is told as it is.
        assert_eq!(post(&outgoing, &url).await, Ok(302));
        let refused = post(&outgoing, &url).await.expect_err("refused");
        assert!(refused.contains("redirects, and 127.0.0.2 is a loopback address"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        assert!(post(&outgoing, &url).await.is_err());
    }

    #[tokio::test]
    async fn a_circle_of_redirects_ends() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().expect("bound").port());
        drop(listener);
        let port = server(vec![answer("308 Permanent Redirect", "location: /\r\n"); 10]).await;
        let here = format!("http://127.0.0.1:{port}/");
        let error = post(&outgoing(&["127.0.0.1"]), &here).await.expect_err("too many");
        assert!(error.contains("has done so 3 times"), "{error}");
        let error = post(&outgoing(&["127.0.0.1"]), &url).await.expect_err("nothing listens");
        assert!(error.contains("cannot be connected to: Connection refused"), "{error}");
    }

    #[test]
    fn of_a_name_with_many_addresses_the_checked_ones_are_left() {
        let at = |text: &str| SocketAddr::from((text.parse::<IpAddr>().expect("an address"), 0));
        let rules = DeliveryRules::default();
        let some = allowed(&rules, "x", [at("10.0.0.1"), at("93.184.216.34"), at("::1")].into_iter());
        assert_eq!(some.expect("one is public"), [at("93.184.216.34")]);
        let none = allowed(&rules, "x", [at("10.0.0.1"), at("::1")].into_iter()).expect_err("none is");
        assert!(none.downcast_ref::<DeliveryRefused>().is_some());
        assert!(allowed(&rules, "x", std::iter::empty()).is_err());
    }
}
