//! What a file holds that was made whole, in any container.

use crate::library::{AudioPart, Salvaged, VideoPart};

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub duration_ms: u64,
    pub tracks: Vec<Track>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Track {
    /// Our word for the codec; the container's where we have none.
    pub codec: String,
    pub kind: Kind,
    pub frames: u64,
    pub key_frames: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Video { width: Option<u32>, height: Option<u32> },
    Audio { rate: Option<u32>, channels: Option<u32> },
    Other,
}

impl From<Found> for Salvaged {
    /// Tells of the first track of each kind that has access units.
    fn from(found: Found) -> Self {
        let used = || found.tracks.iter().filter(|t| t.frames > 0);
        let video = used().find_map(|track| match track.kind {
            Kind::Video { width, height } => Some(VideoPart {
                codec: track.codec.clone(),
                width,
                height,
                frames: track.frames,
                keyframes: track.key_frames,
            }),
            _ => None,
        });
        let audio = used().find_map(|track| match track.kind {
            Kind::Audio { rate, channels } => {
                Some(AudioPart { codec: track.codec.clone(), rate, channels, frames: track.frames })
            }
            _ => None,
        });
        Self { duration_ms: found.duration_ms, video, audio }
    }
}

/// From when to when a track plays, in ticks. How long its last access unit lasts is as long as the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub first: Option<i64>,
    /// The last two timestamps in order of presentation.
    last: [Option<i64>; 2],
}

impl Span {
    pub fn take(&mut self, time: i64) {
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        match self.last {
            [_, Some(last)] if time > last => self.last = [Some(last), Some(time)],
            [before, Some(last)] if time < last => self.last[0] = before.max(Some(time)),
            [_, None] => self.last[1] = Some(time),
            _ => {}
        }
    }

    pub fn end(&self) -> Option<i64> {
        let [before, last] = self.last;
        let last = last?;
        Some(last.saturating_add(before.map_or(0, |before| last.saturating_sub(before))))
    }
}
