//! Files being written reach the disk while they are: one thread for all recordings calls `fdatasync` on each of them once
//! per interval, so that no writer thread and no network thread ever waits for it.
//!
//! A file's first sync also syncs its folder: from then on the name survives a power cut as well.

mod schedule;
#[cfg(test)]
mod tests;

use schedule::Schedule;
use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A sync that ends this long after it was due is late: what a power cut costs then is more than was promised.
const LATE: Duration = Duration::from_secs(1);
/// Writer threads that are watched, at most.
const MAX_WRITERS: usize = 4;
/// How often it is told that the disk is slow, at most.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked at whether a sync hangs.
const WATCH_EVERY: Duration = Duration::from_secs(1);

type Id = u64;

/// The thread that syncs. It ends, and is waited for, when this is dropped.
pub(super) struct Syncer {
    commands: Sender<Command>,
    /// A file is synced when something was written, not by the clock.
    at_once: bool,
    ids: AtomicU64,
    stats: Arc<SyncStats>,
    thread: Option<JoinHandle<()>>,
}

/// What syncing has come to since the start.
#[derive(Debug)]
pub struct SyncStats {
    /// Files synced, each time counted.
    pub syncs: AtomicU64,
    /// Syncs that ended more than a second after they were due.
    pub late: AtomicU64,
    /// Syncs that failed: what was written before may be lost.
    pub failed: AtomicU64,
    /// The longest sync, ms.
    pub longest_ms: AtomicU64,
    /// Recordings whose muxer has more waiting in front of it than it should.
    pub behind: AtomicU64,
    origin: Instant,
    sync: Busy,
    writers: [Busy; MAX_WRITERS],
}

/// When something that may have to wait for the disk began, ms since the origin and one more; 0: nothing is under way.
#[derive(Debug, Default)]
struct Busy(AtomicU64);

/// Counts a recording that waits for the disk as long as this lives.
pub(super) struct Behind(Arc<SyncStats>);

/// One file that is synced until this is dropped.
pub(super) struct SyncGuard {
    id: Id,
    commands: Sender<Command>,
    at_once: bool,
    state: Arc<Shared>,
}

/// What the writer of a file and the thread both see.
#[derive(Default)]
struct Shared {
    /// The thread has been told that there is something new, and has not looked yet.
    told: AtomicBool,
    /// An error that syncing met: the kernel drops what it could not write, so the file may have holes.
    error: OnceLock<io::Error>,
}

enum Command {
    Add { id: Id, path: PathBuf, state: Arc<Shared> },
    Written(Id),
    Remove(Id),
    End(Id, Sender<()>),
    Quit,
}

impl Syncer {
    /// `interval`: how often each file is synced; zero: whenever something was written to it.
    pub fn start(interval: Duration) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let stats = Arc::new(SyncStats::new());
        let worker = Worker {
            schedule: Schedule::new(interval),
            files: HashMap::new(),
            folders: HashMap::new(),
            stats: stats.clone(),
            last_told: None,
        };
        let thread = std::thread::Builder::new().name("sync-0".into()).spawn(move || worker.run(&inbox))?;
        let at_once = interval.is_zero();
        Ok(Self { commands, at_once, ids: AtomicU64::new(0), stats, thread: Some(thread) })
    }

    /// Syncs `path`, which exists, from now on. Never waits: the file is opened by the thread.
    pub fn add(&self, path: &Path) -> SyncGuard {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let state = Arc::<Shared>::default();
        // The thread lives as long as this.
        let _ = self.commands.send(Command::Add { id, path: path.into(), state: state.clone() });
        SyncGuard { id, commands: self.commands.clone(), at_once: self.at_once, state }
    }

    pub fn stats(&self) -> Arc<SyncStats> {
        self.stats.clone()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Quit);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl SyncGuard {
    /// Something may have been written. Costs an atomic; with an interval, nothing.
    pub fn written(&self) {
        if self.at_once && !self.state.told.swap(true, Ordering::AcqRel) {
            let _ = self.commands.send(Command::Written(self.id));
        }
    }

    /// Why the file may have holes, if a sync has failed.
    pub fn error(&self) -> Option<&io::Error> {
        self.state.error.get()
    }

    /// Ends the syncing of a file that is complete, and tells whether it ever failed. Waits for the sync under way: an error
    /// that it meets is told to nobody else, as the kernel reports each once. Blocks on the disk.
    pub fn end(self) -> io::Result<()> {
        let (reply, ended) = channel();
        let _ = self.commands.send(Command::End(self.id, reply));
        // An error: the thread is gone, and with it whatever it was doing.
        let _ = ended.recv();
        self.error().map_or(Ok(()), |e| Err(copy(e)))
    }
}

impl Drop for SyncGuard {
    fn drop(&mut self) {
        // Without the thread nothing is synced any more.
        let _ = self.commands.send(Command::Remove(self.id));
    }
}

/// Errors of the system cannot be cloned.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

impl SyncStats {
    fn new() -> Self {
        Self {
            syncs: AtomicU64::new(0),
            late: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            origin: Instant::now(),
            sync: Busy::default(),
            writers: Default::default(),
        }
    }

    /// Writer thread `n` begins or ends work that may have to wait for the disk.
    pub(super) fn set_writing(&self, n: usize, writing: bool) {
        if let Some(writer) = self.writers.get(n) {
            self.set(writer, writing);
        }
    }

    fn set(&self, what: &Busy, busy: bool) {
        what.0.store(if busy { self.now_ms() + 1 } else { 0 }, Ordering::Release);
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// How long the sync under way, or what a writer thread writes, has been waiting for the disk; zero when nothing is.
    pub fn waiting(&self) -> Duration {
        let all = self.writers.iter().chain([&self.sync]).map(|b| b.0.load(Ordering::Acquire));
        let oldest = all.filter(|&since| since > 0).min();
        Duration::from_millis(oldest.map_or(0, |since| (self.now_ms() + 1).saturating_sub(since)))
    }
}

impl Behind {
    pub fn new(stats: Arc<SyncStats>) -> Self {
        stats.behind.fetch_add(1, Ordering::Relaxed);
        Self(stats)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.0.behind.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells in the log that the disk stands still, while it does. Never ends.
pub async fn tell_stalls(stats: Arc<SyncStats>) {
    let mut tick = tokio::time::interval(WATCH_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stalled_since: Option<Instant> = None;
    let mut told: Option<Instant> = None;
    loop {
        tick.tick().await;
        let (now, waiting) = (Instant::now(), stats.waiting());
        let behind = stats.behind.load(Ordering::Relaxed);
        if waiting < LATE && behind == 0 {
            if let (Some(since), Some(_)) = (stalled_since.take(), told.take()) {
                tracing::info!("the disk takes what is recorded again, after {:.0?}", now - since);
            }
            continue;
        }
        let since = *stalled_since.get_or_insert(now.checked_sub(waiting).unwrap_or(now));
        if told.is_none_or(|told| now - told >= TELL_EVERY) {
            told = Some(now);
            tracing::warn!(
                behind,
                "recordings have waited for the disk for {:.0?}: what they wait with is bounded by [limits] recorder_queue; \
                 what does not fit is left out and told as a gap",
                now - since
            );
        }
    }
}

/// A file as the thread knows it.
struct Watched {
    path: PathBuf,
    state: Arc<Shared>,
    /// Opened at its first sync, and kept: errors are reported to descriptors that were open when they happened.
    file: Option<File>,
    /// Bytes in it when it was last synced.
    synced_bytes: Option<u64>,
    added: Instant,
}

struct Worker {
    schedule: Schedule,
    files: HashMap<Id, Watched>,
    /// When the last sync of each folder began.
    folders: HashMap<PathBuf, Instant>,
    stats: Arc<SyncStats>,
    last_told: Option<Instant>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            // All commands first: a file that has ended is not synced once more.
            let wait = self.schedule.next().map(|due| due.saturating_duration_since(Instant::now()));
            let received = match wait {
                Some(wait) => inbox.recv_timeout(wait),
                None => inbox.recv().map_err(RecvTimeoutError::from),
            };
            match received {
                Ok(Command::Add { id, path, state }) => self.add(id, path, state),
                Ok(Command::Written(id)) => self.schedule.written(id, Instant::now()),
                Ok(Command::Remove(id)) => self.remove(id),
                Ok(Command::End(id, reply)) => {
                    self.remove(id);
                    // Who asked may have gone.
                    let _ = reply.send(());
                }
                Ok(Command::Quit) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.sync_next(),
            }
        }
    }

    fn add(&mut self, id: Id, path: PathBuf, state: Arc<Shared>) {
        let now = Instant::now();
        self.schedule.add(id, now);
        self.files.insert(id, Watched { path, state, file: None, synced_bytes: None, added: now });
    }

    fn remove(&mut self, id: Id) {
        self.schedule.remove(id);
        self.files.remove(&id);
        if self.files.is_empty() {
            self.folders.clear();
        }
    }

    fn sync_next(&mut self) {
        let begun = Instant::now();
        let Some((id, due)) = self.schedule.take_due(begun) else { return };
        let Some(file) = self.files.get_mut(&id) else { return };
        // Before the sync: what is written while it runs is new.
        file.state.told.store(false, Ordering::Release);
        self.stats.set(&self.stats.sync, true);
        let synced = file.sync(&mut self.folders);
        self.stats.set(&self.stats.sync, false);
        let ended = Instant::now();
        let took_ms = (ended - begun).as_millis() as u64;
        self.stats.longest_ms.fetch_max(took_ms, Ordering::Relaxed);
        match synced {
            Ok(false) => {}
            Ok(true) => _ = self.stats.syncs.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.failed(id, error),
        }
        if ended.saturating_duration_since(due) > LATE {
            self.stats.late.fetch_add(1, Ordering::Relaxed);
            self.tell_late((ended - due).as_millis() as u64, took_ms);
        }
        self.schedule.skip_missed(id, ended);
    }

    fn failed(&mut self, id: Id, error: SyncError) {
        self.stats.failed.fetch_add(1, Ordering::Relaxed);
        let Some(file) = self.files.get(&id) else { return };
        let path = file.path.display().to_string();
        match error {
            SyncError::Data(source) => {
                tracing::error!(file = path, error = %source, "cannot sync: the file may have holes");
                // It is set once: the file is synced no more.
                let _ = file.state.error.set(source);
                self.remove(id);
            }
            SyncError::Open(source) | SyncError::Folder(source) => {
                if self.may_tell() {
                    tracing::error!(
                        file = path, error = %source,
                        "cannot sync the file or its folder; a power cut may take it; trying again"
                    );
                }
                self.schedule.again(id, Instant::now() + LATE);
            }
        }
    }

    fn tell_late(&mut self, late_ms: u64, took_ms: u64) {
        if !self.may_tell() {
            return;
        }
        let so_far = self.stats.late.load(Ordering::Relaxed);
        tracing::warn!(
            took_ms,
            late_ms,
            so_far,
            "the disk is slow: files under way are synced later than sync_interval, and a power cut would cost more"
        );
    }

    fn may_tell(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last_told.is_none_or(|last| now.saturating_duration_since(last) >= TELL_EVERY);
        if due {
            self.last_told = Some(now);
        }
        due
    }
}

enum SyncError {
    /// The file could not be looked at. Nothing is known to be lost.
    Open(io::Error),
    /// The name may not survive.
    Folder(io::Error),
    /// Data did not reach the disk, and will not.
    Data(io::Error),
}

impl Watched {
    /// False when there was nothing new.
    fn sync(&mut self, folders: &mut HashMap<PathBuf, Instant>) -> Result<bool, SyncError> {
        let file = match &self.file {
            Some(file) => file,
            // Linux syncs through any descriptor.
            None => self.file.insert(File::open(&self.path).map_err(SyncError::Open)?),
        };
        // Files under way only grow, and what is overwritten in them comes with growth.
        let bytes = file.metadata().map_err(SyncError::Open)?.len();
        if self.synced_bytes == Some(bytes) {
            return Ok(false);
        }
        file.sync_data().map_err(SyncError::Data)?;
        if self.synced_bytes.is_none() {
            sync_folder(&self.path, self.added, folders).map_err(SyncError::Folder)?;
        }
        self.synced_bytes = Some(bytes);
        Ok(true)
    }
}

/// Files that came into the folder before its last sync began need none of their own.
fn sync_folder(file: &Path, added: Instant, folders: &mut HashMap<PathBuf, Instant>) -> io::Result<()> {
    let Some(folder) = file.parent() else { return Ok(()) };
    if folders.get(folder).is_some_and(|&synced| synced > added) {
        return Ok(());
    }
    let begun = Instant::now();
    File::open(folder)?.sync_all()?;
    folders.insert(folder.into(), begun);
    Ok(())
}
