//! The record of an ended connection, and its form as one line.
//!
//! A line holds printable ASCII only, whatever bytes a client sent: all characters outside 0x21..=0x7e, the quote and
//! the backslash are escaped. So no value can end its line, forge a field or send control sequences to a terminal.
//! This module neither queues nor writes; see [`super::access_log`] for that.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::access_log::AccessLogFormat;
use super::close_reason::CloseReason;
use super::offered::Offered;
use crate::sys::Address;

/// The most characters of a server name that are written. No valid name is longer (253), and longer invalid names are
/// cut.
const NAME_LIMIT: usize = 255;

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// The address of a client. It has its own type, so that it cannot be used as the address of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub Address);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The log fields of one ended connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRecord {
    /// The number of the connection, unique in the process.
    pub id: u64,
    /// The time of the accept, by the system's clock.
    pub accepted: SystemTime,
    /// The client's address: the one in a trusted PROXY header, if there was one.
    pub client: ClientAddr,
    /// The address of the peer that sent a PROXY header for the client.
    pub peer: Option<Address>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The server name as sent, also one that was rejected: see [`raw_name`]. `None` without one.
    pub sni: Option<Box<str>>,
    /// The host name in a PROXY header, as [`raw_name`] returns it.
    pub proxy_authority: Option<Box<str>>,
    /// The ALPN protocol in a PROXY header, as [`raw_name`] returns it. The offer of a hello is in `offered`.
    pub proxy_alpn: Option<Box<str>>,
    /// The id of the connection that a PROXY header had, or that we sent in one, as [`raw_name`] returns it.
    pub unique_id: Option<Box<str>>,
    /// The id of the private link in a PROXY header, as its cloud writes it: visible ASCII.
    pub private_link: Option<Box<str>>,
    /// The further values that an acceptable hello offers. `None` without such a hello.
    pub offered: Option<Box<Offered>>,
    /// The route that matched, or `None`.
    pub route: Option<Arc<str>>,
    /// The pool that was to serve the connection, or `None`.
    pub pool: Option<Arc<str>>,
    /// The backend that served, or the last one tried, or `None`.
    pub backend: Option<Arc<str>>,
    /// The address of that backend.
    pub backend_address: Option<Address>,
    /// The number of backends tried.
    pub attempts: u8,
    /// Bytes that came from the client and went to the backend, the hello included.
    pub from_client: u64,
    /// Bytes that came from the backend and went to the client.
    pub from_backend: u64,
    /// Bytes of both sides that were read but could not be delivered.
    pub dropped: u64,
    /// The time from the accept to the end of reading the hello. `None` if no acceptable one was read.
    pub hello: Option<Duration>,
    /// The time in the queue of the pool. `None` if it did not wait there, or left before the wait was over.
    pub queue: Option<Duration>,
    /// The time from the choice of the first backend to a connected one, without the time in the queue. `None` if no
    /// backend was connected.
    pub connect: Option<Duration>,
    /// The time from the accept to the end.
    pub total: Duration,
    /// The close reason.
    pub close: CloseReason,
}

/// Returns bytes that are not a valid name in a form for the record. Each byte becomes the character of the same
/// number, so none is lost, and bytes after the first 255 are cut.
pub fn raw_name(bytes: &[u8]) -> Box<str> {
    bytes.iter().take(NAME_LIMIT).map(|byte| char::from(*byte)).collect()
}

impl AccessRecord {
    /// Returns the record of a connection that was refused at its accept. Its other fields are not known.
    pub fn refused(
        id: u64,
        accepted: SystemTime,
        client: ClientAddr,
        listener: Arc<str>,
        close: CloseReason,
    ) -> Self {
        Self {
            id,
            accepted,
            client,
            peer: None,
            listener,
            sni: None,
            proxy_authority: None,
            proxy_alpn: None,
            unique_id: None,
            private_link: None,
            offered: None,
            route: None,
            pool: None,
            backend: None,
            backend_address: None,
            attempts: 0,
            from_client: 0,
            from_backend: 0,
            dropped: 0,
            hello: None,
            queue: None,
            connect: None,
            total: Duration::ZERO,
            close,
        }
    }

    /// Appends the record to `out`, without a line end.
    ///
    /// *JSON*: one object with always the same keys in the same order. An absent value is `null`, so that a reader
    /// can take the columns from any line, and `""` stays distinct.
    ///
    /// *Text*: `key=value` pairs with one space between them, with the keys of the JSON. An absent value is left out,
    /// because any placeholder would read like a value. A value is bare if all its characters are in 0x21..=0x7e and
    /// none is `"`, `=` or `\`. Any other value, or an empty one, is a JSON string in double quotes.
    ///
    /// In both, times are RFC 3339 in UTC with milliseconds, and durations are seconds with microseconds.
    pub fn write(&self, format: AccessLogFormat, out: &mut Vec<u8>) {
        let mut line = LineWriter { out, format };
        line.begin(self.accepted);
        line.number(key!("id"), self.id);
        line.address(key!("client"), Some(&self.client.0));
        line.address(key!("peer"), self.peer.as_ref());
        line.text(key!("listener"), Some(&self.listener));
        line.text(key!("sni"), self.sni.as_deref().map(shorten));
        let offered = self.offered.as_deref();
        line.text(key!("alpn"), offered.and_then(|offered| offered.alpn.as_deref()));
        line.text(key!("tls_versions"), offered.and_then(|offered| offered.tls_versions.as_deref()));
        line.text(key!("ja4"), offered.map(|offered| offered.ja4.as_str()));
        line.flag(key!("ech"), offered.map(|offered| offered.ech));
        line.count(key!("segments"), offered.map(|offered| offered.segments));
        line.count(key!("records"), offered.map(|offered| offered.records));
        line.text(key!("proxy_authority"), self.proxy_authority.as_deref());
        line.text(key!("proxy_alpn"), self.proxy_alpn.as_deref());
        line.text(key!("unique_id"), self.unique_id.as_deref());
        line.text(key!("private_link"), self.private_link.as_deref());
        line.text(key!("route"), self.route.as_deref());
        line.text(key!("pool"), self.pool.as_deref());
        line.text(key!("backend"), self.backend.as_deref());
        line.address(key!("backend_address"), self.backend_address.as_ref());
        line.number(key!("attempts"), self.attempts.into());
        line.number(key!("from_client_bytes"), self.from_client);
        line.number(key!("from_backend_bytes"), self.from_backend);
        line.number(key!("dropped_bytes"), self.dropped);
        line.seconds(key!("hello_seconds"), self.hello);
        line.seconds(key!("queue_seconds"), self.queue);
        line.seconds(key!("connect_seconds"), self.connect);
        line.seconds(key!("total_seconds"), Some(self.total));
        line.word(key!("close"), self.close.word());
        line.word(key!("closed_by"), self.close.ended_by().word());
        line.word(key!("phase"), self.close.phase().word());
        line.end();
    }
}

/// Returns the first characters of `name`, at most [`NAME_LIMIT`].
fn shorten(name: &str) -> &str {
    if name.len() <= NAME_LIMIT {
        return name;
    }
    name.char_indices().nth(NAME_LIMIT).map_or(name, |(end, _)| &name[..end])
}

/// Writes a line. Fields that each line has are written without `fmt`, which would take two thirds of the time.
struct LineWriter<'a> {
    out: &'a mut Vec<u8>,
    format: AccessLogFormat,
}

/// A key in both forms, with the separators before and after it. Keys need no escape.
struct FieldKey {
    json: &'static [u8],
    text: &'static [u8],
}

macro_rules! key {
    ($name:literal) => {
        &FieldKey { json: concat!(",\"", $name, "\":").as_bytes(), text: concat!(" ", $name, "=").as_bytes() }
    };
}
// Makes the macro usable above its definition.
use key;

impl LineWriter<'_> {
    /// Begins a line with its time.
    fn begin(&mut self, time: SystemTime) {
        let (before, after): (&[u8], &[u8]) = match self.format {
            AccessLogFormat::Json => (b"{\"time\":\"", b"\""),
            AccessLogFormat::Text => (b"time=", b""),
        };
        let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND);
        self.out.extend_from_slice(before);
        _ = write!(self.out, "{}", humantime::format_rfc3339_millis(time));
        self.out.extend_from_slice(after);
    }

    fn end(&mut self) {
        if self.format == AccessLogFormat::Json {
            self.out.push(b'}');
        }
    }

    fn key(&mut self, key: &FieldKey) {
        self.out.extend_from_slice(match self.format {
            AccessLogFormat::Json => key.json,
            AccessLogFormat::Text => key.text,
        });
    }

    fn absent(&mut self, key: &FieldKey) {
        if self.format == AccessLogFormat::Json {
            self.key(key);
            self.out.extend_from_slice(b"null");
        }
    }

    fn number(&mut self, key: &FieldKey, value: u64) {
        self.key(key);
        push_decimal(self.out, value, 1);
    }

    fn count(&mut self, key: &FieldKey, value: Option<u32>) {
        match value {
            Some(value) => self.number(key, value.into()),
            None => self.absent(key),
        }
    }

    /// Writes `true` or `false`, the same in both forms.
    fn flag(&mut self, key: &FieldKey, value: Option<bool>) {
        let Some(value) = value else { return self.absent(key) };
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn seconds(&mut self, key: &FieldKey, value: Option<Duration>) {
        let Some(value) = value else { return self.absent(key) };
        self.key(key);
        push_decimal(self.out, value.as_secs(), 1);
        self.out.push(b'.');
        push_decimal(self.out, value.subsec_micros().into(), 6);
    }

    fn text(&mut self, key: &FieldKey, value: Option<&str>) {
        let Some(value) = value else { return self.absent(key) };
        let plain = value.bytes().all(is_plain);
        match self.format {
            AccessLogFormat::Text if plain && !value.is_empty() && !value.contains('=') => {
                self.word(key, value);
            }
            AccessLogFormat::Json if plain => self.word(key, value),
            _ => {
                self.key(key);
                push_json_string(self.out, value);
            }
        }
    }

    /// Writes a word of our own, which needs no escape.
    fn word(&mut self, key: &FieldKey, word: &str) {
        self.plain(key, |out| out.extend_from_slice(word.as_bytes()));
    }

    fn address(&mut self, key: &FieldKey, value: Option<&Address>) {
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
        if self.format == AccessLogFormat::Json {
            self.out.push(b'"');
        }
    }
}

/// Appends a number, with leading zeros if it has fewer digits than `width`, which is at most 20.
fn push_decimal(out: &mut Vec<u8>, mut number: u64, width: usize) {
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
    use crate::wire::{HelloReader, Ja4, Offer};

    fn offered() -> Offered {
        let hello = include_bytes!("../../tests/fixtures/hello/openssl-tls12.bin");
        let read = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(hello).unwrap().unwrap();
        let message = read.message(hello);
        let offer = Offer::of(&message).unwrap();
        Offered::new(&offer, Ja4::of(&offer), 2, read.records)
    }

    fn full() -> AccessRecord {
        AccessRecord {
            id: 7,
            accepted: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            client: ClientAddr(Address::Tcp("[2001:db8::1]:50000".parse().unwrap())),
            peer: Some(Address::Tcp("10.0.0.9:4711".parse().unwrap())),
            listener: "tls".into(),
            sni: Some("mail.example.com".into()),
            proxy_authority: Some("mail.example.org".into()),
            proxy_alpn: Some("imap".into()),
            unique_id: Some("id-7".into()),
            private_link: Some("vpce-7".into()),
            offered: Some(Box::new(offered())),
            route: Some("mail.example.com".into()),
            pool: Some("mail".into()),
            backend: Some("mail-1".into()),
            backend_address: Some("unix:/run/mail.sock".parse().unwrap()),
            attempts: 2,
            from_client: 517,
            from_backend: u64::MAX,
            dropped: 0,
            hello: Some(Duration::from_micros(1234)),
            queue: Some(Duration::from_millis(20)),
            connect: Some(Duration::from_nanos(999)),
            total: Duration::from_secs(3601),
            close: CloseReason::ClientFin,
        }
    }

    fn bare() -> AccessRecord {
        AccessRecord {
            peer: None,
            sni: None,
            proxy_authority: None,
            proxy_alpn: None,
            unique_id: None,
            private_link: None,
            offered: None,
            route: None,
            pool: None,
            backend: None,
            backend_address: None,
            hello: None,
            queue: None,
            connect: None,
            close: CloseReason::NoData,
            ..full()
        }
    }

    fn line(record: &AccessRecord, format: AccessLogFormat) -> String {
        let mut out = Vec::new();
        record.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Checks the form of a server name in text, and in JSON by reading it back.
    fn check_sni(sni: &str, text: &str) {
        let record = AccessRecord { sni: Some(sni.into()), ..bare() };
        let json: Value = serde_json::from_str(&line(&record, AccessLogFormat::Json)).unwrap();
        assert_eq!(json["sni"], Value::from(sni));
        let line = line(&record, AccessLogFormat::Text);
        assert!(line.contains(&format!(" listener=tls {text} attempts=2 ")), "{line}");
    }

    #[test]
    fn json_has_every_key_in_order() {
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.042Z","id":7,"client":"[2001:db8::1]:50000","#,
            r#""peer":"10.0.0.9:4711","listener":"tls","#,
            r#""sni":"mail.example.com","alpn":"imap,h2","tls_versions":"1.2","#,
            r#""ja4":"t12d2808ip_d943125447b4_e7e480e5a997","ech":false,"segments":2,"records":1,"#,
            r#""proxy_authority":"mail.example.org","proxy_alpn":"imap","unique_id":"id-7","private_link":"vpce-7","route":"mail.example.com","#,
            r#""pool":"mail","backend":"mail-1","#,
            r#""backend_address":"unix:/run/mail.sock","attempts":2,"from_client_bytes":517,"#,
            r#""from_backend_bytes":18446744073709551615,"dropped_bytes":0,"hello_seconds":0.001234,"#,
            r#""queue_seconds":0.020000,"connect_seconds":0.000000,"total_seconds":3601.000000,"close":"client_fin","#,
            r#""closed_by":"client","phase":"relay"}"#,
        );
        assert_eq!(line(&full(), AccessLogFormat::Json), expected);
        let keys = |record: &AccessRecord| {
            let object: Value = serde_json::from_str(&line(record, AccessLogFormat::Json)).unwrap();
            object.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&full()), keys(&bare()));
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/access-log.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let mut documented: Vec<_> = rows.map(|(key, _)| key.to_owned()).collect();
        documented.sort();
        assert_eq!(keys(&full()), documented, "keys of a line, and those of docs/reference/access-log.md");
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
        let record = AccessRecord { sni: Some("é".repeat(1000).into()), ..bare() };
        let json: Value = serde_json::from_str(&line(&record, AccessLogFormat::Json)).unwrap();
        assert_eq!(json["sni"].as_str().unwrap().chars().count(), 255);
        assert_eq!(shorten(&"a".repeat(255)).len(), 255);
    }

    #[test]
    fn clocks_far_off_are_written_too() {
        let at = |accepted| line(&AccessRecord { accepted, ..bare() }, AccessLogFormat::Text);
        assert!(at(UNIX_EPOCH - Duration::from_secs(1)).starts_with("time=1970-01-01T00:00:00.000Z "));
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(at(far).starts_with("time=9999-12-31T23:59:59.000Z "));
    }

    proptest! {
        /// The own code writes values as `fmt` would.
        #[test]
        fn values_are_written_as_they_display(
            client: SocketAddr,
            number in prop_oneof![any::<u64>(), 0..1000_u64],
            total: Duration,
        ) {
            let record = AccessRecord {
                client: ClientAddr(client.into()),
                backend_address: Some(client.into()),
                from_client: number,
                total,
                ..full()
            };
            let line = line(&record, AccessLogFormat::Text);
            let seconds = format!("{}.{:06}", total.as_secs(), total.subsec_micros());
            for pair in [
                format!(" client={client} "),
                format!(" backend_address={client} "),
                format!(" from_client_bytes={number} "),
                format!(" total_seconds={seconds} "),
            ] {
                prop_assert!(line.contains(&pair), "{}in {}", pair, line);
            }
        }

        #[test]
        fn any_name_gives_one_line_that_reads_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let name = raw_name(&bytes);
            let record = AccessRecord { sni: Some(name.clone()), route: Some((&*name).into()), ..full() };
            for format in [AccessLogFormat::Json, AccessLogFormat::Text] {
                let line = line(&record, format);
                prop_assert!(line.bytes().all(|b| matches!(b, 0x20..=0x7e)), "{}", line);
            }
            let json: Value = serde_json::from_str(&line(&record, AccessLogFormat::Json)).unwrap();
            prop_assert_eq!(json["sni"].as_str(), Some(&*name));
            let text = line(&record, AccessLogFormat::Text);
            prop_assert_eq!(text.split(' ').count(), 31, "{}", text);
            for pair in text.split(' ') {
                let (_, value) = pair.split_once('=').unwrap();
                if value.starts_with('"') {
                    prop_assert!(serde_json::from_str::<String>(value).is_ok(), "{}", value);
                }
            }
        }
    }
}
