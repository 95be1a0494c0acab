//! All sources of the daemon.

use super::{
    Pull, PullError, Scheme, SourceId, SourceLimits, SourceSnapshot, SourceState, SourceUri, UriError, reach,
    task::{self, GOODBYE_LIMIT, Source},
};
use crate::{
    config::Transport,
    hub::Hub,
    ingest::{drain::common_origin, rtmp::RtmpPull, rtsp::RtspPull},
    media::{NameError, RoomName, StreamName, split_path},
};
use chrono::Utc;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Time for looking a new source's host up; a name that takes longer is looked up again by the source itself.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    #[error("uri: {0}")]
    Uri(#[from] UriError),
    #[error("stream: {0}")]
    Stream(#[from] NameError),
    #[error("uri: {0}:// is not supported by this version; use rtsp:// or rtmp://")]
    NotSupported(&'static str),
    #[error("uri: {0}; list the host there to allow it")]
    NotAllowed(PullError),
    #[error("{uri} is pulled already, as source {id}; end that one first")]
    Taken { uri: String, id: SourceId },
    #[error("{0} sources are pulled already, the most that [limits] max_sources allows")]
    TooMany(usize),
    #[error("the daemon is ending and starts nothing new")]
    ShuttingDown,
}

/// What a new source is to be.
#[derive(Clone, Debug)]
pub struct SourceRequest {
    pub uri: SourceUri,
    /// `ROOM/STREAM`; `None` = made of the URI.
    pub stream: Option<String>,
    pub transport: Transport,
    /// Record it whatever the policy says.
    pub record: bool,
}

/// A cheap handle; all clones are the same.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

struct Inner {
    hub: Hub,
    limits: Arc<SourceLimits>,
    started: Instant,
    sources: Mutex<HashMap<SourceId, Entry>>,
    tasks: TaskTracker,
}

struct Entry {
    source: Arc<Source>,
    /// Cancelled when its task has ended.
    ended: CancellationToken,
}

impl Sources {
    pub fn new(hub: Hub, limits: SourceLimits) -> Self {
        let inner = Inner {
            hub,
            limits: Arc::new(limits),
            started: common_origin(),
            sources: Mutex::default(),
            tasks: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Refuses a host that is known not to be allowed. What cannot be looked up now is left to the source, which checks
    /// the address of every connection.
    pub async fn check_host(&self, uri: &SourceUri) -> Result<(), SourcesError> {
        let lookup = reach::addresses(uri.host(), uri.port(), &self.inner.limits);
        match timeout(LOOKUP_LIMIT, lookup).await {
            Ok(Err(error @ PullError::NotAllowed { .. })) => Err(SourcesError::NotAllowed(error)),
            _ => Ok(()),
        }
    }

    /// Adds a source and begins to pull it. Needs a tokio runtime.
    pub fn add(&self, request: SourceRequest) -> Result<SourceSnapshot, SourcesError> {
        let (room, name) = match &request.stream {
            Some(path) => split_path(path)?,
            None => (RoomName::default(), StreamName::new(&request.uri.derived_name())?),
        };
        let mut sources = self.sources();
        if self.inner.tasks.is_closed() {
            return Err(SourcesError::ShuttingDown);
        }
        let uri = request.uri.to_string();
        if let Some(same) = sources.values().find(|e| e.source.uri.to_string() == uri) {
            return Err(SourcesError::Taken { uri, id: same.source.id });
        }
        if sources.len() >= self.inner.limits.max_sources {
            return Err(SourcesError::TooMany(sources.len()));
        }
        let source = Arc::new(Source {
            id: SourceId::random(),
            uri: request.uri,
            room,
            name,
            transport: request.transport,
            record: request.record,
            added_at: Utc::now(),
            hub: self.inner.hub.clone(),
            limits: self.inner.limits.clone(),
            started: self.inner.started,
            state: Mutex::default(),
            told: watch::Sender::new(SourceState::Connecting { failure: None }),
            stop: CancellationToken::new(),
            published: CancellationToken::new(),
        });
        let ended = CancellationToken::new();
        self.spawn(source.clone(), ended.clone())?;
        let snapshot = source.snapshot();
        sources.insert(source.id, Entry { source, ended });
        Ok(snapshot)
    }

    fn spawn(&self, source: Arc<Source>, ended: CancellationToken) -> Result<(), SourcesError> {
        let scheme = source.uri.scheme();
        let done = ended.drop_guard();
        match scheme {
            Scheme::Rtsp => self.run(source, RtspPull::default(), done),
            Scheme::Rtmp | Scheme::Rtmps => self.run(source, RtmpPull::default(), done),
            Scheme::Rtsps => return Err(SourcesError::NotSupported(scheme.as_str())),
        }
        Ok(())
    }

    fn run(&self, source: Arc<Source>, pull: impl Pull, done: DropGuard) {
        let this = self.clone();
        self.inner.tasks.spawn(async move {
            task::run(&source, pull).await;
            this.forget(source.id);
            drop(done);
        });
    }

    /// Every source, oldest first.
    pub fn list(&self) -> Vec<SourceSnapshot> {
        let mut all: Vec<_> = self.sources().values().map(|e| e.source.snapshot()).collect();
        all.sort_by_key(|s| (s.added_at, s.id));
        all
    }

    pub fn get(&self, id: SourceId) -> Option<SourceSnapshot> {
        self.sources().get(&id).map(|e| e.source.snapshot())
    }

    /// How far a source is, and each change of it.
    pub fn watch(&self, id: SourceId) -> Option<watch::Receiver<SourceState>> {
        self.sources().get(&id).map(|e| e.source.told.subscribe())
    }

    /// The source that pulls `uri`, compared without credentials.
    pub fn find(&self, uri: &SourceUri) -> Option<SourceSnapshot> {
        let uri = uri.to_string();
        self.sources().values().find(|e| e.source.uri.to_string() == uri).map(|e| e.source.snapshot())
    }

    /// Ends a source and its stream; done when both are gone. False when there is none with this id.
    pub async fn remove(&self, id: SourceId) -> bool {
        let Some(ended) = self.sources().get(&id).map(|entry| {
            entry.source.stop.cancel();
            entry.ended.clone()
        }) else {
            return false;
        };
        // Its task breaks off after GOODBYE_LIMIT, so this ends.
        let _ = timeout(GOODBYE_LIMIT * 2, ended.cancelled()).await;
        // A task that broke down could not do it.
        self.forget(id);
        true
    }

    /// Ends all sources and takes no more. Waits for it, at most `limit`.
    pub async fn stop(&self, limit: Duration) {
        {
            let sources = self.sources();
            self.inner.tasks.close();
            sources.values().for_each(|entry| entry.source.stop.cancel());
        }
        if timeout(limit, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("sources did not end within {} s", limit.as_secs_f32());
        }
    }

    fn forget(&self, id: SourceId) {
        self.sources().remove(&id);
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<SourceId, Entry>> {
        self.inner.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
