//! The truth monitor: a recording that runs is not yet one that shows and says something. One thread of low priority looks at
//! what is written always, and at a key frame and a second of sound now and then, within a budget of processor time.

mod budget;
mod health;
mod senses;

use super::{Control, RecordingId};
use crate::{
    gst::look::LookError,
    library::Status,
    media::{Codec, HealthReason},
    record::Running,
};
use budget::Budget;
use chrono::{DateTime, TimeDelta, Utc};
use health::{Change, Health, Seen, Times};
use senses::{Ears, Eyes};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

/// What the monitor's thread may take of one core, for all recordings together.
pub const CPU_SHARE: f64 = 0.02;
/// How often what is written is looked at, at most and at least.
const FASTEST_TICK: Duration = Duration::from_millis(125);
const SLOWEST_TICK: Duration = Duration::from_secs(1);
/// Of 19: what else wants to run goes first.
const NICE: i32 = 19;

pub struct MonitorSettings {
    /// How often a recording's picture and sound are looked at; zero: not at all.
    pub interval: Duration,
    /// Pictures that go on without a key frame for this long.
    pub key_frame_timeout: Duration,
    /// Pictures and sound are not looked at while it says so.
    pub busy: Box<dyn Fn() -> bool + Send>,
}

/// What the monitor does, for the metrics.
#[derive(Debug, Default)]
pub struct MonitorStats {
    /// Recordings that something is wrong with now, by reason.
    degraded: [AtomicU64; HealthReason::ALL.len()],
    /// Key frames and stretches of sound that were decoded, and those that could not be.
    pub looks: AtomicU64,
    pub failed_looks: AtomicU64,
    /// Ticks at which looks were due that there was no processor time for.
    pub postponed: AtomicU64,
    /// Processor time of its thread, ns.
    pub cpu_ns: AtomicU64,
}

impl MonitorStats {
    pub fn degraded(&self, reason: HealthReason) -> u64 {
        self.degraded[reason as usize].load(Ordering::Relaxed)
    }
}

/// The thread ends when this is dropped.
pub struct Monitor {
    stats: Arc<MonitorStats>,
    _thread: Sender<()>,
}

impl Monitor {
    /// Watches over every recording of `control`.
    pub fn start(control: Control, settings: MonitorSettings) -> std::io::Result<Self> {
        let stats = Arc::<MonitorStats>::default();
        let (thread, ended) = channel();
        let watch = Watch::new(control, settings, stats.clone());
        std::thread::Builder::new().name("monitor".into()).spawn(move || watch.run(&ended))?;
        Ok(Self { stats, _thread: thread })
    }

    pub fn stats(&self) -> Arc<MonitorStats> {
        self.stats.clone()
    }
}

struct Watch {
    control: Control,
    settings: MonitorSettings,
    stats: Arc<MonitorStats>,
    origin: Instant,
    watched: HashMap<RecordingId, Watched>,
    budget: Budget,
    cpu: Duration,
    /// Codecs without a decoder: told once.
    undecodable: HashSet<Codec>,
}

/// One recording.
struct Watched {
    running: Running,
    health: Health,
    eyes: Eyes,
    ears: Ears,
    /// When a key frame was last asked for.
    asked_for_key: Duration,
}

impl Watch {
    fn new(control: Control, settings: MonitorSettings, stats: Arc<MonitorStats>) -> Self {
        Self {
            control,
            settings,
            stats,
            origin: Instant::now(),
            watched: HashMap::new(),
            budget: Budget::new(CPU_SHARE, Duration::ZERO),
            cpu: Duration::ZERO,
            undecodable: HashSet::new(),
        }
    }

    fn run(mut self, ended: &Receiver<()>) {
        // Without it the budget still holds.
        let _ = rustix::process::setpriority_process(None, NICE);
        let tick = match self.settings.interval {
            Duration::ZERO => SLOWEST_TICK,
            interval => (interval / 8).clamp(FASTEST_TICK, SLOWEST_TICK),
        };
        while ended.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
            self.tick();
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn tick(&mut self) {
        self.follow();
        let now = self.now();
        let mut due = Vec::new();
        for (id, watched) in &mut self.watched {
            let is_running = watched.see(now);
            if is_running {
                watched.ask_for_key(self.settings.interval, self.settings.key_frame_timeout, now);
            }
            if is_running && !self.settings.interval.is_zero() {
                due.extend(watched.due(now).map(|since| (since, *id)));
            }
        }
        self.look(due);
        self.pay();
        self.count();
    }

    /// New recordings are watched over, ended ones no more.
    fn follow(&mut self) {
        let running = self.control.watched();
        let ids: HashSet<_> = running.iter().map(Running::id).collect();
        self.watched.retain(|id, _| ids.contains(id));
        let times = Times::of(self.settings.interval, self.settings.key_frame_timeout);
        for running in running {
            self.watched.entry(running.id()).or_insert_with(|| Watched::new(running, times));
        }
    }

    /// Those that have waited longest first, as far as the budget goes.
    fn look(&mut self, mut due: Vec<(Duration, RecordingId)>) {
        if due.is_empty() {
            return;
        }
        if (self.settings.busy)() {
            self.stats.postponed.fetch_add(1, Ordering::Relaxed);
            self.watched.values_mut().for_each(|w| w.ears.stop());
            return;
        }
        due.sort_unstable();
        for (_, id) in due {
            self.pay();
            if !self.budget.allows() {
                self.stats.postponed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let now = self.now();
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            for looked in watched.look(now, self.settings.interval) {
                match looked {
                    Ok(()) => self.stats.looks.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        tell(&mut self.undecodable, &error, id);
                        self.stats.failed_looks.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        }
    }

    fn pay(&mut self) {
        let cpu = thread_cpu();
        let used = cpu.saturating_sub(self.cpu);
        self.cpu = cpu;
        self.budget.pay(used, self.now());
        self.stats.cpu_ns.store(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn count(&self) {
        for reason in HealthReason::ALL {
            let held = self.watched.values().filter(|w| w.health.holding().contains(&reason)).count();
            self.stats.degraded[reason as usize].store(held as u64, Ordering::Relaxed);
        }
    }
}

impl Watched {
    fn new(running: Running, times: Times) -> Self {
        let checks = running.health_checks();
        Self {
            health: Health::new(checks, times),
            eyes: Eyes::new(checks),
            ears: Ears::new(checks),
            asked_for_key: Duration::ZERO,
            running,
        }
    }

    /// False when nothing is expected of it now.
    fn see(&mut self, now: Duration) -> bool {
        let is_running = matches!(self.running.status(), Status::Starting | Status::Recording);
        if !is_running {
            self.ears.stop();
        }
        let changes = match self.running.status() {
            Status::Starting | Status::Recording => {
                let (written, stream) = (self.running.written(), self.running.stream().snapshot());
                let seen = Seen {
                    bytes: written.bytes,
                    pictures: written.pictures,
                    key_frames: written.key_frames,
                    sounds: written.sounds,
                    arrived: stream.frames,
                    arrived_pictures: stream.pictures,
                    has_video: stream.tracks.video().is_some(),
                    has_audio: stream.tracks.audio().is_some(),
                };
                self.health.see(&seen, now)
            }
            Status::Paused => self.health.rest(now),
            // What is wrong when it ends stays wrong.
            _ => Vec::new(),
        };
        self.note(changes, now);
        is_running
    }

    /// A browser sends key frames only to who asks.
    fn ask_for_key(&mut self, interval: Duration, timeout: Duration, now: Duration) {
        let every = if interval.is_zero() { timeout / 2 } else { interval.min(timeout / 2) };
        let missed = self.health.without_key_frame(now).is_some_and(|idle| idle >= every);
        if missed && now.saturating_sub(self.asked_for_key) >= every {
            self.asked_for_key = now;
            self.running.stream().request_key_frame();
        }
    }

    /// Since when something of it is to be looked at.
    fn due(&self, now: Duration) -> Option<Duration> {
        let next = self.eyes.next().into_iter().chain(self.ears.next()).min();
        next.filter(|next| *next <= now)
    }

    fn look(&mut self, now: Duration, interval: Duration) -> Vec<Result<(), LookError>> {
        let stream = self.running.stream();
        let mut looked = Vec::new();
        if let Some(seen) = self.eyes.look(&stream, now, interval) {
            looked.push(seen.map(|look| {
                let changes = self.health.look(&look, now);
                self.note(changes, now);
            }));
        }
        if let Some(heard) = self.ears.listen(&stream, now, interval) {
            looked.push(heard.map(|loudness| {
                let changes = self.health.listen(loudness, now);
                self.note(changes, now);
            }));
        }
        looked
    }

    fn note(&self, changes: Vec<Change>, now: Duration) {
        for Change { reason, holds, at } in changes {
            self.running.note_health(reason, holds, wall(at, now));
        }
    }
}

fn tell(undecodable: &mut HashSet<Codec>, error: &LookError, id: RecordingId) {
    match error {
        LookError::NoDecoder { codec, .. } if undecodable.insert(*codec) => {
            tracing::warn!("{codec} is not looked at (frozen, black, silent): {error}");
        }
        LookError::NoDecoder { .. } => {}
        LookError::Failed(_) => tracing::debug!(recording = %id, %error, "could not be looked at"),
    }
}

/// Wall-clock time of `at`, which is at or before `now`.
fn wall(at: Duration, now: Duration) -> DateTime<Utc> {
    Utc::now() - TimeDelta::from_std(now.saturating_sub(at)).unwrap_or_default()
}

/// Processor time that this thread has used.
fn thread_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
