//! What publishers do wrong costs them their connection, never the daemon, another stream, or a frame that arrived.

use serde_json::{Value, json};
use std::{
    io::{self, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};
use support::{
    amf0::{self, Value as Amf},
    chunk::{self, message_type},
    daemon::{Daemon, House, SOON, file_of},
    flv::{Due, Flv, Kind},
    live::{publish_at_once, send, send_headers},
    media::{Probe, av_source, decode},
    rtmp::{Client, RtmpError},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const IMPATIENT: &str = "publisher_timeout = \"1s\"\nhandshake_timeout = \"1s\"";
const SOURCE: Duration = Duration::from_secs(4);

fn flv() -> Flv {
    Flv::read(&av_source(TMP, 4)).expect("an FLV file")
}

/// Video and audio messages of the timeline.
fn counts(timeline: &[Due]) -> (usize, usize) {
    let video = timeline.iter().filter(|due| due.kind == Kind::Video).count();
    (video, timeline.len() - video)
}

fn assert_whole(file: &Path, sent: (usize, usize)) -> Probe {
    let probe = Probe::read(file);
    assert_eq!(probe.counts(), sent, "packets in {}", file.display());
    assert_eq!(decode(file), sent.0);
    assert!(probe.is_monotonic(), "{}", file.display());
    probe
}

fn client(daemon: &Daemon, name: &str) -> Client {
    Client::publish(daemon.publish_options("live", name)).expect("accepted")
}

#[test]
fn a_second_publisher_is_refused_and_the_first_goes_on() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = flv();
    let timeline = flv.timeline(SOURCE);
    let mut first = client(&daemon, "cam");
    send_headers(&mut first, &flv, 0).expect("sent");
    for (index, due) in timeline.iter().enumerate() {
        if index == timeline.len() / 2 {
            let refused = Client::publish(daemon.publish_options("live", "cam")).expect_err("a taken name");
            let RtmpError::Refused(status) = refused else { panic!("{refused:?}") };
            assert_eq!((status.level.as_str(), status.code.as_str()), ("error", "NetStream.Publish.BadName"));
        }
        send(&mut first, due.kind, due.timestamp_ms, due.payload).expect("the first goes on");
    }
    // The same name in another room is another stream.
    drop(Client::publish(daemon.publish_options("court", "cam")).expect("another room"));
    first.unpublish().expect("a good end");
    assert_whole(&file_of(&daemon.completed("cam")), counts(&timeline));
}

#[test]
fn a_silent_publisher_is_dropped_and_keeps_what_it_sent() {
    let house = House::new(RECORD_ALL, IMPATIENT);
    let daemon = house.start(REELD);
    let flv = flv();
    let mut silent =
        publish_at_once(daemon.publish_options("live", "cam"), &flv, SOURCE).expect("all is taken");
    let begin = Instant::now();
    silent.wait_closed().expect("dropped");
    let waited = begin.elapsed();
    assert!((500..5000).contains(&waited.as_millis()), "{waited:?}");
    assert_whole(&file_of(&daemon.completed("cam")), counts(&flv.timeline(SOURCE)));
    assert_eq!(daemon.sessions(), [] as [Value; 0]);
}

#[test]
fn an_unfinished_handshake_ends() {
    let house = House::new(RECORD_ALL, IMPATIENT);
    let daemon = house.start(REELD);
    for begun in [&b""[..], b"\x03", &[3; 700], &[3; 1537]] {
        let mut socket = TcpStream::connect(daemon.rtmp()).expect("connected");
        socket.write_all(begun).expect("sent");
        let begin = Instant::now();
        read_to_close(&mut socket);
        let waited = begin.elapsed();
        assert!((500..5000).contains(&waited.as_millis()), "{} bytes: {waited:?}", begun.len());
    }
}

/// Reads until the server closes or aborts.
fn read_to_close(socket: &mut TcpStream) {
    socket.set_read_timeout(Some(SOON)).expect("a time limit");
    match io::copy(socket, &mut io::sink()) {
        Err(e) if e.kind() != io::ErrorKind::ConnectionReset => panic!("the server keeps it open: {e}"),
        _ => {}
    }
}

/// One message on chunk stream 3, in chunks as the test client sends them.
fn message(type_id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    chunk::encode(&mut bytes, 3, type_id, 0, 0, payload, 4096);
    bytes
}

/// Bytes without a pattern, the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn malformed_rtmp_ends_its_connection_with_one_line_in_the_log() {
    let house = House::new(RECORD_ALL, IMPATIENT);
    let daemon = house.start(REELD);
    let instead_of_handshake =
        [b"GET / HTTP/1.1\r\n\r\n".to_vec(), noise(1, 4000), vec![0; 4000], vec![0xFF; 100_000]];
    let connect = amf0::encode(&[Amf::string("connect"), Amf::Number(9.0), Amf::Object(vec![])]);
    let nested =
        [&amf0::encode(&[Amf::string("x"), Amf::Number(1.0)])[..], &b"\x03\0\x01a".repeat(5000)].concat();
    let after_connect = [
        // 16 MiB in one message, more than max_message_size.
        b"\x03\0\0\0\xFF\xFF\xFF\x14\0\0\0\0".to_vec(),
        // Set Chunk Size to 0 and to more than 31 bits.
        message(message_type::SET_CHUNK_SIZE, &[0; 4]),
        message(message_type::SET_CHUNK_SIZE, &[0xFF; 4]),
        // Continues what never began.
        b"\xC9".to_vec(),
        // A string of 65535 bytes that has two.
        message(message_type::COMMAND_AMF0, b"\x02\xFF\xFFab"),
        message(message_type::COMMAND_AMF0, &noise(2, 300)),
        message(message_type::COMMAND_AMF0, &nested),
        // An array of four thousand million.
        message(message_type::COMMAND_AMF0, b"\x02\0\x01x\0\0\0\0\0\0\0\0\0\x0A\xFF\xFF\xFF\xFF"),
        message(message_type::COMMAND_AMF0, &connect),
        noise(3, 50_000),
        noise(4, 50_000),
        noise(5, 200),
    ];

    let mut ports = Vec::new();
    for bytes in &instead_of_handshake {
        let mut socket = TcpStream::connect(daemon.rtmp()).expect("connected");
        ports.push(socket.local_addr().expect("an address").port());
        provoke(&mut socket, bytes);
    }
    for bytes in &after_connect {
        let options = daemon.publish_options("live", "cam");
        let mut socket = Client::connect(options).expect("connected").into_socket();
        ports.push(socket.local_addr().expect("an address").port());
        provoke(&mut socket, bytes);
    }

    let told = |log: &str, port: u16| {
        let remote = format!("127.0.0.1:{port}");
        log.lines().filter(|line| line.contains(&remote)).count()
    };
    wait_until("a line in the log", SOON, || {
        let log = daemon.log();
        ports.iter().any(|port| told(&log, *port) > 0)
    });
    let log = daemon.log();
    for port in ports {
        assert!(told(&log, port) <= 1, "more than one line about 127.0.0.1:{port}");
    }
    assert!(!log.contains("panicked"), "no fault of ours");

    daemon.request("GET", "/healthz", b"").expect(200);
    let flv = flv();
    let good = publish_at_once(daemon.publish_options("live", "good"), &flv, SOURCE).expect("all is taken");
    good.unpublish().expect("a good end");
    assert_whole(&file_of(&daemon.completed("good")), counts(&flv.timeline(SOURCE)));
}

/// Sends what the server may refuse to read to its end, and waits for it to close.
fn provoke(socket: &mut TcpStream, bytes: &[u8]) {
    if let Err(e) = socket.write_all(bytes) {
        assert!(matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{e}");
    }
    read_to_close(socket);
}

#[test]
fn the_number_of_connections_is_bounded() {
    let house = House::new(RECORD_ALL, "max_connections = 2");
    let daemon = house.start(REELD);
    let first = client(&daemon, "one");
    let _second = client(&daemon, "two");
    let publish = |deadline| {
        let mut options = daemon.publish_options("live", "three");
        options.deadline = deadline;
        Client::publish(options)
    };
    publish(Duration::from_millis(500)).expect_err("two connections are the most");
    drop(first);
    wait_for("a place is free again", SOON, || publish(Duration::from_secs(2)).ok());
}

/// Publishes the source with its timestamps changed by `clock`, and checks all but the gaps of the recording.
fn recorded_with(daemon: &Daemon, name: &str, clock: impl Fn(u32) -> u32) -> Value {
    let flv = flv();
    let timeline = flv.timeline(SOURCE);
    let mut client = client(daemon, name);
    send_headers(&mut client, &flv, clock(0)).expect("sent");
    for due in &timeline {
        send(&mut client, due.kind, clock(due.timestamp_ms), due.payload).expect("sent");
    }
    client.unpublish().expect("a good end");
    let recording = daemon.completed(name);
    let probe = assert_whole(&file_of(&recording), counts(&timeline));
    assert!((probe.duration_ms - 4000.0).abs() <= 100.0, "{name}: {} ms", probe.duration_ms);
    recording
}

#[test]
fn a_clock_that_wraps_or_jumps_keeps_every_frame() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let wrapped = recorded_with(&daemon, "wrap", |ms| ms.wrapping_add(0xFFFF_F800));
    assert!(wrapped["lost"]["gaps"].as_array().is_some_and(Vec::is_empty), "{wrapped:#}");

    let half = |ms: u32| ms >= 2000;
    let back = recorded_with(&daemon, "back", |ms| if half(ms) { ms - 2000 } else { ms });
    let ahead = recorded_with(&daemon, "ahead", |ms| if half(ms) { ms + 3_600_000 } else { ms });
    for (recording, by_ms) in [(back, -2000), (ahead, 3_600_000)] {
        let [gap] = &recording["lost"]["gaps"].as_array().expect("gaps")[..] else { panic!("{recording:#}") };
        assert_eq!(gap["kind"], "timestamp-jump");
        assert!((gap["byMs"].as_i64().expect("ms") - by_ms).abs() <= 100, "{gap}");
        assert!((gap["atMs"].as_i64().expect("ms") - 2000).abs() <= 100, "{gap}");
        let path = format!("{}.json", file_of(&recording).display());
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(path).expect("a manifest")).expect("JSON");
        assert_eq!(manifest["gaps"], recording["lost"]["gaps"]);
    }
}

/// What a transcoded track will be is known with its first access unit only. An announced one that never came held
/// the file back for 10 s and then failed it, three times, and with that the recording. Silence stands in its place.
#[test]
fn a_track_that_never_speaks_does_not_hold_up_the_pictures() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = flv();
    let mut client = client(&daemon, "muted");
    client.send_video(0, flv.video_header.as_deref().expect("avcC")).expect("sent");
    let opus_head = b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0";
    client.send_audio(0, &[b"\x90Opus", &opus_head[..]].concat()).expect("sent");
    let timeline = flv.timeline(3 * SOURCE);
    let pictures: Vec<_> = timeline.iter().filter(|due| due.kind == Kind::Video).collect();
    for due in &pictures {
        client.send_video(due.timestamp_ms, due.payload).expect("sent");
    }
    wait_for("what it takes is told", SOON, || {
        let load = &daemon.get("/api/v1/server")["load"];
        let told = ["recordings", "transcodedTracks", "elementThreads"].map(|key| &load[key]);
        (told == [&json!(1), &json!(1), &json!(0)]).then_some(())
    });
    client.unpublish().expect("a good end");
    let recording = daemon.completed("muted");
    let probe = Probe::read(&file_of(&recording));
    assert_whole(&file_of(&recording), (pictures.len(), probe.audio.len()));
    assert_eq!(recording["parts"][0]["audio"]["frames"], 0);
    let told = recording["degraded"][0].as_str().expect("a reason");
    assert!(told.contains("opus") && told.contains("silence"), "{told}");
}

#[test]
fn a_connection_reset_keeps_every_frame_that_arrived() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = flv();
    let timeline = flv.timeline(SOURCE);
    let client = publish_at_once(daemon.publish_options("live", "cam"), &flv, SOURCE).expect("all is taken");
    // A reset throws away what the daemon has not read yet.
    daemon.wait_frames(&daemon.session_id("cam"), timeline.len() as u64);
    client.reset().expect("reset");
    assert_whole(&file_of(&daemon.completed("cam")), counts(&timeline));
}
