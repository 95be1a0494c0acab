//! Files of the records folder that the catalog names, opened to be read.

use super::{
    Library, LibraryError, Manifest, RecordingId, Storage,
    catalog::{count_of, get},
    sql,
};
use rustix::fs::OFlags;
use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What there is of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartFiles {
    Finished {
        /// Absolute path.
        file: PathBuf,
        /// Bytes.
        size: u64,
        /// Lower-case hex of the whole file.
        sha256: String,
        /// Of its manifest: not of sound alone.
        has_video: bool,
        has_poster: bool,
    },
    /// Absolute path of its `.part`, which grows, and gets another name at its end.
    Writing(PathBuf),
    /// The recording has no part of this number.
    Missing,
}

/// The path of the poster of `file`: `NAME.EXT.jpg` in the same folder.
pub fn poster_of(file: &Path) -> PathBuf {
    with_suffix(file, ".jpg")
}

pub(super) fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(file);
    path.push(suffix);
    path.into()
}

impl Library {
    /// What there is of part `number`; `None` when there is no such recording.
    pub async fn part_files(&self, id: &RecordingId, number: u32) -> Result<Option<PartFiles>, LibraryError> {
        const WHAT: &str = "read where a part is";
        let row = sqlx::query(
            "SELECT p.file, p.size, p.sha256, p.poster, p.video, w.file AS part_file FROM recording r \
             LEFT JOIN part p ON p.recording_id = r.id AND p.number = ?2 \
             LEFT JOIN writing w ON w.recording_id = r.id AND w.number = ?2 WHERE r.id = ?1",
        )
        .bind(id.to_string())
        .bind(number)
        .fetch_optional(self.readers())
        .await
        .map_err(sql(WHAT))?;
        let Some(row) = row else { return Ok(None) };
        if let Some(file) = get::<Option<String>>(&row, "file")? {
            let has_poster = get::<Option<String>>(&row, "poster")?.is_some();
            let (size, sha256) = (count_of(&row, "size")?, get(&row, "sha256")?);
            let has_video = get::<Option<String>>(&row, "video")?.is_some();
            let file = file.into();
            return Ok(Some(PartFiles::Finished { file, size, sha256, has_video, has_poster }));
        }
        let part: Option<String> = get(&row, "part_file")?;
        Ok(Some(part.map_or(PartFiles::Missing, |file| PartFiles::Writing(file.into()))))
    }
}

impl Storage {
    /// Whether `path` is a name in the records folder itself: not below it, nor elsewhere.
    pub(super) fn holds(&self, path: &Path) -> bool {
        path.parent() == Some(self.folder()) && path.file_name().is_some()
    }

    /// Opens a plain file of the records folder to be read. A link is not followed, wherever it leads; a path outside of the
    /// folder is as good as not there. Blocks.
    pub fn open_to_read(&self, path: &Path) -> io::Result<File> {
        if !self.holds(path) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is not in the records folder"));
        }
        // Without NONBLOCK, opening a FIFO would wait for its writer.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is no plain file"));
        }
        Ok(file)
    }

    /// The same for the manifest of `file`.
    pub fn open_manifest(&self, file: &Path) -> io::Result<File> {
        self.open_to_read(&Manifest::path_of(file))
    }

    /// The same for the poster of `file`.
    pub fn open_poster(&self, file: &Path) -> io::Result<File> {
        self.open_to_read(&poster_of(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{HandOn, testing};
    use std::{fs, os::unix::fs::symlink};

    #[tokio::test]
    async fn only_plain_files_of_the_folder_are_opened() {
        let (dir, library) = testing::library().await;
        let storage = library.storage();
        let own = storage.folder().join("cam.mp4");
        fs::write(&own, "frames").unwrap();
        assert!(storage.open_to_read(&own).is_ok());

        let secret = dir.path().join("secret.mp4");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, storage.folder().join("link.mp4")).unwrap();
        fs::create_dir(storage.folder().join("folder.mp4")).unwrap();
        fs::write(storage.folder().join("folder.mp4/x.mp4"), "below").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, storage.folder().join("fifo.mp4"), 0o600.into()).unwrap();
        for name in
            ["link.mp4", "folder.mp4", "fifo.mp4", "folder.mp4/x.mp4", "../secret.mp4", "gone.mp4", ".."]
        {
            assert!(storage.open_to_read(&storage.folder().join(name)).is_err(), "{name}");
        }
        assert!(storage.open_to_read(&secret).is_err());
    }

    #[tokio::test]
    async fn a_part_is_missing_then_written_then_finished() {
        let (_dir, library) = testing::library().await;
        let recording = testing::recording(0);
        let id = recording.id;
        assert_eq!(library.part_files(&id, 1).await.unwrap(), None);
        library.begin(&recording, &HandOn::default()).await.unwrap();
        assert_eq!(library.part_files(&id, 1).await.unwrap(), Some(PartFiles::Missing));
        let part = testing::part(1);
        let writing = PathBuf::from("/records/cam.mp4.part");
        library.begin_part(&id, 1, &writing, recording.started_at).await.unwrap();
        assert_eq!(library.part_files(&id, 1).await.unwrap(), Some(PartFiles::Writing(writing)));
        library.commit_part(&id, &part).await.unwrap();
        let (file, size, sha256, has_video) = (part.file, part.size, part.sha256, part.video.is_some());
        let finished = PartFiles::Finished { file, size, sha256, has_video, has_poster: false };
        assert_eq!(library.part_files(&id, 1).await.unwrap(), Some(finished));
        assert_eq!(library.part_files(&id, 2).await.unwrap(), Some(PartFiles::Missing));
    }
}
