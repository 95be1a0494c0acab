use super::{
    Hub, Publishing,
    gop::GopCache,
    queue::{Item, Queue, Subscriber},
};
use crate::media::{Frame, Gap, MediaKind, MediaSessionId, Protocol, RoomName, StreamName, Tracks};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

/// Who publishes what, as known when the publish is accepted.
#[derive(Clone, Debug)]
pub struct Announce {
    pub room: RoomName,
    pub name: StreamName,
    pub protocol: Protocol,
    pub remote: SocketAddr,
    /// Id of the publisher's connection, safe in a file name.
    pub session_id: String,
    /// The publisher asked for a recording (`record=true`).
    pub record: bool,
}

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    #[error("the publisher said so")]
    Unpublished,
    #[error("its connection closed")]
    Disconnected,
    #[error("it sent nothing for longer than allowed")]
    TimedOut,
    /// By an API call or the daemon's own end.
    #[error("it was ended from here")]
    Kicked,
    /// It broke the protocol.
    #[error("{0}")]
    Failed(String),
}

/// One live stream: fan-out from one publisher to any number of subscribers.
pub struct Stream {
    id: MediaSessionId,
    announce: Announce,
    created_at: DateTime<Utc>,
    state: Mutex<State>,
    kicked: CancellationToken,
    key_frame_wanted: AtomicBool,
    away: AtomicBool,
}

#[derive(Default)]
struct State {
    tracks: Tracks,
    settled: bool,
    ended: Option<EndReason>,
    gop: GopCache,
    subscribers: Vec<Arc<Queue>>,
    frames: u64,
    bytes: u64,
    /// Wall-clock time at which running time 0 arrived.
    origin: Option<DateTime<Utc>>,
    gaps: u64,
    packets_lost: u64,
    left_out: Vec<String>,
}

/// Reasons of [`Stream::left_out`]: a publisher has a track or two that cannot be taken.
const MAX_LEFT_OUT: usize = 8;

/// A stream's numbers at one moment.
#[derive(Clone, Debug)]
pub struct StreamSnapshot {
    pub tracks: Tracks,
    /// Its tracks are known, and who sends it is there. It can be recorded while its source is away, too: see
    /// [`Stream::subscribe`].
    pub publishing: bool,
    pub frames: u64,
    pub bytes: u64,
    /// Jumps of the sender's clock, losses and reconnects.
    pub gaps: u64,
    /// Packets that never came.
    pub packets_lost: u64,
}

impl Stream {
    pub(super) fn new(announce: Announce) -> Self {
        Self {
            id: MediaSessionId::random(),
            announce,
            created_at: Utc::now(),
            state: Mutex::default(),
            kicked: CancellationToken::new(),
            key_frame_wanted: AtomicBool::new(false),
            away: AtomicBool::new(false),
        }
    }

    pub fn id(&self) -> MediaSessionId {
        self.id
    }

    pub fn announce(&self) -> &Announce {
        &self.announce
    }

    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    pub fn snapshot(&self) -> StreamSnapshot {
        let state = self.lock();
        StreamSnapshot {
            tracks: state.tracks.clone(),
            publishing: state.settled && state.ended.is_none() && !self.away.load(Ordering::Relaxed),
            frames: state.frames,
            bytes: state.bytes,
            gaps: state.gaps,
            packets_lost: state.packets_lost,
        }
    }

    /// Wall-clock time that belongs to `ns` of the stream's running time.
    pub fn wall_time(&self, ns: u64) -> DateTime<Utc> {
        let origin = self.lock().origin.unwrap_or(self.created_at);
        origin + TimeDelta::nanoseconds(i64::try_from(ns).unwrap_or(i64::MAX))
    }

    /// A subscription that begins with the last key frame already seen. `None` when the stream has ended or
    /// its tracks are not known yet.
    pub fn subscribe(&self, max_bytes: usize) -> Option<Subscriber> {
        let mut state = self.lock();
        if !state.settled || state.ended.is_some() {
            return None;
        }
        let subscriber = Subscriber::new(max_bytes);
        let queue = subscriber.queue();
        let has_video = state.tracks.video().is_some();
        for item in state.gop.items() {
            match item {
                Item::Frame(frame) => queue.push_frame(&frame, state.is_video(&frame), has_video),
                other => queue.push_item(other),
            }
        }
        state.subscribers.push(queue);
        Some(subscriber)
    }

    /// What the publisher sends and nobody gets, and why; each reason once.
    pub fn left_out(&self) -> Vec<String> {
        self.lock().left_out.clone()
    }

    /// Asks the publisher for a key frame soon; without effect where its protocol has no way to ask.
    pub fn request_key_frame(&self) {
        self.key_frame_wanted.store(true, Ordering::Relaxed);
    }

    /// A pulled source's stream outlives its connections: whether there is none that media arrives on. Only shown; who
    /// subscribes waits for the source's return.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// Asks the publisher's connection to end.
    pub fn kick(&self) {
        self.kicked.cancel();
    }

    /// Done when someone asked the stream to end.
    pub async fn kicked(&self) {
        self.kicked.cancelled().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_video(&self, frame: &Frame) -> bool {
        self.tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Video)
    }

    fn tell_all(&mut self, item: &Item) {
        self.subscribers.retain(|q| !q.is_detached());
        self.subscribers.iter().for_each(|q| q.push_item(item.clone()));
    }
}

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
        state.gop.set_tracks(&tracks);
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
        self.stream.lock().gop.settle();
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
        let ago_ns = i64::try_from(ago.as_nanos()).unwrap_or(0).saturating_add_unsigned(dts_ns);
        self.stream.lock().origin.get_or_insert_with(|| Utc::now() - TimeDelta::nanoseconds(ago_ns));
    }

    /// Hands on a batch, emptying it. One lock for all of them, no waiting.
    pub fn publish(&mut self, batch: &mut Vec<Frame>) {
        let mut guard = self.stream.lock();
        let state = &mut *guard;
        let has_video = state.tracks.video().is_some();
        for frame in batch.drain(..) {
            state.frames += 1;
            state.bytes += frame.buffer.size() as u64;
            if state.origin.is_none() {
                state.origin = Some(Utc::now() - TimeDelta::nanoseconds(frame.dts_ns() as i64));
            }
            let video = state.is_video(&frame);
            for queue in &state.subscribers {
                queue.push_frame(&frame, video, has_video);
            }
            state.gop.push(&frame, &state.tracks);
        }
    }

    /// Tells every subscriber that the timeline is not whole here.
    pub fn gap(&mut self, gap: Gap) {
        let mut state = self.stream.lock();
        state.gaps += 1;
        state.packets_lost += gap.packets;
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
        state.gop.clear();
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::hub::HubError;
    use crate::media::{Codec, Track, TrackId};
    use gstreamer as gst;
    use std::collections::VecDeque;

    pub const V: TrackId = TrackId(0);
    pub const A: TrackId = TrackId(1);

    pub fn av_tracks() -> Tracks {
        with_video_caps("video/x-h264")
    }

    pub fn with_video_caps(caps: &str) -> Tracks {
        gst::init().expect("GStreamer");
        let track = |id, codec, caps| Track { id, codec, caps, size: None, rate: None, channels: None };
        Tracks::new(vec![
            track(V, Codec::H264, caps.parse().expect("caps")),
            track(A, Codec::Aac, gst::Caps::new_empty_simple("audio/mpeg")),
        ])
    }

    pub fn frame(track: TrackId, ms: u64, key: bool) -> Frame {
        gst::init().expect("GStreamer");
        let mut buffer = gst::Buffer::from_slice([track.0; 4]);
        let b = buffer.make_mut();
        b.set_pts(gst::ClockTime::from_mseconds(ms));
        b.set_dts(gst::ClockTime::from_mseconds(ms));
        if !key {
            b.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        Frame { track, buffer }
    }

    fn announce(name: &str) -> Announce {
        Announce {
            room: RoomName::default(),
            name: StreamName::new(name).expect("name"),
            protocol: Protocol::Rtmp,
            remote: ([127, 0, 0, 1], 5).into(),
            session_id: "s".into(),
            record: false,
        }
    }

    fn dts_ms(subscriber: &Subscriber) -> Vec<u64> {
        let mut items = VecDeque::new();
        subscriber.drain(&mut items);
        let frames = items.iter().filter_map(|i| match i {
            Item::Frame(f) => Some(f.dts_ns() / 1_000_000),
            _ => None,
        });
        frames.collect()
    }

    #[tokio::test]
    async fn a_recording_on_demand_begins_at_the_key_frame_already_seen() {
        let (hub, mut publishing) = Hub::new(1 << 20);
        let mut publisher = hub.publish(announce("cam")).expect("free name");
        publisher.set_tracks(av_tracks());
        publisher.publish(&mut vec![frame(V, 0, true), frame(V, 40, false)]);
        publisher.settle();
        publisher.publish(&mut vec![frame(V, 80, true), frame(V, 120, false)]);
        let late = publisher.stream().subscribe(1 << 20).expect("publishing");
        publisher.publish(&mut vec![frame(V, 160, false)]);
        assert_eq!(dts_ms(&late), [80, 120, 160]);
        let started = publishing.recv().await.expect("told");
        assert_eq!(dts_ms(&started.from_start), [0, 40, 80, 120, 160]);
    }

    #[tokio::test]
    async fn a_stream_whose_source_is_away_is_not_publishing_and_can_be_recorded() {
        let (hub, _publishing) = Hub::new(1 << 20);
        let mut publisher = hub.publish(announce("cam")).expect("free name");
        publisher.set_tracks(av_tracks());
        publisher.settle();
        let stream = publisher.stream().clone();
        assert!(stream.snapshot().publishing);
        stream.set_away(true);
        assert!(!stream.snapshot().publishing);
        let waiting = stream.subscribe(1 << 20).expect("it comes back");
        stream.set_away(false);
        assert!(stream.snapshot().publishing);
        publisher.publish(&mut vec![frame(V, 0, true)]);
        assert_eq!(dts_ms(&waiting), [0]);
    }

    #[tokio::test]
    async fn a_live_name_is_refused_and_free_again_after_the_end() {
        let (hub, _publishing) = Hub::new(1 << 20);
        let first = hub.publish(announce("cam")).expect("free name");
        assert!(matches!(hub.publish(announce("cam")), Err(HubError::NameTaken { .. })));
        hub.publish(announce("other")).expect("another name");
        drop(first);
        hub.publish(announce("cam")).expect("free again");
    }

    /// Once the second end freed the name under the publisher that had it by then.
    #[tokio::test]
    async fn a_stream_that_ends_twice_frees_its_name_once() {
        let (hub, _publishing) = Hub::new(1 << 20);
        let mut first = hub.publish(announce("cam")).expect("free name");
        first.end(EndReason::Unpublished);
        let _second = hub.publish(announce("cam")).expect("free again");
        first.end(EndReason::Kicked);
        assert!(matches!(hub.publish(announce("cam")), Err(HubError::NameTaken { .. })));
    }
}
