//! A daemon that dies between a file and the catalog, on real files and a real database.

use super::testing::{library, part, recording, recover, reopen};
use super::*;
use chrono::{DateTime, Utc};
use std::{fs, path::Path};
use tempfile::TempDir;

fn hook() -> HandOn {
    testing::hooked("/hooks/on_record_hook.sh")
}

async fn recording_in(library: &Library, status: Status) -> Recording {
    let recording = recording(0);
    library.begin(&recording, &hook()).await.unwrap();
    library.update_status(&recording.id, status).await.unwrap();
    recording
}

/// A part that is noted and has bytes, as the muxer leaves it.
async fn write_part(library: &Library, of: &Recording, number: u32, stem: &str) -> PartFile {
    let names = |n| if n == 1 { stem.to_owned() } else { format!("{stem}_{n}") };
    let file = library.storage().reserve(names, "mp4").unwrap();
    fs::write(file.path(), "frames").unwrap();
    library.begin_part(&of.id, number, file.path(), Utc::now()).await.unwrap();
    file
}

fn describe(file: &FinishedFile, number: u32) -> Part {
    let FinishedFile { file, name, size, sha256 } = file.clone();
    Part { file, name, size, sha256, ..part(number) }
}

/// Makes a part whole, and dies before the catalog knows. It gets another name than its `.part`.
async fn finish_part(library: &Library, of: &Recording, number: u32, stem: &str) -> Part {
    let file = write_part(library, of, number, stem).await;
    let names = |n| format!("{stem}-end{n}");
    let finished =
        library.storage().finish(file, names, |f| Manifest::new(Identity::from(of), describe(f, number)));
    describe(&finished.unwrap(), number)
}

fn back_to_part(part: &Part, stem: &str, by: fn(&Path, &Path) -> std::io::Result<()>) {
    by(&part.file, &part.file.with_file_name(format!("{stem}.mp4.part"))).unwrap();
}

fn changed(file: &Path) -> i64 {
    DateTime::<Utc>::from(file.metadata().unwrap().modified().unwrap()).timestamp_millis()
}

async fn due(library: &Library) -> Vec<(RecordingId, u32)> {
    let due = testing::due(library).await;
    let job = |d: &Delivery| matches!(&d.job, Job::Hook(job) if Some(&job.script) == hook().hook.as_ref());
    assert!(due.iter().all(job));
    due.iter().map(|d| (d.recording.unwrap(), d.part.unwrap())).collect()
}

/// Parts whose hooks are due, and what they are told.
async fn told(library: &Library) -> Vec<(u32, Status)> {
    let told = |d: &Delivery| match &d.job {
        Job::Hook(job) => (d.part.unwrap(), job.status),
        other => panic!("{other:?}"),
    };
    testing::due(library).await.iter().map(told).collect()
}

fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path().join("records")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_whole_file_the_catalog_does_not_know_is_entered_and_its_hook_is_due() {
    type Cut = fn(&Part);
    let cuts: [(&str, Cut); 3] = [
        ("before the catalog", |_| {}),
        ("before the second rename", |p| back_to_part(p, "cam", |from, to| fs::rename(from, to))),
        ("before the removal of a linked name", |p| {
            back_to_part(p, "cam", |from, to| fs::hard_link(from, to))
        }),
    ];
    for (cut, make) in cuts {
        let (dir, library) = library().await;
        let open = recording_in(&library, Status::Finalizing).await;
        let part = finish_part(&library, &open, 1, "cam").await;
        make(&part);
        library.close().await;

        let next = reopen(&dir).await;
        let found = recover(&next, &hook(), |_| Ok(None)).await;
        let [got] = &found[..] else { panic!("{cut}: {found:?}") };
        assert_eq!((got.status, &got.error), (Status::Completed, &None), "{cut}");
        assert_eq!(got.ended_at.unwrap().timestamp_millis(), changed(&part.file), "{cut}");
        assert_eq!((got.size, got.duration_ms), (6, part.duration_ms), "{cut}");
        assert_eq!(got.parts, [part], "{cut}");
        assert_eq!(due(&next).await, [(open.id, 1)], "{cut}");
        assert_eq!(names(&dir), ["cam-end1.mp4", "cam-end1.mp4.json"], "{cut}");

        let third = reopen(&dir).await;
        assert!(recover(&third, &hook(), |_| Ok(None)).await.is_empty(), "{cut}");
        assert_eq!(due(&third).await, [(open.id, 1)], "{cut}");
    }
}

#[tokio::test]
async fn a_recording_that_misses_something_fails_and_keeps_its_whole_parts() {
    let (dir, library) = library().await;
    let open = recording_in(&library, Status::Recording).await;
    let first = finish_part(&library, &open, 1, "cam").await;
    let second = finish_part(&library, &open, 2, "cam2").await;
    let third = write_part(&library, &open, 3, "cam3").await;
    let live = recording_in(&library, Status::Recording).await;
    finish_part(&library, &live, 1, "live").await;

    let next = reopen(&dir).await;
    let found = recover(&next, &hook(), |_| Ok(None)).await;
    let of = |id| found.iter().find(|r| r.id == id).unwrap();
    let error = of(open.id).error.as_deref().unwrap();
    assert!(error.contains(&format!("is in {} and plays", third.path().display())), "{error}");
    assert_eq!(of(open.id).status, Status::Failed);
    assert_eq!(of(open.id).parts, [first, second]);
    // Its end had not been asked for, but nothing of it is left unfinished.
    assert_eq!((of(live.id).status, &of(live.id).error), (Status::Recovered, &None));
    // The second part waits for the first.
    let mut due = due(&next).await;
    due.sort_by_key(|d| d.0 == live.id);
    assert_eq!(due, [(open.id, 1), (live.id, 1)]);
    assert!(third.path().exists());
}

#[tokio::test]
async fn a_daemon_that_dies_between_the_last_part_and_the_end_completes_it() {
    let (dir, library) = library().await;
    let open = recording_in(&library, Status::Finalizing).await;
    let part = finish_part(&library, &open, 1, "cam").await;
    library.commit_part(&open.id, &part).await.unwrap();
    // Nothing is searched for, so a folder that is gone is no error.
    let next = reopen(&dir).await;
    fs::remove_dir_all(dir.path().join("records")).unwrap();
    let found = recover(&next, &hook(), |_| Ok(None)).await;
    assert_eq!((found[0].status, found[0].parts.len()), (Status::Completed, 1));
    assert_eq!(due(&next).await, [(open.id, 1)]);
}

#[tokio::test]
async fn what_does_not_fit_is_left_alone() {
    type Spoil = fn(&Part);
    fn manifest(p: &Part) -> std::path::PathBuf {
        Manifest::path_of(&p.file)
    }
    // Not what the crash left, but with all that is needed: entered in the end.
    const ENTERED: [&str; 2] = ["a copied manifest", "a .part that somebody else's file keeps from its name"];
    let cases: [(&str, Spoil); 7] = [
        ("another size", |p| fs::write(&p.file, "frames and more").unwrap()),
        ("no file", |p| fs::remove_file(&p.file).unwrap()),
        ("no manifest", |p| fs::remove_file(manifest(p)).unwrap()),
        ("a manifest that is cut off", |p| fs::write(manifest(p), "{\"version\": 1,").unwrap()),
        ("a copied manifest", |p| {
            fs::rename(&p.file, p.file.with_file_name("copy.mp4")).unwrap();
            fs::rename(manifest(p), p.file.with_file_name("copy.mp4.json")).unwrap();
        }),
        ("a folder by that name", |p| {
            fs::remove_file(&p.file).unwrap();
            fs::create_dir(&p.file).unwrap();
        }),
        ("a .part that somebody else's file keeps from its name", |p| {
            fs::copy(&p.file, p.file.with_file_name("cam.mp4.part")).unwrap();
        }),
    ];
    for (case, spoil) in cases {
        let (dir, library) = library().await;
        recover(&library, &HandOn::default(), |_| Ok(None)).await;
        let open = recording_in(&library, Status::Finalizing).await;
        let part = finish_part(&library, &open, 1, "cam").await;
        spoil(&part);
        // A good one beside it is found all the same; a FIFO is not waited for.
        let good = recording_in(&library, Status::Finalizing).await;
        finish_part(&library, &good, 1, "good").await;
        let fifo = dir.path().join("records/0.mp4.json");
        assert!(std::process::Command::new("mkfifo").arg(fifo).status().unwrap().success());
        let before = names(&dir);

        let next = reopen(&dir).await;
        let found = recover(&next, &hook(), |_| Ok(None)).await;
        let of = |id| found.iter().find(|r| r.id == id).unwrap();
        assert_eq!((of(good.id).status, of(good.id).parts.len()), (Status::Completed, 1), "{case}");
        let expected = usize::from(ENTERED.contains(&case));
        let got = next.get(&open.id).await.unwrap().unwrap();
        assert_eq!((got.parts.len(), got.deliveries.len()), (expected, expected), "{case}");
        assert!(expected == 1 || got.status == Status::Failed, "{case}");
        assert!(due(&next).await.contains(&(good.id, 1)), "{case}");
        assert_eq!(names(&dir), before, "{case}");
    }
}

#[tokio::test]
async fn a_part_that_can_be_made_whole_is_recovered() {
    fn make_whole(part: &Path) -> Result<Option<Salvaged>, String> {
        match fs::read(part).unwrap().as_slice() {
            b"frames" => Ok(Some(Salvaged { duration_ms: 1500, video: part_of_video(), audio: None })),
            b"nothing" => Ok(None),
            _ => Err("it is broken".into()),
        }
    }
    fn part_of_video() -> Option<VideoPart> {
        part(1).video
    }
    // What is in the second part, and what becomes of its recording.
    for (second, expected) in
        [("frames", Status::Recovered), ("nothing", Status::Failed), ("?", Status::Failed)]
    {
        let (dir, library) = library().await;
        let open = recording_in(&library, Status::Recording).await;
        let first = write_part(&library, &open, 1, "cam").await;
        let last = changed(first.path());
        let other = write_part(&library, &open, 2, "cam_2").await;
        fs::write(other.path(), second).unwrap();
        let last = last.max(changed(other.path()));

        let next = reopen(&dir).await;
        let found = recover(&next, &hook(), make_whole).await;
        let [got] = &found[..] else { panic!("{found:?}") };
        assert_eq!((got.status, got.error.is_none()), (expected, expected == Status::Recovered), "{second}");
        assert_eq!(got.ended_at.unwrap().timestamp_millis(), last, "{second}");
        let whole = &got.parts[0];
        assert_eq!((whole.name.as_str(), whole.size, whole.duration_ms), ("cam.mp4", 6, 1500), "{second}");
        assert!(whole.started_at >= got.started_at && whole.video.is_some(), "{second}");
        assert_eq!(Manifest::read(&Manifest::path_of(&whole.file)).unwrap().part.sha256, whole.sha256);
        assert_eq!(told(&next).await, [(1, Status::Recovered)], "{second}");
        assert_eq!(other.path().exists(), expected == Status::Failed, "{second}");
        assert!(recover(&next, &hook(), make_whole).await.is_empty(), "{second}");
    }
}

/// The file told everybody that it was completed: a second crash, between what made it whole and the catalog, hid that.
#[tokio::test]
async fn what_was_made_whole_at_a_start_that_died_is_recovered_too() {
    let (dir, library) = library().await;
    let open = recording_in(&library, Status::Finalizing).await;
    let file = write_part(&library, &open, 1, "cam").await;
    let manifest = |f: &FinishedFile| Manifest::recovered(Identity::from(&open), describe(f, 1));
    let finished = library.storage().finish(file, |_| "cam".into(), manifest).unwrap();

    let next = reopen(&dir).await;
    let found = recover(&next, &hook(), |_| Ok(None)).await;
    assert_eq!((found[0].status, found[0].parts.len()), (Status::Recovered, 1));
    let part = describe(&finished, 1);
    let end_ms = part.started_at.timestamp_millis() + part.duration_ms as i64;
    assert_eq!(found[0].ended_at.unwrap().timestamp_millis(), end_ms, "not when it was made whole");
    assert_eq!(told(&next).await, [(1, Status::Recovered)]);
}

/// A file in which there is nothing was told to play, and to be renamed.
#[tokio::test]
async fn it_is_told_which_files_play() {
    let (dir, library) = library().await;
    let open = recording_in(&library, Status::Recording).await;
    let plays = write_part(&library, &open, 1, "cam").await;
    let broken = write_part(&library, &open, 2, "cam_2").await;
    fs::write(broken.path(), "nothing").unwrap();
    let alone = recording_in(&library, Status::Recording).await;
    let lonely = write_part(&library, &alone, 1, "alone").await;
    fs::write(lonely.path(), "nothing").unwrap();

    let found = recover(&reopen(&dir).await, &HandOn::default(), |_| Ok(None)).await;
    let error = |id| found.iter().find(|r| r.id == id).and_then(|r| r.error.clone()).unwrap();
    let plays = format!("what was written is in {} and plays;", plays.path().display());
    let none_in =
        |file: &PartFile| format!("nothing that plays was found in {}, which was", file.path().display());
    let both = error(open.id);
    assert!(both.contains(&plays) && both.contains(&none_in(&broken)), "{both}");
    let none = error(alone.id);
    assert!(none.contains(&none_in(&lonely)) && !none.contains("rename it"), "{none}");
    assert!(lonely.path().exists());
}

/// Each start tries the folder with a file; those of daemons that died in it gathered there.
#[tokio::test]
async fn what_a_start_left_that_died_is_removed() {
    let (dir, library) = library().await;
    let records = dir.path().join("records");
    let id = uuid::Uuid::new_v4();
    let others = [".reeld-notes".to_owned(), format!(".reeld-{id}.mp4"), format!("reeld-{id}")];
    for name in others.iter().cloned().chain([format!(".reeld-{id}"), format!(".reeld-{id}.temp")]) {
        fs::write(records.join(name), "").unwrap();
    }
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    let mut expected = others.to_vec();
    expected.sort();
    assert_eq!(names(&dir), expected);
}

/// One recording that the catalog does not take kept the daemon from starting, every time.
#[tokio::test]
async fn what_cannot_be_recovered_keeps_nothing_else_back() {
    fn make_whole(part: &Path) -> Result<Option<Salvaged>, String> {
        assert!(!part.ends_with("panics.mp4.part"), "a fault of ours");
        Ok(None)
    }
    let (dir, library) = library().await;
    let refused = recording_in(&library, Status::Finalizing).await;
    library.commit_part(&refused.id, &part(1)).await.unwrap();
    finish_part(&library, &refused, 1, "twice").await;
    let broken = recording_in(&library, Status::Recording).await;
    write_part(&library, &broken, 1, "panics").await;
    let good = recording_in(&library, Status::Finalizing).await;
    finish_part(&library, &good, 1, "good").await;

    let next = reopen(&dir).await;
    let interrupted = next.interrupted().await.unwrap();
    // What begins now is not among them.
    let new = recording_in(&next, Status::Recording).await;
    let found = next.recover(interrupted, &hook(), make_whole, |_| Ok(None)).await.unwrap();
    let mut ended: Vec<_> = found.iter().map(|r| (r.id, r.status)).collect();
    ended.sort_by_key(|(id, _)| *id == good.id);
    assert_eq!(ended, [(broken.id, Status::Failed), (good.id, Status::Completed)]);
    for (left, status) in [(refused.id, Status::Finalizing), (new.id, Status::Recording)] {
        assert_eq!(next.get(&left).await.unwrap().unwrap().status, status);
    }
}
