//! Whether the machine has more to do than it can.

/// Threads that want to run, of each processor, averaged over a minute.
const MOST_WAITING: f64 = 10.0;

/// False where the kernel does not tell.
pub fn is_overloaded() -> bool {
    let told = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    waiting(&told).is_some_and(|waiting| waiting > MOST_WAITING * processors as f64)
}

fn waiting(loadavg: &str) -> Option<f64> {
    loadavg.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(waiting("3.37 2.83 2.36 2/512 4711\n"), Some(3.37));
        assert_eq!((waiting(""), waiting("much")), (None, None));
        assert!(waiting(&std::fs::read_to_string("/proc/loadavg").unwrap()).is_some());
    }
}
