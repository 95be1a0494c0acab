//! One part under way: its file, and what is noted about it.

use super::{
    books::ClosedPart,
    names::PartNames,
    rotation::Due,
    writer::{Place, Writer},
};
use crate::{
    gst::PipelineError,
    library::{PartFile, PartLost},
    media::{Frame, Gap, MediaKind},
};
use chrono::{DateTime, Utc};

pub(super) struct OpenPart {
    pub writer: Writer,
    pub file: PartFile,
    pub names: PartNames,
    pub number: u32,
    pub started_at: DateTime<Utc>,
    /// Media time of the file's beginning.
    pub base_ns: u64,
    /// When the frame is shown that it was opened for, media time.
    pub start_ns: u64,
    pub due: Due,
    /// When the last of the pictures in it is shown, media time.
    pub shown_ns: u64,
    pub gaps: Vec<Gap>,
    pub lost: PartLost,
}

impl OpenPart {
    /// `frame`: on the media clock. May block while the disk does.
    pub fn write(&mut self, frame: &Frame, kind: MediaKind) -> Result<Place, PipelineError> {
        let place = self.writer.write(frame)?;
        if kind == MediaKind::Video {
            self.shown_ns = self.shown_ns.max(frame.pts_ns());
        }
        Ok(place)
    }

    /// Counts what a gap lost and, when it is `told`, notes it. `gap.at_ms` is media time; returned as the file has it.
    pub fn note(&mut self, gap: &Gap, told: bool) -> Gap {
        let at_ms = gap.at_ms.saturating_sub(self.base_ns / 1_000_000);
        let gap = Gap { at_ms, ..gap.clone() };
        self.lost.packets += gap.packets;
        self.lost.frames += gap.frames;
        if told {
            self.gaps.push(gap.clone());
        }
        gap
    }

    pub fn duration_ms(&self) -> u64 {
        self.writer.span().duration_ms()
    }

    /// `left_out`: what the stream had and the file has not.
    pub fn close(self, left_out: Vec<String>) -> ClosedPart {
        ClosedPart {
            writer: self.writer,
            file: self.file,
            names: self.names,
            number: self.number,
            started_at: self.started_at,
            gaps: self.gaps,
            lost: self.lost,
            left_out,
        }
    }
}
