//! The disk as a file system of the kernel (FUSE): requests in, operations on the disk out.
//!
//! The kernel's page cache writes through: a write is here before write(2) returns, and names and sizes are asked
//! for each time. Locks and inotify are the kernel's own.

use std::{
    ffi::OsStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use super::{
    disk::{Disk, Facts, Replace},
    file::PAGE_BYTES,
    gate::{Gate, Kind},
};

/// Nothing is remembered by the kernel: after a power cut it would be wrong.
const NOT_CACHED: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
/// All changes come through the kernel, so what it has read stays true. A close waits for nothing.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
const NO_HANDLE: FileHandle = FileHandle(0);
const DISK_PAGES: u64 = (100 << 30) / PAGE_BYTES as u64;

/// Its thread never waits: what is to hang is put aside by the gate.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Gate>>);

impl Server {
    pub fn gate(&self) -> MutexGuard<'_, Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, kind: Kind, operation: impl FnOnce(Result<&mut Disk, Errno>) + Send + 'static) {
        self.gate().pass(kind, Box::new(operation));
    }
}

fn error(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

fn attributes(facts: Facts) -> FileAttr {
    let (kind, perm) =
        if facts.is_folder { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o644) };
    let changed = facts.changed;
    FileAttr {
        ino: INodeNo(facts.node),
        size: facts.bytes,
        blocks: facts.bytes.div_ceil(512),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind,
        perm,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

fn entry(reply: ReplyEntry, facts: Result<Facts, Errno>) {
    match facts {
        Ok(facts) => reply.entry(&NOT_CACHED, &attributes(facts), GENERATION),
        Err(errno) => reply.error(error(errno)),
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(error(errno)),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.pass(Kind::Read, move |disk| entry(reply, disk.and_then(|d| d.lookup(parent.0, &name))));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pass(Kind::Read, move |disk| match disk.and_then(|d| d.facts(node.0)) {
            Ok(facts) => reply.attr(&NOT_CACHED, &attributes(facts)),
            Err(errno) => reply.error(error(errno)),
        });
    }

    /// Sizes only; owners, rights and times stay as they are.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = move |disk: &mut Disk| {
            if let Some(size) = size {
                disk.file_mut(node.0)?.resize(usize::try_from(size).map_err(|_| Errno::FBIG)?);
            }
            disk.facts(node.0)
        };
        let kind = if size.is_some() { Kind::Names } else { Kind::Read };
        self.pass(kind, move |disk| match disk.and_then(resized) {
            Ok(facts) => reply.attr(&NOT_CACHED, &attributes(facts)),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let name = name.to_owned();
        self.pass(Kind::Names, move |disk| entry(reply, disk.and_then(|d| d.make_folder(parent.0, &name))));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.pass(Kind::Names, move |disk| done(reply, disk.and_then(|d| d.unlink(parent.0, &name))));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.pass(Kind::Names, move |disk| done(reply, disk.and_then(|d| d.remove_folder(parent.0, &name))));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if parent != new_parent {
            return reply.error(fuser::Errno::EXDEV);
        }
        let replace = match flags {
            RenameFlags::RENAME_NOREPLACE => Replace::Never,
            flags if flags.is_empty() => Replace::Allowed,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let (from, to) = (name.to_owned(), new_name.to_owned());
        self.pass(Kind::Names, move |disk| {
            done(reply, disk.and_then(|d| d.rename(parent.0, &from, &to, replace)));
        });
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.pass(Kind::Names, move |disk| entry(reply, disk.and_then(|d| d.link(node.0, parent.0, &name))));
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.pass(Kind::Read, move |disk| match disk.and_then(|d| d.facts(node.0)) {
            Ok(_) => reply.opened(NO_HANDLE, OPENED),
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let name = name.to_owned();
        self.pass(Kind::Names, move |disk| match disk.and_then(|d| d.make_file(parent.0, &name)) {
            Ok(facts) => {
                let attributes = attributes(facts);
                reply.created(&NOT_CACHED, &attributes, GENERATION, NO_HANDLE, OPENED);
            }
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.pass(Kind::Read, move |disk| {
            match disk.as_deref().map_err(|e| *e).and_then(|d| d.file(node.0)) {
                Ok(file) => reply.data(file.read(offset as usize, size as usize)),
                Err(errno) => reply.error(error(errno)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.pass(Kind::Write, move |disk| match disk.and_then(|d| d.file_mut(node.0)) {
            Ok(file) => {
                file.write(offset as usize, &data);
                reply.written(data.len() as u32);
            }
            Err(errno) => reply.error(error(errno)),
        });
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pass(Kind::Sync, move |disk| done(reply, disk.and_then(|d| d.sync(node.0))));
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.pass(Kind::Sync, move |disk| done(reply, disk.and_then(|d| d.sync(node.0))));
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.pass(Kind::Read, move |disk| {
            let entries = match disk.and_then(|d| d.list(node.0)) {
                Ok(entries) => entries,
                Err(errno) => return reply.error(error(errno)),
            };
            for (at, (facts, name)) in entries.into_iter().enumerate().skip(offset as usize) {
                let kind = attributes(facts).kind;
                if reply.add(INodeNo(facts.node), at as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = if self.gate().is_full() { 0 } else { DISK_PAGES };
        let page = PAGE_BYTES as u32;
        self.pass(Kind::Read, move |disk| match disk {
            Ok(_) => reply.statfs(DISK_PAGES, free, free, DISK_PAGES, DISK_PAGES, page, 255, page),
            Err(errno) => reply.error(error(errno)),
        });
    }
}
