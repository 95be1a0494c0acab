//! When a WHIP session ends, and why. Pure: no GStreamer, no clock.

use crate::hub::EndReason;
use std::time::Duration;

/// After the publisher said goodbye, over HTTP or DTLS, packets that it sent before may still be on their way through the jitter
/// buffer: the session goes on until none has come for `QUIET`, but no longer than `LINGER`.
const QUIET: Duration = Duration::from_millis(60);
const LINGER: Duration = Duration::from_millis(400);

/// Where the transport (ICE and DTLS together) stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    #[default]
    New,
    Connected,
    /// Nothing comes at the moment; it may come back.
    Disconnected,
    /// It does not come back by itself.
    Failed,
    /// The publisher closed it (DTLS close_notify).
    Closed,
}

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time.
    Tick,
    /// Packets have come.
    Packets,
    Transport(Transport),
    /// The publisher sent DELETE.
    Deleted,
    /// An API call or the daemon's end.
    Kicked,
    /// What the pipeline or the receiver cannot go on from.
    Fault(String),
}

/// Time limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the offer to the first packet.
    pub connect: Duration,
    /// Without usable media.
    pub silence: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Live,
    /// It ends as soon as nothing more comes.
    Leaving {
        since: Duration,
    },
}

/// A session from its answer to its end. It only moves forward.
#[derive(Debug)]
pub struct Lifecycle {
    limits: Limits,
    phase: Phase,
    begun: Duration,
    last_packet: Duration,
    transport: Transport,
}

impl Lifecycle {
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self { limits, phase: Phase::Connecting, begun: now, last_packet: now, transport: Transport::New }
    }

    /// `last_media`: when the last usable packet came, by the same clock as `now`. `Some` ends the session.
    pub fn step(&mut self, event: Event, last_media: Duration, now: Duration) -> Option<EndReason> {
        match event {
            Event::Tick => {}
            Event::Packets => {
                self.last_packet = now;
                if self.phase == Phase::Connecting {
                    self.phase = Phase::Live;
                }
            }
            Event::Transport(transport) => {
                self.transport = transport;
                match transport {
                    Transport::Closed => self.phase = self.leaving(now),
                    Transport::Failed if self.phase != Phase::Connecting => {
                        return Some(EndReason::Disconnected);
                    }
                    // More candidates may follow until the time to connect is over.
                    _ => {}
                }
            }
            Event::Deleted => self.phase = self.leaving(now),
            Event::Kicked => return Some(EndReason::Kicked),
            Event::Fault(what) => return Some(EndReason::Failed(what)),
        }
        self.overdue(last_media, now)
    }

    /// Whether the end was asked for and only stragglers are waited for.
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. })
    }

    fn leaving(&self, now: Duration) -> Phase {
        match self.phase {
            Phase::Leaving { .. } => self.phase,
            _ => Phase::Leaving { since: now },
        }
    }

    fn overdue(&self, last_media: Duration, now: Duration) -> Option<EndReason> {
        match self.phase {
            Phase::Connecting => {
                let limit = self.limits.connect;
                (now.saturating_sub(self.begun) > limit).then(|| match self.transport {
                    Transport::Connected => EndReason::TimedOut,
                    _ => EndReason::Failed(format!(
                        "no connection within {} s (connect_timeout): its packets do not get here; see [webrtc] udp_ports and announce_ip",
                        limit.as_secs_f32()
                    )),
                })
            }
            Phase::Live => {
                // The first packets may be of no use yet.
                let since = last_media.max(self.begun);
                (now.saturating_sub(since) > self.limits.silence).then_some(EndReason::TimedOut)
            }
            Phase::Leaving { since } => {
                let quiet = now.saturating_sub(self.last_packet.max(since)) >= QUIET;
                (quiet || now.saturating_sub(since) >= LINGER).then_some(EndReason::Unpublished)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { connect: Duration::from_secs(15), silence: Duration::from_secs(10) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs `(event, last media, now)` until something ends the session; when, and why.
    fn run(steps: &[(Event, u64, u64)]) -> Option<(u64, EndReason)> {
        let mut session = Lifecycle::new(LIMITS, ms(0));
        steps.iter().find_map(|(event, media, now)| {
            let end = session.step(event.clone(), ms(*media), ms(*now))?;
            Some((*now, end))
        })
    }

    #[test]
    fn a_session_ends_by_its_time_limits() {
        use Event::{Packets, Tick};
        let unconnected = run(&[(Tick, 0, 15_000), (Tick, 0, 15_001)]);
        assert!(matches!(unconnected, Some((15_001, EndReason::Failed(_)))), "{unconnected:?}");
        let mute = [(Event::Transport(Transport::Connected), 0, 500), (Tick, 0, 15_001)];
        assert_eq!(run(&mute), Some((15_001, EndReason::TimedOut)));
        let silent = [(Packets, 900, 1000), (Tick, 900, 10_900), (Tick, 900, 10_901)];
        assert_eq!(run(&silent), Some((10_901, EndReason::TimedOut)));
        let useless = [(Packets, 0, 1000), (Packets, 0, 9_000), (Packets, 0, 10_001)];
        assert_eq!(run(&useless), Some((10_001, EndReason::TimedOut)));
    }

    #[test]
    fn a_lost_transport_may_come_back_and_a_failed_one_does_not() {
        use Event::{Packets, Tick};
        use Transport::{Closed, Connected, Disconnected, Failed};
        let transport = Event::Transport;
        let back =
            [(Packets, 1, 1), (transport(Disconnected), 1, 2), (transport(Connected), 1, 3), (Tick, 1, 900)];
        assert_eq!(run(&back), None);
        assert_eq!(run(&[(Packets, 1, 1), (transport(Failed), 1, 2)]), Some((2, EndReason::Disconnected)));
        assert_eq!(run(&[(transport(Failed), 0, 2), (transport(Connected), 0, 3)]), None);
        let closed = [(Packets, 1, 1), (transport(Closed), 1, 2), (Tick, 1, 62)];
        assert_eq!(run(&closed), Some((62, EndReason::Unpublished)));
    }

    #[test]
    fn goodbye_waits_for_stragglers_but_not_for_long() {
        use Event::{Deleted, Packets, Tick};
        let quiet = [(Packets, 1, 1), (Deleted, 1, 1000), (Tick, 1, 1059), (Tick, 1, 1060)];
        assert_eq!(run(&quiet), Some((1060, EndReason::Unpublished)));
        let straggler = [(Deleted, 1, 1000), (Packets, 1, 1050), (Tick, 1, 1100), (Tick, 1, 1110)];
        assert_eq!(run(&straggler), Some((1110, EndReason::Unpublished)));
        let endless: Vec<_> = (0..100).map(|n| (Packets, 1, 1000 + 10 * n)).collect();
        let steps = [&[(Deleted, 1, 1000)], &endless[..]].concat();
        assert_eq!(run(&steps), Some((1400, EndReason::Unpublished)));
        assert_eq!(run(&[(Event::Kicked, 0, 1)]), Some((1, EndReason::Kicked)));
        let twice = [(Deleted, 1, 1000), (Deleted, 1, 1050), (Tick, 1, 1060)];
        assert_eq!(run(&twice), Some((1060, EndReason::Unpublished)), "once more is not again");
    }
}
