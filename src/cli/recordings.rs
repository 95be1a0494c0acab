//! `reeld recordings`.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    table,
};
use crate::control::Status;
use chrono::{DateTime, Utc};
use clap::{Args, builder::PossibleValuesParser};
use serde::Deserialize;

const EXAMPLES: &str = "\
Examples:
  reeld recordings
  reeld recordings --room court --status failed
  reeld recordings --limit 1 --json | jq -r '.items[0].parts[].file'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RecordingsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Only those of this room
    #[arg(long, value_name = "NAME")]
    pub room: Option<String>,
    /// Only those of streams with this name
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// Only those in this state
    #[arg(long, value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    pub status: Option<String>,
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

pub(super) async fn run(client: &Client, args: &RecordingsArgs) -> Result<(), CliError> {
    let limit = args.limit.to_string();
    let filters = [
        ("room", args.room.as_deref()),
        ("stream", args.stream.as_deref()),
        ("status", args.status.as_deref()),
        ("limit", Some(&limit)),
    ];
    let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = client.get(&["recordings"], &query).await?;
    if args.connect.json {
        return print_json(&answer);
    }
    let page: Recordings = client.read(answer)?;
    if page.items.is_empty() {
        eprintln!("no recordings");
        return Ok(());
    }
    let head = ["STREAM", "RECORDING ID", "STATUS", "STARTED", "DURATION", "SIZE", "FILE"];
    print(&table::table(&head, page.items.iter().map(Recording::row)))?;
    if page.next_cursor.is_some() {
        eprintln!("there are more; raise --limit, or narrow with --room, --stream or --status");
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recordings {
    items: Vec<Recording>,
    next_cursor: Option<String>,
}

/// What is shown of a recording.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recording {
    pub(super) id: String,
    pub(super) status: String,
    room_name: String,
    stream_name: String,
    started_at: DateTime<Utc>,
    duration_ms: u64,
    size: u64,
    pub(super) parts: Vec<Part>,
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Part {
    pub(super) file: String,
}

impl Recording {
    fn row(&self) -> Vec<String> {
        vec![
            format!("{}/{}", self.room_name, self.stream_name),
            self.id.clone(),
            self.status.clone(),
            table::time(self.started_at),
            table::duration(self.duration_ms),
            table::size(self.size),
            self.files(),
        ]
    }

    /// The first file and how many more; without any, why.
    fn files(&self) -> String {
        match (&self.parts[..], &self.error) {
            ([part], _) => part.file.clone(),
            ([part, more @ ..], _) => format!("{} (+{})", part.file, more.len()),
            ([], Some(error)) => error.clone(),
            ([], None) => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_names_the_first_file_or_the_error() {
        let recording = |parts: serde_json::Value, error: serde_json::Value| -> Recording {
            let recording = json!({
                "id": "r", "status": "completed", "roomName": "court", "streamName": "cam", "container": "mp4",
                "startedAt": "2026-03-01T12:00:00Z", "durationMs": 3_723_000, "size": 12_900_000,
                "parts": parts, "error": error,
            });
            serde_json::from_value(recording).expect("a recording")
        };
        let one = recording(json!([{"file": "/r/a.mp4"}]), json!(null)).row();
        assert_eq!(
            (&one[0][..], &one[4][..], &one[5][..], &one[6][..]),
            ("court/cam", "1:02:03", "12.3 MiB", "/r/a.mp4")
        );
        let two = recording(json!([{"file": "/r/a_1.mp4"}, {"file": "/r/a_2.mp4"}]), json!(null));
        assert_eq!(two.files(), "/r/a_1.mp4 (+1)");
        assert_eq!(recording(json!([]), json!("the disk is full")).files(), "the disk is full");
        assert_eq!(recording(json!([]), json!(null)).files(), "-");
    }
}
