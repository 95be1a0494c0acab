//! The vocabulary of live media: names, codecs, tracks, access units and their timeline. No I/O.

mod bits;
mod codec;
mod frame;
mod health;
mod name;
mod timeline;
mod track;

pub(crate) use bits::Bits;
pub use codec::{Codec, MediaKind};
pub use frame::{Frame, Gap, GapKind, TrackId};
pub use health::{HealthChecks, HealthReason};
pub use name::{MAX_NAME_BYTES, MediaSessionId, NameError, RoomName, StreamName, split_path};
pub use timeline::{Timeline, TimelineStep};
pub use track::{Track, Tracks, VideoSize};

/// How a stream came in. The words are those of the API and of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Rtmp,
    /// Pushed or pulled.
    Rtsp,
    Webrtc,
    /// Not a stream: a file that was found in the records folder. Only recordings have it.
    File,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Rtmp => "rtmp",
            Protocol::Rtsp => "rtsp",
            Protocol::Webrtc => "webrtc",
            Protocol::File => "file",
        }
    }
}
