//! Receiver reports (RFC 3550 6.4.2) and key frame requests (RFC 4585 6.3.1).

use rtcp_types::{
    Compound, PayloadFeedback, Pli, ReceiverReport, ReportBlock, Sdes, SdesChunk, SdesItem, prelude::*,
};
use std::time::Duration;

/// Largest report: RR with one block (32), SDES with our name, PLI (12).
const MAX_REPORT_BYTES: usize = 128;
const MAX_CUMULATIVE_LOST: u64 = 0x7F_FFFF;

/// What a receiver report says about one sender.
pub(super) struct Reception {
    ssrc: u32,
    rate: u64,
    first_sequence: u64,
    highest_sequence: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    /// Arrival − timestamp of the last packet, ticks.
    transit: Option<u32>,
    /// Interarrival jitter in ticks, 28.4 bits (RFC 3550 A.8).
    jitter: u64,
    /// The middle 32 bits of the last sender report's NTP time, and when it came.
    last_report: Option<(u32, Duration)>,
}

impl Reception {
    pub fn new(ssrc: u32, clock_rate: u32, sequence: u16) -> Self {
        let sequence = u64::from(sequence);
        Self {
            ssrc,
            rate: u64::from(clock_rate),
            first_sequence: sequence,
            highest_sequence: sequence,
            received: 0,
            expected_before: 0,
            received_before: 0,
            transit: None,
            jitter: 0,
            last_report: None,
        }
    }

    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// A packet came, in any order.
    pub fn packet(&mut self, sequence: u16, timestamp: u32, now: Duration) {
        self.received += 1;
        let ahead = sequence.wrapping_sub(self.highest_sequence as u16) as i16;
        self.highest_sequence += u64::try_from(ahead).unwrap_or(0);
        let arrival = (now.as_nanos() * u128::from(self.rate) / 1_000_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let difference = u64::from((transit.wrapping_sub(before) as i32).unsigned_abs());
            self.jitter += difference;
            self.jitter -= (self.jitter - difference + 8) >> 4;
        }
    }

    /// The sender's sequence began anew.
    pub fn restart(&mut self, sequence: u16) {
        let (rate, last_report) = (self.rate, self.last_report);
        *self = Self { rate, last_report, ..Self::new(self.ssrc, 0, sequence) };
    }

    /// A sender report came.
    pub fn sender_report(&mut self, ntp: u64, now: Duration) {
        self.last_report = Some(((ntp >> 16) as u32, now));
    }

    fn expected(&self) -> u64 {
        self.highest_sequence - self.first_sequence + 1
    }

    /// The lost part of what was expected since the last report, in 1/256 (RFC 3550 A.3).
    fn fraction_lost(&mut self) -> u8 {
        let expected = self.expected() - self.expected_before;
        let received = self.received - self.received_before;
        (self.expected_before, self.received_before) = (self.expected(), self.received);
        match expected.saturating_sub(received) {
            0 => 0,
            lost => u8::try_from(lost * 256 / expected).unwrap_or(u8::MAX),
        }
    }

    fn block(&mut self, now: Duration) -> rtcp_types::ReportBlockBuilder {
        let lost = self.expected().saturating_sub(self.received).min(MAX_CUMULATIVE_LOST);
        let (last_report, delay) = match self.last_report {
            Some((ntp, at)) => (ntp, now.saturating_sub(at).as_nanos() * 65_536 / 1_000_000_000),
            None => (0, 0),
        };
        ReportBlock::builder(self.ssrc)
            .fraction_lost(self.fraction_lost())
            .cumulative_lost(lost as u32)
            .extended_sequence_number(self.highest_sequence as u32)
            .interarrival_jitter(u32::try_from(self.jitter >> 4).unwrap_or(u32::MAX))
            .last_sender_report_timestamp(last_report)
            .delay_since_last_sender_report_timestamp(u32::try_from(delay).unwrap_or(u32::MAX))
    }
}

/// Who reports.
pub(super) struct Reporter {
    ssrc: u32,
    cname: String,
}

impl Reporter {
    /// With a name of 96 random bits (RFC 7022 4.2).
    pub fn random() -> Self {
        let name: [u8; 12] = rand::random();
        Self { ssrc: rand::random(), cname: hex::encode(name) }
    }

    /// Appends a compound packet to `out`: RR, SDES and, with `pli`, a request for a key frame of `reception`'s sender.
    pub fn write(&self, reception: Option<&mut Reception>, pli: bool, now: Duration, out: &mut Vec<u8>) {
        let mut report = ReceiverReport::builder(self.ssrc);
        let sender = reception.as_ref().map(|r| r.ssrc);
        if let Some(reception) = reception {
            report = report.add_report_block(reception.block(now));
        }
        let name = SdesItem::builder(SdesItem::CNAME, &self.cname);
        let names = Sdes::builder().add_chunk(SdesChunk::builder(self.ssrc).add_item(name));
        let mut compound = Compound::builder().add_packet(report).add_packet(names);
        if let Some(sender) = sender.filter(|_| pli) {
            let request = PayloadFeedback::builder_owned(Pli::builder());
            compound = compound.add_packet(request.sender_ssrc(self.ssrc).media_ssrc(sender));
        }
        let mut bytes = [0; MAX_REPORT_BYTES];
        let written = compound.write_into(&mut bytes);
        debug_assert!(written.is_ok(), "a report of fixed shape fits: {written:?}");
        out.extend_from_slice(&bytes[..written.unwrap_or(0)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtcp_types::Packet;

    const SECOND: Duration = Duration::from_secs(1);

    fn written(reception: Option<&mut Reception>, pli: bool) -> Vec<u8> {
        let mut out = Vec::new();
        Reporter { ssrc: 7, cname: "name".into() }.write(reception, pli, 10 * SECOND, &mut out);
        out
    }

    #[test]
    fn a_report_says_what_was_lost() {
        let mut reception = Reception::new(9, 8_000, 65_530);
        // 20 ms each; three of 16 are missing, over the wrap.
        for n in (0..16u16).filter(|n| ![3, 8, 9].contains(n)) {
            let at = Duration::from_millis(20 * u64::from(n));
            reception.packet(65_530u16.wrapping_add(n), 160 * u32::from(n), at);
        }
        reception.sender_report(0x1234_5678_9ABC_DEF0, 8 * SECOND);
        let out = written(Some(&mut reception), true);
        let packets: Vec<_> = Compound::parse(&out).expect("compound").map(|p| p.expect("packet")).collect();
        let [Packet::Rr(rr), Packet::Sdes(sdes), Packet::PayloadFeedback(feedback)] = &packets[..] else {
            panic!("{packets:?}");
        };
        let block = rr.report_blocks().next().expect("a block");
        assert_eq!((rr.ssrc(), block.ssrc()), (7, 9));
        assert_eq!((block.fraction_lost(), block.cumulative_lost()), (48, 3));
        assert_eq!(block.extended_sequence_number(), 65_545);
        assert_eq!(block.interarrival_jitter(), 0);
        assert_eq!(block.last_sender_report_timestamp(), 0x5678_9ABC);
        assert_eq!(block.delay_since_last_sender_report_timestamp(), 2 << 16);
        let chunk = sdes.chunks().next().expect("a chunk");
        assert_eq!((chunk.ssrc(), chunk.items().next().expect("an item").value()), (7, &b"name"[..]));
        assert_eq!((feedback.sender_ssrc(), feedback.media_ssrc()), (7, 9));
        assert!(feedback.parse_fci::<Pli>().is_ok());

        let again = written(Some(&mut reception), false);
        let Some(Ok(Packet::Rr(rr))) = Compound::parse(&again).expect("compound").next() else { panic!() };
        let block = rr.report_blocks().next().expect("a block");
        assert_eq!((block.fraction_lost(), block.cumulative_lost()), (0, 3));
    }

    #[test]
    fn a_report_before_the_first_packet_is_empty() {
        let out = written(None, true);
        let mut packets = Compound::parse(&out).expect("compound");
        assert!(matches!(packets.next(), Some(Ok(Packet::Rr(rr))) if rr.n_reports() == 0));
        assert!(matches!(packets.next(), Some(Ok(Packet::Sdes(_)))));
        assert!(packets.next().is_none());
    }

    #[test]
    fn jitter_follows_the_arrival() {
        let mut reception = Reception::new(9, 90_000, 0);
        for n in 0..200u16 {
            let late = if n % 2 == 0 { 0 } else { 4 };
            let at = Duration::from_millis(20 * u64::from(n) + late);
            reception.packet(n, 1_800 * u32::from(n), at);
        }
        assert!((4 * 90 - 1..=4 * 90).contains(&(reception.jitter >> 4)), "every step is 4 ms off");
    }
}
