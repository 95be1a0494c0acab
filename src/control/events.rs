//! What happens in the daemon, told to whoever watches: one bus, on which every event has a number.
//!
//! Telling never waits: the newest events are kept in a ring that is bounded in count and in bytes, and who reads too
//! slowly finds that its place has fallen out of it.

mod event;
mod follow;
mod ring;

pub use event::{
    Cause, ConfigOutcome, Deletion, DeliveryOutcome, DiskMark, Event, RecordingChange, RecordingRefused,
    SessionChange,
};
pub use ring::Told;

use chrono::{DateTime, SecondsFormat, Utc};
use ring::Ring;
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Events kept for those who come back.
const MAX_EVENTS: usize = 4_096;
/// What they may take together.
const MAX_BYTES: usize = 16 << 20;
/// Watchers at the same time.
const MAX_WATCHERS: u32 = 256;
/// Events handed to a watcher at once.
const MAX_BATCH: usize = 64;

/// The bus. A cheap handle; all clones are the same.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    ring: Mutex<Ring>,
    /// Changes with every event; true once the bus is closed.
    news: watch::Sender<bool>,
    places: Arc<Semaphore>,
}

/// Why there is nothing to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWatch {
    #[error("{MAX_WATCHERS} clients watch events already; close one, or poll the lists")]
    TooMany,
    #[error("the daemon is ending and tells nothing more")]
    Closed,
}

/// Why a watch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// What it was to read next is not kept any more.
    #[error("too slow: events were lost; read the lists again")]
    TooSlow,
    #[error("the daemon is ending")]
    Closed,
}

/// One reader's place on the bus. The bus is closed for good when the last one is dropped.
pub struct EventWatch {
    events: Events,
    news: watch::Receiver<bool>,
    /// Number of the event that was handed out last.
    at: u64,
    /// What came after the reader's cursor is not known any more.
    missed: bool,
    _place: OwnedSemaphorePermit,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Notice {
    Hello { version: &'static str },
    Sync,
    Heartbeat,
}

impl Default for Events {
    fn default() -> Self {
        Self::starting_at(Utc::now())
    }
}

impl Events {
    /// Numbers begin with the time of the start in µs: one of an earlier run is never one of this run. They stay below
    /// 2^53, so that JavaScript reads them exactly.
    fn starting_at(start: DateTime<Utc>) -> Self {
        let first = u64::try_from(start.timestamp_micros()).unwrap_or(1).max(1);
        let inner = Inner {
            ring: Mutex::new(Ring::new(first, MAX_EVENTS, MAX_BYTES)),
            news: watch::Sender::new(false),
            places: Arc::new(Semaphore::new(MAX_WATCHERS as usize)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Never waits; on any thread.
    pub fn tell(&self, event: &Event) {
        let body = json(event);
        self.ring().push(|seq| numbered(seq, &body));
        self.inner.news.send_modify(|_| ());
    }

    /// `cursor`: the number of the last event that the reader knows; what came after it is handed out. Without one the
    /// watch begins now.
    pub fn watch(&self, cursor: Option<u64>) -> Result<EventWatch, NoWatch> {
        let news = self.inner.news.subscribe();
        if *news.borrow() {
            return Err(NoWatch::Closed);
        }
        let place = self.inner.places.clone().try_acquire_owned().map_err(|_| NoWatch::TooMany)?;
        let (newest, known) = {
            let ring = self.ring();
            (ring.newest(), cursor.filter(|cursor| ring.after(*cursor, 0).is_some()))
        };
        let (at, missed) = (known.unwrap_or(newest), cursor.is_some() && known.is_none());
        Ok(EventWatch { events: self.clone(), news, at, missed, _place: place })
    }

    /// Clients that watch now.
    pub fn watchers(&self) -> usize {
        MAX_WATCHERS as usize - self.inner.places.available_permits()
    }

    /// Ends every watch, once it has what was told until now, and waits until all are dropped; at most `limit`.
    pub async fn close(&self, limit: Duration) {
        self.inner.news.send_replace(true);
        // Who is not gone by then is cut off.
        let _ = tokio::time::timeout(limit, self.inner.places.acquire_many(MAX_WATCHERS)).await;
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventWatch {
    /// What a reader is told first: `hello` with the number that it begins after, and `sync` where it has missed something
    /// that cannot be told any more.
    pub fn greeting(&self) -> Vec<String> {
        let hello = self.notice(&Notice::Hello { version: env!("CARGO_PKG_VERSION") });
        std::iter::once(hello).chain(self.missed.then(|| self.notice(&Notice::Sync))).collect()
    }

    /// Tells that there is nothing to tell.
    pub fn heartbeat(&self) -> String {
        self.notice(&Notice::Heartbeat)
    }

    /// Waits for events and hands them out in order, each once; a few at a time. Nothing is lost when it is cancelled.
    pub async fn next(&mut self) -> Result<Vec<Arc<Told>>, WatchEnd> {
        loop {
            let closed = *self.news.borrow_and_update();
            let batch = self.events.ring().after(self.at, MAX_BATCH).ok_or(WatchEnd::TooSlow)?;
            if let Some(last) = batch.last() {
                self.at = last.seq;
                return Ok(batch);
            }
            if closed || self.news.changed().await.is_err() {
                return Err(WatchEnd::Closed);
            }
        }
    }

    fn notice(&self, notice: &Notice) -> String {
        numbered(self.at, &json(notice))
    }
}

fn json(object: &impl Serialize) -> String {
    serde_json::to_string(object).expect("plain objects with text keys and UTF-8 paths are JSON")
}

/// `body`, an object with at least one field, with its number and the time before that.
fn numbered(seq: u64, body: &str) -> String {
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let fields = body.strip_prefix('{').unwrap_or(body);
    format!("{{\"seq\":{seq},\"at\":\"{at}\",{fields}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(n: usize) -> Event {
        Event::Config { what: ConfigOutcome::Reloaded, file: format!("/{n}").into(), error: None }
    }

    fn read(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    async fn files(watch: &mut EventWatch) -> Vec<String> {
        let told = watch.next().await.expect("events");
        told.iter().map(|t| read(&t.json)["file"].as_str().expect("a file").to_owned()).collect()
    }

    #[tokio::test]
    async fn events_are_numbered_and_come_to_all_in_order() {
        let events = Events::default();
        let mut watches = [events.watch(None).expect("a place"), events.watch(None).expect("a place")];
        (0..3).for_each(|n| events.tell(&config(n)));
        for watch in &mut watches {
            let told = watch.next().await.expect("events");
            let seqs: Vec<_> =
                told.iter().map(|t| read(&t.json)["seq"].as_u64().expect("a number")).collect();
            assert!(seqs.windows(2).all(|w| w[1] == w[0] + 1) && seqs.len() == 3, "{seqs:?}");
            assert_eq!(read(&told[2].json)["type"], "config.reloaded");
            assert_eq!(read(&watch.heartbeat())["seq"], seqs[2]);
        }
        assert_eq!(events.watchers(), 2);
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_it_missed_once() {
        let events = Events::default();
        events.tell(&config(0));
        let mut watch = events.watch(None).expect("a place");
        let hello = read(&watch.greeting()[0]);
        assert_eq!((&hello["type"], watch.greeting().len()), (&json!("hello"), 1));
        events.tell(&config(1));
        assert_eq!(files(&mut watch).await, ["/1"]);
        let cursor = watch.at;
        drop(watch);
        (2..200).for_each(|n| events.tell(&config(n)));

        let mut watch = events.watch(Some(cursor)).expect("a place");
        assert_eq!(watch.greeting().len(), 1, "nothing is missed");
        assert_eq!(read(&watch.greeting()[0])["seq"], cursor);
        let mut missed = Vec::new();
        while missed.len() < 198 {
            missed.extend(files(&mut watch).await);
        }
        let expected: Vec<_> = (2..200).map(|n| format!("/{n}")).collect();
        assert_eq!(missed, expected);
        assert!(futures_util::poll!(std::pin::pin!(watch.next())).is_pending(), "nothing twice");
    }

    #[tokio::test]
    async fn a_cursor_that_is_not_known_is_answered_with_sync_and_a_new_beginning() {
        let earlier = Events::starting_at(Utc::now() - chrono::TimeDelta::hours(1));
        earlier.tell(&config(0));
        let of_earlier = earlier.watch(None).expect("a place").at;

        let events = Events::default();
        let first = events.watch(None).expect("a place").at;
        (0..=MAX_EVENTS).for_each(|n| events.tell(&config(n)));
        for (cursor, what) in [
            (of_earlier, "of an earlier run"),
            (first, "fallen out"),
            (first + 2 + MAX_EVENTS as u64, "of the future"),
            (0, "no number of ours"),
            (u64::MAX, "the last number there is"),
        ] {
            let mut watch = events.watch(Some(cursor)).expect("a place");
            let [hello, sync] = &watch.greeting()[..] else { panic!("{what}: {:?}", watch.greeting()) };
            let newest = first + 1 + MAX_EVENTS as u64;
            assert_eq!(
                (&read(hello)["seq"], &read(sync)["type"]),
                (&json!(newest), &json!("sync")),
                "{what}"
            );
            events.tell(&config(7));
            assert_eq!(files(&mut watch).await, ["/7"], "{what}: it goes on from there");
            return_to(&events, first);
        }
    }

    /// Makes what follows not depend on how many events were told before.
    fn return_to(events: &Events, first: u64) {
        *events.ring() = Ring::new(first, MAX_EVENTS, MAX_BYTES);
        (0..=MAX_EVENTS).for_each(|n| events.tell(&config(n)));
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_so_and_nobody_waits_for_it() {
        let events = Events::default();
        let mut slow = events.watch(None).expect("a place");
        let mut quick = events.watch(None).expect("a place");
        for n in 0..=MAX_EVENTS {
            events.tell(&config(n));
            assert_eq!(files(&mut quick).await, [format!("/{n}")]);
        }
        assert_eq!(slow.next().await.map(|_| ()), Err(WatchEnd::TooSlow));
    }

    #[tokio::test]
    async fn closing_tells_the_rest_first_and_waits_for_its_watchers() {
        let events = Events::default();
        let mut watch = events.watch(None).expect("a place");
        events.tell(&config(0));
        let closing = tokio::spawn({
            let events = events.clone();
            async move { events.close(Duration::from_secs(20)).await }
        });
        while events.watch(None).map(drop) != Err(NoWatch::Closed) {
            tokio::task::yield_now().await;
        }
        assert_eq!(files(&mut watch).await, ["/0"]);
        assert_eq!(watch.next().await.map(|_| ()), Err(WatchEnd::Closed));
        assert!(!closing.is_finished());
        drop(watch);
        closing.await.expect("it ends");
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let events = Events::default();
        let watches: Vec<_> = (0..MAX_WATCHERS).map(|_| events.watch(None).expect("a place")).collect();
        assert_eq!(events.watch(None).map(drop), Err(NoWatch::TooMany));
        drop(watches);
        assert!(events.watch(None).is_ok());
    }
}
