//! The RTMP chunk stream (Adobe RTMP 1.0, section 5.3): whole messages to chunks and back. No I/O.

use std::collections::HashMap;

use thiserror::Error;

/// The size both sides begin with (section 5.4.1).
pub const INITIAL_CHUNK_SIZE: usize = 128;

/// A server that announces more than this is refused.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const MAX_CHUNK_STREAMS: usize = 64;

/// Timestamps from here on are sent in the extended field.
const EXTENDED: u32 = 0xFF_FFFF;

/// Message type ids (sections 5.4 and 7.1).
pub mod message_type {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const USER_CONTROL: u8 = 4;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
}

/// One whole RTMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub type_id: u8,
    /// Message stream id: 0 is the connection itself.
    pub stream_id: u32,
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChunkError {
    #[error("message of {0} bytes, more than {MAX_MESSAGE_BYTES}")]
    MessageTooLong(usize),
    #[error("chunk size {0} is not allowed")]
    ChunkSize(u32),
    #[error("more than {MAX_CHUNK_STREAMS} chunk streams")]
    TooManyStreams,
    #[error("chunk stream {0} continues a message it never began")]
    NoHeader(u32),
}

/// Appends one message to `out`: a type 0 chunk, then type 3 chunks of `chunk_size` payload bytes.
///
/// `chunk_stream` is 2 to 63. A timestamp of 0xFFFFFF and above goes into the extended field, which
/// every type 3 chunk repeats (section 5.3.1.3). `payload` is shorter than 16 MiB.
pub fn encode(
    out: &mut Vec<u8>,
    chunk_stream: u8,
    type_id: u8,
    stream_id: u32,
    timestamp_ms: u32,
    payload: &[u8],
    chunk_size: usize,
) {
    let extended = (timestamp_ms >= EXTENDED).then(|| timestamp_ms.to_be_bytes());
    out.push(chunk_stream);
    out.extend(&timestamp_ms.min(EXTENDED).to_be_bytes()[1..]);
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.push(type_id);
    out.extend(stream_id.to_le_bytes());
    out.extend(extended.iter().flatten());
    let (first, rest) = payload.split_at(payload.len().min(chunk_size));
    out.extend(first);
    for part in rest.chunks(chunk_size) {
        out.push(0xC0 | chunk_stream);
        out.extend(extended.iter().flatten());
        out.extend(part);
    }
}

#[derive(Debug, Default)]
struct ChunkStream {
    length: usize,
    type_id: u8,
    stream_id: u32,
    timestamp_ms: u32,
    delta_ms: u32,
    extended: bool,
    begun: bool,
    payload: Vec<u8>,
}

/// Collects bytes and hands out whole messages. Set Chunk Size takes effect by itself and is handed out too.
#[derive(Debug)]
pub struct ChunkReader {
    buffer: Vec<u8>,
    chunk_size: usize,
    streams: HashMap<u32, ChunkStream>,
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self { buffer: Vec::new(), chunk_size: INITIAL_CHUNK_SIZE, streams: HashMap::new() }
    }
}

impl ChunkReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next whole message, or `None` until more bytes come.
    pub fn next_message(&mut self) -> Result<Option<Message>, ChunkError> {
        loop {
            let Some((used, chunk_stream)) = self.read_chunk()? else { return Ok(None) };
            self.buffer.drain(..used);
            let Some(message) = self.take_complete(chunk_stream) else { continue };
            if message.type_id == message_type::SET_CHUNK_SIZE {
                self.set_chunk_size(&message.payload)?;
            }
            return Ok(Some(message));
        }
    }

    /// Reads one chunk at the start of the buffer; `None` when it is not whole yet, with nothing changed.
    fn read_chunk(&mut self) -> Result<Option<(usize, u32)>, ChunkError> {
        let Some((format, id, mut at)) = basic_header(&self.buffer) else { return Ok(None) };
        if self.streams.len() >= MAX_CHUNK_STREAMS && !self.streams.contains_key(&id) {
            return Err(ChunkError::TooManyStreams);
        }
        let stream = self.streams.entry(id).or_default();
        if format > 0 && stream.type_id == 0 {
            return Err(ChunkError::NoHeader(id));
        }
        let header_bytes = [11, 7, 3, 0][usize::from(format)];
        let Some(header) = self.buffer.get(at..at + header_bytes) else { return Ok(None) };
        at += header_bytes;
        let (length, type_id) = match header {
            [_, _, _, a, b, c, type_id, ..] => (be24(&[*a, *b, *c]), *type_id),
            _ => (stream.length as u32, stream.type_id),
        };
        if length as usize > MAX_MESSAGE_BYTES {
            return Err(ChunkError::MessageTooLong(length as usize));
        }
        let mut time = header.get(..3).map_or(stream.delta_ms, be24);
        let extended = if format < 3 { time == EXTENDED } else { stream.extended };
        if extended {
            let Some(field) = self.buffer.get(at..at + 4) else { return Ok(None) };
            at += 4;
            time = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
        }
        let begun = stream.begun && format == 3;
        let have = if begun { stream.payload.len() } else { 0 };
        let wanted = self.chunk_size.min((length as usize).saturating_sub(have));
        let Some(body) = self.buffer.get(at..at + wanted) else { return Ok(None) };
        if !begun {
            stream.payload.clear();
            stream.timestamp_ms = if format == 0 { time } else { stream.timestamp_ms.wrapping_add(time) };
            stream.delta_ms = time;
        }
        if let [.., a, b, c, d] = header
            && format == 0
        {
            stream.stream_id = u32::from_le_bytes([*a, *b, *c, *d]);
        }
        (stream.length, stream.type_id, stream.extended) = (length as usize, type_id, extended);
        stream.begun = true;
        stream.payload.extend(body);
        Ok(Some((at + wanted, id)))
    }

    fn take_complete(&mut self, id: u32) -> Option<Message> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.payload.len() >= stream.length)?;
        stream.begun = false;
        Some(Message {
            type_id: stream.type_id,
            stream_id: stream.stream_id,
            timestamp_ms: stream.timestamp_ms,
            payload: std::mem::take(&mut stream.payload),
        })
    }

    fn set_chunk_size(&mut self, payload: &[u8]) -> Result<(), ChunkError> {
        let size = payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        self.chunk_size = match size {
            1..=0x7FFF_FFFF => size as usize,
            _ => return Err(ChunkError::ChunkSize(size)),
        };
        Ok(())
    }
}

/// Chunk format, chunk stream id and header length (section 5.3.1.1).
fn basic_header(bytes: &[u8]) -> Option<(u8, u32, usize)> {
    let first = *bytes.first()?;
    let format = first >> 6;
    match first & 63 {
        0 => Some((format, 64 + u32::from(*bytes.get(1)?), 2)),
        1 => Some((format, 64 + u32::from(*bytes.get(1)?) + 256 * u32::from(*bytes.get(2)?), 3)),
        id => Some((format, u32::from(id), 1)),
    }
}

fn be24(bytes: &[u8]) -> u32 {
    bytes.iter().take(3).fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(timestamp_ms: u32, length: usize) -> Message {
        let payload = (0..length).map(|i| i as u8).collect();
        Message { type_id: message_type::VIDEO, stream_id: 1, timestamp_ms, payload }
    }

    #[test]
    fn messages_survive_chunking_however_the_bytes_arrive() {
        for (timestamp_ms, length) in
            [(0, 0), (1, 1), (40, 128), (40, 129), (0xFF_FFFF, 500), (u32::MAX, 1000)]
        {
            let sent = message(timestamp_ms, length);
            let mut bytes = Vec::new();
            encode(&mut bytes, 6, sent.type_id, 1, timestamp_ms, &sent.payload, INITIAL_CHUNK_SIZE);
            for step in [1, 7, bytes.len()] {
                let mut reader = ChunkReader::default();
                let mut received = Vec::new();
                for part in bytes.chunks(step) {
                    reader.push(part);
                    received.extend(reader.next_message().unwrap());
                }
                assert_eq!(
                    received,
                    std::slice::from_ref(&sent),
                    "timestamp {timestamp_ms} length {length} step {step}"
                );
            }
        }
    }

    #[test]
    fn short_headers_reuse_the_previous_one() {
        let mut bytes = vec![4, 0, 0, 10, 0, 0, 1, 8, 1, 0, 0, 0, 0xAA];
        bytes.extend([0x44, 0, 0, 5, 0, 0, 2, 9, 0xBB, 0xBC]);
        bytes.extend([0x84, 0, 0, 7, 0xCC, 0xCD]);
        bytes.extend([0xC4, 0xDD, 0xDE]);
        let mut reader = ChunkReader::default();
        reader.push(&bytes);
        let seen: Vec<_> = std::iter::from_fn(|| reader.next_message().unwrap())
            .map(|message| (message.type_id, message.stream_id, message.timestamp_ms, message.payload))
            .collect();
        assert_eq!(
            seen,
            [
                (8, 1, 10, vec![0xAA]),
                (9, 1, 15, vec![0xBB, 0xBC]),
                (9, 1, 22, vec![0xCC, 0xCD]),
                (9, 1, 29, vec![0xDD, 0xDE]),
            ]
        );
    }

    #[test]
    fn a_new_chunk_size_holds_from_the_next_chunk_on() {
        let mut bytes = Vec::new();
        encode(
            &mut bytes,
            2,
            message_type::SET_CHUNK_SIZE,
            0,
            0,
            &1000_u32.to_be_bytes(),
            INITIAL_CHUNK_SIZE,
        );
        encode(&mut bytes, 6, message_type::VIDEO, 1, 0, &[7; 900], 1000);
        let mut reader = ChunkReader::default();
        reader.push(&bytes);
        assert_eq!(reader.next_message().unwrap().unwrap().type_id, message_type::SET_CHUNK_SIZE);
        assert_eq!(reader.next_message().unwrap().unwrap().payload.len(), 900);
    }

    #[test]
    fn nonsense_is_an_error() {
        for (bytes, error) in [
            (vec![0xC5], ChunkError::NoHeader(5)),
            (vec![5, 0, 0, 0, 0xFF, 0xFF, 0xFF, 9, 0, 0, 0, 0], ChunkError::MessageTooLong(0xFF_FFFF)),
            (vec![2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0], ChunkError::ChunkSize(0)),
        ] {
            let mut reader = ChunkReader::default();
            reader.push(&bytes);
            assert_eq!(reader.next_message(), Err(error));
        }
    }
}
