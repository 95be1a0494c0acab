//! `reeld split`, `pause`, `resume` and `switch`: a recording under way.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    recordings::Recording,
    sessions,
};
use clap::Args;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  reeld split court/camera1
  reeld pause camera1
  reeld resume 9c3e2f60-0a5d-4a63-9f0e-0d6d3f0f4c11";

const SWITCH_EXAMPLES: &str = "\
Examples:
  reeld switch court/camera1 court/camera2
  reeld switch 1f0c1a52-6a3b-4d0e-8a57-2f6a0c7d9b21 camera2";

/// The recording of one live stream.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunningArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The live stream: ROOM/STREAM, a stream name that only one has, or a mediaSessionId
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = SWITCH_EXAMPLES)]
pub struct SwitchArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The recording: its id, or the live stream that it is of, as ROOM/STREAM or a stream name that only one has
    #[arg(value_name = "RECORDING")]
    pub recording: String,
    /// The live stream to go on with: ROOM/STREAM, a stream name that only one has, or a mediaSessionId
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `verb`: what the REST API calls it.
pub(super) async fn run(client: &Client, args: &RunningArgs, verb: &str) -> Result<(), CliError> {
    let id = sessions::resolve_recorded(client, &args.id).await?.to_string();
    let answer = client.post(&["sessions", &id, "recording", verb], &json!({})).await?;
    tell(client, answer, args.connect.json)
}

pub(super) async fn run_switch(client: &Client, args: &SwitchArgs) -> Result<(), CliError> {
    let recording = sessions::resolve_recording(client, &args.recording).await?;
    let id = sessions::resolve(client, &args.id).await?.to_string();
    let answer = client.post(&["recordings", &recording, "switch"], &json!({ "mediaSessionId": id })).await?;
    tell(client, answer, args.connect.json)
}

fn tell(client: &Client, answer: Value, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return print_json(&answer);
    }
    let recording: Recording = client.read(answer)?;
    print(&format!("{} {}\n", recording.status, recording.id))
}
