//! The first bytes of clients, built or captured.

use std::fs;
use std::path::Path;

/// Returns a captured hello of `tests/fixtures/hello`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hello");
    fs::read(folder.join(name).with_extension("bin")).unwrap()
}

/// Returns one record with a hello that has a server name of any bytes.
pub(crate) fn hello(name: &[u8]) -> Vec<u8> {
    records(&message(&server_name(name)), &[])
}

/// Returns one record with a hello without a server name.
pub(crate) fn nameless() -> Vec<u8> {
    records(&message(&extension(0x2b, &[2, 3, 4])), &[])
}

/// Returns a handshake message of the type of a hello, with these extensions.
pub(crate) fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(vector(extensions));
    let mut message = vec![1, 0];
    message.extend(vector(&body));
    message
}

/// Returns a server name extension.
pub(crate) fn server_name(name: &[u8]) -> Vec<u8> {
    let entry = [&[0], vector(name).as_slice()].concat();
    extension(0, &vector(&entry))
}

pub(crate) fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), vector(content).as_slice()].concat()
}

/// Returns the content behind its length in two bytes.
fn vector(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&length.to_be_bytes(), content].concat()
}

/// Returns a handshake message in records with fragments of these lengths, and one record for the rest.
pub(crate) fn records(message: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut rest = message;
    for length in lengths.iter().copied().chain([rest.len()]) {
        let (fragment, next) = rest.split_at(length.min(rest.len()));
        if !fragment.is_empty() {
            raw.extend([22, 3, 1]);
            raw.extend(vector(fragment));
        }
        rest = next;
    }
    raw
}
