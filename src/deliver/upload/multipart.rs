//! The bytes of a file, put into the store: small ones at once, others in parts.
//!
//! How far an upload is, is kept with its entry in the outbox ([`Progress`]), before anything is sent under a name and after each
//! part: who goes on after a crash sends no finished part again. All of the file is read and hashed on each attempt, so that
//! what the store puts together is what was recorded.

use super::{
    Trouble,
    reader::{ReadError, Reader},
    store::{About, Store, StoreError},
};
use crate::library::{Library, OutboxId};
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;
/// S3 wants 5 MiB at least. Smaller files are one object at once.
pub(super) const PART_BYTES: u64 = 8 * MIB;
/// So much memory a part takes, while as few as that can be.
const LARGEST_PART: u64 = 32 * MIB;
/// Parts that are aimed at: the progress of each is written down.
const AIMED_PARTS: u64 = 1000;
/// S3 takes so many.
const MAX_PARTS: u64 = 10_000;
/// Parts of one file that are sent at the same time; one more is being read.
const AT_ONCE: usize = 2;

/// How far an upload is. JSON in the outbox; deletion reads `object` and `upload` there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Progress {
    /// URL of the object; the name is taken with it.
    pub object: String,
    /// Of an upload in parts.
    pub upload: Option<String>,
    pub part_bytes: u64,
    /// What the store answered for each part that it has.
    pub parts: Vec<Option<String>>,
}

/// Where progress is kept.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub library: &'a Library,
    pub id: OutboxId,
}

impl Entry<'_> {
    pub async fn keep(&self, progress: &Progress) -> Result<(), Trouble> {
        let json = serde_json::to_value(progress).map_err(|e| Trouble::Retry(e.to_string()))?;
        Ok(self.library.outbox_progress(self.id, &json).await?)
    }
}

/// Bytes of each part but the last.
pub(super) fn part_bytes(size: u64) -> u64 {
    let aimed = size.div_ceil(AIMED_PARTS).clamp(PART_BYTES, LARGEST_PART);
    let needed = size.div_ceil(MAX_PARTS);
    aimed.max(needed).next_multiple_of(MIB)
}

/// A file that is one object at once, `over` an older one of its own. False: the name was taken meanwhile.
pub(super) async fn put_whole(
    store: &Store,
    place: &Path,
    about: &About,
    mut reader: Reader,
    sha256: &str,
    over: bool,
) -> Result<bool, Trouble> {
    let size = reader.left();
    let (bytes, reader) = beside(move || (reader.next(size), reader)).await?;
    let bytes = bytes?;
    reader.check(sha256)?;
    match store.put(place, bytes, about, over).await {
        Err(StoreError::Exists) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// A file in parts, begun or gone on with.
pub(super) async fn put_in_parts(
    store: &Store,
    place: &Path,
    about: &About,
    reader: Reader,
    sha256: &str,
    entry: Entry<'_>,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let count = usize::try_from(reader.left().div_ceil(progress.part_bytes)).unwrap_or(usize::MAX);
    let upload = match progress.upload.clone().filter(|_| progress.parts.len() == count) {
        Some(upload) => upload,
        None => {
            let upload = store.begin_parts(place, about).await?;
            progress.upload = Some(upload.clone());
            progress.parts = vec![None; count];
            entry.keep(progress).await?;
            upload
        }
    };
    // Sending ends with whoever waits for it: a part on its way would keep the daemon from ending.
    let cancelled = CancellationToken::new();
    let _guard = cancelled.clone().drop_guard();
    let sender = Sender { store: store.clone(), place: place.clone(), upload: upload.clone(), cancelled };
    let reader = send_missing(sender, reader, entry, progress).await?;
    if let Err(changed) = reader.check(sha256) {
        let _ = store.abort_parts(place, &upload).await;
        return Err(changed.into());
    }
    // Another one may have got the name while the parts were on their way.
    if store.head(place).await?.is_some_and(|found| found.owner.as_deref() != Some(&about.owner)) {
        let _ = store.abort_parts(place, &upload).await;
        *progress = Progress::default();
        entry.keep(progress).await?;
        return Err(Trouble::Retry("another object has got the name meanwhile".into()));
    }
    let parts = progress.parts.iter().flatten().cloned().collect();
    match store.end_parts(place, &upload, parts).await {
        // Ended before, and then the object is there; or lost.
        Err(StoreError::NotFound) => Err(begin_again(entry, progress).await?),
        other => Ok(other?),
    }
}

/// The store has forgotten the upload: somebody ended it, or its time was over.
async fn begin_again(entry: Entry<'_>, progress: &mut Progress) -> Result<Trouble, Trouble> {
    let object = progress.object.clone();
    *progress = Progress { object, part_bytes: progress.part_bytes, ..Progress::default() };
    entry.keep(progress).await?;
    Ok(Trouble::Retry("the store knows nothing of the upload any more; it begins again".into()))
}

#[derive(Clone)]
struct Sender {
    store: Store,
    place: Path,
    upload: String,
    cancelled: CancellationToken,
}

type Sent = (usize, Result<String, StoreError>);

impl Sender {
    /// On a thread that may block: the client hashes what it sends.
    fn send(self, index: usize, bytes: Bytes) -> Sent {
        let sent = Handle::current().block_on(async {
            tokio::select! {
                sent = self.store.put_part(&self.place, &self.upload, index, bytes) => sent,
                () = self.cancelled.cancelled() => Err(StoreError::Failed("the upload was cut off".into())),
            }
        });
        (index, sent)
    }
}

/// Reads the whole file, and sends the parts that the store does not have.
async fn send_missing(
    sender: Sender,
    mut reader: Reader,
    entry: Entry<'_>,
    progress: &mut Progress,
) -> Result<Reader, Trouble> {
    let mut on_their_way = JoinSet::new();
    let missing = |(index, part): (usize, &Option<String>)| part.is_none().then_some(index);
    let mut missing: VecDeque<usize> = progress.parts.iter().enumerate().filter_map(missing).collect();
    for index in 0..progress.parts.len() {
        let most = progress.part_bytes;
        let (bytes, read_on) = beside(move || (reader.next(most), reader)).await?;
        reader = read_on;
        let bytes = bytes?;
        if missing.front() != Some(&index) {
            continue;
        }
        missing.pop_front();
        while on_their_way.len() >= AT_ONCE {
            one_sent(&mut on_their_way, entry, progress).await?;
        }
        let sender = sender.clone();
        on_their_way.spawn_blocking(move || sender.send(index, bytes));
    }
    while !on_their_way.is_empty() {
        one_sent(&mut on_their_way, entry, progress).await?;
    }
    Ok(reader)
}

async fn one_sent(
    on_their_way: &mut JoinSet<Sent>,
    entry: Entry<'_>,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let Some(sent) = on_their_way.join_next().await else { return Ok(()) };
    let (index, sent) = sent.map_err(|e| Trouble::Retry(e.to_string()))?;
    match sent {
        Ok(id) => progress.parts[index] = Some(id),
        Err(StoreError::NotFound) => return Err(begin_again(entry, progress).await?),
        Err(e) => return Err(e.into()),
    }
    entry.keep(progress).await
}

async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Trouble::Retry(e.to_string()))
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(e) => Trouble::Retry(format!("the file cannot be read: {e}")),
            e => Trouble::GiveUp(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_a_size_and_a_number_that_stores_take() {
        const GIB: u64 = 1 << 30;
        for (size, wanted) in [
            (1, 8 * MIB),
            (8000 * MIB, 8 * MIB),
            (10 * GIB, 11 * MIB),
            (100 * GIB, 32 * MIB),
            (5 << 40, 525 * MIB),
        ] {
            let bytes = part_bytes(size);
            assert_eq!(bytes, wanted, "{size}");
            assert!(size.div_ceil(bytes) <= MAX_PARTS && bytes >= 5 * MIB, "{size}");
        }
    }

    #[test]
    fn progress_is_read_back() {
        let progress = Progress {
            object: "s3://b/cam.mp4".into(),
            upload: Some("id".into()),
            part_bytes: 8,
            parts: vec![Some("a".into()), None],
        };
        let json = serde_json::to_value(&progress).unwrap();
        assert_eq!((&json["object"], &json["upload"]), (&"s3://b/cam.mp4".into(), &"id".into()));
        assert_eq!(serde_json::from_value::<Progress>(json).unwrap(), progress);
        assert_eq!(serde_json::from_str::<Progress>("{}").unwrap(), Progress::default());
    }
}
