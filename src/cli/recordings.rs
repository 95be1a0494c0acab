//! `reeld recordings`.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    table,
};
use crate::control::Status;
use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, builder::PossibleValuesParser};
use serde::Deserialize;
use serde_json::Value;

const EXAMPLES: &str = "\
Examples:
  reeld recordings
  reeld recordings --room court --status failed
  reeld recordings --from 2026-03-01 --to 2026-03-02   of one day, by this machine's clock
  reeld recordings --from 2h                           of the last two hours
  reeld recordings --room court --all --json | jq -r '.items[].parts[].file'";

/// Recordings that `--all` asks for at a time.
const PAGE: u32 = 500;

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
    /// Only those that started then or later: 2026-03-01, "2026-03-01 12:00", an RFC 3339 time, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub from: Option<DateTime<Utc>>,
    /// Only those that started before then
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub to: Option<DateTime<Utc>>,
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Show all there are
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

pub(super) async fn run(client: &Client, args: &RecordingsArgs) -> Result<(), CliError> {
    if args.all {
        return run_all(client, args).await;
    }
    let answer = read_page(client, args, args.limit, None).await?;
    if args.connect.json {
        return print_json(&answer);
    }
    let page: Recordings = client.read(answer)?;
    if page.items.is_empty() {
        eprintln!("no recordings");
        return Ok(());
    }
    print(&table(&page.items))?;
    if page.next_cursor.is_some() {
        eprintln!(
            "there are more; raise --limit, take --all, or narrow with --room, --stream, --status, --from or --to"
        );
    }
    Ok(())
}

/// Page by page, so that a list of any length takes little memory; what is printed is one list.
async fn run_all(client: &Client, args: &RecordingsArgs) -> Result<(), CliError> {
    let (mut cursor, mut shown) = (None::<String>, 0);
    loop {
        let answer = read_page(client, args, PAGE, cursor.as_deref()).await?;
        cursor = answer["nextCursor"].as_str().map(str::to_owned);
        if args.connect.json {
            let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
            print(&json_piece(items, shown, cursor.is_none()))?;
            shown += items.len();
        } else {
            let page: Recordings = client.read(answer)?;
            let lines = table(&page.items);
            let head = if shown == 0 { 0 } else { lines.find('\n').map_or(0, |end| end + 1) };
            if !page.items.is_empty() {
                print(&lines[head..])?;
            }
            shown += page.items.len();
        }
        if cursor.is_none() {
            break;
        }
    }
    if shown == 0 && !args.connect.json {
        eprintln!("no recordings");
    }
    Ok(())
}

async fn read_page(
    client: &Client,
    args: &RecordingsArgs,
    limit: u32,
    cursor: Option<&str>,
) -> Result<Value, CliError> {
    let time = |at: Option<DateTime<Utc>>| at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let (from, to, limit) = (time(args.from), time(args.to), limit.to_string());
    let filters = [
        ("room", args.room.as_deref()),
        ("stream", args.stream.as_deref()),
        ("status", args.status.as_deref()),
        ("from", from.as_deref()),
        ("to", to.as_deref()),
        ("limit", Some(&limit)),
        ("cursor", cursor),
    ];
    let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    client.get(&["recordings"], &query).await
}

/// A page of the one list that `--all --json` prints, as the daemon would answer it: `shown` came before.
fn json_piece(items: &[Value], shown: usize, last: bool) -> String {
    let mut text = String::new();
    if shown == 0 {
        text.push_str("{\n\"items\": [\n");
    }
    for (n, item) in items.iter().enumerate() {
        text.push_str(if shown + n == 0 { "" } else { ",\n" });
        text.push_str(&format!("{item:#}"));
    }
    if last {
        text.push_str("\n],\n\"nextCursor\": null\n}\n");
    }
    text
}

fn table(items: &[Recording]) -> String {
    let head = ["STREAM", "RECORDING ID", "STATUS", "STARTED", "DURATION", "SIZE", "FILE"];
    table::table(&head, items.iter().map(Recording::row))
}

/// A time as people write it; without a zone it is this machine's.
fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        let time = TimeDelta::from_std(ago).ok().and_then(|ago| Utc::now().checked_sub_signed(ago));
        return time.ok_or_else(|| "that is too long ago".to_owned());
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|date| date.and_time(NaiveTime::MIN));
    let written = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let mut times = written.iter().filter_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let local = date.ok().or_else(|| times.next());
    let local = local
        .ok_or("write 2026-03-01, \"2026-03-01 12:00\", 2026-03-01T12:00:00Z, or 2h for two hours ago")?;
    // An hour that the clock shows twice is meant the first time.
    let time = local.and_local_timezone(Local).earliest();
    time.map(|time| time.to_utc()).ok_or_else(|| "the clock leaves that time out here".to_owned())
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
    #[serde(default)]
    locked: bool,
    #[serde(default)]
    health: Vec<Health>,
}

/// One trouble of a recording.
#[derive(Deserialize)]
struct Health {
    reason: String,
    until: Option<DateTime<Utc>>,
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
            self.state(),
            table::time(self.started_at),
            table::duration(self.duration_ms),
            table::size(self.size),
            self.files(),
        ]
    }

    /// And what is wrong with it now, or was at its end, and whether it is locked.
    fn state(&self) -> String {
        let holding = self.health.iter().filter(|h| h.until.is_none()).map(|h| h.reason.as_str());
        let holding = holding.collect::<Vec<_>>().join(", ");
        let locked = if self.locked { ", locked" } else { "" };
        let holding = if holding.is_empty() { holding } else { format!(" ({holding})") };
        format!("{}{holding}{locked}", self.status)
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
        assert_eq!(one[2], "completed");
        let two = recording(json!([{"file": "/r/a_1.mp4"}, {"file": "/r/a_2.mp4"}]), json!(null));
        assert_eq!(two.files(), "/r/a_1.mp4 (+1)");
        assert_eq!(recording(json!([]), json!("the disk is full")).files(), "the disk is full");
        assert_eq!(recording(json!([]), json!(null)).files(), "-");
    }

    #[test]
    fn what_is_wrong_stands_beside_the_status() {
        let recording = json!({
            "id": "r", "status": "recording", "roomName": "court", "streamName": "cam", "parts": [], "error": null,
            "startedAt": "2026-03-01T12:00:00Z", "durationMs": 0, "size": 0, "health": [
                {"reason": "frozen", "from": "2026-03-01T12:00:10Z", "until": "2026-03-01T12:00:40Z"},
                {"reason": "black", "from": "2026-03-01T12:00:40Z"},
                {"reason": "silent", "from": "2026-03-01T12:00:50Z"},
            ],
        });
        let recording: Recording = serde_json::from_value(recording).expect("a recording");
        assert_eq!(recording.row()[2], "recording (black, silent)");
    }

    #[test]
    fn times_are_taken_as_people_write_them() {
        let local = |text: &str| {
            let naive = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").expect("a time");
            Ok(naive.and_local_timezone(Local).earliest().expect("a time that is").to_utc())
        };
        assert_eq!(parse_time("2026-03-01"), local("2026-03-01 00:00:00"));
        for text in ["2026-03-01 12:30", "2026-03-01 12:30:00", "2026-03-01T12:30", "2026-03-01T12:30:00"] {
            assert_eq!(parse_time(text), local("2026-03-01 12:30:00"), "{text}");
        }
        let zoned = parse_time("2026-03-01T12:30:00+01:00").expect("a time");
        assert_eq!(zoned.timestamp(), 1_772_364_600);
        let then = parse_time("2h").expect("a time");
        let ago = Utc::now() - then;
        assert!((7_200..7_260).contains(&ago.num_seconds()), "{ago}");
        for text in ["", "yesterday", "2026-13-01", "2026-03-01 25:00", "999999999999y"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_pages_are_printed_as_one_list() {
        let page = |ids: &[u32]| ids.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>();
        let text = [
            json_piece(&page(&[1, 2]), 0, false),
            json_piece(&page(&[3]), 2, false),
            json_piece(&page(&[]), 3, true),
        ];
        let list: Value = serde_json::from_str(&text.concat()).expect("JSON");
        assert_eq!(list, json!({"items": [{"id": 1}, {"id": 2}, {"id": 3}], "nextCursor": null}));
        let empty: Value = serde_json::from_str(&json_piece(&[], 0, true)).expect("JSON");
        assert_eq!(empty, json!({"items": [], "nextCursor": null}));
    }
}
