//! What the last daemon left behind: recordings that have not ended, and files whose making whole was cut short
//! between their final name and the catalog.

use super::{
    HookJob, Library, LibraryError, MakeWhole, Manifest, Part, Recording, RecordingId, Status, Storage,
    StorageError,
    catalog::{get, id_of, status_of, time_of},
    salvage::{Unfinished, salvage},
    sql,
    storage::{io_error, rename_new},
};
use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Recordings that have not ended.
#[derive(Debug, Default)]
pub struct Interrupted(Vec<LeftBehind>);

impl Interrupted {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Library {
    /// For the start of the daemon, before anything is recorded: every recording that has not ended is one the
    /// last daemon left behind. Only reads the catalog.
    pub async fn interrupted(&self) -> Result<Interrupted, LibraryError> {
        Ok(Interrupted(self.left_behind().await?))
    }

    /// Ends each of them, and answers them. Hours of media may take minutes; meanwhile others may be recorded.
    ///
    /// A file that has its manifest was whole before the daemon died: it gets its final name where that is
    /// missing. Any other is made whole by `make_whole`, as far as it can be. Both are entered as parts with `hook`,
    /// each in one transaction. A recording whose parts are all entered then is completed when its end had been
    /// asked for, and recovered when one of its files had to be made whole. Any other is failed, with an error that
    /// names the `.part` it was writing. The end is the time of the last change to its files.
    ///
    /// The records folder is searched, on a blocking thread, only when a part had not been entered. A manifest
    /// that cannot be read, a file that cannot be made whole, and a recording that the catalog does not take are
    /// logged and left out; that recording is again among those of a later [`interrupted`](Self::interrupted), as are all
    /// after an error.
    pub async fn recover(
        &self,
        interrupted: Interrupted,
        hook: Option<HookJob>,
        make_whole: MakeWhole,
    ) -> Result<Vec<Recording>, LibraryError> {
        let Interrupted(left) = interrupted;
        let writing: Vec<Writing> = left.iter().flat_map(|l| l.writing.iter().cloned()).collect();
        let mut whole = self.whole_parts(writing).await?;
        let mut ended = Vec::with_capacity(left.len());
        for recording in left {
            let id = recording.id;
            match self.end_left_behind(recording, &mut whole, hook.as_ref(), make_whole).await {
                Ok(recording) => ended.extend(recording),
                Err(error) => {
                    tracing::error!(recording = %id, %error, "cannot be recovered; the next start tries again");
                }
            }
        }
        Ok(ended)
    }

    async fn left_behind(&self) -> Result<Vec<LeftBehind>, LibraryError> {
        let rows = sqlx::query(
            "SELECT r.id, r.status, r.started_at_ms, w.number, w.file FROM recording r \
             LEFT JOIN writing w ON w.recording_id = r.id \
             WHERE r.status IN ('starting', 'recording', 'finalizing') ORDER BY r.started_at_ms, r.id, w.number",
        )
        .fetch_all(self.readers())
        .await
        .map_err(sql("look for interrupted recordings"))?;

        let mut left: Vec<LeftBehind> = Vec::new();
        for row in &rows {
            let id = id_of(row, "id")?;
            if left.last().is_none_or(|l| l.id != id) {
                let (status, started_at) = (status_of(row)?, time_of(row, "started_at_ms")?);
                left.push(LeftBehind { id, status, started_at, writing: Vec::new() });
            }
            if let (Some(last), Some(file)) = (left.last_mut(), get::<Option<String>>(row, "file")?) {
                let number = get(row, "number")?;
                last.writing.push(Writing { recording: id, number, file: file.into() });
            }
        }
        Ok(left)
    }

    async fn whole_parts(&self, writing: Vec<Writing>) -> Result<WholeParts, LibraryError> {
        if writing.is_empty() {
            return Ok(WholeParts::new());
        }
        let storage = self.storage().clone();
        let found = tokio::task::spawn_blocking(move || find_whole(&storage, &writing)).await;
        let failed = |e| io_error("cannot search", self.storage().folder())(io::Error::other(e));
        Ok(found.map_err(failed)??)
    }

    async fn end_left_behind(
        &self,
        left: LeftBehind,
        whole: &mut WholeParts,
        hook: Option<&HookJob>,
        make_whole: MakeWhole,
    ) -> Result<Option<Recording>, LibraryError> {
        let LeftBehind { id, status, started_at, writing } = left;
        let mut ended_at = started_at;
        let (mut unfinished, mut salvaged) = (Vec::new(), false);
        for writing in writing {
            if let Some(part) = whole.remove(&(id, writing.number)) {
                self.commit_part(&id, &part, hook.cloned()).await?;
            } else if let Some((part, changed)) = self.salvaged(&id, &writing, make_whole).await? {
                let hook = hook.cloned().map(|job| HookJob { status: Status::Recovered, ..job });
                self.commit_part(&id, &part, hook).await?;
                (salvaged, ended_at) = (true, ended_at.max(changed));
            } else {
                unfinished.push(writing.file);
            }
        }
        let Some(recording) = self.get(&id).await? else { return Ok(None) };
        for part in recording.parts.iter().filter(|_| !salvaged) {
            ended_at = ended_at.max(look_at(&part.file).await.map_or(started_at, |(_, changed)| changed));
        }
        if status == Status::Finalizing && unfinished.is_empty() && !recording.parts.is_empty() {
            self.complete(&id, ended_at, &recording.lost).await?;
            return self.get(&id).await;
        }
        let mut playable = Vec::new();
        for file in unfinished {
            if let Some((1.., changed)) = look_at(&file).await {
                ended_at = ended_at.max(changed);
                playable.push(file.display().to_string());
            }
        }
        if salvaged && playable.is_empty() {
            self.recovered(&id, ended_at, &recording.lost).await?;
        } else {
            let error = interrupted_error(&playable, !recording.parts.is_empty());
            self.fail(&id, ended_at, &recording.lost, &error).await?;
        }
        self.get(&id).await
    }
}

impl Library {
    /// Makes a part whole that was being written; with it, when it was last written.
    async fn salvaged(
        &self,
        id: &RecordingId,
        writing: &Writing,
        make_whole: MakeWhole,
    ) -> Result<Option<(Part, DateTime<Utc>)>, LibraryError> {
        let (Some((1.., changed)), Some(recording)) = (look_at(&writing.file).await, self.get(id).await?)
        else {
            return Ok(None);
        };
        let (storage, file, number) = (self.storage().clone(), writing.file.clone(), writing.number);
        let salvage = move || {
            let unfinished = Unfinished { file: &file, number, changed };
            salvage(&storage, &recording, &unfinished, make_whole)
        };
        let made = tokio::task::spawn_blocking(salvage).await.map_err(|e| e.to_string()).flatten();
        let part = made.unwrap_or_else(|error| {
            tracing::warn!(file = %writing.file.display(), %error, "left as it is");
            None
        });
        Ok(part.map(|part| (part, changed)))
    }
}

/// A recording that has not ended.
#[derive(Debug)]
struct LeftBehind {
    id: RecordingId,
    status: Status,
    started_at: DateTime<Utc>,
    /// In the order of their numbers.
    writing: Vec<Writing>,
}

/// A part that is not in the catalog, and its `.part`.
#[derive(Clone, Debug)]
struct Writing {
    recording: RecordingId,
    number: u32,
    file: PathBuf,
}

type WholeParts = HashMap<(RecordingId, u32), Part>;

/// Size in bytes and time of the last change; `None` for what cannot be looked at.
async fn look_at(file: &Path) -> Option<(u64, DateTime<Utc>)> {
    let found = tokio::fs::metadata(file).await.ok()?;
    Some((found.len(), found.modified().ok()?.into()))
}

fn interrupted_error(playable: &[String], has_parts: bool) -> String {
    let rest = match playable {
        [] if has_parts => "its finished files are whole".into(),
        [] => "of the part being written nothing is left".into(),
        _ => format!(
            "what was written is in {} and plays; rename it, without .part, to keep it",
            playable.join(" and ")
        ),
    };
    format!("the daemon ended before this recording was finished; {rest}")
}

/// The parts of `writing` that have a manifest and a whole file, under its final name from here on. Blocks.
fn find_whole(storage: &Storage, writing: &[Writing]) -> Result<WholeParts, StorageError> {
    let search = io_error("cannot search", storage.folder());
    let missing = writing.iter().any(|w| !matches!(look(&w.file), Ok(Some(_))));
    let mut whole = WholeParts::new();
    for entry in fs::read_dir(storage.folder()).map_err(&search)? {
        if whole.len() == writing.len() {
            break;
        }
        let Some(file) = media_of(&entry.map_err(&search)?) else { continue };
        // Without this, each start after a crash would read every manifest there is.
        if !missing && has_one_name(&file) {
            continue;
        }
        let found = whole_part(&file, writing).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "left out of what is recovered");
            None
        });
        if let Some((recording, part)) = found {
            whole.insert((recording, part.number), part);
        }
    }
    if !whole.is_empty() {
        storage.sync_folder()?;
    }
    Ok(whole)
}

/// The file that a manifest is for by its name.
fn media_of(entry: &fs::DirEntry) -> Option<PathBuf> {
    // Opening a FIFO would wait for its writer, and a link may lead to one.
    if !entry.file_type().is_ok_and(|t| t.is_file()) {
        return None;
    }
    let path = entry.path();
    (path.extension()? == "json").then(|| path.with_extension(""))
}

/// A file under its final name only: not one whose `.part` is still there.
fn has_one_name(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok_and(|found| found.nlink() == 1)
}

fn whole_part(file: &Path, writing: &[Writing]) -> Result<Option<(RecordingId, Part)>, StorageError> {
    let Manifest { recording, mut part, .. } = Manifest::read(&Manifest::path_of(file))?;
    let id = recording.id;
    let Some(writing) = writing.iter().find(|w| w.recording == id && w.number == part.number) else {
        return Ok(None);
    };
    // A manifest that was copied along with its file is not the one that was written for it.
    if file.file_name() != Some(part.name.as_ref()) {
        return Ok(None);
    }
    if !make_whole(&writing.file, file, part.size).map_err(io_error("cannot finish", file))? {
        return Ok(None);
    }
    part.file = file.into();
    part.hook = None;
    Ok(Some((id, part)))
}

/// Ends what `Storage::finish` may have begun: true when `file` is there with `size` bytes, and the `.part` is not.
fn make_whole(part: &Path, file: &Path, size: u64) -> io::Result<bool> {
    let is_whole = |found: &Metadata| found.is_file() && found.len() == size;
    match (look(part)?, look(file)?) {
        (None, Some(found)) => Ok(is_whole(&found)),
        (Some(found), None) if is_whole(&found) => rename_new(part, file),
        // Where a hard link stands in for the rename, the old name may not have been removed yet.
        (Some(old), Some(new)) if is_whole(&new) && (old.dev(), old.ino()) == (new.dev(), new.ino()) => {
            fs::remove_file(part).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// `None` when nothing is there.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
