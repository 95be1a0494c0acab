//! `reeld stop`.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    recordings::Recording,
    sessions,
};
use clap::Args;

const EXAMPLES: &str = "\
Examples:
  reeld stop court/camera1
  ffprobe \"$(reeld stop camera1)\"";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StopArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The stream, live or waited for: ROOM/STREAM, a stream name that only one has, or a mediaSessionId
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Prints the finished files, one path a line; a recording that failed is an error, after its files.
pub(super) async fn run(client: &Client, args: &StopArgs) -> Result<(), CliError> {
    let id = sessions::resolve_recorded(client, &args.id).await?.to_string();
    let answer = client.delete(&["sessions", &id, "recording"]).await?;
    let recording: Recording = client.read(answer.clone())?;
    if args.connect.json {
        print_json(&answer)?;
    } else {
        print(&recording.parts.iter().map(|p| format!("{}\n", p.file)).collect::<String>())?;
    }
    match recording.error {
        Some(error) if recording.status == "failed" => Err(CliError::Refused(error)),
        _ => Ok(()),
    }
}
