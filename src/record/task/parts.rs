//! The files of a recording: opened at a key frame, written, closed behind the next one.

use super::{
    super::{
        books::Entry,
        names::PartNames,
        part::OpenPart,
        state::Input,
        writer::{Place, Writer},
    },
    Task,
};
use crate::{
    config::AudioRule,
    gst::{PipelineError, PlanError},
    library::{PartLost, StorageError},
    media::{Frame, MediaKind, Protocol},
};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Access units kept while waiting for a video key frame, at most.
const MAX_HELD: usize = 1_000;
/// Audio kept while waiting for a video key frame: the newest second of it.
pub(super) const HELD_AUDIO_NS: u64 = 1_000_000_000;
/// How far sound may be ahead of the pictures for it to wait at a seam.
const SEAM_LEAD_NS: u64 = 500_000_000;
/// How far sound may be behind the pictures for it to find the part that it belongs to.
const SEAM_LAG_NS: u64 = 2_000_000_000;

/// A part whose successor is open.
pub(super) struct Closing {
    pub part: OpenPart,
    /// Sound that is heard before this, media time, belongs to it.
    until_ns: u64,
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
    /// Opens the next part, which begins with what is held and `frame`.
    pub(super) fn open(&mut self, frame: Frame, now: Duration) {
        let start_ns = self.clock.media_ns(frame.pts_ns());
        self.held.push_back(frame);
        match self.open_part(start_ns) {
            Ok(mut part) => {
                self.degraded.drain(..).for_each(|reason| part.writer.degrade(reason));
                self.tell(Entry::Opened {
                    name: part.file.name().to_owned(),
                    number: part.number,
                    path: part.file.path().to_owned(),
                    started_at: part.started_at,
                });
                self.parts_opened = part.number;
                self.part = Some(part);
                for frame in std::mem::take(&mut self.held) {
                    self.write(frame, now);
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

    fn open_part(&self, start_ns: u64) -> Result<OpenPart, OpenError> {
        let container = self.policy.formats.container(self.tracks.video().map(|t| t.codec)).as_str();
        let template = self.templates.get(container).ok_or(OpenError::NoTemplate(container))?;
        let plans = template.plan(&self.tracks, self.policy.audio == AudioRule::Passthrough)?;
        let base_ns = self.clock.media_ns(self.held.iter().map(Frame::dts_ns).min().unwrap_or(0));
        let number = self.parts_opened + 1;
        let started_at = self.wall_time(base_ns);
        let numbered = number > 1 || !self.policy.rotation.is_off();
        let names = PartNames::new(
            &self.policy.name,
            &self.origin,
            &plans,
            number,
            numbered,
            started_at,
            &template.extension,
        );
        let file = self.storage.reserve(|n| names.stem(n, None), &template.extension)?;
        // Browsers change the resolution as the network allows.
        let repeat = self.source.stream.announce().protocol == Protocol::Webrtc;
        let writer = Writer::open(template, &plans, &self.tracks, file.path(), base_ns, repeat, &self.means)
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
            start_ns,
            due: self.rotation.due(start_ns, base_ns, started_at),
            shown_ns: 0,
            gaps: Vec::new(),
            lost: PartLost::default(),
        })
    }

    /// `wall`: when `stream_ns`, running time of the stream, was. The two clocks have moved against each other.
    pub(super) fn set_due(&mut self, stream_ns: u64, wall: DateTime<Utc>) {
        let media_ns = self.clock.media_ns(stream_ns);
        if let Some(part) = &mut self.part {
            part.due = self.rotation.due(part.start_ns, media_ns, wall);
        }
    }

    /// The part under way gives way to the next one, which begins with `frame`. It stays open for sound that comes late.
    pub(super) fn reopen(&mut self, frame: Frame, now: Duration) {
        self.finish_closing();
        let seam_ns = self.clock.media_ns(frame.pts_ns());
        for held in std::mem::take(&mut self.held) {
            let before = self.clock.media_ns(held.pts_ns()) < seam_ns;
            if before && self.has_place(&held) {
                self.write_part(held, now);
            } else {
                self.held.push_back(held);
            }
        }
        let Some(mut part) = self.part.take() else { return self.open(frame, now) };
        if part.due.by_limit && part.due.is_reached(seam_ns, 0) {
            let limit = humantime::format_duration(self.rotation.max);
            part.writer.degrade(format!(
                "the part came to [limits] max_part_duration ({limit}): the recording goes on in the next one"
            ));
        }
        self.last_span = part.writer.span();
        self.closing = Some(Closing { part, until_ns: seam_ns });
        self.open(frame, now);
        if self.tracks.iter().all(|t| t.kind() == MediaKind::Video) {
            self.finish_closing();
        }
    }

    /// Writes to the part that the frame belongs to. Near a seam sound waits for the pictures beside it.
    pub(super) fn write(&mut self, frame: Frame, now: Duration) {
        if self.kind_of(&frame) == Some(MediaKind::Video) {
            self.write_part(frame, now);
            if !self.held.is_empty() {
                self.release_shown(now);
            }
            return;
        }
        let media_ns = self.clock.media_ns(frame.pts_ns());
        match &self.closing {
            Some(before) if media_ns >= before.until_ns => self.finish_closing(),
            Some(before) if before.part.writer.has_place(&frame) => return self.write_closing(frame, now),
            _ => {}
        }
        let seam = self.state.is_leaving() || self.part.as_ref().is_some_and(|p| p.due.is_near(media_ns));
        if seam && self.tracks.video().is_some() && self.has_place(&frame) {
            self.hold(frame, SEAM_LEAD_NS, now);
            return self.release_shown(now);
        }
        self.write_part(frame, now);
    }

    fn write_part(&mut self, frame: Frame, now: Duration) {
        let Some(kind) = self.kind_of(&frame) else { return };
        let Some(part) = &mut self.part else {
            self.frames_lost += 1;
            return;
        };
        let Some(placed) = self.clock.place(&frame) else { return };
        let late = self.closing.as_ref().is_some_and(|c| placed.pts_ns() > c.until_ns + SEAM_LAG_NS);
        match part.write(&placed, kind) {
            Ok(Place::Written) => self.vitals.written(&frame, kind),
            Ok(Place::NoTrack) if kind == MediaKind::Audio => {
                drop(placed);
                self.hold(frame, HELD_AUDIO_NS, now);
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
        if late {
            self.finish_closing();
        }
    }

    /// Sound that came after the picture it was to come before.
    fn write_closing(&mut self, frame: Frame, now: Duration) {
        let Some(closing) = &mut self.closing else { return };
        let Some(placed) = self.clock.place(&frame) else { return };
        match closing.part.write(&placed, MediaKind::Audio) {
            Ok(Place::Written) => self.vitals.written(&frame, MediaKind::Audio),
            Ok(_) => self.frames_lost += 1,
            Err(source) => {
                let file = closing.part.file.path().display().to_string();
                self.frames_lost += 1;
                self.finish_closing();
                self.failed(&OpenError::Pipeline { file, source }, now);
            }
        }
    }

    fn has_place(&self, frame: &Frame) -> bool {
        self.part.as_ref().is_some_and(|p| p.writer.has_place(frame))
    }

    /// Keeps sound for later: the newest `most_ns` of it.
    pub(super) fn hold(&mut self, frame: Frame, most_ns: u64, now: Duration) {
        let oldest_ns = frame.dts_ns().saturating_sub(most_ns);
        self.held.push_back(frame);
        while self.held.len() > MAX_HELD || self.held.front().is_some_and(|f| f.dts_ns() < oldest_ns) {
            let Some(frame) = self.held.pop_front() else { return };
            self.let_go(frame, now);
        }
    }

    /// What is held no longer is in the part under way, if that has a place for it.
    fn let_go(&mut self, frame: Frame, now: Duration) {
        // Also when the recording ends before it has gone on: the clock does not know such a frame's place.
        if self.left_out.is_some() || self.state.is_left_out() {
            return;
        }
        if self.has_place(&frame) {
            self.write_part(frame, now);
        } else {
            self.frames_lost += 1;
        }
    }

    pub(super) fn release_held(&mut self, now: Duration) {
        for frame in std::mem::take(&mut self.held) {
            self.let_go(frame, now);
        }
    }

    /// Writes what is held and is heard no later than the last picture is shown.
    fn release_shown(&mut self, now: Duration) {
        let Some(shown_ns) = self.part.as_ref().map(|p| p.shown_ns) else { return };
        let mut n = 0;
        while let Some(frame) = self.held.get(n) {
            if self.clock.media_ns(frame.pts_ns()) > shown_ns || !self.has_place(frame) {
                n += 1;
                continue;
            }
            if let Some(frame) = self.held.remove(n) {
                self.write_part(frame, now);
            }
        }
    }

    /// Closes what is open. What is held belongs to it, or to parameters that are past.
    pub(super) fn close(&mut self, now: Duration) {
        self.release_held(now);
        self.finish_closing();
        if let Some(part) = self.part.take() {
            self.last_span = part.writer.span();
            self.hand_over(part);
        }
    }

    pub(super) fn finish_closing(&mut self) {
        if let Some(closing) = self.closing.take() {
            self.hand_over(closing.part);
        }
    }

    /// The books make the file whole.
    fn hand_over(&mut self, part: OpenPart) {
        self.closed_ms += part.duration_ms();
        self.closed_bytes += part.writer.bytes();
        self.volume.close(part.writer.units());
        let left_out = self.source.stream.left_out();
        self.tell(Entry::Closed(Box::new(part.close(left_out))));
    }
}
