//! The measurement of lip sync itself, on files whose offset is known.

use support::avsync::{self, AvSync};

const TMP: &str = env!("CARGO_TARGET_TMPDIR");

#[test]
fn known_offsets_are_found() {
    for late_ms in [0, 100] {
        for container in ["mp4", "flv", "mkv"] {
            let name = format!("avsync{late_ms}.{container}");
            let measured = AvSync::measure(&avsync::file(TMP, &name, 5, late_ms));
            println!("{name}: {measured:?}");
            assert_eq!((measured.offsets_ms.len(), measured.unpaired), (5, 0), "{name}: {measured:?}");
            for offset in [measured.mean_ms(), measured.median_ms(), -measured.max_ms()] {
                let expected = -f64::from(late_ms);
                assert!((offset - expected).abs() <= 5.0, "{name}: {measured:?}");
            }
        }
    }
}
