//! Modules follow the flow of media: each may name only those that ARCHITECTURE.md lets it name, and no file holds
//! more than one idea. Test code may name everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules it may use. The same table is in ARCHITECTURE.md.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("media", &[]),
    ("telemetry", &[]),
    ("config", &["media"]),
    ("auth", &["config", "media"]),
    ("gst", &["media"]),
    ("hub", &["media"]),
    ("ingest", &["auth", "config", "gst", "hub", "media"]),
    ("library", &["config", "media"]),
    ("record", &["config", "gst", "hub", "library", "media"]),
    ("deliver", &["config", "library", "media"]),
    ("control", &["config", "deliver", "gst", "hub", "ingest", "library", "media", "record"]),
    ("api", &["auth", "config", "control", "media", "telemetry"]),
    ("cli", &["auth", "config", "control", "media", "telemetry"]),
];
/// These put the program together, belong to no layer and may use everything.
const ROOTS: [&str; 3] = ["app", "main", "lib"];
const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Source text without comments, with the contents of string and character literals left out.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' if !ends_in_name(&code) => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let taken = skipped.max(c.len_utf8());
        code.push_str(if skipped > 0 { " " } else { &rest[..taken] });
        rest = &rest[taken..];
    }
    code
}

fn ends_in_name(code: &str) -> bool {
    // `br"` is a raw string too; a name that ends in `b` is not told apart, and no code holds `b r"`.
    code.strip_suffix('b').unwrap_or(code).chars().next_back().is_some_and(is_name)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of the comment that `text` begins with; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth += step.0;
        at += step.1;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Length of the string literal that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// Length of the raw string that `text` begins with, or 0.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|b| *b == b'#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// Length of the character literal that `text` begins with; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, c))) => {
            let from = escaped + c.len_utf8();
            text[from..].find('\'').map_or(text.len(), |at| from + at + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// Code without what is compiled for tests only, and the names of the files that are: `mod NAME;` under `#[cfg(test)]`.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let (mut kept, mut files) = (String::new(), Vec::new());
    let mut rest = code;
    while let Some((before, item)) = rest.split_once(ATTRIBUTE) {
        kept.push_str(before);
        let end = item_length(item);
        let words: Vec<&str> = item[..end].trim_end_matches(';').split_whitespace().collect();
        if let [.., "mod", name] = words[..] {
            files.push(name.to_owned());
        }
        rest = &item[end..];
    }
    (kept + rest, files)
}

/// Up to and with the `;` or the `}` that ends the item `code` begins with.
fn item_length(code: &str) -> usize {
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The top-level modules that `code` names by `crate::NAME` or `crate::{NAME, ..}`.
fn named(code: &str) -> BTreeSet<String> {
    let compact = code.replace(":: ", "::");
    let mut names = BTreeSet::new();
    for (at, prefix) in compact.match_indices("crate::") {
        if compact[..at].chars().next_back().is_some_and(is_name) {
            continue;
        }
        let path = compact[at + prefix.len()..].trim_start();
        match path.strip_prefix('{') {
            Some(group) => names.extend(members(group).iter().map(|member| first_word(member))),
            None => {
                names.insert(first_word(path));
            }
        }
    }
    names
}

/// The members of a use group, from behind its `{` to its `}`.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(group[from..at].trim());
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|member| !member.is_empty());
    found
}

/// The name that `path` begins with, or its first character where that is no name (`*`).
fn first_word(path: &str) -> String {
    let end = path.find(|c| !is_name(c)).unwrap_or(path.len());
    path[..end.max(1).min(path.len())].to_owned()
}

/// Whether `code`, in a module `depth` levels below the root, climbs out of its layer by `super::super::…`.
fn climbs_out(code: &str, depth: usize) -> bool {
    code.replace(":: ", "::").contains(&"super::".repeat(depth))
}

/// Every `.rs` file under `src`, by its path from there.
fn sources() -> BTreeMap<PathBuf, String> {
    let src = root().join("src");
    let (mut found, mut folders) = (BTreeMap::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("readable UTF-8");
                found.insert(path.strip_prefix(&src).expect("a path under src").to_owned(), text);
            }
        }
    }
    assert!(found.len() > 20, "only {} files under {}", found.len(), src.display());
    found
}

/// The modules `file` is in, outermost first: `api/v1.rs` and `api/v1/mod.rs` are both `api v1`.
fn modules(file: &Path) -> Vec<String> {
    let stem = file.with_extension("");
    let mut names: Vec<_> = stem.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if names.len() > 1 && names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    names
}

#[test]
fn modules_use_only_what_is_below_them() {
    let files: Vec<_> = sources()
        .into_iter()
        .map(|(file, text)| {
            let (code, tests) = without_tests(&code_of(&text));
            (file.clone(), modules(&file), code, tests)
        })
        .collect();
    let is_test = |path: &[String]| {
        files.iter().any(|(_, parent, _, tests)| {
            path.strip_prefix(&parent[..])
                .is_some_and(|below| below.first().is_some_and(|n| tests.contains(n)))
        })
    };
    let mut faults = Vec::new();
    for (file, path, code, _) in files.iter().filter(|(_, path, ..)| !is_test(path)) {
        let (top, file) = (path[0].as_str(), file.display());
        if ROOTS.contains(&top) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(module, _)| *module == top) else {
            faults.push(format!(
                "{file}: {top} is in no layer; add it to the table here and in ARCHITECTURE.md"
            ));
            continue;
        };
        if climbs_out(code, path.len()) {
            faults.push(format!("{file}: climbs to the root by `super`; write crate::"));
        }
        for name in named(code) {
            if name != top && !allowed.contains(&name.as_str()) {
                faults.push(format!("{file}: {top} must not use crate::{name}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_file_holds_one_idea() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:#?}");
}

#[test]
fn the_architecture_page_has_the_same_table() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| module | may use |")).skip(2);
    let written: Vec<(Vec<&str>, Vec<&str>)> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|');
            let mut words = || cells.next().unwrap_or("").split('`').skip(1).step_by(2).collect::<Vec<_>>();
            (words(), words())
        })
        .collect();
    let mut table = Vec::new();
    for (names, uses) in written {
        table.extend(names.into_iter().map(|name| (name.to_owned(), uses.clone())));
    }
    let ours: Vec<_> = MAY_USE.iter().map(|(name, uses)| ((*name).to_owned(), uses.to_vec())).collect();
    assert_eq!(table, ours, "left: ARCHITECTURE.md, right: this file");
}

#[test]
fn names_are_found_where_code_is_and_nowhere_else() {
    let cases: [(&str, &[&str]); 10] = [
        ("use crate::media::Frame;", &["media"]),
        ("use crate::{gst, hub::{Hub, queue::{A, B}}, media::{self}};", &["gst", "hub", "media"]),
        ("use crate::{\n    // crate::no\n    api::body,\n};", &["api"]),
        ("fn f() -> crate::hub::Hub { crate:: gst::init() }", &["gst", "hub"]),
        ("use crate::*;", &["*"]),
        ("mod mycrate { pub fn a() {} } fn f() { mycrate::a() } pub(crate) fn g() {}", &[]),
        ("// crate::a\n/* crate::b /* crate::c */ crate::d */ /// crate::e", &[]),
        (r##"const A: &str = "\"crate::a"; const B: &str = r#""crate::b"#; use crate::c;"##, &["c"]),
        (r"fn f<'a>(x: &'a str) { g('\'', '\u{7d}', '/', '{', crate::a) }", &["a"]),
        ("#[cfg(test)]\nmod tests { use crate::a; fn f() { if x { } } }\nuse crate::b;", &["b"]),
    ];
    for (source, want) in cases {
        let (code, _) = without_tests(&code_of(source));
        let want: BTreeSet<_> = want.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(named(&code), want, "{source}");
    }
    let (code, files) = without_tests("#[cfg(test)]\npub(crate) mod testing;\nmod real;");
    assert_eq!((code.trim(), files), ("mod real;", vec!["testing".to_owned()]));
    assert!(climbs_out("use super::super::hub;", 2) && !climbs_out("use super::hub;", 2));
}
