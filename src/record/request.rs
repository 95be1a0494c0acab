//! What a recording under way can be asked for.

use crate::hub::{Stream, Subscriber};
use std::sync::Arc;

/// Where access units come from.
pub struct Source {
    pub stream: Arc<Stream>,
    pub subscriber: Subscriber,
}

pub(super) enum Request {
    /// End the part under way at the next key frame.
    Split,
    Pause,
    Resume,
    /// Go on with this stream from its next key frame on.
    Switch(Source),
    /// The publisher has come back, as this stream.
    Return(Source),
}

/// Why a recording does not do what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the recording has ended")]
    Over,
    #[error("the recording has not begun: no frame is in a file yet")]
    NotBegun,
    #[error("the recording is paused")]
    Paused,
    #[error("the recording is not paused")]
    NotPaused,
    #[error("the recording waits for no publisher")]
    NotAway,
}

/// With what was asked for: a stream is handed back.
pub(super) struct Refused {
    pub why: Refusal,
    pub request: Request,
}

impl Refused {
    pub fn over(request: Request) -> Self {
        Self { why: Refusal::Over, request }
    }
}
