//! A still picture of a file: the first good one of a few key frames, as JPEG.

use super::{Pipeline, PipelineError, inspect::demuxer_of};
use gstreamer::{self as gst, prelude::*};
use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Largest width and height; the picture keeps its shape, and is never made larger.
const MAX_SIDE: i32 = 640;
/// So many key frames are looked at.
const MAX_KEY_FRAMES: u64 = 8;
/// Access units behind each key frame that are decoded with it: decoders that put pictures in order give the first out late.
const DECODED_AFTER_KEY: u64 = 8;
/// So many access units without a key frame end the search.
const MAX_SKIPPED: u64 = 5_000;
/// Standard deviation of the brightness (of 256) below which a picture is black, or as good as empty.
const GOOD_CONTRAST: f64 = 10.0;
/// Of each so many pixels one is looked at.
const PIXEL_STEP: usize = 7;
/// How often the search is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After so many looks at a search in which no thread does anything it has died without a word.
const MAX_IDLE_LOOKS: u32 = 25;

/// The binding's `Drop` has GStreamer free a buffer that is freed already, which it logs as critical.
const LEAVE_OUT: gst::PadProbeReturn = gst::PadProbeReturn::Handled;

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poster {
    Jpeg(Vec<u8>),
    /// No picture could be decoded; why, where something was said.
    None(Option<String>),
    Cancelled,
}

#[derive(Default)]
struct Search {
    found: Mutex<Found>,
    key_frames: AtomicU64,
    since_key: AtomicU64,
}

#[derive(Default)]
struct Found {
    /// Of the picture that is being encoded.
    contrast: f64,
    best: Option<(f64, Vec<u8>)>,
}

impl Search {
    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        let good = self.found().best.as_ref().is_some_and(|(contrast, _)| *contrast >= GOOD_CONTRAST);
        let skipped = self.since_key.load(Ordering::Relaxed);
        let looked = self.key_frames.load(Ordering::Relaxed);
        good || skipped > MAX_SKIPPED || looked > MAX_KEY_FRAMES
    }

    /// Whether an access unit is to be decoded.
    fn wants(&self, buffer: &gst::BufferRef) -> bool {
        if buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
            let since = self.since_key.fetch_add(1, Ordering::Relaxed);
            return since < DECODED_AFTER_KEY && self.key_frames.load(Ordering::Relaxed) > 0;
        }
        self.since_key.store(0, Ordering::Relaxed);
        self.key_frames.fetch_add(1, Ordering::Relaxed) < MAX_KEY_FRAMES
    }
}

/// Looks for a picture in `file`, for at most `limit`: the first that is not black or empty, else the best there was.
/// Blocks; takes one thread. A file without video has none.
pub fn poster(file: &Path, limit: Duration, cancelled: &AtomicBool) -> Result<Poster, PipelineError> {
    let search = Arc::new(Search::default());
    let pipeline = build(file, &search)?;
    pipeline.play()?;
    let (begun, mut idle, mut said) = (Instant::now(), 0, None);
    while !search.is_over() && begun.elapsed() < limit && idle < MAX_IDLE_LOOKS {
        if cancelled.load(Ordering::Relaxed) {
            return Ok(Poster::Cancelled);
        }
        match pipeline.wait_eos(LOOK_EVERY) {
            Err(PipelineError::NoEos { .. }) => {}
            Ok(()) => break,
            Err(e) => {
                said = Some(e.to_string());
                break;
            }
        }
        idle = if pipeline.is_idle() { idle + 1 } else { 0 };
    }
    drop(pipeline);
    let best = search.found().best.take();
    Ok(best.map_or(Poster::None(said), |(_, jpeg)| Poster::Jpeg(jpeg)))
}

fn build(file: &Path, search: &Arc<Search>) -> Result<Pipeline, PipelineError> {
    let source = gst::ElementFactory::make("filesrc").property("location", file).build()?;
    let demuxer = demuxer_of(file)?;
    let pipeline = Pipeline::new();
    pipeline.add(&source)?;
    pipeline.add(&demuxer)?;
    source.link(&demuxer)?;
    let (search, taken) = (search.clone(), AtomicBool::new(false));
    demuxer.connect_pad_added(move |demuxer, pad| {
        let caps = pad.current_caps();
        let is_video =
            caps.as_ref().and_then(|c| c.structure(0)).is_some_and(|s| s.name().starts_with("video/"));
        if is_video && !taken.swap(true, Ordering::Relaxed) {
            // What cannot be decoded ends as a search that finds nothing.
            let _ = decode(demuxer, pad, &search);
        }
    });
    Ok(pipeline)
}

fn decode(demuxer: &gst::Element, pad: &gst::Pad, search: &Arc<Search>) -> Result<(), gst::glib::BoolError> {
    let missing = |what: &str| gst::glib::bool_error!("the poster's pipeline has no {}", what);
    let bin = demuxer.parent().and_downcast::<gst::Bin>().ok_or_else(|| missing("bin"))?;
    let decodebin = gst::ElementFactory::make("decodebin").build()?;
    decodebin.downcast_ref::<gst::Bin>().ok_or_else(|| missing("decodebin"))?.connect_deep_element_added(
        |_, _, element| {
            // libav's threads would hold back as many pictures, and take as many cores.
            if element.find_property("max-threads").is_some() {
                element.set_property_from_str("max-threads", "1");
            }
        },
    );
    let still = still(search)?;
    bin.add(&decodebin)?;
    bin.add(&still)?;
    still.sync_state_with_parent()?;
    let into = still.static_pad("sink").ok_or_else(|| missing("sink"))?;
    decodebin.connect_pad_added(move |_, pad| {
        // One that does not fit is one of which there is no picture.
        let _ = pad.link(&into);
    });
    let encoded = decodebin.static_pad("sink").ok_or_else(|| missing("sink"))?;
    pad.link(&encoded).map_err(|e| gst::glib::bool_error!("the track is not taken: {:?}", e))?;
    let wanted = search.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| match info.buffer() {
        Some(buffer) if !wanted.wants(buffer) => LEAVE_OUT,
        _ => gst::PadProbeReturn::Ok,
    });
    decodebin.sync_state_with_parent()
}

/// Raw pictures in; each is judged, and encoded when it is the best so far. As RGB: JPEG has the full range of brightness,
/// which GStreamer 1.22 does not make of I420 that has the narrow one. Black would come out grey.
fn still(search: &Arc<Search>) -> Result<gst::Element, gst::glib::BoolError> {
    let description = format!(
        "videoscale ! videoconvert ! video/x-raw,format=RGB,width=[16,{MAX_SIDE}],height=[16,{MAX_SIDE}],\
         pixel-aspect-ratio=1/1 ! jpegenc name=jpeg quality=80 ! fakesink name=end sync=false async=false"
    );
    let still = gst::parse::bin_from_description(&description, true)
        .map_err(|e| gst::glib::bool_error!("the poster's pipeline: {}", e))?;
    let pad_of = |element: &str| still.by_name(element).and_then(|e| e.static_pad("sink"));
    let (Some(raw), Some(jpeg)) = (pad_of("jpeg"), pad_of("end")) else {
        return Err(gst::glib::bool_error!("the poster's pipeline has not its pads"));
    };
    let judge = search.clone();
    raw.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(contrast) = info.buffer().and_then(|buffer| contrast(pad, buffer)) else {
            return LEAVE_OUT;
        };
        let mut found = judge.found();
        if found.best.as_ref().is_some_and(|(best, _)| *best >= contrast.min(GOOD_CONTRAST)) {
            return LEAVE_OUT;
        }
        found.contrast = contrast;
        gst::PadProbeReturn::Ok
    });
    let keep = search.clone();
    jpeg.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(map) = info.buffer().and_then(|buffer| buffer.map_readable().ok()) {
            let mut found = keep.found();
            found.best = Some((found.contrast, map.to_vec()));
        }
        gst::PadProbeReturn::Ok
    });
    Ok(still.upcast())
}

/// Standard deviation of the brightness: of the green of RGB, whose rows are padded to four bytes.
fn contrast(pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<f64> {
    let caps = pad.current_caps()?;
    let structure = caps.structure(0)?;
    let width = usize::try_from(structure.get::<i32>("width").ok()?).ok()?;
    let height = usize::try_from(structure.get::<i32>("height").ok()?).ok()?;
    let map = buffer.map_readable().ok()?;
    let stride = (3 * width).next_multiple_of(4);
    let (mut count, mut sum, mut squares) = (0_u64, 0_u64, 0_u64);
    for row in map.chunks(stride.max(1)).take(height) {
        for pixel in row.chunks_exact(3).take(width).step_by(PIXEL_STEP) {
            let green = u64::from(pixel[1]);
            count += 1;
            sum += green;
            squares += green * green;
        }
    }
    let mean = sum as f64 / count.max(1) as f64;
    Some((squares as f64 / count.max(1) as f64 - mean * mean).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::PathBuf, process::Command};

    const LIMIT: Duration = Duration::from_secs(20);

    fn ffmpeg(dir: &Path, name: &str, arguments: &str) -> PathBuf {
        let file = dir.join(name);
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error"]).args(arguments.split_whitespace());
        assert!(command.arg(&file).status().expect("apt-get install ffmpeg").success(), "{arguments}");
        file
    }

    /// Width, height and mean brightness of a JPEG.
    fn look(dir: &Path, jpeg: &[u8]) -> (u32, u32, f64) {
        let file = dir.join("poster.jpg");
        fs::write(&file, jpeg).unwrap();
        let raw = dir.join("poster.y4m");
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error", "-y", "-i"]).arg(&file).args(["-pix_fmt", "yuv420p"]);
        assert!(command.arg(&raw).status().unwrap().success());
        let bytes = fs::read(&raw).unwrap();
        let line = bytes.iter().position(|b| *b == b'\n').unwrap();
        let head = String::from_utf8_lossy(&bytes[..line]).into_owned();
        let field = |key: char| head.split(' ').find_map(|w| w.strip_prefix(key)?.parse().ok()).unwrap();
        let (width, height): (u32, u32) = (field('W'), field('H'));
        let plane = &bytes[line + 7..][..(width * height) as usize];
        (width, height, plane.iter().map(|b| f64::from(*b)).sum::<f64>() / f64::from(width * height))
    }

    fn of(file: &Path) -> Poster {
        super::super::init().unwrap();
        poster(file, LIMIT, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn every_container_and_codec_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let big = "-f lavfi -i testsrc2=size=1280x720:rate=25:duration=1 -f lavfi -i sine=duration=1";
        let tall = "-f lavfi -i testsrc2=size=180x320:rate=25:duration=1";
        for (name, arguments, size) in [
            ("a.mp4", format!("{big} -c:v libx264 -preset ultrafast -bf 3 -c:a aac"), (640, 360)),
            ("b.webm", format!("{tall} -c:v libvpx -deadline realtime"), (180, 320)),
            (
                "c.mkv",
                format!("{tall} -c:v libx265 -preset ultrafast -x265-params log-level=none"),
                (180, 320),
            ),
            ("d.ts", format!("{big} -c:v libx264 -preset ultrafast"), (640, 360)),
            // One picture in all, and B-frames announced: the decoder gives it out at the end.
            ("e.mp4", format!("{tall} -c:v libx264 -bf 3 -frames:v 1"), (180, 320)),
        ] {
            let Poster::Jpeg(jpeg) = of(&ffmpeg(dir.path(), name, &arguments)) else {
                panic!("{name}: none")
            };
            let (width, height, light) = look(dir.path(), &jpeg);
            assert_eq!((width, height), size, "{name}");
            assert!(light > 40.0, "{name}: {light}");
        }
    }

    #[test]
    fn black_is_passed_over_but_better_than_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let x264 = "-c:v libx264 -preset ultrafast -g 25 -keyint_min 25 -sc_threshold 0";
        // Two seconds of black, then pictures.
        let begins_black = format!(
            "-f lavfi -i testsrc2=size=320x180:rate=25:duration=4 -vf drawbox=color=black:t=fill:enable='lt(t,2)' {x264}"
        );
        let Poster::Jpeg(jpeg) = of(&ffmpeg(dir.path(), "a.mp4", &begins_black)) else { panic!("none") };
        assert!(look(dir.path(), &jpeg).2 > 40.0);
        let black = format!("-f lavfi -i color=black:size=320x180:rate=25:duration=3 {x264}");
        let Poster::Jpeg(jpeg) = of(&ffmpeg(dir.path(), "b.mp4", &black)) else { panic!("none") };
        assert!(look(dir.path(), &jpeg).2 < 20.0);
    }

    #[test]
    fn what_has_no_pictures_has_none_and_says_so_soon() {
        let dir = tempfile::tempdir().unwrap();
        let sound = ffmpeg(dir.path(), "a.mp4", "-f lavfi -i sine=duration=1 -c:a aac");
        assert!(matches!(of(&sound), Poster::None(_)));
        fs::write(dir.path().join("b.mp4"), "no media").unwrap();
        let begun = Instant::now();
        assert!(matches!(of(&dir.path().join("b.mp4")), Poster::None(_)));
        assert!(begun.elapsed() < LIMIT);
        let cancelled = poster(&sound, LIMIT, &AtomicBool::new(true)).unwrap();
        assert_eq!(cancelled, Poster::Cancelled);
        assert!(poster(&dir.path().join("c.txt"), LIMIT, &AtomicBool::new(false)).is_err());
    }
}
