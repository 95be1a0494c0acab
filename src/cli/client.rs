//! The REST client of the commands: where the daemon is, one bounded call, and errors in words.

use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

const DEFAULT_SERVER: &str = "http://127.0.0.1:9091";
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a stop, which answers when the file is final.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why a client command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("`{0}` is no address of a daemon; write it as http://HOST:PORT")]
    BadServer(String),
    #[error("{}: {what}; give --server URL, or correct the file", .file.display())]
    Config { file: PathBuf, what: String },
    #[error("no daemon answers at {0}; start one with `reeld serve` or give --server URL")]
    NoDaemon(String),
    #[error("the daemon at {0} did not answer in time; look at its log")]
    TimedOut(String),
    #[error("the connection to {url} failed: {what}")]
    Broken { url: String, what: String },
    /// The daemon's own words.
    #[error("{0}")]
    Refused(String),
    #[error("{url} answered {status} and not as reeld does; is it the daemon's address?")]
    NotReeld { url: String, status: StatusCode },
    #[error("no live stream is called `{0}`; `reeld sessions` lists them")]
    NoSuchStream(String),
    #[error("`{0}` is not being recorded; `reeld start {0}` begins a recording")]
    NotRecorded(String),
    #[error("`{name}` is the name of more than one live stream: {candidates}; give the one you mean")]
    Ambiguous { name: String, candidates: String },
    #[error("the result could not be written: {0}")]
    Output(#[from] io::Error),
}

/// A connection to one daemon.
pub(super) struct Client {
    base: Url,
    http: reqwest::Client,
}

impl Client {
    /// `server`: what `--server` or REELD_SERVER says; when it is absent or empty the address is read from the
    /// configuration file.
    pub(super) fn new(server: Option<&str>, config: Option<&Path>) -> Result<Self, CliError> {
        let base = match server.filter(|text| !text.is_empty()) {
            Some(text) => parse_server(text)?,
            None => configured_server(config)?,
        };
        // reqwest asks for it also where only http is spoken; one that is installed already stays.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        // The daemon is addressed as such: a proxy meant for the web has no part in it.
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| CliError::Broken { url: base.to_string(), what: innermost(&e) })?;
        Ok(Self { base, http })
    }

    /// `GET /api/v1/PATH?QUERY`.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, CliError> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.call(Method::GET, url, None, ANSWER_TIMEOUT).await
    }

    /// `POST /api/v1/PATH` with a JSON body.
    pub(super) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.call(Method::POST, self.url(path), Some(body), ANSWER_TIMEOUT).await
    }

    /// `DELETE /api/v1/PATH`, which may take as long as a file takes to be finished.
    pub(super) async fn delete(&self, path: &[&str]) -> Result<Value, CliError> {
        self.call(Method::DELETE, self.url(path), None, STOP_TIMEOUT).await
    }

    /// An answer as the type a command shows.
    pub(super) fn read<T: DeserializeOwned>(&self, answer: Value) -> Result<T, CliError> {
        serde_json::from_value(answer).map_err(|_| self.not_reeld(StatusCode::OK))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .extend(["api", "v1"].iter().chain(path));
        url
    }

    async fn call(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Value, CliError> {
        let mut request = self.http.request(method, url).timeout(timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|e| self.failed(&e))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failed(&e))? {
            if chunk.len() > MAX_ANSWER_BYTES - bytes.len() {
                return Err(self.not_reeld(status));
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(problem(&bytes).map_or_else(|| self.not_reeld(status), CliError::Refused));
        }
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| self.not_reeld(status))
    }

    fn not_reeld(&self, status: StatusCode) -> CliError {
        CliError::NotReeld { url: self.base.to_string(), status }
    }

    fn failed(&self, error: &reqwest::Error) -> CliError {
        let url = self.base.to_string();
        match error {
            e if e.is_connect() => CliError::NoDaemon(url),
            e if e.is_timeout() => CliError::TimedOut(url),
            e => CliError::Broken { url, what: innermost(e) },
        }
    }
}

/// The last cause of an error: what the system said.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What a problem+json body tells a person.
fn problem(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let text = body.get("detail").or_else(|| body.get("title"))?.as_str()?;
    Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

fn parse_server(text: &str) -> Result<Url, CliError> {
    let bad = || CliError::BadServer(text.to_owned());
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&url).map_err(|_| bad())?;
    let plain = url.scheme() == "http" && url.query().is_none() && url.fragment().is_none();
    if plain && url.has_host() { Ok(url) } else { Err(bad()) }
}

/// The http address that the configuration gives the daemon. Only `[listen] http` is looked at, so that
/// a mistake elsewhere in the file does not keep anyone from stopping a recording.
fn configured_server(config: Option<&Path>) -> Result<Url, CliError> {
    let default = || parse_server(DEFAULT_SERVER);
    let Some(file) = crate::config::find(config) else { return default() };
    let mut text = String::new();
    let read = File::open(&file).and_then(|f| f.take(MAX_CONFIG_BYTES).read_to_string(&mut text));
    let address = match read {
        Ok(_) => listen_http(&text),
        // Settings kept from this user: the daemon is most likely where it is by default.
        Err(e) if config.is_none() && e.kind() == io::ErrorKind::PermissionDenied => return default(),
        Err(e) => Err(e.to_string()),
    };
    match address {
        Ok(Some(address)) => parse_server(&reachable(address).to_string()),
        Ok(None) => default(),
        Err(what) => Err(CliError::Config { file, what }),
    }
}

fn listen_http(text: &str) -> Result<Option<SocketAddr>, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.message().to_owned())?;
    let Some(http) = table.get("listen").and_then(|l| l.get("http")) else { return Ok(None) };
    let address = http.as_str().and_then(|a| a.parse::<SocketAddr>().ok());
    match address {
        None => Err(format!("listen.http is {http}, which is no ADDRESS:PORT")),
        Some(a) if a.port() == 0 => {
            Err("listen.http has port 0: the daemon took a free port and logged which".to_owned())
        }
        Some(a) => Ok(Some(a)),
    }
}

/// The address to connect to for one that is listened on: loopback where that is every address.
fn reachable(mut listened: SocketAddr) -> SocketAddr {
    match listened.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listened.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listened.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listened
}

/// Writes a result to standard output. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Writes the daemon's answer, every field of it, indented.
pub(super) fn print_json(answer: &Value) -> Result<(), CliError> {
    print(&format!("{answer:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_http_address_with_or_without_its_scheme() {
        let table = [
            ("http://127.0.0.1:9091", Some("http://127.0.0.1:9091/api/v1/sessions/a%2Fb")),
            ("localhost:81", Some("http://localhost:81/api/v1/sessions/a%2Fb")),
            ("http://[::1]:9091/reeld/", Some("http://[::1]:9091/reeld/api/v1/sessions/a%2Fb")),
            ("https://host", None),
            ("file:///etc/passwd", None),
            ("http://", None),
            ("http://host/?x", None),
        ];
        for (text, want) in table {
            let url = Client::new(Some(text), None).map(|c| c.url(&["sessions", "a/b"]).to_string());
            assert_eq!(url.ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn the_address_comes_from_the_configuration() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("reeld.toml");
        let server = |toml: &str| {
            std::fs::write(&file, toml).expect("writes");
            configured_server(Some(&file)).map(|u| u.to_string()).map_err(|e| e.to_string())
        };
        let table = [
            ("[listen]\nhttp = \"10.0.0.1:80\"", Ok("http://10.0.0.1/")),
            ("[listen]\nhttp = \"0.0.0.0:9000\"\nnonsense = 1", Ok("http://127.0.0.1:9000/")),
            ("[listen]\nhttp = \"[::]:9000\"", Ok("http://[::1]:9000/")),
            ("[paths]", Ok("http://127.0.0.1:9091/")),
            ("[listen]\nhttp = \"127.0.0.1:0\"", Err("port 0")),
            ("[listen]\nhttp = 9091", Err("listen.http is 9091")),
            ("[listen", Err("give --server")),
        ];
        for (toml, want) in table {
            match (server(toml), want) {
                (Ok(url), Ok(want)) => assert_eq!(url, want),
                (Err(text), Err(want)) => assert!(text.contains(want), "{text} lacks {want}"),
                (got, want) => panic!("{toml}: {got:?} where {want:?} was expected"),
            }
        }
        let absent = configured_server(Some(&folder.path().join("absent.toml")));
        assert!(matches!(absent, Err(CliError::Config { .. })));
    }

    #[test]
    fn a_problem_is_told_in_its_own_words() {
        let body = br#"{"title": "No such session", "detail": "no session x\u001b[2J", "status": 404}"#;
        assert_eq!(problem(body).as_deref(), Some("no session x [2J"));
        assert_eq!(problem(br#"{"title": "No such session"}"#).as_deref(), Some("No such session"));
        assert_eq!(problem(b"<html>"), None);
        assert_eq!(problem(br#"{"detail": 7}"#), None);
    }

    #[tokio::test]
    async fn a_refused_connection_says_how_to_start_a_daemon() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let client = Client::new(Some(&address.to_string()), None).expect("a client");
        let error = client.get(&["sessions"], &[]).await.expect_err("nothing listens").to_string();
        assert!(error.starts_with(&format!("no daemon answers at http://{address}/; start one")), "{error}");
    }
}
