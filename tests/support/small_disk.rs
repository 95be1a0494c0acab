//! The daemon with its records on a small disk of its own: a tmpfs that only it sees, gone when it ends.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::daemon::{Daemon, House};

const BLOCK: usize = 64 << 10;

/// A house whose daemon runs, its records on a tmpfs.
#[derive(Debug)]
pub struct SmallDisk {
    // In this order: the disk goes with the daemon.
    pub daemon: Daemon,
    pub house: House,
}

impl SmallDisk {
    /// `size` as `mount` takes it. Works as root, and as who may have user namespaces; panics with what to do otherwise.
    pub fn start(house: House, program: &str, size: &str) -> Self {
        let records = house.path("records");
        let mount = format!("mount -t tmpfs -o size={size} none '{}'", records.display());
        let script = house.path("reeld-on-a-small-disk");
        let text = format!(
            "#!/bin/sh\nexec unshare {} sh -c \"{mount} && exec '{program}' \\\"\\$@\\\"\" sh \"$@\"\n",
            namespaces(&records).join(" ")
        );
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its rights");
        let daemon = house.start(script.to_str().expect("UTF-8"));
        Self { daemon, house }
    }

    /// Where others find what the daemon calls `path`.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.daemon.pid());
        Path::new(&root).join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// Files in the records folder whose names end in `suffix`, sorted.
    pub fn records(&self, suffix: &str) -> Vec<PathBuf> {
        let folder = self.seen(&self.house.path("records"));
        let entries = fs::read_dir(folder).expect("records");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|file| file.to_string_lossy().ends_with(suffix));
        files.sort();
        files
    }

    /// Another program's file, which takes all the room there is when it is filled.
    pub fn ballast(&self) -> Ballast {
        let path = self.seen(&self.house.path("records/ballast"));
        Ballast { file: File::create(&path).expect("a file"), path }
    }
}

#[derive(Debug)]
pub struct Ballast {
    file: File,
    path: PathBuf,
}

impl Ballast {
    /// Takes what is free now.
    pub fn fill(&mut self) {
        let block = vec![7; BLOCK];
        for size in [BLOCK, 4096] {
            while self.file.write_all(&block[..size]).is_ok() {}
        }
    }

    pub fn remove(self) {
        fs::remove_file(&self.path).expect("it is there");
    }
}

/// How `unshare` lets a tmpfs be mounted here.
fn namespaces(folder: &Path) -> &'static [&'static str] {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &&&[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(**way).args(["mount", "-t", "tmpfs", "none"]).arg(folder);
        unshare.output().is_ok_and(|done| done.status.success())
    };
    ways.iter().find(works).expect(
        "a tmpfs can be mounted here neither as root nor in a user namespace: run the test as root (in a container with \
         CAP_SYS_ADMIN), or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)",
    )
}
