//! The form of one line of the access log: keys, values and their escapes.
//!
//! A line holds printable ASCII only, whatever bytes a client sent: in values, all characters outside 0x21..=0x7e, the
//! quote and the backslash are escaped. So no value can end its line, forge a field or send control sequences to a
//! terminal. Fields that each line has are written without `fmt`, which would take two thirds of the time.
//!
//! This module does not choose the fields; see [`super::record`] for that.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys::Address;

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Text,
    /// The TCP log of HAProxy.
    Tcplog,
    /// The HTTP log of HAProxy.
    Httplog,
}

/// A form of lines that have keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyedForm {
    Json,
    Text,
}

/// Writes a line, field by field.
pub(super) struct LineWriter<'a> {
    out: &'a mut Vec<u8>,
    form: KeyedForm,
}

/// A key in both forms, with the separators before and after it. Keys need no escape.
pub(super) struct FieldKey {
    pub(super) json: &'static [u8],
    pub(super) text: &'static [u8],
}

/// Makes a [`FieldKey`] of a name.
macro_rules! key {
    ($name:literal) => {
        &$crate::telemetry::line::FieldKey {
            json: concat!(",\"", $name, "\":").as_bytes(),
            text: concat!(" ", $name, "=").as_bytes(),
        }
    };
}
pub(super) use key;

impl<'a> LineWriter<'a> {
    /// Begins a line with its time, behind the text in `out`.
    pub(super) fn begin(out: &'a mut Vec<u8>, form: KeyedForm, time: SystemTime) -> Self {
        let (before, after): (&[u8], &[u8]) = match form {
            KeyedForm::Json => (b"{\"time\":\"", b"\""),
            KeyedForm::Text => (b"time=", b""),
        };
        out.extend_from_slice(before);
        _ = write!(out, "{}", rfc3339(time));
        out.extend_from_slice(after);
        Self { out, form }
    }

    /// Ends the line, without a line end.
    pub(super) fn end(self) {
        if self.form == KeyedForm::Json {
            self.out.push(b'}');
        }
    }

    fn key(&mut self, key: &FieldKey) {
        self.out.extend_from_slice(match self.form {
            KeyedForm::Json => key.json,
            KeyedForm::Text => key.text,
        });
    }

    fn absent(&mut self, key: &FieldKey) {
        if self.form == KeyedForm::Json {
            self.key(key);
            self.out.extend_from_slice(b"null");
        }
    }

    /// Writes a number.
    pub(super) fn number(&mut self, key: &FieldKey, value: u64) {
        self.key(key);
        push_decimal(self.out, value, 1);
    }

    /// Writes a count, which may be absent.
    pub(super) fn count(&mut self, key: &FieldKey, value: Option<u32>) {
        match value {
            Some(value) => self.number(key, value.into()),
            None => self.absent(key),
        }
    }

    /// Writes `true` or `false`, the same in both forms.
    pub(super) fn flag(&mut self, key: &FieldKey, value: Option<bool>) {
        let Some(value) = value else { return self.absent(key) };
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Writes a duration in seconds, with microseconds.
    pub(super) fn seconds(&mut self, key: &FieldKey, value: Option<Duration>) {
        let Some(value) = value else { return self.absent(key) };
        self.key(key);
        push_decimal(self.out, value.as_secs(), 1);
        self.out.push(b'.');
        push_decimal(self.out, value.subsec_micros().into(), 6);
    }

    /// Writes a text, which may hold any character.
    pub(super) fn text(&mut self, key: &FieldKey, value: Option<&str>) {
        let Some(value) = value else { return self.absent(key) };
        let plain = value.bytes().all(is_plain);
        match self.form {
            KeyedForm::Text if plain && !value.is_empty() && !value.contains('=') => {
                self.word(key, Some(value));
            }
            KeyedForm::Json if plain => self.word(key, Some(value)),
            _ => {
                self.key(key);
                push_json_string(self.out, value);
            }
        }
    }

    /// Writes a word of our own, which needs no escape.
    pub(super) fn word(&mut self, key: &FieldKey, word: Option<&str>) {
        let Some(word) = word else { return self.absent(key) };
        self.plain(key, |out| out.extend_from_slice(word.as_bytes()));
    }

    /// Writes an address.
    pub(super) fn address(&mut self, key: &FieldKey, value: Option<&Address>) {
        match value {
            None => self.absent(key),
            Some(Address::Tcp(address)) => self.plain(key, |out| push_address(out, *address)),
            // The path of a Unix socket may hold any character.
            Some(address) => self.text(key, Some(&address.to_string())),
        }
    }

    /// Writes a string that needs no escape and, in text, no quotes.
    fn plain(&mut self, key: &FieldKey, push: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        self.quote();
        push(self.out);
        self.quote();
    }

    fn quote(&mut self) {
        if self.form == KeyedForm::Json {
            self.out.push(b'"');
        }
    }
}

/// Returns a time in the form of RFC 3339, in UTC with milliseconds. A time that cannot be written becomes the nearest
/// one.
pub(super) fn rfc3339(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND))
}

/// Appends a number, with leading zeros if it has fewer digits than `width`, which is at most 20.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[start.min(digits.len() - width)..]);
}

fn push_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            for (octet, behind) in address.ip().octets().into_iter().zip(*b"...:") {
                push_decimal(out, octet.into(), 1);
                out.push(behind);
            }
            push_decimal(out, address.port().into(), 1);
        }
        // Has rules of its own for the short form (RFC 5952), which std implements.
        SocketAddr::V6(_) => _ = write!(out, "{address}"),
    }
}

/// Returns true if a byte is visible and needs no escape in a JSON string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'"' && byte != b'\\'
}

/// Appends `text` as a JSON string of printable ASCII.
fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\x21'..='\x7e' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Returns a line with these fields.
    fn line(form: KeyedForm, write: impl FnOnce(&mut LineWriter<'_>)) -> String {
        let mut out = Vec::new();
        let mut line = LineWriter::begin(&mut out, form, UNIX_EPOCH);
        write(&mut line);
        line.end();
        String::from_utf8(out).unwrap()
    }

    /// Checks the form of a name in text, and in JSON by reading it back.
    fn check_name(name: &str, text: &str) {
        let write = |line: &mut LineWriter<'_>| line.text(key!("sni"), Some(name));
        let json: Value = serde_json::from_str(&line(KeyedForm::Json, write)).unwrap();
        assert_eq!(json["sni"], Value::from(name));
        assert_eq!(line(KeyedForm::Text, write), format!("time=1970-01-01T00:00:00.000Z {text}"));
    }

    #[test]
    fn hostile_names_stay_inside_their_value() {
        check_name("a.example", "sni=a.example");
        check_name("", r#"sni="""#);
        check_name("a=b", r#"sni="a=b""#);
        check_name("a b", r#"sni="a\u0020b""#);
        check_name("x\" close=ok", r#"sni="x\"\u0020close=ok""#);
        check_name("a\\b", r#"sni="a\\b""#);
        check_name("a\r\n{}\t", r#"sni="a\r\n{}\t""#);
        check_name("\0\x1b[2J\x7f", r#"sni="\u0000\u001b[2J\u007f""#);
        check_name("\u{85}\u{2028}é", r#"sni="\u0085\u2028\u00e9""#);
        check_name("😀", r#"sni="\ud83d\ude00""#);
    }

    #[test]
    fn clocks_far_off_are_written_too() {
        let check = |time, expected: &str| {
            let mut out = Vec::new();
            LineWriter::begin(&mut out, KeyedForm::Text, time).end();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(UNIX_EPOCH - Duration::from_secs(1), "time=1970-01-01T00:00:00.000Z");
        check(UNIX_EPOCH + Duration::from_secs(1 << 40), "time=9999-12-31T23:59:59.000Z");
    }

    proptest! {
        /// The own code writes values as `fmt` would.
        #[test]
        fn values_are_written_as_they_display(
            address: SocketAddr,
            number in prop_oneof![any::<u64>(), 0..1000_u64],
            time: Duration,
        ) {
            let line = line(KeyedForm::Text, |line| {
                line.address(key!("address"), Some(&address.into()));
                line.number(key!("number"), number);
                line.seconds(key!("time"), Some(time));
            });
            let seconds = format!("{}.{:06}", time.as_secs(), time.subsec_micros());
            let expected = format!(
                "time=1970-01-01T00:00:00.000Z address={address} number={number} time={seconds}"
            );
            prop_assert_eq!(line, expected);
        }
    }
}
