//! What recording one live RTMP stream costs, beside other recorders on the same machine in the same run.
//!
//! `scripts/bench` (or `cargo bench --bench recorders -- -n 50 -t 30`) starts each peer in turn, pushes N equal
//! streams into it from one load generator in a process of its own, and accounts the peer's whole process tree.
//! CPU figures of different machines do not compare, so the table gives ratios: to the generator's CPU in the
//! same window (the same work in every run, so a probe of how fast the machine was) and to nginx-rtmp and ffmpeg.
//!
//! Everything stays on 127.0.0.1; what is started here is ended here, by process id.

mod files;
mod floor;
mod load;
mod measure;
mod peers;
mod process;
mod report;
mod run;
mod whip;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, value_parser};

use peers::{Peer, Tools};
use run::{Cell, Plan};

/// One second of the test stream, in bytes on the wire and about as many on disk.
const STREAM_BYTES_PER_SECOND: u64 = 290_000;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "CPU, memory and system calls per recorded RTMP stream, beside other recorders"
)]
struct Cli {
    /// Streams at once, one table row each (1 to 500)
    #[arg(short = 'n', value_name = "N,..", value_delimiter = ',', default_values_t = [10, 50, 100],
          value_parser = value_parser!(u32).range(1..=500))]
    streams: Vec<u32>,
    /// Seconds each stream lasts (8 to 600)
    #[arg(short = 't', value_name = "SECONDS", default_value_t = 20, value_parser = value_parser!(u64).range(8..=600))]
    seconds: u64,
    /// Repetitions, the peers in turn; the table shows medians (1 to 20)
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Who takes part; a peer that is not installed is skipped and named
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Reeld, Peer::Nginx, Peer::Ffmpeg, Peer::Floor])]
    peers: Vec<Peer>,
    /// The daemon to measure; by default the release build beside this program
    #[arg(long, value_name = "PATH")]
    reeld: Option<PathBuf>,
    /// FLV file to publish (H.264 and AAC); by default one is made with ffmpeg and kept in the target folder
    #[arg(long, value_name = "FLV")]
    input: Option<PathBuf>,
    /// Where recordings are written and deleted again; by default the temporary folder
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Passed by `cargo bench`; without it (`cargo test --benches`) nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The processes this program starts as copies of itself.
#[derive(Subcommand)]
enum Part {
    /// Push the streams
    #[command(hide = true)]
    Load(load::Options),
    /// Push the streams by WebRTC
    #[command(hide = true)]
    WhipLoad(whip::Options),
    /// Receive and write bytes, no protocol: what any recorder has to pay
    #[command(hide = true)]
    Floor(floor::Options),
    /// Become another program that ends when the benchmark does
    #[command(hide = true)]
    Exec(process::ExecOptions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.part {
        Some(Part::Load(options)) => load::run(options).map(|()| true),
        Some(Part::WhipLoad(options)) => whip::run(options).map(|()| true),
        Some(Part::Floor(options)) => floor::run(options).map(|()| true),
        Some(Part::Exec(options)) => process::exec(options).map(|()| true),
        None if !cli.bench => {
            println!("nothing measured: run scripts/bench, or cargo bench --bench recorders");
            Ok(true)
        }
        None => compare(&cli),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every cell and prints the table; false when a run failed or reeld lost a frame.
fn compare(cli: &Cli) -> Result<bool> {
    process::raise_open_files()?;
    let target = target_dir()?;
    let reeld = cli.reeld.clone().unwrap_or_else(|| target.join("release/reeld"));
    let tools = Tools { reeld, pipelines: Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines") };
    let work = cli.work.clone().unwrap_or_else(std::env::temp_dir);
    let peers = installed(&cli.peers, &tools);
    if peers.is_empty() {
        bail!("none of the chosen peers is installed");
    }
    check_free_space(&work, cli)?;
    let input = match &cli.input {
        Some(input) => input.clone(),
        None => files::make_input(&target.join("bench-input"))?,
    };
    let plan = Plan { tools, work, input, length: Duration::from_secs(cli.seconds) };
    let mut cells: Vec<Cell> = Vec::new();
    let mut sound = true;
    for round in 0..cli.rounds {
        for (&streams, &peer) in cli.streams.iter().flat_map(|n| peers.iter().map(move |peer| (n, peer))) {
            eprintln!("round {}/{}: {streams} streams into {}", round + 1, cli.rounds, peer.name());
            match run::measure(&plan, peer, streams) {
                Ok(sample) => {
                    sound &= !peer.is_reeld() || sample.complete == streams;
                    cells.push(Cell { round, peer, streams, sample });
                }
                Err(error) => {
                    eprintln!("{} with {streams} streams failed: {error:#}", peer.name());
                    sound = false;
                }
            }
        }
    }
    print!("{}", report::markdown(&report::machine(), &plan, &cells));
    Ok(sound)
}

fn installed(chosen: &[Peer], tools: &Tools) -> Vec<Peer> {
    let present = |peer: &&Peer| match peer.missing(tools) {
        None => true,
        Some(what) => {
            eprintln!("{} skipped: {what}", peer.name());
            false
        }
    };
    chosen.iter().filter(present).copied().collect()
}

fn check_free_space(work: &Path, cli: &Cli) -> Result<()> {
    let disk = rustix::fs::statvfs(work).with_context(|| format!("no folder {}", work.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let streams = cli.streams.iter().copied().max().unwrap_or(0);
    let wanted = u64::from(streams) * (cli.seconds + 1) * STREAM_BYTES_PER_SECOND;
    if free < wanted {
        let (wanted, free) = (wanted >> 20, free >> 20);
        bail!("{streams} streams need {wanted} MiB in {}, {free} MiB are free", work.display());
    }
    Ok(())
}

/// This program is TARGET/release/deps/recorders-HASH.
fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let target = program.ancestors().nth(3).context("this program lies in no target folder")?;
    Ok(target.to_owned())
}
