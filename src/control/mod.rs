//! The verbs: what both API dialects, the CLI and the policy do to streams and recordings.

mod objects;
mod rules;
mod sources;
pub mod verify;
pub mod whip;

pub use crate::library::{Filter, Page, Recording, RecordingId, Status};
pub use objects::*;
pub use rules::Rules;
pub use sources::{Failure, NewSource, Scheme, Source, SourceId, SourceState};

use crate::{
    config::{NameTemplate, WebrtcRecording},
    hub::{Hub, Publishing, Stream, Subscriber},
    ingest::source::Sources,
    library::{Library, LibraryError},
    media::{MediaSessionId, Protocol, Track},
    record::{Order, Recorder, Running},
};
use chrono::Utc;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a start waits for the first frame to be in a file before it answers `starting`.
const START_WAIT: Duration = Duration::from_secs(2);

/// With less free space the disk counts as full: about what a fragment of a few streams takes.
const MIN_FREE_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    #[error("no live stream has media session id {0}; `GET /api/v1/sessions` lists them")]
    UnknownSession(MediaSessionId),
    #[error("stream {0} is not publishing yet: its tracks are not known; try again in a second")]
    NotPublishing(MediaSessionId),
    #[error("stream {session} is being recorded already, as recording {recording}")]
    AlreadyRecording { session: MediaSessionId, recording: RecordingId },
    #[error("stream {0} is not being recorded")]
    NotRecording(MediaSessionId),
    #[error("recording is switched off by record_streams=false in the policy file")]
    RecordingOff,
    #[error("fileTemplate: {0}")]
    Template(String),
    #[error("there is no recording {0}")]
    UnknownRecording(RecordingId),
    #[error("the cursor is not one that a list has answered; begin again without one")]
    BadCursor,
    #[error("the daemon is ending and starts nothing new")]
    ShuttingDown,
    #[error("there is no source {0}; `GET /api/v1/sources` lists them")]
    UnknownSource(SourceId),
    /// Something to pull that cannot be: a wrong URI or stream name.
    #[error("{0}")]
    BadSource(String),
    #[error("{0}")]
    SourceNotSupported(String),
    #[error("{0}")]
    SourceNotAllowed(String),
    #[error("{0}")]
    SourceTaken(String),
    #[error("{0}")]
    TooManySources(String),
    #[error("{0}")]
    Failed(String),
}

/// What a start call may ask for.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// In place of `stream_record_policy_template`.
    pub file_template: Option<String>,
}

/// What a start does about a recording that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRunning {
    /// Close it and begin a new one, as Flashphoner does.
    Restart,
    Refuse,
}

/// What `GET /api/v1/server` tells and never changes while the daemon runs.
pub struct Facts {
    pub addresses: Addresses,
    /// `connections` is asked for at each call.
    pub limits: LimitsInfo,
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// Where a relative hook script is looked for.
    pub hooks: PathBuf,
}

/// A cheap handle; all clones are the same.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    hub: Hub,
    recorder: Recorder,
    library: Library,
    sources: Sources,
    facts: Facts,
    rules: RwLock<Arc<Rules>>,
    active: Mutex<HashMap<MediaSessionId, Active>>,
    shutting_down: AtomicBool,
}

/// The newest recording of a session, until it is done.
struct Active {
    running: Running,
    /// Its end was asked for: a start may begin another one.
    stopping: bool,
}

impl Control {
    pub fn new(
        hub: Hub,
        recorder: Recorder,
        library: Library,
        sources: Sources,
        rules: Rules,
        facts: Facts,
    ) -> Self {
        let inner = Inner {
            hub,
            recorder,
            library,
            sources,
            facts,
            rules: RwLock::new(Arc::new(rules)),
            active: Mutex::default(),
            shutting_down: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn rules(&self) -> Arc<Rules> {
        self.inner.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Recordings started from now on follow `rules`.
    pub fn set_rules(&self, rules: Rules) {
        *self.inner.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Records a stream that has begun to publish, if the policy or the publisher wants it.
    pub fn record_by_policy(&self, publishing: Publishing) {
        let Publishing { stream, from_start } = publishing;
        let rules = self.rules();
        let by_policy = match stream.announce().protocol {
            Protocol::Rtmp => rules.policy.record_rtmp_streams,
            Protocol::Rtsp => rules.policy.record_rtsp_streams,
            Protocol::Webrtc => rules.policy.record_webrtc_streams == WebrtcRecording::Always,
        };
        let never = stream.announce().protocol == Protocol::Webrtc
            && rules.policy.record_webrtc_streams == WebrtcRecording::Never;
        let wanted = rules.policy.record_streams && !never && (by_policy || stream.announce().record);
        if wanted {
            // Also while the daemon ends: what such a stream has sent is already here and becomes a file.
            self.begin(&mut self.active(), stream, from_start, &rules);
        }
    }

    pub async fn start_recording(
        &self,
        id: MediaSessionId,
        options: StartOptions,
        when_running: WhenRunning,
    ) -> Result<Recording, ControlError> {
        let rules = self.rules_for(options)?;
        let stream = self.stream(id)?;
        let mut running = {
            let mut active = self.active();
            if self.is_shutting_down() {
                return Err(ControlError::ShuttingDown);
            }
            if let Some(now) = active.get_mut(&id).filter(|a| !a.stopping) {
                if when_running == WhenRunning::Refuse {
                    return Err(ControlError::AlreadyRecording { session: id, recording: now.running.id() });
                }
                now.stopping = true;
                now.running.stop();
            }
            let queue_bytes = self.inner.facts.limits.recorder_queue_bytes as usize;
            let subscriber = stream.subscribe(queue_bytes).ok_or(ControlError::NotPublishing(id))?;
            self.begin(&mut active, stream, subscriber, &rules)
        };
        let recording = match tokio::time::timeout(START_WAIT, running.started()).await {
            Ok(recording) => recording,
            Err(_) => running.progress().recording,
        };
        match recording.error {
            Some(error) => Err(ControlError::Failed(error)),
            None => Ok(recording),
        }
    }

    /// Answers when every file of the recording is final.
    pub async fn stop_recording(&self, id: MediaSessionId) -> Result<Recording, ControlError> {
        let mut running = {
            let mut active = self.active();
            let Some(now) = active.get_mut(&id) else {
                drop(active);
                return Err(self.stream(id).map_or_else(|e| e, |_| ControlError::NotRecording(id)));
            };
            // Also when its end was asked for already: whoever asks again is told the same.
            now.stopping = true;
            now.running.stop();
            now.running.clone()
        };
        Ok(running.done().await)
    }

    pub fn recording_state(&self, id: MediaSessionId) -> Result<RecordingState, ControlError> {
        self.stream(id)?;
        let active = self.active();
        let Some(now) = active.get(&id) else {
            return Ok(RecordingState {
                on: false,
                update_pending: false,
                total_running_duration_ms: 0,
                recording_id: None,
            });
        };
        let status = now.running.progress().recording.status;
        Ok(RecordingState {
            on: status == Status::Recording,
            update_pending: now.stopping || matches!(status, Status::Starting | Status::Finalizing),
            total_running_duration_ms: now.running.media_ms(),
            recording_id: Some(now.running.id()),
        })
    }

    /// Every recording under way.
    pub fn running(&self) -> Vec<RunningRecording> {
        let active = self.active();
        let mut running: Vec<_> = active
            .iter()
            .filter(|(_, a)| !a.stopping)
            .filter_map(|(id, a)| {
                let file_name = a.running.progress().file_name?;
                Some(RunningRecording { file_name, media_session_id: *id })
            })
            .collect();
        running.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        running
    }

    pub async fn recordings(&self, filter: Filter) -> Result<Page<Recording>, ControlError> {
        let mut page = self.inner.library.list(&filter).await.map_err(|e| match e {
            LibraryError::Cursor => ControlError::BadCursor,
            e => ControlError::Failed(e.to_string()),
        })?;
        page.items.iter_mut().for_each(|r| self.freshen(r));
        Ok(page)
    }

    pub async fn recording(&self, id: RecordingId) -> Result<Recording, ControlError> {
        let found = self.inner.library.get(&id).await.map_err(|e| ControlError::Failed(e.to_string()))?;
        let mut recording = found.ok_or(ControlError::UnknownRecording(id))?;
        self.freshen(&mut recording);
        Ok(recording)
    }

    pub fn sessions(&self) -> Vec<Session> {
        self.inner.hub.streams().iter().map(|s| self.describe(s)).collect()
    }

    pub fn session(&self, id: MediaSessionId) -> Result<Session, ControlError> {
        Ok(self.describe(&*self.stream(id)?))
    }

    /// Ends the publisher's connection. A pulled stream is not pulled again: its source is removed.
    pub fn end_session(&self, id: MediaSessionId) -> Result<(), ControlError> {
        self.stream(id)?.kick();
        Ok(())
    }

    pub fn server(&self) -> ServerInfo {
        let (rules, facts) = (self.rules(), &self.inner.facts);
        let connections = (facts.connections)();
        let totals = self.inner.recorder.totals();
        ServerInfo {
            version: env!("CARGO_PKG_VERSION"),
            addresses: facts.addresses.clone(),
            policy: PolicyInfo {
                file: rules.file.clone(),
                loaded_at: rules.loaded_at,
                error: rules.error.clone(),
            },
            limits: LimitsInfo { connections, ..facts.limits.clone() },
            load: LoadInfo {
                recordings: self.recordings_running(),
                transcoded_tracks: totals.transcoded_tracks.load(Ordering::Relaxed),
                element_threads: totals.element_threads.load(Ordering::Relaxed),
            },
            disk: self.disk(),
        }
    }

    /// Whether the daemon can record; if not, why.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_shutting_down() {
            return Err(ControlError::ShuttingDown.to_string());
        }
        let disk = self.disk();
        let path = disk.path.display();
        rustix::fs::access(&disk.path, rustix::fs::Access::WRITE_OK)
            .map_err(|e| format!("the records folder {path} cannot be written to: {e}"))?;
        if disk.free_bytes < MIN_FREE_BYTES {
            return Err(format!(
                "the disk of the records folder {path} is full: {} bytes are free",
                disk.free_bytes
            ));
        }
        Ok(())
    }

    /// Recordings whose frames are being written.
    pub fn recordings_running(&self) -> usize {
        self.inner.recorder.running()
    }

    /// Ends every recording, starts no more, and waits until all files are final; false when `limit` passed first.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        {
            // Under the lock that starts take, so that none slips through.
            let active = self.active();
            self.inner.shutting_down.store(true, Ordering::SeqCst);
            active.values().for_each(|a| a.running.stop());
        }
        self.inner.recorder.finished(limit).await
    }

    fn begin(
        &self,
        active: &mut HashMap<MediaSessionId, Active>,
        stream: Arc<Stream>,
        subscriber: Subscriber,
        rules: &Rules,
    ) -> Running {
        let session = stream.id();
        let hook = rules.policy.hook_in(&self.inner.facts.hooks);
        let (policy, templates) = (rules.policy.clone(), rules.templates.clone());
        let running = self.inner.recorder.start(Order {
            stream,
            subscriber,
            policy,
            templates,
            hook,
            max_part_duration: Duration::from_secs(12 * 60 * 60),
            degraded: Vec::new(),
        });
        active.insert(session, Active { running: running.clone(), stopping: false });
        let (control, mut watched) = (self.clone(), running.clone());
        tokio::spawn(async move {
            watched.done().await;
            let mut active = control.active();
            if active.get(&session).is_some_and(|a| a.running.id() == watched.id()) {
                active.remove(&session);
            }
        });
        running
    }

    fn rules_for(&self, options: StartOptions) -> Result<Arc<Rules>, ControlError> {
        let rules = self.rules();
        if !rules.policy.record_streams {
            return Err(ControlError::RecordingOff);
        }
        let Some(text) = options.file_template else { return Ok(rules) };
        let template = NameTemplate::parse(&text).map_err(|e| ControlError::Template(e.to_string()))?;
        Ok(Arc::new(rules.with_template(template)))
    }

    fn stream(&self, id: MediaSessionId) -> Result<Arc<Stream>, ControlError> {
        self.inner.hub.get(id).ok_or(ControlError::UnknownSession(id))
    }

    /// A row of the catalog does not know how far a running recording has come.
    fn freshen(&self, recording: &mut Recording) {
        let active = self.active();
        let now = active.get(&recording.media_session_id).filter(|a| a.running.id() == recording.id);
        if let Some(now) = now.filter(|_| !recording.status.is_final()) {
            recording.duration_ms = now.running.media_ms();
            recording.lost = now.running.progress().recording.lost;
        }
    }

    fn describe(&self, stream: &Stream) -> Session {
        let (announce, now) = (stream.announce(), stream.snapshot());
        let lived_ms = (Utc::now() - stream.created_at()).num_milliseconds().max(1) as u64;
        let active = self.active();
        let recording = active.get(&stream.id()).filter(|a| !a.stopping);
        Session {
            media_session_id: stream.id(),
            session_id: announce.session_id.clone(),
            name: announce.name.to_string(),
            room_name: announce.room.to_string(),
            room_id: announce.room.to_string(),
            protocol: announce.protocol,
            remote: announce.remote,
            status: if now.publishing { SessionStatus::Publishing } else { SessionStatus::Pending },
            tracks: now.tracks.iter().map(describe_track).collect(),
            bitrate: now.bytes.saturating_mul(8_000) / lived_ms,
            frames: now.frames,
            lost: now.packets_lost,
            created_at: stream.created_at(),
            recording_id: recording.map(|a| a.running.id()),
        }
    }

    fn disk(&self) -> DiskInfo {
        let path = self.inner.library.storage().folder().to_owned();
        let (free_bytes, total_bytes) = rustix::fs::statvfs(&path).map_or((0, 0), |fs| {
            (fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize))
        });
        DiskInfo { path, free_bytes, total_bytes }
    }

    fn is_shutting_down(&self) -> bool {
        self.inner.shutting_down.load(Ordering::SeqCst)
    }

    fn active(&self) -> MutexGuard<'_, HashMap<MediaSessionId, Active>> {
        self.inner.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe_track(track: &Track) -> SessionTrack {
    SessionTrack {
        kind: match track.kind() {
            crate::media::MediaKind::Video => "video",
            crate::media::MediaKind::Audio => "audio",
        },
        codec: track.codec.as_str(),
        width: track.size.map(|s| s.width),
        height: track.size.map(|s| s.height),
        rate: track.rate,
        channels: track.channels,
    }
}
