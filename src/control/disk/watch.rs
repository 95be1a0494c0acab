//! The thread that looks at the disk: one that does not answer makes nobody wait. A blocking task of tokio each time would
//! keep that pool's idle threads from ending.

use crate::library::Storage;
use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Once there is little room.
const HURRY: Duration = Duration::from_millis(100);
/// Room that could not be kept is tried for again.
const KEEP_AGAIN: Duration = Duration::from_secs(30);

/// Ends the thread when it is dropped.
pub(super) struct Watch {
    seen: watch::Receiver<Seen>,
    orders: Arc<Mutex<Orders>>,
    storage: Option<Storage>,
    _thread: Sender<()>,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub at: Instant,
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub writable: rustix::io::Result<()>,
}

/// What the thread does beside looking.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    pub hurry: bool,
    /// Room to be kept for the end of recordings; `None`: what is kept stays.
    pub keep_room: Option<u64>,
    /// What is kept is needed now.
    pub give_back: bool,
    /// When the look was that this follows from; `None`: there was none yet.
    pub seen: Option<Instant>,
}

impl Watch {
    /// Blocks on the disk once.
    pub fn start(storage: Storage) -> Self {
        let (told, seen) = watch::channel(Seen::now(storage.folder()));
        let (thread, ended) = channel();
        let orders = Arc::new(Mutex::default());
        let (its_orders, its_storage) = (orders.clone(), storage.clone());
        let look = move || keep_looking(&its_storage, &told, &its_orders, &ended);
        if let Err(error) = std::thread::Builder::new().name("disk".into()).spawn(look) {
            tracing::error!(%error, "the disk of the records folder cannot be watched");
        }
        Self { seen, orders, storage: Some(storage), _thread: thread }
    }

    #[cfg(test)]
    pub fn of(seen: Seen) -> Self {
        let (_, seen) = watch::channel(seen);
        Self { seen, orders: Arc::default(), storage: None, _thread: channel().0 }
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Changes with every look; closed when the thread ends.
    pub fn looks(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    /// Room that is kept now, bytes.
    pub fn room_bytes(&self) -> u64 {
        self.storage.as_ref().map_or(0, Storage::room_bytes)
    }

    pub fn order(&self, orders: Orders) {
        *lock(&self.orders) = orders;
    }
}

fn keep_looking(storage: &Storage, told: &watch::Sender<Seen>, orders: &Mutex<Orders>, ended: &Receiver<()>) {
    let mut room = Keeping::default();
    loop {
        let Orders { hurry, keep_room, give_back, seen } = *lock(orders);
        if ended.recv_timeout(if hurry { HURRY } else { LOOK_EVERY }) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        if give_back && storage.room_bytes() > 0 {
            storage.give_back_room();
        } else if let (Some(bytes), Some(seen)) = (keep_room, seen) {
            room.keep(storage, bytes, seen);
        }
        let now = Seen::now(storage.folder());
        // A disk that does not tell is not a full one.
        told.send_modify(|seen| match now.total_bytes {
            0 => (seen.at, seen.writable) = (now.at, now.writable),
            _ => *seen = now,
        });
    }
}

/// What came of keeping room.
#[derive(Default)]
struct Keeping {
    failed: Option<(Instant, io::ErrorKind)>,
}

impl Keeping {
    fn keep(&mut self, storage: &Storage, bytes: u64, seen: Instant) {
        let before = self.failed;
        if storage.room_bytes() == bytes || before.is_some_and(|(at, _)| at.elapsed() < KEEP_AGAIN) {
            return;
        }
        self.failed = storage.keep_room(bytes, seen).err().map(|error| {
            if before.is_none_or(|(_, kind)| kind != error.kind()) {
                tracing::warn!(bytes, %error, "no room can be kept for the end of recordings; told once");
            }
            (Instant::now(), error.kind())
        });
    }
}

fn lock(orders: &Mutex<Orders>) -> MutexGuard<'_, Orders> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[tokio::test]
    async fn it_is_looked_at_again_and_again_and_room_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let records = dir.path().join("records");
        let storage = Storage::open(&records).expect("a folder");
        std::fs::remove_dir(&records).expect("an empty folder");
        let watch = Watch::start(storage);
        assert!(watch.seen().writable.is_err(), "there is no such folder");
        std::fs::create_dir(&records).expect("a folder");
        let seen = Some(Instant::now());
        watch.order(Orders { hurry: true, keep_room: Some(1 << 20), give_back: false, seen });
        let mut looks = watch.looks();
        let kept = looks.wait_for(|seen| seen.writable.is_ok() && watch.room_bytes() == 1 << 20);
        let seen =
            tokio::time::timeout(Duration::from_secs(10), kept).await.expect("seen").expect("a thread");
        assert!(seen.total_bytes > 0);
        drop(seen);
        watch.order(Orders { hurry: true, keep_room: None, give_back: true, seen: None });
        let given_back = looks.wait_for(|_| watch.room_bytes() == 0);
        tokio::time::timeout(Duration::from_secs(10), given_back).await.expect("seen").expect("a thread");
        assert_eq!(std::fs::read_dir(records).expect("a folder").count(), 0);
    }
}
