//! A blocking RTMP publisher (Adobe RTMP 1.0, section 7.2): what ffmpeg or OBS would send, and what they would not.
//!
//! Every wait has the deadline given in [`Options`]; nothing here sleeps.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;
use thiserror::Error;

use crate::{
    amf0::{self, Amf0Error, Value},
    chunk::{self, ChunkError, ChunkReader, Message, message_type},
    flv::Kind,
};

const VERSION: u8 = 3;
const HANDSHAKE_BYTES: usize = 1536;
const DEFAULT_CHUNK_SIZE: usize = 4096;
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// Chunk streams, as common encoders choose them.
const CONTROL_CHUNKS: u8 = 2;
const COMMAND_CHUNKS: u8 = 3;
const AUDIO_CHUNKS: u8 = 4;
const DATA_CHUNKS: u8 = 5;
const VIDEO_CHUNKS: u8 = 6;

#[derive(Debug, Error)]
pub enum RtmpError {
    #[error("RTMP connection: {0}")]
    Io(#[from] io::Error),
    #[error("the server said nothing within {0:?}")]
    Deadline(Duration),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server answered the handshake with version {0}")]
    Version(u8),
    #[error("the server did not echo the handshake")]
    Echo,
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Amf0(#[from] Amf0Error),
    #[error("refused: {}: {}", .0.code, .0.description)]
    Refused(Status),
    #[error("the server gave no message stream id")]
    NoStreamId,
}

/// The information object of `onStatus`, `_result` or `_error`; fields it lacks are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// `status`, `warning` or `error`.
    pub level: String,
    /// E.g. `NetStream.Publish.BadName`.
    pub code: String,
    pub description: String,
}

/// A command message taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    pub name: String,
    pub transaction: f64,
    /// Everything after the transaction id: the command object and the arguments.
    pub values: Vec<Value>,
}

impl Command {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Amf0Error> {
        let mut values = amf0::decode(payload)?.into_iter();
        let name = values.next().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        let transaction = values.next().and_then(|value| value.as_number()).unwrap_or_default();
        Ok(Self { name, transaction, values: values.collect() })
    }

    /// The first object that has a `code`.
    pub fn status(&self) -> Status {
        let text = |object: &Value, key: &str| {
            object.get(key).and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
        };
        let object = self.values.iter().find(|value| value.get("code").is_some());
        object.map_or_else(Status::default, |object| Status {
            level: text(object, "level"),
            code: text(object, "code"),
            description: text(object, "description"),
        })
    }
}

/// Where and how to publish.
#[derive(Debug, Clone)]
pub struct Options {
    pub server: SocketAddr,
    pub app: String,
    /// The publishing name, with its query if it has one: `cam?record=true`.
    pub name: String,
    /// Of what is sent, 1 to 0x7FFFFFFF; announced before `connect`.
    pub chunk_size: usize,
    /// Members of `connect`'s object beside the usual ones.
    pub connect: Vec<(String, Value)>,
    /// For each single wait: connecting, each answer, each blocked write.
    pub deadline: Duration,
}

impl Options {
    pub fn new(server: SocketAddr, app: &str, name: &str) -> Self {
        let (app, name) = (app.to_owned(), name.to_owned());
        Self {
            server,
            app,
            name,
            chunk_size: DEFAULT_CHUNK_SIZE,
            connect: Vec::new(),
            deadline: DEFAULT_DEADLINE,
        }
    }
}

/// One connection to an RTMP server. Dropping it closes the socket without a farewell.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    reader: ChunkReader,
    options: Options,
    transaction: f64,
    stream_id: u32,
    connected: Option<Command>,
}

impl Client {
    /// TCP (no delay), plain handshake, Set Chunk Size and `connect`, until the server's `_result`.
    pub fn connect(options: Options) -> Result<Self, RtmpError> {
        let socket = TcpStream::connect_timeout(&options.server, options.deadline)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(options.deadline))?;
        let mut client = Self {
            socket,
            reader: ChunkReader::default(),
            options,
            transaction: 0.0,
            stream_id: 0,
            connected: None,
        };
        client.handshake()?;
        client.send_chunk_size()?;
        let text = |value: String| Value::String(value);
        let mut members = vec![
            ("app".into(), text(client.options.app.clone())),
            ("type".into(), text("nonprivate".into())),
            ("flashVer".into(), text("FMLE/3.0 (compatible; test publisher)".into())),
            ("tcUrl".into(), text(format!("rtmp://{}/{}", client.options.server, client.options.app))),
        ];
        members.extend(client.options.connect.clone());
        let transaction = client.send_command("connect", 0, vec![Value::Object(members)])?;
        client.connected = Some(client.wait_result(transaction)?);
        Ok(client)
    }

    /// [`Client::connect`], then [`Client::start_publish`].
    pub fn publish(options: Options) -> Result<Self, RtmpError> {
        let mut client = Self::connect(options)?;
        client.start_publish()?;
        Ok(client)
    }

    /// `releaseStream`, `FCPublish`, `createStream` and `publish`, until `NetStream.Publish.Start`.
    /// Any other status is [`RtmpError::Refused`]; the connection stays open then.
    pub fn start_publish(&mut self) -> Result<(), RtmpError> {
        let name = self.options.name.clone();
        self.send_command("releaseStream", 0, vec![Value::Null, Value::string(&name)])?;
        self.send_command("FCPublish", 0, vec![Value::Null, Value::string(&name)])?;
        let transaction = self.send_command("createStream", 0, vec![Value::Null])?;
        let created = self.wait_result(transaction)?;
        let id = created.values.last().and_then(Value::as_number).ok_or(RtmpError::NoStreamId)?;
        self.stream_id = id as u32;
        self.send_command(
            "publish",
            self.stream_id,
            vec![Value::Null, Value::string(&name), Value::string("live")],
        )?;
        let status = self.read_status()?;
        match status.code.as_str() {
            "NetStream.Publish.Start" => Ok(()),
            _ => Err(RtmpError::Refused(status)),
        }
    }

    /// What the server answered to `connect`.
    pub fn connected(&self) -> Option<&Command> {
        self.connected.as_ref()
    }

    /// The message stream id that `createStream` gave, 0 before it.
    pub fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Of what is sent.
    pub fn chunk_size(&self) -> usize {
        self.options.chunk_size
    }

    /// `payload` as FLV has it, from the codec byte on.
    pub fn send_video(&mut self, timestamp_ms: u32, payload: &[u8]) -> Result<(), RtmpError> {
        self.send_message(VIDEO_CHUNKS, message_type::VIDEO, self.stream_id, timestamp_ms, payload)
    }

    /// `payload` as FLV has it, from the sound format byte on.
    pub fn send_audio(&mut self, timestamp_ms: u32, payload: &[u8]) -> Result<(), RtmpError> {
        self.send_message(AUDIO_CHUNKS, message_type::AUDIO, self.stream_id, timestamp_ms, payload)
    }

    /// `payload` is AMF 0, e.g. `@setDataFrame`, `onMetaData` and its array.
    pub fn send_data(&mut self, timestamp_ms: u32, payload: &[u8]) -> Result<(), RtmpError> {
        self.send_message(DATA_CHUNKS, message_type::DATA_AMF0, self.stream_id, timestamp_ms, payload)
    }

    /// Sends a command with the next transaction id and returns that id. Waits for nothing.
    pub fn send_command(&mut self, name: &str, stream_id: u32, args: Vec<Value>) -> Result<f64, RtmpError> {
        self.transaction += 1.0;
        let payload = command_bytes(name, self.transaction, args);
        self.send_message(COMMAND_CHUNKS, message_type::COMMAND_AMF0, stream_id, 0, &payload)?;
        Ok(self.transaction)
    }

    /// One message on a chunk stream (2 to 63), in one write.
    pub fn send_message(
        &mut self,
        chunk_stream: u8,
        type_id: u8,
        stream_id: u32,
        timestamp_ms: u32,
        payload: &[u8],
    ) -> Result<(), RtmpError> {
        let mut bytes = Vec::with_capacity(payload.len() + 64);
        let size = self.options.chunk_size;
        chunk::encode(&mut bytes, chunk_stream, type_id, stream_id, timestamp_ms, payload, size);
        self.send_raw(&bytes)
    }

    /// Bytes as they are, whether or not they are RTMP.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), RtmpError> {
        self.socket.write_all(bytes)?;
        Ok(())
    }

    /// The next message of the server, protocol control included.
    pub fn read_message(&mut self) -> Result<Message, RtmpError> {
        let until = Instant::now() + self.options.deadline;
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Ok(message);
            }
            let mut bytes = [0; 4096];
            let count = self.read_some(&mut bytes, until)?;
            self.reader.push(&bytes[..count]);
        }
    }

    /// The next command of the server; other messages are dropped.
    pub fn read_command(&mut self) -> Result<Command, RtmpError> {
        let until = Instant::now() + self.options.deadline;
        while Instant::now() < until {
            let message = self.read_message()?;
            if message.type_id == message_type::COMMAND_AMF0 {
                return Ok(Command::parse(&message.payload)?);
            }
        }
        Err(RtmpError::Deadline(self.options.deadline))
    }

    /// The next `onStatus` (or `_error`) of the server.
    pub fn read_status(&mut self) -> Result<Status, RtmpError> {
        self.wait_command(|command| matches!(command.name.as_str(), "onStatus" | "_error"))
            .map(|command| command.status())
    }

    /// Reads until the server closes; an abort by the server counts as closing.
    pub fn wait_closed(&mut self) -> Result<(), RtmpError> {
        let until = Instant::now() + self.options.deadline;
        loop {
            match self.read_some(&mut [0; 4096], until) {
                Ok(_) => {}
                Err(RtmpError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// `FCUnpublish`, `deleteStream`, end of sending; then until the server has closed its side.
    pub fn unpublish(mut self) -> Result<(), RtmpError> {
        let farewell = self.farewell();
        self.send_raw(&farewell)?;
        self.disconnect()
    }

    /// Ends sending without `FCUnpublish`, as a crashed encoder's kernel does; then until the server has closed.
    pub fn disconnect(mut self) -> Result<(), RtmpError> {
        self.socket.shutdown(Shutdown::Write)?;
        self.wait_closed()
    }

    /// Aborts the connection: the server gets a TCP reset.
    pub fn reset(self) -> Result<(), RtmpError> {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    /// The bytes of `FCUnpublish` and `deleteStream`, for who sends by [`Client::into_socket`].
    pub fn farewell(&self) -> Vec<u8> {
        let name = Value::string(&self.options.name);
        let stream = Value::Number(f64::from(self.stream_id));
        let mut bytes = Vec::new();
        for (step, command, argument) in [(1.0, "FCUnpublish", name), (2.0, "deleteStream", stream)] {
            let payload = command_bytes(command, self.transaction + step, vec![Value::Null, argument]);
            let (kind, size) = (message_type::COMMAND_AMF0, self.options.chunk_size);
            chunk::encode(&mut bytes, COMMAND_CHUNKS, kind, 0, 0, &payload, size);
        }
        bytes
    }

    /// Gives up the protocol and hands over the socket, blocking and with this client's time limits.
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// C0 and C1, then S0, S1 and S2, then C2 (section 5.2).
    fn handshake(&mut self) -> Result<(), RtmpError> {
        let until = Instant::now() + self.options.deadline;
        let mut hello = vec![0; 1 + HANDSHAKE_BYTES];
        hello[0] = VERSION;
        for (at, byte) in hello.iter_mut().enumerate().skip(9) {
            *byte = (at * 31 % 251) as u8;
        }
        self.send_raw(&hello)?;
        let mut answer = vec![0; 1 + 2 * HANDSHAKE_BYTES];
        let mut filled = 0;
        while filled < answer.len() {
            filled += self.read_some(&mut answer[filled..], until)?;
        }
        if answer[0] != VERSION {
            return Err(RtmpError::Version(answer[0]));
        }
        let (server_hello, echo) = answer[1..].split_at(HANDSHAKE_BYTES);
        if echo[8..] != hello[9..] {
            return Err(RtmpError::Echo);
        }
        let reply = server_hello.to_vec();
        self.send_raw(&reply)
    }

    /// Set Chunk Size itself still goes out in chunks of the initial size, which hold it whole.
    fn send_chunk_size(&mut self) -> Result<(), RtmpError> {
        let size = (self.options.chunk_size as u32).to_be_bytes();
        self.send_message(CONTROL_CHUNKS, message_type::SET_CHUNK_SIZE, 0, 0, &size)
    }

    fn wait_result(&mut self, transaction: f64) -> Result<Command, RtmpError> {
        let answer = self.wait_command(|command| {
            matches!(command.name.as_str(), "_result" | "_error") && command.transaction == transaction
        })?;
        match answer.name.as_str() {
            "_result" => Ok(answer),
            _ => Err(RtmpError::Refused(answer.status())),
        }
    }

    fn wait_command(&mut self, wanted: impl Fn(&Command) -> bool) -> Result<Command, RtmpError> {
        let until = Instant::now() + self.options.deadline;
        while Instant::now() < until {
            let command = self.read_command()?;
            if wanted(&command) {
                return Ok(command);
            }
        }
        Err(RtmpError::Deadline(self.options.deadline))
    }

    fn read_some(&mut self, bytes: &mut [u8], until: Instant) -> Result<usize, RtmpError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RtmpError::Deadline(self.options.deadline));
        }
        self.socket.set_read_timeout(Some(left))?;
        match self.socket.read(bytes) {
            Ok(0) => Err(RtmpError::Closed),
            Ok(count) => Ok(count),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Err(RtmpError::Deadline(self.options.deadline))
                }
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(RtmpError::Closed),
                io::ErrorKind::Interrupted => Ok(0),
                _ => Err(RtmpError::Io(error)),
            },
        }
    }
}

/// Appends one media message to `out`, on the chunk streams [`Client`] uses.
pub fn encode_media(
    out: &mut Vec<u8>,
    kind: Kind,
    stream_id: u32,
    timestamp_ms: u32,
    payload: &[u8],
    chunk_size: usize,
) {
    let chunks = match kind {
        Kind::Audio => AUDIO_CHUNKS,
        Kind::Video => VIDEO_CHUNKS,
    };
    chunk::encode(out, chunks, kind as u8, stream_id, timestamp_ms, payload, chunk_size);
}

/// Appends `@setDataFrame` with the script data of an FLV file.
pub fn encode_metadata(out: &mut Vec<u8>, stream_id: u32, script: &[u8], chunk_size: usize) {
    let mut payload = amf0::encode(&[Value::string("@setDataFrame")]);
    payload.extend(script);
    chunk::encode(out, DATA_CHUNKS, message_type::DATA_AMF0, stream_id, 0, &payload, chunk_size);
}

pub(crate) fn command_bytes(name: &str, transaction: f64, args: Vec<Value>) -> Vec<u8> {
    let mut values = vec![Value::string(name), Value::Number(transaction)];
    values.extend(args);
    amf0::encode(&values)
}
