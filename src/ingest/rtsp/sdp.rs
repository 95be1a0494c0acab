//! Session descriptions (RFC 8866) as RTSP uses them (RFC 2326, appendix C): which RTP streams there are, and where
//! each is controlled.

use crate::{
    ingest::rtp::{Format, depay},
    media::{Codec, MediaKind},
};
use sdp_types::{Media, Session};
use url::Url;

/// Most `m=` sections of a description.
pub const MAX_SECTIONS: usize = 16;
/// Most payload types of one section.
pub const MAX_FORMATS: usize = 32;
/// Most parameters of one format.
const MAX_PARAMETERS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    #[error("the session description cannot be read: {0}")]
    Syntax(String),
    #[error("the session description has no media")]
    NoMedia,
    #[error("the session description has more than {MAX_SECTIONS} media sections")]
    TooManySections,
    #[error("a media section has more than {MAX_FORMATS} payload types")]
    TooManyFormats,
}

/// What a session description says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `a=control` of the session.
    pub control: Option<String>,
    /// In the order of the description; never empty.
    pub sections: Vec<Section>,
}

/// One `m=` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What the section calls itself: `video`, `audio`, `application`.
    pub media: String,
    /// `a=control`, absolute or relative.
    pub control: Option<String>,
    /// Payload types that can be received, in the order of preference; empty when there are none.
    pub formats: Vec<Format>,
    /// The encoding names that cannot, or `payload type N` where it has none.
    pub unsupported: Vec<String>,
}

impl Description {
    /// Reads a description. Codecs that are not known are no error; see [`Section::unsupported`].
    pub fn parse(body: &[u8]) -> Result<Self, SdpError> {
        let session = Session::parse(body).map_err(|e| SdpError::Syntax(e.to_string()))?;
        match session.medias.len() {
            0 => return Err(SdpError::NoMedia),
            1..=MAX_SECTIONS => {}
            _ => return Err(SdpError::TooManySections),
        }
        let control = session.get_first_attribute_value("control").flatten().map(control_of);
        let sections = session.medias.iter().map(Section::of).collect::<Result<_, _>>()?;
        Ok(Self { control, sections })
    }
}

impl Section {
    pub fn kind(&self) -> Option<MediaKind> {
        self.formats.first().map(|f| f.codec.kind())
    }

    /// Leaves the formats that can be read; why the others cannot, and the names of what is not known at all.
    pub fn keep_readable(&mut self) -> Vec<String> {
        let mut faults = std::mem::take(&mut self.unsupported);
        self.formats.retain(|format| match depay::make(format) {
            Ok(_) => true,
            Err(error) => {
                faults.push(error.to_string());
                false
            }
        });
        faults
    }

    fn of(media: &Media) -> Result<Self, SdpError> {
        let mut section = Self {
            media: media.media.clone(),
            control: media.get_first_attribute_value("control").flatten().map(control_of),
            formats: Vec::new(),
            unsupported: Vec::new(),
        };
        for (index, word) in media.fmt.split_ascii_whitespace().enumerate() {
            if index == MAX_FORMATS {
                return Err(SdpError::TooManyFormats);
            }
            match format_of(media, word) {
                Ok(format) => section.formats.push(format),
                Err(name) => section.unsupported.push(name),
            }
        }
        Ok(section)
    }
}

/// The URL that controls a section or a session: `control` seen from `base` (RFC 2326, C.1.1).
///
/// A relative one is appended, as clients and servers do, even where RFC 3986 would replace the last part of the base.
pub fn control_url(base: &Url, control: Option<&str>) -> Url {
    let Some(control) = control.filter(|c| !c.is_empty() && *c != "*") else { return base.clone() };
    if let Ok(absolute) = Url::parse(control)
        && absolute.has_host()
    {
        return absolute;
    }
    let slash = if base.as_str().ends_with('/') || control.starts_with('/') { "" } else { "/" };
    Url::parse(&format!("{base}{slash}{control}")).unwrap_or_else(|_| base.clone())
}

/// `url` as it may be kept and sent: some clients and servers write user and password into their URLs.
pub fn without_user(mut url: Url) -> Url {
    // It fails only for URLs without a host, which have no user.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url
}

fn control_of(value: &str) -> String {
    value.trim().to_owned()
}

/// What the description says of one payload type; else how to call it in an error.
fn format_of(media: &Media, word: &str) -> Result<Format, String> {
    // Formats of what is not RTP are words of their own (RFC 8866, 5.14).
    let payload_type: u8 = word.parse().ok().filter(|t| *t < 128).ok_or_else(|| word.to_owned())?;
    let mapped = attribute_of(media, "rtpmap", payload_type);
    let (name, clock_rate, channels) = match mapped {
        Some(text) => rtpmap(text).ok_or_else(|| text.to_owned())?,
        None => static_format(payload_type).ok_or_else(|| format!("payload type {payload_type}"))?,
    };
    let codec = codec_of(name).filter(|c| kind_word(c.kind()).eq_ignore_ascii_case(&media.media));
    let codec = codec.ok_or_else(|| name.to_owned())?;
    let fmtp = attribute_of(media, "fmtp", payload_type).map(parameters).unwrap_or_default();
    Ok(Format { codec, payload_type, clock_rate, channels, fmtp })
}

/// What an `m=` line calls a kind of media.
pub fn kind_word(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Video => "video",
        MediaKind::Audio => "audio",
    }
}

/// `a=NAME:PAYLOAD_TYPE TEXT`: the text.
fn attribute_of<'a>(media: &'a Media, name: &str, payload_type: u8) -> Option<&'a str> {
    let named = media.attributes.iter().filter(|a| a.attribute.eq_ignore_ascii_case(name));
    named.filter_map(|a| a.value.as_deref()).find_map(|value| {
        let (number, text) = value.trim().split_once(|c: char| c.is_ascii_whitespace())?;
        (number.parse() == Ok(payload_type)).then(|| text.trim())
    })
}

/// `NAME/CLOCK_RATE[/CHANNELS]` (RFC 8866, 6.6).
fn rtpmap(text: &str) -> Option<(&str, u32, u32)> {
    let mut parts = text.split('/').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let clock_rate = parts.next()?.parse().ok().filter(|rate| (1..=1_000_000).contains(rate))?;
    let channels = parts.next().and_then(|text| text.parse().ok()).filter(|n| (1..=255).contains(n));
    Some((name, clock_rate, channels.unwrap_or(1)))
}

/// The payload types of RFC 3551, 6 that need no `a=rtpmap`, of the codecs that are known here.
fn static_format(payload_type: u8) -> Option<(&'static str, u32, u32)> {
    match payload_type {
        0 => Some(("PCMU", 8_000, 1)),
        8 => Some(("PCMA", 8_000, 1)),
        _ => None,
    }
}

/// By the encoding name of the codec's RTP payload format.
fn codec_of(name: &str) -> Option<Codec> {
    Some(match name.to_ascii_uppercase().as_str() {
        "H264" => Codec::H264,
        "H265" => Codec::H265,
        "AV1" => Codec::Av1,
        "VP8" => Codec::Vp8,
        "VP9" => Codec::Vp9,
        "MPEG4-GENERIC" | "MP4A-LATM" => Codec::Aac,
        "OPUS" => Codec::Opus,
        "PCMA" => Codec::Pcma,
        "PCMU" => Codec::Pcmu,
        _ => return None,
    })
}

fn parameters(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(';').map(str::trim).filter(|pair| !pair.is_empty()).take(MAX_PARAMETERS);
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Some cameras put values into quotes.
            (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ffmpeg announces H.264 and AAC.
    const FFMPEG: &str = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=No Name\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
        a=tool:libavformat 59.27.100\r\nm=video 0 RTP/AVP 96\r\nb=AS:200\r\na=rtpmap:96 H264/90000\r\n\
        a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0LAHtkA,aMuDyyA==; profile-level-id=42C01E\r\n\
        a=control:streamid=0\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/48000/2\r\n\
        a=fmtp:97 profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3; config=1190\r\n\
        a=control:streamid=1\r\n";

    fn section(lines: &str) -> Section {
        let text = format!("v=0\r\n{lines}");
        Description::parse(text.as_bytes()).expect("a description").sections.remove(0)
    }

    #[test]
    fn what_ffmpeg_announces_is_understood() {
        let description = Description::parse(FFMPEG.as_bytes()).expect("a description");
        let [video, audio] = &description.sections[..] else { panic!("{description:#?}") };
        assert_eq!(
            (video.control.as_deref(), audio.control.as_deref()),
            (Some("streamid=0"), Some("streamid=1"))
        );
        let (v, a) = (&video.formats[0], &audio.formats[0]);
        assert_eq!((v.codec, v.payload_type, v.clock_rate), (Codec::H264, 96, 90_000));
        assert_eq!(v.fmtp("sprop-parameter-sets"), Some("Z0LAHtkA,aMuDyyA=="));
        assert_eq!((a.codec, a.payload_type, a.clock_rate, a.channels), (Codec::Aac, 97, 48_000, 2));
        assert_eq!((a.fmtp("mode"), a.fmtp("config")), (Some("AAC-hbr"), Some("1190")));
    }

    #[test]
    fn parameters_are_read_however_they_are_written() {
        let lines = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/48000/2\r\n\
            a=fmtp:97  MODE=AAC-hbr ;config=\"1190\";; empty= ;flag;a=b=c\r\n";
        let format = &section(lines).formats[0];
        let told = ["mode", "config", "empty", "flag", "a", "none"].map(|key| format.fmtp(key));
        assert_eq!(told, [Some("AAC-hbr"), Some("1190"), Some(""), Some(""), Some("b=c"), None]);
    }

    #[test]
    fn every_codec_is_known_by_its_encoding_name() {
        let cases = [
            ("video", "H264/90000", Codec::H264, 1),
            ("video", "h265/90000", Codec::H265, 1),
            ("video", "VP8/90000", Codec::Vp8, 1),
            ("video", "VP9/90000", Codec::Vp9, 1),
            ("video", "AV1/90000", Codec::Av1, 1),
            ("audio", "mpeg4-generic/44100/2", Codec::Aac, 2),
            ("audio", "MP4A-LATM/48000/6", Codec::Aac, 6),
            ("audio", "opus/48000/2", Codec::Opus, 2),
            ("audio", "PCMA/8000", Codec::Pcma, 1),
            ("audio", "PCMU/16000/1", Codec::Pcmu, 1),
        ];
        for (media, map, codec, channels) in cases {
            let section = section(&format!("m={media} 0 RTP/AVP 100\r\na=rtpmap:100 {map}\r\n"));
            let format = &section.formats[0];
            assert_eq!((format.codec, format.channels), (codec, channels), "{map}");
            assert_eq!(section.kind(), Some(codec.kind()));
        }
    }

    #[test]
    fn static_payload_types_need_no_map() {
        let codecs = |types: &str| {
            let section = section(&format!("m=audio 0 RTP/AVP {types}\r\n"));
            (section.formats.iter().map(|f| (f.codec, f.clock_rate)).collect::<Vec<_>>(), section.unsupported)
        };
        assert_eq!(codecs("8 0").0, [(Codec::Pcma, 8_000), (Codec::Pcmu, 8_000)]);
        assert_eq!(codecs("9 0"), (vec![(Codec::Pcmu, 8_000)], vec!["payload type 9".to_owned()]));
    }

    #[test]
    fn what_cannot_be_received_is_named() {
        let cases = [
            ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\n", "MP4V-ES"),
            ("m=audio 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", "H264"),
            (
                "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n",
                "vnd.onvif.metadata",
            ),
            ("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264\r\n", "H264"),
            ("m=audio 0 RTP/AVP 97\r\n", "payload type 97"),
            ("m=text 0 TCP t140\r\n", "t140"),
        ];
        for (lines, name) in cases {
            let section = section(lines);
            assert_eq!(
                (section.formats.len(), &section.unsupported[..]),
                (0, &[name.to_owned()][..]),
                "{lines}"
            );
        }
    }

    #[test]
    fn a_description_that_says_nothing_is_refused() {
        let many = format!("v=0\r\n{}", "m=video 0 RTP/AVP 96\r\n".repeat(MAX_SECTIONS + 1));
        let long = format!("v=0\r\nm=audio 0 RTP/AVP{}\r\n", " 0".repeat(MAX_FORMATS + 1));
        assert_eq!(Description::parse(b"v=0\r\ns=x\r\n"), Err(SdpError::NoMedia));
        assert_eq!(Description::parse(many.as_bytes()), Err(SdpError::TooManySections));
        assert_eq!(Description::parse(long.as_bytes()), Err(SdpError::TooManyFormats));
        for bad in [&b""[..], b"hello", b"v=1\r\n", b"v=0\r\nm=video\r\n", b"v=0\r\nm=video x RTP/AVP 96\r\n"]
        {
            assert!(matches!(Description::parse(bad), Err(SdpError::Syntax(_))), "{bad:?}");
        }
    }

    #[test]
    fn control_urls_are_seen_from_the_base() {
        let url = |base: &str, control| control_url(&Url::parse(base).expect("a URL"), control).to_string();
        let cases = [
            ("rtsp://h:8554/a/b", Some("streamid=0"), "rtsp://h:8554/a/b/streamid=0"),
            ("rtsp://h/a/b/", Some("track1"), "rtsp://h/a/b/track1"),
            ("rtsp://h/a?x=1", Some("trackID=1"), "rtsp://h/a?x=1/trackID=1"),
            ("rtsp://h/a", Some("rtsp://other/b/1"), "rtsp://other/b/1"),
            ("rtsp://h/a", Some("*"), "rtsp://h/a"),
            ("rtsp://h/a", None, "rtsp://h/a"),
        ];
        for (base, control, want) in cases {
            assert_eq!(url(base, control), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_description_panics(
            lines in proptest::collection::vec(proptest::sample::select(FFMPEG.lines().chain([
                "v=0", "m=audio 1/0 RTP/AVP 0 8 300 -1", "a=rtpmap:0", "a=rtpmap:96 /", "a=fmtp:96 ;;=;a=b=c", "a=control:", "a=", "c=IN IP4",
            ]).collect::<Vec<_>>()), 0..30),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..10),
        ) {
            let text = format!("v=0\r\n{}", lines.join("\r\n"));
            let _ = Description::parse(&[text.as_bytes(), &noise[..]].concat());
        }
    }
}
