//! The lines of HAProxy's TCP and HTTP logs, for programs that read such logs.
//!
//! A line begins with the header of a syslog file: the time, the host, and the program with its process id. Times are
//! in UTC. A line holds printable ASCII only, and in names each character that could end a field or a line is written
//! as `#` and two hexadecimal digits. Fields that a record does not have are listed in docs/reference/access-log.md.

use std::io::Write as _;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use super::close_reason::CloseReason;
use super::line::{push_decimal, rfc3339};
use super::record::{AccessEvent, AccessRecord};
use crate::sys::{Address, process};

/// The layout of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HaproxyLayout {
    /// `option tcplog`.
    Tcp,
    /// `option httplog`.
    Http,
}

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The host and the program in the header of each line.
static SENDER: LazyLock<Box<str>> = LazyLock::new(|| {
    let host = process::host_name();
    format!("{host} pointsman[{}]:", std::process::id()).into()
});

/// Appends the line of a record to `out`, without a line end.
pub(super) fn write(record: &AccessRecord, layout: HaproxyLayout, out: &mut Vec<u8>) {
    write_from(&SENDER, record, layout, out);
}

fn write_from(sender: &str, record: &AccessRecord, layout: HaproxyLayout, out: &mut Vec<u8>) {
    let mut line = HaproxyLine { out, record };
    line.header(sender);
    line.client();
    line.accept_date();
    line.names();
    line.timers(layout);
    if layout == HaproxyLayout::Http {
        // The status of a connection without HTTP.
        line.out.extend_from_slice(b" 0");
    }
    line.out.push(b' ');
    line.plus_if_open();
    push_decimal(line.out, record.from_backend, 1);
    line.termination_state(layout);
    line.counts();
    if layout == HaproxyLayout::Http {
        line.request();
    }
}

/// A line that grows field by field.
struct HaproxyLine<'a> {
    out: &'a mut Vec<u8>,
    record: &'a AccessRecord,
}

impl HaproxyLine<'_> {
    /// Writes the header, with the time of the event.
    fn header(&mut self, sender: &str) {
        let accepted = self.record.accepted;
        let stamp = Stamp::of(accepted.checked_add(self.record.total).unwrap_or(accepted));
        let day = stamp.day();
        self.out.extend_from_slice(stamp.month());
        self.out.push(b' ');
        self.out.extend_from_slice(if day[0] == b'0' { [b' ', day[1]] } else { day }.as_slice());
        self.out.push(b' ');
        self.out.extend_from_slice(stamp.seconds());
        self.out.push(b' ');
        self.out.extend_from_slice(sender.as_bytes());
        self.out.push(b' ');
    }

    /// Writes the address without brackets. A client of a Unix socket has no address; its path could be any text.
    fn client(&mut self) {
        match &self.record.client.0 {
            Address::Tcp(address) => _ = write!(self.out, "{}:{}", address.ip(), address.port()),
            Address::Scoped(_) | Address::Unix(_) => self.out.extend_from_slice(b"unix:0"),
        }
    }

    fn accept_date(&mut self) {
        let stamp = Stamp::of(self.record.accepted);
        self.out.extend_from_slice(b" [");
        self.out.extend_from_slice(&stamp.day());
        self.out.push(b'/');
        self.out.extend_from_slice(stamp.month());
        self.out.push(b'/');
        self.out.extend_from_slice(stamp.year());
        self.out.push(b':');
        self.out.extend_from_slice(stamp.millis());
        self.out.extend_from_slice(b"] ");
    }

    /// Writes the listener, the pool and the backend. A connection without a pool stayed at its listener.
    fn names(&mut self) {
        let AccessRecord { listener, pool, backend, .. } = self.record;
        push_name(self.out, listener);
        self.out.push(b' ');
        push_name(self.out, pool.as_ref().unwrap_or(listener));
        self.out.push(b'/');
        match backend {
            Some(backend) => push_name(self.out, backend),
            None => self.out.extend_from_slice(b"<NOSRV>"),
        }
        self.out.push(b' ');
    }

    /// Writes the times in milliseconds. -1 stands for a step that was not reached or not finished.
    fn timers(&mut self, layout: HaproxyLayout) {
        let AccessRecord { hello, queue, connect, attempts, pool, total, .. } = self.record;
        if layout == HaproxyLayout::Http {
            self.timer(hello.or(pool.as_ref().map(|_| Duration::ZERO)));
        }
        self.timer(queue.or((*attempts > 0).then_some(Duration::ZERO)));
        self.timer(*connect);
        if layout == HaproxyLayout::Http {
            // The time to the first byte of the backend, which a record does not have.
            self.timer(connect.map(|_| Duration::ZERO));
        }
        self.plus_if_open();
        push_decimal(self.out, millis(*total), 1);
    }

    fn timer(&mut self, time: Option<Duration>) {
        match time {
            Some(time) => push_decimal(self.out, millis(time), 1),
            None => self.out.extend_from_slice(b"-1"),
        }
        self.out.push(b'/');
    }

    /// Writes the sign of values that are not final: the connection is open.
    fn plus_if_open(&mut self) {
        if !matches!(self.record.event, AccessEvent::End(_)) {
            self.out.push(b'+');
        }
    }

    fn termination_state(&mut self, layout: HaproxyLayout) {
        let state = match self.record.event {
            AccessEvent::End(reason) => CloseReason::termination_state(reason),
            AccessEvent::Start | AccessEvent::Interval => "--",
        };
        let (cookies, flags): (&[u8], &[u8]) = match layout {
            HaproxyLayout::Tcp => (b" ", b" "),
            HaproxyLayout::Http => (b" - - ", b"-- "),
        };
        self.out.extend_from_slice(cookies);
        self.out.extend_from_slice(state.as_bytes());
        self.out.extend_from_slice(flags);
    }

    /// Writes the open connections of the process, the listener, the pool and the backend, the retries, and the places in
    /// two queues.
    fn counts(&mut self) {
        let AccessRecord { open, attempts, .. } = self.record;
        let retries = attempts.saturating_sub(1).into();
        for count in [open.process, open.listener, 0, open.backend] {
            push_decimal(self.out, count, 1);
            self.out.push(b'/');
        }
        push_decimal(self.out, retries, 1);
        self.out.extend_from_slice(b" 0/0");
    }

    /// Writes the server name where HTTP has its request, so that statistics by URL are by server name.
    fn request(&mut self) {
        self.out.extend_from_slice(b" \"");
        match &self.record.sni {
            Some(name) => {
                self.out.extend_from_slice(b"TLS ");
                push_name(self.out, name);
            }
            None => self.out.extend_from_slice(b"TCP -"),
        }
        self.out.push(b'"');
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Appends a name as one word. An empty name is `-`, so that no field is missing.
fn push_name(out: &mut Vec<u8>, name: &str) {
    if name.is_empty() {
        out.push(b'-');
    }
    for c in name.chars() {
        match c {
            '"' | '#' | '/' | ';' | '?' | '\\' => push_escaped(out, c as u8),
            '\x21'..='\x7e' => out.push(c as u8),
            // A name that is not text has a character for each byte.
            '\0'..='\u{ff}' => push_escaped(out, c as u8),
            _ => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_escaped(out, byte)),
        }
    }
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    _ = write!(out, "#{byte:02X}");
}

/// A time as RFC 3339 writes it, `2009-02-06T12:12:51.443Z`, from which the parts of other forms are taken.
struct Stamp([u8; 24]);

impl Stamp {
    fn of(time: SystemTime) -> Self {
        let mut text = [b'0'; 24];
        _ = write!(&mut text[..], "{}", rfc3339(time));
        Self(text)
    }

    fn year(&self) -> &[u8] {
        &self.0[..4]
    }

    fn month(&self) -> &'static [u8] {
        let number = usize::from(self.0[5] - b'0') * 10 + usize::from(self.0[6] - b'0');
        MONTHS.get(number.wrapping_sub(1)).copied().unwrap_or(MONTHS[0])
    }

    fn day(&self) -> [u8; 2] {
        [self.0[8], self.0[9]]
    }

    /// The time of the day with seconds.
    fn seconds(&self) -> &[u8] {
        &self.0[11..19]
    }

    /// The time of the day with milliseconds.
    fn millis(&self) -> &[u8] {
        &self.0[11..23]
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::ClientAddr;
    use crate::telemetry::record::{OpenCounts, raw_name};

    /// 2009-02-06T12:12:51.443Z
    const ACCEPTED: Duration = Duration::from_millis(1_233_922_371_443);

    fn served() -> AccessRecord {
        let client = ClientAddr(Address::Tcp("10.0.1.2:33313".parse().unwrap()));
        let (accepted, close) = (UNIX_EPOCH + ACCEPTED, CloseReason::ClientFin);
        AccessRecord {
            pool: Some("bck".into()),
            backend: Some("srv1".into()),
            attempts: 4,
            queue: Some(Duration::from_millis(10)),
            connect: Some(Duration::from_micros(1999)),
            from_client: 4,
            from_backend: 212,
            total: Duration::from_millis(5007),
            open: OpenCounts { process: 9, listener: 8, backend: 7 },
            ..AccessRecord::refused(7, accepted, client, "fnt".into(), close)
        }
    }

    fn line(record: &AccessRecord, layout: HaproxyLayout) -> String {
        let mut out = Vec::new();
        write_from("lb-1 pointsman[14387]:", record, layout, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(record: &AccessRecord, tcp: &str, http: &str) {
        let header = "lb-1 pointsman[14387]: ";
        let behind = |line: &str| line.split_once(header).unwrap().1.to_owned();
        assert_eq!(behind(&line(record, HaproxyLayout::Tcp)), tcp);
        assert_eq!(behind(&line(record, HaproxyLayout::Http)), http);
    }

    #[test]
    fn a_line_has_the_header_of_syslog() {
        let expected = "Feb  6 12:12:56 lb-1 pointsman[14387]: 10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt bck/srv1 \
            10/1/5007 212 -- 9/8/0/7/3 0/0";
        assert_eq!(line(&served(), HaproxyLayout::Tcp), expected);
        let late = AccessRecord { total: Duration::from_secs(20 * 24 * 3600), ..served() };
        assert!(
            line(&late, HaproxyLayout::Tcp).starts_with("Feb 26 12:12:51 lb-1 "),
            "the time of the event"
        );
        let endless = AccessRecord { total: Duration::MAX, ..served() };
        assert!(line(&endless, HaproxyLayout::Tcp).starts_with("Feb  6 12:12:51 lb-1 "));
    }

    #[test]
    fn each_end_has_its_form() {
        let served = AccessRecord {
            hello: Some(Duration::from_millis(3)),
            sni: Some("mail.example.com".into()),
            ..served()
        };
        check(
            &served,
            "10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt bck/srv1 10/1/5007 212 -- 9/8/0/7/3 0/0",
            "10.0.1.2:33313 [06/Feb/2009:12:12:51.443] fnt bck/srv1 3/10/1/0/5007 0 212 - - ---- 9/8/0/7/3 0/0 \
             \"TLS mail.example.com\"",
        );
        let refused = AccessRecord {
            client: ClientAddr(Address::Tcp("[2001:db8::1]:4".parse().unwrap())),
            open: OpenCounts { process: 1, listener: 1, backend: 0 },
            ..AccessRecord::refused(7, UNIX_EPOCH, served.client.clone(), "fnt".into(), CloseReason::Denied)
        };
        check(
            &refused,
            "2001:db8::1:4 [01/Jan/1970:00:00:00.000] fnt fnt/<NOSRV> -1/-1/0 0 PR 1/1/0/0/0 0/0",
            "2001:db8::1:4 [01/Jan/1970:00:00:00.000] fnt fnt/<NOSRV> -1/-1/-1/-1/0 0 0 - - PR-- 1/1/0/0/0 0/0 \"TCP -\"",
        );
        let dead = AccessRecord {
            client: ClientAddr("unix:/run/ x".parse().unwrap()),
            pool: Some("p".into()),
            backend: Some("b".into()),
            attempts: 1,
            total: Duration::from_millis(2),
            event: AccessEvent::End(CloseReason::ConnectRefused),
            ..refused
        };
        check(
            &dead,
            "unix:0 [01/Jan/1970:00:00:00.000] fnt p/b 0/-1/2 0 SC 1/1/0/0/0 0/0",
            "unix:0 [01/Jan/1970:00:00:00.000] fnt p/b 0/0/-1/-1/2 0 0 - - SC-- 1/1/0/0/0 0/0 \"TCP -\"",
        );
    }

    /// As `option logasap` of HAProxy does.
    #[test]
    fn values_that_are_not_final_have_a_plus() {
        for event in [AccessEvent::Start, AccessEvent::Interval] {
            let record = AccessRecord { event, ..served() };
            assert!(line(&record, HaproxyLayout::Tcp).ends_with(" 10/1/+5007 +212 -- 9/8/0/7/3 0/0"));
            assert!(line(&record, HaproxyLayout::Http).contains(" 0/10/1/0/+5007 0 +212 - - ---- "));
        }
    }

    proptest! {
        /// A reader that splits at spaces finds the same fields, whatever a client or a configuration says.
        #[test]
        fn no_value_ends_a_field_or_a_line(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            name in ".{0,20}",
            time in 0..u64::MAX / 2,
            total: Duration,
        ) {
            let record = AccessRecord {
                accepted: UNIX_EPOCH + Duration::from_millis(time),
                sni: Some(raw_name(&bytes)),
                listener: (&*name).into(),
                pool: Some((&*name).into()),
                backend: Some((&*name).into()),
                client: ClientAddr(Address::Unix(std::path::Path::new(&name).into())),
                total,
                ..served()
            };
            for (layout, fields) in [(HaproxyLayout::Tcp, 14), (HaproxyLayout::Http, 19)] {
                let line = line(&record, layout);
                prop_assert!(line.bytes().all(|b| matches!(b, 0x20..=0x7e)), "{}", line);
                prop_assert_eq!(line.split_whitespace().count(), fields, "{}", line);
                prop_assert_eq!(line.matches('"').count(), if layout == HaproxyLayout::Http { 2 } else { 0 });
            }
        }
    }
}
