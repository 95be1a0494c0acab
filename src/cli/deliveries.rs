//! `reeld deliveries`.

use super::{
    ConnectArgs,
    client::{CliError, Client, print, print_json},
    table,
};
use crate::control::{DeliveryKind, Letter, LetterState};
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use serde::Deserialize;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  reeld deliveries                       what is still to be delivered
  reeld deliveries --dead                what was given up
  reeld deliveries retry 17 18           try these again now
  reeld deliveries retry --all           try again all that was given up
  reeld deliveries drop 17               give one up for good";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct DeliveriesArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only those that were given up
    #[arg(long)]
    dead: bool,
    #[command(flatten)]
    of: OfArgs,
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Args)]
struct OfArgs {
    /// Only those of this kind
    #[arg(long, value_parser = PossibleValuesParser::new(DeliveryKind::ALL.map(DeliveryKind::as_str)))]
    kind: Option<String>,
    /// Only those of this recording
    #[arg(long, value_name = "ID")]
    recording: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Try deliveries again now
    Retry(RetryArgs),
    /// Take deliveries out, undelivered
    Drop(DropArgs),
}

#[derive(Debug, Args)]
struct RetryArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Ids of deliveries, as `reeld deliveries` lists them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "kind", "recording"])]
    ids: Vec<String>,
    /// All that were given up
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    of: OfArgs,
}

#[derive(Debug, Args)]
struct DropArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Ids of deliveries, as `reeld deliveries` lists them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl DeliveriesArgs {
    pub(super) fn connect(&self) -> &ConnectArgs {
        match &self.action {
            None => &self.list.connect,
            Some(Action::Retry(args)) => &args.connect,
            Some(Action::Drop(args)) => &args.connect,
        }
    }
}

pub(super) async fn run(client: &Client, args: &DeliveriesArgs) -> Result<(), CliError> {
    match &args.action {
        None => list(client, &args.list).await,
        Some(Action::Retry(args)) if args.all => retry_all(client, args).await,
        Some(Action::Retry(args)) => retry(client, args).await,
        Some(Action::Drop(args)) => drop_each(client, args).await,
    }
}

async fn list(client: &Client, args: &ListArgs) -> Result<(), CliError> {
    let limit = args.limit.to_string();
    let filters = [
        ("state", args.dead.then_some(LetterState::Dead.as_str())),
        ("kind", args.of.kind.as_deref()),
        ("recordingId", args.of.recording.as_deref()),
        ("limit", Some(&limit)),
    ];
    let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = client.get(&["deliveries"], &query).await?;
    if args.connect.json {
        return print_json(&answer);
    }
    let page: Letters = client.read(answer)?;
    if page.items.is_empty() {
        eprintln!("{}", if args.dead { "nothing was given up" } else { "nothing is to be delivered" });
        return Ok(());
    }
    print(&table(&page.items))?;
    if page.next_cursor.is_some() {
        eprintln!("there are more; raise --limit, or narrow with --dead, --kind or --recording");
    }
    Ok(())
}

async fn retry_all(client: &Client, args: &RetryArgs) -> Result<(), CliError> {
    let body = json!({"kind": args.of.kind, "recordingId": args.of.recording});
    let answer = client.post(&["deliveries", "retry"], &body).await?;
    if args.connect.json {
        return print_json(&answer);
    }
    print(&format!("{} tried again\n", answer["retried"].as_u64().unwrap_or(0)))
}

async fn retry(client: &Client, args: &RetryArgs) -> Result<(), CliError> {
    let mut letters = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        letters.push(client.post(&["deliveries", id, "retry"], &json!({})).await?);
    }
    if args.connect.json {
        return print_json(&json!({ "items": letters }));
    }
    let letters = letters.into_iter().map(|letter| client.read(letter)).collect::<Result<Vec<_>, _>>()?;
    print(&table(&letters))
}

async fn drop_each(client: &Client, args: &DropArgs) -> Result<(), CliError> {
    for id in &args.ids {
        client.delete(&["deliveries", id]).await?;
    }
    match args.connect.json {
        true => print_json(&Value::Null),
        false => print(&format!("{} dropped\n", args.ids.len())),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Letters {
    items: Vec<Letter>,
    next_cursor: Option<String>,
}

fn table(letters: &[Letter]) -> String {
    let head = ["ID", "STATE", "KIND", "TARGET", "RECORDING ID", "WHAT", "ATTEMPTS", "NEXT", "ERROR"];
    table::table(&head, letters.iter().map(row))
}

fn row(letter: &Letter) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let what = letter.event.clone().or_else(|| letter.part.map(|part| format!("part {part}")));
    vec![
        letter.id.to_string(),
        letter.state.as_str().to_owned(),
        letter.kind.as_str().to_owned(),
        letter.target.clone(),
        or_dash(letter.recording_id.map(|id| id.to_string())),
        or_dash(what),
        letter.attempts.to_string(),
        or_dash(letter.next_at.map(table::time)),
        or_dash(letter.error.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, ClientCommand, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<DeliveriesArgs, i32> {
        let words = ["reeld", "deliveries"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).map_err(|e| e.exit_code())?.command {
            Command::Client(ClientCommand::Deliveries(args)) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_list_an_id_or_all_can_be_asked_for() {
        assert!(
            parse("--dead --kind upload --recording x --json").is_ok_and(|a| a.list.dead && a.connect().json)
        );
        let some = parse("retry 1 2 --json --server h:1").expect("ids");
        assert_eq!(some.connect().server.as_deref(), Some("h:1"));
        assert!(matches!(&some.action, Some(Action::Retry(r)) if r.ids == ["1", "2"] && !r.all));
        assert!(parse("retry --all --kind hook").is_ok() && parse("drop 4").is_ok());
        for wrong in
            ["retry", "retry 1 --all", "retry 1 --kind hook", "drop", "--kind mail", "--dead retry 1"]
        {
            assert_eq!(parse(wrong).err(), Some(2), "{wrong}");
        }
    }

    #[test]
    fn a_row_tells_what_is_delivered_and_what_went_wrong() {
        let letter = json!({
            "id": 7, "key": "msg_1", "kind": "webhook", "target": "https://h", "event": "recording.part",
            "recordingId": null, "part": 2, "state": "failed", "attempts": 3,
            "firstTriedAt": "2026-03-01T12:00:00Z", "nextAt": null, "error": "503",
        });
        let letter: Letter = serde_json::from_value(letter).expect("a letter");
        let cells = ["7", "failed", "webhook", "https://h", "-", "recording.part", "3", "-", "503"];
        assert_eq!(row(&letter), cells);
        let hook = Letter { event: None, kind: DeliveryKind::Hook, ..letter };
        assert_eq!(row(&hook)[5], "part 2");
    }
}
