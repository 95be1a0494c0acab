use super::*;
use crate::hub::stream::tests::{V, announce, av_tracks, frame};
use crate::media::Frame;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn hub(idle: Duration, memory_bytes: u64) -> Hub {
    Hub::new(1 << 20, PrerollRule { idle, memory_bytes, ..PrerollRule::default() }).0
}

/// Publishing, and not recorded: nobody listens to the hub.
fn stream(hub: &Hub, name: &str) -> Publisher {
    let mut publisher = hub.publish(announce(name)).expect("free name");
    publisher.set_tracks(av_tracks());
    publisher.settle();
    publisher
}

/// A picture of `bytes`; what it costs is more.
fn picture(s: u64, key: bool, bytes: usize) -> Frame {
    let mut picture = frame(V, 1_000 * s, key);
    picture.buffer.make_mut().append_memory(gstreamer::Memory::from_slice(vec![0_u8; bytes]));
    picture
}

fn spare_s(publisher: &Publisher) -> u64 {
    publisher.stream().spare_ns().unwrap_or(0) / SECOND
}

/// What a ring takes for one group of one picture.
fn group_bytes() -> u64 {
    (picture(0, true, 1_000).cost_bytes() + av_tracks().cost_bytes()) as u64
}

#[test]
fn the_longest_ring_shrinks_first_and_grows_back_when_memory_is_free() {
    let hub = hub(Duration::from_secs(30), 40 * group_bytes());
    let (mut long, mut young) = (stream(&hub, "long"), stream(&hub, "young"));
    let publish = |to: &mut Publisher, seconds: std::ops::Range<u64>| {
        seconds.for_each(|s| to.publish(&mut vec![picture(s, true, 1_000)]));
    };
    publish(&mut long, 0..50);
    assert_eq!((spare_s(&long), hub.preroll_shortages()), (30, 0));
    publish(&mut young, 0..11);
    assert_eq!((spare_s(&long), spare_s(&young)), (30, 10), "all fits");
    publish(&mut young, 11..16);
    assert_eq!((spare_s(&long), spare_s(&young)), (25, 15), "only the longer gives up");
    assert_eq!(hub.preroll_shortages(), 1);
    let asked = |publisher: &Publisher, seconds| {
        let given = publisher.stream().subscribe_with_preroll(1, Duration::from_secs(seconds));
        let given = given.expect("live").1;
        (given.duration.as_secs(), given.shortened)
    };
    assert_eq!(asked(&long, 30), (25, true));
    assert_eq!(asked(&long, 25), (25, false), "what was asked for is there");
    assert_eq!(asked(&young, 30), (15, false), "it is only young");
    publish(&mut young, 16..60);
    assert!(spare_s(&long).abs_diff(spare_s(&young)) <= 1, "{} {}", spare_s(&long), spare_s(&young));
    assert_eq!((hub.preroll_bytes(), hub.preroll_shortages()), (40 * group_bytes(), 2));
    drop(young);
    publish(&mut long, 50..70);
    assert_eq!(spare_s(&long), 30, "as long as before");
    assert_eq!(asked(&long, 30), (30, false));
    drop(long);
    assert_eq!(hub.preroll_bytes(), 0);
}

#[test]
fn without_memory_for_it_only_the_current_group_is_kept() {
    let hub = hub(Duration::from_secs(30), 0);
    let mut cam = stream(&hub, "cam");
    for s in 0..20 {
        cam.publish(&mut vec![picture(s, s % 5 == 0, 1_000)]);
        assert_eq!(hub.preroll_bytes(), 0);
    }
    let (_, given) = cam.stream().subscribe_with_preroll(1, Duration::from_secs(10)).expect("live");
    assert_eq!(given, PrerollGiven { duration: Duration::from_secs(4), shortened: true });
}

/// It has no next access unit at which it could give up anything by itself.
#[test]
fn a_stream_that_sends_nothing_gives_up_its_ring_too() {
    let hub = hub(Duration::from_secs(30), 20 * group_bytes());
    let (mut silent, mut live) = (stream(&hub, "silent"), stream(&hub, "live"));
    (0..21).for_each(|s| silent.publish(&mut vec![picture(s, true, 1_000)]));
    assert_eq!(spare_s(&silent), 20);
    (0..100).for_each(|s| live.publish(&mut vec![picture(s, true, 1_000)]));
    assert_eq!((spare_s(&silent), spare_s(&live)), (10, 10));
}

#[test]
fn streams_on_threads_of_their_own_share_the_budget() {
    let limit = 100 * group_bytes();
    let hub = hub(Duration::from_secs(60), limit);
    std::thread::scope(|threads| {
        for n in 0..4 {
            let hub = hub.clone();
            threads.spawn(move || {
                let mut cam = stream(&hub, &format!("cam{n}"));
                for s in 0..500 {
                    cam.publish(&mut vec![picture(s, true, 1_000)]);
                    // What each thread has just added, before it made room.
                    assert!(hub.preroll_bytes() <= limit + 4 * group_bytes());
                }
            });
        }
    });
    assert_eq!(hub.preroll_bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_budget_is_never_exceeded(
        steps in prop::collection::vec((0..3_usize, prop::bool::weighted(0.3), 0..4_000_usize), 1..300),
        memory_bytes in 0..200_000_u64,
    ) {
        let hub = hub(Duration::from_secs(40), memory_bytes);
        let mut cams = ["a", "b", "c"].map(|name| (stream(&hub, name), 0));
        for (n, key, bytes) in steps {
            let (cam, at_s) = &mut cams[n];
            cam.publish(&mut vec![picture(*at_s, key, bytes)]);
            *at_s += 1;
            prop_assert!(hub.preroll_bytes() <= memory_bytes);
        }
        drop(cams);
        prop_assert_eq!(hub.preroll_bytes(), 0);
    }
}
