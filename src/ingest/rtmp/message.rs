//! What the messages mean: type ids, commands, data and control messages (RTMP 1.0, 5.4, 6.2 and 7).

use super::amf::{self, AmfError, Value};
use super::chunk::{ChunkWriter, RawMessage};
use std::borrow::Cow;

/// Message type ids.
pub mod type_id {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACK_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// Chunk stream of control messages (RTMP 1.0, 5.4).
const CONTROL_CSID: u32 = 2;
/// Chunk stream of commands; 3 is what every implementation uses.
const COMMAND_CSID: u32 = 3;

/// Longest command or data message; a real one has a few hundred bytes.
pub const MAX_COMMAND_BYTES: usize = 64 << 10;

const STREAM_BEGIN: u16 = 0;
const STREAM_EOF: u16 = 1;
const SET_BUFFER_LENGTH: u16 = 3;
const PING_REQUEST: u16 = 6;
const PING_RESPONSE: u16 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a command or data message of {length} bytes; {MAX_COMMAND_BYTES} is the most")]
    TooLong { length: usize },
    #[error(transparent)]
    Amf(#[from] AmfError),
    #[error("a command or data message that does not begin with its name")]
    NoName,
    #[error("aggregate message: part of type {type_id} has {length} bytes, {have} are left")]
    BadAggregate { type_id: u8, length: usize, have: usize },
}

/// A remote call: `name(transaction, args...)`. `args[0]` is the command object or null.
#[derive(Debug, PartialEq)]
pub struct Command<'a> {
    pub name: String,
    /// 0 asks for no answer.
    pub transaction: f64,
    pub args: Vec<Value<'a>>,
}

impl<'a> Command<'a> {
    /// The body of a message of type 20, or 17 without its format byte.
    pub fn parse(body: &'a [u8]) -> Result<Self, MessageError> {
        let mut values = values_of(body)?.into_iter();
        let name = values.next().as_ref().and_then(amf::as_text).ok_or(MessageError::NoName)?.to_owned();
        let transaction = values.next().as_ref().and_then(amf::as_number).unwrap_or(0.0);
        Ok(Self { name, transaction, args: values.collect() })
    }

    /// Argument `index` as text.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.args.get(index).and_then(amf::as_text)
    }

    pub fn number(&self, index: usize) -> Option<f64> {
        self.args.get(index).and_then(amf::as_number)
    }
}

fn values_of(body: &[u8]) -> Result<Vec<Value<'_>>, MessageError> {
    if body.len() > MAX_COMMAND_BYTES {
        return Err(MessageError::TooLong { length: body.len() });
    }
    // Types 15 and 17 put a format byte, 0, before the AMF0 values; the first of those is a string, never 0.
    let body = body.strip_prefix(&[0]).unwrap_or(body);
    Ok(amf::decode_all(body)?)
}

/// What an encoder says about its stream (`onMetaData`). All of it is hearsay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// At most 128 characters.
    pub encoder: Option<String>,
    /// Pixels, 1..=65535.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Frames per second.
    pub frame_rate: Option<f64>,
    /// It names a video codec (`videocodecid`), by number or by FourCC.
    pub names_video: bool,
}

impl Metadata {
    /// The body of a message of type 18 or 15. `None`: a data message that is not metadata.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, MessageError> {
        let values = values_of(body)?;
        let mut names = values.iter().map_while(amf::as_text).skip_while(|&name| name == "@setDataFrame");
        if names.next() != Some("onMetaData") {
            return Ok(None);
        }
        let Some(object) = values.iter().find(|v| matches!(v, Value::Object(_))) else { return Ok(None) };
        let number = |key| amf::member(object, key).and_then(amf::as_number).filter(|n| n.is_finite());
        let pixels = |key| number(key).filter(|n| (1.0..=65_535.0).contains(n)).map(|n| n as u32);
        let names_video = amf::member(object, "videocodecid").is_some_and(|id| {
            amf::as_number(id).is_some_and(|n| n > 0.0) || amf::as_text(id).is_some_and(|t| !t.is_empty())
        });
        let encoder = amf::member(object, "encoder").and_then(amf::as_text);
        Ok(Some(Self {
            encoder: encoder.map(|e| e.chars().take(128).collect()),
            width: pixels("width"),
            height: pixels("height"),
            frame_rate: number("framerate").filter(|&n| n > 0.0),
            names_video,
        }))
    }
}

/// Whether a data message says that a recorded stream was played to its end.
pub fn is_play_complete(body: &[u8]) -> bool {
    let Ok(values) = values_of(body) else { return false };
    values.first().and_then(amf::as_text) == Some("onPlayStatus")
        && values
            .iter()
            .filter_map(|info| amf::member(info, "code"))
            .any(|code| amf::as_text(code) == Some("NetStream.Play.Complete"))
}

/// The time of a ping request; `None` for every other user control message (RTMP 1.0, 7.1.7).
pub fn ping_request(body: &[u8]) -> Option<u32> {
    match *body {
        [high, low, a, b, c, d, ..] if u16::from_be_bytes([high, low]) == PING_REQUEST => {
            Some(u32::from_be_bytes([a, b, c, d]))
        }
        _ => None,
    }
}

/// Whether a user control message says that the stream is over (RTMP 1.0, 7.1.7).
pub fn is_stream_eof(body: &[u8]) -> bool {
    body.starts_with(&STREAM_EOF.to_be_bytes())
}

/// Messages on their way to the peer, already in chunks.
#[derive(Debug, Default)]
pub struct Outgoing {
    writer: ChunkWriter,
    bytes: Vec<u8>,
}

impl Outgoing {
    /// What was written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    pub fn set_chunk_size(&mut self, bytes: u32) {
        self.writer.set_chunk_size(bytes, &mut self.bytes);
    }

    pub fn message(&mut self, message: &RawMessage) {
        self.writer.write(message, &mut self.bytes);
    }

    /// A command on message stream `stream_id`; `args[0]` is the command object or null.
    pub fn command(&mut self, stream_id: u32, name: &str, transaction: f64, args: &[Value<'_>]) {
        let mut payload = amf::encode(&[amf::text(name), Value::Number(transaction)]);
        payload.extend(amf::encode(args));
        self.send(COMMAND_CSID, type_id::COMMAND_AMF0, stream_id, payload);
    }

    pub fn window_ack_size(&mut self, bytes: u32) {
        self.control(type_id::WINDOW_ACK_SIZE, &bytes.to_be_bytes());
    }

    /// Limit type dynamic (RTMP 1.0, 5.4.5).
    pub fn peer_bandwidth(&mut self, bytes: u32) {
        const DYNAMIC: u8 = 2;
        self.control(type_id::SET_PEER_BANDWIDTH, &[&bytes.to_be_bytes()[..], &[DYNAMIC]].concat());
    }

    /// `received`: bytes received so far, modulo 2^32.
    pub fn acknowledgement(&mut self, received: u32) {
        self.control(type_id::ACKNOWLEDGEMENT, &received.to_be_bytes());
    }

    pub fn stream_begin(&mut self, stream_id: u32) {
        self.user_control(STREAM_BEGIN, stream_id);
    }

    /// How much a player buffers, in milliseconds.
    pub fn buffer_length(&mut self, stream_id: u32, length_ms: u32) {
        let event = SET_BUFFER_LENGTH.to_be_bytes();
        let body = [&event[..], &stream_id.to_be_bytes(), &length_ms.to_be_bytes()].concat();
        self.control(type_id::USER_CONTROL, &body);
    }

    pub fn ping_response(&mut self, time_ms: u32) {
        self.user_control(PING_RESPONSE, time_ms);
    }

    fn user_control(&mut self, event: u16, value: u32) {
        let body = [&event.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.control(type_id::USER_CONTROL, &body);
    }

    fn control(&mut self, type_id: u8, body: &[u8]) {
        self.send(CONTROL_CSID, type_id, 0, body.to_vec());
    }

    fn send(&mut self, csid: u32, type_id: u8, stream_id: u32, payload: Vec<u8>) {
        self.message(&RawMessage { csid, type_id, stream_id, timestamp_ms: 0, payload });
    }
}

/// The parts of an aggregate message, FLV tags with timestamps relative to the first (RTMP 1.0, 7.1.6).
#[derive(Debug)]
pub struct Aggregate {
    message: RawMessage,
    at: usize,
    first_ms: Option<u32>,
}

impl Aggregate {
    const TAG_HEADER_BYTES: usize = 11;
    const BACK_POINTER_BYTES: usize = 4;

    pub fn new(message: RawMessage) -> Self {
        Self { message, at: 0, first_ms: None }
    }

    /// The next part, with its timestamp moved to the clock of the stream. `None` after the last.
    pub fn next_part(&mut self) -> Result<Option<RawMessage>, MessageError> {
        let rest = &self.message.payload[self.at..];
        let Some((header, body)) = rest.split_at_checked(Self::TAG_HEADER_BYTES) else { return Ok(None) };
        let type_id = header[0] & 0x1F;
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let Some(payload) = body.get(..length) else {
            return Err(MessageError::BadAggregate { type_id, length, have: body.len() });
        };
        let tag_ms = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let first_ms = *self.first_ms.get_or_insert(tag_ms);
        let part = RawMessage {
            csid: self.message.csid,
            type_id,
            stream_id: self.message.stream_id,
            timestamp_ms: self.message.timestamp_ms.wrapping_add(tag_ms.wrapping_sub(first_ms)),
            payload: payload.to_vec(),
        };
        let end = self.at + Self::TAG_HEADER_BYTES + length + Self::BACK_POINTER_BYTES;
        self.at = end.min(self.message.payload.len());
        Ok(Some(part))
    }
}

/// Name of a command for logs and errors: at most 32 characters.
pub(super) fn short_name(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(32) {
        Some((end, _)) => Cow::Owned(format!("{}...", &name[..end])),
        None => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metadata_comes_in_several_wrappings() {
        let values = || {
            amf::object([
                ("width", Value::Number(1280.0)),
                ("height", Value::Number(-4.0)),
                ("framerate", Value::Number(f64::NAN)),
                ("encoder", amf::text("an encoder")),
            ])
        };
        let want = Metadata { width: Some(1280), encoder: Some("an encoder".into()), ..Metadata::default() };
        let wrapped = amf::encode(&[amf::text("@setDataFrame"), amf::text("onMetaData"), values()]);
        let amf3 = [vec![0], wrapped.clone()].concat();
        for body in [wrapped, amf3, amf::encode(&[amf::text("onMetaData"), values()])] {
            assert_eq!(Metadata::parse(&body).unwrap(), Some(want.clone()));
        }
        assert_eq!(Metadata::parse(&amf::encode(&[amf::text("onFI"), values()])).unwrap(), None);
    }

    #[test]
    fn metadata_names_a_video_codec_by_number_or_fourcc() {
        for (id, names_video) in [
            (Value::Number(7.0), true),
            (amf::text("hvc1"), true),
            (Value::Number(0.0), false),
            (Value::Number(f64::NAN), false),
            (amf::text(""), false),
            (Value::Null, false),
        ] {
            let body = amf::encode(&[amf::text("onMetaData"), amf::object([("videocodecid", id.clone())])]);
            let metadata = Metadata::parse(&body).unwrap().unwrap();
            assert_eq!(metadata.names_video, names_video, "{id:?}");
        }
    }

    #[test]
    fn a_command_without_a_name_or_too_long_is_an_error() {
        assert_eq!(Command::parse(&[]), Err(MessageError::NoName));
        assert_eq!(Command::parse(&amf::encode(&[Value::Null])), Err(MessageError::NoName));
        let length = MAX_COMMAND_BYTES + 1;
        assert_eq!(Command::parse(&vec![2; length]), Err(MessageError::TooLong { length }));
    }

    fn tag(type_id: u8, timestamp_ms: u32, body: &[u8]) -> Vec<u8> {
        let [high, a, b, c] = timestamp_ms.to_be_bytes();
        let mut tag = vec![type_id, 0, 0, body.len() as u8, a, b, c, high, 0, 0, 0];
        tag.extend_from_slice(body);
        tag.extend_from_slice(&(tag.len() as u32).to_be_bytes());
        tag
    }

    #[test]
    fn an_aggregate_is_rebased_to_its_messages_time() {
        let payload = [tag(8, 5_000, b"a"), tag(9, 5_040, b"vv"), tag(8, 5_023, b"")].concat();
        let message = RawMessage { csid: 4, type_id: 22, stream_id: 1, timestamp_ms: 100, payload };
        let mut aggregate = Aggregate::new(message);
        let mut parts = Vec::new();
        while let Some(part) = aggregate.next_part().unwrap() {
            parts.push((part.type_id, part.timestamp_ms, part.payload));
        }
        assert_eq!(parts, [(8, 100, b"a".to_vec()), (9, 140, b"vv".to_vec()), (8, 123, vec![])]);
    }

    #[test]
    fn an_aggregate_part_longer_than_the_message_is_an_error() {
        let mut payload = tag(9, 0, b"abc");
        payload[3] = 200;
        let message = RawMessage { csid: 4, type_id: 22, stream_id: 1, timestamp_ms: 0, payload };
        let want = MessageError::BadAggregate { type_id: 9, length: 200, have: 7 };
        assert_eq!(Aggregate::new(message).next_part(), Err(want));
    }

    proptest! {
        #[test]
        fn random_aggregates_end(payload in prop::collection::vec(0u8..40, 0..600)) {
            let mut bytes_left = payload.len();
            let message = RawMessage { csid: 4, type_id: 22, stream_id: 1, timestamp_ms: 7, payload };
            let mut aggregate = Aggregate::new(message);
            while let Ok(Some(part)) = aggregate.next_part() {
                bytes_left = bytes_left.checked_sub(11 + part.payload.len()).expect("parts fit the message");
            }
        }
    }
}
