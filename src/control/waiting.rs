//! Streams that the policy wants recorded and that wait until they can be.

use super::{Control, ControlError, Event, RecordingRefused, active::Actives};
use crate::{hub::Stream, media::MediaSessionId, record::Running};
use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// No more than there are live streams.
#[derive(Default)]
pub(super) struct Waiting {
    streams: Mutex<HashMap<MediaSessionId, Waits>>,
}

struct Waits {
    stream: Arc<Stream>,
    since: DateTime<Utc>,
    why: String,
}

impl Waiting {
    fn streams(&self) -> MutexGuard<'_, HashMap<MediaSessionId, Waits>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    pub(super) fn have_wait(&self, stream: Arc<Stream>, error: &ControlError) {
        let announce = stream.announce();
        tracing::warn!(
            session = %stream.id(), room = %announce.room, stream = %announce.name,
            "it is to be recorded and has to wait: {error}"
        );
        let waits = Waits { stream: stream.clone(), since: Utc::now(), why: error.to_string() };
        self.inner.waiting.streams().insert(stream.id(), waits);
        let (control, reason) = (self.clone(), error.to_string());
        // Not here: describing the session takes a lock that may be held.
        tokio::spawn(async move {
            let session = Box::new(control.describe(&stream));
            control.inner.events.tell(&Event::Refused { what: RecordingRefused::Refused, session, reason });
        });
    }

    /// Streams that the policy wants recorded and that wait until they can be.
    pub fn waiting_to_be_recorded(&self) -> usize {
        self.inner.waiting.streams().len()
    }

    /// On a tokio thread, when there may be room.
    pub(super) fn take_up_what_waits(&self) {
        if self.waiting_to_be_recorded() == 0 || self.is_shutting_down() {
            return;
        }
        let (mut active, rules) = (self.active(), self.rules());
        let waiting = std::mem::take(&mut *self.inner.waiting.streams());
        for waits in waiting.into_values() {
            let stream = &waits.stream;
            if stream.ended().is_none()
                && active.live(stream.id()).is_none()
                && Self::is_wanted(stream, &rules)
            {
                self.begin_late(&mut active, waits);
            }
        }
    }

    fn begin_late(&self, active: &mut Actives<Running>, waits: Waits) {
        let Waits { stream, since, why } = waits;
        let waited = (Utc::now() - since).to_std().unwrap_or_default();
        // It has ended in between.
        let Ok((subscriber, _)) = self.subscribe(&stream, std::time::Duration::ZERO) else { return };
        let seconds = super::recording::seconds(waited);
        let degraded = vec![format!("its first {seconds} s are missing: it had to wait, as {why}")];
        self.begin(active, stream, subscriber, &self.rules(), degraded);
    }
}
