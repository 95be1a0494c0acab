//! Publishing over WHIP, for the API: the sessions themselves are `ingest`'s.

pub use crate::ingest::whip::{Accepted, Patched, PublishRequest, WhipError, WhipServer as Whip};
