//! Parts that follow each other, pauses, and streams that take each other's place: no access unit is lost, and audio and
//! video stay in step.

use super::rig::*;
use chrono::{TimeDelta, Utc};
use reeld::{
    config::{Rotation, RotationAlign},
    hub::{EndReason, Publisher, Publishing},
    library::{Part, Recording, Status},
    media::{Codec, Frame, Gap, GapKind, Track},
    record::{Refusal, Running, Source},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use support::{media::decode, wait::wait_until};

/// Every container with its own codecs: all copied, sound made again, and two muxers with threads of their own.
fn kinds() -> Vec<(&'static str, Encoded, Encoded)> {
    let h264 = || video(Codec::H264, H264, (320, 180));
    vec![
        ("h264-mp4", h264(), audio(Codec::Aac, AAC)),
        ("h264-mp4", h264(), audio(Codec::Opus, OPUS)),
        ("h264-mkv", h264(), audio(Codec::Aac, AAC)),
        ("vp8-webm", video(Codec::Vp8, VP8, (320, 180)), audio(Codec::Opus, OPUS)),
    ]
}

fn rig(formats: &str) -> Rig {
    Rig::new(&format!("record_formats={formats}\n"))
}

fn every(seconds: u64) -> Rotation {
    Rotation { duration: Some(Duration::from_secs(seconds)), bytes: None }
}

/// 12 s: the 4 s of the encoders three times over.
fn long(video: &Encoded, audio: &Encoded) -> Vec<Frame> {
    let mut frames: Vec<_> =
        (0..3).flat_map(|n| [video.frames(0, n * 4000), audio.frames(1, n * 4000)].concat()).collect();
    frames.sort_by_key(Frame::dts_ns);
    frames
}

fn counts(part: &Part) -> (u64, u64) {
    (part.video.as_ref().map_or(0, |v| v.frames), part.audio.as_ref().map_or(0, |a| a.frames))
}

/// How many of them are of each track.
fn sent(frames: &[Frame]) -> (u64, u64) {
    let of = |id| frames.iter().filter(|f| f.track.0 == id).count() as u64;
    (of(0), of(1))
}

fn assert_in_step(part: &Part) {
    let (flash, beep) = flash_and_beep(&part.file);
    assert!((beep - flash).abs() < 40.0, "{}: flash {flash} ms, beep {beep} ms", part.file.display());
}

#[test]
fn every_access_unit_is_in_exactly_one_part() {
    for (formats, video, audio) in kinds() {
        // Sound that arrives with the pictures, ahead of them, and behind them.
        for lead_ms in [0_i64, 300, -300] {
            let mut rig = rig(formats);
            Arc::make_mut(&mut rig.policy).rotation = every(2);
            let mut frames = long(&video, &audio);
            let arrival =
                |f: &Frame| f.dts_ns() as i64 - if f.track.0 == 1 { lead_ms * 1_000_000 } else { 0 };
            frames.sort_by_key(arrival);
            let all = frames.clone();
            let recording = rig.record(&[video.track(0), audio.track(1)], frames);
            let what = format!("{formats} {lead_ms}");
            assert_eq!(recording.parts.len(), 6, "{what}: {recording:#?}");
            assert_eq!((recording.lost.frames, &recording.degraded[..]), (0, &[][..]), "{what}");
            for (part, n) in recording.parts.iter().zip(0..) {
                let (from, until) = (n * 2000, (n + 1) * 2000);
                let of_part: Vec<_> =
                    all.iter().filter(|f| (from..until).contains(&ms_of(f))).cloned().collect();
                assert_eq!(counts(part), sent(&of_part), "{what}: part {}", part.number);
                assert_eq!(decode(&part.file) as u64, counts(part).0, "{what}");
                let name = part.file.file_stem().and_then(|s| s.to_str()).map(str::to_owned);
                assert_eq!(name, Some(format!("cam_{}", n + 1)), "{what}");
                assert!(part.duration_ms.abs_diff(2000) < 40, "{what}: {}", part.duration_ms);
            }
            let starts: Vec<_> = recording.parts.iter().map(|p| p.started_at.timestamp_millis()).collect();
            assert!(starts.windows(2).all(|w| (w[1] - w[0]).abs_diff(2000) < 40), "{what}: {starts:?}");
        }
    }
}

#[test]
fn sound_alone_rotates_too_and_a_limit_is_told() {
    let aac = audio(Codec::Aac, AAC);
    let mut rig = rig("h264-mp4");
    rig.max_part_duration = Duration::from_secs(2);
    let frames = aac.frames(0, 0);
    let all = frames.len() as u64;
    let recording = rig.record(&[aac.track(0)], frames);
    assert_eq!(recording.parts.iter().map(|p| counts(p).1).sum::<u64>(), all);
    assert_eq!(recording.parts.len(), 2, "{recording:#?}");
    assert!(recording.degraded.iter().any(|d| d.contains("max_part_duration (2s)")), "{recording:#?}");
}

/// Publishes and waits until it is written.
fn publish(publisher: &mut Publisher, running: &Running, frames: &[Frame]) {
    publisher.publish(&mut frames.to_vec());
    let before = running.media_ms();
    wait_until("it is written", SOON, || running.media_ms() > before);
}

#[test]
fn a_pause_leaves_no_gap_in_the_file() {
    for (formats, video, audio) in kinds() {
        let rig = rig(formats);
        let (mut publisher, mut running) = rig.publish(&[video.track(0), audio.track(1)]);
        let frames = long(&video, &audio);
        let between = |from: u64, to: u64| {
            frames.iter().filter(|f| (from..to).contains(&ms_of(f))).cloned().collect::<Vec<_>>()
        };
        assert_eq!(rig.runtime.block_on(running.resume()).unwrap_err(), Refusal::NotPaused);
        publish(&mut publisher, &running, &between(0, 4000));
        // Into the middle of a group of pictures and out of it again.
        publish(&mut publisher, &running, &between(4000, 5500));
        let paused = rig.runtime.block_on(running.pause()).expect("it can be paused");
        assert_eq!(paused.status, Status::Paused);
        assert_eq!(rig.runtime.block_on(running.pause()).unwrap_err(), Refusal::Paused);
        assert_eq!(rig.runtime.block_on(running.split()).unwrap_err(), Refusal::Paused);
        publisher.publish(&mut between(5500, 7500));
        resume(&rig, &mut publisher, &running, between(7500, 12_000));
        let recording = rig.end(publisher, running);
        let what = format!("{formats} {:?}", audio.codec);
        let file = only_file(&recording);
        let written = [between(0, 5500), between(8000, 12_000)].concat();
        assert_eq!(decode(&file) as u64, sent(&written).0, "{what}");
        let (_, sound) = counts(&recording.parts[0]);
        assert!(sound.abs_diff(sent(&written).1) <= 1, "{what}: {sound} {:?}", sent(&written));
        assert!(recording.duration_ms.abs_diff(9_500) < 60, "{what}: {}", recording.duration_ms);
        let [gap] = &recording.lost.gaps[..] else { panic!("{what}: {recording:#?}") };
        assert_eq!((gap.kind, gap.frames), (GapKind::Pause, 0), "{what}");
        assert!(gap.at_ms.abs_diff(5500) < 60 && gap.by_ms.abs_diff(2500) < 60, "{what}: {gap:?}");
        assert_eq!(recording.lost.frames, 0, "{what}");
        assert_in_step(&recording.parts[0]);
    }
}

/// Resumes, and publishes when the recording asks for a key frame.
fn resume(rig: &Rig, publisher: &mut Publisher, running: &Running, mut frames: Vec<Frame>) {
    publisher.take_key_frame_request();
    let mut resumed = running.clone();
    let answer = rig.runtime.spawn(async move { resumed.resume().await });
    wait_until("a key frame is asked for", SOON, || publisher.take_key_frame_request());
    publisher.publish(&mut frames);
    let answer = rig.runtime.block_on(answer).expect("an answer").expect("it was paused");
    assert_eq!(answer.status, Status::Recording);
}

#[test]
fn a_publisher_who_comes_back_goes_on_in_the_same_file() {
    for (formats, video, audio) in kinds() {
        let mut rig = rig(formats);
        Arc::make_mut(&mut rig.policy).resume_window = Duration::from_secs(60);
        let tracks = [video.track(0), audio.track(1)];
        let (mut publisher, running) = rig.publish(&tracks);
        let frames = [video.frames(0, 0), audio.frames(1, 0)].concat();
        let mut sorted = frames.clone();
        sorted.sort_by_key(Frame::dts_ns);
        publish(&mut publisher, &running, &sorted);
        for n in 1..4 {
            publisher.end(EndReason::Disconnected);
            let (again, publishing) = rig.announce(&tracks);
            publisher = again;
            rejoin(&rig, &running, publishing);
            publish(&mut publisher, &running, &sorted);
            wait_until("it is recorded", SOON, || running.progress().sources_joined == n);
        }
        running.stop();
        let recording = rig.end(publisher, running);
        let what = format!("{formats} {:?}", audio.codec);
        assert_same_file(&recording, 4 * sent(&frames).0, GapKind::Reconnect, &what);
    }
}

/// Parts went on past the seam that lay in the time without media, up to the one after it.
#[test]
fn on_the_grid_of_the_clock_no_part_spans_a_seam_in_a_pause_or_an_absence() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let mut rig = rig("h264-mp4");
    let policy = Arc::make_mut(&mut rig.policy);
    (policy.rotation, policy.rotation_align) = (every(DAY_MS / 1000), RotationAlign::Clock);
    let h264 = video(Codec::H264, H264, (320, 180));
    let (mut publisher, mut running) = rig.publish(&[h264.track(0)]);
    publish(&mut publisher, &running, &h264.frames(0, 0));
    rig.runtime.block_on(running.pause()).expect("it can be paused");
    resume(&rig, &mut publisher, &running, h264.frames(0, DAY_MS));
    let at_ms = ORIGIN_MS + DAY_MS + 4_000;
    let by_ms = DAY_MS as i64;
    let away = Gap { kind: GapKind::Reconnect, at_ms, by_ms, at: None, frames: 0, packets: 0 };
    publisher.gap(away);
    publish(&mut publisher, &running, &h264.frames(0, DAY_MS + 4_000));
    let recording = rig.end(publisher, running);
    assert_eq!(recording.parts.iter().map(counts).collect::<Vec<_>>(), [(120, 0); 3], "{recording:#?}");
    let starts: Vec<_> = recording.parts.iter().map(|p| p.started_at.timestamp_millis()).collect();
    for (begins, before) in starts[1..].iter().zip(&starts) {
        assert!(
            (begins - before).abs_diff(by_ms + if before == &starts[0] { 0 } else { 4_000 }) < 100,
            "{starts:?}"
        );
    }
}

/// Its stream was sent faster than real time: by its clock it ended seconds from now, and the gap was told so.
#[test]
fn a_gap_begins_no_later_than_the_publisher_was_gone() {
    let mut rig = rig("h264-mp4");
    Arc::make_mut(&mut rig.policy).resume_window = Duration::from_secs(60);
    let h264 = video(Codec::H264, H264, (320, 180));
    let (mut publisher, running) = rig.publish(&[h264.track(0)]);
    publish(&mut publisher, &running, &h264.frames(0, 0));
    publisher.end(EndReason::Disconnected);
    let (mut publisher, publishing) = rig.announce(&[h264.track(0)]);
    rejoin(&rig, &running, publishing);
    let back = Utc::now();
    publish(&mut publisher, &running, &h264.frames(0, 0));
    wait_until("it is recorded", SOON, || running.progress().sources_joined == 1);
    let recording = rig.end_by_stop(publisher, running);
    let [gap] = &recording.lost.gaps[..] else { panic!("{recording:#?}") };
    let at = gap.at.expect("a time");
    assert!(at <= back, "{at} {back}");
    let told = at + TimeDelta::milliseconds(gap.by_ms);
    assert!((told - back).num_milliseconds().abs() < 2_000, "{gap:?} {back}");
}

/// The publisher was back in time, and the window ended while its first key frame was waited for.
#[test]
fn a_publisher_who_is_back_in_time_has_time_for_a_key_frame() {
    let mut rig = rig("h264-mp4");
    let window = Duration::from_millis(500);
    Arc::make_mut(&mut rig.policy).resume_window = window;
    let h264 = video(Codec::H264, H264, (320, 180));
    let (mut publisher, running) = rig.publish(&[h264.track(0)]);
    publish(&mut publisher, &running, &h264.frames(0, 0));
    publisher.end(EndReason::Disconnected);
    let (mut publisher, publishing) = rig.announce(&[h264.track(0)]);
    rejoin(&rig, &running, publishing);
    let back = Instant::now();
    let frames = h264.frames(0, 0);
    wait_until("the window is over, by far", SOON, || back.elapsed() > 2 * window);
    publish(&mut publisher, &running, &frames);
    wait_until("it is recorded", SOON, || running.progress().sources_joined == 1);
    let recording = rig.end_by_stop(publisher, running);
    assert_eq!(decode(&only_file(&recording)), 240);
}

/// A switch was asked for; that its stream's publisher came back first made it go on with that, and the call said done.
#[test]
fn who_comes_back_does_not_take_the_place_of_a_stream_that_was_asked_for() {
    let mut rig = rig("h264-mp4");
    Arc::make_mut(&mut rig.policy).resume_window = Duration::from_secs(60);
    let h264 = video(Codec::H264, H264, (320, 180));
    let tracks = [h264.track(0)];
    let (mut first, running) = rig.publish(&tracks);
    publish(&mut first, &running, &h264.frames(0, 0));
    let (mut other, Publishing { stream, from_start }) = rig.announce(&tracks);
    let asked = stream.id();
    let mut switched = running.clone();
    let source = Source { stream, subscriber: from_start };
    let answer = rig.runtime.spawn(async move { switched.switch(source).await });
    wait_until("a key frame is asked for", SOON, || other.take_key_frame_request());
    first.end(EndReason::Disconnected);
    let (_again, Publishing { stream, from_start }) = rig.announce(&tracks);
    let back = rig.runtime.block_on(running.rejoin(Source { stream, subscriber: from_start }));
    assert!(back.is_err(), "the recording goes elsewhere");
    other.publish(&mut h264.frames(0, 0));
    rig.runtime.block_on(answer).expect("an answer").expect("it goes over");
    wait_until("it is recorded", SOON, || running.progress().stream.id() == asked);
    let recording = rig.end_by_stop(other, running);
    assert_eq!(decode(&only_file(&recording)), 240);
}

fn rejoin(rig: &Rig, running: &Running, publishing: Publishing) {
    let source = Source { stream: publishing.stream, subscriber: publishing.from_start };
    assert!(rig.runtime.block_on(running.rejoin(source)).is_ok(), "it waits");
}

fn assert_same_file(recording: &Recording, pictures: u64, kind: GapKind, what: &str) {
    let file = only_file(recording);
    assert_eq!(decode(&file) as u64, pictures, "{what}");
    assert_eq!(recording.lost.gaps.len(), 3, "{what}: {recording:#?}");
    for (gap, n) in recording.lost.gaps.iter().zip(1..) {
        assert_eq!((gap.kind, gap.frames), (kind, 0), "{what}");
        assert!(gap.at_ms.abs_diff(n * 4000) < 40 * n, "{what}: {gap:?}");
    }
    assert!(recording.duration_ms.abs_diff(16_000) < 160, "{what}: {}", recording.duration_ms);
    assert_in_step(&recording.parts[0]);
}

#[test]
fn a_publisher_with_other_codecs_goes_on_in_the_next_part() {
    let mut rig = rig("h264-mp4,vp8-webm");
    Arc::make_mut(&mut rig.policy).resume_window = Duration::from_secs(60);
    let (h264, vp8) = (video(Codec::H264, H264, (320, 180)), video(Codec::Vp8, VP8, (320, 180)));
    let (mut publisher, running) = rig.publish(&[h264.track(0)]);
    publish(&mut publisher, &running, &h264.frames(0, 0));
    publisher.end(EndReason::Disconnected);
    let (mut publisher, publishing) = rig.announce(&[vp8.track(0)]);
    rejoin(&rig, &running, publishing);
    publish(&mut publisher, &running, &vp8.frames(0, 0));
    wait_until("it is recorded", SOON, || running.progress().parts_opened == 2);
    let recording = rig.end_by_stop(publisher, running);
    let [first, then] = &recording.parts[..] else { panic!("{recording:#?}") };
    assert_eq!((decode(&first.file), decode(&then.file)), (120, 120));
    assert_eq!((first.name.as_str(), then.name.as_str()), ("cam.mp4", "cam_2.webm"));
    // Once no part had the gap, so that a catalog made anew from the manifests did not either.
    let ([], [gap], [told]) = (&first.gaps[..], &then.gaps[..], &recording.lost.gaps[..]) else {
        panic!("{recording:#?}")
    };
    assert_eq!((gap.kind, gap.at_ms, gap.at), (GapKind::Reconnect, 0, told.at));
    assert!(told.at_ms.abs_diff(4000) < 40, "{told:?}");
}

#[test]
fn a_recording_goes_over_to_another_stream() {
    for (formats, video, audio) in kinds() {
        let rig = rig(formats);
        let tracks: [Track; 2] = [video.track(0), audio.track(1)];
        let (mut first, running) = rig.publish(&tracks);
        let mut frames = [video.frames(0, 0), audio.frames(1, 0)].concat();
        frames.sort_by_key(Frame::dts_ns);
        publish(&mut first, &running, &frames);
        let mut publisher = first;
        let mut others = Vec::new();
        for n in 1..4 {
            let (mut other, publishing) = rig.announce(&tracks);
            let stream = publishing.stream;
            let subscriber = stream.subscribe(256 << 20).expect("it publishes");
            let mut switched = running.clone();
            let answer =
                rig.runtime.spawn(async move { switched.switch(Source { stream, subscriber }).await });
            wait_until("a key frame is asked for", SOON, || other.take_key_frame_request());
            other.publish(&mut frames.clone());
            rig.runtime.block_on(answer).expect("an answer").expect("it goes over");
            assert_eq!(running.progress().sources_joined, n);
            others.push(std::mem::replace(&mut publisher, other));
            // What the one before still sends is not recorded.
            others.last_mut().expect("one").publish(&mut video.frames(0, 4000));
        }
        running.stop();
        let recording = rig.end(publisher, running);
        let what = format!("{formats} {:?}", audio.codec);
        assert_same_file(&recording, 4 * sent(&frames).0, GapKind::Switch, &what);
    }
}

/// The sound after the resume was written with the times of before the pause: a hole of the pause's length.
#[test]
fn a_stop_before_the_key_frame_of_a_resume_leaves_out_what_came_after_the_pause() {
    for (formats, video, audio) in kinds() {
        let rig = rig(formats);
        let (mut publisher, running) = rig.publish(&[video.track(0), audio.track(1)]);
        let frames = long(&video, &audio);
        let between = |from: u64, to: u64| {
            frames.iter().filter(|f| (from..to).contains(&ms_of(f))).cloned().collect::<Vec<_>>()
        };
        publish(&mut publisher, &running, &between(0, 4500));
        let (mut asked, what) = (running.clone(), format!("{formats} {:?}", audio.codec));
        rig.runtime.block_on(asked.pause()).expect("it can be paused");
        publisher.publish(&mut between(4500, 6100));
        publisher.take_key_frame_request();
        let answer = rig.runtime.spawn(async move { asked.resume().await });
        wait_until("a key frame is asked for", SOON, || publisher.take_key_frame_request());
        // Up to the next key frame.
        publisher.publish(&mut between(6100, 6900));
        running.stop();
        rig.runtime.block_on(answer).expect("an answer").expect("it was paused");
        let recording = rig.end(publisher, running);
        assert_eq!(decode(&only_file(&recording)) as u64, sent(&between(0, 4500)).0, "{what}");
        assert!(recording.duration_ms.abs_diff(4500) < 60, "{what}: {}", recording.duration_ms);
        let [gap] = &recording.lost.gaps[..] else { panic!("{what}: {recording:#?}") };
        assert_eq!((gap.kind, recording.lost.frames), (GapKind::Pause, 0), "{what}");
        assert!(gap.at_ms.abs_diff(4500) < 60 && recording.parts[0].gaps == recording.lost.gaps, "{what}");
    }
}
