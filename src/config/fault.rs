//! What is wrong with a configuration: which rule, where, and how to mend it.

use std::fmt;

use super::code::Code;
use super::render;

/// A piece of the text, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One behind the last byte.
    pub end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A place in the text and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultLabel {
    /// The place.
    pub span: Span,
    /// A few words shown beside it; may be empty.
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
    /// The places, the one to mend first. Empty when there is none to show.
    pub labels: Vec<FaultLabel>,
    /// How to mend it, one sentence each.
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

    /// Where the first place starts; 0 without one.
    pub(super) fn start(&self) -> usize {
        self.labels.first().map_or(0, |label| label.span.start)
    }
}

/// Everything that keeps a configuration from being used, and its warnings: a report for the configuration, and one for
/// each broken file that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<Report>);

impl Faults {
    /// The faults and warnings, file by file, in the order of each text.
    pub fn diagnostics(&self) -> Vec<&Diagnostic> {
        self.0.iter().flat_map(|report| &report.diagnostics).collect()
    }

    /// The text for a person: of each file the diagnostics with file, line, caret and hint, then their number. Ends
    /// with a newline. With `color` it holds ANSI escapes; what stems from the files holds none.
    pub fn render(&self, color: bool) -> String {
        let reports = self.0.iter().map(|report| render::render(report, color));
        reports.collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Faults {}

/// What looks unintended in a configuration that can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings(pub(super) Report);

impl Warnings {
    /// The warnings in the order of the text.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0.diagnostics
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.diagnostics.is_empty()
    }

    /// As [`Faults::render`]; empty when there are no warnings.
    pub fn render(&self, color: bool) -> String {
        render::render(&self.0, color)
    }
}

/// Diagnostics and the text they point into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The file's path as it was given.
    pub(super) source_name: String,
    /// The whole text; empty when there are no diagnostics.
    pub(super) text: String,
    /// Sorted by place.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// How many more there were.
    pub(super) untold: usize,
}

/// A report of a single fault.
pub(super) fn about_text(source_name: &str, text: String, diagnostic: Diagnostic) -> Faults {
    Faults(vec![Report {
        source_name: source_name.to_owned(),
        text,
        diagnostics: vec![diagnostic],
        untold: 0,
    }])
}
