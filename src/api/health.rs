//! `/healthz` (the process answers), `/readyz` (it can record), `/metrics`.

use super::{
    Answer, allow,
    openapi::{Operation, Tag},
    problem::{Kind, Problem},
};
use crate::control::Control;
use warp::{Filter, Rejection, http::Method, reply::Reply};

/// The content type of prometheus-client's text encoding.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes<M>(
    control: Control,
    metrics: M,
) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + Send + Sync + 'static
where
    M: Fn() -> String + Clone + Send + Sync + 'static,
{
    let healthz = warp::path!("healthz").and(warp::method()).map(|method| read(&method, || Ok("ok\n")));
    let readyz = warp::path!("readyz").and(warp::method()).map(move |method| {
        read(&method, || {
            control.ready().map_err(|why| Problem::new(Kind::NotReady, why))?;
            Ok("ready\n")
        })
    });
    let metrics = warp::path!("metrics").and(warp::method()).map(move |method| {
        read(&method, || Ok(warp::reply::with_header(metrics(), "content-type", OPENMETRICS)))
    });
    healthz.or(readyz).unify().or(metrics).unify()
}

pub(super) fn operations() -> Vec<Operation> {
    let text = &["text/plain; charset=utf-8"];
    vec![
        Operation::get(Tag::Health, "/healthz", "isAlive", "Whether the process answers").answers_raw(
            200,
            "It does",
            text,
            Some("ok\n"),
        ),
        Operation::get(Tag::Health, "/readyz", "isReady", "Whether it can record")
            .answers_raw(200, "It can", text, Some("ready\n"))
            .problems(&[Kind::NotReady]),
        Operation::get(Tag::Health, "/metrics", "getMetrics", "Metrics for Prometheus")
            .about("All names begin with `reeld_`.")
            .answers_raw(200, "OpenMetrics 1.0", &[OPENMETRICS], Some("# HELP reeld_… …\n# EOF\n")),
    ]
}

fn read<R: Reply>(method: &Method, answer: impl FnOnce() -> Result<R, Problem>) -> Answer {
    allow(method, "GET, HEAD")?;
    answer().map(Reply::into_response)
}
