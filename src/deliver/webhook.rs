//! Tells a webhook one event: a POST, signed as Standard Webhooks say.

use super::{Outcome, Outgoing, OutgoingError, Subscriptions, host_of, sign};
use crate::config::WebhookSecret;
use crate::library::{Delivery, WebhookJob};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use url::Url;

/// What is read of an answer, so that its connection can take the next call. It is kept nowhere: whoever may name a URL is
/// not to read what a host answers that only this machine reaches.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is believed.
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(24);

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// How many are called at the same time, at least 1.
    pub concurrency: usize,
    /// Longest time of one call, from the look-up of the name to the end of the answer.
    pub timeout: Duration,
    /// Each of them signs.
    pub secrets: Arc<[WebhookSecret]>,
    /// `None`: the guard could not be made; nothing is sent.
    pub outgoing: Option<Outgoing>,
    /// Those of the configuration, which are told here when they are gone.
    pub subscriptions: Option<Subscriptions>,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        let timeout = Duration::from_secs(15);
        Self { concurrency: 8, timeout, secrets: Arc::default(), outgoing: None, subscriptions: None }
    }
}

/// One attempt.
pub(super) async fn deliver(delivery: &Delivery, job: &WebhookJob, settings: &WebhookSettings) -> Outcome {
    let Some(outgoing) = &settings.outgoing else {
        return Outcome::failed("nothing can be sent: TLS is not usable here");
    };
    let answer = match call(delivery, job, outgoing, settings).await {
        Ok(answer) => answer,
        Err(error) => return Outcome::failed(error.to_string()),
    };
    let outcome = judge(answer.status(), answer.headers(), Utc::now());
    read_out(answer).await;
    if let (Outcome::Unsubscribe { .. }, Some(subscriptions)) = (&outcome, &settings.subscriptions)
        && let Err(error) = subscriptions.gone(&job.url).await
    {
        // Its next recording finds it out again.
        tracing::error!(%error, "that a webhook is gone cannot be stored");
    }
    outcome
}

async fn call(
    delivery: &Delivery,
    job: &WebhookJob,
    outgoing: &Outgoing,
    settings: &WebhookSettings,
) -> Result<Response, OutgoingError> {
    let body = job.event.to_string();
    let now = Utc::now().timestamp();
    let mut request = outgoing
        .request(Method::POST, &job.url)?
        .timeout(settings.timeout)
        .header(CONTENT_TYPE, "application/json")
        .header(sign::ID, &delivery.key)
        .header(sign::TIMESTAMP, now);
    if let Some(signature) = sign::signature(&settings.secrets, &delivery.key, now, body.as_bytes()) {
        request = request.header(sign::SIGNATURE, signature);
    }
    let request = request.body(body).build();
    outgoing.execute(request.map_err(|e| OutgoingError::Unusable(e.without_url().to_string()))?).await
}

/// What an answer means; its body means nothing.
fn judge(status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Outcome {
    let error = match status {
        s if s.is_success() => return Outcome::Done,
        StatusCode::GONE => {
            return Outcome::Unsubscribe {
                error: "it answered 410 Gone: it wants to be told no more".into(),
            };
        }
        s if s.is_redirection() => format!(
            "it answered {} and leads to {}; only 307 and 308 are followed, so name that place itself",
            s.as_u16(),
            leads_to(headers)
        ),
        s => format!("it answered {s}"),
    };
    Outcome::Failed { error, retry_after: retry_after(headers, now) }
}

/// The host that `Location` names.
fn leads_to(headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let url = location.and_then(|text| Url::parse(text).ok());
    url.map_or_else(|| "another path".to_owned(), |url| host_of(&url))
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u32>() {
        Ok(seconds) => TimeDelta::seconds(seconds.into()),
        Err(_) => DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc) - now,
    };
    pause.min(LONGEST_PAUSE).to_std().ok()
}

async fn read_out(mut answer: Response) {
    let mut left = MAX_ANSWER_BYTES;
    let all = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whoever takes longer, or says more, has its connection closed.
    let _ = timeout(ANSWER_LIMIT, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let now = DateTime::parse_from_rfc3339("2026-11-21T10:00:00Z").expect("a time").with_timezone(&Utc);
        let judged = |status: u16, headers: &[(&'static str, &str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
            judge(StatusCode::from_u16(status).expect("a status"), &headers.collect(), now)
        };
        let seconds = |s| Some(Duration::from_secs(s));
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judged(status, &[]), Outcome::Done, "{status}");
        }
        assert!(matches!(judged(410, &[]), Outcome::Unsubscribe { .. }));
        for (status, retry, pause) in [
            (500, "", None),
            (429, "120", seconds(120)),
            (503, "Sat, 21 Nov 2026 10:01:30 GMT", seconds(90)),
            (503, "Sat, 21 Nov 2026 09:00:00 GMT", None),
            (429, "4294967295", seconds(24 * 3600)),
            (429, "-5", None),
            (429, "soon", None),
            (400, "", None),
            (304, "", None),
        ] {
            match judged(status, &[("retry-after", retry)]) {
                Outcome::Failed { error, retry_after } => {
                    assert_eq!(retry_after, pause, "{status} {retry}");
                    assert!(error.contains(&status.to_string()), "{error}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        let Outcome::Failed { error, .. } =
            judged(302, &[("location", "https://u:hunter2@x.org/hunter2?k=hunter2")])
        else {
            panic!("no failure");
        };
        assert!(error.contains("302 and leads to x.org;") && !error.contains("hunter2"), "{error}");
    }
}
