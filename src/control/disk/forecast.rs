//! What recordings write, how much their ends still need, and which are ended first. Pure.

use crate::{library::RecordingId, record::Footprint};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// What a file takes beside its frames and their index: its manifest, its name, a row of the catalog.
pub(super) const PER_FILE: u64 = 64 << 10;
/// Between a look and the last byte of a recording that it ends: the next look, what the muxer and the writer thread
/// hold, its index and the sync.
const TO_END: Duration = Duration::from_secs(3);
/// How long a change of the rate takes to be seen.
const SMOOTH: Duration = Duration::from_secs(4);
/// What the ends of all recordings may need of the disk, at most: on a small one that is written fast, nothing could be
/// recorded otherwise.
const MOST_OF_DISK: u64 = 4;

/// A recording under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub id: RecordingId,
    pub footprint: Footprint,
    /// It writes no more frames.
    pub ending: bool,
}

#[derive(Debug, Default)]
pub(super) struct Forecast {
    looked_at: Option<Instant>,
    rates: HashMap<RecordingId, Rate>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes: u64,
    per_second: f64,
}

impl Forecast {
    /// Notes how much has been written by now.
    pub fn look(&mut self, writers: &[Writer], now: Instant) {
        let passed = self.looked_at.replace(now).map_or(Duration::ZERO, |at| now.duration_since(at));
        let weight = 1.0 - (-passed.as_secs_f64() / SMOOTH.as_secs_f64()).exp();
        let before = std::mem::take(&mut self.rates);
        self.rates.extend(writers.iter().filter(|w| !w.ending).map(|writer| {
            let bytes = writer.footprint.bytes;
            let rate = match before.get(&writer.id) {
                Some(rate) if !passed.is_zero() => {
                    let now = bytes.saturating_sub(rate.bytes) as f64 / passed.as_secs_f64();
                    Rate { bytes, per_second: rate.per_second + weight * (now - rate.per_second) }
                }
                Some(rate) => *rate,
                // What it begins with, a pre-roll perhaps, is no rate.
                None => Rate { bytes, per_second: 0.0 },
            };
            (writer.id, rate)
        }));
    }

    /// Of all recordings together.
    pub fn bytes_per_second(&self) -> u64 {
        self.rates.values().map(|rate| rate.per_second).sum::<f64>().round() as u64
    }

    /// What it takes to end all recordings: what comes until then, their indexes, their manifests.
    pub fn needs(&self, writers: &[Writer], total: u64) -> u64 {
        let ends: u64 = writers.iter().map(|w| w.footprint.index_bytes.saturating_add(PER_FILE)).sum();
        let comes = self.bytes_per_second().saturating_mul(TO_END.as_secs());
        ends.saturating_add(comes).min(total / MOST_OF_DISK)
    }

    /// Those that are to be ended by this look: all where it is `tight`, else the few that write half of it all.
    pub fn to_end(&self, writers: &[Writer], tight: bool) -> Vec<RecordingId> {
        let rate = |id: RecordingId| self.rates.get(&id).map_or(0.0, |rate| rate.per_second);
        let mut running: Vec<_> =
            writers.iter().filter(|w| !w.ending).map(|w| (w.id, rate(w.id), w.footprint.bytes)).collect();
        running.sort_by(|(_, a, written_a), (_, b, written_b)| b.total_cmp(a).then(written_b.cmp(written_a)));
        if tight {
            return running.into_iter().map(|(id, ..)| id).collect();
        }
        let half = running.iter().map(|(_, rate, _)| rate).sum::<f64>() / 2.0;
        let mut ended = 0.0;
        let enough = running.iter().position(|(_, rate, _)| {
            ended += rate;
            ended >= half
        });
        running.truncate(enough.map_or(running.len(), |last| last + 1));
        running.into_iter().map(|(id, ..)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn writer(bytes: u64, index_bytes: u64) -> Writer {
        Writer { id: RecordingId::random(), footprint: Footprint { bytes, index_bytes }, ending: false }
    }

    /// Each writes its bytes per second, for a minute.
    fn after_a_minute(rates: &[u64]) -> (Forecast, Vec<Writer>) {
        let (mut forecast, mut now) = (Forecast::default(), Instant::now());
        let mut writers: Vec<_> = rates.iter().map(|_| writer(50_000_000, 0)).collect();
        forecast.look(&writers, now);
        for _ in 0..60 {
            now += SECOND;
            writers.iter_mut().zip(rates).for_each(|(w, rate)| w.footprint.bytes += rate);
            forecast.look(&writers, now);
        }
        (forecast, writers)
    }

    #[test]
    fn the_rate_is_what_is_really_written() {
        let (mut forecast, mut writers) = after_a_minute(&[300_000, 100_000]);
        assert_eq!(forecast.bytes_per_second(), 400_000);
        let now = forecast.looked_at.expect("a look");
        forecast.look(&writers, now);
        assert_eq!(forecast.bytes_per_second(), 400_000, "no time has passed");
        forecast.look(&writers, now + SECOND);
        let rate = forecast.bytes_per_second();
        assert!((250_000..400_000).contains(&rate), "smoothed: {rate}");
        writers[0].ending = true;
        forecast.look(&writers, now + 2 * SECOND);
        assert!(forecast.bytes_per_second() < 100_000);
        forecast.look(&[], now + 3 * SECOND);
        assert_eq!(forecast.bytes_per_second(), 0);
    }

    #[test]
    fn what_the_ends_need_grows_with_rate_and_index() {
        let (forecast, mut writers) = after_a_minute(&[300_000, 100_000]);
        let total = 1 << 40;
        assert_eq!(forecast.needs(&writers, total), 3 * 400_000 + 2 * PER_FILE);
        writers[0].footprint.index_bytes = 5_000_000;
        writers[0].ending = true;
        assert_eq!(forecast.needs(&writers, total), 5_000_000 + 3 * 400_000 + 2 * PER_FILE);
        assert_eq!(forecast.needs(&writers, 8_000_000), 2_000_000);
    }

    #[test]
    fn those_that_write_most_are_ended_first_and_all_when_it_is_tight() {
        for (rates, tight, ended) in [
            (&[100, 900, 200][..], false, &[1][..]),
            (&[100, 110, 120, 130], false, &[3, 2]),
            (&[100, 110, 120], true, &[2, 1, 0]),
            (&[0, 0], false, &[0]),
            (&[], true, &[]),
        ] {
            let (forecast, writers) = after_a_minute(rates);
            let wanted: Vec<_> = ended.iter().map(|n| writers[*n].id).collect();
            assert_eq!(forecast.to_end(&writers, tight), wanted, "{rates:?}");
        }
        let (forecast, mut writers) = after_a_minute(&[100, 200]);
        writers[1].ending = true;
        assert_eq!(forecast.to_end(&writers, true), [writers[0].id], "it ends already");
    }
}
