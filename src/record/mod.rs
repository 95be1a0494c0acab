//! Recording a live stream into files: automatic or on demand, one recording a task on a pool of
//! writer threads, its finished parts handed on by its books.

mod books;
mod clock;
mod feed;
mod names;
pub mod naming;
mod params;
mod part;
mod pool;
mod posters;
mod request;
mod rotation;
mod salvage;
mod silence;
mod state;
pub mod sync;
mod task;
mod usage;
mod vitals;
mod volume;
mod writer;

pub use books::{Progress, Totals};
pub use posters::{PosterWaker, Posters};
pub use request::{Refusal, Source};
pub use salvage::make_whole;
pub use vitals::Written;
pub use volume::Footprint;

use crate::{
    config::{AudioRule, Policy},
    gst::Templates,
    hub::{Stream, Subscriber},
    library::{HandOn, Identity, Library, Lost, Recording, RecordingId, Status},
    media::{HealthChecks, HealthReason, Tracks},
};
use books::{Books, Entry};
use chrono::{DateTime, SubsecRound, Utc};
use pool::{Pool, Waker};
use request::{Refused, Request};
use std::{sync::Arc, time::Duration};
use sync::{SyncStats, Syncer};
use task::Task;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use vitals::Vitals;
use volume::Volume;
use writer::Means;

/// What to record and how. A recording keeps these to its end, whatever is reloaded meanwhile.
pub struct Order {
    pub stream: Arc<Stream>,
    pub subscriber: Subscriber,
    pub policy: Arc<Policy>,
    pub templates: Arc<Templates>,
    /// What is to be done with its files.
    pub hand_on: HandOn,
    /// A part that comes to this goes on in the next one, also without a rotation.
    pub max_part_duration: Duration,
    /// Why the recording is less than what was asked for, from its beginning on.
    pub degraded: Vec<String>,
}

/// Tracks that one writer thread can transcode beside what else it does: each takes about 1.3 % of a core (Opus to AAC).
const TRANSCODES_PER_THREAD: usize = 32;

/// How long a split, a resume or a switch waits for the key frame it takes effect at before it is answered.
const EFFECT_WAIT: Duration = Duration::from_secs(2);

/// Starts recordings and knows when all of them are done.
pub struct Recorder {
    // In this order: the writer threads end before the thread that syncs what they write.
    pool: Pool,
    means: Means,
    books: TaskTracker,
    library: Library,
    on_commit: Arc<dyn Fn() + Send + Sync>,
}

/// A recording that was started. Dropping it does not end the recording.
#[derive(Clone)]
pub struct Running {
    id: RecordingId,
    policy: Arc<Policy>,
    templates: Arc<Templates>,
    waker: Waker,
    progress: watch::Receiver<Progress>,
    vitals: Arc<Vitals>,
    checks: HealthChecks,
    /// Its books, as long as they are kept.
    entries: mpsc::WeakUnboundedSender<Entry>,
    volume: Arc<Volume>,
}

impl Recorder {
    /// `sync_interval`: how often files under way are synced to the disk; zero: after each fragment. `on_commit` is called,
    /// on a tokio thread, whenever something is stored that is to be delivered.
    pub fn new(
        library: Library,
        sync_interval: Duration,
        on_commit: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let syncer = Arc::new(Syncer::start(sync_interval)?);
        Ok(Self {
            pool: Pool::start(&syncer.stats())?,
            means: Means { totals: Arc::default(), syncer },
            books: TaskTracker::new(),
            library,
            on_commit: Arc::new(on_commit),
        })
    }

    /// Starts recording at once; never waits. Call it on a tokio thread.
    pub fn start(&self, order: Order) -> Running {
        let recording = new_recording(&order);
        let id = recording.id;
        let started = recording.clone();
        let (progress, watcher) = watch::channel(Progress::begin(recording, order.stream.clone()));
        #[expect(
            clippy::disallowed_methods,
            reason = "an entry per event of a recording's life, never per frame"
        )]
        let (entries, inbox) = mpsc::unbounded_channel();
        let volume = Arc::<Volume>::default();
        let books = Books {
            identity: Identity::from(&started),
            library: self.library.clone(),
            hand_on: order.hand_on,
            progress,
            totals: self.totals(),
            on_commit: self.on_commit.clone(),
            volume: volume.clone(),
        };
        self.books.spawn(books.keep(inbox));
        let (vitals, checks, to_books) =
            (Arc::<Vitals>::default(), order.policy.health_checks, entries.downgrade());
        let storage = self.library.storage().clone();
        // A file begins with one: who sends none for seconds is asked.
        order.stream.request_key_frame();
        let means = self.means.clone();
        let inputs = task::Inputs {
            id,
            source: Source { stream: order.stream, subscriber: order.subscriber },
            storage,
            means,
            max_part_duration: order.max_part_duration,
            volume: volume.clone(),
            degraded: order.degraded,
        };
        let (policy, templates) = (order.policy.clone(), order.templates.clone());
        let task = Task::new(inputs, order.policy, order.templates, entries, vitals.clone());
        tracing::info!(
            recording = %id, room = %started.room_name, stream = %started.stream_name,
            session = %started.media_session_id, "recording"
        );
        let waker = self.pool.attach(task);
        Running { id, policy, templates, waker, progress: watcher, vitals, volume, checks, entries: to_books }
    }

    /// Parts were stored, with their deliveries, by another way than a recording.
    pub fn committed(&self) {
        (self.on_commit)();
    }

    pub fn totals(&self) -> Arc<Totals> {
        self.means.totals.clone()
    }

    /// How syncing to the disk goes.
    pub fn sync_stats(&self) -> Arc<SyncStats> {
        self.means.syncer.stats()
    }

    /// Recordings whose frames are being written.
    pub fn running(&self) -> usize {
        self.pool.len()
    }

    /// Waits until every recording is done and stored; false when `limit` passed first. Start no more before.
    pub async fn finished(&self, limit: Duration) -> bool {
        self.books.close();
        tokio::time::timeout(limit, self.books.wait()).await.is_ok()
    }
}

impl Running {
    pub fn id(&self) -> RecordingId {
        self.id
    }

    /// Tracks that it decodes and encodes, by what its stream sends now.
    pub fn transcodes(&self) -> usize {
        let stream = self.progress.borrow().stream.clone();
        transcodes(&self.policy, &self.templates, &stream.snapshot().tracks)
    }

    /// Writes what has arrived until now and ends the recording; does not wait for it.
    pub fn stop(&self) {
        self.waker.stop(self.id, None);
    }

    /// As [`stop`](Self::stop), before anyone asked for it: `why` is told in `degraded`.
    pub fn end_early(&self, why: String) {
        self.waker.stop(self.id, Some(why));
    }

    /// Ends the part under way at the next key frame, which begins the next one. Answers when that is being written, or
    /// after 2 s.
    pub async fn split(&mut self) -> Result<Recording, Refusal> {
        let before = self.progress.borrow().parts_opened;
        self.ask(Request::Split).await?;
        Ok(self.effect(|p| p.parts_opened > before).await)
    }

    /// Leaves out what comes from now on; the part under way stays open.
    pub async fn pause(&mut self) -> Result<Recording, Refusal> {
        self.ask(Request::Pause).await?;
        Ok(self.effect(|p| p.recording.status >= Status::Paused).await)
    }

    /// Goes on at the next key frame. Answers when it does, or after 2 s.
    pub async fn resume(&mut self) -> Result<Recording, Refusal> {
        self.ask(Request::Resume).await?;
        Ok(self.effect(|p| p.recording.status != Status::Paused).await)
    }

    /// Goes on with another stream, at its next key frame. Answers when it does, or after 2 s.
    pub async fn switch(&mut self, source: Source) -> Result<Recording, Refusal> {
        let before = self.progress.borrow().sources_joined;
        self.ask(Request::Switch(source)).await?;
        Ok(self.effect(|p| p.sources_joined > before).await)
    }

    /// Goes on with the stream of a publisher who has come back. Where the recording does not wait for one, the stream is
    /// handed back.
    pub async fn rejoin(&self, source: Source) -> Result<(), Source> {
        match self.waker.ask(self.id, Request::Return(source)).await {
            Err(Refused { request: Request::Return(source), .. }) => Err(source),
            _ => Ok(()),
        }
    }

    async fn ask(&self, request: Request) -> Result<(), Refusal> {
        self.waker.ask(self.id, request).await.map_err(|refused| refused.why)
    }

    async fn effect(&mut self, seen: impl Fn(&Progress) -> bool) -> Recording {
        let wait = self.progress.wait_for(|p| p.done || seen(p));
        // What has not taken effect yet will; what was asked for is answered as it is now.
        let _ = tokio::time::timeout(EFFECT_WAIT, wait).await;
        self.progress.borrow().recording.clone()
    }

    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// As it is now; [`changed`](Self::changed) waits for what comes after.
    pub fn progress_seen(&mut self) -> Progress {
        self.progress.borrow_and_update().clone()
    }

    /// Returns when something has happened since it was last looked at; false when nothing will any more.
    pub async fn changed(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// How much it has written, and still has to.
    pub fn footprint(&self) -> Footprint {
        self.volume.footprint()
    }

    /// Media time recorded so far, ms.
    pub fn media_ms(&self) -> u64 {
        self.vitals.media_ms()
    }

    /// What went into its files until now.
    pub fn written(&self) -> Written {
        self.vitals.read()
    }

    pub fn status(&self) -> Status {
        self.progress.borrow().recording.status
    }

    /// What is recorded now.
    pub fn stream(&self) -> Arc<Stream> {
        self.progress.borrow().stream.clone()
    }

    /// What is to be looked for, by the policy it began with.
    pub fn health_checks(&self) -> HealthChecks {
        self.checks
    }

    /// Notes that `reason` holds since `at`, or is over since then. Never waits; without effect once it has ended.
    pub fn note_health(&self, reason: HealthReason, holds: bool, at: DateTime<Utc>) {
        if let Some(entries) = self.entries.upgrade() {
            // Closed: nobody keeps its books any more.
            let _ = entries.send(Entry::Health { reason, holds, at });
        }
    }

    /// The recording once its first frame is in a file, or it has ended without.
    pub async fn started(&mut self) -> Recording {
        self.wait(|p| p.recording.status > Status::Starting).await
    }

    /// The recording once all its files are whole and the catalog knows.
    pub async fn done(&mut self) -> Recording {
        self.wait(|p| p.done).await
    }

    async fn wait(&mut self, until: impl FnMut(&Progress) -> bool) -> Recording {
        // An error means its books are closed: then the last word stands.
        let _ = self.progress.wait_for(until).await;
        self.progress.borrow().recording.clone()
    }
}

/// How many of `tracks` a recording under `policy` decodes and encodes.
pub fn transcodes(policy: &Policy, templates: &Templates, tracks: &Tracks) -> usize {
    let container = policy.formats.container(tracks.video().map(|t| t.codec)).as_str();
    let as_is = policy.audio == AudioRule::Passthrough;
    templates.get(container).map_or(0, |template| template.transcodes(tracks, as_is))
}

/// How many tracks the writer threads of this machine can transcode.
pub fn transcodes_possible() -> usize {
    TRANSCODES_PER_THREAD * pool::writer_threads()
}

fn new_recording(order: &Order) -> Recording {
    let announce = order.stream.announce();
    // It has what came before it was asked for: the group of pictures under way, or more.
    let begun = order.subscriber.first_frame_ns().map(|ns| order.stream.wall_time(ns));
    let now = Utc::now();
    let started_at = begun.map_or(now, |at| at.min(now)).trunc_subsecs(3);
    let video = order.stream.snapshot().tracks.video().map(|t| t.codec);
    Recording {
        id: RecordingId::random(),
        status: Status::Starting,
        degraded: order.degraded.clone(),
        health: Vec::new(),
        room_name: announce.room.to_string(),
        room_id: announce.room.to_string(),
        stream_name: announce.name.to_string(),
        media_session_id: order.stream.id(),
        session_id: announce.session_id.clone(),
        protocol: announce.protocol,
        container: order.policy.formats.container(video).to_string(),
        started_at,
        ended_at: None,
        started_at_ms: started_at.timestamp_millis(),
        duration_ms: 0,
        size: 0,
        parts: Vec::new(),
        lost: Lost::default(),
        deliveries: Vec::new(),
        error: None,
        locked: false,
    }
}
