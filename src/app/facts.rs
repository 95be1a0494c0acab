//! What the daemon tells about itself: addresses, limits, metrics, and its state to systemd.

use super::AppError;
use super::ways_in::WaysIn;
use crate::{
    config::DaemonConfig,
    control::{Addresses, Control, DiskInfo, LimitsInfo, MonitorStats, NotAdmitted},
    hub::Hub,
    media::HealthReason,
    record::{Totals, sync::SyncStats, transcodes_possible},
    telemetry::Metrics,
};
use sd_notify::NotifyState;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const TEN_YEARS_S: u64 = 315_576_000;

/// The state folder, which belongs to one daemon as long as this lives.
pub(super) struct State {
    /// For [`tell_addresses`].
    pub addresses: PathBuf,
    _lock: File,
}

/// Creates the state folder, takes it for this process and removes what an earlier run told.
pub(super) fn take_state(state: &Path) -> Result<State, AppError> {
    let (addresses, lock) = (state.join("addresses.json"), state.join("lock"));
    let failed = |path: &Path, source| AppError::State { path: path.to_owned(), source };
    fs::create_dir_all(state).map_err(|e| failed(state, e))?;
    let file =
        File::options().create(true).truncate(false).write(true).open(&lock).map_err(|e| failed(&lock, e))?;
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => AppError::StateTaken { path: state.to_owned() },
        TryLockError::Error(e) => failed(&lock, e),
    })?;
    match fs::remove_file(&addresses) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&addresses, e)),
        _ => Ok(State { addresses, _lock: file }),
    }
}

/// Writes the addresses in use, for scripts that chose port 0: the file appears whole, when the daemon is ready.
pub(super) fn tell_addresses(file: &Path, addresses: &Addresses) -> Result<(), AppError> {
    let failed = |source| AppError::State { path: file.to_owned(), source };
    let text = serde_json::to_string(addresses).map_err(|e| failed(e.into()))?;
    let temporary = file.with_extension("json.temp");
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, file)).map_err(failed)
}

pub(super) fn limits(config: &DaemonConfig) -> LimitsInfo {
    let (limits, admission) = (&config.limits, config.admission);
    let ms = |d: std::time::Duration| d.as_millis() as u64;
    LimitsInfo {
        max_connections: limits.max_connections,
        connections: 0,
        max_recordings: admission.max_recordings,
        max_sessions: admission.max_sessions,
        max_transcodes: admission.max_transcodes.unwrap_or_else(transcodes_possible),
        max_cpu_percent: admission.max_cpu_percent,
        max_message_bytes: limits.max_message_bytes,
        publisher_timeout_ms: ms(limits.publisher_timeout),
        handshake_timeout_ms: ms(limits.handshake_timeout),
        shutdown_timeout_ms: ms(limits.shutdown_timeout),
        hook_timeout_ms: ms(limits.hook_timeout),
        hook_concurrency: limits.hook_concurrency,
        recorder_queue_bytes: limits.recorder_queue_bytes,
        recorder_memory_bytes: limits.recorder_memory_bytes,
        preroll_ms: ms(limits.preroll),
        preroll_memory_bytes: limits.preroll_memory_bytes,
        max_part_duration_ms: ms(limits.max_part_duration),
        sync_interval_ms: ms(config.sync_interval),
        monitor_interval_ms: ms(config.monitor.interval),
        key_frame_timeout_ms: ms(config.monitor.key_frame_timeout),
    }
}

pub(super) fn metrics(
    hub: Hub,
    control: Control,
    ways_in: &WaysIn,
    totals: Arc<Totals>,
    syncs: Arc<SyncStats>,
    monitor: Arc<MonitorStats>,
) -> Metrics {
    let WaysIn { rtmp, rtsp, whip, .. } = ways_in.clone();
    let mut metrics = Metrics::default();
    let total = |pick: fn(&Totals) -> &AtomicU64| {
        let totals = totals.clone();
        move || pick(&totals).load(Ordering::Relaxed)
    };
    add_syncs(&mut metrics, &syncs);
    add_admission(&mut metrics, &hub, &control);
    add_monitor(&mut metrics, &monitor);
    let (server, refusing) = (rtmp.clone(), rtmp.clone());
    let (preroll, short, queued) = (hub.clone(), hub.clone(), hub.clone());
    metrics.gauge("sessions", "Live streams.", move || hub.stream_count() as u64);
    metrics
        .gauge("recorder_queued_bytes", "What recorders have not taken yet.", move || queued.queued_bytes());
    metrics.gauge("preroll_bytes", "Memory of what is kept for pre-roll.", move || preroll.preroll_bytes());
    metrics.counter("preroll_shortages", "Streams whose pre-roll was cut: preroll_memory.", move || {
        short.preroll_shortages()
    });
    metrics.gauge("rtmp_connections", "Open RTMP connections.", move || server.stats().connections as u64);
    metrics.counter("rtmp_accepted", "RTMP connections accepted.", move || rtmp.stats().accepted);
    metrics.counter("rtmp_refused", "RTMP connections refused: max_connections.", move || {
        refusing.stats().refused
    });
    let (server, refusing) = (rtsp.clone(), rtsp.clone());
    metrics.gauge("rtsp_connections", "Open RTSP connections.", move || server.stats().connections as u64);
    metrics.counter("rtsp_accepted", "RTSP connections accepted.", move || rtsp.stats().accepted);
    metrics.counter("rtsp_refused", "RTSP connections refused: max_connections.", move || {
        refusing.stats().refused
    });
    let (sessions, accepting) = (whip.clone(), whip.clone());
    metrics.gauge("whip_sessions", "WebRTC publishers.", move || sessions.stats().sessions as u64);
    metrics.counter("whip_accepted", "WHIP offers accepted.", move || accepting.stats().accepted);
    metrics.counter("whip_refused", "WHIP offers refused.", move || whip.stats().refused);
    add_disk(&mut metrics, &control);
    let (running, policy) = (control.clone(), control);
    metrics.gauge("recordings_running", "Recordings being written.", move || {
        running.recordings_running() as u64
    });
    metrics.counter("recordings_completed", "Recordings completed.", total(|t| &t.completed));
    metrics.counter("recordings_failed", "Recordings failed.", total(|t| &t.failed));
    metrics.counter("recorded_files", "Files finished.", total(|t| &t.files));
    metrics.counter("recorded_bytes", "Bytes of finished files.", total(|t| &t.bytes));
    metrics.counter("frames_lost", "Access units that ended recordings miss.", total(|t| &t.frames_lost));
    metrics.counter("packets_lost", "Packets that ended recordings miss.", total(|t| &t.packets_lost));
    metrics.gauge(
        "recording_element_threads",
        "Threads owned by elements of files being written.",
        total(|t| &t.element_threads),
    );
    metrics.gauge(
        "transcoded_tracks",
        "Tracks being decoded and encoded, on the writer threads.",
        total(|t| &t.transcoded_tracks),
    );
    let broken = move || u64::from(policy.rules().error.is_some());
    metrics.gauge("policy_error", "1 when the policy file as it is now is not in force.", broken);
    metrics
}

fn add_disk(metrics: &mut Metrics, control: &Control) {
    let disk = |pick: fn(DiskInfo) -> u64| {
        let control = control.clone();
        move || pick(control.disk())
    };
    metrics.gauge("disk_free_bytes", "Free bytes in the records folder.", disk(|d| d.free_bytes));
    metrics.gauge("disk_total_bytes", "Bytes of the disk of the records folder.", disk(|d| d.total_bytes));
    let mark =
        "How full the disk is: 0 enough room, 1 low, 2 nothing new is recorded, 3 recordings are ended.";
    metrics.gauge("disk_mark", mark, disk(|d| d.mark as u64));
    let rate = "Bytes that recordings write in a second, smoothed.";
    metrics.gauge("disk_bytes_per_second", rate, disk(|d| d.bytes_per_second));
    let full = "Seconds until recordings are ended for want of room, at the rate of now; ten years at most.";
    metrics.gauge(
        "disk_seconds_to_full",
        full,
        disk(|d| d.seconds_to_full.map_or(TEN_YEARS_S, |s| s.min(TEN_YEARS_S))),
    );
    let (refused, ended, deleted) = (control.clone(), control.clone(), control.clone());
    metrics.counter("disk_full_refused", "Starts refused: the disk was full.", move || refused.disk_full().0);
    metrics.counter("disk_full_ended", "Recordings ended: the disk was full.", move || ended.disk_full().1);
    metrics.counter("retention_deleted", "Recordings deleted by retention.", move || {
        deleted.deleted_by_retention()
    });
}

fn add_admission(metrics: &mut Metrics, hub: &Hub, control: &Control) {
    let of_hub = hub.clone();
    let refused_streams: Box<dyn Fn() -> u64 + Send + Sync> = Box::new(move || of_hub.refused());
    let starts = NotAdmitted::REASONS.into_iter().map(|reason| {
        let control = control.clone();
        let read: Box<dyn Fn() -> u64 + Send + Sync> = Box::new(move || control.refused(reason));
        (reason, read)
    });
    let refused = starts.chain([("max_sessions", refused_streams)]);
    metrics.counter_by("refused", "Starts and streams refused or put off: [limits].", "reason", refused);
    let waiting = control.clone();
    metrics.gauge("recordings_waiting", "Streams that wait to be recorded.", move || {
        waiting.waiting_to_be_recorded() as u64
    });
    let (all, own, busy) = (control.clone(), control.clone(), control.clone());
    metrics.gauge("cpu_busy", "1 while the processors are too busy for more transcoding.", move || {
        u64::from(busy.is_busy())
    });
    metrics.gauge("cpu_percent", "How busy the processors are that it may use.", move || all.cpu_percent().0);
    metrics.gauge("daemon_cpu_percent", "The daemon's own part of that.", move || own.cpu_percent().1);
}

fn add_syncs(metrics: &mut Metrics, syncs: &Arc<SyncStats>) {
    let read = |pick: fn(&SyncStats) -> &AtomicU64| {
        let syncs = syncs.clone();
        move || pick(&syncs).load(Ordering::Relaxed)
    };
    metrics.counter("syncs", "Times a file under way was synced to the disk.", read(|s| &s.syncs));
    let late = "Syncs that ended more than a second after they were due: a power cut would have cost more.";
    metrics.counter("syncs_late", late, read(|s| &s.late));
    metrics.counter("syncs_failed", "Syncs that failed.", read(|s| &s.failed));
    metrics.gauge("sync_longest_ms", "The longest sync since the start, ms.", read(|s| &s.longest_ms));
    let behind = "Recordings whose muxer has not taken what was written, because the disk is slow.";
    metrics.gauge("recordings_behind", behind, read(|s| &s.behind));
    let waiting = syncs.clone();
    metrics.gauge(
        "disk_waiting_ms",
        "How long a sync or a writer thread has been waiting for the disk, ms; 0: none is.",
        move || waiting.waiting().as_millis() as u64,
    );
}

fn add_monitor(metrics: &mut Metrics, monitor: &Arc<MonitorStats>) {
    let read = |pick: fn(&MonitorStats) -> &AtomicU64| {
        let monitor = monitor.clone();
        move || pick(&monitor).load(Ordering::Relaxed)
    };
    let degraded = HealthReason::ALL.map(|reason| {
        let monitor = monitor.clone();
        (reason.as_str(), move || monitor.degraded(reason))
    });
    let what = "Recordings under way that something is wrong with.";
    metrics.gauge_by("recordings_degraded", what, "reason", degraded);
    metrics.counter("monitor_looks", "Key frames and stretches of sound looked at.", read(|m| &m.looks));
    metrics.counter("monitor_looks_failed", "Those that could not be decoded.", read(|m| &m.failed_looks));
    let what = "Times that looks were put off: a busy machine, or the monitor's share of the processor.";
    metrics.counter("monitor_postponed", what, read(|m| &m.postponed));
    let cpu = monitor.clone();
    let what = "Processor time of the monitor's thread.";
    metrics.counter("monitor_cpu_ms", what, move || cpu.cpu_ns.load(Ordering::Relaxed) / 1_000_000);
}

/// Tells systemd that the daemon is ready, and from then on that it is alive.
pub(super) fn notify_ready(addresses: &Addresses) {
    let rtmps = addresses.rtmps.map(tracing::field::display);
    tracing::info!(http = %addresses.http, rtmp = %addresses.rtmp, rtmps, rtsp = %addresses.rtsp, "ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(period / 2);
        loop {
            tick.tick().await;
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    });
}

pub(super) fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}
