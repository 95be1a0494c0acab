use std::{
    collections::HashMap,
    fmt::{self, Debug},
    io::IsTerminal,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::{DefaultCallsite, Identifier},
    field::{Field, Value, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStyle {
    Text,
    Json,
}

/// Most lines of one [`Key`] within [`WINDOW`]; the rest is counted.
const LINES_PER_WINDOW: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
/// Past so many keys all are forgotten, with what they have counted.
const MAX_KEYS: usize = 10_000;

/// Starts logging to standard error. `RUST_LOG` chooses what (default `info`). Under systemd lines carry no time
/// of their own: the journal stamps them.
pub fn init(style: LogStyle) -> Result<(), TryInitError> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let layer = layer(style, std::io::stderr, Arc::default());
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()
}

fn layer<W>(style: LogStyle, writer: W, throttle: Arc<Throttle>) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    match style {
        LogStyle::Json => {
            let throttled = |format| Throttled { format, throttle };
            Box::new(layer.json().flatten_event(true).map_event_format(throttled))
        }
        LogStyle::Text if in_journal => {
            Box::new(layer.without_time().map_event_format(|format| Throttled { format, throttle }))
        }
        LogStyle::Text => Box::new(layer.map_event_format(|format| Throttled { format, throttle })),
    }
}

/// Keeps one noisy place, or one noisy publisher, from filling the disk with log lines.
#[derive(Default)]
struct Throttle {
    windows: Mutex<HashMap<Key, Window>>,
}

/// What is counted together: a place in the code and whom its line is about.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    place: Identifier,
    about: String,
}

struct Window {
    since: Instant,
    lines: u32,
}

impl Throttle {
    /// Whether a line may be written, and how many of its key were left out in the window that just ended.
    fn admit(&self, key: Key, now: Instant) -> (bool, u32) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= MAX_KEYS && !windows.contains_key(&key) {
            windows.clear();
        }
        let window = windows.entry(key).or_insert(Window { since: now, lines: 0 });
        let mut left_out = 0;
        if now.duration_since(window.since) >= WINDOW {
            left_out = window.lines.saturating_sub(LINES_PER_WINDOW);
            *window = Window { since: now, lines: 0 };
        }
        window.lines = window.lines.saturating_add(1);
        (window.lines <= LINES_PER_WINDOW, left_out)
    }
}

/// Formats the lines that its throttle admits. It is not a filter, so that it can write a line of its own, in the
/// same style, without sending an event from within an event.
struct Throttled<F> {
    format: F,
    throttle: Arc<Throttle>,
}

impl<S, N, F> FormatEvent<S, N> for Throttled<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() == Level::ERROR {
            return self.format.format_event(ctx, to, event);
        }
        let key = Key { place: metadata.callsite(), about: About::of(event) };
        let about = key.about.clone();
        let (admitted, left_out) = self.throttle.admit(key, Instant::now());
        if left_out > 0 {
            let place = format!("{}:{}", metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
            let values: [Option<&dyn Value>; 4] =
                [Some(&"log lines were left out"), Some(&left_out), Some(&place), Some(&about)];
            let values = LEFT_OUT.fields().value_set_all(&values);
            self.format.format_event(ctx, to.by_ref(), &Event::new(&LEFT_OUT, &values))?;
        }
        match admitted {
            true => self.format.format_event(ctx, to, event),
            false => Ok(()),
        }
    }
}

static LEFT_OUT_CALLSITE: DefaultCallsite = DefaultCallsite::new(&LEFT_OUT);
static LEFT_OUT: Metadata<'static> = tracing::metadata! {
    name: "left_out", target: module_path!(), level: Level::WARN, fields: &["message", "lines", "place", "about"],
    callsite: &LEFT_OUT_CALLSITE, kind: tracing::metadata::Kind::EVENT
};

/// Whom an event is about: its stream, session or recording, else the address of its peer. The first in this list
/// that it has.
#[derive(Default)]
struct About([Option<String>; ABOUT.len()]);

const ABOUT: [&str; 4] = ["stream", "session", "recording", "remote"];

impl About {
    /// Empty when it is about none of them.
    fn of(event: &Event<'_>) -> String {
        let mut about = About::default();
        event.record(&mut about);
        let [stream, session, recording, remote] = about.0;
        // The port is another one with every connection.
        let remote = remote.map(|r| r.parse().map_or(r, |a: SocketAddr| a.ip().to_string()));
        stream.or(session).or(recording).or(remote).unwrap_or_default()
    }
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if let Some(at) = ABOUT.iter().position(|name| *name == field.name()) {
            self.0[at] = Some(format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap()
        }
    }

    fn logging(style: LogStyle) -> (tracing::Dispatch, Lines, Arc<Throttle>) {
        let (lines, throttle) = (Lines::default(), Arc::<Throttle>::default());
        let writer = lines.clone();
        let layer = layer(style, move || writer.clone(), throttle.clone());
        (tracing_subscriber::registry().with(layer).into(), lines, throttle)
    }

    const ALL: usize = LINES_PER_WINDOW as usize;

    #[test]
    fn each_key_has_its_own_count() {
        let (dispatch, lines, _) = logging(LogStyle::Text);
        let written = |emit: &dyn Fn()| {
            tracing::dispatcher::with_default(&dispatch, || (0..ALL + 30).for_each(|_| emit()));
            lines.take().lines().count()
        };
        let of_stream = |name: &str| tracing::info!(stream = name, remote = "192.0.2.1:80", "frame left out");
        assert_eq!(written(&|| of_stream("a")), ALL);
        assert_eq!(written(&|| of_stream("b")), ALL);
        assert_eq!(written(&|| of_stream("a")), 0);

        let of_peer = |remote: &str| tracing::warn!(%remote, "refused");
        assert_eq!(written(&|| of_peer("192.0.2.1:4000")), ALL);
        assert_eq!(written(&|| of_peer("192.0.2.1:4001")), 0);
        assert_eq!(written(&|| of_peer("[2001:db8::1]:4000")), ALL);

        let of_session = |id: u32| tracing::info!(session = id, recording = 0, "ended");
        assert_eq!(written(&|| of_session(1)), ALL);
        assert_eq!(written(&|| of_session(2)), ALL);

        assert_eq!(written(&|| tracing::info!("about nobody")), ALL);
        assert_eq!(written(&|| tracing::error!(stream = "a", "an error")), ALL + 30);
    }

    #[test]
    fn what_was_left_out_is_told_in_the_style_of_the_log() {
        let (dispatch, lines, throttle) = logging(LogStyle::Json);
        let emit = |n| {
            let one = |_| tracing::info!(stream = "a", "frame left out");
            tracing::dispatcher::with_default(&dispatch, || (0..n).for_each(one));
        };
        emit(ALL + 30);
        lines.take();
        throttle.windows.lock().unwrap().values_mut().for_each(|w| w.since -= WINDOW);
        emit(1);
        let json: Vec<serde_json::Value> =
            lines.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [summary, next] = json.as_slice() else { panic!("{json:?}") };
        assert_eq!((&summary["level"], &summary["lines"]), (&"WARN".into(), &30.into()));
        assert_eq!(summary["about"], "a");
        assert!(summary["place"].as_str().unwrap().contains("logs.rs:"), "{summary}");
        assert_eq!(next["message"], "frame left out");
    }

    #[test]
    fn the_keys_are_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admit = |n: usize| {
            throttle.admit(Key { place: LEFT_OUT.callsite(), about: n.to_string() }, now);
            throttle.windows.lock().unwrap().len()
        };
        assert_eq!((0..MAX_KEYS).map(admit).max(), Some(MAX_KEYS));
        assert_eq!(admit(0), MAX_KEYS);
        assert_eq!(admit(MAX_KEYS), 1);
    }
}
