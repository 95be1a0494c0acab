//! The long crash lab, see `scripts/crashlab`: kills, the soak, random operations, and what rotation and syncing cost.
//!
//! What it needs of publishers, files and judgement is in `tests/support/lab`, shared with the short lab in `tests/`.
//! Everything stays on 127.0.0.1 and in temporary folders.

mod cost;
mod show;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, value_parser};
use support::lab::{
    Dice, Reel,
    kills::{self, KillLab},
    ops, soak,
};

#[derive(Parser)]
#[command(name = "crashlab", about = "Kills, soaks and shakes a daemon, and looks at every frame afterwards")]
struct Cli {
    /// The daemon; by default the one built beside this program
    #[arg(long, value_name = "PATH", global = true)]
    reeld: Option<PathBuf>,
    /// Passed by `cargo bench`; without it (`cargo test --benches`) nothing is run
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    lab: Option<Lab>,
}

#[derive(Subcommand)]
enum Lab {
    /// kill -9 at random moments over recording, rotating, pausing, finalizing, hook and recovery
    Kills(Kills),
    /// Streams that rotate for long: frames sent against frames in the parts, and what the daemon holds
    Soak(Soak),
    /// Pauses, splits, switches and reconnects at random on one recording
    Ops(Ops),
    /// CPU of rotation every 10 s and sync every 5 s against the same run without
    Cost(cost::Options),
}

#[derive(Args)]
struct Kills {
    /// How often
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Repeats the choices of the run that printed it
    #[arg(long)]
    seed: Option<u64>,
    /// Leaves the folder there: recordings, catalog, the log of each start
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct Soak {
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    minutes: u64,
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=200))]
    streams: u64,
    /// record_rotation
    #[arg(long, default_value = "10")]
    rotation: String,
}

#[derive(Args)]
struct Ops {
    #[arg(long, default_value_t = 100)]
    pauses: usize,
    #[arg(long, default_value_t = 50)]
    splits: usize,
    #[arg(long, default_value_t = 20)]
    switches: usize,
    #[arg(long, default_value_t = 20)]
    reconnects: usize,
    /// Repeats the choices of the run that printed it
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.lab {
        Some(lab) => run(&cli, lab),
        None => {
            println!("nothing run: see scripts/crashlab --help");
            Ok(true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crashlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False when a promise was broken.
fn run(cli: &Cli, lab: &Lab) -> Result<bool> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    // TARGET/PROFILE/deps/crashlab-HASH
    let built = program.ancestors().nth(2).context("this program lies in no target folder")?;
    let reeld = cli.reeld.clone().unwrap_or_else(|| built.join("reeld"));
    ensure!(reeld.is_file(), "{} is not there", reeld.display());
    let reeld = reeld.display().to_string();
    let inputs = built.join("crashlab-input");
    std::fs::create_dir_all(&inputs).context("cannot make the input folder")?;
    match lab {
        Lab::Kills(options) => kill(&reeld, &inputs, options),
        Lab::Soak(options) => soak(&reeld, &inputs, options),
        Lab::Ops(options) => shake(&reeld, &inputs, options),
        Lab::Cost(options) => cost::run(&reeld, &inputs, options),
    }
}

/// A key frame every `gop` pictures of 30 a second.
fn reel(inputs: &Path, gop: u32) -> Arc<Reel> {
    Reel::flashing(&inputs.display().to_string(), 24, gop)
}

fn kill(reeld: &str, inputs: &Path, options: &Kills) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(Dice::any_seed);
    println!("{} kills, --seed {seed}", options.kills);
    let mut lab = KillLab::new(reeld, reel(inputs, 30), seed);
    let mut all = Vec::new();
    for (number, stage) in kills::stages(seed).take(options.kills).enumerate() {
        let killed = lab.kill(stage);
        println!("{}", show::kill_line(number + 1, options.kills, &killed));
        all.push(killed);
    }
    let sound = all.iter().all(|killed| killed.faults.is_empty());
    print!("{}", show::kills_table(&all));
    println!("--seed {seed}: {}", if sound { "all promises held" } else { "BROKEN" });
    if options.keep || !sound {
        println!("kept: {}", lab.keep().display());
    }
    Ok(sound)
}

fn soak(reeld: &str, inputs: &Path, options: &Soak) -> Result<bool> {
    let length = Duration::from_secs(60 * options.minutes);
    let plan = soak::Plan {
        streams: options.streams as usize,
        length,
        rotation: options.rotation.clone(),
        sample_every: (length / 60).max(Duration::from_secs(5)),
    };
    println!("{} streams, record_rotation={}, {} min", plan.streams, plan.rotation, options.minutes);
    println!("{}", show::SAMPLE_HEAD);
    let outcome = soak::run(reeld, &reel(inputs, 30), &plan, |sample, count| {
        println!("{}", show::sample_line(sample, count));
    });
    print!("{}", show::soak_table(&outcome));
    Ok(outcome.faults.is_empty() && outcome.grown().is_empty())
}

fn shake(reeld: &str, inputs: &Path, options: &Ops) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(Dice::any_seed);
    let plan = ops::Plan {
        seed,
        pauses: options.pauses,
        splits: options.splits,
        switches: options.switches,
        reconnects: options.reconnects,
        pace_ms: 1200,
    };
    println!("{plan:?}");
    let outcome = ops::run(reeld, &reel(inputs, 15), &plan, |step| println!("{step}"));
    print!("{}", show::ops_table(&outcome));
    println!("--seed {seed}: {}", if outcome.faults.is_empty() { "all promises held" } else { "BROKEN" });
    Ok(outcome.faults.is_empty())
}
