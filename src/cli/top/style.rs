//! The style of the view: colours and the shapes of bars. A state is never shown by its colour alone.

use std::env;
use std::ffi::OsStr;

use ratatui::style::{Color, Modifier, Style};

/// The weight of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Plain text.
    #[default]
    Plain,
    /// Text that is read second.
    Faint,
    /// A title.
    Strong,
    /// The bars of a chart.
    Chart,
    /// A good state.
    Good,
    /// A state that an operator should know of.
    Warning,
    /// A state that clients feel.
    Bad,
}

/// The style that a terminal allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopStyle {
    /// False with `NO_COLOR`.
    pub(super) has_color: bool,
    /// False if the terminal may lack the characters of bars.
    pub(super) has_blocks: bool,
}

impl TopStyle {
    /// Reads the style from the environment.
    pub(super) fn of_environment() -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        // The first one that is set decides.
        let mut locales = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os);
        let locale = locales.find(|locale| !locale.is_empty());
        Self {
            has_color: !is_set("NO_COLOR"),
            has_blocks: has_blocks(locale.as_deref(), env::var_os("TERM").as_deref()),
        }
    }

    /// Returns the colours and modifiers of a tone.
    pub(super) fn of(self, tone: Tone) -> Style {
        let (color, modifier) = match tone {
            Tone::Plain => (None, Modifier::empty()),
            Tone::Faint => (None, Modifier::DIM),
            Tone::Strong => (None, Modifier::BOLD),
            Tone::Chart => (Some(Color::Cyan), Modifier::empty()),
            Tone::Good => (Some(Color::Green), Modifier::empty()),
            Tone::Warning => (Some(Color::Yellow), Modifier::empty()),
            Tone::Bad => (Some(Color::Red), Modifier::BOLD),
        };
        let style = Style::new().add_modifier(modifier);
        match color.filter(|_| self.has_color) {
            Some(color) => style.fg(color),
            None => style,
        }
    }

    /// Returns the shapes of the part of a bar in one line: none, one eighth to eight eighths.
    pub(super) fn bars(self) -> [char; 9] {
        match self.has_blocks {
            true => [
                ' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
                '\u{2588}',
            ],
            false => [' ', '.', '.', ':', '-', '=', '+', '*', '#'],
        }
    }

    /// Returns the shape of a bar without height.
    pub(super) fn zero(self) -> char {
        if self.has_blocks { '\u{b7}' } else { '_' }
    }

    /// Returns the mark of the place where the operator types.
    pub(super) fn typing_mark(self) -> char {
        if self.has_blocks { '\u{2588}' } else { '_' }
    }

    /// Returns the mark of a text that is cut.
    pub(super) fn cut_mark(self) -> &'static str {
        if self.has_blocks { "\u{2026}" } else { "~" }
    }
}

/// Returns true if a terminal has the characters of bars. The console of Linux lacks most of them. A locale that is not set
/// says nothing, because services and containers set none.
fn has_blocks(locale: Option<&OsStr>, terminal: Option<&OsStr>) -> bool {
    let is_utf8 = |locale: &OsStr| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    };
    terminal.is_none_or(|terminal| terminal != "linux") && locale.is_none_or(is_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_need_a_terminal_that_has_them() {
        let check = |locale: Option<&str>, terminal: Option<&str>, expected: bool| {
            assert_eq!(
                has_blocks(locale.map(OsStr::new), terminal.map(OsStr::new)),
                expected,
                "{locale:?} {terminal:?}"
            );
        };
        check(None, None, true);
        check(Some("de_DE.UTF-8"), Some("xterm"), true);
        check(Some("C.utf8"), None, true);
        check(Some("C"), Some("xterm"), false);
        check(Some("en_US.UTF-8"), Some("linux"), false);
    }

    #[test]
    fn without_colors_no_style_has_one() {
        for tone in
            [Tone::Plain, Tone::Faint, Tone::Strong, Tone::Chart, Tone::Good, Tone::Warning, Tone::Bad]
        {
            let style = TopStyle { has_color: false, has_blocks: true }.of(tone);
            assert_eq!((style.fg, style.bg), (None, None), "{tone:?}");
        }
        assert_eq!(TopStyle { has_color: true, has_blocks: true }.of(Tone::Bad).fg, Some(Color::Red));
    }
}
