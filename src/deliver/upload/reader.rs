//! A finished file, read from its beginning to its end beside the async threads and hashed as it is read.

use crate::library::Storage;
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};
use std::{fs::File, io, num::NonZeroU64, os::unix::fs::FileExt, path::Path};

pub(super) struct Reader {
    file: File,
    at: u64,
    size: u64,
    hash: Sha256,
}

/// Why a file is not what is to be uploaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the file is gone from the records folder")]
    Gone,
    #[error("the file has {found} bytes instead of {wanted}: it is not what was recorded any more")]
    Size { found: u64, wanted: u64 },
    #[error("the file's SHA-256 differs: it is not what was recorded any more")]
    Changed,
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Reader {
    /// Of a file of the records folder that has to have `size` bytes. Blocks.
    pub fn open(storage: &Storage, path: &Path, size: u64) -> Result<Self, ReadError> {
        let file = storage.open_to_read(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ReadError::Gone,
            _ => ReadError::Io(e),
        })?;
        let found = file.metadata()?.len();
        if found != size {
            return Err(ReadError::Size { found, wanted: size });
        }
        // It only reads faster.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { file, at: 0, size, hash: Sha256::new() })
    }

    pub fn left(&self) -> u64 {
        self.size - self.at
    }

    /// The next bytes, at most `most`; of those after them the disk is asked already. None at the end. Blocks.
    pub fn next(&mut self, most: u64) -> Result<Bytes, ReadError> {
        let length = self.left().min(most);
        let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut piece, self.at)?;
        self.at += length;
        if let Some(ahead) = NonZeroU64::new(self.left().min(most)) {
            let _ = fadvise(&self.file, self.at, Some(ahead), Advice::WillNeed);
        }
        self.hash.update(&piece);
        Ok(piece.into())
    }

    /// Whether what was read, all of it, is what was recorded.
    pub fn check(&self, sha256: &str) -> Result<(), ReadError> {
        let is_same = self.left() == 0 && hex::encode(self.hash.clone().finalize()) == sha256;
        if is_same { Ok(()) } else { Err(ReadError::Changed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_pieces_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let path = storage.folder().join("cam.mp4");
        std::fs::write(&path, b"twelve bytes").unwrap();
        let sha256 = hex::encode(Sha256::digest(b"twelve bytes"));

        let mut reader = Reader::open(&storage, &path, 12).unwrap();
        assert!(matches!(reader.check(&sha256), Err(ReadError::Changed)), "before its end");
        let mut read = Vec::new();
        while reader.left() > 0 {
            let piece = reader.next(5).unwrap();
            assert!(piece.len() <= 5);
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, b"twelve bytes");
        assert!(reader.check(&sha256).is_ok());
        assert!(matches!(reader.check(&sha256[1..]), Err(ReadError::Changed)));

        let open = |name: &str, size| Reader::open(&storage, &storage.folder().join(name), size).map(drop);
        assert!(matches!(open("cam.mp4", 11), Err(ReadError::Size { found: 12, wanted: 11 })));
        assert!(matches!(open("gone.mp4", 12), Err(ReadError::Gone)));
        assert!(matches!(open("../cam.mp4", 12), Err(ReadError::Gone)));
    }

    #[test]
    fn a_file_that_shrinks_meanwhile_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let path = storage.folder().join("cam.mp4");
        std::fs::write(&path, b"twelve bytes").unwrap();
        let mut reader = Reader::open(&storage, &path, 12).unwrap();
        reader.next(5).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(reader.next(7), Err(ReadError::Io(_))));
    }
}
