//! Gives finished parts their posters: one at a time, beside the async threads, the newest part first. Which are still to
//! be made is in the catalog, so a part that was made whole after a crash gets one too.

use crate::{
    gst::{self, Poster},
    library::{Library, LibraryError, PosterJob},
};
use std::{
    future::Future,
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

/// Tells that a part has been finished, also before the posters are started. A cheap clone.
#[derive(Clone, Default)]
pub struct PosterWaker(Arc<Notify>);

impl PosterWaker {
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

impl Posters {
    /// Begins with what the last daemon has left, and tells `made` of each part that got its poster, one after the other.
    /// Needs a tokio runtime, and GStreamer.
    pub fn start<F, T>(library: Library, PosterWaker(wake): PosterWaker, made: F) -> Self
    where
        F: Fn(PosterJob) -> T + Send + 'static,
        T: Future<Output = ()> + Send,
    {
        let cancelled = Arc::new(AtomicBool::new(false));
        let (woken, ended) = (wake.clone(), cancelled.clone());
        let task = tokio::spawn(async move { run(&library, &woken, &ended, made).await });
        Self { wake, cancelled, task }
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

async fn run<F, T>(library: &Library, wake: &Notify, cancelled: &Arc<AtomicBool>, made: F)
where
    F: Fn(PosterJob) -> T,
    T: Future<Output = ()>,
{
    while !cancelled.load(Ordering::Relaxed) {
        match library.next_poster().await {
            Ok(Some(job)) => match make(library, &job, cancelled).await {
                Ok(true) => made(job).await,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(file = %job.file.display(), %error, "its poster could not be stored");
                }
            },
            Ok(None) => wake.notified().await,
            Err(error) => {
                tracing::warn!(%error, "posters wait");
                // What wakes it may not come for long; what ends it does not wait.
                let _ = timeout(CATALOG_PAUSE, wake.notified()).await;
            }
        }
    }
}

/// Whether it has one now.
async fn make(library: &Library, job: &PosterJob, cancelled: &Arc<AtomicBool>) -> Result<bool, LibraryError> {
    let (file, cancelled) = (job.file.clone(), cancelled.clone());
    let made = tokio::task::spawn_blocking(move || gst::poster(&file, LIMIT, &cancelled)).await;
    let why = match made {
        Ok(Ok(Poster::Jpeg(jpeg))) => {
            return library.set_poster(job, jpeg).await;
        }
        Ok(Ok(Poster::Cancelled)) => return Ok(false),
        Ok(Ok(Poster::None(why))) => why.unwrap_or_else(|| "no picture could be decoded".into()),
        Ok(Err(e)) => e.to_string(),
        Err(e) => e.to_string(),
    };
    tracing::warn!(file = %job.file.display(), why, "has no poster");
    library.no_poster(job).await?;
    Ok(false)
}
