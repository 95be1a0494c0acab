//! A power cut costs at most the sync interval and a second of a recording, and nothing that was told to be finished.
//!
//! Records and catalog are on a disk that throws away what was never synced (`support::faultfs`).

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};
use support::{
    daemon::{Daemon, House, SOON, text},
    enhanced::{Dialect, Enhanced},
    faultfs::{FaultFs, Loss},
    flv::{Flv, Kind, Tag},
    lab::holds_nothing,
    live::Live,
    media::{AUDIO, Probe, VIDEO, av_source, decode, run, sha256, source},
    wait::{reached, wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const RECORD_ALL: &str =
    "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_audio=passthrough\n";
const SYNC_EVERY_SECOND: &str = "[storage]\nsync_interval = \"1s\"";
const MAX_LOSS_MS: u64 = 1000 + 1000;
const FILE_SECONDS: u32 = 8;
/// Cases of a test that run at once: a machine that is too busy syncs late, which is no fault of the daemon's.
const AT_ONCE: usize = 3;
const VP9: &[&str] =
    &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-pix_fmt", "yuv420p"];
const OPUS: &[&str] = &["-c:a", "libopus", "-b:a", "64k"];

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many ms into a recording.
    Recording(u64),
    /// So many ms after a stop was asked for.
    Finalizing(u64),
    /// The moment a stop has been answered.
    Stopped,
    /// While the hook runs.
    Hook,
}
use Moment::{Finalizing, Hook, Recording, Stopped};

#[derive(Clone, Copy, Debug)]
enum Media {
    Mp4,
    Mkv,
    WebM,
}
use Media::{Mkv, Mp4, WebM};

#[derive(Clone, Copy)]
struct Case(Media, Moment, Loss);

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}, {:?}, {:?}", self.0, self.1, self.2)
    }
}

impl Media {
    fn policy(self) -> String {
        match self {
            Mkv => format!("{RECORD_ALL}record_formats=h264-mkv\n"),
            Mp4 | WebM => RECORD_ALL.into(),
        }
    }

    fn flv(self) -> Flv {
        match self {
            Mp4 | Mkv => Flv::read(&av_source(TMP, FILE_SECONDS)).expect("an FLV file"),
            WebM => vp9(),
        }
    }
}

/// VP9 and Opus as Enhanced RTMP brings them.
fn vp9() -> Flv {
    let length = FILE_SECONDS.to_string();
    let name = format!("cut_vp9_{length}.mp4");
    let file = source(TMP, &name, &[VIDEO, AUDIO, &["-t", &length], VP9, OPUS]);
    let mut messages = Enhanced::read(&file, "vp09").messages(Dialect::Plain);
    // Metadata in second place and the end of the sequence in the last are left out.
    messages.remove(1);
    messages.pop();
    let mut messages = messages.into_iter().map(|m| (m.kind, m.timestamp_ms, m.payload));
    let mut header = |kind| messages.next().filter(|m| m.0 == kind).map(|(_, _, payload)| payload);
    let (video_header, audio_header) = (header(Kind::Video), header(Kind::Audio));
    assert!(video_header.is_some() && audio_header.is_some());
    let media = messages.map(|(kind, timestamp_ms, payload)| Tag { kind, timestamp_ms, payload }).collect();
    Flv { metadata: None, video_header, audio_header, media }
}

/// What must be there after the cut.
struct Promised {
    /// Of the stream's beginning, in ms.
    media_ms: u64,
    /// What the stop answered.
    finished: Option<Value>,
}

fn stop(daemon: &Daemon, session: &str) -> Value {
    daemon.delete(&format!("/api/v1/sessions/{session}/recording")).expect(200).json()
}

/// Records until the moment, then the power goes and the daemon with it.
fn record_until(moment: Moment, house: &House, fs: &FaultFs, media: Media, loss: Loss) -> Promised {
    let daemon = house.start(REELD);
    let live = Live::start_flv(daemon.publish_options("live", "cam"), media.flv());
    let least_ms = if let Recording(ms) = moment { ms } else { 2500 };
    wait_until("so much is sent", SOON, || live.sent_ms() >= least_ms);
    let session = daemon.session_id("cam");
    let sent_ms = live.sent_ms();
    let cut = || fs.cut_power(loss);
    let finished = match moment {
        Recording(_) => None,
        Stopped | Hook => Some(stop(&daemon, &session)),
        Finalizing(after_ms) => {
            let (http, path) = (daemon.http(), format!("/api/v1/sessions/{session}/recording"));
            // It is answered or not: the daemon is killed meanwhile.
            let asked = thread::spawn(move || support::http::request(http, "DELETE", &path, b"").ok());
            thread::sleep(Duration::from_millis(after_ms));
            cut();
            daemon.kill_9();
            let answered = asked.join().expect("no panic").filter(|answer| answer.status == 200);
            return Promised {
                media_ms: sent_ms.saturating_sub(MAX_LOSS_MS),
                finished: answered.map(|a| a.json()),
            };
        }
    };
    if matches!(moment, Hook) {
        wait_until("the hook runs", SOON, || house.path("hooks/entered").exists());
    }
    let sent_ms = if finished.is_some() { sent_ms } else { live.sent_ms() };
    cut();
    daemon.kill_9();
    Promised { media_ms: sent_ms.saturating_sub(MAX_LOSS_MS), finished }
}

fn run_case(Case(media, moment, loss): Case) -> Result<(), String> {
    let house = House::new(&media.policy(), SYNC_EVERY_SECOND);
    if matches!(moment, Hook) {
        // The first run never ends by itself; the fifo lets it go at the test's end.
        house.hook(
            "#!/bin/sh\nif [ ! -e \"${0%/*}/entered\" ]; then\n: > \"${0%/*}/entered\"\nread forever < \"${0%/*}/fifo\"\n\
             fi\nprintf '%s\\t%s\\t%s\\n' \"$(date +%s%N)\" \"$1\" \"$2\" >> \"${0%/*}/calls\"\n",
        );
        run(Command::new("mkfifo").arg(house.path("hooks/fifo")));
    }
    let fs = FaultFs::under(&house, &["records", "state"]);
    let promised = record_until(moment, &house, &fs, media, loss);
    fs.restore_power();
    let daemon = house.start(REELD);
    let judged = judge(&house, &daemon, &promised);
    if matches!(moment, Hook) {
        let fifo = std::fs::OpenOptions::new().read(true).write(true).open(house.path("hooks/fifo"));
        drop(fifo.expect("the fifo"));
    }
    judged.map_err(|fault| {
        let listing: Vec<_> =
            house.records("").iter().map(|f| f.file_name().map(ToOwned::to_owned)).collect();
        format!("{fault}; on the disk: {listing:?}\n{}", daemon.log())
    })
}

/// Whether disk and catalog are as they have to be after a restart.
fn judge(house: &House, daemon: &Daemon, promised: &Promised) -> Result<(), String> {
    let mut recordings = Vec::new();
    let ended = reached(SOON, || {
        recordings = daemon.recordings("cam");
        let ended = |r: &Value| matches!(r["status"].as_str(), Some("completed" | "recovered" | "failed"));
        recordings.iter().all(ended)
    });
    if !ended {
        return Err(format!("not ended: {recordings:#?}"));
    }
    let parts: Vec<&Value> = recordings.iter().flat_map(|r| r["parts"].as_array().expect("parts")).collect();
    let known: BTreeSet<PathBuf> = parts.iter().map(|part| text(part, "file").into()).collect();
    let mut on_disk = BTreeSet::new();
    // A poster is written under another name first, and so is the manifest that names it: neither may stay so.
    let same = reached(SOON, || {
        on_disk = house.records("").into_iter().filter(|file| counts(file, &known)).collect();
        known == on_disk
    });
    if !same {
        return Err(format!("in the catalog {known:?}, on the disk {on_disk:?}: {recordings:#?}"));
    }
    if house.records(".json").len() != known.len() {
        return Err(format!("manifests: {:?}", house.records(".json")));
    }
    for part in &parts {
        judge_part(part)?;
    }
    let played_ms = known.iter().map(|file| playable_ms(file)).max().unwrap_or(0);
    if played_ms < promised.media_ms {
        return Err(format!(
            "plays to {played_ms} ms, {} ms were promised: {recordings:#?}",
            promised.media_ms
        ));
    }
    if let Some(finished) = &promised.finished {
        judge_finished(finished, &recordings)?;
    }
    let called = |file: &PathBuf| house.hook_calls().iter().any(|call| call.file == *file);
    if !reached(SOON, || known.iter().all(called)) {
        return Err(format!("hooks: {:?} for {known:?}", house.hook_calls()));
    }
    Ok(())
}

/// Whether the catalog has to know a file. Of a recording's first seconds may be left what nothing can be made of: it is not
/// thrown away.
fn counts(file: &Path, known: &BTreeSet<PathBuf>) -> bool {
    match file.extension().and_then(|e| e.to_str()) {
        Some("json") => false,
        Some("jpg") => !known.contains(&file.with_extension("")),
        Some("part") => !holds_nothing(file),
        _ => true,
    }
}

fn judge_part(part: &Value) -> Result<(), String> {
    let file = PathBuf::from(text(part, "file"));
    let manifest = PathBuf::from(format!("{}.json", file.display()));
    let manifest = std::fs::read(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|e| e.to_string())?;
    let sum = sha256(&file);
    if manifest["sha256"] != sum || part["sha256"] != sum {
        return Err(format!("{}: its SHA-256 is {sum}, in {manifest:#} and {part:#}", file.display()));
    }
    // Panics with what is wrong.
    let pictures = decode(&file);
    let told = part["video"]["frames"].as_u64();
    if told != Some(pictures as u64) {
        return Err(format!("{}: {pictures} pictures, {told:?} told", file.display()));
    }
    // 30 a second, none missing in between.
    let probe = Probe::read(&file);
    let (first, last) = (probe.video[0].pts_ms, probe.video[probe.video.len() - 1].pts_ms);
    let wanted = ((last - first) * 0.03).round() as usize;
    if pictures < wanted { Err(format!("{pictures} pictures in {} ms", last - first)) } else { Ok(()) }
}

/// What was answered to be finished is there as it was told.
fn judge_finished(finished: &Value, recordings: &[Value]) -> Result<(), String> {
    let same = recordings.iter().find(|r| r["id"] == finished["id"]);
    let same = same.ok_or_else(|| format!("{finished:#} is not in the catalog: {recordings:#?}"))?;
    if same["status"] != "completed" {
        return Err(format!("it was completed: {same:#}"));
    }
    for key in ["file", "size", "sha256", "durationMs"] {
        if same["parts"][0][key] != finished["parts"][0][key] {
            return Err(format!("{key} of {finished:#} and {same:#}"));
        }
    }
    Ok(())
}

/// To where both pictures and sound go, from the first of them.
fn playable_ms(file: &Path) -> u64 {
    let probe = Probe::read(file);
    let (Some(picture), Some(sound)) = (probe.video.last(), probe.audio.last()) else { return 0 };
    let first = probe.video[0].pts_ms.min(probe.audio[0].pts_ms);
    (picture.pts_ms.min(sound.pts_ms) - first) as u64
}

/// Other moments and other losses with `REELD_TEST_SEED`; without it each run is the same.
fn varied(Case(media, moment, loss): Case) -> Case {
    let given = std::env::var("REELD_TEST_SEED").ok();
    let seed: u64 = given.map_or(0, |seed| seed.parse().expect("a number"));
    let moment = match moment {
        Recording(ms) => Recording(ms + seed * 137 % 1000),
        Finalizing(ms) => Finalizing(ms + seed * 137 % 50),
        Stopped | Hook => moment,
    };
    let loss = match loss {
        Loss::All => Loss::All,
        Loss::Some(number) => Loss::Some(number + seed * 100),
    };
    Case(media, moment, loss)
}

fn run_all(cases: &[Case]) {
    let cases: Vec<Case> = cases.iter().copied().map(varied).collect();
    let faults: Vec<_> = cases.chunks(AT_ONCE).flat_map(run_at_once).collect();
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n\n"));
}

fn run_at_once(cases: &[Case]) -> Vec<String> {
    thread::scope(|scope| {
        let runs: Vec<_> = cases.iter().map(|case| (case, scope.spawn(move || run_case(*case)))).collect();
        let ended = runs.into_iter().map(|(case, run)| (case, run.join()));
        let fault = |(case, ended): (&Case, thread::Result<Result<(), String>>)| match ended {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(format!("{case}: {fault}")),
            Err(_) => Some(format!("{case}: a panic, see above")),
        };
        ended.filter_map(fault).collect()
    })
}

#[test]
fn while_recording_it_costs_the_sync_interval_and_a_second() {
    run_all(&[
        Case(Mp4, Recording(200), Loss::Some(1)),
        Case(Mp4, Recording(3000), Loss::All),
        Case(Mp4, Recording(3700), Loss::Some(2)),
        Case(Mp4, Recording(4300), Loss::Some(3)),
        Case(WebM, Recording(3400), Loss::All),
        Case(WebM, Recording(4100), Loss::Some(4)),
        Case(WebM, Recording(4600), Loss::Some(5)),
        Case(Mkv, Recording(3900), Loss::Some(6)),
    ]);
}

#[test]
fn while_finalizing_it_costs_no_more_and_what_was_answered_stays() {
    run_all(&[
        Case(Mp4, Finalizing(5), Loss::Some(11)),
        Case(Mp4, Finalizing(40), Loss::Some(12)),
        Case(Mp4, Finalizing(80), Loss::Some(13)),
        Case(WebM, Finalizing(20), Loss::All),
        Case(WebM, Finalizing(60), Loss::Some(14)),
        Case(Mp4, Stopped, Loss::All),
        Case(WebM, Stopped, Loss::Some(15)),
        Case(Mp4, Hook, Loss::All),
    ]);
}

/// Of a recording that had ended long before, and of its hook, a cut takes nothing.
#[test]
fn what_was_finished_and_delivered_stays() {
    let house = House::new(RECORD_ALL, SYNC_EVERY_SECOND);
    let fs = FaultFs::under(&house, &["records", "state"]);
    let daemon = house.start(REELD);
    let live = Live::start_flv(daemon.publish_options("live", "cam"), Mp4.flv());
    wait_until("so much is sent", SOON, || live.sent_ms() >= 1000);
    live.stop().expect("a good end");
    let before = wait_for("the hook is done", SOON, || {
        daemon.recordings("cam").pop().filter(|r| r["parts"][0]["hook"]["exit"] == 0)
    });
    daemon.kill_9();
    fs.cut_power(Loss::All);
    fs.restore_power();
    let daemon = house.start(REELD);
    assert_eq!(daemon.recordings("cam"), [before]);
    assert_eq!(house.hook_calls().len(), 1);
}
