//! What lies in the folder and is not known: files without a manifest, manifests without an entry, `.part` files.

use super::{Fault, Known, Report, Run, VerifyError, running};
use crate::library::{LibraryError, Manifest};
use std::{ffi::OsString, fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// The containers that are recorded into.
const MEDIA: [&str; 4] = ["mp4", "webm", "mkv", "ts"];
/// Where nobody can tell who writes a file, one that changed this recently is being written.
const RECENT: Duration = Duration::from_secs(30);

/// By its name.
pub(super) fn is_media(file: &Path) -> bool {
    file.extension().is_some_and(|ext| MEDIA.iter().any(|m| ext == *m))
}

/// Whether there is a `.part` that will be `file`.
pub(super) fn has_part(file: &Path) -> bool {
    let mut part = OsString::from(file);
    part.push(".part");
    Path::new(&part).exists()
}

/// Looks through the folder while `known` files are being checked.
pub(super) fn look(run: &Run<'_>, known: &Known) -> Result<(), VerifyError> {
    let folder = &run.books.folder;
    let failed = |source| VerifyError::Folder { folder: folder.clone(), source };
    let entries = match fs::read_dir(folder) {
        // Each file of the catalog is told as missing then.
        Err(e) if e.kind() == io::ErrorKind::NotFound && run.books.catalog.is_some() => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        if run.progress.is_cancelled() {
            break;
        }
        let entry = entry.map_err(failed)?;
        if !entry.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        let path = entry.path();
        let inner = path.with_extension("");
        let found = match path.extension().and_then(|e| e.to_str()) {
            Some("part") if is_media(&inner) => unfinished(run, &path)?,
            Some("json") if is_media(&inner) && !known.contains(&inner) => unlisted(run, &inner)?,
            Some(_) if is_media(&path) && !known.contains(&path) => without_manifest(&path),
            _ => None,
        };
        if let Some(report) = found {
            run.stray(report);
        }
    }
    Ok(())
}

fn report(file: &Path, fault: Fault) -> Report {
    let size = fs::metadata(file).map_or(0, |found| found.len());
    Report { file: file.into(), recording_id: None, part: None, size, remote: None, faults: vec![fault] }
}

fn without_manifest(file: &Path) -> Option<Report> {
    // It was there first, if it is there at all.
    let has_manifest = Manifest::path_of(file).exists();
    (!has_manifest && file.exists()).then(|| report(file, Fault::NoManifest))
}

/// A manifest whose file is not known to the catalog. One that was finished since the catalog was read is good.
fn unlisted(run: &Run<'_>, file: &Path) -> Result<Option<Report>, LibraryError> {
    let Some((catalog, state)) = &run.books.catalog else { return Ok(None) };
    let manifest = match Manifest::read(&Manifest::path_of(file)) {
        Ok(manifest) => manifest,
        Err(e) => return Ok(Some(report(file, Fault::BadManifest(e.to_string())))),
    };
    let (id, number) = (manifest.recording.id, manifest.part.number);
    let asked = async {
        // Before the entry, as a part goes from the one to the other.
        let being_entered = running::daemon_runs(state) && catalog.is_writing(id, number).await?;
        Ok::<_, LibraryError>((being_entered, catalog.part(id, number).await?))
    };
    let fault = match run.books.runtime.block_on(asked)? {
        (_, Some(part)) if is_same(&part.file, file) => return Ok(None),
        (true, None) => return Ok(None),
        (false, None) => Fault::NotInCatalog,
        (_, Some(part)) => {
            let there = part.file.display();
            Fault::Disagree(format!("the catalog has part {number} of recording {id} as {there}"))
        }
    };
    Ok(Some(Report { recording_id: Some(id), part: Some(number), ..report(file, fault) }))
}

/// By other names too: the folder may be reached over a link.
fn is_same(a: &Path, b: &Path) -> bool {
    let id = |file: &Path| fs::metadata(file).ok().map(|found| (found.dev(), found.ino()));
    a == b || id(a).is_some_and(|a| Some(a) == id(b))
}

fn unfinished(run: &Run<'_>, part: &Path) -> Result<Option<Report>, LibraryError> {
    let being_written = is_written(run, part)? || !part.exists();
    Ok((!being_written).then(|| report(part, Fault::LeftBehind)))
}

fn is_written(run: &Run<'_>, part: &Path) -> Result<bool, LibraryError> {
    let mut daemon = false;
    if let Some((catalog, state)) = &run.books.catalog {
        daemon = running::daemon_runs(state);
        if daemon && run.books.runtime.block_on(catalog.is_writing_to(part))? {
            return Ok(true);
        }
    }
    let open = running::is_open(part);
    // A name is reserved shortly before the file is opened and entered.
    let uncertain = open.is_none() || daemon;
    Ok(open == Some(true) || (uncertain && changed_recently(part)))
}

fn changed_recently(file: &Path) -> bool {
    let changed = fs::metadata(file).and_then(|found| found.modified());
    changed.is_ok_and(|at| at.elapsed().is_ok_and(|since| since < RECENT))
}
