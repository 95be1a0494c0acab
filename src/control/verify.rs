//! Whether what was recorded is still what was recorded: each file present, of the size and SHA-256 its manifest
//! tells, and decodable to its end. Only reads; works beside a running daemon and without one.

mod check;
mod fault;
mod leftovers;
mod running;

pub use fault::{Fault, Report};

use crate::{
    gst,
    library::{KnownPart, LibraryError, ReadOnlyCatalog},
};
use leftovers::is_media;
use std::{
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};
use tokio::runtime::Handle;

/// What is checked.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every part in the catalog, and what else lies in the records folder.
    Catalog { file: PathBuf, records: PathBuf, state: PathBuf },
    /// Every file in one folder, by its manifest.
    Folder(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Order {
    pub scope: Scope,
    /// Else only presence, size and SHA-256.
    pub decode: bool,
    /// Files that are checked at the same time.
    pub jobs: NonZeroUsize,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("there is no catalog {}; it is made when `reeld serve` starts. `reeld verify DIR` needs none", file.display())]
    NoCatalog { file: PathBuf },
    #[error("{0}; `reeld verify DIR` checks the files of a folder without the catalog")]
    Catalog(#[from] LibraryError),
    #[error("the folder {} cannot be read: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("{0}; --no-decode checks the files without GStreamer")]
    Gst(#[from] gstreamer::glib::BoolError),
}

/// How far a run is, for another thread to look at. Work is bytes read, a file that is decoded twice its size.
#[derive(Debug, Default)]
pub struct Progress {
    /// Set to end the run after what is being looked at.
    pub cancelled: AtomicBool,
    pub files: AtomicU64,
    pub work: AtomicU64,
    pub total_files: AtomicU64,
    pub total_work: AtomicU64,
}

impl Progress {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Recorded files that were checked.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, in the object store only: not looked at.
    pub remote: u64,
    /// Files with a fault; also those that nobody knows.
    pub faulty: u64,
    /// It was cancelled: the rest was not looked at.
    pub interrupted: bool,
}

/// Checks all of it and tells each file that was checked, and each other file with a fault, as it is found: on
/// the threads that check, several at a time. Blocks; needs a tokio runtime around it.
pub fn run(
    order: &Order,
    progress: &Progress,
    tell: &(dyn Fn(Report) + Sync),
) -> Result<Summary, VerifyError> {
    if order.decode {
        gst::init()?;
    }
    let books = Books::open(&order.scope)?;
    let (files, bytes) = books.totals()?;
    progress.total_files.store(files, Ordering::Relaxed);
    progress.total_work.store(bytes.saturating_mul(passes(order.decode)), Ordering::Relaxed);

    let run = Run { order, books: &books, progress, tell, summary: Mutex::default() };
    let (give, jobs) = sync_channel(2 * order.jobs.get());
    let jobs = Mutex::new(jobs);
    let failed = thread::scope(|scope| {
        for _ in 0..order.jobs.get() {
            scope.spawn(|| run.work(&jobs));
        }
        run.hand_out(&give).and_then(|known| {
            drop(give);
            leftovers::look(&run, &known)
        })
    });
    failed?;
    let mut summary = run.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.interrupted = progress.is_cancelled();
    Ok(summary)
}

fn passes(decode: bool) -> u64 {
    1 + u64::from(decode)
}

/// One file to check.
enum Job {
    Known(KnownPart),
    /// A file that has a manifest.
    Manifested(PathBuf),
}

/// Where it is written what there should be.
struct Books {
    folder: PathBuf,
    /// With the state folder of its daemon.
    catalog: Option<(ReadOnlyCatalog, PathBuf)>,
    runtime: Handle,
}

impl Books {
    fn open(scope: &Scope) -> Result<Self, VerifyError> {
        let runtime = Handle::current();
        match scope {
            Scope::Folder(folder) => Ok(Self { folder: absolute(folder)?, catalog: None, runtime }),
            Scope::Catalog { file, records, state } => {
                if !file.exists() {
                    return Err(VerifyError::NoCatalog { file: file.clone() });
                }
                let catalog = Some((ReadOnlyCatalog::open(file)?, state.clone()));
                Ok(Self { folder: absolute(records)?, catalog, runtime })
            }
        }
    }

    /// Files and their bytes.
    fn totals(&self) -> Result<(u64, u64), VerifyError> {
        if let Some((catalog, _)) = &self.catalog {
            return Ok(self.runtime.block_on(catalog.totals())?);
        }
        let mut totals = (0, 0);
        for file in self.manifested()? {
            totals.0 += 1;
            totals.1 += fs::metadata(file?).map_or(0, |found| found.len());
        }
        Ok(totals)
    }

    /// The files in the folder that have a manifest, whether they are there or not.
    fn manifested(&self) -> Result<impl Iterator<Item = Result<PathBuf, VerifyError>>, VerifyError> {
        let failed = |source| VerifyError::Folder { folder: self.folder.clone(), source };
        let entries = fs::read_dir(&self.folder).map_err(failed)?;
        Ok(entries.filter_map(move |entry| match entry {
            Ok(entry) => {
                let path = entry.path();
                let file = path.with_extension("");
                let is_manifest = path.extension().is_some_and(|e| e == "json") && is_media(&file);
                is_manifest.then_some(Ok(file))
            }
            Err(e) => Some(Err(failed(e))),
        }))
    }
}

fn absolute(folder: &Path) -> Result<PathBuf, VerifyError> {
    std::path::absolute(folder).map_err(|source| VerifyError::Folder { folder: folder.into(), source })
}

/// Files that were handed out, by a hash of their path: of a million recordings 8 MB.
#[derive(Default)]
struct Known {
    hashes: std::collections::HashSet<u64>,
    hasher: std::hash::RandomState,
}

impl Known {
    fn insert(&mut self, file: &Path) {
        self.hashes.insert(self.hash(file));
    }

    fn contains(&self, file: &Path) -> bool {
        self.hashes.contains(&self.hash(file))
    }

    fn hash(&self, file: &Path) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, file)
    }
}

struct Run<'a> {
    order: &'a Order,
    books: &'a Books,
    progress: &'a Progress,
    tell: &'a (dyn Fn(Report) + Sync),
    summary: Mutex<Summary>,
}

impl Run<'_> {
    /// Hands out all that is known to be recorded; what the catalog says page by page.
    fn hand_out(&self, jobs: &SyncSender<Job>) -> Result<Known, VerifyError> {
        let mut known = Known::default();
        // Sending fails when every worker has ended, which they do before us only after a panic.
        let mut give = |file: PathBuf, job: Job| {
            known.insert(&file);
            !self.progress.is_cancelled() && jobs.send(job).is_ok()
        };
        let Some((catalog, _)) = &self.books.catalog else {
            for file in self.books.manifested()? {
                let file = file?;
                if !give(file.clone(), Job::Manifested(file)) {
                    break;
                }
            }
            return Ok(known);
        };
        let mut last: Option<KnownPart> = None;
        loop {
            let page = self.books.runtime.block_on(catalog.parts_after(last.as_ref()))?;
            last = page.last().cloned();
            let all = page.into_iter().all(|part| give(part.file.clone(), Job::Known(part)));
            if !all || last.is_none() {
                return Ok(known);
            }
        }
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            if self.progress.is_cancelled() {
                continue;
            }
            let Some(report) = self.check(job) else { continue };
            {
                let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
                summary.files += 1;
                summary.bytes += report.size;
                summary.remote += u64::from(report.remote.is_some());
                summary.faulty += u64::from(!report.faults.is_empty());
            }
            (self.tell)(report);
        }
    }

    /// A file that is not among the recorded ones.
    fn stray(&self, report: Report) {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).faulty += 1;
        (self.tell)(report);
    }
}
