//! Java's properties format, one key at a time, so that one bad line does not hide the others.

use super::{Problem, quoted};
use java_properties::{LineContent, PropertiesIter};
use std::path::Path;

/// One `key=value` with escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: String,
    /// Blanks before it are gone; blanks after it are part of it, as in Java.
    pub value: String,
    /// Line it begins on, from 1.
    pub line: usize,
    /// A `\` at the end of a line made the next one part of this value although that one looks like a setting.
    pub swallowed_line: Option<usize>,
}

/// Reads UTF-8, and what is not UTF-8 as ISO 8859-1, the encoding Java gives these files.
pub(super) fn decode(bytes: &[u8], file: &Path, problems: &mut Vec<Problem>) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(e) => {
            let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            problems.push(Problem::warning(
                file,
                line,
                "not UTF-8; read as ISO 8859-1, save the file as UTF-8",
            ));
            bytes.iter().map(|b| char::from(*b)).collect()
        }
    }
}

/// The settings of `text` in file order; a line that cannot be read is a problem and is left out.
pub(super) fn parse(text: &str, file: &Path, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.split('\n').zip(1..);
    let mut entries = Vec::new();
    while let Some((first, line)) = lines.next() {
        // The crate would resolve escapes in comments too, and fail on `# C:\users`.
        if first.trim_start().is_empty() || first.trim_start().starts_with(['#', '!']) {
            continue;
        }
        let mut setting = first.to_owned();
        let mut swallowed_line = None;
        let mut last = first;
        while continues(last) {
            // Without the line break the crate drops a setting whose `\` ends the file.
            setting.push('\n');
            let Some((next, number)) = lines.next() else { break };
            setting.push_str(next);
            swallowed_line = swallowed_line.or(looks_like_setting(next).then_some(number));
            last = next;
        }
        match single(&setting) {
            Ok(Some((key, value))) => entries.push(Entry { key, value, line, swallowed_line }),
            Ok(None) => {}
            Err(()) => problems.push(Problem::error(
                file,
                line,
                format!("{}: \\u is not followed by the four hex digits of a character; write the character itself, or \\\\ for a backslash", quoted(first.trim())),
            )),
        }
    }
    entries
}

fn single(setting: &str) -> Result<Option<(String, String)>, ()> {
    let mut content = PropertiesIter::new_with_encoding(setting.as_bytes(), encoding_rs::UTF_8);
    match content.next() {
        None => Ok(None),
        Some(Ok(line)) => match line.consume_content() {
            LineContent::KVPair(key, value) => Ok(Some((key, value))),
            LineContent::Comment(_) => Ok(None),
        },
        Some(Err(_)) => Err(()),
    }
}

fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

fn looks_like_setting(line: &str) -> bool {
    let name = line.split_once('=').map_or("", |(name, _)| name.trim());
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> (Vec<(String, String, usize)>, Vec<String>) {
        let mut problems = Vec::new();
        let entries = parse(text, Path::new("p"), &mut problems);
        let entries = entries.into_iter().map(|e| (e.key, e.value, e.line)).collect();
        (entries, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn lines_are_read_as_java_reads_them() {
        let cases = [
            ("a=b", "a", "b"),
            ("  a = b c ", "a", "b c "),
            ("a:b", "a", "b"),
            ("a b", "a", "b"),
            ("a", "a", ""),
            ("exclude=:.,/", "exclude", ":.,/"),
            ("exclude=\\ \\\\", "exclude", " \\"),
            ("a=caf\\u00e9 été", "a", "café été"),
            ("a=b\\\n   c", "a", "bc"),
            ("a=b\\\r\n#c", "a", "b#c"),
            ("a=b\\", "a", "b"),
            ("# C:\\users\n! C:\\users\\\na=b\r", "a", "b"),
        ];
        for (text, key, value) in cases {
            let (entries, problems) = pairs(text);
            assert_eq!(problems, Vec::<String>::new(), "{text}");
            assert_eq!(entries.len(), 1, "{text}");
            assert_eq!((entries[0].0.as_str(), entries[0].1.as_str()), (key, value), "{text}");
        }
    }

    #[test]
    fn a_bad_line_does_not_hide_the_others() {
        let (entries, problems) = pairs("a=1\nb=\\u12\n\nc=\\uzzzz\r\nd=4");
        assert_eq!(entries, [("a".into(), "1".into(), 1), ("d".into(), "4".into(), 5)]);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("p:2: \"b=\\\\u12\": \\u is not followed by"), "{}", problems[0]);
        assert!(problems[1].starts_with("p:4: "), "{}", problems[1]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_latin_1() {
        let mut problems = Vec::new();
        assert_eq!(decode(b"\xef\xbb\xbfa=\xc3\xa9", Path::new("p"), &mut problems), "a=é");
        assert_eq!(problems, []);
        assert_eq!(decode(b"x=1\na=\xe9", Path::new("p"), &mut problems), "x=1\na=é");
        assert_eq!(problems[0].line, 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "([a=:\\\\ #!u0\r\né\u{0}]|.){0,60}") {
            let mut problems = Vec::new();
            for entry in parse(&text, Path::new("p"), &mut problems) {
                prop_assert!(entry.line >= 1);
            }
        }
    }
}
