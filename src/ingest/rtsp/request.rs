//! What requests of a publisher say, beside their method.

use super::{sdp::Section, transport::Transport};
use crate::ingest::percent_decoded;
use rtsp_types::{
    Request,
    headers::{CONTENT_TYPE, USER_AGENT},
};
use url::Url;

/// Most `key=value` pairs of a publish URL.
const MAX_QUERY_PAIRS: usize = 32;
/// Longest publish URL, bytes.
const MAX_URL_BYTES: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("announce a stream by its URL, rtsp://HOST/ROOM/STREAM")]
    Missing,
    #[error("the URL has {0} bytes; {MAX_URL_BYTES} is the most")]
    TooLong(usize),
    #[error("the query of the URL has more than {MAX_QUERY_PAIRS} parameters")]
    TooManyParameters,
    #[error("the path of the URL is not UTF-8")]
    NotUtf8,
}

/// A client announces a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Path of the URL, decoded.
    pub path: String,
    /// Decoded pairs of the query.
    pub query: Vec<(String, String)>,
    /// What the client calls itself, at most 128 characters; may be empty.
    pub user_agent: String,
}

impl Announced {
    pub fn of(request: &Request<Vec<u8>>) -> Result<Self, UrlError> {
        let url = request.request_uri().ok_or(UrlError::Missing)?;
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(UrlError::TooLong(url.as_str().len()));
        }
        let query: Vec<_> = url.query_pairs().take(MAX_QUERY_PAIRS + 1).collect();
        if query.len() > MAX_QUERY_PAIRS {
            return Err(UrlError::TooManyParameters);
        }
        let query = query.into_iter().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let path = String::from_utf8(percent_decoded(url.path())).map_err(|_| UrlError::NotUtf8)?;
        let agent = request.header(&USER_AGENT).map(|v| line_of(v.as_str(), 128));
        Ok(Self { path, query, user_agent: agent.unwrap_or_default() })
    }

    /// `record=true` in the publish URL.
    pub fn wants_record(&self) -> bool {
        let yes = |value: &str| value.eq_ignore_ascii_case("true") || value == "1";
        self.query.iter().any(|(key, value)| key == "record" && yes(value))
    }
}

/// `text` as one line of at most `max` printable ASCII characters: safe in a header and in a log.
pub fn line_of(text: &str, max: usize) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).take(max).collect()
}

/// Whether the body of a request is a session description. Who does not say is believed.
pub fn is_sdp(request: &Request<Vec<u8>>) -> bool {
    let told = request.header(&CONTENT_TYPE).map(|v| v.as_str().split(';').next().unwrap_or_default().trim());
    told.is_none_or(|told| told.eq_ignore_ascii_case("application/sdp"))
}

/// Whether `url` is where `control` of a section is: clients put a relative one behind the path or behind the query.
pub fn names_control(url: &Url, control: &str) -> bool {
    let control = control.trim_matches('/');
    if control.is_empty() || control == "*" {
        return false;
    }
    if let Ok(absolute) = Url::parse(control)
        && absolute.has_host()
    {
        // The host may be written in another way.
        return same_path(url, &absolute) && url.query() == absolute.query();
    }
    let ends = |text: &str| text.strip_suffix(control).is_some_and(|before| before.ends_with('/'));
    ends(url.as_str().trim_end_matches('/')) || ends(url.path().trim_end_matches('/'))
}

pub fn same_path(one: &Url, other: &Url) -> bool {
    one.path().trim_end_matches('/') == other.path().trim_end_matches('/')
}

/// Whether packets can come by this transport.
pub fn is_ours(transport: &Transport) -> bool {
    let records = transport.mode.as_deref().is_none_or(|mode| mode.split(',').any(|m| m.trim() == "record"));
    records && !transport.multicast && !transport.is_secure()
}

/// Leaves in a section the formats that can be read; an error names those that cannot when there are no others.
pub fn usable(mut section: Section) -> Result<Section, String> {
    let faults = section.keep_readable();
    match section.formats.is_empty() {
        false => Ok(section),
        true => Err(format!("this {} cannot be received: {}", section.media, faults.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtsp_types::{Method, Version};

    fn announced(url: &str) -> Result<Announced, UrlError> {
        let request =
            Request::builder(Method::Announce, Version::V1_0).request_uri(url.parse::<Url>().expect("a URL"));
        Announced::of(&request.header(USER_AGENT, "Lavf/59\u{e9}").build(Vec::new()))
    }

    #[test]
    fn a_publish_url_is_path_and_query() {
        let got =
            announced("rtsp://user:secret@h:8554/court/room%204?record=true&x=%2F").expect("a good URL");
        assert_eq!(got.path, "/court/room 4");
        assert_eq!(got.query, [("record".into(), "true".into()), ("x".into(), "/".into())]);
        assert_eq!(got.user_agent, "Lavf/59?");
        assert_eq!(announced("rtsp://h/100%zz%").expect("kept as written").path, "/100%zz%");
        assert_eq!(announced("rtsp://h/%ff"), Err(UrlError::NotUtf8));
        assert_eq!(announced(&format!("rtsp://h/{}", "a".repeat(5000))), Err(UrlError::TooLong(5009)));
        let many = (0..=MAX_QUERY_PAIRS).map(|i| format!("k{i}&")).collect::<String>();
        assert_eq!(announced(&format!("rtsp://h/a?{many}")), Err(UrlError::TooManyParameters));
    }

    #[test]
    fn a_section_is_found_however_its_control_url_was_made() {
        let cases = [
            ("rtsp://h/a/b/streamid=0", "streamid=0", true),
            ("rtsp://h/a/b?record=true/streamid=0", "streamid=0", true),
            ("rtsp://h/a/b/stream=0?record=true", "stream=0", true),
            ("rtsp://h/a/b/streamid=11", "streamid=1", false),
            ("rtsp://h/a/b", "streamid=0", false),
            ("rtsp://h/a/xstreamid=0", "streamid=0", false),
            ("rtsp://127.0.0.1:8554/a/1", "rtsp://localhost:8554/a/1", true),
            ("rtsp://h/a/1", "rtsp://h/a/2", false),
            ("rtsp://h/a", "*", false),
            ("rtsp://h/a/", "", false),
        ];
        for (url, control, want) in cases {
            assert_eq!(names_control(&url.parse().expect("a URL"), control), want, "{url} {control}");
        }
    }

    #[test]
    fn transports_that_do_not_record_in_the_clear_to_one_place_are_not_ours() {
        let cases = [
            ("RTP/AVP/TCP;interleaved=0-1;mode=record", true),
            ("RTP/AVPF;unicast;client_port=1-2;mode=\"PLAY,RECORD\"", true),
            ("RTP/AVP/TCP", true),
            ("RTP/AVP;unicast;client_port=1-2;mode=play", false),
            ("RTP/AVP;multicast;mode=record", false),
            ("RTP/SAVP;unicast;mode=record", false),
        ];
        for (header, want) in cases {
            assert_eq!(is_ours(&Transport::parse_all(header)[0]), want, "{header}");
        }
    }
}
