//! The files of recordings over HTTP, as curl and ffmpeg fetch them: ranges byte by byte, conditions, downloads, posters,
//! a file that is being written, and deletion.

use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    live::Live,
    media::{AAC, AUDIO, H264, Publisher, av_source, decode, run, sha256, source},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const SENT: Duration = Duration::from_secs(60);
const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

/// What curl got.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        self
    }

    fn problem(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).expect("problem+json");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        text(&body, "type").trim_start_matches("/problems/").to_owned()
    }
}

fn curl(daemon: &Daemon, path: &str, arguments: &[&str]) -> Got {
    let dir = tempfile::tempdir().expect("a folder");
    let (head, body) = (dir.path().join("head"), dir.path().join("body"));
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--dump-header"]).arg(&head);
    command.arg("--output").arg(&body).args(arguments).arg(format!("http://{}{path}", daemon.http()));
    let output = command.output().expect("apt-get install curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let head = fs::read_to_string(head).expect("the head");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    Got { status, head, body: fs::read(body).unwrap_or_default() }
}

/// A finished recording of two seconds, its path in the API, and the bytes of its file.
fn recorded(daemon: &Daemon, name: &str) -> (String, PathBuf, Vec<u8>) {
    Publisher::ffmpeg(&av_source(TMP, 2), &daemon.url(&format!("live/{name}")), false).finish(SENT);
    completed(daemon, name)
}

/// The same of a file that does not fit into the buffers of a connection.
fn recorded_large(daemon: &Daemon, name: &str) -> (String, PathBuf, Vec<u8>) {
    let noise = "-f lavfi -i testsrc2=size=1280x720:rate=30:duration=2 -vf noise=alls=60:allf=t";
    let noise: Vec<&str> = noise.split(' ').collect();
    let input = source(TMP, "noise2.flv", &[&noise, H264, &["-qp", "34"]]);
    Publisher::ffmpeg(&input, &daemon.url(&format!("live/{name}")), true).finish(SENT);
    let recorded = completed(daemon, name);
    assert!(recorded.2.len() > 12_000_000, "{} bytes", recorded.2.len());
    recorded
}

fn completed(daemon: &Daemon, name: &str) -> (String, PathBuf, Vec<u8>) {
    let recording = daemon.completed(name);
    let file = file_of(&recording);
    let bytes = fs::read(&file).expect("the file");
    (format!("/api/v1/recordings/{}", text(&recording, "id")), file, bytes)
}

fn with_poster(daemon: &Daemon, path: &str) -> Value {
    wait_for("the poster", SOON, || {
        let recording = daemon.get(path);
        (!recording["parts"][0]["poster"].is_null()).then_some(recording)
    })
}

#[test]
fn a_finished_file_is_fetched_whole_and_in_ranges() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let (path, file, bytes) = recorded(&daemon, "cam");
    let (url, size) = (format!("{path}/file"), bytes.len());
    let etag = format!("\"{}\"", sha256(&file));

    let whole = curl(&daemon, &url, &[]).expect(200);
    assert!(whole.body == bytes, "{} bytes of {size}", whole.body.len());
    for (name, value) in [
        ("content-type", "video/mp4"),
        ("content-length", &size.to_string()),
        ("accept-ranges", "bytes"),
        ("etag", &etag),
        ("cache-control", "private, no-cache"),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "inline; filename=\"cam.mp4\"; filename*=UTF-8''cam.mp4"),
    ] {
        assert_eq!(whole.header(name), Some(value), "{name}");
    }
    assert!(curl(&daemon, &format!("{path}/parts/1/file"), &[]).expect(200).body == bytes);

    let last = size - 1;
    let ranges = [
        ("0-0".to_owned(), 0..1),
        ("0-99".to_owned(), 0..100),
        ("1000-".to_owned(), 1000..size),
        ("-500".to_owned(), size - 500..size),
        (format!("-{}", size + 1), 0..size),
        (format!("{last}-"), last..size),
        (format!("100-{}", size + 1000), 100..size),
        ("0-".to_owned(), 0..size),
        (format!("7-9, {size}-"), 7..10),
    ];
    for (asked, want) in ranges {
        let got = curl(&daemon, &url, &["-H", &format!("Range: bytes={asked}")]).expect(206);
        assert!(got.body == bytes[want.clone()], "{asked}");
        let told = format!("bytes {}-{}/{size}", want.start, want.end - 1);
        assert_eq!(got.header("content-range"), Some(told.as_str()), "{asked}");
        assert_eq!(got.header("content-length"), Some(want.len().to_string().as_str()), "{asked}");
        assert_eq!(got.header("etag"), Some(etag.as_str()));
    }
    // What is no range of bytes is as good as not there.
    for asked in ["bytes=5-2", "bytes=x", "lines=1-2", "bytes=0-,0-"] {
        let got = curl(&daemon, &url, &["-H", &format!("Range: {asked}")]).expect(200);
        assert!(got.body == bytes, "{asked}");
    }
    let got = curl(&daemon, &url, &["-H", &format!("Range: bytes={size}-")]).expect(416);
    assert_eq!(got.header("content-range"), Some(format!("bytes */{size}").as_str()));
    assert_eq!(got.problem(), "range-not-satisfiable");
}

#[test]
fn several_ranges_come_as_multipart() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let (path, _, bytes) = recorded(&daemon, "cam");
    let (url, size) = (format!("{path}/file"), bytes.len());
    let got = curl(&daemon, &url, &["-H", "Range: bytes=500-599, 0-9, -7"]).expect(206);
    assert_eq!(got.header("content-range"), None);
    assert_eq!(got.header("content-length"), Some(got.body.len().to_string().as_str()));
    let kind = got.header("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("multipart").to_owned();
    let mut expected = Vec::new();
    for range in [500..600, 0..10, size - 7..size] {
        let (first, last) = (range.start, range.end - 1);
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        expected.extend(head.into_bytes());
        expected.extend(&bytes[range]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
    assert!(got.body == expected, "{}", String::from_utf8_lossy(&got.body));

    // More ranges than anybody needs are the whole file.
    let many = (0..17).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(",");
    let got = curl(&daemon, &url, &["-H", &format!("Range: bytes={many}")]).expect(200);
    assert!(got.body == bytes);
}

#[test]
fn head_conditions_and_download() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let (path, file, bytes) = recorded(&daemon, "Größe");
    let (url, size) = (format!("{path}/file"), bytes.len().to_string());
    let etag = format!("\"{}\"", sha256(&file));
    // A range is for GET.
    for arguments in [&["--head"][..], &["--head", "-H", "Range: bytes=0-9"]] {
        let got = curl(&daemon, &url, arguments).expect(200);
        assert_eq!(got.header("content-length"), Some(size.as_str()));
        assert_eq!((got.header("etag"), got.header("accept-ranges")), (Some(etag.as_str()), Some("bytes")));
    }
    let other = "\"0123\"";
    for (field, value, status) in [
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", other, 200),
        ("If-Match", etag.as_str(), 200),
        ("If-Match", other, 412),
    ] {
        let got = curl(&daemon, &url, &["-H", &format!("{field}: {value}")]).expect(status);
        assert_eq!(
            got.body.len(),
            match status {
                200 => bytes.len(),
                304 => 0,
                _ => got.body.len(),
            }
        );
        assert!(status == 412 || got.header("etag") == Some(&etag), "{field}: {value}");
    }
    let if_range =
        |value: &str| curl(&daemon, &url, &["-H", "Range: bytes=5-9", "-H", &format!("If-Range: {value}")]);
    assert!(if_range(&etag).expect(206).body == bytes[5..10]);
    for stale in [other, &format!("W/{etag}"), "Sat, 29 Oct 1994 19:43:31 GMT", "nonsense"] {
        assert!(if_range(stale).expect(200).body == bytes, "{stale}");
    }

    let disposition = |query: &str, status| {
        let got = curl(&daemon, &format!("{url}{query}"), &["--head"]).expect(status);
        got.header("content-disposition").map(str::to_owned)
    };
    let name = "filename=\"Gr__e.mp4\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.mp4";
    assert_eq!(disposition("?download=1", 200), Some(format!("attachment; {name}")));
    assert_eq!(disposition("?download=0", 200), Some(format!("inline; {name}")));
    assert_eq!(disposition("?download=yes", 400), None);

    // If-Range after a change: the file is another one, and what the client has is of no use.
    let mut changed = bytes.clone();
    changed.push(0);
    fs::write(&file, &changed).expect("changed");
    let got = if_range(&etag).expect(200);
    assert!(got.body == changed && got.header("etag").is_none());
    assert_eq!(got.header("cache-control"), Some("no-store"));
}

#[test]
fn what_is_not_there_is_told_by_its_status() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let (path, file, _) = recorded(&daemon, "cam");
    let id = path.rsplit('/').next().expect("an id");
    let parts = format!("{path}/parts");
    for (url, method, status, problem) in [
        (format!("/api/v1/recordings/{UNKNOWN}/file"), "GET", 404, "unknown-recording"),
        ("/api/v1/recordings/cam/file".to_owned(), "GET", 404, "unknown-recording"),
        (format!("{parts}/2/file"), "GET", 404, "unknown-file"),
        (format!("{parts}/0/poster"), "GET", 404, "unknown-file"),
        (format!("{parts}/x/file"), "GET", 404, "unknown-file"),
        (format!("{parts}/99999999999/file"), "GET", 404, "unknown-file"),
        (format!("{path}/film"), "GET", 404, "not-found"),
        (format!("{path}/file/x"), "GET", 404, "not-found"),
        (format!("{path}/file"), "POST", 405, "method-not-allowed"),
        (format!("{path}/file?at=1"), "GET", 400, "bad-parameter"),
        (format!("/api/v1/recordings/{UNKNOWN}"), "DELETE", 404, "unknown-recording"),
    ] {
        let got = curl(&daemon, &url, &["-X", method]).expect(status);
        assert_eq!(got.problem(), problem, "{method} {url}");
    }
    // A link out of the folder in the file's place.
    fs::rename(&file, house.path("elsewhere")).expect("moved");
    std::os::unix::fs::symlink(house.path("elsewhere"), &file).expect("a link");
    let got = curl(&daemon, &format!("{path}/file"), &[]);
    assert!(got.status != 200 && !got.head.contains("video/mp4"), "{}", got.head);
    fs::remove_file(&file).expect("removed");
    assert_eq!(
        curl(&daemon, &format!("/api/v1/recordings/{id}/file"), &[]).expect(404).problem(),
        "unknown-file"
    );
}

#[test]
fn a_finished_part_gets_a_poster_and_sound_alone_none() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let sound = house.path("sound.flv");
    let make = "-nostdin -loglevel error -f lavfi -i sine=duration=2 -c:a aac";
    run(Command::new("ffmpeg").args(make.split(' ')).arg(&sound));
    Publisher::ffmpeg(&sound, &daemon.url("live/sound"), false).finish(SENT);
    let sound = format!("/api/v1/recordings/{}", text(&daemon.completed("sound"), "id"));
    let (path, file, _) = recorded(&daemon, "cam");
    let part = with_poster(&daemon, &path)["parts"][0].clone();
    let poster = PathBuf::from(format!("{}.jpg", file.display()));
    assert_eq!(part["poster"], json!(poster));

    let got = curl(&daemon, &format!("{path}/poster"), &[]).expect(200);
    assert_eq!(got.header("content-type"), Some("image/jpeg"));
    assert!(got.body == fs::read(&poster).expect("the poster"));
    let probe = "-v error -select_streams v -show_entries stream=codec_name,width,height -of csv=p=0";
    let told = run(Command::new("ffprobe").args(probe.split(' ')).arg(&poster));
    assert_eq!(told.trim(), "mjpeg,320,180");
    let etag = got.header("etag").expect("an ETag").to_owned();
    curl(&daemon, &format!("{path}/poster"), &["-H", &format!("If-None-Match: {etag}")]).expect(304);

    let got = curl(&daemon, &format!("{path}/manifest"), &[]).expect(200);
    assert_eq!(got.header("content-type"), Some("application/json"));
    let manifest: Value = serde_json::from_slice(&got.body).expect("JSON");
    assert_eq!((&manifest["poster"], &manifest["sha256"]), (&json!(poster), &part["sha256"]));

    assert_eq!(daemon.get(&sound)["parts"][0]["poster"], Value::Null);
    assert_eq!(curl(&daemon, &format!("{sound}/poster"), &[]).expect(404).problem(), "unknown-file");
    curl(&daemon, &format!("{sound}/file"), &[]).expect(200);
}

#[test]
fn a_file_that_is_being_written_plays() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 10));
    let recording = wait_for("it is recorded", SOON, || daemon.recordings("cam").pop());
    let path = format!("/api/v1/recordings/{}", text(&recording, "id"));
    wait_until("four seconds are written", SOON, || daemon.get(&path)["durationMs"].as_u64() > Some(4_000));

    let url = format!("http://{}{path}/file", daemon.http());
    let play = ["-nostdin", "-loglevel", "error", "-i", &url, "-f", "null", "-progress", "-", "-"];
    let said = run(Command::new("ffmpeg").args(play));
    let frames = said.lines().rev().find_map(|line| line.strip_prefix("frame=")?.trim().parse::<u32>().ok());
    assert!(frames >= Some(60), "{said}");

    let [part] = <[PathBuf; 1]>::try_from(house.records(".part")).expect("one");
    let got = curl(&daemon, &format!("{path}/file"), &["-H", "Range: bytes=0-9999"]).expect(206);
    assert!(got.body == fs::read(&part).expect("the .part")[..10_000]);
    assert_eq!((got.header("etag"), got.header("cache-control")), (None, Some("no-store")));
    let (_, now) = got.header("content-range").and_then(|r| r.split_once('/')).expect("a range");
    let now: u64 = now.parse().expect("a length");
    assert!(now >= 10_000);
    wait_until("there is more", SOON, || {
        let range = format!("Range: bytes={now}-");
        curl(&daemon, &format!("{path}/file"), &["-H", &range]).status == 206
    });
    for what in ["manifest", "poster"] {
        assert_eq!(curl(&daemon, &format!("{path}/{what}"), &[]).expect(404).problem(), "unknown-file");
    }
    assert_eq!(curl(&daemon, &path, &["-X", "DELETE"]).expect(409).problem(), "recording-running");
    assert!(
        curl(&daemon, &format!("{path}/file"), &["-H", "If-Range: \"x\"", "-H", "Range: bytes=0-9"]).status
            == 200
    );
    live.stop().expect("a good end");
    let recording = daemon.completed("cam");
    let got = curl(&daemon, &format!("{path}/file"), &[]).expect(200);
    assert!(got.body == fs::read(file_of(&recording)).expect("the file"));
}

#[test]
fn a_deleted_recording_is_gone_and_stays_gone() {
    let house = House::new(RECORD_ALL, "");
    let mut daemon = house.start(REELD);
    let (kept, _, _) = recorded(&daemon, "kept");
    let (path, file, bytes) = recorded_large(&daemon, "cam");
    with_poster(&daemon, &kept);
    with_poster(&daemon, &path);

    // One who downloads it has the file open, and gets it whole.
    let mut socket = TcpStream::connect(daemon.http()).expect("a connection");
    socket.set_read_timeout(Some(SOON)).expect("a deadline");
    write!(socket, "GET {path}/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut first = [0; 1];
    socket.read_exact(&mut first).expect("an answer begins");

    let got = curl(&daemon, &path, &["-X", "DELETE"]).expect(204);
    assert!(got.body.is_empty());
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).expect("the rest");
    assert!(rest.ends_with(&bytes), "{} bytes of {}", rest.len(), bytes.len());

    let gone = |daemon: &Daemon| {
        for suffix in ["", "/file", "/manifest", "/poster"] {
            assert_eq!(
                curl(daemon, &format!("{path}{suffix}"), &[]).expect(404).problem(),
                "unknown-recording"
            );
        }
        assert_eq!(curl(daemon, &path, &["-X", "DELETE"]).expect(404).problem(), "unknown-recording");
        let names = house.records("").into_iter().filter_map(|f| Some(f.file_name()?.to_str()?.to_owned()));
        assert_eq!(names.collect::<Vec<_>>(), ["kept.mp4", "kept.mp4.jpg", "kept.mp4.json"]);
        assert_eq!(daemon.get("/api/v1/recordings")["items"].as_array().map(Vec::len), Some(1));
    };
    gone(&daemon);
    assert!(!Path::new(&file).exists());
    assert!(daemon.terminate().success());
    let daemon = house.start(REELD);
    gone(&daemon);
    // Its name is free again.
    assert_eq!(recorded(&daemon, "cam").1, file);
}

/// A daemon that died over a recording makes its file whole at the next start; it had no poster then.
#[test]
fn a_recovered_part_gets_a_poster() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 10));
    wait_until("seconds are written", SOON, || {
        daemon.recordings("cam").first().is_some_and(|r| r["durationMs"].as_u64() > Some(3_000))
    });
    daemon.kill_9();
    drop(live);
    let daemon = house.start(REELD);
    let recording = wait_for("it is recovered", SOON, || {
        daemon.recordings("cam").into_iter().find(|r| r["status"] == "recovered")
    });
    let path = format!("/api/v1/recordings/{}", text(&recording, "id"));
    with_poster(&daemon, &path);
    curl(&daemon, &format!("{path}/poster"), &[]).expect(200);
    assert!(decode(&file_of(&recording)) > 60);
}

#[test]
fn sound_alone_is_typed_as_sound() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let input = source(TMP, "sound2.flv", &[AUDIO, &["-t", "2"], AAC]);
    Publisher::ffmpeg(&input, &daemon.url("live/voice"), false).finish(SENT);
    let (path, ..) = completed(&daemon, "voice");
    let file = curl(&daemon, &format!("{path}/file"), &["-r", "0-99"]).expect(206);
    assert_eq!(file.header("content-type"), Some("audio/mp4"));
}
