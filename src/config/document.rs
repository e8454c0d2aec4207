//! Parses a text to a TOML document with the position of every key and value, however broken the text is.

use toml::de::{DeTable, DeValue};

use super::code::Code;
use super::fault::{Diagnostic, Span};
use super::findings::Findings;
use super::foreign::ForeignFormat;

/// The message of the parser for a key that exists already.
const DUPLICATE: &str = "duplicate key";

/// The most doubled keys whose first position is searched: each search goes through the whole document.
const MOST_LOOKS: usize = 20;

/// Parses the text, and adds a fault for each part that cannot be parsed.
pub(super) fn parse<'t>(found: &mut Findings<'t>) -> toml::Spanned<DeValue<'t>> {
    let text = found.text();
    let (document, faults) = DeTable::parse_recoverable(text);
    if let Some(first) = faults.iter().find(|fault| fault.message() != DUPLICATE)
        && let Some(form) = ForeignFormat::of(text)
    {
        found.add(foreign(text, form, first.span().map_or(Span::default(), Span::from)));
        // Parts that are TOML by chance are of no use.
        return toml::Spanned::new(document.span(), DeValue::Table(DeTable::new()));
    }
    let mut looks = 0;
    for fault in faults {
        let span = fault.span().map_or(Span::default(), Span::from);
        let diagnostic = if fault.message() == DUPLICATE && looks < MOST_LOOKS {
            looks += 1;
            duplicate(text, document.get_ref(), span)
        } else {
            syntax(fault.message(), span)
        };
        found.add(diagnostic);
    }
    let span = document.span();
    toml::Spanned::new(span, DeValue::Table(document.into_inner()))
}

/// Returns the fault of a text that is in the format of another program.
fn foreign(text: &str, form: ForeignFormat, at: Span) -> Diagnostic {
    let start = text[..at.start.min(text.len())].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let span = Span { start, end: start + line.len() };
    Diagnostic::new(Code::Syntax, "", format!("this is {}, and a configuration is TOML", form.name()))
        .label(span, "not TOML")
        .help("the smallest configuration: [listener.main] with bind = \":443\" and pool = \"main\", each on a line of its own; [pool.main] with backends = [\"10.0.0.1:443\"]")
        .help("README.md has configurations to begin with, config.example.toml has every key")
}

/// Returns the fault of a syntax error. The parser guesses the type of an unquoted word; the likely mistake is the
/// missing quotes.
fn syntax(message: &str, span: Span) -> Diagnostic {
    let code = if message == DUPLICATE { Code::DuplicateKey } else { Code::Syntax };
    let fault = Diagnostic::new(code, "", message).label(span, "");
    let guesses =
        ["invalid boolean", "invalid float", "invalid integer", "invalid datetime", "string values must"];
    if guesses.iter().any(|guess| message.starts_with(guess)) {
        return fault.help("words, addresses and durations need quotes: \"tcp\", \":443\", \"2s\"");
    }
    fault
}

fn duplicate(text: &str, document: &DeTable<'_>, span: Span) -> Diagnostic {
    let written = text.get(span.start..span.end).unwrap_or_default();
    let line = line_around(text, span.start);
    let is_header = line.trim_start().starts_with('[');
    let (message, first) = if is_header {
        (format!("table {} is written twice", header(line)), first_header(text, line, span.start))
    } else {
        (format!("key `{written}` is written twice"), first_key(text, document, written, span.start))
    };
    let diagnostic = Diagnostic::new(Code::DuplicateKey, written, message).label(span, "again here");
    match first {
        Some(first) => diagnostic.label(first, "first here"),
        None => diagnostic,
    }
}

fn line_around(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    text[start..].lines().next().unwrap_or_default()
}

/// Returns the header of a line, such as `[pool.mail]`, without the rest of the line.
fn header(line: &str) -> &str {
    let line = line.trim_start();
    line.find(']').map_or(line, |end| &line[..=end])
}

/// Returns the first of two equal headers. The parser does not keep it, so it is searched in the text.
fn first_header(text: &str, line: &str, before: usize) -> Option<Span> {
    let wanted = header(line);
    let mut at = 0;
    for line in text[..before].split_inclusive('\n') {
        if line.trim_start().starts_with('[') && header(line) == wanted {
            let start = at + line.len() - line.trim_start().len();
            return Some(Span { start, end: start + wanted.len() });
        }
        at += line.len();
    }
    None
}

/// Returns the first key of the same name in the table that contains the position `at`.
fn first_key(text: &str, document: &DeTable<'_>, written: &str, at: usize) -> Option<Span> {
    let name = written.trim_matches(['"', '\'']);
    let (key, _) = innermost(text, document, at).get_key_value(name)?;
    Some(key.span().into()).filter(|first: &Span| first.start < at)
}

/// Returns the table that contains a key at `at`: the smallest inline table that contains it, else the table with
/// the last header before it. In both cases no table that contains the position starts later.
fn innermost<'d, 'i>(text: &str, document: &'d DeTable<'i>, at: usize) -> &'d DeTable<'i> {
    let mut best = (0, document);
    let mut values: Vec<&toml::Spanned<DeValue<'i>>> = document.values().collect();
    while let Some(value) = values.pop() {
        match value.get_ref() {
            DeValue::Table(table) => {
                let span = value.span();
                let holds = match text.as_bytes().get(span.start) {
                    Some(b'[') => span.end <= at,
                    Some(b'{') => span.contains(&at),
                    // Tables that dotted keys make are only names on the path.
                    _ => false,
                };
                if holds && span.start >= best.0 {
                    best = (span.start, table);
                }
                values.extend(table.values());
            }
            DeValue::Array(items) => values.extend(items.iter()),
            _ => {}
        }
    }
    best.1
}
