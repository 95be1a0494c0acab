//! What the tests of containers share: frames of real encoders, a recorder they go into, and what ffmpeg says of its
//! files.

use gstreamer::{self as gst, prelude::*};
use reeld::{
    config::Policy,
    gst::Templates,
    hub::{Announce, EndReason, Hub, PrerollRule, Publisher, Publishing},
    library::{HandOn, Library, Recording, Storage},
    media::{Codec, Frame, MediaKind, Protocol, RoomName, StreamName, Track, TrackId, Tracks, VideoSize},
    record::{Order, Recorder, Running},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use support::media::{run, source};

pub const TMP: &str = env!("CARGO_TARGET_TMPDIR");
pub const SOON: Duration = Duration::from_secs(20);
pub const MS: u64 = 1_000_000;
/// Where the timeline of a stream begins.
pub const ORIGIN_MS: u64 = 10_000;

pub const VP8: &str = "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=30";
pub const VP9: &str =
    "vp9enc deadline=1 cpu-used=8 keyframe-max-dist=30 ! vp9parse ! video/x-vp9,alignment=super-frame";
pub const AV1: &str = "av1enc cpu-used=8 usage-profile=realtime keyframe-max-dist=30 ! av1parse ! \
     video/x-av1,stream-format=obu-stream,alignment=tu";
pub const H264: &str = "x264enc speed-preset=ultrafast key-int-max=30 bframes=0 ! h264parse ! \
     video/x-h264,stream-format=avc,alignment=au";
pub const H265: &str = "x265enc speed-preset=ultrafast key-int-max=30 option-string=bframes=0:log-level=none ! h265parse ! \
     video/x-h265,stream-format=hvc1,alignment=au";
pub const OPUS: &str = "opusenc frame-size=20";
pub const PCMA: &str = "audioresample ! audio/x-raw,rate=8000,channels=1 ! alawenc";
pub const MP3: &str = "lamemp3enc ! mpegaudioparse";
pub const AAC: &str = "avenc_aac ! aacparse ! audio/mpeg,stream-format=raw";

/// What an encoder made of 4 s: black and silent, white and loud from 2 s on.
#[derive(Clone)]
pub struct Encoded {
    pub codec: Codec,
    pub caps: gst::Caps,
    pub buffers: Vec<gst::Buffer>,
}

pub fn encode(codec: Codec, launch: &str) -> Encoded {
    reeld::gst::init().expect("GStreamer");
    let launch = format!("{launch} ! appsink name=s sync=false");
    let pipeline =
        gst::parse::launch(&launch).expect(&launch).downcast::<gst::Pipeline>().expect("a pipeline");
    let sink = pipeline.by_name("s").expect("a sink").downcast::<gstreamer_app::AppSink>().expect("appsink");
    pipeline.set_state(gst::State::Playing).expect("playing");
    let (mut buffers, mut caps) = (Vec::new(), None);
    while let Ok(sample) = sink.pull_sample() {
        caps = caps.or_else(|| sample.caps_owned());
        buffers.push(sample.buffer_owned().expect("a buffer"));
    }
    pipeline.set_state(gst::State::Null).expect("null");
    if codec == Codec::Aac {
        // The encoder's start-up delay.
        buffers.remove(0);
    }
    buffers.iter_mut().for_each(|buffer| strip_parameter_sets(codec, buffer));
    // Encoders may begin anywhere.
    let first = buffers.iter().filter_map(|b| b.dts_or_pts()).min().expect("frames");
    for buffer in &mut buffers {
        let buffer = buffer.make_mut();
        let (pts, dts) = (buffer.pts(), buffer.dts());
        buffer.set_pts(pts.map(|t| t.saturating_sub(first)));
        buffer.set_dts(dts.map(|t| t.saturating_sub(first)));
    }
    Encoded { codec, caps: caps.expect("caps"), buffers }
}

/// Access units in the hub have none: they are in the caps only.
fn strip_parameter_sets(codec: Codec, buffer: &mut gst::Buffer) {
    let is_set = |nal: &[u8]| match codec {
        Codec::H264 => matches!(nal[0] & 0x1F, 7..=9),
        _ => matches!(nal[0] >> 1, 32..=35),
    };
    if !matches!(codec, Codec::H264 | Codec::H265) {
        return;
    }
    let data = buffer.map_readable().expect("memory").to_vec();
    let (mut kept, mut rest) = (Vec::new(), &data[..]);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (nal, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        if !is_set(nal) {
            kept.extend(length);
            kept.extend(nal);
        }
        rest = after;
    }
    let unit = buffer.make_mut();
    unit.remove_all_memory();
    unit.append_memory(gst::Memory::from_slice(kept));
}

pub fn video(codec: Codec, encoder: &str, (width, height): (u32, u32)) -> Encoded {
    let flash: &[&str] = &["-f", "lavfi", "-i", "color=black:size=320x180:rate=30"];
    let at_two: &[&str] = &["-vf", "drawbox=color=white:t=fill:enable='gte(t,2)'", "-pix_fmt", "yuv420p"];
    let input = source(TMP, "flash4.y4m", &[flash, &["-t", "4"], at_two]);
    let launch = format!(
        "filesrc location={} ! y4mdec ! videoscale ! video/x-raw,width={width},height={height} ! {encoder}",
        input.display()
    );
    encode(codec, &launch)
}

pub fn audio(codec: Codec, encoder: &str) -> Encoded {
    let beep: &[&str] = &["-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=48000"];
    let at_two: &[&str] = &["-af", "volume=0:enable='lt(t,2)'", "-ac", "1"];
    let input = source(TMP, "beep4.wav", &[beep, &["-t", "4"], at_two]);
    encode(codec, &format!("filesrc location={} ! wavparse ! audioconvert ! {encoder}", input.display()))
}

impl Encoded {
    pub fn track(&self, id: u8) -> Track {
        let number = |field: &str| {
            let value = self.caps.structure(0).and_then(|s| s.get::<i32>(field).ok());
            value.map(|v| v as u32)
        };
        let size = number("width").zip(number("height")).map(|(width, height)| VideoSize { width, height });
        Track {
            id: TrackId(id),
            codec: self.codec,
            caps: self.caps.clone(),
            size,
            rate: number("rate"),
            channels: number("channels"),
        }
    }

    /// Access units, the first of them at `at_ms` of the test.
    pub fn frames(&self, id: u8, at_ms: u64) -> Vec<Frame> {
        let later = gst::ClockTime::from_mseconds(ORIGIN_MS + at_ms);
        let frame = |buffer: &gst::Buffer| {
            let mut buffer = buffer.clone();
            let unit = buffer.make_mut();
            let (pts, dts) = (unit.pts(), unit.dts());
            unit.set_pts(pts.map(|t| t + later));
            unit.set_dts(dts.or(pts).map(|t| t + later));
            if self.codec.kind() == MediaKind::Audio {
                unit.unset_flags(gst::BufferFlags::DELTA_UNIT);
            }
            Frame { track: TrackId(id), buffer }
        };
        self.buffers.iter().map(frame).collect()
    }
}

/// When a frame is in the test, ms.
pub fn ms_of(frame: &Frame) -> u64 {
    frame.pts_ns() / MS - ORIGIN_MS
}

/// A recorder with its library in a folder of its own.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
    pub library: Library,
    pub recorder: Recorder,
    pub policy: Arc<Policy>,
    pub templates: Arc<Templates>,
    pub max_part_duration: Duration,
}

impl Rig {
    pub fn new(policy: &str) -> Self {
        reeld::gst::init().expect("GStreamer");
        let dir = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let storage = Storage::open(&dir.path().join("records")).expect("a records folder");
        let url = format!("sqlite:{}", dir.path().join("state/reeld.db").display());
        let library = runtime.block_on(Library::open(&url, storage)).expect("a catalog");
        let policy = format!("stream_record_policy=streamName\n{policy}");
        let (policy, _) = Policy::parse(&policy, Path::new("reeld.properties")).expect("a right policy");
        let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        Self {
            recorder: Recorder::new(library.clone(), Duration::from_secs(5), || {}).expect("threads"),
            policy: Arc::new(policy),
            templates: Arc::new(Templates::load(&pipelines).expect("right templates")),
            max_part_duration: Duration::from_secs(12 * 60 * 60),
            dir,
            runtime,
            library,
        }
    }

    /// A stream with these tracks.
    pub fn announce(&self, tracks: &[Track]) -> (Publisher, Publishing) {
        let (hub, mut publishing) = Hub::new(256 << 20, PrerollRule::default());
        let announce = Announce {
            room: RoomName::default(),
            name: StreamName::new("cam").expect("a name"),
            protocol: Protocol::Webrtc,
            remote: ([127, 0, 0, 1], 5).into(),
            session_id: "s".into(),
            record: true,
        };
        let mut publisher = hub.publish(announce).expect("a free name");
        publisher.set_tracks(Tracks::new(tracks.to_vec()));
        let _in_runtime = self.runtime.enter();
        publisher.settle();
        (publisher, publishing.blocking_recv().expect("told"))
    }

    /// A stream with these tracks that is being recorded.
    pub fn publish(&self, tracks: &[Track]) -> (Publisher, Running) {
        let (publisher, Publishing { stream, from_start }) = self.announce(tracks);
        let _in_runtime = self.runtime.enter();
        assert!(!publisher.take_key_frame_request());
        let (policy, templates) = (self.policy.clone(), self.templates.clone());
        let running = self.recorder.start(Order {
            stream,
            subscriber: from_start,
            policy,
            templates,
            hand_on: HandOn::default(),
            max_part_duration: self.max_part_duration,
            degraded: Vec::new(),
        });
        assert!(publisher.take_key_frame_request(), "a recording that starts asks for a key frame");
        (publisher, running)
    }

    pub fn end(&self, mut publisher: Publisher, mut running: Running) -> Recording {
        publisher.end(EndReason::Unpublished);
        let done = self.runtime.block_on(async { tokio::time::timeout(SOON, running.done()).await });
        let done = done.expect("an end");
        let stored =
            self.runtime.block_on(self.library.get(&done.id)).expect("the catalog").expect("its row");
        assert_eq!(
            (stored.status, &stored.lost, &stored.degraded),
            (done.status, &done.lost, &done.degraded)
        );
        stored
    }

    /// As [`end`](Self::end), of a recording that would wait for its publisher.
    pub fn end_by_stop(&self, publisher: Publisher, running: Running) -> Recording {
        running.stop();
        self.end(publisher, running)
    }

    /// Publishes all of it at once and records it.
    pub fn record(&self, tracks: &[Track], mut frames: Vec<Frame>) -> Recording {
        let (mut publisher, running) = self.publish(tracks);
        frames.sort_by_key(Frame::dts_ns);
        publisher.publish(&mut frames);
        self.end(publisher, running)
    }
}

pub fn only_file(recording: &Recording) -> PathBuf {
    assert_eq!((&recording.error, recording.parts.len()), (&None, 1), "{recording:#?}");
    recording.parts[0].file.clone()
}

/// When the picture becomes white and when the sound begins, for the last time, ms.
pub fn flash_and_beep(file: &Path) -> (f64, f64) {
    let flash = last_told(file, ["-vf", "blackdetect=d=0.1:pix_th=0.5"], "black_end:");
    (flash, beep(file))
}

pub fn beep(file: &Path) -> f64 {
    last_told(file, ["-af", "silencedetect=noise=-30dB:d=0.3"], "silence_end: ")
}

/// The last number that a filter of ffmpeg tells after the word, s, as ms.
pub fn last_told(file: &Path, filter: [&str; 2], word: &str) -> f64 {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-copyts", "-i"]).arg(file);
    let output = command.args(filter).args(["-f", "null", "-"]).output().expect("apt-get install ffmpeg");
    let said = String::from_utf8(output.stderr).expect("text");
    let rest = said.rsplit_once(word).unwrap_or_else(|| panic!("no {word} in {said}")).1;
    let number = rest.split([' ', '\n', '\r']).next().and_then(|n| n.parse::<f64>().ok());
    number.unwrap_or_else(|| panic!("{word} in {said}")) * 1000.0
}

/// Pictures by size, in order of presentation.
pub fn sizes(file: &Path) -> Vec<(String, usize)> {
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-select_streams", "v", "-show_entries", "frame=width", "-of", "csv=p=0"]);
    let mut sizes: Vec<(String, usize)> = Vec::new();
    // Side data of a frame has lines of its own, empty here.
    for width in run(probe.arg(file)).lines().filter(|line| !line.is_empty()) {
        let width = width.trim_end_matches(',').to_owned();
        match sizes.last_mut() {
            Some((last, count)) if *last == width => *count += 1,
            _ => sizes.push((width, 1)),
        }
    }
    sizes
}

/// The decoder finds a picture soon after the middle of the file.
pub fn assert_seeks(file: &Path, ms: u32) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-ss", &format!("{}", f64::from(ms) / 1000.0), "-copyts", "-i"]);
    command.arg(file).args(["-map", "0:v:0", "-frames:v", "1", "-f", "framecrc", "-"]);
    let said = run(&mut command);
    let line = said.lines().find(|l| l.starts_with("0,")).unwrap_or_else(|| panic!("no picture: {said}"));
    let tick: f64 = line.split(',').nth(2).and_then(|n| n.trim().parse().ok()).expect("a time");
    let base = said.lines().find_map(|l| l.strip_prefix("#tb 0: ")).expect("a time base");
    let (num, den) = base.split_once('/').expect("a fraction");
    let seconds = tick * num.parse::<f64>().expect("a number") / den.parse::<f64>().expect("a number");
    assert!(
        (seconds * 1000.0 - f64::from(ms)).abs() < 50.0,
        "{}: {seconds} s, {ms} ms wanted",
        file.display()
    );
}
