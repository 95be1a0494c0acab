//! A disk with faults, mounted for a daemon under test: power cuts that throw away what was never synced, stalls,
//! and writes that fail.
//!
//! A FUSE file system in memory, served by threads of the test: killing the daemon does not harm it. What a power cut
//! leaves is as bad as POSIX allows, and worse than ext4 leaves it: of a file each page of 4 KiB written since its last fsync
//! or fdatasync is there or not, and so is a change of its size; of a folder the names changed since
//! its last fsync go back, the newest first. fsync of a new file does not make its name durable. A rename within
//! a folder is there whole or not at all; from one folder to another it is refused (`EXDEV`).
//!
//! A test must not touch what it has stalled itself. No stall lasts longer than [`LONGEST_STALL`].

mod dice;
mod disk;
mod file;
mod folder;
mod gate;
mod host;
mod serve;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use nix::mount::{MntFlags, umount2};
use rustix::io::Errno;

use self::{dice::Dice, gate::Gate, host::Host};
pub use self::{file::PAGE_BYTES, gate::Stalled};
use crate::daemon::House;

/// Then what hangs fails with `EIO`, so that a test that hangs with it ends.
pub const LONGEST_STALL: Duration = Duration::from_secs(60);

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    All,
    /// Some of it, by this seed.
    Some(u64),
}

/// A mounted disk; unmounted when dropped, even while files on it are open.
pub struct FaultFs {
    root: PathBuf,
    host: Host,
}

/// Operations hang until this is dropped.
#[must_use = "the stall is over when this is dropped"]
pub struct Stall {
    host: Host,
    /// Dropped with this: the watch over the longest time ends.
    _over: Sender<()>,
}

impl FaultFs {
    /// Mounts an empty disk at `dir`, which is made where it is missing. Needs root and /dev/fuse.
    pub fn mount(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a mount point");
        let root = dir.canonicalize().expect("its path");
        let host = Host::start(&root).unwrap_or_else(|e| {
            panic!("mounting at {}: {e}; it takes root and /dev/fuse (modprobe fuse)", root.display())
        });
        Self { root, host }
    }

    /// A disk that holds these folders of a house, which are empty still.
    pub fn under(house: &House, folders: &[&str]) -> Self {
        let fs = Self::mount(&house.path("disk"));
        for folder in folders {
            let inside = fs.root.join(folder);
            fs::create_dir(&inside).expect("a folder on the disk");
            fs::remove_dir(house.path(folder)).expect("an empty folder");
            symlink(&inside, house.path(folder)).expect("a link in its place");
        }
        fs.sync();
        fs
    }

    /// The disk's uppermost folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// sync(2): all there is now survives a power cut.
    pub fn sync(&self) {
        self.host.ask(Gate::sync_all);
    }

    /// From now on everything fails with `EIO`, and what was not synced is lost. The daemon is to be killed right
    /// before or after. What a stall holds fails.
    pub fn cut_power(&self, loss: Loss) {
        let mut dice = match loss {
            Loss::All => Dice::all_lost(),
            Loss::Some(seed) => Dice::new(seed),
        };
        self.host.ask(move |gate| gate.cut_power(&mut dice));
    }

    /// What the power cut left can be used again, by files that are opened anew.
    pub fn restore_power(&self) {
        self.host.ask(Gate::restore_power);
    }

    pub fn stall(&self, stalled: Stalled) -> Stall {
        self.host.ask(move |gate| gate.stall(stalled));
        let (over, is_over) = channel();
        let host = self.host.clone();
        thread::spawn(move || {
            if is_over.recv_timeout(LONGEST_STALL) == Err(RecvTimeoutError::Timeout) {
                host.ask(Gate::close);
            }
        });
        Stall { host: self.host.clone(), _over: over }
    }

    /// How many operations hang.
    pub fn held(&self) -> usize {
        self.host.ask(|gate| gate.held())
    }

    /// Writes fail from now on, syncs too unless with `ENOSPC`; `None` ends it.
    pub fn fail_writes(&self, errno: Option<Errno>) {
        self.host.ask(move |gate| gate.fail_writes(errno));
    }
}

impl Stall {
    /// What was held is done, in the order it came.
    pub fn go_on(self) {}
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.host.ask(Gate::go_on);
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.host.ask(Gate::close);
        // A daemon that still lives keeps its files, on a disk without power.
        if let Err(error) = umount2(&self.root, MntFlags::MNT_DETACH) {
            eprintln!("unmounting {}: {error}", self.root.display());
        }
    }
}
