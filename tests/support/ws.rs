//! A WebSocket client (RFC 6455) that sees every frame, answers no ping by itself and reads when it is told to.

use std::{
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::http::Answer;

/// Longer than any frame of a test may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// RFC 6455, 1.3: this key has this answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close { code: u16, reason: String },
}

#[derive(Debug)]
pub struct WebSocket {
    socket: BufReader<TcpStream>,
}

impl WebSocket {
    /// Panics when the server does not take it.
    pub fn open(server: SocketAddr, path: &str) -> Self {
        Self::open_with(server, path, &[]).expect("an answer").unwrap_or_else(|no| panic!("{path}: {no:?}"))
    }

    /// The inner error is an answer that is not `101 Switching Protocols`.
    pub fn open_with(
        server: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Result<Self, Answer>> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut socket = TcpStream::connect_timeout(&server, DEADLINE)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
        );
        socket.write_all(request.as_bytes())?;
        let mut socket = BufReader::new(socket);
        let head = read_head(&mut socket)?;
        let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {head:?}"));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(broken)?;
        let mut answer = Answer { status, head, body: String::new() };
        if status == 101 {
            assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT), "{answer:?}");
            return Ok(Ok(Self { socket }));
        }
        let length = answer.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        socket.read_exact(&mut body)?;
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(Err(answer))
    }

    /// The next frame; an error when the connection ends without one.
    pub fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 2];
        self.socket.read_exact(&mut head)?;
        assert_eq!((head[0] & 0x70, head[1] & 0x80), (0, 0), "no extension, and a server does not mask");
        assert_eq!(head[0] & 0x80, 0x80, "one frame a message");
        let length = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.bytes()?)),
            127 => usize::try_from(u64::from_be_bytes(self.bytes()?)).expect("a length"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload)?;
        Ok(match head[0] & 0x0f {
            TEXT => Frame::Text(String::from_utf8(payload).expect("UTF-8")),
            PING => Frame::Ping(payload),
            PONG => Frame::Pong(payload),
            CLOSE => {
                let (code, reason) = payload.split_first_chunk().expect("a close code");
                let reason = String::from_utf8(reason.to_vec()).expect("UTF-8");
                Frame::Close { code: u16::from_be_bytes(*code), reason }
            }
            other => panic!("opcode {other}"),
        })
    }

    /// The next text, which has to be JSON; pings are answered. Panics when the server closes.
    pub fn json(&mut self) -> Value {
        loop {
            match self.read().expect("a frame") {
                Frame::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Frame::Ping(payload) => self.send(PONG, &payload).expect("it reads"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next text for which `wanted` holds, and those before it.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let json = self.json();
            if wanted(&json) {
                return (json, before);
            }
            before.push(json);
        }
    }

    /// The next object of this `type`.
    pub fn event(&mut self, wanted: &str) -> Value {
        self.until(|json| json["type"] == wanted).0
    }

    /// Reads on until the server closes; the code and reason, unless it just went.
    pub fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            match self.read() {
                Ok(Frame::Close { code, reason }) => return Some((code, reason)),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    pub fn ping(&mut self, payload: &[u8]) -> io::Result<()> {
        self.send(PING, payload)
    }

    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.send(TEXT, text.as_bytes())
    }

    /// Says goodbye and waits for the other side's.
    pub fn close(mut self) -> Option<(u16, String)> {
        self.send(CLOSE, &1000u16.to_be_bytes()).expect("it reads");
        self.closed()
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match u8::try_from(payload.len()) {
            Ok(short @ ..=125) => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.socket.get_mut().write_all(&frame)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn read_head(socket: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
