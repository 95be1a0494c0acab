//! The parts of `reeld.toml` that say how streams come in: `[webrtc]`, `[tls]`, `[[source]]`, `[limits] allow_sources`.

use super::quoted;
use super::toml_keys::{Settings, boolean, list, text};
use super::{daemon::at, toml_keys};
use ipnet::IpNet;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::de::DeValue;
use url::Url;

pub(super) const WEBRTC_KEYS: &[&str] = &["udp_ports", "announce_ip", "stun", "turn", "ice_tcp"];
pub(super) const TLS_KEYS: &[&str] = &["certificate", "key"];
pub(super) const SOURCE_KEYS: &[&str] = &["uri", "stream", "transport", "record"];

/// What is wrong with most URLs that hold a password and cannot be read.
pub const CREDENTIALS_HINT: &str = "in a user or password, # / ? @ : are written %23 %2F %3F %40 %3A";

/// Fewer UDP ports than this do not even carry one publisher.
const MIN_UDP_PORTS: u16 = 2;

/// `[webrtc]`. `Debug` shows no user and no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Webrtc {
    /// UDP ports for media, both ends included.
    pub udp_ports: RangeInclusive<u16>,
    /// The address that candidates name instead of the machine's own: its public one behind 1:1 NAT.
    pub announce_ip: Option<IpAddr>,
    /// `stun://HOST:PORT`.
    pub stun: Option<Url>,
    /// `turn://USER:PASSWORD@HOST:PORT` or `turns://…`.
    pub turn: Vec<Url>,
    /// Whether to listen for ICE over TCP too (passive).
    pub ice_tcp: bool,
}

impl Default for Webrtc {
    fn default() -> Self {
        Self { udp_ports: 31_000..=31_999, announce_ip: None, stun: None, turn: Vec::new(), ice_tcp: true }
    }
}

impl fmt::Debug for Webrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { udp_ports, announce_ip, stun, turn, ice_tcp } = self;
        f.debug_struct("Webrtc")
            .field("udp_ports", udp_ports)
            .field("announce_ip", announce_ip)
            .field("stun", &stun.as_ref().map(shown))
            .field("turn", &turn.iter().map(shown).collect::<Vec<_>>())
            .field("ice_tcp", ice_tcp)
            .finish()
    }
}

/// `[tls]`: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How RTP comes from a pulled source.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// UDP, and TCP when nothing arrives over UDP.
    Auto,
    #[default]
    Tcp,
    Udp,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("{} is not a transport; write \"tcp\", \"udp\" or \"auto\"", quoted(word))),
        }
    }
}

/// One `[[source]]`: a stream to pull for as long as the daemon runs. `Debug` shows no user, password or path.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// `rtsp://`, `rtmp://` or `rtmps://`, with user and password if the source wants them. Never shown.
    pub uri: Url,
    /// `ROOM/STREAM` to publish it as, no other source's; `None` = made of the URI.
    pub stream: Option<String>,
    pub transport: Transport,
    /// Record it whatever the policy says.
    pub record: bool,
}

impl fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uri, stream, transport, record } = self;
        f.debug_struct("SourceConfig")
            .field("uri", &shown(uri))
            .field("stream", stream)
            .field("transport", transport)
            .field("record", record)
            .finish()
    }
}

/// Scheme and host of a URL: user and password stand before the host, and those of many cameras behind it.
fn shown(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Hosts by address block or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    Net(IpNet),
    /// Lower case; `*.example.org` means every host below it.
    Name(String),
}

impl FromStr for HostRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match !name.is_empty() && name.chars().all(plain) && !name.contains('/') {
            true => Ok(Self::Name(text.to_ascii_lowercase())),
            false => Err(format!(
                "{} is no address, block or host; write \"10.0.0.0/8\", \"192.168.1.7\", \"camera.lan\" or \"*.lan\"",
                quoted(text)
            )),
        }
    }
}

/// Which hosts may be pulled from (`[limits] allow_sources`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// `None`: every host but link-local ones and the others where cloud machines keep their credentials.
    pub allow: Option<Vec<HostRule>>,
}

impl SourceRules {
    /// Whether a connection to `host`, which resolved to `address`, is allowed. Ask with the address that is really
    /// connected to, so that a name cannot change its answer in between.
    pub fn allows(&self, host: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let host = host.to_ascii_lowercase();
        match &self.allow {
            None => !is_metadata(address),
            Some(rules) => rules.iter().any(|rule| match rule {
                HostRule::Net(net) => net.contains(&address),
                HostRule::Name(name) => match name.strip_prefix('*') {
                    Some(below) => host.ends_with(below),
                    None => host == *name,
                },
            }),
        }
    }
}

/// Services outside the link-local blocks that tell a cloud machine its credentials.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Link-local addresses, the one block of unique local addresses that serves machine metadata, and [`METADATA`]; also
/// behind NAT64's well-known prefix (RFC 6052, 2.1).
fn is_metadata(address: IpAddr) -> bool {
    let listed = METADATA.contains(&address);
    match address {
        IpAddr::V4(v4) => listed || v4.is_link_local(),
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                is_metadata(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into())
            }
            segments => listed || v6.is_unicast_link_local() || segments[..3] == [0xfd00, 0x0ec2, 0],
        },
    }
}

pub(super) fn webrtc(settings: &mut Settings) -> Webrtc {
    let default = Webrtc::default();
    let mut get_url = |key, schemes: &'static [&'static str], example| {
        settings.get("webrtc", key, None, |v| url_of(v, schemes, example).map(Some))
    };
    let stun = get_url("stun", &["stun"], "stun://stun.example.org:3478");
    Webrtc {
        udp_ports: settings.get("webrtc", "udp_ports", default.udp_ports, ports),
        announce_ip: settings.get("webrtc", "announce_ip", None, |v| {
            let text = text(v, "203.0.113.7")?;
            let parsed = text.parse().map(Some);
            parsed.map_err(|_| format!("{} is not a numeric address; write \"203.0.113.7\"", quoted(&text)))
        }),
        stun,
        turn: settings.get("webrtc", "turn", Vec::new(), |v| {
            const EXAMPLE: &str = "turn://USER:PASSWORD@turn.example.org:3478";
            list(v, EXAMPLE, |item| url_of(item, &["turn", "turns"], EXAMPLE))
        }),
        ice_tcp: settings.get("webrtc", "ice_tcp", default.ice_tcp, boolean),
    }
}

pub(super) fn tls(settings: &mut Settings, base: &Path) -> Option<Tls> {
    let mut file = |key| settings.get("tls", key, None, |v| text(v, "/etc/reeld/tls.pem").map(Some));
    let (certificate, key) = (file("certificate"), file("key"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate: at(base, &certificate), key: at(base, &key) })
        }
        (None, None) => None,
        _ => {
            let line = settings.line_of("tls", "certificate").max(settings.line_of("tls", "key"));
            settings
                .error(line, "[tls] needs both: certificate = \"FILE.pem\" and key = \"FILE.pem\"".into());
            None
        }
    }
}

pub(super) fn sources(settings: &mut Settings, rules: &SourceRules) -> Vec<SourceConfig> {
    let mut sources: Vec<SourceConfig> = Vec::new();
    let mut names = HashSet::new();
    for (section, line) in settings.list("source") {
        let uri = settings.get(&section, "uri", None, |v| {
            let uri = url_of(v, &["rtsp", "rtmp", "rtmps"], "rtsp://USER:PASSWORD@camera.lan/stream1")?;
            check_address(&uri, rules)?;
            Ok(Some(uri))
        });
        let given = settings.line_of(&section, "uri");
        let stream = settings.get(&section, "stream", None, |v| {
            let text = text(v, "court/camera-1")?;
            let name = crate::media::split_path(&text).map_err(|e| e.to_string())?;
            match names.insert(name) {
                true => Ok(Some(text)),
                false => Err(format!("{} is the stream of another [[source]] already", quoted(&text))),
            }
        });
        let transport =
            settings.get(&section, "transport", Transport::default(), |v| text(v, "tcp")?.parse());
        let record = settings.get(&section, "record", false, boolean);
        match uri {
            Some(uri) if sources.iter().any(|s| s.uri == uri) => {
                settings.error(given, "this uri is another [[source]] already; remove one".into());
            }
            Some(uri) => sources.push(SourceConfig { uri, stream, transport, record }),
            None if given == 0 => {
                settings.error(line, "a source needs uri = \"rtsp://HOST/PATH\"".into());
            }
            None => {}
        }
    }
    sources
}

/// A host that is a name is looked up when it is connected to, and checked then.
fn check_address(uri: &Url, rules: &SourceRules) -> Result<(), String> {
    let host = uri.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) if !rules.allows(host, address) => Err(format!(
            "{host} is an address that [limits] allow_sources does not allow; list it there, or remove this source"
        )),
        _ => Ok(()),
    }
}

pub(super) fn allow_sources(settings: &mut Settings) -> SourceRules {
    let allow = settings.get("limits", "allow_sources", None, |v| {
        list(v, "192.168.1.0/24", |item| toml_keys::text(item, "192.168.1.0/24")?.parse()).map(Some)
    });
    SourceRules { allow }
}

/// `31000-31999`.
fn ports(value: &DeValue) -> Result<RangeInclusive<u16>, String> {
    let text = text(value, "31000-31999")?;
    let parsed = text
        .split_once('-')
        .and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    match parsed {
        Some((from, to)) if from > 0 && to >= from && to - from + 1 >= MIN_UDP_PORTS => Ok(from..=to),
        _ => Err(format!("{} is not a range of ports; write for example \"31000-31999\"", quoted(&text))),
    }
}

/// A URL with a host and one of `schemes`. It may hold a password, so messages do not repeat it.
fn url_of(value: &DeValue, schemes: &[&str], example: &str) -> Result<Url, String> {
    let text = text(value, example)?;
    let usable = |url: &Url| schemes.contains(&url.scheme()) && url.has_host();
    Url::parse(&text).ok().filter(usable).ok_or_else(|| match example.contains('@') {
        true => format!("not a URL that works here; write \"{example}\"; {CREDENTIALS_HINT}"),
        false => format!("not a URL that works here; write \"{example}\""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_hosts_are_not_pulled_unless_listed() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let open = SourceRules::default();
        for (address, allowed) in [
            ("192.168.1.7", true),
            ("127.0.0.1", true),
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("fd20:ce::254", false),
            ("100.100.100.200", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b::c0a8:107", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(open.allows("camera", ip(address)), allowed, "{address}");
        }
        let rules = ["10.0.0.0/8", "169.254.1.1", "*.lan", "cam.example.org"];
        let some = SourceRules { allow: Some(rules.map(|r| r.parse().unwrap()).into()) };
        for (host, address, allowed) in [
            ("x", "10.2.3.4", true),
            ("x", "169.254.1.1", true),
            ("x", "11.0.0.1", false),
            ("A.LAN", "11.0.0.1", true),
            ("lan", "11.0.0.1", false),
            ("cam.example.org", "11.0.0.1", true),
            ("evil.cam.example.org", "11.0.0.1", false),
        ] {
            assert_eq!(some.allows(host, ip(address)), allowed, "{host} {address}");
        }
        assert!("http://x/".parse::<HostRule>().is_err());
    }

    #[test]
    fn debug_shows_no_password() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let uri = url("rtsp://admin:hunter2@camera.lan/user=admin_password=hunter2?pwd=hunter2");
        let source = SourceConfig { uri, stream: None, transport: Transport::Tcp, record: false };
        let turn = vec![url("turn://user:hunter2@turn.lan:3478")];
        let shown = format!("{source:?} {:?}", Webrtc { turn, ..Webrtc::default() });
        assert!(shown.contains("rtsp://camera.lan") && shown.contains("turn://turn.lan"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
