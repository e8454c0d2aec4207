//! Renders diagnostics as text, in the form of rustc's, with annotate-snippets.

use std::borrow::Cow;

use annotate_snippets::normalize_untrusted_str;
use annotate_snippets::{AnnotationKind, Group, Level as Title, Origin, Renderer, Snippet};

use super::code::Level;
use super::fault::{Diagnostic, FaultLabel, Report, Span};

/// The largest distance in lines between two positions in one piece. Positions further apart are shown as two pieces,
/// because the renderer processes every line between them.
const GAP: usize = 500;

/// The lines of a file in the text of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceLines {
    /// The text has the lines of each label.
    Shown,
    /// The text has only the positions of lines. A line of a configuration may have a secret, and a fault may be that the
    /// key of the secret is not recognized as such.
    Hidden,
}

/// Renders the whole report; returns an empty string if there are no diagnostics.
pub(super) fn render(report: &Report, lines: SourceLines, color: bool) -> String {
    if report.diagnostics.is_empty() && report.omitted == 0 {
        return String::new();
    }
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let text = mask_controls(&report.text);
    let page = Page::new(&report.source_name, &text);
    let mut out = String::new();
    for diagnostic in &report.diagnostics {
        out.push_str(&renderer.render(&[page.group(diagnostic, lines)]));
        out.push_str("\n\n");
    }
    out.push_str(&summary(report));
    out.push('\n');
    out
}

/// Replaces each control character beyond ASCII with a dot: some terminals obey these characters, and the renderer
/// does not remove them. The dot has the same number of bytes, so every position stays valid.
fn mask_controls(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| ('\u{80}'..='\u{9f}').contains(&c);
    if text.contains(is_control) { text.replace(is_control, "\u{b7}").into() } else { text.into() }
}

/// Returns a text without control characters, for texts that come from outside.
fn printable(text: &str) -> String {
    normalize_untrusted_str(&mask_controls(text))
}

/// Returns the last line, such as `pointsman.toml: 3 faults, 1 warning`.
fn summary(report: &Report) -> String {
    let faults = report.diagnostics.iter().filter(|d| d.code.level() == Level::Fault).count();
    let warnings = report.diagnostics.len() - faults;
    let counted = [(faults, "fault"), (warnings, "warning"), (report.omitted, "more not shown")];
    let parts: Vec<String> = counted
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| match (count, noun) {
            (1, _) | (_, "more not shown") => format!("{count} {noun}"),
            _ => format!("{count} {noun}s"),
        })
        .collect();
    format!("{}: {}", printable(&report.source_name), parts.join(", "))
}

/// A text with the positions of its lines, computed once for all diagnostics.
struct Page<'r> {
    name: String,
    text: &'r str,
    /// The position at which each line starts.
    lines: Vec<usize>,
}

impl<'r> Page<'r> {
    fn new(name: &str, text: &'r str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { name: printable(name), text, lines: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn group(&self, diagnostic: &Diagnostic, lines: SourceLines) -> Group<'r> {
        let level = match diagnostic.code.level() {
            Level::Fault => Title::ERROR,
            Level::Warning => Title::WARNING,
        };
        let title = level.primary_title(printable(&diagnostic.message)).id(diagnostic.code.as_str());
        let mut group = match (diagnostic.labels.split_first(), lines) {
            (Some((first, others)), SourceLines::Shown) => title.elements(self.snippets(first, others)),
            (Some((first, _)), SourceLines::Hidden) => title.element(self.origin(first)),
            (None, _) => title.element(Origin::path(self.name.clone())),
        };
        if lines == SourceLines::Hidden {
            for label in diagnostic.labels.iter().filter(|label| !label.text.is_empty()) {
                group = group.element(Title::NOTE.message(printable(&label.text)));
            }
        }
        for help in &diagnostic.help {
            group = group.element(Title::HELP.message(printable(help)));
        }
        group
    }

    /// Returns the position of a label.
    fn origin(&self, label: &FaultLabel) -> Origin<'r> {
        let line = self.line_of(label.span.start);
        let before = &self.text[self.lines[line]..self.on_one_line(label.span).start];
        Origin::path(self.name.clone()).line(line + 1).char_column(before.chars().count() + 1)
    }

    /// Returns the lines with the labels and the lines near them, in one piece if the labels are close together.
    fn snippets(
        &self,
        first: &FaultLabel,
        others: &[FaultLabel],
    ) -> Vec<Snippet<'r, annotate_snippets::Annotation<'r>>> {
        let line = |label: &FaultLabel| self.line_of(label.span.start);
        let all = || std::iter::once(first).chain(others);
        let (top, bottom) = (all().map(line).min().unwrap_or(0), all().map(line).max().unwrap_or(0));
        if bottom - top <= GAP {
            let marks = all().map(|label| (label, kind(label, first))).collect();
            return vec![self.piece(top, bottom, marks)];
        }
        all().map(|label| self.piece(line(label), line(label), vec![(label, kind(label, first))])).collect()
    }

    fn piece(
        &self,
        top: usize,
        bottom: usize,
        marks: Vec<(&FaultLabel, AnnotationKind)>,
    ) -> Snippet<'r, annotate_snippets::Annotation<'r>> {
        let start = self.lines[top];
        let end = self.line_end(bottom);
        let annotations = marks.into_iter().map(|(label, kind)| {
            let span = self.on_one_line(label.span);
            let text = (!label.text.is_empty()).then(|| printable(&label.text));
            kind.span(span.start - start..span.end - start).label(text)
        });
        Snippet::source(&self.text[start..end])
            .line_start(top + 1)
            .path(self.name.clone())
            .annotations(annotations)
    }

    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at.min(self.text.len())) - 1
    }

    /// Returns the end of a line's text, before its line break.
    fn line_end(&self, line: usize) -> usize {
        let next = self.lines.get(line + 1).map_or(self.text.len(), |start| start - 1);
        if self.text[..next].ends_with('\r') && next > self.lines[line] { next - 1 } else { next }
    }

    /// Returns the part of a span on its first line, at the boundaries of characters.
    fn on_one_line(&self, span: Span) -> Span {
        let line = self.line_of(span.start);
        let limit = self.line_end(line);
        let mut start = span.start.min(limit);
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = span.end.clamp(start, limit);
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        Span { start, end }
    }
}

fn kind(label: &FaultLabel, first: &FaultLabel) -> AnnotationKind {
    if std::ptr::eq(label, first) { AnnotationKind::Primary } else { AnnotationKind::Context }
}
