//! Pauses, splits, switches and reconnects at random on one recording: it stays whole and in step.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use serde_json::{Value, json};

use crate::{
    avsync::AvSync,
    daemon::{Daemon, House, SOON, text},
    flv::Kind,
    rtmp::RtmpError,
    wait::{reached, wait_for},
};

use super::{
    Dice, Encoder, Reel, Units, decode_faults, offsets_ms, part_files, recordings, runs, seams_at_key_frames,
};

/// Picture and sound may be this far apart.
pub const MAX_OFFSET_MS: f64 = 40.0;
const NAMES: [&str; 2] = ["first", "second"];
/// From one access unit to the next, at a seam of the reel's passes or of the recording at most.
const MAX_STEP_MS: f64 = 100.0;

/// How many of what, in an order that the seed chooses.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub pauses: usize,
    pub splits: usize,
    pub switches: usize,
    pub reconnects: usize,
    /// Longest time between two of them, ms.
    pub pace_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Pause,
    Split,
    Switch,
    Reconnect,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub parts: usize,
    pub pictures: usize,
    pub sounds: usize,
    /// The largest offset of sound against picture, ms, of all access units of sound.
    pub offset_ms: f64,
    /// The median of what flashes and beeps say after decoding, ms, and how many pairs there were.
    pub seen_ms: (f64, usize),
    /// Stretches of unbroken media.
    pub stretches: usize,
    pub faults: Vec<String>,
}

/// One recording and the two streams it may take.
struct Stage<'a> {
    daemon: &'a Daemon,
    reel: &'a Arc<Reel>,
    dice: Dice,
    encoders: [Option<Encoder>; 2],
    /// Which of them is recorded.
    on: usize,
    recording: String,
    faults: Vec<String>,
}

/// Runs the plan. `reel` has to flash and beep. `report` is told each step.
pub fn run(program: &str, reel: &Arc<Reel>, plan: &Plan, mut report: impl FnMut(&str)) -> Outcome {
    let policy =
        "record_rtmp_streams=false\nstream_record_policy=streamName\nrecord_resume_window=20\n".to_owned();
    let house = House::new(&policy, "");
    let daemon = house.start(program);
    let mut ops = plan.ops();
    let mut dice = Dice::new(plan.seed);
    dice.shuffle(&mut ops);
    let start = |n: usize, first| Some(Encoder::start(daemon.publish_options("live", NAMES[n]), reel, first));
    let encoders = [(0, 0), (1, reel.key_from(400))]
        .map(|(n, first)| start(n, first).map(|encoder| encoder.expect("an accepted publish")));
    let id = daemon.session_id(NAMES[0]);
    let begun = daemon.post(&format!("/api/v1/sessions/{id}/recording"), &json!({})).expect(201).json();
    let recording = text(&begun, "id");
    let mut stage = Stage { daemon: &daemon, reel, dice, encoders, on: 0, recording, faults: Vec::new() };
    let total = ops.len();
    for (done, op) in ops.into_iter().enumerate() {
        let pace = stage.dice.ms(100..plan.pace_ms);
        thread::sleep(pace);
        report(&format!("{}/{total} {op:?}", done + 1));
        stage.perform(op);
    }
    thread::sleep(stage.dice.ms(500..1500));
    let on = format!("/api/v1/sessions/{}/recording", stage.session());
    let finished = daemon.delete(&on);
    if finished.status != 200 {
        stage.faults.push(format!("the recording's stop: {} {}", finished.status, finished.body));
    }
    let recording = stage.recording.clone();
    let mut outcome = Outcome { faults: std::mem::take(&mut stage.faults), ..Outcome::default() };
    drop(stage);
    judge(&house, &daemon, &recording, reel, plan, &mut outcome);
    outcome
}

impl Plan {
    fn ops(&self) -> Vec<Op> {
        let counts = [
            (Op::Pause, self.pauses),
            (Op::Split, self.splits),
            (Op::Switch, self.switches),
            (Op::Reconnect, self.reconnects),
        ];
        counts.into_iter().flat_map(|(op, count)| std::iter::repeat_n(op, count)).collect()
    }
}

impl Stage<'_> {
    fn perform(&mut self, op: Op) {
        let session = self.session();
        let recording = format!("/api/v1/sessions/{session}/recording");
        match op {
            Op::Pause => {
                let paused = self.post(&format!("{recording}/pause"), &json!({}));
                self.expect_status(&paused, "paused");
                thread::sleep(self.dice.ms(20..800));
                let resumed = self.post(&format!("{recording}/resume"), &json!({}));
                self.expect_status(&resumed, "recording");
            }
            Op::Split => {
                self.post(&format!("{recording}/split"), &json!({}));
            }
            Op::Switch => {
                let target = self.daemon.session_id(NAMES[1 - self.on]);
                let path = format!("/api/v1/recordings/{}/switch", self.recording);
                self.post(&path, &json!({ "mediaSessionId": target }));
                self.on = 1 - self.on;
                self.wait_joined("switch", &target);
            }
            Op::Reconnect => self.reconnect(&session),
        }
    }

    /// The session that is recorded.
    fn session(&self) -> String {
        self.daemon.session_id(NAMES[self.on])
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        let answer = self.daemon.post(path, body);
        if answer.status != 200 {
            self.faults.push(format!("POST {path}: {} {}", answer.status, answer.body));
            return Value::Null;
        }
        answer.json()
    }

    fn expect_status(&mut self, recording: &Value, status: &str) {
        if !recording.is_null() && recording["status"] != status {
            self.faults.push(format!("{} where {status} was due", recording["status"]));
        }
    }

    /// The publisher is gone without a word and comes back after a while, somewhere else in its reel.
    fn reconnect(&mut self, session: &str) {
        let encoder = self.encoders[self.on].take().expect("an encoder unless a test has failed");
        let next = match encoder.reset() {
            Ok(next) => next,
            Err(error) => return self.faults.push(format!("an encoder was cut off: {error}")),
        };
        thread::sleep(self.dice.ms(20..1500));
        let first = self.reel.key_from(next + self.dice.number(0..200));
        let options = || self.daemon.publish_options("live", NAMES[self.on]);
        // Its name is free once the daemon has seen that it is gone.
        let again = wait_for("the publisher is taken back", SOON, || {
            match Encoder::start(options(), self.reel, first) {
                Err(RtmpError::Refused(_)) => None,
                other => Some(other.expect("an accepted publish")),
            }
        });
        self.encoders[self.on] = Some(again);
        let name = NAMES[self.on];
        let target = wait_for("the new session", SOON, || {
            Some(self.daemon.session_id(name)).filter(|new| new != session)
        });
        self.wait_joined("reconnect", &target);
    }

    /// The recording has to go on with this session.
    fn wait_joined(&mut self, what: &str, session: &str) {
        let path = format!("/api/v1/recordings/{}", self.recording);
        let mut seen = Value::Null;
        let joined = reached(SOON, || {
            seen = self.daemon.get(&path);
            let on = self.daemon.get(&format!("/api/v1/sessions/{session}"));
            seen["status"] == "recording" && on["recordingId"] == self.recording.as_str()
        });
        if !joined {
            self.faults.push(format!("after a {what} the recording is {} without {session}", seen["status"]));
        }
    }
}

fn judge(house: &House, daemon: &Daemon, id: &str, reel: &Reel, plan: &Plan, outcome: &mut Outcome) {
    let recording = daemon.get(&format!("/api/v1/recordings/{id}"));
    let mut faults = told_faults(&recording, plan);
    let all = recordings(daemon);
    if all.len() != 1 {
        faults.push(format!("{} recordings where one was due", all.len()));
    }
    let files = part_files(&recording);
    faults.extend(files.iter().filter_map(|file| decode_faults(file)));
    let parts = files.iter().map(|file| Units::read(file)).collect::<Result<Vec<_>, _>>();
    let measured = parts.and_then(|parts| measure(reel, &parts, plan, outcome));
    faults.extend(measured.err());
    match joined(house, &files) {
        Ok(whole) => {
            faults.extend(decode_faults(&whole));
            let seen = AvSync::measure(&whole);
            outcome.seen_ms = (seen.median_ms(), seen.offsets_ms.len());
        }
        Err(fault) => faults.push(fault),
    }
    if outcome.seen_ms.0.abs() > MAX_OFFSET_MS {
        faults.push(format!("flashes and beeps are {:.0} ms apart", outcome.seen_ms.0));
    }
    let hooks = reached(SOON, || house.hook_calls().len() >= files.len());
    if !hooks {
        faults.push(format!("{} hooks of {} parts", house.hook_calls().len(), files.len()));
    }
    outcome.parts = files.len();
    outcome.faults.extend(faults);
}

/// What the recording tells of itself.
fn told_faults(recording: &Value, plan: &Plan) -> Vec<String> {
    let mut faults = Vec::new();
    if recording["status"] != "completed" {
        faults.push(format!("the recording is {}", recording["status"]));
    }
    let none = Vec::new();
    let gaps = recording["lost"]["gaps"].as_array().unwrap_or(&none);
    for (kind, count) in [("pause", plan.pauses), ("switch", plan.switches), ("reconnect", plan.reconnects)] {
        let told: Vec<_> = gaps.iter().filter(|gap| gap["kind"] == kind).collect();
        if told.len() != count {
            faults.push(format!("{} gaps of kind {kind} are told, {count} were made", told.len()));
        }
        let incomplete = told.iter().find(|gap| !gap["at"].is_string() || !gap["byMs"].is_i64());
        faults.extend(incomplete.map(|gap| format!("a gap is told as {gap}")));
    }
    let is_known = |gap: &&Value| ["pause", "switch", "reconnect"].iter().any(|kind| gap["kind"] == *kind);
    if !gaps.iter().all(|gap| is_known(&gap)) || recording["lost"]["frames"] != 0 {
        faults.push(format!("lost: {}", recording["lost"]));
    }
    faults
}

/// Counts, stretches and offsets of the access units themselves.
fn measure(reel: &Reel, parts: &[Units], plan: &Plan, outcome: &mut Outcome) -> Result<(), String> {
    seams_at_key_frames(parts)?;
    if parts.len() < plan.splits + 1 {
        return Err(format!("{} parts after {} splits", parts.len(), plan.splits));
    }
    outcome.pictures = parts.iter().map(|part| part.video.len()).sum();
    outcome.sounds = parts.iter().map(|part| part.audio.len()).sum();
    for (number, units) in parts.iter().enumerate() {
        let offsets = offsets_ms(reel, units)?;
        let worst = offsets.into_iter().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        if worst.abs() > outcome.offset_ms.abs() {
            outcome.offset_ms = worst;
        }
        if worst.abs() > MAX_OFFSET_MS {
            return Err(format!("sound is {worst:.0} ms late in part {}", number + 1));
        }
    }
    let most = 1 + plan.pauses + plan.switches + plan.reconnects;
    for kind in [Kind::Video, Kind::Audio] {
        let found = runs(reel, kind, parts.iter().flat_map(|part| part.of(kind)), 0)?;
        outcome.stretches = outcome.stretches.max(found.len());
        if found.len() > most {
            return Err(format!("{kind:?} is in {} stretches where {most} were due", found.len()));
        }
    }
    steps_are_small(parts)
}

/// Pictures and sound go on without a hole: all gaps were closed, for both alike.
fn steps_are_small(parts: &[Units]) -> Result<(), String> {
    for (number, units) in parts.iter().enumerate() {
        for kind in [Kind::Video, Kind::Audio] {
            let steps =
                units.of(kind).windows(2).map(|pair| (pair[0].dts_ms, pair[1].dts_ms - pair[0].dts_ms));
            if let Some((at_ms, step_ms)) =
                steps.into_iter().find(|(_, step)| !(0.0..=MAX_STEP_MS).contains(step))
            {
                return Err(format!("part {}: {kind:?} steps {step_ms:.0} ms at {at_ms:.0} ms", number + 1));
            }
        }
        let edges = |kind| units.of(kind).first().zip(units.of(kind).last());
        if let Some(((v0, v1), (a0, a1))) = edges(Kind::Video).zip(edges(Kind::Audio)) {
            let apart = (v0.pts_ms - a0.pts_ms).abs().max((v1.pts_ms - a1.pts_ms).abs());
            if apart > MAX_STEP_MS {
                return Err(format!(
                    "part {}: one kind begins or ends {apart:.0} ms beside the other",
                    number + 1
                ));
            }
        }
    }
    Ok(())
}

/// All parts one behind the other in one file, as they are.
fn joined(house: &House, files: &[PathBuf]) -> Result<PathBuf, String> {
    let (list, whole) = (house.path("parts.txt"), house.path("whole.mkv"));
    let line = |file: &PathBuf| format!("file '{}'\n", file.display());
    std::fs::write(&list, files.iter().map(line).collect::<String>()).map_err(|e| e.to_string())?;
    concat(&list, &whole).map(|()| whole)
}

fn concat(list: &Path, whole: &Path) -> Result<(), String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-f", "concat", "-safe", "0", "-i"]).arg(list);
    let output = command.args(["-c", "copy"]).arg(whole).output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("the parts cannot be joined: {said}")),
    }
}
