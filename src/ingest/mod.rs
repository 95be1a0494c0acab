//! What brings live streams in.

pub mod rtmp;
