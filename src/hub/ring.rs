use super::{
    Item,
    gop::{Entry, Gop, carried},
    preroll::{PrerollGiven, Share},
};
use crate::media::{Frame, Gap, MediaKind, Track, Tracks};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// Most bytes of one group of pictures that are kept; a longer one is forgotten until the next key frame.
const MAX_GOP_BYTES: usize = 16 << 20;
/// Audio-only streams: what of the past is always kept, and how much of it goes at once.
const AUDIO_ONLY_NS: u64 = 1_000_000_000;

/// The access units since the last video key frame, so that a recording that starts now begins with a picture it
/// has already seen, each behind the tracks it belongs to; before them older groups, as long as the retention or the
/// shared memory allows. Nothing is missing between its first and its last. Until the tracks are settled nothing
/// is forgotten, within the byte limit, and all of it counts as one group.
pub(super) struct GopRing {
    older: VecDeque<Gop>,
    current: Gop,
    older_bytes: u64,
    newest_ns: u64,
    settled: bool,
    /// Too large to keep: empty until the next key frame.
    skipping: bool,
    /// Memory took what the retention would have kept.
    short: bool,
    share: Arc<Share>,
}

/// What a shrinking ring gave up.
pub(super) struct GivenUp {
    /// To be dropped without a lock.
    pub gops: Vec<Gop>,
    /// The ring was whole before.
    pub newly_short: bool,
}

impl GopRing {
    pub fn new(share: Arc<Share>) -> Self {
        Self {
            older: VecDeque::new(),
            current: Gop::default(),
            older_bytes: 0,
            newest_ns: 0,
            settled: false,
            skipping: false,
            short: false,
            share,
        }
    }

    /// The latest decoding time that was pushed.
    pub fn newest_ns(&self) -> u64 {
        self.newest_ns
    }

    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// What is pushed from now on belongs to `tracks`.
    pub fn set_tracks(&mut self, tracks: &Tracks) {
        let before = &self.current.tracks;
        let goes_on = !self.current.entries.is_empty() && carried(before, tracks).is_some();
        if !goes_on {
            return self.begin_with(tracks);
        }
        if tracks.iter().len() > before.iter().len() {
            if before.video().is_none() && tracks.video().is_some() {
                // What is only heard is no beginning any more.
                self.drop_older();
                self.current.begin_ns = None;
            }
            self.older.iter_mut().for_each(|gop| gop.carry(tracks));
            self.current.carry(tracks);
            self.current.count();
        }
        if self.current.latest != *tracks {
            self.add(Entry::Tracks(tracks.clone()), tracks);
        }
    }

    /// `retention_ns`: media time to keep of what is older than the current group.
    pub fn push(&mut self, frame: &Frame, tracks: &Tracks, retention_ns: u64) {
        let dts_ns = frame.dts_ns();
        self.newest_ns = self.newest_ns.max(dts_ns);
        let video = tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Video);
        if video && frame.is_key() {
            self.restart(dts_ns, tracks, retention_ns);
        }
        let audio_only = tracks.video().is_none();
        if audio_only {
            self.slide(dts_ns.saturating_sub(AUDIO_ONLY_NS), retention_ns);
        }
        if !self.skipping {
            if audio_only {
                self.current.begin_ns = self.current.first_frame_ns().or(Some(dts_ns));
            }
            self.add(Entry::Frame(frame.clone()), tracks);
        }
        if !self.older.is_empty() {
            self.forget(retention_ns);
        }
    }

    /// The timeline is not whole between what was pushed last and what is pushed next.
    pub fn gap(&mut self, gap: &Gap) {
        // Before the first access unit it tells nothing to who comes now.
        if !self.current.entries.is_empty() {
            let tracks = self.current.latest.clone();
            self.add(Entry::Gap(gap.clone()), &tracks);
        }
    }

    /// The newest key frame of video that is kept, and the track that it belongs to.
    pub fn key_frame(&self) -> Option<(Track, Frame)> {
        [Some(&self.current), self.older.back()].into_iter().flatten().find_map(Gop::key_frame)
    }

    /// What a subscriber who comes now gets to know first: tracks, then the current group's access units, gaps and
    /// changes of the tracks.
    pub fn items(&self) -> VecDeque<Item> {
        self.items_from(self.older.len())
    }

    /// The same from the last key frame that is at least `preroll_ns` old, or else from the oldest that is kept.
    pub fn items_with_preroll(&self, preroll_ns: u64) -> (VecDeque<Item>, PrerollGiven) {
        let target_ns = self.newest_ns.checked_sub(preroll_ns);
        let reaches = |gop: &Gop| target_ns.zip(gop.begin_ns).is_some_and(|(target, begin)| begin <= target);
        let first = match reaches(&self.current) {
            true => self.older.len(),
            false => self.older.partition_point(reaches).saturating_sub(1),
        };
        let begin_ns = self.older.get(first).unwrap_or(&self.current).begin_ns;
        let given_ns = begin_ns.map_or(0, |begin| self.newest_ns.saturating_sub(begin));
        let given = PrerollGiven {
            duration: Duration::from_nanos(given_ns),
            shortened: self.short && given_ns < preroll_ns,
        };
        (self.items_from(first), given)
    }

    pub fn clear(&mut self) {
        self.drop_older();
        self.current.entries.clear();
        self.current.bytes = 0;
        self.current.begin_ns = None;
    }

    /// Gives up the oldest groups until `bytes` are free or the ring is shorter than `next_ns`; at least one.
    pub fn give_up(&mut self, bytes: u64, next_ns: u64) -> GivenUp {
        let mut given_up = GivenUp { gops: Vec::new(), newly_short: false };
        let mut freed = 0;
        while let Some(gop) = self.older.pop_front() {
            freed += gop.bytes as u64;
            given_up.gops.push(gop);
            if freed >= bytes || self.span_ns() < next_ns {
                break;
            }
        }
        self.older_bytes -= freed;
        self.tell_share();
        given_up.newly_short = !given_up.gops.is_empty() && !std::mem::replace(&mut self.short, true);
        given_up
    }

    fn items_from(&self, first: usize) -> VecDeque<Item> {
        let gops = || self.older.range(first..).chain([&self.current]);
        let mut items = VecDeque::with_capacity(gops().map(|gop| gop.entries.len() + 1).sum());
        let mut told: Option<&Tracks> = None;
        for gop in gops() {
            if told != Some(&gop.tracks) {
                items.push_back(Item::Tracks(gop.tracks.clone()));
            }
            items.extend(gop.entries.iter().map(Entry::to_item));
            told = Some(&gop.latest);
        }
        items
    }

    fn add(&mut self, entry: Entry, tracks: &Tracks) {
        self.current.add(entry);
        if self.current.bytes > MAX_GOP_BYTES {
            self.clear();
            self.current.belong_to(tracks);
            self.skipping = true;
            self.short = true;
        }
    }

    /// Frames of other tracks are of no use to who joins late; before the tracks are settled they are all kept.
    fn begin_with(&mut self, tracks: &Tracks) {
        if self.settled {
            self.clear();
        } else {
            self.current.entries.retain(|e| !matches!(e, Entry::Tracks(_)));
            self.current.count();
        }
        self.current.belong_to(tracks);
    }

    /// A key frame begins a new group; audio that belongs beside it stays.
    fn restart(&mut self, key_ns: u64, tracks: &Tracks, retention_ns: u64) {
        self.skipping = false;
        if !self.settled {
            self.current.begin_ns.get_or_insert(key_ns);
            return;
        }
        let audio = |id| tracks.get(id).is_some_and(|t| t.kind() == MediaKind::Audio);
        let stays = |e: &Entry| matches!(e, Entry::Frame(f) if audio(f.track) && f.dts_ns() >= key_ns);
        if retention_ns > 0 && self.current.begin_ns.is_some() {
            let beside = self.current.entries.iter().filter(|e| stays(e)).cloned().collect();
            let next = Gop { entries: beside, ..Gop::default() };
            let mut whole = std::mem::replace(&mut self.current, next);
            whole.entries.retain(|e| !stays(e));
            self.keep(whole);
        } else {
            self.short &= retention_ns > 0;
            self.drop_older();
            self.current.entries.retain(stays);
        }
        self.current.count();
        self.current.begin_ns = Some(key_ns);
        self.current.belong_to(tracks);
        // Only now the ring's span is known.
        self.tell_share();
    }

    fn keep(&mut self, mut gop: Gop) {
        gop.drop_what_cannot_be_decoded();
        gop.count();
        gop.bytes += gop.tracks.cost_bytes();
        self.older_bytes += gop.bytes as u64;
        self.older.push_back(gop);
    }

    /// Audio-only: what is before `ns` is no longer current.
    fn slide(&mut self, ns: u64, retention_ns: u64) {
        let mut kept = false;
        while self.settled && self.current.entries.front().is_some_and(|e| e.is_before(ns)) {
            let Some(entry) = self.current.pop_front() else { return };
            if retention_ns > 0 {
                self.keep_audio(entry);
                kept = true;
            }
        }
        if kept {
            self.tell_share();
        }
    }

    fn keep_audio(&mut self, entry: Entry) {
        let tracks = &self.current.tracks;
        let last = self.older.back_mut().filter(|gop| gop.tracks == *tracks);
        let cost = match (entry, last) {
            (Entry::Frame(frame), Some(gop)) if gop.is_within(frame.dts_ns(), AUDIO_ONLY_NS) => {
                gop.add(Entry::Frame(frame))
            }
            (Entry::Frame(frame), _) => {
                let begin_ns = Some(frame.dts_ns());
                let mut gop = Gop { begin_ns, ..Gop::default() };
                gop.belong_to(tracks);
                gop.add(Entry::Frame(frame));
                gop.bytes += tracks.cost_bytes();
                let bytes = gop.bytes;
                self.older.push_back(gop);
                bytes
            }
            (Entry::Gap(gap), Some(gop)) => gop.add(Entry::Gap(gap)),
            // The next frame begins a group behind its own tracks.
            (Entry::Gap(_) | Entry::Tracks(_), _) => 0,
        };
        self.older_bytes += cost as u64;
    }

    /// A group goes when the next one's key frame is old enough.
    fn forget(&mut self, retention_ns: u64) {
        let Some(until_ns) = self.newest_ns.checked_sub(retention_ns) else { return };
        let mut gone = 0;
        while !self.older.is_empty() {
            let next = self.older.get(1).unwrap_or(&self.current);
            if next.begin_ns.is_none_or(|begin| begin > until_ns) {
                break;
            }
            gone += self.older.pop_front().map_or(0, |gop| gop.bytes as u64);
            // All that is asked for is there again.
            self.short = false;
        }
        if gone > 0 {
            self.older_bytes -= gone;
            self.tell_share();
        }
    }

    fn drop_older(&mut self) {
        if !self.older.is_empty() {
            self.older = VecDeque::new();
            self.older_bytes = 0;
            self.tell_share();
        }
    }

    /// Media time of the older groups.
    fn span_ns(&self) -> u64 {
        let begin_ns = self.older.front().and_then(|gop| gop.begin_ns);
        let end_ns = self.current.begin_ns.unwrap_or(self.newest_ns);
        begin_ns.map_or(0, |begin| end_ns.saturating_sub(begin))
    }

    fn tell_share(&self) {
        self.share.set(self.older_bytes, self.span_ns());
    }
}

#[cfg(test)]
mod tests;
