//! The element in real pipelines, its files judged by ffprobe and ffmpeg.

use gstreamer as gst;
use gstreamer::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

const VIDEO: &str = "videotestsrc num-buffers=75 ! video/x-raw,width=320,height=180,framerate=25/1 ! \
     x264enc speed-preset=ultrafast key-int-max=30 bframes=0 ! h264parse ! \
     video/x-h264,stream-format=avc,alignment=au ! queue ! m.video_0";
const B_FRAMES: &str = "videotestsrc num-buffers=75 ! video/x-raw,width=320,height=180,framerate=25/1 ! \
     x264enc speed-preset=veryfast key-int-max=30 bframes=2 b-adapt=false ! h264parse ! \
     video/x-h264,stream-format=avc,alignment=au ! queue max-size-time=0 ! m.video_0";
const AAC: &str = "audiotestsrc num-buffers=140 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! \
     queue max-size-time=0 ! m.audio_0";
const OPUS: &str = "audiotestsrc num-buffers=140 ! audio/x-raw,rate=48000,channels=2 ! opusenc ! opusparse ! \
     queue max-size-time=0 ! m.audio_0";

/// Running-time PTS of what went into each pad, in ms, by pad name.
type Fed = BTreeMap<String, Vec<f64>>;

struct Recording {
    dir: tempfile::TempDir,
    fed: Fed,
}

impl Recording {
    fn path(&self) -> PathBuf {
        self.dir.path().join("f.mp4")
    }
}

fn watch(pad: &gst::Pad, fed: &Arc<Mutex<Fed>>) {
    let fed = fed.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let segment = pad.sticky_event::<gst::event::Segment>(0).expect("segment").segment().clone();
        let segment = segment.downcast::<gst::ClockTime>().expect("time");
        let pts = info.buffer().and_then(|b| b.pts()).expect("pts");
        let ms = match segment.to_running_time_full(pts).expect("running time") {
            gst::Signed::Positive(t) => t.nseconds() as f64 / 1e6,
            gst::Signed::Negative(t) => -(t.nseconds() as f64) / 1e6,
        };
        fed.lock().expect("lock").entry(pad.name().to_string()).or_default().push(ms);
        gst::PadProbeReturn::Ok
    });
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Eos,
    /// All media reaches the muxer, its end does not: what a killed process leaves.
    Kill,
}

/// Holds EOS back from the muxer and tells.
fn withhold_eos(pad: &gst::Pad, held: std::sync::mpsc::Sender<()>) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| match info.event() {
        Some(event) if event.type_() == gst::EventType::Eos => {
            held.send(()).expect("receiver");
            gst::PadProbeReturn::Drop
        }
        _ => gst::PadProbeReturn::Ok,
    });
}

/// Holds the second pad back until the muxer has taken the first buffer of the first: an encoder's delay is not a late
/// track. Once it was let go while that buffer was still on its way, and on a busy machine overtook it.
fn start_together(pads: &[gst::Pad]) {
    let [first, second] = pads else { panic!("two pads") };
    let types = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER;
    let second = second.clone();
    let gate = Mutex::new(second.add_probe(types, |_, _| gst::PadProbeReturn::Ok));
    let is_second = std::sync::atomic::AtomicBool::new(false);
    first.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if !is_second.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return gst::PadProbeReturn::Ok;
        }
        if let Some(gate) = gate.lock().expect("lock").take() {
            second.remove_probe(gate);
        }
        gst::PadProbeReturn::Remove
    });
}

/// Runs `sources` into the muxer to the end.
fn run(sources: &[&str], muxer: &str, sink: &str, end: End) -> Recording {
    gst::init().expect("GStreamer");
    super::register().expect("register");
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("f.mp4");
    let location = file.display();
    let launch =
        format!("reeldmp4mux name=m {muxer} ! filesink {sink} location={location} {}", sources.join(" "));
    let pipeline = gst::parse::launch(&launch).expect(&launch).downcast::<gst::Pipeline>().expect("pipeline");
    let fed = Arc::default();
    let pads = pipeline.by_name("m").expect("muxer").sink_pads();
    pads.iter().for_each(|pad| watch(pad, &fed));
    let (held, all_held) = std::sync::mpsc::channel();
    if end == End::Kill {
        start_together(&pads);
        pads.iter().for_each(|pad| withhold_eos(pad, held.clone()));
    }
    pipeline.set_state(gst::State::Playing).expect("playing");
    match end {
        End::Kill => pads.iter().for_each(|_| {
            all_held.recv_timeout(std::time::Duration::from_secs(60)).expect("the end of a source");
        }),
        End::Eos => await_eos(&pipeline),
    }
    pipeline.set_state(gst::State::Null).expect("null");
    let fed = std::mem::take(&mut *fed.lock().expect("lock"));
    Recording { dir, fed }
}

fn await_eos(pipeline: &gst::Pipeline) {
    let types = [gst::MessageType::Eos, gst::MessageType::Error];
    let bus = pipeline.bus().expect("bus");
    let message =
        bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &types).expect("an end within 60 s");
    if let gst::MessageView::Error(error) = message.view() {
        panic!("{} {}", error.error(), error.debug().unwrap_or_default());
    }
}

fn record(sources: &[&str]) -> Recording {
    run(sources, "", "", End::Eos)
}

fn tool(name: &str, args: &[&str], file: &Path) -> (String, String) {
    let run = |args: &[&str]| Command::new(name).args(args).output();
    let file = file.to_str().expect("path");
    let args: Vec<_> = args.iter().map(|a| if *a == "FILE" { file } else { *a }).collect();
    let output = run(&args).unwrap_or_else(|e| panic!("{name}: {e}; apt-get install ffmpeg"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// PTS in ms of a stream's packets (`v` or `a`) in file order.
fn packets(file: &Path, stream: &str) -> Vec<f64> {
    packet_times(file, stream).into_iter().map(|(_, pts)| pts).collect()
}

/// DTS and PTS in ms of a stream's packets in file order; packets without are left out.
fn packet_times(file: &Path, stream: &str) -> Vec<(f64, f64)> {
    let args = [
        "-v",
        "error",
        "-select_streams",
        stream,
        "-show_entries",
        "packet=pts_time,dts_time",
        "-of",
        "csv=p=0",
        "FILE",
    ];
    let (out, _) = tool("ffprobe", &args, file);
    let ms = |s: &str| s.parse::<f64>().ok().map(|s| s * 1000.0);
    let times = |line: &str| {
        let (pts, dts) = line.trim_end_matches(',').split_once(',')?;
        Some((ms(dts)?, ms(pts)?))
    };
    out.lines().filter_map(times).collect()
}

fn assert_decodes(file: &Path) {
    let (_, errors) = tool("ffmpeg", &["-v", "error", "-xerror", "-i", "FILE", "-f", "null", "-"], file);
    assert_eq!(errors, "");
}

/// Top-level boxes: kind, offset, length.
fn boxes(data: &[u8]) -> Vec<(String, usize, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(head) = data.get(at..at + 8) {
        let mut len = u32::from_be_bytes(head[..4].try_into().expect("4")) as usize;
        if len == 1 {
            len = u64::from_be_bytes(data[at + 8..at + 16].try_into().expect("8")) as usize;
        }
        out.push((String::from_utf8_lossy(&head[4..]).into_owned(), at, len));
        at += len.max(8);
    }
    assert!(at >= data.len());
    out
}

fn kinds(file: &Path) -> Vec<String> {
    boxes(&std::fs::read(file).expect("file")).into_iter().map(|b| b.0).collect()
}

/// Every access unit is there, at its time relative to the earliest first one.
fn assert_times(file: &Path, fed: &Fed, audio_shift_ms: f64) {
    let base = fed.values().map(|pts| pts[0]).fold(f64::MAX, f64::min);
    for (pad, pts) in fed {
        let (stream, shift) = if pad.starts_with("video") { ("v", 0.0) } else { ("a", audio_shift_ms) };
        let got = packets(file, stream);
        assert_eq!(got.len(), pts.len(), "{pad}: access units");
        for (number, (got, fed)) in got.iter().zip(pts).enumerate() {
            let want = fed - base + shift;
            assert!((got - want).abs() < 0.05, "{pad} {number}: {got} ms in the file, {want} ms fed");
        }
    }
}

/// The finished file is a plain MP4 that decodes and holds every access unit at its time.
fn check(name: &str, sources: &[&str], audio_shift_ms: f64) -> Recording {
    let recording = record(sources);
    assert_eq!(kinds(&recording.path()), ["ftyp", "mdat", "moov"], "{name}");
    assert_decodes(&recording.path());
    assert_eq!(recording.fed.len(), sources.len(), "{name}");
    assert_times(&recording.path(), &recording.fed, audio_shift_ms);
    recording
}

fn seconds(file: &Path, entry: &str) -> Vec<f64> {
    let (out, _) = tool("ffprobe", &["-v", "error", "-show_entries", entry, "-of", "csv=p=0", "FILE"], file);
    out.lines().filter_map(|l| l.trim_end_matches(',').parse().ok()).collect()
}

pub(super) fn x264_codec_data((width, height): (u16, u16), format: &str) -> Vec<u8> {
    gst::init().expect("GStreamer");
    let launch = format!(
        "videotestsrc num-buffers=1 ! video/x-raw,format={format},width={width},height={height} ! \
         x264enc speed-preset=ultrafast ! video/x-h264,stream-format=avc ! fakesink name=s async=false"
    );
    let pipeline =
        gst::parse::launch(&launch).expect("pipeline").downcast::<gst::Pipeline>().expect("pipeline");
    pipeline.set_state(gst::State::Playing).expect("playing");
    let types = [gst::MessageType::Eos, gst::MessageType::Error];
    pipeline
        .bus()
        .expect("bus")
        .timed_pop_filtered(gst::ClockTime::from_seconds(20), &types)
        .expect("an end");
    let pad = pipeline.by_name("s").expect("sink").static_pad("sink").expect("pad");
    let caps = pad.current_caps().expect("caps");
    pipeline.set_state(gst::State::Null).expect("null");
    let data = caps.structure(0).expect("structure").get::<gst::Buffer>("codec_data").expect("codec_data");
    data.map_readable().expect("readable").to_vec()
}

#[test]
fn h264_and_aac() {
    let recording = check("h264", &[VIDEO, AAC], 0.0);
    let durations = seconds(&recording.path(), "stream=duration");
    assert!((durations[0] - 3.0).abs() < 0.001, "{durations:?}");
    let (keys, _) = tool(
        "ffprobe",
        &["-v", "error", "-select_streams", "v", "-show_entries", "packet=flags", "-of", "csv=p=0", "FILE"],
        &recording.path(),
    );
    let keys: Vec<_> = keys.lines().enumerate().filter(|(_, f)| f.starts_with('K')).map(|(n, _)| n).collect();
    assert_eq!(keys, [0, 30, 60]);
}

#[test]
fn b_frames_keep_their_times() {
    let recording = check("b-frames", &[B_FRAMES, AAC], 0.0);
    assert_eq!(seconds(&recording.path(), "stream=start_time"), [0.0, 0.0]);
    let durations = seconds(&recording.path(), "format=duration");
    assert!((durations[0] - 3.0).abs() < 0.03, "{durations:?}");
}

/// A video track that came, after the header was written, with an earlier first PTS than the audio's: the
/// finished file still begins with the video.
#[test]
fn an_early_track_that_comes_late_moves_the_beginning() {
    gst::init().expect("GStreamer");
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("f.mp4");
    let sink = gst::ElementFactory::make("filesink")
        .property("location", &file)
        .property_from_str("buffer-mode", "unbuffered");
    let bench = Bench::into_sink(&["video_%u", "audio_%u"], sink);
    assert!(bench.start(0, VP9_CAPS) && bench.start(1, AAC_CAPS));
    for ms in (100..3_000).step_by(20) {
        bench.push(1, ms).expect("audio");
    }
    for ms in (0..3_000).step_by(40) {
        bench.push(0, ms).expect("video");
    }
    // While it is written the file begins with the sound: what is before that decodes at once, and in order.
    let written = file.with_file_name("written.mp4");
    std::fs::copy(&file, &written).expect("a copy");
    let times = packet_times(&written, "v");
    assert!(times.len() > 20 && times.windows(2).all(|w| w[0].0 < w[1].0), "{times:?}");
    for (number, (_, pts)) in times.iter().enumerate() {
        assert!((pts - (number as f64 * 40.0 - 100.0).max(0.0)).abs() < 0.05, "{number}: {times:?}");
    }
    assert!(bench.send(0, gst::event::Eos::new()) && bench.send(1, gst::event::Eos::new()));
    assert_eq!((packets(&file, "v")[0], packets(&file, "a")[0]), (0.0, 100.0));
}

#[test]
fn a_late_track_starts_late() {
    for (name, video_ns, audio_ns) in
        [("audio", 0, 100_000_000), ("video", 100_000_000, 0), ("both", 500, 100_000_500)]
    {
        let video = B_FRAMES.replace("videotestsrc", &format!("videotestsrc timestamp-offset={video_ns}"));
        let audio = AAC.replace("audiotestsrc", &format!("audiotestsrc timestamp-offset={audio_ns}"));
        let recording = check(name, &[&video, &audio], 0.0);
        let starts = seconds(&recording.path(), "stream=start_time");
        let want = (audio_ns - video_ns) as f64 / 1e9;
        assert!((starts[1] - starts[0] - want).abs() < 0.0005, "{name}: {starts:?}");
    }
}

#[test]
fn other_codecs() {
    let video = |encoder: &str, caps: &str| {
        format!(
            "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=320,height=180,framerate=25/1 ! \
             {encoder} ! {caps} ! queue max-size-time=0 ! m.video_0"
        )
    };
    let h265 =
        video("x265enc speed-preset=ultrafast ! h265parse", "video/x-h265,stream-format=hvc1,alignment=au");
    let hev1 = h265.replace("hvc1", "hev1");
    let av1_caps = "video/x-av1,stream-format=obu-stream,alignment=tu";
    let av1 = video("av1enc cpu-used=8 usage-profile=realtime", av1_caps);
    let av1_parsed = video("av1enc cpu-used=8 usage-profile=realtime ! av1parse", av1_caps);
    let vp9 = video("vp9enc deadline=1 cpu-used=8 ! vp9parse", "video/x-vp9");
    let avc3 = VIDEO.replace("avc,", "avc3,");
    let mp3 = "audiotestsrc num-buffers=100 ! audio/x-raw,rate=44100,channels=2 ! lamemp3enc ! mpegaudioparse ! \
         queue ! m.audio_0";
    // opusenc's pre-skip is 312 samples at 48 kHz; the edit list takes it out.
    let opus_skip_ms = -6.5;
    for (name, sources, shift) in [
        ("h265", vec![&*h265, AAC], 0.0),
        ("hev1", vec![&*hev1], 0.0),
        ("avc3", vec![&*avc3], 0.0),
        ("av1", vec![&*av1, OPUS], opus_skip_ms),
        ("av1 without codec_data", vec![&*av1_parsed], 0.0),
        ("vp9", vec![&*vp9, OPUS], opus_skip_ms),
        ("mp3", vec![VIDEO, mp3], 0.0),
        ("aac only", vec![AAC], 0.0),
        ("opus only", vec![OPUS], opus_skip_ms),
    ] {
        check(name, &sources, shift);
    }
}

#[test]
fn unbuffered_files_and_short_fragments_end_plain() {
    let recording = run(&[VIDEO, AAC], "fragment-duration=40", "buffer-mode=unbuffered", End::Eos);
    assert_eq!(kinds(&recording.path()), ["ftyp", "mdat", "moov"]);
    assert_decodes(&recording.path());
    assert_times(&recording.path(), &recording.fed, 0.0);
}

#[test]
fn without_eos_the_file_plays_to_its_last_whole_fragment() {
    let late_audio = AAC.replace("audiotestsrc", "audiotestsrc timestamp-offset=100000000");
    let recording = run(&[B_FRAMES, &late_audio], "", "buffer-mode=unbuffered", End::Kill);
    let file = recording.path();
    let data = std::fs::read(&file).expect("file");
    let found = boxes(&data);
    let order: Vec<_> = found.iter().map(|b| b.0.as_str()).collect();
    assert_eq!(order[..3], ["ftyp", "free", "moov"]);
    assert!(order[3..].chunks(2).all(|c| c == ["moof", "mdat"]), "{order:?}");
    assert!(order.len() >= 3 + 2 * 5, "{order:?}");
    assert_decodes(&file);

    let base = recording.fed.values().map(|pts| pts[0]).fold(f64::MAX, f64::min);
    for (pad, stream) in [("video_0", "v"), ("audio_0", "a")] {
        let got = packets(&file, stream);
        assert!(got.len() > 50, "{pad}: {}", got.len());
        for (got, fed) in got.iter().zip(&recording.fed[pad]) {
            assert!((got - (fed - base)).abs() < 0.05, "{pad}: {got} {}", fed - base);
        }
    }

    // What precedes a fragment decodes.
    let cut_file = file.with_file_name("cut.mp4");
    let moof_at = found.iter().filter(|b| b.0 == "moof").map(|b| b.1);
    let mdat_end = found.iter().filter(|b| b.0 == "mdat").map(|b| b.1 + b.2);
    let fragments: Vec<_> = moof_at.zip(mdat_end).collect();
    for &(start, end) in fragments.iter().skip(1).step_by(3) {
        std::fs::write(&cut_file, &data[..start]).expect("write");
        assert_decodes(&cut_file);
        // Not even truncated, a file cut within its media plays.
        let whole = ["v", "a"].map(|s| packets(&cut_file, s).len());
        std::fs::write(&cut_file, &data[..(start + end) / 2]).expect("write");
        let got = ["v", "a"].map(|s| packets(&cut_file, s).len());
        assert!(got[0] >= whole[0], "cut within {start}..{end}: {got:?}, whole {whole:?}");
    }
}

#[test]
fn a_sink_that_cannot_seek_gets_a_fragmented_file() {
    gst::init().expect("GStreamer");
    super::register().expect("register");
    let file = tempfile::NamedTempFile::new().expect("file");
    let launch = format!("reeldmp4mux name=m ! appsink name=s sync=false {VIDEO}");
    let pipeline =
        gst::parse::launch(&launch).expect("pipeline").downcast::<gst::Pipeline>().expect("pipeline");
    let sink = pipeline.by_name("s").expect("sink").downcast::<gstreamer_app::AppSink>().expect("appsink");
    pipeline.set_state(gst::State::Playing).expect("playing");
    let mut data = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        data.extend_from_slice(&sample.buffer().expect("buffer").map_readable().expect("readable"));
    }
    pipeline.set_state(gst::State::Null).expect("null");
    std::fs::write(file.path(), &data).expect("write");
    let found = kinds(file.path());
    assert_eq!(found[..3], ["ftyp", "free", "moov"]);
    assert!(found[3..].chunks(2).all(|c| c == ["moof", "mdat"]), "{found:?}");
    assert_decodes(file.path());
    assert_eq!(packets(file.path(), "v").len(), 75);
}

/// A running muxer whose pads the test feeds itself.
struct Bench {
    muxer: gst::Element,
    pads: Vec<gst::Pad>,
    pipeline: gst::Pipeline,
}

impl Bench {
    fn new(pads: &[&str]) -> Self {
        gst::init().expect("GStreamer");
        Self::into_sink(pads, gst::ElementFactory::make("fakesink"))
    }

    fn into_sink(pads: &[&str], sink: gst::element_factory::ElementBuilder) -> Self {
        super::register().expect("register");
        let pipeline = gst::Pipeline::new();
        let muxer = gst::ElementFactory::make("reeldmp4mux").build().expect("muxer");
        let sink = sink.property("async", false).property("sync", false).build().expect("sink");
        pipeline.add_many([&muxer, &sink]).expect("add");
        muxer.link(&sink).expect("link");
        let pads = pads.iter().map(|name| muxer.request_pad_simple(name).expect("pad")).collect();
        pipeline.set_state(gst::State::Playing).expect("playing");
        Self { muxer, pads, pipeline }
    }

    fn send(&self, pad: usize, event: impl Into<gst::Event>) -> bool {
        self.pads[pad].send_event(event.into())
    }

    fn start(&self, pad: usize, caps: &str) -> bool {
        self.send(pad, gst::event::StreamStart::new("s"))
            && self.send(pad, gst::event::Caps::new(&caps.parse::<gst::Caps>().expect("caps")))
            && self.send(pad, gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()))
    }

    fn push(&self, pad: usize, pts_ms: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut buffer = gst::Buffer::from_slice([0u8; 100]);
        buffer.get_mut().expect("sole owner").set_pts(gst::ClockTime::from_mseconds(pts_ms));
        self.pads[pad].chain(buffer)
    }

    fn error(&self) -> Option<(glib::Error, String)> {
        let message = self.pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(e) => Some((e.error(), e.debug().unwrap_or_default().to_string())),
            _ => None,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

const AAC_CAPS: &str =
    "audio/mpeg,mpegversion=4,stream-format=raw,rate=48000,channels=2,codec_data=(buffer)1190";
const AAC_OTHER: &str =
    "audio/mpeg,mpegversion=4,stream-format=raw,rate=44100,channels=2,codec_data=(buffer)1210";
const VP9_CAPS: &str = "video/x-vp9,width=320,height=180";

#[test]
fn caps_that_do_not_fit_are_an_error_that_names_them() {
    let bench = Bench::new(&["video_%u"]);
    assert!(!bench.start(0, "video/x-vp8,width=320,height=180"));
    let (error, text) = bench.error().expect("an error");
    assert!(error.matches(gst::StreamError::Format) && text.contains("video/x-vp8"), "{error} {text}");
}

#[test]
fn changed_codec_parameters_are_an_error() {
    let bench = Bench::new(&["audio_%u"]);
    assert!(bench.start(0, AAC_CAPS));
    bench.push(0, 0).expect("taken");
    assert!(bench.start(0, AAC_CAPS), "the same caps again");
    assert!(!bench.start(0, AAC_OTHER));
    let (error, text) = bench.error().expect("an error");
    assert!(error.matches(gst::StreamError::Format) && text.contains("codec parameters changed"), "{text}");
}

/// Type of the sample entry, and its width and height.
fn entry_of(format: &super::format::Format) -> (String, u16, u16) {
    let number = |at: usize| u16::from_be_bytes(*format.entry[at..].first_chunk().expect("16 bits"));
    (String::from_utf8_lossy(&format.entry[4..8]).into_owned(), number(32), number(34))
}

/// Each change of a video's parameters was an error: one file could not go on.
#[test]
fn video_goes_on_with_other_parameters() {
    use super::format::Format;
    gst::init().expect("GStreamer");
    let hex = |size| hex::encode(x264_codec_data(size, "I420"));
    let h264 = |size: (u16, u16)| {
        let (width, height) = size;
        let caps = "video/x-h264,stream-format=avc,alignment=au";
        format!("{caps},width={width},height={height},codec_data=(buffer){}", hex(size))
    };
    let vp9 = |width, height| format!("video/x-vp9,width={width},height={height}");
    let format = |caps: &str| Format::from_caps(&caps.parse::<gst::Caps>().expect("caps")).expect("a format");
    for (first, next, kind) in
        [(h264((320, 180)), h264((180, 320)), "avc3"), (vp9(320, 180), vp9(180, 320), "vp09")]
    {
        let (mut track, next) = (format(&first), format(&next));
        assert!(track.go_on(&next), "{first}");
        assert_eq!(entry_of(&track), (kind.to_owned(), 320, 320), "{first}");
        assert_eq!(track.display, (320 << 16, 320 << 16), "{first}");
        let changed = track.clone();
        assert!(track.go_on(&format(&first)) && track == changed, "back to {first}");
    }
    let mut same = format(&h264((320, 180)));
    assert!(same.go_on(&format(&h264((320, 180)))));
    assert_eq!(entry_of(&same).0, "avc1");
    assert!(!same.go_on(&format(&vp9(320, 180))));
    let mut aac = format(AAC_CAPS);
    assert!(!aac.go_on(&format(AAC_OTHER)) && aac == format(AAC_CAPS));
}

#[test]
fn a_pad_that_never_starts_is_an_error_not_a_leak() {
    let bench = Bench::new(&["audio_%u", "video_%u"]);
    assert!(bench.start(0, AAC_CAPS));
    let refused = (0..).map(|n| n * 21).find(|ms| bench.push(0, *ms).is_err()).expect("an end");
    assert!((10_000..10_100).contains(&refused), "{refused} ms");
    assert!(bench.error().expect("an error").1.contains("video_1"));
}

#[test]
fn media_without_caps_is_an_error() {
    let bench = Bench::new(&["audio_%u"]);
    assert!(bench.send(0, gst::event::StreamStart::new("s")));
    assert!(bench.send(0, gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    assert_eq!(bench.push(0, 0), Err(gst::FlowError::NotNegotiated));
}

#[test]
fn no_pad_is_added_to_a_file_that_has_begun() {
    let bench = Bench::new(&["video_%u"]);
    assert!(bench.start(0, VP9_CAPS));
    for ms in [0, 200, 400, 600] {
        bench.push(0, ms).expect("taken");
    }
    assert!(bench.muxer.request_pad_simple("audio_%u").is_none());
}

/// RTMP stamps AAC in whole milliseconds: 1024 samples a frame come out anyway, until a real gap.
#[test]
fn millisecond_stamps_of_aac_are_evened_out() {
    use super::{format::Format, track::AccessUnit, track::Track};
    gst::init().expect("GStreamer");
    let caps = AAC_CAPS.parse::<gst::Caps>().expect("caps");
    let mut track = Track::new(Format::from_caps(&caps).expect("format"));
    for number in 0..1000i64 {
        let gap_ms = if number >= 500 { 200 } else { 0 };
        let ms = number * 1024 / 48 + gap_ms;
        let pts_ns = Some(ms * 1_000_000);
        let buffer = gst::Buffer::from_slice([0u8; 10]);
        let unit = AccessUnit { buffer, pts_ns, dts_ns: None, duration_ns: None, sync: true };
        let sample = track.place(&unit, 0);
        track.settle(sample.dts);
        track.append(sample, ms * 1_000_000, unit.buffer);
        assert!((sample.dts * 1000 - ms * 48_000).abs() <= 48_000, "{number}");
    }
    track.settle_last();
    let odd: Vec<_> = track.index.durations.iter().filter(|d| *d != 1024).collect();
    assert!(odd.len() <= 2 && odd.iter().any(|d| *d > 10_000), "{odd:?}");
}
