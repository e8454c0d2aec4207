//! Collects faults; they are never returned early. A reader or a check adds its faults and continues with the other
//! values. At the end the findings become [`Faults`], or [`Warnings`] beside a configuration.

use std::collections::HashSet;

use super::code::{Code, Level};
use super::fault::{Diagnostic, Faults, Report, Warnings};
use super::hints;

/// The most diagnostics that are kept; further ones are only counted. A generated file with a mistake in every line
/// must not cost memory and minutes.
const MOST: usize = 200;

/// Collects diagnostics while one text is read and checked.
pub(super) struct Findings<'t> {
    text: &'t str,
    diagnostics: Vec<Diagnostic>,
    omitted: usize,
    faults: usize,
    /// Paths of keys that unknown keys probably stand for: these keys are not missing, only misspelt.
    misspelt: HashSet<String>,
    /// True if the text is a command line, which has only a few of the keys.
    is_command_line: bool,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            diagnostics: Vec::new(),
            omitted: 0,
            faults: 0,
            misspelt: HashSet::new(),
            is_command_line: false,
        }
    }

    /// Creates the findings of a command line.
    pub(super) fn of_command_line(text: &'t str) -> Self {
        Self { is_command_line: true, ..Self::new(text) }
    }

    /// Returns true if the text is a command line.
    pub(super) fn is_of_command_line(&self) -> bool {
        self.is_command_line
    }

    /// Returns the text that is being read.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn add(&mut self, mut diagnostic: Diagnostic) {
        if diagnostic.code.level() == Level::Fault {
            self.faults += 1;
        }
        if self.is_full() {
            self.omitted += 1;
        } else {
            if self.has_variable(&diagnostic) {
                diagnostic.help.push(hints::VARIABLES.to_owned());
            }
            self.diagnostics.push(diagnostic);
        }
    }

    /// Returns true if the value that a diagnostic points at has a variable of a shell.
    fn has_variable(&self, diagnostic: &Diagnostic) -> bool {
        let place =
            diagnostic.labels.first().and_then(|label| self.text.get(label.span.start..label.span.end));
        place.is_some_and(|text| {
            text.starts_with(['"', '\'']) && !text.contains('\n') && hints::variable(text).is_some()
        })
    }

    /// Records that the key `path` is written, but misspelt.
    pub(super) fn misspelt(&mut self, path: String) {
        self.misspelt.insert(path);
    }

    /// Returns true if a further diagnostic would only be counted. Check this before you compose a costly diagnostic.
    pub(super) fn is_full(&self) -> bool {
        self.diagnostics.len() >= MOST
    }

    pub(super) fn has_faults(&self) -> bool {
        self.faults > 0
    }

    /// Sorts the findings and returns the warnings, or the faults together with the warnings.
    pub(super) fn conclude(mut self, source_name: &str) -> Result<Warnings, Faults> {
        let has_faults = self.has_faults();
        self.drop_consequences();
        self.diagnostics.sort_by_key(Diagnostic::start);
        let text = if self.diagnostics.is_empty() { "" } else { self.text };
        let report = Report {
            source_name: source_name.to_owned(),
            text: text.to_owned(),
            diagnostics: self.diagnostics,
            omitted: self.omitted,
        };
        if has_faults { Err(Faults(vec![report])) } else { Ok(Warnings(report)) }
    }

    /// Drops diagnostics that only follow from another fault: a key counts as missing because it is misspelt. If
    /// the text is not TOML, the dropped diagnostics are about a file or a line that could be read only in part.
    fn drop_consequences(&mut self) {
        let misspelt = std::mem::take(&mut self.misspelt);
        self.diagnostics.retain(|d| match d.code {
            Code::MissingKey | Code::NoBackends | Code::RejectsAll | Code::NoListener => {
                !misspelt.contains(&d.path)
            }
            Code::UnknownPool => !misspelt.contains("pool"),
            _ => true,
        });

        let is_syntax = |d: &&Diagnostic| d.code == Code::Syntax;
        let broken: HashSet<usize> =
            self.diagnostics.iter().filter(is_syntax).map(|d| self.line_start(d.start())).collect();
        if broken.is_empty() {
            return;
        }
        let mut diagnostics = std::mem::take(&mut self.diagnostics);
        diagnostics.retain(|d| match d.code {
            Code::Syntax | Code::DuplicateKey => true,
            code => code.is_about_a_word() && !broken.contains(&self.line_start(d.start())),
        });
        self.diagnostics = diagnostics;
    }

    fn line_start(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
    }
}

/// Returns the candidate that `written` is probably a misspelling of.
pub(crate) fn did_you_mean<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    /// Below this value two words only have some letters in common.
    const ALIKE: f64 = 0.8;
    /// The most candidates that are compared: more than a person would confuse, and few enough to compare quickly.
    const COMPARED: usize = 2000;

    let written = written.to_ascii_lowercase();
    candidates
        .into_iter()
        .take(COMPARED)
        .map(|candidate| (similarity(&written, candidate), candidate))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Returns the similarity of two words, from 0 to 1. Jaro-Winkler rates two swapped letters in a short word too low,
/// so such words get at least 0.9.
fn similarity(written: &str, candidate: &str) -> f64 {
    let jaro_winkler = strsim::jaro_winkler(written, candidate);
    let is_one_slip = candidate.len() > 2 && strsim::osa_distance(written, candidate) == 1;
    if is_one_slip { jaro_winkler.max(0.9) } else { jaro_winkler }
}
