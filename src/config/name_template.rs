//! Templates of file names: literal text with `{keys}`, in Flashphoner's and LiveKit's words.

use super::nearest;
use std::fmt;

/// Longest template, in bytes. A name ends up with at most 255 anyway.
const MAX_TEMPLATE_BYTES: usize = 512;

/// What a `{key}` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKey {
    StreamName,
    RoomName,
    RoomId,
    SessionId,
    MediaSessionId,
    Login,
    /// Start of the file by the media clock, Unix ms.
    StartTime,
    /// End of the file by the media clock, Unix ms.
    EndTime,
    /// Start of the file by the server's clock, Unix ms.
    StartTimeMillis,
    /// End of the file by the server's clock, Unix ms.
    EndTimeMillis,
    /// Duration of the file, ms.
    Duration,
    AudioCodec,
    VideoCodec,
    /// Number of the part, from 1.
    Part,
    /// Start of the file by the server's clock, as `2026-11-21T101112` (UTC).
    Time,
}

const KEYS: [(&str, TemplateKey); 16] = [
    ("streamName", TemplateKey::StreamName),
    ("roomName", TemplateKey::RoomName),
    ("sessionId", TemplateKey::SessionId),
    ("mediaSessionId", TemplateKey::MediaSessionId),
    ("login", TemplateKey::Login),
    ("startTime", TemplateKey::StartTime),
    ("endTime", TemplateKey::EndTime),
    ("startTimeMillis", TemplateKey::StartTimeMillis),
    ("endTimeMillis", TemplateKey::EndTimeMillis),
    ("duration", TemplateKey::Duration),
    ("audioCodec", TemplateKey::AudioCodec),
    ("videoCodec", TemplateKey::VideoCodec),
    ("part", TemplateKey::Part),
    ("room_name", TemplateKey::RoomName),
    ("room_id", TemplateKey::RoomId),
    ("time", TemplateKey::Time),
];

impl TemplateKey {
    fn parse(word: &str) -> Option<Self> {
        KEYS.into_iter().find(|(w, _)| *w == word).map(|(_, key)| key)
    }

    /// The key with its braces, as a template holds it.
    pub fn literal(self) -> String {
        let word = KEYS.into_iter().find(|(_, key)| *key == self).map_or("", |(word, _)| word);
        format!("{{{word}}}")
    }

    /// Its value is known only when the file ends.
    pub fn is_late(self) -> bool {
        matches!(self, TemplateKey::EndTime | TemplateKey::EndTimeMillis | TemplateKey::Duration)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePiece {
    Text(String),
    Key(TemplateKey),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the template is empty; write for example stream-{{sessionId}}-{{mediaSessionId}}")]
    Empty,
    #[error("the template is {0} bytes long; {MAX_TEMPLATE_BYTES} is the most")]
    TooLong(usize),
    #[error("the {{ at character {0} is never closed; write }} after the key")]
    Unclosed(usize),
    #[error("the }} at character {0} closes nothing; write {{ before the key, or take the }} out")]
    Stray(usize),
    #[error("unknown key {{{key}}}{}; the keys are {}", hint(*.nearest), known())]
    UnknownKey { key: String, nearest: Option<&'static str> },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|n| format!(", did you mean {{{n}}}?")).unwrap_or_default()
}

fn known() -> String {
    KEYS.map(|(word, _)| format!("{{{word}}}")).join(" ")
}

/// A checked template. Displays as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    source: String,
    pieces: Vec<TemplatePiece>,
}

impl NameTemplate {
    /// This name, whatever braces it has.
    pub fn literal(text: &str) -> Self {
        Self { source: text.to_owned(), pieces: vec![TemplatePiece::Text(text.to_owned())] }
    }

    /// Positions in errors count characters from 1.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong(text.len()));
        }
        let character = |byte: usize| text[..byte].chars().count() + 1;
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let literal = &rest[..rest.find(['{', '}']).unwrap_or(rest.len())];
            if !literal.is_empty() {
                pieces.push(TemplatePiece::Text(literal.to_owned()));
                at += literal.len();
                continue;
            }
            if rest.starts_with('}') {
                return Err(TemplateError::Stray(character(at)));
            }
            let inside = &rest[1..];
            let end = inside.find(['{', '}']).filter(|&end| inside[end..].starts_with('}'));
            let word = &inside[..end.ok_or(TemplateError::Unclosed(character(at)))?];
            pieces.push(TemplatePiece::Key(key(word)?));
            at += word.len() + 2;
        }
        Ok(Self { source: text.to_owned(), pieces })
    }

    pub fn pieces(&self) -> &[TemplatePiece] {
        &self.pieces
    }

    /// The name is complete only when the file ends: `{endTime}`, `{endTimeMillis}` or `{duration}` is in it.
    pub fn uses_late_keys(&self) -> bool {
        self.has(TemplateKey::is_late)
    }

    /// The start of each part is in its name: `{startTime}`, `{startTimeMillis}` or `{time}`.
    pub fn uses_start_time(&self) -> bool {
        self.has(|k| matches!(k, TemplateKey::StartTime | TemplateKey::StartTimeMillis | TemplateKey::Time))
    }

    pub fn uses_part(&self) -> bool {
        self.has(|k| k == TemplateKey::Part)
    }

    fn has(&self, wanted: impl Fn(TemplateKey) -> bool) -> bool {
        self.pieces.iter().any(|p| matches!(p, TemplatePiece::Key(k) if wanted(*k)))
    }
}

fn key(word: &str) -> Result<TemplateKey, TemplateError> {
    TemplateKey::parse(word).ok_or_else(|| TemplateError::UnknownKey {
        key: word.to_owned(),
        nearest: nearest(word, KEYS.map(|(word, _)| word), 0.6),
    })
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_keys_alternate() {
        let parsed = NameTemplate::parse("é-{room_name}{part}.x").unwrap();
        let expected = [
            TemplatePiece::Text("é-".into()),
            TemplatePiece::Key(TemplateKey::RoomName),
            TemplatePiece::Key(TemplateKey::Part),
            TemplatePiece::Text(".x".into()),
        ];
        assert_eq!(parsed.pieces(), expected);
        assert_eq!(parsed.to_string(), "é-{room_name}{part}.x");
    }

    #[test]
    fn mistakes_say_where_and_what_instead() {
        let long = "x".repeat(513);
        let cases = [
            ("", "the template is empty; write for example stream-{sessionId}-{mediaSessionId}"),
            (&long, "the template is 513 bytes long; 512 is the most"),
            ("é{login", "the { at character 2 is never closed; write } after the key"),
            ("{{login}}", "the { at character 1 is never closed; write } after the key"),
            ("a}b", "the } at character 2 closes nothing; write { before the key, or take the } out"),
        ];
        for (text, expected) in cases {
            assert_eq!(NameTemplate::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_known_ones_and_the_nearest() {
        let cases = [
            ("{StreamName}", Some("streamName")),
            ("{start_time}", Some("startTime")),
            ("{roomId}", Some("room_id")),
            ("{codec_of_video_used}", None),
            ("{}", None),
        ];
        for (text, expected) in cases {
            let error = NameTemplate::parse(text).unwrap_err();
            assert!(error.to_string().contains("{mediaSessionId}"), "{error}");
            let TemplateError::UnknownKey { nearest, .. } = error else { panic!("{error}") };
            assert_eq!(nearest, expected, "{text}");
        }
    }

    #[test]
    fn a_template_knows_what_it_depends_on() {
        let uses = |t: &str| {
            let t = NameTemplate::parse(t).unwrap();
            (t.uses_late_keys(), t.uses_start_time(), t.uses_part())
        };
        assert_eq!(uses("{streamName}"), (false, false, false));
        assert_eq!(uses("{startTime}"), (false, true, false));
        assert_eq!(uses("{startTimeMillis}-{endTimeMillis}"), (true, true, false));
        assert_eq!(uses("{endTime}"), (true, false, false));
        assert_eq!(uses("{duration}-{part}"), (true, false, true));
        assert_eq!(uses("{time}"), (false, true, false));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_kept_whole(text in "([a-z{}é/]|\\{(streamName|time|part)\\}){0,12}") {
            if let Ok(template) = NameTemplate::parse(&text) {
                let again: String = template.pieces().iter().map(|p| match p {
                    TemplatePiece::Text(t) => t.clone(),
                    TemplatePiece::Key(k) => k.literal(),
                }).collect();
                prop_assert_eq!(again, text);
            }
        }

        #[test]
        fn any_text_is_taken_or_refused_without_a_panic(text in any::<String>()) {
            let _ = NameTemplate::parse(&text);
        }
    }
}
