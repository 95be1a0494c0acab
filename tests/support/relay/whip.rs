//! Between a WHIP client and its endpoint: HTTP passes, the candidates of offer and answer are replaced by one each,
//! of the relay. Only host candidates over UDP, one transport for all media (BUNDLE), no trickle ICE.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{
    Counts, Fate, Loss,
    path::{Path, port_of, socket},
};

const MAX_BYTES: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(30);
const PRIORITY: u32 = 2_130_706_431;

/// A relay in front of one WHIP server; serves any number of sessions.
#[derive(Debug)]
pub struct WhipRelay {
    address: SocketAddr,
    fate: Arc<Fate>,
}

type Paths = Arc<Mutex<Vec<Path>>>;

impl WhipRelay {
    pub fn start(server: SocketAddr, loss: Loss) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let fate = Fate::new(loss);
        let shared = fate.clone();
        thread::spawn(move || {
            let paths = Paths::default();
            for client in listener.incoming().flatten() {
                let (fate, paths) = (shared.clone(), paths.clone());
                thread::spawn(move || exchange(client, server, &fate, &paths));
            }
        });
        Self { address, fate }
    }

    /// The WHIP endpoint `path` of the server, through the relay.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address, path.trim_start_matches('/'))
    }

    pub fn set_percent(&self, percent: f64) {
        self.fate.set_percent(percent);
    }

    pub fn counts(&self) -> Counts {
        self.fate.counts()
    }
}

/// One request and its answer, then the end of both connections.
fn exchange(mut client: TcpStream, server: SocketAddr, fate: &Arc<Fate>, paths: &Paths) -> io::Result<()> {
    let request = Message::read(&mut client)?;
    let mut server = TcpStream::connect_timeout(&server, DEADLINE)?;
    let media = request.is_sdp().then(|| Media::new(fate)).transpose()?;
    let offer = request.text();
    let request = match &media {
        Some(media) => request.with_body(media.candidates(&offer, port_of(&media.far)?)),
        None => request,
    };
    server.write_all(&request.closing())?;
    let answer = Message::read(&mut server)?;
    let sdp = answer.text();
    let answer = match (media, answer.is_sdp()) {
        (Some(media), true) => {
            let body = media.candidates(&sdp, port_of(&media.near)?);
            paths.lock().expect("no panic under it").push(media.connect(&offer, &sdp)?);
            answer.with_body(body)
        }
        _ => answer,
    };
    client.write_all(&answer.closing())?;
    client.shutdown(Shutdown::Write)
}

/// The sockets of one session.
struct Media {
    near: std::net::UdpSocket,
    far: std::net::UdpSocket,
    fate: Arc<Fate>,
}

impl Media {
    fn new(fate: &Arc<Fate>) -> io::Result<Self> {
        Ok(Self { near: socket()?, far: socket()?, fate: fate.clone() })
    }

    /// The description with one candidate, the relay's, in the first media section that had any.
    fn candidates(&self, sdp: &str, port: u16) -> String {
        let mut lines = Vec::new();
        let mut told = false;
        for line in sdp.lines() {
            if !line.starts_with("a=candidate:") {
                lines.push(line.to_owned());
            } else if !told {
                told = true;
                lines.push(format!("a=candidate:1 1 udp {PRIORITY} 127.0.0.1 {port} typ host"));
            }
        }
        lines.push(String::new());
        lines.join("\r\n")
    }

    fn connect(self, offer: &str, answer: &str) -> io::Result<Path> {
        let path = Path::new(self.near, self.far, &self.fate)?;
        if let Some(client) = candidate(offer) {
            path.set_near(client);
        }
        let none = || io::Error::new(io::ErrorKind::InvalidData, "no host candidate over UDP in the answer");
        path.set_far(candidate(answer).ok_or_else(none)?);
        Ok(path)
    }
}

/// An IPv4 host candidate over UDP, the one of the loopback interface before others: whose packets come from the same
/// address as the relay's.
fn candidate(sdp: &str) -> Option<SocketAddr> {
    let candidates = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
    let hosts =
        candidates.map(|line| line.split(' ').collect::<Vec<_>>()).filter_map(|words| match words[..] {
            [_, "1", transport, _, address, port, "typ", "host", ..]
                if transport.eq_ignore_ascii_case("udp") =>
            {
                Some(SocketAddr::from((address.parse::<Ipv4Addr>().ok()?, port.parse().ok()?)))
            }
            _ => None,
        });
    // Of equals, this takes the first.
    hosts.min_by_key(|host| !host.ip().is_loopback())
}

/// An HTTP message with a body of known length.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn read(socket: &mut TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(DEADLINE))?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let length = header(&head, "content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
                if bytes.len() >= end + 4 + length {
                    return Ok(Self { head, body: bytes[end + 4..end + 4 + length].to_vec() });
                }
            }
            let count = socket.read(&mut chunk)?;
            if count == 0 || bytes.len() > MAX_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no whole HTTP message"));
            }
            bytes.extend(&chunk[..count]);
        }
    }

    fn is_sdp(&self) -> bool {
        !self.body.is_empty()
            && header(&self.head, "content-type").is_some_and(|kind| kind.starts_with("application/sdp"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn with_body(self, body: String) -> Self {
        Self { head: self.head, body: body.into_bytes() }
    }

    /// Its bytes; the connection ends after it.
    fn closing(&self) -> Vec<u8> {
        let own = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default();
            !["content-length", "connection"].iter().any(|own| name.eq_ignore_ascii_case(own))
        };
        let mut lines: Vec<_> = self.head.split("\r\n").filter(own).map(str::to_owned).collect();
        lines.push("Connection: close".to_owned());
        let bodiless = [" 204 ", " 304 "].iter().any(|status| lines[0].contains(status));
        if !bodiless {
            lines.push(format!("Content-Length: {}", self.body.len()));
        }
        [lines.join("\r\n").as_bytes(), b"\r\n\r\n", &self.body].concat()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
