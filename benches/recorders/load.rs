//! The load generator: one thread pushes N equal streams in real time, one send per media message.
//!
//! The bytes are built once and shared by all publishers, so that its cost per message is one heap operation
//! and one system call. Publishers are spread over one GOP, so that key frames do not coincide.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use support::{
    flv::{Flv, Kind},
    rtmp::{self, Client},
};

use crate::process;

const CHUNK_SIZE: usize = 4096;
/// From the last accepted publisher to the first media message.
const HEAD_START: Duration = Duration::from_millis(300);
/// Between looks at what the servers said.
const DRAIN_EVERY: Duration = Duration::from_millis(500);
/// Between tries while a socket is full.
const RETRY_EVERY: Duration = Duration::from_millis(3);
/// For a blocked stream, and for the servers to close, after the last message is due.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
const ERRORS_KEPT: usize = 5;

#[derive(Args)]
pub struct Options {
    #[arg(long)]
    input: PathBuf,
    /// One port for all streams, or one for each
    #[arg(long, value_delimiter = ',', required = true)]
    ports: Vec<u16>,
    #[arg(long)]
    streams: usize,
    #[arg(long)]
    length_ms: u64,
    #[arg(long)]
    spread_ms: u64,
    /// The same bytes without handshake and commands
    #[arg(long)]
    raw: bool,
}

/// Printed as one JSON line when the input is read; the generator connects after a line on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub media_messages: u64,
}

/// Printed as one JSON line when every publisher is accepted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Started {
    pub starts_in_ms: u64,
    /// Frames in each stream.
    pub video: u64,
    pub audio: u64,
    pub bytes_per_stream: u64,
}

/// Printed as one JSON line at the end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    pub late_max_ms: f64,
    /// Sends that found the socket full.
    pub stalls: u64,
    pub failed_streams: u64,
    /// The first few.
    pub errors: Vec<String>,
}

/// What every publisher sends: `ends[k]` is the end of message k in `bytes`, due `due[k]` after its start.
struct Script {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    due: Vec<Duration>,
}

struct Publisher {
    socket: TcpStream,
    farewell: Vec<u8>,
    start: Instant,
    sent: usize,
    next: usize,
}

impl Publisher {
    /// Sends what is due; false when the socket is full.
    fn send(&mut self, script: &Script) -> std::io::Result<bool> {
        let due = self.next.checked_sub(1).map_or(0, |last| script.ends[last]);
        while self.sent < due {
            match self.socket.write(&script.bytes[self.sent..due]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says goodbye and ends sending; the socket stays open for reading until the server has closed.
    fn finish(&mut self) -> std::io::Result<()> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_write_timeout(Some(Duration::from_secs(2)))?;
        self.socket.write_all(&self.farewell)?;
        self.socket.shutdown(Shutdown::Write)?;
        self.socket.set_nonblocking(true)
    }

    /// Drops what the server said; true when it has closed.
    fn drain(&mut self) -> bool {
        let mut bytes = [0; 16_384];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    process::end_with_parent()?;
    let flv = Flv::read(&options.input)?;
    println!("{}", serde_json::to_string(&Ready { media_messages: flv.media.len() as u64 })?);
    std::io::stdin().read_line(&mut String::new())?;
    let (publishers, script, started) = open_all(options, &flv)?;
    println!("{}", serde_json::to_string(&started)?);
    let ended = Generator::new(publishers, &script).push_all();
    println!("{}", serde_json::to_string(&ended)?);
    Ok(())
}

fn open_all(options: &Options, flv: &Flv) -> Result<(Vec<Publisher>, Script, Started)> {
    let mut accepted = Vec::new();
    for number in 0..options.streams {
        let port = options.ports.get(number).or(options.ports.last()).copied().context("no port")?;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let one = if options.raw { open_raw(server) } else { open_rtmp(server, number) };
        accepted.push(one.with_context(|| format!("stream {number} was not accepted"))?);
    }
    let stream_id = accepted.first().map_or(1, |(_, id, _)| *id);
    ensure!(
        accepted.iter().all(|(_, id, _)| *id == stream_id),
        "the server gives different message stream ids; one prebuilt script cannot serve them all"
    );
    let (script, mut started) = build_script(flv, Duration::from_millis(options.length_ms), stream_id);
    started.bytes_per_stream = script.bytes.len() as u64;
    let begin = Instant::now() + HEAD_START;
    let step = Duration::from_millis(options.spread_ms) / options.streams.max(1) as u32;
    let publishers = accepted.into_iter().zip(0_u32..).map(|((socket, _, farewell), number)| {
        socket.set_nonblocking(true)?;
        Ok(Publisher { socket, farewell, start: begin + step * number, sent: 0, next: 0 })
    });
    Ok((publishers.collect::<Result<_>>()?, script, started))
}

fn open_rtmp(server: SocketAddr, number: usize) -> Result<(TcpStream, u32, Vec<u8>)> {
    let mut options = rtmp::Options::new(server, "live", &format!("s{number}"));
    options.chunk_size = CHUNK_SIZE;
    let client = Client::publish(options)?;
    let (stream_id, farewell) = (client.stream_id(), client.farewell());
    Ok((client.into_socket(), stream_id, farewell))
}

fn open_raw(server: SocketAddr) -> Result<(TcpStream, u32, Vec<u8>)> {
    let socket = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
    socket.set_nodelay(true)?;
    Ok((socket, 1, Vec::new()))
}

/// The sequence headers go out with the first media message.
fn build_script(flv: &Flv, length: Duration, stream_id: u32) -> (Script, Started) {
    let mut script = Script { bytes: Vec::new(), ends: Vec::new(), due: Vec::new() };
    let bytes = &mut script.bytes;
    if let Some(metadata) = &flv.metadata {
        rtmp::encode_metadata(bytes, stream_id, metadata, CHUNK_SIZE);
    }
    for (kind, header) in [(Kind::Video, &flv.video_header), (Kind::Audio, &flv.audio_header)] {
        if let Some(header) = header {
            rtmp::encode_media(bytes, kind, stream_id, 0, header, CHUNK_SIZE);
        }
    }
    let timeline = flv.timeline(length);
    for due in &timeline {
        rtmp::encode_media(bytes, due.kind, stream_id, due.timestamp_ms, due.payload, CHUNK_SIZE);
        script.ends.push(bytes.len());
        script.due.push(Duration::from_millis(u64::from(due.timestamp_ms)));
    }
    let video = timeline.iter().filter(|due| due.kind == Kind::Video).count() as u64;
    let audio = timeline.len() as u64 - video;
    let starts_in_ms = HEAD_START.as_millis() as u64;
    (script, Started { starts_in_ms, video, audio, bytes_per_stream: 0 })
}

struct Generator<'a> {
    publishers: Vec<Publisher>,
    script: &'a Script,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    blocked: BTreeSet<usize>,
    /// Streams whose server has not closed yet.
    open: BTreeSet<usize>,
    errors: BTreeMap<usize, String>,
    late_max: Duration,
    stalls: u64,
}

impl<'a> Generator<'a> {
    fn new(publishers: Vec<Publisher>, script: &'a Script) -> Self {
        let first = script.due.first().copied().unwrap_or_default();
        let due = publishers.iter().enumerate().map(|(i, one)| Reverse((one.start + first, i))).collect();
        let open = (0..publishers.len()).collect();
        let (blocked, errors) = (BTreeSet::new(), BTreeMap::new());
        Self { publishers, script, due, blocked, open, errors, late_max: Duration::ZERO, stalls: 0 }
    }

    fn push_all(mut self) -> Ended {
        let last = self.script.due.last().copied().unwrap_or_default();
        let end = self.publishers.last().map_or_else(Instant::now, |one| one.start + last) + GIVE_UP_AFTER;
        let mut next_drain = Instant::now() + DRAIN_EVERY;
        while !self.open.is_empty() && Instant::now() < end {
            let now = Instant::now();
            for number in self.blocked.clone() {
                self.send(number);
            }
            while let Some(&Reverse((at, number))) = self.due.peek()
                && at <= now
            {
                self.due.pop();
                self.late_max = self.late_max.max(now - at);
                self.publishers[number].next += 1;
                self.send(number);
                self.schedule(number);
            }
            if now >= next_drain {
                next_drain = now + DRAIN_EVERY;
                self.drain();
            }
            let due = self.due.peek().map_or(next_drain, |Reverse((at, _))| next_drain.min(*at));
            let wake = if self.blocked.is_empty() { due } else { due.min(now + RETRY_EVERY) };
            thread::sleep(wake.saturating_duration_since(Instant::now()));
        }
        for number in std::mem::take(&mut self.open) {
            self.fail(number, "still open when the generator gave up".to_owned());
        }
        Ended {
            late_max_ms: self.late_max.as_secs_f64() * 1e3,
            stalls: self.stalls,
            failed_streams: self.errors.len() as u64,
            errors: self.errors.iter().take(ERRORS_KEPT).map(|(i, what)| format!("s{i}: {what}")).collect(),
        }
    }

    fn schedule(&mut self, number: usize) {
        let publisher = &self.publishers[number];
        if let Some(after) = self.script.due.get(publisher.next)
            && self.open.contains(&number)
        {
            self.due.push(Reverse((publisher.start + *after, number)));
        }
    }

    fn send(&mut self, number: usize) {
        let publisher = &mut self.publishers[number];
        match publisher.send(self.script) {
            Ok(true) => {
                self.blocked.remove(&number);
                if publisher.next == self.script.ends.len()
                    && let Err(error) = publisher.finish()
                {
                    self.fail(number, format!("at the end: {error}"));
                }
            }
            Ok(false) => {
                self.stalls += 1;
                self.blocked.insert(number);
            }
            Err(error) => {
                let what = format!("after {} bytes: {error}", publisher.sent);
                self.fail(number, what);
            }
        }
    }

    fn drain(&mut self) {
        for number in self.open.clone() {
            let publisher = &mut self.publishers[number];
            if !publisher.drain() {
                continue;
            }
            self.open.remove(&number);
            let sent = publisher.sent;
            if sent < self.script.bytes.len() {
                self.fail(number, format!("the server closed after {sent} bytes"));
            }
        }
    }

    fn fail(&mut self, number: usize, what: String) {
        self.open.remove(&number);
        self.blocked.remove(&number);
        self.errors.entry(number).or_insert(what);
    }
}
