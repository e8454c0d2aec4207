//! Faults and warnings of a configuration: the rule, the position, and the fix.

use std::fmt;

use super::code::Code;
use super::render::{self, SourceLines};

/// A piece of the text, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The position after the last byte.
    pub end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A position in the text with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultLabel {
    /// The position.
    pub span: Span,
    /// A short text that is shown beside the position; may be empty.
    pub text: String,
}

/// One fault or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The rule.
    pub code: Code,
    /// The key concerned, such as `listener.tls.routes[3].pool`; empty for the file as a whole.
    pub path: String,
    /// One sentence without a full stop.
    pub message: String,
    /// The positions, first the one to fix. Empty if there is none to show.
    pub labels: Vec<FaultLabel>,
    /// Ways to fix it, one sentence each.
    pub help: Vec<String>,
}

impl Diagnostic {
    pub(super) fn new(code: Code, path: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { code, path: path.to_string(), message: message.into(), labels: Vec::new(), help: Vec::new() }
    }

    pub(super) fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(FaultLabel { span, text: text.into() });
        self
    }

    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Returns the start of the first position; 0 without one.
    pub(super) fn start(&self) -> usize {
        self.labels.first().map_or(0, |label| label.span.start)
    }
}

/// All faults that keep a configuration from being used, with its warnings. There is one report for the
/// configuration, and one for each broken file that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<Report>);

impl Faults {
    /// Returns the faults and warnings, file by file, in the order of each text.
    pub fn diagnostics(&self) -> Vec<&Diagnostic> {
        self.0.iter().flat_map(|report| &report.diagnostics).collect()
    }

    /// Returns the text for people: for each file the diagnostics with file, line, caret and hint, then their number.
    /// It ends with a newline. With `color` it has ANSI escapes; text from the files has none.
    pub fn render(&self, color: bool) -> String {
        let reports = self.0.iter().map(|report| render::render(report, SourceLines::Shown, color));
        reports.collect::<Vec<_>>().join("\n")
    }
}

impl Faults {
    /// Returns the text as [`Faults::render`] does, without lines of the files: they may have secrets. It is for texts that
    /// others can read, such as the status and the log.
    pub fn without_lines(&self) -> String {
        let reports = self.0.iter().map(|report| render::render(report, SourceLines::Hidden, false));
        reports.collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Faults {}

/// The warnings of a configuration that can be used: settings that look unintended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings(pub(super) Report);

impl Warnings {
    /// Returns the warnings in the order of the text.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0.diagnostics
    }

    /// Returns true if there are no warnings.
    pub fn is_empty(&self) -> bool {
        self.0.diagnostics.is_empty()
    }

    /// Returns the text as [`Faults::without_lines`] does; empty if there are no warnings.
    pub fn without_lines(&self) -> String {
        render::render(&self.0, SourceLines::Hidden, false)
    }

    /// Returns the text as [`Faults::render`] does; empty if there are no warnings.
    pub fn render(&self, color: bool) -> String {
        render::render(&self.0, SourceLines::Shown, color)
    }
}

/// Diagnostics and the text that they point into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The file's path as it was given.
    pub(super) source_name: String,
    /// The whole text; empty if there are no diagnostics.
    pub(super) text: String,
    /// The diagnostics, sorted by position.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The number of further diagnostics, which are not kept.
    pub(super) omitted: usize,
}

/// Returns the report of a single fault.
pub(super) fn about_text(source_name: &str, text: String, diagnostic: Diagnostic) -> Faults {
    Faults(vec![Report {
        source_name: source_name.to_owned(),
        text,
        diagnostics: vec![diagnostic],
        omitted: 0,
    }])
}
