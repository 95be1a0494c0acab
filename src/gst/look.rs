//! What is to be seen and heard of a live stream: one key frame as a small grey picture, and how loud a little sound is.
//!
//! All in the calling thread: buffers are pushed through the decoder's pads, decoders get one thread each, and nothing in
//! between has a queue. So who calls knows what it costs, and pays it.

use crate::media::{Codec, Track};
use gstreamer::{self as gst, prelude::*};
use std::sync::{Arc, Mutex, PoisonError};

/// Points of a picture that are looked at: every so many pixels one, as it is. Averages would take out the noise by which a
/// still scene is told from a picture that stands still.
const WIDTH: usize = 96;
const HEIGHT: usize = 54;
/// Sound is judged by its loudest stretch of this length.
const STRETCH_MS: usize = 50;
/// What digital silence counts as, dBFS.
const SILENCE_DB: f64 = -120.0;

/// Tried in this order; another decoder that takes the codec is taken where none of them is installed.
const DECODERS: [(Codec, &[&str]); 11] = [
    (Codec::H264, &["avdec_h264", "openh264dec"]),
    (Codec::H265, &["avdec_h265", "libde265dec"]),
    (Codec::Vp8, &["avdec_vp8", "vp8dec"]),
    (Codec::Vp9, &["avdec_vp9", "vp9dec"]),
    (Codec::Av1, &["dav1ddec", "av1dec"]),
    (Codec::Aac, &["avdec_aac", "faad"]),
    (Codec::Opus, &["opusdec", "avdec_opus"]),
    (Codec::Mp3, &["mpg123audiodec", "avdec_mp3"]),
    (Codec::Vorbis, &["vorbisdec"]),
    (Codec::Pcma, &["alawdec"]),
    (Codec::Pcmu, &["mulawdec"]),
];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    #[error("no decoder for {codec} is installed; `apt-get install {package}`")]
    NoDecoder { codec: Codec, package: &'static str },
    /// Of this access unit: the next may be better.
    #[error("{0}")]
    Failed(String),
}

impl From<gst::glib::BoolError> for LookError {
    fn from(e: gst::glib::BoolError) -> Self {
        LookError::Failed(e.message.into_owned())
    }
}

/// A picture's brightness at 96 by 54 points, 0 to 255, as it is encoded: black is 16 in video of the narrow range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    grey: Box<[u8]>,
}

/// How far two pictures are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Of brightness, of all points.
    pub mean: f64,
    /// The largest, of one point.
    pub most: u8,
}

impl Picture {
    pub fn mean(&self) -> f64 {
        self.grey.iter().map(|p| f64::from(*p)).sum::<f64>() / self.grey.len().max(1) as f64
    }

    /// The brightest point but for one in a hundred: a clock or a logo in a corner makes no other picture of a black one.
    pub fn brightest(&self) -> u8 {
        let mut sorted = self.grey.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied().unwrap_or(0)
    }

    /// Standard deviation of the brightness.
    pub fn contrast(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.grey.iter().map(|p| (f64::from(*p) - mean).powi(2)).sum();
        (squares / self.grey.len().max(1) as f64).sqrt()
    }

    pub fn difference(&self, other: &Picture) -> Difference {
        let apart = || self.grey.iter().zip(&other.grey).map(|(a, b)| a.abs_diff(*b));
        let sum: u64 = apart().map(u64::from).sum();
        Difference { mean: sum as f64 / self.grey.len().max(1) as f64, most: apart().max().unwrap_or(0) }
    }
}

/// Decodes one key frame of `track`. Blocks for as long as that takes; no thread beside the caller's works for it.
pub fn picture(track: &Track, key_frame: &gst::Buffer) -> Result<Picture, LookError> {
    let shape = format!(
        "videoscale method=nearest-neighbour add-borders=false ! video/x-raw,width={WIDTH},height={HEIGHT} ! \
         videoconvert ! video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT} ! identity"
    );
    let decoded = decode(track, std::slice::from_ref(key_frame), &shape)?;
    let buffer = decoded.into_iter().next().ok_or_else(nothing)?;
    let map = buffer.map_readable().map_err(|e| LookError::Failed(e.to_string()))?;
    let stride = WIDTH.next_multiple_of(4);
    let grey: Box<[u8]> =
        map.chunks(stride).take(HEIGHT).flat_map(|row| row.iter().take(WIDTH)).copied().collect();
    if grey.len() != WIDTH * HEIGHT {
        return Err(LookError::Failed(format!("a picture of {} points", grey.len())));
    }
    Ok(Picture { grey })
}

/// How loud the loudest 50 ms of `units` are, dBFS (RMS); -120 for digital silence. As [`picture`] otherwise.
pub fn loudness(track: &Track, units: &[gst::Buffer]) -> Result<f64, LookError> {
    let shape = "audioconvert ! audio/x-raw,format=S16LE,layout=interleaved,channels=1 ! identity";
    let decoded = decode(track, units, shape)?;
    let mut samples = Vec::new();
    for buffer in &decoded {
        let map = buffer.map_readable().map_err(|e| LookError::Failed(e.to_string()))?;
        samples.extend(map.as_chunks::<2>().0.iter().map(|s| f64::from(i16::from_le_bytes(*s)) / 32_768.0));
    }
    if samples.is_empty() {
        return Err(nothing());
    }
    let rate = track.rate.filter(|rate| *rate > 0).unwrap_or(48_000) as usize;
    let power = |stretch: &[f64]| stretch.iter().map(|s| s * s).sum::<f64>() / stretch.len() as f64;
    let loudest = samples.chunks((rate * STRETCH_MS / 1_000).max(1)).map(power).fold(0.0, f64::max);
    Ok(if loudest > 0.0 { (10.0 * loudest.log10()).max(SILENCE_DB) } else { SILENCE_DB })
}

fn nothing() -> LookError {
    LookError::Failed("nothing came out of the decoder".into())
}

/// What comes out of the decoder and the elements of `shape` behind it.
fn decode(track: &Track, units: &[gst::Buffer], shape: &str) -> Result<Vec<gst::Buffer>, LookError> {
    let shape =
        gst::parse::bin_from_description(shape, true).map_err(|e| LookError::Failed(e.to_string()))?;
    let bin = gst::Bin::new();
    let decoder = decoder(track)?;
    bin.add_many([&decoder, shape.upcast_ref()])?;
    decoder.link(&shape)?;
    let no_pad = || LookError::Failed(format!("{} has not its pads", decoder.name()));
    let (input, output) =
        (decoder.static_pad("sink").ok_or_else(no_pad)?, shape.static_pad("src").ok_or_else(no_pad)?);

    let out = Arc::new(Mutex::new(Vec::new()));
    let taken = out.clone();
    let sink = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer| {
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(|_, _, _| true)
        .build();
    let source = gst::Pad::builder(gst::PadDirection::Src).build();
    for (from, to) in [(&source, &input), (&output, &sink)] {
        // Pads without a parent element have no place in a hierarchy that could be checked.
        let linked = from.link_full(to, gst::PadLinkCheck::empty());
        linked.map_err(|e| LookError::Failed(e.to_string()))?;
        from.set_active(true)?;
        to.set_active(true)?;
    }
    let pushed = bin
        .set_state(gst::State::Playing)
        .map_err(|e| LookError::Failed(e.to_string()))
        .and_then(|_| push(&source, track, units));
    // Going to NULL reports nothing that could still be acted on.
    let _ = bin.set_state(gst::State::Null);
    let _ = source.set_active(false);
    let _ = sink.set_active(false);
    let out = std::mem::take(&mut *out.lock().unwrap_or_else(PoisonError::into_inner));
    // What was decoded before an error is there all the same.
    if out.is_empty() { pushed.map(|()| out) } else { Ok(out) }
}

fn push(source: &gst::Pad, track: &Track, units: &[gst::Buffer]) -> Result<(), LookError> {
    source.push_event(gst::event::StreamStart::new("look"));
    if !source.push_event(gst::event::Caps::new(&track.caps)) {
        return Err(LookError::Failed(format!("{} is not accepted", track.caps)));
    }
    source.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    for unit in units {
        source.push(unit.clone()).map_err(|flow| LookError::Failed(format!("the decoder failed: {flow}")))?;
    }
    // A decoder that puts pictures in order gives them out now.
    source.push_event(gst::event::Eos::new());
    Ok(())
}

fn decoder(track: &Track) -> Result<gst::Element, LookError> {
    let codec = track.codec;
    let names = DECODERS.iter().find(|(of, _)| *of == codec).map_or(&[][..], |(_, names)| names);
    let preferred = names.iter().find_map(|name| gst::ElementFactory::find(name));
    let factory = preferred.or_else(|| any_decoder(&track.caps));
    let factory = factory.ok_or_else(|| LookError::NoDecoder { codec, package: package(codec) })?;
    let element = factory.create().build()?;
    for (property, value) in [("max-threads", "1"), ("threads", "1"), ("n-threads", "1")] {
        if element.find_property(property).is_some() {
            element.set_property_from_str(property, value);
        }
    }
    Ok(element)
}

/// Not one of a graphics card: those take threads and memory of their own.
fn any_decoder(caps: &gst::Caps) -> Option<gst::ElementFactory> {
    let decoders = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_ANY,
        gst::Rank::MARGINAL,
    );
    let in_software = |f: &gst::ElementFactory| f.metadata("klass").is_some_and(|k| !k.contains("Hardware"));
    decoders.into_iter().find(|f| f.can_sink_all_caps(caps) && in_software(f))
}

fn package(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 | Codec::H265 | Codec::Vp8 | Codec::Vp9 | Codec::Aac => "gstreamer1.0-libav",
        Codec::Av1 => "gstreamer1.0-plugins-bad",
        Codec::Opus | Codec::Vorbis => "gstreamer1.0-plugins-base",
        Codec::Mp3 | Codec::Pcma | Codec::Pcmu => "gstreamer1.0-plugins-good",
    }
}

#[cfg(test)]
mod tests;
