//! The record of an ended connection, and how it becomes one line.
//!
//! A line holds printable ASCII only, whatever a client sent: everything outside 0x21..=0x7e, the
//! quote and the backslash are escaped, so no value can end its line, forge a field or speak to a
//! terminal. This module neither queues nor writes; see [`super::access_log`] for that.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::access_log::AccessLogFormat;
use super::close_reason::CloseReason;
use crate::sys::Address;

/// Characters of a server name that are written: more than any valid name has (253), and the length
/// that a hostile one is cut to.
const NAME_LIMIT: usize = 255;

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// The address of a client, so that it is not taken for a backend's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub Address);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is told of one connection when it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The number of the connection, unique in the process.
    pub id: u64,
    /// When it was accepted, by the system's clock.
    pub accepted: SystemTime,
    /// The client's address.
    pub client: ClientAddr,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The server name as sent, even one that was rejected: see [`raw_name`]. `None` without one.
    pub sni: Option<Box<str>>,
    /// The route that matched, or `None`.
    pub route: Option<Arc<str>>,
    /// The pool that was asked, or `None`.
    pub pool: Option<Arc<str>>,
    /// The backend that served, or the last one tried, or `None` if none was.
    pub backend: Option<Arc<str>>,
    /// That backend's address.
    pub backend_address: Option<Address>,
    /// Backends tried.
    pub attempts: u8,
    /// Bytes that came from the client and went to the backend, the hello included.
    pub from_client: u64,
    /// Bytes that came from the backend and went to the client.
    pub from_backend: u64,
    /// Bytes, of both sides, that were read but could not be delivered.
    pub dropped: u64,
    /// From the accept to the end of reading the hello; `None` where no acceptable one was read.
    pub hello: Option<Duration>,
    /// From the choice of the first backend to a connected one; `None` if none was.
    pub connect: Option<Duration>,
    /// From the accept to the end.
    pub total: Duration,
    /// Why it ended.
    pub close: CloseReason,
}

/// A server name that is no valid name, kept for the record: each byte becomes the character of the
/// same number, so nothing is lost, and what is longer than 255 bytes is cut.
pub fn raw_name(bytes: &[u8]) -> Box<str> {
    bytes.iter().take(NAME_LIMIT).map(|byte| char::from(*byte)).collect()
}

impl Record {
    /// Appends the record to `out`, without a line end.
    ///
    /// *JSON*: one object with always the same keys in the same order. What is absent is `null`: a
    /// reader that takes its columns from any one line then has them all, and `""` stays distinct.
    ///
    /// *Text*: `key=value` pairs with one space between them, the keys of the JSON. What is absent is
    /// left out, as any placeholder would read like a value. A value is bare if all its characters are in
    /// 0x21..=0x7e and none is `"`, `=` or `\`; else, or if it is empty, it is a JSON string in double
    /// quotes.
    ///
    /// In both, times are RFC 3339 in UTC with milliseconds, and durations are seconds with microseconds.
    pub fn write(&self, format: AccessLogFormat, out: &mut String) {
        let mut line = Line { out, format, empty: true };
        line.begin();
        let accepted = self.accepted.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND);
        line.text("time", Some(humantime::format_rfc3339_millis(accepted)));
        line.number("id", self.id);
        line.text("client", Some(&self.client));
        line.text("listener", Some(&self.listener));
        line.text("sni", self.sni.as_deref().map(shorten));
        line.text("route", self.route.as_ref());
        line.text("pool", self.pool.as_ref());
        line.text("backend", self.backend.as_ref());
        line.text("backend_address", self.backend_address.as_ref());
        line.number("attempts", self.attempts.into());
        line.number("from_client_bytes", self.from_client);
        line.number("from_backend_bytes", self.from_backend);
        line.number("dropped_bytes", self.dropped);
        line.seconds("hello_seconds", self.hello);
        line.seconds("connect_seconds", self.connect);
        line.seconds("total_seconds", Some(self.total));
        line.text("close", Some(self.close.word()));
        line.text("closed_by", Some(self.close.who().word()));
        line.text("phase", Some(self.close.phase().word()));
        line.end();
    }
}

/// The first characters of `name`, no more than [`NAME_LIMIT`].
fn shorten(name: &str) -> &str {
    name.char_indices().nth(NAME_LIMIT).map_or(name, |(end, _)| &name[..end])
}

/// A line being written. A `String` takes every write, so their results say nothing here.
struct Line<'a> {
    out: &'a mut String,
    format: AccessLogFormat,
    empty: bool,
}

impl Line<'_> {
    fn begin(&mut self) {
        if self.format == AccessLogFormat::Json {
            self.out.push('{');
        }
    }

    fn end(&mut self) {
        if self.format == AccessLogFormat::Json {
            self.out.push('}');
        }
    }

    /// Keys are ours and need no escape.
    fn key(&mut self, key: &str) {
        let first = std::mem::replace(&mut self.empty, false);
        _ = match (self.format, first) {
            (AccessLogFormat::Json, true) => write!(self.out, "\"{key}\":"),
            (AccessLogFormat::Json, false) => write!(self.out, ",\"{key}\":"),
            (AccessLogFormat::Text, true) => write!(self.out, "{key}="),
            (AccessLogFormat::Text, false) => write!(self.out, " {key}="),
        };
    }

    fn absent(&mut self, key: &str) {
        if self.format == AccessLogFormat::Json {
            self.key(key);
            self.out.push_str("null");
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        _ = write!(self.out, "{value}");
    }

    fn seconds(&mut self, key: &str, value: Option<Duration>) {
        let Some(value) = value else { return self.absent(key) };
        self.key(key);
        _ = write!(self.out, "{}.{:06}", value.as_secs(), value.subsec_micros());
    }

    /// Nearly every value is plain, so it is written as it is, looked at, and taken back if it is not.
    fn text<T: fmt::Display>(&mut self, key: &str, value: Option<T>) {
        let Some(value) = value else { return self.absent(key) };
        self.key(key);
        let start = self.out.len();
        _ = write!(self.out, "{value}");
        let written = &self.out[start..];
        let plain = written.bytes().all(is_plain);
        match self.format {
            AccessLogFormat::Text if plain && !written.is_empty() && !written.contains('=') => {}
            AccessLogFormat::Json if plain => {
                self.out.insert(start, '"');
                self.out.push('"');
            }
            _ => {
                let written = self.out.split_off(start);
                push_json_string(self.out, &written);
            }
        }
    }
}

/// Whether a byte means only itself in a JSON string and is visible.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'"' && byte != b'\\'
}

/// Appends `text` as a JSON string of printable ASCII.
fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x21'..='\x7e' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn full() -> Record {
        Record {
            id: 7,
            accepted: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            client: ClientAddr(Address::Tcp("[2001:db8::1]:50000".parse().unwrap())),
            listener: "tls".into(),
            sni: Some("mail.example.com".into()),
            route: Some("mail.example.com".into()),
            pool: Some("mail".into()),
            backend: Some("mail-1".into()),
            backend_address: Some("unix:/run/mail.sock".parse().unwrap()),
            attempts: 2,
            from_client: 517,
            from_backend: u64::MAX,
            dropped: 0,
            hello: Some(Duration::from_micros(1234)),
            connect: Some(Duration::from_nanos(999)),
            total: Duration::from_secs(3601),
            close: CloseReason::ClientFin,
        }
    }

    fn bare() -> Record {
        Record {
            sni: None,
            route: None,
            pool: None,
            backend: None,
            backend_address: None,
            hello: None,
            connect: None,
            close: CloseReason::NoData,
            ..full()
        }
    }

    fn line(record: &Record, format: AccessLogFormat) -> String {
        let mut out = String::new();
        record.write(format, &mut out);
        out
    }

    /// How a server name stands in both forms, the JSON one read back.
    fn check_sni(sni: &str, text: &str) {
        let record = Record { sni: Some(sni.into()), ..bare() };
        let json: Value = serde_json::from_str(&line(&record, AccessLogFormat::Json)).unwrap();
        assert_eq!(json["sni"], Value::from(sni));
        let line = line(&record, AccessLogFormat::Text);
        assert!(line.contains(&format!(" listener=tls {text} attempts=2 ")), "{line}");
    }

    #[test]
    fn json_has_every_key_in_order() {
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.042Z","id":7,"client":"[2001:db8::1]:50000","listener":"tls","#,
            r#""sni":"mail.example.com","route":"mail.example.com","pool":"mail","backend":"mail-1","#,
            r#""backend_address":"unix:/run/mail.sock","attempts":2,"from_client_bytes":517,"#,
            r#""from_backend_bytes":18446744073709551615,"dropped_bytes":0,"hello_seconds":0.001234,"#,
            r#""connect_seconds":0.000000,"total_seconds":3601.000000,"close":"client_fin","#,
            r#""closed_by":"client","phase":"relay"}"#,
        );
        assert_eq!(line(&full(), AccessLogFormat::Json), expected);
        let keys = |record: &Record| {
            let object: Value = serde_json::from_str(&line(record, AccessLogFormat::Json)).unwrap();
            object.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&full()), keys(&bare()));
    }

    #[test]
    fn text_leaves_out_what_is_absent() {
        let expected = "time=2023-11-14T22:13:20.042Z id=7 client=[2001:db8::1]:50000 listener=tls attempts=2 \
            from_client_bytes=517 from_backend_bytes=18446744073709551615 dropped_bytes=0 \
            total_seconds=3601.000000 close=no_data closed_by=client phase=hello";
        assert_eq!(line(&bare(), AccessLogFormat::Text), expected);
    }

    #[test]
    fn hostile_names_stay_inside_their_value() {
        check_sni("a.example", "sni=a.example");
        check_sni("", r#"sni="""#);
        check_sni("a=b", r#"sni="a=b""#);
        check_sni("a b", r#"sni="a\u0020b""#);
        check_sni("x\" close=ok", r#"sni="x\"\u0020close=ok""#);
        check_sni("a\\b", r#"sni="a\\b""#);
        check_sni("a\r\n{}\t", r#"sni="a\r\n{}\t""#);
        check_sni("\0\x1b[2J\x7f", r#"sni="\u0000\u001b[2J\u007f""#);
        check_sni("\u{85}\u{2028}é", r#"sni="\u0085\u2028\u00e9""#);
        check_sni("😀", r#"sni="\ud83d\ude00""#);
    }

    #[test]
    fn names_are_cut_to_their_limit() {
        assert_eq!(&*raw_name(b"\xff\x00a"), "\u{ff}\u{0}a");
        assert_eq!(raw_name(&[0xff; 70_000]).chars().count(), 255);
        let record = Record { sni: Some("é".repeat(1000).into()), ..bare() };
        let json: Value = serde_json::from_str(&line(&record, AccessLogFormat::Json)).unwrap();
        assert_eq!(json["sni"].as_str().unwrap().chars().count(), 255);
        assert_eq!(shorten(&"a".repeat(255)).len(), 255);
    }

    #[test]
    fn clocks_far_off_are_written_too() {
        let at = |accepted| line(&Record { accepted, ..bare() }, AccessLogFormat::Text);
        assert!(at(UNIX_EPOCH - Duration::from_secs(1)).starts_with("time=1970-01-01T00:00:00.000Z "));
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(at(far).starts_with("time=9999-12-31T23:59:59.000Z "));
    }

    proptest! {
        #[test]
        fn any_name_gives_one_line_that_reads_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let name = raw_name(&bytes);
            let record = Record { sni: Some(name.clone()), route: Some((&*name).into()), ..full() };
            for format in [AccessLogFormat::Json, AccessLogFormat::Text] {
                let line = line(&record, format);
                prop_assert!(line.bytes().all(|b| matches!(b, 0x20..=0x7e)), "{}", line);
            }
            let json: Value = serde_json::from_str(&line(&record, AccessLogFormat::Json)).unwrap();
            prop_assert_eq!(json["sni"].as_str(), Some(&*name));
            let text = line(&record, AccessLogFormat::Text);
            prop_assert_eq!(text.split(' ').count(), 19, "{}", text);
            for pair in text.split(' ') {
                let (_, value) = pair.split_once('=').unwrap();
                if value.starts_with('"') {
                    prop_assert!(serde_json::from_str::<String>(value).is_ok(), "{}", value);
                }
            }
        }
    }
}
