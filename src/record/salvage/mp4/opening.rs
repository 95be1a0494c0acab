//! How a file of `reeldmp4mux` begins: `ftyp`, the place that becomes the header of one `mdat`, and a `moov` without
//! samples.

use super::boxes::{BoxAt, child, children, descendant, u32_at, u64_at};
use crate::{
    gst::mp4mux::{TrackHead, join},
    media::MediaKind,
    record::salvage::pages::Pages,
};
use std::io;

/// Longer than any of our opening `moov` boxes: its sample entries hold 64 KiB of codec configuration at most.
const MAX_OPENING_BYTES: u64 = 4 << 20;
const MAX_TRACKS: usize = 16;
/// Seconds from 1904-01-01, the epoch of MP4, to 1970-01-01.
const EPOCH_1904: u64 = 2_082_844_800;

/// The beginning of a file.
pub(super) struct Opening {
    /// Where the `mdat` of the finished file begins.
    pub join_at: u64,
    /// What is there now.
    pub join: [u8; 16],
    /// Where the first fragment is.
    pub media_at: u64,
    pub created_s: u64,
    pub tracks: Vec<TrackHead>,
}

impl Opening {
    /// `None` for a file that was not begun by our muxer, or whose beginning is not whole.
    pub fn read(pages: &mut Pages) -> io::Result<Option<Self>> {
        let Some(ftyp) = BoxAt::expect(pages, 0, b"ftyp")? else { return Ok(None) };
        let Some(join) = pages.array::<16>(ftyp.end)?.filter(is_join) else { return Ok(None) };
        let moov_at = ftyp.end + join.len() as u64;
        let Some(moov) = BoxAt::expect(pages, moov_at, b"moov")? else { return Ok(None) };
        let Some(content) = pages.bytes(moov.content, moov.end, MAX_OPENING_BYTES)? else { return Ok(None) };
        if pages.has_hole(0, moov.end)? {
            return Ok(None);
        }
        Ok(parse(&content).map(|(created_s, tracks)| Self {
            join_at: ftyp.end,
            join,
            media_at: moov.end,
            created_s,
            tracks,
        }))
    }

    pub fn is_joined(&self) -> bool {
        self.join != join(None)
    }
}

/// What is there while the file is written, or an `mdat` header of any size: a power cut may have kept what it was to
/// span from the disk.
fn is_join(bytes: &[u8; 16]) -> bool {
    *bytes == join(None) || bytes[..8] == join(Some(0))[..8]
}

fn parse(moov: &[u8]) -> Option<(u64, Vec<TrackHead>)> {
    child(moov, b"mvex")?;
    let created_s = u64_at(child(moov, b"mvhd")?, 4)?.saturating_sub(EPOCH_1904);
    let traks = children(moov).filter(|(kind, _)| kind == b"trak");
    let tracks = traks.map(|(_, content)| track(content)).collect::<Option<Vec<_>>>()?;
    (1..=MAX_TRACKS).contains(&tracks.len()).then_some((created_s, tracks))
}

fn track(trak: &[u8]) -> Option<TrackHead> {
    const VERSION_1: u8 = 1;
    let versioned = |header: &&[u8]| header.first() == Some(&VERSION_1);
    let tkhd = child(trak, b"tkhd").filter(versioned)?;
    let mdia = child(trak, b"mdia")?;
    let mdhd = child(mdia, b"mdhd").filter(versioned)?;
    let kind = match child(mdia, b"hdlr")?.get(8..12)? {
        b"vide" => MediaKind::Video,
        b"soun" => MediaKind::Audio,
        _ => return None,
    };
    let stsd = descendant(mdia, &[b"minf", b"stbl", b"stsd"])?;
    let entry = stsd.get(8..)?;
    let entry = entry.get(..u32_at(entry, 0)? as usize)?;
    (entry.len() >= 36).then_some(())?;
    Some(TrackHead {
        id: u32_at(tkhd, 20)?,
        kind,
        entry: entry.to_vec(),
        timescale: u32_at(mdhd, 20).filter(|timescale| *timescale > 0)?,
        display: (u32_at(tkhd, 88)?, u32_at(tkhd, 92)?),
        declared: child(trak, b"edts").is_some(),
    })
}
