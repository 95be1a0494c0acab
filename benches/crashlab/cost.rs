//! What rotation and syncing add to the CPU of a stream: the same load with and without, in turn.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, value_parser};
use support::{
    daemon::House,
    lab::{Encoder, Reel},
    media::{AUDIO, source},
};

/// Starts of the streams are spread over one group of pictures.
const SPREAD: Duration = Duration::from_secs(2);
/// Left out before the window that is measured.
const MARGIN: Duration = Duration::from_secs(3);

#[derive(Args)]
pub struct Options {
    /// Streams at once
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=500))]
    streams: u32,
    /// Measured in each run; a multiple of the rotation is fair
    #[arg(long, default_value_t = 40, value_parser = value_parser!(u64).range(10..=600))]
    seconds: u64,
    /// Repetitions, the variants in turn; medians are shown
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// How the daemon is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    name: &'static str,
    rotation: &'static str,
    sync: &'static str,
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "neither", rotation: "0", sync: "10m" },
    Variant { name: "sync every 5 s", rotation: "0", sync: "5s" },
    Variant { name: "rotation every 10 s", rotation: "10", sync: "10m" },
    Variant { name: "both", rotation: "10", sync: "5s" },
];

/// Percent of one core for each stream.
#[derive(Debug, Clone, Copy)]
struct Cost {
    daemon: f64,
    /// Hook scripts.
    children: f64,
}

pub fn run(reeld: &str, inputs: &Path, options: &Options) -> Result<bool> {
    let reel = make_reel(inputs);
    let mut costs: Vec<(Variant, Cost)> = Vec::new();
    for round in 0..options.rounds {
        for variant in VARIANTS {
            let cost = measure(reeld, &reel, variant, options)?;
            println!("round {}/{}: {}: {:.4} %", round + 1, options.rounds, variant.name, cost.daemon);
            costs.push((variant, cost));
        }
    }
    print!("{}", table(&costs, options));
    Ok(true)
}

/// 1280x720 at 30 fps and 2 Mbit/s with a key frame every 2 s, as in scripts/bench.
fn make_reel(inputs: &Path) -> Arc<Reel> {
    let video: &[&str] = &["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30,noise=alls=12:allf=t"];
    let codec: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-bf", "0"];
    let rate: &[&str] = &["-b:v", "2000k", "-maxrate", "2000k", "-bufsize", "2000k", "-g", "60"];
    let audio: &[&str] = &["-sc_threshold", "0", "-c:a", "aac", "-b:a", "128k"];
    let folder = inputs.display().to_string();
    Reel::read(&source(&folder, "cost.flv", &[video, AUDIO, &["-t", "20"], codec, rate, audio]))
}

fn measure(reeld: &str, reel: &Arc<Reel>, variant: Variant, options: &Options) -> Result<Cost> {
    let policy = format!(
        "record_rtmp_streams=true\nstream_record_policy=streamName\nrecord_rotation={}\n",
        variant.rotation
    );
    let house = House::new(&policy, &format!("[storage]\nsync_interval = \"{}\"", variant.sync));
    house.hook("#!/bin/sh\n");
    let daemon = house.start(reeld);
    let mut encoders = Vec::new();
    for number in 0..options.streams {
        let options = daemon.publish_options("live", &format!("s{number}"));
        encoders.push(Encoder::start(options, reel, reel.key_from(0)).context("a publish was not accepted")?);
        thread::sleep(SPREAD / 50);
    }
    thread::sleep(MARGIN);
    let (before, begin) = (cpu(daemon.pid())?, Instant::now());
    thread::sleep(Duration::from_secs(options.seconds));
    let (after, time) = (cpu(daemon.pid())?, begin.elapsed());
    drop(encoders);
    let percent = |before: Duration, after: Duration| {
        100.0 * (after - before).as_secs_f64() / time.as_secs_f64() / f64::from(options.streams)
    };
    Ok(Cost { daemon: percent(before.0, after.0), children: percent(before.1, after.1) })
}

/// CPU time so far, of the process and of the children it has waited for (proc_pid_stat, clock_getcpuclockid).
fn cpu(pid: u32) -> Result<(Duration, Duration)> {
    let id = libc::pid_t::try_from(pid)?;
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to the local they are given and keep no pointer to it.
    let failed = unsafe {
        libc::clock_getcpuclockid(id, &mut clock) != 0 || libc::clock_gettime(clock, &mut time) != 0
    };
    anyhow::ensure!(!failed, "the daemon is gone");
    let own = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec)?);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon is gone")?;
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split_whitespace()).context("no fields")?;
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
    Ok((own, Duration::from_secs(ticks) / per_second))
}

fn table(costs: &[(Variant, Cost)], options: &Options) -> String {
    let median = |variant: Variant, number: fn(&Cost) -> f64| {
        let mut of: Vec<_> =
            costs.iter().filter(|(v, _)| *v == variant).map(|(_, cost)| number(cost)).collect();
        of.sort_by(f64::total_cmp);
        of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let Options { streams, seconds, rounds } = options;
    let mut table = format!(
        "\n{streams} streams of 2 Mbit/s for {seconds} s, median of {rounds}\n\n\
         | | CPU per stream, % of a core | against neither | hooks, % |\n|---|---|---|---|\n"
    );
    let base = median(VARIANTS[0], |cost| cost.daemon);
    for variant in VARIANTS {
        let (daemon, children) = (median(variant, |cost| cost.daemon), median(variant, |cost| cost.children));
        let _ = writeln!(table, "| {} | {daemon:.4} | {:.2} | {children:.4} |", variant.name, daemon / base);
    }
    table
}
