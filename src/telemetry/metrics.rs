use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, sync::Arc};

type Read = Box<dyn Fn() -> u64 + Send + Sync>;

/// Metrics that are read when they are scraped, all called `reeld_…`.
#[derive(Default)]
pub struct Metrics {
    numbers: Vec<Number>,
}

struct Number {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: Value,
}

enum Value {
    One(Read),
    /// One for each value of a label.
    Each {
        label: &'static str,
        of: Vec<(&'static str, Read)>,
    },
}

impl Metrics {
    /// A number that only grows. `name` without `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.numbers.push(Number { name, help, kind: MetricType::Counter, read: Value::One(Box::new(read)) });
    }

    /// A number that goes up and down.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.numbers.push(Number { name, help, kind: MetricType::Gauge, read: Value::One(Box::new(read)) });
    }

    /// A number that goes up and down, for each value of `label`.
    pub fn gauges<R: Fn() -> u64 + Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        of: impl IntoIterator<Item = (&'static str, R)>,
    ) {
        let of = of.into_iter().map(|(value, read)| (value, Box::new(read) as Read)).collect();
        let read = Value::Each { label, of };
        self.numbers.push(Number { name, help, kind: MetricType::Gauge, read });
    }

    /// A function that gives the OpenMetrics text.
    pub fn into_text(self) -> impl Fn() -> String + Clone + Send + Sync + 'static {
        let mut registry = Registry::with_prefix("reeld");
        registry.register_collector(Box::new(self));
        let registry = Arc::new(registry);
        move || {
            let mut text = String::new();
            // Writing to a String does not fail.
            let _ = encode(&mut text, &registry);
            text
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.numbers.iter().map(|n| n.name)).finish()
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for number in &self.numbers {
            let mut metric = encoder.encode_descriptor(number.name, number.help, None, number.kind)?;
            match &number.read {
                Value::One(read) => encode_number(number.kind, read(), metric)?,
                Value::Each { label, of } => {
                    for (value, read) in of {
                        encode_number(number.kind, read(), metric.encode_family(&[(*label, *value)])?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn encode_number(kind: MetricType, value: u64, metric: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(metric),
        _ => ConstGauge::new(value).encode(metric),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn numbers_are_read_at_each_scrape() {
        let value = Arc::new(AtomicU64::new(1));
        let read = value.clone();
        let mut metrics = Metrics::default();
        metrics.counter("frames", "Access units received.", move || read.load(Ordering::Relaxed));
        metrics.gauge("sessions", "Live streams.", || 3);
        let by_reason = [("black", 2), ("silent", 5)].map(|(reason, count)| (reason, move || count));
        metrics.gauges("degraded", "By reason.", "reason", by_reason);
        let text = metrics.into_text();
        value.store(7, Ordering::Relaxed);
        let text = text();
        assert!(text.contains("reeld_frames_total 7\n"), "{text}");
        let each = "# TYPE reeld_degraded gauge\nreeld_degraded{reason=\"black\"} 2\nreeld_degraded{reason=\"silent\"} 5\n";
        assert!(text.contains(each), "{text}");
        assert!(
            text.contains("# TYPE reeld_sessions gauge\n") && text.contains("reeld_sessions 3\n"),
            "{text}"
        );
    }
}
