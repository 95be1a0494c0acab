//! What the last daemon left behind, made whole beside the start.

use crate::{
    gst,
    library::{AudioPart, HandOn, Interrupted, Library, MakeWhole, Recording, Salvaged, Status, VideoPart},
};
use std::{path::Path, time::Duration};
use tokio::{task::JoinHandle, time::timeout};

/// How long the start waits for it. Hours of media may take longer, and cameras do not wait.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Recordings of the last daemon being ended. What is not done when this one ends is left to the next.
pub(super) struct Recovery(JoinHandle<()>);

impl Recovery {
    /// `on_done` is called when all of them may be handed on.
    pub fn start(
        library: Library,
        interrupted: Interrupted,
        hand_on: HandOn,
        make_whole: MakeWhole,
        on_done: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self(tokio::spawn(async move {
            match library.recover(interrupted, &hand_on, make_whole, inspect).await {
                Ok(ended) => ended.iter().for_each(tell),
                Err(error) => tracing::error!(%error, "interrupted recordings are left to the next start"),
            }
            on_done();
        }))
    }

    /// False when `limit` passed first.
    pub async fn wait(&mut self, limit: Duration) -> bool {
        self.0.is_finished() || timeout(limit, &mut self.0).await.is_ok()
    }

    /// Begins nothing more; false when it was not done.
    pub fn stop(&self) -> bool {
        self.0.abort();
        self.0.is_finished()
    }
}

/// What is in a file that nobody knows.
fn inspect(file: &Path) -> Result<Option<Salvaged>, String> {
    let contents = gst::inspect(file).map_err(|e| e.to_string())?;
    let video = contents.video.map(|track| VideoPart {
        codec: track.codec,
        width: track.width,
        height: track.height,
        frames: track.frames,
        keyframes: track.keyframes,
    });
    let audio = contents.audio.map(|track| AudioPart {
        codec: track.codec,
        rate: track.rate,
        channels: track.channels,
        frames: track.frames,
    });
    let has_media = video.is_some() || audio.is_some();
    Ok(has_media.then_some(Salvaged { duration_ms: contents.duration_ms, video, audio }))
}

fn tell(recording: &Recording) {
    let made_whole = recording.status == Status::Recovered;
    let whole = if made_whole { "its files have been made whole" } else { "its files were whole" };
    let outcome = recording.error.as_deref().unwrap_or(whole);
    tracing::warn!(recording = %recording.id, stream = recording.stream_name, "interrupted: {outcome}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{Salvaged, testing};
    use std::{
        path::Path,
        sync::{
            Mutex, PoisonError,
            atomic::{AtomicBool, Ordering},
        },
    };

    static HUGE: Mutex<()> = Mutex::new(());
    static DONE: AtomicBool = AtomicBool::new(false);

    fn wait_for_disk(_: &Path) -> Result<Option<Salvaged>, String> {
        let _whole = HUGE.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(None)
    }

    /// The start waited until the last byte of what a crash had left was read; systemd ended it before, again and again.
    #[tokio::test(flavor = "multi_thread")]
    #[expect(clippy::await_holding_lock, reason = "what is awaited gives up by itself")]
    async fn a_huge_file_does_not_hold_up_the_start() {
        crate::gst::init().expect("GStreamer");
        let (_dir, library) = testing::library().await;
        let old = testing::recording(0);
        library.begin(&old, &HandOn::default()).await.expect("a row");
        let part = library.storage().reserve(|_| "huge".into(), "webm").expect("a name");
        std::fs::write(part.path(), "frames").expect("a file");
        library.begin_part(&old.id, 1, part.path(), old.started_at).await.expect("a row");
        let interrupted = library.interrupted().await.expect("a list");
        assert!(!interrupted.is_empty());

        let reading = HUGE.lock().expect("nobody else");
        let on_done = || DONE.store(true, Ordering::Relaxed);
        let mut recovery =
            Recovery::start(library.clone(), interrupted, HandOn::default(), wait_for_disk, on_done);
        assert!(!recovery.wait(Duration::from_millis(50)).await);
        drop(reading);
        assert!(recovery.wait(LIMIT).await && recovery.wait(LIMIT).await);
        assert!(recovery.stop() && DONE.load(Ordering::Relaxed));
        let ended = library.get(&old.id).await.expect("the catalog").expect("its row");
        assert_eq!(ended.status, Status::Failed);
    }
}
