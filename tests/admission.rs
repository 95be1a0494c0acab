//! The limits on what is taken on at the same time: each refuses the next and admits again when one ends; what the policy
//! wants is put off and not lost; who is refused is told in the words of its protocol. `max_cpu` is in cpu_guard.rs.

use serde_json::{Value, json};
use support::{
    camera::{Camera, Options as CameraOptions},
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    http::{Answer, request_with},
    live::{Live, with_opus},
    media::{Probe, av_source, decode},
    rtmp::{Client, RtmpError},
    rtsp::{self, sdp_of},
    wait::{wait_for, wait_until},
    ws::WebSocket,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const ON_DEMAND: &str = "stream_record_policy=streamName\n";
const RECORD_ALL: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\n";

support::camera_process!();

fn flv() -> Flv {
    Flv::read(&av_source(TMP, 2)).expect("an FLV file")
}

fn live(daemon: &Daemon, name: &str) -> Live {
    Live::start_flv(daemon.publish_options("live", name), flv())
}

/// Its sound has to be transcoded for MP4.
fn live_opus(daemon: &Daemon, name: &str) -> Live {
    Live::start_flv(daemon.publish_options("live", name), with_opus(&flv()))
}

fn start(daemon: &Daemon, name: &str) -> Answer {
    daemon.post(&format!("/api/v1/sessions/{}/recording", daemon.session_id(name)), &json!({}))
}

fn stop(daemon: &Daemon, name: &str) -> Value {
    daemon.delete(&format!("/api/v1/sessions/{}/recording", daemon.session_id(name))).expect(200).json()
}

/// A refusal that says what it is and when to come back.
fn assert_refused(answer: Answer, kind: &str, words: &str) {
    let answer = answer.expect(503);
    assert_eq!(answer.header("retry-after"), Some("5"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("/problems/{kind}"));
    assert!(text(&problem, "detail").contains(words), "{problem}");
}

fn load(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/server")["load"].clone()
}

fn refused(daemon: &Daemon, reason: &str) -> u64 {
    let metrics = daemon.request("GET", "/metrics", b"").expect(200).body;
    let line = format!("reeld_refused_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{metrics}"));
    value.parse().expect("a number")
}

#[test]
fn no_more_than_max_recordings_are_begun() {
    let house = House::new(ON_DEMAND, "max_recordings = 1");
    let daemon = house.start(REELD);
    let _publishers = ["a", "b"].map(|name| live(&daemon, name));
    assert_eq!(load(&daemon)["refusing"], json!([]));
    start(&daemon, "a").expect(201);
    assert_eq!(load(&daemon)["refusing"], json!(["max_recordings"]));
    assert_eq!(daemon.get("/api/v1/server")["limits"]["maxRecordings"], 1);

    assert_refused(start(&daemon, "b"), "too-many", "max_recordings");
    let flashphoner = |name: &str| {
        let body = json!({"mediaSessionId": daemon.session_id(name)});
        daemon.post("/rest-api/stream/startRecording", &body)
    };
    let theirs = flashphoner("b").expect(503);
    assert_eq!((theirs.header("retry-after"), &theirs.json()["status"]), (Some("5"), &json!(503)));
    assert_eq!(refused(&daemon, "max_recordings"), 2);
    // A new file in place of the one under way is not one more.
    flashphoner("a").expect(200);
    assert_eq!(daemon.recordings("a").len(), 2);

    stop(&daemon, "a");
    assert_eq!(load(&daemon)["refusing"], json!([]));
    start(&daemon, "b").expect(201);
    assert_refused(start(&daemon, "a"), "too-many", "max_recordings");
}

#[test]
fn of_a_room_as_many_streams_are_recorded_as_there_is_room_for() {
    let house = House::new(ON_DEMAND, "max_recordings = 1");
    let daemon = house.start(REELD);
    let _publishers = ["a", "b"].map(|name| {
        let publisher = live(&daemon, name);
        daemon.session(name);
        publisher
    });
    let body = json!({"roomName": "live"});
    let started = daemon.post("/recordings/start", &body).expect(200).json();
    assert_eq!(started["recordings"].as_array().map(Vec::len), Some(1), "{started:#}");
    let [failure] = &started["failures"].as_array().expect("a list")[..] else { panic!("{started:#}") };
    assert_eq!(failure["streamName"], "b");
    assert!(text(failure, "errorMessage").contains("max_recordings"), "{failure}");

    let _other = Live::start_flv(daemon.publish_options("elsewhere", "c"), flv());
    daemon.session("c");
    let full = daemon.post("/recordings/start", &json!({"roomName": "elsewhere"}));
    assert_refused(full, "too-many", "max_recordings");
    daemon.post("/recordings/stop", &body).expect(200);
    daemon.post("/recordings/start", &json!({"roomName": "elsewhere"})).expect(200);
}

#[test]
fn what_the_policy_wants_waits_and_loses_nothing_that_the_hub_has_kept() {
    let house = House::new(RECORD_ALL, "max_recordings = 1");
    let daemon = house.start(REELD);
    let mut events = WebSocket::open(daemon.http(), "/api/v1/events");
    let first = live(&daemon, "first");
    wait_until("it is recorded", SOON, || daemon.recordings("first").len() == 1);
    let second = live(&daemon, "second");
    let told = events.event("recording.refused");
    assert_eq!(told["session"]["name"], "second");
    assert!(text(&told, "reason").contains("max_recordings"), "{told}");
    assert!(daemon.log().contains("it is to be recorded and has to wait"), "{}", daemon.log());
    assert_eq!((&load(&daemon)["waiting"], refused(&daemon, "max_recordings")), (&json!(1), 1));
    // One that goes before there is room for it is told, too.
    let gone = live(&daemon, "gone");
    wait_until("two wait", SOON, || load(&daemon)["waiting"] == 2);
    gone.stop().expect("a good end");
    wait_until("that is told", SOON, || daemon.log().contains("it ended while it waited to be recorded"));
    daemon.wait_frames(&daemon.session_id("second"), 150);
    assert_eq!(daemon.recordings("second").len(), 0);

    let first = first.stop_counting().expect("a good end");
    wait_until("the second is taken up", SOON, || daemon.recordings("second").len() == 1);
    assert_eq!(load(&daemon)["waiting"], 0);
    daemon.wait_frames(&daemon.session_id("second"), 300);
    let second = second.stop_counting().expect("a good end");
    // What the hub keeps begins with a picture: sound before the first one is not among it.
    for (name, sent, may_lack) in [("first", first, 0), ("second", second, 1)] {
        let recording = daemon.completed(name);
        let (video, audio) = Probe::read(&file_of(&recording)).counts();
        let lacks = sent - (video + audio);
        assert!(
            lacks <= may_lack && recording["degraded"] == json!([]),
            "{name} lacks {lacks}: {recording:#}"
        );
    }
    assert_eq!(daemon.recordings("gone").len(), 0);
}

#[test]
fn who_stops_a_stream_that_waits_does_not_want_it_any_more() {
    let house = House::new(RECORD_ALL, "max_recordings = 1");
    let daemon = house.start(REELD);
    let first = live(&daemon, "first");
    wait_until("it is recorded", SOON, || daemon.recordings("first").len() == 1);
    let _second = live(&daemon, "second");
    wait_until("it waits", SOON, || load(&daemon)["waiting"] == 1);
    daemon.delete(&format!("/api/v1/sessions/{}/recording", daemon.session_id("second"))).expect(409);
    assert_eq!(load(&daemon)["waiting"], 0);
    first.stop().expect("a good end");
    daemon.completed("first");
    start(&daemon, "second").expect(201);
    assert_eq!(daemon.recordings("second").len(), 1, "the call's, and no other");
}

#[test]
fn no_more_than_max_transcodes_are_begun_and_copies_go_on() {
    let house = House::new(ON_DEMAND, "max_transcodes = 1");
    let daemon = house.start(REELD);
    let coded = live_opus(&daemon, "coded");
    let _more = live_opus(&daemon, "more");
    let _plain = live(&daemon, "plain");
    start(&daemon, "coded").expect(201);
    assert_eq!(load(&daemon)["refusing"], json!(["max_transcodes"]));
    assert_refused(start(&daemon, "more"), "too-many", "max_transcodes");
    start(&daemon, "plain").expect(201);

    // What the policy or the publisher wants is not lost for it: MP4 can hold Opus.
    let wanted = live_opus(&daemon, "wanted?record=true");
    wait_until("it is recorded", SOON, || daemon.recordings("wanted").len() == 1);
    daemon.wait_frames(&daemon.session_id("wanted"), 100);
    assert_eq!(load(&daemon)["transcodedTracks"], 1);
    let sent = wanted.stop_counting().expect("a good end");
    let recording = daemon.completed("wanted");
    let told = recording["degraded"][0].as_str().expect("a reason");
    assert!(told.contains("as it came") && told.contains("max_transcodes"), "{told}");
    let probe = Probe::read(&file_of(&recording));
    let (video, audio) = probe.counts();
    assert_eq!((probe.audio_codec.as_str(), video + audio), ("opus", sent));

    coded.stop().expect("a good end");
    wait_until("there is room", SOON, || load(&daemon)["refusing"] == json!([]));
    start(&daemon, "more").expect(201);
    assert_eq!(refused(&daemon, "max_transcodes"), 2);
}

/// G.711 cannot be in MP4 as it comes.
#[test]
fn what_no_container_can_carry_waits_for_its_transcoding() {
    let house = House::new(RECORD_ALL, "max_transcodes = 1");
    let daemon = house.start(REELD);
    let coded = live_opus(&daemon, "coded");
    wait_until("it is transcoded", SOON, || load(&daemon)["transcodedTracks"] == 1);
    let mut alaw = flv();
    // FLV sound: format 7, 8 kHz, 16 bit, mono (Adobe FLV 10.1, E.4.2.1).
    alaw.media.iter_mut().filter(|t| t.kind == support::flv::Kind::Audio).for_each(|tag| {
        tag.payload = [&[0x72][..], &[0xD5; 186]].concat();
    });
    alaw.audio_header = None;
    let waits = Live::start_flv(daemon.publish_options("live", "waits"), alaw);
    wait_until("it waits", SOON, || load(&daemon)["waiting"] == 1);
    coded.stop().expect("a good end");
    wait_until("it is taken up", SOON, || daemon.recordings("waits").len() == 1);
    daemon.wait_frames(&daemon.session_id("waits"), 150);
    waits.stop().expect("a good end");
    let recording = daemon.completed("waits");
    assert_eq!(Probe::read(&file_of(&recording)).audio_codec, "aac");
    assert!(decode(&file_of(&recording)) > 30);
}

/// An offer of a browser, shortened. Nobody is behind it.
const OFFER: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    a=fingerprint:sha-256 D2:B9:31:8F:DF:24:D8:0E:ED:D2:EF:25:9E:AF:6F:B8:34:AE:53:9C:E6:F3:8F:F2:64:15:FA:E8:7F:53:2D:38\r\n\
    a=setup:actpass\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
    a=rtpmap:111 opus/48000/2\r\na=ssrc:3570614608 cname:x\r\n";

#[test]
fn no_more_than_max_sessions_are_taken_over_all_ways_in() {
    // Who has announced and sends nothing stays as long as the test takes.
    let house = House::new(ON_DEMAND, "max_sessions = 2\nhandshake_timeout = \"1m\"");
    let daemon = house.start(REELD);
    let whip = |path: &str| {
        let sdp = ("Content-Type", "application/sdp");
        request_with(daemon.http(), "POST", path, &[sdp], OFFER.as_bytes()).expect("an answer")
    };
    let announce = |name: &str| {
        let url = daemon.rtsp_url(&format!("live/{name}"));
        let mut client = rtsp::Client::connect(daemon.rtsp(), &url).expect("a connection");
        let answer = client.announce(&sdp_of(&flv())).expect("an answer");
        (client, answer)
    };
    let first = live(&daemon, "rtmp");
    let (second, answer) = announce("rtsp");
    assert_eq!((answer.status, &load(&daemon)["refusing"]), (200, &json!(["max_sessions"])));

    assert_refused(whip("/whip/browser"), "too-many", "max_sessions");
    let refusal = Client::publish(daemon.publish_options("live", "more"));
    let Err(RtmpError::Refused(status)) = refusal else { panic!("{refusal:?}") };
    assert_eq!((status.level.as_str(), status.code.as_str()), ("error", "NetStream.Publish.Denied"));
    assert!(status.description.contains("max_sessions"), "{status:?}");
    let (_client, answer) = announce("more");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{answer:?}");
    assert!(answer.reason.contains("max_sessions"), "{answer:?}");
    let camera = Camera::start(CameraOptions::default());
    let source = daemon.post("/api/v1/sources", &json!({"uri": camera.url, "stream": "live/camera"}));
    let source = format!("/api/v1/sources/{}", text(&source.expect(201).json(), "id"));
    wait_for("the source is told why", SOON, || {
        daemon.get(&source)["reason"].as_str().filter(|why| why.contains("max_sessions")).map(str::to_owned)
    });
    assert!(refused(&daemon, "max_sessions") >= 4);
    // A name that is taken is told as that, whatever the number.
    let taken = Client::publish(daemon.publish_options("live", "rtmp"));
    let Err(RtmpError::Refused(status)) = taken else { panic!("{taken:?}") };
    assert_eq!(status.code, "NetStream.Publish.BadName");

    // The source comes by itself, and then there is room for one more.
    first.stop().expect("a good end");
    wait_until("the source is live", 2 * SOON, || daemon.get(&source)["state"] == "live");
    assert_refused(whip("/whip/browser"), "too-many", "max_sessions");
    second.disconnect().expect("gone");
    wait_until("there is room", SOON, || load(&daemon)["refusing"] == json!([]));
    whip("/whip/browser").expect(201);
}
