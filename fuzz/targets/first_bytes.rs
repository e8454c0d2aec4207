//! Which protocol the first bytes are of: more bytes never change the answer, few are enough for it, and it agrees
//! with the readers of those protocols.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::first_bytes::{ENOUGH, tell};
use pointsman::wire::opening::{Opened, Turn};
use pointsman::wire::{HelloFault, HelloReader, Opening, Spoken};

fuzz_target!(|bytes: &[u8]| {
    let told = pointsman_fuzz::read(bytes, &None, || tell);
    assert!(told.is_some() || bytes.len() < ENOUGH, "so many are enough");
    let hello = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(bytes);
    match told {
        Some(told) => assert_eq!(told == Spoken::Tls, hello != Err(HelloFault::NotTls)),
        None => assert_eq!(hello == Ok(None), bytes.is_empty() || bytes == [22]),
    }
    if told.is_some_and(|told| told != Spoken::Postgres) {
        assert!(!begins_as_postgres(bytes));
    }
});

/// Whether a PostgreSQL server would go on, not counting TLS without a word before it.
fn begins_as_postgres(bytes: &[u8]) -> bool {
    let mut server = Opening::postgres_host();
    server.hear(bytes);
    match server.go_on() {
        Ok(Turn::Say(words)) => *words == *b"S" || *words == *b"N",
        Ok(Turn::Over(opened)) => opened != Opened::DirectTls,
        Ok(Turn::Read) | Err(_) => false,
    }
}
