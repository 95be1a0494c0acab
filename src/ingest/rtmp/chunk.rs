//! The chunk stream: messages cut into chunks and interleaved (RTMP 1.0, 5.3).

mod reader;
mod writer;

pub use reader::ChunkReader;
pub use writer::ChunkWriter;

/// Chunk size of both directions until a Set Chunk Size message (RTMP 1.0, 5.4.1).
const DEFAULT_CHUNK_SIZE: usize = 128;
/// A 24-bit timestamp field of this value says that 32 bits follow the header.
const EXTENDED: u32 = 0xFF_FFFF;

/// One whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// Chunk stream it came on, 2..=65599.
    pub csid: u32,
    pub type_id: u8,
    /// Message stream; 0 is the connection's own.
    pub stream_id: u32,
    /// Sender's clock, ms, wraps after 49.7 days.
    pub timestamp_ms: u32,
    pub payload: Vec<u8>,
}

/// What one connection may make the reader keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Longest message.
    pub max_message_bytes: usize,
    /// Memory of all unfinished messages together.
    pub max_pending_bytes: usize,
    /// Chunk streams one connection may ever use; real encoders use less than ten.
    pub max_chunk_streams: usize,
}

impl ChunkLimits {
    pub fn for_messages_of(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes,
            max_pending_bytes: max_message_bytes.saturating_mul(2),
            max_chunk_streams: 64,
        }
    }
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self::for_messages_of(8 << 20)
    }
}

/// Why a connection's bytes are not (or no longer) RTMP. The reader is of no use after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("chunk stream {csid} begins with a type {fmt} header, which refers to an earlier message")]
    NoPrevious { csid: u32, fmt: u8 },
    #[error(
        "chunk stream {csid}: a type {fmt} header after {have} of {length} bytes of an unfinished message"
    )]
    HeaderInsideMessage { csid: u32, fmt: u8, have: usize, length: usize },
    #[error("chunk stream {csid}: a message of type {type_id} with {length} bytes; {max} is the most")]
    MessageTooLong { csid: u32, type_id: u8, length: usize, max: usize },
    #[error("unfinished messages would take {bytes} bytes; {max} is the most")]
    PendingTooLong { bytes: usize, max: usize },
    #[error("chunk stream {csid} would be one more than {max}")]
    TooManyStreams { csid: u32, max: usize },
    #[error("chunk size {0}; 1 to 2147483647 is allowed")]
    BadChunkSize(u32),
    #[error("a control message of type {type_id} with {length} bytes; 4 are needed")]
    BadControl { type_id: u8, length: usize },
}

#[cfg(test)]
mod tests;
