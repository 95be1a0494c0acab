//! Looking at one recording's stream: its newest key frame, and a second of its sound.

use super::health::Look;
use crate::{
    gst::look::{self, LookError, Picture},
    hub::{Item, Stream, Subscriber},
    media::{HealthChecks, HealthReason, MediaSessionId, Track, TrackId},
};
use gstreamer::Buffer;
use std::{collections::VecDeque, time::Duration};

/// A key frame with more bytes is not decoded: it would cost what ten others do.
const MAX_KEY_FRAME_BYTES: usize = 4 << 20;
/// How much sound is listened to, media time, and how long is waited for it.
const SOUND_NS: u64 = 1_000_000_000;
const SOUND_WAIT: Duration = Duration::from_secs(3);
/// Units of sound of one look, where they have no times that make sense.
const MAX_UNITS: usize = 500;
/// What a subscription for sound may hold until the next tick; pictures are in it, too.
const LISTENING_BYTES: usize = 8 << 20;

/// Sees key frames. `None` in `next`: pictures are not looked at.
pub(super) struct Eyes {
    next: Option<Duration>,
    /// Which key frame was seen last: its stream and its time, ns.
    seen: Option<(MediaSessionId, u64)>,
    before: Option<Picture>,
}

impl Eyes {
    pub fn new(checks: HealthChecks) -> Self {
        let wanted = checks.has(HealthReason::Frozen) || checks.has(HealthReason::Black);
        Self { next: wanted.then_some(Duration::ZERO), seen: None, before: None }
    }

    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// `None`: it is not time, or there is no other key frame yet.
    pub fn look(
        &mut self,
        stream: &Stream,
        now: Duration,
        interval: Duration,
    ) -> Option<Result<Look, LookError>> {
        self.next.filter(|next| *next <= now)?;
        let (track, key) = stream.key_frame()?;
        let which = (stream.id(), key.pts_ns());
        if self.seen == Some(which) {
            return None;
        }
        self.seen = Some(which);
        self.next = Some(now + interval);
        Some(self.decode(&track, &key.buffer))
    }

    fn decode(&mut self, track: &Track, key: &Buffer) -> Result<Look, LookError> {
        if key.size() > MAX_KEY_FRAME_BYTES {
            return Err(LookError::Failed(format!("a key frame of {} bytes", key.size())));
        }
        let picture = look::picture(track, key)?;
        let difference = self.before.as_ref().map(|before| picture.difference(before));
        let look = Look {
            mean: picture.mean(),
            brightest: picture.brightest(),
            contrast: picture.contrast(),
            difference: difference.map(|d| (d.mean, d.most)),
        };
        self.before = Some(picture);
        Ok(look)
    }
}

/// Hears sound, a second of it at a time, as it comes. `None` in `next`: it is not listened to.
pub(super) struct Ears {
    next: Option<Duration>,
    listening: Option<Listening>,
}

struct Listening {
    subscriber: Subscriber,
    stream: MediaSessionId,
    since: Duration,
    track: Option<Track>,
    units: Vec<Buffer>,
    /// The stream has ended, or its sound has other parameters now.
    over: bool,
}

impl Ears {
    pub fn new(checks: HealthChecks) -> Self {
        let wanted = checks.has(HealthReason::Silent);
        Self { next: wanted.then_some(Duration::ZERO), listening: None }
    }

    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// What was heard until now is forgotten.
    pub fn stop(&mut self) {
        self.listening = None;
    }

    /// `None`: it is not time, there is no sound, or it is being listened to.
    pub fn listen(
        &mut self,
        stream: &Stream,
        now: Duration,
        interval: Duration,
    ) -> Option<Result<f64, LookError>> {
        self.next.filter(|next| *next <= now)?;
        let Some(listening) = self.listening.as_mut().filter(|l| l.stream == stream.id()) else {
            let has_sound = stream.snapshot().tracks.audio().is_some();
            let subscriber = stream.subscribe_from_now(LISTENING_BYTES).filter(|_| has_sound);
            self.listening = subscriber.map(|subscriber| Listening::new(subscriber, stream.id(), now));
            return None;
        };
        listening.take();
        if !listening.over && !listening.is_enough() && now.saturating_sub(listening.since) < SOUND_WAIT {
            return None;
        }
        let heard = self.listening.take()?;
        self.next = Some(heard.since + interval);
        let track = heard.track.filter(|_| !heard.units.is_empty())?;
        Some(look::loudness(&track, &heard.units))
    }
}

impl Listening {
    fn new(subscriber: Subscriber, stream: MediaSessionId, since: Duration) -> Self {
        Self { subscriber, stream, since, track: None, units: Vec::new(), over: false }
    }

    fn take(&mut self) {
        let mut items = VecDeque::new();
        self.subscriber.drain(&mut items);
        for item in items {
            match item {
                Item::Tracks(tracks) if self.units.is_empty() => self.track = tracks.audio().cloned(),
                Item::Tracks(tracks) => self.over |= tracks.audio() != self.track.as_ref(),
                Item::Frame(frame) if !self.over && self.is_sound(frame.track) => {
                    self.units.push(frame.buffer)
                }
                Item::End(_) => self.over = true,
                Item::Frame(_) | Item::Gap(_) => {}
            }
        }
    }

    fn is_sound(&self, id: TrackId) -> bool {
        self.units.len() < MAX_UNITS && self.track.as_ref().is_some_and(|track| track.id == id)
    }

    fn is_enough(&self) -> bool {
        let time = |unit: Option<&Buffer>| unit.and_then(|u| u.pts()).map_or(0, |t| t.nseconds());
        let heard_ns = time(self.units.last()).saturating_sub(time(self.units.first()));
        heard_ns >= SOUND_NS || self.units.len() >= MAX_UNITS
    }
}
