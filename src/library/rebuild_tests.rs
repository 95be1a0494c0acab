//! Catalogs that are gone, damaged or old, and files that nobody knows: on real files and real databases.

use super::testing::{library, part, recording, recover, reopen};
use super::*;
use crate::media::{Gap, GapKind, Protocol};
use chrono::Utc;
use rand::{RngExt, SeedableRng};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

fn hook() -> HandOn {
    testing::hooked("/hooks/on_record_hook.sh")
}

fn catalog(dir: &TempDir) -> PathBuf {
    dir.path().join("state/reeld.db")
}

fn asides(dir: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("state")).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.to_string_lossy().contains(".corrupt-")).collect()
}

/// Names and bytes of the records folder.
fn records(dir: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir.path().join("records")).unwrap().map(|e| e.unwrap().path());
    entries
        .map(|p| (p.file_name().unwrap().to_str().unwrap().into(), fs::read(&p).unwrap_or_default()))
        .collect()
}

fn finish(library: &Library, of: &Recording, number: u32, stem: &str) -> Part {
    let names = |n| if n == 1 { stem.to_owned() } else { format!("{stem}_{n}") };
    let file = library.storage().reserve(names, "mp4").unwrap();
    fs::write(file.path(), format!("frames of {stem} {number}")).unwrap();
    let gap = Gap { kind: GapKind::Overflow, at_ms: 10, by_ms: 5, at: None, frames: 1, packets: 0 };
    let describe = |f: &FinishedFile| Part {
        file: f.file.clone(),
        name: f.name.clone(),
        size: f.size,
        sha256: f.sha256.clone(),
        gaps: vec![gap.clone()],
        ..part(number)
    };
    let manifest = |f: &FinishedFile| Manifest::new(Identity::from(of), describe(f));
    describe(&library.storage().finish(file, names, manifest).unwrap())
}

/// A completed recording of `parts` files, as a daemon enters it; their hooks are done.
async fn completed(library: &Library, second: i64, parts: u32) -> Recording {
    let new = recording(second);
    library.begin(&new, &hook()).await.unwrap();
    let mut lost = Lost::default();
    for number in 1..=parts {
        let part = finish(library, &new, number, &format!("cam{second}"));
        lost.packets += part.lost.packets;
        lost.frames += part.lost.frames;
        let shifted =
            |g: &Gap| Gap { at_ms: g.at_ms + u64::from(number - 1) * part.duration_ms, ..g.clone() };
        lost.gaps.extend(part.gaps.iter().map(shifted));
        library.commit_part(&new.id, &part).await.unwrap();
    }
    library.complete(&new.id, Utc::now(), &lost).await.unwrap();
    new
}

async fn hooks_run(library: &Library) {
    loop {
        let due = testing::due(library).await;
        if due.is_empty() {
            return;
        }
        for delivery in due {
            library.outbox_done(delivery.id, &testing::ran(0, 1)).await.unwrap();
        }
    }
}

async fn due(library: &Library) -> Vec<(RecordingId, u32, Status)> {
    let told = |d: &Delivery| match &d.job {
        Job::Hook(job) => (d.recording.unwrap(), d.part.unwrap(), job.status),
        other => panic!("{other:?}"),
    };
    testing::due(library).await.iter().map(told).collect()
}

async fn all(library: &Library) -> Vec<Recording> {
    library.list(&Filter { limit: 1000, ..Filter::default() }).await.unwrap().items
}

/// Without what only the catalog knew: what hooks did, and the exact end.
async fn as_in_manifests(library: &Library) -> Vec<Recording> {
    let mut all = all(library).await;
    for recording in &mut all {
        assert!(recording.ended_at.is_some_and(|end| end >= recording.started_at), "{recording:?}");
        recording.ended_at = None;
        recording.deliveries.clear();
        recording.parts.iter_mut().for_each(|p| p.hook = None);
    }
    all
}

async fn start(dir: &TempDir) -> Library {
    let library = reopen(dir).await;
    recover(&library, &hook(), |_| Ok(None)).await;
    library
}

/// Recordings, one of them of several parts, all their hooks done but that of the last.
async fn house() -> (TempDir, Vec<Recording>) {
    let (dir, library) = library().await;
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    completed(&library, 0, 3).await;
    for second in 1..20 {
        completed(&library, second, 1).await;
    }
    hooks_run(&library).await;
    completed(&library, 20, 1).await;
    let before = as_in_manifests(&library).await;
    library.close().await;
    (dir, before)
}

fn overwrite(file: &Path, from: usize, count: usize) {
    let mut bytes = fs::read(file).unwrap();
    let end = (from + count).min(bytes.len());
    for (i, byte) in bytes[from..end].iter_mut().enumerate() {
        *byte = (i * 31 + 7) as u8;
    }
    fs::write(file, bytes).unwrap();
}

async fn sql(file: &Path, text: &'static str) {
    let pool = sqlx::SqlitePool::connect_with(options(file.to_str().unwrap()).unwrap()).await.unwrap();
    sqlx::raw_sql(text).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_catalog_that_is_gone_or_damaged_is_made_again_from_the_manifests() {
    type Damage = fn(&Path);
    // Whether the damaged file is kept.
    let cases: [(&str, bool, Damage); 8] = [
        ("gone", false, |f| fs::remove_file(f).unwrap()),
        ("empty", false, |f| fs::write(f, "").unwrap()),
        ("text", true, |f| fs::write(f, "this is a text file, not a database; ".repeat(1000)).unwrap()),
        ("a few bytes", true, |f| fs::write(f, &fs::read(f).unwrap()[..700]).unwrap()),
        ("one page", true, |f| fs::write(f, &fs::read(f).unwrap()[..4096]).unwrap()),
        ("cut off", true, |f| {
            let bytes = fs::read(f).unwrap();
            fs::write(f, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("garbage in the middle", true, |f| {
            overwrite(f, fs::metadata(f).unwrap().len() as usize / 3, 16_384)
        }),
        ("zeros behind the first page", true, |f| {
            let mut bytes = fs::read(f).unwrap();
            bytes[4096..].fill(0);
            fs::write(f, bytes).unwrap();
        }),
    ];
    for (case, kept, damage) in cases {
        let (dir, before) = house().await;
        let files = records(&dir);
        damage(&catalog(&dir));
        let damaged = fs::read(catalog(&dir)).unwrap_or_default();

        let next = start(&dir).await;
        assert_eq!(as_in_manifests(&next).await, before, "{case}");
        assert_eq!(records(&dir), files, "{case}");
        let asides = asides(&dir);
        assert_eq!(asides.iter().any(|p| fs::read(p).unwrap() == damaged), kept, "{case}: {asides:?}");
        // At most what the damaged one still owed; the hooks of all the others have run.
        let due = due(&next).await;
        assert!(due.iter().all(|(id, ..)| *id == before[0].id), "{case}: {due:?}");
        next.close().await;
        assert!(reopen(&dir).await.interrupted().await.unwrap().is_empty(), "{case}");
    }
}

/// SQLite's own check sees neither.
#[tokio::test]
async fn tables_and_rows_that_are_nonsense_are_damage() {
    for nonsense in [
        "UPDATE part SET gaps = 'x[' WHERE number = 2",
        "PRAGMA foreign_keys = OFF; UPDATE recording SET id = 'short' WHERE id = (SELECT recording_id FROM part WHERE number = 3)",
        "UPDATE part SET sha256 = CAST(x'ff00' AS TEXT) WHERE number = 2",
        "ALTER TABLE part DROP COLUMN degraded",
        "DELETE FROM _sqlx_migrations WHERE version > 1",
        // These kept the daemon from starting: it took them for the work of another version.
        "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 2",
        "UPDATE _sqlx_migrations SET version = 70002 WHERE version = 2",
    ] {
        let (dir, before) = house().await;
        sql(&catalog(&dir), nonsense).await;
        let next = start(&dir).await;
        assert_eq!(as_in_manifests(&next).await, before, "{nonsense}");
        assert!(!asides(&dir).is_empty(), "{nonsense}");
        // What the damaged one still owed could be read.
        assert_eq!(due(&next).await, [(before[0].id, 1, Status::Completed)], "{nonsense}");
    }
}

/// With a million rows it takes long to look for.
#[tokio::test]
async fn an_index_that_is_not_its_tables_is_damage_unless_the_catalog_is_as_it_was_closed() {
    const PAGE: usize = 4096;
    /// sqlite.org/fileformat2.html: the type of a page whose cells are keys of an index.
    const INDEX_LEAF: u8 = 0x0a;
    for (left, seen) in
        [("as it was", false), ("changed", true), ("with a -wal", true), ("without the note", true)]
    {
        let (dir, before) = house().await;
        let session = before[0].media_session_id.to_string().into_bytes();
        let closed = fs::metadata(catalog(&dir)).unwrap().modified().unwrap();
        let mut bytes = fs::read(catalog(&dir)).unwrap();
        let mut places = (0..bytes.len() - session.len()).filter(|at| bytes[*at..].starts_with(&session));
        let key = places.find(|at| bytes[at / PAGE * PAGE] == INDEX_LEAF).unwrap();
        bytes[key] ^= 1;
        fs::write(catalog(&dir), bytes).unwrap();
        let time = if left == "changed" { SystemTime::now() } else { closed };
        fs::File::options().write(true).open(catalog(&dir)).unwrap().set_modified(time).unwrap();
        match left {
            "with a -wal" => fs::write(dir.path().join("state/reeld.db-wal"), "of a killed daemon").unwrap(),
            "without the note" => fs::remove_file(dir.path().join("state/reeld.db.closed")).unwrap(),
            _ => {}
        }
        let next = start(&dir).await;
        assert_eq!(as_in_manifests(&next).await, before, "{left}");
        assert_eq!(!asides(&dir).is_empty(), seen, "{left}");
    }
}

#[tokio::test]
async fn the_catalog_of_somebody_else_is_not_touched() {
    let cases = [
        ("INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, 1, x'00', 0)", "9999"),
        // A database of another program, which has a table of that name.
        ("DROP TABLE _sqlx_migrations", "recording"),
    ];
    for (change, told) in cases {
        let (dir, _) = house().await;
        sql(&catalog(&dir), change).await;
        let storage = Storage::open(&dir.path().join("records")).unwrap();
        let error = Library::open(catalog(&dir).to_str().unwrap(), storage).await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert!(asides(&dir).is_empty());
        let pool =
            sqlx::SqlitePool::connect_with(options(catalog(&dir).to_str().unwrap()).unwrap()).await.unwrap();
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM part").fetch_one(&pool).await.unwrap();
        assert_eq!(rows, 23);
    }
}

#[tokio::test]
async fn an_old_copy_of_the_catalog_gets_what_came_since_with_its_hooks() {
    let (dir, library) = library().await;
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    completed(&library, 0, 1).await;
    hooks_run(&library).await;
    // It was being recorded when the copy was made.
    let open = recording(1);
    library.begin(&open, &hook()).await.unwrap();
    library.update_status(&open.id, Status::Recording).await.unwrap();
    let first = library.storage().folder().join("cam1.mp4.part");
    library.begin_part(&open.id, 1, &first, Utc::now()).await.unwrap();
    sql(&catalog(&dir), "PRAGMA wal_checkpoint(TRUNCATE)").await;
    fs::copy(catalog(&dir), dir.path().join("copy")).unwrap();
    for number in 1..=3 {
        let part = finish(&library, &open, number, "cam1");
        library.commit_part(&open.id, &part).await.unwrap();
    }
    library.complete(&open.id, Utc::now(), &Lost::default()).await.unwrap();
    let later = completed(&library, 2, 2).await;
    hooks_run(&library).await;
    let before = as_in_manifests(&library).await;
    library.close().await;
    fs::copy(dir.path().join("copy"), catalog(&dir)).unwrap();

    let next = start(&dir).await;
    let mut after = as_in_manifests(&next).await;
    assert_eq!(after[1].status, Status::Recovered);
    (after[1].status, after[1].lost) = (before[1].status, before[1].lost.clone());
    assert_eq!(after, before);
    for (id, parts) in [(open.id, 3), (later.id, 2)] {
        let got = next.get(&id).await.unwrap().unwrap();
        let numbers: Vec<u32> = got.deliveries.iter().filter_map(|d| d.part).collect();
        assert_eq!(numbers, (1..=parts).collect::<Vec<_>>());
    }
    assert!(asides(&dir).is_empty());
}

/// A start that was cut short in the middle of filling a new catalog ran every hook there ever was at the next.
#[tokio::test]
async fn a_rebuild_that_was_cut_short_goes_on_without_hooks() {
    let (dir, before) = house().await;
    fs::remove_file(catalog(&dir)).unwrap();
    let library = reopen(&dir).await;
    library.enter_whole(&["cam3.mp4".into()], true, &hook()).await.unwrap();
    assert_eq!(all(&library).await.len(), 1);
    library.close().await;
    let next = start(&dir).await;
    assert_eq!((as_in_manifests(&next).await, due(&next).await), (before, Vec::new()));
    // From here on it is a catalog like any other.
    let unknown = recording(99);
    finish(&next, &unknown, 1, "later");
    let last = start(&dir).await;
    assert_eq!(due(&last).await, [(unknown.id, 1, Status::Completed)]);
}

/// With 100,000 files, a start that reads every manifest takes minutes from a slow disk.
#[tokio::test]
async fn a_start_with_nothing_wrong_reads_no_manifest() {
    let (dir, library) = library().await;
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    let known = completed(&library, 0, 3).await;
    let open = recording(1);
    library.begin(&open, &hook()).await.unwrap();
    let file = library.storage().reserve(|_| "open".into(), "mp4").unwrap();
    library.begin_part(&open.id, 1, file.path(), Utc::now()).await.unwrap();
    for part in library.get(&known.id).await.unwrap().unwrap().parts {
        fs::write(Manifest::path_of(&part.file), "not read").unwrap();
    }
    let strays = reopen(&dir).await.strays().await.unwrap();
    assert!(strays.is_empty(), "{strays:?}");
}

#[tokio::test]
async fn the_path_in_a_manifest_is_not_believed() {
    let (dir, library) = library().await;
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    let of = recording(0);
    let part = finish(&library, &of, 1, "cam");
    let path = Manifest::path_of(&part.file);
    let mut manifest = Manifest::read(&path).unwrap();
    (manifest.part.file, manifest.part.name) = ("/etc/passwd".into(), "../../etc/passwd".into());
    manifest.write(&path).unwrap();
    let next = start(&dir).await;
    let got = &all(&next).await[0].parts[0];
    assert_eq!((&got.file, got.name.as_str()), (&part.file, "cam.mp4"));
}

#[tokio::test]
async fn a_folder_that_was_moved_keeps_its_recordings_and_a_copy_changes_nothing() {
    let (dir, before) = house().await;
    fs::rename(dir.path().join("records"), dir.path().join("moved")).unwrap();
    symlink("moved", dir.path().join("records")).unwrap();
    let storage = Storage::open(&dir.path().join("moved")).unwrap();
    let library = Library::open(catalog(&dir).to_str().unwrap(), storage).await.unwrap();
    // While the old paths lead there too, these are copies.
    recover(&library, &hook(), |_| Ok(None)).await;
    assert_eq!(as_in_manifests(&library).await, before);
    fs::remove_file(dir.path().join("records")).unwrap();
    recover(&library, &hook(), |_| Ok(None)).await;
    let moved = all(&library).await;
    assert!(moved.iter().flat_map(|r| &r.parts).all(|p| p.file == dir.path().join("moved").join(&p.name)));
    assert_eq!((moved.len(), due(&library).await.len()), (before.len(), 1));
}

fn old(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

fn content(file: &Path) -> Result<Option<Salvaged>, String> {
    let text = fs::read_to_string(file).unwrap();
    match text.as_str() {
        "broken" => Err("it is broken".into()),
        "nothing" => Ok(None),
        _ => Ok(Some(Salvaged { duration_ms: 1500, video: part(1).video, audio: None })),
    }
}

#[tokio::test]
async fn files_that_nobody_knows_are_adopted() {
    let (dir, library) = library().await;
    recover(&library, &HandOn::default(), |_| Ok(None)).await;
    let folder = library.storage().folder().to_path_buf();
    let files = [
        ("film.mp4", "frames"),
        ("cut.webm.part", "frames"),
        // Not adopted.
        ("empty.mp4.part", ""),
        ("bad.mkv", "broken"),
        ("bad.mkv.part", "broken"),
        ("none.ts", "nothing"),
        ("text.txt", "frames"),
        (".hidden.mp4", "frames"),
        ("cut.mp4.temp", "frames"),
        ("gone.mp4.json", "{}"),
        ("open.mp4", "frames"),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
        old(&folder.join(name));
    }
    symlink(folder.join("film.mp4"), folder.join("link.mp4")).unwrap();
    fs::create_dir(folder.join("folder.mp4")).unwrap();
    let writer = fs::File::options().append(true).open(folder.join("open.mp4")).unwrap();
    let mut expected: Vec<String> = records(&dir).into_keys().filter(|n| !n.starts_with("empty")).collect();

    let interrupted = library.interrupted().await.unwrap();
    library.recover(interrupted, &hook(), content, content).await.unwrap();
    let all = all(&library).await;
    let mut got: Vec<_> = all.iter().map(|r| (r.stream_name.as_str(), r.container.as_str())).collect();
    got.sort_unstable();
    assert_eq!(got, [("cut", "webm"), ("film", "mp4")]);
    for recording in &all {
        let [adopted] = &recording.parts[..] else { panic!("{recording:?}") };
        let known = (recording.status, recording.room_name.as_str(), recording.protocol, adopted.size);
        assert_eq!(known, (Status::Recovered, "live", Protocol::File, 6));
        assert_eq!(fs::read(&adopted.file).unwrap(), b"frames");
        let age = Utc::now() - recording.started_at;
        assert!((3600..3700).contains(&age.num_seconds()), "{age}");
        let manifest = Manifest::read(&Manifest::path_of(&adopted.file)).unwrap();
        assert_eq!((manifest.part, manifest.recovered), (adopted.clone(), true));
        assert_eq!(manifest.recording, Identity::from(recording));
    }
    let of = |name| all.iter().find(|r| r.stream_name == name).unwrap().id;
    assert_eq!(due(&library).await, [(of("cut"), 1, Status::Recovered)]);
    expected.retain(|name| name != "cut.webm.part");
    expected.extend(["cut.webm", "cut.webm.json", "film.mp4.json"].map(String::from));
    expected.sort();
    assert_eq!(records(&dir).into_keys().collect::<Vec<_>>(), expected);

    // The same again from the manifests alone, but for the one that is no longer written.
    drop(writer);
    library.close().await;
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let next = reopen(&dir).await;
    let interrupted = next.interrupted().await.unwrap();
    next.recover(interrupted, &hook(), content, content).await.unwrap();
    let again = self::all(&next).await;
    assert_eq!(again.len(), 3);
    for recording in all {
        let got = again.iter().find(|r| r.id == recording.id).unwrap();
        assert_eq!((got.status, &got.parts), (recording.status, &recording.parts));
    }
}

/// The daemon died between the two renames of a file, and then the catalog was lost.
#[tokio::test]
async fn a_part_that_has_its_manifest_gets_its_name_without_a_row() {
    let (dir, library) = library().await;
    let of = recording(0);
    let part = finish(&library, &of, 1, "cam-end");
    let other = finish(&library, &of, 2, "cam-next");
    fs::rename(&part.file, part.file.with_file_name("cam.mp4.part")).unwrap();
    fs::rename(&other.file, other.file.with_file_name("cam_2.mp4.part")).unwrap();
    let next = start(&dir).await;
    let [got] = &all(&next).await[..] else { panic!("one recording") };
    assert_eq!((got.id, &got.parts), (of.id, &vec![part, other]));
    // It was not finished, so nobody has run its hook.
    assert_eq!((due(&next).await, got.deliveries.len()), (vec![(of.id, 1, Status::Completed)], 2));
}

/// Finishing it would have changed the whole file, which is the same one.
#[tokio::test]
async fn a_part_that_is_a_second_name_is_left_alone() {
    fn spoil(part: &Path) -> Result<Option<Salvaged>, String> {
        fs::write(part, "changed").unwrap();
        content(part)
    }
    let (dir, library) = library().await;
    let part = finish(&library, &recording(0), 1, "cam-end");
    fs::hard_link(&part.file, part.file.with_file_name("cam.mp4.part")).unwrap();
    let before = records(&dir);
    recover(&library, &HandOn::default(), spoil).await;
    assert_eq!((all(&library).await.len(), records(&dir)), (1, before));
}

/// A daemon that had ended did not start again on a full disk: an empty catalog needs 32 KiB to be opened.
#[tokio::test]
async fn room_is_kept_for_a_start_on_a_full_disk() {
    let (dir, library) = library().await;
    let reserve = dir.path().join("state/reeld.db.reserve");
    let kept = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    assert!(kept(&reserve) >= 64 << 10);
    fs::remove_file(&reserve).unwrap();
    library.close().await;
    assert!(kept(&reserve) >= 64 << 10);
}

#[tokio::test]
async fn each_part_of_a_paused_or_failed_recording_is_finished_with_its_start() {
    for status in [Status::Paused, Status::Failed] {
        let (dir, library) = library().await;
        let of = recording(0);
        library.begin(&of, &hook()).await.unwrap();
        let begun = |number: i64| of.started_at + chrono::TimeDelta::seconds(10 * number);
        for number in [1, 2, 3] {
            let file = library.storage().reserve(|_| format!("cam{number}"), "mp4").unwrap();
            fs::write(file.path(), if number == 3 { "" } else { "frames" }).unwrap();
            library.begin_part(&of.id, number, file.path(), begun(number.into())).await.unwrap();
        }
        if status == Status::Failed {
            library.fail(&of.id, Utc::now(), &Lost::default(), "the disk was full").await.unwrap();
        } else {
            library.update_status(&of.id, status).await.unwrap();
            library.update_status(&of.id, Status::Recording).await.unwrap();
            library.update_status(&of.id, status).await.unwrap();
        }
        let next = reopen(&dir).await;
        let ended = recover(&next, &hook(), content).await;
        let [got] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!((got.status, &got.error), (Status::Recovered, &None));
        let parts: Vec<_> = got.parts.iter().map(|p| (p.number, p.started_at, p.size)).collect();
        assert_eq!(parts, [(1, begun(1), 6), (2, begun(2), 6)]);
        assert!(got.parts.iter().all(|p| p.gaps.is_empty() && p.lost == PartLost::default()));
        assert_eq!(due(&next).await, [(of.id, 1, Status::Recovered)]);
        let names: Vec<String> = records(&dir).into_keys().collect();
        assert_eq!(names, ["cam1.mp4", "cam1.mp4.json", "cam2.mp4", "cam2.mp4.json"]);
        assert!(next.interrupted().await.unwrap().is_empty());
    }
}

/// Damage of any kind at any place is seen at the start, or does no harm.
#[tokio::test]
async fn damage_anywhere_keeps_nobody_from_starting_and_listing() {
    let (dir, before) = house().await;
    let good = fs::read(catalog(&dir)).unwrap();
    let seed = std::env::var("REELD_TEST_SEED").ok().map_or_else(rand::random, |s| s.parse().unwrap());
    eprintln!("REELD_TEST_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    for round in 0..25 {
        fs::remove_dir_all(dir.path().join("state")).unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let mut bytes = good.clone();
        let length = [1, 8, 64, 700, 5000][round % 5];
        let at = random.random_range(0..bytes.len());
        bytes.iter_mut().skip(at).take(length).for_each(|byte| *byte = random.random());
        fs::write(catalog(&dir), &bytes).unwrap();
        let library = start(&dir).await;
        let after = all(&library).await;
        // A few bytes may make another name or number, which nobody can see; no recording is lost by it.
        let count = |all: &[Recording]| (all.len(), all.iter().map(|r| r.parts.len()).sum::<usize>());
        assert_eq!(count(&after), count(&before), "{length} bytes at {at}");
        library.close().await;
    }
}
