//! Checking one file.

use super::{Fault, Job, Report, Run, leftovers::has_part, passes};
use crate::{
    gst::decode::{Decode, DecodeError, Decoded},
    library::{KnownPart, Manifest, ManifestError, Part},
};
use sha2::{Digest, Sha256};
use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

const BLOCK_BYTES: usize = 1 << 20;
/// How long a file may have its manifest and not yet its name.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Bytes that were read for one file.
struct Work<'a> {
    all: &'a AtomicU64,
    own: Cell<u64>,
}

impl Work<'_> {
    fn add(&self, bytes: u64) {
        self.own.set(self.own.get() + bytes);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Run<'_> {
    /// `None` when the run was cancelled meanwhile, or the part was removed from the catalog.
    pub(super) fn check(&self, job: Job) -> Option<Report> {
        let (file, row) = match &job {
            Job::Known(part) => (part.file.clone(), Some(part)),
            Job::Manifested(file) => (file.clone(), None),
        };
        let mut report = Report {
            recording_id: row.map(|r| r.recording),
            part: row.map(|r| r.number),
            file,
            size: 0,
            remote: None,
            faults: Vec::new(),
        };
        let manifest = self.manifest(&mut report, row);
        let work = Work { all: &self.progress.work, own: Cell::new(0) };
        self.content(&mut report, manifest.as_ref(), row, &work)?;
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        // What was not read is done with all the same.
        let whole = row.map_or(report.size, |r| r.size).saturating_mul(passes(self.order.decode));
        work.add(whole.saturating_sub(work.own.get()));
        let removed = !report.faults.is_empty() && row.is_some_and(|row| self.is_removed(row));
        (!removed).then_some(report)
    }

    fn manifest(&self, report: &mut Report, row: Option<&KnownPart>) -> Option<Manifest> {
        let path = Manifest::path_of(&report.file);
        // Opening a FIFO would wait for its writer.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            report.faults.push(Fault::BadManifest("its manifest is not a file".into()));
            return None;
        }
        let manifest = match Manifest::read(&path) {
            Ok(manifest) => manifest,
            Err(ManifestError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                report.faults.push(Fault::NoManifest);
                return None;
            }
            Err(e) => {
                report.faults.push(Fault::BadManifest(e.to_string()));
                return None;
            }
        };
        let (id, part) = (manifest.recording.id, &manifest.part);
        match row {
            Some(row) => report.faults.extend(disagreement(row, &manifest).map(Fault::Disagree)),
            None => (report.recording_id, report.part) = (Some(id), Some(part.number)),
        }
        if report.file.file_name() != Some(part.name.as_ref()) {
            let text = format!("its manifest is that of {}; was it renamed or copied?", part.name);
            report.faults.push(Fault::BadManifest(text));
        }
        Some(manifest)
    }

    fn content(
        &self,
        report: &mut Report,
        manifest: Option<&Manifest>,
        row: Option<&KnownPart>,
        work: &Work<'_>,
    ) -> Option<()> {
        let part = manifest.map(|m| &m.part);
        let Some(found) = self.look(&report.file) else {
            let by_manifest = part.filter(|p| !p.local).and_then(|p| p.remote.as_ref());
            report.remote = row.and_then(|r| r.remote.as_ref()).or(by_manifest).cloned();
            if report.remote.is_none() {
                report.faults.push(Fault::Missing);
            }
            return Some(());
        };
        match found {
            Ok(found) if found.is_file() => report.size = found.len(),
            Ok(_) => {
                report.faults.push(Fault::Unreadable("it is not a file".into()));
                return Some(());
            }
            Err(e) => {
                report.faults.push(Fault::Unreadable(e.to_string()));
                return Some(());
            }
        }
        let wanted = part.map(|p| (p.size, &p.sha256)).or(row.map(|r| (r.size, &r.sha256)));
        match wanted {
            Some((size, _)) if size != report.size => {
                report.faults.push(Fault::Size { found: report.size, wanted: size });
            }
            Some((_, sha256)) => match self.sha256(&report.file, work) {
                Ok(None) => return None,
                Ok(Some(found)) if found == *sha256 => {}
                Ok(Some(found)) => {
                    report.faults.push(Fault::Sha256 { found, wanted: sha256.clone() });
                }
                Err(e) => {
                    report.faults.push(Fault::Unreadable(e.to_string()));
                    return Some(());
                }
            },
            None => {}
        }
        if self.order.decode { self.decode(report, part, work) } else { Some(()) }
    }

    /// A file gets its name right after its manifest: where there is a `.part` still, that is waited for.
    fn look(&self, file: &Path) -> Option<io::Result<fs::Metadata>> {
        let until = Instant::now() + FINISH_DEADLINE;
        loop {
            match fs::metadata(file) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                found => return Some(found),
            }
            if Instant::now() >= until || self.progress.is_cancelled() || !has_part(file) {
                return fs::metadata(file).ok().map(Ok);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// `None` when cancelled.
    fn sha256(&self, file: &Path, work: &Work<'_>) -> io::Result<Option<String>> {
        let mut file = File::open(file)?;
        let (mut block, mut hash) = (vec![0; BLOCK_BYTES], Sha256::new());
        loop {
            if self.progress.is_cancelled() {
                return Ok(None);
            }
            match file.read(&mut block) {
                Ok(0) => return Ok(Some(hex::encode(hash.finalize()))),
                Ok(n) => {
                    hash.update(&block[..n]);
                    work.add(n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn decode(&self, report: &mut Report, part: Option<&Part>, work: &Work<'_>) -> Option<()> {
        let decode = Decode {
            file: &report.file,
            lossy: part.is_some_and(misses_frames),
            cancelled: &self.progress.cancelled,
            progress: &|bytes| work.add(bytes),
        };
        match decode.run() {
            Ok(decoded) => {
                if let Some(part) = part {
                    report.faults.extend(miscounted(part, &decoded));
                }
            }
            Err(DecodeError::At { at_ms, message }) => report.faults.push(Fault::Decode { at_ms, message }),
            Err(DecodeError::Cancelled) => return None,
        }
        Some(())
    }

    /// Whether the catalog has the part no more: somebody removed it while it was checked.
    fn is_removed(&self, row: &KnownPart) -> bool {
        let Some((catalog, _)) = &self.books.catalog else { return false };
        matches!(self.books.runtime.block_on(catalog.part(row.recording, row.number)), Ok(None))
    }
}

fn disagreement(row: &KnownPart, manifest: &Manifest) -> Option<String> {
    let (id, part) = (manifest.recording.id, &manifest.part);
    if (id, part.number) != (row.recording, row.number) {
        let text =
            format!("part {} of recording {id}, not part {} of {}", part.number, row.number, row.recording);
        return Some(text);
    }
    if part.size != row.size {
        return Some(format!("{} bytes, not {}", part.size, row.size));
    }
    (part.sha256 != row.sha256).then(|| format!("SHA-256 {}, not {}", part.sha256, row.sha256))
}

/// What then refers to frames that are not there decodes with faults that are not the file's.
fn misses_frames(part: &Part) -> bool {
    part.lost.frames > 0
        || part.lost.packets > 0
        || part.gaps.iter().any(|gap| gap.frames > 0 || gap.packets > 0)
}

/// Pictures are counted on both sides of the decoder: VP8 and VP9 have access units that show nothing. Sound may
/// have been transcoded, into another number of access units.
fn miscounted(part: &Part, decoded: &Decoded) -> Option<Fault> {
    if let Some(wanted) = part.video.as_ref().map(|v| v.frames).filter(|frames| *frames > 0) {
        let Some(found) = decoded.video.filter(|v| v.frames > 0) else {
            return Some(Fault::NoTrack { kind: "video", frames: wanted });
        };
        if found.access_units != wanted && found.frames != wanted {
            return Some(Fault::Frames { decoded: found.frames, wanted });
        }
    }
    let wanted = part.audio.as_ref().map(|a| a.frames).filter(|frames| *frames > 0)?;
    let silent = decoded.audio.is_none_or(|a| a.frames == 0);
    silent.then_some(Fault::NoTrack { kind: "sound", frames: wanted })
}
