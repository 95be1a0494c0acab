//! `reeld record`.

use super::client::{CliError, print};
use crate::{
    config::{Transport, parse_seconds},
    control::record_once::{self, Ended, News, Order, Outcome, Progress, RecordOnceError},
};
use clap::Args;
use std::{
    cell::RefCell,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  reeld record rtsp://admin:secret@192.168.1.7/stream1
                                           into ./192.168.1.7-stream1-TIME.mp4, until Ctrl-C or the camera's end
  reeld record rtmp://server/live/film -o film.mkv --duration 30s
  reeld record rtsp://camera.lan/1 -o /srv/door.mp4 --reconnect --duration 8h
                                           goes on in the same file when the camera comes back
  ffprobe \"$(reeld record rtsp://camera.lan/1 --duration 10s)\"
  reeld record rtsp://camera.lan/1 --duration 10s --json | jq '.parts[].video.frames'

What is written is FILE.part until it is whole; it plays up to its last second whatever happens. Its manifest is
FILE.json. A stream that changes its sound's codec, or is longer than 12 hours, goes on in FILE_2.
Progress goes to standard error, the finished files to standard output, a path a line. Ctrl-C ends it with the file
finished, a second one at once. No daemon and no configuration is needed; with --config its [limits], [storage] and
pipelines are used.

Exit codes: 0 recorded, 1 failed, 2 wrong usage.";

/// How often a line is written where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
const WRONG_USAGE: u8 = 2;
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RecordArgs {
    /// What to record: rtsp://, rtmp:// or rtmps://; user and password as rtsp://USER:PASSWORD@HOST/PATH
    #[arg(value_name = "URL")]
    pub url: String,
    /// The file; ends in .mp4, .webm, .mkv or .ts. Or a folder [default: made of URL and time, in the current folder; MP4 or WebM by codec]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// End after so much: 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Wait for a source that ends or breaks off to come back, and go on in the same file
    #[arg(long)]
    pub reconnect: bool,
    /// Replace FILE if it exists, once the source sends
    #[arg(long, requires = "output")]
    pub overwrite: bool,
    /// How RTSP media comes: tcp, udp or auto
    #[arg(long, value_name = "HOW", default_value = "tcp")]
    pub transport: Transport,
    /// Print the recording as JSON in place of its files
    #[arg(long)]
    pub json: bool,
}

impl std::fmt::Debug for RecordArgs {
    /// The URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordArgs").field("output", &self.output).finish_non_exhaustive()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_seconds(text, Duration::from_secs(1)..=LONGEST)
}

/// Records; see the help.
pub async fn run(args: RecordArgs, config: Option<&Path>) -> ExitCode {
    let stop = CancellationToken::new();
    // Caught before anything is opened, so that none is missed.
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(int), Ok(term), Ok(hangup)] = signals else {
        return fail(&RecordOnceError::Start(io::Error::other("signals cannot be caught")));
    };
    let watching = tokio::spawn(end_by_signal(stop.clone(), [int, term, hangup]));
    let order = Order {
        uri: args.url,
        transport: args.transport,
        output: args.output,
        overwrite: args.overwrite,
        duration: args.duration,
        reconnect: args.reconnect,
        config: config.map(Path::to_owned),
    };
    let screen = Screen::new();
    let recorded = record_once::run(&order, &stop, &|news| screen.tell(news)).await;
    screen.clear();
    watching.abort();
    match recorded {
        Ok(outcome) => finish(&outcome, args.json),
        Err(error) => fail(&error),
    }
}

fn fail(error: &RecordOnceError) -> ExitCode {
    say(&format!("reeld: {error}"));
    if error.is_usage() { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
}

/// The first signal ends the recording, the second one the process.
async fn end_by_signal(stop: CancellationToken, mut signals: [Signal; 3]) {
    loop {
        let [int, term, hangup] = &mut signals;
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hangup.recv() => {}
        }
        if stop.is_cancelled() {
            say("reeld: ended at once; what is recorded is in the .part file, which plays as it is");
            std::process::exit(1);
        }
        stop.cancel();
    }
}

/// Why it ended and what came of it.
fn finish(outcome: &Outcome, json: bool) -> ExitCode {
    let recording = &outcome.recording;
    say(&summary_text(outcome));
    recording.degraded.iter().for_each(|why| say(&format!("reeld: note: {why}")));
    let printed = if json { print_json(outcome) } else { print(&files_text(outcome)) };
    if let Err(error) = printed {
        say(&format!("reeld: {error}"));
        return ExitCode::FAILURE;
    }
    let Some(error) = &recording.error else { return ExitCode::SUCCESS };
    say(&format!("reeld: {error}"));
    ExitCode::FAILURE
}

fn print_json(outcome: &Outcome) -> Result<(), CliError> {
    let json = serde_json::to_value(outcome).map_err(|e| CliError::Output(io::Error::other(e)))?;
    print(&format!("{json:#}\n"))
}

fn files_text(outcome: &Outcome) -> String {
    outcome.recording.parts.iter().map(|part| format!("{}\n", part.file.display())).collect()
}

fn summary_text(outcome: &Outcome) -> String {
    let recording = &outcome.recording;
    let why = match &outcome.ended {
        Ended::Duration => "recorded as long as asked for".to_owned(),
        Ended::Interrupted => "ended by a signal".to_owned(),
        Ended::Source(reason) => format!("the source is gone ({reason})"),
        Ended::Recording => "the recording broke off".to_owned(),
    };
    let video: u64 = recording.parts.iter().filter_map(|p| p.video.as_ref()).map(|v| v.frames).sum();
    let audio: u64 = recording.parts.iter().filter_map(|p| p.audio.as_ref()).map(|a| a.frames).sum();
    format!(
        "{why}: {}, {}, {video} video and {audio} audio frames, lost {} frames and {} packets",
        clock(recording.duration_ms),
        size(recording.size),
        recording.lost.frames,
        recording.lost.packets
    )
}

/// Where the progress goes: a line that is drawn again and again on a terminal, else a line now and then. That nobody reads
/// it is no error.
struct Screen {
    terminal: bool,
    state: RefCell<ScreenState>,
}

struct ScreenState {
    before: Option<(Instant, Progress)>,
    told: Instant,
    drawn: bool,
}

impl Screen {
    fn new() -> Self {
        let state = ScreenState { before: None, told: Instant::now(), drawn: false };
        Self { terminal: io::stderr().is_terminal(), state: RefCell::new(state) }
    }

    fn tell(&self, news: News) {
        match news {
            News::Connecting { uri } => self.line(&format!("connecting to {uri}")),
            News::Begun { tracks } => {
                let codecs: Vec<_> = tracks.iter().map(|codec| codec.as_str()).collect();
                self.line(&format!("recording {}; Ctrl-C ends it", codecs.join(" and ")));
            }
            News::Progress(now) => self.progress(now),
            News::Away { reason, .. } => self.line(&format!("the source is away ({reason}); waiting for it")),
            News::Back => self.line("the source is back"),
            News::Finishing => self.line("finishing the file"),
        }
    }

    fn progress(&self, now: Progress) {
        let mut state = self.state.borrow_mut();
        let at = Instant::now();
        if !self.terminal && state.told.elapsed() < LINE_EVERY {
            return;
        }
        let text = progress_text(&now, state.before.map(|(then, before)| (at - then, before)));
        state.before = Some((at, now));
        state.told = at;
        state.drawn = self.terminal;
        // Without a reader there is nobody to tell.
        let _ = match self.terminal {
            true => write!(io::stderr(), "\r\x1b[K{text}"),
            false => writeln!(io::stderr(), "{text}"),
        };
    }

    fn line(&self, text: &str) {
        self.clear();
        say(text);
    }

    fn clear(&self) {
        if std::mem::take(&mut self.state.borrow_mut().drawn) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// To standard error. Nobody may be there any more: a terminal that was closed ends the recording cleanly too.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `since`: what was told last and how long ago.
fn progress_text(now: &Progress, since: Option<(Duration, Progress)>) -> String {
    let Progress { duration_ms, frames, lost_frames, lost_packets, .. } = *now;
    let (seconds, bytes) = match since {
        Some((ago, before)) => (ago.as_secs_f64(), now.received_bytes.saturating_sub(before.received_bytes)),
        None => (duration_ms as f64 / 1000.0, now.received_bytes),
    };
    let bits = bytes as f64 * 8.0 / seconds.max(0.001);
    format!(
        "{}  {}  {frames} frames  {:.2} Mbit/s  lost {lost_frames} frames, {lost_packets} packets",
        clock(duration_ms),
        size(now.size),
        bits / 1e6
    )
}

/// `1:02:03`.
fn clock(ms: u64) -> String {
    let s = ms / 1000;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_line_tells_the_rate_since_the_last_one() {
        let now = Progress {
            duration_ms: 3_723_400,
            size: 12_400_000,
            frames: 3735,
            received_bytes: 12_300_000,
            lost_frames: 2,
            lost_packets: 3,
        };
        let before = Progress { received_bytes: 12_000_000, ..now };
        assert_eq!(
            progress_text(&now, Some((Duration::from_secs(2), before))),
            "1:02:03  12.4 MB  3735 frames  1.20 Mbit/s  lost 2 frames, 3 packets"
        );
        let first = Progress { duration_ms: 1_000, received_bytes: 125_000, ..Progress::default() };
        assert_eq!(
            progress_text(&first, None),
            "0:00:01  0 B  0 frames  1.00 Mbit/s  lost 0 frames, 0 packets"
        );
        assert!(progress_text(&Progress::default(), None).contains("0.00 Mbit/s"));
    }

    #[test]
    fn a_duration_is_a_time_of_at_least_a_second() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("0s").is_err() && duration("soon").is_err());
    }
}
