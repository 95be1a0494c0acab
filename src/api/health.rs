//! `/healthz` (the process answers), `/readyz` (it can record), `/metrics`.

use super::{
    Answer, allow,
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

fn read<R: Reply>(method: &Method, answer: impl FnOnce() -> Result<R, Problem>) -> Answer {
    allow(method, "GET, HEAD")?;
    answer().map(Reply::into_response)
}
