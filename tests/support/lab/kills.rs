//! `kill -9` at random moments, over and over in the same folder: what was sent is there up to the last second, catalog
//! and disk are one, and no hook is lost.

use std::{
    fmt, fs, iter,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    daemon::{Daemon, House},
    flv::Kind,
    http,
    wait::{reached, wait_until},
};

use super::{Auditor, Dice, Encoder, Reel, Run, Units, part_files, recordings, runs};

/// What `kill -9` may cost, ms of what had been sent.
pub const MAX_LOSS_MS: u64 = 1000;
/// A recording that began this short before the kill may have left nothing: its first second is its last.
const MAY_BE_NOTHING_MS: u64 = MAX_LOSS_MS + 500;
/// For recovery and hooks after a start.
const SETTLES: Duration = Duration::from_secs(60);
const HOOK_BEGINS: Duration = Duration::from_secs(3);
const SENT_IN_TIME: Duration = Duration::from_secs(30);
/// Notes that it began; and that it ended, unless the daemon that called it is gone by then: such a call is to be made again.
const HOOK: &str = "#!/bin/sh\nd=\"${0%/*}\"\necho \"$2\" >> \"$d/begun\"\nsleep 0.25\nkill -0 $PPID 2>/dev/null || exit 1\n\
    printf '%s\\t%s\\t%s\\n' \"$(date +%s%N)\" \"$1\" \"$2\" >> \"$d/calls\"\n";

/// What is going on when the daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Recording,
    Rotating,
    Pausing,
    Finalizing,
    Hook,
    /// As `Recording`, and once more while what that left is being finished.
    Recovering,
}

pub const STAGES: [Stage; 6] =
    [Stage::Recording, Stage::Rotating, Stage::Pausing, Stage::Finalizing, Stage::Hook, Stage::Recovering];

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Recording => "recording",
            Self::Rotating => "rotating",
            Self::Pausing => "pausing",
            Self::Finalizing => "finalizing",
            Self::Hook => "hook",
            Self::Recovering => "recovering",
        })
    }
}

/// What one kill did.
#[derive(Debug)]
pub struct Killed {
    pub stage: Stage,
    pub container: &'static str,
    /// Of each stream, until the kill.
    pub sent_ms: u64,
    /// `.part` files that it left.
    pub unfinished: usize,
    /// Files that are whole afterwards and were not before.
    pub files: usize,
    /// The most of a stream that is missing at its end.
    pub lost_ms: u64,
    /// From the start of the daemon until all was finished and each hook had run.
    pub settled_in: Duration,
    pub faults: Vec<String>,
}

/// A folder in which a daemon is killed again and again.
pub struct KillLab {
    house: House,
    program: String,
    reel: Arc<Reel>,
    dice: Dice,
    daemon: Option<Daemon>,
    auditor: Auditor,
    files: usize,
    kills: usize,
}

/// A stream until the kill.
struct Stream {
    name: String,
    /// Access units sent when its fate was decided: what came later may be missing.
    sent: u64,
    /// How often its recording may go on after a hole.
    holes: usize,
}

impl KillLab {
    /// `program`: the daemon; `reel`: with more than 20 s in a pass, so that no run of the lab sees it twice.
    pub fn new(program: &str, reel: Arc<Reel>, seed: u64) -> Self {
        let house = House::new("", "");
        house.hook(HOOK);
        let dice = Dice::new(seed);
        let auditor = Auditor::default();
        let program = program.to_owned();
        Self { house, program, reel, dice, daemon: None, auditor, files: 0, kills: 0 }
    }

    /// Where recordings and logs are.
    pub fn folder(&self) -> PathBuf {
        self.house.path("")
    }

    /// Leaves the folder there for who wants to look at it.
    pub fn keep(self) -> PathBuf {
        self.house.keep()
    }

    /// Records, kills, starts, and looks at what is there.
    pub fn kill(&mut self, stage: Stage) -> Killed {
        let container = if self.dice.one_in(4) { "mkv" } else { "mp4" };
        let daemon = self.started(container);
        self.kills += 1;
        let warm_up_ms = self.dice.number(300..5000);
        let names = ["a", "b"].map(|letter| format!("k{}{letter}", self.kills));
        let [subject, other] = names.map(|name| (self.publish(&daemon, &name), name));
        wait_until("so much is sent", SENT_IN_TIME, || subject.0.sent_ms() >= warm_up_ms);
        let (streams, sent_ms) = self.strike(stage, daemon, subject, other);
        let of_kill = format!("/k{}", self.kills);
        let unfinished =
            self.house.records(".part").iter().filter(|f| f.to_string_lossy().contains(&of_kill)).count();

        if stage == Stage::Recovering {
            let again = self.house.start(&self.program);
            thread::sleep(self.dice.ms(0..300));
            again.kill_9();
        }
        let begin = Instant::now();
        let daemon = self.house.start(&self.program);
        let settled = self.auditor.settle(&self.house, &daemon, SETTLES);
        let settled_in = begin.elapsed();
        let mut faults = self.auditor.faults(&self.house, &daemon);
        if !settled {
            faults.push(format!("not settled within {SETTLES:?}"));
        }
        let all = recordings(&daemon);
        let mut lost_ms = 0;
        for stream in &streams {
            match self.lost_ms(stream, &all) {
                Ok(ms) => lost_ms = lost_ms.max(ms),
                Err(fault) => faults.push(format!("{}: {fault}", stream.name)),
            }
        }
        if lost_ms > MAX_LOSS_MS {
            faults.push(format!("{lost_ms} ms are missing"));
        }
        let files = all.iter().map(|r| part_files(r).len()).sum::<usize>();
        let new = files - std::mem::replace(&mut self.files, files);
        self.daemon = Some(daemon);
        Killed { stage, container, sent_ms, unfinished, files: new, lost_ms, settled_in, faults }
    }

    /// The daemon that the last kill started; its policy is written before each recording, and read by a new daemon.
    fn started(&mut self, container: &str) -> Daemon {
        let properties = format!(
            "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_rotation=2\n\
             record_formats=h264-{container}\n"
        );
        let file = self.house.path("reeld.properties");
        let is_new = fs::read_to_string(&file).ok().as_ref() != Some(&properties);
        fs::write(file, properties).expect("the policy");
        // An old one has to be gone before the next one starts.
        let running = self.daemon.take().filter(|_| !is_new);
        running.unwrap_or_else(|| self.house.start(&self.program))
    }

    fn publish(&self, daemon: &Daemon, name: &str) -> Encoder {
        Encoder::start(daemon.publish_options("live", name), &self.reel, 0).expect("an accepted publish")
    }

    /// Brings the first stream to its stage, kills the daemon, and tells what had been sent then.
    fn strike(
        &mut self,
        stage: Stage,
        daemon: Daemon,
        (subject, subject_name): (Encoder, String),
        (other, other_name): (Encoder, String),
    ) -> (Vec<Stream>, u64) {
        let id = daemon.session_id(&subject_name);
        let recording = format!("/api/v1/sessions/{id}/recording");
        let ask = |method, path: String, body| Asked::new(daemon.http(), method, path, body);
        let hooks_before = self.hooks_begun(&subject_name);
        let (mut holes, mut decided, mut subject, mut hand) = (0, None, Some(subject), None);
        match stage {
            Stage::Recording | Stage::Recovering => thread::sleep(self.dice.ms(0..250)),
            Stage::Rotating => {
                hand = Some(ask("POST", format!("{recording}/split"), json!({})));
                thread::sleep(self.dice.ms(0..700));
            }
            Stage::Pausing => {
                (holes, decided) = (1, subject.as_ref().map(Encoder::next));
                hand = Some(ask("POST", format!("{recording}/pause"), json!({})));
                thread::sleep(self.dice.ms(0..600));
                if self.dice.one_in(2) {
                    // Answered when the key frame is there; the kill comes before or after it.
                    Asked::new(daemon.http(), "POST", format!("{recording}/resume"), json!({})).forget();
                    thread::sleep(self.dice.ms(0..900));
                }
            }
            Stage::Finalizing | Stage::Hook => {
                decided = subject.as_ref().map(Encoder::next);
                match self.dice.one_in(2) {
                    true => hand = Some(ask("DELETE", recording, json!({}))),
                    // The farewell waits for the server to close; a drop ends it at once.
                    false => drop(subject.take()),
                }
                if stage == Stage::Hook {
                    // One whose recording has only just begun may have no file and no hook.
                    reached(HOOK_BEGINS, || self.hooks_begun(&subject_name) > hooks_before);
                }
                thread::sleep(self.dice.ms(0..150));
            }
        }
        let sent = |encoder: &Encoder| (encoder.next(), encoder.sent_ms());
        let (other_sent, sent_ms) = sent(&other);
        let subject_sent = decided.or(subject.as_ref().map(Encoder::next)).expect("a running encoder");
        daemon.kill_9();
        hand.into_iter().for_each(Asked::forget);
        let streams = vec![
            Stream { name: subject_name, sent: subject_sent, holes },
            Stream { name: other_name, sent: other_sent, holes: 0 },
        ];
        (streams, sent_ms)
    }

    fn hooks_begun(&self, name: &str) -> usize {
        fs::read_to_string(self.house.path("hooks/begun")).unwrap_or_default().matches(name).count()
    }

    /// What is missing at the end of a stream; an error when there is a hole before it.
    fn lost_ms(&self, stream: &Stream, all: &[Value]) -> Result<u64, String> {
        let of_stream: Vec<_> = all.iter().filter(|r| r["streamName"] == stream.name.as_str()).collect();
        let sent_ms = self.reel.unit(stream.sent).at_ms;
        let parts = match &of_stream[..] {
            [] => Vec::new(),
            [recording] => part_files(recording),
            many => return Err(format!("{} recordings of one stream", many.len())),
        };
        if parts.is_empty() {
            return match sent_ms <= MAY_BE_NOTHING_MS {
                true => Ok(0),
                false => Err(format!("no file of {sent_ms} ms")),
            };
        }
        let parts: Vec<_> = parts.iter().map(|file| Units::read(file)).collect::<Result<_, _>>()?;
        let lost = [Kind::Video, Kind::Audio].map(|kind| self.lost_of(kind, stream, &parts));
        Ok(lost.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0))
    }

    fn lost_of(&self, kind: Kind, stream: &Stream, parts: &[Units]) -> Result<u64, String> {
        let found = runs(&self.reel, kind, parts.iter().flat_map(|part| part.of(kind)), 0)?;
        let first = found.first().map_or(0, |run| run.from);
        if first > 0 {
            return Err(format!("{kind:?}: the first {first} units are missing"));
        }
        if found.len() > 1 + stream.holes {
            return Err(format!("{kind:?}: holes between {found:?}"));
        }
        let end = found.last().map_or(0, Run::end);
        let sent = self.reel.count(kind, stream.sent);
        // The file may hold what was sent after the moment that counts.
        let missing = (end..sent).map(|ordinal| self.reel.of_kind(kind, ordinal).1);
        let (first, last) = missing.fold((None, 0), |(first, _), ms| (first.or(Some(ms)), ms));
        Ok(first.map_or(0, |first| last - first))
    }
}

/// A request on a thread of its own, to a daemon that may die of something else meanwhile.
struct Asked(thread::JoinHandle<()>);

impl Asked {
    fn new(server: SocketAddr, method: &'static str, path: String, body: Value) -> Self {
        Self(thread::spawn(move || {
            // No answer is an answer here: the daemon was killed.
            let _ = http::request(server, method, &path, body.to_string().as_bytes());
        }))
    }

    fn forget(self) {
        let _ = self.0.join();
    }
}

/// Each stage in turn, in a random order for each round.
pub fn stages(seed: u64) -> impl Iterator<Item = Stage> {
    let mut dice = Dice::new(seed ^ 0x57A6E);
    iter::repeat_with(move || {
        let mut round = STAGES;
        dice.shuffle(&mut round);
        round
    })
    .flatten()
}
