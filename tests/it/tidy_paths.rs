//! The paths in a text of Rust: `use` declarations with their groups taken apart, and paths in expressions.
//!
//! The reader sees names, not types. It leaves out comments, strings and tests, and reads macros as they are written.

use std::fs;
use std::path::PathBuf;

/// A path with its segments: `crate`, `pool`, `Lease`. A glob ends with the segment before it.
pub(crate) type Segments = Vec<String>;

/// A path, and the name that it has where it is used: the last segment, or the one behind `as`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsedPath {
    pub(crate) segments: Segments,
    pub(crate) name: String,
}

/// A file of `src/` with its code, as [`code`] returns it.
pub(crate) struct SourceText {
    /// From the crate's root on: `src/pool/mod.rs`.
    pub(crate) path: String,
    /// The code, with the line ends of the file.
    pub(crate) code: String,
}

/// The files of `src/` that are not tests, by their paths.
pub(crate) fn source_texts() -> Vec<SourceText> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut rest = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(path) = rest.pop() {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if !name.ends_with("/tests") {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if name.ends_with(".rs") && !name.ends_with("/tests.rs") {
            sources.push(SourceText { path: name, code: code(&fs::read_to_string(&path).unwrap()) });
        }
    }
    assert!(sources.len() > 200, "only {} files", sources.len());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// The code of a text. Comments become spaces, strings and characters become quotes, and the tests at its end are cut.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if !ends_in_word(&code) => raw_string_length(rest).unwrap_or(0),
            '\'' => character_length(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
        } else {
            let filler = if letter == '/' { ' ' } else { '"' };
            code.extend(rest[..length].chars().map(|letter| if letter == '\n' { '\n' } else { filler }));
            rest = &rest[length..];
        }
    }
    let tests = ["mod tests", "pub mod tests", "pub(crate) mod tests"]
        .iter()
        .filter_map(|tests| code.find(&format!("#[cfg(test)]\n{tests}")))
        .min();
    code.truncate(tests.unwrap_or(code.len()));
    code
}

/// The length of a string that a text begins with.
fn string_length(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => _ = letters.next(),
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string that a text begins with, if it does.
fn raw_string_length(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let inside = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(hashes + 2 + length)
}

/// The length of a character that a text begins with. A lifetime begins in the same way, and is none.
fn character_length(text: &str) -> Option<usize> {
    let inside = &text[1..];
    let first = inside.chars().next()?;
    if first == '\\' {
        // The escaped character may be a quote.
        return Some(inside[2..].find('\'')? + 4);
    }
    inside[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_of_word)
}

/// Every path in a code that begins with one of these roots, such as `crate` or `tokio`.
pub(crate) fn paths(code: &str, roots: &[&str]) -> Vec<UsedPath> {
    let mut paths = Vec::new();
    for root in roots {
        for (at, _) in code.match_indices(&format!("{root}::")) {
            let before = &code[..at];
            // The end of another word, the middle of another path, or the name of a crate: `::metrics::Key`.
            if ends_in_word(before) || before.ends_with("::") {
                continue;
            }
            read_tree(&code[at..], &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads a path, or a tree of paths such as `pool::{Lease, queue::{self, Waiter as W}}`, and returns the text behind it.
fn read_tree<'t>(text: &'t str, before: &mut Segments, paths: &mut Vec<UsedPath>) -> &'t str {
    let depth = before.len();
    let mut rest = text.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            rest = read_group(group, before, paths);
            break;
        }
        let length = rest.find(|letter| !is_of_word(letter)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(length);
        if !word.is_empty() && word != "self" || before.is_empty() {
            before.push(word.to_owned());
        }
        match behind.strip_prefix("::") {
            Some(more) if more.starts_with(|letter| is_of_word(letter) || letter == '{') => rest = more,
            _ => {
                let renamed = behind.strip_prefix(" as ").map(|behind| {
                    behind.split_at(behind.find(|letter| !is_of_word(letter)).unwrap_or(behind.len()))
                });
                let (name, behind) = renamed.unwrap_or((before.last().map_or("", |last| &**last), behind));
                paths.push(UsedPath { segments: before.clone(), name: name.to_owned() });
                rest = behind;
                break;
            }
        }
    }
    before.truncate(depth);
    rest
}

/// Reads the trees of a group up to its brace, and returns the text behind it.
fn read_group<'t>(text: &'t str, before: &mut Segments, paths: &mut Vec<UsedPath>) -> &'t str {
    let mut rest = text;
    loop {
        rest =
            rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',' || letter == '*');
        match rest.chars().next() {
            Some('}') => return &rest[1..],
            Some(letter) if is_of_word(letter) => rest = read_tree(rest, before, paths),
            // The end of the text, or no path.
            _ => return rest,
        }
    }
}

#[test]
fn code_is_without_comments_strings_and_tests() {
    let text = "use a::b; // use c::d;\nlet s = \"crate::e\"; /* f:: */ let q = '\"'; let r = r#\"g\"::\"#;\n\
                fn h<'a>(x: &'a str) -> char { '\\'' }\n#[cfg(test)]\nmod tests { use i::j; }\n";
    let code = code(text);
    for left in ["use a::b;", "let s =", "let q =", "let r =", "fn h<'a>(x: &'a str) -> char {"] {
        assert!(code.contains(left), "{left} in {code}");
    }
    for gone in ["c::d", "crate::e", "f::", "g\"", "i::j"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    assert_eq!(code.lines().count(), 3, "{code}");
}

#[test]
fn groups_of_paths_are_taken_apart() {
    let check = |code: &str, expected: &[(&str, &str)]| {
        let paths = paths(code, &["crate", "super", "tokio"]);
        let found: Vec<_> = paths.iter().map(|path| (path.segments.join("::"), &*path.name)).collect();
        let expected: Vec<_> = expected.iter().map(|(path, name)| ((*path).to_owned(), *name)).collect();
        assert_eq!(found, expected, "{code}");
    };
    check("use crate::sys::socket;", &[("crate::sys::socket", "socket")]);
    check(
        "use crate::{sys, pool::{Lease,\n    queue::{self, Waiter as W}},};",
        &[
            ("crate::sys", "sys"),
            ("crate::pool::Lease", "Lease"),
            ("crate::pool::queue", "queue"),
            ("crate::pool::queue::Waiter", "W"),
        ],
    );
    check("use super::super::metrics;", &[("super::super::metrics", "metrics")]);
    check("use super::*;", &[("super", "super")]);
    check("tokio::time::timeout(x, y).await; my_tokio::spawn();", &[("tokio::time::timeout", "timeout")]);
    check("fn f() -> crate::pool::Lease<'_> {}", &[("crate::pool::Lease", "Lease")]);
    check("use ::tokio::time;", &[]);
    check("let x = Vec::<super::Line>::new();", &[("super::Line", "Line")]);
}
