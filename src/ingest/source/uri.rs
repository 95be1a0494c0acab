//! Where a source is: its address for everyone, its user and password for its server only.

use crate::{config::CREDENTIALS_HINT, ingest::percent_decoded};
use std::fmt;
use url::{Host, Url};

/// Longest URI taken, bytes.
const MAX_URI_BYTES: usize = 2048;
/// Longest stream name made of a URI, bytes.
const MAX_DERIVED_NAME_BYTES: usize = 200;
/// What stands for a value that may be a secret.
const HIDDEN: &str = "xxx";
/// Query keys whose values cameras take as credentials.
const SECRET_KEYS: [&str; 15] = [
    "access_token",
    "apikey",
    "api_key",
    "auth",
    "authbasic",
    "key",
    "pass",
    "passwd",
    "password",
    "psw",
    "pwd",
    "secret",
    "sig",
    "signature",
    "token",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("it is no URL; write rtsp://USER:PASSWORD@HOST/PATH; {CREDENTIALS_HINT}")]
    NoUrl,
    #[error("it is longer than {MAX_URI_BYTES} bytes")]
    TooLong,
    #[error("its scheme is not known here; rtsp:// and rtmp:// are")]
    Scheme,
    #[error("its host is no host name and no address")]
    Host,
}

/// The protocols that are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Rtsp,
    Rtsps,
    Rtmp,
    Rtmps,
}

impl Scheme {
    const ALL: [Scheme; 4] = [Scheme::Rtsp, Scheme::Rtsps, Scheme::Rtmp, Scheme::Rtmps];

    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Rtsp => "rtsp",
            Scheme::Rtsps => "rtsps",
            Scheme::Rtmp => "rtmp",
            Scheme::Rtmps => "rtmps",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Rtsp => 554,
            Scheme::Rtsps => 322,
            Scheme::Rtmp => 1935,
            Scheme::Rtmps => 443,
        }
    }
}

/// A user and a password, percent-decoded. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// The address of a source, normalised. `Display` and `Debug` show it without anything secret; two URIs that differ in
/// their secrets only are the same source and show the same.
#[derive(Clone)]
pub struct SourceUri {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Without user, password and fragment.
    url: Url,
    credentials: Option<Credentials>,
}

impl SourceUri {
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_URI_BYTES {
            return Err(UriError::TooLong);
        }
        Self::from_url(Url::parse(text.trim()).map_err(|_| UriError::NoUrl)?)
    }

    pub fn from_url(mut url: Url) -> Result<Self, UriError> {
        let scheme = Scheme::ALL.into_iter().find(|s| s.as_str() == url.scheme()).ok_or(UriError::Scheme)?;
        let host = match url.host().ok_or(UriError::Host)? {
            Host::Domain(name) if is_host_name(name) => name.to_ascii_lowercase(),
            Host::Domain(_) => return Err(UriError::Host),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let written = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let port = url.port().unwrap_or(scheme.default_port());
        let text = |coded| String::from_utf8_lossy(&percent_decoded(coded)).into_owned();
        let credentials = (!url.username().is_empty() || url.password().is_some()).then(|| Credentials {
            user: text(url.username()),
            password: text(url.password().unwrap_or_default()),
        });
        let set = url.set_username("").and_then(|()| url.set_password(None));
        set.and_then(|()| url.set_port((port != scheme.default_port()).then_some(port)))
            .map_err(|()| UriError::Host)?;
        url.set_host(Some(&written)).map_err(|_| UriError::Host)?;
        url.set_fragment(None);
        Ok(Self { scheme, host, port, url, credentials })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Lower case; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is sent to the source: with its query as given, without user and password. It may hold secrets in its query:
    /// not for logs, errors or answers.
    pub fn request_url(&self) -> &Url {
        &self.url
    }

    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The same source elsewhere, as a redirect says: the credentials go with it only to the same host, because another one
    /// has no claim to them.
    pub fn redirected(&self, to: &str) -> Result<Self, UriError> {
        let mut next = Self::parse(to)?;
        if next.host == self.host && next.scheme == self.scheme {
            next.credentials = next.credentials.or_else(|| self.credentials.clone());
        }
        Ok(next)
    }

    /// A stream name made of host and path: `camera.lan-stream1`.
    pub fn derived_name(&self) -> String {
        let shown = self.to_string();
        let rest = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
        let safe = |c: char| match c {
            c if c.is_ascii_alphanumeric() => c,
            '.' | '_' | '-' => c,
            '/' | ':' => '-',
            _ => '_',
        };
        let name: String = rest.trim_end_matches('/').chars().map(safe).collect();
        name.chars().take(MAX_DERIVED_NAME_BYTES).collect()
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        // Some cameras take them in the path: /user=admin_password=…_channel=1
        let parts = self.url.path().split('/');
        let path: Vec<_> = parts.map(|p| hidden(p, if p.contains('&') { '&' } else { '_' })).collect();
        shown.set_path(&path.join("/"));
        shown.set_query(self.url.query().map(|query| hidden(query, '&')).as_deref());
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `text`, which is `key=value` parted by `separator`, without the values of secret keys.
fn hidden(text: &str, separator: char) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut secret = false;
    for part in text.split(separator) {
        match part.split_once('=') {
            Some((key, _)) if SECRET_KEYS.contains(&key.to_ascii_lowercase().as_str()) => {
                secret = true;
                shown.push(format!("{key}={HIDDEN}"));
            }
            // The rest of a secret that holds the separator.
            None if secret => {}
            _ => {
                secret = false;
                shown.push(part.to_owned());
            }
        }
    }
    shown.join(&separator.to_string())
}

fn is_host_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.len() <= 253 && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_source_is_told_however_it_is_written() {
        let table = [
            ("rtsp://camera.lan/x", "rtsp://camera.lan/x"),
            ("RTSP://Admin:Secret@CAMERA.lan:554/x#here", "rtsp://camera.lan/x"),
            ("rtsp://camera.lan:8554/x", "rtsp://camera.lan:8554/x"),
            ("rtsp://[::1]:554/x", "rtsp://[::1]/x"),
            ("rtmp://10.0.0.7:1935/live/a", "rtmp://10.0.0.7/live/a"),
            ("rtsp://h/a_b/user=x_password=p_q_channel=1", "rtsp://h/a_b/user=x_password=xxx_channel=1"),
            ("rtsp://h/user=x&password=p_q&channel=1", "rtsp://h/user=x&password=xxx&channel=1"),
            (
                "rtsp://h/realmonitor?channel=1&authbasic=YWRtaW4",
                "rtsp://h/realmonitor?channel=1&authbasic=xxx",
            ),
            ("rtsp://h", "rtsp://h"),
            ("rtsp://h/c?channel=1&PASSWORD=hunter2&token=t", "rtsp://h/c?channel=1&PASSWORD=xxx&token=xxx"),
        ];
        for (given, shown) in table {
            let uri = SourceUri::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(uri.to_string(), shown);
            assert!(!format!("{uri:?} {:?}", uri.credentials()).contains("ecret"), "{given}");
        }
        let table = [
            ("http://camera.lan/x", UriError::Scheme),
            ("camera.lan", UriError::NoUrl),
            ("rtsp:///x", UriError::Host),
            ("rtsp://a b/x", UriError::NoUrl),
            ("rtsp://admin:hash#tag@camera.lan/x", UriError::NoUrl),
            ("rtsp://admin:a/b@camera.lan/x", UriError::NoUrl),
            ("rtsp://admin:a?b@camera.lan/x", UriError::NoUrl),
            ("rtsp://a%20b/x", UriError::Host),
        ];
        for (bad, error) in table {
            assert_eq!(SourceUri::parse(bad).map(|u| u.to_string()), Err(error), "{bad}");
        }
        let told = UriError::NoUrl.to_string();
        assert!(told.ends_with("# / ? @ : are written %23 %2F %3F %40 %3A"), "{told}");
    }

    #[test]
    fn credentials_are_decoded_and_follow_a_redirect_only_to_the_same_host() {
        let uri = SourceUri::parse("rtsp://ad%40min:p%3aw%zz@camera.lan/x?a=1").expect("a URI");
        let credentials = uri.credentials().expect("given");
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("ad@min", "p:w%zz"));
        assert_eq!(uri.request_url().as_str(), "rtsp://camera.lan/x?a=1");
        let same = uri.redirected("rtsp://camera.lan:8554/y").expect("a URI");
        assert_eq!((same.credentials(), same.port()), (uri.credentials(), 8554));
        assert_eq!(uri.redirected("rtsp://elsewhere.lan/x").expect("a URI").credentials(), None);
    }

    #[test]
    fn a_name_is_made_of_host_and_path() {
        for (uri, name) in [
            ("rtsp://camera.lan/stream1", "camera.lan-stream1"),
            ("rtsp://u:p@10.0.0.7:8554/a/b c/", "10.0.0.7-8554-a-b_20c"),
            ("rtsp://camera.lan", "camera.lan"),
            ("rtsp://camera.lan/../x", "camera.lan-x"),
        ] {
            assert_eq!(SourceUri::parse(uri).expect("a URI").derived_name(), name);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_no_password_shows(text in "(rtsp|rtmp)://[a-z:@/?&=%\\[\\]]{0,40}") {
            if let Ok(uri) = SourceUri::parse(&text) {
                proptest::prop_assert!(!uri.to_string().contains('@') || uri.request_url().path().contains('@')
                    || uri.request_url().query().is_some_and(|q| q.contains('@')));
                let again = SourceUri::parse(&uri.to_string()).expect("what is shown is a URI");
                proptest::prop_assert_eq!(again.to_string(), uri.to_string());
            }
        }
    }
}
