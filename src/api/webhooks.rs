//! `/api/v1/webhooks`: the webhooks of the configuration.

use super::{
    Answer, allow,
    body::{body, json, parse},
    openapi::{Operation, Tag},
    problem::{Kind, Problem},
    to_the_end,
    v1::NoOptions,
};
use crate::control::{Control, Page, SubscriptionInfo};
use bytes::Bytes;
use serde::Serialize;
use warp::{Filter, Rejection, http::Method};

pub(super) fn routes(
    control: Control,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static {
    let control = warp::any().map(move || control.clone());
    let list = warp::path!("api" / "v1" / "webhooks").and(warp::method()).and(control.clone()).map(list);
    let subscribe = warp::path!("api" / "v1" / "webhooks" / "subscribe")
        .and(warp::method())
        .and(body())
        .and(control)
        .then(subscribe);
    list.or(subscribe).unify()
}

pub(super) fn operations() -> Vec<Operation> {
    let all = "/api/v1/webhooks";
    vec![
        Operation::get(Tag::Deliveries, all, "listWebhooks", "List the webhooks of the configuration")
            .answers_page::<SubscriptionInfo>("Every webhook, on one page"),
        Operation::post(
            Tag::Deliveries,
            format!("{all}/subscribe"),
            "subscribeWebhooks",
            "Tell those again that answered 410",
        )
        .optional_body::<NoOptions>(serde_json::json!({}))
        .answers::<Subscribed>(200, "How many are told again")
        .problems(&[Kind::Failed]),
    ]
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

/// How many webhooks were told nothing, and are told again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Subscribed {
    subscribed: usize,
}
