//! Pulling a stream from an RTSP server, as from a camera (RFC 2326).
//!
//! `setup` brings a connection to PLAY, `media` reads what then comes on the ticks that all sources share, `dialogue`
//! exchanges requests and answers, `auth` knows the user, `start` puts the tracks in step. None of them has a thread.

mod auth;
mod dialogue;
mod media;
mod setup;
mod start;

use super::{message::MessageError, sdp::SdpError};
use crate::{
    config::Transport,
    hub::{EndReason, Publisher},
    ingest::{
        rtp::{
            depay::DepayError,
            receiver::{Media, Receiver},
        },
        source::{Pull, PullError, Source},
    },
    media::Protocol,
};
use setup::Playing;
use std::time::Duration;
use tokio::time::timeout;

/// What an RTSP server and we could not agree on. It repeats nothing that the server said but status codes and the names
/// of codecs.
#[derive(Debug, thiserror::Error)]
enum RtspError {
    #[error("the source wants a user and a password; write rtsp://USER:PASSWORD@HOST/PATH")]
    NoCredentials,
    #[error("the source refuses this user and password (401)")]
    Refused,
    #[error("the source asks for a kind of authentication that is not known here; basic and digest are")]
    Challenge,
    #[error("the source answers {method} with {status}")]
    Status { method: &'static str, status: u16 },
    #[error("the source redirects more than {0} times")]
    Redirects(usize),
    #[error("the source redirects to what cannot be pulled")]
    BadRedirect,
    #[error("the source answers {method} without a usable {header}")]
    Header { method: &'static str, header: &'static str },
    #[error("nothing that the source offers can be received: {0}")]
    NoMedia(String),
    #[error("the source sends media before it has answered PLAY, too much of it")]
    TooMuchEarly,
    #[error("the source sends messages without end beside its media")]
    TooManyMessages,
    #[error("the session was ended by the source (454)")]
    SessionLost,
    #[error("what the source sends is no RTSP message")]
    NoRtsp,
    #[error("the source's session description cannot be read")]
    NoSdp,
    #[error(transparent)]
    Sdp(SdpError),
    #[error(transparent)]
    Message(MessageError),
    #[error(transparent)]
    Depay(#[from] DepayError),
}

impl From<MessageError> for RtspError {
    fn from(error: MessageError) -> Self {
        match error {
            // It repeats how the message begins.
            MessageError::Malformed(_) => RtspError::NoRtsp,
            other => RtspError::Message(other),
        }
    }
}

impl From<SdpError> for RtspError {
    fn from(error: SdpError) -> Self {
        match error {
            SdpError::Syntax(_) => RtspError::NoSdp,
            other => RtspError::Sdp(other),
        }
    }
}

impl From<RtspError> for PullError {
    fn from(error: RtspError) -> Self {
        PullError::Protocol(error.to_string())
    }
}

impl From<MessageError> for PullError {
    fn from(error: MessageError) -> Self {
        RtspError::from(error).into()
    }
}

/// How long `auto` waits for the first packet over UDP before it turns to TCP.
const UDP_TRIAL: Duration = Duration::from_secs(3);

/// One source that is pulled over RTSP.
#[derive(Default)]
pub struct RtspPull {
    stage: Stage,
    /// `auto` has learned that UDP does not get through here.
    udp_fails: bool,
}

/// The way of the stream into the hub, kept over all connections.
#[derive(Default)]
enum Stage {
    #[default]
    New,
    /// The name is taken; no packet has come yet.
    Announced(Publisher),
    Receiving(Box<Receiver>),
}

/// How a connection ended.
enum Ended {
    With(PullError),
    /// Nothing came over UDP; TCP is to be tried at once.
    NoUdp,
}

impl<E: Into<PullError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Ended::With(error.into())
    }
}

impl RtspPull {
    async fn attempt(&mut self, source: &Source) -> Result<std::convert::Infallible, Ended> {
        let transport = match (source.transport(), self.udp_fails) {
            (Transport::Auto, true) => Transport::Tcp,
            (transport, _) => transport,
        };
        let limit = source.limits().connect_timeout;
        let open = timeout(limit, setup::open(source, transport));
        let mut playing = tokio::select! {
            opened = open => opened.map_err(|_| PullError::Timeout { what: "answer", limit })??,
            () = source.stopped() => return Err(PullError::Stopped.into()),
        };
        let ended = match self.announce(source, &playing) {
            Ok(()) => media::Reading::new(source, self, &mut playing, transport).run().await,
            Err(error) => error.into(),
        };
        if let Some(receiver) = self.receiver() {
            // A recording that is stopped while the source is away must not miss it.
            receiver.interrupted();
        }
        if !matches!(&ended, Ended::With(PullError::Io(_) | PullError::Closed)) {
            playing.goodbye().await;
        }
        Err(ended)
    }

    /// Takes the stream's name on the first connection.
    fn announce(&mut self, source: &Source, playing: &Playing) -> Result<(), PullError> {
        if let Stage::New = self.stage {
            let (remote, local) = (playing.dialogue.remote, playing.dialogue.local);
            self.stage = Stage::Announced(source.publish(Protocol::Rtsp, remote, local)?);
        }
        Ok(())
    }

    /// The first packet of a connection is here: makes the receiver, or tells it of the new connection.
    fn join(&mut self, media: Vec<Media>, now: Duration) -> Result<(), PullError> {
        match std::mem::take(&mut self.stage) {
            Stage::New => {}
            Stage::Announced(publisher) => {
                let receiver = Receiver::new(publisher, media).map_err(RtspError::from)?;
                self.stage = Stage::Receiving(Box::new(receiver));
            }
            Stage::Receiving(mut receiver) => {
                let again = receiver.reconnected(media, now);
                self.stage = Stage::Receiving(receiver);
                again.map_err(RtspError::from)?;
            }
        }
        Ok(())
    }

    fn receiver(&mut self) -> Option<&mut Receiver> {
        match &mut self.stage {
            Stage::Receiving(receiver) => Some(receiver),
            _ => None,
        }
    }
}

impl Pull for RtspPull {
    async fn connection(&mut self, source: &Source) -> PullError {
        loop {
            match self.attempt(source).await {
                Ok(never) => match never {},
                Err(Ended::With(error)) => return error,
                Err(Ended::NoUdp) => {
                    tracing::info!(source = %source.id(), "no packets over UDP; trying TCP");
                    self.udp_fails = true;
                }
            }
        }
    }

    fn finish(&mut self, reason: EndReason) {
        match std::mem::take(&mut self.stage) {
            Stage::New => {}
            Stage::Announced(mut publisher) => publisher.end(reason),
            Stage::Receiving(mut receiver) => receiver.finish(reason),
        }
    }
}
