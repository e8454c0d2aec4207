//! PROXY headers: the answer does not depend on how the bytes are cut, it comes within the bounds, and what was read
//! can be written and read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::wire::proxy_protocol::{
    Found, Header, HeaderFault, LONGEST_UNIQUE_ID, LONGEST_V1, LONGEST_V2, MOST_TLVS, Origin, Outgoing, Tlv,
    Version, begins_like_one, read,
};

fuzz_target!(|bytes: &[u8]| {
    let answer = pointsman_fuzz::read(bytes, &Ok(None), || read);
    match &answer {
        Ok(None) => {
            let most = if bytes.starts_with(b"PROXY ") { LONGEST_V1 } else { LONGEST_V2 };
            assert!(bytes.len() < most, "it must come to an end");
        }
        Ok(Some(Found::Nothing)) => assert!(!begins_like_one(bytes)),
        Err(fault) => {
            assert!(begins_like_one(bytes));
            if is_local(bytes) {
                // Neither the family nor what stands in the block of LOCAL is a reason to refuse it.
                assert!(matches!(fault, HeaderFault::TooLong | HeaderFault::Checksum), "{fault:?}");
            }
        }
        Ok(Some(Found::Header(header, length))) => {
            assert!(begins_like_one(bytes) && *length <= bytes.len());
            check_bounds(header, *length);
            write_and_read(header, *length, &bytes[*length..]);
        }
    }
});

/// Whether bytes begin with a header of version 2 with the command LOCAL.
fn is_local(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'\r') && bytes.get(12) == Some(&0x20)
}

fn check_bounds(header: &Header, length: usize) {
    assert!(length <= if header.version == Version::V1 { LONGEST_V1 } else { LONGEST_V2 });
    assert!(header.tlvs.len() <= MOST_TLVS);
    assert!(header.tlvs.iter().map(|tlv| 3 + tlv.value.len()).sum::<usize>() <= length);
    assert!(header.tlv(Tlv::UNIQUE_ID).is_none_or(|id| id.len() <= LONGEST_UNIQUE_ID));
    assert!(header.tlv(Tlv::CRC32C).is_none() && header.tlv(Tlv::NOOP).is_none());
    if header.version == Version::V1 || header.origin == Origin::Sender {
        assert!(header.tlvs.is_empty());
    }
    if let Origin::Tcp { source, destination } = header.origin {
        for ip in [source.ip(), destination.ip()] {
            assert_eq!(ip, ip.to_canonical(), "IPv4 is never told as IPv6");
        }
    }
}

/// As a proxy in the middle does it, which takes in one form and gives on another.
fn write_and_read(header: &Header, length: usize, behind: &[u8]) {
    /// What a checksum adds, and addresses of IPv6 in place of none.
    const ROOM: usize = 7 + 36;
    let (endpoints, origin) = match header.origin {
        Origin::Tcp { source, destination } => (Some((source, destination)), header.origin.clone()),
        _ => (None, Origin::Unknown),
    };
    for (version, crc32c) in [(Version::V1, false), (Version::V2, false), (Version::V2, true)] {
        let tlvs = header.tlvs.iter().map(|tlv| (tlv.kind, &*tlv.value)).collect();
        let written = Outgoing { version, endpoints, tlvs, crc32c }.write();
        let answer = read(&[&written[..], behind].concat());
        let Ok(Some(Found::Header(again, taken))) = answer else {
            panic!("{} reads as {answer:?}", written.escape_ascii())
        };
        assert_eq!((again.version, &again.origin, taken), (version, &origin, written.len()));
        match version {
            Version::V1 => assert!(again.tlvs.is_empty()),
            Version::V2 if length + ROOM <= LONGEST_V2 => assert_eq!(again.tlvs, header.tlvs),
            // Some may have been left out.
            Version::V2 => assert!(again.tlvs.iter().all(|tlv| header.tlvs.contains(tlv))),
        }
    }
}
