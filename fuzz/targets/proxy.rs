//! PROXY headers. The result does not depend on how the bytes are cut, and is known within the bounds. A
//! header that was read can be written and read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::proxy_protocol::{
    HeaderFault, HeaderOrigin, HeaderSearch, HeaderVersion, LONGEST_UNIQUE_ID, LONGEST_V1, LONGEST_V2,
    MOST_TLVS, OutgoingHeader, ProxyHeader, Tlv, begins_like_one, read,
};

fuzz_target!(|bytes: &[u8]| {
    let answer = pointsman_fuzz::read(bytes, &Ok(None), || read);
    match &answer {
        Ok(None) => {
            let most = if bytes.starts_with(b"PROXY ") { LONGEST_V1 } else { LONGEST_V2 };
            assert!(bytes.len() < most, "it must come to an end");
        }
        Ok(Some(HeaderSearch::Nothing)) => assert!(!begins_like_one(bytes)),
        Err(fault) => {
            assert!(begins_like_one(bytes));
            if is_local(bytes) {
                // Neither the family nor the content of the block is a reason to refuse LOCAL.
                assert!(matches!(fault, HeaderFault::TooLong | HeaderFault::Checksum), "{fault:?}");
            }
        }
        Ok(Some(HeaderSearch::Header(header, length))) => {
            assert!(begins_like_one(bytes) && *length <= bytes.len());
            check_bounds(header, *length);
            write_and_read(header, *length, &bytes[*length..]);
        }
    }
});

/// Returns true if bytes begin with a header of version 2 with the command LOCAL.
fn is_local(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'\r') && bytes.get(12) == Some(&0x20)
}

fn check_bounds(header: &ProxyHeader, length: usize) {
    assert!(length <= if header.version == HeaderVersion::V1 { LONGEST_V1 } else { LONGEST_V2 });
    assert!(header.tlvs.len() <= MOST_TLVS);
    assert!(header.tlvs.iter().map(|tlv| 3 + tlv.value.len()).sum::<usize>() <= length);
    assert!(header.tlv(Tlv::UNIQUE_ID).is_none_or(|id| id.len() <= LONGEST_UNIQUE_ID));
    assert!(header.tlv(Tlv::CRC32C).is_none() && header.tlv(Tlv::NOOP).is_none());
    if header.version == HeaderVersion::V1 || header.origin == HeaderOrigin::Sender {
        assert!(header.tlvs.is_empty());
    }
    if let HeaderOrigin::Tcp { source, destination } = header.origin {
        for ip in [source.ip(), destination.ip()] {
            assert_eq!(ip, ip.to_canonical(), "IPv4 is never returned as IPv6");
        }
    }
}

/// Writes the header in each version and reads it back, as a proxy does that receives one version and sends another.
fn write_and_read(header: &ProxyHeader, length: usize, behind: &[u8]) {
    /// The length that a checksum and IPv6 addresses add.
    const ROOM: usize = 7 + 36;
    let (endpoints, origin) = match header.origin {
        HeaderOrigin::Tcp { source, destination } => (Some((source, destination)), header.origin.clone()),
        _ => (None, HeaderOrigin::Unknown),
    };
    for (version, crc32c) in
        [(HeaderVersion::V1, false), (HeaderVersion::V2, false), (HeaderVersion::V2, true)]
    {
        let tlvs = header.tlvs.iter().map(|tlv| (tlv.kind, &*tlv.value)).collect();
        let written = OutgoingHeader { version, endpoints, tlvs, crc32c }.write();
        let answer = read(&[&written[..], behind].concat());
        let Ok(Some(HeaderSearch::Header(again, taken))) = answer else {
            panic!("{} reads as {answer:?}", written.escape_ascii())
        };
        assert_eq!((again.version, &again.origin, taken), (version, &origin, written.len()));
        match version {
            HeaderVersion::V1 => assert!(again.tlvs.is_empty()),
            HeaderVersion::V2 if length + ROOM <= LONGEST_V2 => assert_eq!(again.tlvs, header.tlvs),
            // Some TLVs may have been omitted.
            HeaderVersion::V2 => assert!(again.tlvs.iter().all(|tlv| header.tlvs.contains(tlv))),
        }
    }
}
