//! ClientHellos of hostile clients. The result does not depend on how the bytes are cut into segments or
//! records. It is known within the bounds. No backend reads another name than we do.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use pointsman::route::condition::Ja4Pattern;
use pointsman::wire::{ClientHello, HelloFault, HelloReader, Ja4, Offer, ServerName};
use pointsman_fuzz::{endlessly, pieces};
use rustls::server::Acceptor;

/// A limit that inputs of the fuzzer exceed.
const SMALL: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let answer = read(HelloReader::DEFAULT_MAX_SIZE, bytes);
    let strict = read(SMALL, bytes);
    assert!(strict == answer || strict == Err(HelloFault::TooLarge), "{strict:?}");
    if !bytes.is_empty() {
        let mut reader = HelloReader::new(SMALL);
        let endless = endlessly(bytes, reader.max_raw());
        assert_ne!(reader.read(&endless), Ok(None), "it must come to an end");
    }
    if let Ok(Some(hello)) = answer {
        check(&hello, bytes);
    }
});

fn read(max_size: usize, bytes: &[u8]) -> Result<Option<ClientHello>, HelloFault> {
    pointsman_fuzz::read(bytes, &Ok(None), || {
        let mut reader = HelloReader::new(max_size);
        move |bytes: &[u8]| {
            let answer = reader.read(bytes);
            let sent = reader.sent_name(bytes);
            match &answer {
                Ok(Some(hello)) => {
                    let folded = sent.map(|name| ServerName::from_client(&name));
                    assert_eq!(folded.transpose().as_ref(), Ok(&hello.server_name));
                }
                Err(HelloFault::BadName(fault)) => {
                    assert_eq!(sent.map(|name| ServerName::from_client(&name)), Some(Err(*fault)));
                }
                Ok(None) | Err(_) => assert_eq!(sent, None),
            }
            answer
        }
    })
}

fn check(hello: &ClientHello, bytes: &[u8]) {
    assert!(hello.size <= HelloReader::DEFAULT_MAX_SIZE && hello.records >= 1);
    let message = hello.message(bytes);
    assert_eq!(message.len(), hello.size);
    check_records(hello, &message);

    let offer = Offer::of(&message).expect("the reader found nothing malformed");
    let text = Ja4::of(&offer).to_string();
    assert!(text.parse::<Ja4Pattern>().is_ok(), "a fingerprint in the log is valid in a route: {text}");
    let other = reverse_extensions(&message);
    let other = Offer::of(&other).expect("the order makes nothing malformed");
    assert_eq!(Ja4::of(&other).to_string(), text, "the order of extensions does not count");
    assert_eq!(other.ech(), offer.ech());
    assert!(other.alpn().eq(offer.alpn()) && other.versions().eq(offer.versions()));
    compare(hello, &offer, bytes);
}

/// Checks that the result does not depend on how the message is cut into records.
fn check_records(hello: &ClientHello, message: &[u8]) {
    let mut raw = Vec::new();
    let mut records = 0;
    for fragment in pieces(message) {
        raw.extend([22, 3, 1]);
        raw.extend((fragment.len() as u16).to_be_bytes());
        raw.extend(fragment);
        records += 1;
    }
    let again = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&raw);
    let expected = ClientHello { records, ..hello.clone() };
    assert_eq!(again, Ok(Some(expected.clone())));
    assert_eq!(&*expected.message(&raw), message);
}

/// Returns the message with its extensions in reverse order.
fn reverse_extensions(message: &[u8]) -> Vec<u8> {
    let vector8 = |at: usize| at + 1 + usize::from(message[at]);
    let vector16 = |at: usize| at + 2 + usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    // Header, version and random; session id, cipher suites, compression methods.
    let mut start = vector8(vector16(vector8(4 + 2 + 32)));
    if start == message.len() {
        return message.to_vec();
    }
    start += 2;
    let mut extensions = Vec::new();
    let mut at = start;
    while at < message.len() {
        let end = vector16(at + 2);
        extensions.push(&message[at..end]);
        at = end;
    }
    let kinds: HashSet<_> = extensions.iter().map(|extension| &extension[..2]).collect();
    assert_eq!(kinds.len(), extensions.len(), "no extension occurs twice");
    extensions.push(&message[..start]);
    extensions.reverse();
    extensions.concat()
}

/// Compares the result with that of rustls, an independent reader.
fn compare(hello: &ClientHello, offer: &Offer<'_>, bytes: &[u8]) {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello();
                let name = theirs.server_name().map(|name| ServerName::from_client(name.as_bytes()));
                assert_eq!(name.transpose(), Ok(hello.server_name.clone()));
                let protocols: Vec<_> = theirs.alpn().into_iter().flatten().collect();
                assert_eq!(offer.alpn().collect::<Vec<_>>(), protocols);
                return;
            }
            Err(_) => return,
        }
    }
}
