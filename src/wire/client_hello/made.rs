//! Writes a ClientHello with a server name and protocols, to explain the route of a client that sends them.

use tls_parser::{TlsExtensionType, TlsHandshakeType, TlsRecordType};

use super::offer::TlsVersion;
use crate::wire::server_name::ServerName;

/// The only cipher suite: TLS_AES_128_GCM_SHA256.
const CIPHERS: [u8; 4] = [0, 2, 0x13, 0x01];

/// An empty session id, the cipher suites, and one compression method, "null".
const BEFORE_EXTENSIONS: usize = 2 + 32 + 1 + CIPHERS.len() + 2;

/// Returns one record with a hello that has this server name and offers these protocols by ALPN, and TLS 1.3 and 1.2.
/// Names of protocols that are empty or longer than 255 bytes are left out.
pub fn made_hello(name: Option<&ServerName>, alpn: &[&[u8]]) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let entry = [&[0], vector16(name.as_str().as_bytes()).as_slice()].concat();
        extensions.extend(extension(TlsExtensionType::ServerName, &vector16(&entry)));
    }
    let protocols: Vec<u8> = alpn.iter().filter_map(|protocol| vector8(protocol)).flatten().collect();
    if !protocols.is_empty() {
        let kind = TlsExtensionType::ApplicationLayerProtocolNegotiation;
        extensions.extend(extension(kind, &vector16(&protocols)));
    }
    let [v1_3, v1_2] = [TlsVersion::V1_3, TlsVersion::V1_2].map(|version| version.0.to_be_bytes());
    let versions = [&[4], v1_3.as_slice(), &v1_2].concat();
    extensions.extend(extension(TlsExtensionType::SupportedVersions, &versions));
    let mut body = Vec::with_capacity(BEFORE_EXTENSIONS + 2 + extensions.len());
    body.extend(v1_2);
    body.extend([0; 32]);
    body.push(0);
    body.extend(CIPHERS);
    body.extend([1, 0]);
    body.extend(vector16(&extensions));
    let message = [&[u8::from(TlsHandshakeType::ClientHello), 0], vector16(&body).as_slice()].concat();
    [&[TlsRecordType::Handshake.0, 3, 1], vector16(&message).as_slice()].concat()
}

fn extension(kind: TlsExtensionType, content: &[u8]) -> Vec<u8> {
    [&kind.0.to_be_bytes(), vector16(content).as_slice()].concat()
}

/// Returns a content behind its length in one byte; `None` for an empty content, or one that is too long.
fn vector8(content: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length > 0)?;
    Some([&[length], content].concat())
}

/// Returns a content behind its length in two bytes; a longer content is cut.
fn vector16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), &content[..usize::from(length)]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{HelloReader, Offer};

    fn check(name: Option<&str>, alpn: &[&[u8]], offered: &[&[u8]]) {
        let name: Option<ServerName> = name.map(|name| name.parse().unwrap());
        let raw = made_hello(name.as_ref(), alpn);
        let hello = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&raw).unwrap().expect("it is whole");
        assert_eq!(hello.server_name, name);
        let message = hello.message(&raw);
        let offer = Offer::of(&message).unwrap();
        assert_eq!(offer.alpn().collect::<Vec<_>>(), offered);
        assert_eq!(offer.versions().collect::<Vec<_>>(), [TlsVersion::V1_3, TlsVersion::V1_2]);
        assert!(!offer.ech());
    }

    #[test]
    fn a_made_hello_is_read_as_it_was_made() {
        check(None, &[], &[]);
        check(Some("db.example.com"), &[], &[]);
        check(Some("a"), &[b"h2", b"http/1.1"], &[b"h2", b"http/1.1"]);
        check(None, &[b"", b"h2", &[b'x'; 256], &[b'y'; 255]], &[b"h2", &[b'y'; 255]]);
        let longest = [["a"; 63].concat().as_str(); 3].join(".") + "." + &"b".repeat(61);
        check(Some(&longest), &[b"\x00\xff"], &[b"\x00\xff"]);
    }
}
