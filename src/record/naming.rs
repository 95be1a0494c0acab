//! The name of a recorded file: one safe path component, whatever the stream is called.

use crate::config::{NameEncoding, NameRule, TemplateKey, TemplatePiece};
use crate::media::Codec;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;

/// Longest file name of the file systems that matter.
const MAX_NAME_BYTES: usize = 255;
/// What is put behind `NAME.EXT` for the file being written and for the manifest.
const COMPANION: &str = ".part";
const _: () = assert!(COMPANION.len() == ".json".len());
/// Name of a recording whose name has nothing left.
const NAMELESS: &str = "stream";

/// What a template can tell about one file.
#[derive(Clone, Copy, Debug)]
pub struct NameFacts<'a> {
    pub stream_name: &'a str,
    pub room_name: &'a str,
    pub room_id: &'a str,
    /// Already in URL-safe BASE64.
    pub session_id: &'a str,
    pub media_session_id: &'a str,
    pub login: &'a str,
    /// First frame by the media clock, Unix ms.
    pub start_ms: i64,
    /// First frame by the server's clock, Unix ms.
    pub start_wall_ms: i64,
    pub audio_codec: Option<Codec>,
    pub video_codec: Option<Codec>,
    /// From 1.
    pub part: u32,
    /// `None` while the file is written.
    pub end: Option<EndFacts>,
}

/// What is known once a file has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndFacts {
    /// End of the last frame by the media clock, Unix ms.
    pub end_ms: i64,
    /// The same by the server's clock.
    pub end_wall_ms: i64,
    pub duration_ms: u64,
}

/// The name of a file without its extension: the template filled in, excluded characters removed, encoded,
/// made safe, trimmed; `part_suffix` goes behind it as `_N`.
///
/// While the end is not known, keys that need it stay as they are written (`{endTime}`).
///
/// With an `extension` of up to 32 bytes the result is never empty, never hidden, holds no `/` and no control
/// character, and `STEM.EXT.part` and `STEM.EXT.json` fit into 255 bytes.
pub fn file_stem(rule: &NameRule, facts: &NameFacts, part_suffix: Option<u32>, extension: &str) -> String {
    let suffix = part_suffix.map(|n| format!("_{n}")).unwrap_or_default();
    let mut name: String = rule.template.pieces().iter().map(|piece| fill(piece, facts)).collect();
    name.retain(|c| !rule.exclude.contains(&c));
    if name.trim().is_empty() {
        name = NAMELESS.to_owned();
    }
    let room = room_for(&suffix, extension);
    // The plain name is trimmed, not its code: the code of a trimmed name can be decoded.
    let stem = match rule.encoding {
        None => fit(&safe(&name), room).to_owned(),
        Some(NameEncoding::Hex) => hex::encode(fit(&name, room / 2)),
        Some(NameEncoding::Base64) => URL_SAFE_NO_PAD.encode(fit(&name, room / 4 * 3)),
    };
    stem + &suffix
}

/// `stem` with `suffix` (`_2` for a name that is taken) behind it, trimmed so that the suffix stays whole.
pub fn with_suffix(stem: &str, suffix: &str, extension: &str) -> String {
    format!("{}{suffix}", fit(stem, room_for(suffix, extension)))
}

/// Whether a file that is to be called `stem` and not encoded gets that very name.
pub fn is_kept(stem: &str, extension: &str) -> bool {
    !stem.trim().is_empty() && fit(&safe(stem), room_for("", extension)) == stem
}

/// Bytes left for the stem; always enough for one character.
fn room_for(suffix: &str, extension: &str) -> usize {
    let taken = suffix.len() + ".".len() + extension.len() + COMPANION.len();
    MAX_NAME_BYTES.saturating_sub(taken).max(8)
}

fn fit(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn fill(piece: &TemplatePiece, facts: &NameFacts) -> String {
    match piece {
        TemplatePiece::Text(text) => text.clone(),
        TemplatePiece::Key(key) => value(*key, facts).unwrap_or_else(|| key.literal()),
    }
}

/// The value of a key, as long as Flashphoner lets it be; `None` while it is not known.
fn value(key: TemplateKey, facts: &NameFacts) -> Option<String> {
    let codec = |codec: Option<Codec>| first_chars(codec.map_or("none", Codec::as_str), 4);
    Some(match key {
        TemplateKey::StreamName => facts.stream_name.to_owned(),
        TemplateKey::RoomName => facts.room_name.to_owned(),
        TemplateKey::RoomId => facts.room_id.to_owned(),
        TemplateKey::SessionId => first_chars(facts.session_id, 60),
        TemplateKey::MediaSessionId => first_chars(facts.media_session_id, 36),
        TemplateKey::Login => first_chars(facts.login, 32),
        TemplateKey::StartTime => facts.start_ms.to_string(),
        TemplateKey::StartTimeMillis => facts.start_wall_ms.to_string(),
        TemplateKey::EndTime => facts.end?.end_ms.to_string(),
        TemplateKey::EndTimeMillis => facts.end?.end_wall_ms.to_string(),
        TemplateKey::Duration => facts.end?.duration_ms.to_string(),
        TemplateKey::AudioCodec => codec(facts.audio_codec),
        TemplateKey::VideoCodec => codec(facts.video_codec),
        TemplateKey::Part => facts.part.to_string(),
        TemplateKey::Time => time(facts.start_wall_ms),
    })
}

fn first_chars(text: &str, count: usize) -> String {
    text.chars().take(count).collect()
}

/// `2026-11-21T101112`; a time no calendar holds stays a number.
fn time(unix_ms: i64) -> String {
    match DateTime::from_timestamp_millis(unix_ms) {
        Some(time) => time.format("%Y-%m-%dT%H%M%S").to_string(),
        None => unix_ms.to_string(),
    }
}

/// `name` as one path component that is not hidden and not taken for an option.
fn safe(name: &str) -> String {
    let mut safe: String = name.chars().map(|c| if harmful(c) { '_' } else { c }).collect();
    if safe.starts_with(['.', '-']) {
        safe.replace_range(..1, "_");
    }
    safe
}

/// Separators, control characters, and those that make a name read differently from what it is.
fn harmful(c: char) -> bool {
    c == '/' || c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NameTemplate;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    const FACTS: NameFacts = NameFacts {
        stream_name: "cam 1",
        room_name: "court",
        room_id: "r7",
        session_id: "LzEyNy4wLjAuMTo1",
        media_session_id: "5a072377-73c1-4caf-abd3-000000000000",
        login: "anna",
        start_ms: 1_563_776_083_752,
        start_wall_ms: 1_795_255_872_000,
        audio_codec: Some(Codec::Vorbis),
        video_codec: None,
        part: 3,
        end: Some(EndFacts {
            end_ms: 1_563_776_093_752,
            end_wall_ms: 1_795_255_882_001,
            duration_ms: 10_000,
        }),
    };

    fn rule(template: &str, encoding: Option<NameEncoding>, exclude: &str) -> NameRule {
        let template = NameTemplate::parse(template).unwrap();
        NameRule { template, encoding, exclude: exclude.chars().collect() }
    }

    fn plain(template: &str) -> String {
        file_stem(&rule(template, None, "/"), &FACTS, None, "mp4")
    }

    #[test]
    fn every_key_is_filled_in() {
        let cases = [
            (
                "stream-{sessionId}-{mediaSessionId}",
                "stream-LzEyNy4wLjAuMTo1-5a072377-73c1-4caf-abd3-000000000000",
            ),
            ("{streamName}-{startTime}-{endTime}", "cam 1-1563776083752-1563776093752"),
            ("{startTimeMillis}-{endTimeMillis}-{duration}", "1795255872000-1795255882001-10000"),
            ("{roomName}-{login}-{audioCodec}-{videoCodec}-{part}", "court-anna-vorb-none-3"),
            ("{room_name}-{room_id}-{time}", "court-r7-2026-11-21T101112"),
        ];
        for (template, expected) in cases {
            assert_eq!(plain(template), expected);
        }
    }

    #[test]
    fn late_keys_stay_literal_until_the_end_is_known() {
        let running = NameFacts { end: None, ..FACTS };
        let name = |t: &str| file_stem(&rule(t, None, "/"), &running, None, "mp4");
        assert_eq!(name("9c3e-{startTime}-{endTime}"), "9c3e-1563776083752-{endTime}");
        assert_eq!(name("{endTimeMillis}{duration}"), "{endTimeMillis}{duration}");
    }

    #[test]
    fn values_are_as_long_as_flashphoner_lets_them_be() {
        let long = "é".repeat(100);
        let facts = NameFacts { session_id: &long, media_session_id: &long, login: &long, ..FACTS };
        let length = |t: &str| file_stem(&rule(t, None, ""), &facts, None, "mp4").chars().count();
        assert_eq!((length("{sessionId}"), length("{mediaSessionId}"), length("{login}")), (60, 36, 32));
        let never = NameFacts { start_wall_ms: i64::MAX, ..FACTS };
        assert_eq!(file_stem(&rule("{time}", None, ""), &never, None, "mp4"), i64::MAX.to_string());
    }

    #[test]
    fn names_are_made_safe() {
        let cases = [
            ("a/b", "/", "ab"),
            ("a/b", "", "a_b"),
            ("a:b.c,d/e", ":.,/", "abcde"),
            ("../../etc/passwd", "/", "_...etcpasswd"),
            ("..", "/", "_."),
            (".", "/", "_"),
            (".part", "/", "_part"),
            ("-rf", "/", "_rf"),
            ("a\0b\nc\u{7f}d\u{85}e", "/", "a_b_c_d_e"),
            ("gpj\u{202e}4pm", "/", "gpj_4pm"),
            ("👩\u{200d}💻é", "/", "👩\u{200d}💻é"),
            ("///", "/", "stream"),
            (" \t ", "", "stream"),
            ("", "", "stream"),
        ];
        for (stream_name, exclude, expected) in cases {
            let facts = NameFacts { stream_name, ..FACTS };
            let stem = file_stem(&rule("{streamName}", None, exclude), &facts, None, "mp4");
            assert_eq!(stem, expected, "{stream_name:?} without {exclude:?}");
        }
    }

    #[test]
    fn a_name_that_would_be_changed_is_told() {
        for (stem, kept) in
            [("cam 1", true), ("a{b}", true), (".a", false), ("-a", false), ("a\nb", false), (" ", false)]
        {
            assert_eq!(is_kept(stem, "mp4"), kept, "{stem:?}");
        }
        assert!(is_kept(&"x".repeat(246), "mp4") && !is_kept(&"x".repeat(247), "mp4"));
    }

    #[test]
    fn the_whole_name_is_encoded_and_can_be_decoded() {
        let facts = NameFacts { stream_name: "a/b?é", ..FACTS };
        let name = |encoding, exclude| {
            file_stem(&rule("x-{streamName}", Some(encoding), exclude), &facts, Some(2), "mp4")
        };
        assert_eq!(name(NameEncoding::Hex, ""), "782d612f623fc3a9_2");
        assert_eq!(name(NameEncoding::Hex, "/"), "782d61623fc3a9_2");
        assert_eq!(name(NameEncoding::Base64, ""), "eC1hL2I_w6k_2");

        let long = "é/".repeat(200);
        let facts = NameFacts { stream_name: &long, ..FACTS };
        let name = |encoding| file_stem(&rule("{streamName}", Some(encoding), ""), &facts, None, "mp4");
        let from_hex = hex::decode(name(NameEncoding::Hex)).unwrap();
        assert!(long.starts_with(str::from_utf8(&from_hex).unwrap()) && from_hex.len() > 119);
        let from_base64 = URL_SAFE_NO_PAD.decode(name(NameEncoding::Base64)).unwrap();
        assert!(long.starts_with(str::from_utf8(&from_base64).unwrap()) && from_base64.len() > 180);
    }

    #[test]
    fn names_are_trimmed_but_suffixes_are_not() {
        let long = "é".repeat(300);
        let facts = NameFacts { stream_name: &long, ..FACTS };
        let stem = file_stem(&rule("{streamName}", None, "/"), &facts, Some(12), "webm");
        assert!(stem.ends_with("é_12"), "{stem}");
        // 255 - ".webm" - ".part" - "_12" = 242, of which `é` takes two each.
        assert_eq!(stem.len(), 242 + 3);
        let second = with_suffix(&stem, "_2", "webm");
        assert!(second.ends_with("_2") && second.len() <= 245, "{second}");
        assert_eq!(with_suffix("cam", "_2", "mp4"), "cam_2");
    }

    proptest! {
        #[test]
        fn any_name_is_one_normal_component_that_fits(
            stream_name in prop_oneof![
                any::<String>(),
                "\\.{0,300}",
                "(\\.\\./){1,100}",
                "[\u{202a}-\u{202e}\u{0}-\u{1f}\u{300}\u{200d}👩é/.-]{0,300}",
            ],
            exclude in "[/.:é{}\u{0}a-z]{0,4}",
            template in prop::sample::select(vec!["{streamName}", "{streamName}{streamName}-{endTime}", "/{streamName}/..", "."]),
            encoding in prop::sample::select(vec![None, Some(NameEncoding::Hex), Some(NameEncoding::Base64)]),
            part in prop::option::of(any::<u32>()),
            ended in any::<bool>(),
        ) {
            let facts = NameFacts { stream_name: &stream_name, end: FACTS.end.filter(|_| ended), ..FACTS };
            let rule = rule(template, encoding, &exclude);
            let stem = file_stem(&rule, &facts, part, "mp4");
            prop_assert_eq!(&stem, &file_stem(&rule, &facts, part, "mp4"));
            for stem in [with_suffix(&stem, "_4294967295", "mp4"), stem] {
                prop_assert!(!stem.is_empty() && !stem.starts_with(['.', '-']), "{:?}", stem);
                prop_assert!(!stem.chars().any(harmful), "{:?}", stem);
                for name in [format!("{stem}.mp4"), format!("{stem}.mp4.part"), format!("{stem}.mp4.json")] {
                    prop_assert!(name.len() <= 255, "{}", name.len());
                    let path: Vec<_> = Path::new(&name).components().collect();
                    prop_assert_eq!(path, [Component::Normal(name.as_ref())]);
                }
            }
        }
    }
}
