//! The disk with faults, by the system calls a daemon makes.

use rustix::io::Errno;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    process::Command,
    sync::mpsc::channel,
    thread,
    time::Duration,
};
use support::{
    faultfs::{FaultFs, Loss, PAGE_BYTES, Stalled},
    wait::wait_until,
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);

fn disk() -> (FaultFs, TempDir) {
    let dir = TempDir::with_prefix("reeld-faultfs-").expect("a temporary folder");
    (FaultFs::mount(&dir.path().join("disk")), dir)
}

fn sync_folder(folder: &Path) {
    File::open(folder).and_then(|folder| folder.sync_all()).expect("a synced folder");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn it_is_a_file_system() {
    let (fs, _dir) = disk();
    let folder = fs.root().join("a");
    fs::create_dir(&folder).expect("a folder");
    let path = folder.join("one");
    fs::write(&path, "0123456789").expect("a file");
    let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    file.seek(SeekFrom::Start(5)).expect("a place");
    file.write_all(&[b'x'; 3 * PAGE_BYTES]).expect("written");
    file.set_len(7).expect("cut shorter");
    OpenOptions::new().append(true).open(&path).expect("it opens").write_all(b"end").expect("appended");
    assert_eq!(fs::read_to_string(&path).expect("read"), "01234xxend");
    fs::hard_link(&path, folder.join("two")).expect("a second name");
    let taken = fs::hard_link(&path, folder.join("two")).expect_err("it is taken");
    assert_eq!(taken.raw_os_error(), Some(Errno::EXIST.raw_os_error()));
    fs::rename(&path, folder.join("three")).expect("renamed");
    fs::remove_file(folder.join("two")).expect("removed");
    assert_eq!(names(&folder), ["three"]);
    // Open files live on without a name.
    fs::remove_file(folder.join("three")).expect("removed");
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("a place");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "01234xxend");
    fs::remove_dir(&folder).expect("an empty folder");
    for number in 0..1000 {
        fs::write(fs.root().join(number.to_string()), "").expect("a file");
    }
    assert_eq!(names(fs.root()).len(), 1000);
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_some_of_the_rest() {
    let whole = 20 * PAGE_BYTES;
    let left = |loss: Loss| {
        let (fs, _dir) = disk();
        let path = fs.root().join("file");
        let mut file = File::create(&path).expect("a file");
        sync_folder(fs.root());
        file.write_all(&vec![1; whole]).expect("written");
        file.sync_data().expect("synced");
        file.write_all(&vec![2; whole]).expect("written");
        fs.cut_power(loss);
        let errors = [
            file.write_all(b"late").expect_err("no power"),
            File::open(&path).expect_err("no power"),
            fs::read_dir(fs.root()).expect_err("no power"),
        ];
        assert!(errors.iter().all(|e| e.raw_os_error() == Some(Errno::IO.raw_os_error())), "{errors:?}");
        fs.restore_power();
        let old = file.write_all(b"late").expect_err("a file of before");
        assert_eq!(old.raw_os_error(), Some(Errno::STALE.raw_os_error()), "{old}");
        fs::read(&path).expect("the file")
    };
    assert_eq!(left(Loss::All), vec![1; whole]);
    let some = left(Loss::Some(3));
    assert_eq!(some[..whole], vec![1; whole]);
    assert!(some.len() > whole && some[whole..].contains(&2), "{} bytes", some.len());
    assert_eq!(left(Loss::Some(3)), some);
    assert_ne!(left(Loss::Some(4)), some);
}

#[test]
fn a_name_is_safe_when_its_folder_is_synced() {
    let (fs, _dir) = disk();
    let (part, last) = (fs.root().join("x.part"), fs.root().join("x"));
    let cut = || {
        fs.cut_power(Loss::All);
        fs.restore_power();
        names(fs.root())
    };
    let make = || {
        let mut file = File::create(&part).expect("a file");
        file.write_all(b"media").expect("written");
        file.sync_all().expect("synced");
    };
    make();
    assert!(cut().is_empty(), "fsync of the file does not keep its name");
    make();
    sync_folder(fs.root());
    fs::rename(&part, &last).expect("renamed");
    assert_eq!(cut(), ["x.part"]);
    fs::rename(&part, &last).expect("renamed");
    sync_folder(fs.root());
    assert_eq!(cut(), ["x"]);
    assert_eq!(fs::read_to_string(&last).expect("the file"), "media");
}

#[test]
fn what_stalls_goes_on() {
    let (fs, _dir) = disk();
    let path = fs.root().join("file");
    let file = File::create(&path).expect("a file");
    for (stalled, reads) in [(Stalled::Writes, true), (Stalled::All, false)] {
        let (tell, told) = channel();
        let stall = fs.stall(stalled);
        let mut writer = file.try_clone().expect("a second handle");
        let written = thread::spawn({
            let tell = tell.clone();
            move || {
                writer.write_all(b"late").and_then(|()| writer.sync_all()).expect("written");
                tell.send("written").expect("the test");
            }
        });
        let folder = fs.root().to_path_buf();
        let listed = thread::spawn(move || {
            names(&folder);
            tell.send("listed").expect("the test");
        });
        let hang = if reads { 1 } else { 2 };
        wait_until("they hang", SOON, || fs.held() == hang);
        assert_eq!(
            told.recv_timeout(if reads { SOON } else { Duration::ZERO }).ok(),
            reads.then_some("listed")
        );
        stall.go_on();
        written.join().expect("no panic");
        listed.join().expect("no panic");
    }
    assert_eq!(fs::read_to_string(&path).expect("the file"), "latelate");
}

#[test]
fn writes_fail_as_told() {
    let (fs, _dir) = disk();
    let mut file = File::create(fs.root().join("file")).expect("a file");
    for (errno, syncs) in [(Errno::NOSPC, true), (Errno::IO, false)] {
        fs.fail_writes(Some(errno));
        let error = file.write_all(b"more").expect_err("it fails");
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
        assert_eq!(file.sync_all().is_ok(), syncs);
    }
    fs.fail_writes(None);
    file.write_all(b"more").expect("written");
}

#[test]
fn it_can_go_while_a_file_is_open() {
    let (fs, dir) = disk();
    let root = fs.root().to_path_buf();
    let file = File::create(root.join("file")).expect("a file");
    let _stall = fs.stall(Stalled::All);
    drop(fs);
    assert!(names(&root).is_empty(), "only the mount point is left");
    drop(file);
    dir.close().expect("nothing is mounted there");
}

const HANG_IN: &str = "REELD_TEST_HANG_IN";

/// The other process of the test below: as such it hangs until it is killed.
#[test]
fn it_waits_for_its_own_disk() {
    let Ok(dir) = std::env::var(HANG_IN) else { return };
    let fs = FaultFs::mount(&Path::new(&dir).join("disk"));
    let _stall = fs.stall(Stalled::All);
    let root = fs.root().to_path_buf();
    thread::spawn(move || names(&root));
    wait_until("it hangs", SOON, || fs.held() > 0);
    fs::write(Path::new(&dir).join("hangs"), "").expect("a file");
    names(fs.root());
}

/// With the kernel's connection among the files of the whole process, one that was killed while it waited for
/// itself never ended, and neither did who waited for it.
#[test]
fn a_test_that_hangs_with_its_disk_can_be_killed() {
    let dir = TempDir::with_prefix("reeld-faultfs-").expect("a temporary folder");
    let mut test = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "it_waits_for_its_own_disk"])
        .env(HANG_IN, dir.path())
        .spawn()
        .expect("it starts");
    wait_until("it hangs", SOON, || dir.path().join("hangs").exists());
    test.kill().expect("it lives");
    wait_until("it ends", SOON, || test.try_wait().expect("its state").is_some());
    nix::mount::umount2(&dir.path().join("disk"), nix::mount::MntFlags::MNT_DETACH).expect("it was mounted");
}
