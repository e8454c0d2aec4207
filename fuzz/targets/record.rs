//! The access record of a connection with hostile text from its client: it is one line of printable ASCII within a
//! bound. The formats with keys read back to the recorded values, and those of HAProxy have all their fields.

#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use libfuzzer_sys::fuzz_target;
use pointsman::sys::Address;
use pointsman::telemetry::record::raw_name;
use pointsman::telemetry::{AccessLogFormat, AccessRecord, ClientAddr, CloseReason, Offered};
use pointsman::wire::{HelloReader, Ja4, Offer};
use serde_json::Value;

/// More bytes than any line has, even if each text of a client has the largest length and every byte is escaped.
const LONGEST_LINE: usize = 10 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let record = record(bytes);
    let write = |format| {
        let mut line = Vec::new();
        record.write(format, &mut line);
        assert!(line.len() <= LONGEST_LINE && line.iter().all(|byte| matches!(byte, 0x20..=0x7e)));
        String::from_utf8(line).expect("ASCII")
    };
    let json: BTreeMap<String, Value> = serde_json::from_str(&write(AccessLogFormat::Json)).expect("JSON");
    for (key, text) in [
        ("sni", &record.sni),
        ("proxy_authority", &record.proxy_authority),
        ("proxy_alpn", &record.proxy_alpn),
        ("unique_id", &record.unique_id),
    ] {
        assert_eq!(json[key].as_str(), text.as_deref(), "{key}");
    }
    // The header has five fields, and the request in the other layout two.
    for (format, fields) in [(AccessLogFormat::Tcplog, 14), (AccessLogFormat::Httplog, 19)] {
        assert_eq!(write(format).split_whitespace().count(), fields, "{format:?}");
    }
    let pairs = json.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| match value {
        Value::String(text) => (key, text),
        Value::Number(number) if number.is_f64() => (key, format!("{:.6}", number.as_f64().unwrap_or(-1.0))),
        other => (key, other.to_string()),
    });
    assert_eq!(read_text(&write(AccessLogFormat::Text)), pairs.collect());
});

/// Creates a record from `bytes`, which serve as the client's hello and as the values of a PROXY header.
fn record(bytes: &[u8]) -> AccessRecord {
    let mut reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    let hello = reader.read(bytes).ok().flatten();
    let offered = hello.as_ref().and_then(|hello| {
        let message = hello.message(bytes);
        let offer = Offer::of(&message)?;
        Some(Box::new(Offered::new(&offer, Ja4::of(&offer), 1, hello.records)))
    });
    let sni = match hello.and_then(|hello| hello.server_name) {
        Some(name) => name.as_str().into(),
        None => raw_name(bytes),
    };
    let (authority, id) = bytes.split_at(bytes.len() / 2);
    let client = SocketAddr::from(([10, 0, 0, 1], 1000));
    AccessRecord {
        peer: Some(Address::Tcp(client)),
        sni: Some(sni),
        proxy_authority: Some(raw_name(authority)),
        proxy_alpn: Some(raw_name(&id[id.len() / 2..])),
        unique_id: Some(raw_name(id)),
        private_link: None,
        offered,
        ..AccessRecord::refused(
            1,
            UNIX_EPOCH,
            ClientAddr(Address::Tcp(client)),
            "tls".into(),
            CloseReason::NoData,
        )
    }
}

/// Parses the pairs of a line as a log reader does: a value ends at the space, or at its closing quote.
fn read_text(line: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').expect("a key");
        let (value, length) = if value.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(value).into_iter();
            let text: String = values.next().expect("a value").expect("a string");
            (text, values.byte_offset())
        } else {
            let length = value.find(' ').unwrap_or(value.len());
            (value[..length].to_owned(), length)
        };
        assert_eq!(pairs.insert(key.to_owned(), value), None, "{key} occurs twice");
        let behind = &rest[key.len() + 1 + length..];
        rest = behind.strip_prefix(' ').unwrap_or_else(|| {
            assert_eq!(behind, "");
            behind
        });
    }
    pairs
}
