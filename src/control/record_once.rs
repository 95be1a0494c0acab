//! `reeld record`: one source into one file, without a daemon. The same parts as in the daemon (source, hub, recorder,
//! records folder), with a catalog that lives in memory.

mod target;

use crate::{
    config::{Container, DaemonConfig, HostRule, Limits, Policy, SYNC_INTERVAL, SourceRules, Transport},
    gst::{self, Templates},
    hub::{Hub, PrerollRule, Publishing, QueueRule, Stream},
    ingest::source::{
        SourceId, SourceLimits, SourceRequest, SourceState, SourceUri, Sources, SourcesError, UriError,
    },
    library::{HandOn, Library, LibraryError, Recording, Storage, StorageError},
    media::Codec,
    record::{self, Recorder, Running},
};
use chrono::{DateTime, Utc};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use target::Target;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the recording is long enough.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How much longer than asked for a source may take to send what was asked for.
const LATE: Duration = Duration::from_secs(2);

/// What is to be recorded, and where to.
#[derive(Clone, Default)]
pub struct Order {
    /// `rtsp://`, `rtmp://` or `rtmps://`, with user and password if the source wants them. Never shown.
    pub uri: String,
    /// How RTP comes.
    pub transport: Transport,
    /// A file that ends in `.mp4`, `.webm`, `.mkv` or `.ts`, or a folder; `None`: the current folder.
    pub output: Option<PathBuf>,
    /// Remove a file of that name once the source sends.
    pub overwrite: bool,
    /// Media time after which the recording ends; a little more may be recorded.
    pub duration: Option<Duration>,
    /// Wait for a source that ends to come back, and go on in the same file.
    pub reconnect: bool,
    /// `reeld.toml`, whose `[limits]`, `[storage]` and pipelines are used.
    pub config: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordOnceError {
    #[error("the URL cannot be recorded: {0}")]
    Uri(#[from] UriError),
    #[error(transparent)]
    Source(#[from] SourcesError),
    #[error("{} does not end in a container's extension; write one of {containers}", file.display())]
    Extension { file: PathBuf, containers: String },
    #[error(
        "{} cannot be a file's name: it is too long, begins with a . or -, or holds what a name cannot hold",
        file.display()
    )]
    Name { file: PathBuf },
    #[error("{} exists; give another name, or --overwrite to replace it", file.display())]
    Exists { file: PathBuf },
    #[error(
        "{} exists: it is being written, or its recording was broken off; it plays as it is. Rename or remove it",
        part.display()
    )]
    Underway { part: PathBuf },
    #[error("{} cannot be replaced: {source}", file.display())]
    Overwrite { file: PathBuf, source: io::Error },
    #[error("the folder {} does not exist; create it first", folder.display())]
    NoFolder { folder: PathBuf },
    #[error("nothing can be written to the folder {}: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("{0}")]
    Storage(StorageError),
    #[error("the configuration has errors:\n{0}")]
    Config(String),
    #[error("{0}")]
    Gst(#[from] gstreamer::glib::BoolError),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// `uri` is without credentials.
    #[error("{uri}: {reason}")]
    Failed { uri: String, reason: String },
    #[error("the source sends {codec}, which {container} does not take; give -o a file that ends in {fit}")]
    Codec { codec: Codec, container: Container, fit: String },
    #[error("ended before anything was recorded")]
    Interrupted,
}

impl RecordOnceError {
    /// It was asked for what cannot be, whatever the source does.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Uri(_)
                | Self::Source(SourcesError::NotSupported(_))
                | Self::Extension { .. }
                | Self::Name { .. }
        )
    }
}

/// What there is to tell while it records.
#[derive(Clone, Debug)]
pub enum News {
    /// `uri` is without credentials.
    Connecting { uri: String },
    /// The source sends; `tracks` are its codecs.
    Begun { tracks: Vec<Codec> },
    /// Once a second.
    Progress(Progress),
    /// The source is away and is waited for.
    Away { reason: String, next_try: DateTime<Utc> },
    /// It is back.
    Back,
    /// No more is recorded; the file is being finished.
    Finishing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Media time in the files, ms.
    pub duration_ms: u64,
    /// In the files so far, bytes.
    pub size: u64,
    /// Access units received, of all tracks.
    pub frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Access units that are in no file.
    pub lost_frames: u64,
    /// Packets that never came.
    pub lost_packets: u64,
}

/// Why the recording ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "ended", content = "reason", rename_all = "kebab-case")]
pub enum Ended {
    /// It is as long as asked for.
    Duration,
    /// It was asked to end.
    Interrupted,
    /// The source ended, or failed.
    Source(String),
    /// The recording itself: its `error` tells why.
    Recording,
}

/// A recording that is done. `recording.error` is set where it failed; its files are those that are whole.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub recording: Recording,
    #[serde(flatten)]
    pub ended: Ended,
}

/// Records until the source ends, the recording is long enough, or `stop` is cancelled; then finishes the file, which takes
/// about a second for each gigabyte. `tell` is called on this task. Needs a tokio runtime.
pub async fn run(
    order: &Order,
    stop: &CancellationToken,
    tell: &dyn Fn(News),
) -> Result<Outcome, RecordOnceError> {
    let uri = SourceUri::parse(&order.uri)?;
    let target = Target::of(order.output.as_deref(), order.overwrite)?;
    let means = Means::load(order.config.as_deref())?;
    let storage = Storage::open(&target.folder).map_err(|e| match e {
        StorageError::Folder { path, source } => RecordOnceError::Folder { folder: path, source },
        other => RecordOnceError::Storage(other),
    })?;
    let library = Library::in_memory(storage).await?;
    let recorder = Recorder::new(library, means.sync_interval, || {})?;
    let (hub, publishing) = Hub::new(means.queues(), PrerollRule::default());
    let sources = Sources::new(hub, means.source_limits());
    let source = sources.add(SourceRequest {
        uri: uri.clone(),
        stream: None,
        transport: order.transport,
        record: true,
    })?;
    let states = sources.watch(source.id).ok_or(RecordOnceError::Interrupted)?;
    let mut one = One {
        order,
        stop,
        tell,
        target,
        means,
        recorder,
        sources,
        id: source.id,
        states,
        publishing,
        away: false,
    };
    tell(News::Connecting { uri: uri.to_string() });
    let recorded = one.record(&uri).await;
    one.sources.stop(LATE).await;
    recorded
}

/// How it is recorded: by the configuration, or as a daemon without one would.
struct Means {
    limits: Limits,
    rules: SourceRules,
    sync_interval: Duration,
    templates: Arc<Templates>,
}

impl Means {
    /// Blocks on the disk.
    fn load(config: Option<&Path>) -> Result<Self, RecordOnceError> {
        fn error(problems: &[impl ToString]) -> RecordOnceError {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            RecordOnceError::Config(lines.join("\n"))
        }
        gst::init()?;
        let Some(file) = config else {
            return Ok(Self {
                limits: Limits::default(),
                rules: every_host(),
                sync_interval: SYNC_INTERVAL,
                templates: Arc::new(Templates::shipped().map_err(|p| error(&p))?),
            });
        };
        let (config, _) = DaemonConfig::load(file).map_err(|p| error(&p))?;
        Ok(Self {
            templates: Arc::new(Templates::load(&config.paths.pipelines).map_err(|p| error(&p))?),
            limits: config.limits,
            rules: config.allow_sources,
            sync_interval: config.sync_interval,
        })
    }

    fn queues(&self) -> QueueRule {
        QueueRule {
            each_bytes: self.limits.recorder_queue_bytes as usize,
            all_bytes: self.limits.recorder_memory_bytes,
        }
    }

    fn source_limits(&self) -> SourceLimits {
        SourceLimits {
            connect_timeout: self.limits.connect_timeout,
            publisher_timeout: self.limits.publisher_timeout,
            max_sources: 1,
            rules: self.rules.clone(),
        }
    }
}

/// Who types the URL has the rights of this process already; a camera on the same cable has a link-local address.
fn every_host() -> SourceRules {
    let nets: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
    SourceRules { allow: Some(nets.map(HostRule::Net).to_vec()) }
}

/// The parts of one recording.
struct One<'a> {
    order: &'a Order,
    stop: &'a CancellationToken,
    tell: &'a dyn Fn(News),
    target: Target,
    means: Means,
    recorder: Recorder,
    sources: Sources,
    id: SourceId,
    states: watch::Receiver<SourceState>,
    publishing: mpsc::Receiver<Publishing>,
    /// Told of the source, and not yet told otherwise.
    away: bool,
}

/// A source that sends, or has sent and ended for this reason.
struct Begun {
    publishing: Publishing,
    over: Option<String>,
}

impl One<'_> {
    async fn record(&mut self, uri: &SourceUri) -> Result<Outcome, RecordOnceError> {
        let Begun { publishing, over } = self.begin(uri).await?;
        let stream = publishing.stream.clone();
        let tracks = stream.snapshot().tracks;
        self.target.takes(&tracks)?;
        if self.order.overwrite {
            self.target.make_room()?;
        }
        (self.tell)(News::Begun { tracks: tracks.iter().map(|t| t.codec).collect() });
        let mut running = self.recorder.start(self.recording(publishing));
        let ended = match over {
            Some(reason) => Ended::Source(reason),
            None => self.follow(&stream, &running).await,
        };
        (self.tell)(News::Finishing);
        if !matches!(ended, Ended::Source(_)) {
            running.stop();
        }
        // Hands on what is left of a source that has ended, and ends its stream.
        self.sources.remove(self.id).await;
        running.stop();
        let recording = running.done().await;
        Ok(Outcome { recording, ended })
    }

    /// Waits for the source's tracks. Each step of a connection has its time limit.
    async fn begin(&mut self, uri: &SourceUri) -> Result<Begun, RecordOnceError> {
        let reason = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(RecordOnceError::Interrupted),
                Some(publishing) = self.publishing.recv() => return Ok(Begun { publishing, over: None }),
                changed = self.states.changed() => {
                    let reason = failure(&self.states.borrow_and_update());
                    match (reason, changed) {
                        (Some(reason), _) => break reason,
                        (None, Ok(())) => {}
                        (None, Err(_)) => return Err(RecordOnceError::Interrupted),
                    }
                }
            }
        };
        // What came of it may be a short stream.
        self.sources.remove(self.id).await;
        match self.publishing.try_recv() {
            Ok(publishing) => Ok(Begun { publishing, over: Some(reason) }),
            Err(_) => Err(RecordOnceError::Failed { uri: uri.to_string(), reason }),
        }
    }

    fn recording(&self, publishing: Publishing) -> record::Order {
        let policy = Policy {
            name: self.target.name(),
            formats: self.target.formats(),
            hook_script: None,
            ..Policy::default()
        };
        record::Order {
            stream: publishing.stream,
            subscriber: publishing.from_start,
            policy: Arc::new(policy),
            templates: self.means.templates.clone(),
            hand_on: HandOn::default(),
            max_part_duration: self.means.limits.max_part_duration,
            degraded: Vec::new(),
        }
    }

    /// Until there is a reason to end.
    async fn follow(&mut self, stream: &Stream, running: &Running) -> Ended {
        let begun = Instant::now();
        let mut done = running.clone();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = begun;
        loop {
            tokio::select! {
                _ = done.done() => return Ended::Recording,
                () = self.stop.cancelled() => return Ended::Interrupted,
                changed = self.states.changed() => {
                    let state = self.states.borrow_and_update().clone();
                    if let Some(ended) = self.changed(state, changed.is_err()) {
                        return ended;
                    }
                }
                _ = look.tick() => {
                    if self.order.duration.is_some_and(|d| is_long_enough(d, running.media_ms(), begun.elapsed())) {
                        return Ended::Duration;
                    }
                    if told.elapsed() >= TELL_EVERY {
                        told = Instant::now();
                        (self.tell)(News::Progress(self.progress(stream, running).await));
                    }
                }
            }
        }
    }

    /// The source is in another state; `gone`: it is not pulled any more.
    fn changed(&mut self, state: SourceState, gone: bool) -> Option<Ended> {
        let reason = failure(&state);
        if gone || (reason.is_some() && !self.order.reconnect) {
            return Some(Ended::Source(reason.unwrap_or_else(|| "it was ended from here".into())));
        }
        match state {
            SourceState::Waiting { failure, next_try } => {
                self.away = true;
                (self.tell)(News::Away { reason: failure.reason, next_try });
            }
            SourceState::Live { .. } if std::mem::take(&mut self.away) => (self.tell)(News::Back),
            SourceState::Live { .. } | SourceState::Connecting { .. } => {}
        }
        None
    }

    async fn progress(&self, stream: &Stream, running: &Running) -> Progress {
        let (now, progress) = (stream.snapshot(), running.progress());
        let part = self.part(&progress);
        let open = match part {
            Some(part) => tokio::fs::metadata(part).await.map_or(0, |m| m.len()),
            None => 0,
        };
        Progress {
            duration_ms: running.media_ms(),
            size: progress.recording.size + open,
            frames: now.frames,
            received_bytes: now.bytes,
            lost_frames: progress.recording.lost.frames,
            lost_packets: progress.recording.lost.packets,
        }
    }

    fn part(&self, progress: &record::Progress) -> Option<PathBuf> {
        progress.file_name.as_ref().map(|name| self.target.folder.join(format!("{name}.part")))
    }
}

/// Why there is no connection now.
fn failure(state: &SourceState) -> Option<String> {
    match state {
        SourceState::Waiting { failure, .. } => Some(failure.reason.clone()),
        SourceState::Connecting { failure } => failure.as_ref().map(|f| f.reason.clone()),
        SourceState::Live { .. } => None,
    }
}

/// By its own clock, or by ours where the source is late with what it sends.
fn is_long_enough(wanted: Duration, media_ms: u64, elapsed: Duration) -> bool {
    Duration::from_millis(media_ms) >= wanted || elapsed >= wanted + LATE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::source::Failure;

    #[test]
    fn a_recording_is_long_enough_by_its_media_or_soon_after() {
        let s = Duration::from_secs;
        for (media_ms, elapsed, enough) in
            [(9_999, s(10), false), (10_000, s(1), true), (0, s(11), false), (7_000, s(12), true)]
        {
            assert_eq!(is_long_enough(s(10), media_ms, elapsed), enough, "{media_ms} ms in {elapsed:?}");
        }
    }

    #[test]
    fn a_source_has_failed_while_it_waits_and_while_it_tries_again() {
        let failed = Failure { reason: "refused".into(), attempts: 1 };
        let (told, now) = (Some("refused".to_owned()), Utc::now());
        assert_eq!(failure(&SourceState::Waiting { failure: failed.clone(), next_try: now }), told);
        assert_eq!(failure(&SourceState::Connecting { failure: Some(failed) }), told);
        assert_eq!(failure(&SourceState::Connecting { failure: None }), None);
        assert_eq!(failure(&SourceState::Live { since: now }), None);
    }

    /// Not `[limits] allow_sources`' default: it keeps link-local addresses away from who can reach only the REST API.
    #[test]
    fn a_camera_on_the_same_cable_may_be_recorded() {
        for address in ["169.254.7.1", "127.0.0.1", "fe80::1", "203.0.113.7"] {
            assert!(every_host().allows("camera", address.parse().expect("an address")), "{address}");
        }
    }
}
