//! The values of a route's conditions.

use std::fmt::Display;

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::hints;
use super::read::{Path, Read, Value};
use super::words::string;
use crate::route::condition::{Destination, Ja4Pattern};
use crate::route::{IpPrefix, NameRegex, PrefixFault, RegexFault};

/// The longest name of a protocol (RFC 7301, section 3.1).
const LONGEST_PROTOCOL: usize = 255;

/// A network of clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network(pub(super) IpPrefix);

/// The address or port to which clients connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached(pub(super) Destination);

/// A fingerprint, or the beginning of a fingerprint.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint(pub(super) Ja4Pattern);

/// The name of a protocol inside TLS (ALPN).
#[derive(Clone, Debug)]
pub(super) struct ProtocolName(pub(super) String);

/// A regular expression for server names.
#[derive(Clone, Debug)]
pub(super) struct SniRegex(pub(super) NameRegex);

impl Read for Network {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a network such as \"10.0.0.0/8\"", found)?;
        let hint = |fault: PrefixFault| match fault {
            PrefixFault::HostBits(_) => fault.to_string(),
            fault => hints::network(text).unwrap_or_else(|| fault.to_string()),
        };
        text.parse().map(Self).map_err(|fault| refuse(value, path, "a network", hint(fault), found)).ok()
    }
}

impl Read for Reached {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "an address, a port such as \":5433\", or both", found)?;
        text.parse().map(Self).map_err(|fault| refuse(value, path, "a destination", fault, found)).ok()
    }
}

impl Read for Fingerprint {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a JA4 fingerprint", found)?;
        text.parse().map(Self).map_err(|fault| refuse(value, path, "a JA4 fingerprint", fault, found)).ok()
    }
}

impl Read for ProtocolName {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a protocol's name such as \"h2\"", found)?;
        if (1..=LONGEST_PROTOCOL).contains(&text.len()) {
            return Some(Self(text.to_owned()));
        }
        refuse(value, path, "the name of a protocol", format!("1 to {LONGEST_PROTOCOL} bytes"), found);
        None
    }
}

impl Read for SniRegex {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a regular expression", found)?;
        match NameRegex::new(text) {
            Ok(regex) => Some(Self(regex)),
            Err(fault) => {
                // The parser draws the position in several lines; the last line has the reason.
                let why = match &fault {
                    RegexFault::Syntax(why) => why.lines().last().unwrap_or_default().to_owned(),
                    RegexFault::TooLarge => fault.to_string(),
                };
                refuse(value, path, "a regular expression that can be used", why, found);
                None
            }
        }
    }
}

fn refuse(value: &Value<'_>, path: Path<'_>, what: &str, why: impl Display, found: &mut Findings<'_>) {
    let text = value.get_ref().as_str().unwrap_or_default();
    let fault = Diagnostic::new(Code::BadCondition, path, format!("{text:?} is not {what}"));
    found.add(fault.label(value.span().into(), why.to_string()));
}
