//! RTP timestamps of a publisher's tracks on one clock (RFC 3550 6.4.1).
//!
//! Every track has an axis of its own, *media time*: its timestamps unwrapped, ns, 0 at its first packet. An offset puts
//! the axis on the common clock, which is that of arrival. Until sender reports come the offset is the smallest
//! arrival − media time seen: delay on the way only ever adds. Sender reports say which media times of two tracks belong
//! together; the reference track stays where it is and the others move.

use std::time::Duration;

/// Reports that would move a track further are nonsense (cameras without a clock).
const MAX_MOVE_NS: i64 = 3_000_000_000;
/// A track that is being recorded moves by at most one part in so many of its media time: 20 ms per second.
const SLEW: i64 = 50;
/// No single step of media time allows for more slewing than this one.
const MAX_SLEW_STEP_NS: i64 = 1_000_000_000;
/// Between two reports of a track its NTP and RTP times may depart from each other by this much; more is a step of one
/// of its clocks, and what the other tracks reported before is no longer comparable.
const MAX_DEPARTURE_NS: i64 = 100_000_000;
/// Reports jitter; of a change smaller than this a part is believed with each report.
const SMOOTH_NS: i64 = 100_000_000;
const SMOOTH_PART: i64 = 4;
/// How long a smallest delay counts, to place tracks that come late.
const LAG_WINDOW: Duration = Duration::from_secs(2);
/// After a new sequence, timestamps that depart from the time of arrival by less go on as before.
const MAX_STEP_NS: i64 = 1_000_000_000;
/// Bound of all media time (36 years), so that no sum of a few overflows.
const LIMIT_NS: i64 = i64::MAX / 8;

/// A report was not used: it would have moved the track by `by_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nonsense {
    pub track: usize,
    pub by_ns: i64,
}

pub(super) struct Clock {
    tracks: Vec<TrackClock>,
    /// The track the others move to; chosen when the stream settles.
    reference: Option<usize>,
}

struct TrackClock {
    rate: i64,
    video: bool,
    anchor: Option<Anchor>,
    /// Common clock = media time + offset.
    offset_ns: Option<i64>,
    target_ns: i64,
    slewed_to_ns: i64,
    report: Option<Report>,
    aligned: bool,
    lag: Lag,
}

/// Where the axis is tied to the timestamps.
#[derive(Clone, Copy)]
struct Anchor {
    /// Unwrapped, like `ticks`.
    first_ticks: i64,
    first_ns: i64,
    /// The newest timestamp.
    ticks: i64,
    arrived: Duration,
}

#[derive(Clone, Copy)]
struct Report {
    ntp_ns: i64,
    media_ns: i64,
}

/// The smallest arrival − time on the common clock of the last few seconds.
#[derive(Default)]
struct Lag {
    since: Duration,
    previous_ns: Option<i64>,
    current_ns: Option<i64>,
}

impl Clock {
    /// Per track the clock rate (Hz) of its timestamps, and whether it is video.
    pub fn new(tracks: impl IntoIterator<Item = (u32, bool)>) -> Self {
        let tracks = tracks.into_iter().map(|(rate, video)| TrackClock::new(rate, video)).collect();
        Self { tracks, reference: None }
    }

    /// A packet of `track` came. Packets come in sequence; `now` is the time of arrival.
    pub fn packet(&mut self, track: usize, timestamp: u32, now: Duration) {
        let settled = self.reference.map(|r| self.tracks[r].lag.smallest_ns());
        let Some(clock) = self.tracks.get_mut(track) else { return };
        let media_ns = clock.follow(timestamp, now);
        let delay_ns = ns(now).saturating_sub(media_ns);
        match (settled, clock.offset_ns) {
            (None, offset) => clock.offset_ns = Some(offset.map_or(delay_ns, |o| o.min(delay_ns))),
            (Some(lag_ns), None) => clock.place(delay_ns.saturating_sub(lag_ns)),
            (Some(_), Some(offset)) => clock.lag.add(delay_ns.saturating_sub(offset), now),
        }
    }

    /// Media time of a timestamp of `track` near its newest one, ns.
    pub fn media_ns(&self, track: usize, timestamp: u32) -> i64 {
        self.tracks.get(track).map_or(0, |clock| clock.media_ns(timestamp))
    }

    /// `media_ns` of `track` on the common clock. Call it in order: this is where the track slews.
    pub fn time_ns(&mut self, track: usize, media_ns: i64) -> i64 {
        self.tracks.get_mut(track).map_or(media_ns, |clock| clock.time_ns(media_ns))
    }

    /// `media_ns` of `track` on the common clock as it stands.
    pub fn look_ns(&self, track: usize, media_ns: i64) -> i64 {
        let offset_ns = self.tracks.get(track).and_then(|clock| clock.offset_ns);
        media_ns.saturating_add(offset_ns.unwrap_or(0))
    }

    /// Ticks of `track` as ns.
    pub fn ticks_ns(&self, track: usize, ticks: u32) -> u64 {
        self.tracks.get(track).map_or(0, |clock| clock.ticks_ns(i64::from(ticks)).unsigned_abs())
    }

    /// Another sender on this track, or another clock rate (Hz): timestamps go on where the last ones were, by the time of
    /// arrival.
    pub fn restart(&mut self, track: usize, rate: u32, timestamp: u32, now: Duration) {
        if let Some(clock) = self.tracks.get_mut(track) {
            clock.anchor_anew(timestamp, now);
            clock.rate = i64::from(rate.max(1));
        }
    }

    /// The same sender with a new sequence: as [`restart`](Self::restart) if its timestamps do not go on by themselves.
    pub fn resync(&mut self, track: usize, timestamp: u32, now: Duration) {
        let Some(clock) = self.tracks.get_mut(track) else { return };
        let departure_ns = clock.media_ns(timestamp).saturating_sub(clock.expected_ns(now));
        if departure_ns.saturating_abs() > MAX_STEP_NS {
            clock.anchor_anew(timestamp, now);
        }
    }

    /// Whether a sender report of `track` is in use.
    pub fn has_report(&self, track: usize) -> bool {
        self.tracks.get(track).is_some_and(|clock| clock.report.is_some())
    }

    /// A sender report of `track`, of which at least one packet came: `ntp` (32.32) and `rtp` are the same moment.
    pub fn report(&mut self, track: usize, ntp: u64, rtp: u32) -> Option<Nonsense> {
        let clock = self.tracks.get_mut(track)?;
        clock.anchor?;
        let report = Report { ntp_ns: ntp_ns(ntp), media_ns: clock.media_ns(rtp) };
        let stepped = clock.report.replace(report).is_some_and(|before| before.departs(&report));
        if stepped {
            for (_, other) in self.tracks.iter_mut().enumerate().filter(|(i, _)| *i != track) {
                other.report = None;
            }
        }
        let reference = self.reference?;
        let moved = |&t: &usize| if track == reference { t != reference } else { t == track };
        let nonsense: Vec<_> =
            (0..self.tracks.len()).filter(moved).filter_map(|t| self.align(t, false)).collect();
        nonsense.into_iter().next()
    }

    /// The stream is published from now on: the tracks move to where their reports say at once, later ones slew.
    pub fn settle(&mut self) -> Option<Nonsense> {
        let heard = |clock: &TrackClock| clock.offset_ns.is_some();
        let video = self.tracks.iter().position(|c| heard(c) && c.video);
        self.reference = video.or_else(|| self.tracks.iter().position(heard));
        for clock in &mut self.tracks {
            if let Some(offset_ns) = clock.offset_ns {
                clock.place(offset_ns);
            }
        }
        let nonsense: Vec<_> = (0..self.tracks.len()).filter_map(|t| self.align(t, true)).collect();
        nonsense.into_iter().next()
    }

    fn align(&mut self, track: usize, at_once: bool) -> Option<Nonsense> {
        let wanted_ns = self.wanted_ns(track)?;
        let clock = &mut self.tracks[track];
        let by_ns = wanted_ns.saturating_sub(clock.offset_ns?);
        if by_ns.saturating_abs() > MAX_MOVE_NS {
            return Some(Nonsense { track, by_ns });
        }
        let change_ns = wanted_ns - clock.target_ns;
        let smooth = clock.aligned && change_ns.abs() < SMOOTH_NS;
        clock.target_ns += if smooth { change_ns / SMOOTH_PART } else { change_ns };
        clock.aligned = true;
        if at_once {
            clock.offset_ns = Some(clock.target_ns);
        }
        None
    }

    /// The offset that puts `track` where its report and that of the reference say.
    fn wanted_ns(&self, track: usize) -> Option<i64> {
        let reference = self.reference.filter(|r| *r != track)?;
        let (fixed, moved) = (&self.tracks[reference], &self.tracks[track]);
        let (theirs, ours) = (fixed.report?, moved.report?);
        let since_ns = ours.ntp_ns.saturating_sub(theirs.ntp_ns);
        let time_ns = theirs.media_ns + fixed.offset_ns?;
        Some(since_ns.saturating_add(time_ns).saturating_sub(ours.media_ns))
    }
}

impl TrackClock {
    fn new(rate: u32, video: bool) -> Self {
        Self {
            rate: i64::from(rate.max(1)),
            video,
            anchor: None,
            offset_ns: None,
            target_ns: 0,
            slewed_to_ns: 0,
            report: None,
            aligned: false,
            lag: Lag::default(),
        }
    }

    fn ticks_ns(&self, ticks: i64) -> i64 {
        let ns = i128::from(ticks) * 1_000_000_000 / i128::from(self.rate);
        ns.clamp(-i128::from(LIMIT_NS), i128::from(LIMIT_NS)) as i64
    }

    fn media_ns(&self, timestamp: u32) -> i64 {
        let Some(anchor) = self.anchor else { return 0 };
        let since_ns = self.ticks_ns(anchor.unwrap(timestamp).saturating_sub(anchor.first_ticks));
        anchor.first_ns.saturating_add(since_ns).clamp(-LIMIT_NS, LIMIT_NS)
    }

    /// Takes `timestamp` as the newest one; its media time.
    fn follow(&mut self, timestamp: u32, now: Duration) -> i64 {
        let media_ns = self.media_ns(timestamp);
        let ticks = i64::from(timestamp);
        let first = Anchor { first_ticks: ticks, first_ns: 0, ticks, arrived: now };
        let anchor = self.anchor.get_or_insert(first);
        anchor.ticks = anchor.unwrap(timestamp);
        anchor.arrived = now;
        media_ns
    }

    /// Media time that belongs to arrival at `now`.
    fn expected_ns(&self, now: Duration) -> i64 {
        let Some(anchor) = self.anchor else { return 0 };
        let away_ns = ns(now.saturating_sub(anchor.arrived));
        self.media_ns(anchor.ticks as u32).saturating_add(away_ns).clamp(-LIMIT_NS, LIMIT_NS)
    }

    fn anchor_anew(&mut self, timestamp: u32, now: Duration) {
        let first_ns = self.expected_ns(now);
        if let Some(anchor) = &mut self.anchor {
            let ticks = i64::from(timestamp);
            *anchor = Anchor { first_ticks: ticks, first_ns, ticks, arrived: now };
            self.report = None;
        }
    }

    /// Puts the track where nothing of it has been given out.
    fn place(&mut self, offset_ns: i64) {
        self.offset_ns = Some(offset_ns);
        self.target_ns = offset_ns;
    }

    fn time_ns(&mut self, media_ns: i64) -> i64 {
        let step_ns = media_ns.saturating_sub(self.slewed_to_ns);
        // A step back by more than reordering of pictures makes is a sender's clock that was set.
        if !(-MAX_SLEW_STEP_NS..=0).contains(&step_ns) {
            self.slewed_to_ns = media_ns;
        }
        let offset_ns = self.offset_ns.unwrap_or(0);
        let most_ns = step_ns.clamp(0, MAX_SLEW_STEP_NS) / SLEW;
        let slewed_ns = offset_ns + (self.target_ns - offset_ns).clamp(-most_ns, most_ns);
        if self.offset_ns.is_some() {
            self.offset_ns = Some(slewed_ns);
        }
        media_ns.saturating_add(slewed_ns)
    }
}

impl Anchor {
    fn unwrap(&self, timestamp: u32) -> i64 {
        self.ticks.saturating_add(i64::from(timestamp.wrapping_sub(self.ticks as u32) as i32))
    }
}

impl Report {
    fn departs(&self, later: &Report) -> bool {
        let ntp_ns = later.ntp_ns.saturating_sub(self.ntp_ns);
        let media_ns = later.media_ns.saturating_sub(self.media_ns);
        ntp_ns.saturating_sub(media_ns).saturating_abs() > MAX_DEPARTURE_NS
    }
}

impl Lag {
    fn add(&mut self, lag_ns: i64, now: Duration) {
        if now.saturating_sub(self.since) >= LAG_WINDOW {
            self.since = now;
            self.previous_ns = self.current_ns.take();
        }
        self.current_ns = Some(self.current_ns.map_or(lag_ns, |l| l.min(lag_ns)));
    }

    fn smallest_ns(&self) -> i64 {
        self.current_ns.into_iter().chain(self.previous_ns).min().unwrap_or(0)
    }
}

fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(LIMIT_NS).min(LIMIT_NS)
}

/// 32.32 seconds as ns; the 32 bits of seconds fit.
fn ntp_ns(ntp: u64) -> i64 {
    ((u128::from(ntp) * 1_000_000_000) >> 32) as i64
}

#[cfg(test)]
mod tests;
