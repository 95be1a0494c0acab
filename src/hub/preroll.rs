use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How much of the past streams keep beyond the group of pictures they are in. The default keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrerollRule {
    /// Kept of streams without subscribers: what a start may ask for.
    pub idle: Duration,
    /// Kept of all streams.
    pub always: Duration,
    /// What is kept beyond the current groups, of all streams together, bytes.
    pub memory_bytes: u64,
}

/// How much of the past a subscription begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrerollGiven {
    /// Media time from the first key frame to the newest access unit.
    pub duration: Duration,
    /// Less than asked, because the memory ran short; not: because the stream is young.
    pub shortened: bool,
}

/// The memory that all streams' rings share, and the rule they follow.
pub(super) struct Budget {
    idle_ns: u64,
    always_ns: AtomicU64,
    memory_bytes: u64,
    used_bytes: AtomicU64,
    shortages: AtomicU64,
}

impl Budget {
    pub fn new(rule: PrerollRule) -> Self {
        Self {
            idle_ns: nanos(rule.idle),
            always_ns: AtomicU64::new(nanos(rule.always)),
            memory_bytes: rule.memory_bytes,
            used_bytes: AtomicU64::new(0),
            shortages: AtomicU64::new(0),
        }
    }

    pub fn set_always(&self, always: Duration) {
        self.always_ns.store(nanos(always), Ordering::Relaxed);
    }

    /// Media time to keep, ns.
    pub fn retention_ns(&self, subscribed: bool) -> u64 {
        let always = self.always_ns.load(Ordering::Relaxed);
        if subscribed { always } else { always.max(self.idle_ns) }
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes used beyond what is allowed.
    pub fn over_bytes(&self) -> u64 {
        self.used_bytes().saturating_sub(self.memory_bytes)
    }

    pub fn count_shortage(&self) {
        self.shortages.fetch_add(1, Ordering::Relaxed);
    }

    pub fn shortages(&self) -> u64 {
        self.shortages.load(Ordering::Relaxed)
    }
}

/// One stream's part of the budget, readable without the stream's lock.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: AtomicU64,
    span_ns: AtomicU64,
}

impl Share {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: AtomicU64::new(0), span_ns: AtomicU64::new(0) }
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes and media time beyond the current group of pictures.
    pub fn set(&self, bytes: u64, span_ns: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.span_ns.store(span_ns, Ordering::Relaxed);
        let used = &self.budget.used_bytes;
        if bytes >= before {
            used.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            used.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// `None` when there is nothing to give up.
    pub fn span_ns(&self) -> Option<u64> {
        (self.bytes.load(Ordering::Relaxed) > 0).then(|| self.span_ns.load(Ordering::Relaxed))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
