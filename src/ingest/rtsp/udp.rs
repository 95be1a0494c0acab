//! RTP over UDP: the pair of sockets of one media section. No thread and no wake-ups of its own; whoever owns it drains
//! it on its tick.

use socket2::{Domain, SockRef, Socket, Type};
use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

/// What the kernel is asked to keep of RTP between two ticks. `net.core.rmem_max` bounds it for a daemon without
/// CAP_NET_ADMIN.
const RTP_BUFFER_BYTES: usize = 4 << 20;
/// With less than this a key frame sent in one burst can overflow it within a tick.
const ROOMY_BUFFER_BYTES: usize = 2 << 20;
/// Of RTCP, which is a packet now and then.
const RTCP_BUFFER_BYTES: usize = 64 << 10;
/// Longest packet.
const MAX_PACKET_BYTES: usize = 64 << 10;
/// Most packets that are read from one socket at a stretch.
const READ_AT_ONCE: usize = 4096;
/// How often a pair of neighbouring ports is looked for.
const BIND_ATTEMPTS: usize = 64;
/// So many packets in a row from another port of the peer are no intruder's but its own: a NAT in between gave it a new
/// one.
const MAX_ELSEWHERE: u32 = 64;

thread_local! {
    /// Where packets are read to.
    static PACKET: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_PACKET_BYTES]);
}

/// The sockets for RTP (even port) and RTCP (the next one).
#[derive(Debug)]
pub struct UdpPair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    rtp_from: Sender,
    rtcp_from: Sender,
    peer: SocketAddr,
    foreign: u64,
}

/// Whose packets one of the sockets takes.
#[derive(Debug, Default)]
struct Sender {
    /// The port that the peer said it sends from. Behind a NAT it is another one.
    told: Option<u16>,
    /// The port it was heard from last.
    heard: Option<u16>,
    /// Packets in a row from other ports.
    elsewhere: u32,
}

/// What a packet is, by the socket it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    Rtp,
    Rtcp,
}

impl UdpPair {
    /// Binds a free pair of ports at the address of `local`. `peer` is who will send, its port aside; `peer_ports` those
    /// that it told for RTP and RTCP, if it did.
    pub fn bind(local: SocketAddr, peer: SocketAddr, peer_ports: Option<(u16, u16)>) -> io::Result<Self> {
        let (rtp, rtcp) = bind_pair(local)?;
        set_receive_buffer(&rtp, RTP_BUFFER_BYTES)?;
        set_receive_buffer(&rtcp, RTCP_BUFFER_BYTES)?;
        let (rtp_from, rtcp_from) = (Sender::default(), Sender::default());
        let mut pair = Self { rtp, rtcp, rtp_from, rtcp_from, peer, foreign: 0 };
        if let Some(ports) = peer_ports {
            pair.peer_told(ports);
        }
        Ok(pair)
    }

    /// The peer says that it sends RTP and RTCP from these ports.
    pub fn peer_told(&mut self, (rtp, rtcp): (u16, u16)) {
        (self.rtp_from.told, self.rtcp_from.told) = (Some(rtp), Some(rtcp));
    }

    /// The ports of RTP and RTCP.
    pub fn ports(&self) -> io::Result<(u16, u16)> {
        Ok((self.rtp.local_addr()?.port(), self.rtcp.local_addr()?.port()))
    }

    /// Whether the kernel keeps enough for bursts between ticks of 100 ms; else read more often.
    pub fn is_roomy(&self) -> bool {
        SockRef::from(&self.rtp).recv_buffer_size().is_ok_and(|bytes| bytes >= ROOMY_BUFFER_BYTES)
    }

    /// Packets that came from somebody else.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Hands out every packet of the peer that waits; never waits itself. `take` must not drain another pair.
    pub fn drain(&mut self, mut take: impl FnMut(PacketKind, &[u8])) -> io::Result<()> {
        let Self { rtp, rtcp, rtp_from, rtcp_from, peer, foreign } = self;
        PACKET.with_borrow_mut(|buffer| {
            // Reports first: they tell what the clock of the packets means.
            for (kind, socket, sender) in
                [(PacketKind::Rtcp, rtcp, rtcp_from), (PacketKind::Rtp, rtp, rtp_from)]
            {
                for _ in 0..READ_AT_ONCE {
                    let (n, from) = match socket.recv_from(buffer) {
                        Ok(received) => received,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        // The second: an earlier report met a closed port; that is not the end of what comes in.
                        Err(e)
                            if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused) =>
                        {
                            continue;
                        }
                        Err(e) => return Err(e),
                    };
                    match is_host(peer, from.ip()) && sender.is_at(from.port()) {
                        true => take(kind, &buffer[..n]),
                        false => *foreign += 1,
                    }
                }
            }
            Ok(())
        })
    }

    /// Sends a compound RTCP packet to where the peer's come from, before the first one to where it said it listens. One
    /// that cannot be sent is one the network lost.
    pub fn report(&self, packet: &[u8]) {
        if let Some(port) = self.rtcp_from.heard.or(self.rtcp_from.told) {
            let _ = self.rtcp.send_to(packet, self.at(port));
        }
    }

    /// Opens a way for the peer's packets through a NAT or a firewall in front of this end: a client does it before PLAY.
    pub fn punch(&self) {
        // An RTP packet without payload, and a receiver report without blocks, as clients send it.
        let (rtp, rtcp): (&[u8], &[u8]) =
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x80, 201, 0, 1, 0, 0, 0, 0]);
        for (socket, sender, packet) in
            [(&self.rtp, &self.rtp_from, rtp), (&self.rtcp, &self.rtcp_from, rtcp)]
        {
            if let Some(port) = sender.told {
                let _ = socket.send_to(packet, self.at(port));
            }
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        with_port(self.peer, port)
    }
}

impl Sender {
    /// Whether a packet from `port` of the peer's host is the sender's. Another program there, or who pretends to be
    /// there, has to know the port, too.
    fn is_at(&mut self, port: u16) -> bool {
        let known = self.heard.is_none() || [self.told, self.heard].contains(&Some(port));
        self.elsewhere = if known { 0 } else { self.elsewhere + 1 };
        let taken = known || self.elsewhere > MAX_ELSEWHERE;
        if taken {
            (self.heard, self.elsewhere) = (Some(port), 0);
        }
        taken
    }
}

fn is_host(peer: &SocketAddr, ip: IpAddr) -> bool {
    ip.to_canonical() == peer.ip().to_canonical()
}

/// `address` at another port, in the same scope (of a link-local one).
fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn bind_pair(local: SocketAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let mut last = ErrorKind::AddrInUse.into();
    // Kept until the end, so that the kernel does not give the same ports again.
    let mut tried = Vec::new();
    for _ in 0..BIND_ATTEMPTS {
        let first = bind(with_port(local, 0))?;
        let port = first.local_addr()?.port();
        // RTP has the even one of the two (RFC 3550, 11).
        match bind(with_port(local, port ^ 1)) {
            Ok(second) if port % 2 == 0 => return Ok((first, second)),
            Ok(second) => return Ok((second, first)),
            Err(e) => last = e,
        }
        tried.push(first);
    }
    Err(last)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn set_receive_buffer(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    set_receive_buffer_by_force(socket, bytes).or_else(|_| SockRef::from(socket).set_recv_buffer_size(bytes))
}

/// SO_RCVBUFFORCE (socket(7)): past `net.core.rmem_max`, for who has CAP_NET_ADMIN.
fn set_receive_buffer_by_force(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    let (value, length) = ((&raw const bytes).cast(), size_of_val(&bytes) as libc::socklen_t);
    // SAFETY: the descriptor is open as long as `socket`; value and length describe one c_int.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

    fn pair_at(host: IpAddr, peer_ports: Option<(u16, u16)>) -> UdpPair {
        let host = SocketAddr::new(host, 8554);
        UdpPair::bind(host, host, peer_ports).expect("ports")
    }

    fn socket() -> UdpSocket {
        UdpSocket::bind((HERE, 0)).expect("a port")
    }

    fn drained(pair: &mut UdpPair) -> Vec<(PacketKind, Vec<u8>)> {
        let mut got = Vec::new();
        pair.drain(|kind, packet| got.push((kind, packet.to_vec()))).expect("drained");
        got
    }

    #[test]
    fn only_the_peer_is_heard_and_reports_go_where_its_own_come_from() {
        let mut pair = pair_at(HERE, None);
        let (rtp, rtcp) = pair.ports().expect("bound");
        assert_eq!((rtp % 2, rtcp), (0, rtp + 1));
        let (sender, stranger) = (socket(), UdpSocket::bind((ELSEWHERE, 0)).expect("a port"));
        sender.send_to(b"media", (HERE, rtp)).expect("sent");
        sender.send_to(b"report", (HERE, rtcp)).expect("sent");
        stranger.send_to(b"noise", (HERE, rtp)).expect("sent");
        let want = [(PacketKind::Rtcp, b"report".to_vec()), (PacketKind::Rtp, b"media".to_vec())];
        assert_eq!((drained(&mut pair), pair.foreign()), (want.to_vec(), 1));
        pair.report(b"answer");
        let mut buffer = [0; 16];
        let (n, from) = sender.recv_from(&mut buffer).expect("a report");
        assert_eq!((&buffer[..n], from.port()), (&b"answer"[..], rtcp));
    }

    /// Once every program on the publisher's machine, and everyone behind its NAT, could put packets into its stream.
    #[test]
    fn another_port_of_the_peer_is_foreign_unless_only_it_sends() {
        let (sender, intruder) = (socket(), socket());
        let told = sender.local_addr().expect("bound").port();
        for peer_ports in [None, Some((told, told + 1))] {
            let mut pair = pair_at(HERE, peer_ports);
            let to = (HERE, pair.ports().expect("bound").0);
            let send = |from: &UdpSocket| from.send_to(b"x", to).map(drop).expect("sent");
            if peer_ports.is_some() {
                send(&intruder);
                assert_eq!(
                    drained(&mut pair).len(),
                    1,
                    "as long as the peer was not heard, it may be behind a NAT"
                );
            }
            for _ in 0..100 {
                send(&sender);
                send(&intruder);
            }
            assert_eq!((drained(&mut pair).len(), pair.foreign()), (100, 100), "{peer_ports:?}");
            (0..100).for_each(|_| send(&intruder));
            assert_eq!(drained(&mut pair).len(), 100 - MAX_ELSEWHERE as usize + 1, "the NAT gave a new port");
        }
    }

    #[test]
    fn addresses_of_ipv6_work_mapped_ones_too() {
        for host in ["::1", "::ffff:127.0.0.1"] {
            let host: IpAddr = host.parse().expect("an address");
            let mut pair = pair_at(host, None);
            let (rtp, _) = pair.ports().expect("bound");
            let sender = UdpSocket::bind((host.to_canonical(), 0)).expect("a port");
            sender.send_to(b"media", (host.to_canonical(), rtp)).expect("sent");
            assert_eq!(drained(&mut pair).len(), 1, "{host}");
        }
    }

    #[test]
    fn many_pairs_find_ports() {
        let pairs: Vec<_> = (0..100).map(|_| pair_at(HERE, None)).collect();
        assert!(pairs.iter().all(|p| p.ports().is_ok_and(|(rtp, rtcp)| rtp % 2 == 0 && rtcp == rtp + 1)));
    }
}
