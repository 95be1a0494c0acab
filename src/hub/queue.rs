use super::{EndReason, memory::QueueMemory};
use crate::media::{Frame, Gap, GapKind, Tracks};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// What a subscriber receives, in order.
#[derive(Clone, Debug)]
pub enum Item {
    /// The tracks that the following frames belong to. The first item of every subscription.
    Tracks(Tracks),
    Frame(Frame),
    /// The stream's timeline is not whole here; after an overflow the next frame is a key frame.
    Gap(Gap),
    /// Nothing follows.
    End(EndReason),
}

/// A bounded queue from one stream to one consumer. The publisher never waits for it: when it is full,
/// whole groups of pictures are left out and an [`Item::Gap`] says so.
pub struct Subscriber {
    queue: Arc<Queue>,
}

pub(super) struct Queue {
    state: Mutex<QueueState>,
    attention: OnceLock<Box<dyn Fn() + Send + Sync>>,
    max_bytes: usize,
    memory: Arc<QueueMemory>,
}

#[derive(Default)]
struct QueueState {
    items: VecDeque<Item>,
    /// Without what the subscription began with.
    bytes: usize,
    overflow: Option<Overflow>,
    detached: bool,
}

struct Overflow {
    from_ns: u64,
    frames: u64,
    /// What the frame belongs to with which the subscriber goes on, if that is new to it.
    tracks: Option<Tracks>,
}

impl Subscriber {
    /// `first`: what the subscription begins with; it counts nothing against `max_bytes`.
    pub(super) fn new(max_bytes: usize, first: VecDeque<Item>, memory: Arc<QueueMemory>) -> Self {
        memory.join();
        let state = QueueState { items: first, ..QueueState::default() };
        let queue = Queue { state: Mutex::new(state), attention: OnceLock::new(), max_bytes, memory };
        Self { queue: Arc::new(queue) }
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// Moves everything queued to the end of `into`. Never waits.
    pub fn drain(&self, into: &mut VecDeque<Item>) {
        let mut state = self.queue.lock();
        self.queue.memory.changed(std::mem::take(&mut state.bytes), 0);
        if into.is_empty() {
            std::mem::swap(&mut state.items, into);
        } else {
            into.append(&mut state.items);
        }
    }

    /// Decoding time of the first access unit that waits, ns of the stream's running time.
    pub fn first_frame_ns(&self) -> Option<u64> {
        let state = self.queue.lock();
        state.items.iter().find_map(|item| match item {
            Item::Frame(frame) => Some(frame.dts_ns()),
            _ => None,
        })
    }

    /// `call` runs on the publisher's thread when the stream ends or the queue is half full; it must not block.
    /// Only the first call counts.
    pub fn on_attention(&self, call: impl Fn() + Send + Sync + 'static) {
        // A second callback would mean two consumers of one queue; the first one stays.
        let _ = self.queue.attention.set(Box::new(call));
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.detached = true;
        state.items.clear();
        self.queue.memory.changed(std::mem::take(&mut state.bytes), 0);
        self.queue.memory.leave();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `has_video`: whether a restart after an overflow has to wait for a video key frame.
    /// `video`: whether this frame is one of the video track.
    /// False when the consumer is gone.
    pub fn push_frame(&self, frame: &Frame, video: bool, has_video: bool) -> bool {
        let size = frame.cost_bytes();
        let max_bytes = self.memory.allowed(self.max_bytes);
        let mut state = self.lock();
        if state.detached {
            return false;
        }
        if let Some(overflow) = &mut state.overflow {
            overflow.frames += 1;
            let restart = frame.is_key() && (video || !has_video);
            if !restart || state.bytes + size > max_bytes / 2 {
                return true;
            }
            if let Some(mut overflow) = state.overflow.take() {
                let tracks = overflow.tracks.take();
                tracks.into_iter().for_each(|tracks| self.set_tracks(&mut state, tracks));
                state.items.push_back(Item::Gap(overflow.into_gap(frame.dts_ns())));
            }
        } else if state.bytes + size > max_bytes {
            state.overflow = Some(Overflow { from_ns: frame.dts_ns(), frames: 1, tracks: None });
            return true;
        }
        let before = state.bytes;
        state.bytes += size;
        self.memory.changed(before, state.bytes);
        let half_full = before <= self.max_bytes / 2 && state.bytes > self.max_bytes / 2;
        state.items.push_back(Item::Frame(frame.clone()));
        drop(state);
        if half_full {
            self.call_attention();
        }
        true
    }

    /// False when the consumer is gone.
    pub fn push_item(&self, item: Item) -> bool {
        let end = matches!(item, Item::End(_));
        let mut state = self.lock();
        if state.detached {
            return false;
        }
        if end && let Some(overflow) = state.overflow.take() {
            let until = overflow.from_ns;
            state
                .items
                .push_back(Item::Gap(Overflow { frames: overflow.frames + 1, ..overflow }.into_gap(until)));
        }
        match item {
            Item::Tracks(tracks) => self.set_tracks(&mut state, tracks),
            item => state.items.push_back(item),
        }
        drop(state);
        if end {
            self.call_attention();
        }
        true
    }

    fn set_tracks(&self, state: &mut QueueState, tracks: Tracks) {
        let before = state.bytes;
        state.set_tracks(tracks);
        self.memory.changed(before, state.bytes);
    }

    fn call_attention(&self) {
        if let Some(call) = self.attention.get() {
            call();
        }
    }
}

impl QueueState {
    /// Of tracks that no frame follows only the last are kept: a publisher that changes them all the time fills no
    /// more than the queue.
    fn set_tracks(&mut self, tracks: Tracks) {
        if let Some(overflow) = &mut self.overflow {
            overflow.tracks = Some(tracks);
            return;
        }
        if let Some(Item::Tracks(before)) = self.items.back() {
            // Those a subscription began with were not counted: nothing follows them, so there is 0 to take off.
            self.bytes = self.bytes.saturating_sub(before.cost_bytes());
            self.items.pop_back();
        }
        self.bytes += tracks.cost_bytes();
        self.items.push_back(Item::Tracks(tracks));
    }
}

impl Overflow {
    /// `until_ns`: decoding time of the frame with which the subscriber goes on; that frame is not lost.
    fn into_gap(self, until_ns: u64) -> Gap {
        Gap {
            kind: GapKind::Overflow,
            at_ms: self.from_ns / 1_000_000,
            by_ms: (until_ns.saturating_sub(self.from_ns) / 1_000_000) as i64,
            at: None,
            frames: self.frames - 1,
            packets: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::QueueRule;
    use crate::hub::stream::tests::{A, V, av_tracks, frame, with_video_caps};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn memory() -> Arc<QueueMemory> {
        Arc::new(QueueMemory::new(QueueRule::from(0)))
    }

    /// What a frame of `sized` counts.
    const SIZE: usize = 612;

    fn sized(track: crate::media::TrackId, ms: u64, key: bool) -> Frame {
        let mut f = frame(track, ms, key);
        let buffer = f.buffer.make_mut();
        buffer.append_memory(gstreamer::Memory::from_slice(vec![0u8; 100 - buffer.size()]));
        f
    }

    fn drain(subscriber: &Subscriber) -> Vec<String> {
        let mut items = VecDeque::new();
        subscriber.drain(&mut items);
        items
            .iter()
            .map(|i| match i {
                Item::Frame(f) => format!("{}:{}", f.track.0, f.dts_ns() / 1_000_000),
                Item::Gap(g) => format!("gap@{}+{} {} frames", g.at_ms, g.by_ms, g.frames),
                Item::Tracks(_) => "tracks".into(),
                Item::End(_) => "end".into(),
            })
            .collect()
    }

    #[test]
    fn overflow_leaves_out_whole_groups_and_says_so() {
        let subscriber = Subscriber::new(3 * SIZE, VecDeque::new(), memory());
        let queue = subscriber.queue();
        for (ms, key) in [(0, true), (40, false), (80, false), (120, false), (160, true)] {
            queue.push_frame(&sized(V, ms, key), true, true);
        }
        queue.push_frame(&sized(A, 170, true), false, true);
        assert_eq!(drain(&subscriber), ["0:0", "0:40", "0:80"]);
        queue.push_frame(&sized(A, 180, true), false, true);
        queue.push_frame(&sized(V, 200, true), true, true);
        queue.push_item(Item::End(EndReason::Unpublished));
        assert_eq!(drain(&subscriber), ["gap@120+80 4 frames", "0:200", "end"]);
    }

    /// Once they were not counted: a publisher that sent new parameter sets with every picture filled the memory.
    #[test]
    fn tracks_that_change_all_the_time_fill_no_more_than_the_queue() {
        let tracks = [av_tracks(), with_video_caps("video/x-h264,width=640")];
        let cost = tracks[0].cost_bytes();
        let subscriber = Subscriber::new(4 * (SIZE + cost), VecDeque::new(), memory());
        let queue = subscriber.queue();
        for n in 0..100 {
            queue.push_item(Item::Tracks(tracks[n % 2].clone()));
            queue.push_frame(&sized(V, 40 * n as u64, n == 0), true, true);
        }
        for n in 0..101 {
            queue.push_item(Item::Tracks(tracks[n % 2].clone()));
        }
        let mut items = VecDeque::new();
        subscriber.drain(&mut items);
        assert_eq!(items.len(), 9, "{items:?}");
        queue.push_frame(&sized(V, 4_000, true), true, true);
        subscriber.drain(&mut items);
        let [.., Item::Tracks(last), Item::Gap(gap), Item::Frame(_)] = items.make_contiguous() else {
            panic!("{items:?}");
        };
        assert_eq!((&*last, gap.frames), (&tracks[0], 96));
    }

    #[test]
    fn frames_lost_right_before_the_end_are_told() {
        let subscriber = Subscriber::new(SIZE, VecDeque::new(), memory());
        let queue = subscriber.queue();
        queue.push_frame(&sized(V, 0, true), true, true);
        queue.push_frame(&sized(V, 40, false), true, true);
        queue.push_item(Item::End(EndReason::Unpublished));
        assert_eq!(drain(&subscriber), ["0:0", "gap@40+0 1 frames", "end"]);
    }

    #[test]
    fn the_consumer_is_called_when_half_full_and_at_the_end() {
        let subscriber = Subscriber::new(3 * SIZE, VecDeque::new(), memory());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        subscriber.on_attention(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for ms in 0..3 {
            subscriber.queue().push_frame(&sized(V, ms, true), true, true);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        subscriber.queue().push_item(Item::End(EndReason::Unpublished));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_it_begins_with_counts_nothing_even_when_other_tracks_take_its_place() {
        let tracks = [av_tracks(), with_video_caps("video/x-h264,width=640")];
        let first = VecDeque::from([Item::Tracks(tracks[0].clone())]);
        let subscriber = Subscriber::new(tracks[1].cost_bytes() + 2 * SIZE, first, memory());
        let queue = subscriber.queue();
        queue.push_item(Item::Tracks(tracks[1].clone()));
        for ms in 0..3 {
            queue.push_frame(&sized(V, ms, ms == 0), true, true);
        }
        assert_eq!(drain(&subscriber), ["tracks", "0:0", "0:1"]);
    }

    /// A disk that stands still fills every queue: 500 recordings with 32 MiB each were 16 GB.
    #[test]
    fn all_queues_together_are_bounded() {
        let cost = frame(V, 0, true).cost_bytes();
        let rule = QueueRule { each_bytes: 100 * cost, all_bytes: 40 * cost as u64 };
        let memory = Arc::new(QueueMemory::new(rule));
        let subscriber = || Subscriber::new(rule.each_bytes, VecDeque::new(), memory.clone());
        let both = [subscriber(), subscriber()];
        for n in 0..60 {
            both.iter().for_each(|s| {
                s.queue().push_frame(&frame(V, n, true), true, true);
            });
        }
        assert!((40..=42).contains(&(memory.used_bytes() / cost as u64)), "{}", memory.used_bytes());
        let drained = |subscriber: &Subscriber| {
            let mut items = VecDeque::new();
            subscriber.drain(&mut items);
            items
        };
        let frames = |items: &VecDeque<Item>| items.iter().filter(|i| matches!(i, Item::Frame(_))).count();
        assert_eq!(both.each_ref().map(drained).map(|items| frames(&items)).iter().sum::<usize>() / 2, 20);
        assert_eq!(memory.used_bytes(), 0);
        both.iter().for_each(|s| {
            s.queue().push_frame(&frame(V, 100, true), true, true);
        });
        let after = drained(&both[0]);
        assert!(
            matches!(after[0], Item::Gap(Gap { kind: GapKind::Overflow, frames: 39.., .. })),
            "{after:?}"
        );
        // One that falls behind alone may have all of its own.
        drop(both);
        let alone = subscriber();
        (0..39).for_each(|n| {
            alone.queue().push_frame(&frame(V, n, true), true, true);
        });
        assert_eq!(frames(&drained(&alone)), 39);
    }
}
