//! HTTP: the dialects of the control verbs (our `/api/v1`, Flashphoner's `/rest-api`, the `/recordings` of
//! OpenVidu's tutorial), WHIP, the web pages and the health routes.
//!
//! A resource is matched by its path alone, and from there on every outcome is an answer, never a rejection:
//! so a wrong method on a known path is 405 with `Allow`, a bad body is 400, and 404 means that the path is not there.
//! Handlers say what went wrong (`problem::Kind`); which status that is, is decided in this file only.

mod body;
mod deliveries;
mod events;
mod flashphoner;
mod flashphoner_pull;
mod health;
mod media;
mod openapi;
mod openvidu;
mod options;
mod origin;
mod problem;
mod query;
mod server;
mod sources;
mod v1;
mod web;
mod webhooks;
mod whip;

pub use server::serve;

use crate::control::{Control, ControlError, Events, Refusal, whip::Whip};
use problem::{Kind, Problem};
use std::{convert::Infallible, future::Future, sync::Arc};
use warp::{
    Filter,
    filters::path::FullPath,
    http::{HeaderValue, Method, StatusCode, header},
    reply::Response,
};

/// What a handler comes to.
type Answer = Result<Response, Problem>;

/// Every route of the daemon. `metrics` answers the text of `/metrics` in OpenMetrics 1.0 format.
pub fn routes<M>(
    control: Control,
    events: Events,
    whip: Arc<Whip>,
    metrics: M,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static
where
    M: Fn() -> String + Clone + Send + Sync + 'static,
{
    let pages = web::routes(control.media_origin());
    let unknown = warp::any().map(|| -> Answer { Err(Problem::unknown_path()) });
    // Boxed: the type of all of them in one is deeper than the compiler goes.
    let resources = origin::refused()
        .or(v1::routes(control.clone()))
        .unify()
        .or(events::routes(events))
        .unify()
        .or(media::routes(control.clone()))
        .unify()
        .boxed()
        .or(sources::routes(control.clone()))
        .unify()
        .or(webhooks::routes(control.clone()))
        .unify()
        .or(deliveries::routes(control.clone()))
        .unify()
        .or(flashphoner::routes(control.clone()))
        .unify()
        .boxed()
        .or(openvidu::routes(control.clone()))
        .unify()
        .or(whip::routes(whip))
        .unify()
        .boxed()
        .or(health::routes(control, metrics))
        .unify()
        .or(openapi::routes())
        .unify()
        .or(pages)
        .unify()
        .boxed()
        .or(unknown)
        .unify();
    warp::path::full().and(warp::method()).and(resources).map(finish)
}

/// Renders a problem and sets the headers every answer has.
fn finish(path: FullPath, method: Method, answer: Answer) -> Response {
    let mut response = answer.unwrap_or_else(|problem| problem.into_response(path.as_str()));
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));

    let status = response.status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(%method, path = path.as_str(), %status, "request failed");
    } else {
        tracing::debug!(%method, path = path.as_str(), %status, "request");
    }
    response
}

/// The status of each kind of problem in `/api/v1`.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::BadBody
        | Kind::BadParameter
        | Kind::BadTemplate
        | Kind::BadOption
        | Kind::PrerollTooLong
        | Kind::BadCursor
        | Kind::BadSource
        | Kind::DeliveryNotAllowed
        | Kind::BadName
        | Kind::BadSdp
        | Kind::BadFragment
        | Kind::NotSupported => StatusCode::BAD_REQUEST,
        Kind::SourceNotAllowed | Kind::OriginNotAllowed => StatusCode::FORBIDDEN,
        Kind::NotFound
        | Kind::UnknownSession
        | Kind::UnknownRecording
        | Kind::UnknownFile
        | Kind::UnknownRoom
        | Kind::UnknownDelivery
        | Kind::UnknownSource => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Kind::NotPublishing
        | Kind::AlreadyRecording
        | Kind::NotRecording
        | Kind::SeveralFiles
        | Kind::RecordingOff
        | Kind::RecordingOver
        | Kind::RecordingNotBegun
        | Kind::RecordingPaused
        | Kind::RecordingNotPaused
        | Kind::RecordingNotWaiting
        | Kind::SameSession
        | Kind::RecordingRunning
        | Kind::RecordingLocked
        | Kind::NameTaken
        | Kind::SourceTaken
        | Kind::TooManySources => StatusCode::CONFLICT,
        Kind::WrongType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Kind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Kind::UnusableOffer | Kind::NoIceRestart => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::IfMatchMissing => StatusCode::PRECONDITION_REQUIRED,
        Kind::IfMatchWrong => StatusCode::PRECONDITION_FAILED,
        Kind::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
        Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Kind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::ShuttingDown
        | Kind::NotReady
        | Kind::Busy
        | Kind::TooMany
        | Kind::Overloaded
        | Kind::TooManyWatchers => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The status of each kind of problem in `/rest-api`, where a session that cannot be recorded
/// and a recording that is not there are both "not found".
fn flashphoner_status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotPublishing | Kind::NotRecording => StatusCode::NOT_FOUND,
        other => status(other),
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let kind = match error {
            ControlError::UnknownSession(_) => Kind::UnknownSession,
            ControlError::NotPublishing(_) => Kind::NotPublishing,
            ControlError::AlreadyRecording { .. } => Kind::AlreadyRecording,
            ControlError::NotRecording(_) => Kind::NotRecording,
            ControlError::Refused(why) => refused(why),
            ControlError::SameSession { .. } => Kind::SameSession,
            ControlError::PrerollTooLong { .. } => Kind::PrerollTooLong,
            ControlError::RecordingOff => Kind::RecordingOff,
            ControlError::Template(_) => Kind::BadTemplate,
            ControlError::UnknownRoom(_) => Kind::UnknownRoom,
            ControlError::RoomRecorded(_) => Kind::AlreadyRecording,
            ControlError::RoomNotRecorded(_) => Kind::NotRecording,
            ControlError::UnknownRecording(_) => Kind::UnknownRecording,
            ControlError::UnknownFile(_) => Kind::UnknownFile,
            ControlError::StillRunning(_) => Kind::RecordingRunning,
            ControlError::UnknownDelivery(_) => Kind::UnknownDelivery,
            ControlError::Locked(_) => Kind::RecordingLocked,
            ControlError::DiskFull(_) => Kind::DiskFull,
            ControlError::BadCursor => Kind::BadCursor,
            ControlError::NotAdmitted(why) if why.is_load() => Kind::Overloaded,
            ControlError::NotAdmitted(_) => Kind::TooMany,
            ControlError::ShuttingDown => Kind::ShuttingDown,
            ControlError::UnknownSource(_) => Kind::UnknownSource,
            ControlError::BadSource(_) => Kind::BadSource,
            ControlError::DeliveryNotAllowed { .. } => Kind::DeliveryNotAllowed,
            ControlError::SourceNotSupported(_) => Kind::NotSupported,
            ControlError::SourceNotAllowed(_) => Kind::SourceNotAllowed,
            ControlError::SourceTaken(_) => Kind::SourceTaken,
            ControlError::TooManySources(_) => Kind::TooManySources,
            ControlError::Failed(_) => Kind::Failed,
        };
        Problem::new(kind, error.to_string())
    }
}

fn refused(why: Refusal) -> Kind {
    match why {
        Refusal::Over => Kind::RecordingOver,
        Refusal::NotBegun => Kind::RecordingNotBegun,
        Refusal::Paused => Kind::RecordingPaused,
        Refusal::NotPaused => Kind::RecordingNotPaused,
        Refusal::NotAway => Kind::RecordingNotWaiting,
    }
}

/// Err with the problem (and its `Allow`) when `method` is not in the list `allowed`, as in `GET, HEAD`.
fn allow(method: &Method, allowed: &'static str) -> Result<(), Problem> {
    if allowed.split(", ").any(|m| m == method.as_str()) {
        return Ok(());
    }
    Err(Problem::method_not_allowed(method, allowed))
}

/// Runs a verb to its end even when the client goes away and its request is dropped.
async fn to_the_end<T, F>(verb: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ControlError>> + Send + 'static,
{
    match tokio::spawn(verb).await {
        Ok(result) => result.map_err(Problem::from),
        Err(error) => {
            tracing::error!(%error, "a verb did not come to its end");
            Err(Problem::new(
                Kind::Failed,
                "the daemon broke off this call by a fault of its own; see its log",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::DeliveryRefused,
        control::{NotAdmitted, RecordingId, SourceId},
        media::{MediaSessionId, RoomName},
    };

    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

    #[test]
    fn every_control_error_has_its_status_in_both_dialects() {
        let session = MediaSessionId::random();
        let recording = RecordingId::random();
        let refused = DeliveryRefused::NotAUrl("");
        let table = [
            (ControlError::UnknownSession(session), 404, 404),
            (ControlError::NotPublishing(session), 409, 404),
            (ControlError::AlreadyRecording { session, recording }, 409, 409),
            (ControlError::NotRecording(session), 409, 404),
            (ControlError::Refused(Refusal::Over), 409, 409),
            (ControlError::Refused(Refusal::NotBegun), 409, 409),
            (ControlError::Refused(Refusal::Paused), 409, 409),
            (ControlError::Refused(Refusal::NotPaused), 409, 409),
            (ControlError::Refused(Refusal::NotAway), 409, 409),
            (ControlError::SameSession { session, recording }, 409, 409),
            (ControlError::PrerollTooLong { asked: 40 * SECOND, kept: 30 * SECOND }, 400, 400),
            (ControlError::RecordingOff, 409, 409),
            (ControlError::Template("no such key".into()), 400, 400),
            (ControlError::UnknownRecording(recording), 404, 404),
            (ControlError::UnknownFile("no poster".into()), 404, 404),
            (ControlError::StillRunning(recording), 409, 409),
            (ControlError::Locked(recording), 409, 409),
            (ControlError::DiskFull("3 bytes are free".into()), 507, 507),
            (ControlError::UnknownRoom(RoomName::default()), 404, 404),
            (ControlError::RoomRecorded(RoomName::default()), 409, 409),
            (ControlError::RoomNotRecorded(RoomName::default()), 409, 404),
            (ControlError::UnknownDelivery("7".into()), 404, 404),
            (ControlError::BadCursor, 400, 400),
            (ControlError::ShuttingDown, 503, 503),
            (ControlError::NotAdmitted(NotAdmitted::Recordings { max: 2 }), 503, 503),
            (ControlError::NotAdmitted(NotAdmitted::Copy { percent: 99, max: 90 }), 503, 503),
            (ControlError::UnknownSource(SourceId::random()), 404, 404),
            (ControlError::BadSource("uri".into()), 400, 400),
            (ControlError::DeliveryNotAllowed { field: "webhookUrl", refused }, 400, 400),
            (ControlError::SourceNotSupported("rtsps".into()), 400, 400),
            (ControlError::SourceNotAllowed("link-local".into()), 403, 403),
            (ControlError::SourceTaken("uri".into()), 409, 409),
            (ControlError::TooManySources("5".into()), 409, 409),
            (ControlError::Failed("disk".into()), 500, 500),
        ];
        for (error, own, theirs) in table {
            let text = error.to_string();
            let problem = Problem::from(error);
            assert_eq!(problem.detail(), text);
            assert_eq!(status(problem.kind()).as_u16(), own, "{text}");
            assert_eq!(flashphoner_status(problem.kind()).as_u16(), theirs, "{text}");
        }
    }

    #[test]
    fn a_method_is_allowed_by_its_whole_name() {
        assert!(allow(&Method::HEAD, "GET, HEAD").is_ok());
        for bad in [Method::POST, Method::OPTIONS, Method::from_bytes(b"HEA").expect("a token")] {
            let problem = allow(&bad, "GET, HEAD").expect_err("not allowed");
            let response = problem.into_response("/x");
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
    }

    #[tokio::test]
    async fn a_verb_goes_on_when_its_caller_is_gone() {
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        let mut call = Box::pin(to_the_end(async move {
            let _ = begun.await;
            let _ = done.send(());
            Ok(())
        }));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        begin.send(()).expect("the verb still runs");
        finished.await.expect("the verb came to its end");
    }
}
