//! What every operation passes before it reaches the disk: the faults.

use std::mem;

use rustix::io::Errno;

use super::{dice::Dice, disk::Disk};

/// What an operation is, for the faults that concern only some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Looks, or reads.
    Read,
    /// Names, and sizes cut shorter.
    Names,
    /// Data.
    Write,
    Sync,
}

/// Which operations hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// Writes and syncs, of files and of folders.
    Writes,
    All,
}

impl Stalled {
    fn holds(self, kind: Kind) -> bool {
        self == Self::All || matches!(kind, Kind::Write | Kind::Sync)
    }
}

/// An operation that is to be answered, on the disk or with an error.
pub type Operation = Box<dyn FnOnce(Result<&mut Disk, Errno>) + Send>;

/// The disk and its faults. What it answers goes out by the server's files: only threads of the server may call it
/// ([`host`](super::host)).
#[derive(Default)]
pub struct Gate {
    disk: Disk,
    no_power: bool,
    writes_fail: Option<Errno>,
    stalled: Option<Stalled>,
    held: Vec<(Kind, Operation)>,
}

impl Gate {
    /// Does it now, or when the stall is over.
    pub fn pass(&mut self, kind: Kind, operation: Operation) {
        if self.stalled.is_some_and(|stalled| stalled.holds(kind)) {
            self.held.push((kind, operation));
        } else {
            operation(self.admit(kind));
        }
    }

    fn admit(&mut self, kind: Kind) -> Result<&mut Disk, Errno> {
        match self.writes_fail {
            _ if self.no_power => Err(Errno::IO),
            // A full disk still syncs what it has.
            Some(errno) if kind == Kind::Write || (kind == Kind::Sync && errno != Errno::NOSPC) => Err(errno),
            _ => Ok(&mut self.disk),
        }
    }

    pub fn stall(&mut self, stalled: Stalled) {
        self.stalled = Some(stalled);
    }

    /// What was held is done, in the order it came.
    pub fn go_on(&mut self) {
        self.stalled = None;
        for (kind, operation) in mem::take(&mut self.held) {
            operation(self.admit(kind));
        }
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn fail_writes(&mut self, errno: Option<Errno>) {
        self.writes_fail = errno;
    }

    pub fn is_full(&self) -> bool {
        self.writes_fail == Some(Errno::NOSPC)
    }

    /// Takes the power away. What a stall holds fails: it never reached the disk.
    pub fn cut_power(&mut self, dice: &mut Dice) {
        self.no_power = true;
        self.go_on();
        self.disk.cut(dice);
    }

    pub fn restore_power(&mut self) {
        self.no_power = false;
    }

    pub fn sync_all(&mut self) {
        self.disk.sync_all();
    }

    /// For the end: nobody waits for an answer any more.
    pub fn close(&mut self) {
        self.no_power = true;
        self.go_on();
    }
}
