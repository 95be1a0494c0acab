//! What is wrong with a recording, from what is seen of it. Pure: observations in, changes out.
//!
//! Each trouble has a mark at which it begins and another at which it is over, so that what wavers around one does not tell a
//! hundred times.

use crate::media::{HealthChecks, HealthReason};
use std::time::Duration;

/// A track that sends nothing for this long has stopped. It is also what tells a track that ends before its file.
const STALL: Duration = Duration::from_secs(5);
/// Below, a busy machine would be told.
const SHORTEST_STALL: Duration = Duration::from_secs(2);

/// Brightness (of 256) of a picture that is black: mean, and of its brightest points. Video of the usual, narrow range has
/// black at 16.
const BLACK_MEAN: f64 = 24.0;
const BLACK_BRIGHTEST: u8 = 40;
/// And of one that is not, again.
const SEEN_MEAN: f64 = 28.0;
const SEEN_BRIGHTEST: u8 = 56;
/// Two pictures show the same: mean and largest difference of their brightness. Encoders write one picture twice with
/// differences like these, and the noise of a sensor is above them.
const SAME_MEAN: f64 = 0.02;
const SAME_MOST: u8 = 3;
/// And not the same again.
const OTHER_MEAN: f64 = 0.05;
const OTHER_MOST: u8 = 4;
/// A picture with less contrast than this has no noise that an encoder would keep: only one that is the same to the bit is
/// one that stands still.
const PLAIN_CONTRAST: f64 = 8.0;
/// Loudness of silence, and of what is not silence again, dBFS.
const SILENT_DB: f64 = -60.0;
const HEARD_DB: f64 = -55.0;
/// Looks in a row that a picture is black, or a sound silent: one may be the dark between two scenes.
const LOOKS: u32 = 2;

/// How long what is missing may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub stall: Duration,
    pub key_frame: Duration,
}

impl Times {
    /// `interval`: how often is looked at pictures; zero: not at all.
    pub fn of(interval: Duration, key_frame: Duration) -> Self {
        let stall = if interval.is_zero() { STALL } else { (interval * 3 / 2).clamp(SHORTEST_STALL, STALL) };
        Self { stall, key_frame }
    }
}

/// What is seen of a recording at each tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes, pictures, key frames and units of sound written until now.
    pub bytes: u64,
    pub pictures: u64,
    pub key_frames: u64,
    pub sounds: u64,
    /// Access units that came from the publisher until now.
    pub arrived: u64,
    /// And pictures of these.
    pub arrived_pictures: u64,
    /// The stream has such a track.
    pub has_video: bool,
    pub has_audio: bool,
}

/// What a look at a picture showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub mean: f64,
    pub brightest: u8,
    /// Standard deviation of its brightness.
    pub contrast: f64,
    /// From the picture before: mean and largest. `None`: there is none to compare it with.
    pub difference: Option<(f64, u8)>,
}

/// `at`: since when it holds, or is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub reason: HealthReason,
    pub holds: bool,
    pub at: Duration,
}

/// One recording's. Times are measured from any fixed origin.
pub(super) struct Health {
    checks: HealthChecks,
    times: Times,
    flows: Option<Flows>,
    black: Run,
    silent: Run,
    looked_at: Option<Duration>,
    holding: Vec<HealthReason>,
}

/// Things that are counted, and how they go on.
#[derive(Clone, Copy)]
struct Flows {
    arrived: Flow,
    arrived_pictures: Flow,
    data: Flow,
    key_frames: Flow,
    video: Option<Flow>,
    audio: Option<Flow>,
}

#[derive(Clone, Copy)]
struct Flow {
    count: u64,
    /// When it last grew, or was first looked for.
    grew_at: Duration,
    /// It goes on without a break since then.
    steady_since: Option<Duration>,
}

/// Looks in a row that showed the same.
#[derive(Default)]
struct Run {
    looks: u32,
    since: Duration,
}

impl Flow {
    fn new(count: u64, now: Duration) -> Self {
        Self { count, grew_at: now, steady_since: None }
    }

    fn see(&mut self, count: u64, now: Duration, stall: Duration) {
        if count == self.count {
            if self.idle(now) >= stall {
                self.steady_since = None;
            }
            return;
        }
        if self.idle(now) >= stall / 2 {
            self.steady_since = None;
        }
        self.steady_since.get_or_insert(now);
        (self.count, self.grew_at) = (count, now);
    }

    fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(self.grew_at)
    }

    /// It stopped, and `other` went on for long.
    fn stopped_beside(&self, other: &Flow, now: Duration, stall: Duration) -> bool {
        self.idle(now) >= stall && other.grew_at.saturating_sub(self.grew_at) >= stall / 2
    }

    fn steady(&self, now: Duration, stall: Duration) -> Option<Duration> {
        self.steady_since.filter(|since| now.saturating_sub(*since) >= stall)
    }
}

impl Run {
    fn see(&mut self, now: Duration) -> bool {
        if self.looks == 0 {
            self.since = now;
        }
        self.looks += 1;
        self.looks >= LOOKS
    }
}

impl Health {
    pub fn new(checks: HealthChecks, times: Times) -> Self {
        Self {
            checks,
            times,
            flows: None,
            black: Run::default(),
            silent: Run::default(),
            looked_at: None,
            holding: Vec::new(),
        }
    }

    pub fn holding(&self) -> &[HealthReason] {
        &self.holding
    }

    /// How long no key frame has been written, where pictures are expected.
    pub fn without_key_frame(&self, now: Duration) -> Option<Duration> {
        self.flows.filter(|f| f.video.is_some()).map(|f| f.key_frames.idle(now))
    }

    /// It is paused: nothing is expected of it, and nothing known.
    pub fn rest(&mut self, now: Duration) -> Vec<Change> {
        (self.flows, self.looked_at) = (None, None);
        (self.black, self.silent) = (Run::default(), Run::default());
        let held = std::mem::take(&mut self.holding);
        held.into_iter().map(|reason| Change { reason, holds: false, at: now }).collect()
    }

    pub fn see(&mut self, seen: &Seen, now: Duration) -> Vec<Change> {
        let stall = self.times.stall;
        let begin = || Flows {
            arrived: Flow::new(seen.arrived, now),
            arrived_pictures: Flow::new(seen.arrived_pictures, now),
            data: Flow::new(seen.bytes, now),
            key_frames: Flow::new(seen.key_frames, now),
            video: None,
            audio: None,
        };
        let mut flows = self.flows.unwrap_or_else(begin);
        flows.arrived.see(seen.arrived, now, stall);
        flows.arrived_pictures.see(seen.arrived_pictures, now, stall);
        flows.data.see(seen.bytes, now, stall);
        flows.key_frames.see(seen.key_frames, now, stall);
        for (flow, has, count) in [
            (&mut flows.video, seen.has_video, seen.pictures),
            (&mut flows.audio, seen.has_audio, seen.sounds),
        ] {
            match has {
                true => flow.get_or_insert(Flow::new(count, now)).see(count, now, stall),
                false => *flow = None,
            }
        }
        self.flows = Some(flows);
        let mut changes = Vec::new();
        self.judge(&flows, now, &mut changes);
        changes
    }

    fn judge(&mut self, flows: &Flows, now: Duration, changes: &mut Vec<Change>) {
        use HealthReason::{NoAudio, NoData, NoKeyFrame, NoVideo};
        let Times { stall, key_frame } = self.times;
        let (data, keys) = (&flows.data, &flows.key_frames);
        let no_data = data.idle(now) >= stall;
        self.mark(NoData, no_data.then_some(data.grew_at), data.steady(now, stall), changes);

        // A file begins with a key frame: until then sound waits, and what arrives tells what is missing.
        let waits = data.count == 0;
        for (reason, flow) in [(NoVideo, &flows.video), (NoAudio, &flows.audio)] {
            // Without the track nothing is missing.
            let Some(flow) = flow else {
                self.mark(reason, None, Some(now), changes);
                continue;
            };
            let (stopped, since) = match waits {
                true => {
                    let pictures = &flows.arrived_pictures;
                    let stopped = pictures.stopped_beside(&flows.arrived, now, stall);
                    (reason == NoVideo && stopped, pictures.grew_at)
                }
                false => (!no_data && flow.stopped_beside(data, now, stall), flow.grew_at),
            };
            self.mark(reason, stopped.then_some(since), flow.steady(now, stall), changes);
        }

        let pictures = flows.video.as_ref().map(|video| if waits { &flows.arrived_pictures } else { video });
        let missed = pictures.is_some_and(|pictures| keys.stopped_beside(pictures, now, key_frame));
        let came = (keys.idle(now) < key_frame).then_some(keys.grew_at);
        let over = if pictures.is_some() { came } else { Some(now) };
        self.mark(NoKeyFrame, missed.then_some(keys.grew_at), over, changes);
    }

    /// A key frame was decoded.
    pub fn look(&mut self, look: &Look, now: Duration) -> Vec<Change> {
        use HealthReason::{Black, Frozen};
        let mut changes = Vec::new();
        let before = self.looked_at.replace(now);
        let black = look.mean <= BLACK_MEAN && look.brightest <= BLACK_BRIGHTEST;
        let seen = look.mean > SEEN_MEAN || look.brightest > SEEN_BRIGHTEST;
        let blacks = black && self.black.see(now);
        if !black {
            self.black.looks = 0;
        }
        self.mark(Black, blacks.then_some(self.black.since), seen.then_some(now), &mut changes);

        let plain = look.contrast < PLAIN_CONTRAST;
        let same = |(mean, most): (f64, u8)| most == 0 || (!plain && mean <= SAME_MEAN && most <= SAME_MOST);
        let other = |(mean, most): (f64, u8)| mean > OTHER_MEAN || most > OTHER_MOST;
        // A black picture is told as that.
        let frozen = !black && look.difference.is_some_and(same);
        let moves = black || look.difference.is_some_and(other);
        self.mark(Frozen, before.filter(|_| frozen), moves.then_some(now), &mut changes);
        changes
    }

    /// A stretch of sound was decoded; its loudness in dBFS.
    pub fn listen(&mut self, loudness_db: f64, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        let silent = loudness_db <= SILENT_DB;
        let silents = silent && self.silent.see(now);
        if !silent {
            self.silent.looks = 0;
        }
        let heard = (loudness_db > HEARD_DB).then_some(now);
        self.mark(HealthReason::Silent, silents.then_some(self.silent.since), heard, &mut changes);
        changes
    }

    /// `bad`: since when `reason` holds; `good`: since when it does not. Neither: it stays as it is.
    fn mark(
        &mut self,
        reason: HealthReason,
        bad: Option<Duration>,
        good: Option<Duration>,
        changes: &mut Vec<Change>,
    ) {
        let held = self.holding.iter().position(|r| *r == reason);
        match (held, bad, good) {
            (None, Some(at), _) if self.checks.has(reason) => {
                self.holding.push(reason);
                changes.push(Change { reason, holds: true, at });
            }
            (Some(n), None, Some(at)) => {
                self.holding.remove(n);
                changes.push(Change { reason, holds: false, at });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
