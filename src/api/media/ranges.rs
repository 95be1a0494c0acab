//! What a `Range` header asks for, of a file of a known size (RFC 9110, section 14).

use http_range_header::{EndPosition, StartPosition, SyntacticallyCorrectRange, parse_range_header};
use std::ops::RangeInclusive;

/// Ranges of one request. Who asks for more gets the whole file, as the RFC lets a server do.
const MAX_RANGES: usize = 16;
/// A longer header is not parsed.
const MAX_HEADER_BYTES: usize = 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Whole,
    One(RangeInclusive<u64>),
    /// Two or more, in the order in which they were asked for.
    Many(Vec<RangeInclusive<u64>>),
    /// Each begins behind the end of the file.
    Unsatisfiable,
}

/// A header that is wrong, or of another unit, is as good as not there. So are ranges that overlap so much that
/// together they are more than the file.
pub(super) fn asked(header: &str, size: u64) -> Asked {
    if header.len() > MAX_HEADER_BYTES {
        return Asked::Whole;
    }
    let Ok(parsed) = parse_range_header(header) else { return Asked::Whole };
    if parsed.ranges.len() > MAX_RANGES || parsed.ranges.iter().any(is_reversed) {
        return Asked::Whole;
    }
    let mut ranges: Vec<_> = parsed.ranges.iter().filter_map(|range| within(range, size)).collect();
    let sum = ranges.iter().map(|range| range.end() - range.start() + 1).fold(0, u64::saturating_add);
    match (ranges.len(), ranges.pop()) {
        (_, None) => Asked::Unsatisfiable,
        (1, Some(range)) => Asked::One(range),
        _ if sum > size => Asked::Whole,
        (_, Some(last)) => {
            ranges.push(last);
            Asked::Many(ranges)
        }
    }
}

fn is_reversed(range: &SyntacticallyCorrectRange) -> bool {
    matches!((range.start, range.end), (StartPosition::Index(start), EndPosition::Index(end)) if start > end)
}

/// `None` where nothing of the range is in the file.
fn within(range: &SyntacticallyCorrectRange, size: u64) -> Option<RangeInclusive<u64>> {
    let last = size.checked_sub(1)?;
    let start = match range.start {
        StartPosition::Index(at) => at,
        StartPosition::FromLast(count) => size.saturating_sub(count),
    };
    let end = match range.end {
        EndPosition::Index(at) => at.min(last),
        EndPosition::LastByte => last,
    };
    (start <= end).then_some(start..=end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_a_range() {
        use Asked::{Many, One, Unsatisfiable, Whole};
        for (header, size, wanted) in [
            ("bytes=0-99", 1000, One(0..=99)),
            ("bytes=0-0", 1000, One(0..=0)),
            ("bytes=900-", 1000, One(900..=999)),
            ("bytes=900-5000", 1000, One(900..=999)),
            ("bytes=-1", 1000, One(999..=999)),
            ("bytes=-1000", 1000, One(0..=999)),
            // A suffix longer than the file is the whole of it, as a range.
            ("bytes=-2000", 1000, One(0..=999)),
            ("bytes=0-", 1000, One(0..=999)),
            ("bytes=1000-", 1000, Unsatisfiable),
            ("bytes=1000-2000, 3000-", 1000, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Unsatisfiable),
            ("bytes=0-9, 5000-", 1000, One(0..=9)),
            ("bytes=0-9,20-29, -1", 1000, Many(vec![0..=9, 20..=29, 999..=999])),
            ("bytes=500-599, 0-9", 1000, Many(vec![500..=599, 0..=9])),
            ("bytes=0-, 0-", 1000, Whole),
            ("bytes=9-5", 1000, Whole),
            ("bytes=5", 1000, Whole),
            ("bytes=-", 1000, Whole),
            ("bytes=", 1000, Whole),
            ("bytes=a-b", 1000, Whole),
            ("bytes=0-18446744073709551615", 1000, One(0..=999)),
            ("bytes=0-99999999999999999999", 1000, Whole),
            ("seconds=0-9", 1000, Whole),
            ("", 1000, Whole),
        ] {
            assert_eq!(asked(header, size), wanted, "{header} of {size}");
        }
        let many =
            |n: usize| format!("bytes={}", (0..n).map(|i| format!("{i}-{i}")).collect::<Vec<_>>().join(","));
        assert!(matches!(asked(&many(MAX_RANGES), 1000), Many(ranges) if ranges.len() == MAX_RANGES));
        assert_eq!(asked(&many(MAX_RANGES + 1), 1000), Whole);
        assert_eq!(asked(&many(1000), 1000), Whole);
    }

    proptest! {
        #[test]
        fn no_header_leads_out_of_the_file(header in "(bytes=)?[0-9, -]{0,40}", size in 0..2000_u64) {
            let ranges = match asked(&header, size) {
                Asked::One(range) => vec![range],
                Asked::Many(ranges) => {
                    prop_assert!(ranges.len() > 1);
                    ranges
                }
                Asked::Whole | Asked::Unsatisfiable => Vec::new(),
            };
            for range in &ranges {
                prop_assert!(range.start() <= range.end() && *range.end() < size);
            }
            let sum: u64 = ranges.iter().map(|r| r.end() - r.start() + 1).sum();
            prop_assert!(sum <= size);
        }

        #[test]
        fn no_text_is_too_strange(header in ".{0,60}", size: u64) {
            asked(&header, size);
            asked(&format!("bytes={header}"), size);
        }
    }
}
