use super::{CapsError, MAX_CONFIG_BYTES};
use crate::media::Codec;
use gstreamer as gst;
use scuffle_aac::PartialAudioSpecificConfig;

/// What an audio track is.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioTrackCaps {
    pub caps: gst::Caps,
    /// Sample rate, Hz; of HE-AAC the core's.
    pub rate: u32,
    pub channels: u32,
}

/// Caps of an audio track.
///
/// `config`: of AAC the `AudioSpecificConfig` (ISO/IEC 14496-3, 1.6.2.1), of Opus the `OpusHead` (RFC 7845, 5.1), of
/// MP3 a whole frame, of G.711 the first byte of a message.
pub fn audio_track_caps(codec: Codec, config: &[u8]) -> Result<AudioTrackCaps, CapsError> {
    if config.len() > MAX_CONFIG_BYTES {
        return Err(CapsError { codec, what: "longer than 64 KiB" });
    }
    match codec {
        Codec::Aac => aac(config),
        Codec::Opus => opus(config),
        Codec::Mp3 => mp3(config),
        Codec::Pcma => g711(codec, "audio/x-alaw", config),
        Codec::Pcmu => g711(codec, "audio/x-mulaw", config),
        _ => Err(CapsError { codec, what: "not an audio codec" }),
    }
}

fn track(caps: gst::caps::Builder<gst::caps::NoFeature>, rate: u32, channels: u32) -> AudioTrackCaps {
    let caps = caps.field("rate", rate as i32).field("channels", channels as i32).build();
    AudioTrackCaps { caps, rate, channels }
}

fn aac(asc: &[u8]) -> Result<AudioTrackCaps, CapsError> {
    let invalid = |what| CapsError { codec: Codec::Aac, what };
    let config = PartialAudioSpecificConfig::parse(asc).map_err(|_| invalid("not an AudioSpecificConfig"))?;
    let channels = match config.channel_configuration {
        // The layout is in a program config element; two channels is what encoders that do this mean.
        0 => 2,
        n @ 1..=6 => u32::from(n),
        11 => 7,
        7 | 12 | 14 => 8,
        _ => return Err(invalid("reserved channel configuration")),
    };
    // Implicit and explicit SBR alike: the first rate told is the core's.
    if !(7_350..=96_000).contains(&config.sampling_frequency) {
        return Err(invalid("sample rate outside 7350 to 96000 Hz"));
    }
    let caps = gst::Caps::builder("audio/mpeg")
        .field("mpegversion", 4i32)
        .field("stream-format", "raw")
        .field("framed", true)
        .field("codec_data", gst::Buffer::from_slice(asc.to_vec()));
    Ok(track(caps, config.sampling_frequency, channels))
}

fn opus(head: &[u8]) -> Result<AudioTrackCaps, CapsError> {
    const RATE: u32 = 48_000;
    let invalid = |what| CapsError { codec: Codec::Opus, what };
    let Some(fields) = head.strip_prefix(b"OpusHead").filter(|f| f.len() >= 11) else {
        return Err(invalid("not an OpusHead"));
    };
    let (version, channels, family) = (fields[0], fields[1], fields[10]);
    if version >> 4 != 0 || channels == 0 {
        return Err(invalid("unknown version or no channels"));
    }
    let mut caps = gst::Caps::builder("audio/x-opus")
        .field("channel-mapping-family", i32::from(family))
        .field("streamheader", opus_stream_header(head));
    if family == 0 {
        if channels > 2 {
            return Err(invalid("more than two channels without a mapping"));
        }
        caps = caps.field("stream-count", 1i32).field("coupled-count", i32::from(channels == 2));
    } else {
        let Some(mapping) = fields.get(13..13 + usize::from(channels)) else {
            return Err(invalid("truncated channel mapping"));
        };
        caps = caps
            .field("stream-count", i32::from(fields[11]))
            .field("coupled-count", i32::from(fields[12]))
            .field("channel-mapping", gst::Array::new(mapping.iter().map(|&m| i32::from(m))));
    }
    Ok(track(caps, RATE, u32::from(channels)))
}

/// GStreamer's muxers read the header (and its pre-skip) only where a comment header follows it.
fn opus_stream_header(head: &[u8]) -> gst::Array {
    let vendor = b"reeld";
    let mut tags = b"OpusTags".to_vec();
    tags.extend_from_slice(&(vendor.len() as u32).to_le_bytes());
    tags.extend_from_slice(vendor);
    tags.extend_from_slice(&0u32.to_le_bytes());
    gst::Array::new([head.to_vec(), tags].map(gst::Buffer::from_slice))
}

/// ISO/IEC 11172-3, 2.4.1.3, with the lower rates of 13818-3 and of MPEG 2.5.
fn mp3(frame: &[u8]) -> Result<AudioTrackCaps, CapsError> {
    let invalid = |what| CapsError { codec: Codec::Mp3, what };
    let &[0xFF, b, c, d, ..] = frame else { return Err(invalid("no frame header")) };
    const LAYER_3: u8 = 1;
    if b & 0xE0 != 0xE0 || (b >> 1) & 3 != LAYER_3 {
        return Err(invalid("not a layer 3 frame"));
    }
    let full_rate = match (c >> 2) & 3 {
        0 => 44_100,
        1 => 48_000,
        2 => 32_000,
        _ => return Err(invalid("reserved sample rate")),
    };
    let (version, rate) = match (b >> 3) & 3 {
        0 => (3, full_rate / 4),
        2 => (2, full_rate / 2),
        3 => (1, full_rate),
        _ => return Err(invalid("reserved MPEG version")),
    };
    const MONO: u8 = 3;
    let channels = if d >> 6 == MONO { 1 } else { 2 };
    let caps = gst::Caps::builder("audio/mpeg")
        .field("mpegversion", 1i32)
        .field("mpegaudioversion", version)
        .field("layer", 3i32)
        .field("parsed", true);
    Ok(track(caps, rate, channels))
}

/// The rate is 8000 Hz whatever the flags say: FLV has no bits for it.
fn g711(codec: Codec, media_type: &str, flags: &[u8]) -> Result<AudioTrackCaps, CapsError> {
    let Some(&flags) = flags.first() else { return Err(CapsError { codec, what: "empty" }) };
    const STEREO: u8 = 1;
    let channels = if flags & STEREO != 0 { 2 } else { 1 };
    Ok(track(gst::Caps::builder(media_type), 8_000, channels))
}

/// Caps of a G.711 track (`Codec::Pcma` or `Codec::Pcmu`) of any sample rate, Hz.
pub fn g711_track_caps(codec: Codec, rate: u32, channels: u32) -> Result<AudioTrackCaps, CapsError> {
    let media_type = match codec {
        Codec::Pcma => "audio/x-alaw",
        Codec::Pcmu => "audio/x-mulaw",
        _ => return Err(CapsError { codec, what: "not G.711" }),
    };
    if !(4_000..=192_000).contains(&rate) || !(1..=8).contains(&channels) {
        return Err(CapsError {
            codec,
            what: "sample rate outside 4000 to 192000 Hz, or more than 8 channels",
        });
    }
    Ok(track(gst::Caps::builder(media_type), rate, channels))
}

/// An `OpusHead` (RFC 7845, 5.1) of 1 or 2 channels, for streams that carry none: nothing is skipped at the start.
pub fn opus_head(channels: u8) -> Vec<u8> {
    const VERSION: u8 = 1;
    let mut head = b"OpusHead".to_vec();
    head.extend([VERSION, channels, 0, 0]);
    head.extend(48_000u32.to_le_bytes());
    head.extend([0, 0, 0]);
    head
}
