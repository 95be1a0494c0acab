//! The disk of the records folder, looked at by a thread of its own: one that does not answer makes nobody wait. A blocking
//! task of tokio each time would keep that pool's idle threads from ending.

use super::DiskInfo;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

/// With less free space the disk counts as full: about what a fragment of a few streams takes.
const MIN_FREE_BYTES: u64 = 4 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A disk that has not answered for this long cannot be recorded to.
const MUST_ANSWER: Duration = Duration::from_secs(10);

/// Looks at the disk until it is dropped.
pub(super) struct Disk {
    folder: PathBuf,
    seen: Arc<Mutex<Seen>>,
    /// The thread ends when this is dropped.
    _watch: Sender<()>,
}

#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    free_bytes: u64,
    total_bytes: u64,
    writable: rustix::io::Result<()>,
}

impl Disk {
    /// Blocks on the disk once.
    pub fn watch(folder: PathBuf) -> Self {
        let seen = Arc::new(Mutex::new(Seen::now(&folder)));
        let (watch, ended) = channel();
        let (at, told) = (folder.clone(), seen.clone());
        let look = move || keep_looking(&at, &told, &ended);
        if let Err(error) = std::thread::Builder::new().name("disk".into()).spawn(look) {
            tracing::error!(%error, "the disk of the records folder cannot be watched");
        }
        Self { folder, seen, _watch: watch }
    }

    /// As it was when it last answered.
    pub fn info(&self) -> DiskInfo {
        let Seen { free_bytes, total_bytes, .. } = *lock(&self.seen);
        DiskInfo { path: self.folder.clone(), free_bytes, total_bytes }
    }

    /// Whether there can be recorded to it; if not, why.
    pub fn ready(&self) -> Result<(), String> {
        let path = self.folder.display();
        let seen = lock(&self.seen).clone();
        let silent = seen.at.elapsed();
        if silent > MUST_ANSWER {
            return Err(format!("the disk of {path} has not answered for {} s", silent.as_secs()));
        }
        seen.writable.map_err(|e| format!("the records folder {path} cannot be written to: {e}"))?;
        if seen.free_bytes < MIN_FREE_BYTES {
            return Err(format!(
                "the disk of the records folder {path} is full: {} bytes are free",
                seen.free_bytes
            ));
        }
        Ok(())
    }
}

fn keep_looking(folder: &Path, seen: &Mutex<Seen>, ended: &Receiver<()>) {
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let now = Seen::now(folder);
        *lock(seen) = now;
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn now(folder: &Path) -> Self {
        let (free_bytes, total_bytes) = rustix::fs::statvfs(folder).map_or((0, 0), |fs| {
            (fs.f_bavail.saturating_mul(fs.f_frsize), fs.f_blocks.saturating_mul(fs.f_frsize))
        });
        let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
        Self { at: Instant::now(), free_bytes, total_bytes, writable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: Instant, free_bytes: u64, writable: rustix::io::Result<()>) -> Result<(), String> {
        let seen = Arc::new(Mutex::new(Seen { at, free_bytes, total_bytes: 1 << 40, writable }));
        Disk { folder: "/records".into(), seen, _watch: channel().0 }.ready()
    }

    #[test]
    fn what_keeps_it_from_being_recorded_to_is_named() {
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(MUST_ANSWER + Duration::from_secs(1)) else { return };
        assert_eq!(seen(now, 1 << 30, Ok(())), Ok(()));
        let cases = [
            (seen(long_ago, 1 << 30, Ok(())), "has not answered for 11 s"),
            (seen(now, 1 << 30, Err(rustix::io::Errno::ROFS)), "cannot be written to"),
            (seen(now, 1 << 20, Ok(())), "is full"),
        ];
        for (ready, expected) in cases {
            let why = ready.expect_err(expected);
            assert!(why.contains(expected) && why.contains("/records"), "{why}");
        }
    }

    #[tokio::test]
    async fn it_is_looked_at_again_and_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::watch(dir.path().join("records"));
        assert!(disk.ready().is_err(), "there is no such folder");
        std::fs::create_dir(dir.path().join("records")).expect("a folder");
        let seen = async {
            while disk.ready().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.expect("seen");
        assert!(disk.info().total_bytes > 0);
    }
}
