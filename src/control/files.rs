//! The files of a recording, for those who fetch them; and their deletion.

use super::{Control, ControlError, Event, RecordingChange};
use crate::deliver::Store;
use crate::library::{LibraryError, PartFiles, Recording, RecordingId, Storage, content_type};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::{
    fs::File, io, ops::RangeInclusive, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration,
};
use tokio::sync::Semaphore;

/// Reads of files that are under way at once; more wait. A disk that stands still takes no more blocking threads than this.
static READS: Semaphore = Semaphore::const_new(32);
/// How long a file may be under neither name: it gets its final one before the catalog is told.
const RENAME_TRIES: u32 = 20;
const RENAME_PAUSE: Duration = Duration::from_millis(50);
/// A URL that is given to a player is good for playing it, and so much longer; players ask again while they play.
const SIGNED_FOR: Duration = Duration::from_secs(600);
const LONGEST_SIGNED: Duration = Duration::from_secs(12 * 3600);

/// What can be fetched of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    File,
    Manifest,
    Poster,
}

impl Resource {
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::File => "file",
            Resource::Manifest => "manifest",
            Resource::Poster => "poster",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Resource::File, Resource::Manifest, Resource::Poster].into_iter().find(|r| r.as_str() == word)
    }
}

/// Where the bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// It stays readable when the recording is deleted.
    Here(Arc<File>),
    Remote(RemoteFile),
}

/// An object in the store.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    store: Store,
    url: String,
    valid: Duration,
}

impl RemoteFile {
    /// A URL that gives the object to whoever has it, for a while; `None` where the store cannot sign one.
    pub async fn presigned(&self, disposition: Option<&str>) -> Result<Option<String>, ControlError> {
        let signed = self.store.presigned(&self.url, self.valid, disposition).await;
        signed.map(|url| url.map(String::from)).map_err(|e| ControlError::Failed(e.to_string()))
    }

    /// The bytes of a range, as they come from the store.
    pub async fn read(
        &self,
        range: RangeInclusive<u64>,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        self.store.read(&self.url, range).await.map_err(io::Error::other)
    }
}

/// A file, and what is to be told of it.
#[derive(Clone, Debug)]
pub struct Media {
    pub content: Content,
    /// File name to save it under.
    pub name: String,
    /// Bytes; of a file that is being written: so many as there are now.
    pub size: u64,
    /// Strong, without quotes; `None` while it is being written.
    pub etag: Option<String>,
    pub content_type: &'static str,
}

impl Control {
    /// Opens the file, the manifest or the poster of part `number`. A part that is being written has only its file.
    pub async fn media(
        &self,
        id: RecordingId,
        number: u32,
        resource: Resource,
    ) -> Result<Media, ControlError> {
        let missing = |why: &str| ControlError::UnknownFile(format!("part {number} of recording {id} {why}"));
        for _ in 0..RENAME_TRIES {
            let found = self.inner.library.part_files(&id, number).await;
            let found = found.map_err(|e| ControlError::Failed(e.to_string()))?;
            let part = match found.ok_or(ControlError::UnknownRecording(id))? {
                PartFiles::Missing => return Err(missing("does not exist")),
                PartFiles::Writing(_) if resource != Resource::File => {
                    return Err(missing(&format!("is not finished and has no {} yet", resource.as_str())));
                }
                PartFiles::Finished { has_poster: false, .. } if resource == Resource::Poster => {
                    return Err(missing("has no poster"));
                }
                part => part,
            };
            let is_growing = matches!(part, PartFiles::Writing(_));
            let remote = self.remote(&part).filter(|_| resource == Resource::File);
            if let (Some(media), PartFiles::Finished { local: false, .. }) = (&remote, &part) {
                return Ok(media.clone());
            }
            let storage = self.inner.library.storage().clone();
            match read_aside(move || open(&storage, part, resource)).await {
                Err(e) if e.kind() == io::ErrorKind::NotFound && is_growing => {
                    tokio::time::sleep(RENAME_PAUSE).await;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // It went to the store only just now.
                    if let Some(media) = remote {
                        return Ok(media);
                    }
                    return Err(missing(&format!("has lost its {}: {e}", resource.as_str())));
                }
                Err(e) => {
                    let what = resource.as_str();
                    return Err(ControlError::Failed(format!("the {what} cannot be opened: {e}")));
                }
                Ok(media) => return Ok(media),
            }
        }
        Err(missing("has lost its file"))
    }

    /// Where players are sent to for files that are in the store only, as a source of a page's policy.
    pub fn media_origin(&self) -> Option<&str> {
        self.inner.facts.store.as_ref().map(Store::origin)
    }

    /// A finished part's file as it is in the store.
    fn remote(&self, part: &PartFiles) -> Option<Media> {
        let PartFiles::Finished { file, size, sha256, has_video, remote: Some(url), duration_ms, .. } = part
        else {
            return None;
        };
        let valid = (SIGNED_FOR + Duration::from_millis(*duration_ms)).min(LONGEST_SIGNED);
        let store = self.inner.facts.store.clone()?;
        let name = name_of(file.clone(), Resource::File);
        let content_type = content_type(&name, *has_video);
        let content = Content::Remote(RemoteFile { store, url: url.clone(), valid });
        Some(Media { content, name, size: *size, etag: Some(sha256.clone()), content_type })
    }

    /// Deletes a recording that has ended: files, manifests, posters, and what the catalog knows of it.
    pub async fn delete_recording(&self, id: RecordingId) -> Result<(), ControlError> {
        let deleted = self.inner.library.delete(&id).await;
        if matches!(deleted, Ok(()) | Err(LibraryError::NotRemoved { .. })) {
            self.tell_deleted(id, None);
            self.inner.facts.keeper.wake();
        }
        match deleted {
            Ok(()) => {
                tracing::info!(recording = %id, "deleted");
                Ok(())
            }
            Err(LibraryError::Unknown(_)) => Err(ControlError::UnknownRecording(id)),
            Err(LibraryError::Locked(_)) => Err(ControlError::Locked(id)),
            Err(LibraryError::NotEnded { .. }) => Err(ControlError::StillRunning(id)),
            Err(e) => Err(ControlError::Failed(e.to_string())),
        }
    }

    /// Protects a recording from deletion, or does so no more; also one that is under way.
    pub async fn set_locked(&self, id: RecordingId, locked: bool) -> Result<Recording, ControlError> {
        self.inner.library.set_locked(&id, locked).await.map_err(|e| match e {
            LibraryError::Unknown(_) => ControlError::UnknownRecording(id),
            e => ControlError::Failed(e.to_string()),
        })?;
        let recording = self.recording(id).await?;
        tracing::info!(recording = %id, locked, "locked or unlocked");
        let told = Event::recording(RecordingChange::Updated, recording.clone(), None);
        self.inner.events.tell(&told);
        Ok(recording)
    }

    /// As its writer tells it, and locked as the catalog says.
    pub(super) async fn with_lock(&self, recording: Recording) -> Recording {
        let locked = self.inner.library.is_locked(&recording.id).await;
        // One whose row is not there yet cannot be.
        Recording { locked: matches!(locked, Ok(Some(true))), ..recording }
    }
}

/// Runs what reads the disk beside the async threads, a bounded number at once.
pub async fn read_aside<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place = READS.acquire().await.map_err(io::Error::other)?;
    // The place is that of the thread: who waits for it may go away.
    let read = move || {
        let _place = place;
        read()
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

fn open(storage: &Storage, part: PartFiles, resource: Resource) -> io::Result<Media> {
    // Of a file that is being written nobody has told yet what it will hold.
    let (path, sum, has_video) = match part {
        PartFiles::Finished { file, size, sha256, has_video, .. } => (file, Some((size, sha256)), has_video),
        PartFiles::Writing(file) => (file, None, true),
        PartFiles::Missing => return Err(io::ErrorKind::NotFound.into()),
    };
    let file = match resource {
        Resource::File => storage.open_to_read(&path)?,
        Resource::Manifest => storage.open_manifest(&path)?,
        Resource::Poster => storage.open_poster(&path)?,
    };
    let found = file.metadata()?;
    let etag = match (resource, sum) {
        // One that somebody has changed is not the one that was summed up.
        (Resource::File, Some((size, sha256))) => (size == found.len()).then_some(sha256),
        (Resource::File, None) => None,
        // These are only ever replaced, by a file with another inode.
        _ => {
            Some(format!("{:x}-{:x}-{:x}-{:x}", found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        }
    };
    let name = name_of(path, resource);
    let content_type = match resource {
        Resource::File => content_type(&name, has_video),
        Resource::Manifest => "application/json",
        Resource::Poster => "image/jpeg",
    };
    Ok(Media { content: Content::Here(Arc::new(file)), name, size: found.len(), etag, content_type })
}

/// Without `.part`: what is saved under this name plays.
fn name_of(path: PathBuf, resource: Resource) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".part").unwrap_or(&name);
    match resource {
        Resource::File => name.to_owned(),
        Resource::Manifest => format!("{name}.json"),
        Resource::Poster => format!("{name}.jpg"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types() {
        for (path, resource, name, kind) in [
            ("/r/cam.mp4", Resource::File, "cam.mp4", "video/mp4"),
            ("/r/cam.mp4.part", Resource::File, "cam.mp4", "video/mp4"),
            ("/r/cam.webm", Resource::File, "cam.webm", "video/webm"),
            ("/r/cam.mkv", Resource::File, "cam.mkv", "video/x-matroska"),
            ("/r/cam.ts", Resource::File, "cam.ts", "video/mp2t"),
            ("/r/cam", Resource::File, "cam", "application/octet-stream"),
            ("/r/cam.mp4", Resource::Manifest, "cam.mp4.json", "application/octet-stream"),
            ("/r/cam.mp4", Resource::Poster, "cam.mp4.jpg", "application/octet-stream"),
        ] {
            let got = name_of(path.into(), resource);
            assert_eq!((got.as_str(), content_type(&got, true)), (name, kind), "{path}");
        }
        for (name, kind) in [("a.mp4", "audio/mp4"), ("a.webm", "audio/webm"), ("a.ts", "video/mp2t")] {
            assert_eq!(content_type(name, false), kind);
        }
        for resource in [Resource::File, Resource::Manifest, Resource::Poster] {
            assert_eq!(Resource::parse(resource.as_str()), Some(resource));
        }
    }
}
