//! RTP over UDP: the pair of sockets of one media section. No thread and no wake-ups of its own; whoever owns it drains
//! it on its tick.

use socket2::{Domain, SockRef, Socket, Type};
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

/// What the kernel is asked to keep between two ticks. `net.core.rmem_max` bounds it for a daemon without CAP_NET_ADMIN.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// With less than this a key frame sent in one burst can overflow it within a tick.
const ROOMY_BUFFER_BYTES: usize = 2 << 20;
/// Longest packet.
const MAX_PACKET_BYTES: usize = 64 << 10;
/// Most packets that are read from one socket at a stretch.
const READ_AT_ONCE: usize = 4096;
/// How often a pair of neighbouring ports is looked for.
const BIND_ATTEMPTS: usize = 64;

/// The sockets for RTP (even port) and RTCP (the next one).
#[derive(Debug)]
pub struct UdpPair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    /// Only packets from here are taken.
    peer: IpAddr,
    /// Where reports go: where the peer's come from, before the first one where it said it listens.
    report_to: Option<SocketAddr>,
    foreign: u64,
}

/// What a packet is, by the socket it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    Rtp,
    Rtcp,
}

impl UdpPair {
    /// Binds a free pair of ports at `local`. `peer` is who will send; `peer_port` its ports, if it told them.
    pub fn bind(local: IpAddr, peer: IpAddr, peer_port: Option<(u16, u16)>) -> io::Result<Self> {
        let (rtp, rtcp) = bind_pair(local)?;
        let report_to = peer_port.map(|(_, rtcp)| SocketAddr::new(peer, rtcp));
        Ok(Self { rtp, rtcp, peer, report_to, foreign: 0 })
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

    /// Hands out every packet of the peer that waits; never waits itself. `buffer`: where packets are read to, see
    /// [`packet_buffer`].
    pub fn drain(&mut self, buffer: &mut [u8], mut take: impl FnMut(PacketKind, &[u8])) -> io::Result<()> {
        // Reports first: they tell what the clock of the packets means.
        for kind in [PacketKind::Rtcp, PacketKind::Rtp] {
            for _ in 0..READ_AT_ONCE {
                let socket = match kind {
                    PacketKind::Rtp => &self.rtp,
                    PacketKind::Rtcp => &self.rtcp,
                };
                let (n, from) = match socket.recv_from(buffer) {
                    Ok(received) => received,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    // The second: an earlier report met a closed port; that is not the end of what comes in.
                    Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused) => {
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                if from.ip().to_canonical() != self.peer.to_canonical() {
                    self.foreign += 1;
                    continue;
                }
                if kind == PacketKind::Rtcp {
                    self.report_to = Some(from);
                }
                take(kind, &buffer[..n]);
            }
        }
        Ok(())
    }

    /// Sends a compound RTCP packet to the peer. One that cannot be sent is one the network lost.
    pub fn report(&self, packet: &[u8]) {
        if let Some(to) = self.report_to {
            let _ = self.rtcp.send_to(packet, to);
        }
    }

    /// Opens a way for the peer's packets through a NAT or a firewall in front of this end: a client does it before PLAY.
    pub fn punch(&self, peer_port: (u16, u16)) {
        // An RTP packet without payload, and a receiver report without blocks, as clients send it.
        let (rtp, rtcp): (&[u8], &[u8]) =
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x80, 201, 0, 1, 0, 0, 0, 0]);
        let _ = self.rtp.send_to(rtp, (self.peer, peer_port.0));
        let _ = self.rtcp.send_to(rtcp, (self.peer, peer_port.1));
    }
}

/// A buffer for [`UdpPair::drain`].
pub fn packet_buffer() -> Vec<u8> {
    vec![0; MAX_PACKET_BYTES]
}

fn bind_pair(local: IpAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let mut last = ErrorKind::AddrInUse.into();
    // Kept until the end, so that the kernel does not give the same ports again.
    let mut tried = Vec::new();
    for _ in 0..BIND_ATTEMPTS {
        let first = bind(SocketAddr::new(local, 0))?;
        let port = first.local_addr()?.port();
        // RTP has the even one of the two (RFC 3550, 11).
        match bind(SocketAddr::new(local, port ^ 1)) {
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
    if set_receive_buffer_by_force(&socket).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// SO_RCVBUFFORCE (socket(7)): past `net.core.rmem_max`, for who has CAP_NET_ADMIN.
fn set_receive_buffer_by_force(socket: &Socket) -> io::Result<()> {
    let bytes = RECEIVE_BUFFER_BYTES as libc::c_int;
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

    #[test]
    fn only_the_peer_is_heard_and_reports_go_where_its_own_come_from() {
        let mut pair = UdpPair::bind(HERE, HERE, None).expect("ports");
        let (rtp, rtcp) = pair.ports().expect("bound");
        assert_eq!((rtp % 2, rtcp), (0, rtp + 1));
        let (sender, stranger) = (UdpSocket::bind((HERE, 0)), UdpSocket::bind((ELSEWHERE, 0)));
        let (sender, stranger) = (sender.expect("a port"), stranger.expect("a port"));
        sender.send_to(b"media", (HERE, rtp)).expect("sent");
        sender.send_to(b"report", (HERE, rtcp)).expect("sent");
        stranger.send_to(b"noise", (HERE, rtp)).expect("sent");
        let mut got = Vec::new();
        pair.drain(&mut packet_buffer(), |kind, packet| got.push((kind, packet.to_vec()))).expect("drained");
        let want = [(PacketKind::Rtcp, b"report".to_vec()), (PacketKind::Rtp, b"media".to_vec())];
        assert_eq!((got, pair.foreign()), (want.to_vec(), 1));
        pair.report(b"answer");
        let mut buffer = [0; 16];
        let (n, from) = sender.recv_from(&mut buffer).expect("a report");
        assert_eq!((&buffer[..n], from.port()), (&b"answer"[..], rtcp));
    }

    #[test]
    fn many_pairs_find_ports() {
        let pairs: Vec<_> = (0..100).map(|_| UdpPair::bind(HERE, HERE, None).expect("ports")).collect();
        assert!(pairs.iter().all(|p| p.ports().is_ok_and(|(rtp, rtcp)| rtp % 2 == 0 && rtcp == rtp + 1)));
    }
}
