//! A folder of the disk: its names, and those a power cut would leave.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use super::dice::Dice;

type Names = BTreeMap<OsString, u64>;

/// Names as programs see them, and beside them those of the last sync and what was done since, in its order.
#[derive(Debug, Default)]
pub struct Folder {
    names: Names,
    synced: Names,
    since: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Put(OsString, u64),
    Remove(OsString),
    Rename(OsString, OsString),
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Put(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Folder {
    pub fn get(&self, name: &OsStr) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub fn names(&self) -> impl Iterator<Item = (&OsStr, u64)> {
        self.names.iter().map(|(name, node)| (name.as_os_str(), *node))
    }

    pub fn put(&mut self, name: &OsStr, node: u64) {
        self.change(Change::Put(name.into(), node));
    }

    pub fn remove(&mut self, name: &OsStr) {
        self.change(Change::Remove(name.into()));
    }

    /// Replaces what is called `to`.
    pub fn rename(&mut self, from: &OsStr, to: &OsStr) {
        self.change(Change::Rename(from.into(), to.into()));
    }

    pub fn sync(&mut self) {
        self.synced.clone_from(&self.names);
        self.since.clear();
    }

    /// The power goes: of what was done since the last sync the newest is undone, back to some point.
    pub fn cut(&mut self, dice: &mut Dice) {
        let kept = if dice.loses_all() { 0 } else { dice.below(self.since.len() + 1) };
        self.names.clone_from(&self.synced);
        for change in self.since.iter().take(kept) {
            change.apply(&mut self.names);
        }
        self.sync();
    }

    /// Gives every node another number.
    pub fn renumber(&mut self, number: impl Fn(u64) -> u64) {
        self.names.values_mut().for_each(|node| *node = number(*node));
        self.sync();
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.since.push(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn left(dice: &mut Dice) -> String {
        let mut folder = Folder::default();
        folder.put("a".as_ref(), 2);
        folder.sync();
        folder.put("b".as_ref(), 3);
        folder.rename("b".as_ref(), "c".as_ref());
        folder.remove("a".as_ref());
        folder.cut(dice);
        folder.names().map(|(name, node)| format!("{}{node} ", name.display())).collect()
    }

    #[test]
    fn names_go_back_in_their_order_to_the_last_sync_at_most() {
        assert_eq!(left(&mut Dice::all_lost()), "a2 ");
        let seen: BTreeSet<_> = (0..100).map(|seed| left(&mut Dice::new(seed))).collect();
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["a2 ", "a2 b3 ", "a2 c3 ", "c3 "]);
    }
}
