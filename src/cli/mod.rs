//! The command line: the daemon's own commands, and those that talk to a running daemon over its REST API.

mod client;
mod deliveries;
mod record;
mod recordings;
mod running;
mod sessions;
mod start;
mod stop;
mod table;
mod verify;

pub use client::CliError;
pub use deliveries::DeliveriesArgs;
pub use record::{RecordArgs, run as run_record};
pub use recordings::RecordingsArgs;
pub use running::{RunningArgs, SwitchArgs};
pub use sessions::SessionsArgs;
pub use start::StartArgs;
pub use stop::StopArgs;
pub use verify::{VerifyArgs, run as run_verify};

use clap::{Args, Parser, Subcommand, ValueEnum};
use client::Client;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  reeld check                              look for errors in the configuration
  reeld serve                              start the daemon
  ffmpeg -re -i film.mp4 -c copy -f flv rtmp://127.0.0.1:1935/court/camera1
                                           publish a stream to it
  reeld sessions                           see who is publishing
  reeld start court/camera1                record it
  reeld split court/camera1                go on in the next file
  reeld stop court/camera1                 stop; prints the finished files
  reeld recordings --room court            see what was recorded
  reeld recordings --json | jq '.items[].parts[].file'
  reeld deliveries --dead                  see what could not be delivered
  reeld verify                             check every recorded file
  reeld record rtsp://camera.lan/stream1   record a camera without a daemon

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Records live streams to files and hands the finished files on.
#[derive(Debug, Parser)]
#[command(name = "reeld", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Configuration of the daemon [default: /etc/reeld/reeld.toml, else conf/reeld.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(ServeArgs),
    /// Check the configuration, the record policy and the pipelines; exit code 1 on any error
    Check(CheckArgs),
    /// Check that every recorded file is there, whole and decodable; exit code 1 on any fault
    Verify(VerifyArgs),
    /// Record one source into a file, without a daemon
    Record(RecordArgs),
    #[command(flatten)]
    Client(ClientCommand),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// How log lines are written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Args)]
pub struct CheckArgs {}

/// The commands that talk to a running daemon.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List the live streams
    Sessions(SessionsArgs),
    /// List recordings, newest first
    Recordings(RecordingsArgs),
    /// List what is still to be delivered, and try it again
    Deliveries(DeliveriesArgs),
    /// Start recording a live stream
    Start(StartArgs),
    /// Stop recording a live stream and wait until its files are finished
    Stop(StopArgs),
    /// End the file of a recording and go on in the next one
    Split(RunningArgs),
    /// Leave out what a live stream sends until its recording is resumed
    Pause(RunningArgs),
    /// Go on with a paused recording, in the same file
    Resume(RunningArgs),
    /// Go on with another live stream in a recording
    Switch(SwitchArgs),
}

/// Which daemon, and how its answer is shown.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Address of the daemon [default: the http address in the configuration, else http://127.0.0.1:9091]
    #[arg(long, env = "REELD_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Print the daemon's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Reads the command line; on a mistake in it, or for `--help` and `--version`, prints and ends the process.
pub fn parse() -> Cli {
    Cli::parse()
}

/// Runs one client command. Results go to standard output; the caller prints the error to standard error and
/// exits with 1.
pub async fn run_client(command: ClientCommand, config: Option<&Path>) -> Result<(), CliError> {
    let connect = |args: &ConnectArgs| Client::new(args.server.as_deref(), config);
    match command {
        ClientCommand::Sessions(args) => sessions::run(&connect(&args.connect)?, &args).await,
        ClientCommand::Recordings(args) => recordings::run(&connect(&args.connect)?, &args).await,
        ClientCommand::Deliveries(args) => deliveries::run(&connect(args.connect())?, &args).await,
        ClientCommand::Start(args) => start::run(&connect(&args.connect)?, &args).await,
        ClientCommand::Stop(args) => stop::run(&connect(&args.connect)?, &args).await,
        ClientCommand::Split(args) => running::run(&connect(&args.connect)?, &args, "split").await,
        ClientCommand::Pause(args) => running::run(&connect(&args.connect)?, &args, "pause").await,
        ClientCommand::Resume(args) => running::run(&connect(&args.connect)?, &args, "resume").await,
        ClientCommand::Switch(args) => running::run_switch(&connect(&args.connect)?, &args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn config_may_stand_before_or_after_the_command() {
        for line in [["reeld", "--config", "x.toml", "serve"], ["reeld", "serve", "--config", "x.toml"]] {
            let cli = Cli::try_parse_from(line).expect("a command line");
            assert_eq!(cli.config.as_deref(), Some(Path::new("x.toml")));
            let Command::Serve(args) = cli.command else { panic!("serve") };
            assert_eq!(args.log_format, LogFormat::Text);
        }
    }

    #[test]
    fn wrong_usage_exits_with_2_and_help_with_0() {
        let code = |line: &[&str]| Cli::try_parse_from(line).expect_err("an end").exit_code();
        assert_eq!(code(&["reeld", "start"]), 2);
        assert_eq!(code(&["reeld", "recordings", "--status", "done"]), 2);
        assert_eq!(code(&["reeld", "recordings", "--limit", "0"]), 2);
        assert_eq!(code(&["reeld", "start", "--help"]), 0);
    }
}
