//! Tests of every protocol in both roles, with the bytes cut in several ways.

use proptest::prelude::*;

use super::*;
use crate::wire::opening::testing::run;
use crate::wire::opening::{BackendGreeting, Opening};

const ALL: [Starttls; 3] = [Starttls::Smtp, Starttls::Imap, Starttls::Pop3];

fn host(protocol: Starttls) -> Opening {
    Opening::starttls_host(protocol, "mx.test".into())
}

fn client_role(protocol: Starttls) -> Opening {
    Opening::client_role(&BackendGreeting::Starttls { protocol, name: "mx.test".into() })
}

/// `sent` is the text after the greeting.
#[track_caller]
fn check_host(protocol: Starttls, bytes: impl AsRef<[u8]>, sent: &str, end: &str) {
    let greeting = run(host(protocol), b"", 1).0;
    for piece in [usize::MAX, 7, 1] {
        // In small pieces the bytes after a request for TLS arrive too late to be refused.
        let (received, found) = run(host(protocol), bytes.as_ref(), piece);
        assert_eq!((&received[greeting.len()..], found.as_str()), (sent, end), "pieces of {piece}");
    }
}

#[track_caller]
fn check_guest(protocol: Starttls, bytes: impl AsRef<[u8]>, sent: &str, end: &str) {
    for piece in [usize::MAX, 7, 1] {
        let (received, found) = run(client_role(protocol), bytes.as_ref(), piece);
        assert_eq!((received.as_str(), found.as_str()), (sent, end), "pieces of {piece}");
    }
}

#[test]
fn smtp_offers_starttls_alone() {
    let check = |bytes: &str, sent: &str, end: &str| check_host(Starttls::Smtp, bytes, sent, end);
    assert_eq!(run(host(Starttls::Smtp), b"", 1).0, "220 mx.test ESMTP\r\n");
    let ready = "220 2.0.0 Ready to start TLS\r\n";
    check("STARTTLS\r\n", ready, "Tls");
    check("starttls\n", ready, "Tls");
    check("STARTTLS \r\n", ready, "Tls");
    check("EHLO me\r\nSTARTTLS\r\n", &format!("250-mx.test\r\n250 STARTTLS\r\n{ready}"), "Tls");
    check("HELO me\r\nSTARTTLS\r\n", &format!("250 mx.test\r\n{ready}"), "Tls");
    check("NOOP\r\nRSET\r\n", "250 2.0.0 OK\r\n250 2.0.0 OK\r\n", "more");
    check("STARTTLS now\r\n", "501 5.5.4 STARTTLS takes no parameters\r\n", "more");
    check("QUIT\r\n", "221 2.0.0 mx.test closing connection\r\n", "Quit");
    for command in ["MAIL FROM:<a@b>", "AUTH PLAIN xx", "VRFY a", "", "\0\u{ff}", "STARTTLSX", "EHLO\tx"] {
        check(&format!("{command}\r\n"), "530 5.7.0 Must issue a STARTTLS command first\r\n", "more");
    }
}

#[test]
fn imap_offers_starttls_alone() {
    let check = |bytes: &str, sent: &str, end: &str| check_host(Starttls::Imap, bytes, sent, end);
    let capabilities = "IMAP4rev1 STARTTLS LOGINDISABLED";
    assert_eq!(
        run(host(Starttls::Imap), b"", 1).0,
        format!("* OK [CAPABILITY {capabilities}] mx.test ready\r\n")
    );
    check("a1 STARTTLS\r\n", "a1 OK Begin TLS negotiation now\r\n", "Tls");
    check("a1 starttls \n", "a1 OK Begin TLS negotiation now\r\n", "Tls");
    check(
        "A CAPABILITY\r\n",
        &format!("* CAPABILITY {capabilities}\r\nA OK CAPABILITY completed\r\n"),
        "more",
    );
    check("1 NOOP\r\n", "1 OK NOOP completed\r\n", "more");
    check("1 LOGOUT\r\n", "* BYE logging out\r\n1 OK LOGOUT completed\r\n", "Quit");
    for command in ["LOGIN a b", "AUTHENTICATE PLAIN", "ID NIL", "STARTTLS x", "SELECT inbox"] {
        check(&format!("x {command}\r\n"), "x NO [PRIVACYREQUIRED] Must issue STARTTLS first\r\n", "more");
    }
    check("x\r\nx \r\n", "x BAD a command is missing\r\nx BAD a command is missing\r\n", "more");
    let long = "t".repeat(65);
    for tag in ["", "*", "+", "a%b", "\u{fc}", "\x07", &long] {
        check(&format!("{tag} STARTTLS\r\n"), "* BAD a command begins with its tag\r\n", "more");
    }
}

#[test]
fn pop3_offers_stls_alone() {
    let check = |bytes: &str, sent: &str, end: &str| check_host(Starttls::Pop3, bytes, sent, end);
    assert_eq!(run(host(Starttls::Pop3), b"", 1).0, "+OK mx.test ready\r\n");
    check("STLS\r\n", "+OK Begin TLS negotiation\r\n", "Tls");
    check(
        "CAPA\r\nstls\r\n",
        "+OK Capability list follows\r\nSTLS\r\n.\r\n+OK Begin TLS negotiation\r\n",
        "Tls",
    );
    check("QUIT\r\n", "+OK bye\r\n", "Quit");
    for command in ["USER a", "PASS b", "APOP a b", "AUTH", "STLS x", "", "STAT"] {
        check(&format!("{command}\r\n"), "-ERR Must issue STLS first\r\n", "more");
    }
}

#[test]
fn nothing_is_carried_into_tls() {
    let check = |protocol, bytes: &str, reply: &str| {
        let (sent, end) = run(host(protocol), bytes.as_bytes(), usize::MAX);
        assert_eq!(end, "Pipelined", "{bytes}");
        assert!(sent.ends_with(reply), "{sent}");
        assert!(!sent.contains("Ready") && !sent.contains("Begin"), "TLS was granted: {sent}");
    };
    for behind in ["\r", "\n", "MAIL FROM:<evil@test>\r\n", "\x16\x03\x01"] {
        let reason = "nothing may be sent after the request for TLS\r\n";
        check(Starttls::Smtp, &format!("EHLO a\r\nSTARTTLS\r\n{behind}"), &format!("554 5.5.0 {reason}"));
        check(Starttls::Imap, &format!("a STARTTLS\r\n{behind}"), &format!("* BYE {reason}"));
        check(Starttls::Pop3, &format!("STLS\r\n{behind}"), &format!("-ERR {reason}"));
    }
}

/// A client that begins with TLS on a port where it must send a command first.
#[test]
fn a_bare_hello_is_no_command() {
    for protocol in ALL {
        for hello in ["\x16", "\x16\x03\x01", "\x16\x03\x01\x02\0\n\r\nSTARTTLS\r\n"] {
            check_host(protocol, hello, "", "Malformed");
        }
        check_host(protocol, "x\x16\x03", "", "more");
    }
    check_host(Starttls::Smtp, "NOOP\r\n\x16", "250 2.0.0 OK\r\n", "Malformed");
}

#[test]
fn clients_are_bounded() {
    for protocol in ALL {
        let most = "NOOP\r\n".repeat(MOST_COMMANDS as usize);
        assert_eq!(run(host(protocol), most.as_bytes(), 5).1, "more");
        let (sent, end) = run(host(protocol), format!("{most}STARTTLS\r\n").as_bytes(), 5);
        assert_eq!(end, "TooMany");
        assert!(sent.ends_with("too many commands before STARTTLS\r\n"), "{sent}");
        let long = [b'x'; LONGEST_COMMAND];
        assert_eq!(run(host(protocol), &long[1..], 100).1, "more");
        let (sent, end) = run(host(protocol), &long, 100);
        assert_eq!(end, "TooLong");
        assert!(sent.ends_with("line too long\r\n"), "{sent}");
    }
}

#[test]
fn last_words_are_in_the_protocol() {
    let check = |protocol, farewell, expected: &str| {
        assert_eq!(host(protocol).farewell(farewell), expected.as_bytes());
    };
    check(Starttls::Smtp, Farewell::Timeout, "421 4.4.2 mx.test waited too long for STARTTLS\r\n");
    check(Starttls::Smtp, Farewell::Busy, "421 4.3.2 mx.test too busy, try again later\r\n");
    check(Starttls::Imap, Farewell::Timeout, "* BYE waited too long for STARTTLS\r\n");
    check(Starttls::Pop3, Farewell::Timeout, "-ERR waited too long for STARTTLS\r\n");
}

const SMTP_SENT: &str = "EHLO mx.test\r\nSTARTTLS\r\n";

#[test]
fn smtp_backends_are_led_to_tls() {
    let check = |bytes: &str, sent: &str, end: &str| check_guest(Starttls::Smtp, bytes, sent, end);
    check("220 a\r\n250-a\r\n250-SIZE 1\r\n250-STARTTLS\r\n250 HELP\r\n220 go\r\n", SMTP_SENT, "Tls");
    check("220-a\r\n220 b\r\n250 starttls\r\n220\r\n", SMTP_SENT, "Tls");
    check("220 a\n250 STARTTLS\n220 go\n", SMTP_SENT, "Tls");
    check("220 a\r\n250-a\r\n250 HELP\r\n", "EHLO mx.test\r\n", "Refused");
    check("220 a\r\n250-a\r\n250 STARTTLSX\r\n", "EHLO mx.test\r\n", "Refused");
    check("220 a\r\n250 STARTTLS\r\n454 not now\r\n", SMTP_SENT, "Refused");
    check("220 a\r\n502 what\r\n", "EHLO mx.test\r\n", "Unexpected");
    for greeting in
        ["421 busy\r\n", "554 no\r\n", "SSH-2.0", "22x", "220x\r\n", "220-a\r\n221 b\r\n", "22\r\n", "\r\n"]
    {
        check(greeting, "", "Unexpected");
    }
    check("220 a\r\n250 STARTTLS\r\n22", SMTP_SENT, "more");
}

#[test]
fn imap_backends_are_led_to_tls() {
    let check = |bytes: &str, sent: &str, end: &str| check_guest(Starttls::Imap, bytes, sent, end);
    check("* OK hi\r\np1 OK go\r\n", STARTTLS_SENT, "Tls");
    check(
        "* ok [CAPABILITY IMAP4rev1] hi\r\n* CAPABILITY x\r\n* 3 EXISTS\r\nP1 OK\r\n",
        STARTTLS_SENT,
        "Unexpected",
    );
    check("* OK hi\r\n* CAPABILITY x\r\np1 ok\r\n", STARTTLS_SENT, "Tls");
    check("* OK hi\r\np1 NO not now\r\n", STARTTLS_SENT, "Refused");
    check("* OK hi\r\np1 BAD what\r\n", STARTTLS_SENT, "Refused");
    check("* OK hi\r\n* BYE\r\n", STARTTLS_SENT, "Unexpected");
    check("* OK hi\r\np2 OK\r\n", STARTTLS_SENT, "Unexpected");
    for greeting in ["* BYE\r\n", "* PREAUTH hi\r\n", "+OK\r\n", "p1 OK\r\n", "*\r\n"] {
        check(greeting, "", "Unexpected");
    }
}

const STARTTLS_SENT: &str = imap::STARTTLS;

#[test]
fn pop3_backends_are_led_to_tls() {
    let check = |bytes: &str, sent: &str, end: &str| check_guest(Starttls::Pop3, bytes, sent, end);
    check("+OK hi\r\n+OK go\r\n", "STLS\r\n", "Tls");
    check("+OK\r\n+OK\r\n", "STLS\r\n", "Tls");
    check("+OK hi\r\n-ERR no\r\n", "STLS\r\n", "Refused");
    for greeting in ["-ERR full\r\n", "220 x\r\n", "+OKAY\r\n"] {
        check(greeting, "", "Unexpected");
    }
}

#[test]
fn backends_carry_nothing_into_tls_and_are_bounded() {
    let check = |protocol, bytes: &str| {
        assert_eq!(run(client_role(protocol), bytes.as_bytes(), usize::MAX).1, "Pipelined");
    };
    check(Starttls::Smtp, "220 a\r\n250 STARTTLS\r\n220 go\r\nx");
    check(Starttls::Imap, "* OK\r\np1 OK\r\n* OK\r\n");
    check(Starttls::Pop3, "+OK\r\n+OK\r\n+");
    for (protocol, begin) in [(Starttls::Smtp, "220 "), (Starttls::Imap, "* "), (Starttls::Pop3, "+OK ")] {
        let endless = begin.to_owned() + &"x".repeat(LONGEST_ANSWER);
        assert_eq!(run(client_role(protocol), endless.as_bytes(), 1000).1, "TooLong");
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces(text in "(EHLO|a|STARTTLS|STLS|220|250|\\* OK|p1| |-|\r|\n|\r\n|.){0,60}", piece in 1..50_usize) {
        for protocol in ALL {
            let (sent, _) = run(host(protocol), text.as_bytes(), piece);
            prop_assert!(sent.len() < 4096);
            let (whole, pieces) = (run(client_role(protocol), text.as_bytes(), usize::MAX), run(client_role(protocol), text.as_bytes(), piece));
            // Bytes of a backend after its go-ahead are refused only if they come together with it.
            prop_assert!(whole == pieces || whole.1 == "Pipelined", "{whole:?} {pieces:?}");
        }
    }

    #[test]
    fn any_binary_in_any_pieces(bytes: Vec<u8>, piece in 1..50_usize) {
        for protocol in ALL {
            run(host(protocol), &bytes, piece);
            run(client_role(protocol), &bytes, piece);
        }
    }
}
