//! Finished files are handed on, each at least once, whatever fails or is killed in between.

use serde_json::{Value, json};
use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    live::{Live, publish_at_once},
    media::av_source,
    wait::{wait_for, wait_until},
};
use uuid::Uuid;

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const LENGTH: Duration = Duration::from_secs(1);

fn record(daemon: &Daemon, name: &str) -> Value {
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let client = publish_at_once(daemon.publish_options("court", name), &flv, LENGTH).expect("all is taken");
    client.unpublish().expect("a good end");
    daemon.completed(name)
}

fn letters(daemon: &Daemon, query: &str) -> Vec<Value> {
    daemon.get(&format!("/api/v1/deliveries{query}"))["items"].as_array().expect("items").clone()
}

/// The only delivery there is, once it has failed so often.
fn failed(daemon: &Daemon, attempts: u64) -> Value {
    wait_for(&format!("{attempts} failures"), SOON, || {
        let [letter] = <[Value; 1]>::try_from(letters(daemon, "")).ok()?;
        (letter["attempts"].as_u64() >= Some(attempts)).then_some(letter)
    })
}

fn cli(daemon: &Daemon, line: &str) -> Output {
    let mut command = Command::new(REELD);
    command.arg("deliveries").args(line.split_whitespace());
    command.env("REELD_SERVER", daemon.http().to_string()).output().expect("the command runs")
}

/// What a command that did what was asked for has printed.
fn said(daemon: &Daemon, line: &str) -> String {
    let output = cli(daemon, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs `statement` on the catalog of a daemon that has ended.
fn with_catalog(house: &House, statement: &'static str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(house.path("state/catalog.sqlite"));
        let mut catalog = options.connect().await.expect("the catalog");
        sqlx::query(statement).execute(&mut catalog).await.expect(statement);
    });
}

/// Fails until `good` is there, and notes the id of each delivery.
fn hook_that_fails(house: &House) {
    house.hook("#!/bin/sh\necho \"$REELD_DELIVERY_ID\" >> \"${0%/*}/ids\"\n[ -e \"${0%/*}/good\" ] || { echo no room; exit 3; }\n");
}

#[test]
fn a_hook_that_fails_twice_is_listed_and_succeeds_in_the_end_under_one_id() {
    let house = House::new(RECORD_ALL, "");
    hook_that_fails(&house);
    let daemon = house.start(REELD);
    let recording = record(&daemon, "cam");
    let id = text(&recording, "id");

    let letter = failed(&daemon, 1);
    let number = letter["id"].as_i64().expect("a number");
    let script = house.path("hooks/on_record_hook.sh");
    assert_eq!(
        (&letter["kind"], &letter["recordingId"], &letter["part"], &letter["state"]),
        (&json!("hook"), &recording["id"], &json!(1), &json!("failed"))
    );
    assert_eq!(fs::canonicalize(text(&letter, "target")).ok(), fs::canonicalize(&script).ok());
    assert!(letter["nextAt"].is_string() && letter["firstTriedAt"].is_string(), "{letter:#}");
    assert_eq!(letter["error"], "exit code 3");
    let told = daemon.get(&format!("/api/v1/recordings/{id}"))["deliveries"][0].clone();
    assert_eq!((&told["state"], &told["error"]), (&json!("failed"), &json!("exit code 3")));
    assert!(told["nextAt"].is_string(), "{told:#}");
    assert!(said(&daemon, "").contains("exit code 3"));
    assert_eq!(said(&daemon, "--dead"), "");

    daemon.post(&format!("/api/v1/deliveries/{number}/retry"), &json!({})).expect(200);
    failed(&daemon, 2);
    fs::write(house.path("hooks/good"), "").expect("a file");
    let row = said(&daemon, &format!("retry {number}"));
    assert!(row.contains("hook"), "{row}");
    wait_until("the hook succeeds", SOON, || letters(&daemon, "").is_empty());
    let done = daemon.get(&format!("/api/v1/recordings/{id}"));
    let told = &done["deliveries"][0];
    assert_eq!((&told["state"], &done["parts"][0]["hook"]["exit"]), (&json!("done"), &json!(0)));
    let ids = fs::read_to_string(house.path("hooks/ids")).expect("ids");
    let ids: Vec<_> = ids.lines().collect();
    assert!(ids.len() >= 3 && ids.iter().all(|i| *i == text(&letter, "key")), "{ids:?}");

    daemon.post(&format!("/api/v1/deliveries/{number}/retry"), &json!({})).expect(404);
    daemon.request("GET", "/api/v1/deliveries?state=done", b"").expect(400);
    daemon.request("PUT", &format!("/api/v1/deliveries/{number}"), b"").expect(405);
    let gone = cli(&daemon, &format!("drop {number}"));
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("there is no delivery"), "{gone:?}");
}

#[test]
fn what_was_given_up_is_listed_tried_again_and_dropped() {
    let house = House::new(RECORD_ALL, "");
    hook_that_fails(&house);
    let mut daemon = house.start(REELD);
    for name in ["a", "b", "c"] {
        record(&daemon, name);
    }
    wait_until("all have failed", SOON, || letters(&daemon, "?state=failed").len() == 3);
    daemon.terminate();
    // They have failed for longer than they are tried.
    with_catalog(&house, "UPDATE outbox SET first_tried_at_ms = 1, next_at_ms = 0");
    let daemon = house.start(REELD);
    wait_until("all are dead", SOON, || letters(&daemon, "?state=dead&kind=hook").len() == 3);
    let recordings = ["a", "b", "c"].map(|name| daemon.completed(name));
    assert!(recordings.iter().all(|r| r["deliveries"][0]["state"] == "dead"), "{recordings:#?}");

    let listed: Value = serde_json::from_str(&said(&daemon, "--dead --json")).expect("JSON");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3));
    let of_a = text(&recordings[0], "id");
    let page = daemon.get("/api/v1/deliveries?limit=2");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    let rest = letters(&daemon, &format!("?limit=2&cursor={}", text(&page, "nextCursor")));
    assert_eq!(rest.len(), 1);

    // One is dropped, one deleted with its recording, one delivered.
    let [of_b] = &letters(&daemon, &format!("?recordingId={}", text(&recordings[1], "id")))[..] else {
        panic!("one of b")
    };
    assert_eq!(said(&daemon, &format!("drop {}", of_b["id"])), "1 dropped\n");
    daemon.delete(&format!("/api/v1/recordings/{}", text(&recordings[2], "id"))).expect(204);
    assert_eq!(letters(&daemon, "").len(), 1);
    fs::write(house.path("hooks/good"), "").expect("a file");
    let none = daemon.post("/api/v1/deliveries/retry", &json!({"kind": "upload"})).expect(200).json();
    assert_eq!(none, json!({"retried": 0}));
    assert_eq!(said(&daemon, "retry --all --kind hook"), "1 tried again\n");
    wait_until("it is delivered", SOON, || letters(&daemon, "").is_empty());
    let a = daemon.get(&format!("/api/v1/recordings/{of_a}"));
    assert_eq!(a["deliveries"][0]["state"], "done");
}

/// Makes the records folder hold `recordings` recordings of `parts` small files each that no catalog knows: copies of one
/// that was recorded. Answers the files.
fn fill(house: &House, of: &Value, recordings: usize, parts: usize) -> BTreeSet<PathBuf> {
    let original = file_of(of);
    let manifest = fs::read(format!("{}.json", original.display())).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let mut files = BTreeSet::new();
    for recording in 0..recordings {
        let id = Uuid::new_v4().to_string();
        for number in 1..=parts {
            let name = format!("r{recording:03}_{number:02}.mp4");
            let file = fs::canonicalize(house.path("records")).expect("records").join(&name);
            fs::copy(&original, &file).expect("a copy");
            let mut manifest = manifest.clone();
            manifest["recording"]["id"] = json!(id);
            manifest["recording"]["streamName"] = json!(format!("r{recording:03}"));
            manifest["number"] = json!(number);
            manifest["name"] = json!(name);
            manifest["file"] = json!(file);
            manifest["poster"] = Value::Null;
            let path = format!("{}.json", file.display());
            fs::write(path, manifest.to_string()).expect("a manifest");
            files.insert(file);
        }
    }
    files
}

/// Its calls, as (file, whether it succeeded), in their order.
fn calls(house: &House) -> Vec<(PathBuf, bool)> {
    let text = fs::read_to_string(house.path("hooks/calls")).unwrap_or_default();
    let calls = text.lines().filter_map(|line| line.split_once('\t'));
    calls.map(|(word, file)| (file.into(), word == "good")).collect()
}

fn attempts_of(calls: &[(PathBuf, bool)]) -> BTreeMap<&Path, (usize, usize)> {
    let mut attempts = BTreeMap::new();
    for (file, good) in calls {
        let (tries, successes) = attempts.entry(file.as_path()).or_insert((0, 0));
        *tries += 1;
        *successes += usize::from(*good);
    }
    attempts
}

/// Every other file fails once: a third of the runs. The daemon is killed in the midst of them, twice.
#[test]
fn of_a_thousand_files_none_is_lost_though_a_third_of_the_runs_fails_and_the_daemon_is_killed() {
    const FILES: usize = 1_000;
    let house = House::new(RECORD_ALL, "hook_concurrency = 8");
    let mut daemon = house.start(REELD);
    let first = record(&daemon, "first");
    wait_until("its hook ran", SOON, || letters(&daemon, "").is_empty());
    assert!(daemon.terminate().success());
    let files = fill(&house, &first, FILES / 10, 10);
    let _ = fs::remove_file(house.path("hooks/calls"));
    house.hook(
        "#!/bin/sh\ncase \"$2\" in\n*[02468].mp4) if [ ! -e \"$2.tried\" ]; then : > \"$2.tried\"\n\
         printf 'bad\\t%s\\n' \"$2\" >> \"${0%/*}/calls\"; exit 1; fi ;;\nesac\n\
         printf 'good\\t%s\\n' \"$2\" >> \"${0%/*}/calls\"\n",
    );

    for killed_at in [100, 400] {
        let daemon = house.start(REELD);
        wait_until("hooks run", 6 * SOON, || calls(&house).len() >= killed_at);
        daemon.kill_9();
    }
    let daemon = house.start(REELD);
    wait_until("all are delivered", 12 * SOON, || letters(&daemon, "?limit=1").is_empty());

    let calls = calls(&house);
    let attempts = attempts_of(&calls);
    let delivered: BTreeSet<PathBuf> =
        attempts.iter().filter(|(_, (_, good))| *good > 0).map(|(file, _)| file.to_path_buf()).collect();
    let missing: Vec<_> = files.difference(&delivered).collect();
    assert!(missing.is_empty(), "never delivered: {missing:?}");
    assert_eq!(delivered, files, "and nothing else");
    let failed = calls.iter().filter(|(_, good)| !good).count();
    assert!(3 * failed >= calls.len() * 9 / 10, "{failed} of {} runs failed", calls.len());
    // At most what ran when the daemon was killed is delivered twice.
    let twice = attempts.values().filter(|(_, good)| *good > 1).count();
    assert!(twice <= 16, "{twice} are delivered twice");
    // The parts of each recording in their order, by their first success.
    let mut order: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    for (file, _) in calls.iter().filter(|(_, good)| *good) {
        let name = file.file_name().and_then(|n| n.to_str()).expect("a name");
        let parts = order.entry(&name[..4]).or_default();
        if !parts.contains(&file.as_path()) {
            parts.push(file);
        }
    }
    assert!(order.values().all(|parts| parts.is_sorted()), "{order:#?}");
    let recordings = daemon.get("/api/v1/recordings?limit=1000");
    let states: BTreeSet<_> = recordings["items"]
        .as_array()
        .expect("items")
        .iter()
        .flat_map(|r| r["deliveries"].as_array().expect("deliveries").clone())
        .map(|d| text(&d, "state"))
        .collect();
    assert_eq!(states, BTreeSet::from(["done".to_owned()]));
}

/// The hook of the policy as it was at the next start ran for what a crash had left, not the recording's own.
#[test]
fn what_a_crash_left_is_handed_on_as_its_recording_began() {
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("court", "cam"), &av_source(TMP, 2));
    let id = daemon.session_id("cam");
    daemon.wait_frames(&id, 60);
    wait_until("it is recorded", SOON, || {
        daemon.recordings("cam").iter().any(|r| r["status"] == "recording")
    });
    wait_until("frames are in the file", SOON, || {
        house.records(".part").iter().any(|f| fs::metadata(f).is_ok_and(|m| m.len() > 10_000))
    });
    daemon.kill_9();
    drop(live);
    let policy = format!("{RECORD_ALL}on_record_hook_script=/gone/nothing.sh\n");
    fs::write(house.path("reeld.properties"), policy).expect("the policy");
    let daemon = house.start(REELD);
    wait_until("its hook ran", SOON, || !house.hook_calls().is_empty());
    wait_until("nothing is left", SOON, || letters(&daemon, "").is_empty());
    assert_eq!(house.hook_calls()[0].stream, "cam");
    assert_eq!(daemon.recordings("cam")[0]["status"], "recovered");
}
