//! The values of `forward` in a pool: hosts and ports.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::read::{Path, Read, Value, wrong_type};
use super::words::SniPattern;
use crate::pool::HostPattern;

/// A name, a pattern of names, or a star for every name.
#[derive(Clone, Debug)]
pub(super) struct HostWord(pub(super) HostPattern);

impl Read for HostWord {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("*") {
            return Some(Self(HostPattern::Any));
        }
        SniPattern::read(value, path, found).map(|pattern| Self(HostPattern::Names(pattern.0)))
    }
}

/// A port or a range of ports.
#[derive(Clone, Debug)]
pub(super) struct Ports(pub(super) RangeInclusive<u16>);

impl Read for Ports {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => number.as_str(),
            _ => {
                wrong_type(value, path, "a port such as 443, or a range such as \"8000-8100\"", found);
                return None;
            }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = port(first).zip(port(last)).filter(|(first, last)| first <= last);
        if range.is_none() {
            let message = format!("{text:?} is neither a port nor a range of ports");
            let label = "from 1 to 65535, such as 443 or \"8000-8100\"";
            found.add(Diagnostic::new(Code::OutOfRange, path, message).label(value.span().into(), label));
        }
        range.map(|(first, last)| Self(first..=last))
    }
}

fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}
