//! A TOML file of known sections and keys, read one key at a time so that every mistake in it is found.

use super::{Problem, nearest, quoted};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// Sections with their keys. A section whose name ends in `[]` is written `[[name]]`, once per item; the key
/// of its item `n` is read from section `name[n]`.
pub(super) type Known = [(&'static str, &'static [&'static str])];

/// A value and where it is written.
struct Entry<'t> {
    section: String,
    key: String,
    value: DeValue<'t>,
    line: usize,
}

/// One `[[name]]`.
struct Item {
    section: String,
    line: usize,
}

/// The settings of one file, and what is wrong with it so far.
pub(super) struct Settings<'t> {
    file: &'t Path,
    text: &'t str,
    entries: Vec<Entry<'t>>,
    items: Vec<Item>,
    pub problems: Vec<Problem>,
}

impl<'t> Settings<'t> {
    /// Reads `text`: syntax errors and keys outside `known` become problems.
    pub fn parse(text: &'t str, file: &'t Path, known: &Known) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut settings = Self { file, text, entries: Vec::new(), items: Vec::new(), problems: Vec::new() };
        for e in errors {
            let line = e.span().map_or(0, |span| settings.line(&span));
            settings.error(line, e.message().to_owned());
        }
        for (name, value) in root.into_inner() {
            let line = settings.line(&name.span());
            settings.section(name.into_inner().into_owned(), value.into_inner(), line, known);
        }
        settings
    }

    fn section(&mut self, name: String, value: DeValue<'t>, line: usize, known: &Known) {
        let items = known.iter().find(|(section, _)| section.strip_suffix("[]") == Some(&name));
        if let Some((_, keys)) = items {
            return self.items(&name, value, line, keys);
        }
        let Some((_, keys)) = known.iter().find(|(section, _)| *section == name) else {
            let owner = known.iter().find(|(_, keys)| keys.contains(&name.as_str()));
            return match (owner, &value) {
                (Some((section, _)), v) if !matches!(v, DeValue::Table(_)) => {
                    self.error(line, format!("{name} belongs to a section; write it under [{section}]"));
                }
                _ => self.unknown(line, "section", &name, known.iter().map(|(section, _)| *section)),
            };
        };
        let DeValue::Table(table) = value else {
            return self.error(line, format!("{name} is a section; write [{name}] on a line of its own"));
        };
        self.keys(&name, &format!("[{name}]"), table, keys);
    }

    fn items(&mut self, name: &str, value: DeValue<'t>, line: usize, keys: &'static [&'static str]) {
        let remedy = format!("{name} is a list of sections; write [[{name}]] on a line of its own for each");
        let DeValue::Array(items) = value else { return self.error(line, remedy) };
        for (n, item) in items.into_iter().enumerate() {
            let line = self.line(&item.span());
            let DeValue::Table(table) = item.into_inner() else { return self.error(line, remedy) };
            self.items.push(Item { section: format!("{name}[{n}]"), line });
            self.keys(&format!("{name}[{n}]"), &format!("[[{name}]]"), table, keys);
        }
    }

    fn keys(&mut self, section: &str, written: &str, table: DeTable<'t>, keys: &'static [&'static str]) {
        for (key, value) in table {
            let line = self.line(&key.span());
            let key = key.into_inner().into_owned();
            match keys.contains(&key.as_str()) {
                true => self.entries.push(Entry {
                    section: section.to_owned(),
                    key,
                    value: value.into_inner(),
                    line,
                }),
                false => self.unknown(line, &format!("key in {written}"), &key, keys.iter().copied()),
            }
        }
    }

    /// The sections `name[0]`, `name[1]` … of a list, with the line each begins on.
    pub fn list(&self, name: &str) -> Vec<(String, usize)> {
        let of = |i: &&Item| i.section.split_once('[').is_some_and(|(list, _)| list == name);
        self.items.iter().filter(of).map(|i| (i.section.clone(), i.line)).collect()
    }

    fn unknown(
        &mut self,
        line: usize,
        what: &str,
        word: &str,
        known: impl Iterator<Item = &'static str> + Clone,
    ) {
        let hint =
            nearest(word, known.clone(), 0.6).map(|n| format!(", did you mean {n}?")).unwrap_or_default();
        let known: Vec<&str> = known.collect();
        self.error(line, format!("unknown {what}: {}{hint}; known are {}", quoted(word), known.join(", ")));
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    /// Adds an error, unless its line has one already: the second would only follow from the first.
    pub fn error(&mut self, line: usize, what: String) {
        if line == 0 || self.problems.iter().all(|p| p.line != line) {
            self.problems.push(Problem::error(self.file, line, what));
        }
    }

    pub fn warn(&mut self, line: usize, what: String) {
        self.problems.push(Problem::warning(self.file, line, what));
    }

    /// Line of `key`; 0 when the file leaves it to its default.
    pub fn line_of(&self, section: &str, key: &str) -> usize {
        self.entries.iter().find(|e| e.section == section && e.key == key).map_or(0, |e| e.line)
    }

    /// The value of `key`, or `default` when it is not given or wrong.
    pub fn get<T>(
        &mut self,
        section: &str,
        key: &str,
        default: T,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> T {
        let Some(entry) = self.entries.iter().find(|e| e.section == section && e.key == key) else {
            return default;
        };
        match read(&entry.value) {
            Ok(value) => value,
            Err(what) => {
                self.error(entry.line, format!("{key}: {what}"));
                default
            }
        }
    }
}

/// A string without control characters.
pub(super) fn text(value: &DeValue, example: &str) -> Result<String, String> {
    let Some(text) = value.as_str() else {
        return Err(format!("expected a text, found {}; write for example \"{example}\"", value.type_str()));
    };
    match text.chars().any(char::is_control) {
        true => Err(format!("{} holds a control character; remove it", quoted(text))),
        false => Ok(text.to_owned()),
    }
}

/// A list of texts, each read by `read`.
pub(super) fn list<T>(
    value: &DeValue,
    example: &str,
    read: impl Fn(&DeValue) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let Some(items) = value.as_array() else {
        return Err(format!(
            "expected a list, found {}; write for example [\"{example}\"]",
            value.type_str()
        ));
    };
    items.iter().map(|item| read(item.get_ref())).collect()
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| format!("expected true or false without quotes, found {}", value.type_str()))
}

/// A duration like `"10s"`, `"500ms"`, `"2m"` or `"1h"`.
pub(super) fn duration(value: &DeValue, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let (least, most) =
        (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    let write = format!("write a duration from \"{least}\" to \"{most}\", like \"10s\" or \"500ms\"");
    let text = value.as_str().ok_or_else(|| format!("{} has no unit; {write}", value.type_str()))?;
    let parsed = humantime::parse_duration(text.trim());
    let duration = parsed.map_err(|_| format!("{} is not a duration; {write}", quoted(text)))?;
    match range.contains(&duration) {
        true => Ok(duration),
        false => Err(format!("{} is out of range; {write}", quoted(text))),
    }
}

/// A size like `"8MiB"`, or a number of bytes.
pub(super) fn size(value: &DeValue, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (least, most) = (bytesize::ByteSize(*range.start()), bytesize::ByteSize(*range.end()));
    let write = format!("write a size from \"{least}\" to \"{most}\", like \"8MiB\"");
    let text = match value {
        DeValue::Integer(bytes) => bytes.to_string(),
        DeValue::String(text) => text.trim().to_owned(),
        _ => return Err(format!("expected a size, found {}; {write}", value.type_str())),
    };
    let parsed = text.parse::<bytesize::ByteSize>();
    let bytes = parsed.map_err(|_| format!("{} is not a size; {write}", quoted(&text)))?.as_u64();
    match range.contains(&bytes) {
        true => Ok(bytes),
        false => Err(format!("{} is out of range; {write}", quoted(&text))),
    }
}

/// A whole number.
pub(super) fn count(value: &DeValue, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = value.as_integer().and_then(|i| usize::from_str_radix(i.as_str(), i.radix()).ok());
    number.filter(|n| range.contains(n)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        format!("not a number that works here; write a whole number from {least} to {most}, without quotes")
    })
}
