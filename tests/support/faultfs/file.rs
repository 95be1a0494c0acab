//! A file of the disk: what is in it, and what a power cut would leave.

use std::{collections::BTreeMap, time::SystemTime};

use super::dice::Dice;

/// What a disk writes at once: a page is on it whole or not at all.
pub const PAGE_BYTES: usize = 4096;

/// Bytes as programs see them, and beside them what was there at the last sync wherever that differs.
#[derive(Debug)]
pub struct File {
    bytes: Vec<u8>,
    synced_bytes: usize,
    /// Pages changed since the last sync, as they were then; short or empty where the file ended.
    before: BTreeMap<usize, Vec<u8>>,
    pub changed: SystemTime,
}

impl Default for File {
    fn default() -> Self {
        Self { bytes: Vec::new(), synced_bytes: 0, before: BTreeMap::new(), changed: SystemTime::now() }
    }
}

impl File {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Up to `count` bytes from `at`, fewer at the end.
    pub fn read(&self, at: usize, count: usize) -> &[u8] {
        let from = at.min(self.bytes.len());
        &self.bytes[from..at.saturating_add(count).min(self.bytes.len()).max(from)]
    }

    pub fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        self.remember(at.min(self.bytes.len()), end);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(data);
        self.changed = SystemTime::now();
    }

    pub fn resize(&mut self, bytes: usize) {
        let (low, high) = (bytes.min(self.bytes.len()), bytes.max(self.bytes.len()));
        self.remember(low, high);
        self.bytes.resize(bytes, 0);
        self.changed = SystemTime::now();
    }

    /// fsync, and fdatasync alike: that makes the size durable, too, as the data could not be read without.
    pub fn sync(&mut self) {
        self.before.clear();
        self.synced_bytes = self.bytes.len();
    }

    /// The power goes: each page changed since the last sync is there or not, and so is a change of size.
    pub fn cut(&mut self, dice: &mut Dice) {
        let current = self.bytes.len();
        let bytes = self.size_left(current, dice);
        self.bytes.resize(bytes, 0);
        for (page, before) in std::mem::take(&mut self.before) {
            let from = page * PAGE_BYTES;
            // What a lost truncation had cut away is there again in any case.
            if from >= bytes || (from < current && dice.keeps()) {
                continue;
            }
            let page = &mut self.bytes[from..bytes.min(from + PAGE_BYTES)];
            let kept = before.len().min(page.len());
            page[..kept].copy_from_slice(&before[..kept]);
            page[kept..].fill(0);
        }
        self.synced_bytes = bytes;
    }

    /// The size of the last sync, the newest, or one on the way between them: a page's end.
    fn size_left(&self, current: usize, dice: &mut Dice) -> usize {
        let (low, high) = (self.synced_bytes.min(current), self.synced_bytes.max(current));
        if low == high || dice.loses_all() {
            return self.synced_bytes;
        }
        let pages = (high - low) / PAGE_BYTES;
        match dice.below(4) {
            0 => self.synced_bytes,
            1 => current,
            _ => (low / PAGE_BYTES * PAGE_BYTES + (1 + dice.below(pages + 1)) * PAGE_BYTES).clamp(low, high),
        }
    }

    fn remember(&mut self, from: usize, to: usize) {
        for page in from / PAGE_BYTES..to.div_ceil(PAGE_BYTES) {
            let bytes = &self.bytes;
            self.before.entry(page).or_insert_with(|| {
                let start = (page * PAGE_BYTES).min(bytes.len());
                bytes[start..bytes.len().min(start + PAGE_BYTES)].to_vec()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(pages: usize) -> File {
        let mut file = File::default();
        file.write(0, &vec![1; pages * PAGE_BYTES]);
        file.sync();
        file
    }

    #[test]
    fn what_is_synced_stays_and_the_rest_is_lost_by_the_page() {
        let mut file = synced(3);
        // Ends within the fourth page and begins within the second.
        file.write(2 * PAGE_BYTES - 10, &vec![2; PAGE_BYTES + 100]);
        file.cut(&mut Dice::all_lost());
        assert_eq!(file.read(0, usize::MAX), vec![1; 3 * PAGE_BYTES]);

        for seed in 0..50 {
            let mut file = synced(3);
            file.write(PAGE_BYTES, &vec![2; 10 * PAGE_BYTES]);
            file.cut(&mut Dice::new(seed));
            assert!((3 * PAGE_BYTES..=11 * PAGE_BYTES).contains(&file.len()), "seed {seed}");
            for (number, page) in file.read(0, usize::MAX).chunks(PAGE_BYTES).enumerate() {
                let old = if number < 3 { 1 } else { 0 };
                let whole = |byte| page.iter().all(|b| *b == byte);
                assert!(
                    if number == 0 { whole(1) } else { whole(2) || whole(old) },
                    "seed {seed}, page {number}"
                );
            }
        }
    }

    #[test]
    fn a_truncation_that_was_not_synced_may_be_undone() {
        let sizes: Vec<_> = (0..50)
            .map(|seed| {
                let mut file = synced(2);
                file.resize(100);
                file.cut(&mut Dice::new(seed));
                assert!(file.read(0, usize::MAX)[..100].iter().all(|b| *b == 1));
                file.len()
            })
            .collect();
        assert!(sizes.contains(&100) && sizes.contains(&(2 * PAGE_BYTES)), "{sizes:?}");
        let mut file = synced(2);
        file.resize(100);
        file.cut(&mut Dice::all_lost());
        assert_eq!(file.read(0, usize::MAX), vec![1; 2 * PAGE_BYTES]);
    }

    #[test]
    fn a_seed_repeats() {
        let left = |seed| {
            let mut file = synced(1);
            file.write(0, &vec![2; 40 * PAGE_BYTES]);
            file.cut(&mut Dice::new(seed));
            file.read(0, usize::MAX).to_vec()
        };
        assert_eq!(left(7), left(7));
        assert_ne!(left(7), left(8));
    }
}
