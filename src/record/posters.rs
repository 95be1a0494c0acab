//! Gives finished parts their posters: one at a time, beside the async threads, the newest part first. Which are still to
//! be made is in the catalog, so a part that was made whole after a crash gets one too.

use crate::{
    gst::{self, Poster},
    library::{Library, LibraryError, PosterJob},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long the end waits for the one under way, which is told to give up.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// Pause after the catalog could not be read.
const CATALOG_PAUSE: Duration = Duration::from_secs(10);

/// The posters being made.
pub struct Posters {
    wake: Arc<Notify>,
    cancelled: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// Tells that a part has been finished. A cheap clone.
#[derive(Clone)]
pub struct PosterWaker(Arc<Notify>);

impl PosterWaker {
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl Posters {
    /// Begins with what the last daemon has left. Needs a tokio runtime, and GStreamer.
    pub fn start(library: Library) -> Self {
        let (wake, cancelled) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(run(library, wake.clone(), cancelled.clone()));
        Self { wake, cancelled, task }
    }

    pub fn waker(&self) -> PosterWaker {
        PosterWaker(self.wake.clone())
    }

    /// Begins no more. What is not done is left to the next start.
    pub async fn stop(self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        if timeout(STOP_LIMIT, self.task).await.is_err() {
            tracing::warn!("a poster was still being made");
        }
    }
}

async fn run(library: Library, wake: Arc<Notify>, cancelled: Arc<AtomicBool>) {
    while !cancelled.load(Ordering::Relaxed) {
        match library.next_poster().await {
            Ok(Some(job)) => {
                if let Err(error) = make(&library, &job, &cancelled).await {
                    tracing::warn!(file = %job.file.display(), %error, "its poster could not be stored");
                }
            }
            Ok(None) => wake.notified().await,
            Err(error) => {
                tracing::warn!(%error, "posters wait");
                // What wakes it may not come for long; what ends it does not wait.
                let _ = timeout(CATALOG_PAUSE, wake.notified()).await;
            }
        }
    }
}

async fn make(library: &Library, job: &PosterJob, cancelled: &Arc<AtomicBool>) -> Result<(), LibraryError> {
    let (file, cancelled) = (job.file.clone(), cancelled.clone());
    let made = tokio::task::spawn_blocking(move || gst::poster(&file, LIMIT, &cancelled)).await;
    let why = match made {
        Ok(Ok(Poster::Jpeg(jpeg))) => {
            library.set_poster(job, jpeg).await?;
            return Ok(());
        }
        Ok(Ok(Poster::Cancelled)) => return Ok(()),
        Ok(Ok(Poster::None(why))) => why.unwrap_or_else(|| "no picture could be decoded".into()),
        Ok(Err(e)) => e.to_string(),
        Err(e) => e.to_string(),
    };
    tracing::warn!(file = %job.file.display(), why, "has no poster");
    library.no_poster(job).await
}
