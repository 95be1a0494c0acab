//! The config of a track whose key frames tell its picture size.

use super::{Output, TrackConfig};
use crate::ingest::caps::{video_track_caps, with_size};
use crate::media::{Codec, VideoSize};

pub(super) struct PictureSize {
    codec: Codec,
    told: Option<VideoSize>,
}

impl PictureSize {
    pub fn new(codec: Codec) -> Self {
        Self { codec, told: None }
    }

    /// `key`: of a key frame the size in it, if it can be read. Tells the config if that is new. False if the unit is of
    /// no use: no key frame came yet, or this one is broken.
    pub fn tell(&mut self, key: Option<Option<VideoSize>>, out: &mut Vec<Output>) -> bool {
        let size = match key {
            None => return self.told.is_some(),
            Some(None) => return false,
            Some(Some(size)) => size,
        };
        if self.told == Some(size) {
            return true;
        }
        let Ok((caps, _)) = video_track_caps(self.codec, &[]) else { return false };
        self.told = Some(size);
        out.push(Output::Config(TrackConfig {
            caps: with_size(caps, size),
            size: Some(size),
            rate: None,
            channels: None,
            reorder: Some(0),
        }));
        true
    }
}
