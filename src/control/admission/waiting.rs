//! Streams that the policy wants recorded and that wait until they can be.

use super::super::{
    Control, ControlError, Event, RecordingRefused, Rules, active::Actives, recording::seconds,
};
use crate::{
    hub::{PrerollGiven, Stream},
    media::{MediaSessionId, RoomName},
    record::{Running, Source},
};
use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How often those that wait are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Less than this is not missed: a recording begins at a key frame anyway.
const HARDLY_MISSED: Duration = Duration::from_secs(1);

/// No more than there are live streams.
#[derive(Default)]
pub(super) struct Waiting {
    streams: Mutex<HashMap<MediaSessionId, Waits>>,
    /// One has begun to wait, or nobody will any more.
    news: Arc<Notify>,
}

struct Waits {
    stream: Arc<Stream>,
    since: DateTime<Utc>,
    why: String,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.streams().len()
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<MediaSessionId, Waits>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.news.notify_one();
    }
}

impl Control {
    /// Begins a recording that the policy wants, or has it wait. Never waits itself; on a tokio thread.
    pub(in crate::control) fn begin_when_admitted(
        &self,
        active: &mut Actives<Running>,
        source: Source,
        rules: &Arc<Rules>,
    ) {
        let Source { stream, subscriber } = source;
        match self.admit_by_policy(self.now(active), &stream, rules) {
            Ok((rules, degraded)) => drop(self.begin(active, stream, subscriber, &rules, degraded)),
            Err(error) => self.have_wait(stream, &error),
        }
    }

    pub(in crate::control) fn have_wait(&self, stream: Arc<Stream>, error: &ControlError) {
        self.count_refused(error);
        let announce = stream.announce();
        tracing::warn!(
            session = %stream.id(), room = %announce.room, stream = %announce.name,
            "it is to be recorded and has to wait: {error}"
        );
        let waits = Waits { stream: stream.clone(), since: Utc::now(), why: error.to_string() };
        self.inner.admission.waiting.streams().insert(stream.id(), waits);
        self.inner.admission.waiting.news.notify_one();
        let (control, detail) = (self.clone(), error.to_string());
        // Not here: describing the session takes the lock that is held.
        tokio::spawn(async move {
            let session = Box::new(control.describe(&stream));
            let what = RecordingRefused::Refused;
            control.inner.events.tell(&Event::Refused { what, session, reason: detail });
        });
    }

    /// It is not to be recorded any more.
    pub(in crate::control) fn wait_no_more(&self, id: MediaSessionId) {
        self.inner.admission.waiting.streams().remove(&id);
    }

    /// Nothing of the room is to be recorded any more.
    pub(in crate::control) fn wait_no_more_in(&self, room: &RoomName) {
        self.inner.admission.waiting.streams().retain(|_, waiting| waiting.stream.announce().room != *room);
    }

    /// Takes up what waits, until the last handle of this control is dropped. Call it once, on a tokio thread.
    pub(in crate::control) fn take_up_what_waits(&self) {
        let news = self.inner.admission.waiting.news.clone();
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                news.notified().await;
                loop {
                    let Some(inner) = inner.upgrade() else { return };
                    let control = Control { inner };
                    control.take_up();
                    if control.waiting_to_be_recorded() == 0 {
                        break;
                    }
                    drop(control);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
    }

    fn take_up(&self) {
        let mut active = self.active();
        let mut waiting = self.inner.admission.waiting.streams();
        let rules = self.rules();
        waiting.retain(|id, waits| {
            let stream = &waits.stream;
            let over = stream.ended().is_some();
            if over {
                let announce = stream.announce();
                tracing::warn!(
                    session = %id, room = %announce.room, stream = %announce.name,
                    "it ended while it waited to be recorded: {}", waits.why
                );
            }
            // A call may have been faster, and the policy another one.
            !over && active.live(*id).is_none() && Self::is_wanted(stream, &rules)
        });
        if waiting.is_empty() || self.is_shutting_down() {
            return;
        }
        let mut oldest_first: Vec<_> = waiting.values().map(|w| (w.since, w.stream.clone())).collect();
        oldest_first.sort_by_key(|(since, stream)| (*since, stream.id()));
        let mut now = self.now(&active);
        for (_, stream) in oldest_first {
            let Ok((by, degraded)) = self.admit_by_policy(now, &stream, &rules) else { continue };
            let Some(waits) = waiting.remove(&stream.id()) else { continue };
            self.begin_late(&mut active, waits, &by, degraded);
            now = self.now(&active);
        }
    }

    /// With what the hub has kept of the time it has waited.
    fn begin_late(
        &self,
        active: &mut Actives<Running>,
        waits: Waits,
        rules: &Rules,
        mut degraded: Vec<String>,
    ) {
        let Waits { stream, since, why } = waits;
        let waited = (Utc::now() - since).to_std().unwrap_or_default();
        // It has ended in between.
        let Some((subscriber, given)) = stream.subscribe_with_preroll(self.queue_bytes(), waited) else {
            return;
        };
        degraded.extend(missing(waited, given, &why));
        self.begin(active, stream, subscriber, rules, degraded);
    }
}

/// What a recording lacks that had to wait.
fn missing(waited: Duration, given: PrerollGiven, why: &str) -> Option<String> {
    let missing = waited.saturating_sub(given.duration);
    let text = || format!("its first {} s are missing: it had to wait, as {why}", seconds(missing));
    (missing > HARDLY_MISSED).then(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_has_kept_is_not_missing() {
        let said = |waited_ms, given_ms| {
            let given = PrerollGiven { duration: Duration::from_millis(given_ms), shortened: false };
            missing(Duration::from_millis(waited_ms), given, "3 recordings are under way")
        };
        let expected = "its first 4.5 s are missing: it had to wait, as 3 recordings are under way";
        assert_eq!(said(34_500, 30_000).as_deref(), Some(expected));
        assert_eq!(said(20_000, 20_900), None, "from the key frame before");
        assert_eq!(said(20_000, 19_100), None);
    }
}
