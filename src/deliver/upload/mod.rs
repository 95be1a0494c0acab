//! Uploads a finished file: one attempt.

use super::Outcome;
use crate::library::{Delivery, Library};

/// How files are uploaded.
#[derive(Clone, Debug)]
pub struct UploadSettings {
    /// How many are uploaded at the same time, at least 1.
    pub concurrency: usize,
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self { concurrency: 2 }
    }
}

/// One attempt; the next one goes on from what [`Library::outbox_progress`] was told.
pub(super) async fn deliver(_delivery: &Delivery, _settings: &UploadSettings, _library: &Library) -> Outcome {
    Outcome::failed("uploads are not built in yet")
}
