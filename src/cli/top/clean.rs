//! Text for a terminal: characters that control it, hide text or move text are escaped, and each other character has one or
//! two columns.
//!
//! A name may come from a client, and the answer to a check from any program. So all text passes through [`clean`] before it
//! is drawn.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Returns a text in which each character is shown as itself, in its place. Other characters become `\u{202e}` and the like.
/// So a text cannot control the terminal, hide a part of itself, or change the order of the text beside it.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return text.into();
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) { cleaned.push(c) } else { cleaned.extend(c.escape_default()) }
    }
    cleaned.into()
}

/// Returns true if a terminal shows a character by itself, in one or two columns, from left to right.
fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => true,
        _ => {
            !c.is_control()
                && !c.is_whitespace()
                && !is_unseen(c)
                && !is_right_to_left(c)
                && !joins_its_neighbour(c)
                && c.width().is_some_and(|columns| columns > 0)
        }
    }
}

/// Returns true for characters with columns and without a shape of their own: fillers, blanks, private use.
fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{fffc}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{e0000}'..='\u{10ffff}'
    )
}

/// Returns true for letters of scripts that run from right to left. A terminal may move their neighbours too.
fn is_right_to_left(c: char) -> bool {
    matches!(
        c,
        '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}' | '\u{10800}'..='\u{10fff}'
            | '\u{1e800}'..='\u{1efff}'
    )
}

/// Returns true for characters whose columns depend on the character before them.
fn joins_its_neighbour(c: char) -> bool {
    matches!(c, '\u{a4f8}'..='\u{a4fd}' | '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f3fb}'..='\u{1f3ff}')
}

/// Returns the columns of a clean text.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// Returns the start of a clean text that fits into some columns, and true if that is the whole text.
pub(super) fn start(text: &str, most: usize) -> (&str, bool) {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > most {
            return (&text[..at], false);
        }
    }
    (text, true)
}

/// Returns a clean text cut to some columns, with a mark at its end if a part is missing.
pub(super) fn cut<'t>(text: &'t str, most: usize, mark: &str) -> Cow<'t, str> {
    match start(text, most) {
        (text, true) => text.into(),
        _ if most == 0 => "".into(),
        _ => format!("{}{mark}", start(text, most - 1).0).into(),
    }
}

/// Cleans a text and breaks it into lines of at most some columns: at its line ends, between words, and inside a word
/// that is too long for a line. Further lines begin with `indent` spaces.
pub(super) fn wrap(text: &str, most: usize, indent: usize) -> Vec<String> {
    let most = most.max(1);
    let indent = if indent < most / 2 { indent } else { 0 };
    let mut lines = Vec::new();
    for line in text.trim_end().split('\n') {
        wrap_line(&clean(line), most, indent, &mut lines);
    }
    lines
}

fn wrap_line(line: &str, most: usize, indent: usize, lines: &mut Vec<String>) {
    let new_line = |lines: &[String]| if lines.is_empty() { String::new() } else { " ".repeat(indent) };
    let mut current = new_line(lines);
    let mut is_blank = true;
    for word in line.split(' ') {
        let space = usize::from(!is_blank);
        if !is_blank && columns(&current) + space + columns(word) > most {
            lines.push(std::mem::take(&mut current));
            current = new_line(lines);
        } else if !is_blank {
            current.push(' ');
        }
        let mut rest = word;
        while columns(&current) + columns(rest) > most {
            let (fits, _) = start(rest, most.saturating_sub(columns(&current)));
            // A character of two columns does not fit into one.
            let end =
                if fits.is_empty() { rest.chars().next().map_or(0, char::len_utf8) } else { fits.len() };
            current.push_str(&rest[..end]);
            rest = &rest[end..];
            lines.push(std::mem::take(&mut current));
            current = new_line(lines);
        }
        current.push_str(rest);
        is_blank = false;
    }
    lines.push(current);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_and_unseen_ones_are_escaped() {
        let check = |text: &str, expected: &str| assert_eq!(clean(text), expected);
        check("plain, \u{e9}, \u{6f22}", "plain, \u{e9}, \u{6f22}");
        check("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}");
        check("\u{9b}2J\u{7f}\0\t\n\r", "\\u{9b}2J\\u{7f}\\u{0}\\t\\n\\r");
        check("a\u{202e}b\u{2066}c\u{200f}", "a\\u{202e}b\\u{2066}c\\u{200f}");
        check("a\u{200b}\u{200d}\u{feff}\u{ad}\u{2060}", "a\\u{200b}\\u{200d}\\u{feff}\\u{ad}\\u{2060}");
        check("e\u{301}\u{a0}\u{3000}\u{2028}", "e\\u{301}\\u{a0}\\u{3000}\\u{2028}");
        check("\u{5d0}\u{e0041}\u{e0b0}\u{2800}", "\\u{5d0}\\u{e0041}\\u{e0b0}\\u{2800}");
    }

    #[test]
    fn a_text_is_cut_at_a_column() {
        let check = |text: &str, most, expected: &str| assert_eq!(cut(text, most, "~"), expected);
        check("abc", 3, "abc");
        check("abcd", 3, "ab~");
        check("abcd", 1, "~");
        check("abcd", 0, "");
        check("\u{6f22}\u{6f22}", 4, "\u{6f22}\u{6f22}");
        check("\u{6f22}\u{6f22}", 3, "\u{6f22}~");
        check("\u{6f22}\u{6f22}", 2, "~");
    }

    #[test]
    fn a_text_is_broken_between_words() {
        let check =
            |text: &str, most, indent, expected: &[&str]| assert_eq!(wrap(text, most, indent), expected);
        check("one two three", 7, 0, &["one two", "three"]);
        check("one two three", 8, 2, &["one two", "  three"]);
        check("one\ntwo\n", 8, 2, &["one", "  two"]);
        check("abcdefgh", 3, 0, &["abc", "def", "gh"]);
        check("a  b", 9, 0, &["a  b"]);
        check("", 5, 0, &[""]);
        check("\u{6f22}\u{6f22}", 1, 0, &["\u{6f22}", "\u{6f22}", ""]);
        check("a\u{1b}b", 80, 0, &["a\\u{1b}b"]);
    }

    proptest! {
        #[test]
        fn a_clean_text_is_as_wide_as_its_characters(text in any::<String>(), most in 2_usize..50) {
            let cleaned = clean(&text);
            prop_assert!(cleaned.chars().all(is_plain));
            prop_assert_eq!(columns(&cleaned), cleaned.chars().map(|c| c.width().unwrap()).sum::<usize>());
            prop_assert_eq!(clean(&cleaned), cleaned.as_ref());
            prop_assert!(columns(&cut(&cleaned, most, "~")) <= most);
            for line in wrap(&text, most, 2) {
                prop_assert!(columns(&line) <= most, "{line:?}");
            }
        }
    }
}
