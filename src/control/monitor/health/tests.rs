use super::*;
use HealthReason::{Black, Frozen, NoAudio, NoData, NoKeyFrame, NoVideo, Silent};

const TICK_MS: u64 = 1_000;

fn times() -> Times {
    Times::of(Duration::from_secs(10), Duration::from_secs(20))
}

/// What one second of a stream adds.
#[derive(Clone, Copy)]
struct Second {
    pictures: u64,
    keys: u64,
    sounds: u64,
    arrived: u64,
    arrived_pictures: u64,
    video: bool,
    audio: bool,
}

const GOOD: Second =
    Second { pictures: 25, keys: 1, sounds: 50, arrived: 75, arrived_pictures: 25, video: true, audio: true };
const NOTHING: Second = Second { pictures: 0, keys: 0, sounds: 0, arrived: 0, arrived_pictures: 0, ..GOOD };
const MUTE: Second = Second { sounds: 0, arrived: 25, ..GOOD };
const BLIND: Second = Second { pictures: 0, keys: 0, arrived: 50, ..GOOD };
const NO_KEY: Second = Second { keys: 0, ..GOOD };
/// A publisher without a first key frame: what it sends is waited with.
const NEVER_KEY: Second = Second { pictures: 0, keys: 0, sounds: 0, ..GOOD };
/// A publisher that announced pictures and sends sound, which waits for them.
const NEVER_VIDEO: Second =
    Second { pictures: 0, keys: 0, sounds: 0, arrived: 50, arrived_pictures: 0, ..GOOD };
const ONLY_VIDEO: Second = Second { sounds: 0, audio: false, arrived: 25, ..GOOD };
const ONLY_AUDIO: Second = Second { pictures: 0, keys: 0, video: false, arrived: 50, ..GOOD };

/// Reason, whether it holds, the second it is told, and the second that is told.
type Told = (HealthReason, bool, u64, u64);

fn play(health: &mut Health, seconds: impl IntoIterator<Item = Second>) -> Vec<Told> {
    let mut seen = Seen::default();
    let mut told = Vec::new();
    for (n, second) in seconds.into_iter().enumerate() {
        let now = Duration::from_millis(n as u64 * TICK_MS);
        seen.pictures += second.pictures;
        seen.key_frames += second.keys;
        seen.sounds += second.sounds;
        seen.arrived += second.arrived;
        seen.arrived_pictures += second.arrived_pictures;
        seen.bytes = 1_000 * seen.pictures + 100 * seen.sounds;
        (seen.has_video, seen.has_audio) = (second.video, second.audio);
        let changes = health.see(&seen, now);
        told.extend(changes.into_iter().map(|c| (c.reason, c.holds, n as u64, c.at.as_secs())));
    }
    told
}

fn told(parts: &[(Second, usize)]) -> Vec<Told> {
    let seconds = parts.iter().flat_map(|(second, count)| std::iter::repeat_n(*second, *count));
    play(&mut Health::new(HealthChecks::ALL, times()), seconds)
}

/// What it is, what comes how long, what is told.
type Case = (&'static str, &'static [(Second, usize)], &'static [Told]);

#[test]
fn what_is_missing_is_told_from_birth_and_on_a_change_and_is_over_when_it_is_back() {
    let none: &[Told] = &[];
    let cases: [Case; 18] = [
        ("healthy", &[(GOOD, 600)], none),
        ("only pictures", &[(ONLY_VIDEO, 100)], none),
        ("only sound", &[(ONLY_AUDIO, 100)], none),
        ("nothing at all", &[(NOTHING, 60)], &[(NoData, true, 5, 0)]),
        ("nothing, then all", &[(NOTHING, 8), (GOOD, 20)], &[(NoData, true, 5, 0), (NoData, false, 13, 8)]),
        ("it stops", &[(GOOD, 30), (NOTHING, 10)], &[(NoData, true, 34, 29)]),
        ("it stops for a moment", &[(GOOD, 30), (NOTHING, 4), (GOOD, 30)], none),
        (
            "it stops and comes back",
            &[(GOOD, 30), (NOTHING, 10), (GOOD, 20)],
            &[(NoData, true, 34, 29), (NoData, false, 45, 40)],
        ),
        ("sound never comes", &[(MUTE, 60)], &[(NoAudio, true, 5, 0)]),
        ("sound stops", &[(GOOD, 10), (MUTE, 10)], &[(NoAudio, true, 14, 9)]),
        (
            "sound stops and comes back",
            &[(GOOD, 10), (MUTE, 10), (GOOD, 10)],
            &[(NoAudio, true, 14, 9), (NoAudio, false, 25, 20)],
        ),
        ("pictures never come", &[(BLIND, 60)], &[(NoVideo, true, 5, 0)]),
        (
            "pictures stop and come back",
            &[(GOOD, 10), (BLIND, 10), (GOOD, 10)],
            &[(NoVideo, true, 14, 9), (NoVideo, false, 25, 20)],
        ),
        (
            "the track is taken away",
            &[(GOOD, 10), (MUTE, 10), (ONLY_VIDEO, 3)],
            &[(NoAudio, true, 14, 9), (NoAudio, false, 20, 20)],
        ),
        (
            "key frames stop and come back",
            &[(GOOD, 10), (NO_KEY, 30), (GOOD, 3)],
            &[(NoKeyFrame, true, 29, 9), (NoKeyFrame, false, 40, 40)],
        ),
        ("one key frame and no other", &[(GOOD, 1), (NO_KEY, 60)], &[(NoKeyFrame, true, 20, 0)]),
        (
            "pictures were announced and never come",
            &[(NEVER_VIDEO, 60)],
            &[(NoData, true, 5, 0), (NoVideo, true, 5, 0)],
        ),
        (
            "the first key frame never comes",
            &[(NEVER_KEY, 60)],
            &[(NoData, true, 5, 0), (NoKeyFrame, true, 20, 0)],
        ),
    ];
    for (what, parts, expected) in cases {
        assert_eq!(told(parts), expected, "{what}");
    }
}

#[test]
fn a_slow_trickle_is_told_once() {
    let trickle = (0..600).map(|n| if n % 7 == 0 { GOOD } else { NOTHING });
    let told = play(&mut Health::new(HealthChecks::ALL, times()), trickle);
    assert_eq!(told.iter().filter(|t| t.0 == NoData).count(), 1, "{told:?}");
}

#[test]
fn what_is_not_looked_for_is_not_told() {
    let only = |reason| HealthChecks::from_iter([reason]);
    let mute = std::iter::repeat_n(MUTE, 60);
    assert_eq!(play(&mut Health::new(HealthChecks::NONE, times()), mute.clone()), []);
    assert_eq!(play(&mut Health::new(only(NoVideo), times()), mute.clone()), []);
    assert_eq!(play(&mut Health::new(only(NoAudio), times()), mute), [(NoAudio, true, 5, 0)]);
}

#[test]
fn a_pause_ends_what_held_and_begins_anew() {
    let mut health = Health::new(HealthChecks::ALL, times());
    assert_eq!(play(&mut health, [NOTHING; 7]).len(), 1);
    let at = Duration::from_secs(7);
    assert_eq!(health.rest(at), [Change { reason: NoData, holds: false, at }]);
    assert_eq!((health.rest(at), health.holding()), (vec![], &[][..]));
    let resumed = Duration::from_secs(100);
    assert_eq!(health.see(&Seen { has_video: true, ..Seen::default() }, resumed), [], "it has just gone on");
    let later = resumed + times().stall;
    let change = Change { reason: NoData, holds: true, at: resumed };
    assert_eq!(health.see(&Seen { has_video: true, ..Seen::default() }, later), [change]);
}

#[test]
fn how_long_is_waited_follows_the_interval() {
    for (interval_ms, stall_ms) in
        [(0, 5_000), (1_000, 2_000), (2_000, 3_000), (10_000, 5_000), (60_000, 5_000)]
    {
        let times = Times::of(Duration::from_millis(interval_ms), Duration::from_secs(20));
        assert_eq!(times.stall, Duration::from_millis(stall_ms), "{interval_ms}");
    }
}

const BRIGHT: Look = Look { mean: 90.0, brightest: 220, contrast: 50.0, difference: Some((20.0, 120)) };
const NOISE: Look = Look { difference: Some((0.6, 9)), ..BRIGHT };
const BETWEEN: Look = Look { difference: Some((0.03, 4)), ..BRIGHT };
const STILL: Look = Look { difference: Some((0.0, 0)), ..BRIGHT };
/// A plain wall: its noise is not worth a bit to the encoder.
const WALL: Look = Look { contrast: 1.0, difference: Some((0.001, 1)), ..BRIGHT };
const DARK: Look = Look { mean: 16.2, brightest: 18, contrast: 0.5, difference: Some((0.0, 0)) };
const DUSK: Look = Look { mean: 26.0, brightest: 48, contrast: 9.0, difference: Some((0.5, 8)) };
/// A dark stage with one lamp.
const LAMP: Look = Look { mean: 20.0, brightest: 200, contrast: 20.0, difference: Some((0.5, 8)) };

#[test]
fn pictures_are_told_after_two_looks() {
    let first = |look: Look| Look { difference: None, ..look };
    let none: &[Told] = &[];
    let cases: [(&str, Vec<Look>, &[Told]); 11] = [
        ("it moves", vec![first(BRIGHT), BRIGHT, BRIGHT], none),
        ("a still scene with noise", vec![first(BRIGHT), NOISE, NOISE, NOISE], none),
        ("a plain wall", vec![first(WALL), WALL, WALL], none),
        ("still from birth", vec![first(BRIGHT), STILL, STILL], &[(Frozen, true, 1, 0)]),
        (
            "it freezes and goes on",
            vec![first(BRIGHT), BRIGHT, BRIGHT, STILL, BETWEEN, NOISE],
            &[(Frozen, true, 3, 2), (Frozen, false, 5, 5)],
        ),
        ("black from birth", vec![first(DARK), DARK, DARK], &[(Black, true, 1, 0)]),
        ("the dark between two scenes", vec![first(BRIGHT), DARK, BRIGHT, DARK, BRIGHT], none),
        (
            "black and back",
            vec![first(BRIGHT), DARK, DARK, DUSK, BRIGHT],
            &[(Black, true, 2, 1), (Black, false, 4, 4)],
        ),
        ("dusk", vec![first(DUSK), DUSK, DUSK], none),
        ("a lamp", vec![first(LAMP), LAMP, LAMP], none),
        (
            "frozen, then black",
            vec![first(BRIGHT), STILL, DARK, DARK],
            &[(Frozen, true, 1, 0), (Frozen, false, 2, 2), (Black, true, 3, 2)],
        ),
    ];
    for (what, looks, expected) in cases {
        let mut health = Health::new(HealthChecks::ALL, times());
        let mut told = Vec::new();
        for (n, look) in looks.iter().enumerate() {
            let changes = health.look(look, Duration::from_secs(n as u64));
            told.extend(changes.into_iter().map(|c| (c.reason, c.holds, n as u64, c.at.as_secs())));
        }
        assert_eq!(told, expected, "{what}");
    }
}

#[test]
fn sound_is_silent_after_two_looks_and_heard_at_once() {
    let none: &[Told] = &[];
    let cases: [(&str, &[f64], &[Told]); 5] = [
        ("speech with pauses", &[-20.0, -90.0, -25.0, -90.0, -18.0], none),
        ("a quiet room", &[-52.0, -58.0, -57.0], none),
        ("muted from birth", &[-120.0, -120.0, -120.0], &[(Silent, true, 1, 0)]),
        (
            "muted and back",
            &[-20.0, -70.0, -70.0, -57.0, -30.0],
            &[(Silent, true, 2, 1), (Silent, false, 4, 4)],
        ),
        ("at the mark", &[-60.0, -60.0], &[(Silent, true, 1, 0)]),
    ];
    for (what, sounds, expected) in cases {
        let mut health = Health::new(HealthChecks::ALL, times());
        let mut told = Vec::new();
        for (n, loudness) in sounds.iter().enumerate() {
            let changes = health.listen(*loudness, Duration::from_secs(n as u64));
            told.extend(changes.into_iter().map(|c| (c.reason, c.holds, n as u64, c.at.as_secs())));
        }
        assert_eq!(told, expected, "{what}");
    }
}
