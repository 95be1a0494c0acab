use super::{Gap, GapKind, TrackId};
use std::time::Duration;

const NS_PER_MS: i64 = 1_000_000;

/// A step back within a track by more than this is a jump of the sender's clock, not jitter.
const BACK_LIMIT_NS: i64 = 1_000 * NS_PER_MS;
/// A step ahead of everything seen by more than this (plus the wall time that passed) is a jump.
const AHEAD_LIMIT_NS: i64 = 5_000 * NS_PER_MS;
/// How far apart the first frames of two tracks may be.
const TRACK_SKEW_LIMIT_NS: i64 = 10_000 * NS_PER_MS;

/// Running time of the first message. Not 0: a second track may begin earlier than the first message of all.
const ORIGIN_NS: i64 = TRACK_SKEW_LIMIT_NS;

/// Turns a publisher's timestamps into one running time per stream that starts at 10 s and never goes back within a
/// track: takes out jumps, and unwraps 32-bit milliseconds (every 49.7 days).
///
/// After a jump all tracks go on with the same new offset, so that audio and video stay in step; stragglers
/// still stamped with the old clock are placed with the old offset.
#[derive(Debug, Default)]
pub struct Timeline {
    started: bool,
    /// The last 32-bit timestamp seen on any track, unwrapped, ms.
    raw_ms: Option<i64>,
    /// Running time = unwrapped timestamp + offset.
    offset_ns: i64,
    previous_offset_ns: Option<i64>,
    /// The highest running time given out.
    front_ns: i64,
    last_now: Duration,
    tracks: Vec<Option<TrackClock>>,
}

#[derive(Clone, Copy, Debug)]
struct TrackClock {
    last_ns: i64,
    step_ns: i64,
}

impl TrackClock {
    fn next_ns(&self) -> i64 {
        self.last_ns.saturating_add(self.step_ns)
    }
}

/// Where one access unit belongs.
#[derive(Debug, PartialEq, Eq)]
pub struct TimelineStep {
    /// Decoding time, ns of the stream's running time.
    pub dts_ns: u64,
    /// Set on the first access unit after a jump.
    pub jump: Option<Gap>,
}

impl Timeline {
    /// As [`step`](Self::step), of a protocol whose timestamps are 32-bit milliseconds on one clock for all tracks.
    pub fn step_ms(&mut self, track: TrackId, raw_ms: u32, now: Duration) -> TimelineStep {
        let unwrapped_ms = match self.raw_ms {
            Some(last) => last + i64::from(raw_ms.wrapping_sub(last as u32) as i32),
            None => i64::from(raw_ms),
        };
        self.raw_ms = Some(unwrapped_ms);
        self.step(track, unwrapped_ms.saturating_mul(NS_PER_MS), now)
    }

    /// `raw_ns`: decoding time on the sender's clock, which does not wrap. `now`: monotonic time since any fixed
    /// origin.
    pub fn step(&mut self, track: TrackId, raw_ns: i64, now: Duration) -> TimelineStep {
        if !self.started {
            self.started = true;
            self.offset_ns = ORIGIN_NS.saturating_sub(raw_ns);
            self.front_ns = ORIGIN_NS;
        }
        let waited_ns = i64::try_from(now.saturating_sub(self.last_now).as_nanos()).unwrap_or(i64::MAX);
        self.last_now = now;

        let wanted_ns = raw_ns.saturating_add(self.offset_ns);
        let previous_ns = self.previous_offset_ns.map(|o| raw_ns.saturating_add(o));
        let (out_ns, jump) = match previous_ns {
            _ if self.fits(track, wanted_ns, waited_ns) => (wanted_ns, None),
            Some(ns) if self.fits(track, ns, waited_ns) => (ns, None),
            _ => {
                let out_ns = self.next_free_ns(track);
                self.previous_offset_ns = Some(self.offset_ns);
                self.offset_ns = out_ns.saturating_sub(raw_ns);
                let gap = Gap {
                    kind: GapKind::TimestampJump,
                    at_ms: (out_ns / NS_PER_MS) as u64,
                    by_ms: wanted_ns.saturating_sub(out_ns) / NS_PER_MS,
                    at: None,
                    frames: 0,
                    packets: 0,
                };
                (out_ns, Some(gap))
            }
        };
        TimelineStep { dts_ns: self.advance(track, out_ns), jump }
    }

    /// As [`resume`](Self::resume), on a new clock of 32-bit milliseconds.
    pub fn resume_ms(&mut self, raw_ms: u32) -> u64 {
        self.raw_ms = None;
        self.resume(i64::from(raw_ms) * NS_PER_MS)
    }

    /// The sender came back after an absence that is left out: `raw_ns` on its new clock goes behind all that has been
    /// given out. Returns where that is, ns of the running time.
    pub fn resume(&mut self, raw_ns: i64) -> u64 {
        let ends = self.tracks.iter().flatten().map(TrackClock::next_ns);
        let out_ns = ends.fold(self.front_ns.max(ORIGIN_NS), i64::max);
        self.started = true;
        self.previous_offset_ns = None;
        self.offset_ns = out_ns.saturating_sub(raw_ns);
        self.front_ns = out_ns;
        out_ns as u64
    }

    fn clock(&self, track: TrackId) -> Option<TrackClock> {
        self.tracks.get(usize::from(track.0)).copied().flatten()
    }

    fn fits(&self, track: TrackId, ns: i64, waited_ns: i64) -> bool {
        let earliest = match self.clock(track) {
            Some(clock) => clock.last_ns - BACK_LIMIT_NS,
            None => self.front_ns - TRACK_SKEW_LIMIT_NS,
        };
        let latest = self.front_ns.saturating_add(AHEAD_LIMIT_NS).saturating_add(waited_ns);
        (earliest..=latest).contains(&ns)
    }

    fn next_free_ns(&self, track: TrackId) -> i64 {
        self.clock(track).map_or(self.front_ns, |c| self.front_ns.max(c.next_ns()))
    }

    fn advance(&mut self, track: TrackId, out_ns: i64) -> u64 {
        let index = usize::from(track.0);
        if self.tracks.len() <= index {
            self.tracks.resize(index + 1, None);
        }
        let clock = self.tracks[index].get_or_insert(TrackClock { last_ns: out_ns.max(0), step_ns: 0 });
        let dts_ns = out_ns.max(clock.last_ns);
        *clock = TrackClock { last_ns: dts_ns, step_ns: dts_ns - clock.last_ns };
        self.front_ns = self.front_ns.max(dts_ns);
        dts_ns as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: TrackId = TrackId(0);
    const A: TrackId = TrackId(1);
    const ORIGIN_MS: u64 = ORIGIN_NS as u64 / 1_000_000;

    /// RTMP's milliseconds stay whole.
    fn ms(ns: u64) -> u64 {
        assert_eq!(ns % 1_000_000, 0);
        ns / 1_000_000
    }

    fn run(steps: &[(TrackId, u32)]) -> Vec<(u64, bool)> {
        let mut line = Timeline::default();
        steps
            .iter()
            .map(|&(track, raw)| line.step_ms(track, raw, Duration::ZERO))
            .map(|s| (ms(s.dts_ns) - ORIGIN_MS, s.jump.is_some()))
            .collect()
    }

    #[test]
    fn starts_at_zero_and_keeps_the_offset_between_tracks() {
        assert_eq!(run(&[(V, 700), (A, 720), (V, 733)]), [(0, false), (20, false), (33, false)]);
    }

    #[test]
    fn a_track_that_begins_before_the_first_message_keeps_its_place() {
        let mut line = Timeline::default();
        let dts = [(V, 2_000), (A, 0), (A, 23)]
            .map(|(track, raw)| ms(line.step_ms(track, raw, Duration::ZERO).dts_ns));
        assert_eq!(dts, [10_000, 8_000, 8_023]);
    }

    #[test]
    fn thirty_two_bits_wrap_without_a_jump() {
        assert_eq!(run(&[(V, u32::MAX - 10), (V, 22), (A, 30)]), [(0, false), (33, false), (41, false)]);
    }

    #[test]
    fn a_clock_set_back_goes_on_and_tracks_stay_in_step() {
        let got = run(&[(V, 9_000), (A, 9_010), (V, 9_040), (V, 0), (A, 10), (V, 40)]);
        assert_eq!(got, [(0, false), (10, false), (40, false), (80, true), (90, false), (120, false)]);
    }

    #[test]
    fn a_jump_far_ahead_is_taken_out_and_told() {
        let mut line = Timeline::default();
        for ms in [0, 40, 80] {
            line.step_ms(V, ms, Duration::ZERO);
        }
        let step = line.step_ms(V, 3_600_080, Duration::ZERO);
        assert_eq!(ms(step.dts_ns), ORIGIN_MS + 120);
        let gap = step.jump.expect("a jump");
        assert_eq!((gap.kind, gap.at_ms, gap.by_ms), (GapKind::TimestampJump, ORIGIN_MS + 120, 3_599_960));
    }

    #[test]
    fn a_straggler_of_the_old_clock_keeps_its_place() {
        let got = run(&[(V, 50_000), (A, 50_000), (V, 50_040), (V, 0), (A, 50_023), (A, 5), (V, 40)]);
        assert_eq!(
            got,
            [(0, false), (0, false), (40, false), (80, true), (23, false), (85, false), (120, false)]
        );
    }

    #[test]
    fn a_pause_as_long_as_the_wall_clock_says_is_kept() {
        let mut line = Timeline::default();
        line.step_ms(V, 0, Duration::ZERO);
        let step = line.step_ms(V, 8_000, Duration::from_secs(8));
        assert_eq!(step, TimelineStep { dts_ns: (ORIGIN_MS + 8_000) * 1_000_000, jump: None });
    }

    #[test]
    fn nanoseconds_stay_exact() {
        let mut line = Timeline::default();
        let raw = [5, 33_333_338, 66_666_672];
        let dts = raw.map(|ns| line.step(V, ns, Duration::ZERO).dts_ns - ORIGIN_NS as u64);
        assert_eq!(dts, [0, 33_333_333, 66_666_667]);
    }

    #[test]
    fn a_sender_that_comes_back_goes_on_where_it_was() {
        let mut line = Timeline::default();
        for (track, raw) in [(V, 0), (A, 10), (V, 40), (A, 33)] {
            line.step_ms(track, raw, Duration::ZERO);
        }
        let away = Duration::from_secs(3_600);
        assert_eq!(ms(line.resume(7_000_000_000)), ORIGIN_MS + 80);
        let steps = [(A, 7_005), (V, 7_000), (V, 7_040)].map(|(t, raw)| line.step(t, raw * NS_PER_MS, away));
        assert_eq!(steps.map(|s| (ms(s.dts_ns) - ORIGIN_MS, s.jump)), [(85, None), (80, None), (120, None)]);
    }

    proptest::proptest! {
        #[test]
        fn no_nanosecond_is_too_large(steps in proptest::collection::vec((0u8..3, proptest::num::i64::ANY), 1..200)) {
            let mut line = Timeline::default();
            let mut last = [0u64; 3];
            for (track, raw) in steps {
                let got = line.step(TrackId(track), raw, Duration::ZERO).dts_ns;
                proptest::prop_assert!(got >= last[usize::from(track)]);
                last[usize::from(track)] = got;
            }
        }

        #[test]
        fn no_track_ever_goes_back(steps in proptest::collection::vec((0u8..3, proptest::num::u32::ANY), 1..200)) {
            let mut line = Timeline::default();
            let mut last = [0u64; 3];
            for (track, raw) in steps {
                let got = line.step_ms(TrackId(track), raw, Duration::ZERO).dts_ns;
                proptest::prop_assert!(got >= last[usize::from(track)]);
                last[usize::from(track)] = got;
            }
        }
    }
}
