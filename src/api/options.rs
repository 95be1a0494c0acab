//! Options of a start call, as both dialects take them.

use super::problem::{Kind, Problem};
use crate::config::{Rotation, parse_seconds};
use serde::Deserialize;
use std::time::Duration;

/// Far above what is ever kept: how much that is, the start says itself.
const MAX_PREROLL: Duration = Duration::from_secs(24 * 60 * 60);

/// A time or a size: a number is seconds.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "expected a number of seconds, or a text like \"10s\"")]
pub(super) enum Amount {
    Number(f64),
    Text(String),
}

impl Amount {
    fn into_text(self) -> String {
        match self {
            Amount::Number(seconds) => seconds.to_string(),
            Amount::Text(text) => text,
        }
    }
}

/// As `record_rotation` is written. `field` is named in the problem.
pub(super) fn rotation(field: &str, given: Option<Amount>) -> Result<Option<Rotation>, Problem> {
    read(field, given, Rotation::parse)
}

/// As `record_preroll` is written.
pub(super) fn preroll(field: &str, given: Option<Amount>) -> Result<Option<Duration>, Problem> {
    read(field, given, |text| parse_seconds(text, Duration::ZERO..=MAX_PREROLL))
}

fn read<T>(
    field: &str,
    given: Option<Amount>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    let value = given.map(|amount| parse(&amount.into_text())).transpose();
    value.map_err(|what| Problem::new(Kind::BadOption, format!("{field}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(json: &str) -> Option<Amount> {
        serde_json::from_str(json).expect(json)
    }

    fn detail<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        let problem = result.expect_err("a problem");
        assert_eq!(problem.kind(), Kind::BadOption);
        problem.detail().to_owned()
    }

    #[test]
    fn a_number_is_seconds_and_a_text_as_in_the_policy() {
        let seconds = |s| Some(Duration::from_secs(s));
        for (json, duration, bytes) in [
            ("20", seconds(20), None),
            ("20.0", seconds(20), None),
            ("\"1h,10M\"", seconds(3600), Some(10_000_000)),
            ("\"off\"", None, None),
            ("0", None, None),
        ] {
            let read = rotation("rotation", amount(json)).expect(json);
            assert_eq!(read, Some(Rotation { duration, bytes }), "{json}");
        }
        assert_eq!(rotation("rotation", amount("null")).expect("nothing"), None);
        for (json, wanted) in [("10", 10), ("\"10s\"", 10), ("0", 0), ("\"2m\"", 120)] {
            assert_eq!(preroll("preroll", amount(json)).expect(json), seconds(wanted), "{json}");
        }
    }

    #[test]
    fn what_is_wrong_names_the_field_and_what_to_write() {
        for json in ["-1", "1.5", "1e300", "\"10X\""] {
            let said = detail(rotation("config.rotation", amount(json)));
            assert!(said.starts_with("config.rotation: ") && said.contains("write"), "{said}");
            let said = detail(preroll("preroll", amount(json)));
            assert!(said.starts_with("preroll: ") && said.contains("like 10 or 10s"), "{said}");
        }
        let error = serde_json::from_str::<Amount>("[1]").expect_err("a list").to_string();
        assert!(error.contains("expected a number of seconds"), "{error}");
    }
}
