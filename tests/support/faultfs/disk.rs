//! The disk in memory: folders and files by their numbers. Knows nothing of FUSE.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    time::SystemTime,
};

use rustix::io::Errno;

use super::{dice::Dice, file::File, folder::Folder};

pub const ROOT: u64 = 1;

#[derive(Debug)]
enum Node {
    Folder(Folder),
    File(File),
}

/// Size and kind of a node.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub node: u64,
    pub is_folder: bool,
    pub bytes: u64,
    pub changed: SystemTime,
}

/// What is renamed within one folder may replace what is there, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    Allowed,
    Never,
}

/// Nodes that nothing names any more stay until the next power cut: a program may have them open, and a cut may
/// bring their names back.
#[derive(Debug)]
pub struct Disk {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self { nodes: HashMap::from([(ROOT, Node::Folder(Folder::default()))]), next: ROOT + 1 }
    }
}

impl Disk {
    pub fn facts(&self, node: u64) -> Result<Facts, Errno> {
        let (is_folder, bytes, changed) = match self.nodes.get(&node).ok_or(Errno::STALE)? {
            Node::Folder(_) => (true, 0, SystemTime::UNIX_EPOCH),
            Node::File(file) => (false, file.len() as u64, file.changed),
        };
        Ok(Facts { node, is_folder, bytes, changed })
    }

    pub fn lookup(&self, folder: u64, name: &OsStr) -> Result<Facts, Errno> {
        self.facts(self.folder(folder)?.get(name).ok_or(Errno::NOENT)?)
    }

    /// What is in a folder.
    pub fn list(&self, folder: u64) -> Result<Vec<(Facts, OsString)>, Errno> {
        let names = self.folder(folder)?.names();
        names.map(|(name, node)| Ok((self.facts(node)?, name.to_owned()))).collect()
    }

    pub fn make_file(&mut self, folder: u64, name: &OsStr) -> Result<Facts, Errno> {
        self.make(folder, name, Node::File(File::default()))
    }

    pub fn make_folder(&mut self, folder: u64, name: &OsStr) -> Result<Facts, Errno> {
        self.make(folder, name, Node::Folder(Folder::default()))
    }

    fn make(&mut self, folder: u64, name: &OsStr, node: Node) -> Result<Facts, Errno> {
        let number = self.next;
        let folder = self.folder_mut(folder)?;
        if folder.get(name).is_some() {
            return Err(Errno::EXIST);
        }
        folder.put(name, number);
        self.nodes.insert(number, node);
        self.next += 1;
        self.facts(number)
    }

    /// A second name for a file.
    pub fn link(&mut self, node: u64, folder: u64, name: &OsStr) -> Result<Facts, Errno> {
        self.file(node)?;
        let folder = self.folder_mut(folder)?;
        if folder.get(name).is_some() {
            return Err(Errno::EXIST);
        }
        folder.put(name, node);
        self.facts(node)
    }

    pub fn unlink(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        if self.lookup(folder, name)?.is_folder {
            return Err(Errno::ISDIR);
        }
        self.folder_mut(folder)?.remove(name);
        Ok(())
    }

    pub fn remove_folder(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let inner = self.lookup(folder, name)?.node;
        if self.folder(inner)?.names().next().is_some() {
            return Err(Errno::NOTEMPTY);
        }
        self.folder_mut(folder)?.remove(name);
        Ok(())
    }

    /// Within one folder only: what a power cut leaves of a move between two would be a file twice or not at all.
    pub fn rename(&mut self, folder: u64, from: &OsStr, to: &OsStr, replace: Replace) -> Result<(), Errno> {
        let folder = self.folder_mut(folder)?;
        if folder.get(from).is_none() {
            return Err(Errno::NOENT);
        }
        if replace == Replace::Never && folder.get(to).is_some() {
            return Err(Errno::EXIST);
        }
        folder.rename(from, to);
        Ok(())
    }

    pub fn file(&self, node: u64) -> Result<&File, Errno> {
        match self.nodes.get(&node).ok_or(Errno::STALE)? {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::ISDIR),
        }
    }

    pub fn file_mut(&mut self, node: u64) -> Result<&mut File, Errno> {
        match self.nodes.get_mut(&node).ok_or(Errno::STALE)? {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::ISDIR),
        }
    }

    /// fsync of a file or of a folder: what it holds, never its own name.
    pub fn sync(&mut self, node: u64) -> Result<(), Errno> {
        match self.nodes.get_mut(&node).ok_or(Errno::STALE)? {
            Node::File(file) => file.sync(),
            Node::Folder(folder) => folder.sync(),
        }
        Ok(())
    }

    /// Everything is on the disk.
    pub fn sync_all(&mut self) {
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => file.sync(),
                Node::Folder(folder) => folder.sync(),
            }
        }
    }

    /// The power goes. What is left gets new numbers, so that neither an open file nor the kernel's page cache
    /// reaches into what comes after.
    pub fn cut(&mut self, dice: &mut Dice) {
        // In the order of their numbers, so that a seed repeats.
        let mut numbers: Vec<_> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in &numbers {
            match self.nodes.get_mut(number) {
                Some(Node::File(file)) => file.cut(dice),
                Some(Node::Folder(folder)) => folder.cut(dice),
                None => {}
            }
        }
        let mut left = HashMap::new();
        let mut reached = vec![ROOT];
        while let Some(number) = reached.pop() {
            let Some(node) = self.nodes.remove(&number) else { continue };
            if let Node::Folder(folder) = &node {
                reached.extend(folder.names().map(|(_, node)| node));
            }
            left.insert(number, node);
        }
        numbers.retain(|number| left.contains_key(number) && *number != ROOT);
        let fresh: HashMap<_, _> = numbers.into_iter().zip(self.next..).chain([(ROOT, ROOT)]).collect();
        self.next += fresh.len() as u64;
        self.nodes = left.into_iter().map(|(number, node)| (fresh[&number], node)).collect();
        for node in self.nodes.values_mut() {
            if let Node::Folder(folder) = node {
                folder.renumber(|number| fresh[&number]);
            }
        }
    }

    fn folder(&self, node: u64) -> Result<&Folder, Errno> {
        match self.nodes.get(&node).ok_or(Errno::STALE)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::NOTDIR),
        }
    }

    fn folder_mut(&mut self, node: u64) -> Result<&mut Folder, Errno> {
        match self.nodes.get_mut(&node).ok_or(Errno::STALE)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::NOTDIR),
        }
    }
}
