//! Webhooks: what happens to a recording is told, signed and in order, whatever the receiver and the daemon go through.

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, text},
    flv::Flv,
    live::{Live, publish_at_once},
    media::av_source,
    receiver::{Call, Mood, Receiver},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";
const ROTATED: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_rotation=1\n";
const ASKED: &str = "stream_record_policy=streamName\n";
/// Several retries, the first after 5 s.
const RETRIES: Duration = Duration::from_secs(90);

/// The daemon's folder; all `receivers` are told everything. `more` is for `[delivery]`.
fn house(properties: &str, receivers: &[&Receiver], more: &str) -> House {
    let urls: Vec<_> = receivers.iter().map(|r| r.url()).collect();
    let limits = format!(
        "allow_delivery = [\"127.0.0.1\"]\n[delivery]\nwebhooks = {urls:?}\nwebhook_secret = \"{SECRET}\"\n{more}"
    );
    House::new(properties, &limits)
}

/// Publishes `length` of a stream as fast as it is taken, and ends it.
fn publish(daemon: &Daemon, name: &str, length: Duration) {
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let client = publish_at_once(daemon.publish_options("live", name), &flv, length).expect("all is taken");
    daemon.session(name);
    client.unpublish().expect("a good end");
}

fn recording(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/api/v1/recordings/{id}"))
}

/// Of the events that were accepted: of which recording, what, which part.
fn told(calls: &[Call]) -> Vec<(String, String, Option<u64>)> {
    let one = |call: &Call| {
        let recording = text(&call.body["data"]["recording"], "id");
        (recording, call.event().to_owned(), call.body["data"]["part"].as_u64())
    };
    calls.iter().map(one).collect()
}

/// What has to be told of a completed recording with `parts` parts.
fn whole_story(id: &str, parts: u64) -> Vec<(String, String, Option<u64>)> {
    let event = |name: &str, part| (id.to_owned(), format!("recording.{name}"), part);
    let mut story = vec![event("started", None)];
    story.extend((1..=parts).map(|part| event("part", Some(part))));
    story.push(event("completed", None));
    story
}

/// The calls without those that have an id which was accepted before; that such a double tells the same is checked.
fn without_doubles(calls: Vec<Call>) -> Vec<Call> {
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let mut first = Vec::new();
    for call in calls {
        match seen.get(call.id()) {
            Some(body) => assert_eq!(*body, call.body, "a double tells something else"),
            None => {
                seen.insert(call.id().to_owned(), call.body.clone());
                first.push(call);
            }
        }
    }
    first
}

/// What the recording of `delivery.target` says of its deliveries by webhook: their states.
fn states(recording: &Value) -> BTreeSet<String> {
    let deliveries = recording["deliveries"].as_array().expect("a list");
    deliveries.iter().filter(|d| d["kind"] == "webhook").map(|d| text(d, "state")).collect()
}

#[test]
fn all_that_happens_to_a_recording_is_told_signed_and_in_order() {
    let (all, one) = (Receiver::start(SECRET), Receiver::start(SECRET));
    let house = house(ASKED, &[&all], "");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 2));
    let id = daemon.session_id("cam");
    let path = format!("/api/v1/sessions/{id}/recording");
    // The one that is named besides is told at an URL with a user, a password and a query.
    let url = format!("http://user:hunter2@127.0.0.1:{}/some/hunter2?key=hunter2", one.port());
    let started = daemon.post(&path, &json!({"webhookUrl": url, "rotation": "1s"})).expect(201).json();
    let recording_id = text(&started, "id");
    wait_until("two parts are told", SOON, || one.accepted_count() >= 3);
    let stopped = daemon.delete(&path).expect(200).json();
    live.stop().expect("a good end");
    let parts = stopped["parts"].as_array().expect("parts").len() as u64;
    let story = whole_story(&recording_id, parts);
    for receiver in [&all, &one] {
        wait_until("all is told", SOON, || receiver.accepted_count() >= story.len());
        let calls = receiver.calls();
        assert_eq!(told(&calls), story);
        assert!(calls.iter().all(|call| call.verified && call.method == "POST"), "{calls:#?}");
        assert!(calls.iter().all(|call| call.header("content-type") == "application/json"));
        assert!(calls.iter().all(|call| call.header("user-agent").starts_with("reeld/")));
    }
    let ids: BTreeSet<_> = all.calls().iter().chain(&one.calls()).map(|c| c.id().to_owned()).collect();
    assert_eq!(ids.len(), 2 * story.len(), "each delivery has an id of its own");
    assert!(ids.iter().all(|id| id.starts_with("msg_")), "{ids:?}");
    let call = &one.calls()[0];
    assert_eq!(
        (call.path.as_str(), call.header("authorization")),
        ("/some/hunter2?key=hunter2", "Basic dXNlcjpodW50ZXIy")
    );

    // Each event holds the recording as it was then; at last as it is got.
    let calls = all.calls();
    let last = &calls.last().expect("a call").body;
    assert!(last["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{last}");
    let told = &last["data"]["recording"];
    assert_eq!(
        (&told["status"], &told["parts"][0]["sha256"]),
        (&json!("completed"), &stopped["parts"][0]["sha256"])
    );
    wait_until("all is delivered", SOON, || {
        states(&recording(&daemon, &recording_id)) == ["done".to_owned()].into()
    });
    let shown = recording(&daemon, &recording_id).to_string() + &daemon.log();
    assert!(!shown.contains("hunter2"), "a URL's secrets are in the log or in an answer");
}

#[test]
fn a_receiver_that_was_down_gets_all_in_order_when_it_is_back() {
    let mut receiver = Receiver::start(SECRET);
    let house = house(ROTATED, &[&receiver], "");
    let daemon = house.start(REELD);
    receiver.close();
    for name in ["one", "two"] {
        publish(&daemon, name, Duration::from_secs(4));
    }
    let ids = ["one", "two"].map(|name| text(&daemon.completed(name), "id"));
    let stories = ids.each_ref().map(|id| {
        let parts = recording(&daemon, id)["parts"].as_array().expect("parts").len() as u64;
        assert!(parts > 2, "{parts} parts");
        whole_story(id, parts)
    });
    for id in &ids {
        let failed = wait_for("a failed attempt is told", SOON, || {
            let recording = recording(&daemon, id);
            let deliveries = recording["deliveries"].as_array()?;
            deliveries.iter().find(|d| d["kind"] == "webhook" && d["state"] == "failed").cloned()
        });
        let error = text(&failed, "error");
        assert!(error.contains("cannot be connected to: Connection refused"), "{error}");
        assert_eq!(failed["target"], format!("http://127.0.0.1:{}", receiver.port()));
    }
    // Its hooks did not wait for it.
    let files: usize = stories.iter().map(|story| story.len() - 2).sum();
    wait_until("the hooks have run", SOON, || house.hook_calls().len() == files);
    receiver.open();
    let events: usize = stories.iter().map(Vec::len).sum();
    wait_until("all is told", RETRIES, || receiver.accepted_count() >= events);
    for (id, story) in ids.iter().zip(&stories) {
        let mut calls = receiver.calls();
        calls.retain(|call| call.body["data"]["recording"]["id"] == *id.as_str());
        assert_eq!(told(&calls), *story);
        assert!(calls.iter().all(|call| call.verified));
    }
}

/// Every delivery that was under way when the daemon was killed happens again, with its id; those that were done do not.
#[test]
fn deliveries_survive_a_daemon_that_is_killed() {
    let receiver = Receiver::start(SECRET);
    receiver.set(Mood::Slow(Duration::from_millis(300)));
    let house = house(ROTATED, &[&receiver], "");
    let daemon = house.start(REELD);
    for name in ["one", "two", "three"] {
        publish(&daemon, name, Duration::from_secs(4));
    }
    let recordings = ["one", "two", "three"].map(|name| daemon.completed(name));
    wait_until("some of it is told", SOON, || receiver.accepted_count() >= 4);
    daemon.kill_9();
    let done = receiver.accepted_count();
    receiver.set(Mood::Accept);
    let daemon = house.start(REELD);
    let stories = recordings
        .each_ref()
        .map(|r| whole_story(&text(r, "id"), r["parts"].as_array().expect("parts").len() as u64));
    let mut wanted: Vec<_> = stories.concat();
    assert!(done < wanted.len(), "killed too late");
    wait_until("all is told", RETRIES, || without_doubles(receiver.accepted()).len() >= wanted.len());
    let mut got = told(&without_doubles(receiver.accepted()));
    for story in &stories {
        let of_this: Vec<_> = got.iter().filter(|event| event.0 == story[0].0).cloned().collect();
        assert_eq!(of_this, *story);
    }
    got.sort();
    wanted.sort();
    assert_eq!(got, wanted);
    assert!(receiver.calls().iter().all(|call| call.verified));
    wait_until("the outbox is empty", SOON, || {
        daemon.get("/api/v1/deliveries?kind=webhook")["items"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn of_a_thousand_parts_none_is_lost_on_a_receiver_that_fails_a_third_of_its_calls() {
    const STREAMS: usize = 200;
    const PARTS: u64 = 5;
    let receiver = Receiver::start(SECRET);
    receiver.set(Mood::ThirdFails);
    let house = house(ROTATED, &[&receiver], "webhook_concurrency = 64");
    let daemon = house.start(REELD);
    let flv = Flv::read(&av_source(TMP, 2)).expect("an FLV file");
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n >= STREAMS {
                        return;
                    }
                    let options = daemon.publish_options("live", &format!("cam{n}"));
                    let length = Duration::from_secs(PARTS);
                    let client = publish_at_once(options, &flv, length).expect("all is taken");
                    daemon.session(&format!("cam{n}"));
                    client.unpublish().expect("a good end");
                }
            });
        }
    });
    let recordings = wait_for("all are completed", 4 * SOON, || {
        let items = daemon.get("/api/v1/recordings?limit=1000&status=completed")["items"].as_array()?.clone();
        (items.len() == STREAMS).then_some(items)
    });
    let stories: Vec<_> = recordings
        .iter()
        .map(|r| whole_story(&text(r, "id"), r["parts"].as_array().expect("parts").len() as u64))
        .collect();
    let events: usize = stories.iter().map(Vec::len).sum();
    assert!(events >= STREAMS * (PARTS as usize + 2), "{events} events");
    wait_until("all is told", 3 * RETRIES, || {
        receiver.accepted_count() >= events && without_doubles(receiver.accepted()).len() >= events
    });
    let calls = receiver.calls();
    let failed = calls.iter().filter(|call| !call.accepted()).count();
    assert!(failed * 10 >= calls.len() * 3, "{failed} of {} calls failed", calls.len());
    assert!(calls.iter().all(|call| call.verified));
    let mut by_recording: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for event in told(&without_doubles(receiver.accepted())) {
        by_recording.entry(event.0.clone()).or_default().push(event);
    }
    let wanted: BTreeMap<String, Vec<_>> = stories.into_iter().map(|s| (s[0].0.clone(), s)).collect();
    assert_eq!(by_recording, wanted);
}

#[test]
fn a_receiver_that_is_slow_holds_up_neither_a_stop_nor_a_hook() {
    let receiver = Receiver::start(SECRET);
    receiver.set(Mood::Slow(Duration::from_secs(12)));
    let house = house(RECORD_ALL, &[&receiver], "webhook_timeout = \"30s\"");
    let daemon = house.start(REELD);
    let live = Live::start(daemon.publish_options("live", "cam"), &av_source(TMP, 2));
    let id = daemon.session_id("cam");
    daemon.wait_frames(&id, 60);
    wait_until("the receiver is called", SOON, || !receiver.calls().is_empty());
    let begin = Instant::now();
    let stopped = daemon.delete(&format!("/api/v1/sessions/{id}/recording")).expect(200).json();
    assert_eq!((&stopped["status"], &stopped["lost"]["frames"]), (&json!("completed"), &json!(0)));
    wait_until("its hook has run", SOON, || house.hook_calls().len() == 1);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(receiver.accepted_count(), 0, "the receiver was not slow");
    live.stop().expect("a good end");
    receiver.set(Mood::Accept);
    wait_until("all is told", 2 * SOON, || receiver.accepted_count() == 3);
}

#[test]
fn a_receiver_that_is_gone_is_told_no_more_until_it_is_subscribed_again() {
    let (gone, other) = (Receiver::start(SECRET), Receiver::start(SECRET));
    let house = house(RECORD_ALL, &[&gone, &other], "");
    gone.set(Mood::answer(410));
    let mut daemon = house.start(REELD);
    publish(&daemon, "one", Duration::from_secs(2));
    daemon.completed("one");
    wait_until("the other one is told all", SOON, || other.accepted_count() == 3);
    assert_eq!(gone.calls().len(), 1);
    let webhooks = |daemon: &Daemon| daemon.get("/api/v1/webhooks")["items"].clone();
    let told = webhooks(&daemon);
    assert_eq!(told[0]["target"], format!("http://127.0.0.1:{}", gone.port()));
    assert!(told[0]["unsubscribedAt"].is_string() && told[1]["unsubscribedAt"].is_null(), "{told}");
    assert!(daemon.log().contains("it answered 410"), "the log tells it");

    // It is kept.
    assert!(daemon.terminate().success());
    let daemon = house.start(REELD);
    gone.set(Mood::Accept);
    publish(&daemon, "two", Duration::from_secs(2));
    daemon.completed("two");
    wait_until("the other one is told all", SOON, || other.accepted_count() == 6);
    assert_eq!(gone.calls().len(), 1);
    let answer = daemon.post("/api/v1/webhooks/subscribe", &json!({})).expect(200).json();
    assert_eq!(answer, json!({"subscribed": 1}));
    assert!(webhooks(&daemon)[0]["unsubscribedAt"].is_null());
    publish(&daemon, "three", Duration::from_secs(2));
    wait_until("it is told again", SOON, || gone.accepted_count() == 3);
}

#[test]
fn a_receiver_is_left_alone_for_as_long_as_it_says() {
    let receiver = Receiver::start(SECRET);
    let headers = "Retry-After: 9\r\n".to_owned();
    receiver.set(Mood::Answer { status: 429, headers });
    let house = house(RECORD_ALL, &[&receiver], "");
    let daemon = house.start(REELD);
    publish(&daemon, "cam", Duration::from_secs(2));
    wait_until("it is called", SOON, || !receiver.calls().is_empty());
    receiver.set(Mood::Accept);
    wait_until("all is told", RETRIES, || receiver.accepted_count() == 3);
    let calls = receiver.calls();
    let pause = calls[1].at - calls[0].at;
    assert!(pause >= Duration::from_secs(9), "called again after {pause:?}, without asking 5 s +- 20 %");
    assert_eq!(calls[0].id(), calls[1].id());
}

/// What is given up is told to the others; an answer without end and one that never comes are failures that end.
#[test]
fn a_delivery_that_is_given_up_is_told_to_the_other_receivers() {
    let (broken, good) = (Receiver::start(SECRET), Receiver::start(SECRET));
    let house = house(RECORD_ALL, &[&broken, &good], "give_up_after = \"1s\"");
    broken.set(Mood::answer(500));
    let daemon = house.start(REELD);
    publish(&daemon, "cam", Duration::from_secs(2));
    let id = text(&daemon.completed("cam"), "id");
    let failed = wait_for("the failure is told", RETRIES, || {
        good.accepted().into_iter().find(|call| call.event() == "delivery.failed")
    });
    let data = &failed.body["data"];
    assert_eq!(data["recording"]["id"], id.as_str());
    assert_eq!(data["delivery"]["target"], format!("http://127.0.0.1:{}", broken.port()));
    assert_eq!((&data["delivery"]["kind"], &data["delivery"]["state"]), (&json!("webhook"), &json!("dead")));
    assert!(text(&data["delivery"], "error").contains("500"), "{data}");
    assert!(broken.calls().iter().all(|call| call.event() != "delivery.failed"));
}

#[test]
fn an_answer_without_end_is_not_read_to_its_end() {
    let receiver = Receiver::start(SECRET);
    receiver.set(Mood::Endless);
    let house = house(RECORD_ALL, &[&receiver], "");
    let daemon = house.start(REELD);
    publish(&daemon, "cam", Duration::from_secs(2));
    // Its status has said it.
    wait_until("all is told", SOON, || receiver.accepted_count() == 3);
}

#[test]
fn redirects_of_a_post_are_followed_with_its_body() {
    let (first, second) = (Receiver::start(SECRET), Receiver::start(SECRET));
    first.set(Mood::redirect(307, &second.url()));
    let house = house(RECORD_ALL, &[&first], "");
    let daemon = house.start(REELD);
    publish(&daemon, "cam", Duration::from_secs(2));
    wait_until("all is told", SOON, || second.accepted_count() == 3);
    assert!(second.calls().iter().all(|call| call.verified && call.method == "POST"));
    first.set(Mood::redirect(302, &second.url()));
    publish(&daemon, "cam2", Duration::from_secs(2));
    let error = wait_for("the failure is told", SOON, || {
        let recording = daemon.recordings("cam2").first()?.clone();
        let deliveries = recording["deliveries"].as_array()?.clone();
        deliveries.iter().find_map(|d| d["error"].as_str().map(str::to_owned))
    });
    assert!(error.contains("302") && error.contains("307 and 308"), "{error}");
    assert_eq!(second.accepted_count(), 3);
}
