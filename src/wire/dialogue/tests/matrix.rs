//! Tests of each kind of check with the first answers of servers of all kinds: it is up only for its own.

use super::*;

/// Returns a script of each kind, with the settings that require the least. `tcp` has no script.
fn kinds() -> Vec<(&'static str, Script)> {
    vec![
        ("tls", Script::Tls { server_name: None }),
        ("http", http()),
        ("postgres", Script::Postgres { user: None }),
        ("postgres-user", Script::Postgres { user: user("u") }),
        ("mysql", Script::Mysql { user: None }),
        ("mysql-user", Script::Mysql { user: user("u") }),
        ("redis", Script::Redis),
        ("smtp", Script::Smtp),
        ("mqtt", Script::Mqtt),
        ("ssh", Script::Ssh),
        ("send-expect", script(&[expect(b"READY")])),
    ]
}

/// A server, its first answer, and the kinds of checks that are up with it.
const ANSWERS: &[(&str, &[u8], &[&str])] = &[
    ("OpenSSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", &["ssh"]),
    ("an SSH server of version 1", b"SSH-1.5-Cisco-1.25\n", &[]),
    ("Postfix", b"220 mail.example.com ESMTP Postfix\r\n", &["smtp"]),
    ("a busy mail server", b"421 4.3.2 too busy\r\n", &[]),
    // Its greeting is that of SMTP; only a longer dialogue could distinguish them.
    ("an FTP server", b"220 (vsFTPd 3.0.3)\r\n", &["smtp"]),
    ("Dovecot, IMAP", b"* OK [CAPABILITY IMAP4rev1] Dovecot ready.\r\n", &[]),
    ("Dovecot, POP3", b"+OK Dovecot ready.\r\n", &[]),
    ("a web server", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &["http"]),
    ("a web server that understands nothing", b"HTTP/1.1 400 Bad Request\r\n\r\n", &[]),
    ("a TLS server", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", &["tls"]),
    ("a TLS server that understands nothing", b"\x15\x03\x01\x00\x02\x02\x46", &[]),
    ("Redis", b"+PONG\r\n", &["redis"]),
    ("Redis with a password", b"-NOAUTH Authentication required.\r\n", &["redis"]),
    ("Redis that understands nothing", b"-ERR unknown command\r\n", &[]),
    ("PostgreSQL with TLS", b"S", &["postgres"]),
    ("PostgreSQL without TLS", b"N", &["postgres"]),
    ("PostgreSQL at a login", b"R\0\0\0\x08\0\0\0\x03", &["postgres-user"]),
    ("PostgreSQL that starts", b"E\0\0\0\x18SFATAL\0C57P03\0Mno\0\0", &[]),
    (
        "MariaDB",
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/answers/mariadb.bin")),
        &["mysql"],
    ),
    ("MariaDB that is full", b"\x17\0\0\0\xff\x10\x04Too many connections", &[]),
    ("mosquitto", b"\x20\x02\0\0", &["mqtt"]),
    ("a server with a word that begins with S", b"SERVER BUSY\r\n", &[]),
    ("a server with a word that begins with N", b"NO SERVICE\r\n", &[]),
    ("a server with a word that begins with R", b"RFB 003.008\n", &[]),
    ("a server with a word that begins with E", b"ERROR\r\n", &[]),
    ("a server with a text that begins with spaces", b"  \0\0welcome\r\n", &[]),
    ("a telnet server", b"\xff\xfd\x18\xff\xfd\x20\xff\xfd\x23", &[]),
    ("an AMQP server", b"AMQP\0\0\x09\x01", &[]),
    ("rsync", b"@RSYNCD: 31.0\n", &[]),
    ("NATS", b"INFO {\"server_id\":\"a\"}\r\n", &[]),
    ("a remote desktop", b"\x03\0\0\x13\x0e\xd0\0\0\x12\x34\0\x02\x1f\x08\0\x02\0\0\0", &[]),
    ("LDAP", b"0\x0c\x02\x01\x01a\x07\x0a\x01\0\x04\0\x04\0", &[]),
    ("a script", b"READY\n", &["send-expect"]),
];

#[test]
fn each_check_is_up_only_at_its_own_server() {
    let mut faults = Vec::new();
    for (server, answer, expected) in ANSWERS {
        let up: Vec<_> = kinds()
            .into_iter()
            .filter(|(_, script)| end(script, answer) == "alive")
            .map(|(kind, _)| kind)
            .collect();
        if up != *expected {
            faults.push(format!("{server}: up for {up:?}, not {expected:?}"));
        }
    }
    assert!(ANSWERS.len() >= 20);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A server that returns the bytes that it receives.
#[test]
fn an_echo_is_up_for_no_check() {
    for (kind, script) in kinds() {
        let request = sent(&script, b"");
        assert_ne!(end(&script, &request), "alive", "{kind}");
    }
}
