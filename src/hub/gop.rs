use crate::media::{Frame, MediaKind, Tracks};
use std::collections::VecDeque;

/// Most bytes of one group of pictures that are kept; a longer one is forgotten until the next key frame.
const MAX_GOP_BYTES: usize = 16 << 20;
/// Audio-only streams: how much of the past is kept.
const AUDIO_ONLY_NS: u64 = 1_000_000_000;

/// The access units since the last video key frame, so that a recording that starts now begins with a
/// picture it has already seen. Until the tracks are settled nothing is forgotten, within the byte limit.
#[derive(Default)]
pub(super) struct GopCache {
    frames: VecDeque<Frame>,
    bytes: usize,
    settled: bool,
    /// Too large to keep: empty until the next key frame.
    skipping: bool,
}

impl GopCache {
    pub fn settle(&mut self) {
        self.settled = true;
    }

    pub fn push(&mut self, frame: &Frame, tracks: &Tracks) {
        let video = tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Video);
        if video && frame.is_key() {
            self.restart(frame.dts_ns());
        }
        if tracks.video().is_none() {
            self.forget_before(frame.dts_ns().saturating_sub(AUDIO_ONLY_NS));
        }
        if self.skipping {
            return;
        }
        self.bytes += frame.cost_bytes();
        self.frames.push_back(frame.clone());
        if self.bytes > MAX_GOP_BYTES {
            self.frames.clear();
            self.bytes = 0;
            self.skipping = true;
        }
    }

    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    /// A key frame begins a new group; audio that belongs beside it stays.
    fn restart(&mut self, key_dts_ns: u64) {
        self.skipping = false;
        if !self.settled {
            return;
        }
        self.frames.retain(|f| f.is_key() && f.dts_ns() >= key_dts_ns);
        self.bytes = self.frames.iter().map(Frame::cost_bytes).sum();
    }

    fn forget_before(&mut self, ns: u64) {
        while self.settled && self.frames.front().is_some_and(|f| f.dts_ns() < ns) {
            self.bytes -= self.frames.pop_front().map_or(0, |f| f.cost_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::stream::tests::{A, V, av_tracks, frame};

    fn times(cache: &GopCache) -> Vec<(u8, u64)> {
        cache.frames().map(|f| (f.track.0, f.dts_ns() / 1_000_000)).collect()
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
