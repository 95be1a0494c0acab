use super::*;
use crate::hub::preroll::{Budget, PrerollRule};
use crate::hub::stream::tests::{A, V, av_tracks, frame, with_video_caps};
use crate::media::{GapKind, Track, TrackId};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn ring() -> GopRing {
    GopRing::new(Arc::new(Share::new(Arc::new(Budget::new(PrerollRule::default())))))
}

/// Frames as (track, ms); tracks as (255, number of the video caps in `known`).
fn items(ring: &GopRing, known: &[&Tracks]) -> Vec<(u8, u64)> {
    let of = |tracks: &Tracks| known.iter().position(|k| *k == tracks).map_or(99, |at| at as u64);
    let tell = |item| match item {
        Item::Frame(f) => (f.track.0, f.dts_ns() / 1_000_000),
        Item::Tracks(tracks) => (255, of(&tracks)),
        other => panic!("{other:?}"),
    };
    ring.items().into_iter().map(tell).collect()
}

fn times(ring: &GopRing) -> Vec<(u8, u64)> {
    items(ring, &[]).split_off(1)
}

#[test]
fn keeps_from_the_last_key_frame_with_the_audio_beside_it() {
    let (mut ring, tracks) = (ring(), av_tracks());
    ring.settle();
    for f in [frame(V, 0, true), frame(A, 10, true), frame(V, 40, false), frame(A, 90, true)] {
        ring.push(&f, &tracks, 0);
    }
    ring.push(&frame(V, 80, true), &tracks, 0);
    assert_eq!(times(&ring), [(1, 90), (0, 80)]);
}

#[test]
fn forgets_nothing_before_the_tracks_are_settled() {
    let (mut ring, tracks) = (ring(), av_tracks());
    for f in [frame(A, 0, true), frame(V, 5, true), frame(V, 45, true)] {
        ring.push(&f, &tracks, 0);
    }
    assert_eq!(times(&ring), [(1, 0), (0, 5), (0, 45)]);
}

/// Once the ring was emptied by each change, and held what no decoder can begin with until the next key frame.
#[test]
fn frames_stay_behind_the_tracks_they_belong_to() {
    let (small, large) = (av_tracks(), with_video_caps("video/x-h264,width=640"));
    let known = [&small, &large];
    let mut ring = ring();
    ring.set_tracks(&small);
    ring.push(&frame(V, 0, true), &small, 0);
    ring.settle();
    ring.push(&frame(A, 10, true), &small, 0);
    ring.set_tracks(&large);
    ring.push(&frame(A, 30, true), &large, 0);
    assert_eq!(items(&ring, &known), [(255, 0), (0, 0), (1, 10), (255, 1), (1, 30)]);
    ring.push(&frame(V, 20, true), &large, 0);
    ring.push(&frame(V, 60, false), &large, 0);
    assert_eq!(items(&ring, &known), [(255, 1), (1, 30), (0, 20), (0, 60)]);
}

#[test]
fn a_track_that_shows_up_late_is_told_from_the_start() {
    let both = av_tracks();
    let video = Tracks::new(vec![both.get(V).expect("video").clone()]);
    let larger = with_video_caps("video/x-h264,width=640");
    let larger_video = Tracks::new(vec![larger.get(V).expect("video").clone()]);
    let mut ring = ring();
    ring.set_tracks(&video);
    ring.push(&frame(V, 0, true), &video, 0);
    ring.set_tracks(&larger_video);
    ring.push(&frame(V, 40, true), &larger_video, 0);
    ring.set_tracks(&larger);
    assert_eq!(items(&ring, &[&both, &larger]), [(255, 0), (0, 0), (255, 1), (0, 40)]);
}

#[test]
fn another_codec_empties_it() {
    let mut ring = ring();
    let (h264, mut other) = (av_tracks(), av_tracks().iter().cloned().collect::<Vec<_>>());
    other[0].codec = crate::media::Codec::Vp8;
    let other = Tracks::new(other);
    ring.set_tracks(&h264);
    ring.settle();
    ring.push(&frame(V, 0, true), &h264, 0);
    ring.set_tracks(&other);
    assert_eq!(items(&ring, &[&h264, &other]), [(255, 1)]);
}

#[test]
fn a_group_past_the_limit_is_skipped_until_the_next_key_frame() {
    let (mut ring, tracks) = (ring(), av_tracks());
    ring.settle();
    ring.push(&frame(V, 0, true), &tracks, 0);
    let mut big = frame(V, 40, false);
    big.buffer = gstreamer::Buffer::with_size(MAX_GOP_BYTES).expect("memory");
    ring.push(&big, &tracks, 0);
    ring.push(&frame(V, 80, false), &tracks, 0);
    assert_eq!(times(&ring), []);
    ring.push(&frame(V, 120, true), &tracks, 0);
    assert_eq!(times(&ring), [(0, 120)]);
}

/// Frames of `asked_ms` of pre-roll as (track, ms), and the time given.
fn with_preroll(ring: &GopRing, asked_ms: u64) -> (Vec<(u8, u64)>, u64) {
    let (items, given) = ring.items_with_preroll(asked_ms * 1_000_000);
    let frames = items.iter().filter_map(|item| match item {
        Item::Frame(f) => Some((f.track.0, f.dts_ns() / 1_000_000)),
        _ => None,
    });
    (frames.collect(), given.duration.as_millis() as u64)
}

/// A picture each second, every `gop`th a key frame, and audio half a second after each.
fn fill(ring: &mut GopRing, seconds: u64, gop: u64, retention_s: u64) {
    let tracks = av_tracks();
    ring.set_tracks(&tracks);
    ring.settle();
    for s in 0..seconds {
        ring.push(&frame(V, 1_000 * s, s % gop == 0), &tracks, retention_s * SECOND);
        ring.push(&frame(A, 1_000 * s + 500, true), &tracks, retention_s * SECOND);
    }
}

#[test]
fn a_preroll_begins_at_the_key_frame_before_it() {
    // (seconds pushed, GOP, kept, asked ms) => (first picture at ms, given ms)
    let cases = [
        ((40, 7, 10, 10_000), (28_000, 11_500)),
        ((40, 7, 10, 11_500), (28_000, 11_500)),
        ((40, 7, 10, 0), (35_000, 4_500)),
        ((40, 7, 10, 4_500), (35_000, 4_500)),
        ((40, 7, 10, 4_501), (28_000, 11_500)),
        ((40, 30, 10, 10_000), (0, 39_500)),
        ((45, 30, 10, 10_000), (30_000, 14_500)),
        ((5, 2, 30, 10_000), (0, 4_500)),
        ((40, 1, 3, 3_000), (36_000, 3_500)),
        ((40, 1, 0, 3_000), (39_000, 500)),
    ];
    for ((seconds, gop, kept, asked_ms), expected) in cases {
        let mut ring = ring();
        fill(&mut ring, seconds, gop, kept);
        let (frames, given_ms) = with_preroll(&ring, asked_ms);
        assert_eq!((frames[0], given_ms), ((0, expected.0), expected.1), "{seconds} {gop} {kept} {asked_ms}");
        assert!(!ring.items_with_preroll(asked_ms * 1_000_000).1.shortened, "nothing was short");
    }
}

#[test]
fn what_is_kept_goes_when_less_is_to_be_kept() {
    let mut ring = ring();
    fill(&mut ring, 40, 2, 20);
    assert!(ring.share.span_ns().is_some_and(|span| span >= 18 * SECOND), "{:?}", ring.share.span_ns());
    ring.push(&frame(A, 40_000, true), &av_tracks(), 0);
    assert_eq!((ring.share.span_ns(), ring.share.budget().used_bytes()), (None, 0));
    assert_eq!(with_preroll(&ring, 20_000).0[0], (0, 38_000));
}

#[test]
fn an_older_group_is_told_behind_its_own_tracks_and_with_its_gaps() {
    let (small, large) = (av_tracks(), with_video_caps("video/x-h264,width=640"));
    let mut ring = ring();
    ring.set_tracks(&small);
    ring.settle();
    ring.push(&frame(V, 0, true), &small, SECOND);
    ring.push(&frame(A, 45, true), &small, SECOND);
    let gap = Gap { kind: GapKind::PacketLoss, at_ms: 20, by_ms: 20, at: None, frames: 1, packets: 2 };
    ring.gap(&gap);
    ring.set_tracks(&large);
    ring.push(&frame(V, 40, true), &large, SECOND);
    let (items, _) = ring.items_with_preroll(SECOND);
    let told: Vec<_> = items
        .into_iter()
        .map(|item| match item {
            Item::Tracks(tracks) if tracks == small => "small".to_owned(),
            Item::Tracks(tracks) if tracks == large => "large".to_owned(),
            Item::Frame(f) => format!("{}:{}", f.track.0, f.dts_ns() / 1_000_000),
            Item::Gap(got) if got == gap => "gap".to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["small", "0:0", "gap", "large", "1:45", "0:40"]);
}

#[test]
fn a_track_that_shows_up_late_is_told_to_older_groups_too_and_another_codec_empties_them() {
    let both = av_tracks();
    let video = Tracks::new(vec![both.get(V).expect("video").clone()]);
    let mut ring = ring();
    ring.set_tracks(&video);
    ring.settle();
    for s in 0..3 {
        ring.push(&frame(V, 1_000 * s, true), &video, 9 * SECOND);
    }
    ring.set_tracks(&both);
    let (items, _) = ring.items_with_preroll(9 * SECOND);
    assert!(matches!(&items[0], Item::Tracks(first) if *first == both), "{items:?}");
    assert_eq!(items.len(), 4);
    let mut other = both.iter().cloned().collect::<Vec<_>>();
    other[0].codec = crate::media::Codec::Vp8;
    ring.set_tracks(&Tracks::new(other));
    assert_eq!(ring.items_with_preroll(9 * SECOND).0.len(), 1);
    assert_eq!(ring.share.budget().used_bytes(), 0);
}

#[test]
fn audio_alone_is_kept_by_time() {
    let audio = Track { id: TrackId(0), ..av_tracks().get(A).expect("audio").clone() };
    let tracks = Tracks::new(vec![audio]);
    // (kept s, asked ms) => first ms, of 10 s
    let cases = [
        ((0, 0), 9_000),
        ((0, 5_000), 9_000),
        ((4, 0), 9_000),
        ((4, 3_000), 7_000),
        ((4, 3_500), 6_000),
        ((4, 4_000), 6_000),
        ((4, 9_000), 6_000),
    ];
    for ((kept_s, asked_ms), first_ms) in cases {
        let mut ring = ring();
        ring.set_tracks(&tracks);
        ring.settle();
        for n in 0..=100 {
            ring.push(&frame(TrackId(0), 100 * n, true), &tracks, kept_s * SECOND);
        }
        let expected: Vec<_> = (first_ms / 100..=100).map(|n| (0, 100 * n)).collect();
        assert_eq!(with_preroll(&ring, asked_ms), (expected, 10_000 - first_ms), "{kept_s} {asked_ms}");
    }
}

/// A decoder cannot begin with the audio that was there before the video.
#[test]
fn audio_before_the_video_track_is_no_beginning() {
    let both = av_tracks();
    let swapped = Tracks::new(vec![
        Track { id: TrackId(0), ..both.get(A).expect("audio").clone() },
        Track { id: TrackId(1), ..both.get(V).expect("video").clone() },
    ]);
    let alone = Tracks::new(vec![swapped.get(TrackId(0)).expect("audio").clone()]);
    let mut ring = ring();
    ring.set_tracks(&alone);
    ring.settle();
    for n in 0..50 {
        ring.push(&frame(TrackId(0), 100 * n, true), &alone, 9 * SECOND);
    }
    ring.set_tracks(&swapped);
    ring.push(&frame(TrackId(1), 5_000, true), &swapped, 9 * SECOND);
    assert_eq!(with_preroll(&ring, 9_000), (vec![(1, 5_000)], 0));
}

#[test]
fn a_group_past_the_limit_takes_the_older_ones_with_it_and_counts_as_short() {
    let mut ring = ring();
    fill(&mut ring, 10, 2, 5);
    let mut big = frame(V, 10_000, false);
    big.buffer = gstreamer::Buffer::with_size(MAX_GOP_BYTES).expect("memory");
    ring.push(&big, &av_tracks(), 5 * SECOND);
    ring.push(&frame(V, 11_000, true), &av_tracks(), 5 * SECOND);
    let (items, given) = ring.items_with_preroll(5 * SECOND);
    assert_eq!(items.len(), 2, "{items:?}");
    assert_eq!(given, PrerollGiven { duration: Duration::ZERO, shortened: true });
    assert_eq!(ring.share.budget().used_bytes(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Video { after_ms: u64, key: bool },
    Audio { after_ms: u64 },
    GiveUp,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..400_u64, prop::bool::weighted(0.2)).prop_map(|(after_ms, key)| Step::Video { after_ms, key }),
        10 => (0..400_u64).prop_map(|after_ms| Step::Audio { after_ms }),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #[test]
    fn what_is_given_is_whole_begins_with_a_key_frame_and_is_as_old_as_asked(
        steps in prop::collection::vec(step(), 1..200),
        retention_ms in 0..8_000_u64,
        asked in 0..8_000_u64,
    ) {
        let (tracks, mut ring) = (av_tracks(), ring());
        ring.set_tracks(&tracks);
        let (mut at_ms, mut pushed, mut short, mut settled) = ([0_u64; 2], Vec::new(), false, false);
        for step in steps {
            let (track, after_ms, key) = match step {
                Step::Video { after_ms, key } => (V, after_ms, key),
                Step::Audio { after_ms } => (A, after_ms, true),
                Step::GiveUp => {
                    short |= !ring.give_up(1, 0).gops.is_empty();
                    continue;
                }
                Step::Settle => {
                    ring.settle();
                    settled = true;
                    continue;
                }
            };
            let at = &mut at_ms[usize::from(track.0)];
            *at += after_ms;
            ring.push(&frame(track, *at, key), &tracks, retention_ms * 1_000_000);
            pushed.push((track.0, *at, key));
        }
        let asked_ms = asked.min(retention_ms);
        let (given, given_ms) = with_preroll(&ring, asked_ms);

        // Nothing is missing from its first to the newest, track by track.
        for track in [V.0, A.0] {
            let all: Vec<_> = pushed.iter().filter(|p| p.0 == track).map(|p| (p.0, p.1)).collect();
            let got: Vec<_> = given.iter().filter(|g| g.0 == track).copied().collect();
            prop_assert!(all.ends_with(&got), "{got:?} of {all:?}");
        }
        let newest_ms = at_ms[0].max(at_ms[1]);
        let first = given.iter().find(|g| g.0 == V.0);
        let keys: Vec<_> = pushed.iter().filter(|p| p.0 == V.0 && p.2).map(|p| p.1).collect();
        let due = keys.iter().rev().find(|key| newest_ms.checked_sub(asked_ms).is_some_and(|t| **key <= t));
        if settled && let (Some(&(_, first_ms)), Some(oldest)) = (first, keys.first()) && first_ms >= *oldest {
            prop_assert!(keys.contains(&first_ms));
            prop_assert!(ring.older.is_empty() || given_ms == newest_ms - first_ms);
            match due {
                Some(due) => prop_assert!(short || first_ms <= *due, "{first_ms} is younger than {due}"),
                None => prop_assert!(short || first_ms == *oldest),
            }
        }

        // And nothing is kept that nobody can ask for.
        if let Some(second) = ring.older.get(1).or((!ring.older.is_empty()).then_some(&ring.current)) {
            prop_assert!(second.begin_ns.is_some_and(|b| b + retention_ms * 1_000_000 > newest_ms * 1_000_000));
        }
        let held: u64 = ring.older.iter().map(|gop| gop.bytes as u64).sum();
        prop_assert_eq!(ring.share.budget().used_bytes(), held);
        let current: usize = ring.current.entries.iter().map(Entry::cost_bytes).sum();
        prop_assert_eq!(ring.current.bytes, current);
    }
}
