//! One recording under way: takes what its stream sends, asks the state machine what to do about it, and does it.
//!
//! [`parts`] opens, writes and closes files; [`sources`] goes over to another stream.

mod parts;
mod sources;

use super::{
    books::Entry,
    clock::Clock,
    params::Change,
    part::OpenPart,
    pool::Waker,
    request::{Refusal, Refused, Request, Source},
    rotation::RotationRule,
    state::{Action, ErrorBudget, Input, State},
    vitals::Vitals,
    volume::Volume,
    writer::{BEHIND_BYTES, MAX_QUEUED_BYTES, Means, Span},
};
use crate::{
    config::Policy,
    gst::{PipelineError, Templates},
    hub::{Item, Stream},
    library::{RecordingId, Storage},
    media::{Frame, Gap, GapKind, MediaKind, Tracks},
};
use chrono::{DateTime, TimeDelta, Utc};
use parts::Closing;
use sources::Next;
use std::{collections::VecDeque, io, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Gaps that are told one by one; of more only what is lost is counted.
const MAX_GAPS: usize = 1_000;
/// A key frame that was asked for and did not come is asked for again: the request may be lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One recording under way. Lives on a writer thread, which polls it a few times a second.
pub(super) struct Task {
    pub id: RecordingId,
    /// The stream it began with: what its files are named after.
    origin: Arc<Stream>,
    source: Source,
    /// What the frames of `source` belong to.
    tracks: Tracks,
    /// The stream that it goes over to.
    next: Option<Next>,
    /// `source` has ended; the recording ends then unless something comes in its place.
    away_until: Option<Duration>,
    clock: Clock,
    /// Since when, and why, what arrives is left out.
    left_out: Option<LeftOut>,
    policy: Arc<Policy>,
    rotation: RotationRule,
    templates: Arc<Templates>,
    storage: Storage,
    /// An entry per event in a recording's life, never per frame, so it needs no bound.
    books: mpsc::UnboundedSender<Entry>,
    vitals: Arc<Vitals>,
    waker: Option<Waker>,
    state: State,
    items: VecDeque<Item>,
    held: VecDeque<Frame>,
    part: Option<OpenPart>,
    /// The part before, until the sound that belongs to it has come.
    closing: Option<Closing>,
    parts_opened: u32,
    /// Media time of the parts already closed, ms.
    closed_ms: u64,
    /// What the part written last covers.
    last_span: Span,
    last_error: Option<String>,
    /// Why the recording is less than what was asked for: for its first part to tell.
    degraded: Vec<String>,
    means: Means,
    /// Access units that no part holds, not yet told to the books.
    frames_lost: u64,
    /// Of gaps that are not told one by one.
    packets_lost: u64,
    gaps_told: usize,
    asked_for_key: Duration,
    volume: Arc<Volume>,
    /// Bytes of the parts already closed.
    closed_bytes: u64,
    /// It ends because the disk has no room.
    disk_full: bool,
    ended: bool,
}

/// What is recorded, and where to.
pub(super) struct Inputs {
    pub id: RecordingId,
    pub source: Source,
    pub storage: Storage,
    pub means: Means,
    pub max_part_duration: Duration,
    pub volume: Arc<Volume>,
    pub degraded: Vec<String>,
}

#[derive(Clone, Copy)]
struct LeftOut {
    kind: GapKind,
    since: DateTime<Utc>,
}

impl Task {
    pub fn new(
        inputs: Inputs,
        policy: Arc<Policy>,
        templates: Arc<Templates>,
        books: mpsc::UnboundedSender<Entry>,
        vitals: Arc<Vitals>,
    ) -> Self {
        let Inputs { id, source, storage, means, max_part_duration, volume, degraded } = inputs;
        let budget = ErrorBudget { max: policy.max_errors, interval: policy.error_interval };
        let rotation =
            RotationRule { rotation: policy.rotation, align: policy.rotation_align, max: max_part_duration };
        Self {
            id,
            origin: source.stream.clone(),
            source,
            tracks: Tracks::default(),
            next: None,
            away_until: None,
            clock: Clock::default(),
            left_out: None,
            policy,
            rotation,
            templates,
            storage,
            books,
            vitals,
            waker: None,
            state: State::new(budget),
            items: VecDeque::new(),
            held: VecDeque::new(),
            part: None,
            closing: None,
            parts_opened: 0,
            closed_ms: 0,
            last_span: Span::default(),
            last_error: None,
            degraded,
            means,
            frames_lost: 0,
            packets_lost: 0,
            gaps_told: 0,
            asked_for_key: Duration::ZERO,
            volume,
            closed_bytes: 0,
            disk_full: false,
            ended: false,
        }
    }

    /// Has the pool poll this task at once when its stream ends or its queue fills.
    pub fn wake_by(&mut self, waker: Waker) {
        waker.poll_at_attention_of(&self.source.subscriber, self.id);
        self.waker = Some(waker);
    }

    /// Writes what has arrived. False when the recording is over and the task can go.
    pub fn poll(&mut self, now: Duration) -> bool {
        if self.take_arrived(BEHIND_BYTES, now) {
            self.take_next(now);
        }
        if self.away_until.is_some_and(|until| now >= until) {
            self.input(Input::End, None, now);
        }
        if let Some(Err(e)) = self.part.as_mut().map(|p| p.writer.check()) {
            self.failed(&e, now);
        }
        self.ask_again(now);
        self.tell_losses();
        self.vitals.set_media_ms(self.recorded_ms());
        let (bytes, units) = self.in_open_parts();
        self.volume.note(self.closed_bytes + bytes, units);
        !self.ended
    }

    /// Writes what has arrived until now and ends the recording. `why`: nobody asked for it.
    pub fn stop(&mut self, why: Option<String>, now: Duration) {
        self.take_arrived(u32::MAX, now);
        self.poll(now);
        if let Some(why) = why {
            self.open_parts().for_each(|part| part.writer.degrade(why.clone()));
        }
        self.input(Input::Stop, None, now);
    }

    /// Writes what has arrived until now and does what is asked for, or begins to.
    pub fn ask(&mut self, request: Request, now: Duration) -> Result<(), Refused> {
        self.take_arrived(MAX_QUEUED_BYTES, now);
        self.poll(now);
        if let Some(why) = self.refusal(&request) {
            return Err(Refused { why, request });
        }
        match request {
            Request::Split => self.input(Input::Rotate, None, now),
            Request::Pause => {
                self.release_held(now);
                self.finish_closing();
                self.leave_out(GapKind::Pause);
                self.input(Input::Pause, None, now);
                self.tell(Entry::Paused);
            }
            Request::Resume => self.input(Input::Resume, None, now),
            Request::Switch(source) => self.expect(source, GapKind::Switch, now),
            Request::Return(source) => self.expect(source, GapKind::Reconnect, now),
        }
        Ok(())
    }

    fn refusal(&self, request: &Request) -> Option<Refusal> {
        let (begun, paused) = (self.parts_opened > 0, self.state.is_paused());
        match request {
            _ if self.ended => Some(Refusal::Over),
            Request::Split if self.state.is_left_out() => Some(Refusal::Paused),
            Request::Split if self.part.is_none() => Some(Refusal::NotBegun),
            Request::Pause if paused => Some(Refusal::Paused),
            Request::Pause if !begun => Some(Refusal::NotBegun),
            Request::Resume if !paused => Some(Refusal::NotPaused),
            Request::Return(_) if self.away_until.is_none() => Some(Refusal::NotAway),
            Request::Return(_) if self.next.as_ref().is_some_and(Next::is_switch) => Some(Refusal::NotAway),
            _ => None,
        }
    }

    /// What the muxer cannot take, because the disk does not, stays in the hub's queue, which is bounded and tells what it
    /// leaves out. `most_bytes`: may wait in front of the muxer. True when nothing was left there.
    fn take_arrived(&mut self, most_bytes: u32, now: Duration) -> bool {
        let behind = |task: &Self| task.part.as_ref().is_some_and(|p| p.writer.is_behind(most_bytes));
        if self.items.is_empty() && !behind(self) {
            self.source.subscriber.drain(&mut self.items);
        }
        while !behind(self) {
            let Some(item) = self.items.pop_front() else { return true };
            self.take(item, now);
        }
        false
    }

    fn take(&mut self, item: Item, now: Duration) {
        match item {
            Item::Tracks(tracks) => self.set_tracks(tracks, now),
            Item::Frame(frame) => {
                let video = self.kind_of(&frame) == Some(MediaKind::Video);
                self.rotate_when_due(&frame, video, now);
                self.input(Input::Frame { video, key: frame.is_key() }, Some(frame), now);
            }
            Item::Gap(gap) => {
                let overflow = gap.kind == GapKind::Overflow;
                self.note_of_stream(gap, now);
                if overflow {
                    self.input(Input::Overflow, None, now);
                }
            }
            Item::End(reason) => self.source_ended(&reason, now),
        }
    }

    fn kind_of(&self, frame: &Frame) -> Option<MediaKind> {
        self.tracks.get(frame.track).map(|t| t.kind())
    }

    /// The pictures decide, or the sound where there are none.
    fn rotate_when_due(&mut self, frame: &Frame, video: bool, now: Duration) {
        let Some(part) = &self.part else { return };
        let decides = video || self.tracks.video().is_none();
        let media_ns = self.clock.media_ns(frame.pts_ns());
        if decides && !self.state.is_left_out() && part.due.is_reached(media_ns, part.writer.bytes()) {
            self.input(Input::Rotate, None, now);
        }
    }

    fn set_tracks(&mut self, tracks: Tracks, now: Duration) {
        let change = Change::of(&self.tracks, &tracks);
        self.input(Input::Tracks { video: tracks.video().is_some(), change }, None, now);
        match (&mut self.part, change) {
            (_, Change::Other) => self.close(now),
            (Some(part), Change::Fits) => part.writer.set_tracks(&tracks),
            (Some(part), Change::Grows) => {
                part.writer.set_tracks(&tracks);
                for track in tracks.iter().skip(self.tracks.iter().len()) {
                    let after_ms = part.duration_ms();
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
            (Action::Nothing | Action::Skip, _) => {}
            (Action::Hold, Some(frame)) => self.hold(frame, parts::HELD_AUDIO_NS, now),
            (Action::Open, Some(frame)) => self.open(frame, now),
            (Action::Reopen, Some(frame)) => self.reopen(frame, now),
            (Action::GoOn, Some(frame)) => self.go_on(frame, now),
            (Action::AskKey, _) => self.ask_for_key(now),
            (Action::Write, Some(frame)) => self.write(frame, now),
            (Action::Close, _) => self.close(now),
            (Action::Finish, _) => self.end(None, now),
            (Action::Fail, _) => {
                let error = self.last_error.clone();
                self.end(Some(error.unwrap_or_else(|| "too many errors".into())), now);
            }
            (
                action @ (Action::Hold | Action::Open | Action::Reopen | Action::GoOn | Action::Write),
                None,
            ) => {
                debug_assert!(false, "{action:?} follows a frame only");
            }
        }
    }

    fn ask_for_key(&mut self, now: Duration) {
        self.asked_for_key = now;
        let wanted = self.next.as_ref().map_or(&self.source.stream, |next| &next.source.stream);
        wanted.request_key_frame();
    }

    fn ask_again(&mut self, now: Duration) {
        let waits = self.next.is_some() || self.state.wants_key();
        if waits && now.saturating_sub(self.asked_for_key) >= ASK_AGAIN {
            self.ask_for_key(now);
        }
    }

    fn failed(&mut self, error: &(dyn std::error::Error + 'static), now: Duration) {
        let announce = self.origin.announce();
        let full = is_disk_full(error);
        let next = if full { "it ends" } else { "it goes on at the next key frame unless errors repeat" };
        tracing::error!(
            recording = %self.id, room = %announce.room, stream = %announce.name, error = %error,
            "cannot write the recording; {next}"
        );
        self.last_error = Some(error.to_string());
        self.frames_lost += self.held.len() as u64;
        self.held.clear();
        if full {
            // Each part that it went on with would take room that others need to end.
            let why = "the recording ends here: the disk was full".to_owned();
            self.open_parts().for_each(|part| part.writer.degrade(why.clone()));
            self.disk_full = true;
            return self.input(Input::DiskFull, None, now);
        }
        self.input(Input::WriteFailed, None, now);
    }

    /// What arrives from now on is left out, since what is written ends.
    fn leave_out(&mut self, kind: GapKind) {
        if self.parts_opened == 0 {
            return;
        }
        let ends = self.wall_time(self.written().end_pts_ns);
        // A pause is measured by the clock of one stream. Where two follow each other, the first may have run ahead: what
        // it sent late at its beginning, or faster than real time, puts its end into the future.
        let since = if kind == GapKind::Pause { ends } else { ends.min(Utc::now()) };
        self.left_out.get_or_insert(LeftOut { kind, since });
    }

    /// The first frame after a time that was left out: what is written and what follows meet.
    fn go_on(&mut self, frame: Frame, now: Duration) {
        let wall = self.source.stream.wall_time(frame.pts_ns());
        let written = self.written();
        self.clock.go_on(written, &frame);
        let first_ns = frame.pts_ns();
        let seam = self.left_out.is_some_and(|l| self.rotation.has_seam_between(l.since, wall));
        let at_ms = self.clock.media_ns(first_ns) / 1_000_000;
        let gap = self.left_out.take().map(|LeftOut { kind, since }| {
            let by_ms = (wall - since).num_milliseconds().max(0);
            Gap { kind, at_ms, by_ms, at: Some(since), frames: 0, packets: 0 }
        });
        self.tell(Entry::WentOn);
        self.held.retain(|f| f.pts_ns() >= first_ns);
        if seam {
            // What is held comes after it.
            let held = std::mem::take(&mut self.held);
            self.close(now);
            self.held = held;
        }
        if self.part.is_none() {
            self.open(frame, now);
            // Behind the opening: the manifest of the part that it stands before tells it.
            return gap.into_iter().for_each(|gap| self.note(gap));
        }
        gap.into_iter().for_each(|gap| self.note(gap));
        self.set_due(first_ns, wall);
        let held = std::mem::take(&mut self.held);
        self.write(frame, now);
        held.into_iter().for_each(|frame| self.write(frame, now));
    }

    /// `gap.at_ms`: running time of the stream.
    fn note_of_stream(&mut self, gap: Gap, now: Duration) {
        if self.state.is_left_out() {
            return;
        }
        let stream_ns = gap.at_ms.saturating_mul(1_000_000);
        let at_ms = self.clock.media_ns(stream_ns) / 1_000_000;
        let at = gap.at.unwrap_or_else(|| self.source.stream.wall_time(stream_ns));
        let away = (gap.kind == GapKind::Reconnect).then_some(gap.by_ms);
        self.note(Gap { at_ms, at: Some(at), ..gap });
        let back = away.and_then(TimeDelta::try_milliseconds).and_then(|away| at.checked_add_signed(away));
        if let Some(back) = back.filter(|_| self.part.is_some()) {
            match self.rotation.has_seam_between(at, back) {
                true => self.input(Input::Rotate, None, now),
                false => self.set_due(stream_ns, back),
            }
        }
    }

    /// `gap.at_ms`: media time.
    fn note(&mut self, gap: Gap) {
        let told = self.gaps_told < MAX_GAPS;
        let before_ms = self.closed_ms + self.closing.as_ref().map_or(0, |c| c.part.duration_ms());
        let in_file = match &mut self.part {
            Some(part) => part.note(&gap, told),
            None => Gap { at_ms: 0, ..gap },
        };
        if !told {
            self.frames_lost += in_file.frames;
            self.packets_lost += in_file.packets;
            return;
        }
        self.gaps_told += 1;
        self.tell(Entry::Gap(Gap { at_ms: in_file.at_ms + before_ms, ..in_file }));
    }

    fn end(&mut self, error: Option<String>, now: Duration) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.tell(Entry::Ending);
        self.tell_last_pause();
        self.close(now);
        // It may not be polled any more: what was open is among the closed now.
        let (bytes, units) = self.in_open_parts();
        self.volume.note(self.closed_bytes + bytes, units);
        self.tell_losses();
        let trouble = self.last_error.take();
        self.tell(Entry::Ended { error, trouble, disk_full: self.disk_full });
    }

    /// A pause that nobody ended ends with the recording.
    fn tell_last_pause(&mut self) {
        let Some(LeftOut { since, .. }) = self.left_out.filter(|l| l.kind == GapKind::Pause) else { return };
        let at_ms = self.written().end_pts_ns / 1_000_000;
        let by_ms = (Utc::now() - since).num_milliseconds().max(0);
        self.note(Gap { kind: GapKind::Pause, at_ms, by_ms, at: Some(since), frames: 0, packets: 0 });
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

    /// What the part written last covers.
    fn written(&self) -> Span {
        self.part.as_ref().map_or(self.last_span, |p| p.writer.span())
    }

    fn wall_time(&self, media_ns: u64) -> DateTime<Utc> {
        self.source.stream.wall_time(self.clock.stream_ns(media_ns))
    }

    fn recorded_ms(&self) -> u64 {
        let closing = self.closing.as_ref().map(|c| &c.part);
        self.closed_ms + closing.into_iter().chain(&self.part).map(OpenPart::duration_ms).sum::<u64>()
    }

    fn open_parts(&mut self) -> impl Iterator<Item = &mut OpenPart> {
        self.closing.as_mut().map(|c| &mut c.part).into_iter().chain(&mut self.part)
    }

    /// Bytes, and access units.
    fn in_open_parts(&self) -> (u64, u64) {
        let closing = self.closing.as_ref().map(|c| &c.part);
        let open = closing.into_iter().chain(&self.part).map(|part| &part.writer);
        open.fold((0, 0), |(bytes, units), writer| (bytes + writer.bytes(), units + writer.units()))
    }
}

/// Whether it is for want of room that something was not written.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |e| e.source());
    causes.any(|cause| {
        let by_muxer = cause.downcast_ref().is_some_and(|e| matches!(e, PipelineError::DiskFull));
        by_muxer
            || cause.downcast_ref().is_some_and(|e: &io::Error| {
                matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::StorageError;

    #[test]
    fn a_full_disk_is_known_by_its_cause() {
        let io = |kind: io::ErrorKind| StorageError::Io {
            what: "cannot create",
            path: "/records/x.mp4.part".into(),
            source: kind.into(),
        };
        assert!(is_disk_full(&PipelineError::DiskFull));
        assert!(
            is_disk_full(&io(io::ErrorKind::StorageFull)) && is_disk_full(&io(io::ErrorKind::QuotaExceeded))
        );
        assert!(!is_disk_full(&io(io::ErrorKind::PermissionDenied)));
        assert!(!is_disk_full(&PipelineError::NotSynced("EIO".into())));
    }
}
