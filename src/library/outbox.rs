//! The outbox: hooks to run, webhooks to call and files to upload, kept until they succeed or are given up.
//!
//! The deliveries of one recording to one target go in the order of its parts (news: in the order they were put in): a later one
//! is held until each earlier one is through, or has failed `HELD_ATTEMPTS` times, so that one bad file does not keep
//! back the rest for days.

mod letters;
pub(super) mod owed;
mod put;
mod queue;
mod told;

pub use letters::{Letter, LetterFilter, LetterState};
pub(super) use put::{News, put_event, put_part};
pub use queue::{Due, Tried};
pub(super) use told::read_deliveries;
#[cfg(test)]
pub(super) use {
    put::{HOLDS, RELEASE},
    queue::due_query,
};

use super::{DeliveryKind, DeliveryState, PartDelivery, RecordingId, Status};
use crate::media::MediaSessionId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};
use url::Url;

/// After so many failures an entry no longer holds back the later ones of its recording and target.
pub(super) const HELD_ATTEMPTS: u32 = 5;

/// `type` of the event of a finished part.
const PART_NEWS: &str = "recording.part";

/// Identity of an entry.
pub type OutboxId = i64;

/// What is to be done, as the catalog keeps it (JSON).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Job {
    Hook(HookJob),
    Webhook(WebhookJob),
    Upload(UploadJob),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookJob {
    /// Absolute path.
    pub script: PathBuf,
    /// What the script is told as `REELD_STATUS`.
    pub status: Status,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct WebhookJob {
    /// May hold credentials.
    pub url: String,
    /// The whole body, as it was when it was put in.
    pub event: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UploadJob {
    pub to: UploadTo,
}

/// Where a file is uploaded to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadTo {
    /// HTTP PUT; the URL may hold credentials.
    Put { url: String },
    /// `[storage] url` of the configuration in force.
    Storage,
}

/// What is to be done with a recording's files and news. Kept with the recording's row, so that a crash forgets none.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandOn {
    /// Absolute path of the hook script.
    pub hook: Option<PathBuf>,
    /// URLs that are told; they may hold credentials.
    pub webhooks: Vec<String>,
    pub uploads: Vec<UploadTo>,
}

/// An entry whose time has come, with all that is needed to deliver it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub id: OutboxId,
    /// `msg_UUID`: the same in every attempt, so that a receiver can drop doubles.
    pub key: String,
    /// `None`: news of the daemon, not of a recording.
    pub recording: Option<RecordingId>,
    /// Number of the part; `None` for news of the whole recording.
    pub part: Option<u32>,
    pub kind: DeliveryKind,
    /// Entries of one recording and target keep their order. It may hold credentials.
    pub target: String,
    /// How often it has failed.
    pub attempts: u32,
    /// When it failed first.
    pub first_tried_at: Option<DateTime<Utc>>,
    pub job: Job,
    /// How far an upload has come, as [`outbox_progress`](super::Library::outbox_progress) was told.
    pub progress: Option<serde_json::Value>,
    /// The file; `None` for news of the whole recording.
    pub of: Option<DeliveredPart>,
}

/// The finished file that is delivered, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveredPart {
    pub stream_name: String,
    pub room_name: String,
    pub media_session_id: MediaSessionId,
    pub container: String,
    /// Absolute path.
    pub file: PathBuf,
    /// File name without its folder.
    pub name: String,
    /// Absolute path of its poster, where it has one by now.
    pub poster: Option<PathBuf>,
    pub started_at: DateTime<Utc>,
    pub duration_ms: u64,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// It is not of sound alone.
    pub has_video: bool,
}

impl Job {
    pub fn kind(&self) -> DeliveryKind {
        match self {
            Job::Hook(_) => DeliveryKind::Hook,
            Job::Webhook(_) => DeliveryKind::Webhook,
            Job::Upload(_) => DeliveryKind::Upload,
        }
    }

    /// What it is ordered by, beside the recording. It may hold credentials.
    pub fn target(&self) -> String {
        match self {
            Job::Hook(job) => job.script.to_string_lossy().into_owned(),
            Job::Webhook(job) => job.url.clone(),
            Job::Upload(job) => job.to.target().to_owned(),
        }
    }

    /// `type` of the event a webhook tells.
    fn event(&self) -> Option<&str> {
        match self {
            Job::Webhook(job) => job.event["type"].as_str(),
            _ => None,
        }
    }
}

impl HandOn {
    /// What is to be done with a part that was just finished.
    pub fn pending(&self, part: u32) -> Vec<PartDelivery> {
        let hook = self.hook.iter().map(|script| (DeliveryKind::Hook, script.to_string_lossy().into_owned()));
        let webhooks = self.webhooks.iter().map(|url| (DeliveryKind::Webhook, url.clone()));
        let uploads = self.uploads.iter().map(|to| (DeliveryKind::Upload, to.target().to_owned()));
        let pending = |(kind, target): (DeliveryKind, String)| PartDelivery {
            kind,
            event: (kind == DeliveryKind::Webhook).then(|| PART_NEWS.to_owned()),
            target: Some(shown_target(kind, &target)),
            ..PartDelivery::hook(part, DeliveryState::Pending, 0)
        };
        hook.chain(webhooks).chain(uploads).map(pending).collect()
    }
}

impl UploadTo {
    fn target(&self) -> &str {
        match self {
            UploadTo::Put { url } => url,
            UploadTo::Storage => "storage",
        }
    }
}

/// A target as people are told it: of a webhook the host, as its path may be a secret; of an upload no user, no query, and of the path
/// the last segment.
pub fn shown_target(kind: DeliveryKind, target: &str) -> String {
    let Ok(url) = Url::parse(target) else { return target.to_owned() };
    let Some(host) = url.host_str().filter(|_| kind != DeliveryKind::Hook) else { return target.to_owned() };
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    let origin = format!("{}://{host}{port}", url.scheme());
    let last = url.path_segments().and_then(|mut s| s.rfind(|s| !s.is_empty()));
    match last.filter(|_| kind == DeliveryKind::Upload) {
        Some(last) => format!("{origin}/…/{last}"),
        None => origin,
    }
}

// URLs may hold credentials, and events what recordings are called: neither belongs in a log.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {}", self.kind(), shown_target(self.kind(), &self.target()))
    }
}

impl fmt::Debug for WebhookJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.event["type"], shown_target(DeliveryKind::Webhook, &self.url))
    }
}

impl fmt::Debug for UploadTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_target(DeliveryKind::Upload, self.target()))
    }
}

impl fmt::Debug for HandOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, webhooks, uploads } = self;
        let webhooks: Vec<_> = webhooks.iter().map(|url| shown_target(DeliveryKind::Webhook, url)).collect();
        f.debug_struct("HandOn")
            .field("hook", hook)
            .field("webhooks", &webhooks)
            .field("uploads", uploads)
            .finish()
    }
}
