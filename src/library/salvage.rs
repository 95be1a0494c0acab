//! Files that a daemon was writing when it died, and that can be made whole.

use super::{
    AudioPart, FinishedFile, Identity, Manifest, Part, PartLost, Recording, Storage, StorageError, VideoPart,
};
use crate::media::Gap;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Makes the `.part` at the path whole, in place, and syncs it. `None`, with nothing changed, when it is not known how, or
/// nothing in it can be played. It blocks.
pub type MakeWhole = fn(&Path) -> Result<Option<Salvaged>, String>;

/// What is in a finished file, found by reading it; nothing is changed. `None` when there is nothing to play in it. It
/// blocks.
pub type Inspect = fn(&Path) -> Result<Option<Salvaged>, String>;

/// What is in a file that was made whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Salvaged {
    /// Media time, ms.
    pub duration_ms: u64,
    pub video: Option<VideoPart>,
    pub audio: Option<AudioPart>,
}

/// A part that was being written.
pub(super) struct Unfinished<'a> {
    pub file: &'a Path,
    pub number: u32,
    /// When it was last written.
    pub changed: DateTime<Utc>,
    /// When its first frame came, if that is known.
    pub started_at: Option<DateTime<Utc>>,
    /// Of its recording, if that is known.
    pub recording: Option<&'a Recording>,
}

impl Unfinished<'_> {
    /// The gaps in a file of this length: those of the recording that come after the parts before.
    fn gaps(&self, duration_ms: u64) -> Vec<Gap> {
        let Some(recording) = self.recording else { return Vec::new() };
        let before = recording.parts.iter().filter(|p| p.number < self.number);
        let before_ms: u64 = before.map(|p| p.duration_ms).sum();
        let in_file = |gap: &Gap| {
            let at_ms = gap.at_ms.checked_sub(before_ms).filter(|&at| at <= duration_ms)?;
            Some(Gap { at_ms, ..gap.clone() })
        };
        recording.lost.gaps.iter().filter_map(in_file).collect()
    }
}

/// Gives the part its end, its manifest and its final name: the one that was reserved for it. `identity` is given the time
/// of its first frame. `None` when it cannot be made whole. Blocks.
pub(super) fn salvage(
    storage: &Storage,
    unfinished: &Unfinished,
    make_whole: MakeWhole,
    identity: impl FnOnce(DateTime<Utc>) -> Identity,
) -> Result<Option<(Identity, Part)>, String> {
    let Some(part) = storage.reserved(unfinished.file) else { return Ok(None) };
    let found = fs::symlink_metadata(unfinished.file).map_err(|e| e.to_string())?;
    if found.nlink() > 1 {
        // Where a hard link stands in for the rename, that is a whole file under its final name.
        return Err("it is a second name of another file".into());
    }
    let Some(salvaged) = make_whole(unfinished.file)? else { return Ok(None) };
    let by_its_end = || start_of(unfinished.changed, &salvaged);
    let started_at = unfinished.started_at.unwrap_or_else(by_its_end);
    let identity = identity(started_at);
    let started_at = started_at.max(identity.started_at).trunc_subsecs(3);
    let gaps = unfinished.gaps(salvaged.duration_ms);
    let lost = PartLost {
        packets: gaps.iter().map(|g| g.packets).sum(),
        frames: gaps.iter().map(|g| g.frames).sum(),
    };
    let describe = |file: &FinishedFile| Part {
        gaps: gaps.clone(),
        lost,
        ..describe(file, unfinished.number, started_at, &salvaged)
    };
    let stem = part.stem().to_owned();
    let names = |n| if n == 1 { stem.clone() } else { format!("{stem}_{n}") };
    let health = unfinished.recording.map_or(&[][..], |r| &r.health);
    let manifest =
        |file: &FinishedFile| Manifest::recovered(identity.clone(), describe(file)).with_health(health);
    let finished = storage.finish(part, names, manifest).map_err(|e: StorageError| e.to_string())?;
    let part = describe(&finished);
    Ok(Some((identity, part)))
}

/// When the first frame of a file came that was last written at `changed`.
pub(super) fn start_of(changed: DateTime<Utc>, salvaged: &Salvaged) -> DateTime<Utc> {
    let length = i64::try_from(salvaged.duration_ms).ok().and_then(TimeDelta::try_milliseconds);
    let start = length.and_then(|length| changed.checked_sub_signed(length));
    start.unwrap_or(changed).trunc_subsecs(3)
}

pub(super) fn describe(
    file: &FinishedFile,
    number: u32,
    started_at: DateTime<Utc>,
    salvaged: &Salvaged,
) -> Part {
    Part {
        number,
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
        remote: None,
        local: true,
    }
}
