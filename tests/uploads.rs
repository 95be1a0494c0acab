//! Finished files arrive where they are to go: put to a URL, and in an object store (a real S3 server); after it was down, and
//! after kill -9. The local copy goes only when everything is delivered, and what is in the store only plays as before.

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    http,
    live::publish_at_once,
    media::{Publisher, av_source, sha256},
    s3::{Mood, S3, SECRET_ACCESS_KEY},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const ON_DEMAND: &str = "stream_record_policy=streamName\n";
/// Two failures, with the pauses after them, on a busy machine.
const WITH_RETRIES: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn house(properties: &str, more: &str) -> House {
    House::new(properties, &format!("allow_delivery = [\"127.0.0.1\"]\n{more}"))
}

/// Publishes a short stream as fast as it goes, and waits for its recording.
fn record(daemon: &Daemon, name: &str) -> Value {
    Publisher::ffmpeg(&av_source(TMP, 2), &daemon.url(&format!("live/{name}")), false).finish(SOON);
    daemon.completed(name)
}

fn recording(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/api/v1/recordings/{id}"))
}

fn delivery<'r>(recording: &'r Value, kind: &str) -> Option<&'r Value> {
    recording["deliveries"].as_array()?.iter().find(|d| d["kind"] == kind)
}

/// The recording once its delivery of this kind is in this state.
fn wait_delivery(daemon: &Daemon, id: &str, kind: &str, state: &str) -> Value {
    wait_for(&format!("the {kind} is {state}"), WITH_RETRIES, || {
        let recording = recording(daemon, id);
        let is_there = delivery(&recording, kind).is_some_and(|d| d["state"] == state);
        is_there.then_some(recording)
    })
}

fn keys(s3: &S3) -> BTreeSet<String> {
    s3.objects().into_keys().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn verify(house: &House) -> (bool, String) {
    let output = Command::new(REELD)
        .args(["verify", "--config"])
        .arg(house.path("reeld.toml"))
        .output()
        .expect("reeld verify runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `MiB` bytes that are no two parts alike, as a finished file with its manifest.
fn finished_file(house: &House, name: &str, size: usize) -> PathBuf {
    let file = house.path("records").join(name);
    let bytes: Vec<u8> =
        (0..size / 8).flat_map(|n| (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    fs::write(&file, &bytes).expect("a file");
    manifest_of(&file, size as u64);
    file
}

fn manifest_of(file: &Path, size: u64) {
    let name = file.file_name().expect("a name").to_string_lossy();
    let manifest = json!({
        "version": 1,
        "recording": {
            "id": "5e1fe2a0-0000-4000-8000-000000000001", "roomName": "live", "roomId": "live", "streamName": "big",
            "mediaSessionId": "5e1fe2a0-0000-4000-8000-000000000002", "sessionId": "s", "protocol": "rtmp",
            "container": "mp4", "startedAt": "2026-01-01T00:00:00Z",
        },
        "number": 1, "file": file, "name": name, "size": size, "sha256": sha256(file),
        "startedAt": "2026-01-01T00:00:00Z", "durationMs": 1000, "video": null, "audio": null,
    });
    fs::write(format!("{}.json", file.display()), manifest.to_string()).expect("a manifest");
}

const BIG: &str = "5e1fe2a0-0000-4000-8000-000000000001";

#[test]
fn a_finished_file_is_in_the_store_with_its_poster_and_its_manifest() {
    let s3 = S3::start();
    let house = house(RECORD_ALL, &s3.config("studio/1", "true"));
    let daemon = house.start(REELD);
    // Somebody else's object has the name already.
    fs::create_dir_all(s3.file("studio/1")).expect("a folder");
    fs::write(s3.file("studio/1/other.mp4"), "somebody else's").expect("an object");

    let cam = record(&daemon, "cam");
    let done = wait_delivery(&daemon, &text(&cam, "id"), "upload", "done");
    let part = &done["parts"][0];
    assert_eq!((&part["remote"], &part["local"]), (&json!("s3://recordings/studio/1/cam.mp4"), &json!(true)));
    let file = file_of(&done);
    let objects = s3.objects();
    let wanted: BTreeMap<String, PathBuf> = ["", ".jpg", ".json"]
        .map(|suffix| (format!("studio/1/cam.mp4{suffix}"), format!("{}{suffix}", file.display()).into()))
        .into();
    for (key, local) in &wanted {
        assert!(read(&objects[key]) == read(local), "{key}");
    }
    // The manifest is the last: who finds it finds the rest.
    let put = s3.seen().into_iter().rfind(|seen| seen.method == "PUT" && seen.status == 200);
    assert!(put.is_some_and(|seen| seen.target.starts_with("/recordings/studio/1/cam.mp4.json")));

    let other = record(&daemon, "other");
    let done = wait_delivery(&daemon, &text(&other, "id"), "upload", "done");
    assert_eq!(done["parts"][0]["remote"], "s3://recordings/studio/1/other_2.mp4");
    assert_eq!(read(&s3.file("studio/1/other.mp4")), b"somebody else's");
    assert!(read(&s3.file("studio/1/other_2.mp4")) == read(&file_of(&done)));
    let with_suffixes =
        |name: &str| ["", ".jpg", ".json"].map(|suffix| format!("studio/1/{name}.mp4{suffix}"));
    let all: BTreeSet<String> = with_suffixes("cam").into_iter().chain(with_suffixes("other_2")).collect();
    assert_eq!(keys(&s3), &all | &set(&["studio/1/other.mp4"]), "exactly the files that exist");

    // It stays here, and plays from here.
    let file = daemon.request("GET", &format!("/api/v1/recordings/{}/file", text(&cam, "id")), b"");
    assert_eq!(file.status, 200);
    assert!(!daemon.log().contains(SECRET_ACCESS_KEY), "{}", daemon.log());
}

#[test]
fn a_store_that_is_down_gets_its_files_when_it_is_back() {
    let s3 = S3::start();
    let house = house(RECORD_ALL, &s3.config("a", "false"));
    s3.down();
    let daemon = house.start(REELD);
    let cam = record(&daemon, "cam");
    let id = text(&cam, "id");
    let failed = wait_delivery(&daemon, &id, "upload", "failed");
    let error = text(delivery(&failed, "upload").expect("the upload"), "error");
    assert!(error.contains("cannot be connected to"), "{error}");
    let file = file_of(&failed);
    assert!(file.exists() && failed["parts"][0]["remote"].is_null());
    let bytes = read(&file);

    s3.up();
    wait_delivery(&daemon, &id, "upload", "done");
    assert!(read(&s3.file("a/cam.mp4")) == bytes);
    wait_until("the local file is gone", SOON, || !file.exists());
}

#[test]
fn a_kill_in_the_middle_of_an_upload_costs_no_part_that_was_sent() {
    let s3 = S3::start();
    let house = house(ON_DEMAND, &s3.config("a", "true"));
    // With a catalog that is there already a file nobody knows is one whose delivery may be missing.
    house.start(REELD).terminate();
    let file = finished_file(&house, "big.mp4", 38 * MIB);
    s3.take_parts(2);
    let daemon = house.start(REELD);
    // They are sent when it is written down that the first two are there.
    wait_until("two parts are there, two wait", SOON, || s3.parts_waiting() == 2);
    assert_eq!(s3.parts_taken().len(), 2);
    daemon.kill_9();
    // What had come of the two that waited is gone.
    s3.down();
    s3.take_parts(usize::MAX);
    s3.up();
    let daemon = house.start(REELD);
    let done = wait_delivery(&daemon, BIG, "upload", "done");
    let mut parts = s3.parts_taken();
    parts.sort_unstable();
    assert_eq!(parts, [1, 2, 3, 4, 5], "each part once");
    assert!(read(&s3.file("a/big.mp4")) == read(&file));
    assert_eq!(done["parts"][0]["remote"], "s3://recordings/a/big.mp4");
    assert_eq!(keys(&s3), set(&["a/big.mp4", "a/big.mp4.json"]));
    assert_eq!(s3.unfinished_parts(), 0);
}

#[test]
fn deleting_a_recording_ends_its_upload_and_leaves_nothing_in_the_store() {
    let s3 = S3::start();
    let house = house(ON_DEMAND, &s3.config("a", "true"));
    house.start(REELD).terminate();
    finished_file(&house, "big.mp4", 38 * MIB);
    s3.take_parts(2);
    let daemon = house.start(REELD);
    wait_until("two parts are there, two wait", SOON, || s3.parts_waiting() == 2);
    daemon.delete(&format!("/api/v1/recordings/{BIG}")).expect(204);
    s3.take_parts(usize::MAX);
    wait_until("the store has none of it", WITH_RETRIES, || {
        s3.unfinished_parts() == 0 && keys(&s3).is_empty() && s3.parts_waiting() == 0
    });
    assert_eq!(house.records(""), Vec::<PathBuf>::new());
}

/// The local file goes when hook and upload are done, not before; then all of it works from the store, a new catalog knows
/// it, and a deletion reaches the store even when that is down.
#[test]
fn a_file_that_is_in_the_store_only_plays_and_can_be_deleted() {
    let s3 = S3::start();
    let house = house(RECORD_ALL, &s3.config("a", "false"));
    house.hook("#!/bin/sh\ntest -e \"${0%/*}/go\"\n");
    let mut daemon = house.start(REELD);
    let cam = record(&daemon, "cam");
    let id = text(&cam, "id");
    let uploaded = wait_delivery(&daemon, &id, "upload", "done");
    wait_delivery(&daemon, &id, "hook", "failed");
    let file = file_of(&uploaded);
    let bytes = read(&file);
    assert_eq!(uploaded["parts"][0]["local"], true, "the hook has not had it yet");

    fs::write(house.path("hooks/go"), "").expect("a file");
    wait_delivery(&daemon, &id, "hook", "done");
    wait_until("the local file is gone", SOON, || !file.exists());
    wait_until("the recording says so", SOON, || recording(&daemon, &id)["parts"][0]["local"] == false);
    assert!(read(&s3.file("a/cam.mp4")) == bytes);
    plays_from_the_store(&daemon, &s3, &id, &bytes);
    let (good, said) = verify(&house);
    assert!(good && said.contains("1 file is in the object store only"), "{said}");

    // A new catalog has it from its manifest, and no hook runs again.
    assert!(daemon.terminate().success());
    for suffix in ["", "-wal", "-shm", ".closed"] {
        let _ = fs::remove_file(house.path(&format!("state/catalog.sqlite{suffix}")));
    }
    let daemon = house.start(REELD);
    let again = recording(&daemon, &id);
    let part = &again["parts"][0];
    assert_eq!(
        (&part["remote"], &part["local"]),
        (&json!("s3://recordings/a/cam.mp4"), &json!(false)),
        "{again}"
    );
    assert_eq!(part["sha256"], uploaded["parts"][0]["sha256"]);
    plays_from_the_store(&daemon, &s3, &id, &bytes);

    s3.down();
    daemon.delete(&format!("/api/v1/recordings/{id}")).expect(204);
    assert_eq!(house.records(""), Vec::<PathBuf>::new());
    assert_eq!(keys(&s3), set(&["a/cam.mp4", "a/cam.mp4.jpg", "a/cam.mp4.json"]));
    daemon.kill_9();
    s3.up();
    let _daemon = house.start(REELD);
    wait_until("the store has none of it", WITH_RETRIES, || keys(&s3).is_empty());
}

fn plays_from_the_store(daemon: &Daemon, s3: &S3, id: &str, bytes: &[u8]) {
    let path = format!("/api/v1/recordings/{id}/file");
    let head = daemon.request("HEAD", &path, b"").expect(200);
    assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
    let etag = head.header("etag").expect("an ETag").to_owned();
    let known = http::request_with(daemon.http(), "GET", &path, &[("If-None-Match", &etag)], b"");
    assert_eq!(known.expect("an answer").status, 304);

    let redirect = daemon.request("GET", &path, b"").expect(307);
    assert_eq!(redirect.header("cache-control"), Some("private, no-store"));
    let location = redirect.header("location").expect("a place").to_owned();
    let at = format!("http://{}", s3.address());
    let target = location.strip_prefix(&at).unwrap_or_else(|| panic!("{location} is not at {at}"));
    assert!(target.contains("X-Amz-Signature=") && !location.contains(SECRET_ACCESS_KEY), "{location}");
    let whole = raw_get(s3.address(), target, None);
    assert!(whole.0 == 200 && whole.1 == bytes, "{}", whole.0);
    for (range, from, to) in
        [("bytes=0-99", 0, 100), ("bytes=1000-1999", 1000, 2000), ("bytes=-7", bytes.len() - 7, bytes.len())]
    {
        let part = raw_get(s3.address(), target, Some(range));
        assert!(part.0 == 206 && part.1 == bytes[from..to], "{range}: {}", part.0);
    }
    // Somebody who guesses another name has no signature for it.
    let other = raw_get(s3.address(), &target.replacen("cam.mp4", "cam.mp4.json", 1), None);
    assert_eq!(other.0, 403);
    for small in ["manifest", "poster"] {
        daemon.request("GET", &format!("/api/v1/recordings/{id}/parts/1/{small}"), b"").expect(200);
    }
}

/// Status and body, byte by byte.
fn raw_get(server: SocketAddr, target: &str, range: Option<&str>) -> (u16, Vec<u8>) {
    let mut socket = std::net::TcpStream::connect(server).expect("a connection");
    socket.set_read_timeout(Some(SOON)).expect("a time limit");
    let range = range.map(|r| format!("Range: {r}\r\n")).unwrap_or_default();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {server}\r\n{range}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
    (status, answer[end..].to_vec())
}

/// `scripts/uploadlab` has it send 10 GB, of which the server writes two copies for a while.
#[test]
fn a_large_upload_takes_little_memory() {
    let asked = std::env::var("REELD_UPLOAD_MIB").ok().and_then(|mib| mib.parse::<u64>().ok());
    let mib = asked.unwrap_or(256);
    memory_of_an_upload(mib << 20, Duration::from_secs(240 + mib / 3));
}

/// A sparse file, through the real daemon.
fn memory_of_an_upload(size: u64, limit: Duration) {
    /// Two parts on their way, one that is read, and what belongs to them.
    const MOST_KIB: u64 = 96 * 1024;
    let s3 = S3::start();
    let house = house(ON_DEMAND, &s3.config("a", "false"));
    house.start(REELD).terminate();
    let file = house.path("records/big.mp4");
    fs::File::create(&file).and_then(|f| f.set_len(size)).expect("a sparse file");
    manifest_of(&file, size);
    s3.set_mood(Mood::Stalls);
    let daemon = house.start(REELD);
    let before = memory_kib(daemon.pid(), "VmHWM");
    s3.set_mood(Mood::Serves);
    wait_until("it is uploaded, and is there only", limit, || {
        recording(&daemon, BIG)["parts"][0]["local"] == false
    });
    let (peak, now) = (memory_kib(daemon.pid(), "VmHWM"), memory_kib(daemon.pid(), "VmRSS"));
    println!("{size} bytes: {before} KiB before, {peak} KiB at most, {now} KiB after");
    assert!(peak < before + MOST_KIB, "{before} KiB before, {peak} KiB at most");
    assert_eq!(fs::metadata(s3.file("a/big.mp4")).map(|m| m.len()).ok(), Some(size));
    assert!(!file.exists());
}

fn memory_kib(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What LiveKit does: the only copy is lost with the upload that failed.
#[test]
fn an_upload_that_is_given_up_or_whose_object_is_damaged_deletes_nothing() {
    let s3 = S3::start();
    let storage = s3.config("a", "\"3s\"");
    let house = house(RECORD_ALL, &format!("{storage}[delivery]\ngive_up_after = \"1s\"\n"));
    s3.set_mood(Mood::Fails);
    let mut daemon = house.start(REELD);
    let lost = record(&daemon, "lost");
    let lost_id = text(&lost, "id");
    let dead = wait_delivery(&daemon, &lost_id, "upload", "dead");
    assert!(file_of(&dead).exists());

    s3.set_mood(Mood::Serves);
    let cam = record(&daemon, "cam");
    let id = text(&cam, "id");
    let done = wait_delivery(&daemon, &id, "upload", "done");
    let damaged = s3.file("a/cam.mp4");
    let bytes = read(&damaged);
    fs::write(&damaged, &bytes[1..]).expect("a byte less");
    wait_until("it is told", WITH_RETRIES, || {
        daemon.log().contains("is not in the store as it was uploaded")
    });
    assert!(read(&file_of(&done)) == bytes, "the only whole copy");
    assert_eq!(recording(&daemon, &id)["parts"][0]["local"], true);
    // The file of what was given up is there as long as it is not delivered.
    assert!(file_of(&dead).exists());
    assert!(recording(&daemon, &lost_id)["parts"][0]["remote"].is_null());
    assert!(daemon.terminate().success());
    assert!(verify(&house).0);
}

#[test]
fn what_is_not_what_was_recorded_any_more_is_not_uploaded() {
    let s3 = S3::start();
    let house = house(ON_DEMAND, &s3.config("a", "false"));
    house.start(REELD).terminate();
    let file = finished_file(&house, "big.mp4", 9 * MIB);
    let mut bytes = read(&file);
    bytes[5 * MIB] ^= 1;
    fs::write(&file, &bytes).expect("one bit");
    let daemon = house.start(REELD);
    let dead = wait_delivery(&daemon, BIG, "upload", "dead");
    let error = text(delivery(&dead, "upload").expect("the upload"), "error");
    assert!(error.contains("SHA-256 differs"), "{error}");
    assert!(file.exists() && keys(&s3).is_empty());
    wait_until("no part is left", SOON, || s3.unfinished_parts() == 0);
}

/// Takes HTTP PUTs; answers with the statuses it is given, the last of them again and again.
struct Receiver {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
}

#[derive(Clone)]
struct Taken {
    target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Receiver {
    fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let taken: Arc<Mutex<Vec<Taken>>> = Arc::default();
        let kept = taken.clone();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
                let Some(request) = take(&mut reader) else { continue };
                let number = {
                    let mut kept = kept.lock().expect("nobody panics");
                    kept.push(request);
                    kept.len() - 1
                };
                let answer = answers.get(number).or(answers.last()).expect("an answer");
                let mut socket = socket;
                let _ = socket.write_all(
                    format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes(),
                );
            }
        });
        Self { address, taken }
    }

    fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("nobody panics").clone()
    }
}

fn take(reader: &mut impl BufRead) -> Option<Taken> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let target = line.strip_prefix("PUT ")?.split(' ').next()?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Taken { target, headers, body })
}

fn start_with(daemon: &Daemon, name: &str, upload_url: &str) -> http::Answer {
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let _client =
        publish_at_once(daemon.publish_options("live", name), &flv, Duration::from_secs(2)).expect("taken");
    let id = daemon.session_id(name);
    let path = format!("/api/v1/sessions/{id}/recording");
    let started = daemon.post(&path, &json!({ "uploadUrl": upload_url }));
    if started.status == 201 {
        daemon.delete(&path).expect(200);
    }
    started
}

#[test]
fn an_upload_url_gets_the_file() {
    let receiver = Receiver::start(&[
        "503 Busy\r\nRetry-After: 1",
        "307 There\r\nLocation: /there?key=hush",
        "201 Created",
    ]);
    let house = house(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let url = format!("http://{}/in/file.mp4?key=hush", receiver.address);
    let id = text(&start_with(&daemon, "cam", &url).expect(201).json(), "id");
    let done = wait_delivery(&daemon, &id, "upload", "done");
    let upload = delivery(&done, "upload").expect("the upload");
    assert_eq!(upload["attempts"], 2);
    let told = text(upload, "target");
    assert!(told.contains(&receiver.address.to_string()) && !told.contains("hush"), "{told}");

    let file = file_of(&done);
    let taken = receiver.taken();
    let targets: Vec<&str> = taken.iter().map(|t| t.target.as_str()).collect();
    assert_eq!(targets, ["/in/file.mp4?key=hush", "/in/file.mp4?key=hush", "/there?key=hush"]);
    let last = &taken[2];
    assert!(last.body == read(&file));
    assert_eq!(last.headers["content-type"], "video/mp4");
    let digest = &last.headers["content-digest"];
    assert!(digest.starts_with("sha-256=:") && digest.ends_with("=:") && digest.len() == 54, "{digest}");
    // No copy that could be read again.
    assert!(done["parts"][0]["remote"].is_null() && file.exists());
    assert!(!daemon.log().contains("hush"), "{}", daemon.log());
}

#[test]
fn an_upload_url_that_cannot_be_sent_to_is_told_at_the_start() {
    let house = house(ON_DEMAND, "");
    let daemon = house.start(REELD);
    for (name, url) in [
        ("a", "ftp://h/x"),
        ("b", "no URL"),
        ("c", "http://192.168.1.1/x"),
        ("d", "http://169.254.169.254/x"),
    ] {
        let answer = start_with(&daemon, name, url).expect(400).json();
        assert!(text(&answer, "detail").starts_with("uploadUrl: "), "{answer}");
    }
    // What never takes a PUT is not asked again.
    let receiver = Receiver::start(&["405 No"]);
    let id =
        text(&start_with(&daemon, "e", &format!("http://{}/x", receiver.address)).expect(201).json(), "id");
    let dead = wait_delivery(&daemon, &id, "upload", "dead");
    assert!(file_of(&dead).exists());
    assert_eq!(receiver.taken().len(), 1);
}
