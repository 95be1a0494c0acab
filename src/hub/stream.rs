use super::{
    memory::QueueMemory,
    preroll::{PrerollGiven, Share, nanos},
    queue::{Item, Queue, Subscriber},
    ring::GopRing,
    wall::WallClock,
};
use crate::media::{Frame, MediaKind, MediaSessionId, Protocol, RoomName, StreamName, Track, Tracks};
use chrono::{DateTime, Utc};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
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
    share: Arc<Share>,
    kicked: CancellationToken,
    pub(super) key_frame_wanted: AtomicBool,
    away: AtomicBool,
    changes: watch::Sender<()>,
}

pub(super) struct State {
    pub tracks: Tracks,
    pub settled: bool,
    pub ended: Option<EndReason>,
    pub ring: GopRing,
    pub subscribers: Vec<Arc<Queue>>,
    queues: Arc<QueueMemory>,
    pub frames: u64,
    pub pictures: u64,
    pub bytes: u64,
    /// By the arrival of its first access unit.
    pub wall: WallClock,
    pub gaps: u64,
    pub packets_lost: u64,
    pub left_out: Vec<String>,
    shortage_told: Option<Instant>,
}

/// A stream whose pre-roll memory runs short again and again says so this often.
const TELL_SHORTAGE_EVERY: Duration = Duration::from_secs(60);

/// A stream's numbers at one moment.
#[derive(Clone, Debug)]
pub struct StreamSnapshot {
    pub tracks: Tracks,
    /// Its tracks are known, and who sends it is there. It can be recorded while its source is away, too: see
    /// [`Stream::subscribe`].
    pub publishing: bool,
    pub frames: u64,
    /// Those of `frames` that are video.
    pub pictures: u64,
    pub bytes: u64,
    /// Jumps of the sender's clock, losses and reconnects.
    pub gaps: u64,
    /// Packets that never came.
    pub packets_lost: u64,
}

impl Stream {
    pub(super) fn new(announce: Announce, share: Share, queues: Arc<QueueMemory>) -> Self {
        let share = Arc::new(share);
        Self {
            id: MediaSessionId::random(),
            announce,
            created_at: Utc::now(),
            state: Mutex::new(State::new(GopRing::new(share.clone()), queues)),
            share,
            kicked: CancellationToken::new(),
            key_frame_wanted: AtomicBool::new(false),
            away: AtomicBool::new(false),
            changes: watch::Sender::new(()),
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
            pictures: state.pictures,
            bytes: state.bytes,
            gaps: state.gaps,
            packets_lost: state.packets_lost,
        }
    }

    /// Wall-clock time that belongs to `ns` of the stream's running time.
    pub fn wall_time(&self, ns: u64) -> DateTime<Utc> {
        self.lock().wall.at(ns).unwrap_or(self.created_at)
    }

    /// A subscription that begins with the last key frame already seen. `None` when the stream has ended or
    /// its tracks are not known yet.
    ///
    /// What a subscription begins with counts nothing against `max_bytes`, the bytes it may fall behind.
    pub fn subscribe(&self, max_bytes: usize) -> Option<Subscriber> {
        let mut state = self.live()?;
        let first = state.ring.items();
        Some(state.subscriber(max_bytes, first))
    }

    /// The same from the last key frame that is at least `preroll` older than the newest access unit, or else from the
    /// oldest that is kept.
    pub fn subscribe_with_preroll(
        &self,
        max_bytes: usize,
        preroll: Duration,
    ) -> Option<(Subscriber, PrerollGiven)> {
        let mut state = self.live()?;
        let (first, given) = state.ring.items_with_preroll(nanos(preroll));
        Some((state.subscriber(max_bytes, first), given))
    }

    /// The same without the past: the tracks, then only what is published from now on.
    pub fn subscribe_from_now(&self, max_bytes: usize) -> Option<Subscriber> {
        let mut state = self.live()?;
        let first = VecDeque::from([Item::Tracks(state.tracks.clone())]);
        Some(state.subscriber(max_bytes, first))
    }

    /// The newest key frame of video, shared, and the track that it belongs to. `None`: there is none, or it is not kept.
    pub fn key_frame(&self) -> Option<(Track, Frame)> {
        self.live()?.ring.key_frame()
    }

    /// Media time of what its ring can give up; `None` when there is nothing. Takes no lock.
    pub(super) fn spare_ns(&self) -> Option<u64> {
        self.share.span_ns()
    }

    /// Makes the ring shorter by `bytes`, or until it is shorter than `next_ns`.
    pub(super) fn give_up(&self, bytes: u64, next_ns: u64) {
        let mut state = self.lock();
        let given_up = state.ring.give_up(bytes, next_ns);
        let tell = given_up.newly_short && state.may_tell_shortage();
        drop(state);
        if given_up.newly_short {
            self.share.budget().count_shortage();
        }
        if tell {
            let Announce { room, name, .. } = &self.announce;
            tracing::warn!(
                "{room}/{name}: the memory for pre-roll runs short ([limits] preroll_memory): less of the past is kept"
            );
        }
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
        if self.away.swap(away, Ordering::Relaxed) != away {
            self.changed();
        }
    }

    /// Changes when its tracks or its status do, or when it has ended.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Why it ended; `None` while it has not.
    pub fn ended(&self) -> Option<EndReason> {
        self.lock().ended.clone()
    }

    /// Not under its lock.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|()| ());
    }

    /// Asks the publisher's connection to end.
    pub fn kick(&self) {
        self.kicked.cancel();
    }

    /// Done when someone asked the stream to end.
    pub async fn kicked(&self) {
        self.kicked.cancelled().await;
    }

    /// `None` when it has ended or its tracks are not known yet.
    fn live(&self) -> Option<MutexGuard<'_, State>> {
        Some(self.lock()).filter(|state| state.settled && state.ended.is_none())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }
}

impl State {
    fn new(ring: GopRing, queues: Arc<QueueMemory>) -> Self {
        Self {
            tracks: Tracks::default(),
            settled: false,
            ended: None,
            ring,
            subscribers: Vec::new(),
            queues,
            frames: 0,
            pictures: 0,
            bytes: 0,
            wall: WallClock::default(),
            gaps: 0,
            packets_lost: 0,
            left_out: Vec::new(),
            shortage_told: None,
        }
    }

    fn subscriber(&mut self, max_bytes: usize, first: VecDeque<Item>) -> Subscriber {
        let subscriber = Subscriber::new(max_bytes, first, self.queues.clone());
        self.subscribers.push(subscriber.queue());
        subscriber
    }

    fn may_tell_shortage(&mut self) -> bool {
        let due = self.shortage_told.is_none_or(|told| told.elapsed() >= TELL_SHORTAGE_EVERY);
        if due {
            self.shortage_told = Some(Instant::now());
        }
        due
    }

    pub fn is_video(&self, frame: &Frame) -> bool {
        self.tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Video)
    }

    /// Hands on an access unit, forgetting subscribers that are gone.
    pub fn tell_frame(&mut self, frame: &Frame, has_video: bool) {
        let video = self.is_video(frame);
        self.pictures += u64::from(video);
        self.subscribers.retain(|q| q.push_frame(frame, video, has_video));
    }

    pub fn tell_all(&mut self, item: &Item) {
        self.subscribers.retain(|q| q.push_item(item.clone()));
    }
}

#[cfg(test)]
pub(super) mod tests;
