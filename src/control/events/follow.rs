//! Sessions and recordings, followed from their beginning to their end: each change goes on the bus.

use super::{Cause, Deletion, Event, RecordingChange, SessionChange};
use crate::{
    control::{Control, Rules, freshen},
    hub::{EndReason, Stream},
    library::{DeletedFor, Health, HealthNews, Recording, RecordingId, Status},
    record::{Progress, Running},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;

/// How long the catalog may take to say what became of finished parts before an event is told without.
const CATALOG_WAIT: Duration = Duration::from_millis(250);

impl Control {
    /// A stream has begun to publish. Call it before anything is done with the stream, on a tokio thread.
    pub(in crate::control) fn follow_session(&self, stream: &Arc<Stream>) {
        let changes = stream.changes();
        let recorded = self.active().recording_of_session(stream.id());
        self.tell_session(SessionChange::Started, stream, None);
        tokio::spawn(self.clone().session_to_its_end(stream.clone(), changes, recorded));
    }

    async fn session_to_its_end(
        self,
        stream: Arc<Stream>,
        mut changes: watch::Receiver<()>,
        mut recorded: watch::Receiver<Option<RecordingId>>,
    ) {
        // Neither channel closes before: the stream is held here, and the table keeps the session until it is forgotten.
        while stream.ended().is_none() {
            let told = tokio::select! {
                told = changes.changed() => told,
                told = recorded.changed() => told,
            };
            changes.mark_unchanged();
            recorded.mark_unchanged();
            if told.is_err() {
                break;
            }
            if stream.ended().is_none() {
                self.tell_session(SessionChange::Updated, &stream, None);
            }
        }
        let reason = stream.ended().unwrap_or(EndReason::Disconnected);
        let going_down = self.inner.going_down.load(Ordering::SeqCst);
        let cause = Cause::of(&reason, stream.announce().protocol, going_down);
        self.tell_session(SessionChange::Ended, &stream, Some(cause));
        self.active().forget_session(stream.id());
    }

    fn tell_session(&self, what: SessionChange, stream: &Stream, cause: Option<Cause>) {
        let session = Box::new(self.describe(stream));
        self.inner.events.tell(&Event::Session { what, session, cause });
    }

    /// Tells of a recording that was just begun, and of all that becomes of it; keeps the table of recordings true meanwhile.
    pub(in crate::control) fn follow_recording(&self, running: Running) {
        let now = running.progress();
        let mut recording = now.recording.clone();
        recording.duration_ms = running.media_ms();
        self.inner.events.tell(&Event::recording(RecordingChange::Starting, recording, None));
        tokio::spawn(self.clone().recording_to_its_end(running));
    }

    async fn recording_to_its_end(self, mut running: Running) {
        let id = running.id();
        let (mut seen, mut no_room) = (Seen::default(), false);
        loop {
            let now = running.progress_seen();
            if now.disk_full && !std::mem::replace(&mut no_room, true) {
                self.no_room();
            }
            {
                let mut active = self.active();
                match now.done {
                    true => active.over(id),
                    false => active.joined(id, now.stream.clone()),
                }
            }
            let news = seen.news(&now);
            if !news.is_empty() {
                let recording = self.as_told(&running, &now).await;
                for (what, part) in news {
                    self.inner.events.tell(&Event::recording(what, recording.clone(), part));
                }
            }
            if now.done {
                if no_room && now.recording.status == Status::Failed {
                    self.inner.disk.note_behind();
                }
                return;
            }
            if !running.changed().await {
                // Its books broke off by a fault of ours, which was logged.
                return self.active().over(id);
            }
        }
    }

    /// The recording as a GET answers it.
    async fn as_told(&self, running: &Running, now: &Progress) -> Recording {
        let mut recording = now.recording.clone();
        if !now.done {
            recording.duration_ms = running.media_ms();
        }
        if recording.parts.is_empty() {
            return recording;
        }
        // What their hooks did, the catalog knows.
        let stored = tokio::time::timeout(CATALOG_WAIT, self.inner.library.get(&recording.id)).await;
        if let Ok(Ok(Some(stored))) = stored
            && stored.parts.len() >= recording.parts.len()
        {
            (recording.parts, recording.deliveries) = (stored.parts, stored.deliveries);
            recording.locked = stored.locked;
        }
        recording
    }

    /// A part of a recording has got its poster, or its file is in the store only.
    pub async fn part_changed(&self, id: RecordingId, part: u32) {
        // Once more for a recording that ended while it was read.
        for _ in 0..2 {
            let Ok(Some(mut recording)) = self.inner.library.get(&id).await else { return };
            // Held until it is told: the end of a recording is told after it has left this table, so nothing older
            // comes after that.
            let active = self.active();
            if recording.status.is_final() || active.get(id).is_some() {
                freshen(&active, &mut recording);
                self.inner.events.tell(&Event::recording(RecordingChange::Updated, recording, Some(part)));
                return;
            }
        }
    }

    pub(in crate::control) fn tell_deleted(&self, id: RecordingId, why: Option<DeletedFor>) {
        let reason = why.map(DeletedFor::as_str);
        self.inner.events.tell(&Event::Deleted { what: Deletion::Deleted, recording_id: id, reason });
    }

    /// What became of reading the operator's files again.
    pub(in crate::control) fn tell_rules(&self, rules: &Rules) {
        let what = match rules.error {
            None => super::ConfigOutcome::Reloaded,
            Some(_) => super::ConfigOutcome::Failed,
        };
        let (file, error) = (rules.file.clone(), rules.error.clone());
        self.inner.events.tell(&Event::Config { what, file, error });
    }
}

/// How much of a recording has been told.
#[derive(Debug, PartialEq)]
struct Seen {
    status: Status,
    parts_opened: u32,
    parts: usize,
    /// What will always be missing from it.
    degraded: usize,
    health: Vec<Health>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { status: Status::Starting, parts_opened: 0, parts: 0, degraded: 0, health: Vec::new() }
    }
}

impl Seen {
    /// What has happened since the last call. Changes that are quicker than their watcher come together, in the order in
    /// which they were; only a pause and its end would cancel out, but between them is a key frame.
    fn news(&mut self, now: &Progress) -> Vec<(RecordingChange, Option<u32>)> {
        let (before, recording) = (&*self, &now.recording);
        let mut news = Vec::new();
        if before.status == Status::Starting && recording.status > Status::Starting && now.parts_opened > 0 {
            news.push((RecordingChange::Started, None));
        }
        let first = before.parts_opened.max(1) + 1;
        news.extend((first..=now.parts_opened).map(|part| (RecordingChange::Rotated, Some(part))));
        match (before.status, recording.status) {
            (Status::Starting | Status::Recording, Status::Paused) => {
                news.push((RecordingChange::Paused, None));
            }
            (Status::Paused, Status::Recording) => news.push((RecordingChange::Resumed, None)),
            (before, now) if before < Status::Finalizing && now >= Status::Finalizing => {
                news.push((RecordingChange::Stopping, None));
            }
            _ => {}
        }
        let whole = recording.parts.iter().skip(before.parts);
        news.extend(whole.map(|part| (RecordingChange::Part, Some(part.number))));
        let degraded =
            recording.degraded.len() - recording.health.iter().filter(|h| h.until.is_none()).count();
        match HealthNews::between(&before.health, &recording.health) {
            Some(HealthNews::Degraded) => news.push((RecordingChange::Degraded, None)),
            _ if degraded > before.degraded => news.push((RecordingChange::Degraded, None)),
            Some(HealthNews::Healthy) => news.push((RecordingChange::Healthy, None)),
            Some(HealthNews::Better) => news.push((RecordingChange::Updated, None)),
            None => {}
        }
        if now.done {
            let failed = recording.status == Status::Failed;
            news.push((if failed { RecordingChange::Failed } else { RecordingChange::Completed }, None));
        }
        *self = Self {
            status: recording.status,
            parts_opened: now.parts_opened,
            parts: recording.parts.len(),
            degraded,
            health: recording.health.clone(),
        };
        news
    }
}

#[cfg(test)]
mod tests;
