//! Protocols that come before a hello: PostgreSQL, STARTTLS, and several of them on one port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};

use crate::support::hello::{fixture, hello, nameless};
use crate::support::pair::{closed, connect_from, expect_bytes, expect_end, patient};
use crate::support::{Backend, PATIENCE, Proxy, config, wait_for};

const SSL: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const GSS: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

/// A server that does these steps, then answers all bytes with its name. It keeps the bytes behind the steps.
struct ScriptedServer {
    backend: Backend,
    received: Mutex<mpsc::Receiver<Vec<u8>>>,
}

/// The texts that the server sends, each with the text that it expects as the answer.
type Steps = &'static [(&'static [u8], &'static [u8])];

const POSTGRES: Steps = &[(b"", SSL), (b"S", b"")];
const SMTP: Steps = &[
    (b"220-one\r\n220 b ESMTP\r\n", b"EHLO front.test\r\n"),
    (b"250-b\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 HELP\r\n", b"STARTTLS\r\n"),
    (b"220 go\r\n", b""),
];
const IMAP: Steps =
    &[(b"* OK hi\r\n", b"p1 STARTTLS\r\n"), (b"* CAPABILITY IMAP4rev1\r\n", b""), (b"p1 OK go\r\n", b"")];
const POP3: Steps = &[(b"+OK hi\r\n", b"STLS\r\n"), (b"+OK go\r\n", b"")];

impl ScriptedServer {
    fn start(name: &'static str, steps: Steps) -> Self {
        let (keep, received) = mpsc::channel();
        let backend = Backend::serve(move |stream| {
            let mut stream = patient(stream);
            for (words, expected) in steps {
                stream.write_all(words).unwrap();
                let mut heard = vec![0; expected.len()];
                if stream.read_exact(&mut heard).is_err() {
                    return;
                }
                assert_eq!(heard, *expected, "{:?}", String::from_utf8_lossy(&heard));
            }
            let mut heard = vec![0; 16 * 1024];
            let read = stream.read(&mut heard).unwrap_or(0);
            heard.truncate(read);
            let _ = stream.write_all(name.as_bytes());
            let _ = keep.send(heard);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        Self { backend, received: Mutex::new(received) }
    }

    fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap().recv_timeout(PATIENCE).expect("a client came through")
    }

    fn address(&self) -> String {
        format!("\"{}\"", self.backend.address)
    }
}

/// Starts a listener named `main` with these keys and pools; `p` is `backends`.
fn proxy(keys: &str, backends: &[&ScriptedServer]) -> Proxy {
    let backends: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    Proxy::start(config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\n{keys}\n\
         [pool.p]\nbackends = [{}]\nbalance = \"failover\"\nhealth.check = \"off\"\n",
        backends.join(", ")
    )))
}

fn postgres(backends: &[&ScriptedServer]) -> Proxy {
    proxy("protocol = \"postgres\"\nroutes = [{ sni = \"good.example\", pool = \"p\" }]", backends)
}

fn message(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + rest.len()).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

fn login(user: &str, database: &str) -> Vec<u8> {
    message(3 << 16, format!("user\0{user}\0database\0{database}\0\0").as_bytes())
}

/// Sends bytes and compares the answer.
fn exchange(client: &mut TcpStream, send: &[u8], expected: &[u8]) {
    client.write_all(send).unwrap();
    expect_bytes(client, expected);
}

/// Returns all bytes until the end.
fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("an end in order");
    rest
}

const UNRECOGNIZED: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const INTERNAL_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

/// Checks that a client that sends this gets an answer with this ending, and that its connection is closed for
/// the reason.
#[track_caller]
fn check_refused(proxy: &Proxy, sends: &[&[u8]], ending: &[u8], reason: &str) {
    let before = proxy.metric(&closed(reason));
    let mut client = proxy.connect();
    let mut heard = Vec::new();
    for (index, send) in sends.iter().enumerate() {
        if index > 0 {
            let mut answer = [0; 256];
            let read = client.read(&mut answer).unwrap();
            heard.extend_from_slice(&answer[..read]);
        }
        client.write_all(send).unwrap();
    }
    heard.extend(rest(&mut client));
    let found = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.windows(ending.len().max(1)).any(|part| part == ending) || ending.is_empty(), "{found:?}");
    drop(client);
    proxy.wait_for_metric(&closed(reason), before + 1.0);
}

#[test]
fn a_postgres_session_is_routed_by_its_server_name() {
    let backend = ScriptedServer::start("one", POSTGRES);
    let proxy = postgres(&[&backend]);
    let hello = hello(b"good.example");
    for requests in [&[SSL][..], &[GSS, SSL]] {
        let mut client = proxy.connect();
        for request in requests {
            exchange(&mut client, request, if *request == SSL { b"S" } else { b"N" });
        }
        exchange(&mut client, &hello, b"one");
        assert!(backend.received() == hello);
    }
    // The same holds for bytes in pieces.
    let mut client = patient(proxy.connect());
    for byte in SSL {
        client.write_all(&[*byte]).unwrap();
    }
    expect_bytes(&client, b"S");
    for byte in &hello {
        client.write_all(&[*byte]).unwrap();
    }
    expect_bytes(&client, b"one");
    assert!(backend.received() == hello);
    check_refused(
        &proxy,
        &[SSL, &crate::support::hello::hello(b"bad.example")],
        UNRECOGNIZED,
        "unmatched_sni",
    );
    // A client that connects by address goes to the only pool, unless the configuration refuses this by name.
    let mut client = proxy.connect();
    exchange(&mut client, SSL, b"S");
    exchange(&mut client, &nameless(), b"one");
    assert!(backend.received() == nameless());
    let strict = self::proxy("protocol = \"postgres\"\nunmatched = \"p\"\nno_sni = \"reject\"", &[&backend]);
    check_refused(&strict, &[SSL, &nameless()], &[21, 3, 3, 0, 2, 2, 109], "no_sni");
    check_refused(&proxy, &[SSL, b"hello?"], b"", "not_tls");
    assert_eq!(proxy.remote.view().bounds.hello_memory.inside(), 0);
}

#[test]
fn what_has_begun_is_held_within_the_memory_of_all_hellos() {
    let backend = ScriptedServer::start("one", &[]);
    let proxy = proxy("protocol = \"postgres\"\nplaintext = \"p\"", &[&backend]);
    let held = || proxy.remote.view().bounds.hello_memory.inside();
    let long = message(3 << 16, format!("user\0ann\0options\0{}\0\0", "x".repeat(9000)).as_bytes());
    let mut client = proxy.connect();
    client.write_all(&long[..50]).unwrap();
    wait_for("a small share", || held() == 2048);
    client.write_all(&long[50..5000]).unwrap();
    wait_for("a large share", || held() == 10_000);
    exchange(&mut client, &long[5000..], b"one");
    assert!(long.starts_with(&backend.received()));
    assert_eq!(held(), 0);
    // If no memory is left, the client gets an error that says so.
    proxy.remote.view().bounds.hello_memory.set_limit(100);
    check_refused(&proxy, &[&long[..50]], b"\0C53300\0", "hello_memory");
    // A client that sends its hello at once needs no memory of hellos, also behind an SSLRequest.
    let backend = ScriptedServer::start("one", POSTGRES);
    let proxy = postgres(&[&backend]);
    proxy.remote.view().bounds.hello_memory.set_limit(100);
    let mut client = proxy.connect();
    exchange(&mut client, SSL, b"S");
    exchange(&mut client, &hello(b"good.example"), b"one");
}

#[test]
fn direct_tls_reaches_the_backend_as_it_is() {
    let backend = ScriptedServer::start("one", &[]);
    let proxy = postgres(&[&backend]);
    let hello = hello(b"good.example");
    exchange(&mut proxy.connect(), &hello, b"one");
    assert!(backend.received() == hello);
    let open = self::proxy("protocol = \"postgres\"\nunmatched = \"p\"", &[&backend]);
    let psql = fixture("psql");
    exchange(&mut open.connect(), &psql, b"one");
    assert!(backend.received() == psql);
}

#[test]
fn a_session_without_tls_is_refused_in_its_words() {
    let backend = ScriptedServer::start("one", &[]);
    let proxy = postgres(&[&backend]);
    check_refused(&proxy, &[&login("ann", "shop")], b"\0C28000\0M", "plaintext_refused");
    check_refused(
        &proxy,
        &[GSS, &login("ann", "shop")],
        b"\0HConnect with sslmode=require",
        "plaintext_refused",
    );
    check_refused(&proxy, &[&login("ann", "shop")], b" by the server's host name,", "plaintext_refused");
}

#[test]
fn a_session_without_tls_goes_by_its_database_or_user() {
    let [shop, ann, other] = ["shop", "ann", "other"].map(|name| ScriptedServer::start(name, &[]));
    let pool = |name: &str, backend: &ScriptedServer| {
        format!("[pool.{name}]\nbackends = [{}]\nhealth.check = \"off\"\n", backend.address())
    };
    let proxy = Proxy::start(config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\n\
         databases = {{ shop = \"shop\" }}\nusers = {{ ann = \"ann\" }}\nplaintext = \"other\"\n{}{}{}",
        pool("shop", &shop),
        pool("ann", &ann),
        pool("other", &other)
    )));
    let check = |user: &str, database: &str, backend: &ScriptedServer, name: &str| {
        let bytes = login(user, database);
        exchange(&mut proxy.connect(), &bytes, name.as_bytes());
        assert!(backend.received() == bytes);
    };
    check("bob", "shop", &shop, "shop");
    check("ann", "shop", &shop, "shop");
    check("ann", "stock", &ann, "ann");
    check("bob", "stock", &other, "other");
}

#[test]
fn nothing_before_tls_is_carried_into_it() {
    let backend = ScriptedServer::start("one", POSTGRES);
    let proxy = postgres(&[&backend]);
    let hello = hello(b"good.example");
    check_refused(&proxy, &[&[SSL, &hello].concat()], b"\0C08P01\0", "pipelined_before_tls");
    check_refused(&proxy, &[&[GSS, SSL].concat()], b"\0C08P01\0", "pipelined_before_tls");
    check_refused(&proxy, &[&[SSL, b"x"].concat()], b"\0C08P01\0", "pipelined_before_tls");
    check_refused(&proxy, &[b"GET / HTTP/1.0\r\n\r\n"], b"\0C08P01\0", "opening_malformed");
    check_refused(&proxy, &[GSS, GSS], b"\0C08P01\0", "opening_malformed");
    assert_eq!(proxy.metric(r#"pointsman_connect_attempts_total{pool="p",outcome="ok"}"#), 0.0);
}

#[test]
fn a_request_to_cancel_finds_the_backend_of_its_session() {
    let names = ["b0", "b1", "b2", "b3", "b4"];
    // Each backend answers a session and a request with its name.
    let backends = names.map(|name| ScriptedServer::start(name, &[]));
    let listed: Vec<_> = backends.iter().map(ScriptedServer::address).collect();
    let proxy = Proxy::start(config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\n\
         plaintext = \"p\"\n[pool.p]\nhealth.check = \"off\"\nbackends = [{}]\n",
        listed.join(", ")
    )));
    let mut seen = std::collections::BTreeSet::new();
    for (number, key) in (1..40_u8).zip([4, 32, 256].into_iter().cycle()) {
        let source = format!("127.0.9.{number}").parse().unwrap();
        let ask = |bytes: &[u8]| {
            let mut client = connect_from(source, proxy.address("main"));
            client.write_all(bytes).unwrap();
            let mut name = [0; 2];
            client.read_exact(&mut name).unwrap();
            String::from_utf8(name.to_vec()).unwrap()
        };
        let name = ask(&login("ann", "shop"));
        assert_eq!(ask(&message(80_877_102, &vec![number; 4 + key])), name);
        seen.insert(name);
    }
    assert_eq!(seen.len(), names.len());
    let refusing = postgres(&[&backends[0]]);
    let cancel = message(80_877_102, &[1; 8]);
    // The request has a pool even here: the only one.
    exchange(&mut refusing.connect(), &cancel, b"b0");
    let keys = "protocol = \"postgres\"\nunmatched = \"p\"\ncancel = \"reject\"";
    check_refused(&self::proxy(keys, &[&backends[0]]), &[&cancel], b"", "cancel_refused");
}

/// Returns a PostgreSQL listener without TLS, with these backends as `p`, which has these keys.
fn sessions(keys: &str, backends: &[String]) -> pointsman::config::Config {
    config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\n\
         plaintext = \"p\"\n[pool.p]\nhealth.check = \"off\"\nbackends = [{}]\n{keys}\n",
        backends.join(", ")
    ))
}

/// Sends these bytes as a client; returns the connection and the name of its backend.
fn ask(proxy: &Proxy, bytes: &[u8]) -> (TcpStream, String) {
    let mut client = patient(proxy.connect());
    client.write_all(bytes).unwrap();
    let mut name = [0; 2];
    client.read_exact(&mut name).expect("a backend answers");
    (client, String::from_utf8(name.to_vec()).unwrap())
}

#[test]
fn a_request_to_cancel_comes_past_what_is_full() {
    let backends = ["b0", "b1", "b2"].map(|name| ScriptedServer::start(name, &[]));
    let listed: Vec<_> = backends.iter().map(ScriptedServer::address).collect();
    let cancel = message(80_877_102, &[1; 8]);
    let check = |keys: &str, backends: &[String]| {
        let proxy = Proxy::start(sessions(keys, backends));
        let (_session, name) = ask(&proxy, &login("ann", "shop"));
        assert_eq!(ask(&proxy, &cancel).1, name, "{keys}");
    };
    check("max_connections = 1", &listed);
    check("max_connections = 1", &listed[..1]);
    check("max_connections = 1\nbalance = \"failover\"", &listed);
    check("max_connections = 1\nqueue = { length = 1, timeout = \"20s\" }", &listed[..1]);
    check("limits = { connections = 1 }", &listed);
    check("limits = { rate = \"1/m\" }", &listed);
    check("max_load = 1.01", &listed);
    check("balance = \"round-robin\"", &listed);
}

/// The request is exempt from limits, so it must not keep the slots that it took.
#[test]
fn a_request_to_cancel_ends_with_its_server_whatever_its_client_does() {
    let backend = Backend::serve(|mut stream| {
        let _ = stream.read_exact(&mut [0; 16]);
    });
    let proxy = Proxy::start(sessions("", &[format!("{:?}", backend.address.to_string())]));
    let mut client = patient(proxy.connect());
    client.write_all(&message(80_877_102, &[1; 8])).unwrap();
    expect_end(&client);
    wait_for("the end", || proxy.metric(r#"pointsman_connections_active{listener="main"}"#) == 0.0);
    drop(client);
}

/// A backend that drains or was removed keeps its sessions.
#[test]
fn a_request_to_cancel_finds_what_takes_no_new_sessions() {
    let backends = ["b0", "b1"].map(|name| ScriptedServer::start(name, &[]));
    let drained = |word: &str| {
        let first = format!("{{ name = \"first\", address = {}, {word} }}", backends[0].address());
        sessions("balance = \"failover\"", &[first, backends[1].address()])
    };
    let proxy = Proxy::start(drained("state = \"ready\""));
    let cancel = message(80_877_102, &[1; 8]);
    let (session, name) = ask(&proxy, &login("ann", "shop"));
    assert_eq!(name, "b0");
    for config in
        [drained("state = \"drain\""), drained("weight = 0"), sessions("", &[backends[1].address()])]
    {
        proxy.remote.reload(config).unwrap();
        assert_eq!(ask(&proxy, &cancel).1, "b0");
    }
    drop(session);
    // The end of the session is noticed a little later.
    wait_for("a request that goes elsewhere", || ask(&proxy, &cancel).1 == "b1");
}

/// A reload may change the protocol of a listener. A listener of TCP does not bound the time of a request to cancel, so
/// a client that connected before the reload is not exempt from limits.
#[test]
fn a_request_to_cancel_is_exempt_only_where_its_time_is_bounded() {
    let backend = ScriptedServer::start("b0", &[]);
    let limits = "limits = { connections = 1 }";
    let proxy = Proxy::start(sessions(limits, &[backend.address()]));
    let (_session, _) = ask(&proxy, &login("ann", "shop"));
    let mut late = patient(proxy.connect());
    wait_for("the client", || proxy.metric(r#"pointsman_connections_active{listener="main"}"#) == 2.0);
    let tcp = config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         routes = [{{ source = \"127.0.0.0/8\", pool = \"p\" }}]\n\
         [pool.p]\nhealth.check = \"off\"\nbackends = [{}]\n{limits}\n",
        backend.address()
    ));
    proxy.remote.reload(tcp).unwrap();
    late.write_all(&message(80_877_102, &[1; 8])).unwrap();
    wait_for("the refusal", || proxy.metric(&closed("pool_full")) == 1.0);
    assert!(rest(&mut late).is_empty());
}

#[test]
fn a_backend_that_refuses_tls_is_one_that_failed() {
    let good = ScriptedServer::start("good", POSTGRES);
    let no = ScriptedServer::start("no", &[(b"", SSL), (b"N", b"")]);
    let error = ScriptedServer::start("error", &[(b"", SSL), (b"E\0\0\0\x05\0", b"")]);
    let talker = ScriptedServer::start("talker", &[(b"", SSL), (b"Sx", b"")]);
    let hello = hello(b"good.example");
    for bad in [&no, &error, &talker] {
        let proxy = postgres(&[bad, &good]);
        let mut client = proxy.connect();
        exchange(&mut client, SSL, b"S");
        exchange(&mut client, &hello, b"good");
        assert!(good.received() == hello);
        assert_eq!(proxy.metric(r#"pointsman_connect_attempts_total{pool="p",outcome="greeting"}"#), 1.0);
    }
    check_refused(&postgres(&[&no]), &[SSL, &hello], INTERNAL_ERROR, "backend_refused_tls");
    check_refused(&postgres(&[&error]), &[SSL, &hello], INTERNAL_ERROR, "greeting_failed");
    check_refused(&postgres(&[&talker]), &[SSL, &hello], INTERNAL_ERROR, "greeting_failed");
}

#[test]
fn every_wait_has_an_end() {
    let silent = ScriptedServer::start("silent", &[(b"", SSL), (b"", b"never")]);
    let keys = "protocol = \"postgres\"\nunmatched = \"p\"\ngreeting_timeout = \"100ms\"";
    let hello = hello(b"good.example");
    check_refused(&proxy(keys, &[&silent]), &[SSL, &hello], INTERNAL_ERROR, "greeting_timeout");
    let keys = "protocol = \"postgres\"\nunmatched = \"p\"\nhello_timeout = \"100ms\"";
    check_refused(&proxy(keys, &[&silent]), &[&SSL[..7]], b"\0C08006\0", "opening_timeout");
    check_refused(&proxy(keys, &[&silent]), &[SSL, &hello[..9]], &[21, 3, 3, 0, 2, 2], "hello_timeout");
    check_refused(&proxy(keys, &[&silent]), &[SSL, b""], b"", "hello_timeout");
    let keys = "protocol = \"postgres\"\nunmatched = \"p\"\nfirst_byte_timeout = \"100ms\"";
    check_refused(&proxy(keys, &[&silent]), &[b""], b"\0C08006\0", "first_byte_timeout");
    check_refused(&proxy(keys, &[&silent]), &[GSS], b"\0C08006\0", "opening_timeout");
}

/// Starts a mail listener, and a client that has read its greeting.
fn mail(protocol: &str, steps: Steps) -> (Proxy, Arc<ScriptedServer>) {
    let backend = ScriptedServer::start("one", steps);
    let keys = format!(
        "protocol = \"{protocol}\"\nhostname = \"front.test\"\nroutes = [{{ sni = \"good.example\", pool = \"p\" }}]"
    );
    (proxy(&keys, &[&backend]), Arc::new(backend))
}

#[test]
fn mail_is_routed_by_the_server_name_behind_starttls() {
    let check = |protocol: &str, steps: Steps, dialogue: &[(&str, &str)]| {
        let (proxy, backend) = mail(protocol, steps);
        let hello = hello(b"good.example");
        let mut client = proxy.connect();
        for (send, expected) in dialogue {
            exchange(&mut client, send.as_bytes(), expected.as_bytes());
        }
        exchange(&mut client, &hello, b"one");
        assert!(backend.received() == hello, "{protocol}");
        let (start, ready) = dialogue.last().unwrap();
        let mut client = proxy.connect();
        expect_bytes(&client, dialogue[0].1.as_bytes());
        exchange(&mut client, start.as_bytes(), ready.as_bytes());
        client.write_all(&self::hello(b"bad.example")).unwrap();
        assert_eq!(rest(&mut client), UNRECOGNIZED);
    };
    let required = "530 5.7.0 Must issue a STARTTLS command first\r\n";
    check(
        "smtp",
        SMTP,
        &[
            ("", "220 front.test ESMTP\r\n"),
            ("EHLO me.test\r\n", "250-front.test\r\n250 STARTTLS\r\n"),
            ("MAIL FROM:<a@b.test>\r\n", required),
            ("STARTTLS\r\n", "220 2.0.0 Ready to start TLS\r\n"),
        ],
    );
    check(
        "imap",
        IMAP,
        &[
            ("", "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] front.test ready\r\n"),
            ("a LOGIN ann secret\r\n", "a NO [PRIVACYREQUIRED] Must issue STARTTLS first\r\n"),
            ("b STARTTLS\r\n", "b OK Begin TLS negotiation now\r\n"),
        ],
    );
    check(
        "pop3",
        POP3,
        &[
            ("", "+OK front.test ready\r\n"),
            ("CAPA\r\n", "+OK Capability list follows\r\nSTLS\r\n.\r\n"),
            ("USER ann\r\n", "-ERR Must issue STLS first\r\n"),
            ("STLS\r\n", "+OK Begin TLS negotiation\r\n"),
        ],
    );
}

#[test]
fn mail_that_goes_wrong_is_told_so() {
    let check = |protocol: &str, keys: &str, send: &str, ending: &str, reason: &str| {
        let backend = ScriptedServer::start("one", &[]);
        let keys = format!("protocol = \"{protocol}\"\nunmatched = \"p\"\n{keys}");
        check_refused(&proxy(&keys, &[&backend]), &[send.as_bytes()], ending.as_bytes(), reason);
    };
    for (protocol, start, word) in [
        ("smtp", "STARTTLS\r\n", "554 "),
        ("imap", "a STARTTLS\r\n", "* BYE "),
        ("pop3", "STLS\r\n", "-ERR "),
    ] {
        check(protocol, "", &format!("{start}EHLO evil\r\n"), word, "pipelined_before_tls");
    }
    for (protocol, word) in [("smtp", "421 4.4.2 "), ("imap", "* BYE "), ("pop3", "-ERR ")] {
        check(protocol, "first_byte_timeout = \"100ms\"", "", word, "first_byte_timeout");
        check(protocol, "first_byte_timeout = \"100ms\"", "a NOOP\r\n", word, "opening_timeout");
        check(protocol, "hello_timeout = \"100ms\"", "a", word, "opening_timeout");
        check(protocol, "", &"x\r\n".repeat(20), "too many commands", "too_many_commands");
        check(protocol, "", &"x".repeat(5000), "line too long", "opening_malformed");
        check(protocol, "", "\x16\x03\x01", "", "opening_malformed");
    }
    check("smtp", "", "QUIT\r\n", "221 ", "left_before_tls");
    check("imap", "", "a LOGOUT\r\n", "a OK", "left_before_tls");
    check("pop3", "", "QUIT\r\n", "+OK bye", "left_before_tls");
}

#[test]
fn a_mail_backend_that_is_not_ready_is_passed_over() {
    let good = ScriptedServer::start("good", SMTP);
    let busy = ScriptedServer::start("busy", &[(b"421 busy\r\n", b"")]);
    let bare = ScriptedServer::start("bare", &[(b"220 b\r\n", b"EHLO front.test\r\n"), (b"250 b\r\n", b"")]);
    let keys = "protocol = \"smtp\"\nhostname = \"front.test\"\nunmatched = \"p\"";
    let hello = hello(b"good.example");
    let proxy = proxy(keys, &[&busy, &bare, &good]);
    let mut client = proxy.connect();
    expect_bytes(&client, b"220 front.test ESMTP\r\n");
    exchange(&mut client, b"STARTTLS\r\n", b"220 2.0.0 Ready to start TLS\r\n");
    exchange(&mut client, &hello, b"good");
    assert!(good.received() == hello);
    let proxy = self::proxy(keys, &[&busy, &bare]);
    check_refused(&proxy, &[b"", b"STARTTLS\r\n", &hello], INTERNAL_ERROR, "backend_refused_tls");
}

/// Starts a listener that detects protocols, and the servers of each.
fn auto(keys: &str) -> (Proxy, [ScriptedServer; 5]) {
    let names = ["tls", "ssh", "http", "postgres", "other"];
    let backends = names.map(|name| ScriptedServer::start(name, &[]));
    let pools: String = backends.iter().zip(names).fold(String::new(), |pools, (backend, name)| {
        pools + &format!("[pool.{name}]\nbackends = [{}]\nhealth.check = \"off\"\n", backend.address())
    });
    let proxy = Proxy::start(config(&format!(
        "workers = 2\naccess_log.to = \"off\"\n[listener.main]\nbind = \"127.0.0.1:0\"\nprotocol = \"auto\"\n{keys}\n{pools}"
    )));
    (proxy, backends)
}

#[test]
fn protocols_on_one_port_are_told_apart() {
    let (proxy, backends) = auto(
        "routes = [{ sni = \"good.example\", pool = \"tls\" }]\n\
         detect = { ssh = \"ssh\", http = \"http\", postgres = \"postgres\", other = \"other\" }",
    );
    let firsts: [&[u8]; 5] =
        [&hello(b"good.example"), b"SSH-2.0-test\r\n", b"GET / HTTP/1.1\r\n\r\n", SSL, b"EHLO a\r\n"];
    for ((backend, bytes), name) in
        backends.iter().zip(firsts).zip(["tls", "ssh", "http", "postgres", "other"])
    {
        exchange(&mut proxy.connect(), bytes, name.as_bytes());
        assert!(backend.received() == bytes, "{name}");
        let mut client = patient(proxy.connect());
        for byte in bytes {
            client.write_all(&[*byte]).unwrap();
        }
        expect_bytes(&client, name.as_bytes());
        drop(client);
        assert!(bytes.starts_with(&backend.received()), "{name}");
    }
    check_refused(&proxy, &[&hello(b"bad.example")], UNRECOGNIZED, "unmatched_sni");
}

#[test]
fn who_waits_for_the_server_gets_one() {
    let (proxy, [_, ssh, ..]) = auto(
        "detect = { on_timeout = \"ssh\", timeout = \"50ms\", postgres = \"postgres\" }\nunmatched = \"tls\"",
    );
    let mut client = proxy.connect();
    // The backend is connected while the client is silent. Later bytes are relayed.
    proxy.wait_for_metric(r#"pointsman_connect_attempts_total{pool="ssh",outcome="ok"}"#, 1.0);
    exchange(&mut client, b"late", b"ssh");
    assert_eq!(ssh.received(), b"late");
    drop(client);
    let (proxy, _) = auto("first_byte_timeout = \"50ms\"\nunmatched = \"tls\"");
    let client = proxy.connect();
    proxy.wait_for_metric(&closed("first_byte_timeout"), 1.0);
    drop(client);
}

#[test]
fn protocols_without_a_pool_are_refused_in_their_words() {
    let (proxy, _) = auto("unmatched = \"tls\"");
    check_refused(&proxy, &[b"GET / HTTP/1.1\r\n\r\n"], b"HTTP/1.1 400 ", "unknown_protocol");
    check_refused(&proxy, &[SSL], b"\0C08004\0", "unknown_protocol");
    let client = proxy.connect();
    (&client).write_all(b"SSH-2.0-x\r\n").unwrap();
    proxy.wait_for_metric(&closed("unknown_protocol"), 3.0);
    drop(client);
    let client = proxy.connect();
    (&client).write_all(b"SSL").unwrap();
    proxy.wait_for_metric(&closed("unknown_protocol"), 4.0);
    drop(client);
    let client = proxy.connect();
    (&client).write_all(b"SS").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    expect_end(&client);
    proxy.wait_for_metric(&closed("hello_truncated"), 1.0);
    check_http_length(&proxy);
}

/// The refusal of a plain request has the length that its header says.
#[track_caller]
fn check_http_length(proxy: &Proxy) {
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&mut client)).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{answer}");
}

/// Returns a client of a listener that trusts PROXY headers, after it has sent this header.
fn announced(proxy: &Proxy, header: &[u8]) -> TcpStream {
    let mut client = proxy.connect();
    client.write_all(header).unwrap();
    client
}

#[test]
fn the_wait_for_a_silent_client_begins_behind_its_header() {
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let (proxy, [_, _, http, ..]) = auto(
        "detect = { on_timeout = \"ssh\", timeout = \"2s\", http = \"http\" }\n\
         proxy_protocol = { trusted = \"127.0.0.0/8\" }",
    );
    let mut late = proxy.connect();
    let silent = announced(&proxy, header);
    // By then the first client has waited as long too, and none of its bytes have been read.
    proxy.wait_for_metric(r#"pointsman_connect_attempts_total{pool="ssh",outcome="ok"}"#, 1.0);
    late.write_all(header).unwrap();
    proxy.wait_for_metric(r#"pointsman_proxy_headers_total{listener="main",outcome="v1"}"#, 2.0);
    late.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(http.received().starts_with(b"GET "));
    drop(silent);
}

#[test]
fn a_header_that_nobody_believes_is_told_in_every_protocol() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let backend = ScriptedServer::start("b", &[]);
    for protocol in ["postgres", "smtp", "imap", "pop3", "auto"] {
        let proxy = self::proxy(&format!("protocol = \"{protocol}\"\nunmatched = \"p\""), &[&backend]);
        for (number, header) in [&v1[..], v2].into_iter().enumerate() {
            let client = announced(&proxy, header);
            proxy.wait_for_metric(&closed("proxy_unexpected"), number as f64 + 1.0);
            drop(client);
        }
        let counted = r#"pointsman_proxy_headers_total{listener="main",outcome="unexpected"}"#;
        assert_eq!(proxy.metric(counted), 2.0, "{protocol}");
    }
    // A second header, behind a trusted one, is unexpected too.
    let proxy = self::proxy(
        "protocol = \"smtp\"\nunmatched = \"p\"\nproxy_protocol = { trusted = \"127.0.0.0/8\" }",
        &[&backend],
    );
    let client = announced(&proxy, &[&v1[..], v1].concat());
    proxy.wait_for_metric(&closed("proxy_unexpected"), 1.0);
    drop(client);
}
