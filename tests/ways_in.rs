//! Every way in, with sound and pictures and with one of them: what was sent is in the file, and in step.
//! The table that it prints is the one of the README.

use serde_json::{Value, json};
use std::{fmt, path::Path, process::Command, thread, time::Duration};
use support::{
    avsync::{self, AvSync},
    browser::{Browser, Codec, Publish},
    camera::{self, Camera},
    daemon::{Daemon, House, file_of, text},
    media::{Probe, Publisher, decode},
    wait::wait_until,
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
/// Sound is passed through, so that its frames can be counted.
const POLICY: &str = "record_rtmp_streams=true\nrecord_rtsp_streams=true\nrecord_webrtc_streams=always\n\
    stream_record_policy=streamName\nrecord_audio=passthrough\n";
const SECONDS: u32 = 6;
const LONGEST: Duration = Duration::from_secs(60);
const MAX_OFFSET_MS: f64 = 40.0;
/// Pictures of 30 fps further apart than this have lost one in between.
const HOLE_MS: f64 = 60.0;

support::camera_process!();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tracks {
    Both,
    Audio,
    Video,
}

impl Tracks {
    const ALL: [Self; 3] = [Self::Both, Self::Audio, Self::Video];

    fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }

    fn has_video(self) -> bool {
        self != Self::Audio
    }

    fn has_audio(self) -> bool {
        self != Self::Video
    }

    /// Counts of video and audio, of those that are sent.
    fn of(self, counts: (usize, usize)) -> (usize, usize) {
        (if self.has_video() { counts.0 } else { 0 }, if self.has_audio() { counts.1 } else { 0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    RtmpPush,
    RtspPush(&'static str),
    RtspPull(&'static str),
    Whip(Codec),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RtmpPush => write!(f, "RTMP push"),
            Self::RtspPush(transport) => write!(f, "RTSP push, {transport}"),
            Self::RtspPull(transport) => write!(f, "RTSP pull, {transport}"),
            Self::Whip(codec) => write!(f, "WHIP, {}", codec.name()),
        }
    }
}

/// Frames of video and audio.
type Counts = (usize, usize);

/// One line of the table.
#[derive(Debug)]
struct Row {
    way: Way,
    tracks: Tracks,
    sent: Counts,
    recorded: Counts,
    sync: Option<AvSync>,
    faults: Vec<String>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, tracks, sent, recorded, .. } = self;
        let offset = match &self.sync {
            Some(sync) => format!("{:+.0} ms (at most {:.0})", sync.mean_ms(), sync.max_ms()),
            None => "-".to_owned(),
        };
        let (sent, recorded) =
            (format!("{} + {}", sent.0, sent.1), format!("{} + {}", recorded.0, recorded.1));
        write!(
            f,
            "| {:<14} | {:<6} | {sent:<10} | {recorded:<11} | {offset:<22} |",
            way.to_string(),
            tracks.name()
        )
    }
}

#[test]
fn what_was_sent_is_in_the_file_and_in_step() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let pushed_and_pulled = [
        Way::RtmpPush,
        Way::RtspPush("tcp"),
        Way::RtspPush("udp"),
        Way::RtspPull("tcp"),
        Way::RtspPull("udp"),
    ];
    let source = avsync::file(TMP, "ways_in.flv", SECONDS, 0);
    let mut rows: Vec<Row> = thread::scope(|scope| {
        let cases = pushed_and_pulled.iter().flat_map(|way| Tracks::ALL.map(|tracks| (*way, tracks)));
        let (daemon, source) = (&daemon, &source);
        let running: Vec<_> = cases
            .map(|(way, tracks)| {
                scope.spawn(move || match way {
                    Way::RtspPull(transport) => pull(daemon, way, transport, tracks),
                    _ => push(daemon, way, tracks, source),
                })
            })
            .collect();
        running.into_iter().map(|row| row.join().expect("a row")).collect()
    });
    // One at a time, and after the others: the browser encodes.
    let browser = Browser::open();
    let whip = [Codec::H264, Codec::Vp8].map(Way::Whip);
    let cases = whip.iter().flat_map(|way| Tracks::ALL.map(|tracks| (*way, tracks)));
    // Sound alone is the same with every video codec.
    for (way, tracks) in cases.filter(|case| *case != (Way::Whip(Codec::Vp8), Tracks::Audio)) {
        rows.push(publish(&daemon, &browser, way, tracks));
    }

    println!("| way in         | tracks | sent (v+a) | in the file | picture after sound    |");
    println!("|----------------|--------|------------|-------------|------------------------|");
    for row in &rows {
        println!("{row}");
    }
    let faults: Vec<_> =
        rows.iter().flat_map(|row| row.faults.iter().map(move |f| format!("{row}: {f}"))).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

fn stream(way: Way, tracks: Tracks) -> String {
    let way = way.to_string().to_lowercase().replace(", ", "-").replace(' ', "-");
    format!("{way}-{}", tracks.name())
}

/// ffmpeg sends a file as it is, in real time.
fn push(daemon: &Daemon, way: Way, tracks: Tracks, source: &Path) -> Row {
    let name = stream(way, tracks);
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-i"]).arg(source).args(["-c", "copy"]);
    command.args(tracks.has_video().then_some(["-map", "0:v"]).into_iter().flatten());
    command.args(tracks.has_audio().then_some(["-map", "0:a"]).into_iter().flatten());
    match way {
        // ffmpeg puts several AAC frames into a packet and never sends its last packet: of one frame with no delay.
        Way::RtspPush(transport) => command
            .args(["-max_delay", "0", "-f", "rtsp", "-rtsp_transport", transport])
            .arg(daemon.rtsp_url(&format!("live/{name}"))),
        _ => command
            .args(["-flvflags", "no_duration_filesize", "-f", "flv"])
            .arg(daemon.url(&format!("live/{name}"))),
    };
    Publisher::spawn(&mut command).finish(LONGEST);
    let (video, audio) = Probe::read(source).counts();
    let unsent = usize::from(matches!(way, Way::RtspPush(_)));
    let sent = tracks.of((video, audio - unsent));
    Row::read(daemon, way, tracks, sent, (0, 0))
}

/// A camera is pulled until it has sent as much.
fn pull(daemon: &Daemon, way: Way, transport: &str, tracks: Tracks) -> Row {
    let options = camera::Options {
        video: tracks.has_video().then_some(camera::VideoCodec::H264),
        audio: tracks.has_audio().then_some(camera::AudioCodec::Aac),
        transport: if transport == "udp" { camera::Transport::Udp } else { camera::Transport::Tcp },
        ..camera::Options::default()
    };
    let mut camera = Camera::start(options);
    let source = json!({"uri": camera.url, "stream": stream(way, tracks), "transport": transport});
    let id = text(&daemon.post("/api/v1/sources", &source).expect(201).json(), "id");
    wait_until("the camera has sent its seconds", LONGEST, || {
        let (video, audio) = camera.frames();
        video >= u64::from(30 * SECONDS) || (!tracks.has_video() && audio >= u64::from(46 * SECONDS))
    });
    let sent = camera.frames();
    daemon.delete(&format!("/api/v1/sources/{id}")).expect(204);
    // What the camera has in hand when it is asked and when it is left is counted or not.
    Row::read(daemon, way, tracks, (sent.0 as usize, sent.1 as usize), (8, 14))
}

/// The browser publishes by WHIP and says itself what it has sent.
fn publish(daemon: &Daemon, browser: &Browser, way: Way, tracks: Tracks) -> Row {
    let Way::Whip(codec) = way else { panic!("{way} is not WHIP") };
    let name = stream(way, tracks);
    let publish = Publish {
        video: tracks.has_video().then_some(codec),
        audio: tracks.has_audio(),
        ..Publish::av(codec)
    };
    browser.publish(&format!("http://{}/whip/live/{name}", daemon.http()), &publish);
    let sent = |stats: &Value| {
        let count = |pointer| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_default() as usize;
        (count("/video/framesSent"), count("/audio/packetsSent"))
    };
    wait_until("the browser has sent its seconds", LONGEST, || {
        let (video, audio) = sent(&browser.stats());
        video >= 30 * SECONDS as usize || (!tracks.has_video() && audio >= 50 * SECONDS as usize)
    });
    let last = browser.stop();
    assert_eq!(last["deleteStatus"], 200, "{last:#}");
    // Sound from before the first picture is left out, and it goes on while the browser says farewell.
    Row::read(daemon, way, tracks, sent(&last), (1, 25))
}

impl Row {
    /// Reads the finished recording and notes what is wrong with it.
    fn read(daemon: &Daemon, way: Way, tracks: Tracks, sent: Counts, slack: Counts) -> Self {
        let recording = daemon.completed(&stream(way, tracks));
        let file = file_of(&recording);
        let probe = Probe::read(&file);
        let recorded = probe.counts();
        let sync = (tracks == Tracks::Both).then(|| AvSync::measure(&file));
        let mut faults = Vec::new();
        if recorded.0.abs_diff(sent.0) > slack.0 || recorded.1.abs_diff(sent.1) > slack.1 {
            faults.push(format!("{sent:?} sent, {recorded:?} in the file"));
        }
        if decode(&file) != recorded.0 {
            faults.push("not every picture can be decoded".to_owned());
        }
        if let Some(late) =
            sync.as_ref().filter(|sync| sync.max_ms() > MAX_OFFSET_MS || sync.offsets_ms.len() < 4)
        {
            faults.push(format!("{late:?}"));
        }
        let shown = probe.video.windows(2).filter(|w| w[1].pts_ms - w[0].pts_ms > HOLE_MS).count();
        if shown > 0 && !matches!(way, Way::Whip(_)) {
            faults.push(format!("{shown} holes between pictures"));
        }
        if recording["lost"]["packets"] != 0 || recording["lost"]["frames"] != 0 {
            faults.push(format!("lost: {}", recording["lost"]));
        }
        Self { way, tracks, sent, recorded, sync, faults }
    }
}
