use super::books::Totals;
use std::sync::{Arc, atomic::Ordering};

/// What a file under way takes beyond the writer threads, counted in the totals as long as this lives.
pub(super) struct Usage {
    totals: Arc<Totals>,
    threads: u64,
    transcoded: u64,
}

impl Usage {
    /// `threads`: owned by its elements; `transcoded`: tracks that are decoded and encoded.
    pub fn new(totals: Arc<Totals>, threads: usize, transcoded: usize) -> Self {
        let usage = Self { totals, threads: threads as u64, transcoded: transcoded as u64 };
        usage.totals.element_threads.fetch_add(usage.threads, Ordering::Relaxed);
        usage.totals.transcoded_tracks.fetch_add(usage.transcoded, Ordering::Relaxed);
        usage
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.totals.element_threads.fetch_sub(self.threads, Ordering::Relaxed);
        self.totals.transcoded_tracks.fetch_sub(self.transcoded, Ordering::Relaxed);
    }
}
