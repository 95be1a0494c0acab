//! The catalog on a real database.

use super::outbox::HELD_ATTEMPTS;
use super::testing::{library, part, ran, recording, reopen};
use super::*;
use crate::media::{Gap, GapKind};
use chrono::{DateTime, TimeDelta, Utc};
use std::path::Path;

fn hook() -> HandOn {
    testing::hooked("/hooks/on_record_hook.sh")
}

fn lost() -> Lost {
    let gap = Gap { kind: GapKind::Overflow, at_ms: 1, by_ms: 2, at: None, frames: 3, packets: 0 };
    Lost { packets: 4, frames: 5, gaps: vec![gap] }
}

async fn with_parts(library: &Library, parts: u32) -> Recording {
    let recording = recording(0);
    library.begin(&recording, &hook()).await.unwrap();
    for number in 1..=parts {
        library.commit_part(&recording.id, &part(number)).await.unwrap();
    }
    recording
}

async fn due_parts(library: &Library) -> Vec<u32> {
    testing::due(library).await.iter().filter_map(|d| d.part).collect()
}

/// A catalog as the first version left it: its tables, and its JSON.
async fn of_the_first_version(dir: &Path) {
    std::fs::create_dir_all(dir.join("state")).unwrap();
    let pool =
        sqlx::SqlitePool::connect_with(super::options(dir.join("state/reeld.db").to_str().unwrap()).unwrap());
    let pool = pool.await.unwrap();
    let mut first = sqlx::migrate!("src/library/migrations");
    first.migrations = first.migrations.iter().take(1).cloned().collect();
    first.run(&pool).await.unwrap();
    sqlx::raw_sql(
        r#"INSERT INTO recording VALUES ('6f1c0f7a-5b0e-4a52-9d39-4f5b8f6b2f01', 'finalizing', 'live', 'live', 'cam', '6f1c0f7a-5b0e-4a52-9d39-4f5b8f6b2f01', 's', 'rtmp', 'mp4', 1, NULL,
           2000, 1000, '{"packets":0,"frames":2,"gaps":[{"kind":"overflow","atMs":1,"byMs":2,"frames":2}]}', NULL);
           INSERT INTO part VALUES ('6f1c0f7a-5b0e-4a52-9d39-4f5b8f6b2f01', 1, '/records/cam.mp4', 'cam.mp4', 1000, 'ab', 1, 2000,
           '{"codec":"h264","width":320,"height":180,"frames":60,"keyframes":2}', NULL,
           '[{"kind":"overflow","atMs":1,"byMs":2,"frames":2}]', NULL);
           INSERT INTO writing VALUES ('6f1c0f7a-5b0e-4a52-9d39-4f5b8f6b2f01', 2, '/records/cam_2.mp4.part');
           INSERT INTO outbox VALUES (1, 'hook', '6f1c0f7a-5b0e-4a52-9d39-4f5b8f6b2f01', 1, '{"script":"/hooks/on_record_hook.sh","status":"completed"}',
           'waiting', 0, NULL, 0);"#,
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_catalog_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    of_the_first_version(dir.path()).await;
    let library = reopen(&dir).await;
    let [old] = &library.list(&Filter::default()).await.unwrap().items[..] else { panic!("one recording") };
    let gap = Gap { kind: GapKind::Overflow, at_ms: 1, by_ms: 2, at: None, frames: 2, packets: 0 };
    assert_eq!(old.lost, Lost { packets: 0, frames: 2, gaps: vec![gap.clone()] });
    let [first] = &old.parts[..] else { panic!("{old:?}") };
    assert_eq!(
        (first.lost, &first.degraded[..], &first.gaps[..]),
        (PartLost::default(), &[][..], &[gap][..])
    );
    assert_eq!(due_parts(&library).await, [1]);
    library.commit_part(&old.id, &part(2)).await.unwrap();
    library.complete(&old.id, Utc::now(), &lost()).await.unwrap();
    let ended = library.get(&old.id).await.unwrap().unwrap();
    assert_eq!((ended.parts.len(), ended.degraded), (2, part(2).degraded));
}

#[tokio::test]
async fn a_recording_is_read_as_it_was_entered() {
    let (dir, library) = library().await;
    let mut expected = recording(0);
    library.begin(&expected, &HandOn::default()).await.unwrap();
    assert_eq!(library.get(&expected.id).await.unwrap().as_ref(), Some(&expected));

    library.begin_part(&expected.id, 1, Path::new("/records/x.mp4.part"), Utc::now()).await.unwrap();
    library.update_status(&expected.id, Status::Recording).await.unwrap();
    for number in [2, 1] {
        library.commit_part(&expected.id, &part(number)).await.unwrap();
    }
    let ended_at = expected.started_at + TimeDelta::seconds(9);
    library.complete(&expected.id, ended_at, &lost()).await.unwrap();

    expected.status = Status::Completed;
    expected.ended_at = Some(ended_at);
    expected.parts = vec![part(1), part(2)];
    expected.duration_ms = 4000;
    expected.size = 2000;
    expected.lost = lost();
    expected.degraded = part(1).degraded;
    library.close().await;
    let library = reopen(&dir).await;
    assert_eq!(library.get(&expected.id).await.unwrap(), Some(expected));
    assert_eq!(library.get(&RecordingId::random()).await.unwrap(), None);
}

#[tokio::test]
async fn the_status_only_moves_forward() {
    let (_dir, library) = library().await;
    let id = recording_in(&library, Status::Recording).await;
    library.update_status(&id, Status::Recording).await.unwrap();
    assert!(matches!(library.update_status(&id, Status::Starting).await, Err(LibraryError::Past { .. })));
    library.fail(&id, Utc::now(), &lost(), "disk full").await.unwrap();
    let failed = library.get(&id).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.error.as_deref()), (Status::Failed, Some("disk full")));
    assert!(matches!(library.complete(&id, Utc::now(), &lost()).await, Err(LibraryError::Past { .. })));
    let unknown = RecordingId::random();
    assert!(matches!(
        library.update_status(&unknown, Status::Recording).await,
        Err(LibraryError::Unknown(_))
    ));
    assert!(matches!(library.commit_part(&unknown, &part(1)).await, Err(LibraryError::Unknown(_))));
}

async fn recording_in(library: &Library, status: Status) -> RecordingId {
    let recording = recording(0);
    library.begin(&recording, &HandOn::default()).await.unwrap();
    library.update_status(&recording.id, status).await.unwrap();
    recording.id
}

#[tokio::test]
async fn a_part_that_cannot_be_entered_leaves_nothing_behind() {
    let (_dir, library) = library().await;
    let recording = with_parts(&library, 1).await;
    assert!(library.commit_part(&recording.id, &part(1)).await.is_err());
    let got = library.get(&recording.id).await.unwrap().unwrap();
    assert_eq!((got.duration_ms, got.parts.len()), (2000, 1));
    assert_eq!(due_parts(&library).await, [1]);
}

#[tokio::test]
async fn what_the_last_daemon_left_is_failed_and_names_the_file() {
    let (dir, library) = library().await;
    let part_file = dir.path().join("records/cam.mp4.part");
    std::fs::write(&part_file, "frames").unwrap();
    let open = recording_in(&library, Status::Recording).await;
    library.begin_part(&open, 1, Path::new("/gone.mp4.part"), Utc::now()).await.unwrap();
    library.begin_part(&open, 2, &part_file, Utc::now()).await.unwrap();
    let empty = recording_in(&library, Status::Starting).await;
    library.begin_part(&empty, 1, Path::new("/gone.mp4.part"), Utc::now()).await.unwrap();
    let ended = recording_in(&library, Status::Finalizing).await;
    library.complete(&ended, Utc::now(), &lost()).await.unwrap();

    let next = reopen(&dir).await;
    let found = testing::recover(&next, &HandOn::default(), |_| Ok(None)).await;
    assert_eq!(found.len(), 2);
    let error = |id| found.iter().find(|r| r.id == id).and_then(|r| r.error.clone()).unwrap();
    assert!(error(open).contains(&format!("is in {} and plays", part_file.display())), "{}", error(open));
    assert!(error(empty).contains("nothing is left"));
    let got = next.get(&open).await.unwrap().unwrap();
    let changed: DateTime<Utc> = part_file.metadata().unwrap().modified().unwrap().into();
    assert_eq!(got.status, Status::Failed);
    assert_eq!(got.ended_at.unwrap().timestamp_millis(), changed.timestamp_millis());
    assert!(testing::recover(&next, &HandOn::default(), |_| Ok(None)).await.is_empty());
}

#[tokio::test]
async fn a_hook_is_due_from_the_commit_until_it_is_done() {
    let (dir, library) = library().await;
    let recording = with_parts(&library, 1).await;

    // The daemon dies here: the next one finds the hook due.
    let next = reopen(&dir).await;
    let due = testing::due(&next).await;
    let [delivery] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!((delivery.recording, delivery.part, delivery.attempts), (Some(recording.id), Some(1), 0));
    let job = HookJob { script: "/hooks/on_record_hook.sh".into(), status: Status::Completed };
    assert_eq!(delivery.job, Job::Hook(job));
    let of = delivery.of.as_ref().unwrap();
    assert_eq!((of.media_session_id, &of.file), (recording.media_session_id, &part(1).file));

    let now = Utc::now();
    let at = now + TimeDelta::seconds(5);
    next.outbox_retry(delivery.id, &ran(1, 1), now, at).await.unwrap();
    assert!(due_parts(&next).await.is_empty());
    let next_due = next.outbox_next_due(DeliveryKind::Hook, now).await.unwrap().unwrap();
    assert_eq!(next_due.timestamp_millis(), at.timestamp_millis());
    let again = testing::due_at(&next, next_due).await;
    assert_eq!((again[0].attempts, &again[0].key), (1, &delivery.key));
    assert_eq!(again[0].first_tried_at.unwrap().timestamp_millis(), now.timestamp_millis());

    next.outbox_done(delivery.id, &ran(0, 2)).await.unwrap();
    assert!(testing::due_at(&next, at).await.is_empty());
    assert_eq!(next.outbox_next_due(DeliveryKind::Hook, now).await.unwrap(), None);
    assert_eq!(next.get(&recording.id).await.unwrap().unwrap().parts[0].hook, ran(0, 2).hook);
    next.outbox_done(delivery.id, &ran(1, 3)).await.unwrap();
    assert_eq!(next.get(&recording.id).await.unwrap().unwrap().parts[0].hook, ran(0, 2).hook);
}

#[tokio::test]
async fn later_parts_wait_for_earlier_ones_but_not_for_ever() {
    let (_dir, library) = library().await;
    let recording = with_parts(&library, 3).await;
    let other = with_parts(&library, 1).await;
    let due = testing::due(&library).await;
    assert_eq!(
        due.iter().map(|d| (d.recording, d.part)).collect::<Vec<_>>(),
        [(Some(recording.id), Some(1)), (Some(other.id), Some(1))]
    );
    library.outbox_done(due[1].id, &ran(0, 1)).await.unwrap();

    let now = Utc::now();
    let later = now + TimeDelta::hours(1);
    for attempt in 1..HELD_ATTEMPTS {
        library.outbox_retry(due[0].id, &ran(1, attempt), now, later).await.unwrap();
        assert!(due_parts(&library).await.is_empty(), "attempt {attempt}");
    }
    library.outbox_retry(due[0].id, &ran(1, HELD_ATTEMPTS), now, later).await.unwrap();
    assert_eq!(due_parts(&library).await, [2]);

    // The first one done lets nobody past the second.
    library.outbox_done(due[0].id, &ran(0, 6)).await.unwrap();
    assert_eq!(due_parts(&library).await, [2]);
    let second = testing::due(&library).await[0].id;
    library.outbox_give_up(second, &ran(1, 9)).await.unwrap();
    assert_eq!(due_parts(&library).await, [3]);
    library.commit_part(&recording.id, &part(4)).await.unwrap();
    assert_eq!(due_parts(&library).await, [3]);
}

#[tokio::test]
async fn deliveries_tell_how_far_each_hook_is() {
    use DeliveryState::{Dead, Done, Failed, Pending};
    let (_dir, library) = library().await;
    let recording = with_parts(&library, 3).await;
    let states = async || {
        let got = library.get(&recording.id).await.unwrap().unwrap();
        let page = library.list(&filter()).await.unwrap();
        assert_eq!(page.items, std::slice::from_ref(&got));
        got.deliveries.iter().map(|d| (d.part.unwrap(), d.state, d.attempts)).collect::<Vec<_>>()
    };
    assert_eq!(states().await, [(1, Pending, 0), (2, Pending, 0), (3, Pending, 0)]);

    let first = testing::due(&library).await[0].id;
    library.outbox_retry(first, &ran(1, 1), Utc::now(), Utc::now()).await.unwrap();
    assert_eq!(states().await, [(1, Failed, 1), (2, Pending, 0), (3, Pending, 0)]);
    library.outbox_done(first, &ran(0, 2)).await.unwrap();
    let second = testing::due(&library).await[0].id;
    library.outbox_give_up(second, &ran(1, 7)).await.unwrap();
    assert_eq!(states().await, [(1, Done, 2), (2, Dead, 7), (3, Pending, 0)]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_stop_the_others() {
    let (_dir, library) = library().await;
    with_parts(&library, 2).await;
    sqlx::query("UPDATE outbox SET job = 'nonsense' WHERE part = 1")
        .execute(library.readers())
        .await
        .unwrap();
    assert!(due_parts(&library).await.is_empty());
    assert_eq!(due_parts(&library).await, [2]);
}

fn filter() -> Filter {
    Filter::default()
}

#[tokio::test]
async fn pages_hold_every_recording_once_newest_first() {
    let (_dir, library) = library().await;
    // Several start in the same ms.
    for n in 0..10 {
        library.begin(&recording(n / 3), &HandOn::default()).await.unwrap();
    }
    let mut seen: Vec<Recording> = Vec::new();
    let mut cursor = None;
    loop {
        let page = library.list(&Filter { limit: 3, cursor, ..filter() }).await.unwrap();
        seen.extend(page.items);
        cursor = page.next_cursor;
        if seen.len() == 3 {
            library.begin(&recording(99), &HandOn::default()).await.unwrap();
        }
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 10);
    assert!(seen.windows(2).all(|w| (w[0].started_at_ms, w[0].id) > (w[1].started_at_ms, w[1].id)));
    let all = library.list(&filter()).await.unwrap();
    assert_eq!((all.items.len(), all.next_cursor), (11, None));
}

#[tokio::test]
async fn filters() {
    let (_dir, library) = library().await;
    for n in 0..4 {
        let mut r = recording(n);
        if n % 2 == 1 {
            r.room_name = "o'hara\"; DROP TABLE recording".into();
            r.room_id = "r-2".into();
        }
        r.stream_name = format!("cam{n}");
        r.status = if n < 3 { Status::Starting } else { Status::Completed };
        library.begin(&r, &HandOn::default()).await.unwrap();
        library.commit_part(&r.id, &part(1)).await.unwrap();
    }
    let at = |second| recording(second).started_at;
    let session = library.list(&filter()).await.unwrap().items[1].media_session_id;
    let room = Some("o'hara\"; DROP TABLE recording".to_owned());
    let cases = [
        (filter(), vec![3, 2, 1, 0]),
        (Filter { room: room.clone(), ..filter() }, vec![3, 1]),
        (Filter { room: room.clone(), status: Some(Status::Starting), ..filter() }, vec![1]),
        (Filter { room_id: Some("r-1".into()), ..filter() }, vec![2, 0]),
        (Filter { stream: Some("cam2".into()), ..filter() }, vec![2]),
        (Filter { stream: Some("cam2".into()), room, ..filter() }, vec![]),
        (Filter { status: Some(Status::Completed), ..filter() }, vec![3]),
        (Filter { media_session_id: Some(session), ..filter() }, vec![2]),
        (Filter { from: Some(at(1)), to: Some(at(3)), ..filter() }, vec![2, 1]),
        (Filter { stream: Some(String::new()), ..filter() }, vec![]),
    ];
    for (filter, expected) in cases {
        let page = library.list(&filter).await.unwrap();
        let got: Vec<_> = page.items.iter().map(|r| r.stream_name.clone()).collect();
        let expected: Vec<_> = expected.iter().map(|n| format!("cam{n}")).collect();
        assert_eq!(got, expected, "{filter:?}");
        assert!(page.items.iter().all(|r| r.parts == [part(1)]));
    }
}

#[tokio::test]
async fn bad_pages_are_refused() {
    let (_dir, library) = library().await;
    for limit in [0, Filter::MAX_LIMIT + 1] {
        let got = library.list(&Filter { limit, ..filter() }).await;
        assert!(matches!(got, Err(LibraryError::Limit(_))), "{limit}");
    }
    for cursor in ["", "x", "!!", "AAAA", &"A".repeat(40), &"A".repeat(100_000), "é"] {
        let got = library.list(&Filter { cursor: Some(cursor.into()), ..filter() }).await;
        assert!(matches!(got, Err(LibraryError::Cursor)), "{cursor:.50}");
    }
}
