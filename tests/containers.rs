//! Frames of real encoders into every container, without a protocol in between: what goes into the hub is in the file,
//! in step, and plays; also when parameters change, sound is missing, or the process dies.

#[path = "containers/rig.rs"]
mod rig;
#[path = "containers/seams.rs"]
mod seams;

use gstreamer::{self as gst, prelude::*};
use reeld::{
    media::{Codec, Frame, Gap, GapKind, Tracks},
    record::make_whole,
};
use rig::*;
use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    path::Path,
    time::Duration,
};
use support::{
    media::{Probe, decode},
    wait::wait_until,
};

/// Each change of resolution made a part of its own, with a hole up to its key frame.
#[test]
fn other_parameters_stay_in_one_file() {
    let opus = audio(Codec::Opus, OPUS);
    let aac = audio(Codec::Aac, AAC);
    let cases = [
        (Codec::H264, H264, &aac, ["mp4", "mkv", "ts"].as_slice()),
        (Codec::H265, H265, &opus, &["mp4", "mkv", "ts"]),
        (Codec::Vp8, VP8, &opus, &["webm", "mkv"]),
        (Codec::Vp9, VP9, &opus, &["webm", "mp4"]),
        (Codec::Av1, AV1, &opus, &["mp4", "mkv", "webm"]),
    ];
    for (codec, encoder, sound, containers) in cases {
        let small = video(codec, encoder, (320, 180));
        let large = video(codec, encoder, (640, 360));
        for container in containers {
            let rig = Rig::new(&format!("record_formats={codec}-{container}\n"));
            let tracks = |video: &Encoded| [video.track(0), sound.track(1)];
            let (mut publisher, running) = rig.publish(&tracks(&small));
            for (n, video) in [&small, &large, &small].into_iter().enumerate() {
                let at_ms = n as u64 * 4000;
                publisher.set_tracks(Tracks::new(tracks(video).to_vec()));
                let mut frames = [video.frames(0, at_ms), sound.frames(1, at_ms)].concat();
                // What the sound encoder adds at its end would lie over the next beginning.
                frames.retain(|f| ms_of(f) < at_ms + 3_990);
                frames.sort_by_key(Frame::dts_ns);
                publisher.publish(&mut frames);
            }
            let what = format!("{codec} in {container}");
            let recording = rig.end(publisher, running);
            let file = only_file(&recording);
            assert_eq!(file.extension().and_then(|e| e.to_str()), Some(*container));
            assert_eq!(recording.lost.frames, 0, "{what}");
            assert_eq!(decode(&file), 360, "{what}");
            let found = sizes(&file);
            let wanted = [("320", 120), ("640", 120), ("320", 120)].map(|(w, n)| (w.to_owned(), n));
            assert_eq!(found, wanted, "{what}");
            let part = recording.parts[0].video.as_ref().expect("video");
            assert_eq!((part.width, part.height, part.frames), (Some(640), Some(360), 360), "{what}");
            // The clock of a transport stream begins at an hour.
            if *container != "ts" {
                [500, 5000, 10_000, 1000].into_iter().for_each(|ms| assert_seeks(&file, ms));
            }
        }
    }
}

#[test]
fn an_mp4_with_other_parameters_plays_while_it_is_written() {
    let (small, large) = (video(Codec::H264, H264, (320, 180)), video(Codec::H264, H264, (640, 360)));
    let rig = Rig::new("");
    let (mut publisher, running) = rig.publish(&[small.track(0)]);
    publisher.publish(&mut small.frames(0, 0));
    publisher.set_tracks(Tracks::new(vec![large.track(0)]));
    publisher.publish(&mut large.frames(0, 4000));
    wait_until("all is written", SOON, || running.media_ms() >= 7_900);
    let (part, copy) = (rig.dir.path().join("records/cam.mp4.part"), rig.dir.path().join("copy.mp4"));
    fs::copy(part, &copy).expect("a copy");
    let found = decode(&copy);
    assert!((220..=240).contains(&found), "{found} pictures");
    let text = |file: &Path| String::from_utf8_lossy(&fs::read(file).expect("a file")).into_owned();
    assert!(text(&copy).contains("avc1"));
    let file = only_file(&rig.end(publisher, running));
    assert!(text(&file).contains("avc3"));
    assert_eq!(decode(&file), 240);
}

/// Width of the next picture after a seek of a running player.
fn width_at(player: &gst::Pipeline, sink: &gstreamer_app::AppSink, ms: u64) -> i32 {
    let to = gst::ClockTime::from_mseconds(ms);
    player.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT, to).expect("a seek");
    let sample = sink.try_pull_sample(gst::ClockTime::from_seconds(20)).expect("a picture");
    let caps = sample.caps().and_then(|c| c.structure(0)).expect("caps");
    caps.get("width").expect("a width")
}

/// The decoder of a player that goes back over a change holds the later parameter sets.
#[test]
fn a_player_goes_back_over_a_change() {
    let (small, large) = (video(Codec::H264, H264, (320, 180)), video(Codec::H264, H264, (640, 360)));
    let rig = Rig::new("");
    let (mut publisher, running) = rig.publish(&[small.track(0)]);
    publisher.publish(&mut small.frames(0, 0));
    publisher.set_tracks(Tracks::new(vec![large.track(0)]));
    publisher.publish(&mut large.frames(0, 4000));
    let file = only_file(&rig.end(publisher, running));
    let launch = format!(
        "filesrc location={} ! qtdemux ! capssetter caps=video/x-h264,stream-format=avc ! avdec_h264 ! appsink name=s sync=false",
        file.display()
    );
    let player = gst::parse::launch(&launch).expect(&launch).downcast::<gst::Pipeline>().expect("a pipeline");
    let sink = player.by_name("s").expect("a sink").downcast::<gstreamer_app::AppSink>().expect("appsink");
    player.set_state(gst::State::Playing).expect("playing");
    assert!(sink.try_pull_sample(gst::ClockTime::from_seconds(20)).is_some());
    let widths = [5000, 1000, 6000, 0].map(|ms| width_at(&player, &sink, ms));
    player.set_state(gst::State::Null).expect("null");
    assert_eq!(widths, [640, 320, 640, 320]);
}

#[test]
fn another_codec_begins_another_part() {
    let (h264, vp8) = (video(Codec::H264, H264, (320, 180)), video(Codec::Vp8, VP8, (320, 180)));
    let rig = Rig::new("");
    let (mut publisher, running) = rig.publish(&[h264.track(0)]);
    publisher.publish(&mut h264.frames(0, 0));
    publisher.set_tracks(Tracks::new(vec![vp8.track(0)]));
    publisher.publish(&mut vp8.frames(0, 4000));
    let recording = rig.end(publisher, running);
    let names: Vec<_> = recording.parts.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["cam.mp4", "cam_2.webm"]);
    assert_eq!((decode(&recording.parts[0].file), decode(&recording.parts[1].file)), (120, 120));
}

/// The file was closed at once when a track was added, and the pictures up to the next key frame were in none.
#[test]
fn a_track_more_begins_another_part_and_costs_no_picture() {
    let (h264, aac) = (video(Codec::H264, H264, (320, 180)), audio(Codec::Aac, AAC));
    let rig = Rig::new("");
    let (mut publisher, running) = rig.publish(&[h264.track(0)]);
    assert!(!publisher.take_key_frame_request());
    let mut pictures = h264.frames(0, 0);
    let later = pictures.split_off(70);
    publisher.publish(&mut pictures);
    publisher.set_tracks(Tracks::new(vec![h264.track(0), aac.track(1)]));
    let sound: Vec<_> = aac.frames(1, 0).into_iter().filter(|f| ms_of(f) >= 2_400).collect();
    let mut rest = [later, sound, h264.frames(0, 4000), aac.frames(1, 4000)].concat();
    rest.retain(|f| f.track.0 == 0 || ms_of(f) < 4_000 || ms_of(f) >= 4_050);
    rest.sort_by_key(Frame::dts_ns);
    publisher.publish(&mut rest);
    wait_until("a key frame is asked for", SOON, || publisher.take_key_frame_request());
    let recording = rig.end(publisher, running);
    let [alone, both] = &recording.parts[..] else { panic!("{recording:#?}") };
    assert_eq!((&*alone.name, &*both.name), ("cam.mp4", "cam_2.mp4"));
    assert!(alone.audio.is_none() && both.audio.is_some());
    // Key frames are a second apart: picture 90 is the next one.
    assert_eq!((decode(&alone.file), decode(&both.file)), (90, 150));
    assert_eq!(recording.lost.frames, 0);
    let (flash, beep) = flash_and_beep(&both.file);
    assert!((beep - flash).abs() < 20.0, "flash at {flash} ms, beep at {beep} ms");
    let [reason] = &alone.degraded[..] else { panic!("{:?}", alone.degraded) };
    assert!(reason.contains("aac") && both.degraded.is_empty(), "{reason}");
}

#[test]
fn sound_is_beside_the_pictures_in_every_container() {
    let (vp8, h264) = (video(Codec::Vp8, VP8, (320, 180)), video(Codec::H264, H264, (320, 180)));
    let (opus, pcma, aac) = (audio(Codec::Opus, OPUS), audio(Codec::Pcma, PCMA), audio(Codec::Aac, AAC));
    // As it comes over RTP: without the header that tells the encoder's delay.
    let bare = Encoded {
        caps: "audio/x-opus,rate=48000,channels=1,channel-mapping-family=0,stream-count=1,coupled-count=0"
            .parse()
            .expect("caps"),
        ..opus.clone()
    };
    let (auto, as_is) = ("", "record_audio=passthrough\n");
    for (video, sound, container, rule, codec) in [
        (&vp8, &opus, "webm", auto, "vorbis"),
        (&vp8, &bare, "webm", auto, "vorbis"),
        (&vp8, &pcma, "webm", auto, "vorbis"),
        (&vp8, &aac, "webm", auto, "vorbis"),
        (&vp8, &opus, "webm", as_is, "opus"),
        (&vp8, &bare, "webm", as_is, "opus"),
        (&h264, &opus, "mp4", auto, "aac"),
        (&h264, &bare, "mp4", auto, "aac"),
        (&h264, &pcma, "mp4", auto, "aac"),
        (&h264, &aac, "mp4", auto, "aac"),
        (&h264, &opus, "mp4", as_is, "opus"),
        (&h264, &bare, "mp4", as_is, "opus"),
        (&h264, &opus, "mkv", auto, "opus"),
        (&h264, &bare, "mkv", auto, "opus"),
        (&h264, &pcma, "mkv", auto, "aac"),
        (&h264, &pcma, "mkv", as_is, "pcm_alaw"),
        (&h264, &aac, "mkv", auto, "aac"),
        (&h264, &opus, "ts", auto, "aac"),
        (&h264, &pcma, "ts", auto, "aac"),
        (&h264, &aac, "ts", auto, "aac"),
        (&h264, &opus, "ts", as_is, "opus"),
    ] {
        let what = format!("{} and {} in {container} {rule}", video.codec, sound.codec);
        let rig = Rig::new(&format!("record_formats={}-{container}\n{rule}", video.codec));
        let frames = [video.frames(0, 0), sound.frames(1, 0)].concat();
        let recording = rig.record(&[video.track(0), sound.track(1)], frames);
        let file = only_file(&recording);
        let probe = Probe::read(&file);
        assert_eq!(probe.audio_codec, codec, "{what}");
        assert_eq!(decode(&file), 120, "{what}");
        if sound.codec.as_str() == codec {
            assert_eq!(probe.audio.len(), sound.buffers.len(), "{what}: audio packets");
        }
        let (flash, beep) = flash_and_beep(&file);
        eprintln!("{what}: flash {flash} ms, beep {beep} ms, {} ms long", probe.duration_ms);
        assert!((beep - flash).abs() < 20.0, "{what}: flash at {flash} ms, beep at {beep} ms");
        assert!((probe.duration_ms - 4000.0).abs() < 100.0, "{what}: {} ms", probe.duration_ms);
        if container != "ts" {
            assert_seeks(&file, 3000);
        }
        assert_eq!((recording.lost.frames, &recording.degraded[..]), (0, &[][..]), "{what}");
    }
}

/// Beeps at 2, 6, 10 and 14 s.
fn long_sound(sound: &Encoded) -> Vec<Frame> {
    let once = |n: u64| sound.frames(1, n * 4000).into_iter().filter(move |f| ms_of(f) < n * 4000 + 3_990);
    (0..4).flat_map(once).collect()
}

/// The last beep, which is at 14 s, comes with the last flash, whatever sound is left out before.
#[test]
fn silence_that_is_not_sent_leaves_no_drift() {
    let (vp8, h264) = (video(Codec::Vp8, VP8, (320, 180)), video(Codec::H264, H264, (320, 180)));
    let (opus, pcma) = (audio(Codec::Opus, OPUS), audio(Codec::Pcma, PCMA));
    type Sent = fn(u64) -> bool;
    let dtx: Sent = |ms| !(4_000..12_000).contains(&ms) || ms % 400 < 20;
    let muted: Sent = |ms| !(2_500..13_000).contains(&ms);
    let late: Sent = |ms| ms >= 300;
    for (video, sound, container) in
        [(&h264, &opus, "mp4"), (&h264, &pcma, "mp4"), (&vp8, &opus, "webm"), (&h264, &pcma, "ts")]
    {
        for (case, is_sent) in [("dtx", dtx), ("muted", muted), ("late", late)] {
            let what = format!("{} in {container}, {case}", sound.codec);
            let rig = Rig::new(&format!("record_formats={}-{container}\n", video.codec));
            let mut frames: Vec<_> = (0..4).flat_map(|n| video.frames(0, n * 4000)).collect();
            frames.extend(long_sound(sound).into_iter().filter(|f| is_sent(ms_of(f))));
            let recording = rig.record(&[video.track(0), sound.track(1)], frames);
            let file = only_file(&recording);
            assert_eq!(decode(&file), 480, "{what}");
            let (flash, beep) = flash_and_beep(&file);
            eprintln!("{what}: flash {flash} ms, beep {beep} ms");
            assert!((beep - flash).abs() < 20.0, "{what}: flash at {flash} ms, beep at {beep} ms");
            assert!((flash - 14_000.0).abs() < 20.0 || container == "ts", "{what}: flash at {flash} ms");
            assert_eq!(recording.lost.frames, 0, "{what}");
        }
    }
}

/// GStreamer's muxers wait until each of their tracks has something. A muted microphone held the pictures back, until
/// the queue in front of them was full and the file ended with an error.
#[test]
fn pictures_do_not_wait_for_a_silent_microphone() {
    let (vp8, h264) = (video(Codec::Vp8, VP8, (320, 180)), video(Codec::H264, H264, (320, 180)));
    let (opus, aac) = (audio(Codec::Opus, OPUS), audio(Codec::Aac, AAC));
    for (video, sound, container, rule) in [
        (&vp8, &opus, "webm", ""),
        (&vp8, &opus, "webm", "record_audio=passthrough\n"),
        (&h264, &opus, "mkv", ""),
        (&h264, &opus, "ts", ""),
        (&h264, &aac, "mkv", ""),
        (&h264, &aac, "ts", ""),
    ] {
        let rig = Rig::new(&format!("record_formats={}-{container}\n{rule}", video.codec));
        let (mut publisher, running) = rig.publish(&[video.track(0), sound.track(1)]);
        let mut frames: Vec<_> = (0..4).flat_map(|n| video.frames(0, n * 4000)).collect();
        frames.extend(sound.frames(1, 0));
        frames.sort_by_key(Frame::dts_ns);
        publisher.publish(&mut frames);
        let part = rig.dir.path().join(format!("records/cam.{container}.part"));
        wait_until(&format!("pictures are in {container} {rule}"), SOON, || {
            let copy = rig.dir.path().join("copy");
            // ffprobe has nothing to say of a file that has just begun.
            let begun = fs::copy(&part, &copy).is_ok_and(|bytes| bytes > 8_192);
            begun && Probe::read(&copy).video.len() >= 13 * 30
        });
        let recording = rig.end(publisher, running);
        assert_eq!(decode(&only_file(&recording)), 480, "{container} {rule}");
        // The sound was over after 4 s of 16.
        let [reason] = &recording.degraded[..] else { panic!("{:?}", recording.degraded) };
        let told = format!("the {} track ends 12", sound.codec);
        assert!(reason.starts_with(&told) || reason.starts_with(&told.replace("12", "11")), "{reason}");
    }
}

/// An hour of silence in a stream of sound alone is not encoded; what follows it is at its time.
#[test]
fn an_hour_of_nothing_is_not_encoded_at_once() {
    let pcma = audio(Codec::Pcma, PCMA);
    let rig = Rig::new("");
    let frames = [pcma.frames(0, 0), pcma.frames(0, 3_600_000)].concat();
    let begun = std::time::Instant::now();
    let recording = rig.record(&[pcma.track(0)], frames);
    let file = only_file(&recording);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let probe = Probe::read(&file);
    assert!((probe.duration_ms - 3_604_000.0).abs() < 150.0, "{} ms", probe.duration_ms);
    assert!(probe.audio.len() < 200, "{} access units", probe.audio.len());
    let beep = beep(&file);
    assert!((beep - 3_602_000.0).abs() < 20.0, "the beep is at {beep} ms");
}

/// A microphone that was opened 3 s late was left out of the whole file, however long that became.
#[test]
fn sound_that_begins_late_is_silence_until_then_and_that_is_told() {
    let (vp8, h264) = (video(Codec::Vp8, VP8, (320, 180)), video(Codec::H264, H264, (320, 180)));
    let (opus, pcma, aac) = (audio(Codec::Opus, OPUS), audio(Codec::Pcma, PCMA), audio(Codec::Aac, AAC));
    let as_is = "record_audio=passthrough\n";
    for (video, sound, container, rule) in [
        (&h264, &opus, "mp4", ""),
        (&h264, &pcma, "mp4", ""),
        (&vp8, &opus, "webm", ""),
        (&vp8, &aac, "webm", ""),
        (&vp8, &opus, "webm", as_is),
        (&h264, &aac, "mkv", ""),
        (&h264, &pcma, "mkv", as_is),
        (&h264, &aac, "ts", ""),
        (&h264, &opus, "ts", as_is),
    ] {
        let what = format!("{} in {container} {rule}", sound.codec);
        let rig = Rig::new(&format!("record_formats={}-{container}\n{rule}", video.codec));
        let mut frames: Vec<_> = (0..4).flat_map(|n| video.frames(0, n * 4000)).collect();
        frames.extend(long_sound(sound).into_iter().filter(|f| ms_of(f) >= 8_000));
        let recording = rig.record(&[video.track(0), sound.track(1)], frames);
        let file = only_file(&recording);
        assert_eq!(decode(&file), 480, "{what}");
        let (flash, beep) = flash_and_beep(&file);
        assert!((beep - flash).abs() < 25.0, "{what}: flash at {flash} ms, beep at {beep} ms");
        assert_eq!(recording.lost.frames, 0, "{what}");
        let [reason] = &recording.degraded[..] else { panic!("{what}: {:?}", recording.degraded) };
        assert!(reason.contains(sound.codec.as_str()) && reason.contains("silence"), "{what}: {reason}");
        let manifest = fs::read_to_string(format!("{}.json", file.display())).expect("a manifest");
        assert!(manifest.contains(reason), "{manifest}");
    }
}

/// Of MP3 no silence is known: where the muxer waits for it, it is left out, and begins a part when it is there.
#[test]
fn sound_without_a_silence_begins_a_part_when_it_speaks() {
    let (h264, mp3) = (video(Codec::H264, H264, (320, 180)), audio(Codec::Mp3, MP3));
    type Sent = fn(u64) -> bool;
    let late: Sent = |ms| ms >= 4_500;
    let muted: Sent = |ms| !(2_800..12_500).contains(&ms);
    for (is_sent, pictures, told) in [(late, (150, 330), "left out"), (muted, (390, 90), "fell silent")] {
        let rig = Rig::new("record_formats=h264-mkv\n");
        let mut frames: Vec<_> = (0..4).flat_map(|n| h264.frames(0, n * 4000)).collect();
        frames.extend(long_sound(&mp3).into_iter().filter(|f| is_sent(ms_of(f))));
        let recording = rig.record(&[h264.track(0), mp3.track(1)], frames);
        let [first, then] = &recording.parts[..] else { panic!("{recording:#?}") };
        assert_eq!((decode(&first.file), decode(&then.file)), pictures, "{told}");
        assert_eq!((first.audio.is_some(), then.audio.is_some()), (told == "fell silent", true));
        assert!(first.degraded[0].contains(told), "{:?}", first.degraded);
        assert_eq!((recording.lost.frames, then.degraded.len()), (0, 0), "{told}");
        let (flash, beep) = flash_and_beep(&then.file);
        assert!((beep - flash).abs() < 60.0, "{told}: flash at {flash} ms, beep at {beep} ms");
    }
}

#[test]
fn losses_are_summed_and_a_source_that_comes_back_stays_in_its_file() {
    let (small, large) = (video(Codec::H264, H264, (320, 180)), video(Codec::H264, H264, (640, 360)));
    let rig = Rig::new("");
    let (mut publisher, running) = rig.publish(&[small.track(0)]);
    let mut frames = small.frames(0, 0);
    let mut rest = frames.split_off(60);
    publisher.publish(&mut frames);
    let lost = rest.drain(..30).count() as u64;
    let at_ms = ORIGIN_MS + 2000;
    publisher.gap(Gap { kind: GapKind::PacketLoss, at_ms, by_ms: 1000, at: None, frames: lost, packets: 7 });
    publisher.publish(&mut rest);
    publisher.gap(Gap {
        kind: GapKind::Reconnect,
        at_ms: ORIGIN_MS + 4000,
        by_ms: 9000,
        at: None,
        frames: 0,
        packets: 0,
    });
    publisher.set_tracks(Tracks::new(vec![large.track(0)]));
    publisher.publish(&mut large.frames(0, 4000));
    let recording = rig.end(publisher, running);
    let file = only_file(&recording);
    assert_eq!(decode(&file), 90 + 120);
    assert_eq!((recording.lost.packets, recording.lost.frames), (7, 30));
    let gaps: Vec<_> = recording.lost.gaps.iter().map(|g| (g.kind, g.at_ms)).collect();
    assert_eq!(gaps, [(GapKind::PacketLoss, 2000), (GapKind::Reconnect, 4000)]);
    let manifest = fs::read(format!("{}.json", file.display())).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    assert_eq!(manifest["lost"], serde_json::json!({"packets": 7, "frames": 30}));
    assert_eq!(recording.parts[0].gaps, recording.lost.gaps);
}

#[test]
fn what_files_take_is_counted_while_they_are_written() {
    use std::sync::atomic::Ordering::Relaxed;
    let (vp8, opus) = (video(Codec::Vp8, VP8, (320, 180)), audio(Codec::Opus, OPUS));
    let rig = Rig::new("");
    let totals = rig.recorder.totals();
    let taken = || (totals.element_threads.load(Relaxed), totals.transcoded_tracks.load(Relaxed));
    let (mut publisher, running) = rig.publish(&[vp8.track(0), opus.track(1)]);
    let mut frames = [vp8.frames(0, 0), opus.frames(1, 0)].concat();
    frames.sort_by_key(Frame::dts_ns);
    publisher.publish(&mut frames);
    // A queue for each track in front of the muxer, which waits for both.
    wait_until("two threads and one track", SOON, || taken() == (2, 1));
    rig.end(publisher, running);
    assert_eq!(taken(), (0, 0));
}

/// The seed of this run: `REELD_TEST_SEED`, else a new one.
fn seed() -> u64 {
    let given = std::env::var("REELD_TEST_SEED").ok();
    let seed =
        given.map_or_else(|| RandomState::new().build_hasher().finish(), |s| s.parse().expect("a number"));
    eprintln!("REELD_TEST_SEED={seed}");
    seed
}

#[test]
fn a_killed_file_is_made_whole_wherever_it_is_cut() {
    let (vp8, opus, h264) =
        (video(Codec::Vp8, VP8, (320, 180)), audio(Codec::Opus, OPUS), video(Codec::H264, H264, (320, 180)));
    let mut state = seed();
    for (video, container) in [(&vp8, "webm"), (&h264, "mkv")] {
        let rig = Rig::new(&format!("record_formats={}-{container}\n", video.codec));
        let (mut publisher, running) = rig.publish(&[video.track(0), opus.track(1)]);
        let frames = |at_ms| {
            let mut frames = [video.frames(0, at_ms), opus.frames(1, at_ms)].concat();
            frames.sort_by_key(Frame::dts_ns);
            frames
        };
        publisher.publish(&mut frames(0));
        publisher.publish(&mut frames(4000));
        wait_until("all is written", SOON, || running.media_ms() >= 7_900);
        let part = rig.dir.path().join(format!("records/cam.{container}.part"));
        // What the muxer has not handed on yet is the last cluster.
        wait_until("all but a second is in the file", SOON, || {
            let copy = rig.dir.path().join("copy");
            fs::copy(&part, &copy).expect("a copy");
            make_whole(&copy).expect("no error").is_some_and(|s| s.duration_ms >= 7_000)
        });
        let bytes = fs::read(&part).expect("the file");
        let cut_file = rig.dir.path().join(format!("cut.{container}"));
        let mut whole = 0;
        for _ in 0..25 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let cut = (state >> 33) as usize % bytes.len();
            fs::write(&cut_file, &bytes[..cut]).expect("a file");
            let Some(found) = make_whole(&cut_file).expect("no error") else {
                // Cut before the first access unit was whole.
                assert!(cut < 16_384, "{container} cut at {cut} of {}", bytes.len());
                assert_eq!(fs::read(&cut_file).expect("the file"), bytes[..cut]);
                continue;
            };
            whole += 1;
            let pictures = decode(&cut_file);
            assert_eq!(found.video.as_ref().map_or(0, |v| v.frames), pictures as u64, "cut at {cut}");
            let probe = Probe::read(&cut_file);
            let told = found.duration_ms as f64;
            let right = (probe.duration_ms - told).abs() <= 2.0 || (pictures <= 1 && told < 40.0);
            assert!(right, "{} ms, {told} ms told", probe.duration_ms);
            if pictures > 60 {
                assert_seeks(&cut_file, 1000);
            }
            let once = fs::read(&cut_file).expect("the file");
            assert!(once.windows(4).any(|w| w == [0x1C, 0x53, 0xBB, 0x6B]), "no cues");
            assert_eq!(make_whole(&cut_file).expect("no error"), Some(found), "a second time");
            assert!(
                fs::read(&cut_file).expect("the file") == once,
                "cut at {cut}: the same after a second time"
            );
        }
        assert!(whole >= 10, "{whole} files");
        // What may be in a long rest is not cut away.
        fs::write(&cut_file, &bytes[..bytes.len() / 2]).expect("a file");
        let damaged = fs::File::options().write(true).open(&cut_file).expect("the file");
        damaged.set_len(100 << 20).expect("a hole");
        let error = make_whole(&cut_file).expect_err("damaged");
        assert!(error.contains("damaged at byte") && error.contains("cut."), "{error}");
        assert_eq!(damaged.metadata().expect("metadata").len(), 100 << 20);
        // A finished file stays what it is.
        let file = only_file(&rig.end(publisher, running));
        let before = Probe::read(&file);
        make_whole(&file).expect("no error").expect("a file");
        let after = Probe::read(&file);
        assert_eq!(after.counts(), before.counts());
        assert!(
            (after.duration_ms - before.duration_ms).abs() < 50.0,
            "{} {}",
            after.duration_ms,
            before.duration_ms
        );
    }
}
