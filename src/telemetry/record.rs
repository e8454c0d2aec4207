//! The record of an event of a connection, and the fields of its line in the access log.
//!
//! This module neither queues nor writes; see [`super::access_log`] for that. The form of a line, and its escapes, are
//! in `telemetry/line.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::close_reason::CloseReason;
use super::line::{KeyedForm, LineWriter, key};
use super::offered::Offered;
use crate::sys::Address;

/// The most characters of a server name that are written. No valid name is longer (253), and longer invalid names are
/// cut.
const NAME_LIMIT: usize = 255;

/// The address of a client. It has its own type, so that it cannot be used as the address of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub Address);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The open connections at the time of an event, the connection itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCounts {
    /// Those of the process.
    pub process: u64,
    /// Those of the listener.
    pub listener: u64,
    /// Those of the backend; 0 without a connected backend.
    pub backend: u64,
}

/// The event of a connection that makes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessEvent {
    /// Its backend was connected.
    Start,
    /// It is open, and an interval has passed.
    Interval,
    /// It ended, for this reason.
    End(CloseReason),
}

impl AccessEvent {
    /// The value of the key `event`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interval => "interval",
            Self::End(_) => "end",
        }
    }

    /// Returns the close reason of an end.
    const fn close(self) -> Option<CloseReason> {
        match self {
            Self::Start | Self::Interval => None,
            Self::End(reason) => Some(reason),
        }
    }
}

/// The log fields of one connection at one of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRecord {
    /// The number of the connection, unique in the process.
    pub id: u64,
    /// The time of the accept, by the system's clock.
    pub accepted: SystemTime,
    /// The client's address. If a trusted PROXY header named the client, this is the address in the header.
    pub client: ClientAddr,
    /// The address of the peer that sent a PROXY header for the client.
    pub peer: Option<Address>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The server name as the client sent it, even if it was rejected: see [`raw_name`]. `None` if the client
    /// sent no name.
    pub sni: Option<Box<str>>,
    /// The host name in a PROXY header, as [`raw_name`] returns it.
    pub proxy_authority: Option<Box<str>>,
    /// The ALPN protocol in a PROXY header, as [`raw_name`] returns it. The offer of a hello is in `offered`.
    pub proxy_alpn: Option<Box<str>>,
    /// The id of the connection in a received or a sent PROXY header, as [`raw_name`] returns it.
    pub unique_id: Option<Box<str>>,
    /// The id of the private link in a PROXY header, as its cloud writes it: visible ASCII.
    pub private_link: Option<Box<str>>,
    /// The further values that an acceptable hello offers. `None` without such a hello.
    pub offered: Option<Box<Offered>>,
    /// The route that matched, or `None`.
    pub route: Option<Arc<str>>,
    /// The pool that was to serve the connection, or `None`.
    pub pool: Option<Arc<str>>,
    /// The backend that served, or the last backend tried, or `None`.
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
    /// The time from the accept to the end of reading the hello. `None` if no acceptable hello was read.
    pub hello: Option<Duration>,
    /// The time in the queue of the pool. `None` if the connection did not wait there, or left before the wait
    /// was over.
    pub queue: Option<Duration>,
    /// The time from the first pick to a connected backend, without the time in the queue. `None` if no backend
    /// was connected.
    pub connect: Option<Duration>,
    /// The time from the accept to the event.
    pub total: Duration,
    /// The event.
    pub event: AccessEvent,
    /// The bytes of each direction since the last interval record of the connection; since its accept if there is none.
    /// A start record has none of them, so these bytes of all records of a connection add up to its totals.
    pub delta: [u64; 2],
    /// The close reason with which the rules of a forwarding pool would have refused the connection, if they only report.
    pub reported: Option<CloseReason>,
    /// The host that the client requested by SOCKS or CONNECT. Its `sni` is `None` then.
    pub host: Option<Box<str>>,
    /// The port that the client requested.
    pub port: Option<u16>,
    /// The open connections, for the lines of HAProxy.
    pub open: OpenCounts,
}

/// Returns bytes that are not a valid name in a form for the record. Each byte becomes the character of the
/// same number, so no byte changes its value. Bytes after the first 255 are cut.
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
            event: AccessEvent::End(close),
            delta: [0; 2],
            reported: None,
            host: None,
            port: None,
            open: OpenCounts::default(),
        }
    }

    /// Appends the record to `out` as keys and values, without a line end.
    ///
    /// *JSON*: one object with always the same keys in the same order. An absent value is `null`, so that a reader
    /// can take the columns from any line, and `""` stays distinct.
    ///
    /// *Text*: `key=value` pairs with one space between them, with the keys of the JSON. An absent value is left out,
    /// because any placeholder would read like a value. A value is bare if all its characters are in 0x21..=0x7e and
    /// none is `"`, `=` or `\`. Any other value, or an empty one, is a JSON string in double quotes.
    ///
    /// In both forms, times are RFC 3339 in UTC with milliseconds, and durations are seconds with microseconds.
    pub(super) fn write_keyed(&self, form: KeyedForm, out: &mut Vec<u8>) {
        let mut line = LineWriter::begin(out, form, self.accepted);
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
        let close = self.event.close();
        line.word(key!("close"), close.map(CloseReason::word));
        line.word(key!("closed_by"), close.map(|close| close.ended_by().word()));
        line.word(key!("phase"), close.map(|close| close.phase().word()));
        line.word(key!("event"), Some(self.event.word()));
        let [from_client, from_backend] = self.delta;
        line.number(key!("delta_from_client_bytes"), from_client);
        line.number(key!("delta_from_backend_bytes"), from_backend);
        line.text(key!("host"), self.host.as_deref());
        line.count(key!("port"), self.port.map(u32::from));
        line.word(key!("reported"), self.reported.map(CloseReason::word));
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

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
            event: AccessEvent::End(CloseReason::ClientFin),
            delta: [17, u64::MAX],
            reported: Some(CloseReason::PortNotAllowed),
            host: Some("db.example.com".into()),
            port: Some(5432),
            open: OpenCounts::default(),
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
            event: AccessEvent::End(CloseReason::NoData),
            reported: None,
            host: None,
            port: None,
            ..full()
        }
    }

    fn line(record: &AccessRecord, form: KeyedForm) -> String {
        let mut out = Vec::new();
        record.write_keyed(form, &mut out);
        String::from_utf8(out).unwrap()
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
            r#""closed_by":"client","phase":"relay","event":"end","delta_from_client_bytes":17,"#,
            r#""delta_from_backend_bytes":18446744073709551615,"host":"db.example.com","port":5432,"#,
            r#""reported":"port_not_allowed"}"#,
        );
        assert_eq!(line(&full(), KeyedForm::Json), expected);
        let keys = |record: &AccessRecord| {
            let object: Value = serde_json::from_str(&line(record, KeyedForm::Json)).unwrap();
            object.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&full()), keys(&bare()));
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/access-log.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (keys_of_page, _) = page.split_once("\n## ").unwrap();
        let rows = keys_of_page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let mut documented: Vec<_> = rows.map(|(key, _)| key.to_owned()).collect();
        documented.sort();
        assert_eq!(keys(&full()), documented, "keys of a line, and those of docs/reference/access-log.md");
    }

    #[test]
    fn text_leaves_out_what_is_absent() {
        let expected = "time=2023-11-14T22:13:20.042Z id=7 client=[2001:db8::1]:50000 listener=tls attempts=2 \
            from_client_bytes=517 from_backend_bytes=18446744073709551615 dropped_bytes=0 \
            total_seconds=3601.000000 close=no_data closed_by=client phase=hello event=end \
            delta_from_client_bytes=17 delta_from_backend_bytes=18446744073709551615";
        assert_eq!(line(&bare(), KeyedForm::Text), expected);
    }

    /// A connection that goes on has no close reason, and all keys.
    #[test]
    fn a_start_and_an_interval_have_no_close_reason() {
        for (event, word) in [(AccessEvent::Start, "start"), (AccessEvent::Interval, "interval")] {
            let record = AccessRecord { event, ..bare() };
            let text = line(&record, KeyedForm::Text);
            let expected = format!(" total_seconds=3601.000000 event={word} delta_from_client_bytes=17 ");
            assert!(text.contains(&expected), "{text}");
            let json: Value = serde_json::from_str(&line(&record, KeyedForm::Json)).unwrap();
            let end: Value = serde_json::from_str(&line(&bare(), KeyedForm::Json)).unwrap();
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&json), keys(&end));
            assert_eq!(json["event"], word);
            assert!(["close", "closed_by", "phase"].iter().all(|key| json[key].is_null()), "{json}");
        }
    }

    #[test]
    fn names_are_cut_to_their_limit() {
        assert_eq!(&*raw_name(b"\xff\x00a"), "\u{ff}\u{0}a");
        assert_eq!(raw_name(&[0xff; 70_000]).chars().count(), 255);
        let record = AccessRecord { sni: Some("é".repeat(1000).into()), ..bare() };
        let json: Value = serde_json::from_str(&line(&record, KeyedForm::Json)).unwrap();
        assert_eq!(json["sni"].as_str().unwrap().chars().count(), 255);
        assert_eq!(shorten(&"a".repeat(255)).len(), 255);
    }

    proptest! {
        #[test]
        fn any_name_gives_one_line_that_reads_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let name = raw_name(&bytes);
            let record = AccessRecord { sni: Some(name.clone()), route: Some((&*name).into()), ..full() };
            for form in [KeyedForm::Json, KeyedForm::Text] {
                let line = line(&record, form);
                prop_assert!(line.bytes().all(|b| matches!(b, 0x20..=0x7e)), "{}", line);
            }
            let json: Value = serde_json::from_str(&line(&record, KeyedForm::Json)).unwrap();
            prop_assert_eq!(json["sni"].as_str(), Some(&*name));
            let text = line(&record, KeyedForm::Text);
            prop_assert_eq!(text.split(' ').count(), 37, "{}", text);
            for pair in text.split(' ') {
                let (_, value) = pair.split_once('=').unwrap();
                if value.starts_with('"') {
                    prop_assert!(serde_json::from_str::<String>(value).is_ok(), "{}", value);
                }
            }
        }
    }
}
