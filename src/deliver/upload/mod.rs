//! Uploads a finished file: one attempt of one delivery.
//!
//! - `put.rs`: to a URL of a start call (HTTP PUT).
//! - `store.rs`, `multipart.rs`: to `[storage] url`. `guarded.rs` sends the store's requests through the guard of outgoing ones.
//! - `keeper.rs`: afterwards: local files that may go, objects of recordings that were deleted.
//!
//! To the store go, in this order: the file, the poster, and last the manifest, so that who finds a manifest there finds
//! the file. Their names are that of the file, below the prefix; where another object has it, with `_2`, `_3` …, as a
//! local file would: nothing is overwritten that is not of the same part. Each attempt looks what is there already and does
//! the rest.

mod guarded;
mod keeper;
mod multipart;
mod put;
mod reader;
mod store;

pub use keeper::{Keeper, KeeperWaker};
pub use store::{Store, StoreError};

use super::{Outcome, Outgoing};
use crate::library::{
    DeliveredPart, Delivery, Job, Library, LibraryError, Manifest, OutboxId, RecordingId, Remote,
    UploadFacts, UploadTo, content_type, poster_of,
};
use bytes::Bytes;
use chrono::Utc;
use multipart::{Entry, PART_BYTES, Progress, part_bytes};
use object_store::path::Path;
use reader::Reader;
use std::{
    io::{self, Read},
    time::Duration,
};
use store::{About, Found, is_same};
use tokio::time::Instant;

/// Names that are tried for a file.
const MAX_NAMES: u32 = 1000;
/// Larger manifests and posters are none of ours.
const MAX_SMALL_BYTES: u64 = 8 << 20;
/// How long an upload waits for a poster that is being made.
const POSTER_WAIT: Duration = Duration::from_secs(30);
const POSTER_LOOK: Duration = Duration::from_millis(250);

/// How files are uploaded.
#[derive(Clone, Debug)]
pub struct UploadSettings {
    /// How many are uploaded at the same time, at least 1.
    pub concurrency: usize,
    /// `None`: the guard could not be made; nothing is sent.
    pub outgoing: Option<Outgoing>,
    /// `[storage] url`.
    pub store: Option<Store>,
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self { concurrency: 2, outgoing: None, store: None }
    }
}

/// Why an attempt was not the last.
#[derive(Debug)]
enum Trouble {
    Retry(String),
    GiveUp(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble::Retry(error.to_string())
    }
}

impl From<LibraryError> for Trouble {
    fn from(error: LibraryError) -> Self {
        Trouble::Retry(error.to_string())
    }
}

/// One attempt; the next one goes on from what [`Library::outbox_progress`] was told.
pub(super) async fn deliver(delivery: &Delivery, settings: &UploadSettings, library: &Library) -> Outcome {
    let (Job::Upload(job), Some(of), Some(recording), Some(number)) =
        (&delivery.job, &delivery.of, delivery.recording, delivery.part)
    else {
        return Outcome::GiveUp { error: "the catalog has no such part any more".into() };
    };
    match &job.to {
        UploadTo::Put { url } => match &settings.outgoing {
            Some(outgoing) => put::put(url, of, outgoing, library.storage()).await,
            None => Outcome::failed("nothing can be sent: TLS is not usable here"),
        },
        UploadTo::Storage => {
            let Some(store) = &settings.store else {
                return Outcome::failed("[storage] url is not written in reeld.toml (any more)");
            };
            let progress = delivery.progress.clone().and_then(|json| serde_json::from_value(json).ok());
            let upload = Upload { store, library, entry: delivery.id, recording, number, of };
            match upload.run(progress.unwrap_or_default()).await {
                Ok(()) => Outcome::Done,
                Err(Trouble::Retry(error)) => Outcome::failed(error),
                Err(Trouble::GiveUp(error)) => Outcome::GiveUp { error },
            }
        }
    }
}

/// Of one part, to the store.
struct Upload<'a> {
    store: &'a Store,
    library: &'a Library,
    entry: OutboxId,
    recording: RecordingId,
    number: u32,
    of: &'a DeliveredPart,
}

impl Upload<'_> {
    async fn run(&self, progress: Progress) -> Result<(), Trouble> {
        let Some(facts) = self.facts().await? else { return Ok(()) };
        let (place, found) = self.file(&facts, progress).await?;
        let remote = Remote { url: self.store.url_of(&place), etag: found.etag };
        if !self.library.set_remote(&self.recording, self.number, &remote, Utc::now()).await? {
            // Deleted meanwhile; what is to go from the store is noted.
            return Ok(());
        }
        if let Some(poster) = self.poster(facts).await? {
            self.put_small(&beside(&place, ".jpg"), poster, "image/jpeg").await?;
        }
        let manifest = self.read_small(Manifest::path_of(&self.of.file)).await?;
        let manifest = manifest.ok_or_else(|| Trouble::GiveUp("its manifest is gone".into()))?;
        self.put_small(&beside(&place, ".json"), manifest, "application/json").await
    }

    async fn facts(&self) -> Result<Option<UploadFacts>, Trouble> {
        Ok(self.library.upload_facts(&self.recording, self.number).await?)
    }

    fn owner(&self) -> String {
        owner_of(self.recording, self.number)
    }

    fn about(&self, content_type: &'static str) -> About {
        About { content_type, owner: self.owner(), sha256: None }
    }

    fn is_own(&self, found: &Found) -> bool {
        found.owner.as_deref() == Some(&self.owner())
    }

    /// The file, in the store and looked at.
    async fn file(&self, facts: &UploadFacts, mut progress: Progress) -> Result<(Path, Found), Trouble> {
        let (size, sha256) = (self.of.size, self.of.sha256.as_str());
        let etag = facts.remote.as_ref().and_then(|remote| remote.etag.as_deref());
        let known = facts.remote.as_ref().map(|remote| remote.url.as_str());
        let known = known.or(Some(progress.object.as_str()).filter(|url| !url.is_empty()));
        // What was begun in another store begins again in this one.
        let mut place = match known.and_then(|url| self.store.at(url).ok()) {
            Some(place) => place,
            None => self.free_place().await?,
        };
        let over = match self.store.head(&place).await? {
            Some(found) if is_same(&found, etag, size, sha256) => return Ok((place, found)),
            Some(found) if !self.is_own(&found) => {
                place = self.free_place().await?;
                false
            }
            found => found.is_some(),
        };
        let object = self.store.url_of(&place);
        let (storage, file) = (self.library.storage().clone(), self.of.file.clone());
        let reader = tokio::task::spawn_blocking(move || Reader::open(&storage, &file, size)).await;
        let reader = reader.map_err(|e| Trouble::Retry(e.to_string()))??;
        let about = About {
            sha256: Some(sha256.to_owned()),
            ..self.about(content_type(&self.of.name, self.of.has_video))
        };
        let entry = Entry { library: self.library, id: self.entry };
        if progress.object != object {
            // The name it was begun under is somebody else's by now.
            if let (Some(upload), Ok(old)) = (&progress.upload, self.store.at(&progress.object)) {
                self.store.abort_parts(&old, upload).await?;
            }
            progress = Progress { object, part_bytes: part_bytes(size), ..Progress::default() };
            entry.keep(&progress).await?;
        }
        progress.part_bytes = progress.part_bytes.max(PART_BYTES);
        if size > PART_BYTES {
            multipart::put_in_parts(self.store, &place, &about, reader, sha256, entry, &mut progress).await?;
        } else if !multipart::put_whole(self.store, &place, &about, reader, sha256, over).await? {
            entry.keep(&Progress::default()).await?;
            return Err(Trouble::Retry("another object has got the name meanwhile".into()));
        }
        let found = self.store.head(&place).await?.ok_or(StoreError::NotFound)?;
        // Where objects of parts do not tell their hash, each part's was checked by the store.
        let unnamed = found.sha256.is_none() && found.size == size && !self.store.names_owners();
        match unnamed || is_same(&found, None, size, sha256) {
            true => Ok((place, found)),
            false => Err(Trouble::Retry("what the store has is not what was sent".into())),
        }
    }

    /// A name that no other object has, nor its manifest.
    async fn free_place(&self) -> Result<Path, Trouble> {
        for n in 1..=MAX_NAMES {
            let place = self.store.place_of(&numbered(&self.of.name, n));
            let is_free = |found: Option<Found>| found.is_none_or(|found| self.is_own(&found));
            if is_free(self.store.head(&place).await?)
                && is_free(self.store.head(&beside(&place, ".json")).await?)
            {
                return Ok(place);
            }
        }
        Err(Trouble::GiveUp(format!("{MAX_NAMES} objects in the store have its name")))
    }

    /// Its poster, which is waited for while it is being made.
    async fn poster(&self, mut facts: UploadFacts) -> Result<Option<Bytes>, Trouble> {
        let until = Instant::now() + POSTER_WAIT;
        while facts.poster_awaited && Instant::now() < until {
            tokio::time::sleep(POSTER_LOOK).await;
            match self.facts().await? {
                Some(now) => facts = now,
                None => return Ok(None),
            }
        }
        match facts.part.poster {
            Some(_) => self.read_small(poster_of(&self.of.file)).await,
            None => Ok(None),
        }
    }

    /// `None`: there is no such file in the records folder.
    async fn read_small(&self, path: std::path::PathBuf) -> Result<Option<Bytes>, Trouble> {
        let storage = self.library.storage().clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            storage.open_to_read(&path)?.take(MAX_SMALL_BYTES).read_to_end(&mut bytes)?;
            Ok(Bytes::from(bytes))
        });
        match read.await.map_err(io::Error::other).flatten() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Trouble::Retry(format!("{} cannot be read: {e}", self.of.name))),
        }
    }

    /// Over an older one of the same part, but over no other object.
    async fn put_small(&self, place: &Path, bytes: Bytes, content_type: &'static str) -> Result<(), Trouble> {
        let about = self.about(content_type);
        match self.store.put(place, bytes.clone(), &about, false).await {
            Err(StoreError::Exists) => {}
            other => return Ok(other?),
        }
        match self.store.head(place).await? {
            Some(found) if !self.is_own(&found) => {
                Err(Trouble::Retry(format!("{place} is another object, and is not overwritten")))
            }
            _ => Ok(self.store.put(place, bytes, &about, true).await?),
        }
    }
}

/// What an object of a part tells of whose it is.
fn owner_of(recording: RecordingId, number: u32) -> String {
    format!("{recording}/{number}")
}

/// The object beside a file: `.json` its manifest, `.jpg` its poster.
fn beside(place: &Path, suffix: &str) -> Path {
    let text = format!("{place}{suffix}");
    // With letters and a dot behind it, a path stays one.
    Path::parse(&text).unwrap_or_else(|_| Path::from(text))
}

/// `NAME_2.EXT`; as it is for 1.
fn numbered(name: &str, n: u32) -> String {
    match (n, name.rsplit_once('.')) {
        (1, _) => name.to_owned(),
        (_, Some((stem, extension))) => format!("{stem}_{n}.{extension}"),
        (_, None) => format!("{name}_{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_a_file_and_after_it() {
        let place = Path::parse("a/cam 1.mp4").unwrap();
        assert_eq!(beside(&place, ".json").as_ref(), "a/cam 1.mp4.json");
        for (name, n, wanted) in [
            ("cam.mp4", 1, "cam.mp4"),
            ("cam.mp4", 2, "cam_2.mp4"),
            ("a.b.mp4", 3, "a.b_3.mp4"),
            ("cam", 2, "cam_2"),
        ] {
            assert_eq!(numbered(name, n), wanted);
        }
    }
}
