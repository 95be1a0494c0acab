//! A session that plays: packets to the receiver, reports and keep-alives to the server.

use super::{
    Ended, RtspError, RtspPull, UDP_TRIAL,
    setup::{Lane, Playing},
    start::{SameTime, Start},
};
use crate::{
    config::Transport,
    ingest::{
        drain::{READ_EARLY_BYTES, drain, forget_readiness, set_receive_low_water, short_ticks, ticks},
        rtp::receiver::{Media, Receiver},
        rtsp::{message::Incoming, udp::PacketKind},
        source::{PullError, Source},
    },
};
use rtsp_types::{Method, Request, Response, StatusCode};
use std::time::{Duration, Instant};
use tokio::time::Interval;

/// RFC 3550, 6.2.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Most messages beside media that are taken in one read.
const MAX_MESSAGES: usize = 64;

pub(super) struct Reading<'a> {
    source: &'a Source,
    playing: &'a mut Playing,
    /// UDP is only tried.
    trial: bool,
    heard: Heard<'a>,
    next_report: Instant,
    next_keep_alive: Instant,
    /// Whether the last keep-alive has been challenged once.
    challenged: bool,
}

/// The receiving end of the connection.
struct Heard<'a> {
    pull: &'a mut RtspPull,
    /// What the tracks are, until the first packet.
    media: Option<Vec<Media>>,
    /// What puts the tracks in step until a sender report does.
    start: Option<Start>,
    last: Option<Instant>,
    /// Monotonic, for the receiver.
    now: Duration,
}

impl Heard<'_> {
    fn rtp(&mut self, section: usize, packet: &[u8]) -> Result<(), PullError> {
        let now = self.now;
        if self.receiver()?.rtp(section, packet, now) {
            self.last = Some(Instant::now());
            self.begin_together(section, packet)?;
        }
        Ok(())
    }

    /// A packet on a channel that no track has is nobody's.
    fn interleaved(&mut self, tracks: &[Lane], channel: u8, packet: &[u8]) -> Result<(), PullError> {
        for (section, track) in tracks.iter().enumerate() {
            match track {
                Lane::Interleaved { rtp, .. } if *rtp == channel => return self.rtp(section, packet),
                Lane::Interleaved { rtcp, .. } if *rtcp == channel => return self.rtcp(section, packet),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reports from before the first packet are taken too: they tell its clock.
    fn rtcp(&mut self, section: usize, packet: &[u8]) -> Result<(), PullError> {
        let now = self.now;
        self.start = None;
        self.receiver()?.rtcp(section, packet, now);
        Ok(())
    }

    /// Tells the receiver as if by sender reports; the first real ones take their place.
    fn begin_together(&mut self, section: usize, packet: &[u8]) -> Result<(), PullError> {
        let now = self.now;
        let Some(found) = self.start.as_mut().and_then(|start| start.packet(section, packet, now)) else {
            return Ok(());
        };
        self.start = None;
        let any_ntp = (now.as_secs() + 1) << 32;
        for (section, SameTime { ssrc, rtp_time }) in found.into_iter().flatten().enumerate() {
            self.receiver()?.sender_report(section, ssrc, any_ntp, rtp_time, now);
        }
        Ok(())
    }

    fn receiver(&mut self) -> Result<&mut Receiver, PullError> {
        if let Some(media) = self.media.take() {
            self.pull.join(media, self.now)?;
        }
        self.pull.receiver().ok_or(PullError::Closed)
    }
}

impl<'a> Reading<'a> {
    pub fn new(
        source: &'a Source,
        pull: &'a mut RtspPull,
        playing: &'a mut Playing,
        transport: Transport,
    ) -> Self {
        let udp = playing.is_udp();
        let now = Instant::now();
        let media = std::mem::take(&mut playing.media);
        Self {
            source,
            trial: udp && transport == Transport::Auto,
            heard: Heard {
                pull,
                media: Some(media),
                start: playing.start.take(),
                last: None,
                now: Duration::ZERO,
            },
            next_report: now + REPORT_EVERY,
            next_keep_alive: now + playing.keep_alive,
            challenged: false,
            playing,
        }
    }

    pub async fn run(mut self) -> Ended {
        match self.read().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn read(&mut self) -> Result<std::convert::Infallible, Ended> {
        let begun = Instant::now();
        set_receive_low_water(&self.playing.dialogue.socket, READ_EARLY_BYTES)?;
        let mut tick = self.tick();
        self.take_early()?;
        loop {
            let (mut early, mut stopping) = (false, false);
            tokio::select! {
                _ = tick.tick() => {}
                ready = self.playing.dialogue.socket.readable() => { ready?; early = true; }
                () = self.source.stopped() => stopping = true,
            }
            self.heard.now = self.source.started().elapsed();
            let (drained, asked) = self.drain();
            if early {
                forget_readiness(&self.playing.dialogue.socket);
            }
            if let Some(receiver) = self.heard.pull.receiver() {
                receiver.flush(self.heard.now);
            }
            if stopping {
                return Err(PullError::Stopped.into());
            }
            if self.heard.last.is_some() {
                self.source.live();
            }
            drained?;
            self.look_at_the_clock(begun)?;
            for incoming in asked {
                self.on_message(incoming).await?;
            }
            self.report().await?;
            self.keep_alive().await?;
        }
    }

    fn tick(&self) -> Interval {
        let small = |lane: &Lane| matches!(lane, Lane::Udp(pair) if !pair.is_roomy());
        match self.playing.tracks.iter().any(small) {
            true => short_ticks(self.source.started()),
            false => ticks(self.source.started()),
        }
    }

    /// Packets that came together with the answer to PLAY.
    fn take_early(&mut self) -> Result<(), PullError> {
        self.heard.now = self.source.started().elapsed();
        for (channel, payload) in std::mem::take(&mut self.playing.dialogue.early) {
            self.heard.interleaved(&self.playing.tracks, channel, &payload)?;
        }
        Ok(())
    }

    /// Takes all that has come; media before an error counts.
    fn drain(&mut self) -> (Result<(), PullError>, Vec<Message>) {
        let mut asked = Vec::new();
        let Self { heard, playing, .. } = self;
        for (section, track) in playing.tracks.iter_mut().enumerate() {
            let Lane::Udp(pair) = track else { continue };
            let mut taken = Ok(());
            let drained = pair.drain(|kind, packet| {
                let handed = match kind {
                    PacketKind::Rtp => heard.rtp(section, packet),
                    PacketKind::Rtcp => heard.rtcp(section, packet),
                };
                if taken.is_ok() {
                    taken = handed;
                }
            });
            if let Err(error) = drained.map_err(PullError::from).and(taken) {
                return (Err(error), asked);
            }
        }
        let Playing { dialogue, tracks, .. } = &mut **playing;
        let reader = &mut dialogue.reader;
        let drained = drain(&dialogue.socket, |bytes| {
            reader.read(bytes, |incoming| {
                match incoming {
                    Incoming::Data { channel, payload } => heard.interleaved(tracks, channel, payload)?,
                    _ if asked.len() == MAX_MESSAGES => return Err(RtspError::TooManyMessages.into()),
                    Incoming::Request(request) => asked.push(Message::Asked(request)),
                    Incoming::Response(response) => asked.push(Message::Answered(response)),
                }
                Ok::<_, PullError>(())
            })
        });
        let open = drained.and_then(|open| if open { Ok(()) } else { Err(PullError::Closed) });
        (open, asked)
    }

    /// Whether it is silent, or was never heard of.
    fn look_at_the_clock(&mut self, begun: Instant) -> Result<(), Ended> {
        let limits = self.source.limits();
        match self.heard.last {
            Some(last) if last.elapsed() > limits.publisher_timeout => {
                Err(PullError::Silent(limits.publisher_timeout).into())
            }
            Some(_) => Ok(()),
            None if self.trial && begun.elapsed() > UDP_TRIAL.min(limits.connect_timeout) => {
                Err(Ended::NoUdp)
            }
            None if begun.elapsed() > limits.connect_timeout => {
                Err(PullError::Timeout { what: "media", limit: limits.connect_timeout }.into())
            }
            None => Ok(()),
        }
    }

    async fn on_message(&mut self, message: Message) -> Result<(), PullError> {
        let response = match message {
            Message::Asked(request) => return self.playing.dialogue.answer(&request).await,
            Message::Answered(response) => response,
        };
        let Playing { dialogue, control, keep_alive_by, .. } = &mut *self.playing;
        match response.status() {
            StatusCode::SessionNotFound => return Err(RtspError::SessionLost.into()),
            StatusCode::Unauthorized if !self.challenged => {
                // Its nonce has grown old.
                dialogue.challenged(&response, 1)?;
                dialogue.send(keep_alive_by, control, &[]).await?;
                self.challenged = true;
            }
            StatusCode::MethodNotAllowed | StatusCode::NotImplemented => *keep_alive_by = Method::Options,
            _ => {}
        }
        Ok(())
    }

    /// Receiver reports, on time or when a key frame is wanted.
    async fn report(&mut self) -> Result<(), PullError> {
        let Some(receiver) = self.heard.pull.receiver() else { return Ok(()) };
        let now = self.heard.now;
        let wanted = receiver.key_frame_wanted(now).map(|(section, _)| section);
        let due = Instant::now() >= self.next_report;
        if !due && wanted.is_none() {
            return Ok(());
        }
        if due {
            self.next_report = Instant::now() + REPORT_EVERY;
        }
        let mut packet = Vec::new();
        let Playing { dialogue, tracks, .. } = &mut *self.playing;
        for (section, track) in tracks.iter().enumerate() {
            let pli = wanted == Some(section);
            if !due && !pli {
                continue;
            }
            packet.clear();
            receiver.report(section, now, pli, &mut packet);
            match track {
                Lane::Interleaved { rtcp, .. } => dialogue.send_interleaved(*rtcp, &packet).await?,
                Lane::Udp(pair) => pair.report(&packet),
            }
        }
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<(), PullError> {
        if Instant::now() < self.next_keep_alive {
            return Ok(());
        }
        let Playing { dialogue, control, keep_alive, keep_alive_by, .. } = &mut *self.playing;
        self.next_keep_alive = Instant::now() + *keep_alive;
        self.challenged = false;
        dialogue.send(keep_alive_by, control, &[]).await?;
        Ok(())
    }
}

/// What the server says beside media.
enum Message {
    Asked(Request<Vec<u8>>),
    Answered(Response<Vec<u8>>),
}
