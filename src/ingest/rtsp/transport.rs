//! The `Transport` header (RFC 2326, 12.39), as far as RTP over UDP and over the RTSP connection needs it.
//!
//! Not read by `rtsp-types`: its reader of this header panics on quoted values that end early.

use std::fmt;

/// Most alternatives of one header that are looked at.
const MAX_ALTERNATIVES: usize = 16;

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lower {
    Udp,
    /// Interleaved on the RTSP connection.
    Tcp,
}

/// One alternative: what a client offers, or what a server chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    pub lower: Lower,
    /// `AVP`, `AVPF`, `SAVP` or `SAVPF`.
    pub profile: String,
    pub multicast: bool,
    /// Channels of RTP and RTCP.
    pub interleaved: Option<(u8, u8)>,
    pub client_port: Option<(u16, u16)>,
    pub server_port: Option<(u16, u16)>,
    /// Where packets come from; as written.
    pub source: Option<String>,
    pub ssrc: Option<u32>,
    /// In lower case: `play`, `record`.
    pub mode: Option<String>,
}

impl Transport {
    pub fn new(lower: Lower) -> Self {
        Self {
            lower,
            profile: "AVP".into(),
            multicast: false,
            interleaved: None,
            client_port: None,
            server_port: None,
            source: None,
            ssrc: None,
            mode: None,
        }
    }

    /// The alternatives of a header, in order of preference. What is no RTP, or cannot be read, is left out.
    pub fn parse_all(header: &str) -> Vec<Self> {
        split_unquoted(header, ',').take(MAX_ALTERNATIVES).filter_map(Self::parse).collect()
    }

    /// Whether the media is encrypted (SRTP).
    pub fn is_secure(&self) -> bool {
        self.profile.starts_with('S')
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = split_unquoted(text, ';').map(str::trim);
        let spec = parts.next()?.to_ascii_uppercase();
        let mut words = spec.split('/');
        if words.next() != Some("RTP") {
            return None;
        }
        let profile = words.next().filter(|p| matches!(*p, "AVP" | "AVPF" | "SAVP" | "SAVPF"))?.to_owned();
        let lower = match (words.next(), words.next()) {
            (None | Some("UDP"), None) => Lower::Udp,
            (Some("TCP"), None) => Lower::Tcp,
            _ => return None,
        };
        let mut transport = Self { profile, ..Self::new(lower) };
        parts.try_for_each(|part| transport.parameter(part))?;
        Some(transport)
    }

    fn parameter(&mut self, part: &str) -> Option<()> {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "multicast" => self.multicast = true,
            "interleaved" => self.interleaved = Some(pair(value, |first: u8| first.checked_add(1))?),
            "client_port" => self.client_port = Some(pair(value, |first: u16| first.checked_add(1))?),
            "server_port" => self.server_port = Some(pair(value, |first: u16| first.checked_add(1))?),
            "source" => self.source = Some(value.to_owned()),
            "mode" => self.mode = Some(value.to_ascii_lowercase()),
            // Some servers write it in decimal, some two of them: then it is not known.
            "ssrc" => self.ssrc = u32::from_str_radix(value, 16).ok(),
            _ => {}
        }
        Some(())
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lower = match self.lower {
            Lower::Udp => "",
            Lower::Tcp => "/TCP",
        };
        let cast = if self.multicast { "multicast" } else { "unicast" };
        write!(f, "RTP/{}{lower};{cast}", self.profile)?;
        if let Some((rtp, rtcp)) = self.interleaved {
            write!(f, ";interleaved={rtp}-{rtcp}")?;
        }
        for (key, ports) in [("client_port", self.client_port), ("server_port", self.server_port)] {
            if let Some((rtp, rtcp)) = ports {
                write!(f, ";{key}={rtp}-{rtcp}")?;
            }
        }
        if let Some(source) = &self.source {
            write!(f, ";source={source}")?;
        }
        if let Some(ssrc) = self.ssrc {
            write!(f, ";ssrc={ssrc:08X}")?;
        }
        match &self.mode {
            Some(mode) => write!(f, ";mode={mode}"),
            None => Ok(()),
        }
    }
}

/// `FIRST-SECOND`, or `FIRST` alone.
fn pair<T: std::str::FromStr>(text: &str, next: impl Fn(T) -> Option<T>) -> Option<(T, T)> {
    let (first, second) = text.split_once('-').map_or((text, None), |(first, second)| (first, Some(second)));
    let read = |word: &str| word.trim().parse::<T>().ok();
    let second = match second {
        Some(second) => read(second)?,
        None => next(read(first)?)?,
    };
    Some((read(first)?, second))
}

/// Splits where `separator` stands outside of quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_offer_and_servers_answer_is_read_and_written() {
        let cases = [
            (
                "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record",
                "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record",
            ),
            (
                "RTP/AVP/UDP;unicast;client_port=5000-5001;mode=\"RECORD\"",
                "RTP/AVP;unicast;client_port=5000-5001;mode=record",
            ),
            ("rtp/avpf ; unicast ; client_port=6000", "RTP/AVPF;unicast;client_port=6000-6001"),
            (
                "RTP/AVP;unicast;client_port=4588-4589;server_port=6256-6257;source=10.0.0.7;ssrc=2A3F93ED;x=1",
                "RTP/AVP;unicast;client_port=4588-4589;server_port=6256-6257;source=10.0.0.7;ssrc=2A3F93ED",
            ),
            ("RTP/AVP;multicast;port=3456-3457;ttl=16", "RTP/AVP;multicast"),
            ("RAW/RAW/UDP, RTP/AVP/SCTP, RTP/AVP/TCP;interleaved=255,RTP/SAVP;unicast", "RTP/SAVP;unicast"),
            (
                "RTP/AVP;mode=\"a,b\";client_port=1-2,RTP/AVP/TCP",
                "RTP/AVP;unicast;client_port=1-2;mode=a,b|RTP/AVP/TCP;unicast",
            ),
            ("RTP/AVP;client_port=99999, RTP/AVP;interleaved=a-b, \"", ""),
            ("", ""),
        ];
        for (header, want) in cases {
            let read: Vec<_> = Transport::parse_all(header).iter().map(Transport::to_string).collect();
            assert_eq!(read.join("|"), want, "{header}");
        }
        assert!(
            Transport::parse_all("RTP/SAVP")[0].is_secure()
                && !Transport::parse_all("RTP/AVP")[0].is_secure()
        );
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(header in "[RTP/AVSFCD;,=\"\\\\ 0-9a-z-]{0,80}") {
            for transport in Transport::parse_all(&header) {
                let again = Transport::parse_all(&transport.to_string());
                proptest::prop_assert!(again.len() <= 1 || transport.mode.is_some() || transport.source.is_some());
            }
        }
    }
}
