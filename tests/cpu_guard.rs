//! `[limits] max_cpu` under real load: what has to be transcoded is refused first, what is copied last, and what runs goes on.
//! A file of its own, as no other test should run beside it.

use serde_json::{Value, json};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use support::{
    daemon::{Daemon, House, SOON, file_of, text},
    flv::Flv,
    http::Answer,
    live::{Live, with_opus},
    media::{Probe, av_source, decode},
    wait::{wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
/// For a load that others on the machine may add to.
const LONG: Duration = Duration::from_secs(240);

/// Keeps every processor busy for a part of the time; until it is dropped.
struct Burn {
    percent: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

impl Burn {
    fn start(percent: u32) -> Self {
        let percent = Arc::new(AtomicU32::new(percent));
        let processors = thread::available_parallelism().map_or(1, |n| n.get());
        let burn = |_| {
            let percent = percent.clone();
            thread::spawn(move || burn(&percent))
        };
        let threads = (0..processors).map(burn).collect();
        Self { percent, threads }
    }

    fn set(&self, percent: u32) {
        self.percent.store(percent, Ordering::Relaxed);
    }
}

/// Until the part of the time is 0.
fn burn(percent: &AtomicU32) {
    const PERIOD: Duration = Duration::from_millis(20);
    loop {
        let (begun, busy) = (Instant::now(), percent.load(Ordering::Relaxed));
        if busy == 0 {
            return;
        }
        while begun.elapsed() < PERIOD * busy / 100 {
            black_box((0..1_000_u64).fold(busy.into(), |sum: u64, n| black_box(sum.wrapping_mul(31) ^ n)));
        }
        thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
    }
}

impl Drop for Burn {
    fn drop(&mut self) {
        self.set(0);
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
    }
}

fn flv() -> Flv {
    Flv::read(&av_source(TMP, 2)).expect("an FLV file")
}

fn live(daemon: &Daemon, name: &str) -> Live {
    Live::start_flv(daemon.publish_options("live", name), flv())
}

fn live_opus(daemon: &Daemon, name: &str) -> Live {
    Live::start_flv(daemon.publish_options("live", name), with_opus(&flv()))
}

fn load(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/server")["load"].clone()
}

fn refuses(daemon: &Daemon, reason: &str) -> bool {
    load(daemon)["refusing"].as_array().expect("a list").iter().any(|r| r == reason)
}

fn start(daemon: &Daemon, name: &str) -> Answer {
    daemon.post(&format!("/api/v1/sessions/{}/recording", daemon.session_id(name)), &json!({}))
}

/// Comes back when it was told to.
fn start_patiently(daemon: &Daemon, name: &str) {
    let until = Instant::now() + LONG;
    loop {
        let answer = start(daemon, name);
        if answer.status == 201 || Instant::now() > until {
            return drop(answer.expect(201));
        }
        let answer = answer.expect(503);
        let after = answer.header("retry-after").and_then(|s| s.parse().ok()).expect("when to come back");
        thread::sleep(Duration::from_secs(after));
    }
}

fn assert_overloaded(answer: Answer) {
    let answer = answer.expect(503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], "/problems/overloaded");
    assert!(text(&problem, "detail").contains("max_cpu = 30%"), "{problem}");
}

#[test]
fn under_load_what_costs_most_is_refused_first_and_what_runs_goes_on() {
    let house = House::new("stream_record_policy=streamName\n", "max_cpu = \"30%\"");
    let daemon = house.start(REELD);
    let running = live(&daemon, "running?record=true");
    let coded = live_opus(&daemon, "coded");
    start_patiently(&daemon, "coded");
    let _others = [live(&daemon, "copied"), live(&daemon, "last"), live_opus(&daemon, "more")];

    let burn = Burn::start(45);
    wait_until("transcoding is refused", LONG, || refuses(&daemon, "cpu_transcode"));
    assert_overloaded(start(&daemon, "more"));
    let body = json!({"mediaSessionId": daemon.session_id("more")});
    let theirs = daemon.post("/rest-api/stream/startRecording", &body).expect(503);
    assert!(theirs.header("retry-after").is_some(), "{theirs:?}");
    start_patiently(&daemon, "copied");
    let _wanted = live_opus(&daemon, "wanted?record=true");
    let told = wait_for("what the policy wants is recorded all the same", SOON, || {
        daemon.recordings("wanted").first().map(|r| r["degraded"][0].as_str().unwrap_or("nothing").to_owned())
    });
    assert!(told.contains("as it came") && told.contains("max_cpu"), "{told}");

    burn.set(100);
    wait_until("copies are refused to callers, too", LONG, || refuses(&daemon, "cpu"));
    assert_overloaded(start(&daemon, "last"));
    assert_overloaded(start(&daemon, "more"));
    let _must = live(&daemon, "must?record=true");
    wait_until("and not to the policy", SOON, || daemon.recordings("must").len() == 1);
    let percent = &load(&daemon)["cpuPercent"];
    assert!(percent.as_f64().is_some_and(|p| p > 50.0), "{percent}");
    let before = daemon.get(&format!("/api/v1/sessions/{}", daemon.session_id("coded")))["frames"].clone();
    daemon.wait_frames(&daemon.session_id("coded"), before.as_u64().expect("a count") + 200);

    drop(burn);
    start_patiently(&daemon, "last");
    start_patiently(&daemon, "more");

    let sent = running.stop_counting().expect("a good end");
    let recording = daemon.completed("running");
    let (video, audio) = Probe::read(&file_of(&recording)).counts();
    assert_eq!((video + audio, &recording["degraded"]), (sent, &json!([])));
    coded.stop().expect("a good end");
    let recording = daemon.completed("coded");
    let lost = ["frames", "packets"].map(|what| recording["lost"][what].as_u64());
    assert_eq!((lost, &recording["lost"]["gaps"]), ([Some(0), Some(0)], &json!([])), "{recording:#}");
    let pictures = Probe::read(&file_of(&recording)).counts().0;
    assert_eq!(
        (decode(&file_of(&recording)), Some(pictures as u64)),
        (pictures, recording["parts"][0]["video"]["frames"].as_u64())
    );
}
