//! What a recording has written until now, for those who watch over it.

use crate::media::{Frame, MediaKind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counted on the writer thread, read on any.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    media_ms: AtomicU64,
    bytes: AtomicU64,
    pictures: AtomicU64,
    key_frames: AtomicU64,
    sounds: AtomicU64,
}

/// What went into a recording's files, of all parts together; silence that stands for missing sound is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Of access units.
    pub bytes: u64,
    /// Access units of video.
    pub pictures: u64,
    pub key_frames: u64,
    /// Access units of audio.
    pub sounds: u64,
}

impl Vitals {
    pub fn written(&self, frame: &Frame, kind: MediaKind) {
        let count = match kind {
            MediaKind::Video => &self.pictures,
            MediaKind::Audio => &self.sounds,
        };
        self.bytes.fetch_add(frame.buffer.size() as u64, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
        if kind == MediaKind::Video && frame.is_key() {
            self.key_frames.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn set_media_ms(&self, ms: u64) {
        self.media_ms.store(ms, Ordering::Relaxed);
    }

    /// Media time recorded so far, ms.
    pub fn media_ms(&self) -> u64 {
        self.media_ms.load(Ordering::Relaxed)
    }

    pub fn read(&self) -> Written {
        Written {
            bytes: self.bytes.load(Ordering::Relaxed),
            pictures: self.pictures.load(Ordering::Relaxed),
            key_frames: self.key_frames.load(Ordering::Relaxed),
            sounds: self.sounds.load(Ordering::Relaxed),
        }
    }
}
