//! Query strings of lists, and that of `GET /api/v1/recordings`.

use super::problem::{Kind, Problem, quoted};
use crate::{
    control::{Filter, Status},
    media::MediaSessionId,
};
use chrono::{DateTime, Utc};

/// Items of a page when `limit` is not given.
pub(super) const DEFAULT_LIMIT: u32 = 100;

const KNOWN: &str = "room, stream, mediaSessionId, status, from, to, limit, cursor";

/// Takes decoded `name=value` pairs one by one. A name that is unknown or given twice is refused like a bad
/// value: a filter that is left out by mistake would answer what was not asked for.
pub(super) fn each(
    pairs: &[(String, String)],
    mut take: impl FnMut(&str, &str) -> Result<(), Problem>,
) -> Result<(), Problem> {
    for (index, (name, value)) in pairs.iter().enumerate() {
        if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(bad(name, "is given twice"));
        }
        if value.is_empty() {
            return Err(bad(name, "is empty; leave it out to not filter by it"));
        }
        take(name, value)?;
    }
    Ok(())
}

/// The filter that decoded `name=value` pairs ask for.
pub(super) fn recordings(pairs: &[(String, String)]) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: DEFAULT_LIMIT, ..Filter::default() };
    each(pairs, |name, value| {
        match name {
            "room" => filter.room = Some(value.to_owned()),
            "stream" => filter.stream = Some(value.to_owned()),
            "mediaSessionId" => filter.media_session_id = Some(session(name, value)?),
            "status" => filter.status = Some(status(name, value)?),
            "from" => filter.from = Some(time(name, value)?),
            "to" => filter.to = Some(time(name, value)?),
            "limit" => filter.limit = limit(name, value)?,
            "cursor" => filter.cursor = Some(value.to_owned()),
            _ => return Err(bad(name, &format!("is no parameter of this list; it has {KNOWN}"))),
        }
        Ok(())
    })?;
    Ok(filter)
}

pub(super) fn bad(name: &str, what: &str) -> Problem {
    Problem::new(Kind::BadParameter, format!("{} {what}", quoted(name)))
}

fn session(name: &str, value: &str) -> Result<MediaSessionId, Problem> {
    MediaSessionId::parse(value).ok_or_else(|| bad(name, &format!("is {}, which is no UUID", quoted(value))))
}

fn status(name: &str, value: &str) -> Result<Status, Problem> {
    Status::parse(value).ok_or_else(|| {
        let words = Status::ALL.map(Status::as_str).join(", ");
        bad(name, &format!("is {}; write one of {words}", quoted(value)))
    })
}

fn time(name: &str, value: &str) -> Result<DateTime<Utc>, Problem> {
    DateTime::parse_from_rfc3339(value).map(|t| t.to_utc()).map_err(|_| {
        let hint = "write an RFC 3339 time as in 2026-03-01T12:00:00Z (a + in it as %2B)";
        bad(name, &format!("is {}; {hint}", quoted(value)))
    })
}

pub(super) fn limit(name: &str, value: &str) -> Result<u32, Problem> {
    match value.parse() {
        Ok(n @ 1..=Filter::MAX_LIMIT) => Ok(n),
        _ => Err(bad(name, &format!("is {}; write a number from 1 to {}", quoted(value), Filter::MAX_LIMIT))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Filter, String> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        recordings(&pairs).map_err(|p| {
            assert_eq!(p.kind(), Kind::BadParameter);
            p.detail().to_owned()
        })
    }

    #[test]
    fn every_parameter_finds_its_place() {
        let id = MediaSessionId::random();
        let filter = parse(&[
            ("room", "court"),
            ("stream", "room 4"),
            ("mediaSessionId", &id.to_string()),
            ("status", "completed"),
            ("from", "2026-03-01T13:00:00+01:00"),
            ("to", "2026-03-02T00:00:00Z"),
            ("limit", "7"),
            ("cursor", "abc"),
        ])
        .expect("a filter");
        assert_eq!((filter.room.as_deref(), filter.stream.as_deref()), (Some("court"), Some("room 4")));
        assert_eq!((filter.media_session_id, filter.status), (Some(id), Some(Status::Completed)));
        assert_eq!(filter.from.map(|t| t.to_rfc3339()), Some("2026-03-01T12:00:00+00:00".into()));
        assert_eq!(filter.to.map(|t| t.timestamp()), Some(1_772_409_600));
        assert_eq!((filter.limit, filter.cursor.as_deref()), (7, Some("abc")));
        assert_eq!(parse(&[]).expect("a filter").limit, DEFAULT_LIMIT);
        for status in [Status::Paused, Status::Recovered] {
            assert_eq!(parse(&[("status", status.as_str())]).expect("a filter").status, Some(status));
        }
    }

    #[test]
    fn a_bad_value_is_refused_by_its_name() {
        let table = [
            ("mediaSessionId", "x", "`mediaSessionId` is `x`, which is no UUID"),
            ("status", "Paused", "paused, finalizing, completed, failed, recovered"),
            ("status", "done", "`status` is `done`; write one of starting, recording,"),
            ("from", "yesterday", "`from` is `yesterday`; write an RFC 3339 time"),
            ("to", "2026-03-01T13:00:00 01:00", "%2B"),
            ("limit", "0", "`limit` is `0`; write a number from 1 to 1000"),
            ("limit", "1001", "from 1 to 1000"),
            ("limit", "-1", "from 1 to 1000"),
            ("limit", "99999999999", "from 1 to 1000"),
            ("room", "", "`room` is empty"),
            ("rooom", "x", "it has room, stream, mediaSessionId"),
        ];
        for (name, value, want) in table {
            let detail = parse(&[(name, value)]).expect_err("a fault");
            assert!(detail.contains(want), "{detail} lacks {want}");
        }
        assert_eq!(parse(&[("room", "a"), ("room", "a")]).expect_err("twice"), "`room` is given twice");
    }
}
