//! Going over to another stream: because it was asked for, or because the publisher has come back as one.

use super::{
    super::{books::Entry, params::Change, request::Source, state::Input},
    LeftOut, Task,
};
use crate::{
    hub::{EndReason, Item},
    media::{Frame, GapKind, MediaKind, Tracks},
};
use std::{collections::VecDeque, time::Duration};

/// How long a recording whose stream has ended waits for the first key frame of the one it is to go over to.
const SWITCH_WAIT: Duration = Duration::from_secs(10);
/// Sound kept while waiting for a key frame.
const MAX_HELD: usize = 200;

/// The stream that a recording goes over to, at its next key frame.
pub(super) struct Next {
    pub source: Source,
    kind: GapKind,
    tracks: Tracks,
    /// The newest of the sound before the first key frame.
    held: VecDeque<Frame>,
    items: VecDeque<Item>,
}

impl Next {
    fn begins_with(&self, frame: &Frame) -> bool {
        frame.is_key() && (self.tracks.video().is_none() || self.is_video(frame))
    }

    fn is_video(&self, frame: &Frame) -> bool {
        self.tracks.get(frame.track).is_some_and(|t| t.kind() == MediaKind::Video)
    }

    /// Asked for, and not only its publisher's return.
    pub fn is_switch(&self) -> bool {
        self.kind == GapKind::Switch
    }

    fn hold(&mut self, frame: Frame) {
        if self.held.len() == MAX_HELD {
            self.held.pop_front();
        }
        self.held.push_back(frame);
    }
}

impl Task {
    /// From the next key frame of `source` on the recording goes on with it.
    pub(super) fn expect(&mut self, source: Source, kind: GapKind, now: Duration) {
        if let Some(waker) = &self.waker {
            waker.poll_at_attention_of(&source.subscriber, self.id);
        }
        // It is here in time; what is waited for now is its key frame.
        self.away_until = self.away_until.map(|until| until.max(now + SWITCH_WAIT));
        self.next = Some(Next {
            source,
            kind,
            tracks: Tracks::default(),
            held: VecDeque::new(),
            items: VecDeque::new(),
        });
        self.ask_for_key(now);
    }

    /// What has arrived from the stream it goes over to.
    pub(super) fn take_next(&mut self, now: Duration) {
        let Some(next) = &mut self.next else { return };
        next.source.subscriber.drain(&mut next.items);
        while let Some(item) = next.items.pop_front() {
            match item {
                Item::Tracks(tracks) => next.tracks = tracks,
                Item::Frame(frame) if next.begins_with(&frame) => return self.join(frame, now),
                Item::Frame(frame) if !next.is_video(&frame) => next.hold(frame),
                Item::Frame(_) | Item::Gap(_) => {}
                Item::End(reason) => return self.lose_next(&reason, now),
            }
        }
    }

    /// `first`, a key frame, is the first of the new stream.
    fn join(&mut self, first: Frame, now: Duration) {
        let Some(next) = self.next.take() else { return };
        let change = Change::of(&self.tracks, &next.tracks);
        let (fits, video) = (change == Change::Fits, next.tracks.video().is_some());
        self.release_held(now);
        self.finish_closing();
        self.leave_out(next.kind);
        if let Some(LeftOut { kind, .. }) = self.left_out.as_mut().filter(|_| !self.state.is_left_out()) {
            *kind = next.kind;
        }
        self.input(Input::Joined { video, fits }, None, now);
        if let Some(part) = self.part.as_mut().filter(|_| fits) {
            part.writer.set_tracks(&next.tracks);
        }
        self.source = next.source;
        self.tracks = next.tracks;
        self.away_until = None;
        self.tell(Entry::Joined(self.source.stream.clone()));
        for frame in next.held {
            self.take(Item::Frame(frame), now);
        }
        self.take(Item::Frame(first), now);
        for item in next.items {
            self.take(item, now);
        }
    }

    fn lose_next(&mut self, reason: &EndReason, now: Duration) {
        let Some(next) = self.next.take() else { return };
        let announce = next.source.stream.announce();
        let what = format!(
            "{}/{} ended before its first key frame ({reason}): the recording did not go over to it",
            announce.room, announce.name
        );
        tracing::warn!(recording = %self.id, "{what}");
        if let Some(part) = &mut self.part {
            part.writer.degrade(what);
        }
        if self.away_until.is_some() {
            self.source_ended(reason, now);
        }
    }

    /// The stream has ended: the recording does, or waits for what comes in its place.
    pub(super) fn source_ended(&mut self, reason: &EndReason, now: Duration) {
        let window = if *reason == EndReason::Kicked { Duration::ZERO } else { self.policy.resume_window };
        let wait = if self.next.is_some() { window.max(SWITCH_WAIT) } else { window };
        if wait.is_zero() || self.parts_opened == 0 && self.next.is_none() {
            return self.input(Input::End, None, now);
        }
        tracing::info!(recording = %self.id, %reason, ?wait, "the publisher is gone; waiting for it");
        self.release_held(now);
        self.finish_closing();
        self.leave_out(GapKind::Reconnect);
        self.away_until = Some(now + wait);
    }
}
