//! The publisher's page without a server: it sends to a second peer in the page.

use std::{fs, path::Path};

use serde_json::Value;
use support::{
    avsync::AvSync,
    browser::{Browser, Codec, Publish},
    daemon::SOON,
    wait::wait_for,
};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

fn number(stats: &Value, pointer: &str) -> u64 {
    stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// The browser's own recording of what the page draws and sounds, without WebRTC.
const RECORD: &str = r#"{
    const recorder = new MediaRecorder(publisher.stream, { mimeType: "video/webm;codecs=vp8,opus" });
    const chunks = [];
    recorder.ondataavailable = (event) => chunks.push(event.data);
    const stopped = new Promise((done) => (recorder.onstop = done));
    recorder.start();
    await pause(4200);
    recorder.stop();
    await stopped;
    const bytes = new Uint8Array(await new Blob(chunks).arrayBuffer());
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}"#;

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.map(pair).collect()
}

#[test]
fn the_page_sends_every_codec_and_what_it_shows_is_in_step() {
    let browser = Browser::open();
    for codec in [Codec::Vp8, Codec::H264, Codec::Vp9, Codec::Av1] {
        browser.publish_to_itself(&Publish::av(codec));
        let stats = wait_for(&format!("a second of {codec:?} is shown"), SOON, || {
            let stats = browser.stats();
            (number(&stats, "/videoReceived/framesDecoded") >= 30).then_some(stats)
        });
        assert_eq!(stats["video"]["codec"], format!("video/{}", codec.name()), "{stats:#}");
        assert_eq!(stats["audio"]["codec"], "audio/opus", "{stats:#}");
        assert!(number(&stats, "/audioReceived/packetsReceived") > 0, "{stats:#}");
        if codec == Codec::Vp8 {
            let recorded = browser.call(RECORD).expect("a recording");
            let file = Path::new(TMP).join("page.webm");
            fs::write(&file, bytes(recorded.as_str().expect("hex"))).expect("a file");
            let measured = AvSync::measure(&file);
            println!("the page itself: {measured:?}");
            // The recorder of the browser delays sound by some 46 ms. On a busy machine a picture may be drawn late.
            let (marks, median) = (measured.offsets_ms.len(), measured.median_ms());
            let steady = measured.offsets_ms.iter().filter(|offset| (*offset - median).abs() <= 20.0).count();
            assert!(marks >= 3 && steady + 1 >= marks && median.abs() <= 80.0, "{measured:?}");
        }
        let last = browser.stop();
        println!("{codec:?}: {}", last["video"]);
        assert_eq!(last["video"]["framesSent"], last["video"]["framesEncoded"], "{last:#}");
        assert_eq!(number(&last, "/video/frameWidth"), 320);
    }
}

#[test]
fn one_track_alone_and_a_refusal() {
    let browser = Browser::open();
    browser.publish_to_itself(&Publish { video: None, ..Publish::av(Codec::Vp8) });
    assert!(browser.stop()["video"].is_null());
    browser.publish_to_itself(&Publish { audio: false, ..Publish::av(Codec::Vp8) });
    assert!(browser.stop()["audio"].is_null());
    let error = browser.try_publish("http://127.0.0.1:9/whip/room/cam", &Publish::av(Codec::Vp8));
    assert!(error.is_err_and(|error| error.contains("fetch")));
}
