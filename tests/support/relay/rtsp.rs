//! Between an RTSP client and its server, whichever sends the media. TCP passes whole; the UDP ports that the two
//! agree on are replaced by the relay's.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{
    Counts, Fate, Loss,
    path::{Path, port_of, socket_pair},
};

/// Longer messages are refused.
const MAX_BYTES: usize = 1 << 20;

/// A relay in front of one RTSP server.
#[derive(Debug)]
pub struct RtspRelay {
    address: SocketAddr,
    fate: Arc<Fate>,
}

impl RtspRelay {
    pub fn start(server: SocketAddr, loss: Loss) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let fate = Fate::new(loss);
        let shared = fate.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let fate = shared.clone();
                thread::spawn(move || relay(client, server, &fate));
            }
        });
        Self { address, fate }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url`, which names the server, through the relay.
    pub fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (authority, path) = rest.split_once('/').expect("a path");
        match authority.rsplit_once('@') {
            Some((user, _)) => format!("{scheme}://{user}@{}/{path}", self.address),
            None => format!("{scheme}://{}/{path}", self.address),
        }
    }

    pub fn set_percent(&self, percent: f64) {
        self.fate.set_percent(percent);
    }

    pub fn counts(&self) -> Counts {
        self.fate.counts()
    }
}

/// The paths of one connection: RTP and RTCP of one track, with the relay's ports that face the client.
struct Track {
    paths: [Path; 2],
    to_client: u16,
}

type Tracks = Arc<Mutex<Vec<Track>>>;

fn relay(client: TcpStream, server: SocketAddr, fate: &Arc<Fate>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let tracks = Tracks::default();
    // The answers come in the order of the requests: for each, the track that it sets up.
    let (asked, answers): (Sender<Option<usize>>, Receiver<Option<usize>>) = channel();
    let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
    let shared = tracks.clone();
    let back = thread::spawn(move || {
        let done = pass(&from_server, &to_client, |head| {
            let is_answer = head.starts_with("RTSP/");
            match is_answer.then(|| answers.try_recv().ok().flatten()).flatten() {
                Some(track) => answer(head, &shared, track),
                None => Ok(head.to_owned()),
            }
        });
        let _ = to_client.shutdown(Shutdown::Both);
        done
    });
    let done = pass(&client, &server, |head| {
        if head.starts_with("RTSP/") {
            return Ok(head.to_owned());
        }
        let setup = head.starts_with("SETUP ") && head.contains("client_port=");
        let (head, track) = if setup { request(head, &tracks, fate)? } else { (head.to_owned(), None) };
        let _ = asked.send(track);
        Ok(head)
    });
    let _ = server.shutdown(Shutdown::Both);
    let _ = back.join();
    done
}

/// Passes messages and interleaved packets on, up to the end of the stream.
fn pass(
    from: &TcpStream,
    mut to: &TcpStream,
    mut rewrite: impl FnMut(&str) -> io::Result<String>,
) -> io::Result<()> {
    let mut reader = BufReader::new(from);
    loop {
        let Some(&first) = reader.fill_buf()?.first() else { return Ok(()) };
        if first == b'$' {
            let mut packet = vec![0; 4];
            reader.read_exact(&mut packet)?;
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            packet.resize(4 + length, 0);
            reader.read_exact(&mut packet[4..])?;
            to.write_all(&packet)?;
            continue;
        }
        let head = read_head(&mut reader)?;
        let length = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        if length > MAX_BYTES {
            return Err(invalid("a body longer than this relay takes"));
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        to.write_all(&[rewrite(&head)?.as_bytes(), &body].concat())?;
    }
}

/// Up to and with the empty line.
fn read_head(reader: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    loop {
        let length = reader.read_line(&mut head)?;
        if length == 0 || head.len() > MAX_BYTES {
            return Err(invalid("a message without its end"));
        }
        if head.ends_with("\r\n\r\n") || head == "\r\n" {
            return Ok(head);
        }
    }
}

/// SETUP: the server is told the relay's ports.
fn request(head: &str, tracks: &Tracks, fate: &Arc<Fate>) -> io::Result<(String, Option<usize>)> {
    let client_ports = ports(head, "client_port=").ok_or_else(|| invalid(head))?;
    let ([near_rtp, near_rtcp], [far_rtp, far_rtcp]) = (socket_pair()?, socket_pair()?);
    let (to_client, to_server) = (port_of(&near_rtp)?, port_of(&far_rtp)?);
    let paths = [Path::new(near_rtp, far_rtp, fate)?, Path::new(near_rtcp, far_rtcp, fate)?];
    for (path, port) in paths.iter().zip(client_ports) {
        path.set_near((Ipv4Addr::LOCALHOST, port).into());
    }
    let mut tracks = tracks.lock().expect("no panic under it");
    tracks.push(Track { paths, to_client });
    Ok((replace(head, "client_port=", to_server), Some(tracks.len() - 1)))
}

/// The answer to SETUP: the client is told the relay's ports, and its own as it named them.
fn answer(head: &str, tracks: &Tracks, track: usize) -> io::Result<String> {
    let Some(server_ports) = ports(head, "server_port=") else { return Ok(head.to_owned()) };
    let tracks = tracks.lock().expect("no panic under it");
    let Track { paths, to_client } = &tracks[track];
    for (path, port) in paths.iter().zip(server_ports) {
        path.set_far((Ipv4Addr::LOCALHOST, port).into());
    }
    let head = replace(head, "server_port=", *to_client);
    let near = paths[0].near().map_or(0, |address| address.port());
    Ok(replace(&head, "client_port=", near))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1);
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// `A-B` or `A` after `key`; a single port means its neighbour too.
fn ports(head: &str, key: &str) -> Option<[u16; 2]> {
    let value = &head[head.find(key)? + key.len()..];
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(value.len());
    let (first, second) = value[..end].split_once('-').unwrap_or((&value[..end], ""));
    let first = first.parse().ok()?;
    Some([first, second.parse().unwrap_or(first + 1)])
}

fn replace(head: &str, key: &str, port: u16) -> String {
    let Some(at) = head.find(key).map(|at| at + key.len()) else { return head.to_owned() };
    let rest = head[at..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    format!("{}{port}-{}{rest}", &head[..at], port + 1)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
