//! Split, pause, resume, switch, rotation, pre-roll and resume window as the API offers them: statuses, who a recording
//! belongs to, and what two calls at once come to.

use serde_json::{Value, json};
use std::{process::Command, thread, time::Duration};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    live::{Live, publish_at_once},
    media::{av_source, decode},
    rtmp::Client,
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const ON_DEMAND: &str = "stream_record_policy_template={streamName}-{startTime}\n";
const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";
const SECOND: Duration = Duration::from_secs(1);

/// A stream in real time, a key frame each second.
fn live(daemon: &Daemon, name: &str) -> (Live, String) {
    let live = Live::start(daemon.publish_options("live", name), &av_source(TMP, 10));
    let id = daemon.session_id(name);
    (live, id)
}

/// A stream that has sent `length` and then sends nothing.
fn idle(daemon: &Daemon, name: &str, length: Duration) -> (Client, String) {
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let client = publish_at_once(daemon.publish_options("live", name), &flv, length).expect("all is taken");
    let id = daemon.session_id(name);
    daemon.wait_frames(&id, flv.timeline(length).len() as u64);
    (client, id)
}

fn of(id: &str) -> String {
    format!("/api/v1/sessions/{id}/recording")
}

fn start(daemon: &Daemon, id: &str, options: &Value) -> String {
    let started = daemon.post(&of(id), options).expect(201).json();
    wait_until("frames are in the file", SOON, || daemon.get(&of(id))["totalRunningDurationMs"] != json!(0));
    text(&started, "id")
}

fn call(daemon: &Daemon, id: &str, verb: &str) -> Value {
    daemon.post(&format!("{}/{verb}", of(id)), &json!({})).expect(200).json()
}

fn switch(recording: &str) -> String {
    format!("/api/v1/recordings/{recording}/switch")
}

fn to(session: &str) -> Value {
    json!({ "mediaSessionId": session })
}

/// The recording that the session `id` has now.
fn recording_of(daemon: &Daemon, id: &str) -> Option<String> {
    daemon.get(&format!("/api/v1/sessions/{id}"))["recordingId"].as_str().map(str::to_owned)
}

/// Sends a request that has to be refused; what it says.
fn problem(daemon: &Daemon, path: &str, body: &str, status: u16, kind: &str) -> String {
    let answer = daemon.request("POST", path, body.as_bytes()).expect(status);
    assert!(answer.head.contains("application/problem+json"), "{answer:?}");
    let json = answer.json();
    assert_eq!(json["type"], json!(format!("/problems/{kind}")), "{json}");
    text(&json, "detail")
}

fn gaps(recording: &Value) -> Vec<String> {
    let gaps = recording["lost"]["gaps"].as_array().expect("gaps");
    gaps.iter().map(|gap| text(gap, "kind")).collect()
}

#[test]
fn a_recording_is_paused_resumed_and_split() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (publisher, id) = live(&daemon, "cam");
    let recording = start(&daemon, &id, &json!({}));
    let path = |verb: &str| format!("{}/{verb}", of(&id));

    let detail = problem(&daemon, &path("resume"), "", 409, "recording-not-paused");
    assert_eq!(detail, "the recording is not paused");
    let paused = call(&daemon, &id, "pause");
    assert_eq!((text(&paused, "id"), &paused["status"]), (recording.clone(), &json!("paused")));
    let state = daemon.get(&of(&id));
    assert_eq!((&state["on"], &state["recordingId"]), (&json!(true), &json!(recording)), "{state}");
    problem(&daemon, &path("pause"), "{}", 409, "recording-paused");
    problem(&daemon, &path("split"), "", 409, "recording-paused");
    problem(&daemon, &of(&id), "", 409, "already-recording");
    assert_eq!(daemon.get(&format!("/api/v1/recordings/{recording}"))["status"], "paused");
    wait_until("it is among the paused ones", SOON, || {
        daemon.get("/api/v1/recordings?status=paused")["items"].as_array().is_some_and(|all| all.len() == 1)
    });

    assert_eq!(call(&daemon, &id, "resume")["status"], "recording");
    assert_eq!(call(&daemon, &id, "split")["status"], "recording");
    let stopped = daemon.delete(&of(&id)).expect(200).json();
    assert_eq!(stopped["status"], "completed", "{stopped:#}");
    assert_eq!(stopped["parts"].as_array().map(Vec::len), Some(2), "{stopped:#}");
    assert_eq!(gaps(&stopped), ["pause"]);
    for verb in ["split", "pause", "resume"] {
        problem(&daemon, &path(verb), "", 409, "not-recording");
    }
    publisher.stop().expect("a good end");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_status() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_one, one) = idle(&daemon, "one", SECOND);
    let (_two, two) = idle(&daemon, "two", SECOND);
    let large = "x".repeat(64 * 1024 + 1);
    for verb in ["split", "pause", "resume"] {
        let path = |id: &str| format!("{}/{verb}", of(id));
        problem(&daemon, &path(UNKNOWN), "", 404, "unknown-session");
        problem(&daemon, &path("cam"), "", 404, "unknown-session");
        problem(&daemon, &path(&one), "", 409, "not-recording");
        problem(&daemon, &path(&one), r#"{"at": 1}"#, 400, "bad-body");
        problem(&daemon, &path(&one), &large, 413, "body-too-large");
        let answer = daemon.request("GET", &path(&one), b"").expect(405);
        assert_eq!(answer.header("allow"), Some("POST"));
    }
    problem(&daemon, &format!("{}/rewind", of(&one)), "", 404, "not-found");

    let recording = start(&daemon, &one, &json!({}));
    let other = start(&daemon, &two, &json!({}));
    let path = switch(&recording);
    problem(&daemon, &switch(UNKNOWN), &to(&two).to_string(), 404, "unknown-recording");
    problem(&daemon, &switch("first"), &to(&two).to_string(), 404, "unknown-recording");
    problem(&daemon, &path, &to(UNKNOWN).to_string(), 404, "unknown-session");
    problem(&daemon, &path, &to("two").to_string(), 404, "unknown-session");
    problem(&daemon, &path, &to(&one).to_string(), 409, "same-session");
    let detail = problem(&daemon, &path, &to(&two).to_string(), 409, "already-recording");
    assert!(detail.contains(&other), "{detail}");
    for body in ["", "{}", r#"{"mediaSessionId": 7}"#, r#"{"session": "x"}"#, "{"] {
        problem(&daemon, &path, body, 400, "bad-body");
    }
    problem(&daemon, &path, &large, 413, "body-too-large");
    let silent = Client::publish(daemon.publish_options("live", "silent")).expect("accepted");
    let pending = wait_for("the silent stream is known", SOON, || {
        daemon.sessions().into_iter().find(|s| s["name"] == "silent").map(|s| text(&s, "mediaSessionId"))
    });
    problem(&daemon, &path, &to(&pending).to_string(), 409, "not-publishing");
    drop(silent);

    daemon.delete(&of(&one)).expect(200);
    problem(&daemon, &path, &to(&two).to_string(), 409, "recording-over");
}

#[test]
fn a_start_takes_rotation_in_both_dialects() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (publisher, id) = live(&daemon, "cam");
    let detail = problem(&daemon, &of(&id), r#"{"rotation": "10X"}"#, 400, "bad-option");
    assert!(detail.starts_with("rotation: \"10X\" is not a rotation; write seconds like 20"), "{detail}");
    problem(&daemon, &of(&id), r#"{"uploadUrl": "http://127.0.0.1/"}"#, 400, "delivery-not-allowed");
    let flashphoner = |rotation: Value| {
        let body = json!({ "mediaSessionId": id, "config": { "rotation": rotation } });
        daemon.post("/rest-api/recorder/startup", &body)
    };
    flashphoner(json!("10X")).expect(400);

    daemon.post(&of(&id), &json!({ "rotation": "1s" })).expect(201);
    let two_parts = || {
        wait_until("the second part has begun", SOON, || {
            daemon.get(&of(&id))["totalRunningDurationMs"].as_u64() > Some(2_500)
        });
        let stopped = daemon.delete(&of(&id)).expect(200).json();
        let numbers: Vec<_> =
            stopped["parts"].as_array().expect("parts").iter().map(|p| p["number"].as_u64()).collect();
        assert!(numbers.len() >= 2, "{stopped:#}");
        assert_eq!(numbers, (1..=numbers.len() as u64).map(Some).collect::<Vec<_>>());
    };
    two_parts();
    flashphoner(json!(1)).expect(200);
    two_parts();
    publisher.stop().expect("a good end");
}

#[test]
fn preroll_is_what_the_call_asks_for_else_what_the_policy_says() {
    let house = House::new(&format!("{ON_DEMAND}record_preroll=2s\n"), "");
    let daemon = house.start(REELD);
    // 4 s of 30 pictures a second, a key frame each second.
    let (client, id) = idle(&daemon, "cam", 4 * SECOND);
    let pictures = |options: Value| {
        let recording = daemon.post(&of(&id), &options).expect(201).json();
        let stopped = daemon.delete(&of(&id)).expect(200).json();
        assert_eq!((&stopped["id"], &stopped["degraded"]), (&recording["id"], &json!([])), "{stopped:#}");
        decode(&file_of(&stopped))
    };
    for (options, wanted) in [
        (json!({ "preroll": 0 }), 30),
        (json!({}), 90),
        (json!({ "preroll": "1s" }), 60),
        (json!({ "preroll": 30 }), 120),
    ] {
        assert_eq!(pictures(options.clone()), wanted, "{options}");
    }
    let detail = problem(&daemon, &of(&id), r#"{"preroll": 31}"#, 400, "preroll-too-long");
    assert_eq!(
        detail,
        "preroll: 31 s are asked for and 30 s are kept; ask for less, or raise [limits] preroll"
    );
    problem(&daemon, &of(&id), r#"{"preroll": "soon"}"#, 400, "bad-option");

    // What came before a restart is in the file that it ends.
    for wanted in [90, 30] {
        let body = to(&id);
        daemon.post("/rest-api/stream/startRecording", &body).expect(200);
        if wanted == 30 {
            daemon.post("/rest-api/stream/stopRecording", &body).expect(200);
        }
    }
    let newest = daemon.recordings("cam").remove(0);
    assert_eq!(decode(&file_of(&newest)), 30);

    // A policy that keeps more lets a call ask for more.
    std::fs::write(house.path("reeld.properties"), format!("{ON_DEMAND}record_preroll=60\n"))
        .expect("policy");
    wait_until("50 s may be asked for", SOON, || {
        let answer = daemon.post(&of(&id), &json!({ "preroll": 50 }));
        answer.status == 201
    });
    client.unpublish().expect("a good end");
}

#[test]
fn a_publisher_that_returns_goes_on_in_its_recording() {
    let house = House::new(&format!("{ON_DEMAND}record_resume_window=60\n"), "");
    let daemon = house.start(REELD);
    let (client, first) = idle(&daemon, "cam", SECOND);
    let recording = start(&daemon, &first, &json!({}));
    // Twice: the second return is to a session that was itself a return.
    let mut client = Some(client);
    for _ in 0..2 {
        client.take().expect("a publisher").disconnect().expect("gone");
        wait_until("the session is gone", SOON, || daemon.sessions().is_empty());
        let (again, session) = idle(&daemon, "cam", SECOND);
        client = Some(again);
        wait_until("the recording is the new session's", SOON, || {
            recording_of(&daemon, &session).as_ref() == Some(&recording)
        });
        let state = daemon.get(&of(&session));
        assert_eq!((&state["on"], &state["recordingId"]), (&json!(true), &json!(recording)), "{state}");
        problem(&daemon, &of(&session), "", 409, "already-recording");
    }
    let session = daemon.session_id("cam");
    let stopped = daemon.delete(&of(&session)).expect(200).json();
    assert_eq!((&stopped["id"], &stopped["status"]), (&json!(recording), &json!("completed")), "{stopped:#}");
    assert_eq!(gaps(&stopped), ["reconnect", "reconnect"]);
    assert_eq!(daemon.recordings("cam").len(), 1);
}

/// The network cut the connection, which looks alive. It is ended for the encoder that is back, and once that counted as
/// ended by request: the recording did not wait.
#[test]
fn a_publisher_whose_dead_connection_is_replaced_goes_on_in_its_recording() {
    let house = House::new(&format!("{ON_DEMAND}record_resume_window=60\n"), "publisher_timeout = \"60s\"");
    let daemon = house.start(REELD);
    let (dead, first) = idle(&daemon, "cam", SECOND);
    let recording = start(&daemon, &first, &json!({}));
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    let publish = || publish_at_once(daemon.publish_options("live", "cam"), &flv, SECOND).ok();
    let _again = wait_for("the name again", SOON, publish);
    let session = daemon.session_id("cam");
    assert_ne!(session, first);
    wait_until("the recording is the new session's", SOON, || {
        recording_of(&daemon, &session).as_ref() == Some(&recording)
    });
    drop(dead);
}

#[test]
fn a_recording_that_waits_can_be_stopped_by_its_old_session() {
    let house = House::new(&format!("{ON_DEMAND}record_resume_window=60\n"), "");
    let daemon = house.start(REELD);
    let (client, id) = idle(&daemon, "cam", SECOND);
    let recording = start(&daemon, &id, &json!({}));
    client.disconnect().expect("gone");
    wait_until("the session is gone", SOON, || daemon.sessions().is_empty());
    assert_eq!(daemon.get(&format!("/api/v1/recordings/{recording}"))["status"], "recording");
    assert_eq!(daemon.get(&of(&id))["recordingId"], *recording);
    assert_eq!(daemon.delete(&of(&id)).expect(200).json()["status"], "completed");
    let (_again, session) = idle(&daemon, "cam", SECOND);
    assert_eq!(recording_of(&daemon, &session), None, "a stopped recording does not go on");
    // By name, as a person calls it.
    let (client, id) = idle(&daemon, "guest", SECOND);
    start(&daemon, &id, &json!({}));
    client.disconnect().expect("gone");
    wait_until("the session is gone", SOON, || daemon.sessions().iter().all(|s| s["name"] != "guest"));
    let server = format!("http://{}", daemon.http());
    let stopped =
        Command::new(REELD).args(["stop", "live/guest", "--server", &server]).output().expect("it runs");
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
}

#[test]
fn after_the_window_a_publisher_that_returns_gets_a_new_recording() {
    let house = House::new("record_rtmp_streams=true\nrecord_resume_window=1\n", "");
    let daemon = house.start(REELD);
    let recorded = |session: &str| wait_for("it is recorded", SOON, || recording_of(&daemon, session));
    let (client, first) = idle(&daemon, "cam", SECOND);
    let before = recorded(&first);
    client.disconnect().expect("gone");
    daemon.completed("cam");
    let (_again, second) = idle(&daemon, "cam", SECOND);
    assert_ne!(recorded(&second), before);
}

#[test]
fn a_switched_recording_belongs_to_the_other_session() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (first, one) = live(&daemon, "one");
    let (second, two) = live(&daemon, "two");
    let recording = start(&daemon, &one, &json!({}));
    let switched = daemon.post(&switch(&recording), &to(&two)).expect(200).json();
    assert_eq!(text(&switched, "id"), recording);
    assert_eq!((recording_of(&daemon, &one), recording_of(&daemon, &two)), (None, Some(recording.clone())));
    assert_eq!(daemon.get(&of(&one))["on"], json!(false));
    assert_eq!(daemon.get(&of(&two))["recordingId"], json!(recording));
    let running = daemon.post("/rest-api/recorder/find_all", &json!({})).expect(200).json();
    assert_eq!(running[0]["mediaSessionId"], json!(two));
    problem(&daemon, &format!("{}/pause", of(&one)), "", 409, "not-recording");
    problem(&daemon, &of(&two), "", 409, "already-recording");

    // The stream that it left may go, or be recorded by another.
    let another = start(&daemon, &one, &json!({}));
    problem(&daemon, &switch(&recording), &to(&one).to_string(), 409, "already-recording");
    first.stop().expect("a good end");
    wait_until("the other recording is completed", SOON, || {
        daemon.get(&format!("/api/v1/recordings/{another}"))["status"] == "completed"
    });
    assert_eq!(call(&daemon, &two, "pause")["id"], json!(recording));
    let stopped = daemon.delete(&of(&two)).expect(200).json();
    assert_eq!((&stopped["id"], &stopped["status"]), (&json!(recording), &json!("completed")));
    assert!(gaps(&stopped).contains(&"switch".to_owned()), "{stopped:#}");
    second.stop().expect("a good end");
}

#[test]
fn of_two_switches_at_once_one_wins_and_the_others_session_is_free() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let streams: Vec<_> = ["one", "two", "three"].iter().map(|name| live(&daemon, name)).collect();
    let ids: Vec<&str> = streams.iter().map(|(_, id)| id.as_str()).collect();
    let recording = start(&daemon, ids[0], &json!({}));
    for round in 0..4 {
        let statuses: Vec<u16> = thread::scope(|scope| {
            let calls: Vec<_> = ids
                .iter()
                .map(|id| {
                    let (daemon, path) = (&daemon, switch(&recording));
                    scope.spawn(move || daemon.post(&path, &to(id)).status)
                })
                .collect();
            calls.into_iter().map(|call| call.join().expect("no panic")).collect()
        });
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&200), "{statuses:?}");
        let mut owners = Vec::new();
        wait_until(&format!("one session has it (round {round})"), SOON, || {
            owners = ids.iter().filter(|id| recording_of(&daemon, id).is_some()).copied().collect();
            owners.len() == 1
        });
        // It is where the table says: its publisher's end is its own.
        assert_eq!(recording_of(&daemon, owners[0]).as_ref(), Some(&recording));
    }
    let owner = ids.iter().position(|id| recording_of(&daemon, id).is_some()).expect("an owner");
    let mut streams: Vec<_> = streams.into_iter().map(|(live, _)| live).collect();
    streams.remove(owner).stop().expect("a good end");
    wait_until("the recording ended with it", SOON, || {
        daemon.get(&format!("/api/v1/recordings/{recording}"))["status"] == "completed"
    });
    streams.into_iter().for_each(|live| live.stop().expect("a good end"));
}

#[test]
fn a_switch_to_a_stream_that_ends_first_does_not_come_about() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_first, one) = live(&daemon, "one");
    let recording = start(&daemon, &one, &json!({}));
    let path = switch(&recording);

    // It sends no key frame: the call is answered all the same, and both sessions are the recording's until then.
    let (client, two) = idle(&daemon, "two", SECOND);
    assert_eq!(daemon.post(&path, &to(&two)).expect(200).json()["status"], "recording");
    for id in [&one, &two] {
        assert_eq!(recording_of(&daemon, id).as_ref(), Some(&recording));
    }
    problem(&daemon, &of(&two), "", 409, "already-recording");
    client.unpublish().expect("a good end");

    // One that ends while the call waits for it.
    let (client, three) = idle(&daemon, "three", SECOND);
    let detail = thread::scope(|scope| {
        let call = scope.spawn(|| problem(&daemon, &path, &to(&three).to_string(), 404, "unknown-session"));
        wait_until("it is asked for", SOON, || recording_of(&daemon, &three).is_some());
        client.unpublish().expect("a good end");
        call.join().expect("no panic")
    });
    assert!(detail.contains(&three), "{detail}");

    assert_eq!(recording_of(&daemon, &one).as_ref(), Some(&recording));
    assert_eq!(daemon.post(&path, &to(&one)).expect(409).json()["type"], "/problems/same-session");
    let stopped = daemon.delete(&of(&one)).expect(200).json();
    assert_eq!(stopped["status"], "completed", "{stopped:#}");
}

#[test]
fn a_stop_while_a_switch_waits_ends_the_recording() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_first, one) = live(&daemon, "one");
    let (_second, two) = idle(&daemon, "two", SECOND);
    // By the session that it is to leave, and by the one that it goes to.
    for by in [&one, &two] {
        let recording = start(&daemon, &one, &json!({}));
        thread::scope(|scope| {
            let call = scope.spawn(|| daemon.post(&switch(&recording), &to(&two)).status);
            wait_until("it is asked for", SOON, || recording_of(&daemon, &two).is_some());
            let stopped = daemon.delete(&of(by)).expect(200).json();
            assert_eq!((&stopped["id"], &stopped["status"]), (&json!(recording), &json!("completed")));
            let status = call.join().expect("no panic");
            assert!([200, 409].contains(&status), "{status}");
        });
        for id in [&one, &two] {
            wait_until("no session has it", SOON, || recording_of(&daemon, id).is_none());
        }
    }
}

#[test]
fn the_command_line_has_the_verbs() {
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let (_first, one) = live(&daemon, "one");
    let (_second, two) = live(&daemon, "two");
    let reeld = |arguments: &[&str]| {
        let mut command = Command::new(REELD);
        let output =
            command.args(arguments).env("REELD_SERVER", format!("http://{}", daemon.http())).output();
        let output = output.expect("reeld");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        (output.status.code(), said)
    };
    let (code, said) = reeld(&["start", "live/one", "--rotation", "1h", "--preroll", "1s"]);
    assert_eq!(code, Some(0), "{said}");
    let recording = recording_of(&daemon, &one).expect("a recording");
    wait_until("frames are in the file", SOON, || {
        daemon.get(&of(&one))["totalRunningDurationMs"] != json!(0)
    });
    for (arguments, status) in [
        (vec!["pause", "one"], "paused"),
        (vec!["resume", "live/one"], "recording"),
        (vec!["split", one.as_str()], "recording"),
        (vec!["switch", "one", "two"], "recording"),
        (vec!["switch", recording.as_str(), one.as_str()], "recording"),
    ] {
        let (code, said) = reeld(&arguments);
        assert_eq!(
            (code, said.as_str()),
            (Some(0), format!("{status} {recording}\n").as_str()),
            "{arguments:?}"
        );
    }
    let (code, said) = reeld(&["resume", "one"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the recording is not paused"), "{said}");
    let (code, said) = reeld(&["switch", "two", "one"]);
    assert!(code == Some(1) && said.contains("`two` is not being recorded"), "{said}");
    assert_eq!(reeld(&["start", "two", "--rotation", "10X"]).0, Some(2), "wrong usage");
    assert_eq!(recording_of(&daemon, &two), None);
}

#[test]
fn limits_and_metrics_tell_what_is_kept() {
    let house =
        House::new(ON_DEMAND, "preroll = \"20s\"\npreroll_memory = \"16MiB\"\nmax_part_duration = \"1h\"");
    let daemon = house.start(REELD);
    let limits = daemon.get("/api/v1/server")["limits"].clone();
    for (key, value) in [
        ("prerollMs", 20_000),
        ("prerollMemoryBytes", 16 << 20),
        ("maxPartDurationMs", 3_600_000),
        ("syncIntervalMs", 5_000),
    ] {
        assert_eq!(limits[key], json!(value), "{limits:#}");
    }
    let (_client, _id) = idle(&daemon, "cam", 3 * SECOND);
    let metrics = daemon.request("GET", "/metrics", b"").expect(200).body;
    let kept =
        metrics.lines().find_map(|line| line.strip_prefix("reeld_preroll_bytes ")).expect("the metric");
    assert!(kept.parse::<u64>().expect("a number") > 0, "{kept}");
}
