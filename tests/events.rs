//! What happens is told over the event socket: everything, in order, at once, and again to who comes back.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    sync::{PoisonError, RwLock, RwLockReadGuard, mpsc},
    thread,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, text},
    flv::Flv,
    live::publish_at_once,
    media::av_source,
    rtmp::Client,
    wait::wait_until,
    ws::WebSocket,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const ON_DEMAND: &str = "stream_record_policy_template={streamName}-{startTimeMillis}\n";
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const SECOND: Duration = Duration::from_secs(1);
const PATH: &str = "/api/v1/events";

/// What is measured is measured alone.
static ALONE: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

fn watch(daemon: &Daemon) -> WebSocket {
    let mut socket = WebSocket::open(daemon.http(), PATH);
    assert_eq!(socket.json()["type"], "hello");
    socket
}

/// A stream that has sent a second and then sends nothing.
fn publish(daemon: &Daemon, name: &str) -> Client {
    let flv = Flv::read(&av_source(TMP, 4)).expect("an FLV file");
    publish_at_once(daemon.publish_options("live", name), &flv, SECOND).expect("all is taken")
}

fn of(id: &str) -> String {
    format!("/api/v1/sessions/{id}/recording")
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["type"].as_str().expect("a type")).collect()
}

/// Everything up to the first event of `last`, that one too.
fn up_to(socket: &mut WebSocket, last: &str) -> Vec<Value> {
    let (event, mut events) = socket.until(|e| e["type"] == last);
    events.push(event);
    events.retain(|e| e["type"] != "heartbeat");
    events
}

/// A poster is made beside all else: when it is told is left to chance.
fn only(events: &[Value], prefix: &str) -> Vec<String> {
    let told = types(events).into_iter().filter(|t| t.starts_with(prefix) && *t != "recording.updated");
    told.map(str::to_owned).collect()
}

#[test]
fn a_stream_and_its_recording_are_told_from_beginning_to_end() {
    let _others = beside_others();
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    let client = publish(&daemon, "cam");
    let begun = up_to(&mut socket, "recording.started");
    assert_eq!(types(&begun)[0], "session.started");
    assert_eq!(only(&begun, "recording"), ["recording.starting", "recording.started"]);
    let (session, id) = (&begun[0]["session"], daemon.session_id("cam"));
    assert_eq!((&session["mediaSessionId"], &session["status"]), (&json!(id), &json!("PUBLISHING")));
    assert_eq!(session["tracks"].as_array().map(Vec::len), Some(2), "{session:#}");
    let recording = daemon.recordings("cam").remove(0);
    let told = &begun.last().expect("events")["recording"];
    for key in recording.as_object().expect("an object").keys().filter(|key| *key != "durationMs") {
        assert_eq!(told[key], recording[key], "{key}");
    }

    client.unpublish().expect("a good end");
    let mut ended = up_to(&mut socket, "delivery.done");
    // The session, its recording and the hook are told by three tasks.
    while !["session.ended", "recording.completed"].iter().all(|last| types(&ended).contains(last)) {
        ended.push(socket.json());
    }
    assert_eq!(only(&ended, "recording"), ["recording.stopping", "recording.part", "recording.completed"]);
    let of_type = |wanted: &str| ended.iter().find(|e| e["type"] == wanted).expect("an event");
    assert_eq!(of_type("session.ended")["cause"], "TERM_BY_CLIENT");
    assert_eq!(of_type("session.ended")["session"]["status"], "UNPUBLISHED");
    let delivery = of_type("delivery.done");
    let of_delivery = ["recordingId", "part", "kind", "state"].map(|key| delivery[key].clone());
    assert_eq!(of_delivery, [recording["id"].clone(), json!(1), json!("hook"), json!("done")]);
    let completed = of_type("recording.completed");
    let got = daemon.get(&format!("/api/v1/recordings/{}", text(&recording, "id")));
    for key in ["id", "status", "endedAt", "durationMs", "size", "lost", "error"] {
        assert_eq!(completed["recording"][key], got[key], "{key}");
    }
    assert_eq!(completed["recording"]["parts"][0]["sha256"], got["parts"][0]["sha256"]);

    let all: Vec<_> = begun.iter().chain(&ended).collect();
    let seqs: Vec<_> = all.iter().map(|e| e["seq"].as_u64().expect("a number")).collect();
    assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1), "{seqs:?}");
    let times = all.iter().map(|e| DateTime::parse_from_rfc3339(&text(e, "at")).expect("a time"));
    assert!(times.is_sorted());
}

#[test]
fn the_verbs_are_told_with_the_session_that_has_the_recording() {
    let _others = beside_others();
    let house = House::new(ON_DEMAND, "");
    let daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    let live = support::live::Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 10));
    let id = daemon.session_id("cam");
    let recording = text(&daemon.post(&of(&id), &json!({})).expect(201).json(), "id");
    let updated = socket.event("session.updated");
    assert_eq!(updated["session"]["recordingId"], json!(recording));
    socket.event("recording.started");
    wait_until("frames are in the file", SOON, || daemon.get(&of(&id))["totalRunningDurationMs"] != json!(0));

    for (verb, told) in
        [("pause", "recording.paused"), ("resume", "recording.resumed"), ("split", "recording.rotated")]
    {
        daemon.post(&format!("{}/{verb}", of(&id)), &json!({})).expect(200);
        assert_eq!(socket.event(told)["recording"]["id"], json!(recording), "{verb}");
    }
    let whole = socket.event("recording.part");
    assert_eq!((&whole["part"], &whole["recording"]["parts"][0]["number"]), (&json!(1), &json!(1)));
    // What its hook did is told with it from then on.
    assert_eq!(socket.event("delivery.done")["part"], 1);
    daemon.delete(&of(&id)).expect(200);
    let ended = up_to(&mut socket, "recording.completed");
    assert_eq!(only(&ended, "session"), ["session.updated"]);
    let updated = ended.iter().find(|e| e["type"] == "session.updated").expect("an event");
    assert_eq!(updated["session"]["recordingId"], Value::Null, "{ended:#?}");
    let completed = &ended.last().expect("events")["recording"];
    assert_eq!(completed["parts"][0]["hook"]["exit"], 0, "{completed:#}");
    drop(live);
}

#[test]
fn a_poster_and_a_deletion_are_told() {
    let _others = beside_others();
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    publish(&daemon, "cam").unpublish().expect("a good end");
    let updated = socket.event("recording.updated");
    let recording = &updated["recording"];
    let of = format!("/api/v1/recordings/{}", text(recording, "id"));
    assert_eq!((&updated["part"], &recording["parts"][0]["number"]), (&json!(1), &json!(1)));
    let poster = text(&recording["parts"][0], "poster");
    let got = daemon.get(&of);
    assert_eq!((got["parts"][0]["poster"].as_str(), fs::exists(&poster).ok()), (Some(&*poster), Some(true)));

    daemon.delete(&of).expect(204);
    let deleted = socket.event("recording.deleted");
    assert_eq!(deleted["recordingId"], got["id"]);
    // Of what is not deleted, nothing is told: the next one is that of another recording.
    daemon.delete(&of).expect(404);
    publish(&daemon, "other").unpublish().expect("a good end");
    let id = text(&socket.event("recording.completed")["recording"], "id");
    daemon.delete(&format!("/api/v1/recordings/{id}")).expect(204);
    assert_eq!(socket.event("recording.deleted")["recordingId"], id);
}

#[test]
fn every_end_of_a_session_has_its_cause() {
    let _others = beside_others();
    let house = House::new(ON_DEMAND, "publisher_timeout = \"2s\"");
    let mut daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    let mut cause = |name: &str| {
        let (ended, _) = socket.until(|e| e["type"] == "session.ended" && e["session"]["name"] == name);
        (text(&ended, "cause"), text(&ended["session"], "status"))
    };
    let started = |name| {
        let client = publish(&daemon, name);
        (client, daemon.session_id(name))
    };
    let (client, _) = started("gone");
    client.reset().expect("a reset");
    assert_eq!(cause("gone"), ("CONN_ERROR".into(), "FAILED".into()));
    let (_client, id) = started("kicked");
    daemon.delete(&format!("/api/v1/sessions/{id}")).expect(204);
    assert_eq!(cause("kicked"), ("AGENT_SESSION_TERM".into(), "UNPUBLISHED".into()));
    let (_client, _) = started("silent");
    assert_eq!(cause("silent"), ("NO_PACKET_RECEIVED".into(), "FAILED".into()));
    let live = support::live::Live::start(daemon.publish_options("live", "last"), &av_source(TMP, 10));
    let id = daemon.session_id("last");
    daemon.post(&of(&id), &json!({})).expect(201);
    socket.event("recording.started");

    thread::scope(|scope| {
        let end = scope.spawn(|| daemon.terminate());
        let mut ended = up_to(&mut socket, "session.ended");
        ended.extend(up_to(&mut socket, "delivery.done"));
        let last = ended.iter().find(|e| e["type"] == "session.ended").expect("an event");
        assert_eq!(last["cause"], "SERVICE_SHUTDOWN", "{last:#}");
        assert!(types(&ended).contains(&"recording.completed"), "told to the last: {:?}", types(&ended));
        assert_eq!(socket.closed(), Some((1001, "the daemon is ending".into())));
        drop(socket);
        assert!(end.join().expect("no panic").success());
    });
    drop(live);
}

#[test]
fn who_comes_back_gets_what_it_missed_and_after_a_restart_is_told_to_read_the_lists() {
    let _others = beside_others();
    let house = House::new(ON_DEMAND, "");
    let mut daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    let client = publish(&daemon, "one");
    let seen = socket.event("session.started")["seq"].as_u64().expect("a number");
    drop(socket);
    client.unpublish().expect("a good end");
    let client = publish(&daemon, "two");
    daemon.session_id("two");

    let resume = format!("{PATH}?cursor={seen}");
    let mut socket = WebSocket::open(daemon.http(), &resume);
    let hello = socket.json();
    assert_eq!((&hello["type"], &hello["seq"]), (&json!("hello"), &json!(seen)));
    assert_eq!(text(&hello, "version"), env!("CARGO_PKG_VERSION"));
    let (started, missed) = socket.until(|e| e["type"] == "session.started");
    assert_eq!((types(&missed), &started["session"]["name"]), (vec!["session.ended"], &json!("two")));
    assert_eq!((&missed[0]["seq"], &started["seq"]), (&json!(seen + 1), &json!(seen + 2)));
    assert_eq!(socket.close().map(|(code, _)| code), Some(1000));
    drop(client);
    assert!(daemon.terminate().success());

    let daemon = house.start(REELD);
    let mut socket = WebSocket::open(daemon.http(), &resume);
    assert_eq!(types(&[socket.json(), socket.json()]), ["hello", "sync"]);
    let client = publish(&daemon, "three");
    assert_eq!(socket.event("session.started")["session"]["name"], "three");
    drop(client);
}

#[test]
fn reading_the_policy_again_is_told() {
    let _others = beside_others();
    let house = House::new(RECORD_ALL, "");
    let daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    let file = house.path("reeld.properties");
    fs::write(&file, "record_rotation=sometimes\n").expect("a file");
    let failed = socket.event("config.failed");
    assert!(text(&failed, "error").contains("reeld.properties:1"), "{failed:#}");
    fs::write(&file, RECORD_ALL).expect("a file");
    let reloaded = socket.event("config.reloaded");
    assert_eq!(
        (text(&reloaded, "file").ends_with("reeld.properties"), &reloaded["error"]),
        (true, &Value::Null)
    );
}

#[test]
fn a_hook_that_fails_is_told_with_its_exit_code() {
    let _others = beside_others();
    let house = House::new(RECORD_ALL, "");
    house.hook("#!/bin/sh\nexit 3\n");
    let daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    publish(&daemon, "cam").unpublish().expect("a good end");
    let failed = socket.event("delivery.failed");
    let told = ["part", "kind", "state", "attempts", "error"].map(|key| failed[key].clone());
    assert_eq!(told, [json!(1), json!("hook"), json!("failed"), json!(1), json!("exit code 3")]);
}

/// One event, and when it was here.
struct Heard {
    event: Value,
    at: Instant,
    wall: DateTime<Utc>,
}

/// When a recording was asked for, and when its end was asked for and answered.
struct Round {
    recording: String,
    start: Instant,
    stop: Instant,
    stopped: Instant,
}

const WORKERS: usize = 4;
const ROUNDS: usize = 42;
/// Of one recording: starting, started, stopping, completed; and its session twice.
const CHANGES: usize = 6;

/// Measured twice. From the call that asks for the change, which takes in all that the daemon does for it (HTTP, a file
/// that is opened; for the end of a recording from the answer): what the disk and other processes do shows in the last
/// percents, so the 95th counts. And from the moment at which the event got its number: there the 99th counts.
#[test]
fn a_thousand_changes_are_told_within_100_ms() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let house = House::new(ON_DEMAND, "");
    house.hook("#!/bin/sh\nexit 0\n");
    let daemon = house.start(REELD);
    let mut socket = watch(&daemon);
    let (heard, events) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut completed = 0;
        while completed < WORKERS * ROUNDS {
            let event = socket.json();
            let (at, wall) = (Instant::now(), Utc::now());
            completed += usize::from(event["type"] == "recording.completed");
            heard.send(Heard { event, at, wall }).expect("it is read");
        }
    });
    let names: Vec<_> = (0..WORKERS).map(|n| format!("cam{n}")).collect();
    let clients: Vec<_> = names.iter().map(|name| publish(&daemon, name)).collect();
    let rounds: Vec<Round> = thread::scope(|scope| {
        let work = |id: String| scope.spawn(|| rounds(&daemon, id));
        let workers: Vec<_> = names.iter().map(|name| work(daemon.session_id(name))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    reader.join().expect("no panic");
    drop(clients);

    let heard: Vec<Heard> = events.into_iter().collect();
    let from_call = from_call(&rounds, &heard);
    assert!(from_call.len() >= 1_000, "{} changes", from_call.len());
    let on_the_way = heard
        .iter()
        .map(|h| {
            let told = DateTime::parse_from_rfc3339(&text(&h.event, "at")).expect("a time");
            (h.wall - told.to_utc()).to_std().unwrap_or_default()
        })
        .collect();
    let (p95, _) = percentiles("from the call to the client", from_call);
    let (_, p99) = percentiles("from the bus to the client", on_the_way);
    assert!(p95.max(p99) < Duration::from_millis(100), "{p95:?} from the call, {p99:?} from the bus");
}

fn rounds(daemon: &Daemon, id: String) -> Vec<Round> {
    let round = |_| {
        let start = Instant::now();
        let recording = text(&daemon.post(&of(&id), &json!({})).expect(201).json(), "id");
        let stop = Instant::now();
        daemon.delete(&of(&id)).expect(200);
        Round { recording, start, stop, stopped: Instant::now() }
    };
    (0..ROUNDS).map(round).collect()
}

fn from_call(rounds: &[Round], heard: &[Heard]) -> Vec<Duration> {
    let mut of_recording: HashMap<&str, Vec<&Heard>> = HashMap::new();
    let mut last_of_session: HashMap<&str, &str> = HashMap::new();
    for h in heard {
        let (session, recording) = (&h.event["session"], &h.event["recording"]);
        if let Some(id) = recording["id"].as_str() {
            of_recording.entry(id).or_default().push(h);
        } else if h.event["type"] == "session.updated" {
            let own = session["mediaSessionId"].as_str().expect("an id");
            match session["recordingId"].as_str() {
                Some(id) => {
                    last_of_session.insert(own, id);
                    of_recording.entry(id).or_default().push(h);
                }
                None => of_recording.entry(last_of_session[own]).or_default().push(h),
            }
        }
    }
    let late = |round: &Round| {
        let heard = &of_recording[round.recording.as_str()];
        let since = |h: &Heard| {
            Some(match (h.event["type"].as_str()?, h.event["session"]["recordingId"].is_null()) {
                ("recording.starting" | "recording.started", _) | ("session.updated", false) => round.start,
                ("recording.stopping", _) | ("session.updated", true) => round.stop,
                ("recording.completed", _) => round.stopped,
                _ => return None,
            })
        };
        let late: Vec<_> =
            heard.iter().filter_map(|h| Some(h.at.saturating_duration_since(since(h)?))).collect();
        assert_eq!(late.len(), CHANGES, "{:?}", heard.iter().map(|h| &h.event["type"]).collect::<Vec<_>>());
        late
    };
    rounds.iter().flat_map(late).collect()
}

/// Prints them; the 95th and the 99th.
fn percentiles(what: &str, mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{what}: {} changes, p50 {:?}, p90 {:?}, p95 {:?}, p99 {:?}, max {:?}",
        times.len(),
        at(50),
        at(90),
        at(95),
        at(99),
        at(100)
    );
    (at(95), at(99))
}
