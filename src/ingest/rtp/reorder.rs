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
