//! `reeld sessions`, and finding a live stream by what a person calls it.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    table,
};
use crate::{
    control::{RecordingId, Status},
    media::MediaSessionId,
};
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Deserialize;

const EXAMPLES: &str = "\
Examples:
  reeld sessions
  reeld sessions --json | jq -r '.items[].mediaSessionId'
  reeld sessions --server http://10.0.0.7:9091";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SessionsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub(super) async fn run(client: &Client, args: &SessionsArgs) -> Result<(), CliError> {
    let answer = client.get(&["sessions"], &[]).await?;
    if args.connect.json {
        return print_json(&answer);
    }
    let sessions: Sessions = client.read(answer)?;
    if sessions.items.is_empty() {
        eprintln!("nobody is publishing");
        return Ok(());
    }
    let head = [
        "STREAM",
        "MEDIA SESSION ID",
        "FROM",
        "STATUS",
        "VIDEO",
        "AUDIO",
        "BITRATE",
        "LOST",
        "SINCE",
        "RECORDING",
    ];
    print(&table::table(&head, sessions.items.iter().map(Session::row)))
}

/// The live stream that `text` means: a mediaSessionId, `ROOM/STREAM`, or a stream name that is the only one of its kind.
pub(super) async fn resolve(client: &Client, text: &str) -> Result<MediaSessionId, CliError> {
    if let Some(id) = MediaSessionId::parse(text) {
        return Ok(id);
    }
    let sessions: Sessions = client.read(client.get(&["sessions"], &[]).await?)?;
    pick(&sessions.items, text).map(|session| session.media_session_id)
}

/// The session whose recording `text` means: as [`resolve`], or a stream that is gone and whose recording waits for it.
pub(super) async fn resolve_recorded(client: &Client, text: &str) -> Result<MediaSessionId, CliError> {
    let gone = match resolve(client, text).await {
        Err(gone @ CliError::NoSuchStream(_)) => gone,
        other => return other,
    };
    for status in [Status::Recording, Status::Paused] {
        let answer = client.get(&["recordings"], &[("status", status.as_str()), ("limit", "1000")]).await?;
        let running: Running = client.read(answer)?;
        let named = |r: &&Recorded| {
            text == r.stream_name || text.split_once('/') == Some((&*r.room_name, &*r.stream_name))
        };
        let mut found = running.items.iter().filter(named);
        if let (Some(one), None) = (found.next(), found.next()) {
            return Ok(one.media_session_id);
        }
    }
    Err(gone)
}

/// The recording that `text` means: its id, or that of a live stream as [`resolve`] takes it.
pub(super) async fn resolve_recording(client: &Client, text: &str) -> Result<String, CliError> {
    if RecordingId::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    let sessions: Sessions = client.read(client.get(&["sessions"], &[]).await?)?;
    let recording = pick(&sessions.items, text)?.recording_id.clone();
    recording.ok_or_else(|| CliError::NotRecorded(text.to_owned()))
}

fn pick<'s>(sessions: &'s [Session], text: &str) -> Result<&'s Session, CliError> {
    let by = |is: fn(&Session, &str) -> bool| sessions.iter().filter(|s| is(s, text)).collect::<Vec<_>>();
    let mut found = by(|s, text| s.path() == text);
    if found.is_empty() {
        found = by(|s, text| s.name == text);
    }
    match found[..] {
        [] => Err(CliError::NoSuchStream(text.to_owned())),
        [session] => Ok(session),
        _ => {
            let name = |s: &&Session| format!("{} ({})", s.path(), s.media_session_id);
            let candidates = found.iter().map(name).collect::<Vec<_>>().join(", ");
            Err(CliError::Ambiguous { name: text.to_owned(), candidates })
        }
    }
}

#[derive(Deserialize)]
struct Running {
    items: Vec<Recorded>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    media_session_id: MediaSessionId,
    room_name: String,
    stream_name: String,
}

#[derive(Deserialize)]
struct Sessions {
    items: Vec<Session>,
}

/// What is shown of a session.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    media_session_id: MediaSessionId,
    name: String,
    room_name: String,
    protocol: String,
    remote: String,
    status: String,
    tracks: Vec<Track>,
    bitrate: u64,
    lost: u64,
    created_at: DateTime<Utc>,
    recording_id: Option<String>,
}

#[derive(Deserialize)]
struct Track {
    kind: String,
    codec: String,
    width: Option<u32>,
    height: Option<u32>,
    rate: Option<u32>,
}

impl Session {
    fn path(&self) -> String {
        format!("{}/{}", self.room_name, self.name)
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.path(),
            self.media_session_id.to_string(),
            format!("{} {}", self.protocol, self.remote),
            self.status.to_lowercase(),
            self.track("video"),
            self.track("audio"),
            table::bitrate(self.bitrate),
            self.lost.to_string(),
            table::time(self.created_at),
            self.recording_id.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }

    fn track(&self, kind: &str) -> String {
        let Some(track) = self.tracks.iter().find(|t| t.kind == kind) else { return "-".to_owned() };
        match (track.width, track.height, track.rate) {
            (Some(width), Some(height), _) => format!("{} {width}x{height}", track.codec),
            (_, _, Some(rate)) => format!("{} {rate} Hz", track.codec),
            _ => track.codec.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn session(room: &str, name: &str) -> Session {
        let session = json!({
            "mediaSessionId": MediaSessionId::random(), "sessionId": "x", "name": name, "roomName": room,
            "roomId": room, "protocol": "rtmp", "remote": "10.0.0.1:4000", "status": "PUBLISHING",
            "tracks": [
                {"kind": "video", "codec": "h264", "width": 1280, "height": 720},
                {"kind": "audio", "codec": "aac", "rate": 48000, "channels": 2},
            ],
            "bitrate": 2_500_000, "frames": 1, "lost": 0, "createdAt": "2026-03-01T12:00:00Z",
            "recordingId": null,
        });
        serde_json::from_value(session).expect("a session")
    }

    #[test]
    fn a_stream_is_found_by_its_path_or_its_only_name() {
        let sessions =
            [session("a", "cam"), session("b", "cam"), session("b", "a/cam"), session("b", "desk")];
        let found = |text: &str| {
            pick(&sessions, text).map(|found| sessions.iter().position(|s| std::ptr::eq(s, found)))
        };
        assert_eq!(found("a/cam").expect("the path goes before the name"), Some(0));
        assert_eq!(found("b/a/cam").expect("a path"), Some(2));
        assert_eq!(found("desk").expect("a name"), Some(3));
        assert!(matches!(found("des"), Err(CliError::NoSuchStream(name)) if name == "des"));
        let error = found("cam").expect_err("two of them").to_string();
        assert!(error.contains("a/cam (") && error.contains("b/cam ("), "{error}");
    }

    #[test]
    fn a_row_shows_what_is_known() {
        let mut one = session("court", "cam");
        assert_eq!(
            one.row()[2..8],
            ["rtmp 10.0.0.1:4000", "publishing", "h264 1280x720", "aac 48000 Hz", "2.5 Mbit/s", "0"]
        );
        one.tracks.truncate(1);
        one.tracks[0].width = None;
        assert_eq!(one.row()[4..6], ["h264", "-"]);
    }
}
