//! The meeting point: publishers bring access units, subscribers take them; neither knows the other.
//!
//! Lock order: registry < stream < queue. No lock is held across I/O, an `.await` or a GStreamer call.

mod gop;
mod queue;
mod stream;

pub use queue::{Item, Subscriber};
pub use stream::{Announce, EndReason, Publisher, Stream, StreamSnapshot};

use crate::media::{MediaSessionId, RoomName, StreamName};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
}

#[derive(Default)]
struct Registry {
    by_name: HashMap<(RoomName, StreamName), MediaSessionId>,
    by_id: HashMap<MediaSessionId, Arc<Stream>>,
}

/// Publishes that may wait for the listener of [`Hub::new`]'s channel; past that a publisher waits.
const PUBLISHING_BACKLOG: usize = 64;

impl Hub {
    /// `queue_bytes`: how many bytes a subscriber may fall behind before frames are left out for it.
    /// The receiver gets every stream as it starts publishing and must be read.
    pub fn new(queue_bytes: usize) -> (Self, mpsc::Receiver<Publishing>) {
        let (publishing, receiver) = mpsc::channel(PUBLISHING_BACKLOG);
        let inner = Inner { registry: Mutex::default(), publishing, queue_bytes };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// Takes the name until the [`Publisher`] is ended or dropped. Errors when it is live already.
    pub fn publish(&self, announce: Announce) -> Result<Publisher, HubError> {
        let key = (announce.room.clone(), announce.name.clone());
        let mut registry = self.registry();
        if let Some(live) = registry.by_name.get(&key).and_then(|id| registry.by_id.get(id)) {
            return Err(HubError::NameTaken { room: key.0, name: key.1, by: live.announce().remote });
        }
        let stream = Arc::new(Stream::new(announce));
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
