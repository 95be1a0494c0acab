//! One cell of the table: one peer, one number of streams, once.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::{
    files::{self, Frames},
    load::{Ended, Ready, Started},
    measure::{self, Memory, SyscallCounter},
    peers::{Peer, Server, Tools},
    process::{self, Owned},
};

/// Starts of the streams are spread over one GOP.
const SPREAD: Duration = Duration::from_secs(2);
/// Left out at both ends of the window in which all streams run.
const MARGIN: Duration = Duration::from_secs(1);
const LISTEN_DEADLINE: Duration = Duration::from_secs(30);
const QUIET_DEADLINE: Duration = Duration::from_secs(20);
/// A server that used less than this in half a second has finished its files.
const QUIET_CPU: Duration = Duration::from_millis(3);
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const LOG_TAIL_BYTES: usize = 600;

/// What is the same for every cell.
pub struct Plan {
    pub tools: Tools,
    /// Each cell makes and deletes a folder in it.
    pub work: PathBuf,
    pub input: PathBuf,
    /// Of each stream.
    pub length: Duration,
}

pub struct Cell {
    pub round: u32,
    pub peer: Peer,
    pub streams: u32,
    pub sample: Sample,
}

/// Per stream: divided by the number of streams; per second: of the window.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Percent of one core, per stream, while all streams run.
    pub cpu_percent: f64,
    /// The same from the first connection to the last closed file.
    pub cpu_whole_percent: f64,
    /// CPU of the server over CPU of the generator, in the window.
    pub server_over_generator: f64,
    pub pss_kib: f64,
    /// Of the whole server.
    pub threads: f64,
    /// `None` where `perf` cannot count them.
    pub syscalls: Option<f64>,
    pub context_switches: f64,
    /// Files with every frame and no fault.
    pub complete: u32,
    /// Frames sent less frames found.
    pub lost_video: i64,
    pub lost_audio: i64,
    /// Percent of one core.
    pub generator_percent: f64,
    pub late_max_ms: f64,
    /// Sends that found the socket full.
    pub stalls: u64,
    /// Percent of all cores that server and generator used together.
    pub machine_percent: f64,
}

/// The server's accounts between two moments.
struct Window {
    server_cpu: Duration,
    generator_cpu: Duration,
    context_switches: u64,
    peak: Memory,
    time: Duration,
    syscalls_per_second: Option<f64>,
}

struct Generator {
    process: Owned,
    lines: BufReader<std::process::ChildStdout>,
}

impl Generator {
    fn start(plan: &Plan, peer: Peer, streams: u32, ports: &[u16], folder: &Path) -> Result<Self> {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let (length, spread) = (plan.length.as_millis().to_string(), SPREAD.as_millis().to_string());
        let input = plan.input.canonicalize().context("cannot find the input")?.display().to_string();
        let streams = streams.to_string();
        let mut args = match peer.is_whip() {
            true => vec!["whip-load", "--port", &ports, "--streams", &streams],
            false => vec!["load", "--input", &input, "--ports", &ports, "--streams", &streams],
        };
        args.extend(["--length-ms", &length, "--spread-ms", &spread]);
        if peer.is_raw() {
            args.push("--raw");
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let mut process = Owned::talking_part(&args, folder, &folder.join("generator.log"))?;
        let output = process.0.stdout.take().context("the generator has no output")?;
        let mut generator = Self { process, lines: BufReader::new(output) };
        generator.next::<Ready>(folder)?;
        Ok(generator)
    }

    /// Lets it connect.
    fn go(&mut self) -> Result<()> {
        let mut input = self.process.0.stdin.take().context("the generator has no input")?;
        input.write_all(b"go\n").context("the generator has ended")
    }

    fn next<T: DeserializeOwned>(&mut self, folder: &Path) -> Result<T> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line)
            .with_context(|| format!("the generator failed: {}", tail(&folder.join("generator.log"))))
    }
}

/// Runs one cell. The server and the generator have ended when this returns, whatever it returns.
pub fn measure(plan: &Plan, peer: Peer, streams: u32) -> Result<Sample> {
    let folder = tempfile::Builder::new().prefix("recorders-").tempdir_in(&plan.work)?;
    let folder = folder.path().canonicalize()?;
    let wanted = if peer.is_one_process_per_stream() { streams as usize } else { 1 };
    let mut ports = free_ports(wanted + 1)?;
    let spare = ports.pop().context("no port")?;
    let server = peer.start(&plan.tools, &folder, &ports, spare)?;
    wait_listening(&server, &ports, &folder)?;
    // Before the idle accounts: the floor shares its pages with the generator, and PSS divides shared pages.
    let mut generator = Generator::start(plan, peer, streams, &ports, &folder)?;
    thread::sleep(MARGIN);
    let roots = server.pids();
    let idle_cpu = measure::cpu_time(&process::tree(&roots));
    let idle = measure::memory(&process::tree(&roots));
    generator.go()?;
    let started: Started = generator.next(&folder)?;
    let begin = Instant::now() + Duration::from_millis(started.starts_in_ms);
    let window = watch(&roots, generator.process.pid(), begin, plan.length);
    let ended: Ended = generator.next(&folder)?;
    if ended.failed_streams > 0 {
        eprintln!("  {} streams failed, e.g. {}", ended.failed_streams, ended.errors.join("; "));
    }
    wait_quiet(&server);
    let whole_cpu = measure::cpu_time(&process::tree(&roots)).saturating_sub(idle_cpu);
    drop(generator);
    drop(server);

    let mut sample = window.into_sample(peer, streams, idle);
    sample.cpu_whole_percent = percent(whole_cpu, plan.length) / f64::from(streams);
    (sample.late_max_ms, sample.stalls) = (ended.late_max_ms, ended.stalls);
    check_recordings(&mut sample, peer, streams, &folder, &started);
    Ok(sample)
}

/// Accounts CPU, memory and context switches while all streams run; then system calls, because counting costs.
fn watch(roots: &[u32], generator: u32, begin: Instant, length: Duration) -> Window {
    let count_time = measure::can_count_syscalls().then(|| count_time(length));
    let from = begin + SPREAD + MARGIN;
    let until = begin + length - MARGIN - count_time.unwrap_or_default();
    sleep_until(from);
    let pids = process::tree(roots);
    let before = (measure::cpu_time(&pids), measure::cpu_time(&[generator]), Instant::now());
    let switches = measure::context_switches(&pids);
    let mut peak = Memory::default();
    while Instant::now() < until {
        sleep_until(until.min(Instant::now() + SAMPLE_EVERY));
        let now = measure::memory(&process::tree(roots));
        peak.pss_kib = peak.pss_kib.max(now.pss_kib);
        peak.threads = peak.threads.max(now.threads);
    }
    let pids = process::tree(roots);
    let window = Window {
        server_cpu: measure::cpu_time(&pids).saturating_sub(before.0),
        generator_cpu: measure::cpu_time(&[generator]).saturating_sub(before.1),
        context_switches: measure::context_switches(&pids).saturating_sub(switches),
        peak,
        time: before.2.elapsed(),
        syscalls_per_second: None,
    };
    let counter = count_time.and_then(|time| SyscallCounter::start(&pids, time.saturating_sub(MARGIN / 2)));
    Window { syscalls_per_second: counter.and_then(SyscallCounter::finish), ..window }
}

/// A third of the time in which all streams run, 1.3 to 4 s.
fn count_time(length: Duration) -> Duration {
    (length.saturating_sub(SPREAD + 2 * MARGIN) / 3).min(Duration::from_secs(4))
}

impl Window {
    fn into_sample(self, peer: Peer, streams: u32, idle: Memory) -> Sample {
        let streams = f64::from(streams);
        let base = if peer.is_one_process_per_stream() { 0 } else { idle.pss_kib };
        let cores = thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let generator_percent = percent(self.generator_cpu, self.time);
        let server_percent = percent(self.server_cpu, self.time);
        Sample {
            cpu_percent: server_percent / streams,
            server_over_generator: server_percent / generator_percent.max(f64::MIN_POSITIVE),
            pss_kib: self.peak.pss_kib.saturating_sub(base) as f64 / streams,
            threads: self.peak.threads as f64,
            syscalls: self.syscalls_per_second.map(|count| count / streams),
            context_switches: self.context_switches as f64 / self.time.as_secs_f64() / streams,
            generator_percent,
            machine_percent: (generator_percent + server_percent) / cores,
            ..Sample::default()
        }
    }
}

fn percent(cpu: Duration, time: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / time.as_secs_f64()
}

fn check_recordings(sample: &mut Sample, peer: Peer, streams: u32, folder: &Path, sent: &Started) {
    for number in 0..streams {
        let path = peer.recording(folder, number);
        let found = match peer.is_raw() {
            true => whole_or_nothing(&path, sent),
            false => files::count_frames(&path),
        };
        match &found {
            Ok(frames) if frames.video == sent.video && (frames.audio == sent.audio || peer.transcodes()) => {
                sample.complete += 1
            }
            Ok(_) => {}
            Err(fault) => eprintln!("  {fault:#}"),
        }
        let frames = found.unwrap_or_default();
        sample.lost_video += sent.video as i64 - frames.video as i64;
        if !peer.transcodes() {
            sample.lost_audio += sent.audio as i64 - frames.audio as i64;
        }
    }
}

/// Raw bytes have no frames to count; all of them are there or none count.
fn whole_or_nothing(path: &Path, sent: &Started) -> Result<Frames> {
    let length = fs::metadata(path)?.len();
    match length == sent.bytes_per_stream {
        true => Ok(Frames { video: sent.video, audio: sent.audio }),
        false => bail!("{}: {length} of {} bytes", path.display(), sent.bytes_per_stream),
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners = listeners.collect::<std::io::Result<Vec<_>>>().context("no free port")?;
    Ok(listeners
        .iter()
        .map(|one| one.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}

fn wait_listening(server: &Server, ports: &[u16], folder: &Path) -> Result<()> {
    let until = Instant::now() + LISTEN_DEADLINE;
    for &port in ports {
        while !measure::listens(port) {
            if server.all_ended() || Instant::now() > until {
                bail!("nothing listens on port {port}: {}", tail(&folder.join("server.log")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Until the server has ended or does nothing any more.
fn wait_quiet(server: &Server) {
    let until = Instant::now() + QUIET_DEADLINE;
    let limit = QUIET_CPU.max(QUIET_CPU * server.pids().len() as u32 / 50);
    let mut last = measure::cpu_time(&process::tree(&server.pids()));
    while !server.all_ended() && Instant::now() < until {
        thread::sleep(Duration::from_millis(500));
        let now = measure::cpu_time(&process::tree(&server.pids()));
        if now.saturating_sub(last) < limit {
            return;
        }
        last = now;
    }
}

fn sleep_until(when: Instant) {
    thread::sleep(when.saturating_duration_since(Instant::now()));
}

fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(log).and_then(|file| file.take(1 << 20).read_to_end(&mut bytes));
    match read {
        Ok(_) => {
            String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).trim().to_owned()
        }
        Err(error) => format!("no log: {error}"),
    }
}
