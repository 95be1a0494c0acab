//! The plain RTMP handshake, both sides (RTMP 1.0, 5.2).

/// The only version there is a public specification of; RTMPE says 6, RTMPS says 3 inside TLS.
const VERSION: u8 = 3;
/// C1, C2, S1 and S2 have one length.
const PACKET_BYTES: usize = 1536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer asks for RTMP version {version}; this server speaks {VERSION} ({})", version_name(*version))]
    Version { version: u8 },
    #[error("the server does not speak RTMP: it begins with byte {version} and not with version {VERSION}")]
    NoRtmp { version: u8 },
}

fn version_name(version: u8) -> &'static str {
    /// What a TLS record with a handshake begins with.
    const TLS: u8 = 0x16;
    match version {
        TLS => "this is TLS: rtmps:// has a port of its own, [listen] rtmps",
        _ => "RTMPE is not supported",
    }
}

/// Answers C0 and C1 with S0, S1 and S2, then waits for C2.
///
/// S2 is C1 as it came, which is what librtmp, OBS, ffmpeg and GStreamer compare it with. S1 names server version 0,
/// so that clients with the digest variant of Flash (ffmpeg) fall back to the plain one. C2 is not compared: encoders
/// in the field send all kinds of bytes there.
#[derive(Debug)]
pub struct Handshake {
    c0_c1: Vec<u8>,
    c2_left: usize,
    seed: u64,
}

impl Handshake {
    /// `seed`: fills S1; any number, need not be secret.
    pub fn new(seed: u64) -> Self {
        Self { c0_c1: Vec::new(), c2_left: PACKET_BYTES, seed }
    }

    /// Takes what belongs to the handshake from the front of `input` and appends the answer to `out`.
    /// True once the handshake is over; what is left in `input` then are chunks.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        if self.c0_c1.len() < 1 + PACKET_BYTES {
            let part = take(input, 1 + PACKET_BYTES - self.c0_c1.len());
            self.c0_c1.extend_from_slice(part);
            match self.c0_c1.first() {
                Some(&version) if version != VERSION => return Err(HandshakeError::Version { version }),
                _ if self.c0_c1.len() <= PACKET_BYTES => return Ok(false),
                _ => self.answer(out),
            }
        }
        self.c2_left -= take(input, self.c2_left).len();
        Ok(self.c2_left == 0)
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        out.reserve(1 + 2 * PACKET_BYTES);
        hello(self.seed, out);
        out.extend_from_slice(&self.c0_c1[1..]);
    }
}

/// Says C0 and C1, and answers S0 and S1 with C2.
///
/// C1 names client version 0, which asks for the plain handshake. C2 is S1 as it came; S2 is not compared, and may
/// come only after C2.
#[derive(Debug, Default)]
pub struct ClientHandshake {
    s0_s1: Vec<u8>,
    s2_read: usize,
}

impl ClientHandshake {
    /// C0 and C1, to be sent first. `seed`: as for [`Handshake::new`].
    pub fn hello(seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + PACKET_BYTES);
        hello(seed, &mut bytes);
        bytes
    }

    /// As [`Handshake::read`], with what the server sends.
    pub fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        if self.s0_s1.len() < 1 + PACKET_BYTES {
            let part = take(input, 1 + PACKET_BYTES - self.s0_s1.len());
            self.s0_s1.extend_from_slice(part);
            match self.s0_s1.first() {
                Some(&version) if version != VERSION => return Err(HandshakeError::NoRtmp { version }),
                _ if self.s0_s1.len() <= PACKET_BYTES => return Ok(false),
                _ => out.extend_from_slice(&self.s0_s1[1..]),
            }
        }
        self.s2_read += take(input, PACKET_BYTES - self.s2_read).len();
        Ok(self.s2_read == PACKET_BYTES)
    }
}

/// Version, then time 0, peer's version 0 and bytes that look random.
fn hello(mut seed: u64, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&[0; 8]);
    for _ in 0..(PACKET_BYTES - 8) / 8 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(seed ^ (seed >> 29)).to_be_bytes());
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client_bytes() -> Vec<u8> {
        let c1 = (0..PACKET_BYTES).map(|i| (i % 251) as u8);
        std::iter::once(VERSION).chain(c1).chain([7; PACKET_BYTES]).chain(*b"chunk").collect()
    }

    proptest! {
        #[test]
        fn answers_whatever_the_pieces(pieces in prop::collection::vec(1usize..1000, 1..40)) {
            let bytes = client_bytes();
            let mut handshake = Handshake::new(1);
            let (mut rest, mut out, mut done) = (&bytes[..], Vec::new(), false);
            for size in pieces.into_iter().chain([4000]) {
                let mut input = take(&mut rest, size);
                done = handshake.read(&mut input, &mut out).unwrap();
                if done {
                    let unread = [input, rest].concat();
                    prop_assert_eq!(&unread, b"chunk");
                    break;
                }
                prop_assert!(input.is_empty());
            }
            prop_assert!(done);
            prop_assert_eq!(out.len(), 1 + 2 * PACKET_BYTES);
            prop_assert_eq!(&out[..9], &[3, 0, 0, 0, 0, 0, 0, 0, 0]);
            prop_assert_eq!(&out[1 + PACKET_BYTES..], &bytes[1..1 + PACKET_BYTES]);
        }
    }

    #[test]
    fn the_two_sides_understand_each_other_however_the_bytes_are_cut() {
        for size in [1, 700, 1536, 1537, 4000] {
            let (mut client, mut server) = (ClientHandshake::default(), Handshake::new(1));
            let (mut to_server, mut to_client) = (ClientHandshake::hello(2), Vec::new());
            let (mut done, mut server_done) = (false, false);
            for _ in 0..2 {
                for piece in std::mem::take(&mut to_server).chunks(size) {
                    server_done = server.read(&mut &piece[..], &mut to_client).unwrap();
                }
                for piece in std::mem::take(&mut to_client).chunks(size) {
                    done = client.read(&mut &piece[..], &mut to_server).unwrap();
                }
            }
            assert!(done && server_done && to_client.is_empty(), "in pieces of {size}");
        }
        let mut out = Vec::new();
        let web = ClientHandshake::default().read(&mut &b"HTTP/1.1 400"[..], &mut out);
        assert_eq!((web, out.len()), (Err(HandshakeError::NoRtmp { version: b'H' }), 0));
    }

    #[test]
    fn another_version_is_refused_at_the_first_byte() {
        for version in [0, 6, b'G', 0x16] {
            let mut out = Vec::new();
            let result = Handshake::new(1).read(&mut &[version][..], &mut out);
            assert_eq!(result, Err(HandshakeError::Version { version }));
            assert!(out.is_empty());
        }
    }
}
