//! Cameras are pulled: what they send is in the file, they may come and go, and their passwords stay here.

use serde_json::{Value, json};
use std::{fs, time::Duration};
use support::{
    avsync::AvSync,
    camera::{AudioCodec, Auth, Camera, Options, Transport, VideoCodec},
    daemon::{Daemon, House, SOON, file_of, text},
    media::{Probe, decode},
    wait::{reached, wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const RECORD_ALL: &str = "record_rtsp_streams=true\nstream_record_policy=streamName\n";
const SOURCES: &str = "/api/v1/sources";
const PASSWORD: &str = "hunter-2";
const DIGEST: Auth = Auth::Digest { user: "admin", password: PASSWORD };

support::camera_process!();

/// The path of a new source.
fn add(daemon: &Daemon, source: &Value) -> String {
    let answer = daemon.post(SOURCES, source).expect(201);
    let path = format!("{SOURCES}/{}", text(&answer.json(), "id"));
    assert!(answer.head.contains(&path), "Location: {}", answer.head);
    path
}

/// The source at `path` once it is in `state`.
fn in_state(daemon: &Daemon, path: &str, state: &str) -> Value {
    wait_for(&format!("{path} is {state}"), SOON, || {
        Some(daemon.get(path)).filter(|source| source["state"] == state)
    })
}

/// Waits until the stream has `more` access units than now.
fn frames_flow(daemon: &Daemon, id: &str, more: u64) {
    let now = daemon.get(&format!("/api/v1/sessions/{id}"))["frames"].as_u64().expect("a count");
    daemon.wait_frames(id, now + more);
}

fn assert_hidden(secret: &str, daemon: &Daemon) {
    for path in [SOURCES, "/api/v1/sessions", "/api/v1/recordings"] {
        let answer = daemon.request("GET", path, b"").expect(200).body;
        assert!(!answer.contains(secret), "{path} tells {secret}: {answer}");
    }
    assert!(!daemon.log().contains(secret), "the log tells {secret}");
}

#[test]
fn a_camera_killed_three_times_is_recorded_on_by_itself() {
    let house = House::new(RECORD_ALL, "publisher_timeout = \"3s\"");
    let daemon = house.start(REELD);
    let mut camera = Camera::start(Options { auth: DIGEST, ..Options::default() });
    let path = add(&daemon, &json!({"uri": camera.url_with_credentials(), "stream": "lobby/cam"}));
    let mut since = in_state(&daemon, &path, "live")["since"].clone();
    let id = daemon.session_id("cam");
    frames_flow(&daemon, &id, 100);
    for _ in 0..3 {
        camera.kill();
        let waiting = in_state(&daemon, &path, "waiting");
        assert!(!text(&waiting, "reason").is_empty() && waiting["attempts"].as_u64() >= Some(1), "{waiting}");
        assert!(waiting["nextTry"].is_string() && waiting["mediaSessionId"] == json!(id), "{waiting}");
        camera.restart();
        let live = wait_for("it is live again", 3 * SOON, || {
            Some(daemon.get(&path)).filter(|s| s["state"] == "live" && s["since"] != since)
        });
        since = live["since"].clone();
        frames_flow(&daemon, &id, 100);
    }
    daemon.delete(&path).expect(204);
    daemon.request("GET", &path, b"").expect(404);

    let recording = daemon.completed("cam");
    assert_eq!((text(&recording, "mediaSessionId"), text(&recording, "roomName")), (id, "lobby".into()));
    let file = file_of(&recording);
    let manifest: Value =
        serde_json::from_slice(&fs::read(format!("{}.json", file.display())).expect("a manifest"))
            .expect("JSON");
    for told in [&recording["lost"]["gaps"], &manifest["gaps"]] {
        let gaps = told.as_array().unwrap_or_else(|| panic!("no gaps: {told:#}"));
        let away: Vec<i64> =
            gaps.iter().filter(|g| g["kind"] == "reconnect").filter_map(|g| g["byMs"].as_i64()).collect();
        assert!(away.len() == 3 && away.iter().all(|ms| *ms > 500), "{gaps:#?}");
    }
    let probe = Probe::read(&file);
    assert!(probe.is_monotonic());
    assert_eq!(decode(&file), probe.video.len());
    assert!(probe.counts().0 >= 150 && probe.counts().1 >= 180, "{:?}", probe.counts());
    assert_hidden(PASSWORD, &daemon);
}

/// What a camera may be, and how it is pulled.
struct Case {
    name: &'static str,
    camera: Options,
    transport: &'static str,
}

#[test]
fn what_a_camera_sends_is_in_the_file() {
    let any = Options::default();
    let only = |transport| Options { transport, ..any };
    let basic = Auth::Basic { user: "ad@min", password: "p:w/?" };
    let (tcp, udp) = (only(Transport::Tcp), only(Transport::Udp));
    let cases = [
        Case { name: "tcp", camera: Options { auth: DIGEST, ..tcp }, transport: "tcp" },
        Case { name: "basic", camera: Options { auth: basic, ..tcp }, transport: "tcp" },
        Case { name: "udp", camera: Options { auth: DIGEST, ..udp }, transport: "udp" },
        Case { name: "auto-udp", camera: udp, transport: "auto" },
        Case { name: "auto-tcp", camera: tcp, transport: "auto" },
        Case { name: "video-only", camera: Options { audio: None, ..any }, transport: "tcp" },
        Case { name: "audio-only", camera: Options { video: None, ..any }, transport: "udp" },
        Case { name: "b-frames", camera: Options { bframes: 2, ..any }, transport: "tcp" },
        Case { name: "h265", camera: Options { video: Some(VideoCodec::H265), ..any }, transport: "tcp" },
        Case { name: "pcma", camera: Options { audio: Some(AudioCodec::Pcma), ..any }, transport: "tcp" },
    ];
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    // A few at a time: the cameras of this test encode on the machine that records.
    for group in cases.chunks(3) {
        let running: Vec<_> = group.iter().map(|case| (case, Camera::start(case.camera))).collect();
        let sources: Vec<_> = running
            .iter()
            .map(|(case, camera)| {
                let uri = credentials_escaped(camera);
                add(&daemon, &json!({"uri": uri, "stream": case.name, "transport": case.transport}))
            })
            .collect();
        for ((case, _), path) in running.iter().zip(&sources) {
            frames_flow(&daemon, &daemon.session_id(case.name), 150);
            daemon.delete(path).expect(204);
        }
    }
    for case in &cases {
        check(case, &daemon.completed(case.name));
    }
    assert_hidden(PASSWORD, &daemon);
    assert_hidden("p:w", &daemon);
}

fn credentials_escaped(camera: &Camera) -> String {
    camera.url_with_credentials().replace("ad@min:p:w/?", "ad%40min:p%3Aw%2F%3f")
}

fn check(case: &Case, recording: &Value) {
    let (file, name) = (file_of(recording), case.name);
    let probe = Probe::read(&file);
    assert_eq!(decode(&file), probe.video.len(), "{name}");
    assert_eq!(recording["lost"]["frames"], 0, "{name}: {recording:#}");
    assert_eq!(case.camera.video.is_some(), !probe.video.is_empty(), "{name}: {:?}", probe.counts());
    assert_eq!(case.camera.audio.is_some(), !probe.audio.is_empty(), "{name}: {:?}", probe.counts());
    let mut shown: Vec<f64> = probe.video.iter().map(|p| p.pts_ms).collect();
    shown.sort_by(f64::total_cmp);
    // Where the end cuts into a group of B-frames, those that would have been shown before its last picture are missing.
    shown.truncate(shown.len().saturating_sub(case.camera.bframes as usize + 1));
    let steps: Vec<f64> = shown.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(steps.iter().all(|ms| (ms - 1000.0 / 30.0).abs() < 2.0), "{name}: {steps:?}");
    assert!(probe.is_monotonic(), "{name}");
    if case.camera.bframes > 0 {
        assert!(probe.video.windows(2).any(|w| w[1].pts_ms < w[0].pts_ms), "there are B-frames");
    }
    if case.camera.video.is_some() && case.camera.audio.is_some() {
        let measured = AvSync::measure(&file);
        println!("{name}: {:?} frames, {measured:?}", probe.counts());
        assert!(measured.max_ms() <= 40.0, "{name}: {measured:?}");
    }
}

#[test]
fn a_wrong_password_is_told_and_kept() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let camera = Camera::start(Options { auth: DIGEST, ..Options::default() });
    for (user, want) in
        [("", "wants a user"), ("admin:not-this-one@", "refuses this user and password (401)")]
    {
        let path = add(&daemon, &json!({"uri": camera.url.replace("rtsp://", &format!("rtsp://{user}"))}));
        let waiting = in_state(&daemon, &path, "waiting");
        assert!(text(&waiting, "reason").contains(want), "{waiting}");
        assert_eq!((&waiting["uri"], &waiting["mediaSessionId"]), (&json!(camera.url), &Value::Null));
        daemon.delete(&path).expect(204);
    }
    assert_hidden("not-this-one", &daemon);
    assert_eq!(daemon.sessions(), [] as [Value; 0]);
}

#[test]
fn what_cannot_be_pulled_is_said_with_a_status() {
    let house = House::new("", "max_sources = 2\nconnect_timeout = \"1s\"");
    let daemon = house.start(REELD);
    let problem = |source: Value, status: u16, kind: &str, words: &str| {
        let answer = daemon.post(SOURCES, &source).expect(status);
        let json = answer.json();
        assert_eq!(json["type"], format!("/problems/{kind}"), "{json}");
        assert!(text(&json, "detail").contains(words), "{json}");
        assert!(!answer.body.contains(PASSWORD), "{}", answer.body);
    };
    let empty = daemon.get(SOURCES);
    assert_eq!(empty, json!({"items": [], "nextCursor": null}));
    let link_local = format!("rtsp://admin:{PASSWORD}@169.254.169.254/latest");
    problem(json!({ "uri": link_local }), 403, "source-not-allowed", "allow_sources");
    problem(json!({"uri": "rtsp://[fe80::1]/x"}), 403, "source-not-allowed", "allow_sources");
    problem(json!({}), 400, "bad-body", "no `uri`");
    problem(json!({ "uri": format!("http://admin:{PASSWORD}@h/x") }), 400, "bad-source", "scheme");
    problem(json!({ "uri": format!("rtsps://admin:{PASSWORD}@127.0.0.1/x") }), 400, "not-supported", "rtsps");
    problem(json!({"uri": "rtsp://127.0.0.1/x", "stream": "a/../b"}), 400, "bad-source", "stream");
    problem(json!({"uri": "rtsp://127.0.0.1/x", "transport": "sctp"}), 400, "bad-body", "`tcp`");

    // Nobody listens there: such a source waits.
    let path = add(&daemon, &json!({"uri": format!("rtsp://admin:{PASSWORD}@127.0.0.1:1/x")}));
    assert_eq!(daemon.get(&path)["stream"], "live/127.0.0.1-1-x");
    let same = json!({"uri": "RTSP://other:one@127.0.0.1:1/x"});
    problem(same, 409, "source-taken", &path.replace("/api/v1/sources/", ""));
    add(&daemon, &json!({"uri": "rtsp://127.0.0.1:1/y"}));
    problem(json!({"uri": "rtsp://127.0.0.1:1/z"}), 409, "too-many-sources", "max_sources");
    let waiting = in_state(&daemon, &path, "waiting");
    assert!(text(&waiting, "reason").contains("cannot connect"), "{waiting}");

    for path in [format!("{SOURCES}/nope"), format!("{SOURCES}/00000000-0000-4000-8000-000000000000")] {
        assert_eq!(daemon.delete(&path).expect(404).json()["type"], "/problems/unknown-source");
    }
    daemon.delete(&path).expect(204);
    daemon.delete(&path).expect(404);
    assert_hidden(PASSWORD, &daemon);
}

#[test]
fn flashphoner_programs_pull_cameras() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let camera = Camera::start(Options { audio: None, auth: DIGEST, ..Options::default() });
    let call = |path: &str, body: Value| daemon.post(&format!("/rest-api/{path}"), &body);
    call("rtsp/find_all", json!({})).expect(404);
    let uri = camera.url_with_credentials();
    assert_eq!(call("rtsp/startup", json!({"uri": uri, "toStream": "yard"})).expect(200).body, "");
    call("rtsp/startup", json!({"uri": camera.url})).expect(409);
    call("rtsp/startup", json!({"uri": "rtmp://h/live/x"})).expect(400);
    call("rtsp/startup", json!({"uri": "rtsp://169.254.169.254/x"})).expect(403);
    let playing = json!({"uri": uri, "status": "PLAYING"});
    wait_until("it plays", SOON, || call("rtsp/find", playing.clone()).status == 200);
    let found = call("rtsp/find_all", json!({})).expect(200).json();
    assert_eq!(found, json!([{"uri": camera.url, "status": "PLAYING", "toStream": "yard"}]));
    call("rtsp/find", json!({"uri": "rtsp://127.0.0.1:1/x"})).expect(404);
    call("rtsp/find", json!({"status": "FAILED"})).expect(404);
    assert_eq!(call("pull/find_all", json!({})).expect(200).json(), json!([]));

    frames_flow(&daemon, &daemon.session_id("yard"), 60);
    call("rtsp/terminate", json!({"uri": camera.url})).expect(200);
    call("rtsp/terminate", json!({"uri": camera.url})).expect(404);
    assert_eq!(daemon.sessions(), [] as [Value; 0], "the stream is gone with its source");
    assert!(decode(&file_of(&daemon.completed("yard"))) > 30);
}

#[test]
fn a_configured_source_is_pulled_until_its_session_is_ended_or_the_daemon() {
    let camera = Camera::start(Options { auth: DIGEST, ..Options::default() });
    let other = Camera::start(Options { audio: None, ..Options::default() });
    let house = House::new("record_rtsp_streams=false\nstream_record_policy=streamName\n", "");
    let toml = fs::read_to_string(house.path("reeld.toml")).expect("reeld.toml");
    let toml = format!(
        "{toml}\n[[source]]\nuri = {:?}\nstream = \"gate\"\nrecord = true\n[[source]]\nuri = {:?}\n",
        camera.url_with_credentials(),
        other.url
    );
    fs::write(house.path("reeld.toml"), toml).expect("reeld.toml");
    let mut daemon = house.start(REELD);
    let derived = format!("{}-cam", other.address()).replace(':', "-");
    let (gate, unnamed) = (daemon.session_id("gate"), daemon.session_id(&derived));
    frames_flow(&daemon, &unnamed, 30);
    daemon.delete(&format!("/api/v1/sessions/{unnamed}")).expect(204);
    wait_until("the source is gone with its session", SOON, || {
        daemon.get(SOURCES)["items"].as_array().is_some_and(|items| items.len() == 1)
    });
    frames_flow(&daemon, &gate, 100);
    assert!(daemon.terminate().success());
    // The other one was not to be recorded.
    let files = house.records(".mp4");
    let [file] = &files[..] else { panic!("one file: {files:?}") };
    assert!(file.ends_with("gate.mp4") && decode(file) > 30, "{}", file.display());
}

#[test]
fn a_stream_name_that_is_taken_makes_the_source_wait() {
    let house = House::new("", "");
    let daemon = house.start(REELD);
    let cameras = [(); 2].map(|()| Camera::start(Options { audio: None, ..Options::default() }));
    let first = add(&daemon, &json!({"uri": cameras[0].url, "stream": "cam"}));
    in_state(&daemon, &first, "live");
    let second = add(&daemon, &json!({"uri": cameras[1].url, "stream": "cam"}));
    let waiting = in_state(&daemon, &second, "waiting");
    assert!(text(&waiting, "reason").contains("stream name is already in use"), "{waiting}");
    daemon.delete(&first).expect(204);
    wait_until("it takes the name when it is free", 2 * SOON, || daemon.get(&second)["state"] == "live");
}

#[test]
fn pulled_sources_leave_nothing_behind() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let camera = Camera::start(Options::default());
    let once = |name: &str, transport: &str| {
        let path = add(&daemon, &json!({"uri": camera.url, "stream": name, "transport": transport}));
        frames_flow(&daemon, &daemon.session_id(name), 30);
        daemon.delete(&path).expect(204);
        daemon.completed(name);
    };
    once("first", "tcp");
    once("second", "udp");
    let holdings = || (daemon.holdings().0, daemon.sockets());
    let before = holdings();
    for round in 0..3 {
        once(&format!("tcp-{round}"), "tcp");
        once(&format!("udp-{round}"), "udp");
    }
    let mut now = before;
    let settled = reached(Duration::from_secs(20), || {
        now = holdings();
        now.0 <= before.0 && now.1 <= before.1
    });
    assert!(settled, "threads and sockets: {before:?} before, {now:?} now");
}
