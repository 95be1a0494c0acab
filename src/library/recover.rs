//! What the last daemon left behind: recordings that have not ended, and files whose making whole was cut short
//! between their final name and the catalog.

use super::{
    HandOn, Identity, Inspect, Library, LibraryError, MakeWhole, Manifest, Part, Recording, RecordingId,
    Status, Storage, StorageError,
    catalog::{get, id_of, status_of, time, time_of},
    enter::end_of,
    outbox::{self, News},
    salvage::{Unfinished, salvage},
    sql,
    storage::{io_error, rename_new},
    strays::Strays,
};
use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// Recordings that have not ended, and files that the catalog does not know.
#[derive(Debug, Default)]
pub struct Interrupted {
    left: Vec<LeftBehind>,
    strays: Strays,
}

impl Interrupted {
    pub fn is_empty(&self) -> bool {
        self.left.is_empty() && self.strays.is_empty()
    }
}

impl Library {
    /// For the start of the daemon, before anything is recorded: every recording that has not ended is one the
    /// last daemon left behind, and every file that the catalog does not know is one that it has lost, or that somebody
    /// put there. Reads the catalog and the names in the records folder, no file. First it
    /// goes on with what the last daemon had begun to delete.
    pub async fn interrupted(&self) -> Result<Interrupted, LibraryError> {
        self.end_deletions().await?;
        Ok(Interrupted { left: self.left_behind().await?, strays: self.strays().await? })
    }

    /// Ends each of them, and answers them; then enters the files that the catalog does not know. Hours of media may take
    /// minutes; meanwhile others may be recorded.
    ///
    /// Of a recording that has not ended, a file that has its manifest was whole before the daemon died: it gets its final
    /// name where that is missing. Any other is made whole by `make_whole`, as far as it can be. Both are entered as
    /// parts and handed on as the recording says, else as `hand_on`, each in one transaction. A recording whose parts are all entered then is completed
    /// when its end had been asked for and nothing had to be made whole, else recovered. Any other is failed, with an error
    /// that names the `.part` it was writing, and says whether `inspect` finds that it plays; a later start tries that one again. The end is the time of the last change to
    /// its files.
    ///
    /// Files that no row knows are entered as their manifests say, and handed on, as they may not have been yet; but not
    /// in a catalog that was made anew, where all files there ever were would be among them. A `.part` is
    /// made whole and a file without manifest is read by `inspect`: both become recordings of their own, and the `.part`
    /// is handed on.
    ///
    /// A manifest that cannot be read, a file that cannot be made whole, and a recording that the catalog does not take are
    /// logged and left out; they are again among those of a later [`interrupted`](Self::interrupted), as are all
    /// after an error.
    pub async fn recover(
        &self,
        interrupted: Interrupted,
        hand_on: &HandOn,
        make_whole: MakeWhole,
        inspect: Inspect,
    ) -> Result<Vec<Recording>, LibraryError> {
        let Interrupted { left, strays } = interrupted;
        let _recovering = Recovering::begin(self);
        let writing: Vec<Writing> = left.iter().flat_map(|l| l.writing.iter().cloned()).collect();
        let mut whole = self.whole_parts(writing, &strays).await?;
        let ended = self.end_all(left, &mut whole, hand_on, make_whole, inspect).await;
        self.take_in(strays, hand_on, make_whole, inspect).await?;
        Ok(ended)
    }

    /// Makes whole, as far as it can be, what recordings that have failed were not able to finish: there was no room. Answers
    /// those that are recovered now. While a start still recovers, it is left to that.
    pub async fn recover_failed(
        &self,
        hand_on: &HandOn,
        make_whole: MakeWhole,
    ) -> Result<Vec<Recording>, LibraryError> {
        if self.is_recovering() {
            return Ok(Vec::new());
        }
        let _recovering = Recovering::begin(self);
        let mut left = self.left_behind().await?;
        left.retain(|l| l.status == Status::Failed);
        let inspect: Inspect = |_| Ok(None);
        Ok(self.end_all(left, &mut WholeParts::new(), hand_on, make_whole, inspect).await)
    }

    async fn end_all(
        &self,
        left: Vec<LeftBehind>,
        whole: &mut WholeParts,
        hand_on: &HandOn,
        make_whole: MakeWhole,
        inspect: Inspect,
    ) -> Vec<Recording> {
        let mut ended = Vec::with_capacity(left.len());
        for recording in left {
            let id = recording.id;
            match self.end_left_behind(recording, whole, hand_on, make_whole, inspect).await {
                Ok(recording) => ended.extend(recording),
                Err(error) => {
                    tracing::error!(recording = %id, %error, "cannot be recovered; the next start tries again");
                }
            }
        }
        ended
    }

    async fn left_behind(&self) -> Result<Vec<LeftBehind>, LibraryError> {
        let rows = sqlx::query(
            "SELECT r.id, r.status, r.started_at_ms, w.number, w.file, w.started_at_ms AS part_started_at_ms \
             FROM recording r LEFT JOIN writing w ON w.recording_id = r.id \
             WHERE r.status IN ('starting', 'recording', 'paused', 'finalizing') \
             OR (r.status = 'failed' AND w.file IS NOT NULL) ORDER BY r.started_at_ms, r.id, w.number",
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
                let started_at: Option<i64> = get(row, "part_started_at_ms")?;
                last.writing.push(Writing {
                    recording: id,
                    number: get(row, "number")?,
                    file: file.into(),
                    started_at: started_at.map(|ms| time(ms, "started_at_ms")).transpose()?,
                });
            }
        }
        Ok(left)
    }

    async fn whole_parts(&self, writing: Vec<Writing>, strays: &Strays) -> Result<WholeParts, LibraryError> {
        let names: Vec<String> = strays.with_manifest().cloned().collect();
        if writing.is_empty() || names.is_empty() {
            return Ok(WholeParts::new());
        }
        let storage = self.storage().clone();
        let found = tokio::task::spawn_blocking(move || find_whole(&storage, &names, &writing)).await;
        let failed = |e| io_error("cannot search", self.storage().folder())(io::Error::other(e));
        Ok(found.map_err(failed)??)
    }

    async fn end_left_behind(
        &self,
        recording: LeftBehind,
        whole: &mut WholeParts,
        hand_on: &HandOn,
        make_whole: MakeWhole,
        inspect: Inspect,
    ) -> Result<Option<Recording>, LibraryError> {
        let LeftBehind { id, status, started_at, writing } = recording;
        let mut ended_at = started_at;
        let (mut left, mut entered, mut salvaged) = (Vec::new(), false, false);
        for writing in writing {
            if let Some((part, recovered)) = whole.remove(&(id, writing.number)) {
                let status = if recovered { Status::Recovered } else { Status::Completed };
                self.commit(&id, &part, status, hand_on).await?;
                (entered, salvaged) = (true, salvaged || recovered);
                // A file that was made whole was changed long after its last frame.
                let end = end_of(part.started_at, part.duration_ms, &part.gaps).filter(|_| recovered);
                ended_at = ended_at.max(end.unwrap_or(ended_at));
            } else if let Some((part, changed)) = self.salvaged(&id, &writing, make_whole).await? {
                self.commit(&id, &part, Status::Recovered, hand_on).await?;
                (salvaged, ended_at) = (true, ended_at.max(changed));
            } else if let Some(changed) = self.left_as_it_is(&writing).await? {
                left.push(writing.file);
                ended_at = ended_at.max(changed);
            }
        }
        let Some(recording) = self.get(&id).await? else { return Ok(None) };
        for part in recording.parts.iter().filter(|_| !salvaged) {
            ended_at = ended_at.max(look_at(&part.file).await.map_or(started_at, |(_, changed)| changed));
        }
        let all_whole = left.is_empty() && !recording.parts.is_empty();
        match status {
            // It has ended, and has another file at most.
            Status::Failed if !(all_whole && (entered || salvaged)) => return Ok(None),
            Status::Failed => self.recovered_late(&id, ended_at).await?,
            Status::Finalizing if all_whole && !salvaged => {
                self.complete(&id, ended_at, &recording.lost).await?;
            }
            _ if all_whole => self.recovered(&id, ended_at, &recording.lost).await?,
            _ => {
                let left = self.seen_to_play(left, inspect).await?;
                let error = interrupted_error(&left, !recording.parts.is_empty());
                self.fail(&id, ended_at, &recording.lost, &error).await?;
            }
        }
        self.get(&id).await
    }

    /// When a `.part` that could not be made whole was last written; `None` when nothing is in it. One that is empty only
    /// keeps its name from others: it is removed.
    async fn left_as_it_is(&self, writing: &Writing) -> Result<Option<DateTime<Utc>>, LibraryError> {
        match look_at(&writing.file).await {
            Some((1.., changed)) => return Ok(Some(changed)),
            Some((0, _)) if self.storage().reserved(&writing.file).is_some() => {
                if let Err(error) = tokio::fs::remove_file(&writing.file).await {
                    tracing::warn!(file = %writing.file.display(), %error, "is empty and cannot be removed");
                }
            }
            _ => {}
        }
        self.discard_part(&writing.recording, writing.number).await?;
        Ok(None)
    }

    /// Each of them with whether a player finds something in it.
    async fn seen_to_play(
        &self,
        files: Vec<PathBuf>,
        inspect: Inspect,
    ) -> Result<Vec<(PathBuf, bool)>, LibraryError> {
        let plays = move |file: PathBuf| {
            let plays = matches!(inspect(&file), Ok(Some(_)));
            (file, plays)
        };
        let look = move || files.into_iter().map(plays).collect();
        let failed = |e| io_error("cannot search", self.storage().folder())(io::Error::other(e));
        Ok(tokio::task::spawn_blocking(look).await.map_err(failed)?)
    }

    /// Ends once more, and well, a recording that had failed because a file could not be made whole.
    async fn recovered_late(&self, id: &RecordingId, ended_at: DateTime<Utc>) -> Result<(), LibraryError> {
        const WHAT: &str = "end a recording that had failed";
        let mut tx = self.write(WHAT).await?;
        sqlx::query(
            "UPDATE recording SET status = 'recovered', error = NULL, ended_at_ms = max(coalesce(ended_at_ms, 0), ?) \
             WHERE id = ? AND status = 'failed'",
        )
        .bind(ended_at.timestamp_millis())
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(sql(WHAT))?;
        outbox::put_event(&mut tx, id, News::Completed, WHAT).await?;
        tx.commit().await.map_err(sql(WHAT))
    }

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
        let (storage, writing) = (self.storage().clone(), writing.clone());
        let file = writing.file.clone();
        let salvage = move || {
            let Writing { ref file, number, started_at, .. } = writing;
            let unfinished = Unfinished { file, number, changed, started_at, recording: Some(&recording) };
            salvage(&storage, &unfinished, make_whole, |_| Identity::from(&recording))
        };
        let made = tokio::task::spawn_blocking(salvage).await.map_err(|e| e.to_string()).flatten();
        let made = made.unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "left as it is");
            None
        });
        Ok(made.map(|(_, part)| (part, changed)))
    }
}

/// While it lives, nothing that is still to be made whole is deleted.
struct Recovering(Library);

impl Recovering {
    fn begin(library: &Library) -> Self {
        library.inner.recovering.fetch_add(1, Ordering::SeqCst);
        Self(library.clone())
    }
}

impl Drop for Recovering {
    fn drop(&mut self) {
        self.0.inner.recovering.fetch_sub(1, Ordering::SeqCst);
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
    /// When its first frame came, where it was noted.
    started_at: Option<DateTime<Utc>>,
}

/// Finished files, and whether each was made whole after a daemon had died: at a start that was cut short itself.
type WholeParts = HashMap<(RecordingId, u32), (Part, bool)>;
type WholePart = ((RecordingId, u32), (Part, bool));

/// Size in bytes and time of the last change; `None` for what cannot be looked at.
async fn look_at(file: &Path) -> Option<(u64, DateTime<Utc>)> {
    let found = tokio::fs::metadata(file).await.ok()?;
    Some((found.len(), found.modified().ok()?.into()))
}

/// `left`: the files that could not be made whole, and whether they play.
fn interrupted_error(left: &[(PathBuf, bool)], has_parts: bool) -> String {
    let names = |wanted: bool| {
        let names = left.iter().filter(|(_, plays)| *plays == wanted).map(|(file, _)| file.display());
        names.map(|name| name.to_string()).collect::<Vec<_>>().join(" and ")
    };
    let plays =
        |files| format!("what was written is in {files} and plays; rename it, without .part, to keep it");
    let broken = |files| format!("nothing that plays was found in {files}, which was left as it is");
    let rest = match (names(true), names(false)) {
        (good, bad) if good.is_empty() && bad.is_empty() => match has_parts {
            true => "its finished files are whole".into(),
            false => "of the part being written nothing is left".into(),
        },
        (good, bad) if good.is_empty() => broken(bad),
        (good, bad) if bad.is_empty() => plays(good),
        (good, bad) => format!("{}; {}", plays(good), broken(bad)),
    };
    format!("the daemon ended before this recording was finished; {rest}")
}

/// The parts of `writing` that have a manifest, one of those of `names`, and a whole file, under its final name from
/// here on. Blocks.
fn find_whole(storage: &Storage, names: &[String], writing: &[Writing]) -> Result<WholeParts, StorageError> {
    let mut whole = WholeParts::new();
    for name in names {
        if whole.len() == writing.len() {
            break;
        }
        let file = storage.folder().join(name);
        let found = whole_part(&file, writing).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "left out of what is recovered");
            None
        });
        whole.extend(found);
    }
    if !whole.is_empty() {
        storage.sync_folder()?;
    }
    Ok(whole)
}

fn whole_part(file: &Path, writing: &[Writing]) -> Result<Option<WholePart>, StorageError> {
    let Manifest { recording, recovered, mut part, .. } = Manifest::read(&Manifest::path_of(file))?;
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
    Ok(Some(((id, part.number), (part, recovered))))
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
        // Its `.part` is that of somebody else, who took the name after it.
        (Some(_), Some(new)) => Ok(is_whole(&new)),
        (Some(_), None) | (None, None) => Ok(false),
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
