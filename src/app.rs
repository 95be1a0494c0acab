//! The composition root: builds the parts in the order media flows, runs them, and takes them down in reverse.

mod facts;
mod handing_on;
mod recovery;
mod rules;
mod ways_in;

use crate::{
    config::{self, DaemonConfig, Problem},
    control::{Addresses, Control, Event, Events, Facts, Monitor, MonitorSettings},
    deliver::{self, Deliveries, Keeper, OutgoingError, StoreError},
    gst,
    hub::{Hub, PrerollRule, Publishing, QueueRule},
    ingest::tls::TlsError,
    library::{HandOn, Library, LibraryError, Storage, StorageError, UploadTo},
    record::{self, PosterWaker, Posters, Recorder, make_whole},
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use rules::check;

use handing_on::HandingOn;
use recovery::Recovery;
use ways_in::{Listeners, WaysIn};

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("no configuration: {} do not exist; give --config FILE", config::CONFIG_PLACES.join(" and "))]
    NoConfig,
    #[error("the configuration has errors:\n{0}")]
    Config(String),
    #[error("{0}")]
    Gst(#[from] gstreamer::glib::BoolError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("cannot listen on {address} ([listen] {key}): {source}")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("nothing could be sent from here: {0}")]
    Outgoing(#[from] OutgoingError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("[paths] state: {}: {source}", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("[paths] state: another reeld runs with {}; end it, or give this one a folder of its own", path.display())]
    StateTaken { path: PathBuf },
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// How long publishers may take to be told that they are ended.
const PUBLISHERS_LIMIT: Duration = Duration::from_secs(5);

/// How long the last steps of the end may take each.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The running daemon.
pub struct App {
    config: DaemonConfig,
    _state: facts::State,
    library: Library,
    recovery: Recovery,
    deliveries: Deliveries,
    posters: Posters,
    keeper: Option<Keeper>,
    ways_in: WaysIn,
    control: Control,
    monitor: Monitor,
    events: Events,
    http_stop: CancellationToken,
    http: JoinHandle<()>,
}

impl App {
    /// Runs the daemon until a signal ends it.
    pub async fn run(config: Option<&Path>) -> Result<ExitCode, AppError> {
        let file = config::find(config).ok_or(AppError::NoConfig)?;
        let (config, warnings) = DaemonConfig::load(&file).map_err(|p| AppError::Config(lines(&p)))?;
        warnings.iter().for_each(|w| tracing::warn!("{w}"));
        // Signals are caught before anything is built, so that none is missed.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        let app = Self::start(config, hangup).await?;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let stopped = tokio::select! {
            stopped = app.stop() => stopped,
            _ = term.recv() => stop_now(),
            _ = int.recv() => stop_now(),
        };
        Ok(stopped)
    }

    async fn start(config: DaemonConfig, mut hangup: Signal) -> Result<Self, AppError> {
        gst::init()?;
        let (mut changes, watcher) = rules::watch(&config);
        let first = rules::load(&config).map_err(|problems| AppError::Config(problems.join("\n")))?;
        let state = facts::take_state(&config.paths.state)?;

        let storage = Storage::open(&config.paths.records)?;
        let library = Library::open(&config.catalog_file.to_string_lossy(), storage).await?;
        let means = HandingOn::new(&config, &library).await?;
        let hand_on = HandOn {
            hook: first.policy.hook_in(&config.paths.hooks),
            webhooks: means.webhooks.urls(),
            ..hand_on_of(&config)
        };
        let interrupted = library.interrupted().await?;
        let events = Events::default();
        let told = events.clone();
        let keeper = means.keeper.clone();
        let deliveries = Deliveries::start(library.clone(), means.settings(&config), move |d| {
            told.tell(&Event::from(d));
            keeper.wake();
        });
        let finished = PosterWaker::default();
        let wake = || {
            let (deliveries, posters) = (deliveries.waker(), finished.clone());
            move || {
                deliveries.wake();
                posters.wake();
            }
        };
        let mut recovery = Recovery::start(library.clone(), interrupted, hand_on, make_whole, wake());
        if !recovery.wait(recovery::LIMIT).await {
            tracing::warn!("what the last daemon left is still being made whole; starting meanwhile");
        }
        let recorder = Recorder::new(library.clone(), config.sync_interval, wake())?;
        let (totals, syncs) = (recorder.totals(), recorder.sync_stats());
        tokio::spawn(record::sync::tell_stalls(syncs.clone()));
        let preroll = PrerollRule {
            idle: config.limits.preroll,
            always: first.policy.preroll,
            memory_bytes: config.limits.preroll_memory_bytes,
        };
        let queues = QueueRule {
            each_bytes: config.limits.recorder_queue_bytes as usize,
            all_bytes: config.limits.recorder_memory_bytes,
        };
        let (hub, publishing) = Hub::new(queues, preroll);
        hub.set_max_streams(config.admission.max_sessions);

        let listeners = Listeners::bind(&config).await?;
        let http_listener = ways_in::listen("http", config.listen.http).await?;
        let rtmps = listeners.rtmps.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        let addresses = Addresses {
            http: http_listener.local_addr()?,
            rtmp: listeners.rtmp.local_addr()?,
            rtmps,
            rtsp: listeners.rtsp.local_addr()?,
        };
        let ways_in = WaysIn::new(&hub, &config);

        let facts = facts_of(&config, addresses.clone(), ways_in.clone(), &means, deliveries.waker());
        let sources = ways_in.sources.clone();
        let control =
            Control::new(hub.clone(), recorder, library.clone(), sources, first, facts, events.clone());
        let told = control.clone();
        let posters = Posters::start(library.clone(), finished.clone(), move |of| {
            let told = told.clone();
            async move { told.part_changed(of.recording, of.number).await }
        });
        let keeper = means.keep(&library, &config, control.clone());
        let monitor = Monitor::start(control.clone(), monitor_settings(&config, &control))?;
        tokio::spawn(record_by_policy(control.clone(), publishing));
        tokio::spawn(control.clone().tell_webhooks());
        let (reload, paths) = (control.clone(), config.clone());
        tokio::spawn(async move {
            // The watcher lives as long as someone listens to it.
            let _watcher = watcher;
            rules::follow(&reload, &paths, &mut changes, &mut hangup).await;
        });

        ways_in.serve(listeners, &config);
        let http_stop = CancellationToken::new();
        let metrics = facts::metrics(hub, control.clone(), &ways_in, totals, syncs, monitor.stats());
        let routes =
            crate::api::routes(control.clone(), events.clone(), ways_in.whip.clone(), metrics.into_text());
        let http =
            tokio::spawn(crate::api::serve(http_listener, routes, http_stop.clone().cancelled_owned()));

        facts::tell_addresses(&state.addresses, &addresses)?;
        facts::notify_ready(&addresses);
        Ok(Self {
            config,
            _state: state,
            library,
            recovery,
            deliveries,
            posters,
            keeper,
            ways_in,
            control,
            monitor,
            events,
            http_stop,
            http,
        })
    }

    /// In reverse: no new streams; recordings get what has arrived and are finished; hooks run; the API answers
    /// until then.
    async fn stop(self) -> ExitCode {
        facts::notify_stopping();
        let limit = self.config.limits.shutdown_timeout;
        let deadline = Instant::now() + limit;
        tracing::info!("ending: recordings are being finished, at most {} s", limit.as_secs_f32());
        self.control.going_down();
        let left = || deadline.saturating_duration_since(Instant::now());
        // What ends now stops sending, and that is no trouble.
        drop(self.monitor);
        self.ways_in.stop(left().min(PUBLISHERS_LIMIT)).await;
        let finished = self.control.shut_down(left()).await;
        if !finished {
            tracing::error!("recordings were not finished in time; their .part files stay, playable");
        }
        self.deliveries.drain(left()).await;
        // What it had begun, the next start does.
        drop(self.keeper);
        // The next start makes those that are left.
        self.posters.stop().await;
        self.events.close(CLOSE_LIMIT).await;
        self.http_stop.cancel();
        // A request that is still under way then is one nobody waits for any more.
        let _ = timeout(CLOSE_LIMIT, self.http).await;
        if !finished {
            tracing::warn!("ended, with unfinished recordings");
            // Returning would wait for what is still being finished.
            std::process::exit(1);
        }
        let recovered = self.recovery.stop();
        // The catalog is whole with or without a clean close.
        let _ = timeout(CLOSE_LIMIT, self.library.close()).await;
        tracing::info!("ended");
        if !recovered {
            // Returning would wait for the file that is being made whole; the next start begins it again.
            std::process::exit(0);
        }
        ExitCode::SUCCESS
    }
}

fn stop_now() -> ExitCode {
    tracing::warn!("second signal: ending now; recordings stay as .part files, playable");
    // Dropping the runtime would wait for what is being finished.
    std::process::exit(1)
}

async fn record_by_policy(control: Control, mut publishing: mpsc::Receiver<Publishing>) {
    while let Some(stream) = publishing.recv().await {
        control.record_by_policy(stream);
    }
}

fn facts_of(
    config: &DaemonConfig,
    addresses: Addresses,
    ways_in: WaysIn,
    means: &HandingOn,
    deliveries: deliver::Waker,
) -> Facts {
    Facts {
        addresses,
        limits: facts::limits(config),
        connections: Box::new(move || ways_in.connections()),
        hooks: config.paths.hooks.clone(),
        hand_on: hand_on_of(config),
        webhooks: means.webhooks.clone(),
        allow_delivery: config.allow_delivery.clone(),
        store: means.store.clone(),
        keeper: means.keeper.clone(),
        deliveries,
        disk: config.disk,
        retention: config.retention,
    }
}

/// What is to be done with the files of every recording, but for the hook, which the policy tells, and the webhooks, which
/// may be gone.
fn hand_on_of(config: &DaemonConfig) -> HandOn {
    HandOn { uploads: config.store.iter().map(|_| UploadTo::Storage).collect(), ..HandOn::default() }
}

fn monitor_settings(config: &DaemonConfig, control: &Control) -> MonitorSettings {
    let config::MonitorLimits { interval, key_frame_timeout } = config.monitor;
    let control = control.clone();
    MonitorSettings { interval, key_frame_timeout, busy: Box::new(move || control.is_busy()) }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
