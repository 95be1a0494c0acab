//! Lists of recordings, by REST and on the command line: every filter, page by page, against the same rows filtered here.

use serde_json::Value;
use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
use std::{path::Path, process::Command};
use support::daemon::{Daemon, House, text};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
/// More than one page of `--all`.
const ROWS: usize = 1_200;

/// Three rooms, four streams in each, three statuses; seven recordings begin in the same millisecond.
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1199) \
     INSERT INTO recording (id, status, room_name, room_id, stream_name, media_session_id, session_id, protocol, \
     container, started_at_ms, duration_ms, size, lost) \
     SELECT printf('%08x-0000-4000-8000-%012x', i * 2654435761 % 4294967296, i), \
     CASE i % 7 WHEN 0 THEN 'failed' WHEN 1 THEN 'recovered' ELSE 'completed' END, 'room' || (i % 3), \
     'room' || (i % 3), 'cam' || (i % 4), printf('%08x-0000-4000-8000-000000000000', i / 2), 's', 'rtmp', 'mp4', \
     1700000000000 + i / 7 * 1000, 0, 0, '{\"packets\":0,\"frames\":0,\"gaps\":[]}' FROM n";

fn filled() -> (House, Daemon) {
    let house = House::new("", "");
    let mut daemon = house.start(REELD);
    assert!(daemon.terminate().success());
    fill(&house.path("state/catalog.sqlite"));
    let daemon = house.start(REELD);
    (house, daemon)
}

fn fill(catalog: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(catalog);
        let mut catalog = options.connect().await.expect("the catalog");
        let filled = sqlx::query(FILL).execute(&mut catalog).await.expect("rows");
        assert_eq!(filled.rows_affected(), ROWS as u64);
    });
}

/// Every page of the list, put together.
fn pages(daemon: &Daemon, query: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/api/v1/recordings?limit=90{query}{cursor}"));
        let found = page["items"].as_array().expect("items");
        assert!(found.len() == 90 || page["nextCursor"].is_null(), "a short page that is not the last");
        items.extend(found.iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn ids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| text(item, "id")).collect()
}

#[test]
fn every_filter_finds_what_it_should_over_all_its_pages() {
    let (_house, daemon) = filled();
    let all = pages(&daemon, "");
    assert_eq!(all.len(), ROWS);
    let places: Vec<_> = all.iter().map(|r| (r["startedAtMs"].as_i64(), text(r, "id"))).collect();
    assert!(places.is_sorted_by(|a, b| a > b), "newest first, each once");

    type Fits = fn(&Value) -> bool;
    let session = text(&all[600], "mediaSessionId");
    let rooms: [(&str, Fits); 3] =
        [("", |_| true), ("&room=room1", |r| r["roomName"] == "room1"), ("&room=none", |_| false)];
    let streams: [(&str, Fits); 2] = [("", |_| true), ("&stream=cam2", |r| r["streamName"] == "cam2")];
    let statuses: [(&str, Fits); 3] = [
        ("", |_| true),
        ("&status=failed", |r| r["status"] == "failed"),
        ("&status=completed", |r| r["status"] == "completed"),
    ];
    // 1700000000 is 2023-11-14T22:13:20Z.
    let times: [(&str, Fits); 4] = [
        ("", |_| true),
        ("&from=2023-11-14T22:14:00Z", |r| r["startedAtMs"].as_i64() >= Some(1_700_000_040_000)),
        ("&to=2023-11-14T22:14:00Z", |r| r["startedAtMs"].as_i64() < Some(1_700_000_040_000)),
        ("&from=2023-11-14T22:14:00Z&to=2023-11-14T22:15:00Z", |r| {
            (1_700_000_040_000..1_700_000_100_000).contains(&r["startedAtMs"].as_i64().expect("ms"))
        }),
    ];
    for (room, in_room) in rooms {
        for (stream, of_stream) in streams {
            for (status, has_status) in statuses {
                for (time, in_time) in times {
                    let fits = |r: &&Value| in_room(r) && of_stream(r) && has_status(r) && in_time(r);
                    let wanted: Vec<_> = all.iter().filter(fits).cloned().collect();
                    let query = [room, stream, status, time].concat();
                    assert_eq!(ids(&pages(&daemon, &query)), ids(&wanted), "{query}");
                }
            }
        }
    }
    let own: Vec<_> = all.iter().filter(|r| r["mediaSessionId"] == session.as_str()).cloned().collect();
    assert_eq!((own.len(), ids(&pages(&daemon, &format!("&mediaSessionId={session}")))), (2, ids(&own)));
}

#[test]
fn the_command_line_shows_a_page_or_all() {
    let (_house, daemon) = filled();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(REELD);
        command.arg("recordings").args(arguments).args(["--server", &daemon.http().to_string()]);
        let output = command.output().expect("it runs");
        let words = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), words(output.stdout), words(output.stderr))
    };
    let all = pages(&daemon, "");
    let (code, json, _) = run(&["--all", "--json"]);
    let list: Value = serde_json::from_str(&json).expect("one JSON object");
    assert_eq!((code, &list["nextCursor"]), (Some(0), &Value::Null));
    assert!(list["items"].as_array() == Some(&all), "all pages, as the daemon answers them");

    let (code, table, told) = run(&["--all"]);
    assert_eq!((code, table.lines().count(), told.as_str()), (Some(0), ROWS + 1, ""), "one head");
    let (code, table, told) = run(&[]);
    assert_eq!((code, table.lines().count()), (Some(0), 21));
    assert!(told.contains("--all"), "{told}");

    let narrow = [
        "--room",
        "room1",
        "--stream",
        "cam2",
        "--status",
        "failed",
        "--from",
        "2023-11-14T22:14:00Z",
        "--to",
        "2023-11-14T22:16:00Z",
    ];
    let (code, json, _) = run(&[&narrow[..], &["--json", "--limit", "1000"]].concat());
    let found: Value = serde_json::from_str(&json).expect("JSON");
    let wanted = pages(
        &daemon,
        "&room=room1&stream=cam2&status=failed&from=2023-11-14T22:14:00Z&to=2023-11-14T22:16:00Z",
    );
    assert!(!wanted.is_empty() && found["items"].as_array() == Some(&wanted), "{json}");
    assert_eq!(
        (code, run(&["--from", "1h", "--all"])),
        (Some(0), (Some(0), String::new(), "no recordings\n".into()))
    );
    for wrong in [&["--from", "yesterday"][..], &["--all", "--limit", "5"], &["--limit", "1001"]] {
        assert_eq!(run(wrong).0, Some(2), "{wrong:?}");
    }
}
