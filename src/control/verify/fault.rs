//! What can be wrong with a recorded file, in words a person can act on.

use crate::library::RecordingId;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use std::path::PathBuf;

/// What a check of one file has found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Absolute path.
    pub file: PathBuf,
    /// `None` where neither manifest nor catalog tells.
    pub recording_id: Option<RecordingId>,
    /// Number of the part.
    pub part: Option<u32>,
    /// Bytes found.
    pub size: u64,
    /// Where it is, when it is in the object store only: that copy is not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// None: the file is good.
    pub faults: Vec<Fault>,
}

/// In JSON: `kind`, `text`, and for decoding `atMs`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("missing; if it was moved on purpose, move its manifest along, else bring it back from a copy")]
    Missing,
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("{} bytes instead of {}", grouped(*found), grouped(*wanted))]
    Size { found: u64, wanted: u64 },
    #[error(
        "SHA-256 differs: its content is not what was recorded; found {found}, its manifest has {wanted}"
    )]
    Sha256 { found: String, wanted: String },
    #[error("does not decode at {} s: {message}", seconds(*at_ms))]
    Decode { at_ms: u64, message: String },
    #[error("{decoded} pictures decode, its manifest tells {wanted}")]
    Frames { decoded: u64, wanted: u64 },
    #[error("no {kind} decodes, its manifest tells {frames} access units of it")]
    NoTrack { kind: &'static str, frames: u64 },
    #[error("its manifest is missing")]
    NoManifest,
    #[error("{0}")]
    BadManifest(String),
    #[error("manifest and catalog disagree: {0}")]
    Disagree(String),
    #[error("not in the catalog; the next start of `reeld serve` enters it, or its entry was removed")]
    NotInCatalog,
    #[error("left unfinished by a daemon that is gone; the next start of `reeld serve` finishes it")]
    LeftBehind,
}

impl Fault {
    /// One word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Missing => "missing",
            Fault::Unreadable(_) => "unreadable",
            Fault::Size { .. } => "size",
            Fault::Sha256 { .. } => "sha256",
            Fault::Decode { .. } => "decode",
            Fault::Frames { .. } => "frames",
            Fault::NoTrack { .. } => "no-track",
            Fault::NoManifest => "no-manifest",
            Fault::BadManifest(_) => "bad-manifest",
            Fault::Disagree(_) => "disagree",
            Fault::NotInCatalog => "not-in-catalog",
            Fault::LeftBehind => "left-behind",
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = if let Fault::Decode { at_ms, .. } = self { Some(at_ms) } else { None };
        let mut fields = serializer.serialize_struct("Fault", 2 + usize::from(at.is_some()))?;
        fields.serialize_field("kind", self.kind())?;
        fields.serialize_field("text", &self.to_string())?;
        if let Some(at) = at {
            fields.serialize_field("atMs", at)?;
        }
        fields.end()
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_in_words() {
        let table = [
            (Fault::Size { found: 1234, wanted: 2_345_678 }, "1,234 bytes instead of 2,345,678"),
            (Fault::Size { found: 0, wanted: 999 }, "0 bytes instead of 999"),
            (
                Fault::Decode { at_ms: 12_345, message: "no frame!".into() },
                "does not decode at 12.3 s: no frame!",
            ),
        ];
        for (fault, text) in table {
            assert_eq!(fault.to_string(), text);
        }
        let json = serde_json::to_value(Fault::Decode { at_ms: 7, message: "x".into() }).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"kind": "decode", "text": "does not decode at 0.0 s: x", "atMs": 7})
        );
    }
}
