//! The pages as somebody uses them: published from `/publish`, seen, recorded, played, found and deleted on `/`.

use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use support::{
    browser::{Browser, Tab},
    daemon::{Daemon, House, SOON, text},
    flv::Flv,
    live::publish_at_once,
    media::{H264, source},
    tap::{RangeCall, Tap},
    wait::wait_until,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const POLICY: &str = "stream_record_policy_template={streamName}-{startTimeMillis}\n";
/// Media in a recording before it is stopped.
const LEAST: Duration = Duration::from_secs(4);
const ENTER: &str = "\u{e007}";
const COMPLETED: &str = "document.querySelectorAll('li.card[data-status=completed]').length";
const CARDS: &str = "document.querySelectorAll('li.card').length";

/// Plays, goes to the middle, and tells where the frame is that is shown there, and of how many colours it is.
const SEEK: &str = "
    const video = document.getElementById('player-video');
    const event = (name) => new Promise((done) => video.addEventListener(name, done, { once: true }));
    if (video.readyState < 2) await event('loadeddata');
    video.pause();
    const middle = video.duration / 2;
    const frame = new Promise((done) => video.requestVideoFrameCallback((now, { mediaTime }) => done(mediaTime)));
    const sought = event('seeked');
    video.currentTime = middle;
    await sought;
    const mediaTime = await frame;
    const canvas = new OffscreenCanvas(32, 18).getContext('2d');
    canvas.drawImage(video, 0, 0, 32, 18);
    const colours = new Set(new Uint32Array(canvas.getImageData(0, 0, 32, 18).data.buffer));
    const answers = performance.getEntriesByType('resource').filter(({ name }) => name === video.currentSrc);
    return {
      middle, mediaTime, colours: colours.size, width: video.videoWidth, duration: video.duration,
      answers: answers.map(({ responseStatus }) => responseStatus),
    };";

/// Publishes the browser's camera and microphone from a tab.
fn publish(browser: &Browser, daemon: &Daemon, codec: &str) -> Tab {
    let tab = browser.open_tab(&format!("http://{}/publish?room=court&stream=cam", daemon.http()));
    browser.wait("document.body.dataset.state === 'preview'");
    browser.choose("#codec", codec);
    browser.click("#go");
    browser.wait("document.body.dataset.state === 'live'");
    browser.wait("document.getElementById('lamp').dataset.state === 'recording'");
    tab
}

fn number(browser: &Browser, expression: &str) -> u64 {
    browser.run(&format!("return {expression};")).as_u64().expect("a number")
}

/// So that there is something to seek in.
fn wait_recorded(daemon: &Daemon) {
    let id = daemon.session_id("cam");
    let recorded = || daemon.get(&format!("/api/v1/sessions/{id}/recording"));
    wait_until("so much is recorded", SOON, || {
        let state: Value = recorded();
        state["totalRunningDurationMs"].as_u64().is_some_and(|ms| u128::from(ms) >= LEAST.as_millis())
    });
}

fn whole_life(codec: &str) {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let publisher = publish(&browser, &daemon, codec);

    // Seen live, with what is recorded of it.
    let library = browser.open_tab(&format!("http://{}/", daemon.http()));
    browser.wait("document.querySelector('#link').dataset.state === 'live'");
    browser.wait("document.querySelector('li.stream h3')?.textContent === 'cam'");
    browser.wait("document.querySelector('li.stream .lamp').dataset.state === 'recording'");
    wait_recorded(&daemon);

    // Stopped, started and stopped from there: each time the card comes by itself, and its picture after it.
    browser.click("[aria-label='Stop: cam']");
    browser.wait(&format!("{COMPLETED} === 1"));
    browser.wait("document.querySelector('li.card .poster img').dataset.loaded === 'true'");
    browser.click("[aria-label='Record: cam']");
    browser.wait("document.querySelectorAll('li.card[data-status=recording]').length === 1");
    wait_recorded(&daemon);
    browser.click("[aria-label='Stop: cam']");
    browser.wait(&format!("{COMPLETED} === 2"));
    browser.wait("document.querySelectorAll(\".poster img[data-loaded='true']\").length === 2");

    // Played from the middle.
    browser.click("[aria-label='Play cam']");
    browser.wait("document.getElementById('player').open");
    let shown = browser.run(SEEK);
    println!("{codec}: {shown}");
    let at = |key: &str| shown[key].as_f64().unwrap_or_else(|| panic!("{key} in {shown}"));
    assert!((at("mediaTime") - at("middle")).abs() < 0.2 && at("middle") > 1.5, "{shown}");
    assert!(at("colours") > 10.0 && at("width") > 0.0, "a picture: {shown}");
    let answers = shown["answers"].as_array().expect("a list");
    assert!(!answers.is_empty() && answers.iter().all(|status| *status == 206), "{shown}");
    browser.click("#player .close");

    // Found.
    browser.type_into("#filter-text", "nothing of the kind");
    browser.wait(&format!("{CARDS} === 0 && !document.getElementById('recordings-empty').hidden"));
    browser.click("#filter-clear");
    browser.wait(&format!("{CARDS} === 2"));
    browser.type_into("#filter-room", &format!("elsewhere{ENTER}"));
    browser.wait(&format!("{CARDS} === 0 && !document.getElementById('recordings-empty').hidden"));
    browser.click("#filter-clear");
    browser.type_into("#filter-room", &format!("court{ENTER}"));
    browser.wait(&format!("{CARDS} === 2"));

    // Deleted, after a question; by somebody else it goes, too.
    let before = daemon.recordings("cam");
    browser.click("[aria-label='Delete cam']");
    browser.wait("document.getElementById('confirm').open");
    assert_eq!(number(&browser, CARDS), 2);
    browser.click("#confirm-do button");
    browser.wait(&format!("{CARDS} === 1"));
    let left = daemon.recordings("cam");
    assert_eq!(left, before[1..], "the newest is gone");

    browser.switch_to(&publisher);
    browser.click("#go");
    browser.wait("!document.getElementById('result').hidden");
    let link = browser.run("return document.getElementById('result-play').getAttribute('href');");
    assert_eq!(link, format!("/#play={}", text(&left[0], "id")));
    browser.switch_to(&library);
    browser.wait("document.querySelectorAll('li.stream').length === 0");
    daemon.delete(&format!("/api/v1/recordings/{}", text(&left[0], "id"))).expect(204);
    browser.wait(&format!("{CARDS} === 0"));
    wait_until("no file is left", SOON, || house.records("").is_empty());
}

/// Seconds of [`counting`] media, larger than what a browser reads ahead.
const COUNTED_S: u32 = 60;
/// The side of a [`counting`] square, in pixels, and how many there are.
const SQUARE: u32 = 40;
const SQUARES: u32 = 6;

/// Noise, which makes it large, with the second it is of in squares along the top edge: white is 1, the lowest bit first.
fn counting() -> PathBuf {
    let bit = |n: u32| {
        let (x, worth) = (n * SQUARE, 1 << n);
        format!("drawbox=x={x}:w={SQUARE}:h={SQUARE}:t=fill:c=white:enable='mod(floor((t+0.01)/{worth}),2)'")
    };
    let bits = (0..SQUARES).map(bit).collect::<Vec<_>>().join(",");
    let ground = format!("drawbox=w={}:h={SQUARE}:t=fill:c=black", SQUARES * SQUARE);
    let picture = format!("color=c=gray:s=320x180:r=15:d={COUNTED_S},noise=alls=80:allf=t,{ground},{bits}");
    let rate: &[&str] = &["-b:v", "4M", "-minrate", "4M", "-maxrate", "4M", "-bufsize", "4M"];
    source(TMP, "counting.flv", &[&["-f", "lavfi", "-i", &picture], H264, &["-g", "15"], rate])
}

/// Waits until something is played, goes to the middle, and tells what is shown there: the second that stands in it.
fn seek_counted() -> String {
    let bits: String = (0..SQUARES)
        .map(|n| {
            format!(
                "(pixels.data[(({y} * video.videoWidth) + {x}) * 4] > 128 ? {worth} : 0)",
                y = SQUARE / 2,
                x = n * SQUARE + SQUARE / 2,
                worth = 1 << n
            )
        })
        .collect::<Vec<_>>()
        .join(" + ");
    format!(
        "const video = document.getElementById('player-video');
        const event = (name) => new Promise((done) => video.addEventListener(name, done, {{ once: true }}));
        if (video.readyState < 2) await event('loadeddata');
        video.pause();
        const middle = video.duration / 2;
        const ahead = video.buffered.end(video.buffered.length - 1);
        const frame = new Promise((done) => video.requestVideoFrameCallback((now, {{ mediaTime }}) => done(mediaTime)));
        const sought = event('seeked');
        video.currentTime = middle;
        await sought;
        const mediaTime = await frame;
        const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight).getContext('2d');
        canvas.drawImage(video, 0, 0);
        const pixels = canvas.getImageData(0, 0, video.videoWidth, video.videoHeight);
        return {{ middle, ahead, mediaTime, second: {bits} }};"
    )
}

#[test]
fn the_middle_of_a_large_file_is_fetched_and_is_what_was_sent_there() {
    let house = House::new(&format!("record_rtmp_streams=true\n{POLICY}"), "");
    let daemon = house.start(REELD);
    let flv = Flv::read(&counting()).expect("an FLV file");
    let length = Duration::from_secs(COUNTED_S.into());
    let client =
        publish_at_once(daemon.publish_options("court", "counting"), &flv, length).expect("all is taken");
    daemon.session("counting");
    client.unpublish().expect("a good end");
    let recording = daemon.completed("counting");
    let size = recording["size"].as_u64().expect("its size");
    assert!(size > 20_000_000, "{size} bytes");

    let tap = Tap::before(daemon.http());
    let browser = Browser::open();
    browser.open_tab(&format!("http://{}/", tap.address));
    browser.wait("document.querySelector(\"[aria-label='Play counting']\") !== null");
    browser.click("[aria-label='Play counting']");
    browser.wait("document.getElementById('player').open");
    let shown = browser.run(&seek_counted());
    let file = format!("/api/v1/recordings/{}/", text(&recording, "id"));
    let calls: Vec<_> = tap.calls().into_iter().filter(|call| call.path.starts_with(&file)).collect();
    println!("{size} bytes, {shown}, {calls:?}");
    let at = |key: &str| shown[key].as_f64().unwrap_or_else(|| panic!("{key} in {shown}"));
    assert!(at("ahead") < at("middle"), "not read ahead: {shown}");
    assert!((at("mediaTime") - at("middle")).abs() < 0.2, "{shown}");
    assert_eq!(at("second"), at("mediaTime").floor(), "{shown}");
    let is_middle = |call: &RangeCall| (size * 2 / 5..size * 3 / 5).contains(&call.from);
    let middle: Vec<_> = calls.iter().filter(|call| is_middle(call)).collect();
    assert!(middle.iter().any(|call| call.status == Some(206)), "{calls:?}");
    // What the browser has kept it asks about; what it does not want any more it breaks off.
    assert!(calls.iter().all(|call| matches!(call.status, Some(206 | 304) | None)), "{calls:?}");
}

#[test]
fn a_recording_in_mp4_from_its_camera_to_its_deletion() {
    whole_life("H264");
}

#[test]
fn a_recording_in_webm_from_its_camera_to_its_deletion() {
    whole_life("VP8");
}

#[test]
fn the_publisher_uses_the_ice_servers_that_it_is_told() {
    // Nobody listens there: media goes the direct way.
    let servers = "[webrtc]\nstun = \"stun://127.0.0.1:9\"\nturn = [\"turn://me:p%2Cw%3B1@127.0.0.1:9\"]";
    let house = House::new(POLICY, servers);
    let daemon = house.start(REELD);
    let browser = Browser::open();
    browser.open_tab(&format!("http://{}/publish?room=court&stream=cam", daemon.http()));
    browser.wait("document.body.dataset.state === 'preview'");
    browser.run(
        "const { setConfiguration } = RTCPeerConnection.prototype;
        window.told = [];
        RTCPeerConnection.prototype.setConfiguration = function (configuration) {
          window.told.push(configuration);
          return setConfiguration.call(this, configuration);
        };",
    );
    browser.click("#go");
    browser.wait("document.body.dataset.state === 'live'");
    let wanted = json!([{ "iceServers": [
        { "urls": "stun:127.0.0.1:9" },
        { "urls": "turn:127.0.0.1:9", "username": "me", "credential": "p,w;1" },
    ] }]);
    assert_eq!(browser.run("return window.told;"), wanted);
    // Its candidates are told to the session that it has by then.
    browser.wait(
        "performance.getEntriesByType('resource').some((call) => \
         call.name.includes('/whip-session/') && call.responseStatus === 204)",
    );
}

#[test]
fn a_page_of_another_site_starts_nothing() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let browser = Browser::open();
    let call = format!("http://{}/api/v1/sources", daemon.http());
    // As a form would send it: the browser asks nobody first, and shows the page nothing of the answer.
    let script = format!(
        "const body = JSON.stringify({{ uri: 'rtsp://127.0.0.1:9/cam' }});
        const answer = await fetch('{call}', {{ method: 'POST', mode: 'no-cors', body }});
        return answer.type;"
    );
    assert_eq!(browser.run(&script), "opaque", "it was sent, and answered");
    assert_eq!(daemon.get("/api/v1/sources")["items"], json!([]));
    // Of the same site it does.
    browser.open_tab(&format!("http://{}/", daemon.http()));
    assert_eq!(browser.run(&script.replace("mode: 'no-cors', ", "")), "basic");
    assert_eq!(daemon.get("/api/v1/sources")["items"].as_array().map(Vec::len), Some(1));
}
