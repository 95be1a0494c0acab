//! Where the one recording goes: what `-o` says, or a name made of the URL and the time.

use super::RecordOnceError;
use crate::{
    config::{Container, NameRule, NameTemplate, RecordFormats},
    media::Tracks,
    record::naming,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The stream is called by its URL; the time is that of the file's first frame, UTC.
const DEFAULT_NAME: &str = "{streamName}-{time}";

/// What lies beside a file that is being written, and beside one that is whole.
const COMPANIONS: [&str; 2] = [".part", ".json"];

#[derive(Debug)]
pub(super) struct Target {
    /// Absolute.
    pub folder: PathBuf,
    /// Its name, where that was given.
    named: Option<Named>,
}

#[derive(Debug)]
struct Named {
    file: PathBuf,
    stem: String,
    container: Container,
}

impl Target {
    /// `output`: a file, whose extension says the container; a folder that exists; `None`: the current folder. Looks at the
    /// disk and changes nothing. A file that is there is an error, unless it is to be overwritten.
    pub fn of(output: Option<&Path>, overwrite: bool) -> Result<Self, RecordOnceError> {
        let given = output.unwrap_or(Path::new("."));
        let absolute = std::path::absolute(given)
            .map_err(|source| RecordOnceError::Folder { folder: given.into(), source })?;
        if absolute.is_dir() {
            return Ok(Self { folder: absolute, named: None });
        }
        let extension = || RecordOnceError::Extension { file: given.into(), containers: containers() };
        let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(extension());
        };
        let written = absolute.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let container = Container::parse(written).ok_or_else(extension)?;
        let stem = name.to_str().and_then(|name| name.strip_suffix(written)?.strip_suffix('.'));
        let stem = stem.filter(|stem| naming::is_kept(stem, written));
        let stem = stem.ok_or_else(|| RecordOnceError::Name { file: given.into() })?.to_owned();
        if !folder.is_dir() {
            return Err(RecordOnceError::NoFolder { folder: folder.into() });
        }
        let target =
            Self { folder: folder.into(), named: Some(Named { stem, container, file: absolute.clone() }) };
        target.look(overwrite)?;
        Ok(target)
    }

    fn look(&self, overwrite: bool) -> Result<(), RecordOnceError> {
        let Some(Named { file, .. }) = &self.named else { return Ok(()) };
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        let [part, manifest] = COMPANIONS.map(|suffix| beside(file, suffix));
        if there(&part) {
            return Err(RecordOnceError::Underway { part });
        }
        match [file, &manifest].into_iter().find(|path| !overwrite && there(path)) {
            Some(taken) => Err(RecordOnceError::Exists { file: taken.clone() }),
            None => Ok(()),
        }
    }

    /// Whether what comes goes into the container that was asked for.
    pub fn takes(&self, tracks: &Tracks) -> Result<(), RecordOnceError> {
        let (Some(Named { container, .. }), Some(video)) = (&self.named, tracks.video()) else {
            return Ok(());
        };
        if container.video_codecs().contains(&video.codec) {
            return Ok(());
        }
        let fit = Container::ALL.into_iter().filter(|c| c.video_codecs().contains(&video.codec));
        let fit = fit.map(|c| format!(".{c}")).collect::<Vec<_>>().join(", ");
        Err(RecordOnceError::Codec { codec: video.codec, container: *container, fit })
    }

    /// Removes the file that is to be overwritten, and its manifest. Blocks.
    pub fn make_room(&self) -> Result<(), RecordOnceError> {
        let Some(Named { file, .. }) = &self.named else { return Ok(()) };
        for old in [file.clone(), beside(file, ".json")] {
            match fs::remove_file(&old) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(RecordOnceError::Overwrite { file: old, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub fn name(&self) -> NameRule {
        let template = match &self.named {
            Some(Named { stem, .. }) => NameTemplate::literal(stem),
            None => NameTemplate::parse(DEFAULT_NAME).expect("the default name is well formed"),
        };
        NameRule { template, encoding: None, exclude: Vec::new() }
    }

    pub fn formats(&self) -> RecordFormats {
        self.named.as_ref().map_or_else(RecordFormats::default, |n| RecordFormats::only(n.container))
    }
}

fn containers() -> String {
    Container::ALL.map(|c| format!(".{c}")).join(", ")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_is_told_before_anything_is_asked_for() {
        let dir = tempfile::tempdir().expect("a folder");
        for taken in ["a.mp4", "b.webm.part", "c.ts.json"] {
            fs::write(dir.path().join(taken), "theirs").expect("written");
        }
        let told = |name: &str, overwrite| {
            let target = Target::of(Some(&dir.path().join(name)), overwrite);
            target.map(|t| t.named.map(|n| n.stem)).map_err(|e| e.to_string())
        };
        for (name, overwrite, stem) in [
            ("new.mp4", false, Some("new")),
            ("b.mp4", false, Some("b")),
            ("a.b {x}.mkv", false, Some("a.b {x}")),
            ("a.mp4", true, Some("a")),
            ("c.ts", true, Some("c")),
            (".", false, None),
        ] {
            assert_eq!(told(name, overwrite), Ok(stem.map(str::to_owned)), "{name}");
        }
        for (name, overwrite, expected) in [
            ("a.mp4", false, "a.mp4 exists"),
            ("c.ts", false, "c.ts.json exists"),
            ("b.webm", true, "b.webm.part exists"),
            ("a.avi", false, ".mp4, .webm, .mkv, .ts"),
            ("a", false, ".mp4, .webm, .mkv, .ts"),
            ("-x.mp4", false, "cannot be a file's name"),
            ("gone/x.mp4", false, "does not exist"),
        ] {
            let error = told(name, overwrite).expect_err(name);
            assert!(error.contains(expected), "{name}: {error}");
        }
        assert_eq!(fs::read(dir.path().join("a.mp4")).expect("still there"), b"theirs");
    }
}
