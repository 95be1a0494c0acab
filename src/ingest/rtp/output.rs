//! The hub's side of a receiver: tracks, decoding times, the running time, and what is told about losses.

use super::{
    depay::TrackConfig,
    dts::{Dts, Times},
    section::{Arrived, Loss},
};
use crate::{
    hub::{EndReason, Publisher},
    media::{Codec, Frame, Gap, GapKind, MediaKind, Timeline, Track, TrackId, Tracks},
};
use gstreamer as gst;
use std::time::Duration;

/// Losses of audio within this time are told as one.
const AUDIO_LOSS_NS: u64 = 1_000_000_000;
/// Access units handed on at once: a packet of a few kilobytes can hold thousands, each with its overhead.
const MAX_BATCH: usize = 256;
/// A sender that began anew lost nothing that is known; a hole as long as this is told all the same.
const UNKNOWN_LOSS_NS: u64 = 500_000_000;

pub(super) struct Output {
    publisher: Publisher,
    timeline: Timeline,
    slots: Vec<Slot>,
    /// Access units not yet handed to the hub.
    batch: Vec<Frame>,
    settled: bool,
    began: bool,
    /// The source came back: its next unit goes behind all before it.
    resuming: bool,
}

/// One track of the hub's stream.
struct Slot {
    track: Track,
    dts: Dts,
    last: Option<LastUnit>,
    /// Audio losses not yet told.
    losses: Option<Losses>,
}

#[derive(Clone, Copy)]
struct LastUnit {
    dts_ns: u64,
    end_ns: u64,
}

#[derive(Clone, Copy)]
struct Losses {
    at_ns: u64,
    by_ns: u64,
    loss: Loss,
}

impl Output {
    pub fn new(publisher: Publisher) -> Self {
        Self {
            publisher,
            timeline: Timeline::default(),
            slots: Vec::new(),
            batch: Vec::new(),
            settled: false,
            began: false,
            resuming: false,
        }
    }

    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The `n`-th track of `kind`.
    pub fn track(&self, kind: MediaKind, n: usize) -> Option<TrackId> {
        self.slots.iter().map(|s| &s.track).filter(|t| t.kind() == kind).nth(n).map(|t| t.id)
    }

    /// Describes a track, or adds one; the hub hears of what is new.
    pub fn configure(&mut self, id: Option<TrackId>, codec: Codec, config: TrackConfig) -> TrackId {
        let index = id.map_or(self.slots.len(), |id| usize::from(id.0));
        let id = TrackId(index as u8);
        let TrackConfig { caps, size, rate, channels, reorder } = config;
        let track = Track { id, codec, caps, size, rate, channels };
        match self.slots.get_mut(index) {
            Some(slot) if slot.track == track => {
                slot.dts.set_depth(reorder);
                return id;
            }
            Some(slot) => slot.track = track,
            None => self.slots.push(Slot { track, dts: Dts::new(), last: None, losses: None }),
        }
        self.slots[index].dts.set_depth(reorder);
        if self.settled {
            self.tell_tracks();
        }
        id
    }

    /// No further track is waited for.
    pub fn settle(&mut self) {
        self.settled = true;
        self.tell_tracks();
        self.publisher.settle();
    }

    fn tell_tracks(&mut self) {
        self.publish();
        let tracks = self.slots.iter().map(|s| s.track.clone()).collect();
        self.publisher.set_tracks(Tracks::new(tracks));
    }

    /// Presentation times of a track that are about to come.
    pub fn look_ahead(&mut self, id: TrackId, pts_ns: &[i64]) {
        if let Some(slot) =
            self.slots.get_mut(usize::from(id.0)).filter(|s| s.track.kind() == MediaKind::Video)
        {
            slot.dts.look_ahead(pts_ns);
        }
    }

    /// How much before its presentation the first unit of a track decodes, ns.
    pub fn delay_ns(&self, id: TrackId) -> i64 {
        self.slots.get(usize::from(id.0)).map_or(0, |slot| slot.dts.delay_ns())
    }

    /// One access unit, shown at `time_ns` of the publisher's clock. `now` is later than its arrival when it was held.
    pub fn unit(&mut self, id: TrackId, unit: Arrived, time_ns: i64, now: Duration) {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)) else { return };
        let video = slot.track.kind() == MediaKind::Video;
        let times = if video { slot.dts.next(time_ns) } else { slot.dts.next_in_order(time_ns) };
        let (dts_ns, pts_ns) = self.place(id, times, unit.now);
        let end_ns = self.end_ns(id, dts_ns, unit.duration_ns);
        self.told_losses(id, unit.loss, dts_ns);
        self.slots[usize::from(id.0)].last = Some(LastUnit { dts_ns, end_ns });
        if !std::mem::replace(&mut self.began, true) {
            self.publisher.began(dts_ns, now.saturating_sub(unit.now));
        }
        let mut buffer = gst::Buffer::from_slice(unit.payload);
        let frame = buffer.get_mut().expect("a new buffer has one owner");
        frame.set_dts(gst::ClockTime::from_nseconds(dts_ns));
        frame.set_pts(gst::ClockTime::from_nseconds(pts_ns));
        frame.set_duration(unit.duration_ns.map(gst::ClockTime::from_nseconds));
        if !unit.key {
            frame.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        self.batch.push(Frame { track: id, buffer });
        if self.batch.len() >= MAX_BATCH {
            self.publish();
        }
    }

    /// Decoding and presentation time on the running time, ns.
    fn place(&mut self, id: TrackId, times: Times, now: Duration) -> (u64, u64) {
        if std::mem::take(&mut self.resuming) {
            self.timeline.resume(times.dts_ns);
        }
        let step = self.timeline.step(id, times.dts_ns, now);
        if let Some(gap) = step.jump {
            self.publish();
            self.publisher.gap(gap);
        }
        // The timeline does not go back; a decoding time must rise.
        let last = self.slots[usize::from(id.0)].last;
        let dts_ns = last.map_or(step.dts_ns, |last| step.dts_ns.max(last.dts_ns + 1));
        let pts_ns = dts_ns.saturating_add_signed(times.pts_ns.saturating_sub(times.dts_ns));
        (dts_ns, pts_ns)
    }

    /// Where a unit is thought to end: by its duration, or as long after it as it is after the one before.
    fn end_ns(&self, id: TrackId, dts_ns: u64, duration_ns: Option<u64>) -> u64 {
        let step_ns = || self.slots[usize::from(id.0)].last.map_or(0, |last| dts_ns - last.dts_ns);
        dts_ns.saturating_add(duration_ns.unwrap_or_else(step_ns))
    }

    /// Tells what was lost before the unit at `dts_ns`: video at once, audio when a second of losses is together.
    fn told_losses(&mut self, id: TrackId, loss: Option<Loss>, dts_ns: u64) {
        let slot = &mut self.slots[usize::from(id.0)];
        let video = slot.track.kind() == MediaKind::Video;
        if let Some(loss) = loss {
            let at_ns = slot.last.map_or(dts_ns, |last| last.end_ns.min(dts_ns));
            let by_ns = dts_ns - at_ns;
            if loss != Loss::default() || by_ns > UNKNOWN_LOSS_NS {
                slot.losses.get_or_insert(Losses { at_ns, by_ns: 0, loss: Loss::default() }).add(loss, by_ns);
            }
        }
        let due = |losses: &mut Losses| video || dts_ns.saturating_sub(losses.at_ns) >= AUDIO_LOSS_NS;
        if let Some(losses) = slot.losses.take_if(due) {
            self.tell(losses);
        }
    }

    /// What was lost at the end of a track, after its last unit.
    pub fn lost_at_end(&mut self, id: TrackId, loss: Option<Loss>) {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)) else { return };
        let at_ns = slot.last.map_or(0, |last| last.end_ns);
        let mut losses = slot.losses.take();
        if let Some(loss) = loss.filter(|l| *l != Loss::default()) {
            losses.get_or_insert(Losses { at_ns, by_ns: 0, loss: Loss::default() }).add(loss, 0);
        }
        if let Some(losses) = losses {
            self.tell(losses);
        }
    }

    fn tell(&mut self, losses: Losses) {
        self.gap(Gap {
            kind: GapKind::PacketLoss,
            at_ms: losses.at_ns / 1_000_000,
            by_ms: (losses.by_ns / 1_000_000) as i64,
            at: None,
            frames: losses.loss.frames,
            packets: losses.loss.packets,
        });
    }

    fn gap(&mut self, gap: Gap) {
        self.publish();
        self.publisher.gap(gap);
    }

    /// The source came back after `away`.
    pub fn resume(&mut self, away: Duration) {
        let ends = self.slots.iter().filter_map(|s| s.last).map(|last| last.end_ns);
        let Some(at_ns) = ends.max() else { return };
        self.resuming = true;
        let by_ms = i64::try_from(away.as_millis()).unwrap_or(i64::MAX);
        let at_ms = at_ns / 1_000_000;
        self.gap(Gap { kind: GapKind::Reconnect, at_ms, by_ms, at: None, frames: 0, packets: 0 });
        for slot in &mut self.slots {
            slot.dts = Dts::new();
        }
    }

    /// The first decoding time after [`resume`](Self::resume), when it is known that others begin later.
    pub fn resume_at(&mut self, dts_ns: i64) {
        if std::mem::take(&mut self.resuming) {
            self.timeline.resume(dts_ns);
        }
    }

    /// Hands the access units so far to the hub.
    pub fn publish(&mut self) {
        // A tick without media costs no lock.
        if !self.batch.is_empty() {
            self.publisher.publish(&mut self.batch);
        }
    }

    pub fn end(&mut self, reason: EndReason) {
        self.publish();
        self.publisher.end(reason);
    }
}

impl Losses {
    fn add(&mut self, loss: Loss, by_ns: u64) {
        self.by_ns += by_ns;
        self.loss.packets += loss.packets;
        self.loss.frames += loss.frames;
    }
}
