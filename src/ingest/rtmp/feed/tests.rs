use super::*;
use crate::{
    hub::{Announce, Hub, Item, PrerollRule, Publishing},
    media::{Protocol, RoomName, StreamName},
};
use std::collections::VecDeque;
use tokio::sync::mpsc;

const AVCC: &str =
    "01640016ffe1001b67640016acd940a42fe224c044000003000400000300503c58b65801000668ebe3cb22c0fdf8f800";
const AUDIO_HEADER: [u8; 4] = [0xAF, 0, 0x12, 0x10];

struct House {
    feed: Feed,
    publishing: mpsc::Receiver<Publishing>,
}

impl House {
    fn new(metadata: Metadata) -> Self {
        gst::init().expect("GStreamer");
        let (hub, publishing) = Hub::new(64 << 20, PrerollRule::default());
        let publisher = hub.publish(Announce {
            room: RoomName::default(),
            name: StreamName::new("cam").expect("a name"),
            protocol: Protocol::Rtmp,
            remote: ([127, 0, 0, 1], 5).into(),
            session_id: "s".into(),
            record: false,
        });
        let mut feed = Feed::new(publisher.expect("a free name"));
        feed.metadata(&metadata);
        feed.audio(0, AUDIO_HEADER.to_vec(), Duration::ZERO);
        Self { feed, publishing }
    }

    /// Sound up to `to_ms`, a second of it every 100 ms of wall time.
    fn sound(&mut self, from_ms: u32, to_ms: u32) {
        for ms in (from_ms..to_ms).step_by(20) {
            let now = Duration::from_millis(u64::from(ms) / 10);
            assert!(self.feed.audio(ms, vec![0xAF, 1, 0, 0], now));
            self.feed.flush(now);
        }
    }

    fn picture(&mut self, ms: u32, key: bool) -> bool {
        let now = Duration::from_millis(u64::from(ms) / 10);
        let taken = self.feed.video(ms, vec![if key { 0x17 } else { 0x27 }, 1, 0, 0, 0, 0, 0], now);
        self.feed.flush(now);
        taken
    }

    fn video_header(&mut self, ms: u32) {
        let header = [&[0x17, 0, 0, 0, 0][..], &hex::decode(AVCC).expect("hex")].concat();
        assert!(self.feed.video(ms, header, Duration::from_millis(u64::from(ms) / 10)));
    }

    /// The tracks that a recording begins with, and how many access units it gets; `None`: it has not begun.
    fn recorded(&mut self) -> Option<(Vec<Codec>, usize)> {
        let begun = self.publishing.try_recv().ok()?;
        let mut items = VecDeque::new();
        begun.from_start.drain(&mut items);
        let Some(Item::Tracks(tracks)) = items.pop_front() else { panic!("tracks come first") };
        let frames = items.iter().filter(|item| matches!(item, Item::Frame(_))).count();
        Some((tracks.iter().map(|t| t.codec).collect(), frames))
    }
}

fn video_codec() -> Metadata {
    Metadata { names_video: true, ..Metadata::default() }
}

fn video_size() -> Metadata {
    Metadata { width: Some(640), height: Some(360), ..Metadata::default() }
}

/// Once a relay that was joined in the middle of a group of pictures cost a recording of its own: sound only.
#[test]
fn pictures_that_were_announced_are_awaited() {
    for metadata in [video_codec(), video_size()] {
        let mut house = House::new(metadata);
        house.sound(0, 3_000);
        assert_eq!(house.recorded(), None);
        house.video_header(3_000);
        assert!(house.picture(3_000, true));
        assert_eq!(house.recorded(), Some((vec![Codec::Aac, Codec::H264], 151)));
    }
}

#[test]
fn pictures_that_cannot_be_decoded_yet_announce_video() {
    let mut house = House::new(Metadata::default());
    house.sound(0, 500);
    assert!(!house.picture(500, false));
    house.sound(500, 3_000);
    assert_eq!(house.recorded(), None);
    house.video_header(3_000);
    assert!(house.picture(3_000, true));
    assert_eq!(house.recorded(), Some((vec![Codec::Aac, Codec::H264], 151)));
}

#[test]
fn the_wait_for_pictures_ends() {
    let sound_only = |units| Some((vec![Codec::Aac], units));
    let mut house = House::new(Metadata::default());
    house.sound(0, 1_020);
    assert_eq!(house.recorded(), sound_only(51), "nothing was announced");

    let mut house = House::new(video_codec());
    house.sound(0, 9_900);
    assert_eq!(house.recorded(), None);
    house.sound(9_900, 10_020);
    assert_eq!(house.recorded(), sound_only(501), "10 s of media");

    let mut house = House::new(video_codec());
    house.sound(0, 20);
    house.feed.flush(Duration::from_millis(9_900));
    assert_eq!(house.recorded(), None);
    house.feed.flush(Duration::from_secs(10));
    assert_eq!(house.recorded(), sound_only(1), "10 s of time");

    let mut house = House::new(video_codec());
    house.sound(0, 500);
    assert!(!house.feed.video(500, vec![0x22, 0, 0], Duration::ZERO), "Sorenson");
    house.sound(500, 1_020);
    assert_eq!(house.recorded(), sound_only(51), "a codec that is not supported");

    let mut house = House::new(video_codec());
    house.sound(0, 1_000);
    house.feed.finish(EndReason::Unpublished);
    assert_eq!(house.recorded(), sound_only(50), "the end");
}

/// The hub forgets what it holds when it becomes too much.
#[test]
fn no_more_is_held_than_the_hub_keeps() {
    let mut house = House::new(video_codec());
    let unit = [&[0xAF, 1][..], &[0; 1 << 20]].concat();
    for n in 0..20 {
        assert!(house.feed.audio(n * 20, unit.clone(), Duration::ZERO));
    }
    house.feed.flush(Duration::ZERO);
    assert_eq!(house.recorded(), Some((vec![Codec::Aac], 20)));
}
