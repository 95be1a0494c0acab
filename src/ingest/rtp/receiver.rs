//! One publisher over RTP: puts the sections' access units on one clock and hands them to the hub.

pub use super::reorder::Arrival;

use super::{
    Format,
    clock::{Clock, Nonsense},
    depay::{DepayError, TrackConfig},
    hold::Hold,
    output::Output,
    report::Reporter,
    section::{Event, Section},
};
use crate::{
    hub::{EndReason, Publisher},
    media::{Codec, MediaKind, TrackId},
};
use rtcp_types::{Compound, Packet};
use std::time::Duration;

/// How much media is awaited for the other tracks and their sender reports, so that audio and video begin in sync.
const SETTLE_MEDIA_NS: i64 = 1_000_000_000;
/// A burst at the start holds a lot of media before the other track had time to speak.
const SETTLE_LEAST: Duration = Duration::from_millis(500);
const SETTLE_WALL: Duration = Duration::from_millis(1_500);
/// How long a video track is awaited that sends, but no key frame with its parameters so far.
const SETTLE_KEY: Duration = Duration::from_secs(10);
/// Sections past this are left out: a description of more is no camera's or browser's.
const MAX_SECTIONS: usize = 16;
/// How often a key frame is asked for.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(500);

/// One m= section of a session description.
pub struct Media {
    /// All that may be sent, told apart by payload type.
    pub formats: Vec<Format>,
    pub arrival: Arrival,
}

/// Takes the RTP and RTCP packets of one publisher. Pure but for the hub's [`Publisher`] it owns; bounded whatever
/// comes.
///
/// Nothing is handed on before the tracks are known and on one clock: all have sent a unit and a sender report, or a
/// second of media has come, or 1.5 s have passed.
pub struct Receiver {
    output: Output,
    /// `None`: without a format that can be read.
    sections: Vec<Option<Section>>,
    tracks: Vec<Option<TrackId>>,
    clock: Clock,
    hold: Option<Hold>,
    events: Vec<Event>,
    reporter: Reporter,
    last_media: Duration,
    key_wanted: bool,
    key_asked: Option<Duration>,
    /// The log has heard of sender reports that make no sense.
    nonsense_told: bool,
    faults: u64,
}

impl Receiver {
    /// Errors when a format cannot be read: its codec, or what its parameters say.
    pub fn new(publisher: Publisher, media: Vec<Media>) -> Result<Self, DepayError> {
        let sections = sections(media)?;
        Ok(Self {
            output: Output::new(publisher),
            tracks: vec![None; sections.len()],
            clock: clock(&sections),
            sections,
            hold: Some(Hold::default()),
            events: Vec::new(),
            reporter: Reporter::random(),
            last_media: Duration::ZERO,
            key_wanted: false,
            key_asked: None,
            nonsense_told: false,
            faults: 0,
        })
    }

    /// One packet of media section `section`. `now`: monotonic since any fixed origin. False: not a usable packet
    /// (counted).
    pub fn rtp(&mut self, section: usize, packet: &[u8], now: Duration) -> bool {
        let taken = self.with(section, now, |s, clock, events| s.rtp(packet, now, clock, events));
        if taken != Some(true) {
            self.faults += 1;
            return false;
        }
        self.last_media = now;
        if let Some(hold) = &mut self.hold {
            hold.since.get_or_insert(now);
        }
        true
    }

    /// One compound RTCP packet (RFC 3550 6.1): its sender reports and BYEs; what cannot be read is left out.
    pub fn rtcp(&mut self, section: usize, packet: &[u8], now: Duration) {
        let Ok(compound) = Compound::parse(packet) else {
            self.faults += 1;
            return;
        };
        for packet in compound.flatten() {
            match packet {
                Packet::Sr(report) => {
                    let (ntp, rtp) = (report.ntp_timestamp(), report.rtp_timestamp());
                    self.sender_report(section, report.ssrc(), ntp, rtp, now);
                }
                Packet::Bye(bye) => {
                    let Some(section) = self.sections.get_mut(section).and_then(Option::as_mut) else {
                        continue;
                    };
                    bye.ssrcs().for_each(|ssrc| section.bye(ssrc));
                }
                _ => {}
            }
        }
    }

    /// A sender report known by other means: `ntp` (64 bits, 32.32) and `rtp` of `ssrc` are the same moment.
    pub fn sender_report(&mut self, section: usize, ssrc: u32, ntp: u64, rtp: u32, now: Duration) {
        let Some(Some(from)) = self.sections.get_mut(section) else { return };
        let nonsense = from.sender_report(ssrc, ntp, rtp, now, &mut self.clock);
        self.told_nonsense(nonsense);
    }

    /// Hands what is ready to the hub; call it after each read or tick (about 100 ms).
    pub fn flush(&mut self, now: Duration) {
        for section in 0..self.sections.len() {
            self.with(section, now, |s, clock, events| s.tick(now, clock, events));
        }
        if self.is_settled(now) {
            self.release(now);
        }
        self.output.publish();
    }

    /// Section and SSRC of the video stream that should be asked for a key frame (PLI), at most once per 500 ms: after
    /// a loss, and when someone asked the hub for one.
    pub fn key_frame_wanted(&mut self, now: Duration) -> Option<(usize, u32)> {
        self.key_wanted |= self.output.publisher().take_key_frame_request();
        if self.key_asked.is_some_and(|at| now.saturating_sub(at) < KEY_FRAME_INTERVAL) {
            return None;
        }
        let video = || self.sections.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
        let waiting = video().find_map(|(i, s)| Some((i, s.wants_key_from()?)));
        let asked = || video().find_map(|(i, s)| Some((i, s.sender_ssrc().filter(|_| s.is_video())?)));
        let wanted = waiting.or_else(|| self.key_wanted.then(asked).flatten())?;
        self.key_wanted = false;
        self.key_asked = Some(now);
        Some(wanted)
    }

    /// Appends a receiver report (RR and SDES CNAME, and PLI when `pli`) for `section` to `out`.
    pub fn report(&mut self, section: usize, now: Duration, pli: bool, out: &mut Vec<u8>) {
        if let Some(Some(section)) = self.sections.get_mut(section) {
            self.reporter.write(section.reception(), pli, now, out);
        }
    }

    /// The source came back on a new connection: new RTP state, same hub stream and timeline. Tells the hub how long it
    /// was away. On an error nothing has changed.
    pub fn reconnected(&mut self, media: Vec<Media>, now: Duration) -> Result<(), DepayError> {
        let sections = sections(media)?;
        self.end_sections(now);
        self.clock = clock(&sections);
        self.tracks = match_tracks(&sections, &self.output);
        self.sections = sections;
        self.hold = Some(Hold::default());
        self.key_asked = None;
        self.output.resume(now.saturating_sub(self.last_media));
        Ok(())
    }

    /// The connection broke, and the source may come back on another: hands on what is left.
    pub fn interrupted(&mut self) {
        self.end_sections(self.last_media);
        self.output.publish();
    }

    /// Hands on what is left (last units whole) and ends the stream.
    pub fn finish(&mut self, reason: EndReason) {
        self.end_sections(self.last_media);
        self.output.end(reason);
    }

    pub fn publisher(&mut self) -> &mut Publisher {
        self.output.publisher()
    }

    /// When the last usable packet came.
    pub fn last_media(&self) -> Duration {
        self.last_media
    }

    /// Packets that could not be used: not RTP or RTCP, of an unknown payload type or sender, late, or seen before.
    pub fn faults(&self) -> u64 {
        let late = |s: &Section| s.faults().late + s.faults().duplicate;
        self.faults + self.sections.iter().flatten().map(late).sum::<u64>()
    }

    fn with<T>(
        &mut self,
        section: usize,
        now: Duration,
        act: impl FnOnce(&mut Section, &mut Clock, &mut Vec<Event>) -> T,
    ) -> Option<T> {
        let from = self.sections.get_mut(section)?.as_mut()?;
        let mut events = std::mem::take(&mut self.events);
        let done = act(from, &mut self.clock, &mut events);
        for event in events.drain(..) {
            self.take(section, event, now);
        }
        self.events = events;
        Some(done)
    }

    fn take(&mut self, section: usize, event: Event, now: Duration) {
        let Some(hold) = &mut self.hold else { return self.live(section, event, now) };
        hold.add(section, event);
        if hold.is_full() {
            self.release(now);
        }
    }

    fn live(&mut self, section: usize, event: Event, now: Duration) {
        match event {
            Event::Config(codec, config) => self.configure(section, codec, config),
            Event::Unit(unit) => {
                let Some(id) = self.tracks[section] else { return };
                let time_ns = self.clock.time_ns(section, unit.media_ns);
                self.output.unit(id, unit, time_ns, now);
            }
        }
    }

    fn configure(&mut self, section: usize, codec: Codec, config: TrackConfig) {
        // A new set of tracks begins a new file, and that begins with a key frame.
        self.key_wanted |= self.tracks[section].is_none() && self.output.is_settled();
        self.tracks[section] = Some(self.output.configure(self.tracks[section], codec, config));
    }

    fn is_settled(&self, now: Duration) -> bool {
        let Some((hold, since)) = self.hold.as_ref().and_then(|h| Some((h, h.since?))) else { return false };
        let waited = now.saturating_sub(since);
        if self.is_complete(hold) && !hold.events.is_empty() {
            return true;
        }
        let enough = waited >= SETTLE_WALL || (waited >= SETTLE_LEAST && hold.media_ns >= SETTLE_MEDIA_NS);
        let no_picture = self.sections.iter().enumerate().any(|(i, s)| {
            s.as_ref().is_some_and(|s| s.wants_key_from().is_some()) && hold.config(i).is_none()
        });
        enough && hold.has_config() && (!no_picture || waited >= SETTLE_KEY)
    }

    /// Every track has sent what is needed to begin in sync.
    fn is_complete(&self, hold: &Hold) -> bool {
        let several = self.sections.iter().flatten().count() > 1;
        let mut sections = (0..self.sections.len()).filter(|&i| self.sections[i].is_some());
        sections.all(|i| hold.has_unit(i) && (!several || self.clock.has_report(i)))
    }

    /// Hands on what was held.
    fn release(&mut self, now: Duration) {
        let Some(hold) = self.hold.take() else { return };
        let nonsense = self.clock.settle();
        self.told_nonsense(nonsense);
        let video = |&i: &usize| self.sections[i].as_ref().is_some_and(Section::is_video);
        let (first, then): (Vec<_>, Vec<_>) = (0..self.sections.len()).partition(video);
        for section in first.into_iter().chain(then) {
            match hold.config(section) {
                Some((codec, config)) => self.configure(section, codec, config.clone()),
                None => self.told_silence(section),
            }
        }
        if !self.output.is_settled() {
            self.output.settle();
        }
        self.look_ahead(&hold);
        for (section, event) in hold.events {
            self.live(section, event, now);
        }
    }

    fn look_ahead(&mut self, hold: &Hold) {
        let mut first_ns: Option<i64> = None;
        for (section, id) in self.tracks.iter().enumerate() {
            let Some(id) = *id else { continue };
            let pts_ns: Vec<_> =
                hold.units(section).map(|media_ns| self.clock.look_ns(section, media_ns)).collect();
            self.output.look_ahead(id, &pts_ns);
            let Some(ns) = pts_ns.first().map(|ns| ns - self.output.delay_ns(id)) else { continue };
            first_ns = Some(first_ns.map_or(ns, |first| first.min(ns)));
        }
        if let Some(ns) = first_ns {
            self.output.resume_at(ns);
        }
    }

    fn end_sections(&mut self, now: Duration) {
        for section in 0..self.sections.len() {
            self.with(section, now, |s, clock, events| s.finish(now, clock, events));
        }
        if self.hold.as_ref().is_some_and(Hold::has_config) {
            self.release(now);
        }
        for (section, id) in self.sections.iter_mut().zip(&self.tracks) {
            let (Some(section), Some(id)) = (section, id) else { continue };
            self.output.lost_at_end(*id, section.take_loss());
        }
    }

    fn told_silence(&mut self, section: usize) {
        if self.sections[section].is_none() || self.tracks[section].is_some() {
            return;
        }
        let announce = self.output.publisher().stream().announce();
        tracing::warn!(
            room = %announce.room, stream = %announce.name, section,
            "an announced track has sent nothing that can be used; the stream goes on without it"
        );
    }

    fn told_nonsense(&mut self, nonsense: Option<Nonsense>) {
        let Some(Nonsense { track, by_ns }) = nonsense else { return };
        if std::mem::replace(&mut self.nonsense_told, true) {
            return;
        }
        let announce = self.output.publisher().stream().announce();
        tracing::warn!(
            room = %announce.room, stream = %announce.name, section = track,
            "a sender report that would move audio against video by {} ms is left out, as others like it",
            by_ns / 1_000_000
        );
    }
}

fn sections(media: Vec<Media>) -> Result<Vec<Option<Section>>, DepayError> {
    media
        .into_iter()
        .take(MAX_SECTIONS)
        .enumerate()
        .map(|(i, m)| Section::new(i, m.formats, m.arrival))
        .collect()
}

fn clock(sections: &[Option<Section>]) -> Clock {
    let track = |s: &Option<Section>| s.as_ref().map_or((1, false), |s| (s.clock_rate(), s.is_video()));
    Clock::new(sections.iter().map(track))
}

/// The tracks that the sections of a new connection go on with: the n-th video section with the n-th video track.
fn match_tracks(sections: &[Option<Section>], output: &Output) -> Vec<Option<TrackId>> {
    let (mut videos, mut audios) = (0.., 0..);
    let track = |section: &Option<Section>| match section.as_ref()?.is_video() {
        true => output.track(MediaKind::Video, videos.next()?),
        false => output.track(MediaKind::Audio, audios.next()?),
    };
    sections.iter().map(track).collect()
}

#[cfg(test)]
mod tests;
