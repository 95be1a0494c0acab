//! Whether the catalog is what is on the disk, and each hook has run.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    daemon::{Daemon, House, text},
    wait::reached,
};

use super::Units;

const PAGE: usize = 100;
/// Recordings that may be under way at once, and more.
const NEWEST: usize = 25;
const FINAL: [&str; 3] = ["completed", "recovered", "failed"];
const MEDIA: [&str; 4] = ["mp4", "webm", "mkv", "ts"];

/// All recordings of the catalog, page by page, newest first.
pub fn recordings(daemon: &Daemon) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/api/v1/recordings?limit={PAGE}{cursor}"));
        all.extend(page["items"].as_array().expect("items").iter().cloned());
        let Some(next) = page["nextCursor"].as_str() else { return all };
        cursor = format!("&cursor={next}");
    }
}

/// The files of a recording's parts, in order.
pub fn part_files(recording: &Value) -> Vec<PathBuf> {
    let parts = recording["parts"].as_array().expect("parts");
    parts.iter().map(|part| text(part, "file").into()).collect()
}

/// Decodes the file to its end with ffmpeg; what it complains of, if anything.
pub fn decode_faults(file: &Path) -> Option<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-xerror", "-i"]).arg(file);
    command.args(["-fps_mode", "passthrough", "-map", "0", "-f", "framecrc", "-y", "/dev/null"]);
    let output = command.output().expect("apt-get install ffmpeg");
    let said = String::from_utf8_lossy(&output.stderr);
    let fine = output.status.success() && said.trim().is_empty();
    (!fine).then(|| format!("{}: {}: {}", file.display(), output.status, said.trim()))
}

/// Compares catalog and disk again and again. What a file holds is looked at once, and a fault that stays is told once.
#[derive(Debug, Default)]
pub struct Auditor {
    checked: HashSet<PathBuf>,
    told: HashSet<String>,
    /// Recordings that will not end any more.
    stuck: HashSet<String>,
}

impl Auditor {
    /// Waits until none of the newest recordings is under way and each of their parts' hooks has run; false after `limit`.
    pub fn settle(&self, house: &House, daemon: &Daemon, limit: Duration) -> bool {
        reached(limit, || {
            let newest = daemon.get(&format!("/api/v1/recordings?limit={NEWEST}"));
            let newest = newest["items"].as_array().expect("items");
            let is_final = |r: &Value| FINAL.contains(&r["status"].as_str().unwrap_or_default());
            let called: HashSet<_> = house.hook_calls().into_iter().map(|call| call.file).collect();
            let is_done = |r: &&Value| is_final(r) && part_files(r).iter().all(|file| called.contains(file));
            newest.iter().all(|r| is_done(&r) || self.stuck.contains(&text(r, "id")))
        })
    }

    /// What is wrong and was not told before. Call it when nothing is being recorded.
    pub fn faults(&mut self, house: &House, daemon: &Daemon) -> Vec<String> {
        let mut faults = Vec::new();
        let all = recordings(daemon);
        let called: HashSet<_> = house.hook_calls().into_iter().map(|call| call.file).collect();
        let mut known = HashSet::new();
        for recording in &all {
            if !FINAL.contains(&recording["status"].as_str().unwrap_or_default()) {
                self.stuck.insert(text(recording, "id"));
                faults.push(format!("{} is still {}", recording["streamName"], recording["status"]));
            }
            for part in recording["parts"].as_array().expect("parts") {
                let file = PathBuf::from(text(part, "file"));
                if !called.contains(&file) {
                    self.stuck.insert(text(recording, "id"));
                    faults.push(format!("{}: its hook was lost", file.display()));
                }
                if !known.insert(file.clone()) {
                    faults.push(format!("{}: twice in the catalog", file.display()));
                }
                if let Err(fault) = part_is_as_told(recording, part, &file) {
                    faults.push(format!("{}: {fault}", file.display()));
                }
            }
        }
        faults.extend(strangers(house, &known));
        faults.extend(self.contents(&all));
        faults.retain(|fault| self.told.insert(fault.clone()));
        faults
    }

    /// Looks into the files that were not looked into before: checksums, and whether they decode.
    fn contents(&mut self, recordings: &[Value]) -> Vec<String> {
        let mut faults = Vec::new();
        let parts = recordings.iter().flat_map(|r| r["parts"].as_array().expect("parts"));
        let new: Vec<_> = parts.filter(|part| self.checked.insert(text(part, "file").into())).collect();
        let files: Vec<_> = new.iter().map(|part| PathBuf::from(text(part, "file"))).collect();
        let sums = sums(&files);
        for (part, file) in new.iter().zip(&files) {
            if sums.get(file) != Some(&text(part, "sha256")) {
                faults.push(format!("{}: its SHA-256 is another", file.display()));
            }
            faults.extend(decode_faults(file));
        }
        faults
    }
}

fn part_is_as_told(recording: &Value, part: &Value, file: &Path) -> Result<(), String> {
    let size = fs::metadata(file).map_err(|e| e.to_string())?.len();
    if part["size"].as_u64() != Some(size) {
        return Err(format!("{size} bytes, {} in the catalog", part["size"]));
    }
    let manifest = fs::read(format!("{}.json", file.display())).map_err(|e| format!("manifest: {e}"))?;
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|e| format!("manifest: {e}"))?;
    for key in ["number", "file", "name", "size", "sha256", "durationMs", "startedAt"] {
        if manifest[key] != part[key] {
            return Err(format!("{key} is {} in the manifest, {} in the catalog", manifest[key], part[key]));
        }
    }
    let (told, wanted) = (&manifest["recording"]["id"], &recording["id"]);
    if told == wanted { Ok(()) } else { Err(format!("of recording {told} in its manifest, {wanted} here")) }
}

/// Files in the records folder that belong to none of the known ones.
fn strangers(house: &House, known: &HashSet<PathBuf>) -> Vec<String> {
    let mut strangers = Vec::new();
    for file in house.records("") {
        let real = fs::canonicalize(&file).unwrap_or(file);
        let extension = real.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let is_ours = match extension {
            // A poster is made while others are recorded; `.temp` is its name, and then the manifest's, until it is whole.
            "json" | "jpg" | "temp" => known.contains(&real.with_extension("")),
            other if MEDIA.contains(&other) => known.contains(&real),
            "part" => holds_nothing(&real),
            _ => false,
        };
        if !is_ours {
            strangers.push(format!("{}: no recording of the catalog has it", real.display()));
        }
    }
    strangers
}

/// A header without media is not thrown away, and nothing can be made of it. An empty file is.
pub fn holds_nothing(part: &Path) -> bool {
    let is_empty = fs::metadata(part).is_ok_and(|meta| meta.len() == 0);
    !is_empty && Units::read(part).map_or(true, |units| units == Units::default())
}

/// SHA-256 of each file that can be read.
fn sums(files: &[PathBuf]) -> HashMap<PathBuf, String> {
    if files.is_empty() {
        return HashMap::new();
    }
    let output = Command::new("sha256sum").arg("-b").args(files).output().expect("coreutils");
    let text = String::from_utf8_lossy(&output.stdout);
    let sum = |line: &str| line.split_once(" *").map(|(sum, file)| (file.into(), sum.to_owned()));
    text.lines().filter_map(sum).collect()
}
