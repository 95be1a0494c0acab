//! Lines and tables for people.

use std::fmt::Write as _;

use support::lab::{
    Sample, Trend,
    kills::{Killed, MAX_LOSS_MS, STAGES},
    ops, soak,
};

pub const SAMPLE_HEAD: &str = "    time   RSS MiB  threads  descriptors   parts   video   audio  faults";

pub fn kill_line(number: usize, of: usize, killed: &Killed) -> String {
    let Killed { stage, container, sent_ms, unfinished, files, lost_ms, settled_in, faults } = killed;
    let settled = settled_in.as_secs_f64();
    let mut line = format!(
        "{number:4}/{of} {stage:<10} {container} after {:.2} s: {unfinished} unfinished, {files} files, \
         {lost_ms} ms missing, settled in {settled:.1} s",
        *sent_ms as f64 / 1000.0
    );
    for fault in faults {
        let _ = write!(line, "\n     FAULT {fault}");
    }
    line
}

/// One row for each stage, and their sum.
pub fn kills_table(all: &[Killed]) -> String {
    let mut table = String::from(
        "\n| killed while | kills | files | unfinished | missing, median ms | missing, most ms | settled, most s | faults |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let stages = STAGES.map(|stage| (stage.to_string(), Some(stage)));
    for (name, stage) in stages.into_iter().chain([("all".to_owned(), None)]) {
        let of: Vec<_> =
            all.iter().filter(|killed| stage.is_none_or(|stage| killed.stage == stage)).collect();
        let mut lost: Vec<_> = of.iter().map(|killed| killed.lost_ms).collect();
        lost.sort_unstable();
        let (median, most) = (lost.get(lost.len() / 2).copied(), lost.last().copied());
        let settled = of.iter().map(|killed| killed.settled_in.as_secs_f64()).fold(0.0, f64::max);
        let sum = |number: fn(&Killed) -> usize| of.iter().map(|killed| number(killed)).sum::<usize>();
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {} | {} | {} | {settled:.1} | {} |",
            of.len(),
            sum(|killed| killed.files),
            sum(|killed| killed.unfinished),
            median.unwrap_or(0),
            most.unwrap_or(0),
            sum(|killed| killed.faults.len()),
        );
    }
    let _ = writeln!(table, "\nAt most {MAX_LOSS_MS} ms may be missing.");
    table
}

pub fn sample_line(sample: &Sample, count: &soak::Count) -> String {
    format!(
        "{:6} s {:9.1} {:8} {:12} {:7} {:7} {:7} {:7}",
        sample.at.as_secs(),
        sample.rss_kib as f64 / 1024.0,
        sample.threads,
        sample.descriptors,
        count.parts,
        count.video,
        count.audio,
        count.faults.len()
    )
}

pub fn soak_table(outcome: &soak::Outcome) -> String {
    let soak::Outcome { parts, video, audio, sent, .. } = outcome;
    let mut table =
        format!("\n{} pictures and {} sounds sent; {parts} parts hold {video} and {audio}\n", sent.0, sent.1);
    for fault in &outcome.faults {
        let _ = writeln!(table, "FAULT {fault}");
    }
    let Some(trends) = outcome.trends() else { return table };
    table.push_str("\n| held | first third | last third | highest | |\n|---|---|---|---|---|\n");
    let grown = outcome.grown();
    for (trend, (name, unit)) in trends.iter().zip([("RSS", 1024.0), ("threads", 1.0), ("descriptors", 1.0)])
    {
        let Trend { early, late, highest } = trend;
        let verdict = if grown.contains(&name) { "GROWN" } else { "flat" };
        let what = if unit > 1.0 { format!("{name}, MiB") } else { name.to_owned() };
        let (early, late, highest) = (early / unit, late / unit, highest / unit);
        let _ = writeln!(table, "| {what} | {early:.1} | {late:.1} | {highest:.1} | {verdict} |");
    }
    table
}

pub fn ops_table(outcome: &ops::Outcome) -> String {
    let (seen_ms, pairs) = outcome.seen_ms;
    let mut table = format!(
        "\n{} parts, {} pictures, {} sounds in {} unbroken stretches\n\
         sound against picture: at most {:.1} ms by access units, median {seen_ms:.1} ms by {pairs} flashes and beeps\n",
        outcome.parts, outcome.pictures, outcome.sounds, outcome.stretches, outcome.offset_ms
    );
    for fault in &outcome.faults {
        let _ = writeln!(table, "FAULT {fault}");
    }
    table
}
