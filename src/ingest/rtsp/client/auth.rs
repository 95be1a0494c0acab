//! Basic and digest authentication of a client (RFC 7617, RFC 7616, and RFC 2069 for old cameras).

use super::RtspError;
use crate::ingest::source::Credentials;
use http_auth::{PasswordClient, PasswordParams};

/// Longest challenge looked at, bytes.
const MAX_CHALLENGE_BYTES: usize = 4 << 10;

/// What a connection knows of its user and of what the server asked.
#[derive(Default)]
pub(super) struct Auth {
    credentials: Option<Credentials>,
    challenge: Option<PasswordClient>,
}

impl Auth {
    pub fn new(credentials: Option<&Credentials>) -> Self {
        Self { credentials: credentials.cloned(), challenge: None }
    }

    /// The `Authorization` of a request, once the server has asked for one. `url`: as in the request line.
    pub fn header(&mut self, method: &str, url: &str) -> Option<String> {
        let (challenge, credentials) = (self.challenge.as_mut()?, self.credentials.as_ref()?);
        let (username, password) = (credentials.user.as_str(), credentials.password.as_str());
        let mut respond =
            |body| challenge.respond(&PasswordParams { username, password, uri: url, method, body });
        // With integrity of the body only where the server takes nothing else: cameras seldom get it right.
        respond(None).or_else(|_| respond(Some(&[]))).ok()
    }

    /// The server answered 401, with this `WWW-Authenticate`. `Ok`: the request is worth another try.
    pub fn challenged(&mut self, challenge: &str, tries: u32) -> Result<(), RtspError> {
        if self.credentials.is_none() {
            return Err(RtspError::NoCredentials);
        }
        if challenge.len() > MAX_CHALLENGE_BYTES {
            return Err(RtspError::Challenge);
        }
        let client =
            PasswordClient::builder().challenges(challenge).build().map_err(|_| RtspError::Challenge)?;
        let stale = matches!(&client, PasswordClient::Digest(digest) if digest.stale());
        // The first refusal is of a request without an answer to this challenge, or with one to an older nonce.
        if tries > 1 && !stale {
            return Err(RtspError::Refused);
        }
        self.challenge = Some(client);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(challenge: &str) -> Auth {
        let credentials = Credentials { user: "admin".into(), password: "hunter2".into() };
        let mut auth = Auth::new(Some(&credentials));
        assert_eq!(auth.header("OPTIONS", "rtsp://h/x"), None, "nothing is told before it is asked for");
        auth.challenged(challenge, 1).expect("worth a try");
        auth
    }

    #[test]
    fn each_scheme_is_answered_and_the_strongest_chosen() {
        let basic = r#"Basic realm="cam""#;
        let md5 = r#"Digest realm="cam", nonce="abc""#;
        let sha = r#"Digest realm="cam", nonce="abc", algorithm=SHA-256, qop="auth""#;
        let table = [
            (basic.to_owned(), "Basic YWRtaW46aHVudGVyMg=="),
            (md5.to_owned(), "Digest username=\"admin\""),
            (format!("{basic}, {md5}"), "Digest username=\"admin\""),
            (sha.to_owned(), "algorithm=SHA-256"),
        ];
        for (challenge, want) in table {
            let header = auth(&challenge).header("DESCRIBE", "rtsp://h/x").expect("an answer");
            assert!(header.contains(want) && !header.contains("hunter2"), "{header}");
            // Without qop it is RFC 2069's, which has no count of uses.
            assert_eq!(header.contains("nc="), challenge.contains("qop"), "{header}");
        }
    }

    #[test]
    fn a_stale_nonce_is_taken_anew_and_a_wrong_password_is_not_tried_for_ever() {
        let fresh = r#"Digest realm="cam", nonce="two", qop="auth""#;
        let stale = r#"Digest realm="cam", nonce="two", qop="auth", stale=true"#;
        let mut auth = auth(r#"Digest realm="cam", nonce="one", qop="auth""#);
        assert!(matches!(auth.challenged(fresh, 2), Err(RtspError::Refused)));
        auth.challenged(stale, 2).expect("worth a try");
        assert!(auth.header("PLAY", "rtsp://h/x").expect("an answer").contains("nonce=\"two\""));
        assert!(matches!(auth.challenged("Negotiate", 1), Err(RtspError::Challenge)));
        assert!(matches!(Auth::new(None).challenged(fresh, 1), Err(RtspError::NoCredentials)));
    }
}
