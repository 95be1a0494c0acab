//! Streams that are fetched from an RTMP server: `rtmp2src` connects and plays, everything behind it is as for a
//! publisher. `flvdemux` is not used: it loses the last audio frame.

use super::{
    feed::Feed,
    fetch::Fetch,
    message::{Metadata, type_id},
    tags::{Tag, TagReader},
};
use crate::{
    hub::EndReason,
    ingest::{
        drain::ticks,
        source::{Pull, PullError, Source},
    },
    media::Protocol,
};
use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// Longest message taken, as of publishers by default.
const MAX_TAG_BYTES: usize = 8 << 20;

/// One source that is pulled over RTMP. The feed, with the hub's stream and its timeline, lives across connections.
#[derive(Default)]
pub struct RtmpPull {
    feed: Option<Feed>,
    connections: usize,
}

/// One connection of it.
struct Reading<'a> {
    feed: &'a mut Option<Feed>,
    source: &'a Source,
    remote: SocketAddr,
    tags: TagReader,
    last_media: Option<Instant>,
}

impl RtmpPull {
    async fn attempt(&mut self, source: &Source) -> Result<Infallible, PullError> {
        let addresses = tokio::select! {
            addresses = source.addresses() => addresses?,
            () = source.stopped() => return Err(PullError::Stopped),
        };
        // A host with several addresses is tried at the next one each time.
        let remote = addresses[self.connections % addresses.len()];
        self.connections = self.connections.wrapping_add(1);
        let mut fetch = Fetch::start(source.uri(), remote, source.limits().connect_timeout)?;
        let tags = TagReader::new(MAX_TAG_BYTES);
        let mut reading = Reading { feed: &mut self.feed, source, remote, tags, last_media: None };
        let mut tick = ticks(source.started());
        let begun = Instant::now();
        loop {
            let stopped = tokio::select! {
                _ = tick.tick() => false,
                () = source.stopped() => true,
            };
            // Asked first: what arrived before the end is still taken.
            let end = fetch.end();
            reading.take(&mut fetch)?;
            match end {
                _ if stopped => return Err(PullError::Stopped),
                Some(error) => return Err(error),
                None => reading.in_time(begun)?,
            }
        }
    }
}

impl Reading<'_> {
    /// Hands on what has arrived.
    fn take(&mut self, fetch: &mut Fetch) -> Result<(), PullError> {
        let taken = self.take_tags(fetch);
        if let Some(feed) = self.feed {
            feed.flush(self.source.started().elapsed());
        }
        taken
    }

    fn take_tags(&mut self, fetch: &mut Fetch) -> Result<(), PullError> {
        while let Some(buffer) = fetch.take() {
            let bytes = buffer.map_readable().map_err(|_| PullError::Protocol("unreadable memory".into()))?;
            let mut input = bytes.as_slice();
            while let Some(tag) =
                self.tags.next(&mut input).map_err(|e| PullError::Protocol(e.to_string()))?
            {
                self.on_tag(tag)?;
            }
        }
        Ok(())
    }

    fn on_tag(&mut self, tag: Tag) -> Result<(), PullError> {
        let first = self.last_media.is_none();
        let Tag { type_id, timestamp_ms, payload } = tag;
        if payload.is_empty() {
            return Ok(());
        }
        let now = self.source.started().elapsed();
        let feed = match self.feed {
            Some(feed) => feed,
            None => {
                // rtmp2src does not tell its own end of the connection.
                let local = SocketAddr::new(unspecified(self.remote.ip()), 0);
                let publisher = self.source.publish(Protocol::Rtmp, self.remote, local)?;
                self.feed.insert(Feed::new(publisher))
            }
        };
        let of_use = match type_id {
            type_id::VIDEO | type_id::AUDIO => {
                if first {
                    feed.reconnected();
                    self.last_media = Some(Instant::now());
                }
                match type_id {
                    type_id::VIDEO => feed.video(timestamp_ms, payload, now),
                    _ => feed.audio(timestamp_ms, payload, now),
                }
            }
            type_id::DATA_AMF0 => {
                if let Ok(Some(metadata)) = Metadata::parse(&payload) {
                    feed.metadata(&metadata);
                }
                false
            }
            _ => false,
        };
        if of_use {
            self.last_media = Some(Instant::now());
            self.source.live();
        }
        Ok(())
    }

    fn in_time(&self, begun: Instant) -> Result<(), PullError> {
        let limits = self.source.limits();
        match self.last_media {
            None if begun.elapsed() > limits.connect_timeout => {
                Err(PullError::Timeout { what: "media", limit: limits.connect_timeout })
            }
            Some(at) if at.elapsed() > limits.publisher_timeout => {
                Err(PullError::Silent(limits.publisher_timeout))
            }
            _ => Ok(()),
        }
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

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
