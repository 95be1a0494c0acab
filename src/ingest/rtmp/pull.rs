//! Streams that are fetched from an RTMP server: the client's side of the protocol, ours; everything behind it is as for a
//! publisher.

mod player;
mod reading;

use super::feed::Feed;
use crate::{
    hub::EndReason,
    ingest::source::{Pull, PullError, Source},
};
use reading::Reading;
use std::convert::Infallible;

/// One source that is pulled over RTMP. The feed, with the hub's stream and its timeline, lives across connections.
#[derive(Default)]
pub struct RtmpPull {
    feed: Option<Feed>,
    /// That the URI's user and password are of no use here.
    told: bool,
}

impl RtmpPull {
    async fn attempt(&mut self, source: &Source) -> Result<Infallible, PullError> {
        if source.uri().credentials().is_some() && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                source = %source.id(), uri = %source.uri(),
                "user and password are not sent: RTMP has no standard way; if the server takes them in the query, write them there"
            );
        }
        let mut reading = tokio::select! {
            opened = Reading::open(source, &mut self.feed) => opened?,
            () = source.stopped() => return Err(PullError::Stopped),
        };
        let error = reading.run().await;
        reading.goodbye().await;
        Err(error)
    }
}

impl Pull for RtmpPull {
    async fn connection(&mut self, source: &Source) -> PullError {
        match self.attempt(source).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn finish(&mut self, reason: EndReason) {
        if let Some(mut feed) = self.feed.take() {
            feed.finish(reason);
        }
    }
}
