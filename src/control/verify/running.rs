//! Whether somebody still writes a file, found without asking or locking anything: from what the kernel tells.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Whether a daemon runs with this state folder: it holds an exclusive `flock` on `lock` in it (proc_locks(5)).
pub(super) fn daemon_runs(state: &Path) -> bool {
    let Ok(lock) = fs::metadata(state.join("lock")) else { return false };
    let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", lock.ino());
    let inode = format!(":{}", lock.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_flock = words.contains(&"FLOCK") && !words.contains(&"->");
        // Some file systems (btrfs, overlayfs) tell another device there than to stat.
        is_flock && words.iter().any(|word| *word == wanted || word.ends_with(&inode))
    })
}

/// Whether a process has the file open; `None` when there are processes that may not be looked into.
pub(super) fn is_open(file: &Path) -> Option<bool> {
    let wanted = fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
    let mut saw_all = true;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        match fs::read_dir(process.path().join("fd")) {
            Ok(files) => {
                if files.flatten().any(|f| fs::read_link(f.path()).is_ok_and(|target| target == wanted)) {
                    return Some(true);
                }
            }
            Err(e) => saw_all &= e.kind() != std::io::ErrorKind::PermissionDenied,
        }
    }
    saw_all.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_and_an_open_file_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!daemon_runs(dir.path()));
        let file = fs::File::create(&path).unwrap();
        assert!(!daemon_runs(dir.path()));
        assert_eq!(is_open(&path), Some(true));
        file.try_lock().unwrap();
        assert!(daemon_runs(dir.path()));
        drop(file);
        assert!(!daemon_runs(dir.path()));
        assert_ne!(is_open(&path), Some(true));
    }
}
