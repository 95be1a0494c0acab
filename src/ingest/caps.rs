//! Caps of a track from its codec configuration, as parsers and demuxers of GStreamer would give them.

mod audio;
mod av1;
mod h264;
mod h265;
mod size;

pub use audio::{AudioTrackCaps, audio_track_caps, g711_track_caps, opus_head};
pub use av1::av1c;
pub use h264::{H264Sps, avcc};
pub use h265::{H265Sps, hvcc};

use super::rtp::depay::{vp8, vp9};
use crate::media::{Codec, VideoSize};
use gstreamer as gst;

/// A codec configuration that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{codec} configuration: {what}")]
pub struct CapsError {
    pub codec: Codec,
    pub what: &'static str,
}

/// Longest configuration; a real one has less than a few hundred bytes.
const MAX_CONFIG_BYTES: usize = 64 << 10;

/// Caps of a video track, with width and height where the configuration tells them.
///
/// `config`: the body of a sequence header: `avcC` (ISO/IEC 14496-15, 5.3.3), `hvcC` (8.3.3) or `av1C`;
/// of VP8 and VP9 a key frame. `size` is `None` for an `av1C` without sequence header and a
/// parameter set that cannot be read; a muxer to MP4 then needs it from elsewhere (`onMetaData`).
pub fn video_track_caps(codec: Codec, config: &[u8]) -> Result<(gst::Caps, Option<VideoSize>), CapsError> {
    let frame = matches!(codec, Codec::Vp8 | Codec::Vp9);
    if config.len() > MAX_CONFIG_BYTES && !frame {
        return Err(CapsError { codec, what: "longer than 64 KiB" });
    }
    let (caps, size) = match codec {
        Codec::H264 => h264(config)?,
        Codec::H265 => h265(config)?,
        Codec::Av1 => av1(config)?,
        Codec::Vp8 => (gst::Caps::builder("video/x-vp8"), vp8::key_frame_size(config)),
        Codec::Vp9 => (gst::Caps::builder("video/x-vp9"), vp9::key_frame_size(config).flatten()),
        _ => return Err(CapsError { codec, what: "not a video codec" }),
    };
    // webmmux takes no caps without a frame rate; 0/1 is one that varies.
    let caps = match codec {
        Codec::Vp8 | Codec::Vp9 | Codec::Av1 => caps.field("framerate", gst::Fraction::new(0, 1)),
        _ => caps,
    };
    let caps = match size {
        Some(VideoSize { width, height }) => caps.field("width", width as i32).field("height", height as i32),
        None => caps,
    };
    Ok((caps.build(), size))
}

/// Adds a size that the codec configuration does not tell.
pub fn with_size(mut caps: gst::Caps, VideoSize { width, height }: VideoSize) -> gst::Caps {
    let caps_mut = caps.make_mut();
    caps_mut.set("width", width as i32);
    caps_mut.set("height", height as i32);
    caps
}

type CapsBuilder = gst::caps::Builder<gst::caps::NoFeature>;

fn h264(avcc: &[u8]) -> Result<(CapsBuilder, Option<VideoSize>), CapsError> {
    let codec = Codec::H264;
    let [1, profile, compatibility, _, length_size, count, rest @ ..] = avcc else {
        return Err(CapsError { codec, what: "not an avcC of version 1" });
    };
    // Access units in the hub have 4-byte lengths.
    if length_size & 3 != 3 {
        return Err(CapsError { codec, what: "NAL unit lengths are not 4 bytes" });
    }
    if count & 0x1F == 0 {
        return Err(CapsError { codec, what: "no sequence parameter set" });
    }
    let sps = size::nal_unit(rest).ok_or(CapsError { codec, what: "truncated" })?;
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "avc")
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(avcc.to_vec()))
        .field_if_some("profile", h264_profile(*profile, *compatibility));
    Ok((caps, H264Sps::parse(sps).and_then(|sps| sps.size)))
}

/// GStreamer's name of a profile (ISO/IEC 14496-10, A.2); `None` for rare ones.
fn h264_profile(profile_idc: u8, compatibility: u8) -> Option<&'static str> {
    const CONSTRAINT_SET_1: u8 = 0x40;
    const CONSTRAINT_SETS_4_AND_5: u8 = 0x0C;
    Some(match profile_idc {
        66 if compatibility & CONSTRAINT_SET_1 != 0 => "constrained-baseline",
        66 => "baseline",
        77 => "main",
        88 => "extended",
        100 if compatibility & CONSTRAINT_SETS_4_AND_5 == CONSTRAINT_SETS_4_AND_5 => "constrained-high",
        100 => "high",
        110 => "high-10",
        122 => "high-4:2:2",
        244 => "high-4:4:4",
        _ => return None,
    })
}

fn h265(hvcc: &[u8]) -> Result<(CapsBuilder, Option<VideoSize>), CapsError> {
    let codec = Codec::H265;
    // Version 0 is what encoders wrote before the format was final.
    if hvcc.len() < 23 || hvcc[0] > 1 {
        return Err(CapsError { codec, what: "not an hvcC of version 1" });
    }
    if hvcc[21] & 3 != 3 {
        return Err(CapsError { codec, what: "NAL unit lengths are not 4 bytes" });
    }
    let sps = size::h265_sps(hvcc).ok_or(CapsError { codec, what: "no sequence parameter set" })?;
    let caps = gst::Caps::builder("video/x-h265")
        .field("stream-format", "hvc1")
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(hvcc.to_vec()));
    Ok((caps, H265Sps::parse(sps).and_then(|sps| sps.size)))
}

fn av1(av1c: &[u8]) -> Result<(CapsBuilder, Option<VideoSize>), CapsError> {
    let [0x81, _, _, _, obus @ ..] = av1c else {
        return Err(CapsError { codec: Codec::Av1, what: "not an av1C of version 1" });
    };
    let caps = gst::Caps::builder("video/x-av1")
        .field("stream-format", "obu-stream")
        .field("alignment", "tu")
        .field("codec_data", gst::Buffer::from_slice(av1c.to_vec()));
    Ok((caps, size::of_av1_obus(obus)))
}

#[cfg(test)]
mod tests;
