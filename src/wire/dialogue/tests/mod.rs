use std::sync::LazyLock;

use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};

use super::*;
use crate::wire::client_hello::HelloReader;

/// Returns bytes that look random and are the same in each test.
fn random() -> [u8; 64] {
    std::array::from_fn(|at| u8::try_from(at * 37 % 251).unwrap())
}

fn user(name: &str) -> Option<Arc<str>> {
    Some(name.into())
}

fn http() -> Script {
    Script::Http(Arc::default())
}

fn http_body(body: BodyMatch) -> Script {
    Script::Http(HttpScript { body: Some(body), ..HttpScript::default() }.into())
}

fn refuse(bytes: &[u8]) -> ScriptStep {
    ScriptStep::Refuse(bytes.into())
}

fn send(bytes: &[u8]) -> ScriptStep {
    ScriptStep::Send(bytes.into())
}

fn expect(bytes: &[u8]) -> ScriptStep {
    ScriptStep::Expect(bytes.into())
}

fn script(steps: &[ScriptStep]) -> Script {
    Script::SendExpect(steps.into())
}

/// One script of each kind, for the properties of all of them.
static ALL: LazyLock<Vec<Script>> = LazyLock::new(|| {
    vec![
        Script::Tls { server_name: Some("mail.example.com".parse().unwrap()) },
        script(&[expect(b"220"), send(b"a"), expect(b"b"), send(b"c")]),
        http(),
        http_body(BodyMatch::Contains(b"ok"[..].into())),
        http_body(BodyMatch::Matches(BytePattern::new("^o.*k$").unwrap())),
        script(&[
            expect(b"2"),
            refuse(b"R"),
            ScriptStep::ExpectPattern(BytePattern::new("[0-9]x").unwrap()),
            refuse(b"0"),
        ]),
        Script::Postgres { user: None },
        Script::Postgres { user: user("u") },
        Script::Mysql { user: None },
        Script::Mysql { user: user("u") },
        Script::Redis,
        Script::Smtp,
        Script::Mqtt,
        Script::Ssh,
    ]
});

/// Runs a dialogue with a server that sends these pieces; returns the end, and all that was sent to the server.
fn run<'a>(script: &Script, pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Vec<u8>) {
    let mut pieces = pieces.into_iter();
    let mut dialogue = Dialogue::new(script, "10.0.0.1:80", &random());
    let mut sent = Vec::new();
    let end = loop {
        match dialogue.go_on() {
            Ok(DialogueStep::Send(bytes)) => {
                assert!(!bytes.is_empty());
                sent.extend_from_slice(&bytes);
            }
            Ok(DialogueStep::Done) => break "alive".to_owned(),
            Ok(DialogueStep::Read) => match pieces.next() {
                Some(piece) => dialogue.receive(piece),
                None => break "more".to_owned(),
            },
            Ok(DialogueStep::Listen) => match pieces.next() {
                Some(piece) => dialogue.receive(piece),
                None => dialogue.silent(),
            },
            Err(fault) => break fault.to_string(),
        }
    };
    assert_eq!(dialogue.is_alive(), end == "alive");
    (end, sent)
}

/// Returns the end of a dialogue, and checks that it is the same for several cuts of the server's bytes.
fn end(script: &Script, answer: &[u8]) -> String {
    let whole = run(script, [answer]);
    assert_eq!(run(script, answer.chunks(1)), whole, "{script:?} receives {answer:?} byte by byte");
    assert_eq!(run(script, answer.chunks(7)), whole, "{script:?} receives {answer:?} in sevens");
    whole.0
}

#[track_caller]
fn check(script: &Script, answer: &[u8], expected: &str) {
    assert_eq!(end(script, answer), expected, "{script:?} receives {}", answer.escape_ascii());
}

/// Checks that the bytes are alive, and that every prefix of them needs more.
#[track_caller]
fn check_alive(script: &Script, answer: &[u8]) {
    check(script, answer, "alive");
    for end in 0..answer.len() {
        check(script, &answer[..end], "more");
    }
}

fn sent(script: &Script, answer: &[u8]) -> Vec<u8> {
    run(script, [answer]).1
}

const UNEXPECTED: &str = "unexpected answer";
const ENDLESS: &str = "more than 16384 bytes without the expected answer";

#[test]
fn redis_answers_a_ping() {
    check_alive(&Script::Redis, b"+PONG\r\n");
    check_alive(&Script::Redis, b"-NOAUTH Authentication required.\r\n");
    check(&Script::Redis, b"-LOADING Redis is loading the dataset in memory\r\n", UNEXPECTED);
    check(&Script::Redis, b"-MASTERDOWN Link with MASTER is down\r\n", UNEXPECTED);
    check(&Script::Redis, b"-DENIED Redis is running in protected mode\r\n", UNEXPECTED);
    check(&Script::Redis, b"+PONK\r\n", UNEXPECTED);
    check(&Script::Redis, b"HTTP/1.1 400\r\n", UNEXPECTED);
    check(&Script::Redis, b"\n", UNEXPECTED);
    assert_eq!(sent(&Script::Redis, b""), b"*1\r\n$4\r\nPING\r\n");
}

#[test]
fn smtp_greets() {
    check_alive(&Script::Smtp, b"220 mail.example.com ESMTP\r\n");
    check_alive(&Script::Smtp, b"220-mail.example.com ESMTP\r\n220-no spam\r\n220 go on\r\n");
    check_alive(&Script::Smtp, b"220\r\n");
    check(&Script::Smtp, b"421 too busy\r\n", UNEXPECTED);
    check(&Script::Smtp, b"554 go away\r\n", UNEXPECTED);
    check(&Script::Smtp, b"220-a\r\n250 b\r\n", UNEXPECTED);
    check(&Script::Smtp, b"2200\r\n", UNEXPECTED);
    check(&Script::Smtp, b"+OK POP3\r\n", UNEXPECTED);
    let lines = b"220-\r\n".repeat(MOST_HEARD);
    check(&Script::Smtp, &lines, "more than 16384 bytes without the expected answer");
    assert_eq!(sent(&Script::Smtp, b"220 x\r\n"), b"QUIT\r\n");
    assert_eq!(sent(&Script::Smtp, b"220-x\r\n"), b"");
}

#[test]
fn ssh_identifies_itself() {
    check_alive(&Script::Ssh, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    check_alive(&Script::Ssh, b"SSH-1.99-old\n");
    check_alive(&Script::Ssh, b"Welcome!\r\nSSH tells:\r\nSSH-2.0-x\r\n");
    check(&Script::Ssh, b"SSH-1.5-older\n", UNEXPECTED);
    check(&Script::Ssh, b"SSH-\n", UNEXPECTED);
    check(&Script::Ssh, b"Exceeded MaxStartups\r\n", "more");
    check(&Script::Ssh, &[b'x'; MOST_HEARD + 1], "more than 16384 bytes without the expected answer");
    check(&Script::Ssh, &b"x\n".repeat(MOST_HEARD), "more than 16384 bytes without the expected answer");
    assert_eq!(sent(&Script::Ssh, b"SSH-2.0-x\r\n"), b"");
}

#[test]
fn mqtt_acknowledges() {
    check(&Script::Mqtt, b"\x20\x02\x00\x00", "alive");
    check(&Script::Mqtt, b"\x20\x02\x00", "more");
    // Refused: another version, another identifier, no password, not allowed.
    for code in [1, 2, 4, 5, 0x84, 0x86, 0x87] {
        check(&Script::Mqtt, &[0x20, 2, 0, code], "alive");
    }
    check(&Script::Mqtt, b"\x20\x02\x00\x03", UNEXPECTED);
    check(&Script::Mqtt, b"\x20\x03\x00\x88\x00", UNEXPECTED);
    // A text that begins with a space.
    check(&Script::Mqtt, b"  welcome", UNEXPECTED);
    check(&Script::Mqtt, b" \x02\0\x06", UNEXPECTED);
    check(&Script::Mqtt, b"\x20\x00", UNEXPECTED);
    check(&Script::Mqtt, b"\x20\x82\x00\x00\x00", "alive");
    check(&Script::Mqtt, b"\x20\xff\xff\xff\x7f\x00\x00", UNEXPECTED);
    check(&Script::Mqtt, b"\x20\xff\xff\xff\xff\x00\x00", UNEXPECTED);
    check(&Script::Mqtt, b"\x30\x02\x00\x00", UNEXPECTED);
    let (connect, disconnect) = (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00", b"\xe0\x00");
    assert_eq!(sent(&Script::Mqtt, b"\x20\x02\x00\x00"), [&connect[..], disconnect].concat());
}

/// Returns an error in the form of PostgreSQL.
fn postgres_error(code: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0Mno\0\0");
    let length = u32::try_from(4 + fields.len()).unwrap();
    [&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat()
}

/// Returns the end of a dialogue whose server closes after its answer.
fn end_at_close(script: &Script, answer: &[u8]) -> String {
    let mut dialogue = Dialogue::new(script, "10.0.0.1:80", &random());
    let mut pieces = answer.chunks(3);
    loop {
        match dialogue.go_on() {
            Ok(DialogueStep::Send(_)) => {}
            Ok(DialogueStep::Done) => return "alive".to_owned(),
            Ok(DialogueStep::Read | DialogueStep::Listen) => match pieces.next() {
                Some(piece) => dialogue.receive(piece),
                None => dialogue.closed(),
            },
            Err(fault) => return fault.to_string(),
        }
    }
}

#[test]
fn postgres_answers_a_request_for_tls() {
    let script = Script::Postgres { user: None };
    check_alive(&script, b"S");
    check_alive(&script, b"N");
    // Greetings of other servers begin with these letters too, and an error is not an answer to this request.
    for answer in
        [&b"SSH-2.0-x\r\n"[..], b"SERVER BUSY\r\n", b"NO\r\n", b"S\0", b"N\n", b"R", b"HTTP/1.1", b"\0"]
    {
        check(&script, answer, UNEXPECTED);
    }
    check(&script, &postgres_error("28000"), UNEXPECTED);
    check(&script, b"", "more");
    assert_eq!(end_at_close(&script, b"S"), "closed before it answered");
    assert_eq!(end_at_close(&script, b"SSH"), UNEXPECTED);
    assert_eq!(sent(&script, b""), [0, 0, 0, 8, 4, 210, 22, 47]);
}

#[test]
fn postgres_answers_a_login() {
    let script = Script::Postgres { user: user("monitor") };
    let notice = [b"N", &postgres_error("01000")[1..]].concat();
    for code in ["28000", "3D000", "53300"] {
        check_alive(&script, &postgres_error(code));
        check_alive(&script, &[&notice[..], &notice, &postgres_error(code)].concat());
    }
    check_alive(&script, b"R\0\0\0\x0c\0\0\0\x05abcd");
    check_alive(&script, b"R\0\0\0\x08\0\0\0\0");
    check_alive(&script, &[&notice[..], b"R\0\0\0\x08\0\0\0\0"].concat());
    check(&script, &notice, "more");
    for code in ["57P03", "57P01", "", "2800", "xxxxx"] {
        check(&script, &postgres_error(code), UNEXPECTED);
        check(&script, &[&notice[..], &postgres_error(code)].concat(), UNEXPECTED);
    }
    for answer in [
        &b"Ecould not fork new process for connection: no\n\0"[..],
        b"E\0\0\0\x04",
        b"E\0\0\x20\x01",
        b"R\0\0\0\x07\0\0\0",
        // Authentication methods that do not exist.
        b"R\0\0\0\x08\0\0\x01\0",
        b"HTTP/1.1",
        b"SSH-2.0-x\r\n",
        b"NO SERVICE\r\n",
        b"S",
        b"N\0\0\0\x06\0\0",
    ] {
        check(&script, answer, UNEXPECTED);
    }
    check(&script, b"N", "more");
    assert!(sent(&script, b"").ends_with(b"user\0monitor\0application_name\0pointsman\0\0"));
}

/// Returns a packet of MySQL.
fn mysql_packet(number: u8, payload: &[u8]) -> Vec<u8> {
    [&[u8::try_from(payload.len()).unwrap(), 0, 0, number][..], payload].concat()
}

#[test]
fn mysql_greets() {
    let script = Script::Mysql { user: None };
    check_alive(&script, &mysql_packet(0, b"\x0a8.0.36\0rest"));
    check(&script, &mysql_packet(0, b"\xff\x10\x04Too many connections"), UNEXPECTED);
    check(&script, &mysql_packet(0, b"\x09old\0"), UNEXPECTED);
    check(&script, &mysql_packet(1, b"\x0a8.0.36\0"), UNEXPECTED);
    check(&script, &mysql_packet(0, b"\x0aendless"), UNEXPECTED);
    check(&script, b"\0\0\0\0", UNEXPECTED);
    check(&script, b"SSH-2.0-x\r\n", UNEXPECTED);
    assert_eq!(sent(&script, &mysql_packet(0, b"\x0a8.0.36\0")), b"");
}

#[test]
fn mysql_lets_a_user_in() {
    let script = Script::Mysql { user: user("monitor") };
    let greeting = mysql_packet(0, b"\x0a8.0.36\0");
    let after = |packets: &[&[u8]]| {
        let numbered =
            packets.iter().zip((2..).step_by(2)).map(|(packet, number)| mysql_packet(number, packet));
        [greeting.clone()].into_iter().chain(numbered).collect::<Vec<_>>().concat()
    };
    check_alive(&script, &after(&[b"\0\0\0\x02\0\0\0"]));
    check_alive(&script, &after(&[b"\xfecaching_sha2_password\0salt", b"\0\0\0"]));
    check_alive(&script, &after(&[b"\x01\x03", b"\0\0\0"]));
    check(&script, &after(&[]), "more");
    check(&script, &after(&[b"\xff\x15\x04Access denied"]), UNEXPECTED);
    check(&script, &after(&[b"\x0a8.0.36\0"]), UNEXPECTED);

    let bytes = sent(&script, &after(&[b"\xfeother\0", b"\0\0\0"]));
    let login = usize::from(bytes[0]) + 4;
    assert_eq!(bytes[1..4], [0, 0, 1]);
    assert!(bytes[36..].starts_with(b"monitor\0\0mysql_native_password\0"), "{bytes:?}");
    // An empty packet for the other authentication method, and the end of the session.
    assert_eq!(bytes[login..], [0, 0, 0, 3, 1, 0, 0, 0, 1]);
}

/// Returns the answer of a TLS server to the hello; it is alive if it has a certificate.
fn tls_server(name: Option<&str>, versions: &[&'static SupportedProtocolVersion], alive: bool) -> Vec<u8> {
    let builder = ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
    let config = if alive {
        let made = rcgen::generate_simple_self_signed(vec!["mail.example.com".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap()
    } else {
        builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
    };
    let mut server = ServerConnection::new(config.into()).unwrap();
    let hello = tls::hello(name.map(|name| name.parse().unwrap()).as_ref(), &random());
    server.read_tls(&mut hello.as_slice()).unwrap();
    assert_eq!(server.process_new_packets().is_ok(), alive);
    assert_eq!(server.server_name(), name);
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer).unwrap();
    }
    answer
}

#[test]
fn tls_servers_understand_the_hello() {
    let script = Script::Tls { server_name: None };
    for versions in [&[&version::TLS12][..], &[&version::TLS13], &[&version::TLS12, &version::TLS13]] {
        for name in [None, Some("mail.example.com")] {
            check(&script, &tls_server(name, versions, true), "alive");
        }
        let refused = end(&script, &tls_server(Some("other.example.com"), versions, false));
        assert!(refused.starts_with("TLS alert "), "{refused}");
    }
}

#[test]
fn the_hello_has_its_name() {
    for name in [None, Some("mail.example.com")] {
        let hello = tls::hello(name.map(|name| name.parse().unwrap()).as_ref(), &random());
        let read = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&hello).unwrap().unwrap();
        assert_eq!(read.server_name.as_ref().map(ServerName::as_str), name);
        assert_eq!((read.records, read.size + 5), (1, hello.len()));
    }
}

#[test]
fn tls_records_tell_enough() {
    let script = Script::Tls { server_name: None };
    check(&script, b"\x16\x03\x03\0\x50\x02", "alive");
    check(&script, b"\x16\x03\x01\0\x01\x02", "alive");
    check(&script, b"\x16\x03\x03\0\x50", "more");
    check(&script, b"\x16\x03\x03\0\0", UNEXPECTED);
    check(&script, b"\x16\x03\x03\0\x50\x01", UNEXPECTED);
    check(&script, b"\x16\x02\x03", UNEXPECTED);
    check(&script, b"\x17\x03\x03", UNEXPECTED);
    check(&script, b"HTTP/1.1 400 Bad Request\r\n", UNEXPECTED);
    check(&script, b"\x15\x03\x03\0\x02\x02\x28", "TLS alert 40");
    check(&script, b"\x15\x03\x03\0\x02\x02", "more");
    check(&script, b"\x15\x03\x03\0\x02\x01\0", "TLS alert 0");
    check(&script, b"\x15\x03\x03\0\x03\x02\x28", UNEXPECTED);
    // A warning of an unknown name, and then the hello.
    check(&script, b"\x15\x03\x03\0\x02\x01\x70\x16\x03\x03\0\x50\x02", "alive");
    check(&script, b"\x15\x03\x03\0\x02\x01\x70", "more");
    let warnings = b"\x15\x03\x03\0\x02\x01\x70".repeat(4000);
    check(&script, &warnings, "more than 16384 bytes without the expected answer");
}

/// One row of [`CAPTURES`].
macro_rules! capture {
    ($file:literal, $script:expr, $end:expr) => {
        (
            $file,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/answers/", $file, ".bin"))
                as &[u8],
            $script,
            $end,
        )
    };
}

/// Captured answers of real servers, with the script of each. The README beside them describes them.
fn captures() -> Vec<(&'static str, &'static [u8], Script, &'static str)> {
    let tls = || Script::Tls { server_name: None };
    vec![
        capture!("mariadb", Script::Mysql { user: None }, "alive"),
        capture!("mariadb-user", Script::Mysql { user: user("nobody") }, "alive"),
        capture!("mariadb-stranger", Script::Mysql { user: user("other") }, UNEXPECTED),
        capture!("mosquitto", Script::Mqtt, "alive"),
        capture!("mosquitto-refused", Script::Mqtt, "alive"),
        capture!("nginx-204", http(), "alive"),
        capture!("nginx-503", http(), UNEXPECTED),
        capture!("openssh", Script::Ssh, "alive"),
        capture!("openssl-tls12", tls(), "alive"),
        capture!("openssl-tls13", tls(), "alive"),
        capture!("openssl-retry", tls(), "alive"),
        capture!("openssl-alert", tls(), "TLS alert 112"),
        capture!("openssl-old", tls(), "TLS alert 70"),
        capture!("opensmtpd", Script::Smtp, "alive"),
        capture!("postgres", Script::Postgres { user: None }, "alive"),
        capture!("postgres-user", Script::Postgres { user: user("postgres") }, "alive"),
        capture!("postgres-refused", Script::Postgres { user: user("postgres") }, "alive"),
        capture!("postgres-stranger", Script::Postgres { user: user("other") }, "alive"),
        capture!("postgres-stopping", Script::Postgres { user: user("other") }, UNEXPECTED),
        capture!("redis", Script::Redis, "alive"),
        capture!("redis-password", Script::Redis, "alive"),
        capture!("redis-masterdown", Script::Redis, UNEXPECTED),
    ]
}

#[test]
fn real_answers_are_understood() {
    for (file, answer, script, expected) in captures() {
        assert_eq!(end(&script, answer), expected, "{file}");
    }
}

#[test]
fn no_change_of_one_byte_does_harm() {
    let mut changed = 0;
    for (_, answer, script, _) in captures() {
        for at in 0..answer.len().min(200) {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut answer = answer.to_vec();
                answer[at] ^= flip;
                end(&script, &answer);
                changed += 1;
            }
        }
    }
    assert!(changed > 1000, "only {changed}");
}

proptest! {
    #[test]
    fn garbage_does_no_harm(answer in proptest::collection::vec(any::<u8>(), 0..300), which in 0_usize..14) {
        end(&ALL[which], &answer);
    }

    /// Frequent bytes of the protocols, so that more than the first byte is parsed.
    #[test]
    fn plausible_garbage_does_no_harm(
        answer in proptest::collection::vec(
            prop::sample::select(&b"\0\x01\x02\x03\x0a\x15\x16\x20\xfe\xffSSH-2.0R+PONGE 120\r\nHTTP/"[..]),
            0..60,
        ),
        which in 0_usize..14,
    ) {
        end(&ALL[which], &answer);
    }

    #[test]
    fn endless_input_is_refused(answer in any::<u8>(), which in 0_usize..14) {
        let (end, sent) = run(&ALL[which], std::iter::repeat_n(&[answer; 1024][..], 100));
        prop_assert!(end != "more", "{}", end);
        prop_assert!(sent.len() < 20_000);
    }
}

mod http;
mod matrix;
mod steps;
