//! The manifest: `NAME.EXT.json` beside each finished file, from which the catalog can be rebuilt.
//!
//! The JSON is one [`Part`] with two more fields: `version`, and `recording`, the identity of the recording
//! the part belongs to. What a hook did is in the catalog only: the manifest is replaced
//! only when the file has got a poster, a copy in the object store, and when that is the only copy.

use super::{AudioPart, Health, Part, PartLost, Recording, RecordingId, VideoPart};
use crate::media::{Gap, MediaSessionId, Protocol};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The version this program writes, and the only one it reads.
const MANIFEST_VERSION: u32 = 1;
/// Larger files are not read: no manifest of ours comes near it.
const MAX_MANIFEST_BYTES: u64 = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("manifest {path} is not valid: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("manifest {path} is of version {found}; this program reads version {MANIFEST_VERSION}")]
    Version { path: PathBuf, found: u64 },
    #[error("manifest {path} is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge { path: PathBuf },
}

/// One finished file and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Of the format of this file.
    pub version: u32,
    pub recording: Identity,
    /// Made whole after the daemon died, or found in the folder: not finished by who wrote it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// What was wrong with the recording while this file was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<Health>,
    #[serde(flatten, serialize_with = "without_hook")]
    #[schema(value_type = PartFields<'static>)]
    pub part: Part,
}

/// The fields of a [`Recording`] that are the same for all its parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RecordingIdentity)]
pub struct Identity {
    pub id: RecordingId,
    pub room_name: String,
    pub room_id: String,
    pub stream_name: String,
    pub media_session_id: MediaSessionId,
    pub session_id: String,
    pub protocol: Protocol,
    pub container: String,
    pub started_at: DateTime<Utc>,
}

impl From<&Recording> for Identity {
    fn from(r: &Recording) -> Self {
        Self {
            id: r.id,
            room_name: r.room_name.clone(),
            room_id: r.room_id.clone(),
            stream_name: r.stream_name.clone(),
            media_session_id: r.media_session_id,
            session_id: r.session_id.clone(),
            protocol: r.protocol,
            container: r.container.clone(),
            started_at: r.started_at,
        }
    }
}

#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ManifestPart)]
struct PartFields<'a> {
    number: u32,
    #[schema(value_type = String)]
    file: &'a Path,
    name: &'a str,
    size: u64,
    sha256: &'a str,
    started_at: DateTime<Utc>,
    duration_ms: u64,
    #[schema(required, value_type = Option<VideoPart>)]
    video: &'a Option<VideoPart>,
    #[schema(required, value_type = Option<AudioPart>)]
    audio: &'a Option<AudioPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    poster: &'a Option<PathBuf>,
    #[schema(value_type = Vec<Gap>)]
    gaps: &'a [Gap],
    lost: PartLost,
    #[schema(value_type = Vec<String>)]
    degraded: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: &'a Option<String>,
    #[serde(skip_serializing_if = "is_true")]
    local: bool,
}

fn is_true(value: &bool) -> bool {
    *value
}

fn without_hook<S: Serializer>(part: &Part, serializer: S) -> Result<S::Ok, S::Error> {
    PartFields {
        number: part.number,
        file: &part.file,
        name: &part.name,
        size: part.size,
        sha256: &part.sha256,
        started_at: part.started_at,
        duration_ms: part.duration_ms,
        video: &part.video,
        audio: &part.audio,
        poster: &part.poster,
        gaps: &part.gaps,
        lost: part.lost,
        degraded: &part.degraded,
        remote: &part.remote,
        local: part.local,
    }
    .serialize(serializer)
}

impl Manifest {
    pub fn new(recording: Identity, part: Part) -> Self {
        Self { version: MANIFEST_VERSION, recording, recovered: false, health: Vec::new(), part }
    }

    /// `health`: of the whole recording; what was over before this file began is left out.
    pub fn with_health(self, health: &[Health]) -> Self {
        let from = self.part.started_at;
        let during = |h: &&Health| h.until.is_none_or(|until| until >= from);
        Self { health: health.iter().filter(during).cloned().collect(), ..self }
    }

    /// Of a file that was made whole after the daemon died, or found.
    pub fn recovered(recording: Identity, part: Part) -> Self {
        Self { recovered: true, ..Self::new(recording, part) }
    }

    /// Path of the manifest of `file`: `NAME.EXT.json` in the same folder.
    pub fn path_of(file: &Path) -> PathBuf {
        let mut path = OsString::from(file);
        path.push(".json");
        path.into()
    }

    /// Reads and checks one manifest. Blocking.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let io = |source| ManifestError::Io { path: path.into(), source };
        let mut text = Vec::new();
        let file = File::open(path).map_err(io)?;
        file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut text).map_err(io)?;
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge { path: path.into() });
        }
        Self::parse(&text, path)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let json = |source| ManifestError::Json { path: path.into(), source };
        let Head { version } = serde_json::from_slice(text).map_err(json)?;
        if version != u64::from(MANIFEST_VERSION) {
            return Err(ManifestError::Version { path: path.into(), found: version });
        }
        serde_json::from_slice(text).map_err(json)
    }

    /// Writes the manifest at `path` (replacing what is there) and syncs its data to the disk. Blocking.
    pub fn write(&self, path: &Path) -> Result<(), ManifestError> {
        let io = |source| ManifestError::Io { path: path.into(), source };
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|source| ManifestError::Json { path: path.into(), source })?;
        text.push(b'\n');
        let mut file = File::create(path).map_err(io)?;
        file.write_all(&text).map_err(io)?;
        file.sync_all().map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::media::HealthReason;

    fn sample() -> Manifest {
        let mut part = testing::part(2);
        part.hook = None;
        part.gaps = vec![Gap {
            kind: crate::media::GapKind::Overflow,
            at_ms: 5,
            by_ms: -3,
            at: None,
            frames: 2,
            packets: 0,
        }];
        Manifest::new(Identity::from(&testing::recording(0)), part)
    }

    #[test]
    fn it_tells_what_was_wrong_while_its_file_was_written() {
        let began = sample().part.started_at;
        let health = |from_s, until_s: Option<i64>| {
            let at = |s| began + chrono::TimeDelta::seconds(s);
            Health { reason: HealthReason::Black, from: at(from_s), until: until_s.map(at) }
        };
        let of_recording = [health(-9, Some(-5)), health(-4, Some(1)), health(2, None)];
        let written = sample().with_health(&of_recording);
        assert_eq!(written.health, of_recording[1..]);
        let json = serde_json::to_value(&written).unwrap();
        assert_eq!(json["health"][1]["reason"], "black");
        assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), written);
        assert!(serde_json::to_value(sample()).unwrap().get("health").is_none());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.mp4.json");
        let written = sample();
        written.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), written);
    }

    #[test]
    fn the_json_is_a_part_with_version_and_recording() {
        let json = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["number"], 2);
        assert_eq!(json["sha256"], sample().part.sha256);
        assert_eq!(json["video"]["codec"], "h264");
        assert_eq!(json["recording"]["streamName"], "cam");
        assert!(json.get("hook").is_none());
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let parse = |text: &str| Manifest::parse(text.as_bytes(), Path::new("m.json"));
        let mut newer = serde_json::to_value(sample()).unwrap();
        newer["version"] = 2.into();
        assert!(matches!(parse(&newer.to_string()), Err(ManifestError::Version { found: 2, .. })));
        assert!(matches!(parse("{}"), Err(ManifestError::Json { .. })));
        assert!(matches!(parse("{\"version\": 1}"), Err(ManifestError::Json { .. })));
        assert!(matches!(parse(&"[".repeat(100_000)), Err(ManifestError::Json { .. })));
    }
}
