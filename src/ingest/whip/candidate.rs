//! ICE candidates (RFC 8839 §5.1) as they come from outside and as they go out.

use std::net::IpAddr;

/// Most candidates taken of one publisher in its life.
pub const MAX_CANDIDATES: usize = 64;
/// Longest candidate looked at, bytes.
const MAX_CANDIDATE_BYTES: usize = 512;

/// Whether a publisher's candidate (`candidate:…`, with or without the `a=`) is one to send checks to: UDP, for the
/// only component there is, with a numeric address. Names (`….local`, RFC 8828) are left out: whoever hides its address
/// reaches us first and is known from then on. TCP is left out because the publisher is the one that connects.
pub fn usable(candidate: &str) -> bool {
    let words: Vec<_> = candidate.split_ascii_whitespace().take(8).collect();
    let [foundation, component, transport, priority, address, port, typ, _] = words[..] else { return false };
    candidate.len() <= MAX_CANDIDATE_BYTES
        && foundation.starts_with("candidate:")
        && component == "1"
        && transport.eq_ignore_ascii_case("udp")
        && priority.parse::<u32>().is_ok()
        && address.parse::<IpAddr>().is_ok_and(is_unicast)
        && port.parse::<u16>().is_ok_and(|port| port > 0)
        && typ == "typ"
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_multicast() && !address.is_unspecified() && !broadcast
}

/// One of our own candidates as it is told: a host candidate names `announce` instead of the machine's address, if it is
/// of the same family; `None` for what only leads astray then, and for TCP candidates that connect out (RFC 6544): a
/// publisher behind them has nothing to listen with.
pub fn to_tell(candidate: &str, announce: Option<IpAddr>) -> Option<String> {
    let mut words: Vec<_> = candidate.split_ascii_whitespace().collect();
    if words.windows(2).any(|w| w[0] == "tcptype" && w[1] != "passive") {
        return None;
    }
    let Some(announce) = announce else { return Some(words.join(" ")) };
    let announced = announce.to_string();
    if words.get(7) == Some(&"host") {
        let own = words[4].parse::<IpAddr>().ok()?;
        if own.is_ipv4() != announce.is_ipv4() {
            return None;
        }
        // A browser on this machine goes on by the loopback address.
        if !own.is_loopback() {
            words[4] = &announced;
        }
    }
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_candidates_that_checks_can_be_sent_to_are_taken() {
        for (candidate, taken) in [
            ("candidate:1 1 udp 2113937151 192.0.2.7 51000 typ host generation 0", true),
            ("candidate:1 1 UDP 2113937151 2001:db8::7 51000 typ host", true),
            ("candidate:1 1 udp 2113937151 0f3a1b2c-aaaa.local 51000 typ host", false),
            ("candidate:1 2 udp 2113937151 192.0.2.7 51000 typ host", false),
            ("candidate:1 1 tcp 2113937151 192.0.2.7 9 typ host tcptype active", false),
            ("candidate:1 1 udp 2113937151 224.0.0.1 51000 typ host", false),
            ("candidate:1 1 udp 2113937151 0.0.0.0 51000 typ host", false),
            ("candidate:1 1 udp 2113937151 192.0.2.7 0 typ host", false),
            ("candidate:1 1 udp -1 192.0.2.7 5 typ host", false),
            ("candidate:1 1 udp", false),
            ("", false),
        ] {
            assert_eq!(usable(candidate), taken, "{candidate}");
        }
        assert!(!usable(&format!("candidate:1 1 udp 1 192.0.2.7 5 typ host {}", "x".repeat(600))));
    }

    #[test]
    fn host_candidates_name_the_announced_address() {
        let host = "candidate:1 1 UDP 2015363327 10.0.0.5 31000 typ host";
        let loopback = "candidate:1 1 UDP 2015363327 127.0.0.1 31000 typ host";
        let v6 = "candidate:2 1 UDP 2015363071 2001:db8::7 31000 typ host";
        let reflexive = "candidate:3 1 UDP 1 203.0.113.9 31000 typ srflx raddr 10.0.0.5 rport 31000";
        let passive = "candidate:4 1 TCP 1 10.0.0.5 31001 typ host tcptype passive";
        let active = "candidate:5 1 TCP 1 10.0.0.5 0 typ host tcptype active";
        let public = Some("203.0.113.7".parse().unwrap());
        for (candidate, announce, told) in [
            (host, None, Some(host)),
            (active, None, None),
            (host, public, Some("candidate:1 1 UDP 2015363327 203.0.113.7 31000 typ host")),
            (passive, public, Some("candidate:4 1 TCP 1 203.0.113.7 31001 typ host tcptype passive")),
            (loopback, public, Some(loopback)),
            (v6, public, None),
            (reflexive, public, Some(reflexive)),
        ] {
            assert_eq!(to_tell(candidate, announce).as_deref(), told, "{candidate}");
        }
    }
}
