//! Makes text of other programs harmless for terminals and for readers of the log.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Replaces characters that a terminal would execute or show in a wrong way. These are control characters except
/// line ends, and marks that change the direction of writing. They become `\u001b` and the like, which is the same
/// string where the text is JSON: there they can occur only in strings.
pub fn as_text(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| (c.is_control() && c != '\n') || turns(c);
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut harmless = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_harmful(c) {
            true => _ = write!(harmless, "\\u{:04x}", u32::from(c)),
            false => harmless.push(c),
        }
    }
    harmless.into()
}

/// Returns true for marks, embeddings, overrides and isolates of direction, and for the separators of lines and
/// paragraphs.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes each event of the log so that no part of it can be read as another event or controls a terminal. Further
/// lines are indented, and harmful characters are escaped. An event comes as one buffer that ends with a line end.
pub(super) struct OneLine<W> {
    pub(super) to: W,
    /// True if the log's library writes colours. It escapes the escape characters in messages and fields itself.
    pub(super) colors: bool,
    /// True if each line would be an entry of its own.
    pub(super) is_journal: bool,
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let inside = text.strip_suffix('\n').unwrap_or(&text);
        let end = &text[inside.len()..];
        let mut pieces = inside.split('\x1b').map(as_text);
        let escape = if self.colors { "\x1b" } else { r"\u001b" };
        let first = pieces.next().unwrap_or_default().into_owned();
        let line = pieces.fold(first, |line, piece| line + escape + &piece);
        let line = match self.is_journal {
            false => line.replace('\n', "\n    "),
            true => joined(&line),
        };
        self.to.write_all((line + end).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Formats a text that is not an event as lines of the log, with the line end.
pub(super) fn entry(text: &str, is_journal: bool) -> String {
    match is_journal {
        false => format!("{text}\n"),
        true if text.starts_with("warning") => format!("<4>{}\n", joined(text)),
        true => format!("<3>{}\n", joined(text)),
    }
}

/// Joins several lines into one, without the empty ones.
fn joined(text: &str) -> String {
    if !text.contains('\n') {
        return text.to_owned();
    }
    let lines = text.split('\n').map(str::trim_end).filter(|line| !line.trim().is_empty());
    lines.map(str::trim_start).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(as_text(text), expected);
    }

    #[test]
    fn terminals_get_no_control_sequences() {
        check("plain, é, 漢", "plain, é, 漢");
        check("two\nlines", "two\nlines");
        check("\x1b]0;title\x07", r"\u001b]0;title\u0007");
        check("over\rwritten", r"over\u000dwritten");
        check("\u{9b}31m", r"\u009b31m");
        check("\x7f\0\t", r"\u007f\u0000\u0009");
        check("\u{202e}live", r"\u202elive");
        check("a\u{2028}b\u{2066}", r"a\u2028b\u2066");
    }

    #[test]
    fn json_means_the_same() {
        let names = ["\x1b[31m", "\u{9b}", "\u{202e}a\\\"", "\x7f"];
        let page = serde_json::to_string_pretty(&names).unwrap();
        let shown = as_text(&page);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), names);
    }

    fn check_event(event: &str, expected: &str) {
        for colors in [true, false] {
            let mut written = Vec::new();
            OneLine { to: &mut written, colors, is_journal: false }.write_all(event.as_bytes()).unwrap();
            let expected = if colors { expected.to_owned() } else { expected.replace('\x1b', r"\u001b") };
            assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }

    #[test]
    fn a_text_is_one_entry_of_the_journal() {
        assert_eq!(entry("error: a\n  b\n\n", false), "error: a\n  b\n\n\n");
        assert_eq!(entry("error: a\n  b\n\n", true), "<3>error: a | b\n");
        assert_eq!(entry("warning[C1]: a", true), "<4>warning[C1]: a\n");
    }

    #[test]
    fn an_event_is_one_entry() {
        check_event("time INFO serving\n", "time INFO serving\n");
        check_event("a\n2026 INFO forged\n", "a\n    2026 INFO forged\n");
        check_event("a\r2026\n", "a\\u000d2026\n");
        check_event("a\n\n", "a\n    \n");
        check_event("a\0\tb", "a\\u0000\\u0009b");
        check_event("a\u{9b}\u{202e}\x7fb", "a\\u009b\\u202e\\u007fb");
        check_event("\x1b[2mdim é\x1b[0m\n", "\x1b[2mdim é\x1b[0m\n");
        check_event("", "");
    }
}
