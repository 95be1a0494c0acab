//! An encoder that lost its connection returns under its old name before the old connection is known to be dead.
//!
//! A connection that was cut by the network looks alive until `publisher_timeout`, and encoders give up when they are
//! told that the name is taken. So a publisher takes the name over from one that comes from the same host and has been
//! silent for [`SILENCE`]; who still sends keeps its name against everyone.

use crate::media::{MediaSessionId, RoomName, StreamName};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Longer than any pause of a live encoder (audio alone comes 40 times a second), shorter than encoders wait before
/// they return (2 s and more).
const SILENCE: Duration = Duration::from_millis(1_500);

type Name = (RoomName, StreamName);

/// The names that RTMP connections publish.
#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<Name, Holder>>);

/// Who holds a name.
#[derive(Clone)]
pub(super) struct Holder {
    pub session: MediaSessionId,
    remote: IpAddr,
    last_media_ms: Arc<AtomicU64>,
    replaced: CancellationToken,
    gone: CancellationToken,
}

impl Holder {
    /// `now`: monotonic time, of one origin for all holders.
    pub fn new(session: MediaSessionId, remote: IpAddr, now: Duration) -> Self {
        let holder = Self {
            session,
            remote,
            last_media_ms: Arc::default(),
            replaced: CancellationToken::new(),
            gone: CancellationToken::new(),
        };
        holder.media(now);
        holder
    }

    /// Media came at `now`.
    pub fn media(&self, now: Duration) {
        self.last_media_ms.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// Its publisher is back on another connection.
    pub fn replace(&self) {
        self.replaced.cancel();
    }

    /// Done when its publisher is back on another connection.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Done when the name is free.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

impl Names {
    pub fn hold(&self, name: Name, holder: Holder) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, holder);
    }

    /// Call it when the hub's stream has ended.
    pub fn release(&self, name: &Name, holder: &Holder) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.get(name).is_some_and(|h| h.session == holder.session) {
            names.remove(name);
        }
        holder.gone.cancel();
    }

    /// Who has to go so that `remote` may have the name. `None`: it stays taken.
    pub fn to_replace(&self, name: &Name, remote: IpAddr, now: Duration) -> Option<Holder> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holder = names.get(name).filter(|h| h.remote == remote)?;
        let last_media = Duration::from_millis(holder.last_media_ms.load(Ordering::Relaxed));
        (now.saturating_sub(last_media) >= SILENCE).then(|| holder.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_host_and_only_after_silence() {
        let at = Duration::from_millis;
        let name = |n: &str| (RoomName::default(), StreamName::new(n).expect("a name"));
        let (home, away) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let names = Names::default();
        let holder = Holder::new(MediaSessionId::random(), home, at(1_000));
        names.hold(name("cam"), holder.clone());
        holder.media(at(5_000));
        let replaced = |n: &str, remote, now| names.to_replace(&name(n), remote, at(now)).is_some();
        for (n, remote, now, want) in [
            ("cam", home, 6_400, false),
            ("cam", home, 6_500, true),
            ("cam", away, 60_000, false),
            ("other", home, 60_000, false),
            ("cam", home, 4_000, false),
        ] {
            assert_eq!(replaced(n, remote, now), want, "{n} {remote} {now}");
        }
        let next = Holder::new(MediaSessionId::random(), home, at(7_000));
        names.hold(name("cam"), next.clone());
        names.release(&name("cam"), &holder);
        assert!(holder.gone.is_cancelled() && !next.gone.is_cancelled());
        assert!(replaced("cam", home, 9_000), "the next holder is not released by the one before");
    }
}
