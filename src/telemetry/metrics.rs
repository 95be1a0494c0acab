use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
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
    read: Read,
}

impl Metrics {
    /// A number that only grows. `name` without `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.numbers.push(Number { name, help, kind: MetricType::Counter, read: Box::new(read) });
    }

    /// A number that goes up and down.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.numbers.push(Number { name, help, kind: MetricType::Gauge, read: Box::new(read) });
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
            let value = (number.read)();
            let metric = encoder.encode_descriptor(number.name, number.help, None, number.kind)?;
            match number.kind {
                MetricType::Counter => ConstCounter::new(value).encode(metric)?,
                _ => ConstGauge::new(value).encode(metric)?,
            }
        }
        Ok(())
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
        let text = metrics.into_text();
        value.store(7, Ordering::Relaxed);
        let text = text();
        assert!(text.contains("reeld_frames_total 7\n"), "{text}");
        assert!(
            text.contains("# TYPE reeld_sessions gauge\n") && text.contains("reeld_sessions 3\n"),
            "{text}"
        );
    }
}
