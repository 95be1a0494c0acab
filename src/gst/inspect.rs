//! What is in a finished file, for those that nobody has told us about.

use super::{Pipeline, PipelineError};
use gstreamer::{self as gst, prelude::*};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a file may take to read: so long, and a second more for each 10 MB of it.
const LIMIT: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: u64 = 10_000_000;
/// Tracks of a file beyond these are not counted.
const MAX_TRACKS: usize = 16;

/// The first track of each kind that has an access unit in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// From the earliest access unit to the end of the last, ms.
    pub duration_ms: u64,
    pub video: Option<VideoContents>,
    pub audio: Option<AudioContents>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoContents {
    /// Our word for it; GStreamer's where we have none.
    pub codec: String,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub frames: u64,
    pub keyframes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioContents {
    pub codec: String,
    /// Hz.
    pub rate: Option<u32>,
    pub channels: Option<u32>,
    pub frames: u64,
}

/// What one track was found to have, so far.
#[derive(Default)]
struct Track {
    caps: Option<gst::Caps>,
    frames: u64,
    keyframes: u64,
    start: Option<gst::ClockTime>,
    end: Option<gst::ClockTime>,
}

type Tracks = Arc<Mutex<Vec<Track>>>;

/// Reads all of `file`, an MP4, WebM, Matroska or transport stream by its extension (a `.part` by the one before), without decoding it. A file
/// that breaks off has what comes before. Blocks for as long as that takes.
pub fn inspect(file: &Path) -> Result<Contents, PipelineError> {
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    let source = gst::ElementFactory::make("filesrc").property("location", file).build()?;
    let demuxer = demuxer_of(file)?;
    let pipeline = Pipeline::new();
    pipeline.add(&source)?;
    pipeline.add(&demuxer)?;
    source.link(&demuxer)?;
    let tracks = Tracks::default();
    let of_pads = tracks.clone();
    demuxer.connect_pad_added(move |demuxer, pad| {
        // A track that cannot be read is one that is not told.
        let _ = follow(demuxer, pad, &of_pads);
    });
    let read = pipeline
        .set_state(gst::State::Playing)
        .and_then(|()| pipeline.wait_eos(LIMIT + Duration::from_secs(bytes / BYTES_PER_SECOND)));
    drop(pipeline);
    let contents = contents_of(&tracks.lock().unwrap_or_else(PoisonError::into_inner));
    match read {
        Err(error) if contents == Contents::default() => Err(error),
        _ => Ok(contents),
    }
}

/// The demuxer for a file's extension, of a `.part` for the one before. Not by what is in it: that could be a play list,
/// and lead elsewhere.
pub(super) fn demuxer_of(file: &Path) -> Result<gst::Element, PipelineError> {
    let finished = file.extension().filter(|e| *e == "part").map(|_| file.with_extension(""));
    let named = finished.as_deref().unwrap_or(file);
    let extension = named.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let demuxer = match extension {
        "mp4" => "qtdemux",
        "webm" | "mkv" => "matroskademux",
        "ts" => "tsdemux",
        _ => return Err(PipelineError::Build(format!("no container has the extension {extension:?}"))),
    };
    Ok(gst::ElementFactory::make(demuxer).build()?)
}

/// Counts what comes out of a demuxer's pad.
fn follow(demuxer: &gst::Element, pad: &gst::Pad, tracks: &Tracks) -> Result<(), gst::glib::BoolError> {
    let missing = |what: &str| gst::glib::bool_error!("the demuxer has no {}", what);
    let bin = demuxer.parent().and_downcast::<gst::Bin>().ok_or_else(|| missing("pipeline"))?;
    let sink =
        gst::ElementFactory::make("fakesink").property("async", false).property("sync", false).build()?;
    bin.add(&sink)?;
    let counted = sink.static_pad("sink").ok_or_else(|| missing("sink"))?;
    let first = match parser(pad) {
        Some(parser) => {
            let parser = gst::ElementFactory::make(parser).build()?;
            bin.add(&parser)?;
            parser.link(&sink)?;
            parser.sync_state_with_parent()?;
            parser.static_pad("sink").ok_or_else(|| missing("parser"))?
        }
        None => counted.clone(),
    };
    sink.sync_state_with_parent()?;
    let number = {
        let mut tracks = tracks.lock().unwrap_or_else(PoisonError::into_inner);
        if tracks.len() < MAX_TRACKS {
            tracks.push(Track::default());
        }
        tracks.len() - 1
    };
    let tracks = tracks.clone();
    counted.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let (Some(buffer), Some(track)) =
            (info.buffer(), tracks.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number))
        {
            track.count(pad, buffer);
        }
        gst::PadProbeReturn::Ok
    });
    pad.link(&first).map_err(|e| gst::glib::bool_error!("the track is not taken: {:?}", e))?;
    Ok(())
}

/// A transport stream's packets are no access units yet.
fn parser(pad: &gst::Pad) -> Option<&'static str> {
    let caps = pad.current_caps()?;
    let structure = caps.structure(0)?;
    match structure.name().as_str() {
        "video/x-h264" if structure.get::<&str>("stream-format") == Ok("byte-stream") => Some("h264parse"),
        "video/x-h265" if structure.get::<&str>("stream-format") == Ok("byte-stream") => Some("h265parse"),
        "audio/mpeg" if structure.get::<&str>("stream-format") == Ok("adts") => Some("aacparse"),
        _ => None,
    }
}

impl Track {
    fn count(&mut self, pad: &gst::Pad, buffer: &gst::Buffer) {
        if self.frames == 0 {
            self.caps = pad.current_caps();
        }
        self.frames += 1;
        self.keyframes += u64::from(!buffer.flags().contains(gst::BufferFlags::DELTA_UNIT));
        let Some(pts) = buffer.pts() else { return };
        let end = pts.saturating_add(buffer.duration().unwrap_or_default());
        self.start = Some(self.start.map_or(pts, |start| start.min(pts)));
        self.end = Some(self.end.map_or(end, |last| last.max(end)));
    }
}

fn contents_of(tracks: &[Track]) -> Contents {
    let start = tracks.iter().filter_map(|t| t.start).min();
    let end = tracks.iter().filter_map(|t| t.end).max();
    let length = start.zip(end).map_or(gst::ClockTime::ZERO, |(start, end)| end.saturating_sub(start));
    let mut contents = Contents { duration_ms: length.mseconds(), ..Contents::default() };
    for track in tracks {
        let Some(structure) = track.caps.as_ref().and_then(|caps| caps.structure(0)) else { continue };
        let number = |field| structure.get::<i32>(field).ok().and_then(|n| u32::try_from(n).ok());
        let codec = codec(structure);
        if structure.name().starts_with("video/") && contents.video.is_none() {
            let (frames, keyframes) = (track.frames, track.keyframes);
            let (width, height) = (number("width"), number("height"));
            contents.video = Some(VideoContents { codec, width, height, frames, keyframes });
        } else if structure.name().starts_with("audio/") && contents.audio.is_none() {
            let (rate, channels) = (number("rate"), number("channels"));
            contents.audio = Some(AudioContents { codec, rate, channels, frames: track.frames });
        }
    }
    contents
}

fn codec(structure: &gst::StructureRef) -> String {
    use crate::media::Codec;
    let known = match structure.name().as_str() {
        "video/x-h264" => Codec::H264,
        "video/x-h265" => Codec::H265,
        "video/x-av1" => Codec::Av1,
        "video/x-vp8" => Codec::Vp8,
        "video/x-vp9" => Codec::Vp9,
        "audio/x-opus" => Codec::Opus,
        "audio/x-vorbis" => Codec::Vorbis,
        "audio/x-alaw" => Codec::Pcma,
        "audio/x-mulaw" => Codec::Pcmu,
        "audio/mpeg" if structure.get::<i32>("mpegversion") == Ok(1) => Codec::Mp3,
        "audio/mpeg" => Codec::Aac,
        other => return other.to_owned(),
    };
    known.as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path, name: &str, muxer: &str, video: &str, audio: &str) -> std::path::PathBuf {
        let file = dir.join(name);
        let line = format!(
            "videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=320,height=180,framerate=25/1 ! {video} ! queue ! m. \
             audiotestsrc num-buffers=100 samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=2 ! {audio} ! queue ! m. \
             {muxer} name=m ! filesink location={file:?}"
        );
        let bin = gst::parse::bin_from_description(&line, false).unwrap();
        let pipeline = Pipeline::new();
        pipeline.add(bin.upcast_ref()).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.wait_eos(Duration::from_secs(30)).unwrap();
        file
    }

    #[test]
    fn what_is_in_a_file_is_read() {
        super::super::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let x264 = "x264enc key-int-max=25 bframes=2 speed-preset=ultrafast ! h264parse";
        let cases = [
            ("a.mp4", "mp4mux", x264, "avenc_aac ! aacparse", ("h264", "aac")),
            ("a.ts", "mpegtsmux", x264, "avenc_aac ! aacparse", ("h264", "aac")),
            ("a.mkv", "matroskamux", x264, "opusenc ! opusparse", ("h264", "opus")),
            ("a.webm", "webmmux", "vp8enc deadline=1 keyframe-max-dist=25", "vorbisenc", ("vp8", "vorbis")),
        ];
        for (name, muxer, video, audio, codecs) in cases {
            let file = make(dir.path(), name, muxer, video, audio);
            let Contents { duration_ms, video: Some(video), audio: Some(audio) } = inspect(&file).unwrap()
            else {
                panic!("{name}: a track is missing");
            };
            assert_eq!((video.codec.as_str(), audio.codec.as_str()), codecs, "{name}");
            assert_eq!((video.frames, video.keyframes), (50, 2), "{name}");
            assert_eq!((video.width, video.height), (Some(320), Some(180)), "{name}");
            assert_eq!((audio.rate, audio.channels), (Some(48_000), Some(2)), "{name}");
            assert!(
                (1900..2100).contains(&duration_ms) && audio.frames >= 90,
                "{name}: {duration_ms} {audio:?}"
            );
            // What breaks off has its beginning; an MP4 that has no index has nothing.
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            let half = inspect(&file).map_or(0, |contents| contents.video.map_or(0, |v| v.frames));
            assert!(half < 50 && (half > 0 || name == "a.mp4"), "{name}: {half}");
        }
    }

    #[test]
    fn what_is_no_media_is_an_error() {
        super::super::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("a.mp4", "#EXTM3U\nhttp://127.0.0.1:1/x.ts\n"),
            ("b.mkv", ""),
            ("c.ts", "no media"),
            ("d.txt", "text"),
        ] {
            fs::write(dir.path().join(name), bytes).unwrap();
            let found = inspect(&dir.path().join(name));
            assert!(found.is_err(), "{name}: {found:?}");
        }
    }
}
