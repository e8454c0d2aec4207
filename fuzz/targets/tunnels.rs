//! Requests for tunnels, by SOCKS and by CONNECT, as a server. The cuts of the bytes change nothing: neither the answer nor
//! the target nor the bytes of the tunnel. The bytes behind a request belong to the tunnel, all of them and no others. A
//! head of a CONNECT has one reading only.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::opening::{Opening, OpeningFault, OpeningOutcome, OpeningStep};
use pointsman::wire::{RequestedHost, ServerName, TunnelProtocol, TunnelRequest, TunnelTarget};
use pointsman_fuzz::{endlessly, pieces};

/// More bytes than any request may have.
const MORE_THAN_ENOUGH: usize = 20 * 1024;

/// More bytes than we ever send before a tunnel.
const LONGEST_SENT: usize = 256;

const SERVERS: [fn() -> Opening; 3] =
    [|| Opening::socks_host(false), || Opening::socks_host(true), Opening::connect_host];

fuzz_target!(|bytes: &[u8]| {
    for server in SERVERS {
        let whole = run(server(), [bytes]);
        assert_eq!(run(server(), bytes.chunks(1)), whole);
        assert_eq!(run(server(), pieces(bytes)), whole);
        check(bytes, &whole);
    }
    if !bytes.is_empty() {
        let endless = endlessly(bytes, MORE_THAN_ENOUGH);
        for server in SERVERS {
            assert_ne!(run(server(), [&endless[..]]).end, End::Waits, "it must come to an end");
        }
    }
});

#[derive(Debug, PartialEq)]
struct Run {
    sent: Vec<u8>,
    end: End,
    /// The bytes of the tunnel.
    rest: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum End {
    /// The opening waits for bytes of the client.
    Waits,
    Tunnel(TunnelRequest),
    Failed(OpeningFault),
}

/// Runs an opening with a client that sends these pieces.
fn run<'a>(mut opening: Opening, pieces: impl IntoIterator<Item = &'a [u8]>) -> Run {
    let mut sent = Vec::new();
    let mut pieces = pieces.into_iter();
    let mut rest: &[u8] = &[];
    loop {
        match opening.go_on() {
            Ok(OpeningStep::Say(reply)) => {
                assert!(!reply.is_empty());
                sent.extend_from_slice(&reply);
            }
            Ok(OpeningStep::Read) => {
                while rest.is_empty() {
                    match pieces.next() {
                        Some(next) => rest = next,
                        None => return Run { sent, end: End::Waits, rest: Vec::new() },
                    }
                }
                let (now, later) = rest.split_at(rest.len().min(opening.room()));
                assert!(!now.is_empty(), "a read without room");
                opening.receive(now);
                rest = later;
            }
            Ok(OpeningStep::Over(OpeningOutcome::Tunnel(request))) => {
                let mut behind = opening.into_received();
                behind.extend_from_slice(rest);
                pieces.for_each(|piece| behind.extend_from_slice(piece));
                return Run { sent, end: End::Tunnel(request), rest: behind };
            }
            Ok(OpeningStep::Over(other)) => panic!("{other:?}"),
            Err(fault) => return Run { sent, end: End::Failed(fault), rest: Vec::new() },
        }
        assert!(opening.received().len() <= opening.most());
    }
}

fn check(bytes: &[u8], run: &Run) {
    assert!(run.sent.len() <= LONGEST_SENT);
    let End::Tunnel(TunnelRequest { target, protocol }) = &run.end else { return };
    assert!(bytes.ends_with(&run.rest));
    assert_ne!(target.port, 0);
    if let RequestedHost::Name(name) = &target.host {
        assert_eq!(ServerName::from_client(name.as_str().as_bytes()).as_ref(), Ok(name));
    }
    let request = &bytes[..bytes.len() - run.rest.len()];
    match protocol {
        TunnelProtocol::Socks5 => assert_eq!((request[0], &run.sent[..]), (5, &[5, 0][..])),
        TunnelProtocol::Socks4 => assert!(request[0] == 4 && run.sent.is_empty()),
        TunnelProtocol::Connect => {
            assert!(run.sent.is_empty());
            check_head(request, target);
        }
    }
}

/// Reads the head in the way of a lenient reader, which must find the same target.
fn check_head(head: &[u8], target: &TunnelTarget) {
    let end = head.windows(4).position(|part| part == b"\r\n\r\n").expect("an end");
    assert_eq!(end + 4, head.len(), "the head ends at the first empty line");
    let text = String::from_utf8_lossy(head).into_owned();
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    let mut lines = text.lines();
    let line: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert!(line.len() == 3 && line[0] == "CONNECT" && line[2].starts_with("HTTP/1."), "{line:?}");
    let (host, port) = line[1].rsplit_once(':').unwrap();
    assert_eq!(port.parse(), Ok(target.port));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    assert_eq!(RequestedHost::from_client(host.as_bytes()).as_ref(), Ok(&target.host));
    let names: Vec<String> =
        lines.filter_map(|line| Some(line.split_once(':')?.0.trim().to_ascii_lowercase())).collect();
    assert!(names.iter().filter(|name| *name == "host").count() <= 1, "{names:?}");
    assert!(!names.iter().any(|name| name == "transfer-encoding"), "{names:?}");
}
