//! The records folder: how a file gets its name and becomes whole. All functions block: call them off the
//! async threads.
//!
//! Names in the folder: `NAME.EXT.part` a file being written, `NAME.EXT` a whole file, `NAME.EXT.json` its
//! manifest, `NAME.EXT.temp` a manifest being written; `.reeld-ID.lock` a lock, `.reeld-reserve` room that is kept.

use super::{
    manifest::{Manifest, ManifestError},
    room::Room,
};
use rustix::{fs::CWD, io::Errno};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// The highest number a name is tried with: the plain name is 1, then come `_2`, `_3` and so on.
pub const MAX_NAME_TRIES: u32 = 1_000_000;
/// How often one file loses its name to somebody else before it gives up.
const MAX_RACES: u32 = 100;
const HASH_BLOCK_BYTES: usize = 1 << 20;
/// What the name of a file begins with that is there for a moment only; a UUID follows, and `.temp` where it has content.
const TRIAL: &str = ".reeld-";

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(
        "the records folder {path} cannot be used: {source}; create it and make it writable for the user reeld runs as, \
         or set [paths] records to another folder"
    )]
    Folder { path: PathBuf, source: io::Error },
    #[error("the records folder {path} has a name that is not UTF-8; set [paths] records to another folder")]
    FolderName { path: PathBuf },
    #[error("{name:?} is not a file name")]
    BadName { name: String },
    #[error("no free name like {name:?} was found in {folder}; use a template that makes names differ")]
    AllTaken { name: String, folder: PathBuf },
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

pub(super) fn io_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StorageError + 'a {
    move |source| StorageError::Io { what, path: path.into(), source }
}

/// The folder that holds the recordings. A cheap clone.
#[derive(Clone, Debug)]
pub struct Storage {
    folder: Arc<Path>,
    pub(super) room: Arc<Room>,
}

/// A name that is reserved: `NAME.EXT.part` exists, empty or being written.
#[derive(Debug, PartialEq, Eq)]
pub struct PartFile {
    path: PathBuf,
    name: String,
    ext: String,
    try_number: u32,
}

impl PartFile {
    /// Absolute path of the `.part`: where to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `NAME`.
    pub(super) fn stem(&self) -> &str {
        self.name.strip_suffix(&self.ext).and_then(|stem| stem.strip_suffix('.')).unwrap_or(&self.name)
    }

    /// `NAME.EXT`, the name the file gets unless `finish` is given others.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A whole file under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedFile {
    /// Absolute path.
    pub file: PathBuf,
    /// File name without its folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex of the whole file.
    pub sha256: String,
}

impl Storage {
    /// Uses `records`, which is created when it is missing and must be writable.
    pub fn open(records: &Path) -> Result<Self, StorageError> {
        let error = |source| StorageError::Folder { path: records.into(), source };
        let folder = std::path::absolute(records).map_err(error)?;
        if folder.to_str().is_none() {
            return Err(StorageError::FolderName { path: folder });
        }
        fs::create_dir_all(&folder).map_err(error)?;
        let probe = folder.join(format!("{TRIAL}{}", Uuid::new_v4()));
        OpenOptions::new().write(true).create_new(true).open(&probe).map_err(error)?;
        match fs::remove_file(&probe) {
            // Somebody who starts at the same moment has taken it for one that was left behind.
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error(e)),
            _ => Ok(Self { folder: folder.into(), room: Arc::default() }),
        }
    }

    /// Absolute path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A hidden name that nobody else has, for a file that gets another one or goes away again.
    pub(super) fn trial(&self) -> PathBuf {
        self.folder.join(format!("{TRIAL}{}.temp", Uuid::new_v4()))
    }

    /// Removes those of `names` that a daemon was not able to: it died, or a power cut brought them back.
    pub(super) fn remove_trials(&self, names: &[String]) {
        for name in names.iter().filter(|name| is_trial(name)) {
            let file = self.folder.join(name);
            if let Err(error) = fs::remove_file(&file) {
                tracing::warn!(file = %file.display(), %error, "was left behind by a start and cannot be removed");
            }
        }
    }

    /// Reserves a free name by creating `NAME.EXT.part`, empty. Whoever writes it syncs the folder: until then a power
    /// cut takes the name back.
    ///
    /// `names(n)` is the whole file name without extension for try `n`, counting from 1 (the plain name). It
    /// leaves room for the extension and 5 bytes more within the file system's limit. A name is taken when
    /// `NAME.EXT`, `NAME.EXT.part` or `NAME.EXT.json` exists. A name with a `/` in it is refused: no file
    /// leaves the folder. With `n` names taken it looks at about `2 log2(n)` of them.
    pub fn reserve(&self, names: impl Fn(u32) -> String, ext: &str) -> Result<PartFile, StorageError> {
        let is_taken = |n| self.is_taken(&file_name(&names(n), ext)?, None);
        let mut taken = 0;
        for _ in 0..MAX_RACES {
            let Some(try_number) = free_number(taken, is_taken)? else { break };
            let name = file_name(&names(try_number), ext)?;
            let path = self.beside(&name, ".part");
            if self.create(&name, &path)? {
                return Ok(PartFile { path, name, ext: ext.into(), try_number });
            }
            taken = try_number;
        }
        Err(self.all_taken(names(1)))
    }

    /// Creates the `.part` of `name`; false, with nothing changed, when the name is taken.
    fn create(&self, name: &str, path: &Path) -> Result<bool, StorageError> {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(io_error("cannot create", path)(e)),
        }
        // Looked at after the `.part` is ours, so that nobody who asks first can take the name in between.
        let taken = exists(&self.folder.join(name))? || exists(&self.beside(name, ".json"))?;
        if taken {
            fs::remove_file(path).map_err(io_error("cannot remove", path))?;
        }
        Ok(!taken)
    }

    /// The reservation that an earlier run made of `part`; `None` for what is not a `NAME.EXT.part` of this folder.
    pub(super) fn reserved(&self, part: &Path) -> Option<PartFile> {
        let name = part.file_name()?.to_str()?.strip_suffix(".part")?;
        let ext = Path::new(name).extension()?.to_str()?;
        let here = part.parent() == Some(self.folder());
        here.then(|| PartFile { path: part.into(), name: name.into(), ext: ext.into(), try_number: 1 })
    }

    /// Makes a `.part` whose last byte is written the finished file, with its manifest, durably. In this order:
    ///
    /// 1. fsync the `.part`: its data is on the disk.
    /// 2. Size and SHA-256 of what is in it.
    /// 3. Choose a name: the reserved one while `names` still gives it for the same try, else `names(1)`,
    ///    `names(2)` and so on, leaving out names that are taken.
    /// 4. Write the manifest for that name as `.temp` and fsync it.
    /// 5. Rename it to `NAME.EXT.json`, never over another file: from here on the name is ours.
    /// 6. Rename the `.part` to `NAME.EXT`, never over another file.
    /// 7. fsync the folder.
    ///
    /// Where 5 or 6 finds the name taken after all, it goes on with the next name. `names` is as in
    /// [`reserve`](Self::reserve); `manifest` is called once for each name that is tried.
    ///
    /// After an error the `.part` is still there, whole, under its old name (after an error in step 7 the file
    /// has its final name). After a power cut there is one of: the `.part` alone (before 5); the `.part`
    /// and a manifest with its size and SHA-256 (before 6); both under their final names. A file under its
    /// final name always has its manifest.
    pub fn finish(
        &self,
        part: PartFile,
        names: impl Fn(u32) -> String,
        manifest: impl Fn(&FinishedFile) -> Manifest,
    ) -> Result<FinishedFile, StorageError> {
        let file = File::open(&part.path).map_err(io_error("cannot open", &part.path))?;
        file.sync_all().map_err(io_error("cannot sync", &part.path))?;
        let (size, sha256) = measure(file).map_err(io_error("cannot read", &part.path))?;

        let is_taken = |n| self.is_taken(&file_name(&names(n), &part.ext)?, Some(&part));
        let still_ours =
            file_name(&names(part.try_number), &part.ext)? == part.name && !is_taken(part.try_number)?;
        let mut reserved = still_ours.then_some(part.try_number);
        let mut taken = 0;
        for _ in 0..MAX_RACES {
            let try_number = match reserved.take() {
                Some(ours) => ours,
                None => {
                    let Some(free) = free_number(taken, is_taken)? else { break };
                    taken = free;
                    free
                }
            };
            let name = file_name(&names(try_number), &part.ext)?;
            let path = self.folder.join(&name);
            let finished = FinishedFile { file: path, name, size, sha256: sha256.clone() };
            if self.place(&part, &finished, &manifest(&finished))? {
                self.sync_folder()?;
                return Ok(finished);
            }
        }
        Err(self.all_taken(names(1)))
    }

    /// Removes the `.part` of a recording that never got a frame.
    pub fn discard(&self, part: PartFile) -> Result<(), StorageError> {
        fs::remove_file(&part.path).map_err(io_error("cannot remove", &part.path))
    }

    /// Steps 4 to 6 for one name; false when the name was taken meanwhile.
    fn place(
        &self,
        part: &PartFile,
        finished: &FinishedFile,
        manifest: &Manifest,
    ) -> Result<bool, StorageError> {
        let temp = self.beside(&part.name, ".temp");
        let manifest_path = Manifest::path_of(&finished.file);
        let placed = manifest.write(&temp).map_err(StorageError::from).and_then(|()| {
            rename_new(&temp, &manifest_path).map_err(io_error("cannot create", &manifest_path))
        });
        if !matches!(placed, Ok(true)) {
            let _ = fs::remove_file(&temp);
            return placed;
        }
        let placed =
            rename_new(&part.path, &finished.file).map_err(io_error("cannot create", &finished.file));
        if !matches!(placed, Ok(true)) {
            let _ = fs::remove_file(&manifest_path);
        }
        placed
    }

    /// Whether there is a trace of `name` that is not the reservation of `ours`.
    fn is_taken(&self, name: &str, ours: Option<&PartFile>) -> Result<bool, StorageError> {
        let reserved = ours.is_none_or(|p| p.name != name) && exists(&self.beside(name, ".part"))?;
        Ok(reserved || exists(&self.folder.join(name))? || exists(&self.beside(name, ".json"))?)
    }

    fn beside(&self, name: &str, suffix: &str) -> PathBuf {
        self.folder.join(format!("{name}{suffix}"))
    }

    pub(super) fn sync_folder(&self) -> Result<(), StorageError> {
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("cannot sync", &self.folder))
    }

    fn all_taken(&self, name: String) -> StorageError {
        StorageError::AllTaken { name, folder: self.folder.to_path_buf() }
    }
}

fn is_trial(name: &str) -> bool {
    let id = name.strip_prefix(TRIAL).map(|rest| rest.strip_suffix(".temp").unwrap_or(rest));
    id.is_some_and(|id| Uuid::try_parse(id).is_ok())
}

fn file_name(stem: &str, ext: &str) -> Result<String, StorageError> {
    let name = format!("{stem}.{ext}");
    if stem.is_empty() || name.contains(['/', '\0']) {
        return Err(StorageError::BadName { name });
    }
    Ok(name)
}

/// True for anything of that name, a dangling link too.
fn exists(path: &Path) -> Result<bool, StorageError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error("cannot look at", path)(e)),
    }
}

/// A free number above `taken` and right behind one that is taken (or behind `taken`): not always the lowest.
///
/// Looks at the 1st, 2nd, 4th, 8th number and so on until one is free, then halves what lies between.
fn free_number(
    mut taken: u32,
    is_taken: impl Fn(u32) -> Result<bool, StorageError>,
) -> Result<Option<u32>, StorageError> {
    let mut step = 1;
    let mut free = taken + 1;
    while free <= MAX_NAME_TRIES && is_taken(free)? {
        if free == MAX_NAME_TRIES {
            return Ok(None);
        }
        taken = free;
        free = (free + step).min(MAX_NAME_TRIES);
        step *= 2;
    }
    if free > MAX_NAME_TRIES {
        return Ok(None);
    }
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if is_taken(middle)? {
            taken = middle;
        } else {
            free = middle;
        }
    }
    Ok(Some(free))
}

/// Renames; false, with nothing changed, when `to` exists.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // NFS and some FUSE file systems know no rename flags; a hard link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS) => link_new(from, to),
        Err(e) => Err(e.into()),
    }
}

fn link_new(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Size in bytes and SHA-256 in lower-case hex, from the file's position to its end.
pub fn measure(mut file: File) -> io::Result<(u64, String)> {
    let mut block = vec![0; HASH_BLOCK_BYTES];
    let mut hash = Sha256::new();
    let mut size = 0;
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok((size, hex::encode(hash.finalize()))),
            Ok(n) => {
                hash.update(&block[..n]);
                size += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{Identity, testing};

    fn storage() -> (tempfile::TempDir, Storage) {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(&dir.path().join("a/records")).unwrap();
        (dir, storage)
    }

    fn numbered(stem: &str) -> impl Fn(u32) -> String {
        move |n| if n == 1 { stem.to_owned() } else { format!("{stem}_{n}") }
    }

    fn manifest(file: &FinishedFile) -> Manifest {
        let mut part = testing::part(1);
        part.file = file.file.clone();
        part.name = file.name.clone();
        part.size = file.size;
        part.sha256 = file.sha256.clone();
        Manifest::new(Identity::from(&testing::recording(0)), part)
    }

    fn listing(storage: &Storage) -> Vec<String> {
        let entries = fs::read_dir(storage.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_becomes_whole_with_its_manifest() {
        let (_dir, storage) = storage();
        let part = storage.reserve(numbered("cam"), "mp4").unwrap();
        assert_eq!((part.name(), listing(&storage)), ("cam.mp4", vec!["cam.mp4.part".to_owned()]));
        fs::write(part.path(), "abc").unwrap();
        let done = storage.finish(part, numbered("cam"), manifest).unwrap();
        assert_eq!(done.file, storage.folder().join("cam.mp4"));
        assert_eq!(done.size, 3);
        assert_eq!(done.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Manifest::read(&Manifest::path_of(&done.file)).unwrap().part.sha256, done.sha256);
        assert_eq!(listing(&storage), ["cam.mp4", "cam.mp4.json"]);
    }

    #[test]
    fn each_trace_of_a_name_makes_it_taken() {
        for trace in ["cam.mp4", "cam.mp4.part", "cam.mp4.json"] {
            let (_dir, storage) = storage();
            fs::write(storage.folder().join(trace), "theirs").unwrap();
            let part = storage.reserve(numbered("cam"), "mp4").unwrap();
            assert_eq!(part.name(), "cam_2.mp4", "{trace}");
            assert_eq!(storage.reserve(numbered("cam"), "mp4").unwrap().name(), "cam_3.mp4");
            assert_eq!(fs::read(storage.folder().join(trace)).unwrap(), b"theirs");
            // The plain name stays theirs at the end too, and ours is the one that was reserved.
            assert_eq!(storage.finish(part, numbered("cam"), manifest).unwrap().name, "cam_2.mp4");
        }
    }

    #[test]
    fn a_name_chosen_at_the_end_never_overwrites() {
        let (_dir, storage) = storage();
        let folder = storage.folder().to_path_buf();
        fs::write(folder.join("end.mp4"), "a file").unwrap();
        fs::write(folder.join("end_2.mp4.json"), "a manifest").unwrap();
        storage.reserve(numbered("end_3"), "mp4").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.join("end_4.mp4")).unwrap();
        let part = storage.reserve(numbered("temporary"), "mp4").unwrap();
        let done = storage.finish(part, numbered("end"), manifest).unwrap();
        assert_eq!(done.name, "end_5.mp4");
        assert_eq!(fs::read(folder.join("end.mp4")).unwrap(), b"a file");
        assert_eq!(fs::read(folder.join("end_2.mp4.json")).unwrap(), b"a manifest");
        assert!(folder.join("end_3.mp4.part").exists());
        assert!(!listing(&storage).iter().any(|n| n.ends_with(".temp") || n.starts_with("temporary")));
    }

    #[test]
    fn a_name_taken_between_the_check_and_the_rename_is_left_alone() {
        let (_dir, storage) = storage();
        let folder = storage.folder().to_path_buf();
        let part = storage.reserve(numbered("cam"), "mp4").unwrap();
        let done = storage
            .finish(part, numbered("cam"), |file| {
                if file.name == "cam.mp4" {
                    fs::write(folder.join("cam.mp4"), "theirs").unwrap();
                }
                if file.name == "cam_2.mp4" {
                    fs::write(folder.join("cam_2.mp4.json"), "theirs").unwrap();
                }
                manifest(file)
            })
            .unwrap();
        assert_eq!(done.name, "cam_3.mp4");
        assert_eq!(listing(&storage), ["cam.mp4", "cam_2.mp4.json", "cam_3.mp4", "cam_3.mp4.json"]);
        assert_eq!(fs::read(folder.join("cam.mp4")).unwrap(), b"theirs");
    }

    #[test]
    fn threads_that_want_one_name_each_get_their_own() {
        let (_dir, storage) = storage();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let storage = &storage;
                scope.spawn(move || {
                    let part = storage.reserve(numbered(&format!("t{n}")), "mp4").unwrap();
                    fs::write(part.path(), n.to_string()).unwrap();
                    storage.finish(part, numbered("same"), manifest).unwrap();
                });
            }
        });
        assert_eq!(listing(&storage).len(), 16);
        let mut contents: Vec<_> = listing(&storage)
            .into_iter()
            .filter(|n| n.ends_with(".mp4"))
            .map(|n| fs::read_to_string(storage.folder().join(n)).unwrap())
            .collect();
        contents.sort();
        assert_eq!(contents, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    }

    #[test]
    fn after_an_error_the_part_is_still_there() {
        let (_dir, storage) = storage();
        let part = storage.reserve(numbered("cam"), "mp4").unwrap();
        let too_long = |_| "x".repeat(250);
        assert!(matches!(storage.finish(part, too_long, manifest), Err(StorageError::Io { .. })));
        assert_eq!(listing(&storage), ["cam.mp4.part"]);
    }

    #[test]
    fn names_that_are_not_file_names_are_refused() {
        let (_dir, storage) = storage();
        for stem in ["", "../x", "a/b", "a\0b"] {
            let got = storage.reserve(|_| stem.to_owned(), "mp4");
            assert!(matches!(got, Err(StorageError::BadName { .. })), "{stem:?}");
        }
        assert_eq!(storage.reserve(|_| "..".to_owned(), "mp4").unwrap().name(), "...mp4");
    }

    #[test]
    fn the_nth_file_of_one_name_costs_little() {
        let (_dir, storage) = storage();
        let folder = storage.folder().to_path_buf();
        let calls = std::cell::Cell::new(0);
        let counted = |n| {
            calls.set(calls.get() + 1);
            numbered("cam")(n)
        };
        // With a hole, as a deleted recording leaves it.
        for n in (1..=5000).filter(|n| *n != 3777) {
            let traces = [".mp4", ".mp4.part", ".mp4.json"];
            let name = format!("{}{}", numbered("cam")(n), traces[n as usize % 3]);
            fs::write(folder.join(name), n.to_string()).unwrap();
        }
        let before = listing(&storage).len();
        for _ in 0..50 {
            calls.set(0);
            storage.reserve(counted, "mp4").unwrap();
            assert!(calls.get() <= 30, "{} names", calls.get());
        }
        let other = storage.reserve(numbered("other"), "mp4").unwrap();
        calls.set(0);
        storage.finish(other, counted, manifest).unwrap();
        assert!(calls.get() <= 30, "{} names", calls.get());
        assert_eq!(listing(&storage).len(), before + 52);
    }

    #[test]
    fn a_free_number_is_found() {
        // First free number, and where the search begins.
        let cases = [
            (1, 0),
            (2, 0),
            (5, 4),
            (8, 0),
            (10_001, 0),
            (10_001, 9_990),
            (1_000_000, 0),
            (1_000_000, 999_999),
        ];
        for (free, from) in cases {
            let looked = std::cell::Cell::new(0);
            let found = free_number(from, |n| {
                looked.set(looked.get() + 1);
                assert!(n > from && n <= MAX_NAME_TRIES);
                Ok(n < free)
            });
            assert_eq!(found.unwrap(), Some(free));
            assert!(looked.get() <= 42, "{} for {free}", looked.get());
        }
        for from in [0, 1, 999_999, 1_000_000] {
            assert_eq!(free_number(from, |_| Ok(true)).unwrap(), None);
        }
    }

    #[test]
    fn the_tries_are_bounded() {
        let (_dir, storage) = storage();
        let part = storage.reserve(|_| "cam".to_owned(), "mp4").unwrap();
        assert!(matches!(storage.reserve(|_| "cam".to_owned(), "mp4"), Err(StorageError::AllTaken { .. })));
        storage.discard(part).unwrap();
        assert!(listing(&storage).is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Storage::open(&dir.path().join("file/records")).unwrap_err().to_string();
        assert!(error.contains("file/records") && error.contains("[paths] records"), "{error}");
    }

    #[test]
    fn a_link_never_replaces() {
        let (_dir, storage) = storage();
        let [from, to] = ["from", "to"].map(|n| storage.folder().join(n));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        assert!(!link_new(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        assert!(link_new(&from, &to).unwrap());
        assert_eq!(listing(&storage), ["to"]);
    }
}
