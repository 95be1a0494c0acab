//! Tables and units for people.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use comfy_table::{ContentArrangement, Table, presets};

/// Columns two spaces apart, without lines; every line ends in `\n`.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Text that cannot move the cursor or break a line of a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1:02:03`, or `2:03` under an hour.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match (s / 3_600, s / 60 % 60, s % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `12.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    // 1023.95 and up would be shown as 1024.0.
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `2.5 Mbit/s`.
pub(super) fn bitrate(bits_per_second: u64) -> String {
    match bits_per_second {
        0..1_000 => format!("{bits_per_second} bit/s"),
        1_000..1_000_000 => format!("{} kbit/s", bits_per_second / 1_000),
        _ => format!("{:.1} Mbit/s", bits_per_second as f64 / 1e6),
    }
}

/// Local time, RFC 3339, to the second.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).to_rfc3339_opts(SecondsFormat::Secs, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_people_read() {
        let durations = [(0, "0:00"), (999, "0:00"), (61_000, "1:01"), (3_723_999, "1:02:03")];
        for (ms, want) in durations {
            assert_eq!(duration(ms), want);
        }
        let sizes = [
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (12_900_000, "12.3 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, want) in sizes {
            assert_eq!(size(bytes), want);
        }
        let rates = [(999, "999 bit/s"), (128_900, "128 kbit/s"), (2_540_000, "2.5 Mbit/s")];
        for (rate, want) in rates {
            assert_eq!(bitrate(rate), want);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_stay_on_one_line() {
        let rows = [vec!["café".to_owned(), "1".to_owned()], vec!["a\u{1b}\nb".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], rows), "NAME  N\ncafé  1\na\u{fffd}\u{fffd}b  22\n");
    }
}
