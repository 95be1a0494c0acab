//! What is pushed over RTMP is in the file: every frame, in step, under its name, with its manifest and its hook.

use serde_json::{Value, json};
use std::{fs, path::Path, process::Command, time::Duration};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    live::publish_at_once,
    media::{AAC, AUDIO, H264, Packet, Probe, Publisher, VIDEO, av_source, boxes, decode, sha256, source},
    rtmp::Client,
    wait::wait_for,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
/// Long enough for any short source, in real time.
const SENT: Duration = Duration::from_secs(60);

fn manifest_of(file: &Path) -> Value {
    let path = format!("{}.json", file.display());
    serde_json::from_slice(&fs::read(path).expect("a manifest")).expect("JSON")
}

/// Publishes the file at once and waits for the finished recording.
fn record(daemon: &Daemon, name: &str, file: &Path) -> (Value, Probe) {
    Publisher::ffmpeg(file, &daemon.url(&format!("live/{name}")), false).finish(SENT);
    let recording = daemon.completed(name);
    let probe = Probe::read(&file_of(&recording));
    (recording, probe)
}

fn assert_same_times(sent: &[Packet], got: &[Packet], what: &str) {
    let times = |packets: &[Packet]| {
        let first = packets.iter().map(|p| p.pts_ms).fold(f64::INFINITY, f64::min);
        packets.iter().map(|p| p.pts_ms - first).collect::<Vec<_>>()
    };
    for (index, (sent, got)) in times(sent).into_iter().zip(times(got)).enumerate() {
        assert!((sent - got).abs() <= 1.0, "{what} packet {index}: {sent} ms sent, {got} ms in the file");
    }
}

#[test]
fn twenty_seconds_of_ffmpeg_are_in_the_file_whole_and_in_step() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 20);
    let publisher = Publisher::ffmpeg(&input, &daemon.url("court/cam"), true);
    let id = daemon.session_id("cam");
    publisher.finish(SENT);
    let recording = daemon.completed("cam");
    let file = file_of(&recording);

    let (sent, got) = (Probe::read(&input), Probe::read(&file));
    assert_eq!(sent.video.len(), 600);
    assert_eq!(got.counts(), sent.counts(), "video and audio packets in the file and sent");
    assert_eq!(decode(&file), 600, "pictures");
    let (offset, wanted) = (got.offset_ms(), sent.offset_ms());
    assert!(
        (offset - wanted).abs() <= 20.0,
        "video starts {offset} ms after audio, {wanted} ms at the source"
    );
    let length = sent.duration_ms - sent.video[0].pts_ms.min(sent.audio[0].pts_ms);
    assert!((got.duration_ms - length).abs() <= 50.0, "{} ms, {length} ms sent", got.duration_ms);
    assert!(got.is_monotonic());
    assert_eq!(boxes(&file), ["ftyp", "mdat", "moov"]);

    assert_eq!(file, fs::canonicalize(house.path("records/cam.mp4")).expect("the file"));
    assert_eq!(house.records(".part"), [] as [std::path::PathBuf; 0]);
    let part = &recording["parts"][0];
    let size = fs::metadata(&file).expect("the file").len();
    assert_eq!((part["size"].as_u64(), text(part, "sha256")), (Some(size), sha256(&file)));
    assert_eq!(part["video"]["frames"], 600);
    assert_eq!(part["video"]["keyframes"], 20);
    assert_eq!((&part["video"]["width"], &part["video"]["height"]), (&json!(320), &json!(180)));
    assert_eq!(part["audio"]["frames"], sent.audio.len());
    assert_eq!(recording["roomName"], "court");
    assert_eq!(text(&recording, "mediaSessionId"), id);
    assert_eq!(recording["lost"]["frames"], 0);

    let manifest = manifest_of(&file);
    for key in ["number", "file", "name", "size", "sha256", "durationMs", "video", "audio"] {
        assert_eq!(manifest[key], part[key], "{key}");
    }
    assert_eq!(manifest["version"], 1);
    assert_eq!(manifest["recording"]["id"], recording["id"]);

    let part = wait_for("the hook's result", SOON, || {
        let recording = daemon.get(&format!("/api/v1/recordings/{}", text(&recording, "id")));
        (!recording["parts"][0]["hook"].is_null()).then(|| recording["parts"][0].clone())
    });
    assert_eq!((&part["hook"]["exit"], &part["hook"]["attempts"]), (&json!(0), &json!(1)), "{part:#}");
    let [call] = &house.hook_calls()[..] else { panic!("one call: {:?}", house.hook_calls()) };
    assert_eq!((call.stream.as_str(), &call.file), ("cam", &file));
}

#[test]
fn streams_of_one_kind_and_with_b_frames_come_out_as_they_went_in() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let bframes: &[&str] = &["-bf", "2"];
    let sources = [
        ("audio", source(TMP, "audio4.flv", &[AUDIO, &["-t", "4"], AAC])),
        ("video", source(TMP, "video4.flv", &[VIDEO, &["-t", "4"], H264])),
        ("bframes", source(TMP, "bframes4.flv", &[VIDEO, AUDIO, &["-t", "4"], H264, bframes, AAC])),
    ];
    for (name, input) in sources {
        let (recording, got) = record(&daemon, name, &input);
        let sent = Probe::read(&input);
        assert_eq!(got.counts(), sent.counts(), "{name}");
        assert_eq!(decode(&file_of(&recording)), sent.video.len(), "{name}");
        assert_same_times(&sent.video, &got.video, &format!("{name}: video"));
        assert_same_times(&sent.audio, &got.audio, &format!("{name}: audio"));
        assert_eq!(boxes(&file_of(&recording)), ["ftyp", "mdat", "moov"], "{name}");
    }
    let reordered = Probe::read(&house.path("records/bframes.mp4"));
    assert!(reordered.video.windows(2).any(|w| w[1].pts_ms < w[0].pts_ms), "there are B-frames");
    assert!(
        (reordered.offset_ms() - Probe::read(&Path::new(TMP).join("bframes4.flv")).offset_ms()).abs() <= 20.0
    );
}

#[test]
fn gstreamer_publishes() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let pipeline = format!(
        "videotestsrc num-buffers=90 ! video/x-raw,width=320,height=180,framerate=30/1 ! \
         x264enc tune=zerolatency key-int-max=30 ! flvmux streamable=true ! rtmp2sink location={}",
        daemon.url("live/gst")
    );
    Publisher::spawn(Command::new("gst-launch-1.0").arg("-q").args(pipeline.split_whitespace())).finish(SENT);
    let file = file_of(&daemon.completed("gst"));
    assert_eq!(Probe::read(&file).counts(), (90, 0));
    assert_eq!(decode(&file), 90);
}

#[test]
fn only_who_asks_is_recorded_when_the_policy_does_not_record_all() {
    let house = House::new("record_rtmp_streams=false\nstream_record_policy=streamName\n", "");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 2);
    for path in ["live/quiet", "live/refused?record=false"] {
        Publisher::ffmpeg(&input, &daemon.url(path), false).finish(SENT);
    }
    let asked = ["asked", "deep/b", "b/c"];
    Publisher::ffmpeg(&input, &daemon.url("live/asked?record=true"), false).finish(SENT);
    Publisher::ffmpeg(&input, &daemon.url("a/deep/b?record=true"), false).finish(SENT);
    // Some encoders leave the query with the application.
    let flv = Flv::read(&input).expect("an FLV file");
    let options = daemon.publish_options("a?record=true", "b/c");
    publish_at_once(options, &flv, Duration::from_secs(2)).and_then(Client::unpublish).expect("all is taken");
    for name in asked {
        let recording = daemon.completed(name);
        assert_eq!(Probe::read(&file_of(&recording)).video.len(), 60, "{name}");
    }
    assert_eq!(daemon.get("/api/v1/recordings")["items"].as_array().map(Vec::len), Some(asked.len()));
    assert_eq!(asked.map(|name| text(&daemon.completed(name), "roomName")), ["live", "a", "a"]);
}

#[test]
fn audio_that_mp4_does_not_take_becomes_aac() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let alaw: &[&str] = &["-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1"];
    // A beep begins after 2 s.
    let beep: &[&str] = &["-af", "volume=0:enable='lt(t,2)'"];
    let input = source(TMP, "alaw4.flv", &[VIDEO, AUDIO, &["-t", "4"], H264, beep, alaw]);
    let (recording, got) = record(&daemon, "alaw", &input);
    let (file, sent) = (file_of(&recording), Probe::read(&input));
    assert_eq!((got.video_codec.as_str(), got.audio_codec.as_str()), ("h264", "aac"));
    assert_eq!(got.video.len(), sent.video.len());
    assert_eq!(decode(&file), sent.video.len());
    let (heard_ms, wanted_ms) = (silence_ends_ms(&file), silence_ends_ms(&input));
    assert!(
        (heard_ms - wanted_ms).abs() <= 20.0,
        "the beep is at {heard_ms} ms, at {wanted_ms} ms at the source"
    );
    // The encoder may begin and end with a part of 1024 samples, which are 128 ms of 8 kHz.
    assert!((got.duration_ms - 4000.0).abs() <= 2.0 * 128.0, "{} ms", got.duration_ms);
}

/// When the sound of a file begins.
fn silence_ends_ms(file: &Path) -> f64 {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-i"]).arg(file);
    let output = command.args(["-vn", "-af", "silencedetect=noise=-30dB:d=0.5", "-f", "null", "-"]).output();
    let said = String::from_utf8(output.expect("apt-get install ffmpeg").stderr).expect("text");
    let end = said.split("silence_end: ").nth(1).and_then(|rest| rest.split(' ').next());
    end.and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or_else(|| panic!("no silence in {said}"))
        * 1000.0
}

#[test]
fn the_policy_chooses_the_container() {
    let house = House::new(&format!("{RECORD_ALL}record_formats=h264-mkv\n"), "");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 2);
    let (recording, got) = record(&daemon, "cam", &input);
    assert_eq!(file_of(&recording).extension().and_then(|e| e.to_str()), Some("mkv"));
    assert_eq!(recording["container"], "mkv");
    let sent = Probe::read(&input);
    assert_eq!(got.counts(), sent.counts());
    assert_eq!(decode(&file_of(&recording)), sent.video.len());
    assert!((got.offset_ms() - sent.offset_ms()).abs() <= 20.0, "{} ms", got.offset_ms());
}

/// HEVC and Opus of an MP4 file, to be sent as Enhanced RTMP.
struct Enhanced {
    file: Vec<u8>,
    probe: Probe,
}

impl Enhanced {
    fn make() -> Self {
        let hevc: &[&str] = &["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
        let quiet: &[&str] = &["-x265-params", "log-level=none:keyint=30:bframes=0", "-tag:v", "hvc1"];
        let opus: &[&str] = &["-c:a", "libopus", "-b:a", "64k"];
        let path = source(TMP, "hevc_opus3.mp4", &[VIDEO, AUDIO, &["-t", "3"], hevc, quiet, opus]);
        Self { file: fs::read(&path).expect("the file"), probe: Probe::read(&path) }
    }

    fn packet(&self, packet: &Packet) -> &[u8] {
        &self.file[packet.position..packet.position + packet.size]
    }

    /// The decoder configuration: the body of the `hvcC` box.
    fn hvcc(&self) -> &[u8] {
        let at = self.file.windows(4).position(|w| w == b"hvcC").expect("an hvcC box");
        let size = u32::from_be_bytes(*self.file[at - 4..].first_chunk().expect("a size"));
        &self.file[at + 4..at - 4 + size as usize]
    }

    fn publish(&self, client: &mut Client) {
        client.send_video(0, &[b"\x90hvc1", self.hvcc()].concat()).expect("sent");
        let opus_head = b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0";
        client.send_audio(0, &[b"\x90Opus", &opus_head[..]].concat()).expect("sent");
        let video = self.probe.video.iter().map(|packet| (packet, true));
        let mut packets: Vec<_> =
            video.chain(self.probe.audio.iter().map(|packet| (packet, false))).collect();
        packets.sort_by(|a, b| a.0.dts_ms.total_cmp(&b.0.dts_ms));
        for (packet, is_video) in packets {
            let at_ms = packet.dts_ms.max(0.0).round() as u32;
            let data = self.packet(packet);
            let sent = match is_video {
                true if packet.key => client.send_video(at_ms, &[b"\x93hvc1", data].concat()),
                true => client.send_video(at_ms, &[b"\xa3hvc1", data].concat()),
                false => client.send_audio(at_ms, &[b"\x91Opus", data].concat()),
            };
            sent.expect("sent");
        }
    }
}

#[test]
fn enhanced_rtmp_brings_hevc_and_opus() {
    let enhanced = Enhanced::make();
    for (rule, audio_codec) in [("auto", "aac"), ("passthrough", "opus")] {
        let house = House::new(&format!("{RECORD_ALL}record_audio={rule}\n"), "");
        let daemon = house.start(REELD);
        let mut client = Client::publish(daemon.publish_options("live", "hevc")).expect("accepted");
        enhanced.publish(&mut client);
        client.unpublish().expect("a good end");
        let file = file_of(&daemon.completed("hevc"));
        let got = Probe::read(&file);
        assert_eq!((got.video_codec.as_str(), got.audio_codec.as_str()), ("hevc", audio_codec));
        assert_eq!(got.video.len(), enhanced.probe.video.len(), "{rule}");
        assert_eq!(decode(&file), enhanced.probe.video.len(), "{rule}");
        assert!((got.duration_ms - 3000.0).abs() <= 60.0, "{rule}: {} ms", got.duration_ms);
        if rule == "passthrough" {
            assert_eq!(got.audio.len(), enhanced.probe.audio.len());
        }
    }
}
