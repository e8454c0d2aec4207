//! Collects faults: they are never returned early. A reader or a check adds what it finds and goes on with
//! what is left; at the end the findings become [`Faults`], or [`Warnings`] beside a configuration.

use std::collections::HashSet;

use super::code::{Code, Level};
use super::fault::{Diagnostic, Faults, Report, Warnings};
use super::hints;

/// How many diagnostics are kept; those beyond are only counted. A generated file with one mistake in
/// every line must not cost memory and minutes to say so.
const MOST: usize = 200;

/// Collects diagnostics while one text is read and checked.
pub(super) struct Findings<'t> {
    text: &'t str,
    diagnostics: Vec<Diagnostic>,
    untold: usize,
    faults: usize,
    /// Paths of keys that an unknown key was probably meant to be: they are not missing, only misspelt.
    misspelt: HashSet<String>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, diagnostics: Vec::new(), untold: 0, faults: 0, misspelt: HashSet::new() }
    }

    /// The text that is being read.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    pub(super) fn add(&mut self, mut diagnostic: Diagnostic) {
        if diagnostic.code.level() == Level::Fault {
            self.faults += 1;
        }
        if self.is_full() {
            self.untold += 1;
        } else {
            if self.has_variable(&diagnostic) {
                diagnostic.help.push(hints::VARIABLES.to_owned());
            }
            self.diagnostics.push(diagnostic);
        }
    }

    /// Whether the value that a diagnostic points at has a variable of a shell.
    fn has_variable(&self, diagnostic: &Diagnostic) -> bool {
        let place =
            diagnostic.labels.first().and_then(|label| self.text.get(label.span.start..label.span.end));
        place.is_some_and(|text| {
            text.starts_with(['"', '\'']) && !text.contains('\n') && hints::variable(text).is_some()
        })
    }

    /// Remembers that `path` was written, though not as it should be.
    pub(super) fn misspelt(&mut self, path: String) {
        self.misspelt.insert(path);
    }

    /// Whether a diagnostic added now would only be counted. Ask before composing a costly one.
    pub(super) fn is_full(&self) -> bool {
        self.diagnostics.len() >= MOST
    }

    pub(super) fn has_faults(&self) -> bool {
        self.faults > 0
    }

    /// Puts the findings in order and decides: warnings, or faults with the warnings among them.
    pub(super) fn conclude(mut self, source_name: &str) -> Result<Warnings, Faults> {
        let has_faults = self.has_faults();
        self.drop_consequences();
        self.diagnostics.sort_by_key(Diagnostic::start);
        let text = if self.diagnostics.is_empty() { "" } else { self.text };
        let report = Report {
            source_name: source_name.to_owned(),
            text: text.to_owned(),
            diagnostics: self.diagnostics,
            untold: self.untold,
        };
        if has_faults { Err(Faults(vec![report])) } else { Ok(Warnings(report)) }
    }

    /// Drops what only follows from another fault: a missing key that is there but misspelt, and, where
    /// the text is not TOML, whatever a half-read file or a half-read line seems to say.
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

/// The candidate that `written` was probably meant to be.
pub(crate) fn did_you_mean<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    /// Below this the two words only happen to share letters.
    const ALIKE: f64 = 0.8;
    /// More candidates than a person would have mixed up, and few enough to compare at once.
    const COMPARED: usize = 2000;

    let written = written.to_ascii_lowercase();
    candidates
        .into_iter()
        .take(COMPARED)
        .map(|candidate| (likeness(&written, candidate), candidate))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// From 0 to 1. In short words two letters swapped are too much for Jaro-Winkler, but not for a person.
fn likeness(written: &str, candidate: &str) -> f64 {
    let jaro_winkler = strsim::jaro_winkler(written, candidate);
    let is_one_slip = candidate.len() > 2 && strsim::osa_distance(written, candidate) == 1;
    if is_one_slip { jaro_winkler.max(0.9) } else { jaro_winkler }
}
