//! The client's side of a connection after the handshake, as a state machine of messages: connects, makes a message
//! stream and plays (RTMP 1.0, 7.2). No socket, no clock.

use crate::ingest::{
    rtmp::{
        amf::{self, Value},
        chunk::RawMessage,
        message::{
            Aggregate, Command, MessageError, Metadata, Outgoing, is_play_complete, is_stream_eof,
            ping_request, type_id,
        },
        session::{AUDIO_FOUR_CCS, CAN_FORWARD, CAPS_EX, VIDEO_FOUR_CCS},
        window::{WINDOW_BYTES, Window},
    },
    source::SourceUri,
};

/// What the server may keep ready for us; players of live streams say as much.
const BUFFER_MS: u32 = 3_000;
/// Live if there is such a stream, else a recorded one (RTMP 1.0, 7.2.2.1).
const LIVE_OR_RECORDED: f64 = -2_000.0;
/// What Flash's own player says it can play; some servers send nothing else.
const AUDIO_CODECS: f64 = 4_071.0;
const VIDEO_CODECS: f64 = 252.0;
/// Transactions whose answers are awaited.
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 2.0;
const PLAY: f64 = 3.0;

/// What is to be played. It may hold secrets in its query.
pub struct Target {
    app: String,
    tc_url: String,
    stream: String,
}

impl Target {
    /// The last part of the path is the stream, with the query; what is before it the application.
    pub fn of(uri: &SourceUri) -> Self {
        let url = uri.request_url();
        let path = url.path().trim_matches('/');
        let (app, name) = path.rsplit_once('/').unwrap_or(("", path));
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = url.host_str().unwrap_or_default();
        Self {
            app: app.to_owned(),
            tc_url: format!("{}://{host}{port}/{app}", url.scheme()),
            stream: format!("{name}{query}"),
        }
    }
}

/// What a message meant to the source.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// Body of an audio message, never empty; see [`flv`](crate::ingest::rtmp::flv).
    Audio {
        timestamp_ms: u32,
        payload: Vec<u8>,
    },
    /// Body of a video message, never empty.
    Video {
        timestamp_ms: u32,
        payload: Vec<u8>,
    },
    Metadata(Metadata),
    /// A command or data message nobody can read; the stream goes on without it.
    Unreadable(MessageError),
}

/// Why there is nothing (more) to play. It repeats nothing that the server said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlayError {
    #[error(
        "the server wants a user and a password in a way that is not supported (authmod); reeld sends none over RTMP, \
         only the query of the URI"
    )]
    Authentication,
    #[error("the server refuses the application, which is the path without its last part")]
    Application,
    #[error("the server refuses {0}")]
    Refused(&'static str),
    #[error("the server answers createStream without a message stream")]
    NoStreamId,
    #[error("the server has no such stream")]
    NotFound,
    #[error("the server cannot play this stream")]
    Failed,
    #[error("the publisher has left the server")]
    Unpublished,
    #[error("the server has ended the stream")]
    Ended,
    #[error("the server is closing the connection")]
    Closing,
    #[error(transparent)]
    Message(#[from] MessageError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Creating,
    /// Play is asked for; media may come before the answer does.
    Asked {
        stream_id: u32,
    },
    Playing {
        stream_id: u32,
    },
}

/// One connection. Give it every message and what it returns is news; what is to be sent gathers in
/// [`outgoing`](Self::outgoing). After an error there is nothing more to expect.
pub struct Player {
    state: State,
    stream: String,
    out: Outgoing,
    window: Window,
    aggregate: Option<Aggregate>,
}

impl Player {
    /// Begins with `connect`.
    pub fn new(target: Target) -> Self {
        let Target { app, tc_url, stream } = target;
        let map = |four_ccs: &[&'static str]| {
            amf::object(four_ccs.iter().map(|cc| (*cc, Value::Number(CAN_FORWARD))))
        };
        let object = amf::object([
            ("app", amf::text(&app)),
            ("flashVer", amf::text("LNX 9,0,124,2")),
            ("tcUrl", amf::text(&tc_url)),
            ("fpad", Value::Boolean(false)),
            ("capabilities", Value::Number(15.0)),
            ("audioCodecs", Value::Number(AUDIO_CODECS)),
            ("videoCodecs", Value::Number(VIDEO_CODECS)),
            ("videoFunction", Value::Number(1.0)),
            ("fourCcList", VIDEO_FOUR_CCS.into_iter().chain(AUDIO_FOUR_CCS).map(amf::text).collect()),
            ("videoFourCcInfoMap", map(&VIDEO_FOUR_CCS)),
            ("audioFourCcInfoMap", map(&AUDIO_FOUR_CCS)),
            ("capsEx", Value::Number(CAPS_EX)),
        ]);
        let mut out = Outgoing::default();
        out.command(0, "connect", CONNECT, &[object]);
        Self { state: State::Connecting, stream, out, window: Window::default(), aggregate: None }
    }

    /// True from the server's start of play, or the first media, on.
    pub fn is_playing(&self) -> bool {
        matches!(self.state, State::Playing { .. })
    }

    /// Takes one message. After it, call [`next_event`](Self::next_event) until there is none.
    pub fn handle(&mut self, message: RawMessage) -> Result<Option<Event>, PlayError> {
        match message.type_id {
            type_id::AUDIO | type_id::VIDEO => Ok(self.media(message)),
            type_id::COMMAND_AMF0 | type_id::COMMAND_AMF3 => self.command(&message.payload),
            type_id::DATA_AMF0 | type_id::DATA_AMF3 => self.data(&message.payload),
            type_id::AGGREGATE => {
                self.aggregate = Some(Aggregate::new(message));
                self.next_event()
            }
            type_id::WINDOW_ACK_SIZE => {
                self.window.set(&message.payload);
                Ok(None)
            }
            type_id::USER_CONTROL => self.user_control(&message.payload),
            _ => Ok(None),
        }
    }

    /// What is left of an aggregate message.
    pub fn next_event(&mut self) -> Result<Option<Event>, PlayError> {
        while let Some(aggregate) = &mut self.aggregate {
            let Some(part) = aggregate.next_part()? else {
                self.aggregate = None;
                break;
            };
            let event = match part.type_id {
                type_id::AUDIO | type_id::VIDEO => self.media(part),
                type_id::DATA_AMF0 => self.data(&part.payload)?,
                _ => None,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Counts bytes read from the socket; acknowledges them when the server's window is full.
    pub fn received(&mut self, bytes: usize) {
        self.window.received(bytes, &mut self.out);
    }

    /// Bytes to send; empty when there are none. Ask after every `handle` and `received`.
    pub fn outgoing(&mut self) -> Vec<u8> {
        self.out.take()
    }

    /// Says goodbye to the server.
    pub fn close(&mut self) {
        if let State::Asked { stream_id } | State::Playing { stream_id } = self.state {
            self.out.command(0, "deleteStream", 0.0, &[Value::Null, Value::Number(f64::from(stream_id))]);
        }
    }

    /// On whichever message stream: some servers send on 0 (ffmpeg).
    fn media(&mut self, message: RawMessage) -> Option<Event> {
        let RawMessage { timestamp_ms, payload, type_id, .. } = message;
        let (State::Asked { stream_id } | State::Playing { stream_id }) = self.state else { return None };
        if payload.is_empty() {
            return None;
        }
        self.state = State::Playing { stream_id };
        Some(match type_id {
            type_id::AUDIO => Event::Audio { timestamp_ms, payload },
            _ => Event::Video { timestamp_ms, payload },
        })
    }

    fn data(&mut self, body: &[u8]) -> Result<Option<Event>, PlayError> {
        // Of a recorded stream, the end comes as data.
        if is_play_complete(body) {
            return Err(PlayError::Ended);
        }
        if matches!(self.state, State::Connecting | State::Creating) {
            return Ok(None);
        }
        Ok(match Metadata::parse(body) {
            Ok(metadata) => metadata.map(Event::Metadata),
            Err(error) => Some(Event::Unreadable(error)),
        })
    }

    fn user_control(&mut self, body: &[u8]) -> Result<Option<Event>, PlayError> {
        if let Some(time_ms) = ping_request(body) {
            self.out.ping_response(time_ms);
        }
        match self.state {
            State::Playing { .. } if is_stream_eof(body) => Err(PlayError::Ended),
            _ => Ok(None),
        }
    }

    fn command(&mut self, body: &[u8]) -> Result<Option<Event>, PlayError> {
        let command = match Command::parse(body) {
            Ok(command) => command,
            Err(error) => return Ok(Some(Event::Unreadable(error))),
        };
        match (command.name.as_str(), self.state) {
            ("_result", State::Connecting) if command.transaction == CONNECT => self.create_stream(),
            ("_result", State::Creating) if command.transaction == CREATE_STREAM => {
                self.play(command.number(1))?;
            }
            ("_error", State::Connecting) if command.transaction == CONNECT => {
                return Err(connect_refused(&command));
            }
            ("_error", State::Creating) if command.transaction == CREATE_STREAM => {
                return Err(PlayError::Refused("createStream"));
            }
            ("_error", State::Asked { .. }) if command.transaction == PLAY => {
                return Err(PlayError::Refused("play"));
            }
            ("onStatus", _) => self.status(&command)?,
            ("close", _) => return Err(PlayError::Closing),
            // onBWDone, onFCSubscribe and whatever else: none needs an answer to play.
            _ => {}
        }
        Ok(None)
    }

    fn create_stream(&mut self) {
        self.state = State::Creating;
        self.out.window_ack_size(WINDOW_BYTES);
        self.out.command(0, "createStream", CREATE_STREAM, &[Value::Null]);
    }

    fn play(&mut self, stream_id: Option<f64>) -> Result<(), PlayError> {
        let usable = stream_id.filter(|id| (0.0..=f64::from(u32::MAX)).contains(id));
        let stream_id = usable.ok_or(PlayError::NoStreamId)? as u32;
        self.state = State::Asked { stream_id };
        let args = [Value::Null, amf::text(&self.stream), Value::Number(LIVE_OR_RECORDED)];
        self.out.command(stream_id, "play", PLAY, &args);
        self.out.buffer_length(stream_id, BUFFER_MS);
        Ok(())
    }

    fn status(&mut self, command: &Command<'_>) -> Result<(), PlayError> {
        let Some(info) = command.args.iter().find(|value| code_of(value).is_some()) else { return Ok(()) };
        let is_error = amf::member(info, "level").and_then(amf::as_text) == Some("error");
        match (code_of(info).unwrap_or_default(), self.state) {
            ("NetStream.Play.StreamNotFound", _) => Err(PlayError::NotFound),
            ("NetStream.Play.UnpublishNotify", _) => Err(PlayError::Unpublished),
            ("NetStream.Play.Stop" | "NetStream.Play.Complete", _) => Err(PlayError::Ended),
            ("NetConnection.Connect.Closed", _) => Err(PlayError::Closing),
            ("NetConnection.Connect.Rejected" | "NetConnection.Connect.InvalidApp", _) => {
                Err(connect_refused(command))
            }
            ("NetStream.Play.Start", State::Asked { stream_id }) => {
                self.state = State::Playing { stream_id };
                Ok(())
            }
            _ if is_error => Err(PlayError::Failed),
            _ => Ok(()),
        }
    }
}

fn connect_refused(command: &Command<'_>) -> PlayError {
    let infos = || command.args.iter();
    let description = |info| amf::member(info, "description").and_then(amf::as_text);
    if infos().filter_map(description).any(|text| text.contains("authmod=")) {
        return PlayError::Authentication;
    }
    match infos().any(|info| code_of(info) == Some("NetConnection.Connect.InvalidApp")) {
        true => PlayError::Application,
        false => PlayError::Refused("connect"),
    }
}

fn code_of<'v>(info: &'v Value<'_>) -> Option<&'v str> {
    amf::member(info, "code").and_then(amf::as_text)
}

#[cfg(test)]
mod tests;
