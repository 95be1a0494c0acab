//! Does what follows from the looks at the disk: ends recordings, tells, and goes on when there is room again.

use super::{Mark, Step, Writer};
use crate::{
    control::{
        Control, ControlError, Event, Inner,
        events::{DiskMark, RecordingChange},
    },
    hub::Stream,
    library::Status,
    record::make_whole,
};
use bytesize::ByteSize;
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};

/// Runs until the control is dropped.
pub(in crate::control) async fn keep(control: Weak<Inner>) {
    let Some(mut looks) = control.upgrade().map(|inner| inner.disk.watch.looks()) else { return };
    while looks.changed().await.is_ok() {
        looks.mark_unchanged();
        let Some(inner) = control.upgrade() else { return };
        Control { inner }.look_after_disk();
    }
}

impl Control {
    fn look_after_disk(&self) {
        let disk = &self.inner.disk;
        let Step { passed, end } = disk.step(&self.writers(), Instant::now());
        if let Some(mark) = passed {
            self.tell_disk(mark);
            self.inner.retention_wake.notify_one();
        }
        let mark = disk.info().mark;
        if !end.is_empty() && !self.is_shutting_down() {
            self.end_for_room(&end);
        }
        match mark {
            Mark::Refusing | Mark::Ending => disk.note_behind(),
            Mark::Enough | Mark::Low => {
                if disk.behind.swap(false, Ordering::Relaxed) {
                    tokio::spawn(self.clone().finish_what_had_no_room());
                }
            }
        }
    }

    fn writers(&self) -> Vec<Writer> {
        let writer = |a: &crate::control::active::Active<crate::record::Running>| Writer {
            id: a.id,
            footprint: a.running.footprint(),
            ending: a.stopping,
        };
        self.active().iter().map(writer).collect()
    }

    fn tell_disk(&self, mark: Mark) {
        let info = self.inner.disk.info();
        let (free, folder) = (ByteSize(info.free_bytes), info.path.display());
        let seconds_to_full = info.seconds_to_full;
        match mark {
            Mark::Enough => tracing::info!(%free, %folder, "the disk has room again"),
            Mark::Low => tracing::warn!(%free, %folder, seconds_to_full, "the disk has little room"),
            Mark::Refusing => {
                tracing::error!(%free, %folder, seconds_to_full, "the disk is full: nothing new is recorded");
            }
            Mark::Ending => {
                tracing::error!(%free, %folder, "the disk is full: recordings are ended while there is room for their ends");
            }
        }
        let what = match mark {
            Mark::Enough => DiskMark::Enough,
            Mark::Low => DiskMark::Low,
            Mark::Refusing => DiskMark::Refusing,
            Mark::Ending => DiskMark::Ending,
        };
        self.inner.events.tell(&Event::Disk { what, disk: info });
    }

    fn end_for_room(&self, end: &[crate::library::RecordingId]) {
        let info = self.inner.disk.info();
        let why = format!(
            "the recording ends here: the disk had {} left, and recordings are ended with less than {}",
            ByteSize(info.free_bytes),
            ByteSize(info.marks.end_bytes)
        );
        let mut streams = Vec::new();
        {
            let mut active = self.active();
            for id in end {
                active.stopping(*id);
                let Some(now) = active.get(*id) else { continue };
                tracing::warn!(recording = %id, written = now.running.footprint().bytes, "{why}");
                now.running.end_early(why.clone());
                // What was left out on purpose is not recorded without being asked for.
                if now.running.status() != Status::Paused {
                    streams.push(now.stream().clone());
                }
            }
        }
        self.inner.disk.ended.fetch_add(end.len() as u64, Ordering::Relaxed);
        streams.into_iter().for_each(|stream| self.wait_for_room(stream));
    }

    /// A recording has found no room before a look saw that there is none. What is kept is given back for its end: the others
    /// end too before they have written there.
    pub(in crate::control) fn no_room(&self) {
        self.inner.disk.was_full();
        if self.is_shutting_down() {
            return;
        }
        let all: Vec<_> = self.writers().into_iter().filter(|w| !w.ending).map(|w| w.id).collect();
        self.end_for_room(&all);
    }

    /// A stream whose recording was ended is recorded again when there is room, if the policy wants that.
    fn wait_for_room(&self, stream: Arc<Stream>) {
        if stream.ended().is_none() && Self::is_wanted(&stream, &self.rules()) {
            let why = self.inner.disk.ready().err().unwrap_or_else(|| "the disk was full".to_owned());
            self.have_wait(stream, &ControlError::DiskFull(why));
        }
    }

    /// Files whose ends found no room.
    async fn finish_what_had_no_room(self) {
        match self.inner.library.recover_failed(&self.hand_on(&self.rules()), make_whole).await {
            Ok(recordings) if recordings.is_empty() => {}
            Ok(recordings) => {
                self.inner.recorder.committed();
                for recording in recordings {
                    tracing::warn!(recording = %recording.id, "its files had found no room, and are whole now");
                    self.inner.events.tell(&Event::recording(RecordingChange::Updated, recording, None));
                }
            }
            Err(error) => tracing::error!(%error, "files that had found no room are left to the next start"),
        }
    }
}
