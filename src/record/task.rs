use super::{
    books::{ClosedPart, Entry, Totals},
    names::PartNames,
    params::Change,
    pool::Waker,
    state::{Action, ErrorBudget, Input, State},
    writer::{Place, Writer},
};
use crate::{
    config::{AudioRule, Policy},
    gst::{PipelineError, PlanError, Templates},
    hub::{Item, Stream, Subscriber},
    library::{PartFile, PartLost, RecordingId, Storage, StorageError},
    media::{Frame, Gap, GapKind, MediaKind, Protocol, Tracks},
};
use chrono::{DateTime, Utc};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Gaps that are told one by one; of more only what is lost is counted.
const MAX_GAPS: usize = 1_000;
/// Access units kept while waiting for a video key frame, at most.
const MAX_HELD: usize = 1_000;
/// Audio kept while waiting for a video key frame: the newest second of it.
const HELD_AUDIO_NS: u64 = 1_000_000_000;

/// Where access units come from.
pub struct Source {
    pub stream: Arc<Stream>,
    pub subscriber: Subscriber,
}

/// What a recording under way can be asked for.
pub(super) enum Request {
    Split,
    Pause,
    Resume,
    Switch(Source),
    /// The publisher has come back, as this stream.
    Return(Source),
}

/// Why a recording does not do what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the recording has ended")]
    Over,
    #[error("the recording has not begun: no frame is in a file yet")]
    NotBegun,
    #[error("the recording is paused; resume it first")]
    Paused,
    #[error("the recording is not paused")]
    NotPaused,
    #[error("the recording waits for no publisher")]
    NotAway,
}

pub(super) struct Refused {
    pub why: Refusal,
    pub request: Request,
}

impl Refused {
    pub fn over(request: Request) -> Self {
        Self { why: Refusal::Over, request }
    }
}

/// One recording under way. Lives on a writer thread, which polls it a few times a second.
pub(super) struct Task {
    pub id: RecordingId,
    stream: Arc<Stream>,
    subscriber: Subscriber,
    policy: Arc<Policy>,
    templates: Arc<Templates>,
    storage: Storage,
    /// An entry per event in a recording's life, never per frame, so it needs no bound.
    books: mpsc::UnboundedSender<Entry>,
    media_ms: Arc<AtomicU64>,
    state: State,
    tracks: Tracks,
    items: VecDeque<Item>,
    held: VecDeque<Frame>,
    part: Option<OpenPart>,
    parts_opened: u32,
    /// Media time of the parts already closed, ms.
    closed_ms: u64,
    last_error: Option<String>,
    totals: Arc<Totals>,
    /// Access units that no part holds, not yet told to the books.
    frames_lost: u64,
    /// Of gaps that are not told one by one.
    packets_lost: u64,
    gaps_told: usize,
    ended: bool,
}

/// What is recorded, and where to.
pub(super) struct Inputs {
    pub id: RecordingId,
    pub stream: Arc<Stream>,
    pub subscriber: Subscriber,
    pub storage: Storage,
    pub totals: Arc<Totals>,
}

struct OpenPart {
    writer: Writer,
    file: PartFile,
    names: PartNames,
    number: u32,
    started_at: DateTime<Utc>,
    base_ns: u64,
    gaps: Vec<Gap>,
    lost: PartLost,
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("no pipelines/*.toml describes container {0:?}, which record_formats asks for")]
    NoTemplate(&'static str),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot write {file}: {source}")]
    Pipeline { file: String, source: PipelineError },
}

impl Task {
    pub fn new(
        inputs: Inputs,
        policy: Arc<Policy>,
        templates: Arc<Templates>,
        books: mpsc::UnboundedSender<Entry>,
        media_ms: Arc<AtomicU64>,
    ) -> Self {
        let Inputs { id, stream, subscriber, storage, totals } = inputs;
        let budget = ErrorBudget { max: policy.max_errors, interval: policy.error_interval };
        Self {
            id,
            stream,
            subscriber,
            policy,
            templates,
            storage,
            books,
            media_ms,
            state: State::new(budget),
            tracks: Tracks::default(),
            items: VecDeque::new(),
            held: VecDeque::new(),
            part: None,
            parts_opened: 0,
            closed_ms: 0,
            last_error: None,
            totals,
            frames_lost: 0,
            packets_lost: 0,
            gaps_told: 0,
            ended: false,
        }
    }

    /// Has the pool poll this task at once when its stream ends or its queue fills.
    pub fn wake_by(&self, waker: Waker) {
        let id = self.id;
        self.subscriber.on_attention(move || waker.poll(id));
    }

    /// Writes what has arrived. False when the recording is over and the task can go.
    pub fn poll(&mut self, now: Duration) -> bool {
        let mut items = std::mem::take(&mut self.items);
        self.subscriber.drain(&mut items);
        for item in items.drain(..) {
            self.take(item, now);
        }
        // Handed back empty, with its memory.
        self.items = items;
        if let Some(Err(e)) = self.part.as_mut().map(|p| p.writer.check()) {
            self.failed(&e, now);
        }
        self.tell_losses();
        let running_ms = self.part.as_ref().map_or(0, |p| p.writer.span().duration_ms());
        self.media_ms.store(self.closed_ms + running_ms, Ordering::Relaxed);
        !self.ended
    }

    /// Writes what has arrived until now and ends the recording.
    pub fn stop(&mut self, now: Duration) {
        self.poll(now);
        self.input(Input::Stop, None, now);
    }

    pub fn ask(&mut self, request: Request, _now: Duration) -> Result<(), Refused> {
        Err(Refused { why: Refusal::NotBegun, request })
    }

    fn take(&mut self, item: Item, now: Duration) {
        match item {
            Item::Tracks(tracks) => self.set_tracks(tracks, now),
            Item::Frame(frame) => {
                let kind = self.tracks.get(frame.track).map(|t| t.kind());
                let input = Input::Frame { video: kind == Some(MediaKind::Video), key: frame.is_key() };
                self.input(input, Some(frame), now);
            }
            Item::Gap(gap) => {
                let overflow = gap.kind == GapKind::Overflow;
                self.note(gap);
                if overflow {
                    self.input(Input::Overflow, None, now);
                }
            }
            Item::End(_) => self.input(Input::End, None, now),
        }
    }

    fn set_tracks(&mut self, tracks: Tracks, now: Duration) {
        let change = Change::of(&self.tracks, &tracks);
        self.input(Input::Tracks { video: tracks.video().is_some(), change }, None, now);
        match (&mut self.part, change) {
            (_, Change::Other) => self.close(),
            (Some(part), Change::Fits) => part.writer.set_tracks(&tracks),
            (Some(part), Change::Grows) => {
                part.writer.set_tracks(&tracks);
                for track in tracks.iter().skip(self.tracks.iter().len()) {
                    let after_ms = part.writer.span().duration_ms();
                    part.writer.degrade(format!(
                        "a {} track came after {after_ms} ms: it is in the next part, which begins at the next key frame",
                        track.codec
                    ));
                }
            }
            (None, _) => {}
        }
        self.tracks = tracks;
    }

    fn input(&mut self, input: Input, frame: Option<Frame>, now: Duration) {
        match (self.state.step(input, now), frame) {
            (Action::Nothing, Some(_)) if self.parts_opened > 0 && !self.ended => self.frames_lost += 1,
            (Action::Nothing, _) => {}
            (Action::Hold, Some(frame)) => self.hold(frame),
            (Action::Open, Some(frame)) => self.open(frame, now),
            (Action::Reopen, Some(frame)) => {
                let held = std::mem::take(&mut self.held);
                self.close();
                self.held = held;
                self.open(frame, now);
            }
            (Action::AskKey, _) => self.stream.request_key_frame(),
            (Action::Write, Some(frame)) => self.write(&frame, now),
            (Action::Close, _) => self.close(),
            (Action::Finish, _) => self.end(None),
            (Action::Fail, _) => {
                let error = self.last_error.clone();
                self.end(Some(error.unwrap_or_else(|| "too many errors".into())));
            }
            (action @ (Action::Hold | Action::Open | Action::Reopen | Action::Write), None) => {
                debug_assert!(false, "{action:?} follows a frame only");
            }
        }
    }

    fn hold(&mut self, frame: Frame) {
        let oldest_ns = frame.dts_ns().saturating_sub(HELD_AUDIO_NS);
        self.held.push_back(frame);
        while self.held.len() > MAX_HELD || self.held.front().is_some_and(|f| f.dts_ns() < oldest_ns) {
            self.held.pop_front();
            self.frames_lost += 1;
        }
    }

    fn open(&mut self, frame: Frame, now: Duration) {
        self.held.push_back(frame);
        match self.open_part() {
            Ok(part) => {
                self.tell(Entry::Opened {
                    name: part.file.name().to_owned(),
                    number: part.number,
                    path: part.file.path().to_owned(),
                    started_at: part.started_at,
                });
                self.parts_opened = part.number;
                self.part = Some(part);
                for frame in std::mem::take(&mut self.held) {
                    self.write(&frame, now);
                }
            }
            Err(OpenError::Storage(e)) => self.failed(&e, now),
            Err(e @ OpenError::Pipeline { .. }) => self.failed(&e, now),
            Err(e) => {
                self.last_error = Some(e.to_string());
                self.input(Input::Impossible, None, now);
            }
        }
    }

    fn open_part(&self) -> Result<OpenPart, OpenError> {
        let container = self.policy.formats.container(self.tracks.video().map(|t| t.codec)).as_str();
        let template = self.templates.get(container).ok_or(OpenError::NoTemplate(container))?;
        let plans = template.plan(&self.tracks, self.policy.audio == AudioRule::Passthrough)?;
        let base_ns = self.held.iter().map(Frame::dts_ns).min().unwrap_or(0);
        let number = self.parts_opened + 1;
        let started_at = self.stream.wall_time(base_ns);
        let names =
            PartNames::new(&self.policy.name, &self.stream, &plans, number, started_at, &template.extension);
        let file = self.storage.reserve(|n| names.stem(n, None), &template.extension)?;
        // Browsers change the resolution as the network allows.
        let repeat = self.stream.announce().protocol == Protocol::Webrtc;
        let writer = Writer::open(template, &plans, &self.tracks, file.path(), base_ns, repeat, &self.totals)
            .map_err(|source| OpenError::Pipeline { file: file.path().display().to_string(), source });
        let writer = match writer {
            Ok(writer) => writer,
            Err(e) => {
                // The error that is told is the one that matters; an empty .part does no harm.
                let _ = self.storage.discard(file);
                return Err(e);
            }
        };
        Ok(OpenPart {
            writer,
            file,
            names,
            number,
            started_at,
            base_ns,
            gaps: Vec::new(),
            lost: PartLost::default(),
        })
    }

    fn write(&mut self, frame: &Frame, now: Duration) {
        let audio = self.tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Audio);
        let Some(part) = &mut self.part else {
            self.frames_lost += 1;
            return;
        };
        match part.writer.write(frame) {
            Ok(Place::Written) => {}
            Ok(Place::NoTrack) if audio => {
                self.hold(frame.clone());
                self.input(Input::Outgrown, None, now);
            }
            Ok(Place::NoTrack | Place::Taken) => {
                part.lost.frames += 1;
                self.frames_lost += 1;
            }
            Err(source) => {
                let file = part.file.path().display().to_string();
                self.frames_lost += 1;
                self.failed(&OpenError::Pipeline { file, source }, now);
            }
        }
    }

    fn failed(&mut self, error: &dyn std::error::Error, now: Duration) {
        let announce = self.stream.announce();
        tracing::error!(
            recording = %self.id, room = %announce.room, stream = %announce.name, error = %error,
            "cannot write the recording; it goes on at the next key frame unless errors repeat"
        );
        self.last_error = Some(error.to_string());
        self.input(Input::WriteFailed, None, now);
    }

    fn note(&mut self, gap: Gap) {
        let base_ms = self.part.as_ref().map_or(gap.at_ms, |p| p.base_ns / 1_000_000);
        let at_ms = gap.at_ms.saturating_sub(base_ms);
        if let Some(part) = &mut self.part {
            part.lost.packets += gap.packets;
            part.lost.frames += gap.frames;
        }
        self.gaps_told += 1;
        if self.gaps_told > MAX_GAPS {
            self.frames_lost += gap.frames;
            self.packets_lost += gap.packets;
            return;
        }
        if let Some(part) = &mut self.part {
            part.gaps.push(Gap { at_ms, ..gap.clone() });
        }
        self.tell(Entry::Gap(Gap { at_ms: at_ms + self.closed_ms, ..gap }));
    }

    /// Closes the part under way, if any. What was held belonged to it, or to parameters that are past.
    fn close(&mut self) {
        self.frames_lost += self.held.len() as u64;
        self.held.clear();
        let Some(part) = self.part.take() else { return };
        self.closed_ms += part.writer.span().duration_ms();
        self.tell(Entry::Closed(Box::new(ClosedPart {
            writer: part.writer,
            file: part.file,
            names: part.names,
            number: part.number,
            started_at: part.started_at,
            gaps: part.gaps,
            lost: part.lost,
            left_out: self.stream.left_out(),
        })));
    }

    fn end(&mut self, error: Option<String>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.tell(Entry::Ending);
        self.close();
        self.tell_losses();
        let trouble = self.last_error.take();
        self.tell(Entry::Ended { error, trouble });
    }

    fn tell_losses(&mut self) {
        let frames = std::mem::take(&mut self.frames_lost);
        let packets = std::mem::take(&mut self.packets_lost);
        if frames > 0 || packets > 0 {
            self.tell(Entry::Lost { frames, packets });
        }
    }

    fn tell(&self, entry: Entry) {
        // The books outlive the task, except when the daemon was told to stop at once.
        let _ = self.books.send(entry);
    }
}
