//! Files that a daemon was writing when it died, and that can be made whole.

use super::{
    AudioPart, FinishedFile, Identity, Manifest, Part, PartLost, Recording, Storage, StorageError, VideoPart,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use std::path::Path;

/// Makes the `.part` at the path whole, in place, and syncs it. `None`, with nothing changed, when it is not known how, or
/// nothing in it can be played. It blocks.
pub type MakeWhole = fn(&Path) -> Result<Option<Salvaged>, String>;

/// What is in a file that was made whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Salvaged {
    /// Media time, ms.
    pub duration_ms: u64,
    pub video: Option<VideoPart>,
    pub audio: Option<AudioPart>,
}

/// A part that was being written, and when it was last.
pub(super) struct Unfinished<'a> {
    pub file: &'a Path,
    pub number: u32,
    pub changed: DateTime<Utc>,
}

/// Gives the part its end, its manifest and its final name: the one that was reserved for it. `None` when it cannot be
/// made whole. Blocks.
pub(super) fn salvage(
    storage: &Storage,
    recording: &Recording,
    unfinished: &Unfinished,
    make_whole: MakeWhole,
) -> Result<Option<Part>, String> {
    let Some(part) = storage.reserved(unfinished.file) else { return Ok(None) };
    let Some(salvaged) = make_whole(unfinished.file)? else { return Ok(None) };
    let length = TimeDelta::milliseconds(i64::try_from(salvaged.duration_ms).unwrap_or(i64::MAX / 2));
    let started_at = unfinished.changed.checked_sub_signed(length).unwrap_or(recording.started_at);
    let started_at = started_at.max(recording.started_at).trunc_subsecs(3);
    let describe = |file: &FinishedFile| Part {
        number: unfinished.number,
        file: file.file.clone(),
        name: file.name.clone(),
        size: file.size,
        sha256: file.sha256.clone(),
        started_at,
        duration_ms: salvaged.duration_ms,
        video: salvaged.video.clone(),
        audio: salvaged.audio.clone(),
        hook: None,
        poster: None,
        gaps: Vec::new(),
        lost: PartLost::default(),
        degraded: Vec::new(),
    };
    let stem = part.stem().to_owned();
    let names = |n| if n == 1 { stem.clone() } else { format!("{stem}_{n}") };
    let manifest = |file: &FinishedFile| Manifest::new(Identity::from(recording), describe(file));
    let finished = storage.finish(part, names, manifest).map_err(|e: StorageError| e.to_string())?;
    Ok(Some(describe(&finished)))
}
