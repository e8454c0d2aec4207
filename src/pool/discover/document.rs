//! Parses the file in which another program lists the backends of a pool. Pure. The form is a contract, which
//! `docs/guide/discovery.md` describes.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::set::{Discovered, DiscoveredSet, MOST_BACKENDS};
use crate::pool::destination;
use crate::sys::Address;

/// The version of the form that this program reads.
const VERSION: u64 = 1;

/// The longest name of a backend or a zone, as in the configuration.
const LONGEST_NAME: usize = 64;

/// The fault of a text that gives no backends.
#[derive(Debug, thiserror::Error)]
pub enum DocumentFault {
    /// The text is not JSON of this form. The message has the line and the column.
    #[error("{0}")]
    Form(#[source] serde_json::Error),
    /// The text has another version.
    #[error("its version is {0}; this program reads version {VERSION}")]
    Version(u64),
    /// The text lists too many backends.
    #[error("it has {0} backends; at most {MOST_BACKENDS} are allowed")]
    TooMany(usize),
    /// Two backends have the same name or the same address.
    #[error(
        "backends[{first}] and backends[{again}] are both `{what}`; give them names and addresses that differ"
    )]
    Doubled {
        /// The name or address.
        what: Box<str>,
        /// The index of the first, from 0.
        first: usize,
        /// The index of the second.
        again: usize,
    },
}

/// Parses a document. An empty list is valid: the pool has no backends of this source any more.
pub(super) fn parse(text: &[u8]) -> Result<DiscoveredSet, DocumentFault> {
    // Some editors begin a file with a byte order mark. RFC 8259, section 8.1 lets a parser skip it.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // The version is read first, because another version may have other keys.
    let DocumentVersion { version } = serde_json::from_slice(text).map_err(DocumentFault::Form)?;
    if version != VERSION {
        return Err(DocumentFault::Version(version));
    }
    let document: Document = serde_json::from_slice(text).map_err(DocumentFault::Form)?;
    if document.backends.len() > MOST_BACKENDS {
        return Err(DocumentFault::TooMany(document.backends.len()));
    }
    let backends: Vec<Discovered> = document.backends.into_iter().map(DocumentEntry::discovered).collect();
    refuse_doubled(&backends)?;
    Ok(DiscoveredSet::new(backends))
}

fn refuse_doubled(backends: &[Discovered]) -> Result<(), DocumentFault> {
    let mut names = HashMap::with_capacity(backends.len());
    let mut addresses = HashMap::with_capacity(backends.len());
    for (again, backend) in backends.iter().enumerate() {
        if let Some(first) = names.insert(&backend.name, again) {
            return Err(DocumentFault::Doubled { what: (&*backend.name).into(), first, again });
        }
        if let Some(first) = addresses.insert(&backend.address, again) {
            let what = backend.address.to_string().into();
            return Err(DocumentFault::Doubled { what, first, again });
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct DocumentVersion {
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "version")]
    _version: u64,
    backends: Vec<DocumentEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a backend: an object with an `address`")]
struct DocumentEntry {
    #[serde(deserialize_with = "address")]
    address: Address,
    #[serde(default, deserialize_with = "name")]
    name: Option<Arc<str>>,
    #[serde(default = "one")]
    weight: u16,
    #[serde(default, deserialize_with = "name")]
    zone: Option<Arc<str>>,
    #[serde(default)]
    backup: bool,
}

impl DocumentEntry {
    fn discovered(self) -> Discovered {
        let Self { address, name, weight, zone, backup } = self;
        let name = name.unwrap_or_else(|| address.to_string().into());
        Discovered { name, address, weight, zone, backup }
    }
}

fn one() -> u16 {
    1
}

fn address<'de, D: Deserializer<'de>>(value: D) -> Result<Address, D::Error> {
    let text = String::deserialize(value)?;
    let address = text
        .parse::<Address>()
        .map_err(|fault| D::Error::custom(format!("{text:?} is not an address: {fault}")))?
        .to_canonical();
    match destination::check(&address) {
        Ok(()) => Ok(address),
        Err(fault) => Err(D::Error::custom(format!("{text:?} is no address of a backend: {fault}"))),
    }
}

fn name<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Arc<str>>, D::Error> {
    let text = String::deserialize(value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(fits) {
        let rule = format!("a name has 1 to {LONGEST_NAME} ASCII letters, digits or `-_.`");
        return Err(D::Error::custom(format!("{text:?} cannot be a name: {rule}")));
    }
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the backends of a text as `name address weight [zone] [backup]`, or the fault.
    fn read(text: &str) -> String {
        match parse(text.as_bytes()) {
            Ok(set) => set.to_string(),
            Err(fault) => format!("! {fault}"),
        }
    }

    fn check(backends: &str, expected: &str) {
        assert_eq!(read(&format!(r#"{{"version": 1, "backends": [{backends}]}}"#)), expected, "{backends}");
    }

    fn check_text(text: &str, expected: &str) {
        assert_eq!(read(text), expected, "{text}");
    }

    #[test]
    fn backends_are_read() {
        check("", "");
        check(r#"{"address": "10.0.0.1:443"}"#, "10.0.0.1:443 10.0.0.1:443 1");
        check(r#"{"address": "[2001:DB8::0:1]:443"}"#, "[2001:db8::1]:443 [2001:db8::1]:443 1");
        check(r#"{"address": "[fe80::1%eth0]:443"}"#, "[fe80::1%eth0]:443 [fe80::1%eth0]:443 1");
        check(r#"{"address": "unix:/run/a", "name": "a", "weight": 0}"#, "a unix:/run/a 0");
        check(
            r#"{"backup": true, "zone": "eu-1", "weight": 7, "address": "10.0.0.1:1", "name": "a"}"#,
            "a 10.0.0.1:1 7 eu-1 backup",
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_document() {
        check_text(
            "\u{feff}{\"version\": 1,\r\n\"backends\": [{\"address\": \"10.0.0.1:1\"}]}\r\n",
            "10.0.0.1:1 10.0.0.1:1 1",
        );
        check_text("\u{feff}", "! EOF while parsing a value at line 1 column 0");
        check_text("{\u{feff}}", "! key must be a string at line 1 column 2");
    }

    #[test]
    fn the_order_says_nothing() {
        let (a, b) = (r#"{"address": "10.0.0.1:1"}"#, r#"{"address": "10.0.0.2:1"}"#);
        let both = "10.0.0.1:1 10.0.0.1:1 1, 10.0.0.2:1 10.0.0.2:1 1";
        check(&format!("{a},{b}"), both);
        check(&format!("{b},{a}"), both);
    }

    #[test]
    fn faults_say_where_and_why() {
        check_text("", "! EOF while parsing a value at line 1 column 0");
        check_text(
            "{\n  \"version\": 1,\n  \"backends\": [\n",
            "! EOF while parsing a list at line 4 column 0",
        );
        check_text(r#"{"backends": []}"#, "! missing field `version` at line 1 column 16");
        check_text(r#"{"version": 1}"#, "! missing field `backends` at line 1 column 14");
        check_text(r#"{"version": 2, "nodes": []}"#, "! its version is 2; this program reads version 1");
        check_text(
            "{\"version\": 1,\n \"backends\": [{\"adress\": \"10.0.0.1:1\"}]}",
            "! unknown field `adress`, expected one of `address`, `name`, `weight`, `zone`, `backup` at line 2 column 23",
        );
        check_text(
            "{\"version\": 1, \"backends\": [\n{\"address\": \"mail:25\"}]}",
            "! \"mail:25\" is not an address: an address is IP:PORT, [IPv6]:PORT, [fe80::1%INTERFACE]:PORT or unix:/absolute/path at line 2 column 22",
        );
    }

    #[test]
    fn what_is_refused() {
        let refused = |backends: &str, part: &str| {
            let said = read(&format!(r#"{{"version": 1, "backends": [{backends}]}}"#));
            assert!(said.starts_with('!') && said.contains(part), "{backends}: {said}");
        };
        refused(r#""10.0.0.1:1""#, "expected a backend");
        refused(r#"{"address": "10.0.0.1:0"}"#, "needs a port");
        refused(r#"{"address": "0.0.0.0:80"}"#, "for this host, write");
        refused(r#"{"address": "224.0.0.1:80"}"#, "multicast");
        refused(r#"{"address": "[fe80::1]:80"}"#, "name the interface");
        refused(
            r#"{"address": "10.0.0.1:80"}, {"address": "[::ffff:10.0.0.1]:80"}"#,
            "are both `10.0.0.1:80`",
        );
        refused(r#"{"name": "a"}"#, "missing field `address`");
        refused(r#"{"address": "10.0.0.1:1", "weight": 65536}"#, "expected u16");
        refused(r#"{"address": "10.0.0.1:1", "weight": -1}"#, "expected u16");
        refused(r#"{"address": "10.0.0.1:1", "name": ""}"#, "cannot be a name");
        refused(r#"{"address": "10.0.0.1:1", "zone": "a b"}"#, "cannot be a name");
        refused(r#"{"address": "10.0.0.1:1", "name": null}"#, "expected a string");
        let doubled = "backends[0] and backends[1] are both";
        refused(r#"{"address": "10.0.0.1:1"}, {"address": "10.0.0.1:1"}"#, doubled);
        refused(r#"{"address": "10.0.0.1:1"}, {"address": "10.0.0.1:1", "name": "a"}"#, doubled);
        refused(r#"{"address": "10.0.0.1:1", "name": "a"}, {"address": "10.0.0.2:1", "name": "a"}"#, doubled);
    }

    #[test]
    fn the_documented_example_is_right() {
        const PAGE: &str = include_str!("../../../docs/guide/discovery.md");
        let example = PAGE.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let expected = "[2001:db8::13]:443 [2001:db8::13]:443 1 backup, mail-1 10.0.1.11:443 1, \
                        10.0.1.12:443 10.0.1.12:443 2 eu-1, unix:/run/mail.sock unix:/run/mail.sock 0";
        let sorted = |text: &str| {
            let mut backends: Vec<_> = text.split(", ").map(str::to_owned).collect();
            backends.sort();
            backends
        };
        assert_eq!(sorted(&read(example)), sorted(expected));
    }

    #[test]
    fn the_schema_has_the_same_keys() {
        const SCHEMA: &str = include_str!("../../../docs/reference/discovery.schema.json");
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let backend = schema["properties"]["backends"]["items"]["properties"].as_object().unwrap();
        let keys: Vec<_> = backend.keys().map(|key| format!("`{key}`")).collect();
        let said = read(r#"{"version": 1, "backends": [{"?": 1}]}"#);
        let known = said.split("one of ").nth(1).unwrap().split(" at line").next().unwrap();
        let mut known: Vec<_> = known.split(", ").map(str::to_owned).collect();
        known.sort();
        assert_eq!(keys, known);
        assert_eq!(schema["properties"]["version"]["const"], VERSION);
        assert_eq!(schema["properties"]["backends"]["maxItems"], MOST_BACKENDS);
    }

    #[test]
    fn there_is_a_most() {
        let entries = |count: usize| -> String {
            let each = |n| format!(r#"{{"address": "10.0.{}.{}:1"}}"#, n / 256, n % 256);
            (0..count).map(each).collect::<Vec<_>>().join(",")
        };
        let most = read(&format!(r#"{{"version": 1, "backends": [{}]}}"#, entries(MOST_BACKENDS)));
        assert_eq!(most.split(", ").count(), MOST_BACKENDS);
        check(&entries(MOST_BACKENDS + 1), "! it has 10001 backends; at most 10000 are allowed");
    }
}
