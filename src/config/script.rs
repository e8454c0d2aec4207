//! The values of health and agent checks: bytes to send, bytes to expect, targets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address::{HostName, host_name};
use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::read::{Path, Read, Value};
use super::words::string;
use crate::pool::destination;
use crate::pool::{CheckTarget, TargetHost};
use crate::sys::Address;
use crate::wire::ServerName;
use crate::wire::dialogue::send_expect::LONGEST_STEP;

/// A bound far above any path or host that a check needs, and far below the limits of servers.
const LONGEST_HTTP: usize = 1024;

/// The longest user name of PostgreSQL; those of MySQL are shorter.
const LONGEST_USER: usize = 63;

fn bad_script(value: &Value<'_>, path: Path<'_>, label: impl Into<String>) -> Diagnostic {
    let message = format!("`{path}` cannot be used in a check");
    Diagnostic::new(Code::BadScript, path, message).label(value.span().into(), label)
}

/// Text of 1 to [`LONGEST_STEP`] bytes.
#[derive(Clone, Debug)]
pub(super) struct Text(pub(super) Arc<[u8]>);

impl Read for Text {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "text", found)?;
        bytes(text.as_bytes().into(), value, path, found).map(Self)
    }
}

/// Bytes as hexadecimal digits.
#[derive(Clone, Debug)]
pub(super) struct Hex(pub(super) Arc<[u8]>);

impl Read for Hex {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "hexadecimal digits in quotes", found)?;
        let digits: Option<Vec<u8>> = text
            .chars()
            .filter(|letter| !letter.is_ascii_whitespace())
            .map(|letter| letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let Some(digits) = digits.filter(|digits| digits.len() % 2 == 0) else {
            found.add(
                bad_script(value, path, "not a whole number of bytes, two hexadecimal digits each")
                    .help("such as \"00 00 00 08 04d2162f\""),
            );
            return None;
        };
        let pairs = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        bytes(pairs.collect(), value, path, found).map(Self)
    }
}

fn bytes(bytes: Arc<[u8]>, value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Arc<[u8]>> {
    if bytes.is_empty() {
        found.add(bad_script(value, path, "it is empty"));
        return None;
    }
    if bytes.len() > LONGEST_STEP {
        let label = format!("{} bytes; {LONGEST_STEP} are allowed", bytes.len());
        found.add(bad_script(value, path, label));
        return None;
    }
    Some(bytes)
}

/// The path of a request.
#[derive(Clone, Debug)]
pub(super) struct HttpPath(pub(super) Arc<str>);

impl Read for HttpPath {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a path such as \"/healthz\"", found)?;
        let is_good = text.starts_with('/') && text.len() <= LONGEST_HTTP && is_visible(text);
        if !is_good {
            found.add(
                bad_script(value, path, "not a path: `/`, then visible ASCII characters")
                    .help("such as \"/healthz\"; write other characters as %XX"),
            );
        }
        is_good.then(|| Self(text.into()))
    }
}

/// The value of a Host header: a name or an address, with or without a port.
#[derive(Clone, Debug)]
pub(super) struct HttpHost(pub(super) Arc<str>);

impl Read for HttpHost {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a host such as \"www.example.com\"", found)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let is_good = !text.is_empty() && text.len() <= LONGEST_HTTP && text.chars().all(fits);
        if !is_good {
            found.add(
                bad_script(value, path, "not a host name or address")
                    .help("such as \"www.example.com\" or \"10.0.0.1:8080\""),
            );
        }
        is_good.then(|| Self(text.into()))
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The server name that a check sends.
#[derive(Clone, Debug)]
pub(super) struct TlsName(pub(super) ServerName);

impl Read for TlsName {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a host name", found)?;
        match text.parse() {
            Ok(name) => Some(Self(name)),
            Err(fault) => {
                let message = format!("{text:?} is not a server name");
                let fault = Diagnostic::new(Code::BadServerName, path, message)
                    .label(value.span().into(), format!("{fault}"));
                found.add(fault);
                None
            }
        }
    }
}

/// The user that a check logs in as.
#[derive(Clone, Debug)]
pub(super) struct User(pub(super) Arc<str>);

impl Read for User {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "a user", found)?;
        let is_good = (1..=LONGEST_USER).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_good {
            found.add(bad_script(
                value,
                path,
                format!("not 1 to {LONGEST_USER} bytes without control characters"),
            ));
        }
        is_good.then(|| Self(text.into()))
    }
}

/// The target of checks or of queries to an agent. It is an IP address or a host name, with or without a port, or a
/// Unix socket.
#[derive(Clone, Debug)]
pub(super) struct TargetAddress(pub(super) CheckTarget);

impl Read for TargetAddress {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "an address such as \"10.0.0.9:8080\"", found)?;
        target(text)
            .map_err(|hint| {
                let message = format!("{text:?} is not an address that `{path}` can use");
                found.add(
                    Diagnostic::new(Code::BadAddress, path, message)
                        .label(value.span().into(), hint)
                        .help("such as \"10.0.0.9\", \"10.0.0.9:8080\", \"[2001:db8::9]:8080\", \"db1.internal:8080\", \"unix:/run/check.sock\""),
                );
            })
            .map(Self)
            .ok()
    }
}

/// Reads an address of checks or agents, or returns the text of its fault.
fn target(text: &str) -> Result<CheckTarget, String> {
    const FORM: &str = "an IP address or a host name, alone or with a port from 1 to 65535, or a Unix socket";
    if let Ok(Address::Unix(path)) = text.parse() {
        return Ok(CheckTarget { host: Some(TargetHost::Unix(path)), port: None });
    }
    let (address, port) = match (text.parse::<Address>(), text.parse::<IpAddr>()) {
        (Ok(address), _) => {
            let port = address.tcp().map(|tcp| tcp.port());
            (address, port)
        }
        (_, Ok(ip)) => (SocketAddr::new(ip, 0).into(), None),
        _ if text.starts_with("unix:") => return Err(FORM.to_owned()),
        _ => {
            let HostName { name, port } = host_name(text).map_err(|_| FORM.to_owned())?;
            return Ok(CheckTarget { host: Some(TargetHost::Name(name.into())), port });
        }
    };
    if port == Some(0) {
        return Err(FORM.to_owned());
    }
    let address = address.to_canonical();
    destination::check_host(&address).map_err(|fault| fault.to_string())?;
    // The port is kept apart from the address, because it may also come from a key of its own.
    Ok(CheckTarget { host: address.with_port(0).map(TargetHost::Address), port })
}
