//! The kinds of values in a configuration: numbers, durations, names, choices.

use std::path::{self, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::{Findings, did_you_mean};
use super::foreign;
use super::read::{Path, Read, Value, type_fault, wrong_type};
use crate::route::pattern::NamePattern;
use crate::sys::Address;
use crate::telemetry::AccessLogTarget;

/// The longest name of a listener, pool or backend: names are metric labels and are in every log line.
const LONGEST_NAME: usize = 64;

/// Returns the string of a value, or adds a fault; `expected` describes the value that the key takes.
pub(super) fn string<'v>(
    value: &'v Value<'_>,
    path: Path<'_>,
    expected: &str,
    found: &mut Findings<'_>,
) -> Option<&'v str> {
    let text = value.get_ref().as_str();
    if text.is_none() {
        wrong_type(value, path, expected, found);
    }
    text
}

impl Read for String {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        string(value, path, "a string", found).map(str::to_owned)
    }
}

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Read for Number<MIN, MAX> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let Some(integer) = value.get_ref().as_integer() else {
            wrong_type(value, path, "an integer", found);
            return None;
        };
        let number = number(integer).filter(|number| (MIN..=MAX).contains(number));
        if number.is_none() {
            let message = format!("`{path}` = {integer} is out of range");
            let range = format!("{MIN} to {MAX}");
            found.add(Diagnostic::new(Code::OutOfRange, path, message).label(value.span().into(), range));
        }
        number.map(Self)
    }
}

fn number(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A factor from `MIN` to `MAX` hundredths, written as `1.25`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Read for Factor<MIN, MAX> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let (text, factor): (_, Option<f64>) = match value.get_ref() {
            DeValue::Float(factor) => (factor.as_str(), factor.as_str().parse().ok()),
            DeValue::Integer(factor) => (factor.as_str(), number(factor).map(|number| number as f64)),
            _ => {
                wrong_type(value, path, "a number such as 1.25", found);
                return None;
            }
        };
        // The cast saturates: NaN and negative values become 0, infinity becomes the largest value.
        let hundredths = factor.map(|factor| (factor * 100.0).round() as u32);
        let hundredths = hundredths.filter(|hundredths| (MIN..=MAX).contains(hundredths));
        if hundredths.is_none() {
            let message = format!("`{path}` = {text} is out of range");
            let range = format!("{} to {}", f64::from(MIN) / 100.0, f64::from(MAX) / 100.0);
            found.add(Diagnostic::new(Code::OutOfRange, path, message).label(value.span().into(), range));
        }
        hundredths.map(Self)
    }
}

/// A percentage from `MIN` to `MAX`: `"50%"`, or the number alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percent<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Read for Percent<MIN, MAX> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let percent = match value.get_ref() {
            DeValue::Integer(integer) => number(integer),
            DeValue::String(text) => percent(text),
            _ => {
                wrong_type(value, path, "a percentage such as \"50%\"", found);
                return None;
            }
        };
        let percent = percent.filter(|percent| (MIN..=MAX).contains(percent));
        if percent.is_none() {
            let message = format!("`{path}` is not a percentage in its range");
            let range = format!("a whole number with its sign, \"{MIN}%\" to \"{MAX}%\"");
            found.add(Diagnostic::new(Code::OutOfRange, path, message).label(value.span().into(), range));
        }
        percent.map(Self)
    }
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Read for bool {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Boolean(yes) = value.get_ref() else {
            wrong_type(value, path, "true or false", found);
            return None;
        };
        Some(*yes)
    }
}

/// A duration from `MIN` to `MAX` milliseconds, written as `"2s"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time<const MIN: u64, const MAX: u64>(pub(super) Duration);

impl<const MIN: u64, const MAX: u64> Read for Time<MIN, MAX> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        duration(value, path, DurationBounds { min: MIN, max: MAX, or: "" }, found).map(Self)
    }
}

/// As [`Time`], or `"off"`, which is `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOrOff<const MIN: u64, const MAX: u64>(pub(super) Option<Duration>);

impl<const MIN: u64, const MAX: u64> Read for TimeOrOff<MIN, MAX> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("off") {
            return Some(Self(None));
        }
        duration(value, path, DurationBounds { min: MIN, max: MAX, or: ", or \"off\"" }, found)
            .map(|time| Self(Some(time)))
    }
}

/// The bounds of a duration in milliseconds. If the key also takes a word, `or` names this word in messages.
struct DurationBounds {
    min: u64,
    max: u64,
    or: &'static str,
}

fn duration(
    value: &Value<'_>,
    path: Path<'_>,
    bounds: DurationBounds,
    found: &mut Findings<'_>,
) -> Option<Duration> {
    let or = bounds.or;
    let at = value.span().into();
    let text = match value.get_ref() {
        DeValue::String(text) => text,
        DeValue::Integer(number) => {
            let message = format!("`{path}` takes a duration with its unit, not an integer");
            let fault = Diagnostic::new(Code::WrongType, path, message);
            found.add(fault.label(at, format!("for seconds write \"{number}s\"")));
            return None;
        }
        _ => {
            wrong_type(value, path, &format!("a duration such as \"2s\"{or}"), found);
            return None;
        }
    };
    let Ok(time) = humantime::parse_duration(text) else {
        let message = format!("{text:?} is not a duration");
        if or.is_empty() && ["off", "never", "none", "infinite", "infinity"].contains(&&**text) {
            let longest = humantime::format_duration(Duration::from_millis(bounds.max));
            let fault = Diagnostic::new(Code::BadDuration, path, format!("`{path}` cannot be turned off"));
            found.add(fault.label(at, format!("the longest is \"{longest}\"")));
            return None;
        }
        let help = format!("a duration is a number with its unit: \"500ms\", \"2s\", \"1h 30m\"{or}");
        let label =
            if number_alone(text) { format!("did you mean \"{}s\"?", text.trim()) } else { String::new() };
        found.add(Diagnostic::new(Code::BadDuration, path, message).label(at, label).help(help));
        return None;
    };
    let (min, max) = (Duration::from_millis(bounds.min), Duration::from_millis(bounds.max));
    if time < min || time > max {
        let message = format!("`{path}` = {text:?} is out of range");
        let label = format!("{} to {}{or}", humantime::format_duration(min), humantime::format_duration(max));
        found.add(Diagnostic::new(Code::OutOfRange, path, message).label(at, label));
        return None;
    }
    Some(time)
}

fn number_alone(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An enum whose values have words.
pub(super) trait KeywordEnum: Copy + 'static {
    /// Every word with its value.
    const WORDS: &'static [(&'static str, Self)];

    /// Returns the word of a value.
    fn word(self) -> &'static str
    where
        Self: PartialEq,
    {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// One of a few words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyword<T>(pub(super) T);

impl<T: KeywordEnum> Read for Keyword<T> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        let text = string(value, path, &format!("one of {}", quoted(words())), found)?;
        let choice = T::WORDS.iter().find(|(word, _)| *word == text);
        if choice.is_none() {
            let fault = unknown_word(value, path, text, words());
            found.add(fault.help(format!("it takes {}", quoted(words()))));
        }
        choice.map(|(_, value)| Self(*value))
    }
}

fn unknown_word<'w>(
    value: &Value<'_>,
    path: Path<'_>,
    text: &str,
    words: impl IntoIterator<Item = &'w str>,
) -> Diagnostic {
    let label = match (foreign::word(path.last_key(), text), did_you_mean(text, words)) {
        (Some(hint), _) => hint.to_owned(),
        (None, Some(meant)) => format!("did you mean \"{meant}\"?"),
        (None, None) => String::new(),
    };
    let message = format!("`{path}` cannot be {text:?}");
    Diagnostic::new(Code::UnknownWord, path, message).label(value.span().into(), label)
}

fn quoted<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// A name, such as that of a backend.
#[derive(Clone, Debug)]
pub(super) struct Name(pub(super) String);

impl Read for Name {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let name = string(value, path, "a name", found)?;
        if let Some(fault) = name_fault(name, path) {
            found.add(fault.label(value.span().into(), ""));
            return None;
        }
        Some(Self(name.to_owned()))
    }
}

/// Returns the fault of a text that cannot name a listener, pool or backend, without its position.
pub(super) fn name_fault(name: &str, path: impl std::fmt::Display) -> Option<Diagnostic> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(fits) {
        return None;
    }
    let fault = Diagnostic::new(Code::BadName, path, format!("{name:?} cannot be a name"));
    Some(fault.help(format!("a name has 1 to {LONGEST_NAME} ASCII letters, digits or `-_.`")))
}

/// The key of the hash balancers: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashKey(pub(super) [u8; 16]);

impl Read for HashKey {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "32 hexadecimal digits in quotes", found)?;
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let key = if is_hex { u128::from_str_radix(text, 16).ok() } else { None };
        if key.is_none() {
            let fault =
                Diagnostic::new(Code::BadHashKey, path, format!("`{path}` is not 32 hexadecimal digits"));
            let fault = fault.label(value.span().into(), format!("{} characters", text.chars().count()));
            found.add(fault.help("make a key with: openssl rand -hex 16; every node needs the same key"));
        }
        key.map(|key| Self(key.to_be_bytes()))
    }
}

/// A host name, or `*.` with the name below which every name matches.
#[derive(Clone, Debug)]
pub(super) struct SniPattern(pub(super) NamePattern);

impl Read for SniPattern {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a host name", found)?;
        match text.parse::<NamePattern>() {
            Ok(pattern) => Some(Self(pattern)),
            Err(fault) => {
                let message = format!("{text:?} is not a server name");
                let fault = Diagnostic::new(Code::BadServerName, path, message)
                    .label(value.span().into(), fault.to_string());
                let fault =
                    fault.help("write \"mail.example.com\", or \"*.example.com\" for every name below it");
                found.add(match text {
                    "*" | "*.*" | "_" | "default" => fault.help(
                        "for names that no route has: unmatched = \"POOL\" in the listener; for clients without a name: \
                         no_sni = \"POOL\"",
                    ),
                    text if text.parse::<std::net::IpAddr>().is_ok() => {
                        fault.help("clients that connect by an address send no name: no_sni = \"POOL\" in the listener")
                    }
                    _ => fault,
                });
                None
            }
        }
    }
}

/// A DNS name as it is sent to a resolver: labels of letters, digits, `-` and `_`, with a final dot or without.
#[derive(Clone, Debug)]
pub(super) struct DnsName(pub(super) String);

impl Read for DnsName {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if let DeValue::Array(_) = value.get_ref()
            && path.last_key() == "dns"
        {
            found.add(type_fault(value, path, "one DNS name").help(
                "write one source for each name: \
                 discover = [{ dns = \"a.internal\", port = 443 }, { dns = \"b.internal\", port = 443 }]",
            ));
            return None;
        }
        let text = string(value, path, "a DNS name", found)?;
        let hint = if text.parse::<std::net::IpAddr>().is_ok() || text.parse::<Address>().is_ok() {
            "an address, not a name: write it in `backends`"
        } else if !is_dns_name(text) {
            "a name has labels of 1 to 63 letters, digits, `-` or `_`, with dots between them, and at most 253 characters"
        } else {
            return Some(Self(text.to_owned()));
        };
        let message = format!("{text:?} is not a name that the DNS can have");
        found.add(Diagnostic::new(Code::BadDnsName, path, message).label(value.span().into(), hint));
        None
    }
}

pub(super) fn is_dns_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(fits);
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The path of a file.
#[derive(Clone, Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

impl Read for FilePath {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "the path of a file", found)?;
        if text.is_empty() || text.ends_with('/') || text.contains('\0') {
            let message = format!("{text:?} is not the path of a file");
            found.add(Diagnostic::new(Code::UnknownWord, path, message).label(value.span().into(), ""));
            return None;
        }
        Some(Self(text.into()))
    }
}

/// The permissions of a file, in octal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileMode(pub(super) u32);

impl Read for FileMode {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "octal digits in quotes, such as \"0660\"", found)?;
        let is_octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = if is_octal { u32::from_str_radix(text, 8).ok() } else { None };
        let mode = mode.filter(|mode| *mode <= 0o777);
        if mode.is_none() {
            let message = format!("{text:?} is not a file mode");
            let fault = Diagnostic::new(Code::OutOfRange, path, message);
            found.add(fault.label(value.span().into(), "\"0000\" to \"0777\", such as \"0660\""));
        }
        mode.map(Self)
    }
}

/// The path of a Unix socket, or `None` for "off".
#[derive(Clone, Debug)]
pub(super) struct SocketPath(pub(super) Option<Arc<path::Path>>);

impl Read for SocketPath {
    fn read(value: &Value<'_>, key: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        /// The longest path of a Unix socket in bytes, which Linux sets.
        const LONGEST: usize = 107;

        let text = string(value, key, "\"off\" or the absolute path of a socket", found)?;
        if text == "off" {
            return Some(Self(None));
        }
        let hint = match text.strip_prefix("unix:") {
            Some(rest) if rest.starts_with('/') => format!("write the path alone: {rest:?}"),
            _ if !text.starts_with('/') => "it takes \"off\" or an absolute path".to_owned(),
            _ if text.ends_with('/') || text.contains('\0') => "it takes the path of a file".to_owned(),
            _ if text.len() > LONGEST => {
                format!("the path of a socket has at most {LONGEST} bytes, and this path has {}", text.len())
            }
            _ => return Some(Self(Some(path::Path::new(text).into()))),
        };
        let message = format!("{text:?} is not the path of a socket");
        let fault = Diagnostic::new(Code::BadAddress, key, message);
        found.add(fault.label(value.span().into(), hint));
        None
    }
}

/// The target of the access log.
#[derive(Clone, Debug)]
pub(super) struct LogTarget(pub(super) AccessLogTarget);

impl Read for LogTarget {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "\"stdout\", \"off\" or a path", found)?;
        match text {
            "stdout" => Some(Self(AccessLogTarget::Stdout)),
            "off" => Some(Self(AccessLogTarget::Off)),
            // The slash is required so that a misspelt word does not become a file.
            _ if text.contains('/') && !text.ends_with('/') && !text.contains('\0') => {
                Some(Self(AccessLogTarget::File(text.into())))
            }
            _ => {
                let fault = unknown_word(value, path, text, ["stdout", "off"]);
                found.add(fault.help("it takes \"stdout\", \"off\" or the path of a file, with a slash"));
                None
            }
        }
    }
}
