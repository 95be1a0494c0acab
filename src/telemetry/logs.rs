use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{Event, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    layer::{Context, Filter, SubscriberExt},
    util::{SubscriberInitExt, TryInitError},
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    Text,
    Json,
}

/// Most lines that one place in the code may write within [`WINDOW`]; the rest is counted.
const LINES_PER_WINDOW: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);

/// Starts logging to standard error. `RUST_LOG` chooses what (default `info`). Under systemd lines carry no time
/// of their own: the journal stamps them.
pub fn init(style: LogStyle) -> Result<(), TryInitError> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match style {
        LogStyle::Json => Box::new(layer.json().flatten_event(true).with_filter(Throttle::default())),
        LogStyle::Text if in_journal => Box::new(layer.without_time().with_filter(Throttle::default())),
        LogStyle::Text => Box::new(layer.with_filter(Throttle::default())),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()
}

/// Keeps one noisy place from filling the disk with its log lines.
#[derive(Default)]
struct Throttle {
    places: Mutex<HashMap<Identifier, Place>>,
}

struct Place {
    since: Instant,
    lines: u32,
}

impl Throttle {
    /// Whether a line may be written, and how many were left out in the window that just ended.
    fn admit(&self, place: Identifier, now: Instant) -> (bool, u32) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(place).or_insert(Place { since: now, lines: 0 });
        let mut left_out = 0;
        if now.duration_since(place.since) >= WINDOW {
            left_out = place.lines.saturating_sub(LINES_PER_WINDOW);
            *place = Place { since: now, lines: 0 };
        }
        place.lines += 1;
        (place.lines <= LINES_PER_WINDOW, left_out)
    }
}

impl<S: Subscriber> Filter<S> for Throttle {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let (admitted, left_out) = self.admit(metadata.callsite(), Instant::now());
        if left_out > 0 {
            let place = format!("{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
            eprintln!("{left_out} log lines from {place} were left out in the last {} s", WINDOW.as_secs());
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_place_is_cut_short_and_what_was_left_out_is_counted() {
        fn any_callsite() -> Identifier {
            tracing::callsite::Identifier(&CALLSITE)
        }
        static CALLSITE: tracing::callsite::DefaultCallsite = tracing::callsite::DefaultCallsite::new(&META);
        static META: Metadata<'static> = tracing::metadata! {
            name: "x", target: "x", level: tracing::Level::INFO, fields: &[], callsite: &CALLSITE,
            kind: tracing::metadata::Kind::EVENT
        };
        let (throttle, start) = (Throttle::default(), Instant::now());
        let admitted = (0..80).filter(|_| throttle.admit(any_callsite(), start).0).count();
        assert_eq!(admitted, LINES_PER_WINDOW as usize);
        assert_eq!(throttle.admit(any_callsite(), start + WINDOW), (true, 30));
    }
}
