//! A blocking RTMP server that plays what a test tells it (Adobe RTMP 1.0, section 7.2), and ends as the test wants.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    amf0::Value,
    chunk::{self, ChunkReader, Message, message_type},
    flv::{Flv, Kind},
    rtmp::{Command, command_bytes, encode_media, encode_metadata},
    wait::wait_for,
};

const VERSION: u8 = 3;
const HANDSHAKE_BYTES: usize = 1536;
const CHUNK_SIZE: usize = 4096;
const LIMIT: Duration = Duration::from_secs(20);

/// Listens on a free port of the loopback; whoever is not accepted waits.
#[derive(Debug)]
pub struct PlayServer {
    listener: TcpListener,
}

/// A client that has asked to play.
#[derive(Debug)]
pub struct Viewer<S> {
    socket: S,
    reader: ChunkReader,
    /// What it wants, as it said so.
    pub app: String,
    pub tc_url: String,
    pub name: String,
}

impl PlayServer {
    pub fn new() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("its address")
    }

    /// The next client's connection.
    pub fn accept(&self) -> TcpStream {
        let (socket, _) = wait_for("a player connects", LIMIT, || self.listener.accept().ok());
        socket.set_nonblocking(false).expect("blocking");
        socket.set_nodelay(true).expect("no delay");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket.set_write_timeout(Some(LIMIT)).expect("a limit");
        socket
    }
}

impl<S: Read + Write> Viewer<S> {
    /// Handshake and commands up to `play`, which is not answered yet. The message stream is 1.
    pub fn greet(socket: S) -> io::Result<Self> {
        let (app, tc_url, name) = (String::new(), String::new(), String::new());
        let mut viewer = Self { socket, reader: ChunkReader::default(), app, tc_url, name };
        viewer.handshake()?;
        let connect = viewer.command("connect")?;
        let wish = |key| connect.values[0].get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        (viewer.app, viewer.tc_url) = (wish("app"), wish("tcUrl"));
        viewer.send(message_type::SET_CHUNK_SIZE, 0, &(CHUNK_SIZE as u32).to_be_bytes(), 128)?;
        viewer.status("_result", connect.transaction, "status", "NetConnection.Connect.Success")?;
        let create = viewer.command("createStream")?;
        let created = vec![Value::Null, Value::Number(1.0)];
        let body = command_bytes("_result", create.transaction, created);
        viewer.send(message_type::COMMAND_AMF0, 0, &body, CHUNK_SIZE)?;
        let play = viewer.command("play")?;
        viewer.name = play.values.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(viewer)
    }

    /// `onStatus` on the message stream.
    pub fn on_status(&mut self, level: &str, code: &str) -> io::Result<()> {
        self.status("onStatus", 0.0, level, code)
    }

    /// Consents, and sends the whole file as fast as it is taken, on message stream `stream_id`.
    pub fn play(&mut self, flv: &Flv, stream_id: u32) -> io::Result<()> {
        self.on_status("status", "NetStream.Play.Start")?;
        self.media(flv, stream_id)
    }

    /// What `flv` holds, as fast as it is taken: metadata, sequence headers, media.
    pub fn media(&mut self, flv: &Flv, stream_id: u32) -> io::Result<()> {
        let mut bytes = Vec::new();
        flv.metadata.iter().for_each(|script| encode_metadata(&mut bytes, stream_id, script, CHUNK_SIZE));
        let mut send = |kind, at, payload: &[u8]| {
            encode_media(&mut bytes, kind, stream_id, at, payload, CHUNK_SIZE);
        };
        flv.video_header.iter().for_each(|header| send(Kind::Video, 0, header));
        flv.audio_header.iter().for_each(|header| send(Kind::Audio, 0, header));
        flv.media.iter().for_each(|tag| send(tag.kind, tag.timestamp_ms, &tag.payload));
        self.socket.write_all(&bytes)?;
        self.socket.flush()
    }

    /// A user control message without a value of its own.
    pub fn user_control(&mut self, event: u16) -> io::Result<()> {
        let body = [&event.to_be_bytes()[..], &1_u32.to_be_bytes()].concat();
        self.send(message_type::USER_CONTROL, 0, &body, CHUNK_SIZE)
    }

    /// The next command of this name.
    pub fn command(&mut self, name: &str) -> io::Result<Command> {
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            let message = self.message()?;
            if message.type_id == message_type::COMMAND_AMF0 {
                let command = Command::parse(&message.payload).map_err(io::Error::other)?;
                if command.name == name {
                    return Ok(command);
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn status(&mut self, name: &str, transaction: f64, level: &str, code: &str) -> io::Result<()> {
        let info = [("level", level), ("code", code)];
        let info = info.map(|(key, value)| (key.to_owned(), Value::string(value)));
        let body = command_bytes(name, transaction, vec![Value::Null, Value::Object(info.to_vec())]);
        self.send(message_type::COMMAND_AMF0, u32::from(transaction == 0.0), &body, CHUNK_SIZE)
    }

    fn send(&mut self, type_id: u8, stream_id: u32, body: &[u8], chunk_size: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        chunk::encode(&mut bytes, 3, type_id, stream_id, 0, body, chunk_size);
        self.socket.write_all(&bytes)?;
        self.socket.flush()
    }

    fn message(&mut self) -> io::Result<Message> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.reader.next_message().map_err(io::Error::other)? {
                return Ok(message);
            }
            match self.socket.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.reader.push(&bytes[..count]),
            }
        }
    }

    /// C0 and C1; S0, S1 and S2; C2, which has to repeat the random bytes of S1 (section 5.2).
    fn handshake(&mut self) -> io::Result<()> {
        let mut hello = [0; 1 + HANDSHAKE_BYTES];
        self.socket.read_exact(&mut hello)?;
        let ours: Vec<u8> = (0..HANDSHAKE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        self.socket.write_all(&[&[VERSION], &ours[..], &hello[1..]].concat())?;
        self.socket.flush()?;
        let mut echo = [0; HANDSHAKE_BYTES];
        self.socket.read_exact(&mut echo)?;
        match hello[0] == VERSION && echo[8..] == ours[8..] {
            true => Ok(()),
            false => Err(io::Error::other("the client's handshake is wrong")),
        }
    }
}

impl Viewer<TcpStream> {
    /// Ends in good order: FIN, then whatever the client still says, to its own end.
    pub fn fin(mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        io::copy(&mut self.socket, &mut io::sink()).map(|_| ())
    }

    /// Once all of it is in the client's kernel: breaks off with a reset.
    pub fn reset(self) -> io::Result<()> {
        wait_for("the client's kernel has everything", LIMIT, || {
            (unacknowledged(&self.socket) == 0).then_some(())
        });
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))
    }
}

/// Bytes that the other end's kernel has not acknowledged (proc_net_tcp: `tx_queue`).
fn unacknowledged(socket: &TcpStream) -> u64 {
    let port = |address: io::Result<SocketAddr>| format!(":{:04X}", address.expect("an address").port());
    let (ours, theirs) = (port(socket.local_addr()), port(socket.peer_addr()));
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
    let queue = table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let found = words.len() > 4 && words[1].ends_with(&ours) && words[2].ends_with(&theirs);
        found.then(|| words[4].split(':').next().and_then(|hex| u64::from_str_radix(hex, 16).ok()))
    });
    queue.flatten().expect("the connection is in the table")
}
