//! Ends a Matroska or WebM file as its muxer would have (RFC 9559): what is cut off is cut away, and the file gets its
//! cues, its duration and the sizes that were left open.
//!
//! In place: no second copy of hours of media, and every step may be repeated after one that was cut short.

use super::{
    ebml::{self, Element, Source, children, float, sized, unsigned, vint},
    found::{self, Found, Kind, Span},
    pages::Pages,
};
use crate::media::Codec;
use std::{fs::File, io, os::unix::fs::FileExt};

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114D_9B74;
const SEEK: u32 = 0x4DBB;
const SEEK_ID: u32 = 0x53AB;
const SEEK_POSITION: u32 = 0x53AC;
const INFO: u32 = 0x1549_A966;
const TIMESTAMP_SCALE: u32 = 0x2A_D7B1;
const DURATION: u32 = 0x4489;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const TRACK_NUMBER: u32 = 0xD7;
const CODEC_ID: u32 = 0x86;
const VIDEO: u32 = 0xE0;
const PIXEL_WIDTH: u32 = 0xB0;
const PIXEL_HEIGHT: u32 = 0xBA;
const AUDIO: u32 = 0xE1;
const SAMPLING_FREQUENCY: u32 = 0xB5;
const CHANNELS: u32 = 0x9F;
const CLUSTER: u32 = 0x1F43_B675;
const TIMESTAMP: u32 = 0xE7;
const SIMPLE_BLOCK: u32 = 0xA3;
const BLOCK_GROUP: u32 = 0xA0;
const BLOCK: u32 = 0xA1;
const REFERENCE_BLOCK: u32 = 0xFB;
const CUES: u32 = 0x1C53_BB6B;
const CUE_POINT: u32 = 0xBB;
const CUE_TIME: u32 = 0xB3;
const CUE_TRACK_POSITIONS: u32 = 0xB7;
const CUE_TRACK: u32 = 0xF7;
const CUE_CLUSTER_POSITION: u32 = 0xF1;
const VOID: u32 = 0xEC;

/// A header element longer than this is not one of ours.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// What a muxer had not ended is shorter: the last cluster, or what a power cut kept from the disk. Behind a longer rest
/// there may be pictures: such a file is damaged within, and cutting it off would lose them.
const MAX_CUT_BYTES: u64 = 64 << 20;
/// So far into a block group its block and its references are looked for.
const GROUP_HEAD_BYTES: usize = 64;

struct Track {
    /// Where its entry is, bytes from the start of the file.
    at: u64,
    number: u64,
    codec_id: String,
    kind: Kind,
    frames: u64,
    key_frames: u64,
    /// In ticks.
    span: Span,
}

impl Track {
    fn take(&mut self, time: i64, key: bool) {
        self.frames += 1;
        self.key_frames += u64::from(key);
        self.span.take(time);
    }

    fn found(&self) -> found::Track {
        let (codec, kind) = (codec(&self.codec_id), self.kind.clone());
        found::Track { codec, kind, frames: self.frames, key_frames: self.key_frames }
    }
}

/// One access unit's place in the file.
struct Block {
    track: u64,
    /// Ticks after the cluster's.
    time: i16,
    key: bool,
}

struct Cluster {
    element: Element,
    end: u64,
}

/// Where playing can begin.
struct Cue {
    time: u64,
    track: u64,
    /// Bytes from the start of the segment's content.
    position: u64,
}

/// A place where a `Seek` element tells a position.
struct Slot {
    /// Of the whole element.
    at: u64,
    bytes: u64,
    target: u32,
    /// Of the 8 bytes that hold the position.
    position_at: Option<u64>,
}

#[derive(Default)]
struct Scan {
    tracks: Vec<Track>,
    slots: Vec<Slot>,
    /// Ids and positions of what the slots may point to.
    found: Vec<(u32, u64)>,
    scale_ns: u64,
    /// Where the duration's bytes are, and how many.
    duration: Option<(u64, u64)>,
    clusters: Vec<Cluster>,
    cues: Vec<Cue>,
}

/// Finishes the file; `None`, with nothing changed, when there is no access unit in it.
pub(super) fn finish(file: &File) -> io::Result<Option<Found>> {
    let source = Source { file, len: file.metadata()?.len() };
    let Some(segment) = segment(&source)? else { return Ok(None) };
    let scan = Scan::of(&source, &segment)?;
    let Some(whole) = scan.clusters.last().map(|c| c.end) else { return Ok(None) };
    if rest(&source, whole)? > MAX_CUT_BYTES {
        let error =
            format!("it is damaged at byte {whole} of {}; a player may find what follows", source.len);
        return Err(io::Error::other(error));
    }
    scan.write(file, &segment, whole)?;
    Ok(Some(scan.found_media()))
}

fn segment(source: &Source) -> io::Result<Option<Element>> {
    let Some(head) = source.element(0)?.filter(|e| e.id == EBML) else { return Ok(None) };
    let Some(end) = head.end() else { return Ok(None) };
    Ok(source.element(end)?.filter(|e| e.id == SEGMENT))
}

/// Bytes behind `whole` that are not the cues of a file that was finished.
fn rest(source: &Source, whole: u64) -> io::Result<u64> {
    let cues = source.element(whole)?.filter(|e| e.id == CUES);
    let end = cues.and_then(|e| e.end()).unwrap_or(whole);
    Ok(source.len.saturating_sub(end))
}

impl Scan {
    /// Reads up to where the file breaks off, or its old cues begin.
    fn of(source: &Source, segment: &Element) -> io::Result<Self> {
        let mut scan = Self { scale_ns: 1_000_000, ..Self::default() };
        let mut pages = Pages::new(source.file)?;
        let mut at = segment.content;
        while let Some(element) = source.element(at)? {
            let end = match element.id {
                CLUSTER => scan.cluster(source, &mut pages, segment, element)?,
                _ if !scan.clusters.is_empty() => None,
                _ => scan.header(source, segment, &element)?,
            };
            let Some(end) = end else { break };
            at = end;
        }
        Ok(scan)
    }

    /// Where the element ends; `None` when it is not whole.
    fn header(&mut self, source: &Source, segment: &Element, element: &Element) -> io::Result<Option<u64>> {
        let Some(content) = source.content(element, MAX_HEADER_BYTES)? else { return Ok(None) };
        let position = element.at - segment.content;
        match element.id {
            SEEK_HEAD => self.seek_head(element, &content),
            INFO => self.info(element, &content),
            TRACKS => {
                let at = |entry: &Element| element.content + entry.at;
                self.tracks.extend(children(&content).filter_map(|(e, c)| track(&e, c, at(&e))));
            }
            _ => {}
        }
        if element.id != VOID {
            self.found.push((element.id, position));
        }
        Ok(element.end())
    }

    fn seek_head(&mut self, head: &Element, content: &[u8]) {
        for (seek, fields) in children(content).filter(|(e, _)| e.id == SEEK) {
            let target =
                children(fields).find(|(e, _)| e.id == SEEK_ID).map_or(0, |(_, c)| unsigned(c) as u32);
            let position = children(fields).find(|(e, _)| e.id == SEEK_POSITION && e.size == Some(8));
            let start = head.content + seek.content;
            self.slots.push(Slot {
                at: head.content + seek.at,
                bytes: seek.content - seek.at + seek.size.unwrap_or(0),
                target,
                position_at: position.map(|(e, _)| start + e.content),
            });
        }
    }

    fn info(&mut self, info: &Element, content: &[u8]) {
        for (element, value) in children(content) {
            match element.id {
                TIMESTAMP_SCALE => self.scale_ns = unsigned(value).max(1),
                DURATION => self.duration = Some((info.content + element.content, value.len() as u64)),
                _ => {}
            }
        }
    }

    /// Where the cluster ends and the next element may begin; `None` when the file breaks off in it.
    fn cluster(
        &mut self,
        source: &Source,
        pages: &mut Pages,
        segment: &Element,
        element: Element,
    ) -> io::Result<Option<u64>> {
        let limit = element.end().map_or(source.len, |end| end.min(source.len));
        let position = element.at - segment.content;
        let (mut at, mut time, mut blocks) = (element.content, None, 0_u64);
        while at < limit {
            let Some(child) = source.element(at)? else { break };
            // Ids of four bytes are those of the level above: a cluster of unknown length ends there.
            let Some(end) = child.end().filter(|end| child.id <= 0xFF_FFFF && *end <= limit) else { break };
            match (child.id, time) {
                (TIMESTAMP, _) => time = source.content(&child, 8)?.map(|c| unsigned(&c)),
                (SIMPLE_BLOCK | BLOCK_GROUP, None) => break,
                (SIMPLE_BLOCK | BLOCK_GROUP, _) if pages.has_hole(child.at, end)? => break,
                (SIMPLE_BLOCK | BLOCK_GROUP, Some(time)) => {
                    let Some(block) = block(source, &child)? else { break };
                    blocks += 1;
                    self.take(&block, time, position);
                }
                _ => {}
            }
            at = end;
        }
        if blocks == 0 {
            return Ok(None);
        }
        self.clusters.push(Cluster { element, end: at });
        Ok(match element.end() {
            Some(end) if at < end => None,
            _ => Some(at),
        })
    }

    fn take(&mut self, block: &Block, cluster_time: u64, position: u64) {
        let time = i64::try_from(cluster_time).unwrap_or(i64::MAX / 2).saturating_add(block.time.into());
        let has_video = self.tracks.iter().any(|t| matches!(t.kind, Kind::Video { .. }));
        let Some(track) = self.tracks.iter_mut().find(|t| t.number == block.track) else { return };
        track.take(time, block.key);
        let video = matches!(track.kind, Kind::Video { .. });
        // Of sound alone, one for each cluster.
        let new = self.cues.last().is_none_or(|last| video || last.position != position);
        if block.key && new && (video || !has_video) {
            self.cues.push(Cue { time: time.max(0).unsigned_abs(), track: block.track, position });
        }
    }

    fn write(&self, file: &File, segment: &Element, whole: u64) -> io::Result<()> {
        file.set_len(whole)?;
        for cluster in &self.clusters {
            write_size(file, &cluster.element, cluster.end)?;
        }
        let cues = self.cues();
        file.write_all_at(&cues, whole)?;
        for slot in &self.slots {
            self.fill(file, slot, whole - segment.content)?;
        }
        if let Some((at, bytes)) = self.duration {
            let ticks = self.end() as f64;
            match bytes {
                4 => file.write_all_at(&(ticks as f32).to_be_bytes(), at)?,
                8 => file.write_all_at(&ticks.to_be_bytes(), at)?,
                _ => {}
            }
        }
        self.hide_empty_tracks(file)?;
        write_size(file, segment, whole + cues.len() as u64)
    }

    /// A track of which nothing came is none: some players wait for it, and ffmpeg fails. Its entry becomes empty space
    /// by its first byte, the id, which is as long.
    fn hide_empty_tracks(&self, file: &File) -> io::Result<()> {
        if self.tracks.iter().all(|t| t.frames == 0) {
            return Ok(());
        }
        let mut empty = self.tracks.iter().filter(|t| t.frames == 0);
        empty.try_for_each(|track| file.write_all_at(&[VOID as u8], track.at))
    }

    fn cues(&self) -> Vec<u8> {
        let mut points = Vec::new();
        for cue in &self.cues {
            let (mut point, mut positions) = (Vec::new(), Vec::new());
            ebml::write_unsigned(&mut positions, CUE_TRACK, cue.track);
            ebml::write_unsigned(&mut positions, CUE_CLUSTER_POSITION, cue.position);
            ebml::write_unsigned(&mut point, CUE_TIME, cue.time);
            ebml::write(&mut point, CUE_TRACK_POSITIONS, &positions);
            ebml::write(&mut points, CUE_POINT, &point);
        }
        let mut out = Vec::new();
        if !points.is_empty() {
            ebml::write(&mut out, CUES, &points);
        }
        out
    }

    /// Tells where the slot's element is; one that is nowhere becomes empty space.
    fn fill(&self, file: &File, slot: &Slot, cues_at: u64) -> io::Result<()> {
        let cues = (CUES, cues_at);
        let known = self.found.iter().chain(Some(&cues).filter(|_| !self.cues.is_empty()));
        let found = known.into_iter().find(|(id, _)| *id == slot.target).map(|(_, position)| *position);
        match (found, slot.position_at) {
            (Some(position), Some(at)) => file.write_all_at(&position.to_be_bytes(), at),
            _ => {
                const HEADER_BYTES: u64 = 9;
                let size =
                    slot.bytes.checked_sub(HEADER_BYTES).and_then(|rest| sized(rest, HEADER_BYTES - 1));
                let Some(size) = size else { return Ok(()) };
                file.write_all_at(&[&[VOID as u8], &size[..]].concat(), slot.at)
            }
        }
    }

    /// Where the last access unit ends, ticks.
    fn end(&self) -> i64 {
        self.tracks.iter().filter_map(|t| t.span.end()).max().unwrap_or(0)
    }

    fn found_media(&self) -> Found {
        let first = self.tracks.iter().filter_map(|t| t.span.first).min().unwrap_or(0);
        let ticks = u128::from(self.end().saturating_sub(first).max(0).unsigned_abs());
        let duration_ms = u64::try_from(ticks * u128::from(self.scale_ns) / 1_000_000).unwrap_or(u64::MAX);
        Found { duration_ms, tracks: self.tracks.iter().map(Track::found).collect() }
    }
}

/// Notes that `element` ends at `end`; one whose size has no room for that stays of unknown size, which is valid.
fn write_size(file: &File, element: &Element, end: u64) -> io::Result<()> {
    if element.end() == Some(end) {
        return Ok(());
    }
    let Some(size) = sized(end - element.content, element.size_bytes) else { return Ok(()) };
    file.write_all_at(&size, element.content - element.size_bytes)
}

fn track(entry: &Element, content: &[u8], at: u64) -> Option<Track> {
    if entry.id != TRACK_ENTRY {
        return None;
    }
    let mut track = Track {
        at,
        number: 0,
        codec_id: String::new(),
        kind: Kind::Other,
        frames: 0,
        key_frames: 0,
        span: Span::default(),
    };
    for (element, value) in children(content) {
        match element.id {
            TRACK_NUMBER => track.number = unsigned(value),
            CODEC_ID => track.codec_id = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            VIDEO => {
                let of = |id| number(value, id, |c| unsigned(c) as f64);
                track.kind = Kind::Video { width: of(PIXEL_WIDTH), height: of(PIXEL_HEIGHT) };
            }
            AUDIO => {
                // The default of channels is 1, of the rate 8000 (RFC 9559, 5.1.4.1.29).
                let rate = number(value, SAMPLING_FREQUENCY, float).or(Some(8_000));
                let channels = number(value, CHANNELS, |c| unsigned(c) as f64).or(Some(1));
                track.kind = Kind::Audio { rate, channels };
            }
            _ => {}
        }
    }
    Some(track)
}

fn number(content: &[u8], id: u32, read: fn(&[u8]) -> f64) -> Option<u32> {
    let (_, value) = children(content).find(|(e, _)| e.id == id)?;
    let value = read(value);
    (value >= 0.0 && value <= f64::from(u32::MAX)).then_some(value as u32)
}

/// `None` for what is no block.
fn block(source: &Source, element: &Element) -> io::Result<Option<Block>> {
    let (head, read) = source.head::<GROUP_HEAD_BYTES>(element.content)?;
    let size = usize::try_from(element.size.unwrap_or(0)).unwrap_or(usize::MAX);
    let head = &head[..read.min(size)];
    if element.id == SIMPLE_BLOCK {
        const KEY_FRAME: u8 = 0x80;
        return Ok(parse_block(head).map(|(block, flags)| Block { key: flags & KEY_FRAME != 0, ..block }));
    }
    let mut at = element.content;
    let (mut found, mut refers) = (None, false);
    while at < element.content + size as u64 {
        let Some(child) = source.element(at)? else { break };
        match child.id {
            BLOCK => {
                let (head, read) = source.head::<16>(child.content)?;
                found = parse_block(&head[..read]).map(|(block, _)| block);
            }
            REFERENCE_BLOCK => refers = true,
            _ => {}
        }
        let Some(end) = child.end() else { break };
        at = end;
    }
    Ok(found.map(|block| Block { key: !refers, ..block }))
}

/// A block's track and time, and its flags.
fn parse_block(head: &[u8]) -> Option<(Block, u8)> {
    let (track, length) = vint(head, 8, false)?;
    let &[high, low, flags] = head.get(length..)?.first_chunk()?;
    Some((Block { track, time: i16::from_be_bytes([high, low]), key: false }, flags))
}

/// Our word for a codec (Matroska codec mappings, RFC 9559's registry); its own where we have none.
fn codec(id: &str) -> String {
    let known = match id {
        "V_VP8" => Some(Codec::Vp8),
        "V_VP9" => Some(Codec::Vp9),
        "V_AV1" => Some(Codec::Av1),
        "V_MPEG4/ISO/AVC" => Some(Codec::H264),
        "V_MPEGH/ISO/HEVC" => Some(Codec::H265),
        "A_VORBIS" => Some(Codec::Vorbis),
        "A_OPUS" => Some(Codec::Opus),
        "A_MPEG/L3" => Some(Codec::Mp3),
        id if id.starts_with("A_AAC") => Some(Codec::Aac),
        _ => None,
    };
    known.map_or_else(|| id.to_owned(), |codec| codec.to_string())
}
