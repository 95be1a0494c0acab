use super::{Gap, GapKind, TrackId};
use std::time::Duration;

/// A step back within a track by more than this is a jump of the sender's clock, not jitter.
const BACK_LIMIT_MS: i64 = 1_000;
/// A step ahead of everything seen by more than this (plus the wall time that passed) is a jump.
const AHEAD_LIMIT_MS: i64 = 5_000;
/// How far apart the first frames of two tracks may be.
const TRACK_SKEW_LIMIT_MS: i64 = 10_000;

/// Running time of the first message. Not 0: a second track may begin earlier than the first message of all.
const ORIGIN_MS: i64 = TRACK_SKEW_LIMIT_MS;

/// Turns a publisher's 32-bit millisecond timestamps into one running time per stream that starts at
/// 10 s and never goes back within a track: unwraps the 32 bits (every 49.7 days) and takes out jumps.
///
/// After a jump all tracks go on with the same new offset, so that audio and video stay in step; stragglers
/// still stamped with the old clock are placed with the old offset.
#[derive(Debug, Default)]
pub struct Timeline {
    started: bool,
    /// The last timestamp seen on any track, unwrapped, ms.
    raw_ms: i64,
    /// Running time = unwrapped timestamp + offset, ms.
    offset_ms: i64,
    previous_offset_ms: Option<i64>,
    /// The highest running time given out, ms.
    front_ms: i64,
    last_now: Duration,
    tracks: Vec<Option<TrackClock>>,
}

#[derive(Clone, Copy, Debug)]
struct TrackClock {
    last_ms: i64,
    step_ms: i64,
}

/// Where one access unit belongs.
#[derive(Debug, PartialEq, Eq)]
pub struct TimelineStep {
    /// Decoding time, ms of the stream's running time.
    pub dts_ms: u64,
    /// Set on the first access unit after a jump.
    pub jump: Option<Gap>,
}

impl Timeline {
    /// `raw_ms`: the message's timestamp as sent. `now`: monotonic time since any fixed origin.
    pub fn step(&mut self, track: TrackId, raw_ms: u32, now: Duration) -> TimelineStep {
        let raw = self.unwrap(raw_ms);
        let waited_ms = now.saturating_sub(self.last_now).as_millis() as i64;
        self.last_now = now;

        let wanted_ms = raw + self.offset_ms;
        let previous_ms = self.previous_offset_ms.map(|o| raw + o);
        let (out_ms, jump) = match previous_ms {
            _ if self.fits(track, wanted_ms, waited_ms) => (wanted_ms, None),
            Some(ms) if self.fits(track, ms, waited_ms) => (ms, None),
            _ => {
                let out_ms = self.next_free_ms(track);
                self.previous_offset_ms = Some(self.offset_ms);
                self.offset_ms = out_ms - raw;
                let by_ms = wanted_ms - out_ms;
                let gap =
                    Gap { kind: GapKind::TimestampJump, at_ms: out_ms as u64, by_ms, frames: 0, packets: 0 };
                (out_ms, Some(gap))
            }
        };
        TimelineStep { dts_ms: self.advance(track, out_ms), jump }
    }

    fn unwrap(&mut self, raw_ms: u32) -> i64 {
        if !self.started {
            self.started = true;
            self.raw_ms = i64::from(raw_ms);
            self.offset_ms = ORIGIN_MS - self.raw_ms;
            self.front_ms = ORIGIN_MS;
        } else {
            let delta = raw_ms.wrapping_sub(self.raw_ms as u32) as i32;
            self.raw_ms += i64::from(delta);
        }
        self.raw_ms
    }

    fn clock(&self, track: TrackId) -> Option<TrackClock> {
        self.tracks.get(usize::from(track.0)).copied().flatten()
    }

    fn fits(&self, track: TrackId, ms: i64, waited_ms: i64) -> bool {
        let earliest = match self.clock(track) {
            Some(clock) => clock.last_ms - BACK_LIMIT_MS,
            None => self.front_ms - TRACK_SKEW_LIMIT_MS,
        };
        ms >= earliest && ms <= self.front_ms + AHEAD_LIMIT_MS + waited_ms
    }

    fn next_free_ms(&self, track: TrackId) -> i64 {
        self.clock(track).map_or(self.front_ms, |c| self.front_ms.max(c.last_ms + c.step_ms))
    }

    fn advance(&mut self, track: TrackId, out_ms: i64) -> u64 {
        let index = usize::from(track.0);
        if self.tracks.len() <= index {
            self.tracks.resize(index + 1, None);
        }
        let clock = self.tracks[index].get_or_insert(TrackClock { last_ms: out_ms.max(0), step_ms: 0 });
        let dts_ms = out_ms.max(clock.last_ms);
        *clock = TrackClock { last_ms: dts_ms, step_ms: dts_ms - clock.last_ms };
        self.front_ms = self.front_ms.max(dts_ms);
        dts_ms as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: TrackId = TrackId(0);
    const A: TrackId = TrackId(1);

    fn run(steps: &[(TrackId, u32)]) -> Vec<(u64, bool)> {
        let mut line = Timeline::default();
        steps
            .iter()
            .map(|&(track, raw)| line.step(track, raw, Duration::ZERO))
            .map(|s| (s.dts_ms - ORIGIN_MS as u64, s.jump.is_some()))
            .collect()
    }

    #[test]
    fn starts_at_zero_and_keeps_the_offset_between_tracks() {
        assert_eq!(run(&[(V, 700), (A, 720), (V, 733)]), [(0, false), (20, false), (33, false)]);
    }

    #[test]
    fn a_track_that_begins_before_the_first_message_keeps_its_place() {
        let mut line = Timeline::default();
        let dts =
            [(V, 2_000), (A, 0), (A, 23)].map(|(track, raw)| line.step(track, raw, Duration::ZERO).dts_ms);
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
            line.step(V, ms, Duration::ZERO);
        }
        let step = line.step(V, 3_600_080, Duration::ZERO);
        assert_eq!(step.dts_ms, ORIGIN_MS as u64 + 120);
        let gap = step.jump.expect("a jump");
        assert_eq!(
            (gap.kind, gap.at_ms, gap.by_ms),
            (GapKind::TimestampJump, ORIGIN_MS as u64 + 120, 3_599_960)
        );
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
        line.step(V, 0, Duration::ZERO);
        let step = line.step(V, 8_000, Duration::from_secs(8));
        assert_eq!(step, TimelineStep { dts_ms: ORIGIN_MS as u64 + 8_000, jump: None });
    }

    proptest::proptest! {
        #[test]
        fn no_track_ever_goes_back(steps in proptest::collection::vec((0u8..3, proptest::num::u32::ANY), 1..200)) {
            let mut line = Timeline::default();
            let mut last = [0u64; 3];
            for (track, raw) in steps {
                let got = line.step(TrackId(track), raw, Duration::ZERO).dts_ms;
                proptest::prop_assert!(got >= last[usize::from(track)]);
                last[usize::from(track)] = got;
            }
        }
    }
}
