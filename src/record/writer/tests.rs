use super::*;
use crate::{
    gst::Templates,
    media::{Track, TrackId},
};
use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt, sync::atomic::Ordering};

const SOON: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

fn means() -> Means {
    let syncer = Syncer::start(Duration::from_secs(600)).expect("a thread");
    Means { totals: Arc::default(), syncer: Arc::new(syncer) }
}

fn track(id: u8, codec: Codec, caps: &str) -> Track {
    crate::gst::init().expect("GStreamer");
    let caps = caps.parse().expect("caps");
    Track { id: TrackId(id), codec, caps, size: None, rate: None, channels: None }
}

fn video() -> Track {
    track(0, Codec::Vp8, "video/x-vp8,width=320,height=180,framerate=40/1")
}

fn open(tracks: Vec<Track>, file: &Path, means: &Means) -> Writer {
    let templates = Templates::load(Path::new("pipelines")).expect("right templates");
    let (template, tracks) = (templates.get("mkv").expect("mkv"), Tracks::new(tracks));
    let plans = template.plan(&tracks, true).expect("both pass through");
    Writer::open(template, &plans, &tracks, file, 0, false, means).expect("a writer")
}

/// A megabyte, the `n`th of forty a second.
fn frame(n: u64) -> Frame {
    let mut buffer = gst::Buffer::from_mut_slice(vec![0; MIB]);
    let unit = buffer.make_mut();
    unit.set_pts(gst::ClockTime::from_mseconds(25 * n));
    unit.set_dts(gst::ClockTime::from_mseconds(25 * n));
    Frame { track: TrackId(0), buffer }
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < SOON, "not {what} within {SOON:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Goes before the writer does, which would wait for it.
struct Rig {
    disk: File,
    writer: Writer,
}

/// A FIFO that nobody reads takes 64 KiB and then holds up who writes, as a disk that stands still does. Once the muxer
/// was given all there was, and failed the file at 32 MiB.
#[test]
fn a_muxer_that_the_disk_holds_up_is_behind_until_it_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let fifo = dir.path().join("a.mkv.part");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let disk = OpenOptions::new().read(true).custom_flags(nonblocking).open(&fifo).expect("the FIFO");
    let means = means();
    let stats = means.syncer.stats();
    let mut rig = Rig { disk, writer: open(vec![video()], &fifo, &means) };
    let Rig { disk, writer } = &mut rig;
    for n in 0..8 {
        assert_eq!(writer.write(&frame(n)).expect("taken"), Place::Written);
    }
    assert!(writer.is_behind(BEHIND_BYTES) && !writer.is_behind(MAX_QUEUED_BYTES));
    writer.check().expect("no error");
    assert_eq!(stats.behind.load(Ordering::Relaxed), 1);

    let mut block = vec![0; MIB];
    wait_until("caught up", || {
        // Nothing to read yet is no error here.
        let _ = disk.read(&mut block);
        !writer.is_behind(0)
    });
    writer.check().expect("no error");
    assert_eq!(stats.behind.load(Ordering::Relaxed), 0);
}

/// What the muxer waits for comes with the frames: to hold those back would be to wait for ever.
#[test]
fn a_muxer_that_waits_for_a_track_is_not_behind_and_gives_it_up_when_the_memory_is_full() {
    let dir = tempfile::tempdir().expect("a folder");
    let sound = track(1, Codec::Opus, "audio/x-opus,rate=48000,channels=2,channel-mapping-family=0");
    let mut writer = open(vec![video(), sound], &dir.path().join("a.mkv.part"), &means());
    for n in 0..=(u64::from(MAX_QUEUED_BYTES) >> 20) + 1 {
        assert_eq!(writer.write(&frame(n)).expect("taken"), Place::Written);
        assert!(!writer.is_behind(BEHIND_BYTES));
    }
    writer.check().expect("no error");
    wait_until("going on without it", || writer.most_queued() == 0);
    let [reason] = &writer.degraded[..] else { panic!("{:?}", writer.degraded) };
    assert!(reason.starts_with("the opus track ends before the others"), "{reason}");
}
