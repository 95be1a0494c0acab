//! The verbs: what both API dialects, the CLI and the policy do to streams and recordings.

mod active;
mod admission;
mod cpu;
mod deliveries;
mod disk;
mod events;
mod files;
mod monitor;
mod objects;
pub mod record_once;
mod recording;
mod retention;
mod rooms;
mod rules;
mod sources;
pub mod verify;
mod webhooks;
pub mod whip;

pub use crate::{
    deliver::SubscriptionInfo,
    library::{
        DeliveryKind, Filter, Letter, LetterFilter, LetterState, Manifest, OutboxId, Page, Part, Recording,
        RecordingId, Status,
    },
    record::Refusal,
};
pub use admission::NotAdmitted;
pub use disk::{Mark, Marks};
pub use events::{
    Cause, ConfigOutcome, Deletion, DeliveryOutcome, DiskMark, Event, EventMessage, EventWatch, Events,
    NoWatch, RecordingChange, RecordingRefused, SessionChange, Told, WatchEnd,
};
pub use files::{Content, Media, RemoteFile, Resource, read_aside};
pub use monitor::{CPU_SHARE, Monitor, MonitorSettings, MonitorStats};
pub use objects::*;
pub use rooms::{RoomFailure, RoomOutcome, RoomRecording};
pub use rules::Rules;
pub use sources::{Failure, NewSource, Scheme, Source, SourceId, SourceState};

use crate::{
    config::{DeliveryRefused, DeliveryRules, DiskRule, RetentionRule, Rotation},
    deliver::{KeeperWaker, Store, Subscriptions, Waker},
    hub::{EndReason, Hub, Stream},
    ingest::source::Sources,
    library::{HandOn, Library, LibraryError},
    media::{MediaSessionId, RoomName, Track},
    record::{Recorder, Running},
};
use active::Actives;
use admission::Admission;
use chrono::Utc;
use disk::Disk;
use recording::seconds;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

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
    /// The recording that it is asked of cannot do it as it is now.
    #[error("{0}")]
    Refused(Refusal),
    #[error("recording {recording} is of stream {session} already")]
    SameSession { session: MediaSessionId, recording: RecordingId },
    #[error(
        "preroll: {} s are asked for and {} s are kept; ask for less, or raise [limits] preroll",
        seconds(*.asked),
        seconds(*.kept)
    )]
    PrerollTooLong { asked: Duration, kept: Duration },
    #[error("recording is switched off by record_streams=false in the policy file")]
    RecordingOff,
    #[error("fileTemplate: {0}")]
    Template(String),
    #[error("room {0} has no live stream; `GET /api/v1/sessions` lists those of all rooms")]
    UnknownRoom(RoomName),
    #[error("room {0} is being recorded already; stop that first")]
    RoomRecorded(RoomName),
    #[error("room {0} is not being recorded")]
    RoomNotRecorded(RoomName),
    #[error("there is no recording {0}")]
    UnknownRecording(RecordingId),
    /// A part, or a file of it, that is not there.
    #[error("{0}")]
    UnknownFile(String),
    #[error("recording {0} has not ended; stop it, then delete it")]
    StillRunning(RecordingId),
    #[error("recording {0} is locked; unlock it by DELETE /api/v1/recordings/{0}/lock, then delete it")]
    Locked(RecordingId),
    #[error("the cursor is not one that a list has answered; begin again without one")]
    BadCursor,
    /// There is no room for a recording.
    #[error("{0}")]
    DiskFull(String),
    /// It may be later.
    #[error("{0}")]
    NotAdmitted(NotAdmitted),
    #[error(
        "there is no delivery {0}; it may be done by now. `GET /api/v1/deliveries` lists those that are not"
    )]
    UnknownDelivery(String),
    #[error("the daemon is ending and starts nothing new")]
    ShuttingDown,
    #[error("there is no source {0}; `GET /api/v1/sources` lists them")]
    UnknownSource(SourceId),
    /// Something to pull that cannot be: a wrong URI or stream name.
    #[error("{0}")]
    BadSource(String),
    #[error("{field}: {refused}")]
    DeliveryNotAllowed { field: &'static str, refused: DeliveryRefused },
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// In place of `stream_record_policy_template`.
    pub file_template: Option<String>,
    /// In place of `record_rotation`.
    pub rotation: Option<Rotation>,
    /// In place of `record_preroll`.
    pub preroll: Option<Duration>,
    /// URLs that are told of it, beside those of the configuration.
    pub webhooks: Vec<String>,
    /// URLs that its files are put to (HTTP PUT), beside the storage of the configuration.
    pub uploads: Vec<String>,
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
    /// What the configuration says is to be done with the files of every recording, but for the hook of the policy and
    /// the webhooks.
    pub hand_on: HandOn,
    /// Where files are that are not here any more.
    pub store: Option<Store>,
    /// Told when something is to go from there.
    pub keeper: KeeperWaker,
    /// Who is told everything.
    pub webhooks: Subscriptions,
    /// Where a start call may have things sent to.
    pub allow_delivery: DeliveryRules,
    /// Who delivers.
    pub deliveries: Waker,
    /// When the disk of the records counts as full.
    pub disk: DiskRule,
    /// Which recordings are deleted to make room.
    pub retention: RetentionRule,
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
    disk: Disk,
    /// Retention looks at once.
    retention_wake: Arc<Notify>,
    deleted_by_retention: AtomicU64,
    sources: Sources,
    facts: Facts,
    admission: Admission,
    events: Events,
    rules: RwLock<Arc<Rules>>,
    active: Mutex<Actives<Running>>,
    shutting_down: AtomicBool,
    /// Sessions that are ended from here end because the daemon does.
    going_down: AtomicBool,
}

impl Control {
    /// Call it on a tokio thread. What happens is told on `events`.
    pub fn new(
        hub: Hub,
        recorder: Recorder,
        library: Library,
        sources: Sources,
        rules: Rules,
        facts: Facts,
        events: Events,
    ) -> Self {
        let limits = admission::Limits {
            max_recordings: facts.limits.max_recordings,
            max_transcodes: facts.limits.max_transcodes,
            max_cpu_percent: facts.limits.max_cpu_percent,
        };
        let inner = Inner {
            admission: Admission::new(limits),
            disk: Disk::watch(library.storage().clone(), facts.disk),
            retention_wake: Arc::default(),
            deleted_by_retention: AtomicU64::new(0),
            hub,
            recorder,
            library,
            sources,
            facts,
            events,
            rules: RwLock::new(Arc::new(rules)),
            active: Mutex::default(),
            shutting_down: AtomicBool::new(false),
            going_down: AtomicBool::new(false),
        };
        let control = Self { inner: Arc::new(inner) };
        tokio::spawn(disk::keep(Arc::downgrade(&control.inner)));
        if !control.inner.facts.retention.is_off() {
            tokio::spawn(retention::keep(Arc::downgrade(&control.inner)));
        }
        control.take_up_what_waits();
        control
    }

    pub fn rules(&self) -> Arc<Rules> {
        self.inner.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Recordings started from now on follow `rules`; where their files have errors, these are the old ones with `error`.
    pub fn set_rules(&self, rules: Rules) {
        let rules = Arc::new(rules);
        self.inner.hub.set_preroll_always(rules.policy.preroll);
        *self.inner.rules.write().unwrap_or_else(PoisonError::into_inner) = rules.clone();
        self.tell_rules(&rules);
    }

    pub async fn recordings(&self, filter: Filter) -> Result<Page<Recording>, ControlError> {
        let mut page = self.inner.library.list(&filter).await.map_err(|e| match e {
            LibraryError::Cursor => ControlError::BadCursor,
            e => ControlError::Failed(e.to_string()),
        })?;
        let active = self.active();
        page.items.iter_mut().for_each(|r| freshen(&active, r));
        Ok(page)
    }

    pub async fn recording(&self, id: RecordingId) -> Result<Recording, ControlError> {
        let found = self.inner.library.get(&id).await.map_err(|e| ControlError::Failed(e.to_string()))?;
        let mut recording = found.ok_or(ControlError::UnknownRecording(id))?;
        freshen(&self.active(), &mut recording);
        Ok(recording)
    }

    /// The recording that has a finished file called `name`, and the number of that part.
    pub async fn file_named(&self, name: &str) -> Result<(Recording, u32), ControlError> {
        let found = self.inner.library.part_named(name).await;
        let found = found.map_err(|e| ControlError::Failed(e.to_string()))?;
        let (id, number) = found.ok_or_else(|| {
            let why = "no finished file of a recording has this name; `GET /recordings` lists them";
            ControlError::UnknownFile(why.to_owned())
        })?;
        Ok((self.recording(id).await?, number))
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
        let share = self.cpu().load().share;
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
                sessions: self.inner.hub.stream_count(),
                waiting: self.waiting_to_be_recorded(),
                cpu_percent: percent(share.all),
                daemon_cpu_percent: percent(share.own),
                refusing: self.refusing(),
                transcoded_tracks: totals.transcoded_tracks.load(Ordering::Relaxed),
                element_threads: totals.element_threads.load(Ordering::Relaxed),
            },
            disk: self.inner.disk.info(),
        }
    }

    /// Whether the daemon can record; if not, why.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_shutting_down() {
            return Err(ControlError::ShuttingDown.to_string());
        }
        self.inner.disk.ready()
    }

    /// The disk of the records folder, as it was when it last answered.
    pub fn disk(&self) -> DiskInfo {
        self.inner.disk.info()
    }

    /// Starts that were refused, and recordings that were ended, because the disk was full.
    pub fn disk_full(&self) -> (u64, u64) {
        (self.inner.disk.refused(), self.inner.disk.ended())
    }

    /// Recordings whose frames are being written.
    pub fn recordings_running(&self) -> usize {
        self.inner.recorder.running()
    }

    /// The daemon begins to end: what follows for the sessions follows from that.
    pub fn going_down(&self) {
        self.inner.going_down.store(true, Ordering::SeqCst);
    }

    /// Ends every recording, starts no more, and waits until all files are final; false when `limit` passed first.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        {
            // Under the lock that starts take, so that none slips through.
            let active = self.active();
            self.inner.shutting_down.store(true, Ordering::SeqCst);
            active.iter().for_each(|a| a.running.stop());
        }
        self.inner.recorder.finished(limit).await
    }

    fn stream(&self, id: MediaSessionId) -> Result<Arc<Stream>, ControlError> {
        self.inner.hub.get(id).ok_or(ControlError::UnknownSession(id))
    }

    fn describe(&self, stream: &Stream) -> Session {
        let (announce, now) = (stream.announce(), stream.snapshot());
        let lived_ms = (Utc::now() - stream.created_at()).num_milliseconds().max(1) as u64;
        let active = self.active();
        let recording = active.live(stream.id());
        Session {
            media_session_id: stream.id(),
            session_id: announce.session_id.clone(),
            name: announce.name.to_string(),
            room_name: announce.room.to_string(),
            room_id: announce.room.to_string(),
            protocol: announce.protocol,
            remote: announce.remote,
            status: status_of(stream.ended().as_ref(), now.publishing),
            tracks: now.tracks.iter().map(describe_track).collect(),
            bitrate: now.bytes.saturating_mul(8_000) / lived_ms,
            frames: now.frames,
            lost: now.packets_lost,
            created_at: stream.created_at(),
            recording_id: recording.map(|a| a.id),
        }
    }

    /// Every recording under way.
    fn watched(&self) -> Vec<Running> {
        self.active().iter().map(|a| a.running.clone()).collect()
    }

    fn is_shutting_down(&self) -> bool {
        self.inner.shutting_down.load(Ordering::SeqCst)
    }

    fn active(&self) -> MutexGuard<'_, Actives<Running>> {
        self.inner.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row of the catalog does not know how far a running recording has come.
fn freshen(active: &Actives<Running>, recording: &mut Recording) {
    if let Some(now) = active.get(recording.id).filter(|_| !recording.status.is_final()) {
        let progress = now.running.progress().recording;
        recording.duration_ms = now.running.media_ms();
        (recording.status, recording.lost) = (progress.status, progress.lost);
        (recording.health, recording.degraded) = (progress.health, progress.degraded);
    }
}

/// To a tenth.
fn percent(share: f64) -> f64 {
    (share * 1_000.0).round() / 10.0
}

fn status_of(ended: Option<&EndReason>, publishing: bool) -> SessionStatus {
    match ended {
        None if publishing => SessionStatus::Publishing,
        None => SessionStatus::Pending,
        Some(EndReason::Unpublished | EndReason::Kicked) => SessionStatus::Unpublished,
        Some(_) => SessionStatus::Failed,
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
