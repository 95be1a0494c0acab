//! The objects of the product's contract: what a recording and its parts are in the API, the catalog and the manifest.

use crate::media::{Gap, MediaSessionId, Protocol};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};
use uuid::Uuid;

/// Identity of a recording (UUID v4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// Where a recording is in its life. It only moves forward: down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Asked for; no frame is written yet.
    Starting,
    /// Frames are being written.
    Recording,
    /// Its end was asked for; the file is being made whole.
    Finalizing,
    /// Every part is whole and under its final name.
    Completed,
    /// It ended with an error; parts that were finished before it stay.
    Failed,
}

impl Status {
    pub const ALL: [Status; 5] =
        [Status::Starting, Status::Recording, Status::Finalizing, Status::Completed, Status::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Recording => "recording",
            Status::Finalizing => "finalizing",
            Status::Completed => "completed",
            Status::Failed => "failed",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Completed or failed: nothing more will happen to its files.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Failed)
    }
}

/// One recording of one live stream: one or more parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    pub id: RecordingId,
    pub status: Status,
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
    pub ended_at: Option<DateTime<Utc>>,
    /// Unix time of `started_at`, ms.
    pub started_at_ms: i64,
    /// Sum of the finished parts, ms of media time.
    pub duration_ms: u64,
    /// Sum of the finished parts, bytes.
    pub size: u64,
    pub parts: Vec<Part>,
    pub lost: Lost,
    pub error: Option<String>,
}

/// What is missing from a recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    pub packets: u64,
    pub frames: u64,
    pub gaps: Vec<Gap>,
}

/// One finished file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Counts from 1.
    pub number: u32,
    /// Absolute path.
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
    pub video: Option<VideoPart>,
    pub audio: Option<AudioPart>,
    /// What the hook script did; `None` until it ran.
    pub hook: Option<HookResult>,
    /// Gaps within this file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VideoPart {
    pub codec: String,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub frames: u64,
    pub keyframes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AudioPart {
    /// Codec in the file.
    pub codec: String,
    /// Hz.
    pub rate: Option<u32>,
    pub channels: Option<u32>,
    /// Access units handed to the writer (before a transcoder, where one is in the way).
    pub frames: u64,
}

/// The last run of a hook script for one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookResult {
    /// Exit code; `None` when it was killed by a signal, ran out of time or could not be started.
    pub exit: Option<i32>,
    pub attempts: u32,
    /// Last part of what it printed (stdout and stderr), and how it ended when that was not by exiting.
    pub output: String,
}
