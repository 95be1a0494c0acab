//! `/api/v1/deliveries`: what is still to be delivered.

use super::{
    Answer, allow,
    body::{body, json, parse},
    openapi::{Operation, Tag, integer, one_of, text},
    problem::{Kind, Problem, quoted},
    query::{DEFAULT_LIMIT, bad, each, limit},
    to_the_end,
    v1::NoOptions,
};
use crate::control::{
    Control, DeliveryKind, Filter as Lists, Letter, LetterFilter, LetterState, OutboxId, RecordingId,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use warp::{
    Filter, Rejection,
    http::{Method, StatusCode},
    reply::Reply,
};

const KNOWN: &str = "state, kind, recordingId, limit, cursor";

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let with_control = warp::any().map(move || control.clone());
    let list = warp::path!("api" / "v1" / "deliveries")
        .and(warp::method())
        .and(warp::query::<Vec<(String, String)>>())
        .and(with_control.clone())
        .then(list);
    let retry_dead = warp::path!("api" / "v1" / "deliveries" / "retry")
        .and(warp::method())
        .and(body())
        .and(with_control.clone())
        .then(retry_dead);
    let one = warp::path!("api" / "v1" / "deliveries" / String)
        .and(warp::method())
        .and(with_control.clone())
        .then(one);
    let retry = warp::path!("api" / "v1" / "deliveries" / String / "retry")
        .and(warp::method())
        .and(body())
        .and(with_control)
        .then(retry);
    list.or(retry_dead).unify().or(one).unify().or(retry).unify()
}

pub(super) fn operations() -> Vec<Operation> {
    let (all, one) = ("/api/v1/deliveries", "/api/v1/deliveries/{deliveryId}");
    let mut limit = integer(1, Lists::MAX_LIMIT.into());
    limit["default"] = serde_json::json!(DEFAULT_LIMIT);
    vec![
        Operation::get(
            Tag::Deliveries,
            all,
            "listDeliveries",
            "List what is still to be delivered, oldest first",
        )
        .query("state", one_of(&LetterState::ALL.map(LetterState::as_str)), "Those in this state")
        .query("kind", one_of(&DeliveryKind::ALL.map(DeliveryKind::as_str)), "Those of this kind")
        .query(
            "recordingId",
            serde_json::json!({"type": "string", "format": "uuid"}),
            "Those of this recording",
        )
        .query("limit", limit, "Deliveries on a page")
        .query("cursor", text(), "The `nextCursor` of the page before")
        .answers_page::<Letter>("A page")
        .problems(&[Kind::BadParameter, Kind::BadCursor, Kind::Failed]),
        Operation::post(
            Tag::Deliveries,
            format!("{all}/retry"),
            "retryDeliveries",
            "Try what was given up again",
        )
        .about("All of it, or what is of a kind or a recording.")
        .optional_body::<RetryBody>(serde_json::json!({"kind": "hook"}))
        .answers::<Retried>(200, "How many are tried again")
        .problems(&[Kind::Failed]),
        Operation::post(Tag::Deliveries, format!("{one}/retry"), "retryDelivery", "Try a delivery again now")
            .optional_body::<NoOptions>(serde_json::json!({}))
            .answers::<Letter>(200, "The delivery as it is now")
            .problems(&[Kind::UnknownDelivery, Kind::Failed]),
        Operation::delete(Tag::Deliveries, one, "dropDelivery", "Take a delivery out, undelivered")
            .answers_nothing(204, "It is gone")
            .problems(&[Kind::UnknownDelivery, Kind::Failed]),
    ]
}

async fn list(method: Method, pairs: Vec<(String, String)>, control: Control) -> Answer {
    allow(&method, "GET, HEAD")?;
    json(&control.deliveries(filter(&pairs)?).await?)
}

async fn one(id: String, method: Method, control: Control) -> Answer {
    allow(&method, "DELETE")?;
    let id = delivery_id(&id)?;
    to_the_end(async move { control.drop_delivery(id).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn retry(id: String, method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "POST")?;
    let id = delivery_id(&id)?;
    let NoOptions {} = parse(&body?)?;
    json(&to_the_end(async move { control.retry_delivery(id).await }).await?)
}

async fn retry_dead(method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "POST")?;
    let RetryBody { kind, recording_id } = parse(&body?)?;
    let retried = to_the_end(async move { control.retry_deliveries(kind, recording_id).await }).await?;
    json(&Retried { retried })
}

/// Body of `POST /deliveries/retry`: which of the dead ones; all where nothing is said.
#[derive(Debug, Default, PartialEq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RetryDeliveries)]
struct RetryBody {
    kind: Option<DeliveryKind>,
    recording_id: Option<RecordingId>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Retried {
    retried: u64,
}

fn delivery_id(text: &str) -> Result<OutboxId, Problem> {
    text.parse().map_err(|_| {
        let detail =
            format!("{} is no delivery's id (a number); GET /api/v1/deliveries lists them", quoted(text));
        Problem::new(Kind::UnknownDelivery, detail)
    })
}

/// The filter that decoded `name=value` pairs ask for.
fn filter(pairs: &[(String, String)]) -> Result<LetterFilter, Problem> {
    let mut filter = LetterFilter { limit: DEFAULT_LIMIT, ..LetterFilter::default() };
    each(pairs, |name, value| {
        match name {
            "state" => {
                filter.state =
                    Some(word(name, value, LetterState::parse, &LetterState::ALL.map(LetterState::as_str))?)
            }
            "kind" => {
                filter.kind = Some(word(
                    name,
                    value,
                    DeliveryKind::parse,
                    &DeliveryKind::ALL.map(DeliveryKind::as_str),
                )?)
            }
            "recordingId" => {
                let id = RecordingId::parse(value);
                filter.recording =
                    Some(id.ok_or_else(|| bad(name, &format!("is {}, which is no UUID", quoted(value))))?);
            }
            "limit" => filter.limit = limit(name, value)?,
            "cursor" => filter.cursor = Some(value.to_owned()),
            _ => return Err(bad(name, &format!("is no parameter of this list; it has {KNOWN}"))),
        }
        Ok(())
    })?;
    Ok(filter)
}

fn word<T>(name: &str, value: &str, parse: fn(&str) -> Option<T>, words: &[&str]) -> Result<T, Problem> {
    let words = || words.join(", ");
    parse(value).ok_or_else(|| bad(name, &format!("is {}; write one of {}", quoted(value), words())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<LetterFilter, String> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        filter(&pairs).map_err(|p| {
            assert_eq!(p.kind(), Kind::BadParameter);
            p.detail().to_owned()
        })
    }

    #[test]
    fn every_parameter_finds_its_place_or_is_refused_by_its_name() {
        let id = RecordingId::random();
        let found = asked(&[
            ("state", "dead"),
            ("kind", "webhook"),
            ("recordingId", &id.to_string()),
            ("limit", "7"),
            ("cursor", "12"),
        ]);
        let wanted = LetterFilter {
            state: Some(LetterState::Dead),
            kind: Some(DeliveryKind::Webhook),
            recording: Some(id),
            limit: 7,
            cursor: Some("12".into()),
        };
        assert_eq!(found, Ok(wanted));
        for (name, value, want) in [
            ("state", "done", "write one of pending, failed, held, dead"),
            ("kind", "Hook", "write one of hook, webhook, upload"),
            ("recordingId", "x", "no UUID"),
            ("limit", "0", "from 1 to 1000"),
            ("status", "x", "it has state, kind, recordingId"),
        ] {
            let detail = asked(&[(name, value)]).expect_err("a fault");
            assert!(detail.contains(want), "{detail} lacks {want}");
        }
    }

    #[test]
    fn dead_ones_are_tried_again_all_or_some() {
        let id = RecordingId::random();
        let asked = |body: &str| parse::<RetryBody>(body.as_bytes()).map_err(|p| p.kind());
        assert_eq!(asked(""), Ok(RetryBody::default()));
        let some = RetryBody { kind: Some(DeliveryKind::Hook), recording_id: Some(id) };
        assert_eq!(asked(&format!(r#"{{"kind": "hook", "recordingId": "{id}"}}"#)), Ok(some));
        assert_eq!(asked(r#"{"kind": "mail"}"#), Err(Kind::BadBody));
        assert_eq!(delivery_id("msg_1").map_err(|p| p.kind()), Err(Kind::UnknownDelivery));
    }
}
