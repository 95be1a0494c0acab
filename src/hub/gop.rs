use super::Item;
use crate::media::{Frame, MediaKind, TrackId, Tracks};
use std::collections::VecDeque;

/// Most bytes of one group of pictures that are kept; a longer one is forgotten until the next key frame.
const MAX_GOP_BYTES: usize = 16 << 20;
/// Audio-only streams: how much of the past is kept.
const AUDIO_ONLY_NS: u64 = 1_000_000_000;

/// The access units since the last video key frame, so that a recording that starts now begins with a
/// picture it has already seen, each behind the tracks it belongs to. Until the tracks are settled nothing is
/// forgotten, within the byte limit.
#[derive(Default)]
pub(super) struct GopCache {
    /// What the first of `entries` belongs to.
    tracks: Tracks,
    entries: VecDeque<Entry>,
    bytes: usize,
    settled: bool,
    /// Too large to keep: empty until the next key frame.
    skipping: bool,
}

enum Entry {
    Frame(Frame),
    /// What follows belongs to these.
    Tracks(Tracks),
}

impl Entry {
    fn cost_bytes(&self) -> usize {
        match self {
            Entry::Frame(frame) => frame.cost_bytes(),
            Entry::Tracks(tracks) => tracks.cost_bytes(),
        }
    }
}

impl GopCache {
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// What is pushed from now on belongs to `tracks`.
    pub fn set_tracks(&mut self, tracks: &Tracks) {
        let carried = carried(&self.tracks, tracks).filter(|_| !self.entries.is_empty());
        let Some(carried) = carried else { return self.begin_with(tracks) };
        self.tracks = carried;
        let mut latest = self.tracks.clone();
        for entry in &mut self.entries {
            let Entry::Tracks(changed) = entry else { continue };
            if let Some(carried) = self::carried(changed, tracks) {
                *changed = carried;
            }
            latest = changed.clone();
        }
        if latest != *tracks {
            self.add(Entry::Tracks(tracks.clone()), tracks);
        }
    }

    pub fn push(&mut self, frame: &Frame, tracks: &Tracks) {
        let video = tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Video);
        if video && frame.is_key() {
            self.restart(frame.dts_ns(), tracks);
        }
        if tracks.video().is_none() {
            self.forget_before(frame.dts_ns().saturating_sub(AUDIO_ONLY_NS));
        }
        if !self.skipping {
            self.add(Entry::Frame(frame.clone()), tracks);
        }
    }

    /// What a subscriber who comes now gets to know first: tracks, then access units and changes of the tracks.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let entries = self.entries.iter().map(|entry| match entry {
            Entry::Frame(frame) => Item::Frame(frame.clone()),
            Entry::Tracks(tracks) => Item::Tracks(tracks.clone()),
        });
        std::iter::once(Item::Tracks(self.tracks.clone())).chain(entries)
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn add(&mut self, entry: Entry, tracks: &Tracks) {
        self.bytes += entry.cost_bytes();
        self.entries.push_back(entry);
        if self.bytes > MAX_GOP_BYTES {
            self.clear();
            self.tracks = tracks.clone();
            self.skipping = true;
        }
    }

    /// Frames of other tracks are of no use to who joins late; before the tracks are settled they are all kept.
    fn begin_with(&mut self, tracks: &Tracks) {
        if self.settled {
            self.clear();
        } else {
            self.entries.retain(|e| matches!(e, Entry::Frame(_)));
            self.bytes = self.entries.iter().map(Entry::cost_bytes).sum();
        }
        self.tracks = tracks.clone();
    }

    /// A key frame begins a new group; audio that belongs beside it stays.
    fn restart(&mut self, key_dts_ns: u64, tracks: &Tracks) {
        self.skipping = false;
        if !self.settled {
            return;
        }
        let stays = |e: &Entry| matches!(e, Entry::Frame(f) if f.is_key() && f.dts_ns() >= key_dts_ns);
        self.entries.retain(stays);
        self.bytes = self.entries.iter().map(Entry::cost_bytes).sum();
        self.tracks = tracks.clone();
    }

    fn forget_before(&mut self, ns: u64) {
        while self.settled && self.entries.front().is_some_and(|e| is_before(e, ns)) {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.cost_bytes();
            if let Entry::Tracks(tracks) = entry {
                self.tracks = tracks;
            }
        }
    }
}

fn is_before(entry: &Entry, ns: u64) -> bool {
    match entry {
        Entry::Frame(frame) => frame.dts_ns() < ns,
        Entry::Tracks(_) => true,
    }
}

/// `old`, with the tracks that `new` has beyond it; `None` when what belongs to `old` does not go on in `new`.
fn carried(old: &Tracks, new: &Tracks) -> Option<Tracks> {
    if old.iter().len() > new.iter().len() {
        return None;
    }
    let goes_on = |old: &crate::media::Track, new: &crate::media::Track| {
        old.codec == new.codec && (old.kind() == MediaKind::Video || old.caps == new.caps)
    };
    let carry = |(index, new)| match old.get(TrackId(index as u8)) {
        Some(old) => goes_on(old, new).then(|| old.clone()),
        None => Some(new.clone()),
    };
    new.iter().enumerate().map(carry).collect::<Option<Vec<_>>>().map(Tracks::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::stream::tests::{A, V, av_tracks, frame, with_video_caps};

    /// Frames as (track, ms); tracks as (255, number of the video caps in `known`).
    fn items(cache: &GopCache, known: &[&Tracks]) -> Vec<(u8, u64)> {
        let of = |tracks: &Tracks| known.iter().position(|k| *k == tracks).map_or(99, |at| at as u64);
        let tell = |item| match item {
            Item::Frame(f) => (f.track.0, f.dts_ns() / 1_000_000),
            Item::Tracks(tracks) => (255, of(&tracks)),
            other => panic!("{other:?}"),
        };
        cache.items().map(tell).collect()
    }

    fn times(cache: &GopCache) -> Vec<(u8, u64)> {
        items(cache, &[]).split_off(1)
    }

    #[test]
    fn keeps_from_the_last_key_frame_with_the_audio_beside_it() {
        let (mut cache, tracks) = (GopCache::default(), av_tracks());
        cache.settle();
        for f in [frame(V, 0, true), frame(A, 10, true), frame(V, 40, false), frame(A, 90, true)] {
            cache.push(&f, &tracks);
        }
        cache.push(&frame(V, 80, true), &tracks);
        assert_eq!(times(&cache), [(1, 90), (0, 80)]);
    }

    #[test]
    fn forgets_nothing_before_the_tracks_are_settled() {
        let (mut cache, tracks) = (GopCache::default(), av_tracks());
        for f in [frame(A, 0, true), frame(V, 5, true), frame(V, 45, true)] {
            cache.push(&f, &tracks);
        }
        assert_eq!(times(&cache), [(1, 0), (0, 5), (0, 45)]);
    }

    /// Once the cache was emptied by each change, and held what no decoder can begin with until the next key frame.
    #[test]
    fn frames_stay_behind_the_tracks_they_belong_to() {
        let (small, large) = (av_tracks(), with_video_caps("video/x-h264,width=640"));
        let known = [&small, &large];
        let mut cache = GopCache::default();
        cache.set_tracks(&small);
        cache.push(&frame(V, 0, true), &small);
        cache.settle();
        cache.push(&frame(A, 10, true), &small);
        cache.set_tracks(&large);
        cache.push(&frame(A, 30, true), &large);
        assert_eq!(items(&cache, &known), [(255, 0), (0, 0), (1, 10), (255, 1), (1, 30)]);
        cache.push(&frame(V, 20, true), &large);
        cache.push(&frame(V, 60, false), &large);
        assert_eq!(items(&cache, &known), [(255, 1), (1, 30), (0, 20), (0, 60)]);
    }

    #[test]
    fn a_track_that_shows_up_late_is_told_from_the_start() {
        let both = av_tracks();
        let video = Tracks::new(vec![both.get(V).expect("video").clone()]);
        let larger = with_video_caps("video/x-h264,width=640");
        let larger_video = Tracks::new(vec![larger.get(V).expect("video").clone()]);
        let mut cache = GopCache::default();
        cache.set_tracks(&video);
        cache.push(&frame(V, 0, true), &video);
        cache.set_tracks(&larger_video);
        cache.push(&frame(V, 40, true), &larger_video);
        cache.set_tracks(&larger);
        assert_eq!(items(&cache, &[&both, &larger]), [(255, 0), (0, 0), (255, 1), (0, 40)]);
    }

    #[test]
    fn another_codec_empties_it() {
        let mut cache = GopCache::default();
        let (h264, mut other) = (av_tracks(), av_tracks().iter().cloned().collect::<Vec<_>>());
        other[0].codec = crate::media::Codec::Vp8;
        let other = Tracks::new(other);
        cache.set_tracks(&h264);
        cache.settle();
        cache.push(&frame(V, 0, true), &h264);
        cache.set_tracks(&other);
        assert_eq!(items(&cache, &[&h264, &other]), [(255, 1)]);
    }

    #[test]
    fn a_group_past_the_limit_is_skipped_until_the_next_key_frame() {
        let (mut cache, tracks) = (GopCache::default(), av_tracks());
        cache.settle();
        cache.push(&frame(V, 0, true), &tracks);
        let mut big = frame(V, 40, false);
        big.buffer = gstreamer::Buffer::with_size(MAX_GOP_BYTES).expect("memory");
        cache.push(&big, &tracks);
        cache.push(&frame(V, 80, false), &tracks);
        assert_eq!(times(&cache), []);
        cache.push(&frame(V, 120, true), &tracks);
        assert_eq!(times(&cache), [(0, 120)]);
    }
}
