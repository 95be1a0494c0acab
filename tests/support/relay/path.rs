//! One UDP path through the relay: near ↔ (near socket, far socket) ↔ far.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Dice, Fate};

/// How soon a path notices that it is closed.
const TICK: Duration = Duration::from_millis(100);
/// How many pairs of ports are tried.
const TRIES: usize = 200;

/// Where packets go; unknown until it is told or the first packet comes from there.
type Target = Arc<Mutex<Option<SocketAddr>>>;

/// Passes packets on until dropped.
#[derive(Debug)]
pub(super) struct Path {
    near: Target,
    far: Target,
    closed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Path {
    /// `near_socket` faces the near side, whose packets go out of `far_socket`, and the other way round.
    pub fn new(near_socket: UdpSocket, far_socket: UdpSocket, fate: &Arc<Fate>) -> io::Result<Self> {
        let (near, far, closed) = (Target::default(), Target::default(), Arc::new(AtomicBool::new(false)));
        let mut path =
            Self { near: near.clone(), far: far.clone(), closed: closed.clone(), threads: Vec::new() };
        let directions = [
            (near_socket.try_clone()?, far_socket.try_clone()?, near.clone(), far.clone()),
            (far_socket, near_socket, far, near),
        ];
        for (from, to, source, target) in directions {
            from.set_read_timeout(Some(TICK))?;
            let (dice, closed) = (fate.dice(), closed.clone());
            path.threads.push(thread::spawn(move || forward(&from, &to, &source, &target, dice, &closed)));
        }
        Ok(path)
    }

    pub fn set_near(&self, address: SocketAddr) {
        *self.near.lock().expect("no panic under it") = Some(address);
    }

    pub fn near(&self) -> Option<SocketAddr> {
        *self.near.lock().expect("no panic under it")
    }

    pub fn set_far(&self, address: SocketAddr) {
        *self.far.lock().expect("no panic under it") = Some(address);
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn forward(
    from: &UdpSocket,
    to: &UdpSocket,
    source: &Target,
    target: &Target,
    mut dice: Dice,
    closed: &AtomicBool,
) {
    let mut packet = [0; 65_536];
    while !closed.load(Ordering::Acquire) {
        // A time-out, or the peer's port is closed for now.
        let Ok((length, sender)) = from.recv_from(&mut packet) else { continue };
        // Another candidate of the same peer would make a second path, with answers that come back on the first.
        let known = *source.lock().expect("no panic under it").get_or_insert(sender);
        let target = *target.lock().expect("no panic under it");
        if let Some(target) = target
            && sender == known
            && dice.passes(&packet[..length])
        {
            // As on a real network, a packet to a closed port is gone.
            let _ = to.send_to(&packet[..length], target);
        }
    }
}

pub(super) fn socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
}

/// An even port and the next one, for RTP and RTCP (RFC 3550, section 11).
pub(super) fn socket_pair() -> io::Result<[UdpSocket; 2]> {
    for _ in 0..TRIES {
        let first = socket()?;
        let port = port_of(&first)?;
        if port % 2 == 0
            && let Ok(second) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1))
        {
            return Ok([first, second]);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no two neighbouring UDP ports are free"))
}

pub(super) fn port_of(socket: &UdpSocket) -> io::Result<u16> {
    Ok(socket.local_addr()?.port())
}
