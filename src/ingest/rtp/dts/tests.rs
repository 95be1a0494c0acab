use super::*;

const FRAME: i64 = 33_366_667;

/// Frame numbers to presentation times.
fn pts(frames: &[i64]) -> Vec<i64> {
    frames.iter().map(|n| 1_000_000_000 + n * FRAME).collect()
}

fn run(dts: &mut Dts, pts: &[i64]) -> Vec<Times> {
    pts.iter().map(|&ns| dts.next(ns)).collect()
}

fn check_order(times: &[Times]) {
    assert!(times.windows(2).all(|w| w[0].dts_ns < w[1].dts_ns), "{times:?}");
    assert!(times.iter().all(|t| t.dts_ns <= t.pts_ns), "{times:?}");
}

#[test]
fn presentation_times_stay_exact_and_decoding_times_rise() {
    let ibbp = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11];
    let pyramid = [0, 4, 2, 1, 3, 8, 6, 5, 7, 12, 10, 9, 11];
    let open_group = [2, 0, 1, 5, 3, 4, 8, 6, 7];
    for (name, frames, depth) in [
        ("no B-frames", &[0, 1, 2, 3, 4][..], 0),
        ("no B-frames, depth told too large", &[0, 1, 2, 3, 4], 2),
        ("IbbP", &ibbp, 1),
        ("IbbP, depth told too large", &ibbp, 4),
        ("pyramid", &pyramid, 2),
        ("open group", &open_group, 1),
    ] {
        let sent = pts(frames);
        let mut told = Dts::new();
        told.set_depth(Some(depth));
        let mut learned = Dts::new();
        learned.look_ahead(&sent);
        // Pictures before the first one are seen by looking ahead only.
        let told = (name != "open group").then_some(told);
        for mut dts in told.into_iter().chain([learned]) {
            let times = run(&mut dts, &sent);
            check_order(&times);
            assert_eq!(times.iter().map(|t| t.pts_ns).collect::<Vec<_>>(), sent, "{name}");
        }
    }
}

#[test]
fn ibbp_decodes_one_frame_ahead() {
    let sent = pts(&[0, 3, 1, 2, 6, 4, 5]);
    let mut dts = Dts::new();
    dts.look_ahead(&sent);
    let decoded: Vec<_> = run(&mut dts, &sent).iter().map(|t| t.dts_ns).collect();
    assert_eq!(decoded, pts(&[-1, 0, 1, 2, 3, 4, 5]));
    assert_eq!(dts.delay_ns(), FRAME);
}

/// Nobody told that there would be B-frames: they come before decoding times have room for them.
#[test]
fn a_depth_that_nobody_told_is_learned() {
    let sent = pts(&[0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11]);
    let times = run(&mut Dts::new(), &sent);
    assert_eq!(times.iter().map(|t| t.pts_ns).collect::<Vec<_>>(), sent);
    assert!(times.windows(2).all(|w| w[0].dts_ns < w[1].dts_ns), "{times:?}");
    check_order(&times[4..]);
}

#[test]
fn a_new_depth_after_a_change_of_parameters() {
    let mut dts = Dts::new();
    let mut times = run(&mut dts, &pts(&[0, 1, 2, 3]));
    dts.set_depth(Some(2));
    times.extend(run(&mut dts, &pts(&[4, 7, 5, 6, 10, 8, 9])));
    check_order(&times);
}

#[test]
fn a_clock_that_is_set_is_followed() {
    for (what, to) in [("back", -90_000_000_000), ("ahead", 90_000_000_000)] {
        let mut dts = Dts::new();
        dts.set_depth(Some(1));
        run(&mut dts, &pts(&[0, 3, 1, 2]));
        let sent: Vec<_> = pts(&[6, 4, 5, 9, 7, 8]).iter().map(|ns| ns + to).collect();
        let times = run(&mut dts, &sent);
        assert!(times.iter().all(|t| t.pts_ns - t.dts_ns < 8 * FRAME), "{what}: {times:?}");
        assert!(times.windows(2).all(|w| w[0].dts_ns < w[1].dts_ns), "{what}: {times:?}");
    }
}

#[test]
fn units_of_one_time_are_told_apart() {
    let times = run(&mut Dts::new(), &[5, 5, 5, 20_000_000]);
    check_order(&times);
    assert!(times.iter().zip([5, 5, 5, 20_000_000]).all(|(t, sent)| t.pts_ns - sent <= MAX_SHIFT_NS));
    let mut audio = Dts::new();
    let times: Vec<_> = [10, 10, 3].map(|ns| audio.next_in_order(ns)).into();
    check_order(&times);
}

proptest::proptest! {
    #[test]
    fn any_order_within_the_depth_is_exact(
        depth in 0usize..=16,
        moves in proptest::collection::vec(0usize..=16, 1..200),
    ) {
        // Frames leave a window of depth + 1 in any order: none is overtaken by more than `depth`.
        let mut waiting: Vec<i64> = Vec::new();
        let mut frames = Vec::new();
        for (n, pick) in moves.iter().enumerate() {
            waiting.push(n as i64);
            let oldest = frames.iter().filter(|f| **f > waiting[0]).count();
            let at = if oldest >= depth { 0 } else { (*pick).min(waiting.len() - 1) };
            if waiting.len() > depth || *pick % 2 == 0 {
                frames.push(waiting.remove(at));
            }
        }
        frames.extend(waiting);
        let overtaken = |i: usize| frames[..i].iter().filter(|f| **f > frames[i]).count();
        proptest::prop_assume!((0..frames.len()).all(|i| overtaken(i) <= depth));
        let sent = pts(&frames);
        let mut dts = Dts::new();
        dts.look_ahead(&sent);
        dts.set_depth(Some(depth as u8));
        let times = run(&mut dts, &sent);
        check_order(&times);
        proptest::prop_assert_eq!(times.iter().map(|t| t.pts_ns).collect::<Vec<_>>(), sent);
    }

    #[test]
    fn no_time_is_too_strange(sent in proptest::collection::vec(i64::MIN / 2..i64::MAX / 2, 1..100)) {
        run(&mut Dts::new(), &sent);
    }
}
