//! `webrtcbin`'s answer, made fit for the publisher: sections that were not taken are refused in their place
//! (RFC 3264 §6), candidates name what can be reached.

use super::{
    candidate::to_tell,
    offer::{Credentials, Section},
};
use sdp_types::{Attribute, Media, Session};
use std::net::IpAddr;

#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the answer cannot be read: {0}")]
    Parse(#[from] sdp_types::ParserError),
    #[error("the answer cannot be written: {0}")]
    Write(#[from] std::io::Error),
    #[error("the answer lacks {0}")]
    Lacks(&'static str),
    /// No address of this machine has a port left to receive on.
    #[error("no port for a candidate is free")]
    NoPort,
}

/// An answer as it is sent.
pub struct Answer {
    pub sdp: String,
    /// Ours.
    pub credentials: Credentials,
    /// Ours, `candidate:…`, at the first section of the bundle.
    pub candidates: Vec<String>,
    /// `a=mid` of that section.
    pub mid: String,
}

impl Answer {
    /// `sdp`: of `webrtcbin`, which knows the taken ones of `sections` only. `gathered`: no more candidates follow.
    pub fn make(
        sdp: &str,
        sections: &[Section],
        announce: Option<IpAddr>,
        gathered: bool,
    ) -> Result<Self, AnswerError> {
        let mut session = Session::parse(sdp.as_bytes())?;
        let mut made = std::mem::take(&mut session.medias).into_iter();
        let first = made.as_slice().first().ok_or(AnswerError::Lacks("its sections"))?;
        let credentials = credentials(first).ok_or(AnswerError::Lacks("ICE credentials"))?;
        let mid = value(first, "mid").ok_or(AnswerError::Lacks("a mid"))?.to_owned();
        let candidates = told(first, announce);
        // With an address announced, candidates may be there that are only not told.
        if candidates.is_empty() && told(first, None).is_empty() {
            return Err(AnswerError::NoPort);
        }
        let mut bundled = Vec::new();
        for section in sections {
            if section.format.is_none() {
                session.medias.push(refused(section));
                continue;
            }
            let mut media = made.next().ok_or(AnswerError::Lacks("a section"))?;
            media.attributes.retain(|a| !matches!(a.attribute.as_str(), "candidate" | "end-of-candidates"));
            // In a bundle the candidates of the first section are those of all (RFC 8843 §9).
            if bundled.is_empty() {
                let lines = candidates.iter().filter_map(|c| c.split_once(':'));
                media.attributes.extend(lines.map(|(name, value)| Attribute::with_value(name, value)));
                media.attributes.extend(gathered.then(|| Attribute::new("end-of-candidates")));
            }
            bundled.extend(section.mid.clone());
            session.medias.push(media);
        }
        session.attributes.retain(|a| a.attribute != "group");
        session.attributes.insert(0, Attribute::with_value("group", format!("BUNDLE {}", bundled.join(" "))));
        let mut bytes = Vec::new();
        session.write(&mut bytes)?;
        let sdp = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { sdp, credentials, candidates, mid })
    }
}

fn value<'a>(media: &'a Media, name: &'a str) -> Option<&'a str> {
    media.get_first_attribute_value(name).flatten()
}

fn credentials(media: &Media) -> Option<Credentials> {
    let text = |name| value(media, name).map(str::to_owned);
    Some(Credentials { ufrag: text("ice-ufrag")?, pwd: text("ice-pwd")? })
}

/// The candidates of a section, as they are told, each once.
fn told(media: &Media, announce: Option<IpAddr>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for value in media.get_attribute_values("candidate").flatten() {
        match to_tell(&format!("candidate:{value}"), announce) {
            Some(candidate) if !all.contains(&candidate) => all.push(candidate),
            _ => {}
        }
    }
    all
}

fn refused(section: &Section) -> Media {
    let mid = section.mid.as_ref().map(|mid| Attribute::with_value("mid", mid));
    let attributes = mid.into_iter().chain([Attribute::new("inactive")]).collect();
    Media {
        media: section.media.clone(),
        port: 0,
        num_ports: None,
        proto: section.proto.clone(),
        fmt: section.fmt.clone(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::whip::offer::{Offer, tests::CHROMIUM};

    const MADE: &str = "v=0\r\no=- 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-options:trickle\r\n\
        a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:0123456789012345678901\r\na=mid:0\r\na=candidate:1 1 UDP 2015363327 10.0.0.5 31000 typ host\r\n\
        a=candidate:1 1 UDP 2015363327 10.0.0.5 31000 typ host\r\n\
        a=candidate:2 1 TCP 1015021823 10.0.0.5 0 typ host tcptype active\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\n\
        a=candidate:1 1 UDP 2015363327 10.0.0.5 31000 typ host\r\n";

    #[test]
    fn refused_sections_keep_their_place_and_candidates_are_told_once() {
        let data = format!("{CHROMIUM}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n");
        let mut sections = Offer::parse(data.as_bytes()).expect("an offer").sections;
        sections.rotate_right(1);
        let announce = Some("203.0.113.7".parse().unwrap());
        let answer = Answer::make(MADE, &sections, announce, true).expect("an answer");
        assert_eq!(answer.candidates, ["candidate:1 1 UDP 2015363327 203.0.113.7 31000 typ host"]);
        assert_eq!((answer.credentials.ufrag.as_str(), answer.mid.as_str()), ("abcd", "0"));
        let lines: Vec<_> = answer.sdp.lines().collect();
        let sections: Vec<_> = lines.iter().filter(|l| l.starts_with("m=")).copied().collect();
        assert_eq!(
            sections,
            [
                "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
                "m=audio 9 UDP/TLS/RTP/SAVPF 111",
                "m=video 9 UDP/TLS/RTP/SAVPF 96 97"
            ]
        );
        assert_eq!(lines.iter().filter(|l| l.starts_with("a=candidate:")).count(), 1);
        assert_eq!(lines.iter().filter(|l| **l == "a=end-of-candidates").count(), 1);
        assert!(lines.contains(&"a=group:BUNDLE 0 1"), "{}", answer.sdp);
        assert!(Answer::make(MADE, &[], None, true).is_ok_and(|a| !a.sdp.contains("m=")));
        assert!(Answer::make("v=0", &[], None, true).is_err());
    }

    #[test]
    fn an_answer_that_nobody_can_connect_to_is_none() {
        let bare: String = MADE
            .split_inclusive('\n')
            .filter(|l| !l.contains("candidate:") || l.contains("active"))
            .collect();
        for (sdp, announce, told) in [
            (MADE, None, Some(1)),
            (MADE, Some("2001:db8::7".parse().unwrap()), Some(0)),
            (&bare, None, None),
        ] {
            match Answer::make(sdp, &[], announce, false) {
                Ok(answer) => assert_eq!(Some(answer.candidates.len()), told),
                Err(error) => assert!(matches!(error, AnswerError::NoPort) && told.is_none(), "{error}"),
            }
        }
    }
}
