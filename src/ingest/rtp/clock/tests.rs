use super::*;

const V: usize = 0;
const A: usize = 1;
const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;

fn av() -> Clock {
    Clock::new([(90_000, true), (48_000, false)])
}

fn at_ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// NTP time in 32.32 of `ns` after some moment in 2026.
fn ntp(ns: i64) -> u64 {
    let ns = 3_990_000_000 * i128::from(S) + i128::from(ns);
    (((ns << 32) + i128::from(S) / 2) / i128::from(S)) as u64
}

fn near(got: i64, wanted: i64, within: i64) {
    assert!((got - wanted).abs() <= within, "{got} is not within {within} ns of {wanted}");
}

/// Time of `timestamp` on the common clock.
fn time(clock: &mut Clock, track: usize, timestamp: u32) -> i64 {
    let media_ns = clock.media_ns(track, timestamp);
    clock.time_ns(track, media_ns)
}

#[test]
fn thirty_two_bits_wrap() {
    let mut clock = av();
    let first = u32::MAX - 3_000 + 1;
    clock.packet(V, first, at_ms(50));
    clock.packet(V, first.wrapping_add(3_000), at_ms(90));
    clock.settle();
    let start = time(&mut clock, V, first);
    assert_eq!(time(&mut clock, V, 0) - start, 33_333_333);
    clock.packet(V, 3_000, at_ms(120));
    assert_eq!(time(&mut clock, V, 3_000) - start, 66_666_666);
    // A B-frame is stamped before the newest one.
    assert_eq!(time(&mut clock, V, first) - start, 0);
}

#[test]
fn a_long_stream_stays_exact() {
    let mut clock = av();
    // 60 h: five wraps of 32 bits at 90 kHz.
    for minute in 0..3_600u64 {
        clock.packet(V, (minute * 60 * 90_000) as u32, Duration::from_secs(minute * 60));
    }
    clock.settle();
    assert_eq!(clock.media_ns(V, (3_599u64 * 60 * 90_000) as u32), 3_599 * 60 * S);
}

#[test]
fn before_reports_the_packet_that_was_least_late_places_a_track() {
    let mut clock = av();
    for (n, late) in [80, 30, 5, 60].into_iter().enumerate() {
        clock.packet(V, 3_600 * n as u32, at_ms(1_000 + 40 * n as u64 + late));
        clock.packet(A, 77 + 1_920 * n as u32, at_ms(1_000 + 40 * n as u64 + late / 5));
    }
    clock.settle();
    assert_eq!(time(&mut clock, V, 0), 1_005 * MS);
    assert_eq!(time(&mut clock, A, 77), 1_001 * MS);
}

#[test]
fn reports_place_the_other_track_exactly() {
    for (video_ms, audio_ms) in [(0, 700), (2_500, 0)] {
        let mut clock = av();
        clock.packet(V, 1_000, at_ms(100));
        clock.packet(A, 5_000, at_ms(100));
        // Media time 0 of both, on the sender's clock.
        clock.report(V, ntp(video_ms * MS), 1_000);
        // The report is of a moment half a second later.
        clock.report(A, ntp(audio_ms * MS + S / 2), 5_000 + 24_000);
        assert_eq!(clock.settle(), None);
        let video = time(&mut clock, V, 1_000);
        assert_eq!(video, 100 * MS, "the reference stays");
        near(time(&mut clock, A, 5_000) - video, (audio_ms - video_ms) * MS, 2);
    }
}

#[test]
fn a_first_report_after_the_start_slews_by_20_ms_per_second() {
    let mut clock = av();
    for track in [V, A] {
        clock.packet(track, 0, at_ms(0));
    }
    clock.settle();
    clock.report(V, ntp(0), 0);
    clock.report(A, ntp(-200 * MS), 0);
    let mut last = i64::MIN;
    for n in 0..1_000u32 {
        let got = time(&mut clock, A, n * 960);
        let sent = i64::from(n) * 20 * MS;
        near(got, sent - (sent / 50).min(200 * MS), 1_000);
        assert!(got > last);
        last = got;
    }
}

/// Audio and video sampled by crystals that are 100 ppm apart, for an hour, with reports every 5 s that jitter by 1 ms.
#[test]
fn clocks_that_drift_are_followed() {
    let mut clock = av();
    let mut worst = 0;
    let audio_ticks = |ms: i64| (ms * 48 * 1_000_100 / 1_000_000) as u32;
    for ms in (0..3_600_000i64).step_by(20) {
        let now = at_ms(ms as u64 + 10);
        clock.packet(V, (ms * 90) as u32, now);
        clock.packet(A, audio_ticks(ms), now);
        let jitter = (ms / 5_000 % 3 - 1) * MS;
        if ms % 5_000 == 0 {
            clock.report(V, ntp(ms * MS + jitter), (ms * 90) as u32);
        }
        if ms % 5_000 == 2_500 {
            clock.report(A, ntp(ms * MS - jitter), audio_ticks(ms));
        }
        if ms == 1_000 {
            clock.settle();
        }
        if ms >= 1_000 {
            let apart = time(&mut clock, A, audio_ticks(ms)) - time(&mut clock, V, (ms * 90) as u32);
            worst = worst.max(apart.abs());
        }
    }
    assert!(worst < 10 * MS, "{worst} ns apart");
}

#[test]
fn reports_that_make_no_sense_are_left_out() {
    let mut clock = av();
    for track in [V, A] {
        clock.packet(track, 0, at_ms(0));
    }
    clock.report(V, ntp(0), 0);
    clock.report(A, 0, 0);
    assert!(clock.settle().is_some());
    assert_eq!(time(&mut clock, A, 48_000), S);
    let nonsense = clock.report(A, ntp(4 * S), 0);
    assert_eq!(nonsense.map(|n| n.track), None, "the step of its clock makes what video said before void");
    assert!(clock.report(V, ntp(0), 0).is_some_and(|n| n.track == A && (n.by_ns - 4 * S).abs() < MS));
    assert_eq!(time(&mut clock, A, 96_000), 2 * S);
}

/// The sender's wall clock is set while it streams: until both tracks have reported on the new one nothing moves.
#[test]
fn a_step_of_the_senders_clock_moves_nothing() {
    for (first, second) in [(A, V), (V, A)] {
        let mut clock = av();
        for track in [V, A] {
            clock.packet(track, 0, at_ms(0));
            clock.report(track, ntp(0), 0);
        }
        clock.settle();
        let rate = |track| if track == V { 90_000 } else { 48_000 };
        for seconds in 1..20u32 {
            let step = if seconds >= 10 { S / 2 } else { 0 };
            for track in [first, second] {
                clock.packet(track, seconds * rate(track), Duration::from_secs(seconds.into()));
                clock.report(track, ntp(i64::from(seconds) * S + step), seconds * rate(track));
                near(time(&mut clock, A, seconds * 48_000), i64::from(seconds) * S, 1_000);
            }
        }
    }
}

#[test]
fn another_sender_goes_on_by_the_time_of_arrival() {
    let mut clock = av();
    clock.packet(V, 1_000, at_ms(0));
    clock.packet(V, 91_000, at_ms(1_000));
    clock.settle();
    let last = time(&mut clock, V, 91_000);
    clock.restart(V, 90_000, 3_000_000_000, at_ms(3_500));
    clock.packet(V, 3_000_000_000, at_ms(3_500));
    assert_eq!(time(&mut clock, V, 3_000_000_000) - last, 2_500 * MS);
    // The same sender after an outage: its timestamps went on, jitter of arrival does not matter.
    clock.resync(V, 3_000_000_000 + 900_000, at_ms(13_400));
    clock.packet(V, 3_000_000_000 + 900_000, at_ms(13_400));
    assert_eq!(time(&mut clock, V, 3_000_900_000) - last, 12_500 * MS);
}

#[test]
fn a_track_that_comes_late_is_placed_beside_the_others() {
    let mut clock = av();
    // The network has become 300 ms slower since the start.
    clock.packet(V, 0, at_ms(0));
    clock.settle();
    for n in 1..200u32 {
        clock.packet(V, n * 3_600, at_ms(u64::from(n) * 40 + 300 + u64::from(n % 7)));
    }
    clock.packet(A, 1_234, at_ms(200 * 40 + 300));
    near(time(&mut clock, A, 1_234), 8 * S, 10 * MS);
}

proptest::proptest! {
    #[test]
    fn nothing_overflows(
        steps in proptest::collection::vec(
            (0usize..3, 0u8..6, proptest::num::u32::ANY, proptest::num::u64::ANY), 1..200),
        rate in proptest::num::u32::ANY,
    ) {
        let mut clock = Clock::new([(rate, true), (1, false)]);
        for (track, act, timestamp, big) in steps {
            let now = Duration::from_nanos(big);
            match act {
                0 => { clock.report(track, big, timestamp); }
                1 => { clock.settle(); }
                2 => clock.restart(track, rate, timestamp, now),
                3 => clock.resync(track, timestamp, now),
                _ => clock.packet(track, timestamp, now),
            }
            time(&mut clock, track, timestamp);
        }
    }
}
