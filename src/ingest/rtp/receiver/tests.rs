use super::*;
use crate::hub::{Announce, Hub, Item, PrerollRule, Publishing, Subscriber};
use crate::media::{Frame, Gap, GapKind, Protocol, RoomName, StreamName, Tracks};
use gstreamer as gst;
use rtp_types::RtpPacketBuilder;
use std::collections::VecDeque;
use tokio::sync::mpsc;

const VIDEO: usize = 1;
const AUDIO: usize = 0;
const VIDEO_SSRC: u32 = 0x5645;
const AUDIO_SSRC: u32 = 0x4155;
const MS: Duration = Duration::from_millis(1);
/// 25 frames a second, at 90 kHz.
const FRAME: u32 = 3_600;
/// 20 ms at 8 kHz.
const PACKET: u32 = 160;

/// A receiver of audio (section 0) and video (section 1), and the recorder's end of the hub.
struct House {
    receiver: Receiver,
    publishing: mpsc::Receiver<Publishing>,
    subscriber: Option<Subscriber>,
    got: Vec<Item>,
    video_sequence: u16,
    audio_sequence: u16,
}

fn media(arrival: Arrival) -> Vec<Media> {
    let format = |codec, payload_type, clock_rate| Format {
        codec,
        payload_type,
        clock_rate,
        channels: 1,
        fmtp: Vec::new(),
    };
    let audio = Media { formats: vec![format(Codec::Pcmu, 0, 8_000)], arrival };
    vec![audio, Media { formats: vec![format(Codec::Vp8, 96, 90_000)], arrival }]
}

/// A VP8 frame of 16x16: a frame tag, and for a key frame its start code and size (RFC 6386 9.1), then its number.
fn vp8(n: u32, key: bool) -> Vec<u8> {
    let mut frame = match key {
        true => vec![0x10, 0, 0, 0x9D, 0x01, 0x2A, 16, 0, 16, 0],
        false => vec![0x11, 0, 0],
    };
    frame.extend(n.to_be_bytes());
    frame.extend([n as u8; 40]);
    frame
}

fn packet(
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    payload: &[u8],
) -> Vec<u8> {
    RtpPacketBuilder::<&[u8], &[u8]>::new()
        .ssrc(ssrc)
        .payload_type(payload_type)
        .sequence_number(sequence)
        .timestamp(timestamp)
        .marker_bit(marker)
        .payload(payload)
        .write_vec()
        .expect("a packet")
}

/// The three packets of a frame.
fn frame_packets(ssrc: u32, sequence: u16, timestamp: u32, frame: &[u8]) -> Vec<Vec<u8>> {
    let parts = [&frame[..2], &frame[2..20], &frame[20..]];
    let packet = |(n, part): (usize, &&[u8])| {
        let payload = [&[if n == 0 { 0x10 } else { 0 }], *part].concat();
        packet(ssrc, 96, sequence.wrapping_add(n as u16), timestamp, n == 2, &payload)
    };
    parts.iter().enumerate().map(packet).collect()
}

impl House {
    fn new(arrival: Arrival) -> Self {
        Self::with(media(arrival))
    }

    fn with(media: Vec<Media>) -> Self {
        gst::init().expect("GStreamer");
        let (hub, publishing) = Hub::new(64 << 20, PrerollRule::default());
        let announce = Announce {
            room: RoomName::default(),
            name: StreamName::new("cam").expect("name"),
            protocol: Protocol::Rtsp,
            remote: ([127, 0, 0, 1], 5).into(),
            session_id: "s".into(),
            record: false,
        };
        let publisher = hub.publish(announce).expect("a free name");
        let receiver = Receiver::new(publisher, media).expect("formats that can be read");
        let (video_sequence, audio_sequence) = (65_500, 65_530);
        Self { receiver, publishing, subscriber: None, got: Vec::new(), video_sequence, audio_sequence }
    }

    /// Frame `n` in decoding order, shown as frame `shown`.
    fn video(&mut self, n: u32, shown: u32, key: bool, now: Duration) {
        for packet in self.next_video(n, shown, key) {
            self.receiver.rtp(VIDEO, &packet, now);
        }
    }

    fn next_video(&mut self, n: u32, shown: u32, key: bool) -> Vec<Vec<u8>> {
        let sequence = self.video_sequence;
        self.video_sequence = sequence.wrapping_add(3);
        frame_packets(VIDEO_SSRC, sequence, shown.wrapping_mul(FRAME).wrapping_sub(9_000), &vp8(n, key))
    }

    fn audio(&mut self, n: u32, now: Duration) {
        let packet = self.next_audio(n);
        self.receiver.rtp(AUDIO, &packet, now);
    }

    fn next_audio(&mut self, n: u32) -> Vec<u8> {
        self.audio_sequence = self.audio_sequence.wrapping_add(1);
        packet(AUDIO_SSRC, 0, self.audio_sequence, n.wrapping_mul(PACKET), false, &[n as u8; PACKET as usize])
    }

    /// Audio and video, key frames each second, from frame `from` to `to`; frame n arrives at n * 40 ms.
    fn stream(&mut self, from: u32, to: u32) {
        for n in from..to {
            let now = 40 * MS * n;
            self.video(n, n, n % 25 == 0, now);
            self.audio(2 * n, now);
            self.audio(2 * n + 1, now + 20 * MS);
            self.flush(now + 20 * MS);
        }
    }

    fn flush(&mut self, now: Duration) {
        self.receiver.flush(now);
        self.collect();
    }

    fn finish(&mut self) {
        self.receiver.finish(EndReason::Unpublished);
        self.collect();
    }

    fn collect(&mut self) {
        if let Ok(publishing) = self.publishing.try_recv() {
            self.subscriber = Some(publishing.from_start);
        }
        let mut items = VecDeque::new();
        if let Some(subscriber) = &self.subscriber {
            subscriber.drain(&mut items);
        }
        self.got.extend(items);
    }

    fn frames(&self, kind: MediaKind) -> Vec<&Frame> {
        let mut id = None;
        let mut frames = Vec::new();
        for item in &self.got {
            match item {
                Item::Tracks(tracks) => id = tracks.iter().find(|t| t.kind() == kind).map(|t| t.id),
                Item::Frame(frame) if Some(frame.track) == id => frames.push(frame),
                _ => {}
            }
        }
        frames
    }

    fn tracks(&self) -> Vec<Vec<Codec>> {
        let codecs = |t: &Tracks| t.iter().map(|t| t.codec).collect();
        self.got.iter().filter_map(|i| if let Item::Tracks(t) = i { Some(codecs(t)) } else { None }).collect()
    }

    fn gaps(&self) -> Vec<Gap> {
        self.got
            .iter()
            .filter_map(|i| if let Item::Gap(gap) = i { Some(gap.clone()) } else { None })
            .collect()
    }
}

/// The numbers of video frames, in the order they came out.
fn numbers(frames: &[&Frame]) -> Vec<u32> {
    let number = |f: &&Frame| {
        let bytes = f.buffer.map_readable().expect("memory");
        let at = bytes.len() - 44;
        let n = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(bytes.as_slice(), vp8(n, f.is_key()), "not as sent");
        n
    };
    frames.iter().map(number).collect()
}

fn pts_ns(frames: &[&Frame]) -> Vec<i64> {
    frames.iter().map(|f| f.pts_ns() as i64).collect()
}

fn check_dts(frames: &[&Frame]) {
    assert!(frames.windows(2).all(|w| w[0].dts_ns() < w[1].dts_ns()), "decoding times do not rise");
}

/// NTP time in 32.32 of `ms` after some moment in 2026.
fn ntp_of(ms: i64) -> u64 {
    let ms = 3_990_000_000_000 + i128::from(ms);
    ((ms << 32) / 1_000) as u64
}

#[test]
fn audio_and_video_begin_in_sync_by_their_reports() {
    let mut house = House::new(Arrival::Unordered);
    house.stream(0, 2);
    assert!(house.got.is_empty(), "no report yet");
    // Audio is 500 ms older than its arrival says.
    house.receiver.sender_report(VIDEO, VIDEO_SSRC, ntp_of(0), 0u32.wrapping_sub(9_000), 70 * MS);
    house.receiver.sender_report(AUDIO, AUDIO_SSRC, ntp_of(-500), 0, 70 * MS);
    house.stream(2, 50);
    house.finish();
    assert_eq!(house.tracks(), [[Codec::Vp8, Codec::Pcmu]], "video first");
    let (video, audio) = (house.frames(MediaKind::Video), house.frames(MediaKind::Audio));
    assert_eq!(numbers(&video), (0..50).collect::<Vec<_>>());
    assert_eq!(audio.len(), 100);
    check_dts(&video);
    check_dts(&audio);
    let steps = |ns: &[i64]| ns.windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>();
    assert!(steps(&pts_ns(&video)).iter().all(|s| *s == 40_000_000));
    assert!(steps(&pts_ns(&audio)).iter().all(|s| *s == 20_000_000));
    assert_eq!(audio[0].buffer.duration(), Some(gst::ClockTime::from_mseconds(20)));
    let apart = audio[0].pts_ns() as i64 - video[0].pts_ns() as i64;
    assert!((apart + 500_000_000).abs() < 10, "{apart}");
    assert!(matches!(house.got.last(), Some(Item::End(EndReason::Unpublished))));
    assert_eq!(house.gaps(), []);
}

#[test]
fn reports_come_in_compound_packets_and_may_come_before_media() {
    use rtcp_types::{SenderReport, prelude::*};
    let mut house = House::new(Arrival::InOrder);
    for (section, ssrc, ms, rtp) in
        [(VIDEO, VIDEO_SSRC, 0, 0u32.wrapping_sub(9_000)), (AUDIO, AUDIO_SSRC, 90, 0)]
    {
        let report = SenderReport::builder(ssrc).ntp_timestamp(ntp_of(ms)).rtp_timestamp(rtp);
        let mut bytes = [0; 28];
        report.write_into(&mut bytes).expect("a report");
        house.receiver.rtcp(section, &bytes, MS);
    }
    house.stream(0, 1);
    let first = |kind| house.frames(kind)[0].pts_ns() as i64;
    assert!((first(MediaKind::Audio) - first(MediaKind::Video) - 90_000_000).abs() < 10);
}

#[test]
fn b_frames_keep_their_times() {
    let mut house = House::new(Arrival::InOrder);
    // I0 P3 b1 b2 P6 b4 b5: after frame 0 every third frame is decoded before the two it is shown after.
    let order: Vec<u32> =
        (0..90).map(|n| if n == 0 { 0 } else { [n + 2, n - 1, n - 1][(n as usize - 1) % 3] }).collect();
    for (n, &shown) in order.iter().enumerate() {
        house.video(n as u32, shown, n == 0, 40 * MS * n as u32);
        house.flush(40 * MS * n as u32);
    }
    house.finish();
    let video = house.frames(MediaKind::Video);
    assert_eq!(numbers(&video), (0..90).collect::<Vec<_>>());
    let start = video[0].pts_ns() as i64;
    let expected: Vec<_> = order.iter().map(|n| start + i64::from(*n) * 40_000_000).collect();
    assert_eq!(pts_ns(&video), expected);
    check_dts(&video);
    assert!(video.iter().all(|f| f.dts_ns() <= f.pts_ns()));
}

#[test]
fn after_a_loss_video_goes_on_with_a_key_frame_that_is_asked_for() {
    let mut house = House::new(Arrival::InOrder);
    house.stream(0, 40);
    assert_eq!(house.receiver.key_frame_wanted(1_600 * MS), None);
    let damaged = house.next_video(40, 40, false);
    house.receiver.rtp(VIDEO, &damaged[0], 1_600 * MS);
    house.receiver.rtp(VIDEO, &damaged[2], 1_600 * MS);
    assert_eq!(house.receiver.key_frame_wanted(1_600 * MS), Some((VIDEO, VIDEO_SSRC)));
    assert_eq!(house.receiver.key_frame_wanted(1_700 * MS), None, "at most once per 500 ms");
    assert_eq!(house.receiver.key_frame_wanted(2_100 * MS), Some((VIDEO, VIDEO_SSRC)));
    house.stream(41, 60);
    assert_eq!(house.receiver.key_frame_wanted(9_000 * MS), None);
    house.finish();
    let video = house.frames(MediaKind::Video);
    assert_eq!(numbers(&video), (0..40).chain(50..60).collect::<Vec<_>>());
    let at_ms = video[39].pts_ns() / 1_000_000 + 40;
    let gap = Gap { kind: GapKind::PacketLoss, at_ms, by_ms: 400, at: None, frames: 10, packets: 1 };
    assert_eq!(house.gaps(), [gap]);
    let told = house.got.iter().position(|i| matches!(i, Item::Gap(_))).expect("told");
    let key = house.got.iter().position(|i| matches!(i, Item::Frame(f) if f.pts_ns() == video[40].pts_ns()));
    assert!(told < key.expect("given out"), "told before what follows it");
}

#[test]
fn audio_losses_within_a_second_are_told_as_one() {
    let mut house = House::new(Arrival::InOrder);
    house.stream(0, 30);
    for n in 60..200 {
        let packet = house.next_audio(n);
        if ![70, 71, 90, 150].contains(&n) {
            house.receiver.rtp(AUDIO, &packet, 20 * MS * n);
        }
    }
    house.finish();
    let told: Vec<_> = house.gaps().iter().map(|g| (g.packets, g.frames, g.by_ms)).collect();
    assert_eq!(told, [(3, 0, 60), (1, 0, 20)]);
}

#[test]
fn frames_before_the_first_key_frame_are_left_out() {
    let mut house = House::new(Arrival::Unordered);
    for n in 10..25 {
        house.video(n, n, false, 40 * MS * n);
        house.audio(2 * n, 40 * MS * n);
        house.audio(2 * n + 1, 40 * MS * n + 20 * MS);
    }
    assert_eq!(house.receiver.key_frame_wanted(1_000 * MS), Some((VIDEO, VIDEO_SSRC)));
    house.stream(25, 60);
    house.finish();
    assert_eq!(house.tracks(), [[Codec::Vp8, Codec::Pcmu]]);
    let (video, audio) = (house.frames(MediaKind::Video), house.frames(MediaKind::Audio));
    assert_eq!(numbers(&video), (25..60).collect::<Vec<_>>());
    assert_eq!(audio[30].pts_ns(), video[0].pts_ns());
    assert_eq!(house.gaps(), []);
}

#[test]
fn a_silent_track_is_left_out_and_a_late_one_is_added() {
    let mut house = House::new(Arrival::Unordered);
    for n in 0..100 {
        house.video(n, n, n % 25 == 0, 40 * MS * n);
        house.flush(40 * MS * n);
    }
    house.stream(100, 130);
    house.finish();
    assert_eq!(house.tracks(), [vec![Codec::Vp8], vec![Codec::Vp8, Codec::Pcmu]]);
    let (video, audio) = (house.frames(MediaKind::Video), house.frames(MediaKind::Audio));
    assert_eq!(video.len(), 130);
    assert_eq!(audio.len(), 60);
    assert_eq!(audio[0].pts_ns(), video[100].pts_ns(), "placed by its arrival");
}

#[test]
fn a_source_that_comes_back_goes_on_where_it_was() {
    let mut house = House::new(Arrival::InOrder);
    house.stream(0, 50);
    house.receiver.reconnected(media(Arrival::InOrder), 60_000 * MS).expect("formats that can be read");
    // Another clock, other sequence numbers, the same numbers of frames.
    house.video_sequence = 7;
    house.audio_sequence = 9_000;
    for n in 0..60 {
        house.video(1_000 + n, 3_000_000 + n, n % 25 == 0, 60_000 * MS + 40 * MS * n);
        house.audio(5_000 + 2 * n, 60_000 * MS + 40 * MS * n);
        house.audio(5_001 + 2 * n, 60_020 * MS + 40 * MS * n);
        house.flush(60_000 * MS + 40 * MS * n);
    }
    house.finish();
    let video = house.frames(MediaKind::Video);
    assert_eq!(video.len(), 110);
    assert!(pts_ns(&video).windows(2).all(|w| (39_999_998..=41_000_000).contains(&(w[1] - w[0]))));
    let gap = &house.gaps()[..];
    let [Gap { kind: GapKind::Reconnect, at_ms, by_ms: 58_020, at: Some(_), frames: 0, packets: 0 }] = gap
    else {
        panic!("{gap:?}");
    };
    assert_eq!(*at_ms, 12_000);
    assert_eq!(house.tracks().len(), 1, "one file goes on");
    let audio = house.frames(MediaKind::Audio);
    assert!(audio[100].pts_ns().abs_diff(video[50].pts_ns()) < 1_000_000);
    assert!(video.windows(2).all(|w| w[0].dts_ns() < w[1].dts_ns()));
}

/// A browser that replaces its camera, or an encoder that starts anew on the same socket.
#[test]
fn another_sender_takes_over_without_thousands_of_lost_packets() {
    for ssrc in [VIDEO_SSRC, 99] {
        let mut house = House::new(Arrival::Unordered);
        house.stream(0, 50);
        for n in 50..100u32 {
            let sequence = 20_000 + (n as u16 - 50) * 3;
            for packet in frame_packets(ssrc, sequence, 77_000_000 + n * FRAME, &vp8(n, n == 50)) {
                house.receiver.rtp(VIDEO, &packet, 40 * MS * n);
            }
            house.flush(40 * MS * n);
        }
        house.finish();
        let video = house.frames(MediaKind::Video);
        assert_eq!(numbers(&video), (0..100).collect::<Vec<_>>(), "{ssrc}");
        assert!(pts_ns(&video).windows(2).all(|w| w[1] - w[0] == 40_000_000), "{ssrc}");
        assert_eq!(house.gaps(), [], "{ssrc}");
        assert_eq!(house.receiver.publisher().stream().snapshot().packets_lost, 0);
    }
}

/// A camera that sets its clock: the sequence goes on, the timestamps of both tracks jump by 70 minutes.
#[test]
fn a_jump_of_the_timestamps_is_taken_out_and_told() {
    for to in [105_000u32, 105_000u32.wrapping_neg()] {
        let mut house = House::new(Arrival::Unordered);
        house.stream(0, 50);
        for n in 50..100u32 {
            house.video(n, n.wrapping_add(to), n % 25 == 0, 40 * MS * n);
            house.audio(n.wrapping_add(to).wrapping_mul(2), 40 * MS * n);
            house.audio(n.wrapping_add(to).wrapping_mul(2).wrapping_add(1), 40 * MS * n + 20 * MS);
            house.flush(40 * MS * n);
        }
        house.finish();
        let (video, audio) = (house.frames(MediaKind::Video), house.frames(MediaKind::Audio));
        assert!(pts_ns(&video).windows(2).all(|w| w[1] - w[0] == 40_000_000));
        check_dts(&video);
        check_dts(&audio);
        assert_eq!((video.len(), audio.len()), (100, 200));
        assert!(audio[199].pts_ns().abs_diff(video[99].pts_ns()) <= 30_000_000);
        let kinds: Vec<_> = house.gaps().iter().map(|g| g.kind).collect();
        assert_eq!(kinds, [GapKind::TimestampJump]);
    }
}

#[test]
fn a_stray_sender_changes_nothing() {
    let mut house = House::new(Arrival::Unordered);
    house.stream(0, 30);
    let stray = packet(4_711, 96, 5, 5, true, &[0x10, 1]);
    assert!(!house.receiver.rtp(VIDEO, &stray, 1_200 * MS));
    assert!(!house.receiver.rtp(VIDEO, &packet(VIDEO_SSRC ^ 1, 97, 5, 5, true, &[1]), 1_200 * MS));
    assert!(!house.receiver.rtp(VIDEO, &[0x80; 5], 1_200 * MS));
    assert!(!house.receiver.rtp(7, &stray, 1_200 * MS));
    assert_eq!(house.receiver.faults(), 4);
    house.stream(30, 60);
    house.finish();
    assert_eq!(house.frames(MediaKind::Video).len(), 60);
}

#[test]
fn a_stream_that_ends_at_once_is_whole() {
    let mut house = House::new(Arrival::Unordered);
    house.video(0, 0, true, MS);
    house.video(1, 1, false, 2 * MS);
    house.audio(0, 3 * MS);
    house.finish();
    assert_eq!(house.frames(MediaKind::Video).len(), 2);
    assert_eq!(house.frames(MediaKind::Audio).len(), 1);
}

/// Once what was held was looked at after a read of the socket only, which may bring a million tiny units.
#[test]
fn what_is_held_is_bounded_within_a_read() {
    let mut house = House::new(Arrival::InOrder);
    for n in 0..300 {
        let audio = packet(AUDIO_SSRC, 0, n as u16, n * 60_000, false, &[0; 60_000]);
        house.receiver.rtp(AUDIO, &audio, MS);
    }
    house.collect();
    assert!(house.frames(MediaKind::Audio).len() >= 256);
}

/// Once they came with the next connection, or at the end of the source.
#[test]
fn the_last_units_of_a_connection_do_not_wait_for_the_next() {
    let mut house = House::new(Arrival::Unordered);
    house.stream(0, 30);
    let held = house.next_audio(60);
    let missing = house.next_audio(61);
    let last = house.next_audio(62);
    for packet in [held, last] {
        house.receiver.rtp(AUDIO, &packet, 1_200 * MS);
    }
    drop(missing);
    house.flush(1_200 * MS);
    assert_eq!(house.frames(MediaKind::Audio).len(), 61);
    house.receiver.interrupted();
    house.collect();
    assert_eq!(house.frames(MediaKind::Audio).len(), 62);
    house.receiver.reconnected(media(Arrival::Unordered), 9_000 * MS).expect("the same media");
    house.finish();
    assert_eq!(house.frames(MediaKind::Audio).len(), 62);
}

/// Once all that one read of the socket brought waited for its end, four megabytes of the smallest frames there are.
#[test]
fn units_do_not_wait_for_the_end_of_a_read() {
    let mut house = House::new(Arrival::InOrder);
    house.stream(0, 30);
    let frames = |house: &mut House| house.receiver.publisher().stream().snapshot().frames;
    let before = frames(&mut house);
    for n in 60..360 {
        house.audio(n, 1_200 * MS);
    }
    assert_eq!(frames(&mut house) - before, 256);
}

#[test]
fn a_report_names_the_sender_and_asks_for_a_key_frame() {
    let mut house = House::new(Arrival::Unordered);
    house.stream(0, 3);
    let mut out = Vec::new();
    house.receiver.report(VIDEO, 200 * MS, true, &mut out);
    let packets: Vec<_> = Compound::parse(&out).expect("compound").flatten().collect();
    let [Packet::Rr(rr), Packet::Sdes(_), Packet::PayloadFeedback(pli)] = &packets[..] else {
        panic!("{packets:?}");
    };
    assert_eq!(rr.report_blocks().next().map(|b| b.ssrc()), Some(VIDEO_SSRC));
    assert_eq!(pli.media_ssrc(), VIDEO_SSRC);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Whatever the network does: what comes out is as sent, once, in order, with rising decoding times; after the last
    /// loss all of it.
    #[test]
    fn a_bad_network_harms_no_unit(
        fates in proptest::collection::vec((0u8..30, 0u32..30, 0u32..60), 600..900),
        arrival in proptest::sample::select(vec![Arrival::InOrder, Arrival::Unordered]),
    ) {
        let mut house = House::new(arrival);
        let mut arrivals = Vec::new();
        let mut fates = fates.iter().cycle();
        for n in 0..150u32 {
            let packets = house.next_video(n, n, n % 10 == 0).into_iter().map(|p| (VIDEO, p));
            let packets: Vec<_> = packets.chain([(AUDIO, house.next_audio(n))]).collect();
            for (section, packet) in packets {
                let (fate, late, twice) = *fates.next().expect("for ever");
                let late = if n >= 120 { 0 } else if fate < 5 { late } else { 0 };
                if fate != 0 || n >= 120 {
                    arrivals.push((40 * n + late, section, packet.clone()));
                }
                if fate == 1 {
                    arrivals.push((40 * n + twice, section, packet));
                }
            }
        }
        arrivals.sort_by_key(|(at, ..)| *at);
        for (at, section, packet) in arrivals {
            house.receiver.rtp(section, &packet, MS * at);
            house.flush(MS * at);
        }
        house.finish();
        let video = house.frames(MediaKind::Video);
        let numbers = numbers(&video);
        check_dts(&video);
        check_dts(&house.frames(MediaKind::Audio));
        proptest::prop_assert!(numbers.windows(2).all(|w| w[0] < w[1]));
        proptest::prop_assert!(numbers.windows(2).zip(&video[1..]).all(|(w, f)| w[1] == w[0] + 1 || f.is_key()));
        proptest::prop_assert!(numbers.ends_with(&(130..150).collect::<Vec<_>>()));
        let start = video[0].pts_ns() as i64 - i64::from(numbers[0]) * 40_000_000;
        for (n, pts) in numbers.iter().zip(pts_ns(&video)) {
            proptest::prop_assert_eq!(pts - start, i64::from(*n) * 40_000_000);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(
        steps in proptest::collection::vec(
            (0usize..3, 0u8..4, proptest::collection::vec(proptest::num::u8::ANY, 0..60), 0u64..5_000), 1..100),
    ) {
        let mut house = House::new(Arrival::Unordered);
        for (section, act, bytes, ms) in steps {
            let now = Duration::from_millis(ms);
            let mut out = Vec::new();
            match act {
                0 => house.receiver.rtcp(section, &bytes, now),
                1 => house.receiver.rtcp(section, &[&[0x80, 200, 0, 6][..], &[7; 24], &bytes].concat(), now),
                2 => { house.receiver.rtp(section, &bytes, now); }
                _ => {
                    let payload_type = if section == AUDIO { 0 } else { 96 };
                    let head = [0x80, payload_type, bytes.first().copied().unwrap_or(0), 0, 0, 0, 0, 9, 0, 0, 0, 1];
                    house.receiver.rtp(section, &[&head[..], &bytes].concat(), now);
                }
            }
            house.flush(now);
            house.receiver.key_frame_wanted(now);
            house.receiver.report(section, now, true, &mut out);
        }
        house.finish();
    }
}
