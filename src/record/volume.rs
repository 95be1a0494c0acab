use std::sync::atomic::{AtomicU64, Ordering};

/// What the index of a file takes for an access unit at most: its size, its times, its place, whether it is a key frame.
const INDEX_BYTES_PER_UNIT: u64 = 24;

/// How much a recording writes, told by its writer thread and its books; read by who watches the disk.
#[derive(Debug, Default)]
pub(super) struct Volume {
    bytes: AtomicU64,
    /// Access units in the files under way.
    open_units: AtomicU64,
    /// Access units in files that are being made whole.
    closed_units: AtomicU64,
}

/// How much a recording has written, and still has to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// In all its files, without what the container adds.
    pub bytes: u64,
    /// What the indexes of its unfinished files take at most.
    pub index_bytes: u64,
}

/// Of a file with so many access units, at most.
pub(super) fn index_bytes(units: u64) -> u64 {
    units.saturating_mul(INDEX_BYTES_PER_UNIT)
}

impl Volume {
    /// `units`: in the files under way; `bytes`: in all.
    pub fn note(&self, bytes: u64, units: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.open_units.store(units, Ordering::Relaxed);
    }

    /// A file with so many is not written to any more, and is to be made whole.
    pub fn close(&self, units: u64) {
        self.closed_units.fetch_add(units, Ordering::Relaxed);
    }

    /// One of those is whole, or given up.
    pub fn finished(&self, units: u64) {
        self.closed_units.fetch_sub(units, Ordering::Relaxed);
    }

    pub fn footprint(&self) -> Footprint {
        let units = self.open_units.load(Ordering::Relaxed) + self.closed_units.load(Ordering::Relaxed);
        Footprint { bytes: self.bytes.load(Ordering::Relaxed), index_bytes: index_bytes(units) }
    }
}
