//! What the kernel knows about a set of processes. Gone processes count as nothing.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::process::stat;

/// `perf` takes a descriptor for each thread and CPU; more processes than this are sampled.
const MAX_COUNTED_PROCESSES: usize = 100;
const TRACEPOINT: &str = "raw_syscalls:sys_enter";
const LISTENING: &str = "0A";

#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Proportional set size.
    pub pss_kib: u64,
    pub threads: u64,
}

/// CPU time of the processes so far, user and system, ended threads and waited-for children included.
pub fn cpu_time(pids: &[u32]) -> Duration {
    pids.iter().map(|&pid| own_cpu_time(pid) + children_cpu_time(pid)).sum()
}

/// Nanoseconds, where `/proc/PID/stat` has hundredths of a second. A zombie keeps its clock until it is reaped.
fn own_cpu_time(pid: u32) -> Duration {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return Duration::ZERO };
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls write to the local they are given and keep no pointer to it.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &mut clock) != 0 || libc::clock_gettime(clock, &mut time) != 0
    };
    if failed {
        return Duration::ZERO;
    }
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn children_cpu_time(pid: u32) -> Duration {
    let ticks: u64 = stat(pid)
        .iter()
        .flat_map(|fields| fields.iter().skip(13).take(2))
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// Voluntary and involuntary, of every thread that lives.
pub fn context_switches(pids: &[u32]) -> u64 {
    pids.iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flatten()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
        .map(|status| sum_lines(&status, |name| name.ends_with("ctxt_switches")))
        .sum()
}

pub fn memory(pids: &[u32]) -> Memory {
    let mut memory = Memory::default();
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        memory.pss_kib += sum_lines(&rollup, |name| name == "Pss");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        memory.threads += sum_lines(&status, |name| name == "Threads");
    }
    memory
}

/// Adds up the numbers of all `name: number …` lines whose name is wanted.
fn sum_lines(text: &str, wanted: impl Fn(&str) -> bool) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| wanted(name))
        .filter_map(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Whether somebody listens on 127.0.0.1:`port`. Read from the kernel's table: a probing connection would use up
/// a server that accepts only one.
pub fn listens(port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok()).any(
        |table| {
            table.lines().any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let local = fields.next().unwrap_or_default();
                local.ends_with(&suffix) && fields.nth(1) == Some(LISTENING)
            })
        },
    )
}

/// Whether `perf` may count system calls here.
pub fn can_count_syscalls() -> bool {
    let status = Command::new("perf")
        .args(["stat", "-e", TRACEPOINT, "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Counts the system calls of processes for a while, with `perf`.
pub struct SyscallCounter {
    perf: Child,
    time: Duration,
    /// Processes there are for each one counted.
    scale: f64,
}

impl SyscallCounter {
    pub fn start(pids: &[u32], time: Duration) -> Option<Self> {
        let counted: Vec<String> = pids.iter().take(MAX_COUNTED_PROCESSES).map(u32::to_string).collect();
        let scale = pids.len() as f64 / counted.len().max(1) as f64;
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", TRACEPOINT, "-p", &counted.join(",")])
            .args(["--", "sleep", &time.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Some(Self { perf: perf.ok()?, time, scale })
    }

    /// Waits for the end of the count and gives system calls per second.
    pub fn finish(self) -> Option<f64> {
        let output = self.perf.wait_with_output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.contains(TRACEPOINT))?;
        let count: f64 = line.split(',').next()?.parse().ok()?;
        Some(count * self.scale / self.time.as_secs_f64())
    }
}

/// The value of the first `key : value` line of a file such as `/proc/cpuinfo`.
pub fn first_value(path: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}
