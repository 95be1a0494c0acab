//! Where the daemon may send things to: `[limits] allow_delivery`, and the check of one URL or address against it.
//!
//! URLs of deliveries come from whoever may start a recording, and the daemon stands where it can reach more than they can
//! (its own API, the network behind it, a cloud machine's credentials). So public addresses only are sent to, and others
//! where the operator listed them.

use super::HostRule;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// Longest URL that is taken, in bytes.
pub const MAX_DELIVERY_URL: usize = 2048;

/// What [`DeliveryRules`] has against a URL or an address. Its text holds the host and the address, never a user, a
/// password, a path or a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryRefused {
    #[error("not a URL that something can be sent to; write \"https://HOST/PATH\"{0}")]
    NotAUrl(&'static str),
    #[error("{address} is {kind}, which [limits] allow_delivery does not list{}", of_host(.host))]
    Address {
        /// As it was written or, for a redirect, told; `None`: as an address.
        host: Option<String>,
        address: IpAddr,
        kind: AddressKind,
    },
}

fn of_host(host: &Option<String>) -> String {
    host.as_ref().map(|host| format!(" (it is the address of {host})")).unwrap_or_default()
}

/// Addresses that are no public host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// This machine.
    Loopback,
    /// Private, shared (CGNAT) and unique local addresses.
    Private,
    /// Link-local ones, and others at which a cloud machine is told its credentials.
    Metadata,
    /// Unspecified, multicast, documentation, reserved.
    NoHost,
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Metadata => "a link-local or metadata address",
            Self::NoHost => "no public host's address",
        })
    }
}

/// Which hosts may be sent to (`[limits] allow_delivery`): every public address, and what is listed. A listed name opens
/// the private and loopback addresses it has; a link-local or metadata address is opened by its own entry only, as a name
/// is its owner's to point there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryRules {
    pub allow: Vec<HostRule>,
}

impl DeliveryRules {
    /// The URL of something to be sent: `http` or `https`, with a host, and an address that may be sent to where the host
    /// is one (in whatever notation: decimal, octal, hexadecimal, IPv6-mapped). A name is looked up and checked when it is
    /// connected to.
    pub fn check(&self, text: &str) -> Result<Url, DeliveryRefused> {
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        if text.len() > MAX_DELIVERY_URL {
            return Err(DeliveryRefused::NotAUrl("; it is too long"));
        }
        if text.chars().any(odd) {
            return Err(DeliveryRefused::NotAUrl(", without spaces, backslashes and control characters"));
        }
        let mut url = Url::parse(text).map_err(|_| {
            DeliveryRefused::NotAUrl("; in a user or password, # / ? @ : are written %23 %2F %3F %40 %3A")
        })?;
        url.set_fragment(None);
        self.check_url(&url)?;
        Ok(url)
    }

    /// [`check`](Self::check) of a URL that was read already, such as that of a redirect.
    pub fn check_url(&self, url: &Url) -> Result<(), DeliveryRefused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(DeliveryRefused::NotAUrl("; nothing but http and https is spoken"));
        }
        if url.port() == Some(0) {
            return Err(DeliveryRefused::NotAUrl("; port 0 is none"));
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(None, address.into()),
            Some(Host::Ipv6(address)) => self.check_address(None, address.into()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(DeliveryRefused::NotAUrl("; it names no host")),
        }
    }

    /// Whether a connection to `address` is allowed, which `host` has, if it is a name. Ask with the address that is
    /// really connected to, so that a name cannot change its answer in between.
    pub fn check_address(&self, host: Option<&str>, address: IpAddr) -> Result<(), DeliveryRefused> {
        let Some(kind) = kind_of(address) else { return Ok(()) };
        let listed = self.allow.iter().any(|rule| match rule {
            HostRule::Net(net) => net.contains(&address) || net.contains(&behind(address)),
            HostRule::Name(_) if kind == AddressKind::Metadata => false,
            HostRule::Name(_) => host.is_some_and(|host| rule.names(host)),
        });
        match listed {
            true => Ok(()),
            false => Err(DeliveryRefused::Address { host: host.map(str::to_owned), address, kind }),
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped or compatible (RFC 4291, 2.5.5), behind NAT64's well-known
/// prefix (RFC 6052, 2.1) or 6to4 (RFC 3056, 2). Any other address as it is.
pub(super) fn behind(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Services outside the link-local blocks that tell a cloud machine its credentials.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether `address`, or the one it stands for, is link-local, in the one block of unique local addresses that serves
/// machine metadata, or one of [`METADATA`].
pub(super) fn is_metadata(address: IpAddr) -> bool {
    let address = behind(address);
    let listed = METADATA.contains(&address);
    match address {
        IpAddr::V4(v4) => listed || v4.is_link_local(),
        IpAddr::V6(v6) => listed || v6.is_unicast_link_local() || v6.segments()[..3] == [0xfd00, 0x0ec2, 0],
    }
}

/// `None` for a public host's address. After the registries of special-purpose addresses (RFC 6890).
fn kind_of(address: IpAddr) -> Option<AddressKind> {
    let address = behind(address);
    if is_metadata(address) {
        return Some(AddressKind::Metadata);
    }
    match address {
        IpAddr::V4(v4) => kind_of_v4(v4),
        IpAddr::V6(v6) => kind_of_v6(v6),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Option<AddressKind> {
    match address.octets() {
        [127, ..] => Some(AddressKind::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Some(AddressKind::Private),
        // "This network", where 0.0.0.0 reaches this machine.
        [0, ..] => Some(AddressKind::NoHost),
        // Protocol assignments, documentation, 6to4 relays, benchmarks; multicast, reserved and broadcast.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(AddressKind::NoHost),
        [192, 88, 99, _] | [198, 18 | 19, ..] | [224..=255, ..] => Some(AddressKind::NoHost),
        _ => None,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> Option<AddressKind> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(AddressKind::Loopback),
        [0xfc00..=0xfdff, ..] => Some(AddressKind::Private),
        // Protocol assignments (Teredo among them) and documentation, in what is else global unicast.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(AddressKind::NoHost),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(AddressKind::NoHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(listed: &[&str]) -> DeliveryRules {
        DeliveryRules { allow: listed.iter().map(|rule| rule.parse().expect("a rule")).collect() }
    }

    #[test]
    fn an_address_in_any_notation_is_sent_to_only_if_it_is_public() {
        for (host, public) in [
            ("93.184.216.34", true),
            ("[2606:2800:220:1::1]", true),
            ("[::ffff:93.184.216.34]", true),
            ("[64:ff9b::5db8:d822]", true),
            // 127.0.0.1 as decimal, octal, hexadecimal, short, mapped, compatible, behind NAT64, 6to4.
            ("127.0.0.1", false),
            ("2130706433", false),
            ("0177.0.0.1", false),
            ("0x7f.0.0.1", false),
            ("0x7f000001", false),
            ("127.1", false),
            ("127.0.0.1.", false),
            ("%31%32%37.0.0.1", false),
            ("１２７.0.0.1", false),
            ("[::1]", false),
            ("[::ffff:127.0.0.1]", false),
            ("[::ffff:7f00:1]", false),
            ("[::127.0.0.1]", false),
            ("[64:ff9b::127.0.0.1]", false),
            ("[64:ff9b:1::127.0.0.1]", false),
            ("[2002:7f00:1::]", false),
            ("0", false),
            ("0.0.0.0", false),
            ("[::]", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.7", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("169.254.169.254", false),
            ("[::ffff:a9fe:a9fe]", false),
            ("100.100.100.200", false),
            ("192.0.0.192", false),
            ("192.0.2.1", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("198.18.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("[fe80::1]", false),
            ("[fec0::1]", false),
            ("[fd00:ec2::254]", false),
            ("[fc00::1]", false),
            ("[ff02::1]", false),
            ("[2001:db8::1]", false),
            ("[2001::1]", false),
            ("[100::1]", false),
        ] {
            let url = format!("https://{host}:8443/hook");
            assert_eq!(rules(&[]).check(&url).is_ok(), public, "{url}");
        }
    }

    #[test]
    fn only_http_urls_with_a_host_are_taken() {
        for (url, taken) in [
            ("https://example.org/x?y=1#z", true),
            ("http://user:secret@example.org", true),
            ("ftp://example.org/", false),
            ("file:///etc/passwd", false),
            ("unix:/run/x.sock", false),
            ("gopher://example.org/", false),
            ("example.org/x", false),
            ("https://", false),
            ("https://example.org:0/", false),
            ("https://example.org:99999/", false),
            ("https://exa mple.org/", false),
            ("https://example.org/\r\nHost: x", false),
            ("https://example.org\\@127.0.0.1/", false),
            ("https://[fe80::1%25eth0]/", false),
            ("https://[fe80::1%eth0]/", false),
        ] {
            assert_eq!(rules(&[]).check(url).is_ok(), taken, "{url}");
        }
        let long = format!("https://example.org/{}", "x".repeat(MAX_DELIVERY_URL));
        assert!(rules(&[]).check(&long).is_err());
        assert_eq!(
            rules(&[]).check("https://example.org/x#z").expect("taken").as_str(),
            "https://example.org/x"
        );
    }

    #[test]
    fn what_is_listed_is_sent_to() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let rules = rules(&["10.0.0.0/8", "localhost", "*.lan", "169.254.7.7", "fd00::/8"]);
        for (host, address, allowed) in [
            (None, "10.9.8.7", true),
            (None, "::ffff:10.9.8.7", true),
            (None, "64:ff9b::a09:807", true),
            (None, "192.168.1.1", false),
            (None, "127.0.0.1", false),
            (Some("localhost"), "127.0.0.1", true),
            (Some("LocalHost."), "::1", true),
            (Some("nas.lan"), "192.168.1.1", true),
            (Some("lan"), "192.168.1.1", false),
            (Some("other"), "192.168.1.1", false),
            // A name that is listed can still be pointed at the machine's credentials by who holds it.
            (Some("nas.lan"), "169.254.169.254", false),
            (Some("nas.lan"), "fe80::1", false),
            (None, "169.254.7.7", true),
            (None, "fd12::1", true),
        ] {
            assert_eq!(rules.check_address(host, ip(address)).is_ok(), allowed, "{host:?} {address}");
        }
    }

    #[test]
    fn a_refusal_names_host_address_and_key_and_no_secret() {
        let refused = rules(&[]).check("http://user:hunter2@2130706433/hunter2?key=hunter2").unwrap_err();
        let text = refused.to_string();
        assert_eq!(text, "127.0.0.1 is a loopback address, which [limits] allow_delivery does not list");
        let refused = rules(&[]).check_address(Some("nas.lan"), "10.0.0.1".parse().unwrap()).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("10.0.0.1 is a private address") && text.contains("nas.lan"), "{text}");
        let refused = rules(&[]).check("https://user:hunter2@[hunter2/hunter2").unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }

    proptest! {
        /// Whatever notation a URL has, an address that is connected to is judged as the same address.
        #[test]
        fn every_notation_of_an_address_is_judged_alike(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let plain = rules(&[]).check_address(None, v4.into()).is_ok();
            for host in [
                format!("{bits}"),
                format!("{bits:#x}"),
                format!("{a:#o}.{b:#x}.{c}.{d}").replace("0o", "0"),
                format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
                format!("[::ffff:{v4}]"),
                format!("[64:ff9b::{v4}]"),
            ] {
                prop_assert_eq!(rules(&[]).check(&format!("http://{host}/")).is_ok(), plain, "{}", host);
            }
        }

        #[test]
        fn any_text_is_checked_without_a_panic(text in "(https?://)?[\\[\\]@:/?#%.0-9a-fx\\\\ ]{0,40}|.{0,40}") {
            let _ = rules(&["10.0.0.0/8", "*.lan"]).check(&text);
        }
    }
}
