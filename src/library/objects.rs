//! The objects of the product's contract: what a recording and its parts are in the API, the catalog and the manifest.

use super::Health;
use crate::media::{Gap, MediaSessionId, Protocol};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};
use uuid::Uuid;

/// Identity of a recording (UUID v4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct RecordingId(pub Uuid);

impl RecordingId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for RecordingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a recording is in its life. It only moves forward, down this list; but one that is paused goes back to recording
/// when it is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Asked for; no frame is written yet.
    Starting,
    /// Frames are being written.
    Recording,
    /// Its file stays open, and frames are left out until it goes on.
    Paused,
    /// Its end was asked for; the file is being made whole.
    Finalizing,
    /// Every part is whole and under its final name.
    Completed,
    /// It ended with an error; parts that were finished before it stay.
    Failed,
    /// The daemon died while it was being written; a later start made its files whole.
    Recovered,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Starting,
        Status::Recording,
        Status::Paused,
        Status::Finalizing,
        Status::Completed,
        Status::Failed,
        Status::Recovered,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Recording => "recording",
            Status::Paused => "paused",
            Status::Finalizing => "finalizing",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Recovered => "recovered",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Completed, failed or recovered: nothing more will happen to its files.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Recovered)
    }
}

/// One recording of one live stream: one or more parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    pub id: RecordingId,
    pub status: Status,
    /// Why it is less than what was asked for: of all its parts together, and what is wrong with it now. What was wrong at
    /// its end stays.
    #[serde(default)]
    #[schema(required)]
    pub degraded: Vec<String>,
    /// What was wrong with it while it ran, and when; oldest first.
    #[serde(default)]
    #[schema(required)]
    pub health: Vec<Health>,
    pub room_name: String,
    pub room_id: String,
    pub stream_name: String,
    pub media_session_id: MediaSessionId,
    /// Id of the publisher's connection: what `{sessionId}` stands for in a file name.
    pub session_id: String,
    pub protocol: Protocol,
    /// `mp4`, `webm`, `mkv` or `ts`.
    pub container: String,
    pub started_at: DateTime<Utc>,
    #[schema(required)]
    pub ended_at: Option<DateTime<Utc>>,
    /// Unix time of `started_at`, ms.
    pub started_at_ms: i64,
    /// Sum of the finished parts, ms of media time.
    pub duration_ms: u64,
    /// Sum of the finished parts, bytes.
    pub size: u64,
    pub parts: Vec<Part>,
    pub lost: Lost,
    /// What is to be done with the finished parts and how far it is, in the order of the parts. Read from the
    /// catalog only; empty where a recording is told as it runs.
    #[serde(default)]
    #[schema(required)]
    pub deliveries: Vec<PartDelivery>,
    #[schema(required)]
    pub error: Option<String>,
    /// Nobody deletes it until it is unlocked.
    #[serde(default)]
    #[schema(required)]
    pub locked: bool,
}

impl Recording {
    /// Leaves so many of its parts, deliveries and gaps at most: the newest. Whether some had to go.
    pub fn keep_newest(&mut self, most: usize) -> bool {
        let mut cut = keep_newest(&mut self.parts, most);
        cut |= keep_newest(&mut self.deliveries, most);
        cut |= keep_newest(&mut self.lost.gaps, most);
        for part in &mut self.parts {
            cut |= keep_newest(&mut part.gaps, most);
        }
        cut
    }

    /// Takes over why a part is less than what was asked for, each reason once.
    pub fn degrade(&mut self, reasons: &[String]) {
        for reason in reasons {
            if !self.degraded.contains(reason) {
                self.degraded.push(reason.clone());
            }
        }
    }
}

fn keep_newest<T>(items: &mut Vec<T>, most: usize) -> bool {
    let over = items.len().saturating_sub(most);
    items.drain(..over);
    over > 0
}

/// What is missing from a recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    pub packets: u64,
    pub frames: u64,
    pub gaps: Vec<Gap>,
}

/// One finished file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Counts from 1.
    pub number: u32,
    /// Absolute path.
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// File name without its folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex of the whole file.
    pub sha256: String,
    /// Wall-clock time of its first frame.
    pub started_at: DateTime<Utc>,
    /// Media time, ms.
    pub duration_ms: u64,
    #[schema(required)]
    pub video: Option<VideoPart>,
    #[schema(required)]
    pub audio: Option<AudioPart>,
    /// What the hook script did; `None` until it ran.
    #[schema(required)]
    pub hook: Option<HookResult>,
    /// Absolute path of a still picture from it.
    #[serde(default)]
    #[schema(required, value_type = Option<String>)]
    pub poster: Option<PathBuf>,
    /// Gaps within this file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// What is missing from this file.
    #[serde(default)]
    #[schema(required)]
    pub lost: PartLost,
    /// Why it is less than what was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Where in the object store it is too: `s3://bucket/prefix/NAME.EXT`.
    #[serde(default)]
    #[schema(required)]
    pub remote: Option<String>,
    /// Whether its file is in the records folder; else it is in the store only.
    #[serde(default = "here")]
    #[schema(required)]
    pub local: bool,
}

/// What was written before there was a store is here.
fn here() -> bool {
    true
}

/// What is missing from one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartLost {
    /// Packets that never came.
    pub packets: u64,
    /// Access units that were left out.
    pub frames: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VideoPart {
    pub codec: String,
    #[schema(required)]
    pub width: Option<u32>,
    #[schema(required)]
    pub height: Option<u32>,
    pub frames: u64,
    pub keyframes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AudioPart {
    /// Codec in the file.
    pub codec: String,
    /// Hz.
    #[schema(required)]
    pub rate: Option<u32>,
    #[schema(required)]
    pub channels: Option<u32>,
    /// Access units handed to the writer (before a transcoder, where one is in the way).
    pub frames: u64,
}

/// The last run of a hook script for one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookResult {
    /// Exit code; `None` when it was killed by a signal, ran out of time or could not be started.
    #[schema(required)]
    pub exit: Option<i32>,
    pub attempts: u32,
    /// Last part of what it printed (stdout and stderr), and how it ended when that was not by exiting.
    pub output: String,
}

/// One delivery of a part or of news, to one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartDelivery {
    pub kind: DeliveryKind,
    /// Number of the part; `None` for news of the whole recording.
    #[schema(required)]
    pub part: Option<u32>,
    /// What a webhook tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    pub state: DeliveryState,
    /// Attempts that have ended.
    pub attempts: u32,
    /// Without credentials; `None` for a hook that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When it is tried again; of `failed` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl PartDelivery {
    /// That of a hook.
    pub fn hook(part: u32, state: DeliveryState, attempts: u32) -> Self {
        let (target, next_at) = (None, None);
        Self {
            kind: DeliveryKind::Hook,
            part: Some(part),
            event: None,
            state,
            attempts,
            target,
            next_at,
            error: None,
        }
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryKind {
    /// The hook script.
    Hook,
    /// News of a recording or of the daemon, to a URL.
    Webhook,
    /// A finished file, to a URL or to the storage.
    Upload,
}

impl DeliveryKind {
    pub const ALL: [DeliveryKind; 3] = [DeliveryKind::Hook, DeliveryKind::Webhook, DeliveryKind::Upload];

    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryKind::Hook => "hook",
            DeliveryKind::Webhook => "webhook",
            DeliveryKind::Upload => "upload",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == word)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Not tried yet.
    Pending,
    Done,
    /// The last run failed; it is tried again.
    Failed,
    /// Given up.
    Dead,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::testing;

    #[test]
    fn every_status_is_read_back_from_its_word() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert!(Status::Recovered.is_final() && !Status::Paused.is_final());
    }

    #[test]
    fn what_was_written_before_a_field_was_known_is_read() {
        let mut recording = testing::recording(0);
        recording.parts = vec![testing::part(1)];
        let mut json = serde_json::to_value(&recording).unwrap();
        let part = json["parts"][0].as_object_mut().unwrap();
        assert_eq!(part.remove("poster"), Some(serde_json::Value::Null));
        for field in ["degraded", "deliveries", "health"] {
            assert_eq!(json.as_object_mut().unwrap().remove(field), Some(serde_json::json!([])));
        }
        assert_eq!(serde_json::from_value::<Recording>(json).unwrap(), recording);
    }

    #[test]
    fn a_delivery_has_the_words_of_the_contract() {
        let delivery = PartDelivery::hook(2, DeliveryState::Dead, 7);
        let json = serde_json::json!({"kind": "hook", "part": 2, "state": "dead", "attempts": 7});
        assert_eq!(serde_json::to_value(delivery).unwrap(), json);
    }
}
