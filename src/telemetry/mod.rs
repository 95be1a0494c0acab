//! Logs and metrics. Nobody imports this to count: modules expose their numbers, `app` registers them here.

mod logs;
mod metrics;

pub use logs::{LogStyle, init as init_logs};
pub use metrics::Metrics;
