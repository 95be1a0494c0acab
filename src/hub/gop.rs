use super::Item;
use crate::media::{Frame, Gap, MediaKind, Track, TrackId, Tracks};
use std::collections::VecDeque;

/// A group of pictures: a key frame and what follows up to the next. Audio-only: a stretch of time.
#[derive(Default)]
pub(super) struct Gop {
    /// What the first of `entries` belongs to.
    pub tracks: Tracks,
    /// What the last of them belongs to.
    pub latest: Tracks,
    pub entries: VecDeque<Entry>,
    pub bytes: usize,
    /// Decoding time of its key frame; audio-only: of its first. `None`: no decoder can begin with it.
    pub begin_ns: Option<u64>,
}

#[derive(Clone)]
pub(super) enum Entry {
    Frame(Frame),
    /// What follows belongs to these.
    Tracks(Tracks),
    Gap(Gap),
}

impl Gop {
    /// Returns what the entry costs, bytes.
    pub fn add(&mut self, entry: Entry) -> usize {
        let cost = entry.cost_bytes();
        if let Entry::Tracks(tracks) = &entry {
            self.latest = tracks.clone();
        }
        self.bytes += cost;
        self.entries.push_back(entry);
        cost
    }

    pub fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.cost_bytes();
        if let Entry::Tracks(tracks) = &entry {
            self.tracks = tracks.clone();
        }
        Some(entry)
    }

    pub fn count(&mut self) {
        self.bytes = self.entries.iter().map(Entry::cost_bytes).sum();
    }

    pub fn belong_to(&mut self, tracks: &Tracks) {
        self.tracks = tracks.clone();
        self.latest = tracks.clone();
    }

    /// The tracks that `tracks` has beyond those told here are told from the start.
    pub fn carry(&mut self, tracks: &Tracks) {
        let told = self.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Tracks(tracks) => Some(tracks),
            _ => None,
        });
        for before in told.chain([&mut self.tracks, &mut self.latest]) {
            if let Some(carried) = carried(before, tracks) {
                *before = carried;
            }
        }
    }

    /// What was there before the key frame, but for audio that belongs beside it.
    pub fn drop_what_cannot_be_decoded(&mut self) {
        let begin_ns = self.begin_ns.unwrap_or(0);
        let begins = |e: &Entry| matches!(e, Entry::Frame(f) if f.is_key() && f.dts_ns() >= begin_ns);
        while self.entries.front().is_some_and(|e| !begins(e)) {
            self.pop_front();
        }
    }

    /// Its key frame of video: near its beginning.
    pub fn key_frame(&self) -> Option<(Track, Frame)> {
        let mut tracks = &self.tracks;
        for entry in &self.entries {
            match entry {
                Entry::Tracks(now) => tracks = now,
                Entry::Frame(frame) if frame.is_key() => {
                    let video = tracks.get(frame.track).filter(|t| t.kind() == MediaKind::Video);
                    if let Some(track) = video {
                        return Some((track.clone(), frame.clone()));
                    }
                }
                Entry::Frame(_) | Entry::Gap(_) => {}
            }
        }
        None
    }

    pub fn first_frame_ns(&self) -> Option<u64> {
        self.entries.iter().find_map(|entry| match entry {
            Entry::Frame(frame) => Some(frame.dts_ns()),
            _ => None,
        })
    }

    pub fn is_within(&self, dts_ns: u64, span_ns: u64) -> bool {
        self.begin_ns.is_some_and(|begin| dts_ns < begin + span_ns)
    }
}

impl Entry {
    pub fn cost_bytes(&self) -> usize {
        /// A gap, and the list entry, roughly.
        const GAP_BYTES: usize = 128;
        match self {
            Entry::Frame(frame) => frame.cost_bytes(),
            Entry::Tracks(tracks) => tracks.cost_bytes(),
            Entry::Gap(_) => GAP_BYTES,
        }
    }

    pub fn is_before(&self, ns: u64) -> bool {
        match self {
            Entry::Frame(frame) => frame.dts_ns() < ns,
            // Nothing is left that is before them.
            Entry::Tracks(_) | Entry::Gap(_) => true,
        }
    }

    pub fn to_item(&self) -> Item {
        match self {
            Entry::Frame(frame) => Item::Frame(frame.clone()),
            Entry::Tracks(tracks) => Item::Tracks(tracks.clone()),
            Entry::Gap(gap) => Item::Gap(gap.clone()),
        }
    }
}

/// `old`, with the tracks that `new` has beyond it; `None` when what belongs to `old` does not go on in `new`.
pub(super) fn carried(old: &Tracks, new: &Tracks) -> Option<Tracks> {
    if old.iter().len() > new.iter().len() {
        return None;
    }
    let goes_on = |old: &Track, new: &Track| {
        old.codec == new.codec && (old.kind() == MediaKind::Video || old.caps == new.caps)
    };
    let carry = |(index, new)| match old.get(TrackId(index as u8)) {
        Some(old) => goes_on(old, new).then(|| old.clone()),
        None => Some(new.clone()),
    };
    new.iter().enumerate().map(carry).collect::<Option<Vec<_>>>().map(Tracks::new)
}
