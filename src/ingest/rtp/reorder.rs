//! Puts the packets of one RTP stream in sequence.

use std::{collections::BTreeMap, time::Duration};

/// How packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// TCP, or behind a jitter buffer: no waiting for late packets.
    InOrder,
    /// UDP: reordered within a bounded window (packets and time).
    Unordered,
}

/// How long a missing packet is waited for. Nobody sends it again here, so this only has to cover what networks
/// reorder: paths that differ by a few milliseconds and bursts from parallel queues, which stay below both limits.
/// More would hold up every picture after a real loss.
const MAX_WAIT: Duration = Duration::from_millis(200);
const MAX_HELD: usize = 64;
/// A step in the sequence that cannot be loss or reordering (RFC 3550 A.1, MAX_DROPOUT): the sender began anew.
const MAX_STEP: i64 = 3_000;
/// So many packets behind the sequence in a row are no stragglers but a sender that began anew a little further back.
const MAX_STRAGGLERS: u32 = 64;
/// The sequence numbers behind the newest of which it is known whether they came.
const WINDOW: i64 = 128;

/// What to do with a packet that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its turn now; `lost` packets before it never came.
    Next { sequence: u64, lost: u64 },
    /// A copy is kept; [`Reorder::next`] tells when its turn is.
    Held,
    /// It came before.
    Duplicate,
    /// Its place has been passed over.
    Late,
    /// Far off the sequence. A copy is kept: if another follows it the sender began anew.
    Stray,
    /// The sender began anew: make a new `Reorder`, and give it this packet, if any, and then the one at hand.
    Restart(Option<Held>),
}

/// A packet kept for later.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub packet: Vec<u8>,
    pub arrived: Duration,
}

/// A held packet whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub sequence: u64,
    pub lost: u64,
    pub held: Held,
}

/// Sequence numbers here are unwrapped: 64 bits whose lower 16 are those of the packet.
pub(super) struct Reorder {
    arrival: Arrival,
    /// The sequence number whose turn is next.
    next: Option<u64>,
    held: BTreeMap<u64, Held>,
    /// Bit n: sequence number `next - 1 - n` came.
    came: u128,
    stray: Option<(u16, Held)>,
    stragglers: u32,
}

impl Reorder {
    pub fn new(arrival: Arrival) -> Self {
        Self { arrival, next: None, held: BTreeMap::new(), came: 0, stray: None, stragglers: 0 }
    }

    /// Decides on one packet. Call [`next`](Self::next) until it has nothing more after each.
    pub fn arrive(&mut self, sequence: u16, packet: &[u8], now: Duration) -> Verdict {
        // Room below for packets that come before the first.
        let next = self.next.unwrap_or((1 << 16) | u64::from(sequence));
        let delta = i64::from(sequence.wrapping_sub(next as u16) as i16);
        if delta.abs() > MAX_STEP {
            return self.stray(sequence, packet, now);
        }
        let at = next.saturating_add_signed(delta);
        if delta < 0 {
            return self.behind(next - at);
        }
        self.stray = None;
        self.stragglers = 0;
        if self.arrival == Arrival::InOrder || delta == 0 {
            self.pass(at);
            return Verdict::Next { sequence: at, lost: at - next };
        }
        if self.held.contains_key(&at) {
            return Verdict::Duplicate;
        }
        self.held.insert(at, Held { packet: packet.to_vec(), arrived: now });
        Verdict::Held
    }

    /// The held packet whose turn it is: in sequence, or those before it are given up.
    pub fn next(&mut self, now: Duration) -> Option<Due> {
        let next = self.next?;
        let (&first, _) = self.held.first_key_value()?;
        if first != next && !self.waited_enough(next, now) {
            return None;
        }
        self.take_first()
    }

    /// As [`next`](Self::next), but nothing is waited for any more.
    pub fn drain(&mut self) -> Option<Due> {
        self.take_first()
    }

    fn take_first(&mut self) -> Option<Due> {
        let next = self.next?;
        let (sequence, held) = self.held.pop_first()?;
        self.pass(sequence);
        Some(Due { sequence, lost: sequence - next, held })
    }

    fn waited_enough(&self, next: u64, now: Duration) -> bool {
        let span = self.held.last_key_value().map_or(0, |(last, _)| last - next);
        let oldest = self.held.values().map(|h| h.arrived).min().unwrap_or(now);
        span > MAX_HELD as u64 || now.saturating_sub(oldest) >= MAX_WAIT
    }

    fn pass(&mut self, sequence: u64) {
        let step = self.next.map_or(1, |next| sequence + 1 - next);
        self.came = u32::try_from(step).ok().and_then(|s| self.came.checked_shl(s)).unwrap_or(0) | 1;
        self.next = Some(sequence + 1);
    }

    fn behind(&mut self, distance: u64) -> Verdict {
        let bit = distance - 1;
        if bit < WINDOW as u64 && self.came >> bit & 1 == 1 {
            return Verdict::Duplicate;
        }
        self.stragglers += 1;
        if self.stragglers > MAX_STRAGGLERS {
            return Verdict::Restart(None);
        }
        if bit < WINDOW as u64 {
            self.came |= 1 << bit;
        }
        Verdict::Late
    }

    fn stray(&mut self, sequence: u16, packet: &[u8], now: Duration) -> Verdict {
        let follows =
            |&(first, _): &(u16, Held)| (1..=MAX_HELD as u16).contains(&sequence.wrapping_sub(first));
        if self.stray.as_ref().is_some_and(follows) {
            return Verdict::Restart(self.stray.take().map(|(_, first)| first));
        }
        self.stray = Some((sequence, Held { packet: packet.to_vec(), arrived: now }));
        Verdict::Stray
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sequence numbers in the order they were given out, `-n` for n lost.
    fn run(arrival: Arrival, arrivals: &[(u16, u32)], until: Duration) -> Vec<i64> {
        let (mut reorder, mut out) = (Reorder::new(arrival), Vec::new());
        let mut give = |sequence: u64, lost: u64| {
            out.extend((lost > 0).then_some(-(lost as i64)));
            out.push(i64::from(sequence as u16));
        };
        for &(sequence, at) in arrivals {
            if let Verdict::Next { sequence, lost } = reorder.arrive(sequence, &[], MS * at) {
                give(sequence, lost);
            }
            while let Some(due) = reorder.next(MS * at) {
                give(due.sequence, due.lost);
            }
        }
        while let Some(due) = reorder.next(until) {
            give(due.sequence, due.lost);
        }
        out
    }

    #[test]
    fn packets_are_put_in_sequence() {
        use Arrival::{InOrder, Unordered};
        for (arrival, arrivals, until_ms, expected) in [
            (Unordered, &[(65_534, 0), (65_535, 0), (0, 0), (1, 0)][..], 0, &[65_534, 65_535, 0, 1][..]),
            (Unordered, &[(5, 0), (7, 1), (6, 2), (8, 3)], 3, &[5, 6, 7, 8]),
            (Unordered, &[(5, 0), (5, 0), (7, 1), (7, 1), (6, 2), (6, 3)], 3, &[5, 6, 7]),
            (Unordered, &[(5, 0), (7, 1)], 200, &[5]),
            (Unordered, &[(5, 0), (7, 1)], 201, &[5, -1, 7]),
            (Unordered, &[(5, 0), (7, 1), (9, 100)], 201, &[5, -1, 7]),
            (Unordered, &[(5, 0), (7, 1), (6, 202)], 202, &[5, 6, 7]),
            (InOrder, &[(5, 0), (7, 1), (6, 2), (8, 3)], 3, &[5, -1, 7, 8]),
        ] {
            assert_eq!(
                run(arrival, arrivals, MS * until_ms),
                expected,
                "{arrival:?} {arrivals:?} {until_ms}"
            );
        }
    }

    #[test]
    fn a_missing_packet_is_waited_for_no_longer_than_64_packets() {
        let arrivals: Vec<_> = std::iter::once((0, 0)).chain((2..=66).map(|s| (s, 0))).collect();
        let mut expected = vec![0, -1];
        expected.extend(2..=66);
        assert_eq!(run(Arrival::Unordered, &arrivals, Duration::ZERO), expected);
        assert_eq!(run(Arrival::Unordered, &arrivals[..64], Duration::ZERO), [0]);
    }

    #[test]
    fn a_jump_of_the_sequence_is_a_restart_once_a_second_packet_follows() {
        let mut reorder = Reorder::new(Arrival::Unordered);
        assert_eq!(reorder.arrive(10, &[], MS), Verdict::Next { sequence: 65_546, lost: 0 });
        assert_eq!(reorder.arrive(30_000, &[7], MS), Verdict::Stray);
        assert_eq!(reorder.arrive(11, &[], MS), Verdict::Next { sequence: 65_547, lost: 0 });
        assert_eq!(reorder.arrive(30_001, &[8], MS), Verdict::Stray);
        let first = Held { packet: vec![8], arrived: MS };
        assert_eq!(reorder.arrive(30_002, &[], 2 * MS), Verdict::Restart(Some(first)));
    }

    #[test]
    fn late_packets_are_dropped_until_they_are_too_many() {
        let mut reorder = Reorder::new(Arrival::Unordered);
        reorder.arrive(2_000, &[], MS);
        for n in 0..64 {
            assert_eq!(reorder.arrive(1_000 + n, &[], MS), Verdict::Late);
        }
        assert_eq!(reorder.arrive(1_064, &[], MS), Verdict::Restart(None));
    }

    proptest::proptest! {
        /// Whatever is lost, doubled and moved by less than the window: what comes out is in sequence, once each, and with
        /// what is told as lost adds up.
        #[test]
        fn nothing_is_given_out_twice_or_out_of_sequence(
            fates in proptest::collection::vec((0u8..10, 0u64..20), 1..400),
            first in proptest::num::u16::ANY,
        ) {
            let mut arrivals = Vec::new();
            for (n, (fate, moved)) in fates.iter().enumerate() {
                let copies = match fate { 0 => 0, 1 => 2, _ => 1 };
                // The first comes first: packets before it are of no use.
                let moved = if n == 0 { 0 } else { *moved };
                let copies = if n == 0 { 1 } else { copies };
                arrivals.extend((0..copies).map(|c| (n as u64 + moved + c, n)));
            }
            arrivals.sort();
            let arrivals: Vec<_> =
                arrivals.iter().map(|(at, n)| (first.wrapping_add(*n as u16), *at as u32)).collect();
            let out = run(Arrival::Unordered, &arrivals, MS * 10_000);
            let mut next = first;
            for step in out {
                match step {
                    lost if lost < 0 => next = next.wrapping_add(lost.unsigned_abs() as u16),
                    sequence => {
                        proptest::prop_assert_eq!(sequence, i64::from(next));
                        next = next.wrapping_add(1);
                    }
                }
            }
        }
    }
}
