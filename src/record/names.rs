use super::naming::{EndFacts, NameFacts, file_stem, with_suffix};
use crate::{
    config::NameRule,
    gst::TrackPlan,
    hub::Stream,
    media::{Codec, MediaKind},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;

/// The names that one part may get, while it is written and when it is done.
pub(super) struct PartNames {
    rule: NameRule,
    stream: Arc<Stream>,
    audio_codec: Option<Codec>,
    video_codec: Option<Codec>,
    part: u32,
    /// The number goes into the name.
    numbered: bool,
    started_at: DateTime<Utc>,
    opened_at: DateTime<Utc>,
    extension: String,
}

/// What is known about a part's names only when it has ended.
#[derive(Clone, Copy)]
pub(super) struct PartEnd {
    pub duration_ms: u64,
    /// Server clock.
    pub ended_at: DateTime<Utc>,
}

impl PartNames {
    /// `numbered`: the recording has, or will have, more parts than one. `started_at`: when the part's first frame was made, by the stream's clock.
    pub fn new(
        rule: &NameRule,
        stream: &Arc<Stream>,
        plans: &[TrackPlan],
        part: u32,
        numbered: bool,
        started_at: DateTime<Utc>,
        extension: &str,
    ) -> Self {
        let codec = |kind| plans.iter().map(|p| p.codec).find(|c| c.kind() == kind);
        Self {
            rule: rule.clone(),
            stream: stream.clone(),
            audio_codec: codec(MediaKind::Audio),
            video_codec: codec(MediaKind::Video),
            part,
            numbered,
            started_at,
            opened_at: Utc::now(),
            extension: extension.to_owned(),
        }
    }

    /// File name without extension for try `n` (1 = the plain name, then `_2`, `_3` …). Without `end`, keys that
    /// are known only then stand in it literally.
    pub fn stem(&self, n: u32, end: Option<PartEnd>) -> String {
        let announce = self.stream.announce();
        let media_session_id = self.stream.id().to_string();
        let facts = NameFacts {
            stream_name: announce.name.as_str(),
            room_name: announce.room.as_str(),
            room_id: announce.room.as_str(),
            session_id: &announce.session_id,
            media_session_id: &media_session_id,
            login: "",
            start_ms: self.started_at.timestamp_millis(),
            start_wall_ms: self.opened_at.timestamp_millis(),
            audio_codec: self.audio_codec,
            video_codec: self.video_codec,
            part: self.part,
            end: end.map(|end| EndFacts {
                end_ms: (self.started_at + TimeDelta::milliseconds(end.duration_ms as i64))
                    .timestamp_millis(),
                end_wall_ms: end.ended_at.timestamp_millis(),
                duration_ms: end.duration_ms,
            }),
        };
        let numbered =
            self.numbered && !self.rule.template.uses_start_time() && !self.rule.template.uses_part();
        let stem = file_stem(&self.rule, &facts, numbered.then_some(self.part), &self.extension);
        if n == 1 { stem } else { with_suffix(&stem, &format!("_{n}"), &self.extension) }
    }
}
