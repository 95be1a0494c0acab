use super::{ChunkError, ChunkLimits, DEFAULT_CHUNK_SIZE, EXTENDED, RawMessage};
use crate::ingest::rtmp::message::type_id;

/// Basic header 3, message header 11, extended timestamp 4.
const MAX_HEADER_BYTES: usize = 3 + 11 + 4;
/// Message header bytes of chunk types 0 to 3.
const MESSAGE_HEADER_BYTES: [usize; 4] = [11, 7, 3, 0];
/// A message gets this much memory on its header's word; more only as bytes arrive.
const FIRST_ALLOCATION: usize = 64 << 10;

/// Puts messages together from received bytes, cut anywhere.
///
/// A payload byte is copied once, from the input into its message. Set Chunk Size and Abort are obeyed here
/// and not handed out.
#[derive(Debug)]
pub struct ChunkReader {
    limits: ChunkLimits,
    chunk_size: usize,
    /// Received bytes that are not placed yet: the beginning of a header, or up to 4 bytes that were looked at
    /// as an extended timestamp and are none.
    head: [u8; MAX_HEADER_BYTES],
    head_len: usize,
    streams: Vec<ChunkStream>,
    chunk: Option<OpenChunk>,
    /// Memory held by unfinished messages.
    pub(super) pending_bytes: usize,
}

/// The chunk whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct OpenChunk {
    stream: usize,
    left: usize,
}

#[derive(Debug, Default)]
struct ChunkStream {
    csid: u32,
    timestamp_ms: u32,
    delta_ms: u32,
    /// The last header's extended timestamp.
    extended: Option<u32>,
    length: usize,
    type_id: u8,
    stream_id: u32,
    /// `payload` holds the beginning of a message.
    unfinished: bool,
    payload: Vec<u8>,
}

struct Header {
    fmt: u8,
    csid: u32,
    stream: Option<usize>,
    /// Timestamp or delta; unused in type 3.
    time: u32,
    extended: Option<u32>,
    /// Length and type, in types 0 and 1.
    message: Option<(usize, u8)>,
    /// In type 0.
    stream_id: Option<u32>,
    used: usize,
}

enum Scan {
    /// The header is at least this long.
    Need(usize),
    Whole(Header),
}

impl ChunkReader {
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            chunk_size: DEFAULT_CHUNK_SIZE,
            head: [0; MAX_HEADER_BYTES],
            head_len: 0,
            streams: Vec::new(),
            chunk: None,
            pending_bytes: 0,
        }
    }

    /// Reads from the front of `input` to the end of the next message. `None`: all of `input` is taken and
    /// there is no further whole message.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<RawMessage>, ChunkError> {
        loop {
            let Some(chunk) = self.chunk else {
                if self.read_header(input)? {
                    continue;
                }
                return Ok(None);
            };
            if !self.read_payload(chunk, input)? {
                return Ok(None);
            }
            self.chunk = None;
            let Some(message) = self.finish(chunk.stream) else { continue };
            match message.type_id {
                type_id::SET_CHUNK_SIZE => self.set_chunk_size(&message)?,
                type_id::ABORT => self.abort(&message)?,
                _ => return Ok(Some(message)),
            }
        }
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<bool, ChunkError> {
        loop {
            let needed = match self.scan()? {
                Scan::Need(bytes) => bytes,
                Scan::Whole(header) => {
                    self.drop_head(header.used);
                    self.open(header)?;
                    return Ok(true);
                }
            };
            let take = (needed - self.head_len).min(input.len());
            if take == 0 {
                return Ok(false);
            }
            self.head[self.head_len..self.head_len + take].copy_from_slice(&input[..take]);
            self.head_len += take;
            *input = &input[take..];
        }
    }

    fn drop_head(&mut self, bytes: usize) {
        self.head.copy_within(bytes..self.head_len, 0);
        self.head_len -= bytes;
    }

    fn scan(&self) -> Result<Scan, ChunkError> {
        let head = &self.head[..self.head_len];
        let Some(&first) = head.first() else { return Ok(Scan::Need(1)) };
        let fmt = first >> 6;
        let (csid, basic) = match (first & 0x3F, head) {
            (0, [_, low, ..]) => (64 + u32::from(*low), 2),
            (0, _) => return Ok(Scan::Need(2)),
            (1, [_, low, high, ..]) => (64 + u32::from(*low) + (u32::from(*high) << 8), 3),
            (1, _) => return Ok(Scan::Need(3)),
            (csid, _) => (u32::from(csid), 1),
        };
        let used = basic + MESSAGE_HEADER_BYTES[usize::from(fmt)];
        let Some(fields) = head.get(basic..used) else { return Ok(Scan::Need(used)) };
        let stream = self.streams.iter().position(|s| s.csid == csid);
        // librtmp begins its control stream with type 1; that says enough.
        if stream.is_none() && fmt > 1 {
            return Err(ChunkError::NoPrevious { csid, fmt });
        }
        let mut header = Header {
            fmt,
            csid,
            stream,
            time: fields.get(..3).map_or(0, be24),
            extended: None,
            message: fields.get(3..7).map(|f| (be24(f) as usize, f[3])),
            stream_id: fields.get(7..11).map(|f| u32::from_le_bytes([f[0], f[1], f[2], f[3]])),
            used,
        };
        if !self.is_extended(&header) {
            return Ok(Scan::Whole(header));
        }
        let Some(&[a, b, c, d]) = head.get(used..used + 4) else { return Ok(Scan::Need(used + 4)) };
        let value = u32::from_be_bytes([a, b, c, d]);
        if self.repeats(&header, value) {
            header.extended = Some(value);
            header.used += 4;
        }
        Ok(Scan::Whole(header))
    }

    fn is_extended(&self, header: &Header) -> bool {
        match header.stream {
            Some(stream) if header.fmt == 3 => self.streams[stream].extended.is_some(),
            _ => header.time == EXTENDED,
        }
    }

    /// Type 3 chunks repeat the extended timestamp (RTMP 1.0, 5.3.1.3), but some peers leave it out:
    /// then the four bytes are payload. Some repeat the message's time where the header had a delta.
    fn repeats(&self, header: &Header, value: u32) -> bool {
        match header.stream {
            Some(stream) if header.fmt == 3 => {
                let stream = &self.streams[stream];
                stream.extended == Some(value) || stream.timestamp_ms == value
            }
            _ => true,
        }
    }

    fn open(&mut self, header: Header) -> Result<(), ChunkError> {
        let index = match header.stream {
            Some(index) => index,
            None if self.streams.len() < self.limits.max_chunk_streams => {
                self.streams.push(ChunkStream { csid: header.csid, ..ChunkStream::default() });
                self.streams.len() - 1
            }
            None => {
                let max = self.limits.max_chunk_streams;
                return Err(ChunkError::TooManyStreams { csid: header.csid, max });
            }
        };
        let stream = &mut self.streams[index];
        if stream.unfinished && header.fmt != 3 {
            let (csid, fmt) = (header.csid, header.fmt);
            let (have, length) = (stream.payload.len(), stream.length);
            return Err(ChunkError::HeaderInsideMessage { csid, fmt, have, length });
        }
        if !stream.unfinished {
            stream.begin(&header);
            self.begin_message(index)?;
        }
        let stream = &self.streams[index];
        let left = self.chunk_size.min(stream.length - stream.payload.len());
        self.chunk = Some(OpenChunk { stream: index, left });
        Ok(())
    }

    fn begin_message(&mut self, index: usize) -> Result<(), ChunkError> {
        let stream = &mut self.streams[index];
        let max = self.limits.max_message_bytes;
        if stream.length > max {
            let (csid, type_id, length) = (stream.csid, stream.type_id, stream.length);
            return Err(ChunkError::MessageTooLong { csid, type_id, length, max });
        }
        stream.unfinished = true;
        self.grow(index, FIRST_ALLOCATION)
    }

    /// Makes room for up to `bytes` more of the message.
    fn grow(&mut self, index: usize, bytes: usize) -> Result<(), ChunkError> {
        let stream = &mut self.streams[index];
        let bytes = bytes.min(stream.length - stream.payload.len());
        let (wanted, max) = (self.pending_bytes + bytes, self.limits.max_pending_bytes);
        if wanted > max {
            return Err(ChunkError::PendingTooLong { bytes: wanted, max });
        }
        let before = stream.payload.capacity();
        stream.payload.reserve_exact(bytes);
        self.pending_bytes += stream.payload.capacity() - before;
        Ok(())
    }

    /// True when the chunk is whole.
    fn read_payload(&mut self, mut chunk: OpenChunk, input: &mut &[u8]) -> Result<bool, ChunkError> {
        while chunk.left > 0 {
            let stream = &mut self.streams[chunk.stream];
            let room = stream.payload.capacity() - stream.payload.len();
            if room == 0 {
                let have = stream.payload.len();
                self.grow(chunk.stream, have)?;
                continue;
            }
            let from_head = self.head_len > 0;
            let source = if from_head { &self.head[..self.head_len] } else { *input };
            let take = chunk.left.min(room).min(source.len());
            if take == 0 {
                break;
            }
            stream.payload.extend_from_slice(&source[..take]);
            chunk.left -= take;
            if from_head {
                self.drop_head(take);
            } else {
                *input = &input[take..];
            }
        }
        self.chunk = Some(chunk);
        Ok(chunk.left == 0)
    }

    fn finish(&mut self, index: usize) -> Option<RawMessage> {
        let stream = &mut self.streams[index];
        if stream.payload.len() < stream.length {
            return None;
        }
        stream.unfinished = false;
        self.pending_bytes -= stream.payload.capacity();
        Some(RawMessage {
            csid: stream.csid,
            type_id: stream.type_id,
            stream_id: stream.stream_id,
            timestamp_ms: stream.timestamp_ms,
            payload: std::mem::take(&mut stream.payload),
        })
    }

    fn set_chunk_size(&mut self, message: &RawMessage) -> Result<(), ChunkError> {
        let size = control_value(message)?;
        if size == 0 || size > i32::MAX as u32 {
            return Err(ChunkError::BadChunkSize(size));
        }
        self.chunk_size = size as usize;
        Ok(())
    }

    fn abort(&mut self, message: &RawMessage) -> Result<(), ChunkError> {
        let csid = control_value(message)?;
        if let Some(stream) = self.streams.iter_mut().find(|s| s.csid == csid && s.unfinished) {
            stream.unfinished = false;
            self.pending_bytes -= stream.payload.capacity();
            stream.payload = Vec::new();
        }
        Ok(())
    }
}

impl ChunkStream {
    fn begin(&mut self, header: &Header) {
        let time = header.extended.unwrap_or(header.time);
        match header.fmt {
            // A type 3 message after this one repeats the timestamp as its delta (RTMP 1.0, 5.3.1.2.4).
            0 => (self.timestamp_ms, self.delta_ms) = (time, time),
            3 => self.timestamp_ms = self.timestamp_ms.wrapping_add(self.delta_ms),
            _ => (self.timestamp_ms, self.delta_ms) = (self.timestamp_ms.wrapping_add(time), time),
        }
        if header.fmt != 3 {
            self.extended = header.extended;
        }
        if let Some((length, type_id)) = header.message {
            (self.length, self.type_id) = (length, type_id);
        }
        self.stream_id = header.stream_id.unwrap_or(self.stream_id);
    }
}

fn be24(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
}

fn control_value(message: &RawMessage) -> Result<u32, ChunkError> {
    match message.payload[..] {
        [a, b, c, d, ..] => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(ChunkError::BadControl { type_id: message.type_id, length: message.payload.len() }),
    }
}
