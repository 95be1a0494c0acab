//! Streams that are pulled from an RTMP server: the recording goes on by itself when the server returns.

use serde_json::{Value, json};
use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::{Flv, Kind},
    media::{Packet, Probe, Publisher, av_source, decode},
    play::{PlayServer, Viewer},
    wait::{wait_for, wait_until},
};

use tempfile::TempDir;

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
const SENT: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// nginx with its RTMP module: a relay that many sites have. Killed when dropped.
struct Nginx {
    folder: TempDir,
    port: u16,
}

impl Nginx {
    fn new() -> Self {
        assert!(Path::new(MODULE).exists(), "apt-get install nginx libnginx-mod-rtmp");
        let nginx =
            Self { folder: TempDir::with_prefix("reeld-nginx-").expect("a folder"), port: free_port() };
        let (folder, port) = (nginx.folder.path().display(), nginx.port);
        let conf = format!(
            "load_module {MODULE};\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/log info;\n\
             events {{}}\nrtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n"
        );
        fs::write(nginx.folder.path().join("conf"), conf).expect("written");
        nginx
    }

    fn start(&self) -> Publisher {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(self.folder.path().join("log")).arg("-c").arg(self.folder.path().join("conf"));
        let running = Publisher::spawn(&mut command);
        wait_until("nginx listens", SOON, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        running
    }

    /// Players that were accepted, by its log.
    fn players(&self) -> usize {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("play: name='")).count()
    }

    fn url(&self, name: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{name}", self.port)
    }
}

fn add(daemon: &Daemon, uri: &str, stream: &str) -> String {
    let answer = daemon.post("/api/v1/sources", &json!({"uri": uri, "stream": stream}));
    text(&answer.expect(201).json(), "id")
}

fn source(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/api/v1/sources/{id}"))
}

fn wait_state(daemon: &Daemon, id: &str, state: &str) -> Value {
    let mut last = Value::Null;
    wait_for(&format!("source is {state}"), 2 * SOON, || {
        last = source(daemon, id);
        (last["state"] == state).then(|| last.clone())
    })
}

/// The file under way or finished, whose frames so far can be told.
fn gaps(daemon: &Daemon, stream: &str) -> Vec<Value> {
    let recordings = daemon.recordings(stream);
    recordings.first().and_then(|r| r["lost"]["gaps"].as_array().cloned()).unwrap_or_default()
}

#[test]
fn a_server_that_is_killed_three_times_costs_the_time_it_was_away() {
    let house = House::new(RECORD_ALL, "connect_timeout = \"5s\"");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 20);
    let nginx = Nginx::new();
    let url = nginx.url("cam");
    let mut server = nginx.start();
    let mut publisher = Publisher::ffmpeg(&input, &url, true);
    let id = add(&daemon, &url, "lobby/cam");
    let session = daemon.session_id("cam");
    let frames = || daemon.get(&format!("/api/v1/sessions/{session}"))["frames"].as_u64().unwrap_or(0);
    for _ in 0..3 {
        let before = frames();
        wait_until("two seconds more of media", 2 * SOON, || frames() > before + 150);
        drop((publisher, server));
        let waiting = wait_state(&daemon, &id, "waiting");
        assert!(!text(&waiting, "reason").is_empty(), "{waiting:#}");
        let away = daemon.get(&format!("/api/v1/sessions/{session}"));
        assert_eq!(away["status"], "PENDING", "{away:#}");
        assert!(away["recordingId"].is_string(), "it is recorded all the time: {away:#}");
        server = nginx.start();
        publisher = Publisher::ffmpeg(&input, &url, true);
        wait_state(&daemon, &id, "live");
        assert_eq!(daemon.session_id("cam"), session, "shown as publishing again");
    }
    let before = frames();
    wait_until("two seconds more of media", SOON, || frames() > before + 150);
    assert_eq!(daemon.session_id("cam"), session, "one stream of the hub all the time");
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    drop((publisher, server));

    let recording = daemon.completed("cam");
    assert_eq!(recording["parts"].as_array().expect("parts").len(), 1, "{recording:#}");
    let away: Vec<_> = gaps(&daemon, "cam").into_iter().filter(|g| g["kind"] == "reconnect").collect();
    assert_eq!(away.len(), 3, "{recording:#}");
    assert!(away.iter().all(|gap| gap["byMs"].as_i64() > Some(500)), "{away:#?}");
    let file = file_of(&recording);
    let got = Probe::read(&file);
    assert_eq!(decode(&file), got.video.len());
    assert!(got.duration_ms > 8_000.0, "{} ms", got.duration_ms);
    // One stretch follows the other: what is missing is at most the rest of a group of pictures, never the absence.
    let widest = got.video.windows(2).map(|w| w[1].dts_ms - w[0].dts_ms).fold(0.0, f64::max);
    assert!(widest < 1_200.0, "{widest} ms between two pictures");
}

#[test]
fn a_stream_that_ends_is_in_the_file_to_its_last_picture() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 4);
    let sent = Probe::read(&input);
    let nginx = Nginx::new();
    let _server = nginx.start();
    let id = add(&daemon, &nginx.url("short"), "lobby/short");
    wait_until("reeld plays", SOON, || nginx.players() == 1);
    Publisher::ffmpeg(&input, &nginx.url("short"), true).finish(SENT);
    wait_state(&daemon, &id, "waiting");
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    let file = file_of(&daemon.completed("short"));
    let got = Probe::read(&file);
    assert_eq!(decode(&file), got.video.len());
    // The relay may begin in the middle; it ends with the publisher.
    let sizes = |packets: &[Packet]| packets.iter().rev().take(40).map(|p| p.size).collect::<Vec<_>>();
    assert_eq!(sizes(&got.video), sizes(&sent.video), "the last pictures");
    assert_eq!(sizes(&got.audio), sizes(&sent.audio), "the last sounds");
}

/// The player of this stream. One of an earlier stream may come again meanwhile: it is turned away.
fn viewer_of(server: &PlayServer, name: &str) -> Viewer<TcpStream> {
    loop {
        let viewer = Viewer::greet(server.accept()).expect("a player");
        if viewer.name == name {
            return viewer;
        }
    }
}

/// rtmp2src (GStreamer 1.22) dropped the message that waited for its thread when the server closed, in 2 of 6 runs.
#[test]
fn the_last_frame_is_in_the_file_fifty_times_of_fifty_whether_the_server_closes_or_resets() {
    const TIMES: usize = 50;
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 2);
    let (sent, flv) = (Probe::read(&input), Flv::read(&input).expect("FLV"));
    let server = PlayServer::new().expect("a server");
    let address = server.address();
    let ids: Vec<_> = thread::scope(|scope| {
        let ids = (0..TIMES).map(|n| {
            let id = add(&daemon, &format!("rtmp://{address}/live/n{n}"), &format!("lobby/n{n}"));
            let flv = &flv;
            let mut viewer = viewer_of(&server, &format!("n{n}"));
            scope.spawn(move || {
                viewer.play(flv, 1).expect("played");
                let ended = if n % 2 == 0 { viewer.fin() } else { viewer.reset() };
                ended.expect("ended");
            });
            id
        });
        ids.collect()
    });
    for id in ids {
        wait_state(&daemon, &id, "waiting");
        daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    }
    for n in 0..TIMES {
        let file = file_of(&daemon.completed(&format!("n{n}")));
        assert_eq!(Probe::read(&file).counts(), sent.counts(), "run {n}");
    }
}

/// nginx-rtmp sends to who joins in the middle of a group of pictures the sound at once, and the pictures from the next key
/// frame on. Once the sound was a file of its own, and the pictures were in NAME_2.
#[test]
fn pictures_that_come_three_seconds_after_the_sound_are_in_the_same_file() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let Flv { metadata, video_header, audio_header, media } = Flv::read(&av_source(TMP, 8)).expect("FLV");
    let key =
        media.iter().find(|t| t.kind == Kind::Video && t.timestamp_ms >= 3_000 && t.payload[0] >> 4 == 1);
    let key_ms = key.expect("a key frame").timestamp_ms;
    let (before, from_key): (Vec<_>, Vec<_>) = media.into_iter().partition(|t| t.timestamp_ms < key_ms);
    let sound: Vec<_> = before.into_iter().filter(|t| t.kind == Kind::Audio).collect();
    let (sounds, pictures) = (sound.len(), from_key.iter().filter(|t| t.kind == Kind::Video).count());

    let server = PlayServer::new().expect("a server");
    let id = add(&daemon, &format!("rtmp://{}/live/cam", server.address()), "lobby/cam");
    let mut viewer = Viewer::greet(server.accept()).expect("a player");
    viewer.play(&Flv { metadata, video_header: None, audio_header, media: sound }, 1).expect("played");
    let session = wait_for("the sound has arrived", SOON, || {
        daemon.sessions().into_iter().find(|s| s["frames"].as_u64() >= Some(sounds as u64))
    });
    assert_eq!(session["status"], "PENDING", "{session:#}");
    viewer.media(&Flv { video_header, media: from_key, ..Flv::default() }, 1).expect("played");
    viewer.fin().expect("ended");
    wait_state(&daemon, &id, "waiting");
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    let recording = daemon.completed("cam");
    assert_eq!(recording["parts"].as_array().expect("parts").len(), 1, "{recording:#}");
    let file = file_of(&recording);
    let got = Probe::read(&file);
    assert_eq!((got.video.len(), decode(&file)), (pictures, pictures));
    assert!(got.audio.len() > 100, "{:?}", got.counts());
}

/// As the user had it: groups of pictures of 2 s, joined in the middle of one.
#[test]
fn a_relay_that_is_joined_in_mid_gop_is_one_file() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let nginx = Nginx::new();
    let _server = nginx.start();
    let url = nginx.url("cam");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=30"]);
    command.args(["-f", "lavfi", "-i", "sine=r=48000", "-t", "12", "-c:a", "aac", "-c:v", "libx264"]);
    command.args(["-preset", "ultrafast", "-g", "60", "-keyint_min", "60", "-sc_threshold", "0"]);
    let publisher = Publisher::spawn(command.args(["-pix_fmt", "yuv420p", "-f", "flv", &url]));
    // Wherever in a group of pictures each of them joins, one is far from the next key frame.
    let ids: Vec<_> = (0..4)
        .map(|n| {
            thread::sleep(Duration::from_millis(500));
            add(&daemon, &format!("{url}?n={n}"), &format!("lobby/n{n}"))
        })
        .collect();
    publisher.finish(SENT);
    for id in &ids {
        wait_state(&daemon, id, "waiting");
        daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    }
    for n in 0..4 {
        let recording = daemon.completed(&format!("n{n}"));
        assert_eq!(recording["parts"].as_array().expect("parts").len(), 1, "{recording:#}");
        let got = Probe::read(&file_of(&recording));
        assert!(got.video.len() > 100 && got.audio.len() > 150, "{:?}", got.counts());
    }
}

/// It sends on message stream 0, which rtmp2src ignored.
#[test]
fn ffmpeg_as_a_server_is_played() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let input = av_source(TMP, 4);
    let sent = Probe::read(&input);
    let port = free_port();
    let url = format!("rtmp://127.0.0.1:{port}/live/cam");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-i"]).arg(&input).args(["-map", "0", "-c", "copy"]);
    let serving = Publisher::spawn(command.args(["-f", "flv", "-listen", "1", &url]));
    wait_until("ffmpeg listens", SOON, || listens(port));
    let id = add(&daemon, &url, "lobby/cam");
    serving.finish(SENT);
    wait_state(&daemon, &id, "waiting");
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    let file = file_of(&daemon.completed("cam"));
    let got = Probe::read(&file);
    assert_eq!((got.counts(), decode(&file)), (sent.counts(), sent.video.len()));
}

/// As the kernel says: ffmpeg would take a knock for its one player.
fn listens(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    table.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

/// A relay with virtual hosts goes by the name in tcUrl; rtmp2src could tell it the checked address only.
#[test]
fn the_server_hears_the_name_that_was_asked_for() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 2)).expect("FLV");
    let server = PlayServer::new().expect("a server");
    let port = server.address().port();
    let id = add(&daemon, &format!("rtmp://user:hunter2@localhost:{port}/a/b/cam?token=t"), "lobby/cam");
    let mut viewer = Viewer::greet(server.accept()).expect("a player");
    assert_eq!(viewer.tc_url, format!("rtmp://localhost:{port}/a/b"));
    assert_eq!((viewer.app.as_str(), viewer.name.as_str()), ("a/b", "cam?token=t"));
    assert!(daemon.log().contains("user and password are not sent"), "{}", daemon.log());
    viewer.play(&flv, 1).expect("played");
    wait_state(&daemon, &id, "live");
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    viewer.command("deleteStream").expect("a goodbye");
}

#[test]
fn why_a_server_ends_or_refuses_is_told() {
    let house = House::new(RECORD_ALL, "connect_timeout = \"1s\"\npublisher_timeout = \"1s\"");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 2)).expect("FLV");
    let server = PlayServer::new().expect("a server");
    type Script = fn(&mut Viewer<TcpStream>, &Flv) -> io::Result<()>;
    let table: [(&str, Script, &str); 6] = [
        (
            "gone",
            |v, _| v.on_status("error", "NetStream.Play.StreamNotFound"),
            "the server has no such stream",
        ),
        ("mute", |_, _| Ok(()), "no answer within 1 s"),
        ("idle", |v, _| v.on_status("status", "NetStream.Play.Start"), "no media within 1 s"),
        (
            "left",
            |v, f| v.play(f, 1).and_then(|()| v.on_status("status", "NetStream.Play.UnpublishNotify")),
            "the publisher has left",
        ),
        ("over", |v, f| v.play(f, 1).and_then(|()| v.user_control(1)), "the server has ended the stream"),
        ("dead", |v, f| v.play(f, 1), "no media for 1 s"),
    ];
    for (name, script, reason) in table {
        let id = add(&daemon, &format!("rtmp://{}/live/{name}", server.address()), &format!("lobby/{name}"));
        let mut viewer = Viewer::greet(server.accept()).expect("a player");
        script(&mut viewer, &flv).expect("told");
        let waiting = wait_state(&daemon, &id, "waiting");
        assert!(text(&waiting, "reason").starts_with(reason), "{name}: {waiting:#}");
        let _mute = server.accept();
        let again = source(&daemon, &id);
        assert_eq!(again["state"], "connecting", "{name}: {again:#}");
        assert_eq!((&again["reason"], &again["attempts"]), (&waiting["reason"], &json!(1)), "{name}");
        daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    }
}

#[test]
fn the_reason_is_told_and_holds_no_secret() {
    let house = House::new(RECORD_ALL, "connect_timeout = \"1s\"");
    let daemon = house.start(REELD);
    let nobody = format!("rtmp://user:hunter2@127.0.0.1:{}/live/x?token=hunter2", free_port());
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("rtmp://{}/live/y", silent.local_addr().map(|a| a.to_string()).expect("an address"));
    for (uri, stream) in [(&nobody, "a/x"), (&silent, "a/y"), (&daemon.url("live/none"), "a/z")] {
        let id = add(&daemon, uri, stream);
        let waiting = wait_state(&daemon, &id, "waiting");
        assert!(text(&waiting, "reason").len() > 10, "{waiting:#}");
        assert!(waiting["nextTry"].is_string(), "{waiting:#}");
    }
    let all = daemon.get("/api/v1/sources").to_string();
    assert!(!all.contains("hunter2") && !daemon.log().contains("hunter2"), "{all}\n{}", daemon.log());
    let error = daemon.post("/rest-api/pull/rtmp/pull", &json!({"uri": nobody}));
    assert_eq!(error.status, 409);
    let odd = daemon.post("/api/v1/sources", &json!({"uri": "rtmp://user:hunter2#@127.0.0.1/live/x"}));
    let detail = text(&odd.expect(400).json(), "detail");
    assert!(detail.contains("%23 %2F %3F %40 %3A") && !detail.contains("hunter2"), "{detail}");
}

#[test]
fn flashphoners_call_pulls() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let nginx = Nginx::new();
    let _server = nginx.start();
    let url = nginx.url("cam");
    let publisher = Publisher::ffmpeg(&av_source(TMP, 20), &url, true);
    daemon.post("/rest-api/pull/rtmp/pull", &json!({"uri": url, "localStreamName": "relayed"})).expect(200);
    let id = daemon.session_id("relayed");
    daemon.wait_frames(&id, 300);
    daemon.post("/rest-api/pull/terminate", &json!({"uri": url})).expect(200);
    drop(publisher);
    let file = file_of(&daemon.completed("relayed"));
    let got = Probe::read(&file);
    assert_eq!(decode(&file), got.video.len());
    assert!(got.video.len() > 100 && got.audio.len() > 150, "{:?}", got.counts());
}
