//! What the tests of `library` and `deliver` share.

use super::*;
use crate::media::{Gap, GapKind, MediaSessionId, Protocol};
use chrono::DateTime;

/// A library in a fresh folder.
pub async fn library() -> (tempfile::TempDir, Library) {
    let dir = tempfile::tempdir().unwrap();
    let library = reopen(&dir).await;
    (dir, library)
}

/// One more library on the catalog of `dir`, as the next daemon would open it.
pub async fn reopen(dir: &tempfile::TempDir) -> Library {
    let storage = Storage::open(&dir.path().join("records")).unwrap();
    let url = format!("sqlite:{}/state/reeld.db", dir.path().display());
    Library::open(&url, storage).await.unwrap()
}

/// What a daemon does at its start.
pub async fn recover(library: &Library, hand_on: &HandOn, make_whole: MakeWhole) -> Vec<Recording> {
    let interrupted = library.interrupted().await.unwrap();
    library.recover(interrupted, hand_on, make_whole, inspect).await.unwrap()
}

/// What was not finished plays, but for what says that it does not.
fn inspect(file: &std::path::Path) -> Result<Option<Salvaged>, String> {
    let plays = file.extension().is_some_and(|e| e == "part")
        && std::fs::read(file).is_ok_and(|content| content != b"nothing");
    Ok(plays.then_some(Salvaged { duration_ms: 1000, video: part(1).video, audio: None }))
}

/// Hooks that are due now.
pub async fn due(library: &Library) -> Vec<Delivery> {
    due_at(library, chrono::Utc::now()).await
}

pub async fn due_at(library: &Library, now: DateTime<chrono::Utc>) -> Vec<Delivery> {
    due_of(library, DeliveryKind::Hook, now).await
}

pub async fn due_of(library: &Library, kind: DeliveryKind, now: DateTime<chrono::Utc>) -> Vec<Delivery> {
    library.outbox_due(Due { kind, now, limit: 1_000, without: &[], not_to: &[] }).await.unwrap()
}

/// What is stored of a hook that has run.
pub fn ran(exit: i32, attempts: u32) -> Tried {
    let error = (exit != 0).then(|| format!("exit code {exit}"));
    Tried { attempts, error, hook: Some(HookResult { exit: Some(exit), attempts, output: "said".into() }) }
}

/// Has this script run for each part.
pub fn hooked(script: impl Into<PathBuf>) -> HandOn {
    HandOn { hook: Some(script.into()), ..HandOn::default() }
}

/// A recording that started `second` s after a fixed time.
pub fn recording(second: i64) -> Recording {
    let started_at_ms = 1_700_000_000_123 + second * 1000;
    Recording {
        id: RecordingId::random(),
        status: Status::Starting,
        degraded: Vec::new(),
        health: Vec::new(),
        room_name: "court".into(),
        room_id: "r-1".into(),
        stream_name: "cam".into(),
        media_session_id: MediaSessionId::random(),
        session_id: "/127.0.0.1:5000/127.0.0.1:1935".into(),
        protocol: Protocol::Rtmp,
        container: "mp4".into(),
        started_at: DateTime::from_timestamp_millis(started_at_ms).unwrap(),
        ended_at: None,
        started_at_ms,
        duration_ms: 0,
        size: 0,
        parts: Vec::new(),
        lost: Lost::default(),
        deliveries: Vec::new(),
        error: None,
        locked: false,
    }
}

pub fn part(number: u32) -> Part {
    Part {
        number,
        file: format!("/records/cam_{number}.mp4").into(),
        name: format!("cam_{number}.mp4"),
        size: 1000,
        sha256: "ab".repeat(32),
        started_at: DateTime::from_timestamp_millis(1_700_000_000_456).unwrap(),
        duration_ms: 2000,
        video: Some(VideoPart {
            codec: "h264".into(),
            width: Some(640),
            height: Some(360),
            frames: 60,
            keyframes: 2,
        }),
        audio: Some(AudioPart { codec: "aac".into(), rate: Some(48_000), channels: Some(2), frames: 94 }),
        hook: None,
        poster: None,
        gaps: vec![Gap {
            kind: GapKind::TimestampJump,
            at_ms: 7,
            by_ms: -9,
            at: None,
            frames: 0,
            packets: 0,
        }],
        lost: PartLost { packets: 3, frames: 1 },
        degraded: vec!["no sound".into()],
        remote: None,
        local: true,
    }
}
