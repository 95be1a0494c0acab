//! Enhanced RTMP as ffmpeg from 6.1, OBS from 29.1 and version 2 send it: every codec, every frame, shown when it was meant.

use std::path::PathBuf;
use support::{
    amf0::Value as Amf,
    daemon::{Daemon, House, SOON, file_of},
    enhanced::{Dialect, Enhanced, send_all},
    media::{AUDIO, Packet, Probe, VIDEO, decode, source},
    rtmp::Client,
    wait::wait_until,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str =
    "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_audio=passthrough\n";

const H264_B: &[&str] =
    &["-c:v", "libx264", "-preset", "veryfast", "-g", "30", "-bf", "2", "-pix_fmt", "yuv420p"];
const HEVC_B: &[&str] = &[
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-pix_fmt",
    "yuv420p",
    "-tag:v",
    "hvc1",
    "-x265-params",
    "log-level=none:keyint=30:bframes=2:b-adapt=0",
];
const AV1: &[&str] =
    &["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "30", "-pix_fmt", "yuv420p"];
const VP9: &[&str] =
    &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-pix_fmt", "yuv420p"];
const OPUS: &[&str] = &["-c:a", "libopus", "-b:a", "64k"];

fn encoded(name: &str, video: &[&str]) -> PathBuf {
    source(TMP, &format!("enhanced_{name}3.mp4"), &[VIDEO, AUDIO, &["-t", "3"], video, OPUS])
}

/// Times from the first picture shown.
fn shown(packets: &[Packet], of: impl Fn(&Packet) -> f64) -> Vec<f64> {
    let first = packets.iter().map(&of).fold(f64::INFINITY, f64::min);
    packets.iter().map(|p| of(p) - first).collect()
}

fn publish(daemon: &Daemon, name: &str, enhanced: &Enhanced, dialect: Dialect) {
    let mut client = Client::publish(daemon.publish_options("live", name)).expect("accepted");
    send_all(&mut client, &enhanced.messages(dialect)).expect("sent");
    client.unpublish().expect("a good end");
}

fn assert_recorded(daemon: &Daemon, name: &str, enhanced: &Enhanced, codec: &str, extension: &str) {
    let file = file_of(&daemon.completed(name));
    assert_eq!(file.extension().and_then(|e| e.to_str()), Some(extension), "{name}");
    let (sent, got) = (&enhanced.probe, Probe::read(&file));
    assert_eq!((got.video_codec.as_str(), got.audio_codec.as_str()), (codec, "opus"), "{name}");
    assert_eq!(got.counts(), sent.counts(), "{name}: frames in the file and sent");
    assert_eq!(decode(&file), sent.video.len(), "{name}");
    let sent_ms = shown(&sent.video, |p| f64::from(enhanced.times(p).1));
    for (index, (sent, got)) in sent_ms.into_iter().zip(shown(&got.video, |p| p.pts_ms)).enumerate() {
        assert!((sent - got).abs() <= 1.0, "{name}: picture {index} shown at {got} ms, sent for {sent} ms");
    }
    let offset = |probe: &Probe| probe.offset_ms();
    assert!((offset(&got) - offset(sent)).abs() <= 20.0, "{name}: {} and {} ms", offset(&got), offset(sent));
}

#[test]
fn every_codec_comes_out_as_it_went_in() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    for (name, arguments, four_cc, codec, extension) in [
        ("h264", H264_B, "avc1", "h264", "mp4"),
        ("hevc", HEVC_B, "hvc1", "hevc", "mp4"),
        ("av1", AV1, "av01", "av1", "mp4"),
        ("vp9", VP9, "vp09", "vp9", "webm"),
    ] {
        let enhanced = Enhanced::read(&encoded(name, arguments), four_cc);
        publish(&daemon, name, &enhanced, Dialect::Plain);
        assert_recorded(&daemon, name, &enhanced, codec, extension);
        if matches!(four_cc, "avc1" | "hvc1") {
            let video = &enhanced.probe.video;
            assert!(video.windows(2).any(|w| w[1].pts_ms < w[0].pts_ms), "{name} has B-frames");
        }
    }
}

#[test]
fn of_several_tracks_the_first_is_recorded_and_the_others_are_told() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let enhanced = Enhanced::read(&encoded("hevc", HEVC_B), "hvc1");
    publish(&daemon, "tracks", &enhanced, Dialect::Multitrack);
    assert_recorded(&daemon, "tracks", &enhanced, "hevc", "mp4");
    let log = daemon.log();
    assert_eq!(log.matches("track 0 is taken, the others are left out").count(), 1, "told once");
}

#[test]
fn a_codec_that_is_not_supported_is_named_and_costs_the_others_nothing() {
    let house = House::new(RECORD_ALL, "publisher_timeout = \"1s\"");
    let daemon = house.start(REELD);
    let enhanced = Enhanced::read(&encoded("h264", H264_B), "avc1");
    for (name, four_cc, words) in [("ac3", "ac-3", "ac-3 (AC-3)"), ("flac", "fLaC", "fLaC (FLAC)")] {
        let mut messages = enhanced.messages(Dialect::Plain);
        for message in
            messages.iter_mut().filter(|m| m.payload[0] & 0xF0 == 0x90 && &m.payload[1..5] == b"Opus")
        {
            message.payload[1..5].copy_from_slice(four_cc.as_bytes());
        }
        let mut client = Client::publish(daemon.publish_options("live", name)).expect("accepted");
        send_all(&mut client, &messages).expect("sent");
        client.unpublish().expect("a good end");
        let recording = daemon.completed(name);
        let got = Probe::read(&file_of(&recording));
        assert_eq!(got.counts(), (enhanced.probe.video.len(), 0), "{name}");
        let told = format!("audio codec {words} is not supported; send AAC, Opus, MP3 or G.711");
        assert_eq!(recording["degraded"], serde_json::json!([told]), "{name}");
        assert_eq!(daemon.log().matches(&told).count(), 1, "{told}");
    }
    // With nothing that can be used, the end says why.
    let mut client = Client::publish(daemon.publish_options("live", "only")).expect("accepted");
    client.send_audio(0, b"\x90fLaCfLaC").expect("sent");
    client.wait_closed().expect("dropped");
    let told = "what came last cannot be used: audio codec fLaC (FLAC) is not supported";
    wait_until("the reason in the log", SOON, || daemon.log().contains(told));
}

#[test]
fn capabilities_are_told_as_they_were_asked_for() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let connected = |name: &str, members: Vec<(&str, Amf)>| {
        let mut options = daemon.publish_options("live", name);
        options.connect = members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let client = Client::publish(options).expect("accepted");
        client.connected().expect("an answer").values[1].clone()
    };
    let plain = connected("plain", vec![]);
    assert!(plain.get("fourCcList").is_none() && plain.get("capsEx").is_none(), "{plain:?}");
    // As ffmpeg with -rtmp_enhanced_codecs.
    let list = Amf::Array(["hvc1", "vvc1", "Opus"].map(Amf::string).into());
    let first = connected("first", vec![("fourCcList", list)]);
    let ours = Amf::Array(["hvc1", "Opus"].map(Amf::string).into());
    assert_eq!(first.get("fourCcList"), Some(&ours));
    // As version 2 encoders.
    let all = Amf::Object(vec![("*".into(), Amf::Number(2.0))]);
    let second = connected("second", vec![("capsEx", Amf::Number(15.0)), ("videoFourCcInfoMap", all)]);
    assert_eq!(second.get("capsEx"), Some(&Amf::Number(4.0)));
    let video = second.get("videoFourCcInfoMap").expect("a map");
    assert_eq!(video.get("av01"), Some(&Amf::Number(4.0)));
}
