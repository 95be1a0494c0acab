use super::*;
use crate::hub::{Hub, HubError, PrerollRule, Publisher};
use crate::media::{Codec, Gap, GapKind, Track, TrackId};
use gstreamer as gst;
use std::collections::VecDeque;

pub const V: TrackId = TrackId(0);
pub const A: TrackId = TrackId(1);

pub fn av_tracks() -> Tracks {
    with_video_caps("video/x-h264")
}

pub fn with_video_caps(caps: &str) -> Tracks {
    gst::init().expect("GStreamer");
    let track = |id, codec, caps| Track { id, codec, caps, size: None, rate: None, channels: None };
    Tracks::new(vec![
        track(V, Codec::H264, caps.parse().expect("caps")),
        track(A, Codec::Aac, gst::Caps::new_empty_simple("audio/mpeg")),
    ])
}

pub fn frame(track: TrackId, ms: u64, key: bool) -> Frame {
    gst::init().expect("GStreamer");
    let mut buffer = gst::Buffer::from_slice([track.0; 4]);
    let b = buffer.make_mut();
    b.set_pts(gst::ClockTime::from_mseconds(ms));
    b.set_dts(gst::ClockTime::from_mseconds(ms));
    if !key {
        b.set_flags(gst::BufferFlags::DELTA_UNIT);
    }
    Frame { track, buffer }
}

pub fn announce(name: &str) -> Announce {
    Announce {
        room: RoomName::default(),
        name: StreamName::new(name).expect("name"),
        protocol: Protocol::Rtmp,
        remote: ([127, 0, 0, 1], 5).into(),
        session_id: "s".into(),
        record: false,
    }
}

pub fn dts_ms(subscriber: &Subscriber) -> Vec<u64> {
    let mut items = VecDeque::new();
    subscriber.drain(&mut items);
    let frames = items.iter().filter_map(|i| match i {
        Item::Frame(f) => Some(f.dts_ns() / 1_000_000),
        _ => None,
    });
    frames.collect()
}

#[tokio::test]
async fn a_recording_on_demand_begins_at_the_key_frame_already_seen() {
    let (hub, mut publishing) = Hub::new(1 << 20, PrerollRule::default());
    let mut publisher = hub.publish(announce("cam")).expect("free name");
    publisher.set_tracks(av_tracks());
    publisher.publish(&mut vec![frame(V, 0, true), frame(V, 40, false)]);
    publisher.settle();
    publisher.publish(&mut vec![frame(V, 80, true), frame(V, 120, false)]);
    let late = publisher.stream().subscribe(1 << 20).expect("publishing");
    publisher.publish(&mut vec![frame(V, 160, false)]);
    assert_eq!(dts_ms(&late), [80, 120, 160]);
    let started = publishing.recv().await.expect("told");
    assert_eq!(dts_ms(&started.from_start), [0, 40, 80, 120, 160]);
}

#[tokio::test]
async fn a_stream_whose_source_is_away_is_not_publishing_and_can_be_recorded() {
    let (hub, _publishing) = Hub::new(1 << 20, PrerollRule::default());
    let mut publisher = hub.publish(announce("cam")).expect("free name");
    publisher.set_tracks(av_tracks());
    publisher.settle();
    let stream = publisher.stream().clone();
    assert!(stream.snapshot().publishing);
    stream.set_away(true);
    assert!(!stream.snapshot().publishing);
    let waiting = stream.subscribe(1 << 20).expect("it comes back");
    stream.set_away(false);
    assert!(stream.snapshot().publishing);
    publisher.publish(&mut vec![frame(V, 0, true)]);
    assert_eq!(dts_ms(&waiting), [0]);
}

/// Once its wall clock stood still meanwhile: parts that a recording began later had the time of the camera's absence as
/// an error in their start.
#[tokio::test]
async fn what_comes_after_a_source_was_away_has_the_wall_clock_of_then() {
    let (hub, _publishing) = Hub::new(1 << 20, PrerollRule::default());
    let mut publisher = hub.publish(announce("cam")).expect("free name");
    publisher.set_tracks(av_tracks());
    publisher.settle();
    publisher.publish(&mut vec![frame(V, 10_000, true), frame(V, 10_040, false)]);
    let subscriber = publisher.stream().subscribe(1 << 20).expect("live");
    let wall = |ms: u64| publisher.stream().wall_time(ms * 1_000_000);
    let (begin, ends) = (wall(10_000), wall(10_080));
    let gap = Gap { kind: GapKind::Reconnect, at_ms: 10_080, by_ms: 60_000, at: None, frames: 0, packets: 0 };
    publisher.gap(gap);
    publisher.publish(&mut vec![frame(V, 10_080, true)]);
    let wall = |ms: u64| (publisher.stream().wall_time(ms * 1_000_000) - begin).num_milliseconds();
    assert_eq!([10_000, 10_040, 10_080, 11_000].map(wall), [0, 40, 60_080, 61_000]);
    let mut items = VecDeque::new();
    subscriber.drain(&mut items);
    let told = items.iter().find_map(|item| if let Item::Gap(gap) = item { gap.at } else { None });
    assert_eq!(told, Some(ends), "when it went away");
}

#[tokio::test]
async fn a_live_name_is_refused_and_free_again_after_the_end() {
    let (hub, _publishing) = Hub::new(1 << 20, PrerollRule::default());
    let first = hub.publish(announce("cam")).expect("free name");
    assert!(matches!(hub.publish(announce("cam")), Err(HubError::NameTaken { .. })));
    hub.publish(announce("other")).expect("another name");
    drop(first);
    hub.publish(announce("cam")).expect("free again");
}

/// Once the second end freed the name under the publisher that had it by then.
#[tokio::test]
async fn a_stream_that_ends_twice_frees_its_name_once() {
    let (hub, _publishing) = Hub::new(1 << 20, PrerollRule::default());
    let mut first = hub.publish(announce("cam")).expect("free name");
    first.end(EndReason::Unpublished);
    let _second = hub.publish(announce("cam")).expect("free again");
    first.end(EndReason::Kicked);
    assert!(matches!(hub.publish(announce("cam")), Err(HubError::NameTaken { .. })));
}

#[tokio::test]
async fn a_subscription_begins_now_at_the_last_key_frame_or_with_the_preroll_asked_for() {
    let rule = PrerollRule { idle: Duration::from_secs(10), memory_bytes: 1 << 20, ..PrerollRule::default() };
    let (hub, mut publishing) = Hub::new(1 << 20, rule);
    let mut publisher = hub.publish(announce("cam")).expect("free name");
    publisher.set_tracks(av_tracks());
    let stream = publisher.stream().clone();
    assert!(stream.subscribe_from_now(1).is_none(), "its tracks are not known yet");
    publisher.settle();
    drop(publishing.recv().await.expect("told"));
    publisher.publish(&mut (0..20).map(|n| frame(V, 1_000 * n, n % 7 == 0)).collect());

    let now = stream.subscribe_from_now(1 << 20).expect("publishing");
    let last = stream.subscribe(1 << 20).expect("publishing");
    let (preroll, given) =
        stream.subscribe_with_preroll(1 << 20, Duration::from_secs(10)).expect("publishing");
    assert_eq!(given, PrerollGiven { duration: Duration::from_secs(12), shortened: false });
    publisher.publish(&mut vec![frame(V, 20_000, false)]);
    let every_second = |from: u64| (from..=20).map(|n| 1_000 * n).collect::<Vec<_>>();
    assert_eq!(dts_ms(&now), [20_000]);
    assert_eq!(dts_ms(&last), every_second(14));
    assert_eq!(dts_ms(&preroll), every_second(7));
    assert_eq!(hub.preroll_bytes(), 0, "a stream that is recorded keeps nothing older");
}

#[tokio::test]
async fn what_is_kept_follows_the_subscribers_the_rule_and_the_end() {
    let idle = Duration::from_secs(5);
    let (hub, mut publishing) =
        Hub::new(1 << 20, PrerollRule { idle, memory_bytes: 1 << 20, ..PrerollRule::default() });
    let mut publisher = hub.publish(announce("cam")).expect("free name");
    publisher.set_tracks(av_tracks());
    publisher.settle();
    let recorded = publishing.recv().await.expect("told").from_start;
    let stream = publisher.stream().clone();
    let mut at_s = 0;
    let mut publish = |publisher: &mut Publisher, seconds: u64| {
        publisher.publish(&mut (at_s..at_s + seconds).map(|s| frame(V, 1_000 * s, true)).collect());
        at_s += seconds;
        stream.spare_ns().unwrap_or(0) / 1_000_000_000
    };
    assert_eq!(publish(&mut publisher, 20), 0, "recorded");
    hub.set_preroll_always(Duration::from_secs(2));
    assert_eq!(publish(&mut publisher, 20), 2, "recorded, with record_preroll");
    drop(recorded);
    assert_eq!(publish(&mut publisher, 20), 5, "idle");
    hub.set_preroll_always(Duration::from_secs(8));
    assert_eq!(publish(&mut publisher, 20), 8, "idle, with a longer record_preroll");
    assert!(hub.preroll_bytes() > 0);
    publisher.end(EndReason::Unpublished);
    assert_eq!((hub.preroll_bytes(), stream.spare_ns()), (0, None));
    publisher.publish(&mut vec![frame(V, 99_000, true), frame(V, 100_000, true)]);
    assert_eq!(hub.preroll_bytes(), 0, "nothing comes after the end");
}

/// A pre-roll is longer than what a recorder may fall behind.
#[tokio::test]
async fn what_a_subscription_begins_with_leaves_its_queue_empty() {
    let rule = PrerollRule { idle: Duration::from_secs(60), memory_bytes: 1 << 20, ..PrerollRule::default() };
    let (hub, mut publishing) = Hub::new(1 << 20, rule);
    let mut publisher = hub.publish(announce("cam")).expect("free name");
    publisher.set_tracks(av_tracks());
    publisher.settle();
    drop(publishing.recv().await.expect("told"));
    publisher.publish(&mut (0..50).map(|n| frame(V, 1_000 * n, n % 10 == 0)).collect());
    let room_for_two = 2 * frame(V, 0, true).cost_bytes();
    let (late, _) =
        publisher.stream().subscribe_with_preroll(room_for_two, Duration::from_secs(49)).expect("live");
    publisher.publish(&mut (50..53).map(|n| frame(V, 1_000 * n, false)).collect());
    assert_eq!(dts_ms(&late), (0..52).map(|n| 1_000 * n).collect::<Vec<_>>(), "the third is one too many");
}
