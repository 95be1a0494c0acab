//! One m= section: from its packets to its access units, with what was lost between them.

use super::{
    Format,
    clock::{Clock, Nonsense},
    depay::{self, Depay, DepayError, Output, Packet, TrackConfig},
    reorder::{Arrival, Due, Held, Reorder, Verdict},
    report::Reception,
    sender::{Choice, Senders},
};
use crate::media::{Codec, MediaKind};
use rtp_types::RtpPacket;
use std::time::Duration;

/// What was lost before an access unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    pub packets: u64,
    pub frames: u64,
}

/// One whole access unit of a section.
#[derive(Debug)]
pub(super) struct Arrived {
    pub payload: Vec<u8>,
    /// On the axis of the section's [`Clock`] track.
    pub media_ns: i64,
    pub key: bool,
    pub duration_ns: Option<u64>,
    pub loss: Option<Loss>,
    pub now: Duration,
}

#[derive(Debug)]
pub(super) enum Event {
    Config(Codec, TrackConfig),
    Unit(Arrived),
}

/// Packets that were not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Not RTP, or of a payload type or sender that is not expected.
    pub foreign: u64,
    pub late: u64,
    pub duplicate: u64,
    /// Times the sender began anew.
    pub restarts: u64,
}

pub(super) struct Section {
    /// Index of the section and of its track in the [`Clock`].
    index: usize,
    arrival: Arrival,
    formats: Vec<Format>,
    /// Index into `formats`.
    format: usize,
    depay: Box<dyn Depay>,
    outputs: Vec<Output>,
    reorder: Reorder,
    senders: Senders,
    early_report: Option<(u32, u64, u32)>,
    awaits_key: bool,
    /// Something was given out.
    began: bool,
    loss: Option<Loss>,
    /// `Depay::dropped` when it was last looked at.
    dropped: u64,
    faults: Faults,
}

impl Section {
    /// `None` for a section without formats.
    pub fn new(index: usize, formats: Vec<Format>, arrival: Arrival) -> Result<Option<Self>, DepayError> {
        for format in &formats {
            depay::make(format)?;
        }
        let Some(first) = formats.first() else { return Ok(None) };
        Ok(Some(Self {
            index,
            arrival,
            format: 0,
            depay: depay::make(first)?,
            awaits_key: first.codec.kind() == MediaKind::Video,
            formats,
            outputs: Vec::new(),
            reorder: Reorder::new(arrival),
            senders: Senders::default(),
            early_report: None,
            began: false,
            loss: None,
            dropped: 0,
            faults: Faults::default(),
        }))
    }

    pub fn is_video(&self) -> bool {
        self.codec().kind() == MediaKind::Video
    }

    pub fn clock_rate(&self) -> u32 {
        self.formats[self.format].clock_rate
    }

    fn codec(&self) -> Codec {
        self.formats[self.format].codec
    }

    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// The sender whose units cannot be used before its next key frame.
    pub fn wants_key_from(&self) -> Option<u32> {
        self.sender_ssrc().filter(|_| self.awaits_key)
    }

    pub fn sender_ssrc(&self) -> Option<u32> {
        self.senders.ssrc()
    }

    pub fn reception(&mut self) -> Option<&mut Reception> {
        self.senders.reception()
    }

    /// One packet from the socket. False: of no use.
    pub fn rtp(&mut self, packet: &[u8], now: Duration, clock: &mut Clock, out: &mut Vec<Event>) -> bool {
        let Ok(parsed) = RtpPacket::parse(packet) else {
            self.faults.foreign += 1;
            return false;
        };
        let known = self.format_of(parsed.payload_type()).is_some();
        match self.senders.choose(parsed.ssrc(), known, packet, now) {
            Choice::Ours => {}
            Choice::First => self.begin(&parsed, now, clock),
            Choice::TakesOver(first) => self.replace(&first, now, clock, out),
            Choice::Foreign => {
                self.faults.foreign += 1;
                return false;
            }
        }
        self.arrived(&parsed, packet, now, clock, out);
        true
    }

    /// Packets whose missing predecessors have been waited for long enough.
    pub fn tick(&mut self, now: Duration, clock: &mut Clock, out: &mut Vec<Event>) {
        while let Some(due) = self.reorder.next(now) {
            self.due(&due, clock, out);
        }
    }

    /// Gives out what is left.
    pub fn finish(&mut self, now: Duration, clock: &mut Clock, out: &mut Vec<Event>) {
        self.drain(clock, out);
        let mut outputs = std::mem::take(&mut self.outputs);
        self.depay.finish(&mut outputs);
        self.take(&mut outputs, now, clock, out);
    }

    /// What was lost after the last unit.
    pub fn take_loss(&mut self) -> Option<Loss> {
        self.loss.take()
    }

    /// A sender report; kept when no packet of its sender came yet.
    pub fn sender_report(
        &mut self,
        ssrc: u32,
        ntp: u64,
        rtp: u32,
        now: Duration,
        clock: &mut Clock,
    ) -> Option<Nonsense> {
        match self.senders.reception().filter(|r| r.ssrc() == ssrc) {
            Some(reception) => {
                reception.sender_report(ntp, now);
                clock.report(self.index, ntp, rtp)
            }
            None => {
                self.early_report = Some((ssrc, ntp, rtp));
                None
            }
        }
    }

    /// The sender said that it ends: another may follow at once.
    pub fn bye(&mut self, ssrc: u32) {
        self.senders.bye(ssrc);
    }

    fn begin(&mut self, parsed: &RtpPacket<'_>, now: Duration, clock: &mut Clock) {
        if let Some(format) = self.format_of(parsed.payload_type()) {
            self.format = format;
            self.renew_depay();
        }
        let reception = Reception::new(parsed.ssrc(), self.clock_rate(), parsed.sequence_number());
        self.senders.begin(reception, now);
        clock.restart(self.index, self.clock_rate(), parsed.timestamp(), now);
    }

    /// Another sender, whose first packet was `first`.
    fn replace(&mut self, first: &Held, now: Duration, clock: &mut Clock, out: &mut Vec<Event>) {
        let Ok(head) = RtpPacket::parse(&first.packet) else { return };
        self.finish(now, clock, out);
        self.faults.restarts += 1;
        self.begin(&head, first.arrived, clock);
        self.reorder = Reorder::new(self.arrival);
        self.missed(0);
        tracing::debug!(section = self.index, ssrc = head.ssrc(), "another RTP sender took over");
        self.arrived(&head, &first.packet, first.arrived, clock, out);
    }

    /// Codec state of the old sender is of no use; the format was checked when the section was made.
    fn renew_depay(&mut self) {
        if let Ok(depay) = depay::make(&self.formats[self.format]) {
            self.depay = depay;
            self.dropped = 0;
        }
    }

    fn arrived(
        &mut self,
        parsed: &RtpPacket<'_>,
        packet: &[u8],
        now: Duration,
        clock: &mut Clock,
        out: &mut Vec<Event>,
    ) {
        let sequence = parsed.sequence_number();
        let mut verdict = self.reorder.arrive(sequence, packet, now);
        if let Verdict::Restart(first) = verdict {
            self.restart_sequence(parsed, first.as_ref(), now, clock, out);
            verdict = self.reorder.arrive(sequence, packet, now);
        }
        if verdict != Verdict::Stray {
            self.received(parsed, now);
        }
        match verdict {
            Verdict::Next { lost, .. } => self.deliver(parsed, lost, now, clock, out),
            Verdict::Duplicate => self.faults.duplicate += 1,
            Verdict::Late => self.faults.late += 1,
            Verdict::Held | Verdict::Stray | Verdict::Restart(_) => {}
        }
        self.tick(now, clock, out);
    }

    fn received(&mut self, parsed: &RtpPacket<'_>, now: Duration) {
        if let Some(reception) = self.senders.reception() {
            reception.packet(parsed.sequence_number(), parsed.timestamp(), now);
        }
    }

    /// The same sender goes on with another sequence.
    fn restart_sequence(
        &mut self,
        parsed: &RtpPacket<'_>,
        first: Option<&Held>,
        now: Duration,
        clock: &mut Clock,
        out: &mut Vec<Event>,
    ) {
        self.drain(clock, out);
        self.faults.restarts += 1;
        self.reorder = Reorder::new(self.arrival);
        self.depay.lost();
        self.missed(0);
        let head = first.and_then(|held| Some((RtpPacket::parse(&held.packet).ok()?, held)));
        let (start, at) = head.as_ref().map_or((parsed, now), |(head, held)| (head, held.arrived));
        if let Some(reception) = self.senders.reception() {
            reception.restart(start.sequence_number());
        }
        clock.resync(self.index, start.timestamp(), at);
        if let Some((head, held)) = head
            && let Verdict::Next { .. } = self.reorder.arrive(head.sequence_number(), &held.packet, at)
        {
            self.received(&head, at);
            self.deliver(&head, 0, at, clock, out);
        }
    }

    fn drain(&mut self, clock: &mut Clock, out: &mut Vec<Event>) {
        while let Some(due) = self.reorder.drain() {
            self.due(&due, clock, out);
        }
    }

    fn due(&mut self, due: &Due, clock: &mut Clock, out: &mut Vec<Event>) {
        if let Ok(parsed) = RtpPacket::parse(&due.held.packet) {
            self.deliver(&parsed, due.lost, due.held.arrived, clock, out);
        }
    }

    /// One packet in sequence, `lost` before it missing.
    fn deliver(
        &mut self,
        parsed: &RtpPacket<'_>,
        lost: u64,
        now: Duration,
        clock: &mut Clock,
        out: &mut Vec<Event>,
    ) {
        let mut outputs = std::mem::take(&mut self.outputs);
        if lost > 0 {
            self.depay.lost();
            self.missed(lost);
        }
        match self.format_of(parsed.payload_type()) {
            Some(format) => {
                self.switch_format(format, parsed.timestamp(), now, clock, out);
                clock.packet(self.index, parsed.timestamp(), now);
                self.use_early_report(now, clock);
                let packet = Packet {
                    payload: parsed.payload(),
                    timestamp: parsed.timestamp(),
                    marker: parsed.marker_bit(),
                    sequence: parsed.sequence_number(),
                };
                self.depay.push(packet, &mut outputs);
            }
            // Comfort noise, telephone events: only their place in the sequence counts.
            None => self.faults.foreign += 1,
        }
        self.take(&mut outputs, now, clock, out);
    }

    fn switch_format(
        &mut self,
        format: usize,
        timestamp: u32,
        now: Duration,
        clock: &mut Clock,
        out: &mut Vec<Event>,
    ) {
        if format == self.format {
            return;
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        self.depay.finish(&mut outputs);
        self.take(&mut outputs, now, clock, out);
        if self.formats[format].clock_rate != self.clock_rate() {
            clock.restart(self.index, self.formats[format].clock_rate, timestamp, now);
        }
        self.format = format;
        self.renew_depay();
        self.awaits_key = self.is_video();
    }

    fn use_early_report(&mut self, now: Duration, clock: &mut Clock) {
        let sender = self.sender_ssrc();
        if let Some((ssrc, ntp, rtp)) = self.early_report.take_if(|(ssrc, ..)| sender == Some(*ssrc)) {
            self.sender_report(ssrc, ntp, rtp, now, clock);
        }
    }

    fn missed(&mut self, packets: u64) {
        self.awaits_key = self.is_video();
        self.loss.get_or_insert_default().packets += packets;
    }

    /// Hands `outputs` on, emptied, with their memory kept for the next packet.
    fn take(&mut self, outputs: &mut Vec<Output>, now: Duration, clock: &Clock, out: &mut Vec<Event>) {
        self.look_for_drops();
        for output in outputs.drain(..) {
            match output {
                Output::Config(config) => out.push(Event::Config(self.codec(), config)),
                Output::Unit(unit) => self.unit(unit, now, clock, out),
            }
        }
        self.outputs = std::mem::take(outputs);
    }

    /// A unit the depayloader had to drop is a loss, also when every packet came.
    fn look_for_drops(&mut self) {
        let dropped = self.depay.dropped();
        let frames = dropped.saturating_sub(std::mem::replace(&mut self.dropped, dropped));
        // Before the first key frame nothing that is dropped was asked for.
        if frames == 0 || !self.began {
            return;
        }
        self.missed(0);
        self.loss.get_or_insert_default().frames += frames;
    }

    fn unit(&mut self, unit: depay::Unit, now: Duration, clock: &Clock, out: &mut Vec<Event>) {
        if self.awaits_key && !unit.key {
            if let Some(loss) = self.loss.as_mut().filter(|_| self.began) {
                loss.frames += 1;
            }
            return;
        }
        self.awaits_key = false;
        self.began = true;
        out.push(Event::Unit(Arrived {
            media_ns: clock.media_ns(self.index, unit.timestamp),
            key: unit.key,
            duration_ns: unit.duration.map(|ticks| clock.ticks_ns(self.index, ticks)),
            payload: unit.payload,
            loss: self.loss.take(),
            now,
        }));
    }

    fn format_of(&self, payload_type: u8) -> Option<usize> {
        self.formats.iter().position(|f| f.payload_type == payload_type)
    }
}
