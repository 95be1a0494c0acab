//! Sample entries of video tracks.

use super::boxes::{boxed, full_box};
use super::format::{Format, FormatError, VIDEO_TIMESCALE, codec_data, positive_u16};
use super::sps::avcc_size;
use crate::media::MediaKind;
use bytes::BufMut;
use gstreamer as gst;

pub(super) fn h264(s: &gst::StructureRef, kind: &[u8; 4]) -> Result<Format, FormatError> {
    let config = codec_data(s, 7)?;
    if config[0] != 1 {
        return Err(FormatError::CodecData("avcC"));
    }
    let size = size(s).or_else(|| avcc_size(&config)).unwrap_or((0, 0));
    Ok(video(s, kind, size, |b| boxed(b, b"avcC", |b| b.put_slice(&config))))
}

pub(super) fn h265(s: &gst::StructureRef, kind: &[u8; 4]) -> Result<Format, FormatError> {
    let config = codec_data(s, 23)?;
    if config[0] != 1 {
        return Err(FormatError::CodecData("hvcC"));
    }
    let size = size(s).unwrap_or((0, 0));
    Ok(video(s, kind, size, |b| boxed(b, b"hvcC", |b| b.put_slice(&config))))
}

pub(super) fn av1(s: &gst::StructureRef) -> Result<Format, FormatError> {
    let config = match s.has_field("codec_data") {
        true => codec_data(s, 4)?,
        false => av1_config(s),
    };
    if config[0] != 0x81 {
        return Err(FormatError::CodecData("av1C"));
    }
    let size = size(s).unwrap_or((0, 0));
    let format = video(s, b"av01", size, |b| boxed(b, b"av1C", |b| b.put_slice(&config)));
    Ok(Format { temporal_delimiters: true, ..format })
}

/// An `av1C` from what a parser puts into caps; `av1parse` gives no codec_data. The sequence header is in every
/// key frame, so it may be left out here (AV1-ISOBMFF, 2.3.3).
fn av1_config(s: &gst::StructureRef) -> Vec<u8> {
    let profile = match s.get::<&str>("profile") {
        Ok("high") => 1u8,
        Ok("professional") => 2,
        _ => 0,
    };
    const ANY_LEVEL: u8 = 31;
    let depth = match s.get::<u32>("bit-depth-luma") {
        Ok(12) => 0x60u8,
        Ok(10) => 0x40,
        _ => 0,
    };
    let chroma = match s.get::<&str>("chroma-format") {
        Ok("4:0:0") => 0x1c,
        Ok("4:2:2") => 0x08,
        Ok("4:4:4") => 0,
        _ => 0x0c,
    };
    vec![0x81, profile << 5 | ANY_LEVEL, depth | chroma, 0]
}

pub(super) fn vp9(s: &gst::StructureRef) -> Result<Format, FormatError> {
    let (width, height) = size(s).ok_or(FormatError::Field("width, height"))?;
    let depth = s.get::<u32>("bit-depth-luma").ok().filter(|d| matches!(d, 8 | 10 | 12)).unwrap_or(8) as u8;
    let chroma = match s.get::<&str>("chroma-format") {
        Ok("4:2:2") => 2u8,
        Ok("4:4:4") => 3,
        _ => 1,
    };
    let profile = s.get::<&str>("profile").ok().and_then(|p| p.parse::<u8>().ok()).filter(|p| *p <= 3);
    let profile = profile.unwrap_or(u8::from(chroma != 1) + if depth > 8 { 2 } else { 0 });
    const UNSPECIFIED_COLOUR: u8 = 2;
    Ok(video(s, b"vp09", (width, height), |b| {
        full_box(b, b"vpcC", 1, 0, |b| {
            b.put_u8(profile);
            b.put_u8(vp9_level(width, height));
            b.put_u8(depth << 4 | chroma << 1);
            b.put_bytes(UNSPECIFIED_COLOUR, 3);
            b.put_u16(0);
        });
    }))
}

/// The lowest VP9 level whose picture size holds, times ten.
fn vp9_level(width: u16, height: u16) -> u8 {
    let samples = u32::from(width) * u32::from(height);
    const LEVELS: [(u32, u8); 9] = [
        (36_864, 10),
        (73_728, 11),
        (122_880, 20),
        (245_760, 21),
        (552_960, 30),
        (983_040, 31),
        (2_228_224, 40),
        (8_912_896, 50),
        (35_651_584, 60),
    ];
    LEVELS.iter().find(|(most, _)| samples <= *most).map_or(62, |(_, level)| *level)
}

/// The type of a sample entry whose parameter sets may also be in the access units.
pub(super) fn in_band_kind(kind: &[u8; 4]) -> &[u8; 4] {
    match kind {
        b"avc1" => b"avc3",
        b"hvc1" => b"hev1",
        other => other,
    }
}

/// Where a sample entry has its width and height, 16 bits each (14496-12, 12.1.3).
const ENTRY_SIZE: std::ops::Range<usize> = 32..36;

/// Width and height of a video's sample entry.
pub(super) fn entry_size(entry: &[u8]) -> Option<(u16, u16)> {
    let &[w0, w1, h0, h1] = entry.get(ENTRY_SIZE)?.first_chunk()?;
    Some((u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1])))
}

/// Makes the picture of `entry` at least so large.
pub(super) fn grow(entry: &mut [u8], (width, height): (u16, u16)) {
    let Some(size) = entry.get_mut(ENTRY_SIZE) else { return };
    for (mine, theirs) in size.chunks_exact_mut(2).zip([width, height]) {
        if *mine < theirs.to_be_bytes()[..] {
            mine.copy_from_slice(&theirs.to_be_bytes());
        }
    }
}

fn size(s: &gst::StructureRef) -> Option<(u16, u16)> {
    Some((positive_u16(s, "width")?, positive_u16(s, "height")?))
}

fn video(
    s: &gst::StructureRef,
    kind: &[u8; 4],
    (width, height): (u16, u16),
    config: impl FnOnce(&mut Vec<u8>),
) -> Format {
    let aspect = pixel_aspect(s);
    let mut entry = Vec::new();
    boxed(&mut entry, kind, |b| {
        b.put_bytes(0, 6);
        b.put_u16(1);
        b.put_bytes(0, 16);
        b.put_u16(width);
        b.put_u16(height);
        b.put_u32(72 << 16);
        b.put_u32(72 << 16);
        b.put_u32(0);
        b.put_u16(1);
        b.put_bytes(0, 32);
        b.put_u16(24);
        b.put_i16(-1);
        config(b);
        if let Some((across, down)) = aspect {
            boxed(b, b"pasp", |b| {
                b.put_u32(across);
                b.put_u32(down);
            });
        }
    });
    let (across, down) = aspect.unwrap_or((1, 1));
    let shown_width = (u64::from(width) << 16) * u64::from(across) / u64::from(down);
    Format {
        kind: MediaKind::Video,
        entry,
        timescale: VIDEO_TIMESCALE,
        display: (u32::try_from(shown_width).unwrap_or(u32::from(width) << 16), u32::from(height) << 16),
        nominal: frame_ticks(s),
        constant: false,
        pre_skip: 0,
        temporal_delimiters: false,
    }
}

fn pixel_aspect(s: &gst::StructureRef) -> Option<(u32, u32)> {
    let aspect = s.get::<gst::Fraction>("pixel-aspect-ratio").ok()?;
    let across = u32::try_from(aspect.numer()).ok().filter(|v| *v > 0)?;
    let down = u32::try_from(aspect.denom()).ok().filter(|v| *v > 0)?;
    Some((across, down))
}

/// How long a frame lasts by the caps' frame rate; 1/30 s where they have none.
fn frame_ticks(s: &gst::StructureRef) -> u32 {
    let rate = s.get::<gst::Fraction>("framerate").ok().filter(|f| f.numer() > 0 && f.denom() > 0);
    let ticks = rate.map(|f| i64::from(VIDEO_TIMESCALE) * i64::from(f.denom()) / i64::from(f.numer()));
    ticks.and_then(|t| u32::try_from(t).ok()).filter(|t| *t > 0).unwrap_or(VIDEO_TIMESCALE / 30)
}
