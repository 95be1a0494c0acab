//! A network that loses UDP packets on purpose, the same ones each time: between RTSP clients and servers
//! ([`RtspRelay`]), and between a WHIP client and its endpoint ([`WhipRelay`]).

mod path;
mod rtsp;
mod whip;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

pub use rtsp::RtspRelay;
pub use whip::WhipRelay;

/// What is lost.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Of the packets that may be lost.
    pub percent: f64,
    pub seed: u64,
    /// Only RTP is lost; RTCP, STUN and DTLS always pass.
    pub rtp_only: bool,
}

/// Packets of one relay, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub dropped: u64,
}

/// What all directions of one relay share.
#[derive(Debug)]
struct Fate {
    loss: Mutex<Loss>,
    directions: AtomicU64,
    passed: AtomicU64,
    dropped: AtomicU64,
}

/// The dice of one direction: what it loses does not depend on the traffic of the others.
#[derive(Debug)]
struct Dice {
    fate: Arc<Fate>,
    state: u64,
}

impl Fate {
    fn new(loss: Loss) -> Arc<Self> {
        let [directions, passed, dropped] = [const { AtomicU64::new(0) }; 3];
        Arc::new(Self { loss: Mutex::new(loss), directions, passed, dropped })
    }

    fn set_percent(&self, percent: f64) {
        self.loss.lock().expect("no panic under it").percent = percent;
    }

    fn counts(&self) -> Counts {
        Counts { passed: self.passed.load(Ordering::Acquire), dropped: self.dropped.load(Ordering::Acquire) }
    }

    /// Of the next direction; they have to be asked for in the same order each time.
    fn dice(self: &Arc<Self>) -> Dice {
        let seed = self.loss.lock().expect("no panic under it").seed;
        let direction = self.directions.fetch_add(1, Ordering::AcqRel);
        Dice { fate: self.clone(), state: seed.wrapping_mul(1_000_003).wrapping_add(direction) }
    }
}

impl Dice {
    /// Whether this packet gets through.
    fn passes(&mut self, packet: &[u8]) -> bool {
        let loss = *self.fate.loss.lock().expect("no panic under it");
        let at_risk = !loss.rtp_only || is_rtp(packet);
        let lost = at_risk && self.roll() < loss.percent / 100.0;
        let count = if lost { &self.fate.dropped } else { &self.fate.passed };
        count.fetch_add(1, Ordering::AcqRel);
        !lost
    }

    /// SplitMix64, from 0 up to 1.
    fn roll(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }
}

/// RFC 5761, section 4: version 2 and a payload type that RTCP does not use.
fn is_rtp(packet: &[u8]) -> bool {
    packet.len() >= 12 && packet[0] >> 6 == 2 && !(64..96).contains(&(packet[1] & 0x7f))
}

#[cfg(test)]
mod tests {
    use super::{Counts, Fate, Loss};

    #[test]
    fn five_percent_of_rtp_and_no_other_packet_is_lost_and_again_the_same() {
        let rtp = [&[0x80, 96][..], &[0; 20]].concat();
        let others =
            [[&[0x80, 200][..], &[0; 20]].concat(), [&[0, 1][..], &[0; 20]].concat(), vec![22; 30], vec![]];
        let run = || {
            let fate = Fate::new(Loss { percent: 5.0, seed: 7, rtp_only: true });
            let mut dice = fate.dice();
            assert!(others.iter().all(|packet| (0..1000).all(|_| dice.passes(packet))));
            let fates: Vec<_> = (0..10_000).map(|_| dice.passes(&rtp)).collect();
            (fates, fate.counts())
        };
        let (fates, counts) = run();
        let lost = fates.iter().filter(|passes| !*passes).count() as u64;
        assert!((400..=600).contains(&lost), "{lost}");
        assert_eq!(counts, Counts { passed: 14_000 - lost, dropped: lost });
        assert_eq!(run().0, fates);
    }
}
