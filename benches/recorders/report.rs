//! The table: medians over the rounds, ratios within one round.

use std::{fmt::Write as _, path::Path};

use crate::{
    measure,
    peers::Peer,
    run::{Cell, Plan, Sample},
};

/// A run is doubtful beyond these: the generator could not keep up, or the cores were full.
const MAX_LATE_MS: f64 = 500.0;
const MAX_MACHINE_PERCENT: f64 = 80.0;

const HEADER: &str = "\
| peer | streams | CPU %/stream | with start and finish | server/generator | to nginx-rtmp | to ffmpeg | PSS KiB/stream | threads | syscalls/s/stream | context switches/s/stream | files complete | lost video | lost audio | generator % of a core |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// CPU, cores, kernel and GStreamer, for who reads the absolute figures.
pub fn machine() -> String {
    let model = measure::first_value(Path::new("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (major, minor, micro, _) = gstreamer::version();
    format!(
        "{}, {cores} cores, Linux {}, GStreamer {major}.{minor}.{micro}",
        model.as_deref().unwrap_or(std::env::consts::ARCH),
        kernel.trim(),
    )
}

/// The whole report: machine, table, and a note under it when a row is doubtful.
pub fn markdown(machine: &str, plan: &Plan, cells: &[Cell]) -> String {
    let rounds = cells.iter().map(|cell| cell.round + 1).max().unwrap_or(1);
    let mut text = format!(
        "{machine}; {} s per stream, rounds: {rounds}, input {}\n\n{HEADER}",
        plan.length.as_secs(),
        plan.input.file_name().unwrap_or_default().to_string_lossy(),
    );
    let mut rows: Vec<(u32, Peer)> = Vec::new();
    for cell in cells {
        if !rows.contains(&(cell.streams, cell.peer)) {
            rows.push((cell.streams, cell.peer));
        }
    }
    let mut doubtful = false;
    for (streams, peer) in rows {
        let own: Vec<&Cell> = matching(cells, streams, peer).collect();
        let mark = if own.iter().any(|cell| is_doubtful(&cell.sample)) { " (!)" } else { "" };
        doubtful |= !mark.is_empty();
        let _ =
            writeln!(text, "| {}{mark} | {streams} | {} |", peer.name(), columns(cells, &own).join(" | "));
    }
    if doubtful {
        let _ = writeln!(
            text,
            "\n(!) the generator was late by more than {MAX_LATE_MS} ms on full sockets, \
             or more than {MAX_MACHINE_PERCENT} % of the cores were busy: do not trust this row"
        );
    }
    text
}

/// `own` is the cells of one row, not empty.
fn columns(cells: &[Cell], own: &[&Cell]) -> Vec<String> {
    let value = |pick: fn(&Sample) -> f64, digits: usize| {
        let figures = own.iter().map(|cell| pick(&cell.sample)).collect();
        median(figures).map_or("-".into(), |figure| format!("{figure:.digits$}"))
    };
    let ratio = |to: Peer| {
        median(own.iter().filter_map(|cell| ratio(cells, cell, to)).collect())
            .map_or("-".into(), |figure| format!("{figure:.2}"))
    };
    let syscalls = own.iter().filter_map(|cell| cell.sample.syscalls).collect();
    let sum = |pick: fn(&Sample) -> i64| own.iter().map(|cell| pick(&cell.sample)).sum::<i64>().to_string();
    let complete: u32 = own.iter().map(|cell| cell.sample.complete).sum();
    let files: u32 = own.iter().map(|cell| cell.streams).sum();
    vec![
        value(|sample| sample.cpu_percent, 3),
        value(|sample| sample.cpu_whole_percent, 3),
        value(|sample| sample.server_over_generator, 2),
        ratio(Peer::Nginx),
        ratio(Peer::Ffmpeg),
        value(|sample| sample.pss_kib, 0),
        value(|sample| sample.threads, 0),
        median(syscalls).map_or("-".into(), |count| format!("{count:.0}")),
        value(|sample| sample.context_switches, 0),
        format!("{complete}/{files}"),
        sum(|sample| sample.lost_video),
        sum(|sample| sample.lost_audio),
        value(|sample| sample.generator_percent, 1),
    ]
}

fn matching(cells: &[Cell], streams: u32, peer: Peer) -> impl Iterator<Item = &Cell> {
    cells.iter().filter(move |cell| cell.streams == streams && cell.peer == peer)
}

/// server/generator of `cell` over that of `to` in the same round with as many streams.
fn ratio(cells: &[Cell], cell: &Cell, to: Peer) -> Option<f64> {
    let other = matching(cells, cell.streams, to).find(|other| other.round == cell.round)?;
    let figure = cell.sample.server_over_generator / other.sample.server_over_generator;
    figure.is_finite().then_some(figure)
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        length if length % 2 == 1 => Some(figures[middle]),
        _ => Some((figures[middle - 1] + figures[middle]) / 2.0),
    }
}

fn is_doubtful(sample: &Sample) -> bool {
    sample.stalls > 0 && sample.late_max_ms > MAX_LATE_MS || sample.machine_percent > MAX_MACHINE_PERCENT
}
