//! Tells when configuration files change, however they are changed: written in place, replaced by a rename
//! (editors), or switched by a symlink (Kubernetes' `..data`).
//!
//! inotify says that something happened in a folder; whether it concerns the watched files is decided by
//! looking at them again once the folder is quiet.

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A change is reported when nothing has happened for this long,
const QUIET: Duration = Duration::from_millis(300);
/// or after this long when something always happens.
const LONGEST: Duration = Duration::from_secs(3);
/// As many symlinks as the kernel follows.
const MAX_LINKS: usize = 40;
/// Files looked at in a watched folder.
const MAX_ENTRIES: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot make {path} absolute: {source}")]
    Path { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot watch {folder} for changes: {source}; is fs.inotify.max_user_watches or max_user_instances used up?"
    )]
    Folder { folder: PathBuf, source: notify::Error },
    #[error("cannot watch files for changes: {0}")]
    Start(notify::Error),
    #[error("cannot start the thread that watches files: {0}")]
    Thread(std::io::Error),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

/// Watches `files`, which need not exist yet. One that is a folder stands for the `*.toml` files in it.
///
/// Every change puts a `()` into `on_change` about 300 ms after the last write; changes that the receiver
/// has not taken yet are one. Call it before loading the files, so that no change falls in between.
pub fn watch(files: Vec<PathBuf>, on_change: mpsc::Sender<()>) -> Result<Watcher, WatchError> {
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|source| WatchError::Path { path, source });
    let files = files.into_iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
    let (wake, woken) = sync_channel(1);
    let signals = Arc::new(Signals { wake, moved: AtomicBool::new(false), stop: AtomicBool::new(false) });
    let folders = Survey::take(&files).folders;
    let armed = arm(&folders, &signals)?;
    // What changed before the folders were armed is not seen: look again.
    let seen = Survey::take(&files);
    let looker = Looker { files, seen, folders, armed, signals: signals.clone(), on_change };
    signals.wake();
    let thread = std::thread::Builder::new().name("config-watch".into());
    let thread = thread.spawn(move || looker.run(&woken)).map_err(WatchError::Thread)?;
    Ok(Watcher { signals, thread: Some(thread) })
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.signals.stop.store(true, Ordering::Release);
        self.signals.wake();
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, and then there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// From notify's thread and from [`Watcher`] to the looking thread.
#[derive(Debug)]
struct Signals {
    wake: SyncSender<()>,
    /// Something was created, removed or renamed: a watched folder may be another one now.
    moved: AtomicBool,
    stop: AtomicBool,
}

impl Signals {
    fn wake(&self) {
        // Full means a wake-up is under way already.
        let _ = self.wake.try_send(());
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn event(&self, event: notify::Result<notify::Event>) {
        match event.map(|e| e.kind) {
            // Reading the files, which looking at them does, is no news.
            Ok(EventKind::Access(kind)) if kind != AccessKind::Close(AccessMode::Write) => return,
            Ok(EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))) => {}
            _ => self.moved.store(true, Ordering::Release),
        }
        self.wake();
    }
}

fn arm(folders: &BTreeSet<PathBuf>, signals: &Arc<Signals>) -> Result<RecommendedWatcher, WatchError> {
    let signals = signals.clone();
    let mut armed =
        notify::recommended_watcher(move |event| signals.event(event)).map_err(WatchError::Start)?;
    for folder in folders {
        match armed.watch(folder, RecursiveMode::NonRecursive) {
            // It vanished since it was seen; the next look finds what there is instead.
            Err(e) if vanished(&e) => {}
            Err(source) => return Err(WatchError::Folder { folder: folder.clone(), source }),
            Ok(()) => {}
        }
    }
    Ok(armed)
}

fn vanished(error: &notify::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(e) => matches!(e.kind(), NotFound | NotADirectory),
        _ => false,
    }
}

/// The thread's state.
struct Looker {
    files: Vec<PathBuf>,
    /// What the receiver knows of.
    seen: Survey,
    /// The folders that are watched.
    folders: BTreeSet<PathBuf>,
    armed: RecommendedWatcher,
    signals: Arc<Signals>,
    on_change: mpsc::Sender<()>,
}

impl Looker {
    fn run(mut self, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            self.settle(woken);
            if self.signals.stopped() || self.on_change.is_closed() {
                return;
            }
            self.look();
        }
    }

    fn settle(&self, woken: &Receiver<()>) {
        let begun = Instant::now();
        while begun.elapsed() < LONGEST && !self.signals.stopped() && woken.recv_timeout(QUIET).is_ok() {}
    }

    fn look(&mut self) {
        let mut now = Survey::take(&self.files);
        if self.signals.moved.swap(false, Ordering::AcqRel) || now.folders != self.folders {
            // A new watcher rather than a patched one: a folder that was replaced keeps its path, and
            // often its inode number too.
            match arm(&now.folders, &self.signals) {
                Ok(armed) => {
                    self.armed = armed;
                    self.folders = std::mem::replace(&mut now, Survey::take(&self.files)).folders;
                }
                Err(e) => tracing::warn!("configuration changes may go unnoticed until a restart: {e}"),
            }
            // What happened while arming shows as other folders than the armed ones: come back.
            if now.folders != self.folders {
                self.signals.wake();
            }
        }
        if now.stamps != self.seen.stamps {
            // Full means the receiver has an unread signal, which covers this change too.
            let _ = self.on_change.try_send(());
        }
        self.seen = now;
    }
}

/// What tells one state of a file from another.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    real: PathBuf,
    inode: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    /// Also moves with the rights: a file may become readable.
    changed: (i64, i64),
}

/// The files at one moment, and the folders in which something must happen for them to change.
#[derive(Debug, PartialEq, Eq, Default)]
struct Survey {
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
    folders: BTreeSet<PathBuf>,
}

impl Survey {
    fn take(files: &[PathBuf]) -> Self {
        let mut survey = Self::default();
        for file in files {
            match survey.resolve(file).filter(|real| real.is_dir()) {
                Some(folder) => survey.folder(folder),
                None => survey.file(file.clone()),
            }
        }
        survey
    }

    fn folder(&mut self, folder: PathBuf) {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path());
        for file in entries.filter(|p| p.extension().is_some_and(|e| e == "toml")).take(MAX_ENTRIES) {
            self.file(file);
        }
        self.folders.insert(folder);
    }

    fn file(&mut self, file: PathBuf) {
        let stamp = self.resolve(&file).and_then(|real| {
            let meta = std::fs::metadata(&real).ok()?;
            Some(Stamp {
                real,
                inode: (meta.dev(), meta.ino()),
                bytes: meta.len(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            })
        });
        self.stamps.insert(file, stamp);
    }

    /// What `path` leads to, noting the folder of every symlink on the way and of the end;
    /// where the way breaks off, the last folder that is there.
    fn resolve(&mut self, path: &Path) -> Option<PathBuf> {
        let mut real = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            let Ok(target) = link_target(&next) else {
                self.folders.insert(real);
                return None;
            };
            let Some(target) = target else {
                real = next;
                continue;
            };
            self.folders.insert(real.clone());
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            let mut way = names(&target);
            way.append(&mut ahead);
            ahead = way;
        }
        self.folders.insert(real.parent().unwrap_or(&real).to_owned());
        Some(real)
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    use std::path::Component;
    let named = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    named.map(|c| c.as_os_str().to_owned()).collect()
}

/// Where the symlink `path` points; `None` when it is something else.
fn link_target(path: &Path) -> std::io::Result<Option<PathBuf>> {
    match std::fs::symlink_metadata(path)?.is_symlink() {
        true => std::fs::read_link(path).map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Watched {
        dir: tempfile::TempDir,
        changes: mpsc::Receiver<()>,
        _watcher: Watcher,
    }

    /// `prepare` fills a temporary folder; `files` in it are then watched.
    fn watched(files: &[&str], prepare: impl Fn(&Path)) -> Watched {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (sender, changes) = mpsc::channel(1);
        let files = files.iter().map(|f| dir.path().join(f)).collect();
        Watched { _watcher: watch(files, sender).unwrap(), dir, changes }
    }

    impl Watched {
        async fn sees(&mut self, change: impl Fn(&Path)) {
            change(self.dir.path());
            let got = tokio::time::timeout(DEADLINE, self.changes.recv()).await;
            assert_eq!(got.expect("the change is seen in time"), Some(()));
        }
    }

    #[tokio::test]
    async fn a_write_in_place_is_seen() {
        let mut w = watched(&["a"], |d| fs::write(d.join("a"), "1").unwrap());
        w.sees(|d| fs::write(d.join("a"), "2").unwrap()).await;
        w.sees(|d| fs::remove_file(d.join("a")).unwrap()).await;
        w.sees(|d| fs::write(d.join("a"), "3").unwrap()).await;
    }

    #[tokio::test]
    async fn an_editors_rename_is_seen_and_so_is_the_next_write() {
        let mut w = watched(&["a"], |d| fs::write(d.join("a"), "1").unwrap());
        let replace = |d: &Path| {
            fs::write(d.join("a.new"), "2").unwrap();
            fs::rename(d.join("a.new"), d.join("a")).unwrap();
        };
        w.sees(replace).await;
        w.sees(replace).await;
        w.sees(|d| fs::write(d.join("a"), "3").unwrap()).await;
    }

    /// A mounted ConfigMap: `a -> ..data/a`, `..data -> v1`, and an update renames a new `..data` over the old.
    #[tokio::test]
    async fn a_symlink_swap_is_seen() {
        let version = |d: &Path, v: &str| {
            fs::create_dir(d.join(v)).unwrap();
            fs::write(d.join(v).join("a"), "same").unwrap();
            symlink(v, d.join("..tmp")).unwrap();
            fs::rename(d.join("..tmp"), d.join("..data")).unwrap();
        };
        let mut w = watched(&["a"], |d| {
            version(d, "v1");
            symlink("..data/a", d.join("a")).unwrap();
        });
        w.sees(|d| version(d, "v2")).await;
        w.sees(|d| fs::write(d.join("v2/a"), "in place, behind two links").unwrap()).await;
    }

    #[tokio::test]
    async fn a_folder_stands_for_its_toml_files() {
        let mut w = watched(&["pipelines"], |d| fs::create_dir(d.join("pipelines")).unwrap());
        w.sees(|d| fs::write(d.join("pipelines/x.toml"), "").unwrap()).await;
        w.sees(|d| fs::write(d.join("pipelines/x.toml"), "1").unwrap()).await;
        w.sees(|d| fs::remove_file(d.join("pipelines/x.toml")).unwrap()).await;
    }

    #[tokio::test]
    async fn a_folder_that_comes_goes_and_comes_again_is_followed() {
        let mut w = watched(&["conf/deep/a"], |_| ());
        let make = |d: &Path| {
            fs::create_dir_all(d.join("conf/deep")).unwrap();
            fs::write(d.join("conf/deep/a"), "1").unwrap();
        };
        w.sees(make).await;
        w.sees(|d| fs::remove_dir_all(d.join("conf")).unwrap()).await;
        w.sees(make).await;
        w.sees(|d| {
            fs::remove_dir_all(d.join("conf")).unwrap();
            make(d);
        })
        .await;
        w.sees(|d| fs::write(d.join("conf/deep/a"), "2").unwrap()).await;
    }

    #[test]
    fn other_files_in_the_folder_are_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("a"), dir.path().to_owned()];
        fs::write(&files[0], "1").unwrap();
        let before = Survey::take(&files);
        fs::write(dir.path().join("b"), "1").unwrap();
        fs::read(&files[0]).unwrap();
        assert_eq!(Survey::take(&files), before);
    }

    #[test]
    fn links_that_lead_nowhere_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        symlink("a", at.join("a")).unwrap();
        symlink("../../../../../../../..", at.join("up")).unwrap();
        let survey = Survey::take(&[at.join("a"), at.join("up/none/x")]);
        assert!(survey.stamps.values().all(Option::is_none));
        assert_eq!(survey.folders, BTreeSet::from([PathBuf::from("/"), at]));
    }

    #[test]
    fn dropping_the_watcher_ends_its_thread() {
        let (sender, changes) = mpsc::channel(1);
        drop(watch(vec![std::env::temp_dir().join("none")], sender).unwrap());
        assert!(changes.is_closed());
    }
}
