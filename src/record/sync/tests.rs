use super::*;
use std::{fs, io::Write, thread::sleep};

const SOON: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < SOON, "not {what} within {SOON:?}");
        sleep(MS);
    }
}

fn append(path: &Path) {
    let mut file = File::options().append(true).open(path).expect("the file");
    file.write_all(b"frame").expect("written");
}

fn file_in(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, "begin").expect("written");
    path
}

fn syncs(syncer: &Syncer) -> u64 {
    syncer.stats.syncs.load(Ordering::Acquire)
}

/// Returns when the thread has done everything it was told before.
fn settle(syncer: &Syncer) {
    let (reply, ended) = channel();
    syncer.commands.send(Command::End(Id::MAX, reply)).expect("it runs");
    ended.recv_timeout(SOON).expect("an answer");
}

/// Descriptors of this process that `path` is open in.
fn open_at(path: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("proc").flatten().map(|fd| fs::read_link(fd.path()));
    links.filter(|to| to.as_ref().is_ok_and(|to| to == path)).count()
}

#[test]
fn a_file_that_grows_is_synced_again_and_again_until_its_guard_goes() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = file_in(&dir, "a.part");
    let syncer = Syncer::start(20 * MS).expect("a thread");
    let guard = syncer.add(&path);
    let begun = Instant::now();
    for n in 1..=5 {
        wait_until("synced", || syncs(&syncer) == n);
        append(&path);
    }
    assert!(begun.elapsed() >= 4 * 20 * MS, "no more than once per interval");
    assert_eq!(open_at(&path), 1, "its descriptor is kept");
    drop(guard);
    settle(&syncer);
    let before = syncs(&syncer);
    append(&path);
    assert_eq!((open_at(&path), syncer.stats.waiting()), (0, Duration::ZERO));
    let other = syncer.add(&file_in(&dir, "b.part"));
    wait_until("synced", || syncs(&syncer) == before + 1);
    other.end().expect("no error");
    assert_eq!(syncs(&syncer), before + 1, "the first one no more");
}

#[test]
fn what_has_not_grown_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let (still, growing) = (file_in(&dir, "still.part"), file_in(&dir, "growing.part"));
    let syncer = Syncer::start(5 * MS).expect("a thread");
    let _guards = [syncer.add(&still), syncer.add(&growing)];
    wait_until("synced", || syncs(&syncer) == 2);
    for n in 1..=5 {
        append(&growing);
        wait_until("synced", || syncs(&syncer) >= 2 + n);
    }
    assert_eq!(syncs(&syncer), 7);
}

#[test]
fn without_an_interval_each_write_is_synced_and_many_as_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = file_in(&dir, "a.part");
    let syncer = Syncer::start(Duration::ZERO).expect("a thread");
    let guard = syncer.add(&path);
    settle(&syncer);
    assert_eq!(syncs(&syncer), 0, "nothing was written yet");
    for n in 1..=3 {
        append(&path);
        guard.written();
        wait_until("synced", || syncs(&syncer) == n);
    }
    // A FIFO holds up the thread until somebody writes to it, as a disk does that stands still.
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let stalled = syncer.add(&fifo);
    stalled.written();
    wait_until("stalled", || !syncer.stats.waiting().is_zero());
    for _ in 0..1_000 {
        append(&path);
        guard.written();
    }
    assert_eq!(syncs(&syncer), 3);
    drop(File::options().write(true).open(&fifo).expect("the other end"));
    wait_until("synced", || syncs(&syncer) == 4);
    settle(&syncer);
    assert_eq!((syncs(&syncer), syncer.stats.waiting()), (4, Duration::ZERO));
}

#[test]
fn a_disk_that_stalls_is_counted_and_makes_nobody_wait() {
    let dir = tempfile::tempdir().expect("a folder");
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let syncer = Syncer::start(MS).expect("a thread");
    let stalled = syncer.add(&fifo);
    wait_until("stalled", || syncer.stats.waiting() > LATE + 100 * MS);
    let begun = Instant::now();
    let guard = syncer.add(&file_in(&dir, "a.part"));
    guard.written();
    drop(stalled);
    assert!(begun.elapsed() < LATE, "add, written and drop do not wait");
    drop(File::options().write(true).open(&fifo).expect("the other end"));
    wait_until("synced", || syncs(&syncer) == 1);
    let stats = syncer.stats();
    assert!(stats.late.load(Ordering::Relaxed) >= 1, "{stats:?}");
    assert!(stats.longest_ms.load(Ordering::Relaxed) >= 1_000, "{stats:?}");
}

/// A character device cannot be synced: the same answer as from a disk that fails.
#[test]
fn a_sync_that_fails_is_told_to_the_writer_once_and_ends_it() {
    let syncer = Syncer::start(MS).expect("a thread");
    let guard = syncer.add(Path::new("/dev/null"));
    wait_until("told", || guard.error().is_some());
    settle(&syncer);
    assert_eq!(syncer.stats.failed.load(Ordering::Relaxed), 1, "it is not tried again");
    let error = guard.end().expect_err("an error to whoever finishes the file, too");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INVAL.raw_os_error()));
}

#[test]
fn a_file_that_cannot_be_opened_has_no_holes_and_is_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("later.part");
    let syncer = Syncer::start(MS).expect("a thread");
    let guard = syncer.add(&path);
    wait_until("refused", || syncer.stats.failed.load(Ordering::Relaxed) >= 1);
    fs::write(&path, "begin").expect("written");
    wait_until("synced", || syncs(&syncer) == 1);
    guard.end().expect("no error");
}
