//! How long a page of the list of recordings takes: every way of filtering, at the newest page and deep in the list.
//!
//! `cargo bench --bench catalog -- --rows 1000000`. The catalog is made in a temporary folder, one recording in ten has
//! three parts, half of all are in one room; what is timed is what `GET /api/v1/recordings` does with it.

mod fill;
mod shapes;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Parser, value_parser};
use reeld::library::{Library, Storage};
use shapes::Shape;

#[derive(Parser)]
#[command(name = "catalog", about = "Times lists of a large catalog")]
struct Cli {
    /// Recordings; may be given more than once [default: 1000, 100000, 1000000]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(100..=10_000_000))]
    rows: Vec<u32>,
    /// How often each list is read
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=100_000))]
    times: u32,
    /// Recordings on a page
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Fails when a 95th percentile is over so many ms
    #[arg(long, value_name = "MS")]
    at_most: Option<u64>,
    /// Passed by `cargo bench`; without it (`cargo test --benches`) nothing is run
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if !cli.bench {
        return ExitCode::SUCCESS;
    }
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<()> {
    let sizes = if cli.rows.is_empty() { &[1_000, 100_000, 1_000_000] } else { &cli.rows[..] };
    let mut slow = Vec::new();
    for &rows in sizes {
        slow.extend(measure(cli, rows).await?);
    }
    anyhow::ensure!(slow.is_empty(), "over {} ms: {}", cli.at_most.unwrap_or_default(), slow.join(", "));
    Ok(())
}

/// Prints a table; answers which lists took longer than allowed.
async fn measure(cli: &Cli, rows: u32) -> Result<Vec<String>> {
    let dir = tempfile::tempdir().context("a temporary folder")?;
    let file = dir.path().join("catalog.sqlite");
    let url = format!("sqlite:{}", file.display());
    let storage = Storage::open(&dir.path().join("records"))?;
    Library::open(&url, storage.clone()).await?.close().await;
    let begin = Instant::now();
    fill::fill(&file, rows).await.context("fill the catalog")?;
    let filled = begin.elapsed();
    let begin = Instant::now();
    Library::open(&url, storage.clone()).await?.close().await;
    let checked = begin.elapsed();
    let begin = Instant::now();
    let library = Library::open(&url, storage).await?;
    let bytes = std::fs::metadata(&file)?.len();
    println!(
        "\n## {rows} recordings, {} MiB, made in {:.1} s; checked and opened in {:.1} s, as it was closed in {:.1} s\n",
        bytes >> 20,
        filled.as_secs_f64(),
        checked.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    println!("| list | rows | least ms | p50 ms | p95 ms | max ms |\n| --- | --: | --: | --: | --: | --: |");
    let mut slow = Vec::new();
    for shape in shapes::all(&library, rows, cli.limit).await? {
        let p95 = time(&library, &shape, cli.times).await?;
        if cli.at_most.is_some_and(|ms| p95 > Duration::from_millis(ms)) {
            slow.push(format!("{} of {rows}", shape.name));
        }
    }
    library.close().await;
    Ok(slow)
}

/// Prints a row; answers the 95th percentile.
async fn time(library: &Library, shape: &Shape, times: u32) -> Result<Duration> {
    let mut took = Vec::new();
    let mut items = 0;
    for _ in 0..times {
        let begin = Instant::now();
        items = library.list(&shape.filter).await?.items.len();
        took.push(begin.elapsed());
    }
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let [least, half, most, all] = [0, 50, 95, 100].map(|percent| ms(at(percent)));
    println!("| {} | {items} | {least:.2} | {half:.2} | {most:.2} | {all:.2} |", shape.name);
    Ok(at(95))
}
