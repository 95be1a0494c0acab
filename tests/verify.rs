//! `reeld verify` finds what is wrong with recorded files, and nothing where all is right: with a daemon, without
//! one, and while it records.

use reeld::gst::decode::{Decode, DecodeError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
    time::{Duration, Instant, SystemTime},
};
use support::{
    daemon::{Daemon, House, SOON, file_of},
    enhanced::{Dialect, Enhanced, send_all},
    live::Live,
    media::{AUDIO, Packet, Probe, Publisher, VIDEO, av_source, run, source},
    rtmp::Client,
    wait::{reached, wait_for, wait_until},
};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
const POLICY: &str = "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_audio=passthrough\n\
     record_formats=h264-mp4,h265-mkv,vp9-webm\n";
const OPUS: &[&str] = &["-c:a", "libopus", "-b:a", "64k"];
const HEVC: &[&str] =
    &["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params", "log-level=none"];
const VP9: &[&str] =
    &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p"];

/// What one run said.
struct Verified {
    exit: i32,
    /// Kinds of the faults of each file with one, by its name.
    faults: BTreeMap<String, Vec<String>>,
    texts: String,
    summary: Value,
}

fn verify(arguments: &[&str], place: &Path, folder: bool) -> Verified {
    let mut command = Command::new(REELD);
    command.args(["verify", "--json"]).args(arguments);
    if folder {
        command.arg(place)
    } else {
        command.arg("--config").arg(place.join("reeld.toml"))
    };
    let output = command.output().expect("reeld runs");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let texts = String::from_utf8(output.stdout).expect("text");
    let mut objects: Vec<Value> =
        texts.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let summary = objects.pop().expect("a summary")["summary"].clone();
    let mut faults = BTreeMap::new();
    for object in &objects {
        let kinds: Vec<_> =
            object["faults"].as_array().expect("faults").iter().map(|f| word(&f["kind"])).collect();
        let file = PathBuf::from(word(&object["file"]));
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if !kinds.is_empty() {
            assert!(faults.insert(name, kinds).is_none(), "told twice: {texts}");
        }
    }
    Verified { exit: output.status.code().expect("an exit"), faults, texts, summary }
}

fn word(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn by_catalog(house: &House) -> Verified {
    verify(&[], &house.path(""), false)
}

impl Verified {
    fn is_good(&self, files: u64) {
        assert_eq!((self.exit, &self.faults), (0, &BTreeMap::new()), "{}", self.texts);
        assert_eq!(self.summary["files"], files, "{}", self.texts);
    }

    fn has(&self, faults: &[(&str, &[&str])], what: &str) {
        let wanted: BTreeMap<_, Vec<_>> = faults
            .iter()
            .map(|(name, kinds)| ((*name).to_owned(), kinds.iter().map(|k| (*k).to_owned()).collect()))
            .collect();
        assert_eq!(self.faults, wanted, "{what}: {}", self.texts);
        assert_eq!((self.exit, &self.summary["faulty"]), (1, &faults.len().into()), "{what}");
    }
}

fn record_enhanced(daemon: &Daemon, name: &str, codec: &[&str], four_cc: &'static str) -> PathBuf {
    let file = source(TMP, &format!("verify_{name}3.mp4"), &[VIDEO, AUDIO, &["-t", "3"], codec, OPUS]);
    let mut client = Client::publish(daemon.publish_options("live", name)).expect("accepted");
    send_all(&mut client, &Enhanced::read(&file, four_cc).messages(Dialect::Plain)).expect("sent");
    client.unpublish().expect("a good end");
    file_of(&daemon.completed(name))
}

/// An MP4 by ffmpeg, a Matroska and a WebM.
fn record_three(daemon: &Daemon) -> [PathBuf; 3] {
    Publisher::ffmpeg(&av_source(TMP, 3), &daemon.url("live/cam"), false).finish(SOON);
    let mp4 = file_of(&daemon.completed("cam"));
    [mp4, record_enhanced(daemon, "hevc", HEVC, "hvc1"), record_enhanced(daemon, "vp9", VP9, "vp09")]
}

fn change(file: &Path, by: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("a file");
    by(&mut bytes);
    fs::write(file, bytes).expect("it is written");
}

fn manifest(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.json", file.display()))
}

/// Damages the middle of a picture in the middle of the file, as a bad sector would.
fn damage_picture(file: &Path) {
    let video = Probe::read(file).video;
    damage(file, &video[video.len() / 2]);
}

fn damage(file: &Path, picture: &Packet) {
    change(file, |bytes| {
        let at = picture.position + picture.size / 3;
        bytes[at..at + picture.size / 3].iter_mut().for_each(|b| *b ^= 0x5A);
    });
}

#[test]
fn each_fault_is_found_and_good_files_have_none() {
    let house = House::new(POLICY, "");
    let mut daemon = house.start(REELD);
    let [mp4, mkv, webm] = record_three(&daemon);
    by_catalog(&house).is_good(3);
    assert!(daemon.terminate().success());
    let state = || {
        let entries = fs::read_dir(house.path("state")).expect("state");
        let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes)).expect("a file");
        entries.map(|e| read(e.expect("an entry").path())).collect::<BTreeMap<_, _>>()
    };
    let before = state();
    by_catalog(&house).is_good(3);
    verify(&[], &house.path("records"), true).is_good(3);
    assert!(state() == before, "the state folder was changed");

    type Damage = fn(&Path);
    let flip: Damage = |file| {
        change(file, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        })
    };
    let remove: Damage = |file| fs::remove_file(file).expect("removed");
    let cut: Damage = |file| change(file, |bytes| bytes.truncate(bytes.len() / 2));
    let forget: Damage = |file| fs::remove_file(manifest(file)).expect("removed");
    let garble: Damage = |file| fs::write(manifest(file), "{\"version\": 1, garbage").expect("written");
    let other: Damage = |file| {
        change(&manifest(file), |bytes| {
            let mut json: Value = serde_json::from_slice(bytes).expect("JSON");
            json["recording"]["id"] = "00000000-0000-4000-8000-000000000000".into();
            *bytes = json.to_string().into_bytes();
        })
    };
    let miscount: Damage = |file| {
        change(&manifest(file), |bytes| {
            let mut json: Value = serde_json::from_slice(bytes).expect("JSON");
            json["video"]["frames"] = (json["video"]["frames"].as_u64().expect("a count") + 1).into();
            *bytes = json.to_string().into_bytes();
        })
    };
    // What is damaged, the faults by the catalog, and by the folder alone.
    type Kinds = &'static [&'static str];
    let table: [(&str, &Path, Damage, Kinds, Kinds); 12] = [
        ("deleted", &mp4, remove, &["missing"], &["missing"]),
        ("cut MP4", &mp4, cut, &["size", "decode"], &["size", "decode"]),
        ("cut Matroska", &mkv, cut, &["size", "frames"], &["size", "frames"]),
        ("cut WebM", &webm, cut, &["size", "frames"], &["size", "frames"]),
        ("a damaged picture in MP4", &mp4, damage_picture, &["sha256", "decode"], &["sha256", "decode"]),
        // Damage within a picture of HEVC is still valid to its decoder; `ffmpeg -xerror` finds none either.
        ("a damaged picture in HEVC", &mkv, damage_picture, &["sha256"], &["sha256"]),
        ("no manifest", &mkv, forget, &["no-manifest"], &["no-manifest"]),
        ("garbage as manifest", &webm, garble, &["bad-manifest"], &["bad-manifest"]),
        ("another's manifest", &mp4, other, &["disagree"], &[]),
        ("a picture more", &mp4, miscount, &["frames"], &["frames"]),
        ("a picture more in Matroska", &mkv, miscount, &["frames"], &["frames"]),
        ("a picture more in WebM", &webm, miscount, &["frames"], &["frames"]),
    ];
    for (what, file, damage, known, alone) in table {
        let kept = [file.to_owned(), manifest(file)].map(|path| (fs::read(&path).expect("a file"), path));
        damage(file);
        let name = file.file_name().expect("a name").to_str().expect("UTF-8");
        by_catalog(&house).has(&[(name, known)], what);
        let folder = verify(&[], &house.path("records"), true);
        if alone.is_empty() {
            folder.is_good(3)
        } else {
            folder.has(&[(name, alone)], what)
        }
        kept.iter().for_each(|(bytes, path)| fs::write(path, bytes).expect("put back"));
    }
    // One bit, in the middle: whether it shows depends on where it is; the sum always tells.
    for file in [&mp4, &mkv, &webm] {
        flip(file);
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(by_catalog(&house).faults[&name][0], "sha256");
        verify(&["--no-decode"], &house.path("records"), true).has(&[(&name, &["sha256"])], "one bit");
        flip(file);
    }
    // What nobody knows.
    let stray = house.path("records/stray.mp4");
    fs::copy(&mp4, &stray).expect("a copy");
    by_catalog(&house).has(&[("stray.mp4", &["no-manifest"])], "a stray file");
    fs::remove_file(&stray).expect("removed");
    assert!(state() == before, "the state folder was changed");

    fs::remove_dir_all(house.path("state")).expect("removed");
    verify(&[], &house.path("records"), true).is_good(3);
    let output = Command::new(REELD).args(["verify", "--config"]).arg(house.path("reeld.toml")).output();
    let output = output.expect("reeld runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no catalog"));
}

/// libav reports much damage in CABAC, of B-frames above all, only as "concealing 115 DC, 115 AC, 115 MV errors" for
/// information: such pictures passed as good.
#[test]
fn what_ffmpeg_finds_in_a_damaged_picture_is_found() {
    reeld::gst::init().expect("GStreamer");
    let cabac: &[&str] = &["-c:v", "libx264", "-bf", "2", "-pix_fmt", "yuv420p"];
    let whole = source(TMP, "verify_cabac4.mp4", &[VIDEO, &["-t", "4"], cabac]);
    let decode = |file: &Path, lossy| {
        let cancelled = AtomicBool::new(false);
        Decode { file, lossy, cancelled: &cancelled, progress: &|_| () }.run()
    };
    let counts = decode(&whole, false).expect("it decodes").video.expect("video");
    assert_eq!((counts.access_units, counts.frames), (120, 120));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("damaged.mp4");
    let (video, mut found) = (Probe::read(&whole).video, 0);
    for picture in video.iter().skip(20).step_by(12) {
        fs::copy(&whole, &file).expect("a copy");
        damage(&file, picture);
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-nostdin", "-v", "quiet", "-xerror", "-threads", "1", "-i"]).arg(&file);
        let by_ffmpeg = !ffmpeg.args(["-f", "null", "-"]).status().expect("ffmpeg").success();
        let by_us = decode(&file, false);
        if by_ffmpeg {
            let Err(DecodeError::At { at_ms, .. }) = by_us else {
                panic!("at {} ms: {by_us:?}", picture.dts_ms)
            };
            // Pictures come out of order, and the decoder may need the next one to notice.
            assert!((at_ms as f64 - picture.dts_ms).abs() < 300.0, "{at_ms} and {} ms", picture.dts_ms);
            // A file that is known to miss frames is decoded all the same.
            assert!(decode(&file, true).is_ok());
            found += 1;
        }
    }
    assert!(found > 3, "ffmpeg found {found}");
}

#[test]
fn what_is_being_recorded_is_no_fault_until_its_daemon_is_killed() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let [_, _, webm] = record_three(&daemon);
    let live = Live::start(daemon.publish_options("live", "running"), &av_source(TMP, 3));
    wait_until("it is being written", SOON, || live.sent_ms() > 1500 && house.records(".part").len() == 1);
    by_catalog(&house).is_good(3);
    verify(&[], &house.path("records"), true).is_good(3);
    fs::remove_file(&webm).expect("removed");
    by_catalog(&house).has(&[("vp9.webm", &["missing"])], "beside a recording");
    daemon.kill_9();
    drop(live);

    let [part] = <[PathBuf; 1]>::try_from(house.records(".part")).expect("one");
    let both: &[(&str, &[&str])] = &[("running.mp4.part", &["left-behind"]), ("vp9.webm", &["missing"])];
    by_catalog(&house).has(both, "after kill -9");
    // Where not every process may be looked into, a file that was changed just now counts as being written.
    let long_ago = SystemTime::now() - Duration::from_secs(600);
    fs::File::options().append(true).open(&part).and_then(|f| f.set_modified(long_ago)).expect("an old file");
    verify(&[], &house.path("records"), true).has(both, "without the catalog");
}

#[test]
fn without_json_only_faults_and_a_summary_are_told() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    let [mp4, ..] = record_three(&daemon);
    let told = |exit| {
        let output = Command::new(REELD).args(["verify", "--jobs", "1"]).arg(house.path("records")).output();
        let output = output.expect("reeld runs");
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(exit), &b""[..]));
        String::from_utf8(output.stdout).expect("text")
    };
    let good = told(0);
    assert!(good.starts_with("3 files checked, ") && good.ends_with(": no faults\n"), "{good}");
    let size = fs::metadata(&mp4).expect("a file").len();
    change(&mp4, |bytes| bytes.truncate(999));
    // Of a file that is cut so short decodebin may drop the demuxer's error: nothing more came, for a minute.
    let begun = Instant::now();
    let bad = told(1);
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
    let first = format!("{}: 999 bytes instead of ", mp4.display());
    assert!(bad.starts_with(&first) && size > 999, "{bad}");
    assert!(bad.ends_with(": 1 file with faults\n"), "{bad}");
    assert_eq!(bad.lines().count(), 3, "{bad}");

    for (arguments, words) in
        [(["verify", "/nowhere/at/all"].as_slice(), "cannot be read"), (&["verify", "--jobs", "0"], "--jobs")]
    {
        let output = Command::new(REELD).args(arguments).output().expect("reeld runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words));
    }
}

/// Whoever opens a FIFO waits until somebody writes to it: one hung for ever.
#[test]
fn a_pipe_in_place_of_a_manifest_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    run(Command::new("mkfifo").arg(dir.path().join("film.mp4.json")));
    fs::write(dir.path().join("film.mp4"), "no film").expect("a file");
    let mut child = Command::new(REELD)
        .args(["verify", "--no-decode"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("reeld runs");
    let ended = reached(SOON, || child.try_wait().expect("its state").is_some());
    if !ended {
        child.kill().expect("it runs");
    }
    let output = child.wait_with_output().expect("its output");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(ended && output.status.code() == Some(1), "{told}");
    assert!(told.contains("film.mp4: its manifest is not a file"), "{told}");
}

#[test]
fn ctrl_c_ends_it_with_what_was_found() {
    let house = House::new(POLICY, "");
    let daemon = house.start(REELD);
    Publisher::ffmpeg(&av_source(TMP, 3), &daemon.url("live/cam"), false).finish(SOON);
    let mp4 = file_of(&daemon.completed("cam"));
    let folder = house.path("records");
    let text: Value = serde_json::from_slice(&fs::read(manifest(&mp4)).expect("it")).expect("JSON");
    for n in 0..200 {
        let mut text = text.clone();
        let copy = folder.join(format!("copy{n}.mp4"));
        fs::hard_link(&mp4, &copy).expect("a link");
        text["name"] = format!("copy{n}.mp4").into();
        fs::write(manifest(&copy), text.to_string()).expect("a manifest");
    }
    fs::remove_file(&mp4).expect("removed");
    let log = house.path("verify.log");
    let mut child = Command::new(REELD)
        .args(["verify", "--json", "--jobs", "2"])
        .arg(&folder)
        .stdout(fs::File::create(&log).expect("a log"))
        .stderr(Stdio::null())
        .spawn()
        .expect("reeld runs");
    wait_until("some are checked", SOON, || fs::read_to_string(&log).is_ok_and(|t| t.lines().count() > 3));
    kill_process(Pid::from_raw(child.id().cast_signed()).expect("a pid"), Signal::INT).expect("it runs");
    let status = wait_for("it ends", SOON, || child.try_wait().expect("its state"));
    let text = fs::read_to_string(&log).expect("the log");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("an object");
    assert_eq!(last["summary"]["interrupted"], true, "{text}");
    let faulty = text.contains("\"missing\"");
    assert_eq!(status.code(), Some(if faulty { 1 } else { 2 }), "{text}");
}
