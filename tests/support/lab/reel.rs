//! What the lab's publishers send: a short stream over and over, each access unit known by the checksum of its data.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use crate::{
    avsync::{FLASHES, beeps},
    flv::{Flv, Kind, Tag},
    media::{AAC, source},
};

/// Bytes of an FLV message before the data: AVC with its composition time, or FourCC; AAC.
const VIDEO_HEADER: usize = 5;
const AUDIO_HEADER: usize = 2;
/// The first of 4 bits in a video message that say: a FourCC follows.
const ENHANCED: u8 = 0x80;
const IVF_HEADER: usize = 32;
const IVF_FRAME_HEADER: usize = 12;
/// Of the VP8 source.
const IVF_FRAME_MS: f64 = 1000.0 / 30.0;

/// One access unit of a reel.
#[derive(Debug)]
struct Piece {
    kind: Kind,
    /// Decoding time from the start of the pass.
    at_ms: u64,
    /// Presentation time less decoding time.
    composition_ms: i64,
    key: bool,
    hash: u32,
    payload: Vec<u8>,
}

/// A short stream that is sent over and over. Its access units are numbered from 0 on through all passes.
#[derive(Debug)]
pub struct Reel {
    headers: Flv,
    pass: Vec<Piece>,
    pass_ms: u64,
    video: Vec<usize>,
    audio: Vec<usize>,
    video_by_hash: HashMap<u32, Vec<u64>>,
    audio_by_hash: HashMap<u32, Vec<u64>>,
}

/// One access unit as it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    pub kind: Kind,
    /// Decoding time since access unit 0.
    pub at_ms: u64,
    pub key: bool,
    /// CRC-32 of the data, as ffprobe's `-show_data_hash CRC32` tells it.
    pub hash: u32,
    /// The body of its RTMP message.
    pub payload: &'a [u8],
}

impl Reel {
    /// Access units of an FLV file, in the order of their times.
    pub fn read(file: &Path) -> Arc<Self> {
        Self::new(Flv::read(file).expect("an FLV file"))
    }

    pub fn new(mut flv: Flv) -> Arc<Self> {
        let mut tags = std::mem::take(&mut flv.media);
        tags.sort_by_key(|tag| tag.timestamp_ms);
        let base_ms = tags.first().expect("media").timestamp_ms;
        let pass: Vec<_> = tags.into_iter().map(|tag| Piece::new(tag, base_ms)).collect();
        let of = |kind| (0..pass.len()).filter(|n| pass[*n].kind == kind).collect::<Vec<_>>();
        let (video, audio) = (of(Kind::Video), of(Kind::Audio));
        let lead = if video.is_empty() { &audio } else { &video };
        let step_ms = lead.get(1).map_or(1, |second| pass[*second].at_ms - pass[lead[0]].at_ms);
        let pass_ms = pass[pass.len() - 1].at_ms + step_ms.max(1);
        let by_hash = |pieces: &[usize]| {
            let mut found: HashMap<u32, Vec<u64>> = HashMap::new();
            for (ordinal, piece) in pieces.iter().enumerate() {
                found.entry(pass[*piece].hash).or_default().push(ordinal as u64);
            }
            found
        };
        let (video_by_hash, audio_by_hash) = (by_hash(&video), by_hash(&audio));
        Arc::new(Self { headers: flv, pass, pass_ms, video, audio, video_by_hash, audio_by_hash })
    }

    /// `seconds` of 320x180 at 30 fps that flashes, with sound that beeps at the same moments; no two access units are
    /// alike. `gop`: pictures from key frame to key frame.
    pub fn flashing(folder: &str, seconds: u32, gop: u32) -> Arc<Self> {
        Self::made(folder, &format!("reel-{seconds}-{gop}.flv"), seconds, gop, &[])
    }

    /// The same with more arguments for ffmpeg, e.g. `-bf 2`; `name`: of the file.
    pub fn made(folder: &str, name: &str, seconds: u32, gop: u32, more: &[&str]) -> Arc<Self> {
        let (length, gop) = (seconds.to_string(), gop.to_string());
        let beeps = beeps(0);
        let sound = beeps[3].replacen('\'', "'0.02*(random(0)-0.5)+", 1);
        let video: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
        let rate: &[&str] =
            &["-g", &gop, "-sc_threshold", "0", "-b:v", "250k", "-maxrate", "300k", "-bufsize", "300k"];
        let input: &[&str] = &["-f", "lavfi", "-i", &sound];
        let name = format!("lab-{name}");
        let file = source(folder, &name, &[FLASHES, input, &["-t", &length], video, rate, AAC, more]);
        let mut flv = Flv::read(&file).expect("an FLV file");
        let pictures = flv.media.iter_mut().filter(|tag| tag.kind == Kind::Video);
        pictures.zip(0..).for_each(|(tag, serial)| number_picture(&mut tag.payload, serial));
        let reel = Self::new(flv);
        assert!(reel.has_no_twins(), "{name}: two access units are alike");
        reel
    }

    /// An IVF file of VP8 at 30 fps, as Enhanced RTMP sends it.
    pub fn vp8(ivf: &Path) -> Arc<Self> {
        let bytes = fs::read(ivf).expect("an IVF file");
        let (mut at, mut media) = (IVF_HEADER, Vec::new());
        while let Some(size) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let data = &bytes[at + IVF_FRAME_HEADER..][..u32::from_le_bytes(*size) as usize];
            at += IVF_FRAME_HEADER + data.len();
            let is_key = data[0] & 1 == 0;
            let head = ENHANCED | if is_key { 0x10 } else { 0x20 } | 1;
            let payload = [&[head][..], b"vp08", data].concat();
            let timestamp_ms = (media.len() as f64 * IVF_FRAME_MS).round() as u32;
            media.push(Tag { kind: Kind::Video, timestamp_ms, payload });
        }
        Self::new(Flv { media, ..Flv::default() })
    }

    /// Metadata and sequence headers; it holds no media.
    pub fn headers(&self) -> &Flv {
        &self.headers
    }

    /// Access unit `n`.
    pub fn unit(&self, n: u64) -> Sent<'_> {
        let count = self.pass.len() as u64;
        let piece = &self.pass[(n % count) as usize];
        let at_ms = n / count * self.pass_ms + piece.at_ms;
        Sent { kind: piece.kind, at_ms, key: piece.key, hash: piece.hash, payload: &piece.payload }
    }

    pub fn pass_ms(&self) -> u64 {
        self.pass_ms
    }

    /// The first access unit at or after `from` that is a key frame of video; of audio where there is no video.
    pub fn key_from(&self, from: u64) -> u64 {
        let lead = if self.video.is_empty() { Kind::Audio } else { Kind::Video };
        let wanted = |n: &u64| self.unit(*n).kind == lead && self.unit(*n).key;
        (from..).find(wanted).expect("a key frame in each pass")
    }

    /// How many of this kind are among the first `n` access units.
    pub fn count(&self, kind: Kind, n: u64) -> u64 {
        let pieces = self.pieces(kind);
        let (passes, rest) = (n / self.pass.len() as u64, n % self.pass.len() as u64);
        passes * pieces.len() as u64 + pieces.partition_point(|piece| (*piece as u64) < rest) as u64
    }

    /// Checksum, decoding time and presentation time (ms since access unit 0) of the unit of this kind with that ordinal.
    pub fn of_kind(&self, kind: Kind, ordinal: u64) -> (u32, u64, i64) {
        let pieces = self.pieces(kind);
        let count = pieces.len() as u64;
        let piece = &self.pass[pieces[(ordinal % count) as usize]];
        let at_ms = ordinal / count * self.pass_ms + piece.at_ms;
        (piece.hash, at_ms, at_ms as i64 + piece.composition_ms)
    }

    /// The first ordinal from `from` on, within one pass, whose data has this checksum.
    pub fn find(&self, kind: Kind, hash: u32, from: u64) -> Option<u64> {
        let by_hash = if kind == Kind::Video { &self.video_by_hash } else { &self.audio_by_hash };
        let count = self.pieces(kind).len() as u64;
        let ahead = |ordinal: &u64| (ordinal + count - from % count) % count;
        by_hash.get(&hash)?.iter().map(ahead).min().map(|ahead| from + ahead)
    }

    pub fn has(&self, kind: Kind) -> bool {
        !self.pieces(kind).is_empty()
    }

    fn has_no_twins(&self) -> bool {
        let (video, audio) = (self.video_by_hash.values(), self.audio_by_hash.values());
        video.chain(audio).all(|ordinals| ordinals.len() == 1)
    }

    fn pieces(&self, kind: Kind) -> &[usize] {
        if kind == Kind::Video { &self.video } else { &self.audio }
    }
}

impl Piece {
    fn new(tag: Tag, base_ms: u32) -> Self {
        let is_enhanced = tag.payload[0] & ENHANCED != 0;
        let (header, key, composition_ms) = match tag.kind {
            Kind::Audio => (AUDIO_HEADER, true, 0),
            Kind::Video if is_enhanced => (VIDEO_HEADER, tag.payload[0] >> 4 & 7 == 1, 0),
            Kind::Video => {
                let time = [tag.payload[2], tag.payload[3], tag.payload[4], 0];
                (VIDEO_HEADER, tag.payload[0] >> 4 == 1, i64::from(i32::from_be_bytes(time) >> 8))
            }
        };
        let hash = crc32(&tag.payload[header..]);
        let at_ms = u64::from(tag.timestamp_ms - base_ms);
        Self { kind: tag.kind, at_ms, composition_ms, key, hash, payload: tag.payload }
    }
}

/// Puts an SEI message of user data with this number before the picture (H.264, 7.3.2.3 and D.1.7): encoders make equal
/// access units of pictures in which nothing moves.
fn number_picture(payload: &mut Vec<u8>, serial: u16) {
    const USER_DATA_UNREGISTERED: u8 = 5;
    const UUID: &[u8; 16] = b"reel-of-the-lab!";
    // No byte is 0: nothing looks like a start code.
    let digits = [12, 8, 4, 0].map(|shift| b'a' + (serial >> shift & 0xF) as u8);
    let message = [&[6, USER_DATA_UNREGISTERED, 20][..], UUID, &digits, &[0x80]].concat();
    let unit = [&(message.len() as u32).to_be_bytes()[..], &message].concat();
    payload.splice(VIDEO_HEADER..VIDEO_HEADER, unit);
}

/// CRC-32 as IEEE 802.3 has it.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(u32::MAX, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8))
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let (mut crc, mut bit) = (n as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reel() -> Arc<Reel> {
        let tag = |kind, timestamp_ms, payload: &[u8]| Tag { kind, timestamp_ms, payload: payload.into() };
        let media = vec![
            tag(Kind::Video, 100, &[0x17, 1, 0, 0, 66, 1]),
            tag(Kind::Audio, 110, &[0xAF, 1, 2]),
            tag(Kind::Video, 140, &[0x27, 1, 0xFF, 0xFF, 0xFE, 3]),
        ];
        Reel::new(Flv { media, ..Flv::default() })
    }

    #[test]
    fn units_go_on_through_the_passes() {
        let reel = reel();
        assert_eq!(reel.pass_ms(), 80);
        assert_eq!([0, 1, 2, 3, 5].map(|n| reel.unit(n).at_ms), [0, 10, 40, 80, 120]);
        assert_eq!([0, 1, 2, 3, 4].map(|n| reel.count(Kind::Video, n)), [0, 1, 1, 2, 3]);
        assert_eq!((reel.key_from(0), reel.key_from(1)), (0, 3));
        let (hash, at_ms, shown_ms) = reel.of_kind(Kind::Video, 3);
        assert_eq!((at_ms, shown_ms), (120, 118));
        assert_eq!(reel.find(Kind::Video, hash, 2), Some(3));
        assert_eq!(reel.find(Kind::Video, hash, 4), Some(5));
        assert_eq!(reel.find(Kind::Audio, hash, 0), None);
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
