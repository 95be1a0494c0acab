use super::{Codec, MediaKind, TrackId};
use gstreamer as gst;
use std::sync::Arc;

/// Picture size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct VideoSize {
    pub width: u32,
    pub height: u32,
}

/// One elementary stream of a live stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub id: TrackId,
    pub codec: Codec,
    /// Complete caps of the access units: stream-format, alignment and codec_data where the codec has them.
    pub caps: gst::Caps,
    /// Video only, once known.
    pub size: Option<VideoSize>,
    /// Audio only: sample rate in Hz.
    pub rate: Option<u32>,
    /// Audio only.
    pub channels: Option<u32>,
}

impl Track {
    pub fn kind(&self) -> MediaKind {
        self.codec.kind()
    }

    /// What keeping it takes, bytes: its parameter sets, and about as much as caps take.
    fn cost_bytes(&self) -> usize {
        const CAPS_BYTES: usize = 512;
        let codec_data = self.caps.structure(0).and_then(|s| s.get::<&gst::BufferRef>("codec_data").ok());
        CAPS_BYTES + codec_data.map_or(0, |data| data.size())
    }
}

/// The tracks of a stream at one moment; a change of codec or parameters makes a new set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracks(Arc<[Track]>);

impl Tracks {
    /// `tracks[i].id` must be `TrackId(i)`.
    pub fn new(tracks: Vec<Track>) -> Self {
        debug_assert!(tracks.iter().enumerate().all(|(i, t)| usize::from(t.id.0) == i));
        Self(tracks.into())
    }

    pub fn get(&self, id: TrackId) -> Option<&Track> {
        self.0.get(usize::from(id.0))
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Track> {
        self.0.iter()
    }

    pub fn video(&self) -> Option<&Track> {
        self.0.iter().find(|t| t.kind() == MediaKind::Video)
    }

    pub fn audio(&self) -> Option<&Track> {
        self.0.iter().find(|t| t.kind() == MediaKind::Audio)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What keeping them takes, bytes.
    pub fn cost_bytes(&self) -> usize {
        self.0.iter().map(Track::cost_bytes).sum()
    }
}
