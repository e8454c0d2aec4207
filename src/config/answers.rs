//! The values of HTTP checks and of patterns: methods, headers, statuses, regular expressions.

use std::ops::RangeInclusive;
use std::sync::Arc;

use toml::de::DeValue;

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::read::{Path, Read, Value, wrong_type};
use super::words::string;
use crate::wire::dialogue::{BytePattern, PatternFault};

/// A bound far above any header that a check needs, and far below the limits of servers.
const LONGEST_HEADER: usize = 4096;

/// The longest method; the longest one of any standard has 16 letters.
const LONGEST_METHOD: usize = 16;

/// Statuses with which a check passes: one, or a range.
#[derive(Clone, Debug)]
pub(super) struct Statuses(pub(super) RangeInclusive<u16>);

impl Read for Statuses {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => number.as_str(),
            _ => {
                wrong_type(value, path, "statuses such as \"200-399\" or \"429\"", found);
                return None;
            }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = status(first).zip(status(last)).filter(|(first, last)| first <= last);
        if range.is_none() {
            let message = format!("{text:?} is neither an HTTP status nor a range of them");
            let label = "from 200 to 999, such as \"200\", \"200-399\"";
            let fault = Diagnostic::new(Code::BadScript, path, message).label(value.span().into(), label);
            found.add(fault.help("several: expect = [\"200-399\", \"429\"]"));
        }
        range.map(|(first, last)| Self(first..=last))
    }
}

/// Returns a final status, or `None`. A status below 200 is not final: another status follows it.
fn status(text: &str) -> Option<u16> {
    let text = text.trim();
    let is_status = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|status| is_status && *status >= 200)
}

/// The method of a request.
#[derive(Clone, Debug)]
pub(super) struct HttpMethod(pub(super) Arc<str>);

impl Read for HttpMethod {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a method such as \"GET\"", found)?;
        let is_word =
            (1..=LONGEST_METHOD).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_uppercase());
        // After the answer to CONNECT another protocol follows.
        let is_good = is_word && text != "CONNECT";
        if !is_good {
            let fault =
                Diagnostic::new(Code::BadScript, path, format!("{text:?} is not a method of a check"));
            found.add(
                fault
                    .label(value.span().into(), "1 to 16 capital letters")
                    .help("such as \"GET\", \"HEAD\", \"OPTIONS\""),
            );
        }
        is_good.then(|| Self(text.into()))
    }
}

/// The value of a header.
#[derive(Clone, Debug)]
pub(super) struct HeaderValue(pub(super) Arc<str>);

impl Read for HeaderValue {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "the value of a header", found)?;
        let is_good = text.len() <= LONGEST_HEADER
            && text.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic());
        if !is_good {
            let label = format!("up to {LONGEST_HEADER} visible ASCII characters and spaces");
            let message = format!("`{path}` cannot be used in a check");
            found.add(Diagnostic::new(Code::BadScript, path, message).label(value.span().into(), label));
        }
        is_good.then(|| Self(text.into()))
    }
}

/// A regular expression for an answer.
#[derive(Clone, Debug)]
pub(super) struct AnswerPattern(pub(super) BytePattern);

impl Read for AnswerPattern {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a regular expression", found)?;
        match BytePattern::new(text) {
            Ok(pattern) => Some(Self(pattern)),
            Err(fault) => {
                // The parser draws the position in several lines; the last line has the reason.
                let why = match &fault {
                    PatternFault::Syntax(why) => why.lines().last().unwrap_or_default().to_owned(),
                    PatternFault::TooLarge | PatternFault::Empty => fault.to_string(),
                };
                let message = format!("{text:?} is not a regular expression that can be used");
                found.add(Diagnostic::new(Code::BadScript, path, message).label(value.span().into(), why));
                None
            }
        }
    }
}
