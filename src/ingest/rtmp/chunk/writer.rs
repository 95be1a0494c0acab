use super::{DEFAULT_CHUNK_SIZE, EXTENDED, RawMessage};
use crate::ingest::rtmp::message::type_id;

/// Cuts messages into chunks, with the shortest headers that every peer reads alike.
#[derive(Debug)]
pub struct ChunkWriter {
    chunk_size: usize,
    sent: Vec<Sent>,
}

/// Header of the last message of a chunk stream.
#[derive(Clone, Copy, Debug)]
struct Sent {
    csid: u32,
    stream_id: u32,
    type_id: u8,
    length: usize,
    timestamp_ms: u32,
    /// `None` after a type 0 header: peers disagree on what a type 3 message then means.
    delta_ms: Option<u32>,
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self { chunk_size: DEFAULT_CHUNK_SIZE, sent: Vec::new() }
    }
}

impl ChunkWriter {
    /// Tells the peer a new chunk size and uses it from the next message on. `bytes`: 1..=2^31-1.
    pub fn set_chunk_size(&mut self, bytes: u32, out: &mut Vec<u8>) {
        let bytes = bytes.clamp(1, i32::MAX as u32);
        let payload = bytes.to_be_bytes().to_vec();
        let type_id = type_id::SET_CHUNK_SIZE;
        self.write(&RawMessage { csid: 2, type_id, stream_id: 0, timestamp_ms: 0, payload }, out);
        self.chunk_size = bytes as usize;
    }

    /// Appends `message` to `out`. Its payload must be shorter than 16 MiB and its `csid` in 2..=65599;
    /// what goes beyond is cut off.
    pub fn write(&mut self, message: &RawMessage, out: &mut Vec<u8>) {
        let csid = message.csid.clamp(2, 65_599);
        let payload = &message.payload[..message.payload.len().min(EXTENDED as usize)];
        let (fmt, time) = self.choose(csid, message, payload.len());
        basic_header(fmt, csid, out);
        let field = time.min(EXTENDED);
        if fmt < 3 {
            out.extend_from_slice(&field.to_be_bytes()[1..]);
        }
        if fmt < 2 {
            out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
            out.push(message.type_id);
        }
        if fmt == 0 {
            out.extend_from_slice(&message.stream_id.to_le_bytes());
        }
        let extended = (field == EXTENDED).then(|| time.to_be_bytes());
        out.extend(extended.into_iter().flatten());
        for (i, part) in payload.chunks(self.chunk_size).enumerate() {
            if i > 0 {
                basic_header(3, csid, out);
                out.extend(extended.into_iter().flatten());
            }
            out.extend_from_slice(part);
        }
    }

    /// The chunk type and the timestamp or delta that goes with it.
    fn choose(&mut self, csid: u32, message: &RawMessage, length: usize) -> (u8, u32) {
        let RawMessage { type_id, stream_id, timestamp_ms, .. } = *message;
        let mut now = Sent { csid, stream_id, type_id, length, timestamp_ms, delta_ms: None };
        let Some(last) = self.sent.iter_mut().find(|s| s.csid == csid) else {
            self.sent.push(now);
            return (0, timestamp_ms);
        };
        let before = std::mem::replace(last, now);
        let Some(delta_ms) = timestamp_ms.checked_sub(before.timestamp_ms) else { return (0, timestamp_ms) };
        if before.stream_id != stream_id {
            return (0, timestamp_ms);
        }
        now.delta_ms = Some(delta_ms);
        *last = now;
        let same_message = before.type_id == type_id && before.length == length;
        match before.delta_ms {
            Some(delta) if same_message && delta == delta_ms => (3, delta_ms),
            _ if same_message => (2, delta_ms),
            _ => (1, delta_ms),
        }
    }
}

fn basic_header(fmt: u8, csid: u32, out: &mut Vec<u8>) {
    let first = fmt << 6;
    match csid {
        0..64 => out.push(first | csid as u8),
        64..320 => out.extend_from_slice(&[first, (csid - 64) as u8]),
        _ => out.extend_from_slice(&[first | 1, (csid - 64) as u8, ((csid - 64) >> 8) as u8]),
    }
}
