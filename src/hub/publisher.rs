use super::{EndReason, Hub, Item, Publishing, stream::Stream};
use crate::media::{Frame, Gap, GapKind, Tracks};
use chrono::{TimeDelta, Utc};
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::mpsc::error::TrySendError;

/// Reasons of [`Stream::left_out`]: a publisher has a track or two that cannot be taken.
const MAX_LEFT_OUT: usize = 8;

/// The publishing side of a stream; ends it when dropped.
pub struct Publisher {
    hub: Hub,
    stream: Arc<Stream>,
}

impl Publisher {
    pub(super) fn new(hub: Hub, stream: Arc<Stream>) -> Self {
        Self { hub, stream }
    }

    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Whether a key frame has been asked for since the last call.
    pub fn take_key_frame_request(&self) -> bool {
        self.stream.key_frame_wanted.swap(false, Ordering::Relaxed)
    }

    /// Done when someone asked the stream to end.
    pub async fn kicked(&self) {
        self.stream.kicked().await;
    }

    /// The tracks that the frames published from now on belong to: before the first frame, and again when a
    /// codec's parameters change.
    pub fn set_tracks(&mut self, tracks: Tracks) {
        let mut state = self.stream.lock();
        if state.tracks == tracks {
            return;
        }
        state.ring.set_tracks(&tracks);
        state.tracks = tracks.clone();
        // Before that a second track that shows up late is no change: who subscribes hears of both at once.
        if state.settled {
            state.tell_all(&Item::Tracks(tracks));
        }
    }

    /// No further track is waited for: the stream counts as publishing and can be recorded.
    pub fn settle(&mut self) {
        if std::mem::replace(&mut self.stream.lock().settled, true) {
            return;
        }
        let Some(from_start) = self.stream.subscribe(self.hub.inner.queue_bytes) else { return };
        self.stream.lock().ring.settle();
        let publishing = Publishing { stream: self.stream.clone(), from_start };
        match self.hub.inner.publishing.try_send(publishing) {
            // Closed: the receiver is gone only when the daemon ends; then nothing new is recorded.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(publishing)) => {
                let sender = self.hub.inner.publishing.clone();
                tokio::spawn(async move { sender.send(publishing).await });
            }
        }
    }

    /// The first access unit, decoding time `dts_ns`, arrived `ago`: for a publisher that holds it until its tracks are
    /// known. Without this it counts as arrived when it is published.
    pub fn began(&mut self, dts_ns: u64, ago: std::time::Duration) {
        let ago = TimeDelta::from_std(ago).unwrap_or_default();
        self.stream.lock().wall.begin(dts_ns, Utc::now() - ago);
    }

    /// Hands on a batch, emptying it. One lock for all of them, no waiting.
    pub fn publish(&mut self, batch: &mut Vec<Frame>) {
        let mut guard = self.stream.lock();
        let state = &mut *guard;
        if state.ended.is_some() {
            return batch.clear();
        }
        let budget = self.stream.share().budget();
        let has_video = state.tracks.video().is_some();
        for frame in batch.drain(..) {
            state.frames += 1;
            state.bytes += frame.buffer.size() as u64;
            if state.frames == 1 {
                state.wall.begin(frame.dts_ns(), Utc::now());
            }
            state.tell_frame(&frame, has_video);
            let retention_ns = budget.retention_ns(!state.subscribers.is_empty());
            state.ring.push(&frame, &state.tracks, retention_ns);
        }
        drop(guard);
        // Not under this stream's lock: it may be another's ring that shrinks.
        if budget.over_bytes() > 0 {
            self.hub.shrink_rings();
        }
    }

    /// Tells every subscriber that the timeline is not whole here.
    pub fn gap(&mut self, mut gap: Gap) {
        let mut state = self.stream.lock();
        if gap.kind == GapKind::Reconnect {
            gap.at = state.wall.at(gap.at_ms.saturating_mul(1_000_000));
            let from_ns = state.ring.newest_ns() + 1;
            state.wall.away(from_ns, gap.by_ms);
        }
        state.gaps += 1;
        state.packets_lost += gap.packets;
        state.ring.gap(&gap);
        state.tell_all(&Item::Gap(gap));
    }

    /// A whole track cannot be taken, for `reason`. At most 8 reasons are kept.
    pub fn leave_out(&mut self, reason: String) {
        let mut state = self.stream.lock();
        if state.left_out.len() < MAX_LEFT_OUT && !state.left_out.contains(&reason) {
            state.left_out.push(reason);
        }
    }

    /// Ends the stream, once; its name is free when this returns.
    pub fn end(&mut self, reason: EndReason) {
        self.hub.remove(&self.stream);
        let mut state = self.stream.lock();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(reason.clone());
        state.ring.clear();
        state.tell_all(&Item::End(reason));
        state.subscribers.clear();
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.stream.lock().ended.is_none() {
            self.end(EndReason::Disconnected);
        }
    }
}
