//! `application/trickle-ice-sdpfrag` (RFC 8840): candidates that come after the offer, and ICE restarts.

use super::{candidate, offer::Credentials};

/// Most lines of a fragment.
const MAX_LINES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    #[error("the body is not text")]
    NotText,
    #[error("the fragment has more than {MAX_LINES} lines")]
    TooLong,
    #[error("line {0} of the fragment is not as RFC 8840 §9 wants it: a=…, or m= with its a=mid")]
    Line(usize),
    #[error("ice-ufrag and ice-pwd go together, and are as RFC 8839 §5.4 wants them")]
    Credentials,
}

/// What a publisher trickles.
#[derive(Default)]
pub struct Fragment {
    /// Of the ICE generation that this is about; others than before are an ICE restart.
    pub credentials: Option<Credentials>,
    /// Those that can be used, `candidate:…`.
    pub candidates: Vec<String>,
}

impl Fragment {
    /// Never panics; takes at most `MAX_LINES` lines.
    pub fn parse(body: &[u8]) -> Result<Self, FragmentError> {
        let text = std::str::from_utf8(body).map_err(|_| FragmentError::NotText)?;
        if text.contains('\0') {
            return Err(FragmentError::NotText);
        }
        let (mut ufrag, mut pwd) = (None, None);
        let mut fragment = Self::default();
        for (n, line) in text.lines().enumerate() {
            if n == MAX_LINES {
                return Err(FragmentError::TooLong);
            }
            let line = line.trim_end();
            let Some(attribute) = line.strip_prefix("a=") else {
                match line.is_empty() || line.starts_with("m=") {
                    true => continue,
                    false => return Err(FragmentError::Line(n + 1)),
                }
            };
            match attribute.split_once(':') {
                // With sections of their own they are the same in all of them: there is one bundle.
                Some(("ice-ufrag", value)) => ufrag = ufrag.or(Some(value.trim())),
                Some(("ice-pwd", value)) => pwd = pwd.or(Some(value.trim())),
                Some(("candidate", _)) if candidate::usable(attribute) => {
                    fragment.candidates.push(attribute.to_owned());
                }
                _ => {}
            }
        }
        fragment.credentials = match (ufrag, pwd) {
            (Some(ufrag), Some(pwd)) => Some(Credentials::new(ufrag, pwd).ok_or(FragmentError::Credentials)?),
            (None, None) => None,
            _ => return Err(FragmentError::Credentials),
        };
        Ok(fragment)
    }
}

/// Our side of an ICE restart: credentials, and the candidates of the section `mid`, which are those of the bundle.
pub fn restarted(ours: &Credentials, mid: &str, candidates: &[String]) -> String {
    let Credentials { ufrag, pwd } = ours;
    let mut text =
        format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{mid}\r\n");
    for candidate in candidates {
        text.push_str("a=");
        text.push_str(candidate);
        text.push_str("\r\n");
    }
    text.push_str("a=end-of-candidates\r\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRICKLE: &str = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
        a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1\r\n\
        a=candidate:3471623853 1 udp 2122194687 5c6a0aa5-1234.local 61765 typ host\r\n\
        a=candidate:473322822 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\na=end-of-candidates\r\n";

    #[test]
    fn a_fragment_is_credentials_and_candidates_that_work() {
        let fragment = Fragment::parse(TRICKLE.as_bytes()).expect("a fragment");
        let credentials = fragment.credentials.expect("credentials");
        assert_eq!((credentials.ufrag.as_str(), credentials.pwd.len()), ("EsAw", 24));
        assert_eq!(fragment.candidates.len(), 1, "neither a name nor TCP");
        assert!(fragment.candidates[0].starts_with("candidate:1387637174 1 udp"));
        assert!(Fragment::parse(b"").is_ok_and(|f| f.credentials.is_none() && f.candidates.is_empty()));
    }

    #[test]
    fn what_is_no_fragment_is_refused() {
        let error = |text: &[u8]| Fragment::parse(text).err().expect("refused");
        assert_eq!(error(b"\xff"), FragmentError::NotText);
        assert_eq!(error(b"a=mid:0\r\nhello\r\n"), FragmentError::Line(2));
        assert_eq!(error(b"{\"candidate\": 1}"), FragmentError::Line(1));
        assert_eq!(error(b"a=ice-ufrag:EsAw\r\n"), FragmentError::Credentials);
        assert_eq!(error(b"a=ice-ufrag:a\r\na=ice-pwd:b\r\n"), FragmentError::Credentials);
        assert_eq!(error("a=mid:0\r\n".repeat(300).as_bytes()), FragmentError::TooLong);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = Fragment::parse(&bytes);
        }
    }
}
