//! A publisher's offer: what it offers to send, and the part of it that is taken.
//!
//! `webrtcbin` is not given the offer as it came but one that holds one codec (and its RTX) for each section that is
//! taken, and of the rest only what reeld uses. So the codec is chosen here, by the publisher's preference among those
//! that can be recorded, and nothing that came from outside reaches `webrtcbin` unread.

use super::candidate::{self, MAX_CANDIDATES};
use crate::{
    ingest::rtp::Format,
    media::{Codec, MediaKind},
};
use sdp_types::{Attribute, Media, Session};

/// Most `m=` sections of an offer.
const MAX_SECTIONS: usize = 16;
/// Most payload types of a section.
const MAX_FORMATS: usize = 128;
/// ICE credentials (RFC 8839 §5.4) have at most so many characters.
const MAX_CREDENTIAL_CHARS: usize = 256;

/// Header extensions that are used: which section a packet is of, and the numbers that congestion feedback is about.
const EXTENSIONS: [&str; 2] = [
    "urn:ietf:params:rtp-hdrext:sdes:mid",
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
];
/// Feedback that is sent: losses, key frame requests, congestion.
const FEEDBACK: [&str; 4] = ["nack", "nack pli", "ccm fir", "transport-cc"];
/// Attributes of a section that pass as they are.
const PASSING: [&str; 8] =
    ["mid", "ice-ufrag", "ice-pwd", "ice-options", "fingerprint", "setup", "rtcp-mux", "rtcp-rsize"];
/// Attributes of the session that hold for every section which has none of its own.
const INHERITED: [&str; 5] = ["ice-ufrag", "ice-pwd", "ice-options", "fingerprint", "setup"];

const VIDEO_CODECS: &str = "H264 (packetization-mode=1), VP8, VP9, AV1 or H265";
const AUDIO_CODECS: &str = "opus, PCMU or PCMA";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not a WebRTC offer at all.
    #[error("{0}")]
    Malformed(String),
    /// A good offer that cannot be published.
    #[error("{0}")]
    Unusable(String),
}

/// ICE user name fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub pwd: String,
}

/// One section of the offer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `audio`, `video`, `application` …
    pub media: String,
    pub proto: String,
    /// Its first payload type or format, which a refusal repeats.
    pub fmt: String,
    pub mid: Option<String>,
    /// What is taken of it; `None`: the section is refused.
    pub format: Option<Format>,
}

/// What is taken of an offer.
pub struct Offer {
    /// Every section of the offer, in its order.
    pub sections: Vec<Section>,
    pub credentials: Credentials,
    /// The offer for `webrtcbin`: the sections that are taken, and no others.
    pub sdp: String,
    /// Candidates that came with it.
    pub candidates: usize,
}

impl Offer {
    /// Reads an offer of at most the size that the caller allows. Never panics, takes time linear in the size.
    pub fn parse(body: &[u8]) -> Result<Self, OfferError> {
        if body.trim_ascii().is_empty() {
            return Err(malformed(
                "the body is empty; an SDP offer is expected (Content-Type: application/sdp)",
            ));
        }
        let mut session = Session::parse(body)
            .map_err(|e| OfferError::Malformed(format!("the body is not a session description: {e}")))?;
        if session.medias.is_empty() || session.medias.len() > MAX_SECTIONS {
            let n = session.medias.len();
            return Err(malformed(format!("the offer has {n} m= sections; 1 to {MAX_SECTIONS} work")));
        }
        inherit(&mut session);
        let sections = session.medias.iter().map(section).collect::<Result<Vec<_>, _>>()?;
        check_taken(&session, &sections)?;

        let mut room = MAX_CANDIDATES;
        let mut taken = Vec::new();
        for (media, section) in session.medias.iter().zip(&sections) {
            if let Some(format) = &section.format {
                taken.push(reduced(media, format, &mut room));
            }
        }
        let credentials = taken.first().map(credentials_of).transpose()?.flatten();
        let credentials = credentials.ok_or_else(|| malformed("the offer has no ice-ufrag and ice-pwd"))?;
        let mids: Vec<_> =
            sections.iter().filter(|s| s.format.is_some()).filter_map(|s| s.mid.as_deref()).collect();
        let mut attributes = vec![Attribute::with_value("group", format!("BUNDLE {}", mids.join(" ")))];
        attributes.push(Attribute::with_value("msid-semantic", "WMS *"));
        let reduced = Session { attributes, medias: taken, ..bare(session) };
        let mut bytes = Vec::new();
        reduced.write(&mut bytes).map_err(|e| malformed(e.to_string()))?;
        let sdp = String::from_utf8(bytes).map_err(|e| malformed(e.to_string()))?;
        Ok(Self { sections, credentials, sdp, candidates: MAX_CANDIDATES - room })
    }

    /// Formats of the sections that are taken, in order.
    pub fn formats(&self) -> impl Iterator<Item = &Format> {
        self.sections.iter().filter_map(|s| s.format.as_ref())
    }
}

fn malformed(what: impl Into<String>) -> OfferError {
    OfferError::Malformed(what.into())
}

fn unusable(what: impl Into<String>) -> OfferError {
    OfferError::Unusable(what.into())
}

/// Gives every section what the session says for all of them.
fn inherit(session: &mut Session) {
    for media in &mut session.medias {
        for name in INHERITED {
            if !media.has_attribute(name) {
                media.attributes.extend(session.attributes.iter().filter(|a| a.attribute == name).cloned());
            }
        }
    }
}

/// The session without its sections and attributes.
fn bare(session: Session) -> Session {
    Session {
        uri: None,
        emails: Vec::new(),
        phones: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        ..session
    }
}

fn value<'a>(media: &'a Media, name: &'a str) -> Option<&'a str> {
    media.get_first_attribute_value(name).flatten().map(str::trim)
}

fn section(media: &Media) -> Result<Section, OfferError> {
    let sends = !media.has_attribute("recvonly") && !media.has_attribute("inactive");
    let there = media.port != 0 || media.has_attribute("bundle-only");
    let codecs = match media.media.as_str() {
        "video" => VIDEO_CODECS,
        "audio" => AUDIO_CODECS,
        _ => "",
    };
    let mut section = Section {
        media: media.media.clone(),
        proto: media.proto.clone(),
        fmt: media.fmt.split_ascii_whitespace().next().unwrap_or("0").to_owned(),
        mid: value(media, "mid").map(str::to_owned),
        format: None,
    };
    if codecs.is_empty() || !sends || !there {
        return Ok(section);
    }
    if !media.proto.ends_with("TLS/RTP/SAVPF") {
        return Err(unusable(format!(
            "{} is offered as {}; offer UDP/TLS/RTP/SAVPF",
            media.media, media.proto
        )));
    }
    if media.has_attribute("simulcast") || media.has_attribute("rid") {
        return Err(unusable(
            "simulcast is not taken; offer one encoding for each track (no a=simulcast, no a=rid)",
        ));
    }
    section.format = choose(media)?;
    if section.format.is_none() {
        let offered = names(media);
        return Err(unusable(format!(
            "no codec of the {} section can be recorded (it offers {offered}); offer {codecs}",
            media.media
        )));
    }
    Ok(section)
}

/// Names of the codecs of a section, each once.
fn names(media: &Media) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (_, encoding) in rtpmaps(media) {
        let name = encoding.split('/').next().unwrap_or(encoding);
        if !names.iter().any(|n| n.eq_ignore_ascii_case(name)) && names.len() < 16 {
            names.push(name);
        }
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn rtpmaps(media: &Media) -> impl Iterator<Item = (u8, &str)> {
    let values = media.attributes.iter().filter(|a| a.attribute == "rtpmap");
    values.filter_map(|a| numbered(a.value.as_deref()?)).take(MAX_FORMATS)
}

/// `96 rest` as payload type and rest.
fn numbered(value: &str) -> Option<(u8, &str)> {
    let (number, rest) = value.trim().split_once(' ')?;
    Some((number.parse().ok().filter(|n| *n < 128)?, rest.trim()))
}

/// The first payload type that can be recorded.
fn choose(media: &Media) -> Result<Option<Format>, OfferError> {
    let listed: Vec<u8> =
        media.fmt.split_ascii_whitespace().filter_map(|w| w.parse().ok().filter(|n| *n < 128)).collect();
    if listed.len() > MAX_FORMATS {
        return Err(malformed(format!(
            "a section has {} payload types; {MAX_FORMATS} is the most",
            listed.len()
        )));
    }
    let kind = if media.media == "video" { MediaKind::Video } else { MediaKind::Audio };
    Ok(listed
        .into_iter()
        .filter_map(|pt| format(media, pt))
        .find(|f| f.codec.kind() == kind && is_recordable(f)))
}

/// What the section says about a payload type; `None` for one that is no codec of ours.
fn format(media: &Media, payload_type: u8) -> Option<Format> {
    let named = rtpmaps(media).find(|(pt, _)| *pt == payload_type).map(|(_, encoding)| encoding);
    // RFC 3551 table 4: these two need no name.
    let encoding = named.or(match payload_type {
        0 => Some("PCMU/8000"),
        8 => Some("PCMA/8000"),
        _ => None,
    })?;
    let mut parts = encoding.split('/');
    let codec = match parts.next()?.to_ascii_uppercase().as_str() {
        "H264" => Codec::H264,
        "H265" => Codec::H265,
        "VP8" => Codec::Vp8,
        "VP9" => Codec::Vp9,
        "AV1" => Codec::Av1,
        "OPUS" => Codec::Opus,
        "PCMU" => Codec::Pcmu,
        "PCMA" => Codec::Pcma,
        _ => return None,
    };
    let clock_rate = parts.next()?.parse().ok()?;
    let channels = parts.next().map_or(Some(1), |n| n.parse().ok())?;
    let mut fmtp = Vec::new();
    for (_, parameters) in fmtps(media).filter(|(pt, _)| *pt == payload_type) {
        fmtp.extend(parameters.split(';').take(32).filter_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            Some((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }));
    }
    Some(Format { codec, payload_type, clock_rate, channels, fmtp })
}

fn fmtps(media: &Media) -> impl Iterator<Item = (u8, &str)> {
    let values = media.attributes.iter().filter(|a| a.attribute == "fmtp");
    values.filter_map(|a| numbered(a.value.as_deref()?))
}

fn is_recordable(format: &Format) -> bool {
    let clock = match format.codec {
        Codec::Pcmu | Codec::Pcma => 8_000,
        Codec::Opus => 48_000,
        _ => 90_000,
    };
    let mode = format.codec != Codec::H264 || format.fmtp("packetization-mode") == Some("1");
    format.clock_rate == clock && mode
}

/// At most one section of each kind is taken, and all of them in one bundle over DTLS.
fn check_taken(session: &Session, sections: &[Section]) -> Result<(), OfferError> {
    let taken: Vec<_> = session.medias.iter().zip(sections).filter(|(_, s)| s.format.is_some()).collect();
    if taken.is_empty() {
        return Err(unusable(format!(
            "the offer sends no audio and no video; offer sendonly audio ({AUDIO_CODECS}) or video ({VIDEO_CODECS})"
        )));
    }
    for kind in ["audio", "video"] {
        let n = taken.iter().filter(|(_, s)| s.media == kind).count();
        if n > 1 {
            return Err(unusable(format!("the offer sends {n} {kind} tracks; one stream has at most one")));
        }
    }
    let bundle = session.attributes.iter().filter(|a| a.attribute == "group");
    let bundled: Vec<&str> = bundle
        .filter_map(|a| a.value.as_deref()?.strip_prefix("BUNDLE"))
        .flat_map(str::split_ascii_whitespace)
        .collect();
    for (media, section) in &taken {
        let Some(mid) = section.mid.as_deref().filter(|m| is_token(m)) else {
            return Err(malformed("a section has no a=mid, or one that is no token"));
        };
        if taken.len() > 1 && !bundled.contains(&mid) {
            return Err(unusable("audio and video are not bundled; offer a=group:BUNDLE with both"));
        }
        if value(media, "fingerprint").is_none() {
            return Err(malformed("the offer has no DTLS fingerprint (a=fingerprint)"));
        }
        if !media.has_attribute("rtcp-mux") {
            return Err(unusable("the offer does not multiplex RTCP; offer a=rtcp-mux"));
        }
    }
    let unique = taken.iter().enumerate().all(|(i, (_, s))| !taken[..i].iter().any(|(_, t)| t.mid == s.mid));
    let mut types: Vec<_> =
        sections.iter().filter_map(|s| s.format.as_ref()).map(|f| f.payload_type).collect();
    types.dedup();
    match unique && types.len() == taken.len() {
        true => Ok(()),
        false => Err(malformed("two sections of the bundle share a mid or a payload type")),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+!#$%&'*^`{|}~".contains(c))
}

/// The credentials of a section; `Ok(None)` when it has none.
fn credentials_of(media: &Media) -> Result<Option<Credentials>, OfferError> {
    let (Some(ufrag), Some(pwd)) = (value(media, "ice-ufrag"), value(media, "ice-pwd")) else {
        return Ok(None);
    };
    Credentials::new(ufrag, pwd)
        .map(Some)
        .ok_or_else(|| malformed("ice-ufrag or ice-pwd is not as RFC 8839 §5.4 wants it"))
}

impl Credentials {
    /// `None` for what RFC 8839 §5.4 does not allow.
    pub fn new(ufrag: &str, pwd: &str) -> Option<Self> {
        let ice_char =
            |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/' || c == '=' || c == '-' || c == '_';
        let good = |text: &str, min| {
            (min..=MAX_CREDENTIAL_CHARS).contains(&text.len()) && text.chars().all(ice_char)
        };
        let credentials = Self { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() };
        (good(ufrag, 4) && good(pwd, 22)).then_some(credentials)
    }
}

/// A section that is taken, with nothing in it but what is used. `room`: candidates that may still be taken.
fn reduced(media: &Media, format: &Format, room: &mut usize) -> Media {
    let mut kept = vec![format.payload_type];
    let apt = format!("apt={}", format.payload_type);
    let repairs = |pt: u8, encoding: &str| {
        encoding.to_ascii_lowercase().starts_with("rtx/")
            && fmtps(media).any(|(n, p)| n == pt && p.split(';').any(|pair| pair.trim() == apt))
    };
    kept.extend(rtpmaps(media).find(|(pt, encoding)| repairs(*pt, encoding)).map(|(pt, _)| pt));

    let mut attributes = Vec::new();
    for attribute in &media.attributes {
        let (name, value) = (attribute.attribute.as_str(), attribute.value.as_deref().unwrap_or_default());
        let passes = match name {
            "rtpmap" | "fmtp" => numbered(value).is_some_and(|(pt, _)| kept.contains(&pt)),
            "rtcp-fb" => value.split_once(' ').is_some_and(|(pt, feedback)| {
                FEEDBACK.contains(&feedback.trim()) && pt.parse().is_ok_and(|pt| kept.contains(&pt))
            }),
            "extmap" => value.split_ascii_whitespace().nth(1).is_some_and(|uri| EXTENSIONS.contains(&uri)),
            "candidate" => *room > 0 && candidate::usable(&format!("candidate:{value}")),
            "ssrc" | "ssrc-group" => true,
            name => PASSING.contains(&name),
        };
        *room -= usize::from(passes && name == "candidate");
        if passes {
            attributes.push(attribute.clone());
        }
    }
    if format.payload_type < 96 && !attributes.iter().any(|a| a.attribute == "rtpmap") {
        let name = if format.payload_type == 0 { "PCMU" } else { "PCMA" };
        attributes.push(Attribute::with_value("rtpmap", format!("{} {name}/8000", format.payload_type)));
    }
    attributes.push(Attribute::new("sendonly"));
    let fmt = kept.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    Media { port: 9, fmt, bandwidths: Vec::new(), key: None, media_title: None, attributes, ..media.clone() }
}

#[cfg(test)]
pub(super) mod tests;
