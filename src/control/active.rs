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
    /// What it records, as far as it has said so.
    stream: Arc<Stream>,
    /// The change that brought `stream`.
    arrived: Change,
    /// What it was asked to go over to and has not answered yet, in the order in which it was asked.
    asked: Vec<(Change, Arc<Stream>)>,
}

/// Number of a request to go over to another stream. The higher one came later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change(u64);

/// Every session has at most one recording that counts: the newest. A recording has one session, and while it goes over to
/// another stream that one's too.
pub(super) struct Actives<R> {
    by_id: HashMap<RecordingId, Active<R>>,
    by_session: HashMap<MediaSessionId, RecordingId>,
    last_change: Change,
}

impl<R> Active<R> {
    /// The stream that it records, or goes over to.
    pub fn stream(&self) -> &Arc<Stream> {
        let later = self.asked.last().filter(|(change, _)| *change > self.arrived);
        later.map_or(&self.stream, |(_, stream)| stream)
    }
}

impl<R> Default for Actives<R> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), by_session: HashMap::new(), last_change: Change::default() }
    }
}

impl<R> Actives<R> {
    /// From now on `id` is the recording of `stream`.
    pub fn begin(&mut self, id: RecordingId, running: R, stream: Arc<Stream>, waits: bool) {
        self.by_session.insert(stream.id(), id);
        let (arrived, asked) = (Change::default(), Vec::new());
        let active = Active { id, running, stopping: false, waits, stream, arrived, asked };
        self.by_id.insert(id, active);
    }

    pub fn get(&self, id: RecordingId) -> Option<&Active<R>> {
        self.by_id.get(&id)
    }

    /// The recording of a session, also while it ends.
    pub fn of(&self, session: MediaSessionId) -> Option<&Active<R>> {
        self.get(*self.by_session.get(&session)?)
    }

    /// The same, unless its end was asked for.
    pub fn live(&self, session: MediaSessionId) -> Option<&Active<R>> {
        self.of(session).filter(|a| !a.stopping)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Active<R>> {
        self.by_id.values()
    }

    /// The recording that goes on when the publisher of `stream` has come back. That its own stream has ended follows from
    /// the name: a live one is unique.
    pub fn waiting_for(&self, stream: &Stream) -> Option<&Active<R>> {
        let name = |s: &Stream| (s.announce().room.clone(), s.announce().name.clone());
        let wanted = name(stream);
        let returns = |a: &&Active<R>| a.stream().id() != stream.id() && name(a.stream()) == wanted;
        self.iter().filter(|a| a.waits && !a.stopping).find(returns)
    }

    /// The end of `id` was asked for.
    pub fn stopping(&mut self, id: RecordingId) {
        if let Some(active) = self.by_id.get_mut(&id) {
            active.stopping = true;
        }
    }

    /// `id` is asked to go over to `stream`, whose session is its own from now on. The answer goes to
    /// [`changed`](Self::changed).
    pub fn change(&mut self, id: RecordingId, stream: Arc<Stream>) -> Change {
        self.last_change.0 += 1;
        let change = self.last_change;
        if let Some(active) = self.by_id.get_mut(&id) {
            self.by_session.insert(stream.id(), id);
            active.asked.push((change, stream));
        }
        change
    }

    /// `id` has gone over, or not. Answers may come in any order: the stream that was asked for last is the one it is at.
    pub fn changed(&mut self, id: RecordingId, change: Change, done: bool) {
        let Some(active) = self.by_id.get_mut(&id) else { return };
        let Some(at) = active.asked.iter().position(|(c, _)| *c == change) else { return };
        let (_, stream) = active.asked.remove(at);
        if done && change > active.arrived {
            (active.stream, active.arrived) = (stream, change);
        }
        let own = |session: &MediaSessionId| {
            active.stream.id() == *session || active.asked.iter().any(|(_, s)| s.id() == *session)
        };
        self.by_session.retain(|session, recording| *recording != id || own(session));
        // An earlier answer may have given it up for a later stream that did not come about.
        self.by_session.entry(active.stream.id()).or_insert(id);
    }

    /// Nothing more happens to `id`.
    pub fn over(&mut self, id: RecordingId) {
        self.by_id.remove(&id);
        self.by_session.retain(|_, recording| *recording != id);
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
        fn ask(&mut self, stream: usize) -> Change {
            self.actives.change(self.id, self.streams[stream].clone())
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
        let change = rig.ask(1);
        assert_eq!(rig.sessions(), (vec![0, 1], Some(1)), "both, until it has answered");
        rig.actives.changed(rig.id, change, true);
        assert_eq!(rig.sessions(), (vec![1], Some(1)));
        rig.actives.over(rig.id);
        assert_eq!(rig.sessions(), (vec![], None));
    }

    #[test]
    fn one_that_refuses_stays_where_it_is() {
        let mut rig = rig();
        let change = rig.ask(1);
        rig.actives.changed(rig.id, change, false);
        assert_eq!(rig.sessions(), (vec![0], Some(0)));
    }

    #[test]
    fn of_two_changes_at_once_the_later_one_counts_whatever_is_answered_first() {
        // Whether each came about, and in which order the answers come; where it is then.
        for (done, order, at) in [
            ([true, true], [0, 1], 2),
            ([true, true], [1, 0], 2),
            ([true, false], [0, 1], 1),
            ([true, false], [1, 0], 1),
            ([false, true], [0, 1], 2),
            ([false, true], [1, 0], 2),
            ([false, false], [0, 1], 0),
            ([false, false], [1, 0], 0),
        ] {
            let mut rig = rig();
            let changes = [rig.ask(1), rig.ask(2)];
            for n in order {
                rig.actives.changed(rig.id, changes[n], done[n]);
            }
            assert_eq!(rig.sessions(), (vec![at], Some(at)), "{done:?} {order:?}");
        }
    }

    #[test]
    fn a_session_that_a_later_recording_has_taken_stays_with_it() {
        let mut rig = rig();
        let (later, change) = (RecordingId::random(), rig.ask(1));
        rig.actives.begin(later, (), rig.streams[1].clone(), false);
        rig.actives.changed(rig.id, change, false);
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

        let change = actives.change(id, other.stream().clone());
        assert!(actives.waiting_for(second.stream()).is_none(), "it goes over to another one");
        actives.changed(id, change, false);
        assert!(actives.waiting_for(second.stream()).is_some());
        actives.stopping(id);
        assert!(actives.waiting_for(second.stream()).is_none(), "its end was asked for");
        actives.begin(RecordingId::random(), (), first.stream().clone(), false);
        assert!(actives.waiting_for(second.stream()).is_none(), "it has no resume window");
    }
}
