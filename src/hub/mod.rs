//! The meeting point: publishers bring access units, subscribers take them; neither knows the other.
//!
//! Lock order: registry < stream < queue, and never two streams. No lock is held across I/O, an `.await` or a GStreamer call.

mod gop;
mod memory;
mod preroll;
mod publisher;
mod queue;
mod ring;
mod stream;
#[cfg(test)]
mod tests;
mod wall;

pub use memory::QueueRule;
pub use preroll::{PrerollGiven, PrerollRule};
pub use publisher::Publisher;
pub use queue::{Item, Subscriber};
pub use stream::{Announce, EndReason, Stream, StreamSnapshot};

use crate::media::{MediaSessionId, RoomName, StreamName};
use memory::QueueMemory;
use preroll::{Budget, Share};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// A stream whose tracks are known, told once per publish.
pub struct Publishing {
    pub stream: Arc<Stream>,
    /// Made together with the stream, so it holds every access unit from the first one on.
    pub from_start: Subscriber,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    #[error("stream name is already in use: {room}/{name} is being published by {by}")]
    NameTaken { room: RoomName, name: StreamName, by: std::net::SocketAddr },
    #[error("[limits] max_sessions = {0} streams are live; try again later")]
    TooManyStreams(usize),
}

/// The registry of live streams.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Mutex<Registry>,
    publishing: mpsc::Sender<Publishing>,
    /// How many bytes a subscriber may fall behind.
    queue_bytes: usize,
    queues: Arc<QueueMemory>,
    preroll: Arc<Budget>,
    /// Streams at the same time; 0: no limit.
    max_streams: AtomicUsize,
    /// Streams that were one too many.
    refused: AtomicU64,
}

/// Rings that are shortened at one go; what is over then waits for the next access unit of any stream.
const MAX_SHORTENED: usize = 64;

#[derive(Default)]
struct Registry {
    by_name: HashMap<(RoomName, StreamName), MediaSessionId>,
    by_id: HashMap<MediaSessionId, Arc<Stream>>,
}

/// Publishes that may wait for the listener of [`Hub::new`]'s channel; past that a publisher waits.
const PUBLISHING_BACKLOG: usize = 64;

impl Hub {
    /// `queues`: how many bytes subscribers may fall behind before frames are left out for them.
    /// `preroll`: what is kept of the past beyond each stream's current group of pictures.
    /// The receiver gets every stream as it starts publishing and must be read.
    pub fn new(queues: impl Into<QueueRule>, preroll: PrerollRule) -> (Self, mpsc::Receiver<Publishing>) {
        let queues = queues.into();
        let (publishing, receiver) = mpsc::channel(PUBLISHING_BACKLOG);
        let inner = Inner {
            registry: Mutex::default(),
            publishing,
            queue_bytes: queues.each_bytes,
            queues: Arc::new(QueueMemory::new(queues)),
            preroll: Arc::new(Budget::new(preroll)),
            max_streams: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// Takes the name until the [`Publisher`] is ended or dropped. Errors when it is live already, or when as many streams
    /// as allowed are: in this order, so that who takes its own name over is not one too many.
    pub fn publish(&self, announce: Announce) -> Result<Publisher, HubError> {
        let key = (announce.room.clone(), announce.name.clone());
        let mut registry = self.registry();
        if let Some(live) = registry.by_name.get(&key).and_then(|id| registry.by_id.get(id)) {
            return Err(HubError::NameTaken { room: key.0, name: key.1, by: live.announce().remote });
        }
        let max = self.inner.max_streams.load(Ordering::Relaxed);
        if max > 0 && registry.by_id.len() >= max {
            self.inner.refused.fetch_add(1, Ordering::Relaxed);
            return Err(HubError::TooManyStreams(max));
        }
        let stream = Arc::new(Stream::new(
            announce,
            Share::new(self.inner.preroll.clone()),
            self.inner.queues.clone(),
        ));
        registry.by_name.insert(key, stream.id());
        registry.by_id.insert(stream.id(), stream.clone());
        drop(registry);
        Ok(Publisher::new(self.clone(), stream))
    }

    pub fn get(&self, id: MediaSessionId) -> Option<Arc<Stream>> {
        self.registry().by_id.get(&id).cloned()
    }

    /// Every live stream, oldest first.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        let mut all: Vec<_> = self.registry().by_id.values().cloned().collect();
        all.sort_by_key(|s| (s.created_at(), s.id()));
        all
    }

    pub fn stream_count(&self) -> usize {
        self.registry().by_id.len()
    }

    /// How many streams are taken at the same time from now on; 0: any number.
    pub fn set_max_streams(&self, max: usize) {
        self.inner.max_streams.store(max, Ordering::Relaxed);
    }

    /// How many streams were one too many.
    pub fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    /// What is kept of all streams from their next access unit on, in place of [`PrerollRule::always`].
    pub fn set_preroll_always(&self, always: Duration) {
        self.inner.preroll.set_always(always);
    }

    /// What all subscribers together have not taken yet, bytes.
    pub fn queued_bytes(&self) -> u64 {
        self.inner.queues.used_bytes()
    }

    /// Memory that the past beyond the current groups of pictures takes, bytes.
    pub fn preroll_bytes(&self) -> u64 {
        self.inner.preroll.used_bytes()
    }

    /// How often a stream's past was cut because the memory ran short; once per stream and shortage.
    pub fn preroll_shortages(&self) -> u64 {
        self.inner.preroll.shortages()
    }

    /// Shortens the longest rings until all fit the budget. The caller has no stream's lock. Two at once may give up a
    /// group more than needed; it comes back.
    fn shrink_rings(&self) {
        for _ in 0..MAX_SHORTENED {
            let over_bytes = self.inner.preroll.over_bytes();
            let longest = if over_bytes > 0 { self.longest_ring() } else { None };
            let Some((stream, next_ns)) = longest else { return };
            stream.give_up(over_bytes, next_ns);
        }
    }

    /// The stream with the longest ring, and the media time of the next one's.
    fn longest_ring(&self) -> Option<(Arc<Stream>, u64)> {
        let registry = self.registry();
        let (mut longest, mut next_ns) = (None, 0);
        for stream in registry.by_id.values() {
            let Some(span_ns) = stream.spare_ns() else { continue };
            match longest {
                Some((most_ns, _)) if span_ns <= most_ns => next_ns = next_ns.max(span_ns),
                before => {
                    next_ns = before.map_or(0, |(most_ns, _)| most_ns);
                    longest = Some((span_ns, stream));
                }
            }
        }
        longest.map(|(_, stream)| (stream.clone(), next_ns))
    }

    fn remove(&self, stream: &Stream) {
        let announce = stream.announce();
        let mut registry = self.registry();
        if registry.by_id.remove(&stream.id()).is_some() {
            registry.by_name.remove(&(announce.room.clone(), announce.name.clone()));
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
