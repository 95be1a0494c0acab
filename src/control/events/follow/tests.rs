use super::*;
use crate::{
    hub::{Announce, Hub, PrerollRule},
    library::testing,
    media::{Protocol, RoomName, StreamName},
};
use RecordingChange::*;

fn progress() -> Progress {
    let (hub, _publishing) = Hub::new(1 << 20, PrerollRule::default());
    let announce = Announce {
        room: RoomName::default(),
        name: StreamName::new("cam").expect("a name"),
        protocol: Protocol::Rtmp,
        remote: ([127, 0, 0, 1], 5).into(),
        session_id: "s".into(),
        record: false,
    };
    let stream = hub.publish(announce).expect("a free name").stream().clone();
    Progress {
        recording: testing::recording(0),
        stream,
        file_name: None,
        parts_opened: 0,
        sources_joined: 0,
        disk_full: false,
        done: false,
    }
}

type News = Vec<(RecordingChange, Option<u32>)>;

fn steps(steps: &[fn(&mut Progress)]) -> Vec<News> {
    let (mut now, mut seen) = (progress(), Seen::default());
    steps
        .iter()
        .map(|step| {
            step(&mut now);
            seen.news(&now)
        })
        .collect()
}

fn opened(number: u32) -> impl Fn(&mut Progress) {
    move |p| {
        p.parts_opened = number;
        p.recording.status = Status::Recording;
    }
}

fn whole(p: &mut Progress, number: u32) {
    p.recording.parts.push(testing::part(number));
}

fn end(p: &mut Progress, status: Status) {
    (p.recording.status, p.done) = (status, true);
}

#[test]
fn a_recording_is_told_from_its_first_frame_to_its_end() {
    let told = steps(&[
        |_| {},
        |p| p.parts_opened = 1,
        |p| opened(1)(p),
        |p| p.recording.lost.frames = 3,
        |p| p.recording.status = Status::Paused,
        |p| p.recording.status = Status::Recording,
        |p| p.parts_opened = 2,
        |p| whole(p, 1),
        |p| p.recording.degraded.push("no sound".into()),
        |p| p.recording.status = Status::Finalizing,
        |p| whole(p, 2),
        |p| end(p, Status::Completed),
    ]);
    let expected: [News; 12] = [
        vec![],
        vec![],
        vec![(Started, None)],
        vec![],
        vec![(Paused, None)],
        vec![(Resumed, None)],
        vec![(Rotated, Some(2))],
        vec![(Part, Some(1))],
        vec![(Degraded, None)],
        vec![(Stopping, None)],
        vec![(Part, Some(2))],
        vec![(Completed, None)],
    ];
    assert_eq!(told, expected);
}

#[test]
fn changes_that_come_together_are_told_in_their_order() {
    let told = steps(&[|p| {
        opened(3)(p);
        (1..=3).for_each(|n| whole(p, n));
        end(p, Status::Completed);
    }]);
    let rotated = [(Rotated, Some(2)), (Rotated, Some(3)), (Stopping, None)];
    let parts = (1..=3).map(|n| (Part, Some(n)));
    let expected: News =
        std::iter::once((Started, None)).chain(rotated).chain(parts).chain([(Completed, None)]).collect();
    assert_eq!(told, [expected]);
}

#[test]
fn one_that_never_had_a_frame_fails_without_having_started() {
    let told = steps(&[|p| p.recording.status = Status::Finalizing, |p| end(p, Status::Failed)]);
    assert_eq!(told, [vec![(Stopping, None)], vec![(Failed, None)]]);
}

#[test]
fn one_that_ends_while_it_is_paused_is_not_resumed() {
    let told = steps(&[
        |p| opened(1)(p),
        |p| p.recording.status = Status::Paused,
        |p| p.recording.status = Status::Finalizing,
    ]);
    assert_eq!(told[1..], [vec![(Paused, None)], vec![(Stopping, None)]]);
}
