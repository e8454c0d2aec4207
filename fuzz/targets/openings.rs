//! Openings in every role: the server of a client, and the client of a backend. The cuts of the bytes change only
//! whether bytes after a request for TLS are refused. No byte is carried into TLS, no more bytes are held than allowed,
//! and the replies are well-formed for any input.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::opening::{BackendGreeting, Opening, OpeningFault, OpeningOutcome, OpeningStep};
use pointsman::wire::{HelloFault, HelloReader, Starttls};
use pointsman_fuzz::{endlessly, pieces};

const MAIL: [Starttls; 3] = [Starttls::Smtp, Starttls::Imap, Starttls::Pop3];

/// More bytes than any client may send before it is refused: the most commands, each of the largest length.
const MORE_THAN_ENOUGH: usize = 40 * 1024;

/// More bytes than we ever send before TLS.
const LONGEST_SENT: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    check(bytes, Opening::postgres_host, are_postgres);
    for protocol in MAIL {
        check(bytes, || Opening::starttls_host(protocol, "mx.test".into()), are_lines);
        let greeting = BackendGreeting::Starttls { protocol, name: "mx.test".into() };
        check(bytes, || Opening::client_role(&greeting), are_lines);
    }
    check(
        bytes,
        || Opening::client_role(&BackendGreeting::Postgres),
        |sent| sent == [0, 0, 0, 8, 4, 210, 22, 47],
    );

    // Endless input takes longer than the rest, so it is tried with one role only.
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
    /// The opening waits for bytes of the peer.
    Waits,
    Over(OpeningOutcome),
    Failed(OpeningFault),
}

fn check(bytes: &[u8], opening: impl Fn() -> Opening, is_well_formed: impl Fn(&[u8]) -> bool) {
    let (sent, end) = run(opening(), [bytes]);
    for (other_sent, other_end) in [run(opening(), bytes.chunks(1)), run(opening(), pieces(bytes))] {
        // Bytes after the request for TLS are refused in one piece, and may arrive in time in several pieces.
        let both = [&end, &other_end];
        if !both.contains(&&End::Failed(OpeningFault::Pipelined)) {
            assert_eq!((&other_sent, &other_end), (&sent, &end));
        }
        assert!(is_well_formed(&other_sent), "{}", other_sent.escape_ascii());
    }
    assert!(is_well_formed(&sent), "{}", sent.escape_ascii());
    assert!(sent.len() <= LONGEST_SENT);
}

/// Runs an opening with a peer that sends these pieces; returns all that was sent to the peer, and the end.
fn run<'a>(mut opening: Opening, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, End) {
    let mut sent = Vec::new();
    let mut pieces = pieces.into_iter();
    let mut rest: &[u8] = &[];
    let end = loop {
        match opening.go_on() {
            Ok(OpeningStep::Say(reply)) => {
                assert!(!reply.is_empty());
                sent.extend_from_slice(&reply);
            }
            Ok(OpeningStep::Read) => {
                while rest.is_empty() {
                    match pieces.next() {
                        Some(next) => rest = next,
                        None => return (sent, End::Waits),
                    }
                }
                let (now, later) = rest.split_at(rest.len().min(opening.room()));
                assert!(!now.is_empty(), "a read without room");
                opening.receive(now);
                rest = later;
            }
            Ok(OpeningStep::Over(opened)) => {
                assert_eq!(opening.go_on(), Ok(OpeningStep::Over(opened.clone())), "the end stays the end");
                check_end(&opening, &opened);
                break End::Over(opened);
            }
            Err(fault) => {
                assert_eq!(opening.go_on(), Err(fault));
                break End::Failed(fault);
            }
        }
        assert!(opening.received().len() <= opening.most());
    };
    (sent, end)
}

fn check_end(opening: &Opening, opened: &OpeningOutcome) {
    match opened {
        OpeningOutcome::Tls => assert_eq!(opening.received(), b"", "nothing is carried into TLS"),
        OpeningOutcome::DirectTls => {
            assert_eq!(opening.received()[0], 22);
            let answer = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&opening.received()[..1]);
            assert_ne!(answer, Err(HelloFault::NotTls));
        }
        OpeningOutcome::Plaintext(startup) => {
            assert!(!startup.user.is_empty() && !startup.database.is_empty());
            assert!(!startup.user.contains(&0) && !startup.database.contains(&0));
        }
        OpeningOutcome::Cancel => assert!(opening.received().len() >= 16),
        OpeningOutcome::Tunnel(request) => panic!("no opening of these is for a tunnel: {request:?}"),
    }
}

/// Returns true for whole lines of printable ASCII: no input of a peer can end or begin a line.
fn are_lines(sent: &[u8]) -> bool {
    let Some(lines) = sent.strip_suffix(b"\r\n") else { return sent.is_empty() };
    let text = String::from_utf8_lossy(lines);
    text.split("\r\n").all(|line| !line.is_empty() && line.bytes().all(|byte| matches!(byte, 0x20..=0x7e)))
}

/// Returns true for answers to requests for encryption, followed by at most one whole ErrorResponse.
fn are_postgres(sent: &[u8]) -> bool {
    let answers = sent.iter().take_while(|byte| b"SN".contains(byte)).count();
    let error = &sent[answers..];
    let length = || u32::from_be_bytes([error[1], error[2], error[3], error[4]]) as usize;
    answers <= 2
        && (error.is_empty() || (error[0] == b'E' && error.len() == 1 + length() && error.ends_with(&[0, 0])))
}
