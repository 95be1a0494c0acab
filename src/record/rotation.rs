//! When a part gives way to the next one.

use crate::config::{Rotation, RotationAlign};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// A key frame this little early counts: protocols round times to milliseconds.
const TOLERANCE_NS: u64 = 10_000_000;
/// From so long before a seam on, sound waits for the pictures it belongs to.
const NEAR_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct RotationRule {
    pub rotation: Rotation,
    pub align: RotationAlign,
    /// `[limits] max_part_duration`.
    pub max: Duration,
}

/// Where one part is to end. The default: nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Media time, ns.
    at_ns: Option<u64>,
    /// Size of the part.
    bytes: Option<u64>,
    /// `max_part_duration` asks for it.
    pub by_limit: bool,
}

impl RotationRule {
    /// `start_ns`: media time of the part's first frame; `now_ns`, `now`: a moment of the part by both clocks.
    pub fn due(&self, start_ns: u64, now_ns: u64, now: DateTime<Utc>) -> Due {
        let after = |start_ns: u64, length: Duration| start_ns.saturating_add(ns(length));
        let wanted = self.rotation.duration.map(|length| match self.align {
            RotationAlign::Start => after(start_ns, length),
            RotationAlign::Clock => after(now_ns, until_next_multiple(now, length)),
        });
        let limit = after(start_ns, self.max);
        Due {
            at_ns: Some(wanted.map_or(limit, |at| at.min(limit))),
            bytes: self.rotation.bytes,
            by_limit: wanted.is_none_or(|at| at > limit),
        }
    }
}

impl RotationRule {
    /// Nothing came between the two, and the grid of the clock has a seam there: they belong to different parts.
    pub fn has_seam_between(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> bool {
        let (RotationAlign::Clock, Some(length)) = (self.align, self.rotation.duration) else { return false };
        let part = |moment: DateTime<Utc>| since_1970_ns(moment) / ns(length).max(1);
        part(from) < part(to + TimeDelta::nanoseconds(TOLERANCE_NS as i64))
    }
}

impl Due {
    /// `bytes`: what the part holds without the frame that is shown at `media_ns`.
    pub fn is_reached(&self, media_ns: u64, bytes: u64) -> bool {
        let by_time = self.at_ns.is_some_and(|at| media_ns.saturating_add(TOLERANCE_NS) >= at);
        by_time || self.bytes.is_some_and(|most| bytes >= most)
    }

    pub fn is_near(&self, media_ns: u64) -> bool {
        self.at_ns.is_some_and(|at| media_ns.saturating_add(NEAR_NS) >= at)
    }
}

/// From `now` to the next multiple of `length` since 1970; a multiple that is only the tolerance away is not the next.
fn until_next_multiple(now: DateTime<Utc>, length: Duration) -> Duration {
    let moment = now + TimeDelta::nanoseconds(TOLERANCE_NS as i64);
    let since_ns = since_1970_ns(moment);
    let length_ns = ns(length).max(1);
    Duration::from_nanos(length_ns - since_ns % length_ns + TOLERANCE_NS)
}

fn since_1970_ns(moment: DateTime<Utc>) -> u64 {
    u64::try_from(moment.timestamp_nanos_opt().unwrap_or(0)).unwrap_or(0)
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn rule(rotation: Rotation, align: RotationAlign) -> RotationRule {
        RotationRule { rotation, align, max: Duration::from_secs(100) }
    }

    fn every(seconds: u64) -> Rotation {
        Rotation { duration: Some(Duration::from_secs(seconds)), bytes: None }
    }

    #[test]
    fn by_time_size_and_limit() {
        let now = DateTime::UNIX_EPOCH;
        let due = rule(every(10), RotationAlign::Start).due(5 * S, 5 * S, now);
        assert!(!due.is_reached(15 * S - 20_000_000, 1 << 40) && due.is_reached(15 * S - 1_000_000, 0));
        assert!(due.is_near(14 * S) && !due.is_near(13 * S) && !due.by_limit);
        let by_size = Rotation { duration: None, bytes: Some(1000) };
        let due = rule(by_size, RotationAlign::Start).due(0, 0, now);
        assert!(!due.is_reached(99 * S, 999) && due.is_reached(S, 1000));
        assert!(due.is_reached(100 * S, 0) && due.by_limit);
        let both = Rotation { bytes: Some(1000), ..every(10) };
        let due = rule(both, RotationAlign::Start).due(0, 0, now);
        assert!(due.is_reached(10 * S, 0) && due.is_reached(0, 1000) && !due.by_limit);
        assert!(rule(every(1000), RotationAlign::Start).due(0, 0, now).by_limit);
        assert!(!Due::default().is_reached(u64::MAX, u64::MAX));
    }

    #[test]
    fn a_time_without_media_may_hold_a_seam() {
        let at = |ms: i64| DateTime::from_timestamp_millis(1_700_000_040_000 + ms).expect("a time");
        let (clock, start) = (rule(every(60), RotationAlign::Clock), rule(every(60), RotationAlign::Start));
        for (from_ms, to_ms, seam) in [
            (1_000, 59_000, false),
            (59_990, 60_000, true),
            (59_000, 59_995, true),
            (60_000, 61_000, false),
            (1_000, 3_600_000, true),
            (61_000, 59_000, false),
        ] {
            assert_eq!(clock.has_seam_between(at(from_ms), at(to_ms)), seam, "{from_ms} {to_ms}");
            assert!(!start.has_seam_between(at(from_ms), at(to_ms)));
        }
    }

    #[test]
    fn on_the_grid_of_the_clock() {
        let rule = rule(every(60), RotationAlign::Clock);
        for (at_ms, left_ms) in
            [(0, 60_000), (1_000, 59_000), (59_000, 1_000), (59_995, 60_005), (59_980, 20)]
        {
            let now = DateTime::from_timestamp_millis(1_700_000_040_000 + at_ms).expect("a time");
            let due = rule.due(3 * S, 7 * S, now);
            assert_eq!(due.at_ns, Some(7 * S + left_ms * 1_000_000), "{at_ms}");
        }
    }
}
