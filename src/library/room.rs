//! Room that is kept in the records folder: a file of blocks that are really taken, given back when nothing else is left,
//! so that what is recorded can be ended on a full disk: an index, a manifest, a name.

use super::Storage;
use rustix::{
    fs::FallocateFlags,
    io::{Errno, retry_on_intr},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Where a file system cannot be asked for blocks, they are written; no more than this, as it takes time.
const MOST_WRITTEN: u64 = 8 << 20;
const BLOCK: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Room {
    /// Held while the file changes. Since when what was kept is given back.
    given_back: Mutex<Option<Instant>>,
    bytes: AtomicU64,
}

impl Storage {
    fn room_file(&self) -> PathBuf {
        self.folder().join(".reeld-reserve")
    }

    /// Has `bytes` of the disk kept, more or less than before, as the disk looked at `seen`: what was given back later stays
    /// so. What an earlier daemon kept counts. Blocks.
    pub fn keep_room(&self, bytes: u64, seen: Instant) -> io::Result<()> {
        let mut given_back = self.changing_room();
        if given_back.is_some_and(|at| seen <= at) {
            return Ok(());
        }
        *given_back = None;
        let path = self.room_file();
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let has = file.metadata()?.len();
        let kept = if has > bytes { file.set_len(bytes) } else { take(&file, has, bytes) };
        let kept = kept.and_then(|()| Ok(file.metadata()?.len())).inspect_err(|_| {
            // Half of it would only take what others need.
            let _ = fs::remove_file(&path);
        });
        self.room.bytes.store(*kept.as_ref().unwrap_or(&0), Ordering::Relaxed);
        kept.map(|_| ())
    }

    /// Gives back what is kept, until it is asked to be kept again. Blocks.
    pub fn give_back_room(&self) {
        if self.changing_room().replace(Instant::now()).is_some() {
            return;
        }
        match fs::remove_file(self.room_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "the room that is kept for the end of recordings cannot be given back");
            }
            _ => {}
        }
        let bytes = self.room.bytes.swap(0, Ordering::Relaxed);
        tracing::warn!(bytes, "the disk is full: recordings are ended with the room that was kept for it");
    }

    /// Gives back what is kept when there is less than `needed` beside it. Blocks.
    pub fn make_room_for(&self, needed: u64) {
        let free = rustix::fs::statvfs(self.folder()).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        if free.is_ok_and(|free| free < needed) {
            self.give_back_room();
        }
    }

    /// Bytes that are kept now.
    pub fn room_bytes(&self) -> u64 {
        self.room.bytes.load(Ordering::Relaxed)
    }

    fn changing_room(&self) -> MutexGuard<'_, Option<Instant>> {
        self.room.given_back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(file: &File, has: u64, bytes: u64) -> io::Result<()> {
    if has == bytes {
        return Ok(());
    }
    match retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), has, bytes - has)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) if has >= bytes.min(MOST_WRITTEN) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, bytes.min(MOST_WRITTEN)),
        taken => Ok(taken?),
    }
}

fn write_zeros(mut file: &File, bytes: u64) -> io::Result<()> {
    let block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let size = left.min(BLOCK as u64);
        file.write_all(&block[..size as usize])?;
        left -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn room_is_really_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let blocks = || fs::metadata(storage.room_file()).map_or(0, |found| found.blocks() * 512);
        let keep = |storage: &Storage, bytes| storage.keep_room(bytes, Instant::now()).unwrap();
        keep(&storage, 1 << 20);
        assert!(blocks() >= 1 << 20, "{} bytes", blocks());
        keep(&storage, 3 << 20);
        assert!(blocks() >= 3 << 20, "{} bytes", blocks());
        keep(&storage, 1 << 20);
        assert_eq!((blocks(), storage.room_bytes()), (1 << 20, 1 << 20));

        let again = Storage::open(dir.path()).unwrap();
        keep(&again, 2 << 20);
        assert_eq!(blocks(), 2 << 20, "what an earlier daemon kept counts");
        storage.make_room_for(1);
        assert!(blocks() > 0, "there is a byte");
        storage.make_room_for(u64::MAX);
        storage.give_back_room();
        assert_eq!((blocks(), storage.room_bytes()), (0, 0));
    }

    /// The thread that looks at the disk took the room again that was given back a moment before, and the file that it was
    /// given back for could not be ended.
    #[test]
    fn what_was_given_back_is_not_taken_by_an_older_order() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let before = Instant::now();
        storage.keep_room(1 << 20, before).unwrap();
        storage.give_back_room();
        storage.keep_room(1 << 20, before).unwrap();
        assert_eq!(storage.room_bytes(), 0);
        storage.keep_room(1 << 20, Instant::now()).unwrap();
        assert_eq!(storage.room_bytes(), 1 << 20);
    }

    #[test]
    fn where_blocks_cannot_be_asked_for_they_are_written() {
        let file = tempfile::tempfile().unwrap();
        write_zeros(&file, 100_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100_000);
    }
}
