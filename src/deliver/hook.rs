//! Runs a hook script: `SCRIPT STREAM_NAME FILE`, directly and never through a shell command line.

use super::HookSettings;
use crate::library::{DeliveredPart, Delivery, HookJob, Manifest};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::timeout,
};

/// How much of the end of a script's output is kept.
const OUTPUT_TAIL_BYTES: usize = 8 << 10;
/// From SIGTERM to SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long output is still read after the script ended, when something it started keeps the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// All a script inherits of the daemon's environment.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "USER"];

/// How one run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// `None` when it was killed, ran out of time or could not be started.
    pub exit: Option<i32>,
    pub output: String,
}

/// Runs the script of `delivery` to its end or its time limit. Its process group is killed when this future
/// is dropped.
///
/// The script is started as it is. One without a `#!` line, which the kernel will not start, is given to bash
/// (or `sh` where there is no bash) as a file to interpret: its arguments stay arguments.
pub(super) async fn run(
    delivery: &Delivery,
    job: &HookJob,
    part: &DeliveredPart,
    settings: &HookSettings,
) -> Run {
    let script = &job.script;
    let told = Told { delivery, job, part };
    let (child, output) = match spawn(told, &settings.folder) {
        Ok(spawned) => spawned,
        Err(e) => return Run { exit: None, output: cannot_start(script, &settings.folder, &e) },
    };
    Running { group: Group::of(&child), child, output, tail: Tail::default() }.run(settings.timeout).await
}

/// What a script is told.
#[derive(Clone, Copy)]
struct Told<'a> {
    delivery: &'a Delivery,
    job: &'a HookJob,
    part: &'a DeliveredPart,
}

fn spawn(told: Told<'_>, folder: &Path) -> io::Result<(Child, Receiver)> {
    let script = told.job.script.as_os_str();
    match spawn_program(script, None, told, folder) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
            spawn_program(shell.as_ref(), Some(script), told, folder)
        }
        spawned => spawned,
    }
}

fn spawn_program(
    program: &OsStr,
    script: Option<&OsStr>,
    Told { delivery, job, part }: Told<'_>,
    folder: &Path,
) -> io::Result<(Child, Receiver)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(script)
        .arg(&part.stream_name)
        .arg(&part.file)
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("REELD_DELIVERY_ID", &delivery.key)
        .env("REELD_MEDIA_SESSION_ID", part.media_session_id.to_string())
        .env("REELD_ROOM", &part.room_name)
        .env("REELD_PART", delivery.part.unwrap_or_default().to_string())
        .env("REELD_DURATION_MS", part.duration_ms.to_string())
        .env("REELD_SIZE", part.size.to_string())
        .env("REELD_CONTAINER", &part.container)
        .env("REELD_STATUS", job.status.as_str())
        .env("REELD_MANIFEST", Manifest::path_of(&part.file))
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = command.spawn()?;
    Ok((child, Receiver::from_owned_fd(OwnedFd::from(reader))?))
}

fn cannot_start(script: &Path, folder: &Path, error: &io::Error) -> String {
    let path = script.display();
    match error.kind() {
        _ if !folder.is_dir() => {
            format!("cannot run {path}: the folder {} it is to run in is missing", folder.display())
        }
        io::ErrorKind::NotFound if script.exists() => {
            format!("cannot run {path}: the program its first line names is missing")
        }
        io::ErrorKind::NotFound => {
            format!(
                "cannot run {path}: there is no such file; put the script there, or set on_record_hook_script"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot run {path}: permission denied; make it executable: chmod +x {path}")
        }
        _ => format!("cannot run {path}: {error}"),
    }
}

struct Running {
    group: Group,
    child: Child,
    output: Receiver,
    tail: Tail,
}

impl Running {
    async fn run(mut self, limit: Duration) -> Run {
        match timeout(limit, self.wait()).await {
            Ok(status) => self.ended(status).await,
            Err(_) => self.out_of_time(limit).await,
        }
    }

    /// Until the script has ended; reads its output meanwhile.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let reading = async {
            self.tail.read(&mut self.output).await;
            std::future::pending().await
        };
        tokio::select! {
            status = self.child.wait() => status,
            () = reading => unreachable!("reading never ends"),
        }
    }

    async fn ended(mut self, status: io::Result<ExitStatus>) -> Run {
        if timeout(OUTPUT_GRACE, self.tail.read(&mut self.output)).await.is_err() {
            self.group.signal(Signal::KILL);
            self.tail.note(
                "what the script left running with its output open was killed; \
                 redirect the output of what is to go on",
            );
        }
        self.group.over();
        let exit = match status {
            Ok(status) => {
                if let Some(signal) = status.signal() {
                    self.tail.note(&format!("killed by signal {signal}"));
                }
                status.code()
            }
            Err(e) => {
                self.tail.note(&format!("its exit status is unknown: {e}"));
                None
            }
        };
        Run { exit, output: self.tail.into_text() }
    }

    async fn out_of_time(mut self, limit: Duration) -> Run {
        self.group.signal(Signal::TERM);
        let all_gone = async {
            let _ = self.wait().await;
            self.tail.read(&mut self.output).await;
        };
        let _ = timeout(TERM_GRACE, all_gone).await;
        self.group.signal(Signal::KILL);
        let _ = timeout(OUTPUT_GRACE, self.child.wait()).await;
        self.group.over();
        self.tail.note(&format!("ended after its time limit of {} s", limit.as_secs_f64()));
        Run { exit: None, output: self.tail.into_text() }
    }
}

/// The script's process group; killed on drop, unless it is over.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// A group that has no members left is no error.
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }

    fn over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The last [`OUTPUT_TAIL_BYTES`] of an output, and notes on how the run ended.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    cut: bool,
    notes: String,
}

impl Tail {
    /// Reads to the end. Nothing that was read is lost when the future is dropped.
    async fn read(&mut self, output: &mut Receiver) {
        let mut block = [0; 4096];
        while let Ok(n @ 1..) = output.read(&mut block).await {
            self.push(&block[..n]);
        }
    }

    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        let surplus = self.bytes.len().saturating_sub(OUTPUT_TAIL_BYTES);
        self.cut |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    fn note(&mut self, text: &str) {
        self.notes.push_str(&format!("[reeld: {text}]\n"));
    }

    fn into_text(self) -> String {
        // The cut may have gone through a character.
        let begin = match self.cut {
            true => self.bytes.iter().take_while(|b| **b & 0xC0 == 0x80).count(),
            false => 0,
        };
        let mut text = String::from_utf8_lossy(&self.bytes[begin..]).into_owned();
        if !text.is_empty() && !text.ends_with('\n') && !self.notes.is_empty() {
            text.push('\n');
        }
        text + &self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_bounded_and_whole_characters() {
        let mut tail = Tail::default();
        tail.push(b"gone");
        tail.push("é".repeat(OUTPUT_TAIL_BYTES / 2 - 1).as_bytes());
        tail.push(b"end");
        let text = tail.into_text();
        assert!(text.len() <= OUTPUT_TAIL_BYTES);
        assert!(text.starts_with('é') && text.ends_with("end"), "{text:.10}");

        let mut tail = Tail::default();
        tail.push(b"x\xff");
        tail.note("why");
        assert_eq!(tail.into_text(), "x\u{fffd}\n[reeld: why]\n");
    }
}
