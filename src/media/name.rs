use std::fmt;
use uuid::Uuid;

/// Longest room or stream name taken from outside, in bytes.
pub const MAX_NAME_BYTES: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty; publish to /ROOM/STREAM or /STREAM")]
    Empty,
    #[error("the name is {0} bytes long; {MAX_NAME_BYTES} is the most")]
    TooLong(usize),
    #[error("the name holds a control character (U+{0:04X})")]
    Control(u32),
    #[error(
        "{0:?} is not allowed as a part of a name: a hook script that makes a path of the name would leave its folder"
    )]
    Dots(String),
}

fn check(text: &str) -> Result<&str, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(NameError::Control(u32::from(c)));
    }
    match text.split('/').find(|part| matches!(*part, "." | "..")) {
        Some(dots) => Err(NameError::Dots(dots.to_owned())),
        None => Ok(text),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Any text but empty, over-long, with control characters or with `.` or `..` between slashes. It may
            /// hold `/`: a name is not a path; `record::naming` makes it one.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text).map(|t| Self(t.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// Name of a live stream, unique within its room while it is live.
    StreamName
}
name_type! {
    /// Name of a room; a stream published without one is in `live`.
    RoomName
}

impl Default for RoomName {
    fn default() -> Self {
        Self("live".into())
    }
}

/// Splits the path of a publish URL, without leading or trailing `/` or query: the first part is the room,
/// the rest (which may hold `/`) the stream; a path of one part is a stream in room `live`.
pub fn split_path(path: &str) -> Result<(RoomName, StreamName), NameError> {
    let path = path.trim_matches('/');
    match path.split_once('/') {
        Some((room, stream)) => Ok((RoomName::new(room)?, StreamName::new(stream.trim_matches('/'))?)),
        None => Ok((RoomName::default(), StreamName::new(path)?)),
    }
}

/// Identity of one publish of one stream (UUID v4): what Flashphoner's REST calls ask for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct MediaSessionId(Uuid);

impl MediaSessionId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// All zero: of a recording whose stream is not known.
    pub fn unknown() -> Self {
        Self(Uuid::nil())
    }

    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for MediaSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_room_and_stream() {
        let split = |p: &str| split_path(p).map(|(r, s)| (r.to_string(), s.to_string()));
        assert_eq!(split("/court/room 4"), Ok(("court".into(), "room 4".into())));
        assert_eq!(split("cam"), Ok(("live".into(), "cam".into())));
        assert_eq!(split("a/b/c/"), Ok(("a".into(), "b/c".into())));
        assert_eq!(split("//"), Err(NameError::Empty));
        assert_eq!(split("a/b\u{7}"), Err(NameError::Control(7)));
        assert_eq!(split(&"x".repeat(600)), Err(NameError::TooLong(600)));
        assert_eq!(split("a/../b"), Err(NameError::Dots("..".into())));
        assert_eq!(split("a/..b"), Ok(("a".into(), "..b".into())));
    }
}
