//! What the verbs answer: live sessions and the server itself, in the contract's words.

use super::disk::{Mark, Marks};
use crate::{
    library::RecordingId,
    media::{MediaSessionId, Protocol},
};
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use std::{net::SocketAddr, path::PathBuf};

/// One live publisher.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    pub media_session_id: MediaSessionId,
    /// Id of the publisher's connection, URL-safe base64 of `/REMOTE/LOCAL`.
    pub session_id: String,
    pub name: String,
    pub room_name: String,
    pub room_id: String,
    pub protocol: Protocol,
    /// `IP:PORT`.
    #[schema(value_type = String)]
    pub remote: SocketAddr,
    pub status: SessionStatus,
    pub tracks: Vec<SessionTrack>,
    /// Mean over the session's life, bits per second.
    pub bitrate: u64,
    /// Access units received.
    pub frames: u64,
    /// Packets that never came.
    pub lost: u64,
    pub created_at: DateTime<Utc>,
    /// The recording under way, if any.
    #[schema(required)]
    pub recording_id: Option<RecordingId>,
}

/// Flashphoner's words for a publisher's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub enum SessionStatus {
    /// Its tracks are not all known yet, or the source that it is pulled from is away.
    Pending,
    Publishing,
    /// It has ended: the publisher said so, or was ended from here.
    Unpublished,
    /// It has ended otherwise.
    Failed,
}

impl SessionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            SessionStatus::Pending => "PENDING",
            SessionStatus::Publishing => "PUBLISHING",
            SessionStatus::Unpublished => "UNPUBLISHED",
            SessionStatus::Failed => "FAILED",
        }
    }
}

impl Serialize for SessionStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionTrack {
    /// `video` or `audio`.
    pub kind: &'static str,
    pub codec: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Hz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
}

/// Whether a session is being recorded, for pollers.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordingState {
    /// Frames are being written, or it is paused.
    pub on: bool,
    /// A start or stop was asked for and is not done yet.
    pub update_pending: bool,
    /// Media time of the recording under way, ms; 0 when there is none.
    pub total_running_duration_ms: u64,
    #[schema(required)]
    pub recording_id: Option<RecordingId>,
}

/// A recording under way, as Flashphoner's `/recorder/find_all` lists it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunningRecording {
    /// File name; keys that are known only at the end stand in it literally (`{endTime}`).
    pub file_name: String,
    pub media_session_id: MediaSessionId,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    pub version: &'static str,
    pub addresses: Addresses,
    pub policy: PolicyInfo,
    pub limits: LimitsInfo,
    pub load: LoadInfo,
    pub disk: DiskInfo,
}

/// What the recordings under way take.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadInfo {
    pub recordings: usize,
    /// Live streams.
    pub sessions: usize,
    /// Streams that the policy wants recorded and that wait until they can be.
    pub waiting: usize,
    /// How busy the processors are that the daemon may use, and its own part of that; means over a few seconds.
    pub cpu_percent: f64,
    pub daemon_cpu_percent: f64,
    /// Why a start or a new stream is refused now: `max_recordings`, `max_transcodes`, `max_sessions`, `cpu_transcode`
    /// (what needs transcoding), `cpu` (calls that need none).
    pub refusing: Vec<&'static str>,
    /// Tracks that are decoded and encoded, on the writer threads.
    pub transcoded_tracks: u64,
    /// Threads beyond the writer threads: those of GStreamer's muxers and the queues in front of them.
    pub element_threads: u64,
}

/// The addresses really bound (a configured port 0 shows the port it got).
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Addresses {
    #[schema(value_type = String)]
    pub http: SocketAddr,
    #[schema(value_type = String)]
    pub rtmp: SocketAddr,
    #[schema(value_type = String)]
    pub rtsp: SocketAddr,
    /// Where it is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rtmps: Option<SocketAddr>,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyInfo {
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// When the policy in force was read.
    pub loaded_at: DateTime<Utc>,
    /// Why the file as it is now is not in force, `file:line: what`.
    #[schema(required)]
    pub error: Option<String>,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsInfo {
    pub max_connections: usize,
    pub connections: usize,
    /// 0: no limit; so is `max_sessions` and `max_transcodes`.
    pub max_recordings: usize,
    pub max_sessions: usize,
    pub max_transcodes: usize,
    /// `None`: off.
    #[schema(required)]
    pub max_cpu_percent: Option<u8>,
    pub max_message_bytes: u64,
    pub publisher_timeout_ms: u64,
    pub handshake_timeout_ms: u64,
    pub shutdown_timeout_ms: u64,
    pub hook_timeout_ms: u64,
    pub hook_concurrency: usize,
    pub recorder_queue_bytes: u64,
    pub recorder_memory_bytes: u64,
    /// The longest pre-roll that a start may ask for, unless `record_preroll` is longer.
    pub preroll_ms: u64,
    pub preroll_memory_bytes: u64,
    pub max_part_duration_ms: u64,
    /// `[storage] sync_interval`.
    pub sync_interval_ms: u64,
    pub monitor_interval_ms: u64,
    pub key_frame_timeout_ms: u64,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskInfo {
    /// The records folder.
    #[schema(value_type = String)]
    pub path: PathBuf,
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// What recordings write, smoothed over seconds.
    pub bytes_per_second: u64,
    /// At that rate, until recordings are ended; `null` when nothing is written.
    #[schema(required)]
    pub seconds_to_full: Option<u64>,
    pub mark: Mark,
    /// Free space at which each of them begins, as it is now.
    pub marks: Marks,
    /// Kept for the ends of recordings, and not among `freeBytes`.
    pub reserved_bytes: u64,
}
