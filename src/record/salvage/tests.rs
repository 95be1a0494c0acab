//! Files as crashes and power cuts leave them, made of files that their muxers ended.

mod mp4;
mod others;

use crate::gst;
use gstreamer::{self as gstreamer, prelude::*};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    time::Duration,
};

const PAGE_BYTES: usize = 4096;

const H264: &str = "videotestsrc num-buffers=75 ! video/x-raw,width=160,height=90,framerate=25/1 ! \
     x264enc speed-preset=ultrafast bframes=0 key-int-max=10 bitrate=100 ! h264parse ! \
     video/x-h264,stream-format=avc,alignment=au ! queue max-size-time=0 ! m.video_0";
const B_FRAMES: &str = "videotestsrc num-buffers=75 ! video/x-raw,width=160,height=90,framerate=25/1 ! \
     x264enc speed-preset=veryfast bframes=2 b-adapt=false key-int-max=20 bitrate=200 ! h264parse ! \
     video/x-h264,stream-format=avc,alignment=au ! queue max-size-time=0 ! m.video_0";
const AAC: &str = "audiotestsrc wave=pink-noise num-buffers=140 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! \
     aacparse ! queue max-size-time=0 ! m.audio_0";
const OPUS: &str = "audiotestsrc wave=pink-noise num-buffers=140 ! audio/x-raw,rate=48000,channels=2 ! opusenc ! \
     opusparse ! queue max-size-time=0 ! m.audio_0";

/// Video of 50 pictures.
fn video(encoder: &str, caps: &str) -> String {
    format!(
        "videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=160,height=90,framerate=25/1 ! {encoder} ! \
         {caps} ! queue max-size-time=0 ! m.video_0"
    )
}

fn h265(stream_format: &str) -> String {
    video(
        "x265enc speed-preset=ultrafast key-int-max=10 option-string=bframes=2 ! h265parse",
        &format!("video/x-h265,stream-format={stream_format},alignment=au"),
    )
}

fn av1() -> String {
    video(
        "av1enc cpu-used=8 usage-profile=realtime keyframe-max-dist=10",
        "video/x-av1,stream-format=obu-stream,alignment=tu",
    )
}

fn vp9() -> String {
    video("vp9enc deadline=1 cpu-used=8 keyframe-max-dist=10 ! vp9parse", "video/x-vp9")
}

/// What `muxer`, fed by `sources`, writes until its end. Sound waits for the first picture: an encoder's delay is not a
/// late track.
fn record(muxer: &str, sources: &[&str]) -> Vec<u8> {
    record_late(muxer, sources, ("audio_0", 2))
}

/// As `record`; one pad waits until the others have got so many access units.
fn record_late(muxer: &str, sources: &[&str], (late, after): (&str, usize)) -> Vec<u8> {
    gst::init().expect("GStreamer");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    let launch = format!("{muxer} name=m ! filesink location={} {}", file.display(), sources.join(" "));
    let pipeline = gstreamer::parse::launch(&launch).expect(&launch);
    // Other muxers wait by themselves, for all of their tracks.
    if muxer.starts_with("reeldmp4mux") {
        hold_back(&pipeline, late, after);
    }
    pipeline.set_state(gstreamer::State::Playing).expect("playing");
    let types = [gstreamer::MessageType::Eos, gstreamer::MessageType::Error];
    let bus = pipeline.bus().expect("a bus");
    let message = bus.timed_pop_filtered(gstreamer::ClockTime::from_seconds(60), &types).expect("an end");
    if let gstreamer::MessageView::Error(error) = message.view() {
        panic!("{launch}: {} {}", error.error(), error.debug().unwrap_or_default());
    }
    pipeline.set_state(gstreamer::State::Null).expect("null");
    std::fs::read(&file).expect("the file")
}

fn hold_back(pipeline: &gstreamer::Element, late: &str, after: usize) {
    let pipeline = pipeline.downcast_ref::<gstreamer::Bin>().expect("a pipeline");
    let pads = pipeline.by_name("m").expect("a muxer").sink_pads();
    let (Some(late), Some(first)) =
        (pads.iter().find(|p| p.name() == late), pads.iter().find(|p| p.name() != late))
    else {
        return;
    };
    let types = gstreamer::PadProbeType::BLOCK | gstreamer::PadProbeType::BUFFER;
    let gate = Mutex::new(late.add_probe(types, |_, _| gstreamer::PadProbeReturn::Ok));
    // Its second access unit tells that the muxer has had the first.
    let (came, has_come) = sync_channel(2);
    late.add_probe(gstreamer::PadProbeType::BUFFER, move |_, _| match came.try_send(()) {
        Ok(()) => gstreamer::PadProbeReturn::Ok,
        Err(_) => gstreamer::PadProbeReturn::Remove,
    });
    let (late, seen, has_come) = (late.clone(), AtomicUsize::new(0), Mutex::new(has_come));
    first.add_probe(gstreamer::PadProbeType::BUFFER, move |_, _| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 < after {
            return gstreamer::PadProbeReturn::Ok;
        }
        if let Some(gate) = gate.lock().expect("no panic").take() {
            late.remove_probe(gate);
        }
        // On a busy machine the others had a whole fragment, and the header, before it came.
        let has_come = has_come.lock().expect("no panic");
        for _ in 0..2 {
            has_come.recv_timeout(Duration::from_secs(30)).expect("the late one");
        }
        gstreamer::PadProbeReturn::Remove
    });
}

/// A file of its own with these bytes.
fn file_with(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(bytes, 0).expect("written");
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().expect("metadata").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

/// Decodes all of it, without a word.
fn assert_decodes(bytes: &[u8], story: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let file: PathBuf = dir.path().join("file");
    std::fs::write(&file, bytes).expect("written");
    let decode = |file: &Path| {
        let args = ["-v", "error", "-xerror", "-i"];
        Command::new("ffmpeg").args(args).arg(file).args(["-f", "null", "-"]).output()
    };
    let output = decode(&file).expect("ffmpeg: apt-get install ffmpeg");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty() && output.status.success(), "{story}: {errors}");
}

/// Numbers that a seed repeats.
struct Random(u64);

impl Random {
    /// The seed of this run: `REELD_TEST_SEED`, else a new one.
    fn new() -> Self {
        let given = std::env::var("REELD_TEST_SEED").ok();
        let seed = given.map_or_else(rand::random, |s| s.parse().expect("a number"));
        eprintln!("REELD_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// Zeros one page in `one_in` from `synced` on; where the first of them begins.
fn lose_pages(bytes: &mut [u8], synced: usize, one_in: usize, random: &mut Random) -> Option<usize> {
    let mut first = None;
    for page in (synced.next_multiple_of(PAGE_BYTES)..bytes.len()).step_by(PAGE_BYTES) {
        if random.below(one_in) == 0 {
            let end = (page + PAGE_BYTES).min(bytes.len());
            bytes[page..end].fill(0);
            first = first.or(Some(page));
        }
    }
    first
}
