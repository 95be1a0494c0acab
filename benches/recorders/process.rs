//! Child processes that cannot outlive the benchmark, and the processes below them.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Pid, Resource, Signal};

const STOP_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

#[derive(Args)]
pub struct ExecOptions {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Replaces this process by `command`, with the order to end when its parent ends. Returns only on failure.
pub fn exec(options: &ExecOptions) -> Result<()> {
    end_with_parent()?;
    let error = Command::new(&options.command[0]).args(&options.command[1..]).exec();
    Err(error).with_context(|| format!("cannot run {}", options.command[0]))
}

/// Asks the kernel to end this process when the one that started it ends, however that happens.
pub fn end_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the parent")
}

/// As many open files as the hard limit allows; children inherit it.
pub fn raise_open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// A child that is ended (SIGTERM, then SIGKILL after 20 s with everything below it) when dropped.
pub struct Owned(pub Child);

impl Owned {
    /// Starts `program`, its output in the file `log`. Start it from the main thread: it ends with that thread.
    pub fn program(program: &str, args: &[String], folder: &Path, log: &Path) -> Result<Self> {
        let mut all = vec!["exec".to_owned(), "--".to_owned(), program.to_owned()];
        all.extend_from_slice(args);
        Self::part(&all, folder, log)
    }

    /// Starts a part of the benchmark itself, its output in the file `log`.
    pub fn part(args: &[String], folder: &Path, log: &Path) -> Result<Self> {
        let output = open_log(log)?;
        Self::start(args, folder, log, Stdio::null(), output.into())
    }

    /// Like [`Owned::part`], with pipes for its standard input and output.
    pub fn talking_part(args: &[String], folder: &Path, log: &Path) -> Result<Self> {
        Self::start(args, folder, log, Stdio::piped(), Stdio::piped())
    }

    fn start(args: &[String], folder: &Path, log: &Path, stdin: Stdio, stdout: Stdio) -> Result<Self> {
        let log = open_log(log)?;
        let myself = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(myself);
        command.args(args).current_dir(folder).stdin(stdin).stdout(stdout).stderr(log);
        Ok(Self(command.spawn().context("cannot start a process")?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn has_ended(&self) -> bool {
        state(self.pid()).is_none_or(|state| state == 'Z')
    }

    pub fn ask_to_end(&self) {
        // An error means that it has ended already.
        let _ = rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM);
    }

    fn ends_within(&mut self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        self.ask_to_end();
        if self.ends_within(STOP_DEADLINE) {
            return;
        }
        for pid in tree(&[self.pid()]) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.0.wait();
    }
}

fn open_log(log: &Path) -> Result<fs::File> {
    fs::File::options().create(true).append(true).open(log).context("cannot open the log")
}

/// `roots` and every process below them, each once.
pub fn tree(roots: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found: Vec<u32> = roots.to_vec();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        let children = parents.iter().filter(|(pid, above)| *above == parent && !roots.contains(pid));
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// The fields of `/proc/PID/stat` behind the command name: state, parent, …; `None` when it is gone.
pub fn stat(pid: u32) -> Option<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(line.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}
