//! Ends an MPEG transport stream (ISO/IEC 13818-1): it plays as it is, so only what is cut off is cut away.

use super::{
    found::{Found, Kind, Span, Track},
    pages::Pages,
};
use crate::{
    gst::mp4mux::{h264_size, h265_size},
    media::Codec,
};
use std::{collections::BTreeMap, fs::File, io};

const PACKET_BYTES: u64 = 188;
const SYNC: u8 = 0x47;
const PAT_PID: u16 = 0;
/// Ticks a second of presentation times, which have 33 bits.
const CLOCK_HZ: u64 = 90_000;
const CLOCK_BITS: u32 = 33;
/// So much of an elementary stream's beginning is kept to tell what it is.
const HEAD_BYTES: usize = 4096;
/// As for the other containers: behind a longer rest there may be pictures.
const MAX_CUT_BYTES: u64 = 512 << 20;
/// filesink hands out what it gathered in pieces of this, wherever a packet ends.
const PIECE_BYTES: u64 = 4096;

type Packet = [u8; PACKET_BYTES as usize];

/// Cuts the file at its last whole access unit and syncs it; `None`, with nothing changed, when it is no transport stream,
/// or nothing is in it.
pub(super) fn finish(file: &File) -> io::Result<Option<Found>> {
    let mut pages = Pages::new(file)?;
    let mut scan = Scan::default();
    let mut whole = 0;
    while let Some(packet) = pages.array::<{ PACKET_BYTES as usize }>(whole)? {
        if packet[0] != SYNC || pages.has_hole(whole, whole + PACKET_BYTES)? {
            break;
        }
        scan.take(&packet, whole);
        whole += PACKET_BYTES;
    }
    if pages.len - whole > MAX_CUT_BYTES && scan.has_media() {
        let error = format!("it is damaged at byte {whole} of {}; a player may find what follows", pages.len);
        return Err(io::Error::other(error));
    }
    let ended = whole == pages.len && (scan.padded || !whole.is_multiple_of(PIECE_BYTES));
    let whole = scan.end(ended).unwrap_or(whole);
    let found = scan.found();
    if found.tracks.is_empty() {
        return Ok(None);
    }
    if whole < pages.len {
        file.set_len(whole)?;
    }
    file.sync_all()?;
    Ok(Some(found))
}

#[derive(Default)]
struct Scan {
    map_pid: Option<u16>,
    streams: BTreeMap<u16, Stream>,
    /// The access unit that began last.
    open: Option<Unit>,
    /// The last packet of media was filled up: an access unit ends there.
    padded: bool,
}

/// An access unit that may not be whole.
struct Unit {
    pid: u16,
    at: u64,
    pts: Option<u64>,
    key: bool,
}

struct Stream {
    codec: Codec,
    head: Vec<u8>,
    frames: u64,
    key_frames: u64,
    span: Span,
    /// The last presentation time, without the jumps at 33 bits.
    last: Option<i64>,
}

impl Scan {
    fn take(&mut self, packet: &Packet, at: u64) {
        let begins = packet[1] & 0x40 != 0;
        let pid = u16::from_be_bytes([packet[1] & 0x1F, packet[2]]);
        let Some((adaptation, payload)) = split(packet) else { return };
        if pid == PAT_PID && begins {
            self.map_pid = map_pid(payload).or(self.map_pid);
        } else if Some(pid) == self.map_pid && begins {
            self.map(payload);
        } else if self.streams.contains_key(&pid) {
            self.media(pid, begins.then_some(at), adaptation, payload);
        }
    }

    fn has_media(&self) -> bool {
        self.open.is_some()
    }

    /// A program map section (2.4.4.8) that is within one packet, as those of a few streams are.
    fn map(&mut self, payload: &[u8]) {
        for (pid, codec) in mapped(payload).unwrap_or_default() {
            self.streams.entry(pid).or_insert_with(|| Stream {
                codec,
                head: Vec::new(),
                frames: 0,
                key_frames: 0,
                span: Span::default(),
                last: None,
            });
        }
    }

    fn media(&mut self, pid: u16, begins_at: Option<u64>, adaptation: &[u8], payload: &[u8]) {
        const RANDOM_ACCESS: u8 = 0x40;
        let mut elementary = payload;
        if let Some(at) = begins_at {
            self.close();
            let (pts, media) = pes(payload).unwrap_or((None, &[]));
            let key = adaptation.first().is_some_and(|flags| flags & RANDOM_ACCESS != 0);
            self.open = Some(Unit { pid, at, pts, key });
            elementary = media;
        }
        self.padded = adaptation.len() > 1 && adaptation.last() == Some(&0xFF);
        let Some(stream) = self.streams.get_mut(&pid).filter(|s| s.head.len() < HEAD_BYTES) else { return };
        // From where it begins: a first packet that has no beginning is of no use.
        if !stream.head.is_empty() || begins_at.is_some() {
            stream.head.extend_from_slice(elementary);
        }
    }

    /// Counts the access unit that is whole now.
    fn close(&mut self) {
        let Some(unit) = self.open.take() else { return };
        let Some(stream) = self.streams.get_mut(&unit.pid) else { return };
        stream.frames += 1;
        stream.key_frames += u64::from(unit.key);
        if let Some(pts) = unit.pts {
            stream.at(pts);
        }
    }

    /// Where the last access unit begins, if it is not whole.
    fn end(&mut self, ended: bool) -> Option<u64> {
        if ended {
            self.close();
        }
        self.open.take().map(|unit| unit.at)
    }

    fn found(&self) -> Found {
        let used = || self.streams.values().filter(|s| s.frames > 0);
        let first = used().filter_map(|s| s.span.first).min().unwrap_or(0);
        let end = used().filter_map(|s| s.span.end()).max().unwrap_or(first);
        let ticks = end.saturating_sub(first).max(0).unsigned_abs();
        Found { duration_ms: ticks / (CLOCK_HZ / 1000), tracks: used().map(Stream::found).collect() }
    }
}

impl Stream {
    fn at(&mut self, pts: u64) {
        const RANGE: i64 = 1 << CLOCK_BITS;
        let pts = pts as i64;
        let last = self.last.unwrap_or(pts);
        let step = (pts - last).rem_euclid(RANGE);
        let pts = last + if step >= RANGE / 2 { step - RANGE } else { step };
        self.last = Some(pts);
        self.span.take(pts);
    }

    fn found(&self) -> Track {
        let video = |size: Option<(u16, u16)>| {
            let (width, height) = size.unzip();
            Kind::Video { width: width.map(u32::from), height: height.map(u32::from) }
        };
        let kind = match self.codec {
            Codec::H264 => video(units(&self.head).find(|n| n[0] & 0x1F == 7).and_then(h264_size)),
            Codec::H265 => video(units(&self.head).find(|n| n[0] >> 1 == 33).and_then(h265_size)),
            Codec::Aac => audio(adts(&self.head)),
            Codec::Mp3 => audio(mpeg_audio(&self.head)),
            _ => Kind::Audio { rate: Some(48_000), channels: None },
        };
        let codec = self.codec.to_string();
        Track { codec, kind, frames: self.frames, key_frames: self.key_frames }
    }
}

/// The adaptation field without its length, and the payload; `None` where there is none (2.4.3.2).
fn split(packet: &Packet) -> Option<(&[u8], &[u8])> {
    const PAYLOAD: u8 = 1;
    const ADAPTATION: u8 = 2;
    let control = packet[3] >> 4;
    let rest = packet.get(4..)?;
    if control & PAYLOAD == 0 {
        return None;
    }
    if control & ADAPTATION == 0 {
        return Some((&[], rest));
    }
    let (&length, rest) = rest.split_first()?;
    rest.split_at_checked(length.into())
}

/// The section in the payload that begins it, without its header and its checksum: what follows `last_section_number`.
fn section(payload: &[u8], table: u8) -> Option<&[u8]> {
    let section = payload.get(1 + usize::from(*payload.first()?)..)?;
    let &[id, high, low] = section.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high & 0x0F, low]));
    section.get(8..(3 + length).checked_sub(4)?).filter(|_| id == table)
}

/// Of the first program (2.4.4.3).
fn map_pid(payload: &[u8]) -> Option<u16> {
    let programs = section(payload, 0)?.chunks_exact(4);
    let pids = programs.map(|p| (p[0] | p[1], u16::from_be_bytes([p[2] & 0x1F, p[3]])));
    // Program 0 is the network's table.
    pids.filter(|(program, _)| *program != 0).map(|(_, pid)| pid).next()
}

fn mapped(payload: &[u8]) -> Option<Vec<(u16, Codec)>> {
    let table = section(payload, 2)?;
    let length = |bytes: &[u8], at: usize| {
        Some(usize::from(u16::from_be_bytes([bytes.get(at)? & 0x0F, *bytes.get(at + 1)?])))
    };
    let mut rest = table.get(4 + length(table, 2)?..)?;
    let mut found = Vec::new();
    while let Some(descriptors) = length(rest, 3) {
        let (stream, after) = rest.split_at_checked(5 + descriptors)?;
        let codec = match stream[0] {
            0x1B => Some(Codec::H264),
            0x24 => Some(Codec::H265),
            0x0F => Some(Codec::Aac),
            0x03 | 0x04 => Some(Codec::Mp3),
            0x06 if stream.windows(4).any(|d| d == b"Opus") => Some(Codec::Opus),
            _ => None,
        };
        found.extend(codec.map(|codec| (u16::from_be_bytes([stream[1] & 0x1F, stream[2]]), codec)));
        rest = after;
    }
    Some(found)
}

/// The presentation time of a packetized elementary stream's packet, and its media (2.4.3.6).
fn pes(payload: &[u8]) -> Option<(Option<u64>, &[u8])> {
    const HAS_PTS: u8 = 0x80;
    let (&[0, 0, 1, _, _, _, _, flags, length], _) = payload.split_first_chunk()? else { return None };
    let (fields, media) = payload.get(9..)?.split_at_checked(length.into())?;
    let pts = fields.first_chunk().filter(|_| flags & HAS_PTS != 0).map(|&[a, b, c, d, e]| {
        let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
        (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
    });
    Some((pts, media))
}

/// The NAL units behind start codes (ITU-T H.264, annex B) but the last, which may not be whole. None is empty.
fn units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts: Vec<_> =
        stream.windows(3).enumerate().filter(|(_, w)| w == b"\0\0\x01").map(|(at, _)| at).collect();
    let pairs: Vec<_> = starts.windows(2).map(|pair| (pair[0] + 3, pair[1])).collect();
    pairs.into_iter().filter_map(|(from, to)| stream.get(from..to)).filter(|unit| !unit.is_empty())
}

fn audio(format: Option<(u32, u32)>) -> Kind {
    let (rate, channels) = format.unzip();
    Kind::Audio { rate, channels }
}

/// Rate and channels of an ADTS header (14496-3, 1.A.2.2).
fn adts(head: &[u8]) -> Option<(u32, u32)> {
    const RATES: [u32; 13] =
        [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];
    let &[0xFF, _, b, c] = head.first_chunk()? else { return None };
    let channels = match (b & 1) << 2 | c >> 6 {
        7 => 8,
        channels => channels.into(),
    };
    Some((*RATES.get(usize::from(b >> 2 & 0x0F))?, channels))
}

/// Rate and channels of an MPEG audio header (ISO/IEC 11172-3, 2.4.1.3).
fn mpeg_audio(head: &[u8]) -> Option<(u32, u32)> {
    const MONO: u8 = 3;
    let &[0xFF, a, b, c] = head.first_chunk()? else { return None };
    let rate = *[44_100, 48_000, 32_000].get(usize::from(b >> 2 & 3))?;
    let halved = match a >> 3 & 3 {
        3 => 0,
        2 => 1,
        _ => 2,
    };
    Some((rate >> halved, if c >> 6 == MONO { 1 } else { 2 }))
}
