//! A recording's books: one task per recording that finishes its parts, one after the other, and keeps the
//! catalog and whoever watches up to date. Blocking work runs beside the async threads.

use super::{
    feed::TrackCounts,
    names::{PartEnd, PartNames},
    salvage::make_whole,
    volume::Volume,
    writer::{Writer, Written},
};
use crate::{
    gst::PipelineError,
    hub::Stream,
    library::{
        AudioPart, FinishedFile, HandOn, Health, Identity, Library, LibraryError, Manifest, Part, PartFile,
        PartLost, Recording, Salvaged, Status, VideoPart,
    },
    media::{Gap, HealthReason, MediaKind},
};
use chrono::{DateTime, SubsecRound, Utc};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// How often a finished part is offered to the catalog, and the pause after the first refusal; it doubles.
const COMMIT_ATTEMPTS: u32 = 7;
const FIRST_COMMIT_PAUSE: Duration = Duration::from_millis(250);
/// Losses come in bursts: the catalog is told so much later.
const NOTE_LOST_AFTER: Duration = Duration::from_millis(500);
/// What a file's end takes beside its index: a manifest, a row of the catalog.
const FINISH_BYTES: u64 = 256 << 10;
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What happens in a recording's life, told by the writer thread.
pub(super) enum Entry {
    /// A part's file exists and frames go into it.
    Opened {
        name: String,
        number: u32,
        path: PathBuf,
        started_at: DateTime<Utc>,
    },
    /// So much more is lost, beyond the gaps that are told.
    Lost {
        frames: u64,
        packets: u64,
    },
    Gap(Gap),
    /// Something is wrong with what is recorded since `at`, or not any more.
    Health {
        reason: HealthReason,
        holds: bool,
        at: DateTime<Utc>,
    },
    Paused,
    /// Frames are written again after a time that was left out.
    WentOn,
    /// They come from this stream now.
    Joined(Arc<Stream>),
    /// A part has all its frames; its file is to be made whole.
    Closed(Box<ClosedPart>),
    /// No more frames will be written.
    Ending,
    /// Nothing follows. `trouble`: the last error that the recording got over, or tried to.
    /// `disk_full`: it was for want of room.
    Ended {
        error: Option<String>,
        trouble: Option<String>,
        disk_full: bool,
    },
}

pub(super) struct ClosedPart {
    pub writer: Writer,
    pub file: PartFile,
    pub names: PartNames,
    pub number: u32,
    pub started_at: DateTime<Utc>,
    pub gaps: Vec<Gap>,
    pub lost: PartLost,
    /// What the stream had and the file has not.
    pub left_out: Vec<String>,
}

/// A recording as it is now, for those who watch it.
#[derive(Clone)]
pub struct Progress {
    pub recording: Recording,
    /// What is recorded now: another one after a switch, or when the publisher came back.
    pub stream: Arc<Stream>,
    /// File name of the part under way, or of the last one.
    pub file_name: Option<String>,
    /// Parts that have begun.
    pub parts_opened: u32,
    /// How often the recording has gone over to another stream.
    pub sources_joined: u32,
    /// It has ended for want of room on the disk.
    pub disk_full: bool,
    /// Every part is finished (or failed) and the catalog knows.
    pub done: bool,
}

impl Progress {
    pub(super) fn begin(recording: Recording, stream: Arc<Stream>) -> Self {
        Self {
            recording,
            stream,
            file_name: None,
            parts_opened: 0,
            sources_joined: 0,
            disk_full: false,
            done: false,
        }
    }
}

/// What all recordings have come to since the start.
#[derive(Debug, Default)]
pub struct Totals {
    pub completed: AtomicU64,
    pub failed: AtomicU64,
    pub files: AtomicU64,
    /// Bytes of finished files.
    pub bytes: AtomicU64,
    pub frames_lost: AtomicU64,
    pub packets_lost: AtomicU64,
    /// Threads that elements of the files under way own now.
    pub element_threads: AtomicU64,
    /// Tracks that are decoded and encoded now, on the writer threads.
    pub transcoded_tracks: AtomicU64,
}

/// The parts that are being made whole, one after the other.
#[derive(Default)]
struct Finishing {
    /// The one that was begun last; it waits for the one before. Its error is the first of all.
    last: Option<JoinHandle<Option<String>>>,
}

impl Finishing {
    fn next(&mut self, books: Arc<Books>, part: ClosedPart) {
        let before = Self { last: self.last.take() };
        self.last = Some(tokio::spawn(async move {
            let error = before.end().await;
            error.or(books.finish_part(part).await.err())
        }));
    }

    /// Waits for all of them. The first error.
    async fn end(self) -> Option<String> {
        self.last?.await.unwrap_or_else(|e| Some(format!("finishing a file: {e}")))
    }
}

/// When the catalog is to be told what a recording has lost: it is all that is left of it after a crash.
#[derive(Default)]
struct Losses {
    /// Something is lost that the catalog does not know, since then.
    since: Option<Instant>,
}

impl Losses {
    fn see(&mut self, entry: &Entry) {
        if matches!(entry, Entry::Lost { .. } | Entry::Gap(_)) {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    fn noted(&mut self) {
        self.since = None;
    }

    fn due_in(&self) -> Duration {
        self.since.map_or(NEVER, |since| NOTE_LOST_AFTER.saturating_sub(since.elapsed()))
    }
}

pub(super) struct Books {
    /// What never changes of it. The whole recording grows with its parts: it is not copied for each of them.
    pub identity: Identity,
    pub library: Library,
    pub hand_on: HandOn,
    pub progress: watch::Sender<Progress>,
    pub totals: Arc<Totals>,
    /// Called when something is to be delivered: a finished part, or news.
    pub on_commit: Arc<dyn Fn() + Send + Sync>,
    pub volume: Arc<Volume>,
}

impl Books {
    /// Runs until the recording has ended and everything about it is stored. Parts are made whole one after the other,
    /// beside what else happens: the catalog knows of the next part before the one before is whole.
    pub async fn keep(self, mut entries: mpsc::UnboundedReceiver<Entry>) {
        let books = Arc::new(self);
        let mut finishing = Finishing::default();
        let (error, trouble) = books.follow(&mut entries, &mut finishing).await;
        // The first error names the file that holds the most.
        let error = finishing.end().await.or(error);
        let without_file = books.progress.borrow().recording.parts.is_empty();
        books.ended(error.or(trouble.filter(|_| without_file))).await;
    }

    /// Until nothing follows: the error the recording ended with, and the last one it got over.
    async fn follow(
        self: &Arc<Self>,
        entries: &mut mpsc::UnboundedReceiver<Entry>,
        finishing: &mut Finishing,
    ) -> (Option<String>, Option<String>) {
        let recording = self.progress.borrow().recording.clone();
        self.log_failure("begin", self.library.begin(&recording, &self.hand_on).await);
        let mut losses = Losses::default();
        loop {
            let entry = match tokio::time::timeout(losses.due_in(), entries.recv()).await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(_) => {
                    self.note_lost().await;
                    losses.noted();
                    continue;
                }
            };
            losses.see(&entry);
            match entry {
                Entry::Opened { name, number, path, started_at } => {
                    self.opened(name, number, &path, started_at).await;
                }
                Entry::Lost { frames, packets } => self.change(|r| {
                    r.lost.frames += frames;
                    r.lost.packets += packets;
                }),
                Entry::Gap(gap) => self.change(|r| {
                    r.lost.frames += gap.frames;
                    r.lost.packets += gap.packets;
                    r.lost.gaps.push(gap.clone());
                }),
                Entry::Health { reason, holds, at } => self.note_health(reason, holds, at).await,
                Entry::Paused => self.set_status(Status::Paused).await,
                Entry::WentOn => self.set_status(Status::Recording).await,
                Entry::Joined(stream) => self.progress.send_modify(|p| {
                    p.stream = stream;
                    p.sources_joined += 1;
                }),
                Entry::Ending => self.advance(Status::Finalizing).await,
                Entry::Closed(part) => finishing.next(self.clone(), *part),
                Entry::Ended { error, trouble, disk_full } => {
                    self.progress.send_modify(|p| p.disk_full = disk_full);
                    return (error, trouble);
                }
            }
        }
        (
            Some("the recorder broke off by a fault of ours; what was written is in the .part file".into()),
            None,
        )
    }

    async fn note_lost(&self) {
        let lost = self.progress.borrow().recording.lost.clone();
        self.log_failure("note what is lost of", self.library.note_lost(&self.identity.id, &lost).await);
    }

    async fn note_health(&self, reason: HealthReason, holds: bool, at: DateTime<Utc>) {
        let Identity { id, room_name: room, stream_name: stream, .. } = &self.identity;
        match holds {
            true => tracing::warn!(recording = %id, %room, %stream, since = %at, "degraded: {reason}"),
            false => tracing::info!(recording = %id, %room, %stream, "not any more: {reason}"),
        }
        self.change(|r| r.note_health(reason, holds, at));
        let health = self.progress.borrow().recording.health.clone();
        self.log_failure("note what is wrong with", self.library.note_health(id, &health).await);
        // Its webhooks are told of it.
        (self.on_commit)();
    }

    fn change(&self, change: impl FnOnce(&mut Recording)) {
        self.progress.send_modify(|p| change(&mut p.recording));
    }

    async fn opened(&self, name: String, number: u32, path: &std::path::Path, started_at: DateTime<Utc>) {
        self.progress.send_modify(|p| {
            p.file_name = Some(name);
            p.parts_opened = number;
        });
        let begun = self.library.begin_part(&self.identity.id, number, path, started_at).await;
        self.log_failure("note the part of", begun);
        self.advance(Status::Recording).await;
    }

    async fn advance(&self, status: Status) {
        let now = self.progress.borrow().recording.status;
        if now < status {
            self.set_status(status).await;
        }
    }

    async fn set_status(&self, status: Status) {
        if self.progress.borrow().recording.status == status {
            return;
        }
        self.change(|r| r.status = status);
        self.log_failure("update", self.library.update_status(&self.identity.id, status).await);
        self.tell_news();
    }

    /// 1. end of stream into the muxer, which writes its index; 2. to 8. as in `library::Storage::finish`;
    /// 9. one transaction: the part and its deliveries; 10. deliver.
    async fn finish_part(&self, part: ClosedPart) -> Result<(), String> {
        let id = self.identity.id;
        let (library, identity) = (self.library.clone(), self.identity.clone());
        let (number, units) = (part.number, part.writer.units());
        let health = self.progress.borrow().recording.health.clone();
        let finish = move || finish_file(&library, &identity, &health, part);
        let finished = tokio::task::spawn_blocking(finish).await;
        self.volume.finished(units);
        let finished = finished.map_err(|e| format!("finishing a file: {e}"))?;
        let Some((part, missing)) = finished.inspect_err(|e| self.log_error(e))? else {
            self.log_failure("drop a part of", self.library.discard_part(&id, number).await);
            return Ok(());
        };
        let committed = self.commit(&part).await;
        tracing::info!(recording = %id, file = %part.file.display(), size = part.size, "finished");
        self.totals.files.fetch_add(1, Ordering::Relaxed);
        self.totals.bytes.fetch_add(part.size, Ordering::Relaxed);
        self.change(|r| {
            r.duration_ms += part.duration_ms;
            r.size += part.size;
            r.degrade(&part.degraded);
            r.lost.frames += missing;
            r.parts.push(part.clone());
        });
        committed.map_err(|e| {
            format!("{} is finished, but the catalog does not know: {e}", part.file.display())
        })?;
        self.change(|r| r.deliveries.extend(self.hand_on.pending(part.number)));
        (self.on_commit)();
        Ok(())
    }

    /// A finished file that the catalog does not take is one that is never handed on: try for a while.
    async fn commit(&self, part: &Part) -> Result<(), LibraryError> {
        let mut pause = FIRST_COMMIT_PAUSE;
        for _ in 1..COMMIT_ATTEMPTS {
            match self.library.commit_part(&self.identity.id, part).await {
                Ok(()) => return Ok(()),
                // The recording's own row could not be stored when it began.
                Err(LibraryError::Unknown(_)) => {
                    let recording = self.progress.borrow().recording.clone();
                    self.log_failure("begin", self.library.begin(&recording, &self.hand_on).await);
                }
                Err(e) => self.log_error(&format!("{} is not in the catalog yet: {e}", part.file.display())),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.library.commit_part(&self.identity.id, part).await
    }

    async fn ended(&self, error: Option<String>) {
        let ended_at = Utc::now().trunc_subsecs(3);
        let id = self.identity.id;
        let (lost, without_file) = {
            let now = self.progress.borrow();
            (now.recording.lost.clone(), now.recording.parts.is_empty())
        };
        let error = match error {
            None if without_file => Some("no frame arrived that a file could begin with".to_owned()),
            other => other,
        };
        let mut pause = FIRST_COMMIT_PAUSE;
        for attempt in 1..=COMMIT_ATTEMPTS {
            let stored = match &error {
                None => self.library.complete(&id, ended_at, &lost).await,
                Some(e) => self.library.fail(&id, ended_at, &lost, e).await,
            };
            let again = matches!(stored, Err(LibraryError::Sql { .. })) && attempt < COMMIT_ATTEMPTS;
            self.log_failure("end", stored);
            if !again {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.tell_news();
        let total = if error.is_none() { &self.totals.completed } else { &self.totals.failed };
        total.fetch_add(1, Ordering::Relaxed);
        self.totals.frames_lost.fetch_add(lost.frames, Ordering::Relaxed);
        self.totals.packets_lost.fetch_add(lost.packets, Ordering::Relaxed);
        self.progress.send_modify(|p| {
            p.recording.status = if error.is_none() { Status::Completed } else { Status::Failed };
            p.recording.error = error;
            p.recording.ended_at = Some(ended_at);
            p.done = true;
        });
    }

    /// The change of a status may be news for webhooks.
    fn tell_news(&self) {
        if !self.hand_on.webhooks.is_empty() {
            (self.on_commit)();
        }
    }

    fn log_failure<T>(&self, what: &str, result: Result<T, impl std::fmt::Display>) {
        if let Err(e) = result {
            self.log_error(&format!("the catalog could not {what} the recording: {e}"));
        }
    }

    fn log_error(&self, error: &str) {
        let Identity { id, room_name: room, stream_name: stream, .. } = &self.identity;
        tracing::error!(recording = %id, %room, %stream, "{error}");
    }
}

/// The part, and how many of its access units the file has not. `None`: it holds no frame and is gone. Blocks.
///
/// Where the disk has no room for the end of the file, that is made in the room that is kept for it, from what the file
/// holds by then.
fn finish_file(
    library: &Library,
    identity: &Identity,
    health: &[Health],
    part: ClosedPart,
) -> Result<Option<(Part, u64)>, String> {
    let ClosedPart { writer, file, names, number, started_at, gaps, mut lost, left_out } = part;
    let (path, storage) = (file.path().to_owned(), library.storage());
    let failed = |e: &dyn std::fmt::Display| {
        let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
        format!("{} could not be finished; the {bytes} bytes in it stay as they are: {e}", path.display())
    };
    storage.make_room_for(FINISH_BYTES.saturating_add(writer.index_bytes()));
    let (mut written, muxed) = writer.finish();
    written.degraded.extend(left_out);
    let empty = std::fs::metadata(file.path()).is_ok_and(|m| m.len() == 0);
    if empty || written.tracks.iter().all(|t| t.frames == 0) {
        storage.discard(file).map_err(|e| failed(&e))?;
        return muxed.map(|()| None).map_err(|e| e.to_string());
    }
    let salvaged = match muxed {
        Err(PipelineError::DiskFull) => {
            storage.give_back_room();
            let made = make_whole(&path).map_err(|e| failed(&format!("{}: {e}", PipelineError::DiskFull)))?;
            Some(made.ok_or_else(|| failed(&PipelineError::DiskFull))?)
        }
        muxed => muxed.map(|()| None).map_err(|e| failed(&e))?,
    };
    let missing = salvaged.as_ref().map_or(0, |found| missing(&written, found));
    lost.frames += missing;
    let duration_ms = salvaged.as_ref().map_or(written.span.duration_ms(), |found| found.duration_ms);
    let end = PartEnd { duration_ms, ended_at: Utc::now() };
    let describe = |f: &FinishedFile| {
        let part = Part { lost, duration_ms, ..describe(f, number, started_at, &written, &gaps) };
        match salvaged.clone() {
            Some(Salvaged { video, audio, .. }) => Part { video, audio, ..part },
            None => part,
        }
    };
    let finished = storage
        .finish(
            file,
            |n| names.stem(n, Some(end)),
            |f| Manifest::new(identity.clone(), describe(f)).with_health(health),
        )
        .map_err(|e| failed(&e))?;
    Ok(Some((describe(&finished), missing)))
}

/// Access units that were written and are not in the file.
fn missing(written: &Written, found: &Salvaged) -> u64 {
    let of = |kind| written.tracks.iter().filter(move |t| t.kind == kind).map(|t| t.frames).sum::<u64>();
    let video = found.video.as_ref().map_or(0, |v| v.frames);
    let audio = found.audio.as_ref().map_or(0, |a| a.frames);
    of(MediaKind::Video).saturating_sub(video) + of(MediaKind::Audio).saturating_sub(audio)
}

fn describe(
    f: &FinishedFile,
    number: u32,
    started_at: DateTime<Utc>,
    written: &Written,
    gaps: &[Gap],
) -> Part {
    let of = |kind| written.tracks.iter().find(|t| t.kind == kind);
    Part {
        number,
        file: f.file.clone(),
        name: f.name.clone(),
        size: f.size,
        sha256: f.sha256.clone(),
        started_at: started_at.trunc_subsecs(3),
        duration_ms: written.span.duration_ms(),
        video: of(MediaKind::Video).map(video_part),
        audio: of(MediaKind::Audio).map(audio_part),
        hook: None,
        poster: None,
        gaps: gaps.to_vec(),
        lost: PartLost::default(),
        degraded: written.degraded.clone(),
        remote: None,
        local: true,
    }
}

fn video_part(counts: &TrackCounts) -> VideoPart {
    let size = counts.track.size;
    VideoPart {
        codec: counts.codec.to_string(),
        width: size.map(|s| s.width),
        height: size.map(|s| s.height),
        frames: counts.frames,
        keyframes: counts.keyframes,
    }
}

fn audio_part(counts: &TrackCounts) -> AudioPart {
    AudioPart {
        codec: counts.codec.to_string(),
        rate: counts.track.rate,
        channels: counts.track.channels,
        frames: counts.frames,
    }
}
