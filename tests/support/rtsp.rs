//! An RTSP publisher of our own (RFC 2326) that knows which packets it has sent, and can misbehave.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::SockRef;
use thiserror::Error;

use crate::flv::{Due, Flv, Kind};

const DEADLINE: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Payload bytes of one packet.
const PACKET_BYTES: usize = 1200;
const VIDEO_HZ: u32 = 90_000;
const SAMPLES_PER_AAC_UNIT: u32 = 1024;
/// Of both streams when the first frame is sent: not 0, as RFC 3550 wants it.
const FIRST_TIMESTAMP: u32 = 4_000_000_000;

#[derive(Debug, Error)]
pub enum RtspError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("not an RTSP answer: {0:?}")]
    NoAnswer(String),
    #[error("{0} {1}")]
    Refused(u16, String),
}

/// An answer of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn ok(self) -> Result<Self, RtspError> {
        if self.status == 200 { Ok(self) } else { Err(RtspError::Refused(self.status, self.reason)) }
    }

    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.strip_prefix("RTSP/1.0 ")?.splitn(2, ' ');
        let status = words.next()?.parse().ok()?;
        let reason = words.next().unwrap_or_default().to_owned();
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let headers = pairs.map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned())).collect();
        Some(Self { status, reason, headers })
    }
}

/// One connection. Dropping it closes the socket without a farewell.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    received: Vec<u8>,
    cseq: u32,
    url: String,
    session: Option<String>,
}

impl Client {
    /// `url`: of the stream.
    pub fn connect(server: SocketAddr, url: &str) -> Result<Self, RtspError> {
        let socket = TcpStream::connect_timeout(&server, DEADLINE)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { socket, received: Vec::new(), cseq: 0, url: url.to_owned(), session: None })
    }

    /// One request and its answer; `control` is put behind the URL. Headers end in CRLF each.
    pub fn request(
        &mut self,
        method: &str,
        control: &str,
        headers: &str,
        body: &str,
    ) -> Result<Answer, RtspError> {
        self.cseq += 1;
        let session = self.session.as_ref().map(|id| format!("Session: {id}\r\n")).unwrap_or_default();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let (url, cseq) = (&self.url, self.cseq);
        self.send_raw(
            format!(
                "{method} {url}{control} RTSP/1.0\r\nCSeq: {cseq}\r\n{session}{headers}{length}\r\n{body}"
            )
            .as_bytes(),
        )?;
        let answer = self.read_answer()?;
        assert_eq!(answer.header("cseq"), cseq.to_string(), "{answer:?}");
        if let Some(id) = answer.headers.get("session") {
            self.session = Some(id.split(';').next().unwrap_or_default().to_owned());
        }
        Ok(answer)
    }

    pub fn announce(&mut self, sdp: &str) -> Result<Answer, RtspError> {
        self.request("ANNOUNCE", "", "Content-Type: application/sdp\r\n", sdp)
    }

    pub fn setup(&mut self, control: &str, transport: &str) -> Result<Answer, RtspError> {
        self.request("SETUP", control, &format!("Transport: {transport}\r\n"), "")
    }

    /// Bytes as they are, whether or not they are RTSP.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), RtspError> {
        Ok(self.socket.write_all(bytes)?)
    }

    /// The next answer; packets between are dropped.
    pub fn read_answer(&mut self) -> Result<Answer, RtspError> {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(length) = packet_length(&self.received) {
                self.received.drain(..length);
            } else if let Some(end) = self.received.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                let head = String::from_utf8_lossy(&head).into_owned();
                return Answer::parse(&head).ok_or(RtspError::NoAnswer(head));
            } else {
                self.read_more(until)?;
            }
        }
    }

    /// The next interleaved packet.
    pub fn read_packet(&mut self) -> Result<(u8, Vec<u8>), RtspError> {
        let until = Instant::now() + DEADLINE;
        loop {
            match packet_length(&self.received) {
                Some(length) => {
                    let frame: Vec<u8> = self.received.drain(..length).collect();
                    return Ok((frame[1], frame[4..].to_vec()));
                }
                None => self.read_more(until)?,
            }
        }
    }

    /// Reads until the server closes; an abort by the server counts as closing.
    pub fn wait_closed(&mut self) -> Result<(), RtspError> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.read_more(until) {
                Ok(()) => self.received.clear(),
                Err(RtspError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends sending, as the kernel of a crashed publisher does; then until the server has closed.
    pub fn disconnect(mut self) -> Result<(), RtspError> {
        self.socket.shutdown(Shutdown::Write)?;
        self.wait_closed()
    }

    /// Aborts the connection: the server gets a TCP reset.
    pub fn reset(self) -> Result<(), RtspError> {
        Ok(SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))?)
    }

    fn read_more(&mut self, until: Instant) -> Result<(), RtspError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.received.len() > MAX_ANSWER_BYTES {
            return Err(RtspError::Deadline(DEADLINE));
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut bytes = [0; 4096];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(RtspError::Closed),
            Ok(count) => {
                self.received.extend(&bytes[..count]);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(RtspError::Deadline(DEADLINE)),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(RtspError::Closed),
                _ => Err(error.into()),
            },
        }
    }
}

/// Length of the interleaved packet that begins here, with its header, if it is whole.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let [b'$', _, high, low, rest @ ..] = bytes else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    (rest.len() >= length).then_some(4 + length)
}

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Tcp,
    Udp,
}

/// A publisher of one FLV file's H.264 and AAC.
#[derive(Debug)]
pub struct Push {
    pub client: Client,
    /// In the order of `streams`; empty over TCP.
    sockets: Vec<(UdpSocket, SocketAddr)>,
    streams: Vec<RtpStream>,
    /// Packets for the connection that are not written yet.
    out: Vec<u8>,
}

#[derive(Debug)]
struct RtpStream {
    kind: Kind,
    sequence: u16,
    ssrc: u32,
    units: u32,
}

impl Push {
    /// Everything up to an accepted RECORD.
    pub fn start(server: SocketAddr, url: &str, flv: &Flv, over: Over) -> Result<Self, RtspError> {
        let mut client = Client::connect(server, url)?;
        client.announce(&sdp_of(flv))?.ok()?;
        let kinds = [(Kind::Video, flv.video_header.is_some()), (Kind::Audio, flv.audio_header.is_some())];
        let kinds = kinds.into_iter().filter(|(_, present)| *present);
        let stream =
            |(n, (kind, _))| RtpStream { kind, sequence: u16::MAX - 3, ssrc: 0x1000 + n as u32, units: 0 };
        let streams: Vec<_> = kinds.enumerate().map(stream).collect();
        let mut sockets = Vec::new();
        for n in 0..streams.len() {
            let control = format!("/track{n}");
            match over {
                Over::Tcp => {
                    let (rtp, rtcp) = (2 * n, 2 * n + 1);
                    let transport = format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp};mode=record");
                    client.setup(&control, &transport)?.ok()?;
                }
                Over::Udp => {
                    let socket = UdpSocket::bind((server.ip(), 0))?;
                    let port = socket.local_addr()?.port();
                    let transport = format!("RTP/AVP;unicast;client_port={port}-{port};mode=record");
                    let answer = client.setup(&control, &transport)?.ok()?;
                    let (_, ports) =
                        answer.header("transport").split_once("server_port=").expect("server_port");
                    let port = ports.split('-').next().and_then(|p| p.parse().ok()).expect("a port");
                    sockets.push((socket, SocketAddr::new(server.ip(), port)));
                }
            }
        }
        client.request("RECORD", "", "Range: npt=0.000-\r\n", "")?.ok()?;
        Ok(Self { client, sockets, streams, out: Vec::new() })
    }

    /// Sender reports: where on a common clock the streams begin.
    pub fn report(&mut self) -> Result<(), RtspError> {
        self.add_reports()?;
        self.flush()
    }

    /// One frame of the file, in as many packets as it takes.
    pub fn frame(&mut self, due: Due<'_>) -> Result<(), RtspError> {
        self.add_frame(due)?;
        self.flush()
    }

    /// `length` of the file at once: over TCP in one write, so that as much as possible has left the sender's kernel
    /// when the connection is reset.
    pub fn all(&mut self, flv: &Flv, length: Duration) -> Result<(), RtspError> {
        self.add_reports()?;
        flv.timeline(length).into_iter().try_for_each(|due| self.add_frame(due))?;
        self.flush()
    }

    fn add_reports(&mut self) -> Result<(), RtspError> {
        for n in 0..self.streams.len() {
            let mut packet = vec![0x80, 200, 0, 6];
            packet.extend(self.streams[n].ssrc.to_be_bytes());
            packet.extend((3_900_000_000_u64 << 32).to_be_bytes());
            packet.extend(FIRST_TIMESTAMP.to_be_bytes());
            packet.extend([0; 8]);
            self.send(n, true, &packet)?;
        }
        Ok(())
    }

    fn add_frame(&mut self, due: Due<'_>) -> Result<(), RtspError> {
        let Some(n) = self.streams.iter().position(|s| s.kind == due.kind) else { return Ok(()) };
        let stream = &mut self.streams[n];
        let ticks = match due.kind {
            Kind::Video => due.timestamp_ms.wrapping_add(composition_ms(due.payload)) * (VIDEO_HZ / 1000),
            Kind::Audio => stream.units * SAMPLES_PER_AAC_UNIT,
        };
        stream.units += 1;
        let payloads = match due.kind {
            Kind::Video => h264_payloads(&due.payload[5..]),
            Kind::Audio => vec![aac_payload(&due.payload[2..])],
        };
        let last = payloads.len() - 1;
        for (index, payload) in payloads.into_iter().enumerate() {
            let stream = &mut self.streams[n];
            stream.sequence = stream.sequence.wrapping_add(1);
            let marker = if index == last { 0x80 } else { 0 };
            let mut packet = vec![0x80, marker | payload_type(stream.kind)];
            packet.extend(stream.sequence.to_be_bytes());
            packet.extend(FIRST_TIMESTAMP.wrapping_add(ticks).to_be_bytes());
            packet.extend(stream.ssrc.to_be_bytes());
            packet.extend(payload);
            self.send(n, false, &packet)?;
        }
        Ok(())
    }

    pub fn teardown(&mut self) -> Result<Answer, RtspError> {
        self.client.request("TEARDOWN", "", "", "")?.ok()
    }

    fn send(&mut self, n: usize, report: bool, packet: &[u8]) -> Result<(), RtspError> {
        if let Some((socket, to)) = self.sockets.get(n) {
            let to = SocketAddr::new(to.ip(), to.port() + u16::from(report));
            socket.send_to(packet, to)?;
            return Ok(());
        }
        let channel = 2 * n as u8 + u8::from(report);
        self.out.extend([b'$', channel]);
        self.out.extend((packet.len() as u16).to_be_bytes());
        self.out.extend(packet);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), RtspError> {
        self.client.send_raw(&std::mem::take(&mut self.out))
    }
}

fn payload_type(kind: Kind) -> u8 {
    match kind {
        Kind::Video => 96,
        Kind::Audio => 97,
    }
}

/// The session description of the file.
pub fn sdp_of(flv: &Flv) -> String {
    let mut sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n".to_owned();
    let mut n = 0;
    if let Some(header) = &flv.video_header {
        let sets: Vec<_> = parameter_sets(&header[5..]).iter().map(|set| base64(set)).collect();
        sdp += &format!(
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
             a=fmtp:96 packetization-mode=1;sprop-parameter-sets={}\r\na=control:track{n}\r\n",
            sets.join(",")
        );
        n += 1;
    }
    if let Some(header) = &flv.audio_header {
        let config: String = header[2..].iter().map(|byte| format!("{byte:02X}")).collect();
        let (rate, channels) = (audio_rate(flv), header[3] >> 3 & 0xF);
        sdp += &format!(
            "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/{rate}/{channels}\r\na=fmtp:97 streamtype=5;profile-level-id=1;\
             mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config={config}\r\na=control:track{n}\r\n"
        );
    }
    sdp
}

/// From the AudioSpecificConfig of the file.
fn audio_rate(flv: &Flv) -> u32 {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350,
    ];
    let Some([_, _, a, b, ..]) = flv.audio_header.as_deref() else { return RATES[3] };
    RATES[usize::from((a & 7) << 1 | b >> 7)]
}

/// SPS and PPS of an avcC (ISO 14496-15).
fn parameter_sets(avcc: &[u8]) -> Vec<Vec<u8>> {
    let (mut at, mut sets) = (5, Vec::new());
    for mask in [0x1F, 0xFF] {
        let count = avcc[at] & mask;
        at += 1;
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes([avcc[at], avcc[at + 1]]));
            sets.push(avcc[at + 2..at + 2 + length].to_vec());
            at += 2 + length;
        }
    }
    sets
}

fn composition_ms(payload: &[u8]) -> u32 {
    u32::from_be_bytes([0, payload[2], payload[3], payload[4]])
}

/// NAL units with 4-byte lengths, as single packets and FU-A (RFC 6184).
fn h264_payloads(mut access_unit: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let Some((length, rest)) = access_unit.split_first_chunk() {
        let (nal, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        access_unit = rest;
        if nal.len() <= PACKET_BYTES {
            payloads.push(nal.to_vec());
            continue;
        }
        let (header, parts) = (nal[0], nal[1..].chunks(PACKET_BYTES));
        let last = parts.len() - 1;
        for (index, part) in parts.enumerate() {
            let edge = if index == 0 { 0x80 } else { 0 } | if index == last { 0x40 } else { 0 };
            payloads.push([&[header & 0xE0 | 28, edge | header & 0x1F], part].concat());
        }
    }
    payloads
}

/// One access unit in AAC-hbr mode (RFC 3640).
fn aac_payload(unit: &[u8]) -> Vec<u8> {
    let size = (unit.len() as u16) << 3;
    [&16_u16.to_be_bytes()[..], &size.to_be_bytes(), unit].concat()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let value = (0..3).fold(0_u32, |value, n| value << 8 | u32::from(*group.get(n).unwrap_or(&0)));
        for n in 0..4 {
            let letter = LETTERS[(value >> (18 - 6 * n) & 63) as usize];
            text.push(if n <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
