//! `/api/v1/webhooks`: the webhooks of the configuration.

use super::{
    Answer, allow,
    body::{body, json, parse},
    problem::Problem,
    to_the_end,
};
use crate::control::{Control, Page};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use warp::{Filter, Rejection, http::Method};

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let control = warp::any().map(move || control.clone());
    let list = warp::path!("webhooks").and(warp::method()).and(control.clone()).map(list);
    let subscribe =
        warp::path!("webhooks" / "subscribe").and(warp::method()).and(body()).and(control).then(subscribe);
    warp::path("api").and(warp::path("v1")).and(list.or(subscribe).unify())
}

fn list(method: Method, control: Control) -> Answer {
    allow(&method, "GET, HEAD")?;
    json(&Page { items: control.webhooks(), next_cursor: None })
}

async fn subscribe(method: Method, body: Result<Bytes, Problem>, control: Control) -> Answer {
    allow(&method, "POST")?;
    let NoOptions {} = parse(&body?)?;
    let subscribed = to_the_end(async move { control.subscribe_webhooks().await }).await?;
    json(&Subscribed { subscribed })
}

/// Body of a call that takes no options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

/// How many webhooks were told nothing, and are told again.
#[derive(Debug, Serialize)]
struct Subscribed {
    subscribed: usize,
}
