//! A file put to a URL (HTTP PUT), as a start call's `uploadUrl` asks for it.
//!
//! The body is the file: streamed from the disk, with `Content-Length`, `Content-Type` and its SHA-256 in `Content-Digest`
//! (RFC 9530). A file that has changed since it was recorded is never sent to its end. What is put there a second time is the
//! same: a 2xx alone is success, and when the connection breaks before one, all of it is sent again.

use super::reader::{ReadError, Reader};
use crate::{
    deliver::{Outcome, Outgoing, OutgoingError, host_of},
    library::{DeliveredPart, Storage, content_type},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::stream;
use reqwest::{
    Body, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use url::Url;

/// Read at once; there are two in memory, the one that is sent and the next.
const PIECE_BYTES: u64 = 512 * 1024;
/// A receiver that takes nothing for so long, or does not answer the whole file, has failed.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MAX_REDIRECTS: usize = 3;
/// Longest time that a receiver may ask to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// One attempt.
pub(super) async fn put(url: &str, part: &DeliveredPart, outgoing: &Outgoing, storage: &Storage) -> Outcome {
    let mut url = url.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let answer = match send(&url, part, outgoing, storage).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        match answer.status() {
            // The body is sent as often as is asked, so that these are followed here. The guard looks at each.
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                let Some(next) = target_of(&answer) else {
                    return Outcome::failed(format!("{} redirects to nowhere", host_of(answer.url())));
                };
                url = next.into();
            }
            _ => return outcome_of(&answer),
        }
    }
    Outcome::failed(format!("it redirects more than {MAX_REDIRECTS} times"))
}

fn target_of(answer: &Response) -> Option<Url> {
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let next = answer.url().join(location).ok()?;
    let downgrade = answer.url().scheme() == "https" && next.scheme() != "https";
    (!downgrade).then_some(next)
}

fn outcome_of(answer: &Response) -> Outcome {
    let status = answer.status();
    if status.is_success() {
        return Outcome::Done;
    }
    let error = format!("{} answers {status}", host_of(answer.url()));
    if is_final(status) {
        return Outcome::GiveUp { error };
    }
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    let retry_after = seconds.map(|s| Duration::from_secs(s).min(LONGEST_PAUSE));
    Outcome::Failed { error, retry_after }
}

/// What the same request will be answered for ever. Of others an operator may mend the cause: a key that has run out, a
/// folder that is missing.
fn is_final(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::GONE
            | StatusCode::LENGTH_REQUIRED
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::NOT_IMPLEMENTED
    )
}

async fn send(
    url: &str,
    part: &DeliveredPart,
    outgoing: &Outgoing,
    storage: &Storage,
) -> Result<Response, Outcome> {
    let failed = |e: OutgoingError| Outcome::failed(e.to_string());
    let digest = hex::decode(&part.sha256).map_err(|e| Outcome::failed(format!("SHA-256: {e}")))?;
    let request = outgoing.request(Method::PUT, url).map_err(failed)?;
    let (file, size, storage) = (part.file.clone(), part.size, storage.clone());
    let reader = tokio::task::spawn_blocking(move || Reader::open(&storage, &file, size)).await;
    let reader = reader.map_err(|e| Outcome::failed(e.to_string()))?.map_err(of_file)?;
    let watch = Arc::new(Watch::default());
    let request = request
        .header(CONTENT_TYPE, content_type(&part.name, part.has_video))
        .header(CONTENT_LENGTH, size)
        .header("content-digest", format!("sha-256=:{}:", BASE64_STANDARD.encode(digest)))
        .body(body(reader, part.sha256.clone(), watch.clone()))
        .build()
        .map_err(|_| Outcome::failed("no request can be made of the URL"))?;
    let limit = PATIENCE + Duration::from_secs(part.size / super::store::SLOWEST);
    let answered = tokio::select! {
        answered = outgoing.execute(request) => answered.map_err(failed),
        () = tokio::time::sleep(limit) => {
            Err(Outcome::failed(format!("not all of it was taken within {} s", limit.as_secs())))
        }
        () = watch.stalled() => Err(Outcome::failed(format!("nothing was taken for {} s", PATIENCE.as_secs()))),
    };
    // What is wrong with the file is why the connection broke.
    match watch.fault() {
        Some(fault) => Err(of_file(fault)),
        None => answered,
    }
}

pub(super) fn of_file(error: ReadError) -> Outcome {
    let text = error.to_string();
    match error {
        ReadError::Io(_) => Outcome::failed(text),
        ReadError::Gone | ReadError::Size { .. } | ReadError::Changed => Outcome::GiveUp { error: text },
    }
}

/// How a body goes, for those who wait for its answer.
#[derive(Default)]
struct Watch {
    pieces: AtomicU64,
    fault: Mutex<Option<ReadError>>,
}

impl Watch {
    fn fault(&self) -> Option<ReadError> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set_fault(&self, fault: ReadError) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Ends when no piece has been asked for in `PATIENCE`.
    async fn stalled(&self) {
        let (mut seen, mut waited) = (0, Duration::ZERO);
        while waited < PATIENCE {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.pieces.load(Ordering::Relaxed);
            waited = if now == seen { waited + LOOK_EVERY } else { Duration::ZERO };
            seen = now;
        }
    }
}

struct Pieces {
    /// The next piece, and the rest.
    ahead: Option<JoinHandle<(Result<Bytes, ReadError>, Reader)>>,
    sha256: Arc<str>,
    watch: Arc<Watch>,
}

fn body(reader: Reader, sha256: String, watch: Arc<Watch>) -> Body {
    let sha256: Arc<str> = sha256.into();
    let ahead = (reader.left() > 0).then(|| read(reader, sha256.clone()));
    Body::wrap_stream(stream::unfold(Pieces { ahead, sha256, watch }, Pieces::next))
}

/// The last piece is given out only if the whole file is what was recorded.
fn read(mut reader: Reader, sha256: Arc<str>) -> JoinHandle<(Result<Bytes, ReadError>, Reader)> {
    tokio::task::spawn_blocking(move || {
        let piece = reader.next(PIECE_BYTES).and_then(|piece| match reader.left() {
            0 => reader.check(&sha256).map(|()| piece),
            _ => Ok(piece),
        });
        (piece, reader)
    })
}

impl Pieces {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        self.watch.pieces.fetch_add(1, Ordering::Relaxed);
        let piece = match self.ahead.take()?.await {
            Ok((Ok(piece), reader)) => {
                self.ahead = (reader.left() > 0).then(|| read(reader, self.sha256.clone()));
                Ok(piece)
            }
            Ok((Err(fault), _)) => {
                self.watch.set_fault(fault);
                Err(io::Error::other("the file is not what was recorded"))
            }
            Err(e) => Err(io::Error::other(e)),
        };
        Some((piece, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_so_is_final() {
        for status in [405, 410, 411, 413, 414, 415, 501] {
            assert!(is_final(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 408, 409, 412, 423, 429, 500, 502, 503, 504, 507] {
            assert!(!is_final(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
