//! The verbs on a room, for dialects that know rooms and not streams: each of its streams is recorded on its own.

use super::{Control, ControlError, StartOptions, active::Active, recording::stop};
use crate::{
    hub::Stream,
    library::{Recording, RecordingId},
    media::{MediaSessionId, RoomName},
    record::Running,
};
use futures_util::future::join_all;
use std::sync::Arc;

/// What a verb on a room came to, stream by stream.
#[derive(Debug)]
pub struct RoomOutcome {
    /// At least one. In the order in which the streams began, or the recordings.
    pub done: Vec<RoomRecording>,
    pub failed: Vec<RoomFailure>,
}

#[derive(Debug)]
pub struct RoomRecording {
    pub recording: Recording,
    /// Name of its first file; `None` until that is there.
    pub file_name: Option<String>,
}

/// A stream that could not be recorded, or a recording that did not become a file.
#[derive(Debug)]
pub struct RoomFailure {
    pub stream_name: String,
    pub media_session_id: MediaSessionId,
    pub error: ControlError,
}

/// A recording in a verb's hands: of which stream, and its handle.
type Begun = (Arc<Stream>, Running);

impl Control {
    /// Records every live stream of `room`. `options` is told how many there are. All begin at once; those that cannot are
    /// told beside the others, and are the error when there is no other.
    ///
    /// Errors: [`ControlError::RoomRecorded`] while any recording of the room is under way, [`ControlError::UnknownRoom`]
    /// when it has no live stream.
    pub async fn start_room(
        &self,
        room: &RoomName,
        options: impl FnOnce(usize) -> StartOptions,
    ) -> Result<RoomOutcome, ControlError> {
        let (begun, failed) = self.begin_room(room, options)?;
        let started = begun.into_iter().map(async |(stream, running)| (stream, Self::begun(running).await));
        outcome(join_all(started).await, failed)
    }

    /// Ends every recording of `room`; answers when their files are final.
    ///
    /// Errors: [`ControlError::RoomNotRecorded`] when none is under way whose end was not asked for before.
    pub async fn stop_room(&self, room: &RoomName) -> Result<RoomOutcome, ControlError> {
        let ended = self.end_room(room)?.into_iter().map(async |(stream, mut running)| {
            let recording = running.done().await;
            let file_name = recording.parts.first().map(|part| part.name.clone());
            (stream, RoomRecording { recording, file_name })
        });
        outcome(join_all(ended).await, Vec::new())
    }

    fn begin_room(
        &self,
        room: &RoomName,
        options: impl FnOnce(usize) -> StartOptions,
    ) -> Result<(Vec<Begun>, Vec<RoomFailure>), ControlError> {
        let mut streams = self.inner.hub.streams();
        streams.retain(|stream| stream.announce().room == *room);
        let options = options(streams.len());
        let preroll = self.preroll_for(&options)?;
        let rules = self.rules_for(options)?;

        // Under one lock, so that of two starts at once one is refused, whole.
        let mut active = self.active();
        if self.is_shutting_down() {
            return Err(ControlError::ShuttingDown);
        }
        if active.iter().any(|a| is_under_way(a, room)) {
            return Err(ControlError::RoomRecorded(room.clone()));
        }
        if streams.is_empty() {
            return Err(ControlError::UnknownRoom(room.clone()));
        }
        let (mut begun, mut failed) = (Vec::new(), Vec::new());
        for stream in streams {
            let admitted = self.admit(&active, &stream, &rules, None);
            match admitted.and_then(|()| self.subscribe(&stream, preroll)) {
                Ok((subscriber, degraded)) => {
                    let running = self.begin(&mut active, stream.clone(), subscriber, &rules, degraded);
                    begun.push((stream, running));
                }
                Err(error) => failed.push(RoomFailure::of(&stream, error)),
            }
        }
        Ok((begun, failed))
    }

    fn end_room(&self, room: &RoomName) -> Result<Vec<Begun>, ControlError> {
        let mut active = self.active();
        self.wait_no_more_in(room);
        let under_way = active.iter().filter(|a| is_under_way(a, room));
        let mut ended: Vec<(RecordingId, Begun)> =
            under_way.map(|a| (a.id, (a.stream().clone(), a.running.clone()))).collect();
        if ended.is_empty() {
            return Err(ControlError::RoomNotRecorded(room.clone()));
        }
        ended.iter().for_each(|(id, _)| stop(&mut active, *id));
        drop(active);
        ended.sort_by_key(|(id, (_, running))| (running.progress().recording.started_at_ms, *id));
        Ok(ended.into_iter().map(|(_, begun)| begun).collect())
    }

    async fn begun(mut running: Running) -> RoomRecording {
        let recording = Self::started(&mut running).await;
        RoomRecording { recording, file_name: running.progress().file_name }
    }
}

fn is_under_way(active: &Active<Running>, room: &RoomName) -> bool {
    !active.stopping && active.stream().announce().room == *room
}

/// Sorts out what has failed by now.
fn outcome(
    all: Vec<(Arc<Stream>, RoomRecording)>,
    mut failed: Vec<RoomFailure>,
) -> Result<RoomOutcome, ControlError> {
    let mut done = Vec::new();
    for (stream, one) in all {
        match &one.recording.error {
            // What was recorded before an error is told as what it is: a recording.
            Some(error) if one.recording.parts.is_empty() => {
                failed.push(RoomFailure::of(&stream, ControlError::Failed(error.clone())));
            }
            _ => done.push(one),
        }
    }
    match failed.first() {
        Some(first) if done.is_empty() => Err(first.error.clone()),
        _ => Ok(RoomOutcome { done, failed }),
    }
}

impl RoomFailure {
    fn of(stream: &Stream, error: ControlError) -> Self {
        Self { stream_name: stream.announce().name.to_string(), media_session_id: stream.id(), error }
    }
}
