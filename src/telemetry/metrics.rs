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
    reads: Reads,
}

enum Reads {
    One(Read),
    /// One for each value of a label.
    By(&'static str, Vec<(&'static str, Read)>),
}

impl Metrics {
    /// A number that only grows. `name` without `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let reads = Reads::One(Box::new(read));
        self.numbers.push(Number { name, help, kind: MetricType::Counter, reads });
    }

    /// Numbers that only grow, one for each of the `values` of `label`.
    pub fn counter_by<F: Fn() -> u64 + Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, F)>,
    ) {
        let reads = values.into_iter().map(|(value, read)| (value, Box::new(read) as Read)).collect();
        let reads = Reads::By(label, reads);
        self.numbers.push(Number { name, help, kind: MetricType::Counter, reads });
    }

    /// A number that goes up and down.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let reads = Reads::One(Box::new(read));
        self.numbers.push(Number { name, help, kind: MetricType::Gauge, reads });
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
            match &number.reads {
                Reads::One(read) => encode_value(metric, number.kind, read())?,
                Reads::By(label, reads) => {
                    for (value, read) in reads {
                        let labels = [(*label, *value)];
                        encode_value(metric.encode_family(&labels)?, number.kind, read())?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn encode_value(metric: MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
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
        let refused = [("disk", 4_u64), ("cpu", 5)].map(|(reason, n)| (reason, move || n));
        metrics.counter_by("refused", "Starts refused.", "reason", refused);
        let text = metrics.into_text();
        value.store(7, Ordering::Relaxed);
        let text = text();
        assert!(text.contains("reeld_frames_total 7\n"), "{text}");
        for line in ["reeld_refused_total{reason=\"disk\"} 4\n", "reeld_refused_total{reason=\"cpu\"} 5\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(text.matches("# TYPE reeld_refused counter").count(), 1, "{text}");
        assert!(
            text.contains("# TYPE reeld_sessions gauge\n") && text.contains("reeld_sessions 3\n"),
            "{text}"
        );
    }
}
