use super::*;
use chrono::Utc;
use std::fs;

/// A finished recording of one part, to be handed on as `hand_on` says.
async fn finished(library: &Library, hand_on: &HandOn) -> (RecordingId, PathBuf) {
    let recording = testing::recording(0);
    let id = recording.id;
    library.begin(&recording, hand_on).await.unwrap();
    let reserved = library.storage().reserve(|_| "cam".into(), "mp4").unwrap();
    fs::write(reserved.path(), "frames").unwrap();
    library.begin_part(&id, 1, reserved.path(), recording.started_at).await.unwrap();
    let describe = |file: &FinishedFile| Part {
        file: file.file.clone(),
        name: file.name.clone(),
        size: file.size,
        sha256: file.sha256.clone(),
        video: None,
        ..testing::part(1)
    };
    let manifest = |file: &FinishedFile| Manifest::new(Identity::from(&recording), describe(file));
    let file = library.storage().finish(reserved, |_| "cam".into(), manifest).unwrap();
    library.commit_part(&id, &describe(&file)).await.unwrap();
    library.complete(&id, recording.started_at, &Lost::default()).await.unwrap();
    (id, file.file)
}

fn to_store() -> HandOn {
    HandOn { uploads: vec![UploadTo::Storage], ..HandOn::default() }
}

fn object() -> Remote {
    Remote { url: "s3://bucket/a/cam.mp4".into(), etag: Some("\"x\"".into()) }
}

async fn upload(library: &Library) -> Delivery {
    let mut due = testing::due_of(library, DeliveryKind::Upload, Utc::now()).await;
    due.pop().expect("an upload")
}

async fn copies(library: &Library) -> Vec<LocalCopy> {
    library.local_copies(Utc::now(), (i64::MIN, 0)).await.unwrap()
}

/// Uploaded, and everything delivered.
async fn uploaded(library: &Library, id: &RecordingId) {
    let delivery = upload(library).await;
    assert!(library.set_remote(id, 1, &object(), Utc::now()).await.unwrap());
    library.outbox_done(delivery.id, &Tried { attempts: 1, ..Tried::default() }).await.unwrap();
}

async fn part_of(library: &Library, id: &RecordingId) -> Part {
    library.get(id).await.unwrap().unwrap().parts.remove(0)
}

#[tokio::test]
async fn a_file_may_go_when_all_of_it_is_delivered_and_not_before() {
    let (_dir, library) = testing::library().await;
    let hand_on = HandOn { hook: Some("/hooks/x.sh".into()), ..to_store() };
    let (id, file) = finished(&library, &hand_on).await;
    assert_eq!(copies(&library).await, [], "it is not in the store");
    let delivery = upload(&library).await;
    assert!(library.set_remote(&id, 1, &object(), Utc::now()).await.unwrap());
    let manifest = Manifest::read(&Manifest::path_of(&file)).unwrap();
    assert_eq!((manifest.part.remote, manifest.part.local), (Some(object().url), true));
    assert_eq!(copies(&library).await, [], "its upload has not ended");
    library.outbox_done(delivery.id, &Tried { attempts: 1, ..Tried::default() }).await.unwrap();
    assert_eq!(copies(&library).await, [], "its hook has not run");
    let hook = testing::due(&library).await.remove(0);
    library.outbox_give_up(hook.id, &testing::ran(1, 9)).await.unwrap();
    assert_eq!(copies(&library).await, [], "what was given up is not delivered");
    let dead = LocalCopy {
        recording: id,
        number: 1,
        remote: object(),
        size: 6,
        sha256: String::new(),
        after: (0, 0),
    };
    assert!(!library.free_local(&dead).await.unwrap() && file.exists());

    library.outbox_done(hook.id, &testing::ran(0, 10)).await.unwrap();
    let before = Utc::now() - chrono::TimeDelta::hours(1);
    assert_eq!(library.local_copies(before, (i64::MIN, 0)).await.unwrap(), [], "it is to stay for a while");
    let copy = copies(&library).await.pop().expect("a file that may go");
    assert_eq!((copy.recording, copy.number, &copy.remote, copy.size), (id, 1, &object(), 6));
    let elsewhere = Remote { url: "s3://bucket/b/cam.mp4".into(), etag: None };
    assert!(!library.free_local(&LocalCopy { remote: elsewhere, ..copy.clone() }).await.unwrap());
    assert!(library.free_local(&copy).await.unwrap());
    assert!(!file.exists());
    let part = part_of(&library, &id).await;
    assert_eq!((part.remote, part.local), (Some(object().url), false));
    assert!(!library.free_local(&copy).await.unwrap(), "it is gone");
    assert_eq!(copies(&library).await, []);
}

#[tokio::test]
async fn a_crash_between_the_steps_is_gone_on_from() {
    for file_went in [false, true] {
        let (_dir, library) = testing::library().await;
        let (id, file) = finished(&library, &to_store()).await;
        uploaded(&library, &id).await;
        let copy = copies(&library).await.pop().expect("a file that may go");
        remote::replace_manifest(&file, (id, 1), |part| part.local = false).unwrap();
        if file_went {
            fs::remove_file(&file).unwrap();
        }
        assert!(library.free_local(&copy).await.unwrap());
        assert!(!file.exists() && !part_of(&library, &id).await.local, "{file_went}");
    }
}

#[tokio::test]
async fn a_new_catalog_has_what_is_in_the_store_only() {
    let (dir, library) = testing::library().await;
    let (id, file) = finished(&library, &to_store()).await;
    uploaded(&library, &id).await;
    let copy = copies(&library).await.pop().expect("a file that may go");
    assert!(library.free_local(&copy).await.unwrap());
    let before = part_of(&library, &id).await;
    library.close().await;
    fs::remove_file(dir.path().join("state/reeld.db")).unwrap();

    let library = testing::reopen(&dir).await;
    let hand_on = HandOn { hook: Some("/hooks/x.sh".into()), ..to_store() };
    testing::recover(&library, &hand_on, |_| Ok(None)).await;
    assert_eq!(part_of(&library, &id).await, before);
    assert_eq!(testing::due(&library).await, [], "there is no file for it");
    assert_eq!(testing::due_of(&library, DeliveryKind::Upload, Utc::now()).await, []);
    // One that has been brought back is here again for a catalog that is made after it.
    library.close().await;
    fs::remove_file(dir.path().join("state/reeld.db")).unwrap();
    fs::write(&file, "frames").unwrap();
    let library = testing::reopen(&dir).await;
    testing::recover(&library, &hand_on, |_| Ok(None)).await;
    assert!(part_of(&library, &id).await.local);
}

#[tokio::test]
async fn what_is_deleted_here_is_noted_to_be_deleted_there() {
    let (_dir, library) = testing::library().await;
    let (id, _) = finished(&library, &to_store()).await;
    let delivery = upload(&library).await;
    let progress = serde_json::json!({"object": object().url, "upload": "u-1", "parts": [null]});
    library.outbox_progress(delivery.id, &progress).await.unwrap();
    library.delete(&id).await.unwrap();
    let noted = library.remote_deletions("").await.unwrap();
    let under_way = RemoteDeletion {
        object: Remote { etag: None, ..object() },
        recording: id,
        number: 1,
        upload: Some("u-1".into()),
    };
    assert_eq!(noted, std::slice::from_ref(&under_way));
    assert_eq!(library.remote_deletions(&object().url).await.unwrap(), []);
    library.remote_deleted(&under_way).await.unwrap();
    assert_eq!(library.remote_deletions("").await.unwrap(), []);

    // Its upload ends after all.
    assert!(!library.set_remote(&id, 1, &object(), Utc::now()).await.unwrap());
    let noted = library.remote_deletions("").await.unwrap().pop().expect("a note");
    assert_eq!((noted.object, noted.upload), (object(), None));

    let (other, _) = finished(&library, &to_store()).await;
    uploaded(&library, &other).await;
    library.delete(&other).await.unwrap();
    let noted = library.remote_deletions("").await.unwrap().pop().expect("a note");
    assert_eq!((noted.recording, noted.object), (other, object()));
}

#[tokio::test]
async fn the_files_that_may_go_are_found_by_their_index() {
    let (_dir, library) = testing::library().await;
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "EXPLAIN QUERY PLAN SELECT p.* FROM part p INDEXED BY part_to_free WHERE {} AND p.remote_at_ms <= 1",
        remote::DELIVERED
    )))
    .fetch_all(library.readers())
    .await
    .unwrap();
    let told = plan.into_iter().map(|(.., detail)| detail).collect::<Vec<_>>().join("\n");
    assert!(told.contains("part_to_free") && !told.contains("SCAN o"), "{told}");
}
