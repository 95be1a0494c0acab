//! What is pushed over RTSP is in the file: every frame that was sent, in step, whatever the codec, the transport and the
//! end; and what clients do wrong costs nobody else anything.

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::{Flv, Kind},
    media::{AAC, AUDIO, H264, Packet, Probe, Publisher, VIDEO, av_source, decode, source},
    rtsp::{Client, Over, Push, RtspError, sdp_of},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtsp_streams=true\nstream_record_policy=streamName\n";
const IMPATIENT: &str = "publisher_timeout = \"1s\"\nhandshake_timeout = \"1s\"";
/// Long enough for any short source, in real time.
const SENT: Duration = Duration::from_secs(60);
/// ffmpeg gathers AAC frames to fill a packet and forgets those of the last, unfilled one: it never sends them.
const KEPT_BY_FFMPEG: usize = 8;

fn ffmpeg(file: &Path, url: &str, over: &str) -> Publisher {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-i"]).arg(file);
    command.args(["-map", "0", "-c", "copy", "-strict", "experimental"]);
    Publisher::spawn(command.args(["-f", "rtsp", "-rtsp_transport", over, url]))
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

/// A source, and the codecs its recording has.
struct Sent {
    name: &'static str,
    file: PathBuf,
    video: &'static str,
    audio: &'static str,
}

/// Every codec that ffmpeg pushes.
fn sources() -> Vec<Sent> {
    const HEVC: &[&str] = &["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params"];
    const VP8: &[&str] = &["-c:v", "libvpx", "-deadline", "realtime", "-g", "30", "-b:v", "300k"];
    const VP9: &[&str] = &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30"];
    const OPUS: &[&str] = &["-c:a", "libopus", "-b:a", "64k"];
    const ALAW: &[&str] = &["-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1"];
    let length: &[&str] = &["-t", "4"];
    let make = |name: &'static str, file: &str, arguments: &[&[&str]], video, audio| {
        let file = source(TMP, &format!("rtsp4-{file}"), arguments);
        Sent { name, file, video, audio }
    };
    vec![
        make("h264-aac", "h264.mp4", &[VIDEO, AUDIO, length, H264, &["-bf", "0"], AAC], "h264", "aac"),
        make("bframes", "bframes.mp4", &[VIDEO, AUDIO, length, H264, &["-bf", "3"], AAC], "h264", "aac"),
        make(
            "hevc",
            "hevc.mp4",
            &[VIDEO, AUDIO, length, HEVC, &["log-level=none:keyint=30:bframes=2"], AAC],
            "hevc",
            "aac",
        ),
        make("vp8", "vp8.webm", &[VIDEO, AUDIO, length, VP8, OPUS], "vp8", "vorbis"),
        make("vp9", "vp9.webm", &[VIDEO, AUDIO, length, VP9, OPUS], "vp9", "vorbis"),
        make("opus", "opus.mp4", &[VIDEO, AUDIO, length, H264, OPUS], "h264", "aac"),
        make("pcma", "pcma.mkv", &[VIDEO, AUDIO, length, H264, ALAW], "h264", "aac"),
        make("audio", "audio.mp4", &[AUDIO, length, AAC], "", "aac"),
        make("video", "video.mp4", &[VIDEO, length, H264], "h264", ""),
    ]
}

fn check(sent: &Sent, recording: &Value, over: &str) {
    let what = format!("{} over {over}", sent.name);
    let file = file_of(recording);
    let (source, got) = (Probe::read(&sent.file), Probe::read(&file));
    assert_eq!((got.video_codec.as_str(), got.audio_codec.as_str()), (sent.video, sent.audio), "{what}");
    assert_eq!(got.video.len(), source.video.len(), "{what}: pictures");
    assert_eq!(decode(&file), source.video.len(), "{what}: pictures that can be seen");
    assert_same_times(&source.video, &got.video, &format!("{what}: video"));
    assert_eq!(recording["lost"]["frames"], 0, "{what}");
    if source.audio_codec == sent.audio {
        let kept = source.audio.len() - got.audio.len();
        assert!(kept < KEPT_BY_FFMPEG, "{what}: {kept} of {} audio frames missing", source.audio.len());
        assert_same_times(&source.audio, &got.audio, &format!("{what}: audio"));
    }
    let slack_ms = if source.audio_codec == sent.audio { 200.0 } else { 300.0 };
    assert!((got.duration_ms - 4000.0).abs() <= slack_ms, "{what}: {} ms", got.duration_ms);
    if !got.video.is_empty() && !got.audio.is_empty() {
        let (offset, wanted) = (got.offset_ms(), source.offset_ms());
        // An encoder in between begins before what it is given.
        let slack_ms = if source.audio_codec == sent.audio { 20.0 } else { 40.0 };
        assert!((offset - wanted).abs() <= slack_ms, "{what}: {offset} ms, {wanted} ms at the source");
    }
}

fn everything_from_ffmpeg(over: &'static str) {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let sources = sources();
    let url = |sent: &Sent| daemon.rtsp_url(&format!("live/{}", sent.name));
    let publishers: Vec<_> = sources.iter().map(|sent| ffmpeg(&sent.file, &url(sent), over)).collect();
    publishers.into_iter().for_each(|publisher| publisher.finish(SENT));
    let faults: Vec<_> = thread::scope(|scope| {
        let checks = sources.iter().map(|sent| {
            let recording = daemon.completed(sent.name);
            (sent.name, scope.spawn(move || check(sent, &recording, over)))
        });
        let checks: Vec<_> = checks.collect();
        checks.into_iter().filter_map(|(name, check)| check.join().err().map(|_| name)).collect()
    });
    assert!(faults.is_empty(), "over {over}: {faults:?}");
}

#[test]
fn ffmpeg_pushes_every_codec_over_tcp() {
    everything_from_ffmpeg("tcp");
}

#[test]
fn ffmpeg_pushes_every_codec_over_udp() {
    everything_from_ffmpeg("udp");
}

#[test]
fn gstreamer_pushes_over_tcp_and_udp() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let push = |over: &str| {
        let pipeline = format!(
            "rtspclientsink name=sink protocols={over} location={} \
             videotestsrc is-live=true num-buffers=90 ! video/x-raw,format=I420,width=320,height=180,framerate=30/1 ! \
             x264enc tune=zerolatency key-int-max=30 ! sink. \
             audiotestsrc is-live=true num-buffers=150 samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=2 ! \
             opusenc ! sink.",
            daemon.rtsp_url(&format!("live/gst-{over}"))
        );
        let mut command = Command::new("gst-launch-1.0");
        Publisher::spawn(command.arg("-q").args(pipeline.split_whitespace()))
    };
    let publishers = ["tcp", "udp"].map(|over| (over, push(over)));
    // Of both before either is waited for: the second may have ended by itself by then.
    let sessions = publishers.iter().map(|(over, _)| daemon.session_id(&format!("gst-{over}")));
    let sessions: Vec<_> = sessions.collect();
    for ((_, publisher), id) in publishers.iter().zip(sessions) {
        // This sink does not always notice that all is sent: then it is told.
        let session = format!("/api/v1/sessions/{id}");
        wait_until("all is sent", SOON, || {
            let answer = daemon.request("GET", &session, b"");
            answer.status == 404 || answer.json()["frames"].as_u64() >= Some(90 + 150)
        });
        publisher.interrupt();
    }
    for over in ["tcp", "udp"] {
        let file = file_of(&daemon.completed(&format!("gst-{over}")));
        let got = Probe::read(&file);
        assert_eq!((got.video.len(), decode(&file)), (90, 90), "{over}");
        assert!((got.duration_ms - 3000.0).abs() <= 150.0, "{over}: {} ms", got.duration_ms);
        assert!(got.offset_ms().abs() <= 60.0, "{over}: {} ms apart", got.offset_ms());
    }
}

#[test]
fn only_who_asks_is_recorded_when_the_policy_does_not_record_all() {
    let house = House::new("record_rtsp_streams=false\nstream_record_policy=streamName\n", "");
    let daemon = house.start(REELD);
    let input = source(TMP, "rtsp1.mp4", &[VIDEO, AUDIO, &["-t", "1"], H264, AAC]);
    let publishers = ["live/quiet", "live/refused?record=false", "a/deep/b?record=true"]
        .map(|path| ffmpeg(&input, &daemon.rtsp_url(path), "tcp"));
    publishers.into_iter().for_each(|publisher| publisher.finish(SENT));
    let recording = daemon.completed("deep/b");
    assert_eq!(text(&recording, "roomName"), "a");
    assert_eq!(text(&recording, "protocol"), "rtsp");
    assert_eq!(daemon.get("/api/v1/recordings")["items"].as_array().map(Vec::len), Some(1));
}

/// How a publisher of our own says goodbye.
#[derive(Debug, Clone, Copy)]
enum End {
    Teardown(Over),
    Disconnect,
    Reset,
}

/// Pushes a third of a second at once and ends; frames sent, video and audio. So little leaves the sender in one
/// segment: a reset throws away what its kernel still has.
fn push_and_end(daemon: &Daemon, flv: &Flv, name: &str, end: End) -> Result<(usize, usize), RtspError> {
    const SHORT: Duration = Duration::from_millis(333);
    let over = if let End::Teardown(over) = end { over } else { Over::Tcp };
    let mut push = Push::start(daemon.rtsp(), &daemon.rtsp_url(&format!("live/{name}")), flv, over)?;
    push.all(flv, SHORT)?;
    match end {
        End::Teardown(_) => push.teardown().map(|_| ())?,
        End::Disconnect => push.client.disconnect()?,
        End::Reset => push.client.reset()?,
    }
    let timeline = flv.timeline(SHORT);
    let video = timeline.iter().filter(|due| due.kind == Kind::Video).count();
    Ok((video, timeline.len() - video))
}

/// The story: a server built on GStreamer's elements lost the last audio frame of 39 of 50 streams, because the end of
/// the connection overtook what it had already received.
#[test]
fn the_last_frame_is_in_the_file_fifty_times_of_fifty() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let ends = [End::Teardown(Over::Tcp), End::Reset, End::Teardown(Over::Udp), End::Disconnect, End::Reset];
    let push = |lane: usize| {
        let (daemon, flv) = (&daemon, &flv);
        move || {
            for round in 0..10 {
                let name = format!("short-{lane}-{round}");
                let sent = push_and_end(daemon, flv, &name, ends[lane]);
                let sent = sent.unwrap_or_else(|e| panic!("{name}, {:?}: {e}", ends[lane]));
                let file = file_of(&daemon.completed(&name));
                let got = Probe::read(&file);
                assert_eq!(got.counts(), sent, "{name}, {:?}: packets in the file and sent", ends[lane]);
                assert_eq!(decode(&file), sent.0, "{name}");
            }
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..ends.len()).map(|lane| scope.spawn(push(lane))).collect();
        lanes.into_iter().for_each(|lane| lane.join().expect("every frame"));
    });
}

#[test]
fn a_killed_publisher_leaves_a_whole_file() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let input = source(TMP, "rtsp20.mp4", &[VIDEO, AUDIO, &["-t", "20"], H264, AAC]);
    for over in ["tcp", "udp"] {
        let publisher = ffmpeg(&input, &daemon.rtsp_url(&format!("live/{over}")), over);
        let id = daemon.session_id(over);
        daemon.wait_frames(&id, 200);
        let frames = daemon.get(&format!("/api/v1/sessions/{id}"))["frames"].as_u64().expect("frames");
        // Killed when dropped.
        drop(publisher);
        let file = file_of(&daemon.completed(over));
        let got = Probe::read(&file);
        assert!(
            (got.video.len() + got.audio.len()) as u64 >= frames,
            "{over}: {:?} of {frames}",
            got.counts()
        );
        assert_eq!(decode(&file), got.video.len(), "{over}");
        assert!(got.is_monotonic(), "{over}");
    }
}

#[test]
fn a_second_publisher_is_refused_and_the_first_goes_on() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let url = daemon.rtsp_url("live/cam");
    let mut first = Push::start(daemon.rtsp(), &url, &flv, Over::Tcp).expect("accepted");
    let refused = Push::start(daemon.rtsp(), &url, &flv, Over::Tcp).expect_err("the name is taken");
    assert!(matches!(&refused, RtspError::Refused(403, why) if why.contains("already in use")), "{refused}");
    first.all(&flv, Duration::from_secs(1)).expect("sent");
    first.teardown().expect("a good end");
    assert_eq!(Probe::read(&file_of(&daemon.completed("cam"))).video.len(), 30);
    // The connection may be used again, and so may the name.
    let answer = first.client.announce(&sdp_of(&flv)).expect("an answer");
    assert_eq!((answer.status, first.client.disconnect().is_ok()), (200, true));
}

#[test]
fn a_publisher_hears_how_its_packets_arrive() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let mut push =
        Push::start(daemon.rtsp(), &daemon.rtsp_url("live/cam"), &flv, Over::Tcp).expect("accepted");
    push.report().expect("sent");
    let begin = Instant::now();
    let mut timeline = flv.timeline(SENT).into_iter();
    let due = |at: u32| begin.elapsed() >= Duration::from_millis(at.into());
    let heard = wait_for("a receiver report", SOON, || {
        // In real time: more would be too much for the socket while nobody reads.
        while let Some(next) = timeline.next().filter(|next| due(next.timestamp_ms)) {
            push.frame(next).expect("sent");
        }
        (begin.elapsed() > Duration::from_secs(5)).then(|| push.client.read_packet().expect("a packet"))
    });
    let (channel, packet) = heard;
    assert_eq!((channel % 2, packet[0] >> 6, packet[1]), (1, 2, 201), "a receiver report: {packet:?}");
}

#[test]
fn silence_ends_a_publisher_over_tcp_and_udp() {
    let house = House::new(RECORD_ALL, IMPATIENT);
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    for (name, over) in [("tcp", Over::Tcp), ("udp", Over::Udp)] {
        let url = daemon.rtsp_url(&format!("live/{name}"));
        let mut push = Push::start(daemon.rtsp(), &url, &flv, over).expect("accepted");
        push.all(&flv, Duration::from_millis(300)).expect("sent");
        push.client.wait_closed().expect("closed by the server");
        let file = file_of(&daemon.completed(name));
        assert_eq!(Probe::read(&file).video.len(), 9, "{name}");
    }
    assert!(daemon.log().contains("no media for 1 s"), "the log says why");
}

#[test]
fn what_clients_do_wrong_is_answered() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let client = || Client::connect(daemon.rtsp(), &daemon.rtsp_url("live/cam")).expect("a connection");
    let vp6 = "v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 VP6/90000\r\n";
    let cases = [
        ("OPTIONS", "", 200, ""),
        ("DESCRIBE", "", 405, "does not play"),
        ("PLAY", "", 405, "does not play"),
        ("RECORD", "", 455, "ANNOUNCE"),
        ("BREW", "", 501, ""),
        ("ANNOUNCE", "this is no description", 400, "session description"),
        ("ANNOUNCE", "v=0\r\ns=nothing\r\n", 400, "no media"),
        ("ANNOUNCE", vp6, 415, "VP6"),
    ];
    for (method, body, status, why) in cases {
        let answer = client().request(method, "", "", body).expect("an answer");
        assert_eq!(answer.status, status, "{method} {body}: {answer:?}");
        assert!(answer.reason.contains(why), "{method}: {answer:?}");
    }
    for (name, noise) in [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a head without end", [b"OPTIONS * RTSP/1.0\r\nX: ".to_vec(), vec![b'x'; 20_000]].concat()),
        ("a body too long", b"ANNOUNCE * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999\r\n\r\n".to_vec()),
    ] {
        let mut client = client();
        client.send_raw(&noise).expect("sent");
        // Closing while the rest of the noise waits resets the connection: the answer may be lost with it.
        if let Ok(answer) = client.read_answer() {
            assert_eq!(answer.status, 400, "{name}");
        }
        client.wait_closed().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    for path in ["", "live/..%2f..%2fetc", "live/%00"] {
        let url = daemon.rtsp_url(path);
        let mut client = Client::connect(daemon.rtsp(), &url).expect("a connection");
        assert_eq!(client.announce(&sdp_of(&flv)).expect("an answer").status, 400, "{path:?}");
    }
    assert_eq!(daemon.sessions(), [] as [Value; 0]);
}

/// Once a stream that was announced and not recorded yet could not be ended: its name was taken until handshake_timeout.
#[test]
fn an_announced_stream_can_be_ended() {
    let house = House::new(RECORD_ALL, "handshake_timeout = \"60s\"");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let mut client = Client::connect(daemon.rtsp(), &daemon.rtsp_url("live/cam")).expect("a connection");
    client.announce(&sdp_of(&flv)).and_then(|answer| answer.ok()).expect("accepted");
    let id = text(&daemon.sessions()[0], "mediaSessionId");
    daemon.delete(&format!("/api/v1/sessions/{id}")).expect(204);
    client.wait_closed().expect("closed by the server");
    wait_until("its name is free", SOON, || daemon.sessions().is_empty());
}

#[test]
fn who_never_gets_to_the_point_is_let_go() {
    let house = House::new(RECORD_ALL, &format!("{IMPATIENT}\nmax_connections = 20"));
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let (_, before) = daemon.holdings();
    let connect = || Client::connect(daemon.rtsp(), &daemon.rtsp_url("live/cam")).expect("a connection");
    let (mut silent, mut half, mut slow) = (connect(), connect(), connect());
    half.announce(&sdp_of(&flv)).and_then(|answer| answer.ok()).expect("accepted");
    let udp = "RTP/AVP;unicast;client_port=6000-6001;mode=record";
    half.setup("/track0", udp).and_then(|answer| answer.ok()).expect("accepted");
    let drip = thread::spawn(move || {
        for byte in b"OPTIONS * RTSP/1.0\r\nX: ".iter().chain([b'x'; 1000].iter()) {
            if slow.send_raw(&[*byte]).is_err() {
                return;
            }
            // The pace of a client that wants to be in the way.
            thread::sleep(Duration::from_millis(20));
        }
        panic!("a request without end was listened to");
    });
    silent.wait_closed().expect("closed");
    half.wait_closed().expect("closed");
    drip.join().expect("closed");
    // A daemon that has just started may open a file or two of its own; these were five sockets.
    wait_until("its sockets are closed", SOON, || daemon.holdings().1 < before + 3);
    // The name is free again.
    Push::start(daemon.rtsp(), &daemon.rtsp_url("live/cam"), &flv, Over::Tcp).expect("accepted");
}
