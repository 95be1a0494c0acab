use super::*;
use crate::hub::{Hub, HubError, Item, PrerollRule};
use crate::media::{Codec, Track, TrackId};
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

fn announce(name: &str) -> Announce {
    Announce {
        room: RoomName::default(),
        name: StreamName::new(name).expect("name"),
        protocol: Protocol::Rtmp,
        remote: ([127, 0, 0, 1], 5).into(),
        session_id: "s".into(),
        record: false,
    }
}

fn dts_ms(subscriber: &Subscriber) -> Vec<u64> {
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
