//! The operator's side: the policy and its reload, hostile names, hooks, `reeld check` and the signals.

use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    live::{Live, publish_at_once},
    media::{Probe, av_source, decode},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const SOURCE: Duration = Duration::from_secs(2);

/// Records 2 s of a stream `name`, by now; the file's name.
fn record(daemon: &Daemon, name: &str) -> String {
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let client = publish_at_once(daemon.publish_options("live", name), &flv, SOURCE).expect("all is taken");
    let id = daemon.session_id(name);
    client.unpublish().expect("a good end");
    let path = format!("/api/v1/recordings?mediaSessionId={id}");
    let recording = wait_for("the recording is completed", SOON, || {
        daemon.get(&path)["items"].as_array()?.iter().find(|r| r["status"] == "completed").cloned()
    });
    text(&recording["parts"][0], "name")
}

fn policy(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/server")["policy"].clone()
}

fn wait_reload(daemon: &Daemon, before: &Value) {
    wait_until("the policy is loaded again", SOON, || {
        let now = policy(daemon);
        now["error"].is_null() && now["loadedAt"] != before["loadedAt"]
    });
}

fn template(text: &str) -> String {
    format!("record_rtmp_streams=true\nstream_record_policy_template={text}\n")
}

#[test]
fn a_changed_policy_holds_for_recordings_started_after_it() {
    let house = House::new(&template("old-{streamName}"), "");
    let file = house.path("reeld.properties");
    let daemon = house.start(REELD);
    let running = Live::start(daemon.publish_options("live", "running"), &av_source(TMP, 4));
    wait_until("it is being recorded", SOON, || house.records(".part").len() == 1);

    // As an editor saves: a new file is renamed over the old one.
    let before = policy(&daemon);
    fs::write(house.path("reeld.properties~"), template("edited-{streamName}")).expect("a file");
    fs::rename(house.path("reeld.properties~"), &file).expect("a rename");
    wait_reload(&daemon, &before);
    assert_eq!(record(&daemon, "cam"), "edited-cam.mp4");

    // As a configuration management does: the name is a symlink that is switched.
    let link = |to: &str, text: &str| {
        fs::write(house.path(to), template(text)).expect("a file");
        symlink(house.path(to), house.path("switch")).expect("a symlink");
        fs::rename(house.path("switch"), &file).expect("a rename");
    };
    for (to, text, wanted) in
        [("a", "linked-{streamName}", "linked-cam.mp4"), ("b", "switched-{streamName}", "switched-cam.mp4")]
    {
        let before = policy(&daemon);
        link(to, text);
        wait_reload(&daemon, &before);
        assert_eq!(record(&daemon, "cam"), wanted);
    }

    running.stop().expect("a good end");
    assert_eq!(text(&daemon.completed("running")["parts"][0], "name"), "old-running.mp4");
}

#[test]
fn a_broken_policy_changes_nothing_and_is_told() {
    let house = House::new(&template("good-{streamName}"), "");
    let daemon = house.start(REELD);
    let broken = "# comment\nrecord_rtmp_streams=perhaps\nstream_record_policy_template={nobody}\n";
    fs::write(house.path("reeld.properties"), broken).expect("the policy");
    let error = wait_for("the error is told", SOON, || policy(&daemon)["error"].as_str().map(str::to_owned));
    for wanted in ["reeld.properties:2: ", "reeld.properties:3: ", "perhaps", "nobody", "streamName"] {
        assert!(error.contains(wanted), "no {wanted:?} in {error}");
    }
    assert!(daemon.log().contains("reeld.properties:2: "));
    assert_eq!(record(&daemon, "cam"), "good-cam.mp4");

    let before = policy(&daemon);
    fs::write(house.path("reeld.properties"), template("mended-{streamName}")).expect("the policy");
    wait_reload(&daemon, &before);
    assert_eq!(record(&daemon, "cam"), "mended-cam.mp4");
}

#[test]
fn sighup_reloads() {
    let house = House::new(&template("a-{streamName}"), "");
    let daemon = house.start(REELD);
    record(&daemon, "cam");
    let before = policy(&daemon);
    daemon.signal(Signal::HUP);
    wait_reload(&daemon, &before);
}

#[test]
fn the_hook_script_of_the_manual_works_as_written() {
    let house = House::new(RECORD_ALL, "");
    fs::create_dir(house.path("copies")).expect("a folder");
    let records = fs::canonicalize(house.path("records")).expect("records");
    // Word for word, but for the two folders; it has no #! line either.
    house.hook(&format!(
        "STREAM_NAME=$1\nSRC_FILE=$2\nSRC_DIR=\"{}/\"\nREPLACE_STR=\"{}/$STREAM_NAME-\"\n\
         DST_FILE=\"${{SRC_FILE/$SRC_DIR/$REPLACE_STR}}\"\ncp $SRC_FILE $DST_FILE\n",
        records.display(),
        house.path("copies").display()
    ));
    let daemon = house.start(REELD);
    let name = record(&daemon, "cam");
    let copy = house.path("copies").join(format!("cam-{name}"));
    wait_until("the copy is whole", SOON, || daemon.completed("cam")["parts"][0]["hook"]["exit"] == 0);
    assert_eq!(fs::read(copy).expect("the copy"), fs::read(records.join(name)).expect("the file"));
}

#[test]
fn a_hook_that_hangs_is_ended_and_told() {
    let house = House::new(RECORD_ALL, "hook_timeout = \"1s\"");
    house.hook("#!/bin/sh\necho at work\nsleep 1000 &\nwait\n");
    let daemon = house.start(REELD);
    record(&daemon, "cam");
    let hook = wait_for("the hook's result", SOON, || {
        Some(daemon.completed("cam")["parts"][0]["hook"].clone()).filter(|hook| !hook.is_null())
    });
    assert!(hook["exit"].is_null(), "{hook}");
    let output = text(&hook, "output");
    assert!(output.contains("at work") && output.contains("time limit of 1 s"), "{output}");
}

#[test]
fn hostile_stream_names_stay_in_the_folder_and_reach_no_shell() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let long = "\u{1F980}é".repeat(50);
    let names = [
        "..escape",
        "...",
        ".hidden",
        "$(touch x)",
        "`touch x`",
        "; touch x",
        "a'b\"c",
        "-rf",
        "*",
        "a\\..\\b",
        "tab %09 %2e%2e%2f",
        "\u{202e}gpj",
        long.as_str(),
    ];
    for (index, name) in names.into_iter().enumerate() {
        let file = record(&daemon, name);
        assert!(file.len() <= 255 && !file.starts_with(['.', '-']), "{name:?}: {file:?}");
        let path = house.path("records").join(&file);
        assert!(path.is_file(), "{name:?}: {file:?}");
        let call = wait_for("the hook was called", SOON, || house.hook_calls().into_iter().nth(index));
        assert_eq!((call.stream.as_str(), call.file.file_name()), (name, path.file_name()));
    }
    let entries = |folder: &Path| {
        let names = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").file_name());
        let mut names: Vec<_> = names.map(|n| n.into_string().expect("UTF-8")).collect();
        // Room that is kept for the ends of recordings.
        names.retain(|name| name != ".reeld-reserve");
        names.sort();
        names
    };
    let home = entries(&house.path("."));
    assert_eq!(home, ["hooks", "log.0", "records", "reeld.properties", "reeld.toml", "state"]);
    assert_eq!(entries(&house.path("hooks")), ["calls", "on_record_hook.sh"]);
    wait_until("a file, its manifest and its poster each", SOON, || {
        entries(&house.path("records")).len() == 3 * names.len()
    });
}

fn check(house: &House) -> (Option<i32>, String) {
    let output = Command::new(REELD).args(["check", "--config"]).arg(house.path("reeld.toml")).output();
    let output = output.expect("reeld check");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn reeld_check_names_file_and_line() {
    let good = House::new(RECORD_ALL, "");
    let (code, said) = check(&good);
    assert_eq!(code, Some(0), "{said}");

    let bad_policy =
        House::new("record_streams=true\nrecord_formats=h264-avi\nencode_record_name=true,ROT13\n", "");
    let bad_toml = House::new(RECORD_ALL, "publisher_timeot = \"1s\"\nhandshake_timeout = \"soon\"");
    let expected: [(&House, &[&str]); 2] = [
        (&bad_policy, &["reeld.properties:2: ", "avi", "reeld.properties:3: ", "ROT13"]),
        (&bad_toml, &["reeld.toml:13: ", "publisher_timeout", "reeld.toml:14: ", "soon"]),
    ];
    for (house, words) in expected {
        let (code, said) = check(house);
        assert_eq!(code, Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }
}

#[test]
fn sigterm_finishes_recordings_and_hooks_and_exits_with_0() {
    let house = House::new(RECORD_ALL, "");
    let mut daemon = house.start(REELD);
    let input = av_source(TMP, 4);
    let live = Live::start(daemon.publish_options("live", "cam"), &input);
    wait_until("a second is sent", SOON, || live.sent_ms() >= 1000);
    let status = daemon.terminate();
    assert!(status.success(), "{status}");
    let file: PathBuf = house.path("records/cam.mp4");
    assert_eq!(house.records(".part"), [] as [PathBuf; 0]);
    let pictures = decode(&file);
    assert!(pictures >= 25, "{pictures} pictures of at least 1 s");
    assert_eq!(Probe::read(&file).video.len(), pictures);
    let calls = house.hook_calls();
    assert_eq!(calls.len(), 1, "{calls:?}");

    let daemon = house.start(REELD);
    assert_eq!(file_of(&daemon.completed("cam")), fs::canonicalize(file).expect("the file"));
}

#[test]
fn a_second_sigterm_ends_it_now_and_its_hook_runs_at_the_next_start() {
    let house = House::new(RECORD_ALL, "");
    house.hook("#!/bin/bash\ntouch \"${0%/*}/at-work\"\n[ -e \"${0%/*}/let-go\" ] || exec sleep 60\n");
    let mut daemon = house.start(REELD);
    record(&daemon, "cam");
    wait_until("the hook is at work", SOON, || house.path("hooks/at-work").exists());
    daemon.signal(Signal::TERM);
    wait_until("the end has begun", SOON, || daemon.log().contains("ending:"));
    assert_eq!(daemon.terminate().code(), Some(1));

    fs::write(house.path("hooks/let-go"), "").expect("a file");
    let daemon = house.start(REELD);
    wait_until("the hook is done", SOON, || {
        daemon.recordings("cam").iter().any(|r| r["parts"][0]["hook"]["exit"] == 0)
    });
}

/// A second daemon on one state folder declared the first one's live recordings failed.
#[test]
fn a_state_folder_belongs_to_one_daemon() {
    let house = House::new(RECORD_ALL, "");
    let first = house.start(REELD);
    let mut second = Command::new("timeout");
    second.args(["10", REELD, "serve", "--config"]).arg(house.path("reeld.toml"));
    let output = second.output().expect("reeld serve");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another reeld runs with"), "{said}");
    first.request("GET", "/healthz", b"").expect(200);
}

#[test]
fn it_is_not_ready_without_a_folder_to_record_to() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    daemon.request("GET", "/readyz", b"").expect(200);
    fs::remove_dir(house.path("records")).expect("an empty folder");
    let answer = wait_for("it is noticed", SOON, || {
        let answer = daemon.request("GET", "/readyz", b"");
        (answer.status != 200).then(|| answer.expect(503))
    });
    assert!(answer.json().to_string().contains("records folder"), "{:?}", answer.json());
}
