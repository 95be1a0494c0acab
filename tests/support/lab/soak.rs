//! Many streams that rotate, for long: what was sent is in the parts exactly, and the daemon does not grow.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    daemon::{Daemon, House},
    flv::Kind,
    rtmp::RtmpError,
    wait::reached,
};

use super::{Encoder, Reel, Sample, Trend, Units, seams_at_key_frames};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Left out of what is judged: caches fill, threads start.
const WARM_UP: Duration = Duration::from_secs(60);
const ENDS_IN: Duration = Duration::from_secs(120);
/// What RSS may grow by beside a tenth.
const RSS_SLACK_KIB: f64 = 8.0 * 1024.0;
/// Files that are opened and closed at the moment a sample is taken.
const SLACK: f64 = 6.0;
/// Access units between the beginnings of two streams.
const SPREAD: u64 = 41;
const MAX_FAULTS: usize = 20;

/// How much, for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    pub streams: usize,
    pub length: Duration,
    /// `record_rotation`.
    pub rotation: String,
    pub sample_every: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub parts: usize,
    /// Access units in the parts.
    pub video: u64,
    pub audio: u64,
    /// Access units that were sent: video, audio.
    pub sent: (u64, u64),
    pub samples: Vec<Sample>,
    pub faults: Vec<String>,
}

impl Outcome {
    /// RSS (KiB), threads and descriptors once it had warmed up; `None` of a run that was too short to tell.
    pub fn trends(&self) -> Option<[Trend; 3]> {
        let from = self.samples.partition_point(|sample| sample.at < WARM_UP);
        let warm = &self.samples[from..];
        let trend = |number: fn(&Sample) -> u64| Trend::of(warm, number);
        Some([trend(|s| s.rss_kib)?, trend(|s| s.threads)?, trend(|s| s.descriptors)?])
    }

    /// What has grown.
    pub fn grown(&self) -> Vec<&'static str> {
        let Some(trends) = self.trends() else { return Vec::new() };
        let judged =
            trends.into_iter().zip([("RSS", RSS_SLACK_KIB), ("threads", SLACK), ("descriptors", SLACK)]);
        judged.filter(|(trend, (_, slack))| !trend.is_flat(*slack)).map(|(_, (what, _))| what).collect()
    }
}

/// Runs the soak. `report` is given each sample, and the parts and faults until then.
pub fn run(program: &str, reel: &Arc<Reel>, plan: &Plan, mut report: impl FnMut(&Sample, &Count)) -> Outcome {
    let policy = format!(
        "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_rotation={}\n",
        plan.rotation
    );
    let house = House::new(&policy, "");
    let daemon = house.start(program);
    let encoders: Vec<_> = (0..plan.streams).map(|n| publish(&daemon, reel, n)).collect();
    let mut count = Count::new(reel, encoders.iter().map(Encoder::first));
    let (begin, mut samples, mut next_sample) = (Instant::now(), Vec::new(), Duration::ZERO);
    while begin.elapsed() < plan.length {
        thread::sleep(LOOK_EVERY);
        count.take(&house);
        if begin.elapsed() >= next_sample {
            next_sample += plan.sample_every;
            let Some(sample) = Sample::of(daemon.pid(), begin.elapsed()) else {
                count.fault("the daemon is gone".to_owned());
                break;
            };
            report(&sample, &count);
            samples.push(sample);
        }
    }
    let ends = encoders.into_iter().map(|encoder| {
        let first = encoder.first();
        encoder.stop().map(|next| first..next)
    });
    let sent = ends.collect::<Vec<_>>();
    finish(&house, &daemon, &mut count, sent);
    let Count { parts, video, audio, sent, faults, .. } = count;
    Outcome { parts, video, audio, sent, samples, faults }
}

/// The streams begin at different pictures, so that they are not all alike.
fn publish(daemon: &Daemon, reel: &Arc<Reel>, number: usize) -> Encoder {
    let options = daemon.publish_options("live", &name_of(number));
    Encoder::start(options, reel, reel.key_from(number as u64 * SPREAD)).expect("an accepted publish")
}

fn name_of(number: usize) -> String {
    format!("s{number}")
}

/// Waits for the last parts and compares what was sent in all.
fn finish(house: &House, daemon: &Daemon, count: &mut Count, sent: Vec<Result<Range<u64>, RtmpError>>) {
    let completed = |r: &Value| r["status"] == "completed" && r["lost"]["frames"] == 0;
    let streams = sent.len();
    let done = reached(ENDS_IN, || {
        count.take(house);
        let items = daemon.get("/api/v1/recordings?limit=1000&status=completed");
        items["items"].as_array().map(Vec::len) >= Some(streams)
    });
    count.take(house);
    if !done {
        count.fault(format!("not all recordings are completed after {ENDS_IN:?}"));
    }
    for recording in super::recordings(daemon).iter().filter(|r| !completed(r)) {
        count.fault(format!(
            "{}: {}, lost {}",
            recording["streamName"], recording["status"], recording["lost"]
        ));
    }
    for (number, sent) in sent.into_iter().enumerate() {
        match sent {
            Ok(units) => count.end(number, units),
            Err(error) => count.fault(format!("{}: {error}", name_of(number))),
        }
    }
}

/// Takes finished parts as they come: compares each access unit with the next that was sent, and deletes the file.
pub struct Count {
    reel: Arc<Reel>,
    streams: HashMap<String, Position>,
    pub parts: usize,
    pub video: u64,
    pub audio: u64,
    sent: (u64, u64),
    pub faults: Vec<String>,
}

/// Up to where a stream's parts are known.
struct Position {
    next_part: u64,
    video: u64,
    audio: u64,
}

impl Count {
    fn new(reel: &Arc<Reel>, first: impl Iterator<Item = u64>) -> Self {
        let position = |first| Position {
            next_part: 1,
            video: reel.count(Kind::Video, first),
            audio: reel.count(Kind::Audio, first),
        };
        let streams = first.enumerate().map(|(number, first)| (name_of(number), position(first))).collect();
        Self { reel: reel.clone(), streams, parts: 0, video: 0, audio: 0, sent: (0, 0), faults: Vec::new() }
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// All parts that are finished, each stream's in order.
    fn take(&mut self, house: &House) {
        let mut found: Vec<_> =
            house.records(".json").iter().filter_map(|path| Finished::read(path)).collect();
        found.sort_by(|a, b| (&a.stream, a.number).cmp(&(&b.stream, b.number)));
        for part in found {
            if let Err(fault) = self.part(&part) {
                self.fault(format!("{}: {fault}", part.file.display()));
            }
        }
    }

    fn part(&mut self, part: &Finished) -> Result<(), String> {
        let position = self.streams.get_mut(&part.stream).ok_or("of a stream no one sent")?;
        if part.number > position.next_part {
            // The one before it is being finished.
            return Ok(());
        }
        let units = Units::read(&part.file);
        fs::remove_file(&part.file).map_err(|e| e.to_string())?;
        fs::remove_file(&part.manifest).map_err(|e| e.to_string())?;
        let units = units?;
        if part.number < position.next_part {
            return Err(format!("part {} is there again", part.number));
        }
        position.next_part += 1;
        self.parts += 1;
        let mut wrong = None;
        for (kind, next) in [(Kind::Video, &mut position.video), (Kind::Audio, &mut position.audio)] {
            for unit in units.of(kind) {
                let is_next = unit.hash == self.reel.of_kind(kind, *next).0;
                // After a fault it goes on from there: one lost picture is one fault.
                let ordinal = if is_next { Some(*next) } else { self.reel.find(kind, unit.hash, *next) };
                if !is_next && wrong.is_none() {
                    let is = ordinal.map(|n| n - *next);
                    wrong = Some(format!("{kind:?} {next} was due at {:.0} ms, found +{is:?}", unit.pts_ms));
                }
                *next = ordinal.unwrap_or(*next) + 1;
            }
        }
        self.video += units.video.len() as u64;
        self.audio += units.audio.len() as u64;
        seams_at_key_frames(&[units])?;
        wrong.map_or(Ok(()), Err)
    }

    /// The stream's encoder sent these access units.
    fn end(&mut self, number: usize, units: Range<u64>) {
        let sent = |kind| self.reel.count(kind, units.end) - self.reel.count(kind, units.start);
        self.sent.0 += sent(Kind::Video);
        self.sent.1 += sent(Kind::Audio);
        let name = name_of(number);
        let position = &self.streams[&name];
        for (kind, found) in [(Kind::Video, position.video), (Kind::Audio, position.audio)] {
            let sent = self.reel.count(kind, units.end);
            if found != sent {
                self.fault(format!("{name}: {kind:?} up to {sent} sent, up to {found} in the parts"));
            }
        }
    }
}

/// A part whose manifest is there.
struct Finished {
    stream: String,
    number: u64,
    file: PathBuf,
    manifest: PathBuf,
}

impl Finished {
    /// `None` while its file has no name yet, or the manifest is of something else.
    fn read(manifest: &Path) -> Option<Self> {
        let json: Value = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
        let file = manifest.with_extension("");
        if !file.exists() {
            return None;
        }
        let stream = json["recording"]["streamName"].as_str()?.to_owned();
        Some(Self { stream, number: json["number"].as_u64()?, file, manifest: manifest.to_owned() })
    }
}
