//! The protocol of first bytes: more bytes never change the result, few bytes are enough, and the result agrees with
//! the readers of the protocols.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::first_bytes::{ENOUGH, tell};
use pointsman::wire::opening::{OpeningOutcome, OpeningStep};
use pointsman::wire::{DetectedProtocol, HelloFault, HelloReader, Opening};

fuzz_target!(|bytes: &[u8]| {
    let protocol = pointsman_fuzz::read(bytes, &None, || tell);
    assert!(protocol.is_some() || bytes.len() < ENOUGH, "this number of bytes is enough");
    let hello = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(bytes);
    match protocol {
        Some(protocol) => assert_eq!(protocol == DetectedProtocol::Tls, hello != Err(HelloFault::NotTls)),
        None => assert_eq!(hello == Ok(None), bytes.is_empty() || bytes == [22]),
    }
    if protocol.is_some_and(|protocol| protocol != DetectedProtocol::Postgres) {
        assert!(!begins_as_postgres(bytes));
    }
});

/// Returns true if a PostgreSQL server would continue, except with TLS that begins without a request.
fn begins_as_postgres(bytes: &[u8]) -> bool {
    let mut server = Opening::postgres_host();
    server.receive(bytes);
    match server.go_on() {
        Ok(OpeningStep::Say(reply)) => *reply == *b"S" || *reply == *b"N",
        Ok(OpeningStep::Over(opened)) => opened != OpeningOutcome::DirectTls,
        Ok(OpeningStep::Read) | Err(_) => false,
    }
}
