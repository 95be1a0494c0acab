//! What a process holds of the machine, over time.

use std::{fs, time::Duration};

/// What a process holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Since the first one.
    pub at: Duration,
    pub rss_kib: u64,
    pub threads: u64,
    pub descriptors: u64,
}

/// How one number went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Of the first third of the samples, and of the last.
    pub early: f64,
    pub late: f64,
    pub highest: f64,
}

impl Sample {
    /// `None` when the process is gone.
    pub fn of(pid: u32, at: Duration) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Self { at, rss_kib: field("VmRSS")?, threads: field("Threads")?, descriptors })
    }
}

impl Trend {
    /// Of at least three samples.
    pub fn of(samples: &[Sample], number: impl Fn(&Sample) -> u64) -> Option<Self> {
        let third = samples.len() / 3;
        if third == 0 {
            return None;
        }
        let mean = |part: &[Sample]| part.iter().map(&number).sum::<u64>() as f64 / part.len() as f64;
        let highest = samples.iter().map(&number).max()? as f64;
        Some(Self { early: mean(&samples[..third]), late: mean(&samples[samples.len() - third..]), highest })
    }

    /// Whether it has grown by no more than a tenth, or by `slack`.
    pub fn is_flat(&self, slack: f64) -> bool {
        self.late <= self.early * 1.1 || self.late <= self.early + slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(numbers: &[u64]) -> Trend {
        let sample = |n: &u64| Sample { at: Duration::ZERO, rss_kib: *n, threads: 0, descriptors: 0 };
        Trend::of(&numbers.iter().map(sample).collect::<Vec<_>>(), |s| s.rss_kib).unwrap()
    }

    #[test]
    fn growth_is_told_from_noise() {
        assert!(trend(&[100, 104, 98, 120, 101, 103, 99, 104, 100]).is_flat(0.0));
        assert!(!trend(&[100, 110, 120, 130, 140, 150]).is_flat(0.0));
        assert!(trend(&[10, 11, 12, 13, 14, 15]).is_flat(8.0));
        assert!(Trend::of(&[], |s| s.threads).is_none());
        let own = Sample::of(std::process::id(), Duration::ZERO).unwrap();
        assert!(own.rss_kib > 0 && own.threads > 0 && own.descriptors > 0);
    }
}
