//! `reeld verify`.

use super::client::{CliError, print};
use crate::{
    config::{self, DaemonConfig},
    control::verify::{self, Order, Progress, Report, Scope, Summary},
};
use clap::Args;
use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const EXAMPLES: &str = "\
Examples:
  reeld verify                             every file in the catalog of the configuration
  reeld verify --config /etc/reeld/reeld.toml --no-decode
                                           only presence, size and SHA-256: as fast as the disk reads
  reeld verify /mnt/archive/2026           every file that has a manifest in a folder; needs no configuration
  reeld verify --json | jq -r 'select(.faults != [] and .file) | .file'
                                           the faulty files alone

Nothing is changed, and a daemon may be recording meanwhile: what it is still writing is no fault.
Without DIR, what lies in the records folder and is not in the catalog is told too.
Decoding does not find damage that still is valid media (in HEVC, VP8 and VP9 most of it is); the SHA-256 does.
A file whose manifest tells of lost frames may decode with visible errors without a fault.

Exit codes: 0 all is good, 1 there are faults, 2 it could not be checked (no configuration, no catalog, no folder, wrong
usage), or was interrupted before a fault was found.";

/// How often the progress line is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const MAX_JOBS: u16 = 256;
/// More by themselves would only wait for the disk.
const DEFAULT_MAX_JOBS: usize = 16;
const COULD_NOT_CHECK: u8 = 2;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// Check the files of this folder by their manifests, without configuration and catalog
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Print one JSON object for each file, also the good ones, and one for the summary, a line each
    #[arg(long)]
    pub json: bool,
    /// Check presence, size and SHA-256 only
    #[arg(long)]
    pub no_decode: bool,
    /// How many files to check at the same time [default: one for each core, at most 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_JOBS)))]
    pub jobs: Option<u16>,
}

/// Checks, and prints what it finds as it finds it: results to standard output; a progress line, when that is a
/// terminal, and why it could not check to standard error. Ctrl-C ends it with a summary, a second one at once.
pub async fn run(args: VerifyArgs, config: Option<&Path>) -> ExitCode {
    let begun = Instant::now();
    let order = match order(&args, config) {
        Ok(order) => order,
        Err(text) => return could_not(&text),
    };
    // An archive that is sorted into folders must not pass for one that was checked.
    let empty_is_odd = args.folder.is_some();
    let progress = Arc::new(Progress::default());
    let screen = Arc::new(Screen { json: args.json, line: Mutex::new(io::stderr().is_terminal()) });

    let cancel = progress.clone();
    let ctrl_c = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancelled.store(true, Ordering::Relaxed);
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(COULD_NOT_CHECK));
        }
    });
    let drawn = draw(screen.clone(), progress.clone(), begun);
    let (telling, counted) = (screen.clone(), progress.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let closed = AtomicBool::new(false);
        verify::run(&order, &counted, &|report| {
            // Nobody reads any more (`| head`): the exit code is still wanted.
            if !closed.load(Ordering::Relaxed) && telling.tell(&report).is_err() {
                closed.store(true, Ordering::Relaxed);
            }
        })
    });
    let checked = checked.await;
    ctrl_c.abort();
    drawn.stop();
    let summary = match checked {
        Ok(Ok(summary)) => summary,
        Ok(Err(e)) => return could_not(&e),
        Err(e) => return could_not(&e),
    };
    if let Err(e) = screen.end(&summary, &progress, begun.elapsed()) {
        return could_not(&e);
    }
    match summary {
        Summary { faulty: 1.., .. } => ExitCode::FAILURE,
        Summary { interrupted: true, .. } => ExitCode::from(COULD_NOT_CHECK),
        Summary { files: 0, .. } if empty_is_odd => could_not(
            &"no recorded file is in that folder; folders in it are not looked into: give each of them",
        ),
        _ => ExitCode::SUCCESS,
    }
}

fn could_not(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("reeld: {error}");
    ExitCode::from(COULD_NOT_CHECK)
}

fn order(args: &VerifyArgs, config: Option<&Path>) -> Result<Order, String> {
    let scope = match &args.folder {
        Some(folder) => Scope::Folder(folder.clone()),
        None => {
            let places = config::CONFIG_PLACES.join(" and ");
            let none =
                || format!("no configuration: {places} do not exist; give --config FILE, or a DIR to check");
            let file = config::find(config).ok_or_else(none)?;
            let lines = |problems: Vec<config::Problem>| {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            };
            let (config, _) = DaemonConfig::load(&file)
                .map_err(|problems| format!("the configuration has errors:\n{}", lines(problems)))?;
            let DaemonConfig { catalog_file, paths, .. } = config;
            Scope::Catalog { file: catalog_file, records: paths.records, state: paths.state }
        }
    };
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get).min(DEFAULT_MAX_JOBS);
    let jobs = args.jobs.map_or_else(cores, usize::from);
    Ok(Order { scope, decode: !args.no_decode, jobs: NonZeroUsize::new(jobs).unwrap_or(NonZeroUsize::MIN) })
}

/// Where results and the progress line go.
struct Screen {
    json: bool,
    /// Whether there is a progress line; held while something is written.
    line: Mutex<bool>,
}

impl Screen {
    fn tell(&self, report: &Report) -> Result<(), CliError> {
        if self.json {
            return self.print(&format!("{}\n", json(report)));
        }
        let file = report.file.display();
        let lines: String = report.faults.iter().map(|fault| format!("{file}: {fault}\n")).collect();
        if lines.is_empty() { Ok(()) } else { self.print(&lines) }
    }

    fn end(&self, summary: &Summary, progress: &Progress, took: Duration) -> Result<(), CliError> {
        if self.json {
            let mut object = serde_json::to_value(summary).unwrap_or_default();
            object["durationMs"] = (took.as_millis() as u64).into();
            return self.print(&format!("{}\n", serde_json::json!({ "summary": object })));
        }
        self.print(&summary_text(summary, progress.total_files.load(Ordering::Relaxed), took))
    }

    fn print(&self, text: &str) -> Result<(), CliError> {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if *line {
            erase();
        }
        print(text)
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string(report).unwrap_or_else(|_| {
        // A path that is not UTF-8 has no JSON.
        let file = report.file.to_string_lossy();
        serde_json::json!({ "file": file, "faults": report.faults }).to_string()
    })
}

fn summary_text(summary: &Summary, all: u64, took: Duration) -> String {
    let Summary { files, bytes, remote, faulty, interrupted } = *summary;
    let checked = if interrupted { format!("interrupted: {files} of {all}") } else { files.to_string() };
    let plural = if files == 1 && !interrupted { "" } else { "s" };
    let found = match faulty {
        0 => "no faults".into(),
        1 => "1 file with faults".into(),
        n => format!("{n} files with faults"),
    };
    let away = match remote {
        0 => String::new(),
        1 => "; 1 file is in the object store only".into(),
        n => format!("; {n} files are in the object store only"),
    };
    format!("{checked} file{plural} checked, {} in {:.1} s: {found}{away}\n", size(bytes), took.as_secs_f64())
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().si().to_string()
}

/// The thread that draws the progress line.
struct Drawing(Option<(std::sync::mpsc::Sender<()>, thread::JoinHandle<()>)>);

impl Drawing {
    fn stop(self) {
        if let Some((stop, thread)) = self.0 {
            drop(stop);
            // It ends at once, and a panic of it concerns nobody.
            let _ = thread.join();
        }
    }
}

fn draw(screen: Arc<Screen>, progress: Arc<Progress>, begun: Instant) -> Drawing {
    if !*screen.line.lock().unwrap_or_else(PoisonError::into_inner) {
        return Drawing(None);
    }
    let (stop, stopped) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        while stopped.recv_timeout(DRAW_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
            let text = progress_text(
                (load(&progress.files), load(&progress.total_files)),
                (load(&progress.work), load(&progress.total_work)),
                begun.elapsed(),
            );
            let _line = screen.line.lock().unwrap_or_else(PoisonError::into_inner);
            erase();
            eprint!("{text}");
            let _ = io::stderr().flush();
        }
        *screen.line.lock().unwrap_or_else(PoisonError::into_inner) = false;
        erase();
    });
    Drawing(Some((stop, thread)))
}

/// Back to an empty line.
fn erase() {
    eprint!("\r\x1b[K");
}

fn progress_text(files: (u64, u64), work: (u64, u64), took: Duration) -> String {
    const CELLS: u64 = 20;
    let (done, all) = (work.0.min(work.1), work.1.max(1));
    let filled = (u128::from(done) * u128::from(CELLS) / u128::from(all)) as usize;
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(CELLS as usize - filled));
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    let left = if done == 0 {
        String::new()
    } else {
        let seconds = ((all - done) as f64 / rate.max(1.0)) as u64;
        format!(", {} left", humantime::format_duration(Duration::from_secs(seconds)))
    };
    format!("[{bar}] {} of {} files, {} at {}/s{left}", files.0, files.1, size(done), size(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_line_says_how_far_it_is() {
        let at = |work, s| progress_text((1, 4), work, Duration::from_secs(s));
        let line = at((25_000_000, 100_000_000), 5);
        assert_eq!(line, "[#####---------------] 1 of 4 files, 25.0 MB at 5.0 MB/s, 15s left");
        assert!(at((0, 0), 0).starts_with("[--------------------] 1 of 4 files, 0 B"));
        assert!(at((7, 5), 1).starts_with("[####################]"));
    }

    #[test]
    fn the_summary_says_what_was_found() {
        let summary = |files, faulty, interrupted| {
            let summary = Summary { files, bytes: 1_500_000, remote: 0, faulty, interrupted };
            summary_text(&summary, 9, Duration::from_millis(2_340))
        };
        assert_eq!(summary(3, 0, false), "3 files checked, 1.5 MB in 2.3 s: no faults\n");
        assert_eq!(summary(1, 1, false), "1 file checked, 1.5 MB in 2.3 s: 1 file with faults\n");
        assert_eq!(
            summary(1, 2, true),
            "interrupted: 1 of 9 files checked, 1.5 MB in 2.3 s: 2 files with faults\n"
        );
    }
}
