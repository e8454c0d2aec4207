//! What is said before TLS, by clients to each kind of server that we play and by backends to each kind of client:
//! how the bytes are cut changes nothing but whether something came in front of TLS, nothing is ever carried into
//! TLS, no more is held than is allowed, and what we say is well-formed whatever we heard.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::opening::{Fault, Greeting, Opened, Opening, Turn};
use pointsman::wire::{HelloFault, HelloReader, Starttls};
use pointsman_fuzz::{endlessly, pieces};

const MAIL: [Starttls; 3] = [Starttls::Smtp, Starttls::Imap, Starttls::Pop3];

/// More than any client may say before it is sent away: its commands, each as long as it may be.
const MORE_THAN_ENOUGH: usize = 40 * 1024;

/// More than we ever say before TLS.
const LONGEST_SAID: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    check(bytes, Opening::postgres_host, are_postgres);
    for protocol in MAIL {
        check(bytes, || Opening::starttls_host(protocol, "mx.test".into()), are_lines);
        let greeting = Greeting::Starttls { protocol, name: "mx.test".into() };
        check(bytes, || Opening::guest(&greeting), are_lines);
    }
    check(bytes, || Opening::guest(&Greeting::Postgres), |said| said == [0, 0, 0, 8, 4, 210, 22, 47]);

    // It takes longer than the rest, so not all that are endless are tried with all.
    if let Some(first) = bytes.first() {
        let host = match MAIL.get(usize::from(*first) % 4) {
            Some(protocol) => Opening::starttls_host(*protocol, "mx.test".into()),
            None => Opening::postgres_host(),
        };
        let endless = endlessly(bytes, MORE_THAN_ENOUGH);
        assert_ne!(run(host, [&endless[..]]).1, End::Waits, "it must come to an end");
    }
});

#[derive(Debug, PartialEq)]
enum End {
    /// The peer would have to say more.
    Waits,
    Over(Opened),
    Failed(Fault),
}

fn check(bytes: &[u8], opening: impl Fn() -> Opening, is_well_formed: impl Fn(&[u8]) -> bool) {
    let (said, end) = run(opening(), [bytes]);
    for (other_said, other_end) in [run(opening(), bytes.chunks(1)), run(opening(), pieces(bytes))] {
        // What stands behind the request for TLS comes too early in one piece, and in time in several.
        let both = [&end, &other_end];
        if !both.contains(&&End::Failed(Fault::Pipelined)) {
            assert_eq!((&other_said, &other_end), (&said, &end));
        }
        assert!(is_well_formed(&other_said), "{}", other_said.escape_ascii());
    }
    assert!(is_well_formed(&said), "{}", said.escape_ascii());
    assert!(said.len() <= LONGEST_SAID);
}

/// All that is said to a peer that says these pieces, and the end.
fn run<'a>(mut opening: Opening, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, End) {
    let mut said = Vec::new();
    let mut pieces = pieces.into_iter();
    let mut rest: &[u8] = &[];
    let end = loop {
        match opening.go_on() {
            Ok(Turn::Say(words)) => {
                assert!(!words.is_empty());
                said.extend_from_slice(&words);
            }
            Ok(Turn::Read) => {
                while rest.is_empty() {
                    match pieces.next() {
                        Some(next) => rest = next,
                        None => return (said, End::Waits),
                    }
                }
                let (now, later) = rest.split_at(rest.len().min(opening.room()));
                assert!(!now.is_empty(), "a read without room");
                opening.hear(now);
                rest = later;
            }
            Ok(Turn::Over(opened)) => {
                assert_eq!(opening.go_on(), Ok(Turn::Over(opened.clone())), "the end stays the end");
                check_end(&opening, &opened);
                break End::Over(opened);
            }
            Err(fault) => {
                assert_eq!(opening.go_on(), Err(fault));
                break End::Failed(fault);
            }
        }
        assert!(opening.heard().len() <= opening.most());
    };
    (said, end)
}

fn check_end(opening: &Opening, opened: &Opened) {
    match opened {
        Opened::Tls => assert_eq!(opening.heard(), b"", "nothing is carried into TLS"),
        Opened::DirectTls => {
            assert_eq!(opening.heard()[0], 22);
            let answer = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&opening.heard()[..1]);
            assert_ne!(answer, Err(HelloFault::NotTls));
        }
        Opened::Plaintext(startup) => {
            assert!(!startup.user.is_empty() && !startup.database.is_empty());
            assert!(!startup.user.contains(&0) && !startup.database.contains(&0));
        }
        Opened::Cancel => assert!(opening.heard().len() >= 16),
    }
}

/// Whole lines of printable ASCII: no word of a peer's can end one of them or begin another.
fn are_lines(said: &[u8]) -> bool {
    let Some(lines) = said.strip_suffix(b"\r\n") else { return said.is_empty() };
    let text = String::from_utf8_lossy(lines);
    text.split("\r\n").all(|line| !line.is_empty() && line.bytes().all(|byte| matches!(byte, 0x20..=0x7e)))
}

/// The answers to requests for encryption, then at most one whole ErrorResponse.
fn are_postgres(said: &[u8]) -> bool {
    let answers = said.iter().take_while(|byte| b"SN".contains(byte)).count();
    let error = &said[answers..];
    let length = || u32::from_be_bytes([error[1], error[2], error[3], error[4]]) as usize;
    answers <= 2
        && (error.is_empty() || (error[0] == b'E' && error.len() == 1 + length() && error.ends_with(&[0, 0])))
}
