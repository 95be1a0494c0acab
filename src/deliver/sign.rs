//! Signatures of webhooks, as Standard Webhooks say (<https://www.standardwebhooks.com>, "Signature scheme").

use crate::config::WebhookSecret;
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Headers of a webhook.
pub(super) const ID: &str = "webhook-id";
pub(super) const TIMESTAMP: &str = "webhook-timestamp";
pub(super) const SIGNATURE: &str = "webhook-signature";

/// `v1,BASE64` for each secret, in their order, with blanks between: HMAC-SHA256 over `ID.TIMESTAMP.BODY`. `timestamp` is
/// that of the attempt, in seconds since 1970. `None` without a secret.
pub(super) fn signature(secrets: &[WebhookSecret], id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let one = |secret: &WebhookSecret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.key())
            .expect("HMAC takes keys of any length (RFC 2104, 2)");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    };
    let signatures: Vec<String> = secrets.iter().map(one).collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;
    use standardwebhooks::Webhook;
    use warp::http::HeaderMap;

    const SECRETS: [&str; 2] =
        ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];

    fn secrets() -> Vec<WebhookSecret> {
        SECRETS.iter().map(|text| WebhookSecret::parse(text).expect("a secret")).collect()
    }

    /// The example of the libraries of Standard Webhooks.
    #[test]
    fn a_known_body_has_its_known_signature() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signed = signature(&secrets()[..1], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1649367553, body);
        assert_eq!(signed.as_deref(), Some("v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="));
        assert_eq!(signature(&[], "msg_x", 1, body), None);
    }

    #[test]
    fn receivers_verify_with_any_of_the_secrets_and_nothing_that_was_changed() {
        let (id, now, body) = ("msg_2f6b", Utc::now().timestamp(), "{\"type\":\"recording.part\",\"é\":1}");
        let signed = signature(&secrets(), id, now, body.as_bytes()).expect("signed");
        let headers = |id: &str, now: i64| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(ID, id), (TIMESTAMP, &now.to_string()), (SIGNATURE, &signed)] {
                headers.insert(name, value.parse().expect("a header"));
            }
            headers
        };
        let verifies = |secret, body: &str, headers: &HeaderMap| {
            Webhook::new(secret).expect("a secret").verify(body.as_bytes(), headers).is_ok()
        };
        for secret in SECRETS {
            assert!(verifies(secret, body, &headers(id, now)));
            assert!(!verifies(secret, &body.replace('1', "2"), &headers(id, now)));
            assert!(!verifies(secret, body, &headers("msg_2f6c", now)));
            assert!(!verifies(secret, body, &headers(id, now + 1)));
        }
        assert!(!verifies("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", body, &headers(id, now)));
    }
}
