use super::*;
use crate::media::MediaSessionId;
use std::{fs, path::Path};

/// A finished recording of one part whose file is `NAME.mp4`.
async fn finished(library: &Library, name: &str) -> (RecordingId, PathBuf) {
    let mut recording = testing::recording(0);
    recording.media_session_id = MediaSessionId::random();
    let id = recording.id;
    library.begin(&recording, &testing::hooked("/hooks/x.sh")).await.unwrap();
    let reserved = library.storage().reserve(|_| name.into(), "mp4").unwrap();
    fs::write(reserved.path(), format!("frames of {name}")).unwrap();
    library.begin_part(&id, 1, reserved.path(), recording.started_at).await.unwrap();
    let describe = |file: &FinishedFile| Part {
        file: file.file.clone(),
        name: file.name.clone(),
        size: file.size,
        sha256: file.sha256.clone(),
        ..testing::part(1)
    };
    let manifest = |file: &FinishedFile| Manifest::new(Identity::from(&recording), describe(file));
    let file = library.storage().finish(reserved, |_| name.into(), manifest).unwrap();
    library.commit_part(&id, &describe(&file)).await.unwrap();
    library.complete(&id, recording.started_at, &Lost::default()).await.unwrap();
    (id, file.file)
}

fn listing(library: &Library) -> Vec<String> {
    let entries = fs::read_dir(library.storage().folder()).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn count(library: &Library, table: &str) -> i64 {
    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(query).fetch_one(library.readers()).await.unwrap()
}

async fn poster(library: &Library) -> PosterJob {
    let job = library.next_poster().await.unwrap().expect("a part without a poster");
    assert!(library.set_poster(&job, b"jpeg".to_vec()).await.unwrap());
    job
}

#[tokio::test]
async fn a_poster_is_beside_its_file_and_in_its_manifest() {
    let (dir, library) = testing::library().await;
    let (id, file) = finished(&library, "cam").await;
    let job = poster(&library).await;
    assert_eq!((job.recording, job.number, &job.file), (id, 1, &file));
    assert_eq!(listing(&library), ["cam.mp4", "cam.mp4.jpg", "cam.mp4.json"]);
    assert_eq!(library.next_poster().await.unwrap(), None);
    let wanted = Some(poster_of(&file));
    assert_eq!(library.get(&id).await.unwrap().unwrap().parts[0].poster, wanted);
    assert_eq!(Manifest::read(&Manifest::path_of(&file)).unwrap().part.poster, wanted);

    // A catalog that is built again knows it, and makes no other.
    library.close().await;
    fs::remove_file(dir.path().join("state/reeld.db")).unwrap();
    let library = testing::reopen(&dir).await;
    testing::recover(&library, &HandOn::default(), |_| Ok(None)).await;
    assert_eq!(library.get(&id).await.unwrap().unwrap().parts[0].poster, wanted);
    assert_eq!(library.next_poster().await.unwrap(), None);
}

#[tokio::test]
async fn a_part_is_tried_twice_at_most() {
    let (_dir, library) = testing::library().await;
    finished(&library, "cam").await;
    for wanted in [true, true, false] {
        assert_eq!(library.next_poster().await.unwrap().is_some(), wanted);
    }
    finished(&library, "other").await;
    let job = library.next_poster().await.unwrap().expect("one");
    library.no_poster(&job).await.unwrap();
    assert_eq!(library.next_poster().await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_recording() {
    let (_dir, library) = testing::library().await;
    let (other, _) = finished(&library, "other").await;
    let (id, _) = finished(&library, "cam").await;
    poster(&library).await;
    library.delete(&id).await.unwrap();
    assert_eq!(listing(&library), ["other.mp4", "other.mp4.json"]);
    assert_eq!(library.get(&id).await.unwrap(), None);
    assert!(library.get(&other).await.unwrap().is_some());
    for (table, rows) in [("part", 1), ("outbox", 1), ("writing", 0), ("deleting", 0)] {
        assert_eq!(count(&library, table).await, rows, "{table}");
    }
    assert!(matches!(library.delete(&id).await, Err(LibraryError::Unknown(_))));
    assert!(library.interrupted().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_that_runs_is_refused() {
    let (_dir, library) = testing::library().await;
    let recording = testing::recording(0);
    library.begin(&recording, &testing::hooked("/hooks/x.sh")).await.unwrap();
    for status in [Status::Starting, Status::Recording, Status::Paused, Status::Finalizing] {
        library.update_status(&recording.id, status).await.unwrap();
        let refused = library.delete(&recording.id).await;
        assert!(matches!(refused, Err(LibraryError::NotEnded { .. })), "{status:?}: {refused:?}");
    }
    library.fail(&recording.id, recording.started_at, &Lost::default(), "x").await.unwrap();
    library.delete(&recording.id).await.unwrap();
}

/// A poster that was being made when its recording was deleted brought its manifest back, and with it the name.
#[tokio::test]
async fn a_poster_that_comes_too_late_leaves_nothing() {
    let (_dir, library) = testing::library().await;
    let (id, _) = finished(&library, "cam").await;
    let job = library.next_poster().await.unwrap().expect("a part");
    library.delete(&id).await.unwrap();
    assert!(!library.set_poster(&job, b"jpeg".to_vec()).await.unwrap());
    assert_eq!(listing(&library), [] as [&str; 0]);
}

#[tokio::test]
async fn the_part_file_of_a_failed_recording_goes_with_it() {
    let (_dir, library) = testing::library().await;
    let recording = testing::recording(0);
    library.begin(&recording, &testing::hooked("/hooks/x.sh")).await.unwrap();
    let part = library.storage().reserve(|_| "cam".into(), "mp4").unwrap();
    fs::write(part.path(), "no end").unwrap();
    library.begin_part(&recording.id, 1, part.path(), recording.started_at).await.unwrap();
    library.fail(&recording.id, recording.started_at, &Lost::default(), "x").await.unwrap();
    library.delete(&recording.id).await.unwrap();
    assert_eq!(listing(&library), [] as [&str; 0]);
}

/// Where a daemon may die: what is on the disk then, and that the next start leaves nothing of it.
#[tokio::test]
async fn a_crash_half_way_brings_nothing_back() {
    type Crash = fn(&Path);
    let gone = |file: &Path| fs::remove_file(file).unwrap();
    let crashes: [(&str, Crash); 4] = [
        ("before the first file", |_| {}),
        ("after the file", |file| fs::remove_file(file).unwrap()),
        ("after the manifest", |file| {
            fs::remove_file(file).unwrap();
            fs::remove_file(Manifest::path_of(file)).unwrap();
        }),
        ("before the notes went", |file| {
            for path in [file, &Manifest::path_of(file), &poster_of(file)] {
                fs::remove_file(path).unwrap();
            }
        }),
    ];
    for (when, crash) in crashes {
        let (dir, library) = testing::library().await;
        let (id, file) = finished(&library, "cam").await;
        poster(&library).await;
        note(&library, &id).await;
        crash(&file);
        library.close().await;
        let library = testing::reopen(&dir).await;
        assert!(library.interrupted().await.unwrap().is_empty(), "{when}");
        testing::recover(&library, &HandOn::default(), |_| Ok(None)).await;
        assert_eq!(listing(&library), [] as [&str; 0], "{when}");
        assert_eq!(count(&library, "deleting").await, 0, "{when}");
        assert_eq!(library.get(&id).await.unwrap(), None, "{when}");
    }
    // By the next start the name is another recording's.
    let (dir, library) = testing::library().await;
    let (id, file) = finished(&library, "cam").await;
    note(&library, &id).await;
    gone(&file);
    gone(&Manifest::path_of(&file));
    let (new, _) = finished(&library, "cam").await;
    library.close().await;
    let library = testing::reopen(&dir).await;
    testing::recover(&library, &HandOn::default(), |_| Ok(None)).await;
    assert_eq!(listing(&library), ["cam.mp4", "cam.mp4.json"]);
    assert!(library.get(&new).await.unwrap().is_some());
    assert_eq!(count(&library, "deleting").await, 0);
}

/// The first step of a deletion, and no other.
async fn note(library: &Library, id: &RecordingId) {
    library.forget(id).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_is_no_stray() {
    let (dir, library) = testing::library().await;
    let (id, file) = finished(&library, "cam").await;
    // A folder in place of the file: removing it fails, whoever asks.
    fs::rename(&file, dir.path().join("kept")).unwrap();
    fs::create_dir(&file).unwrap();
    let error = library.delete(&id).await.unwrap_err().to_string();
    assert!(error.contains("cam.mp4 could not be removed"), "{error}");
    assert_eq!(library.get(&id).await.unwrap(), None);
    fs::remove_dir(&file).unwrap();
    fs::rename(dir.path().join("kept"), &file).unwrap();
    assert!(library.interrupted().await.unwrap().is_empty());
    assert_eq!(listing(&library), [] as [&str; 0]);
}
