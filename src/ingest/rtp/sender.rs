//! Whose packets a section takes: one sender (SSRC) at a time.

use super::{reorder::Held, report::Reception};
use std::time::Duration;

/// How long a sender that was left is not gone back to while the new one sends: its last packets are on their way still.
const STRAGGLE: Duration = Duration::from_secs(1);

/// What becomes of a packet.
pub(super) enum Choice {
    /// It is of the section's sender.
    Ours,
    /// The section has no sender yet: this is the one.
    First,
    /// Another sender takes over; this was its first packet. One packet may be anybody's, so that only the second
    /// convinces (RFC 3550 A.1).
    TakesOver(Held),
    Foreign,
}

#[derive(Default)]
pub(super) struct Senders {
    current: Option<Sender>,
    candidate: Option<(u32, Held)>,
}

struct Sender {
    reception: Reception,
    heard: Duration,
    /// The sender before this one.
    left: Option<u32>,
    ended: bool,
}

impl Senders {
    /// `known`: its payload type is one of the section's.
    pub fn choose(&mut self, ssrc: u32, known: bool, packet: &[u8], now: Duration) -> Choice {
        let Some(current) = &mut self.current else {
            return if known { Choice::First } else { Choice::Foreign };
        };
        if current.reception.ssrc() == ssrc {
            current.heard = now;
            return Choice::Ours;
        }
        let straggles = current.left == Some(ssrc) && now.saturating_sub(current.heard) < STRAGGLE;
        if !known || (straggles && !current.ended) {
            return Choice::Foreign;
        }
        match self.candidate.take() {
            Some((candidate, first)) if candidate == ssrc => Choice::TakesOver(first),
            _ => {
                self.candidate = Some((ssrc, Held { packet: packet.to_vec(), arrived: now }));
                Choice::Foreign
            }
        }
    }

    /// The section's sender from now on.
    pub fn begin(&mut self, reception: Reception, now: Duration) {
        let left = self.ssrc();
        self.current = Some(Sender { reception, heard: now, left, ended: false });
    }

    pub fn ssrc(&self) -> Option<u32> {
        self.current.as_ref().map(|s| s.reception.ssrc())
    }

    pub fn reception(&mut self) -> Option<&mut Reception> {
        self.current.as_mut().map(|s| &mut s.reception)
    }

    /// `ssrc` said that it ends: another may follow at once.
    pub fn bye(&mut self, ssrc: u32) {
        if let Some(sender) = self.current.as_mut().filter(|s| s.reception.ssrc() == ssrc) {
            sender.ended = true;
        }
    }
}
