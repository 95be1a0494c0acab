//! The server's side of a connection after the handshake, as a state machine of messages (RTMP 1.0, 7.2).

use super::amf::{self, Value};
use super::chunk::RawMessage;
use super::message::{
    Aggregate, Command, MessageError, Metadata, Outgoing, ping_request, short_name, type_id,
};
use super::publish::{PublishRequest, QueryError};
use super::window::{WINDOW_BYTES, Window};

/// Our own chunk size: every answer fits one chunk.
const CHUNK_SIZE: u32 = 4_096;
/// Message streams one connection may create.
const MAX_STREAMS: u32 = 64;
/// What Enhanced RTMP peers may send; `FourCC`s of the codecs that `flv` reads.
pub(super) const VIDEO_FOUR_CCS: [&str; 5] = ["avc1", "hvc1", "av01", "vp09", "vp08"];
pub(super) const AUDIO_FOUR_CCS: [&str; 3] = ["Opus", "mp4a", ".mp3"];
/// `FourCcInfoMask.CanForward`: what a recorder does with a codec (Enhanced RTMP v2, connect).
pub(super) const CAN_FORWARD: f64 = 4.0;
/// `CapsExMask.ModEx`: packet modifiers are read. Not Reconnect, which we never ask for, and not Multitrack: of
/// several tracks only the first is recorded.
pub(super) const CAPS_EX: f64 = 4.0;

/// What a message meant to the rest of the server.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// Answer with [`Session::accept_publish`] or [`Session::refuse_publish`] before the next message.
    Publish(PublishRequest),
    /// Body of an audio message of the published stream, never empty; see [`flv`](super::flv).
    Audio {
        timestamp_ms: u32,
        payload: Vec<u8>,
    },
    /// Body of a video message of the published stream, never empty.
    Video {
        timestamp_ms: u32,
        payload: Vec<u8>,
    },
    Metadata(Metadata),
    /// A data message nobody can read; the stream goes on without it.
    BadMetadata(MessageError),
    /// The published stream ended in good order. The peer may publish again.
    Unpublish,
    /// Send what is [`Session::outgoing`] and close.
    Close(CloseReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer wanted to play; this is a server to publish to.
    Play,
}

/// What a peer did wrong. Send what is [`Session::outgoing`], then close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("command {0:?} before connect")]
    NotConnected(String),
    #[error("a second connect on one connection")]
    SecondConnect,
    #[error("publish of {name:?} while this connection publishes already")]
    SecondPublish { name: String },
    #[error("publish on message stream {0}, which was not created")]
    NoSuchStream(u32),
    #[error("more than {MAX_STREAMS} message streams on one connection")]
    TooManyStreams,
    #[error(transparent)]
    Query(#[from] QueryError),
}

#[derive(Debug, Default)]
struct Peer {
    app: String,
    tc_url: String,
    flash_ver: String,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Waiting for `connect`.
    New,
    Connected,
    /// Waiting for the server's answer to a publish.
    Asked {
        stream_id: u32,
    },
    Publishing {
        stream_id: u32,
    },
}

/// One connection.
///
/// Give it every message and what it returns is news; what is to be sent gathers in [`outgoing`](Self::outgoing).
#[derive(Debug)]
pub struct Session {
    state: State,
    peer: Peer,
    streams: u32,
    out: Outgoing,
    window: Window,
    aggregate: Option<Aggregate>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            state: State::New,
            peer: Peer::default(),
            streams: 0,
            out: Outgoing::default(),
            window: Window::default(),
            aggregate: None,
        }
    }
}

impl Session {
    /// Takes one message. After it, call [`next_event`](Self::next_event) until there is none.
    pub fn handle(&mut self, message: RawMessage) -> Result<Option<Event>, SessionError> {
        match message.type_id {
            type_id::AUDIO | type_id::VIDEO => Ok(self.media(message)),
            type_id::COMMAND_AMF0 | type_id::COMMAND_AMF3 => {
                self.command(message.stream_id, &Command::parse(&message.payload)?)
            }
            type_id::DATA_AMF0 | type_id::DATA_AMF3 => Ok(self.data(&message)),
            type_id::AGGREGATE => {
                self.aggregate = Some(Aggregate::new(message));
                self.next_event()
            }
            _ => {
                self.control(&message);
                Ok(None)
            }
        }
    }

    /// What is left of an aggregate message.
    pub fn next_event(&mut self) -> Result<Option<Event>, SessionError> {
        while let Some(aggregate) = &mut self.aggregate {
            let Some(part) = aggregate.next_part()? else {
                self.aggregate = None;
                break;
            };
            let event = match part.type_id {
                type_id::AUDIO | type_id::VIDEO => self.media(part),
                type_id::DATA_AMF0 => self.data(&part),
                _ => None,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Counts bytes read from the socket; acknowledges them when the peer's window is full.
    pub fn received(&mut self, bytes: usize) {
        self.window.received(bytes, &mut self.out);
    }

    /// Bytes to send; empty when there are none. Ask after every `handle`, `received`, accept or refuse.
    pub fn outgoing(&mut self) -> Vec<u8> {
        self.out.take()
    }

    /// Answers [`Event::Publish`]: the peer begins to send. Does nothing when none is open.
    pub fn accept_publish(&mut self) {
        let State::Asked { stream_id } = self.state else { return };
        self.state = State::Publishing { stream_id };
        self.out.stream_begin(stream_id);
        self.status(stream_id, "status", "NetStream.Publish.Start", "Publishing");
    }

    /// Answers [`Event::Publish`] with an error, for example `NetStream.Publish.BadName`; send and close then.
    /// Does nothing when none is open.
    pub fn refuse_publish(&mut self, code: &str, description: &str) {
        let State::Asked { stream_id } = self.state else { return };
        self.state = State::Connected;
        self.status(stream_id, "error", code, description);
    }

    /// Tells a publishing peer that the server ends its stream (kicked, shutting down); send and close then.
    pub fn end_publish(&mut self, description: &str) {
        let State::Publishing { stream_id } = self.state else { return };
        self.state = State::Connected;
        self.status(stream_id, "error", "NetStream.Publish.Failed", description);
    }

    fn media(&mut self, message: RawMessage) -> Option<Event> {
        let RawMessage { timestamp_ms, payload, type_id, .. } = message;
        if payload.is_empty() || !matches!(self.state, State::Publishing { .. }) {
            return None;
        }
        Some(match type_id {
            type_id::AUDIO => Event::Audio { timestamp_ms, payload },
            _ => Event::Video { timestamp_ms, payload },
        })
    }

    fn data(&mut self, message: &RawMessage) -> Option<Event> {
        if !matches!(self.state, State::Publishing { .. }) {
            return None;
        }
        match Metadata::parse(&message.payload) {
            Ok(metadata) => metadata.map(Event::Metadata),
            Err(error) => Some(Event::BadMetadata(error)),
        }
    }

    fn control(&mut self, message: &RawMessage) {
        match message.type_id {
            type_id::WINDOW_ACK_SIZE => self.window.set(&message.payload),
            type_id::USER_CONTROL => {
                if let Some(time_ms) = ping_request(&message.payload) {
                    self.out.ping_response(time_ms);
                }
            }
            _ => {}
        }
    }

    fn command(&mut self, stream_id: u32, command: &Command<'_>) -> Result<Option<Event>, SessionError> {
        if self.state == State::New && command.name != "connect" {
            return Err(SessionError::NotConnected(short_name(&command.name).into_owned()));
        }
        match command.name.as_str() {
            "connect" => self.connect(command).map(|()| None),
            "createStream" => self.create_stream(command).map(|()| None),
            "releaseStream" => {
                self.result(command.transaction, &[Value::Null, Value::Null]);
                Ok(None)
            }
            "FCPublish" => {
                self.fc_publish(command);
                Ok(None)
            }
            "publish" => self.publish(stream_id, command).map(Some),
            "FCUnpublish" => Ok(self.unpublish(None)),
            "closeStream" => Ok(self.unpublish(Some(stream_id))),
            "deleteStream" => Ok(self.unpublish(Some(command.number(1).unwrap_or(0.0) as u32))),
            "play" | "play2" => {
                let text = "this server takes streams over RTMP and does not play them";
                self.status(stream_id, "error", "NetStream.Play.StreamNotFound", text);
                Ok(Some(Event::Close(CloseReason::Play)))
            }
            // _checkbw, getStreamLength, setBufferLength and whatever else: none needs an answer to publish.
            _ => Ok(None),
        }
    }

    fn connect(&mut self, command: &Command<'_>) -> Result<(), SessionError> {
        if self.state != State::New {
            return Err(SessionError::SecondConnect);
        }
        self.state = State::Connected;
        let wish = |key| command.args.first().and_then(|object| amf::member(object, key));
        let wished_text = |key| wish(key).and_then(amf::as_text).unwrap_or_default().to_owned();
        self.peer = Peer {
            app: wished_text("app"),
            tc_url: wished_text("tcUrl"),
            flash_ver: wished_text("flashVer"),
        };
        let encoding = wish("objectEncoding").and_then(amf::as_number).unwrap_or(0.0);
        let mut info = vec![
            ("level", amf::text("status")),
            ("code", amf::text("NetConnection.Connect.Success")),
            ("description", amf::text("Connection succeeded.")),
            ("objectEncoding", Value::Number(encoding)),
        ];
        if let Some(Value::Array(wanted)) = wish("fourCcList") {
            let wanted: Vec<&str> = wanted.iter().filter_map(amf::as_text).collect();
            let ours = VIDEO_FOUR_CCS.into_iter().chain(AUDIO_FOUR_CCS);
            let ours = ours.filter(|cc| wanted.contains(cc) || wanted.contains(&"*"));
            info.push(("fourCcList", ours.map(amf::text).collect()));
        }
        // Version 2 asks in other words, and a server states all it can.
        if ["videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"].into_iter().any(|key| wish(key).is_some()) {
            let map =
                |ours: &[&'static str]| amf::object(ours.iter().map(|cc| (*cc, Value::Number(CAN_FORWARD))));
            info.push(("videoFourCcInfoMap", map(&VIDEO_FOUR_CCS)));
            info.push(("audioFourCcInfoMap", map(&AUDIO_FOUR_CCS)));
            info.push(("capsEx", Value::Number(CAPS_EX)));
        }
        self.out.window_ack_size(WINDOW_BYTES);
        self.out.peer_bandwidth(WINDOW_BYTES);
        self.out.set_chunk_size(CHUNK_SIZE);
        // Some encoders look at the version before they go on; this is the one most servers give.
        let server = [("fmsVer", amf::text("FMS/3,0,1,123")), ("capabilities", Value::Number(31.0))];
        self.result(command.transaction, &[amf::object(server), amf::object(info)]);
        Ok(())
    }

    fn create_stream(&mut self, command: &Command<'_>) -> Result<(), SessionError> {
        if self.streams == MAX_STREAMS {
            return Err(SessionError::TooManyStreams);
        }
        self.streams += 1;
        self.result(command.transaction, &[Value::Null, Value::Number(f64::from(self.streams))]);
        Ok(())
    }

    fn fc_publish(&mut self, command: &Command<'_>) {
        let name = short_name(command.text(1).unwrap_or_default());
        let info = [("code", amf::text("NetStream.Publish.Start")), ("description", amf::text(&name))];
        self.out.command(0, "onFCPublish", 0.0, &[Value::Null, amf::object(info)]);
    }

    fn publish(&mut self, stream_id: u32, command: &Command<'_>) -> Result<Event, SessionError> {
        let name = command.text(1).unwrap_or_default();
        if self.state != State::Connected {
            let text = "this connection publishes already";
            self.status(stream_id, "error", "NetStream.Publish.BadName", text);
            return Err(SessionError::SecondPublish { name: short_name(name).into_owned() });
        }
        if !(1..=self.streams).contains(&stream_id) {
            let text = "publish needs a stream made by createStream";
            self.status(stream_id, "error", "NetStream.Publish.Failed", text);
            return Err(SessionError::NoSuchStream(stream_id));
        }
        let Peer { app, tc_url, flash_ver } = &self.peer;
        let request = PublishRequest::new(app, tc_url, name, flash_ver).inspect_err(|error| {
            status(&mut self.out, stream_id, "error", "NetStream.Publish.BadName", &error.to_string());
        })?;
        self.state = State::Asked { stream_id };
        Ok(Event::Publish(request))
    }

    /// `only`: ends the publish if it is on this stream.
    fn unpublish(&mut self, only: Option<u32>) -> Option<Event> {
        let (State::Asked { stream_id } | State::Publishing { stream_id }) = self.state else { return None };
        if only.is_some_and(|id| id != stream_id) {
            return None;
        }
        self.state = State::Connected;
        self.status(stream_id, "status", "NetStream.Unpublish.Success", "Unpublished");
        Some(Event::Unpublish)
    }

    fn result(&mut self, transaction: f64, args: &[Value<'_>]) {
        if transaction != 0.0 {
            self.out.command(0, "_result", transaction, args);
        }
    }

    fn status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        status(&mut self.out, stream_id, level, code, description);
    }
}

fn status(out: &mut Outgoing, stream_id: u32, level: &str, code: &str, description: &str) {
    let info = amf::object([
        ("level", amf::text(level)),
        ("code", amf::text(code)),
        ("description", amf::text(description)),
    ]);
    out.command(stream_id, "onStatus", 0.0, &[Value::Null, info]);
}

#[cfg(test)]
mod tests;
