//! The thread that owns the kernel's connection to the file system.
//!
//! A process that serves a file system and uses it can never end once it is killed while it waits for itself: the
//! connection is closed with the last of its threads, and that one waits for an answer. So the connection is
//! held by threads with a table of files of their own (`CLONE_FILES` undone): it breaks when they end, and who waits
//! gets an error.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use fuser::{BackgroundSession, Config, MountOption};

use super::{gate::Gate, serve::Server};

type Request = Box<dyn FnOnce(&mut Gate) + Send>;

/// Asks the server's threads. They end when this and all its clones are dropped and nobody uses the file system.
#[derive(Clone)]
pub struct Host(Sender<Request>);

impl Host {
    /// Mounts at `root`.
    pub fn start(root: &Path) -> io::Result<Self> {
        let (requests, asked) = channel();
        let (tell, mounted) = channel();
        let root = root.to_path_buf();
        thread::Builder::new().name("faultfs".into()).spawn(move || serve(root, &tell, &asked))?;
        let gone = || Err(io::Error::other("the file system's thread ended"));
        mounted.recv().unwrap_or_else(|_| gone()).map(|()| Self(requests))
    }

    /// Does `request` on a thread of the server, and waits for it.
    pub fn ask<T: Send + 'static>(&self, request: impl FnOnce(&mut Gate) -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let request = move |gate: &mut Gate| {
            // Who asked waits below.
            let _ = answer.send(request(gate));
        };
        self.0.send(Box::new(request)).expect("the server lives as long as it can be asked");
        answered.recv().expect("an answer to each request")
    }
}

fn serve(root: PathBuf, tell: &Sender<io::Result<()>>, asked: &Receiver<Request>) {
    let server = Server::default();
    let session = match own_files().and_then(|()| mount(server.clone(), &root)) {
        Ok(session) => session,
        Err(error) => {
            // Who mounts waits for it.
            let _ = tell.send(Err(error));
            return;
        }
    };
    let _ = tell.send(Ok(()));
    for request in asked {
        request(&mut server.gate());
    }
    drop(session);
}

/// Gives this thread, and those it starts, a table of files of their own with standard input, output and error.
fn own_files() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: closes files in a new table that this thread alone uses, and it has none open.
    let closed =
        unsafe { libc::close_range(FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE as libc::c_int) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mount(server: Server, root: &Path) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("reeld-faultfs".into()), MountOption::NoAtime];
    fuser::spawn_mount(server, root, &config)
}
