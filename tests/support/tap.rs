//! A TCP proxy that writes down which ranges of which paths are asked for over HTTP/1.1, and which are answered.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

const PIECE: usize = 64 << 10;
/// Longest request head that is looked at.
const MAX_HEAD: usize = 64 << 10;

/// A GET with `Range: bytes=FROM-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeCall {
    pub path: String,
    pub from: u64,
    /// The next status on its connection; `None` until it is answered.
    pub status: Option<u16>,
}

type Calls = Arc<Mutex<Vec<RangeCall>>>;

/// Passes connections on until the test program ends.
#[derive(Debug)]
pub struct Tap {
    pub address: SocketAddr,
    calls: Calls,
}

impl Tap {
    /// In front of `server`.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let calls = Calls::default();
        let noted = calls.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let noted = noted.clone();
                // A browser that goes away breaks its connections off.
                thread::spawn(move || pass(near, server, &noted));
            }
        });
        Self { address, calls }
    }

    /// In the order in which they were asked.
    pub fn calls(&self) -> Vec<RangeCall> {
        self.calls.lock().expect("no panic under it").clone()
    }
}

/// Both ways of one connection, until one side ends it.
fn pass(near: TcpStream, server: SocketAddr, calls: &Calls) -> io::Result<()> {
    let far = TcpStream::connect(server)?;
    let (mut from_far, mut to_near) = (far.try_clone()?, near.try_clone()?);
    // Places of the calls on this connection that are not answered.
    let open: Arc<Mutex<Vec<usize>>> = Arc::default();
    let asked = open.clone();
    let answered = calls.clone();
    thread::spawn(move || {
        let copied = copy(&mut from_far, &mut to_near, |piece| {
            // The server writes a head at the beginning of a piece.
            let Some(status) = piece.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) else {
                return;
            };
            let status = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok());
            for place in asked.lock().expect("no panic under it").drain(..) {
                answered.lock().expect("no panic under it")[place].status = status;
            }
        });
        let _ = to_near.shutdown(Shutdown::Both);
        copied
    });
    let (mut from_near, mut to_far) = (near, far);
    let mut head = Vec::new();
    let copied = copy(&mut from_near, &mut to_far, |piece| {
        head.extend(&piece[..piece.len().min(MAX_HEAD)]);
        let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else { return };
        if let Some(call) = range_call(&String::from_utf8_lossy(&head[..end])) {
            let mut calls = calls.lock().expect("no panic under it");
            open.lock().expect("no panic under it").push(calls.len());
            calls.push(call);
        }
        head.clear();
    });
    let _ = to_far.shutdown(Shutdown::Both);
    copied
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, mut look: impl FnMut(&[u8])) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        look(&piece[..length]);
        to.write_all(&piece[..length])?;
    }
}

fn range_call(head: &str) -> Option<RangeCall> {
    let path = head.strip_prefix("GET ")?.split(' ').next()?.to_owned();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let range = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("range"))?.1;
    let from = range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()?;
    Some(RangeCall { path, from, status: None })
}
