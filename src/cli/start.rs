//! `reeld start`.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    recordings::Recording,
    sessions,
};
use crate::config::Rotation;
use clap::Args;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  reeld start court/camera1
  reeld start camera1 --template '{streamName}-{startTime}'
  reeld start camera1 --rotation 10m --preroll 10s
  reeld start 9c3e2f60-0a5d-4a63-9f0e-0d6d3f0f4c11";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StartArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The live stream: ROOM/STREAM, a stream name that only one has, or a mediaSessionId
    #[arg(value_name = "ID")]
    pub id: String,
    /// Name of the file, without extension, instead of the policy's
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// When to go on in the next file, instead of the policy's: 20 (seconds), 10m, 1h, 10M (megabytes), 1G, 1h,1G, off
    #[arg(long, value_name = "WHEN", value_parser = rotation)]
    pub rotation: Option<String>,
    /// How much from before the start is recorded too, instead of the policy's: 10 (seconds), 10s
    #[arg(long, value_name = "TIME")]
    pub preroll: Option<String>,
}

/// Checked here so that a slip is wrong usage; the daemon reads it itself.
fn rotation(text: &str) -> Result<String, String> {
    Rotation::parse(text).map(|_| text.to_owned())
}

pub(super) async fn run(client: &Client, args: &StartArgs) -> Result<(), CliError> {
    let id = sessions::resolve(client, &args.id).await?.to_string();
    let options = json!({
        "fileTemplate": args.template,
        "rotation": args.rotation,
        "preroll": args.preroll,
    });
    let answer = client.post(&["sessions", &id, "recording"], &options).await?;
    if args.connect.json {
        return print_json(&answer);
    }
    let recording: Recording = client.read(answer)?;
    print(&format!("recording {}\n", recording.id))
}
