//! Which recordings are under way, and which sessions are theirs.

use crate::{hub::Stream, library::RecordingId, media::MediaSessionId};
use std::{collections::HashMap, sync::Arc};

/// A recording until it is done. `R`: the handle of it.
pub(super) struct Active<R> {
    pub id: RecordingId,
    pub running: R,
    /// Its end was asked for: a start may begin another one.
    pub stopping: bool,
    /// It has a resume window.
    waits: bool,
    /// What it began with.
    origin: MediaSessionId,
    /// What it records.
    stream: Arc<Stream>,
    /// What it was asked to go over to, in the order in which it was asked.
    asked: Vec<Arc<Stream>>,
}

/// Every session has at most one recording that counts: the newest. A recording has the session of the stream that it
/// records, and those of the streams that it was asked to go over to.
pub(super) struct Actives<R> {
    by_id: HashMap<RecordingId, Active<R>>,
    by_session: HashMap<MediaSessionId, RecordingId>,
}

impl<R> Active<R> {
    /// The stream that it goes over to, else the one that it records.
    pub fn stream(&self) -> &Arc<Stream> {
        self.asked.last().unwrap_or(&self.stream)
    }

    fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        std::iter::once(&self.stream).chain(&self.asked)
    }

    fn asked_at(&self, session: MediaSessionId) -> Option<usize> {
        self.asked.iter().position(|s| s.id() == session)
    }
}

impl<R> Default for Actives<R> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), by_session: HashMap::new() }
    }
}

impl<R> Actives<R> {
    /// From now on `id` is the recording of `stream`.
    pub fn begin(&mut self, id: RecordingId, running: R, stream: Arc<Stream>, waits: bool) {
        self.by_session.insert(stream.id(), id);
        let origin = stream.id();
        let active = Active { id, running, stopping: false, waits, origin, stream, asked: Vec::new() };
        self.by_id.insert(id, active);
    }

    pub fn get(&self, id: RecordingId) -> Option<&Active<R>> {
        self.by_id.get(&id)
    }

    /// The recording of a session, also while it ends.
    pub fn of(&self, session: MediaSessionId) -> Option<&Active<R>> {
        self.get(*self.by_session.get(&session)?)
    }

    /// The recording that began with a session, whichever it has now.
    pub fn begun_with(&self, session: MediaSessionId) -> Option<&Active<R>> {
        self.iter().find(|a| a.origin == session)
    }

    /// The recording of a session, unless its end was asked for.
    pub fn live(&self, session: MediaSessionId) -> Option<&Active<R>> {
        self.of(session).filter(|a| !a.stopping)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Active<R>> {
        self.by_id.values()
    }

    /// The recording that may wait for the publisher of `stream`, who had this name before. It knows itself whether it does.
    pub fn waiting_for(&self, stream: &Stream) -> Option<&Active<R>> {
        let name = |s: &Stream| (s.announce().room.clone(), s.announce().name.clone());
        let wanted = name(stream);
        let returns = |a: &&Active<R>| a.streams().any(|s| s.id() != stream.id() && name(s) == wanted);
        self.iter().filter(|a| a.waits && !a.stopping).find(returns)
    }

    /// The end of `id` was asked for.
    pub fn stopping(&mut self, id: RecordingId) {
        if let Some(active) = self.by_id.get_mut(&id) {
            active.stopping = true;
        }
    }

    /// `id` is asked to go over to `stream`, whose session is its own from now on. Call it in the order of the requests.
    pub fn ask(&mut self, id: RecordingId, stream: Arc<Stream>) {
        let Some(active) = self.by_id.get_mut(&id) else { return };
        self.by_session.insert(stream.id(), id);
        active.asked.push(stream);
    }

    /// `id` goes over to `session` at a key frame, and to nothing that it was asked for before.
    pub fn accepted(&mut self, id: RecordingId, session: MediaSessionId) {
        let Some(active) = self.by_id.get_mut(&id) else { return };
        let Some(at) = active.asked_at(session) else { return };
        active.asked.drain(..at);
        self.give_up(id);
    }

    /// `id` does not go over to `session`.
    pub fn refused(&mut self, id: RecordingId, session: MediaSessionId) {
        self.keep_asked(id, |s| s.id() != session);
    }

    /// `id` goes over only to those that it was asked for and that are still `live`.
    pub fn keep_asked(&mut self, id: RecordingId, live: impl Fn(&Stream) -> bool) {
        let Some(active) = self.by_id.get_mut(&id) else { return };
        active.asked.retain(|s| live(s));
        self.give_up(id);
    }

    /// `id` records `stream` now.
    pub fn joined(&mut self, id: RecordingId, stream: Arc<Stream>) {
        let Some(active) = self.by_id.get_mut(&id) else { return };
        if let Some(at) = active.asked_at(stream.id()) {
            active.asked.drain(..=at);
        }
        active.stream = stream;
        self.give_up(id);
    }

    /// Nothing more happens to `id`.
    pub fn over(&mut self, id: RecordingId) {
        self.by_id.remove(&id);
        self.give_up(id);
    }

    /// Sessions that are `id`'s no more.
    fn give_up(&mut self, id: RecordingId) {
        let active = self.by_id.get(&id);
        let own = |session| active.is_some_and(|a| a.streams().any(|s| s.id() == session));
        self.by_session.retain(|session, recording| *recording != id || own(*session));
        if let Some(active) = active {
            // One may have come back that was given up for another that did not come about.
            self.by_session.entry(active.stream.id()).or_insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hub::{Announce, Hub, PrerollRule, Publisher},
        media::{Protocol, RoomName, StreamName},
    };

    fn hub() -> Hub {
        Hub::new(1 << 20, PrerollRule::default()).0
    }

    fn publish(hub: &Hub, name: &str) -> Publisher {
        let announce = Announce {
            room: RoomName::default(),
            name: StreamName::new(name).expect("a name"),
            protocol: Protocol::Rtmp,
            remote: ([127, 0, 0, 1], 5).into(),
            session_id: "s".into(),
            record: false,
        };
        hub.publish(announce).expect("a free name")
    }

    struct Rig {
        actives: Actives<()>,
        id: RecordingId,
        streams: Vec<Arc<Stream>>,
        _publishers: Vec<Publisher>,
    }

    /// A recording of the first of three streams.
    fn rig() -> Rig {
        let hub = hub();
        let publishers: Vec<_> = ["a", "b", "c"].map(|name| publish(&hub, name)).into();
        let streams: Vec<_> = publishers.iter().map(|p| p.stream().clone()).collect();
        let (mut actives, id) = (Actives::default(), RecordingId::random());
        actives.begin(id, (), streams[0].clone(), true);
        Rig { actives, id, streams, _publishers: publishers }
    }

    impl Rig {
        fn ask(&mut self, stream: usize) {
            self.actives.ask(self.id, self.streams[stream].clone());
        }

        fn accept(&mut self, stream: usize) {
            self.actives.accepted(self.id, self.streams[stream].id());
        }

        fn refuse(&mut self, stream: usize) {
            self.actives.refused(self.id, self.streams[stream].id());
        }

        fn join(&mut self, stream: usize) {
            self.actives.joined(self.id, self.streams[stream].clone());
        }

        /// Which of the three sessions are the recording's, and which stream it is at or goes to.
        fn sessions(&self) -> (Vec<usize>, Option<usize>) {
            let own = |n: &usize| self.actives.live(self.streams[*n].id()).is_some_and(|a| a.id == self.id);
            let at = self.actives.get(self.id).map(|a| a.stream().id());
            ((0..3).filter(own).collect(), self.streams.iter().position(|s| Some(s.id()) == at))
        }
    }

    #[test]
    fn a_recording_that_goes_over_belongs_to_the_new_session() {
        let mut rig = rig();
        rig.ask(1);
        rig.accept(1);
        assert_eq!(rig.sessions(), (vec![0, 1], Some(1)), "both, until the key frame");
        rig.join(1);
        assert_eq!(rig.sessions(), (vec![1], Some(1)));
        rig.actives.over(rig.id);
        assert_eq!(rig.sessions(), (vec![], None));
    }

    #[test]
    fn one_that_refuses_stays_where_it_is() {
        let mut rig = rig();
        rig.ask(1);
        rig.refuse(1);
        assert_eq!(rig.sessions(), (vec![0], Some(0)));
    }

    /// Answers and what really happened are told by different tasks, in any order.
    #[test]
    fn of_two_requests_at_once_what_is_recorded_in_the_end_counts() {
        type Step = fn(&mut Rig);
        let steps: [(&[Step], usize); 6] = [
            (&[|r| r.accept(1), |r| r.accept(2), |r| r.join(2)], 2),
            (&[|r| r.accept(2), |r| r.accept(1), |r| r.join(2)], 2),
            (&[|r| r.join(2), |r| r.accept(2), |r| r.accept(1)], 2),
            (&[|r| r.join(1), |r| r.refuse(2), |r| r.accept(1)], 1),
            (&[|r| r.refuse(2), |r| r.refuse(1)], 0),
            (&[|r| r.refuse(1), |r| r.join(2), |r| r.accept(2)], 2),
        ];
        for (n, (steps, at)) in steps.into_iter().enumerate() {
            let mut rig = rig();
            rig.ask(1);
            rig.ask(2);
            steps.iter().for_each(|step| step(&mut rig));
            assert_eq!(rig.sessions(), (vec![at], Some(at)), "case {n}");
        }
    }

    #[test]
    fn one_that_was_asked_for_and_has_ended_is_not_gone_over_to() {
        let mut rig = rig();
        rig.ask(1);
        rig.accept(1);
        let gone = rig.streams[1].id();
        rig.actives.keep_asked(rig.id, |s| s.id() != gone);
        assert_eq!(rig.sessions(), (vec![0], Some(0)));
        // Unless its key frame was on its way.
        rig.join(1);
        assert_eq!(rig.sessions(), (vec![1], Some(1)));
    }

    #[test]
    fn one_can_go_back_to_the_stream_that_it_is_still_at() {
        let mut rig = rig();
        rig.ask(1);
        rig.accept(1);
        rig.ask(0);
        rig.accept(0);
        assert_eq!(rig.sessions(), (vec![0], Some(0)));
    }

    #[test]
    fn a_session_that_a_later_recording_has_taken_stays_with_it() {
        let mut rig = rig();
        let later = RecordingId::random();
        rig.ask(1);
        rig.actives.begin(later, (), rig.streams[1].clone(), false);
        rig.refuse(1);
        rig.actives.over(rig.id);
        assert_eq!(rig.actives.live(rig.streams[1].id()).map(|a| a.id), Some(later));
    }

    #[test]
    fn a_publisher_that_returns_finds_the_recording_that_waits_for_its_name() {
        let hub = hub();
        let mut first = publish(&hub, "cam");
        let (mut actives, id) = (Actives::default(), RecordingId::random());
        actives.begin(id, (), first.stream().clone(), true);
        let other = publish(&hub, "other");
        assert!(actives.waiting_for(other.stream()).is_none(), "another name");
        assert!(actives.waiting_for(first.stream()).is_none(), "it records this one");
        first.end(crate::hub::EndReason::Disconnected);
        let second = publish(&hub, "cam");
        assert_eq!(actives.waiting_for(second.stream()).map(|a| a.id), Some(id));

        actives.ask(id, other.stream().clone());
        assert!(actives.waiting_for(second.stream()).is_some(), "the other one may not come about");
        actives.joined(id, other.stream().clone());
        assert!(actives.waiting_for(second.stream()).is_none(), "it has gone over to another one");
        actives.joined(id, first.stream().clone());
        actives.stopping(id);
        assert!(actives.waiting_for(second.stream()).is_none(), "its end was asked for");
        actives.begin(RecordingId::random(), (), first.stream().clone(), false);
        assert!(actives.waiting_for(second.stream()).is_none(), "it has no resume window");
    }
}
