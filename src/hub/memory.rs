use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How far subscribers may fall behind before frames are left out for them.
#[derive(Clone, Copy, Debug)]
pub struct QueueRule {
    /// Bytes of one subscriber.
    pub each_bytes: usize,
    /// Bytes of all of them together: past that each has an equal share.
    pub all_bytes: u64,
}

impl From<usize> for QueueRule {
    /// Only each for itself is bounded.
    fn from(each_bytes: usize) -> Self {
        Self { each_bytes, all_bytes: u64::MAX }
    }
}

/// The memory that all subscribers' queues share. A disk that stands still fills all of them at once.
pub(super) struct QueueMemory {
    all_bytes: u64,
    used_bytes: AtomicU64,
    queues: AtomicUsize,
}

impl QueueMemory {
    pub fn new(rule: QueueRule) -> Self {
        Self { all_bytes: rule.all_bytes, used_bytes: AtomicU64::new(0), queues: AtomicUsize::new(0) }
    }

    pub fn join(&self) {
        self.queues.fetch_add(1, Ordering::Relaxed);
    }

    pub fn leave(&self) {
        self.queues.fetch_sub(1, Ordering::Relaxed);
    }

    /// A queue held `before` bytes and holds `after` now.
    pub fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.used_bytes.fetch_add((after - before) as u64, Ordering::Relaxed);
        } else {
            self.used_bytes.fetch_sub((before - after) as u64, Ordering::Relaxed);
        }
    }

    /// What a queue that may hold `each_bytes` may hold now.
    pub fn allowed(&self, each_bytes: usize) -> usize {
        if self.used_bytes() <= self.all_bytes {
            return each_bytes;
        }
        let queues = self.queues.load(Ordering::Relaxed).max(1) as u64;
        each_bytes.min(usize::try_from(self.all_bytes / queues).unwrap_or(usize::MAX))
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}
