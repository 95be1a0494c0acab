//! Files that neither the catalog nor a manifest knows, taken in as recordings of their own.
//!
//! Nothing is changed that another process writes: neither what it has open nor what changes while we look.

use super::{
    FinishedFile, HandOn, Identity, Inspect, Library, LibraryError, MakeWhole, Manifest, RecordingId,
    Storage,
    enter::{Entered, Found, MAX_TOLD, finish_renames},
    salvage::{Salvaged, Unfinished, describe, salvage, start_of},
    storage::{io_error, measure, rename_new},
    strays::Strays,
};
use crate::media::{MediaSessionId, Protocol};
use chrono::{DateTime, Utc};
use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A file that was changed so shortly before is looked at twice, `SECOND_LOOK` apart.
const SETTLED: Duration = Duration::from_secs(10);
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The room of a stream that named none.
const ROOM: &str = "live";

impl Library {
    /// Enters all of them that can be. Logs what became of them.
    pub(super) async fn take_in(
        &self,
        strays: Strays,
        hand_on: &HandOn,
        make_whole: MakeWhole,
        inspect: Inspect,
    ) -> Result<(), LibraryError> {
        let Strays { whole, gone, foreign, parts } = strays;
        let rebuilt = self.is_rebuilt().await?;
        if rebuilt && !whole.is_empty() {
            tracing::warn!(
                files = whole.len(),
                "the catalog is new: entering the files from their manifests"
            );
        }
        // Those that an earlier catalog had are handed on as far as anybody knows, but for what it still owed.
        let mut entered = self.enter_whole(&whole, rebuilt, hand_on).await?;
        if rebuilt && *hand_on != HandOn::default() && entered.parts > entered.handed_on {
            let files = entered.parts - entered.handed_on;
            tracing::warn!(files, "are not handed on again: files entered into a new catalog");
        }
        let (renamed, parts) = self
            .beside(move |storage| {
                let mut parts = parts;
                (finish_renames(storage, &gone, &mut parts), parts)
            })
            .await?;
        entered.add(self.enter(renamed, hand_on).await?);
        entered.add(
            self.adopt(parts, hand_on, move |storage, name| adopt_part(storage, name, make_whole)).await?,
        );
        entered.add(
            self.adopt(foreign, hand_on, move |storage, name| adopt_file(storage, name, inspect)).await?,
        );
        tell(&entered);
        if rebuilt {
            self.rebuilt().await?;
        }
        Ok(())
    }

    /// Adopts one after the other; `adopt` blocks.
    async fn adopt(
        &self,
        names: Vec<String>,
        hand_on: &HandOn,
        adopt: impl Fn(&Storage, &str) -> Result<Option<Found>, String> + Copy + Send + 'static,
    ) -> Result<Entered, LibraryError> {
        let mut entered = Entered::default();
        for name in self.settled(names).await? {
            let file = name.clone();
            let adopted = match self.beside(move |storage| adopt(storage, &file)).await {
                Ok(adopted) => adopted,
                // A fault of ours in one file keeps no other back.
                Err(error) => Err(error.to_string()),
            };
            match adopted {
                Ok(Some(found)) => {
                    tracing::warn!(file = name, recording = %found.identity.id, "nobody knew it: adopted");
                    entered.add(self.enter(vec![found], hand_on).await?);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(file = name, error, "nobody knows it; left as it is"),
            }
        }
        Ok(entered)
    }

    /// Those that nobody writes to.
    async fn settled(&self, names: Vec<String>) -> Result<Vec<String>, LibraryError> {
        if names.is_empty() {
            return Ok(names);
        }
        let looked = self.beside(move |storage| look_at_all(storage, names)).await?;
        if looked.iter().any(|(_, look)| look.is_fresh()) {
            tokio::time::sleep(SECOND_LOOK).await;
        }
        self.beside(move |storage| {
            let written = files_open_for_writing();
            let folder = fs::canonicalize(storage.folder()).unwrap_or_else(|_| storage.folder().into());
            let mut settled = Vec::with_capacity(looked.len());
            for (name, first) in looked {
                let again = Look::at(&storage.folder().join(&name));
                if again.as_ref() == Some(&first) && !written.contains(&folder.join(&name)) {
                    settled.push(name);
                } else {
                    tracing::info!(file = name, "nobody knows it, and it is being written; left as it is");
                }
            }
            settled
        })
        .await
    }

    /// Runs `work` on a blocking thread.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Storage) -> T + Send + 'static,
    ) -> Result<T, LibraryError> {
        let storage = self.storage().clone();
        let done = tokio::task::spawn_blocking(move || work(&storage)).await;
        Ok(done.map_err(|e| io_error("cannot search", self.storage().folder())(io::Error::other(e)))?)
    }
}

fn tell(entered: &Entered) {
    for file in entered.left.iter().take(MAX_TOLD) {
        tracing::warn!(file = %file.display(), "is not entered: its manifest is that of another file, or its recording has not ended");
    }
    let Entered { parts, handed_on, moved, left } = entered;
    if parts + moved + left.len() > 0 {
        tracing::warn!(
            files = parts,
            handed_on,
            moved,
            left = left.len(),
            "the catalog did not know these files"
        );
    }
}

/// What a file is known by while it is not being written.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Look {
    inode: (u64, u64),
    size: u64,
    changed: SystemTime,
}

impl Look {
    /// `None` for what is no plain file, or gone.
    fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().and_then(|found| Self::of(&found))
    }

    fn of(found: &Metadata) -> Option<Self> {
        let inode = (found.dev(), found.ino());
        found.is_file().then_some(())?;
        Some(Self { inode, size: found.len(), changed: found.modified().ok()? })
    }

    /// A time in the future is one too.
    fn is_fresh(&self) -> bool {
        self.changed.elapsed().map_or(true, |age| age < SETTLED)
    }

    fn changed(&self) -> DateTime<Utc> {
        self.changed.into()
    }
}

fn look_at_all(storage: &Storage, names: Vec<String>) -> Vec<(String, Look)> {
    let look = |name: String| Look::at(&storage.folder().join(&name)).map(|look| (name, look));
    names.into_iter().filter_map(look).collect()
}

/// Files that a process has open for writing, of those processes that we may look into (proc_pid_fdinfo(5)). Reads the
/// names only: a file of a disk that stands still would be waited for. Blocks.
fn files_open_for_writing() -> HashSet<PathBuf> {
    let descriptors = |process: PathBuf| fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_process = |p: &PathBuf| p.file_name().is_some_and(|n| n.as_encoded_bytes()[0].is_ascii_digit());
    let mut written = HashSet::new();
    for descriptor in processes.filter(is_process).flat_map(descriptors) {
        let path = descriptor.path();
        let Ok(file) = fs::read_link(&path) else { continue };
        if file.extension().is_some() && is_for_writing(&path) {
            written.insert(file);
        }
    }
    written
}

/// Of a `/proc/PID/fd/N`.
fn is_for_writing(descriptor: &Path) -> bool {
    let (Some(number), Some(process)) = (descriptor.file_name(), descriptor.parent().and_then(Path::parent))
    else {
        return false;
    };
    let info = fs::read_to_string(process.join("fdinfo").join(number)).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0);
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

fn stranger(stem: &str, extension: &str, started_at: DateTime<Utc>) -> Identity {
    Identity {
        id: RecordingId::random(),
        room_name: ROOM.into(),
        room_id: ROOM.into(),
        stream_name: stem.into(),
        media_session_id: MediaSessionId::unknown(),
        session_id: String::new(),
        protocol: Protocol::File,
        container: extension.into(),
        started_at,
    }
}

/// `NAME` and `EXT` of `NAME.EXT`.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// Finishes a `.part` that no row knows. One that is empty only keeps its name from others: it is removed. Blocks.
fn adopt_part(storage: &Storage, name: &str, make_whole: MakeWhole) -> Result<Option<Found>, String> {
    let file = storage.folder().join(name);
    let Some(look) = Look::at(&file) else { return Ok(None) };
    if look.size == 0 {
        fs::remove_file(&file).map_err(|e| e.to_string())?;
        tracing::info!(file = name, "nothing was written to it; removed");
        return Ok(None);
    }
    let (stem, extension) = split(name.strip_suffix(".part").unwrap_or(name));
    let unfinished =
        Unfinished { file: &file, number: 1, changed: look.changed(), started_at: None, recording: None };
    let identity = |started_at| stranger(stem, extension, started_at);
    let Some((identity, part)) = salvage(storage, &unfinished, make_whole, identity)? else {
        return Err("it is not known how to finish it, or nothing in it can be played".into());
    };
    Ok(Some(Found { identity, part, health: Vec::new(), recovered: true, hand_on: true }))
}

/// Writes a manifest for a file that has none. Nobody waits for a file that reeld has not recorded: it is not handed on. Blocks.
fn adopt_file(storage: &Storage, name: &str, inspect: Inspect) -> Result<Option<Found>, String> {
    let path = storage.folder().join(name);
    let Some(look) = Look::at(&path) else { return Ok(None) };
    let Some(salvaged) = inspect(&path)? else { return Err("nothing in it can be played".into()) };
    let file =
        File::open(&path).and_then(|file| file.sync_all().map(|()| file)).map_err(|e| e.to_string())?;
    let (size, sha256) = measure(file).map_err(|e| e.to_string())?;
    if Look::at(&path) != Some(look) {
        return Err("it is being written".into());
    }
    let file = FinishedFile { file: path, name: name.into(), size, sha256 };
    let found = found_file(&file, &look, &salvaged);
    let placed = place_manifest(storage, &found).map_err(|e| e.to_string())?;
    if !placed {
        return Err("somebody has written a manifest for it meanwhile".into());
    }
    storage.sync_folder().map_err(|e| e.to_string())?;
    Ok(Some(found))
}

fn found_file(file: &FinishedFile, look: &Look, salvaged: &Salvaged) -> Found {
    let started_at = start_of(look.changed(), salvaged);
    let (stem, extension) = split(&file.name);
    let identity = stranger(stem, extension, started_at);
    let part = describe(file, 1, started_at, salvaged);
    Found { identity, part, health: Vec::new(), recovered: true, hand_on: false }
}

/// Never over another; false when there is one.
fn place_manifest(storage: &Storage, found: &Found) -> io::Result<bool> {
    let temp = storage.trial();
    let manifest = Manifest::recovered(found.identity.clone(), found.part.clone());
    let placed = manifest
        .write(&temp)
        .map_err(io::Error::other)
        .and_then(|()| rename_new(&temp, &Manifest::path_of(&found.part.file)));
    if !matches!(placed, Ok(true)) {
        let _ = fs::remove_file(&temp);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_open_for_writing_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(dir.path()).unwrap();
        let [read, written] = ["read.mp4", "written.mp4"].map(|n| folder.join(n));
        let _writer = File::create(&written).unwrap();
        fs::write(&read, "x").unwrap();
        let _reader = File::open(&read).unwrap();
        let open = files_open_for_writing();
        assert!(open.contains(&written) && !open.contains(&read));
    }
}
