//! Every example in README.md is run as a reader would run it, in reading order, against a real daemon.
//!
//! Blocks are taken from the file itself: `sh` command by command, `toml` and `properties` by `reeld check`, and what is in
//! [`EXAMPLES`] in a way of its own. A new block of shell is run without a word here; where a command needs something
//! before it, as a stream that is live, [`GIVEN`] says so. A block of which no test knows what to do is a failure.

#[path = "readme/reader.rs"]
mod reader;
#[path = "readme/shape.rs"]
mod shape;
#[path = "readme/text.rs"]
mod text;

use reader::{Given, ROOM, Reader, root};
use serde_json::Value;
use std::{collections::HashSet, fs, time::Instant};
use support::{
    browser::Browser,
    daemon::SOON,
    wait::{reached, wait_for},
};
use text::{Block, blocks};

const REELD: &str = env!("CARGO_BIN_EXE_reeld");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TMP: &str = env!("CARGO_TARGET_TMPDIR");

support::camera_process!();

/// What the reader is to run and this test does not, and why. By the beginning of the command or of the block.
const NOT_RUN: &[(&str, &str)] = &[
    ("scripts/run --demo", "installs with apt and builds; scripts/test runs it"),
    ("scripts/run ", "installs with apt, builds, and goes on for ever"),
    ("cargo build --release", "what is tested is built already"),
    ("sudo useradd ", "needs root"),
    ("sudo systemctl ", "needs root and systemd; scripts/test has the unit file verified"),
    ("journalctl ", "needs the service, and goes on for ever"),
    ("[Service]", "is typed into the editor that systemctl opens"),
];

/// What has to be so before a command, by its beginning.
const GIVEN: &[(&str, Given)] = &[
    ("reeld sessions", Given::Live),
    ("reeld stop court/camera1", Given::Recorded),
    ("reeld start court/camera1", Given::NotRecorded),
    ("curl $B/api/v1/sessions", Given::Live),
    ("curl -X DELETE $B/api/v1/sessions/ID/recording", Given::Recorded),
    ("curl -X DELETE $B/api/v1/sessions/ID", Given::Live),
    ("curl $B/api/v1/sessions/ID/recording", Given::Recorded),
    ("curl -X POST $B/api/v1/sessions/ID/recording/resume", Given::Paused),
    ("curl -X POST $B/api/v1/sessions/ID/recording/", Given::Recorded),
    ("curl -X POST $B/api/v1/sessions/ID/recording", Given::NotRecorded),
    ("curl -X POST $B/api/v1/recordings/RECORDING_ID/switch", Given::TwoStreams),
    ("curl $B/api/v1/recordings/RECORDING_ID", Given::Finished),
    ("curl -OJ \"$B/api/v1/recordings/RECORDING_ID", Given::Finished),
    ("curl -r 0-999999 $B/api/v1/recordings/RECORDING_ID", Given::Finished),
    ("ffplay $B/api/v1/recordings/RECORDING_ID", Given::Finished),
    ("curl -X DELETE $B/api/v1/recordings/RECORDING_ID", Given::Finished),
    ("curl -X PUT $B/api/v1/recordings/RECORDING_ID/lock", Given::Finished),
    ("curl -X DELETE $B/api/v1/sources/SOURCE_ID", Given::Source),
    ("curl -X POST $B/recordings/start", Given::RoomNotRecorded),
    ("curl \"$B/recordings?", Given::Finished),
    ("curl -H \"Range: bytes=0-99\" $B/recordings/NAME", Given::Finished),
    ("curl -X DELETE $B/recordings/NAME", Given::Finished),
    ("curl -X POST $B/rest-api/stream/startRecording", Given::NotRecorded),
    ("curl -X POST $B/rest-api/stream/stopRecording", Given::Recorded),
    ("curl -X POST $B/rest-api/recorder/find_all", Given::Recorded),
    ("curl -X POST $B/rest-api/stream/find", Given::Live),
    ("curl -X POST $B/rest-api/stream/terminate", Given::Live),
];

type Run = fn(&mut Reader, &str) -> Result<(), String>;

/// Blocks that are no commands: language, what is in them, how they are run.
const EXAMPLES: &[(&str, &str, Run)] = &[
    ("sh", "STREAM_NAME=$1", hook),
    ("js", "new RTCPeerConnection()", page_that_publishes),
    ("js", "new WebSocket(", page_that_watches),
    ("json", "\"sha256\"", manifest),
    ("json", "\"recording.completed\"", news),
    ("yaml", "scrape_configs:", scraping),
];

#[test]
fn every_example_in_readme_does_what_it_says() {
    let readme = fs::read_to_string(root("README.md")).expect("README.md");
    let mut reader = Reader::new();
    let mut faults = Vec::new();
    let mut used = HashSet::new();
    for block in blocks(&readme) {
        let began = Instant::now();
        faults.extend(follow(&mut reader, &block, &mut used));
        println!("README.md:{} {}: {:?}", block.line, block.language, began.elapsed());
    }
    let rows = NOT_RUN.iter().map(|(row, _)| row).chain(GIVEN.iter().map(|(row, _)| row));
    let rows = rows.chain(EXAMPLES.iter().map(|(_, row, _)| row));
    faults
        .extend(rows.filter(|row| !used.contains(*row)).map(|row| format!("README has no {row:?} any more")));
    assert!(faults.is_empty(), "\n{}", faults.join("\n\n"));
}

/// Runs a block; what is wrong with it.
fn follow(reader: &mut Reader, block: &Block, used: &mut HashSet<&'static str>) -> Vec<String> {
    let at = |line: usize, fault: String| format!("README.md:{line}: {fault}");
    let example =
        EXAMPLES.iter().find(|(language, mark, _)| block.language == *language && block.text.contains(mark));
    if let Some((_, mark, run)) = example {
        used.insert(*mark);
        let text = reader.here(&block.text);
        return run(reader, &text).err().map(|fault| at(block.line, fault)).into_iter().collect();
    }
    if let Some((begin, _)) = NOT_RUN.iter().find(|(begin, _)| block.text.starts_with(begin)) {
        // A block of shell is left out command by command.
        used.insert(*begin);
        if block.language != "sh" {
            return Vec::new();
        }
    }
    let checked = match block.language.as_str() {
        "sh" => return commands(reader, block, used),
        "toml" => reader.check(&reader.here(&block.text), ""),
        "properties" => reader.check("", &block.text),
        language => Err(format!("no test runs this block of {language:?}: say how in EXAMPLES")),
    };
    checked.err().map(|fault| at(block.line, fault)).into_iter().collect()
}

fn commands(reader: &mut Reader, block: &Block, used: &mut HashSet<&'static str>) -> Vec<String> {
    let mut faults = Vec::new();
    for command in block.commands() {
        let typed = format!("{} ", command.text);
        if let Some((begin, _)) = NOT_RUN.iter().find(|(begin, _)| typed.starts_with(begin)) {
            used.insert(*begin);
            continue;
        }
        // The longest that fits.
        let fits = GIVEN.iter().filter(|(begin, _)| typed.starts_with(begin));
        let given = fits.max_by_key(|(begin, _)| begin.len());
        used.extend(given.map(|(begin, _)| *begin));
        if let Err(fault) = reader.run(&command, given.map(|(_, given)| *given)) {
            faults.push(format!("README.md:{}: {fault}", command.line));
        }
    }
    faults
}

/// A finished file is copied to where it says.
fn hook(reader: &mut Reader, script: &str) -> Result<(), String> {
    let before = fs::read(reader.house.path("hooks/on_record_hook.sh")).map_err(|e| e.to_string())?;
    reader.house.hook(script);
    let recording = reader.newly_finished();
    let copies = reader.house.path("copies");
    let name = format!("camera1-{}", recording["parts"][0]["name"].as_str().expect("a name"));
    let is_copied = reached(SOON, || fs::metadata(copies.join(&name)).is_ok_and(|file| file.len() > 0));
    reader.house.hook(&String::from_utf8_lossy(&before));
    if is_copied { Ok(()) } else { Err(format!("no {name} in {}", copies.display())) }
}

/// It is live and recorded; its last line, a comment, ends it.
fn page_that_publishes(reader: &mut Reader, script: &str) -> Result<(), String> {
    let (_, later) = script.split_once("// later: ").ok_or("how it ends is not told")?;
    let browser = Browser::open();
    browser.open_tab(&format!("http://{}/", reader.daemon.http()));
    browser.run(&format!("{script}\nwindow.example = {{ peer, session }};"));
    if !reader.wait_recorded("witness") {
        return Err("it is not recorded".into());
    }
    browser.run(&format!("const {{ session }} = window.example;\n{later}"));
    let recording = reader.daemon.completed("witness");
    if recording["roomName"] == ROOM { Ok(()) } else { Err(format!("not in room {ROOM}: {recording}")) }
}

/// It tells a change that comes after it has connected.
fn page_that_watches(reader: &mut Reader, script: &str) -> Result<(), String> {
    let browser = Browser::open();
    browser.open_tab(&format!("http://{}/", reader.daemon.http()));
    browser.run(&format!(
        "const told = window.told = [];\n\
         const readTheLists = () => told.push('sync');\n\
         const console = {{ log: (...words) => told.push(words.join(' ').trim()) }};\n{script}"
    ));
    browser.wait("window.told.includes('hello')");
    reader.newly_finished();
    for told in ["recording.started camera1", "recording.completed camera1"] {
        browser.wait(&format!("window.told.includes({told:?})"));
    }
    Ok(())
}

/// Each field that is shown is in the manifest of a recording.
fn manifest(reader: &mut Reader, shown: &str) -> Result<(), String> {
    let shown: Value = serde_json::from_str(shown).map_err(|e| e.to_string())?;
    let recording = reader.finished();
    let file = recording["parts"][0]["file"].as_str().expect("a path");
    let real = wait_for("a manifest with its poster", SOON, || {
        let real: Value = serde_json::from_slice(&fs::read(format!("{file}.json")).ok()?).ok()?;
        real["poster"].is_string().then_some(real)
    });
    shape::has_all(&shown, &real)
}

/// The recording in a webhook's body is that of the API; `tests/webhooks.rs` has the bodies that are sent.
fn news(reader: &mut Reader, shown: &str) -> Result<(), String> {
    let shown: Value = serde_json::from_str(shown).map_err(|e| e.to_string())?;
    shape::has_all(&shown["data"]["recording"], &reader.finished())
}

/// What is to be scraped answers OpenMetrics, with names as README says.
fn scraping(reader: &mut Reader, configuration: &str) -> Result<(), String> {
    let target = reader.daemon.http().to_string();
    if !configuration.contains(&format!("targets: [\"{target}\"]")) {
        return Err(format!("no target {target}: {configuration}"));
    }
    let answer = reader.daemon.request("GET", "/metrics", b"").expect(200);
    let mut names = answer.body.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let is_ours = names.clone().count() > 10 && names.all(|name| name.starts_with("reeld_"));
    if is_ours && answer.body.ends_with("# EOF\n") { Ok(()) } else { Err(answer.body) }
}
