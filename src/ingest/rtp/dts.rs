//! Decoding times of units that come in decoding order with presentation times only.
//!
//! With a reorder depth of N the decoding time of a unit is the (N+1)-th largest presentation time so far: in decoding
//! order N units at most overtake another, so that none still to come is shown before it. The first N units get times
//! before the first picture, a step apart.

/// Biggest reorder depth (16 in H.264, A.3.1 and H.265, A.4.1).
const MAX_DEPTH: usize = 16;
/// Step of the first units when none is known, ns.
const DEFAULT_STEP_NS: i64 = 40_000_000;
/// How much a decoding time rises at least, ns.
const LEAST_STEP_NS: i64 = 100_000;
/// A unit that is shown so much before the last decoding time, or so much after all others, is no reordered one: the
/// sender's clock was set, or it paused.
const BACK_NS: i64 = 1_000_000_000;
const AHEAD_NS: i64 = 5_000_000_000;
/// Largest difference between the presentation time sent and the one given out, where the order of decoding times asks.
const MAX_SHIFT_NS: i64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// Rises strictly, unless the sender's clock was set back.
    pub dts_ns: i64,
    /// As sent; within 1 ms where units have the same time. Below `dts_ns` only on the few units that show that the
    /// reorder depth is larger than known.
    pub pts_ns: i64,
}

pub(super) struct Dts {
    depth: usize,
    /// The depth that was last told.
    told: Option<u8>,
    step_ns: i64,
    /// The largest presentation times since the last start, largest first; at most `MAX_DEPTH + 1`.
    largest: Vec<i64>,
    /// How much before the first unit others are shown that follow it in decoding order.
    lead_ns: i64,
    /// The earliest presentation time after a start.
    first_ns: i64,
    seen: usize,
    last_dts_ns: Option<i64>,
}

impl Dts {
    pub fn new() -> Self {
        Self {
            depth: 0,
            told: None,
            step_ns: DEFAULT_STEP_NS,
            largest: Vec::with_capacity(MAX_DEPTH + 2),
            lead_ns: 0,
            first_ns: 0,
            seen: 0,
            last_dts_ns: None,
        }
    }

    /// The depth that the parameter sets tell; `None` leaves it to what comes.
    /// Telling it again does not undo what has been learned since.
    pub fn set_depth(&mut self, depth: Option<u8>) {
        let Some(depth) = depth.filter(|_| depth != self.told) else { return };
        self.told = Some(depth);
        self.depth = usize::from(depth).min(MAX_DEPTH);
    }

    /// Learns depth and step from presentation times that are about to come, in decoding order.
    pub fn look_ahead(&mut self, pts_ns: &[i64]) {
        let mut largest = Vec::with_capacity(MAX_DEPTH + 2);
        for &pts in pts_ns {
            let at = insert(&mut largest, pts);
            self.depth = self.depth.max(at.min(MAX_DEPTH));
        }
        let mut sorted = pts_ns.to_vec();
        sorted.sort_unstable();
        if let (Some(first), Some(earliest)) = (pts_ns.first(), sorted.first()) {
            self.lead_ns = first.saturating_sub(*earliest).min(BACK_NS);
        }
        let steps = sorted.windows(2).map(|w| w[1].saturating_sub(w[0])).filter(|s| *s > LEAST_STEP_NS);
        if let Some(step_ns) = steps.min() {
            self.step_ns = step_ns.min(DEFAULT_STEP_NS * 5);
        }
    }

    pub fn next(&mut self, pts_ns: i64) -> Times {
        if self.starts_anew(pts_ns) {
            self.largest.clear();
            self.first_ns = pts_ns.saturating_sub(self.lead_ns);
            self.seen = 0;
        }
        let overtaken_by = insert(&mut self.largest, pts_ns);
        self.depth = self.depth.max(overtaken_by.min(MAX_DEPTH));
        self.seen += 1;
        let wanted_ns = match self.largest.get(self.depth) {
            Some(ns) => *ns,
            None => {
                let missing = (self.depth + 1).saturating_sub(self.seen) as i64;
                self.first_ns.saturating_sub(missing * self.step_ns).min(pts_ns)
            }
        };
        let lowest_ns = self.last_dts_ns.map_or(i64::MIN, |last| last.saturating_add(LEAST_STEP_NS));
        let restarted = self.seen == 1;
        let dts_ns = if restarted && wanted_ns < lowest_ns.saturating_sub(BACK_NS) {
            wanted_ns
        } else {
            wanted_ns.max(lowest_ns)
        };
        self.last_dts_ns = Some(dts_ns);
        let early_ns = dts_ns.saturating_sub(pts_ns);
        let pts_ns = if (0..=MAX_SHIFT_NS).contains(&early_ns) { dts_ns } else { pts_ns };
        Times { dts_ns, pts_ns }
    }

    /// As [`next`](Self::next), of a track whose decoding order is that of presentation: every audio codec's.
    pub fn next_in_order(&mut self, pts_ns: i64) -> Times {
        let set_back = self.last_dts_ns.is_some_and(|last| pts_ns < last.saturating_sub(BACK_NS));
        let lowest_ns =
            self.last_dts_ns.filter(|_| !set_back).map_or(i64::MIN, |l| l.saturating_add(LEAST_STEP_NS));
        let dts_ns = pts_ns.max(lowest_ns);
        self.last_dts_ns = Some(dts_ns);
        Times { dts_ns, pts_ns: dts_ns }
    }

    /// How much before its presentation the first unit decodes, ns.
    pub fn delay_ns(&self) -> i64 {
        self.depth as i64 * self.step_ns + self.lead_ns
    }

    fn starts_anew(&self, pts_ns: i64) -> bool {
        let (Some(last_dts_ns), Some(&latest_ns)) = (self.last_dts_ns, self.largest.first()) else {
            return true;
        };
        pts_ns < last_dts_ns.saturating_sub(BACK_NS) || pts_ns > latest_ns.saturating_add(AHEAD_NS)
    }
}

/// Puts `pts_ns` into its place among the largest; how many are larger.
fn insert(largest: &mut Vec<i64>, pts_ns: i64) -> usize {
    let at = largest.partition_point(|ns| *ns > pts_ns);
    largest.insert(at, pts_ns);
    largest.truncate(MAX_DEPTH + 1);
    at
}

#[cfg(test)]
mod tests;
