//! One WHIP session from its answer to its end: takes what its `webrtcbin` has left, on the tick that all publishers
//! share, and brings it to the RTP receiver.

use super::{
    inbox::{Inbox, Packet},
    offer::Credentials,
    peer::Peer,
    state::{Event, Lifecycle, Limits},
};
use crate::{
    hub::EndReason,
    ingest::{drain::ticks, rtp::Receiver},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How often packets are looked for while a session only waits for the last of them.
const LEAVING_TICK: Duration = Duration::from_millis(20);
/// How long a pipeline may take to stop; one that takes longer is left behind.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What the publisher asks of its session over HTTP.
pub(super) enum Command {
    Candidates(Vec<String>),
    /// ICE restart with these credentials; answered with ours.
    Restart(Credentials, oneshot::Sender<Option<Credentials>>),
    /// Answered when the stream has ended and nothing of the session is left.
    Delete(oneshot::Sender<()>),
}

pub(super) struct Session {
    pub peer: Peer,
    pub inbox: Arc<Inbox>,
    pub receiver: Receiver,
    pub commands: mpsc::Receiver<Command>,
    /// Payload type of each media section.
    pub payload_types: Vec<u8>,
    pub limits: Limits,
    /// Where the clock of all sessions begins.
    pub origin: Instant,
    pub shutdown: CancellationToken,
}

impl Session {
    /// Serves it to its end. `forget` is called when nothing of it is left.
    pub async fn run(self, forget: impl FnOnce()) {
        let Self { mut peer, inbox, receiver, commands, payload_types, limits, origin, shutdown } = self;
        let mut serving = Serving {
            intake: Intake { inbox, receiver, payload_types, sources: Vec::new(), packets: Vec::new() },
            life: Lifecycle::new(limits, origin.elapsed()),
            peer: &peer,
            commands,
            origin,
            goodbyes: Vec::new(),
        };
        let reason = serving.run(&shutdown).await;
        let Serving { mut intake, goodbyes, commands, .. } = serving;
        intake.take(origin.elapsed());
        intake.end(reason);
        if let Some(stopped) = peer.stop()
            && timeout(STOP_LIMIT, stopped).await.is_err()
        {
            tracing::error!(
                "a WebRTC pipeline did not stop within {} s; it is left behind",
                STOP_LIMIT.as_secs()
            );
        }
        forget();
        // Who waits for its answer learns it by the channel's end.
        drop((goodbyes, commands));
    }
}

struct Serving<'a> {
    intake: Intake,
    life: Lifecycle,
    peer: &'a Peer,
    commands: mpsc::Receiver<Command>,
    origin: Instant,
    /// Answered at the end.
    goodbyes: Vec<oneshot::Sender<()>>,
}

impl Serving<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> EndReason {
        let mut tick = ticks(self.origin);
        loop {
            let mut event = Event::Tick;
            let mut command = None;
            tokio::select! {
                _ = tick.tick() => {}
                () = tokio::time::sleep(LEAVING_TICK), if self.life.is_leaving() => {}
                () = self.intake.inbox.changed() => {}
                received = self.commands.recv() => command = received,
                () = self.intake.receiver.publisher().kicked() => event = Event::Kicked,
                () = shutdown.cancelled() => event = Event::Kicked,
            }
            match command {
                Some(Command::Candidates(candidates)) => {
                    candidates.iter().for_each(|c| self.peer.add_candidate(c));
                }
                Some(Command::Restart(theirs, answer)) => {
                    // Who asked may have gone meanwhile.
                    let _ = answer.send(self.peer.restart(&theirs));
                }
                Some(Command::Delete(goodbye)) => {
                    self.goodbyes.push(goodbye);
                    event = Event::Deleted;
                }
                None => {}
            }
            if let Some(reason) = self.step(event) {
                return reason;
            }
        }
    }

    fn step(&mut self, event: Event) -> Option<EndReason> {
        let now = self.origin.elapsed();
        let packets = self.intake.take(now).then_some(Event::Packets);
        let transport = self.intake.inbox.take_transport().map(Event::Transport);
        let fault = self.intake.inbox.take_fault().map(Event::Fault);
        if self.intake.receiver.key_frame_wanted(now).is_some() {
            self.peer.ask_key_frame();
        }
        let media = self.intake.receiver.last_media();
        let events = [packets, transport, fault, Some(event)];
        events.into_iter().flatten().find_map(|event| self.life.step(event, media, now))
    }
}

/// From the inbox to the receiver.
struct Intake {
    inbox: Arc<Inbox>,
    receiver: Receiver,
    payload_types: Vec<u8>,
    /// SSRC and section of the streams seen; one for each section, or two after a change.
    sources: Vec<(u32, usize)>,
    packets: Vec<Packet>,
}

/// Most SSRCs remembered for sender reports.
const MAX_SOURCES: usize = 8;

impl Intake {
    /// Takes all that waits; whether there was RTP.
    fn take(&mut self, now: Duration) -> bool {
        let mut packets = std::mem::take(&mut self.packets);
        self.inbox.take_packets(&mut packets);
        let mut media = false;
        for packet in packets.drain(..) {
            match packet {
                Packet::Rtp(buffer) => media |= buffer.map_readable().is_ok_and(|map| self.rtp(&map, now)),
                Packet::Rtcp(buffer) => {
                    if let Ok(map) = buffer.map_readable() {
                        self.rtcp(&map, now);
                    }
                }
            }
        }
        // Its memory serves the next batch.
        self.packets = packets;
        self.receiver.flush(now);
        media
    }

    fn rtp(&mut self, packet: &[u8], now: Duration) -> bool {
        let Some(&[_, kind, .., s0, s1, s2, s3]) = packet.first_chunk::<12>() else { return false };
        let Some(section) = self.payload_types.iter().position(|pt| *pt == kind & 0x7f) else { return false };
        let source = (u32::from_be_bytes([s0, s1, s2, s3]), section);
        if !self.sources.contains(&source) {
            self.sources.truncate(MAX_SOURCES - 1);
            self.sources.insert(0, source);
        }
        self.receiver.rtp(section, packet, now)
    }

    fn rtcp(&mut self, compound: &[u8], now: Duration) {
        let Ok(compound) = rtcp_types::Compound::parse(compound) else { return };
        for packet in compound {
            let Ok(rtcp_types::Packet::Sr(report)) = packet else { continue };
            let section =
                self.sources.iter().find(|(ssrc, _)| *ssrc == report.ssrc()).map(|(_, section)| *section);
            if let Some(section) = section {
                let (ntp, rtp) = (report.ntp_timestamp(), report.rtp_timestamp());
                self.receiver.sender_report(section, report.ssrc(), ntp, rtp, now);
            }
        }
    }

    fn end(mut self, reason: EndReason) {
        self.receiver.finish(reason.clone());
        let dropped = self.inbox.dropped();
        let stream = self.receiver.publisher().stream();
        let (name, frames) = (&stream.announce().name, stream.snapshot().frames);
        tracing::info!(session = %stream.id(), stream = %name, frames, dropped, "publish ended: {reason}");
    }
}
