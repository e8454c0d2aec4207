use proptest::prelude::*;

use super::super::tests::{FIXTURES, extension, message_of, vector8, vector16};
use super::*;
use crate::wire::Ja4;

/// Builds a message with this version inside, these suites and these extensions.
fn message(version: u16, suites: &[u16], extensions: &[u8]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let body =
        [&version.to_be_bytes()[..], &[7; 32], &[0], &vector16(&suites), &[1, 0], &vector16(extensions)]
            .concat();
    [&[1, 0], &vector16(&body)[..]].concat()
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| vector8(name)).collect();
    extension(16, &vector16(&names))
}

fn versions(versions: &[u16]) -> Vec<u8> {
    let list: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
    extension(43, &vector8(&list))
}

fn with_offer<T>(extensions: &[u8], look: impl FnOnce(Offer<'_>) -> T) -> T {
    look(Offer::of(&message(0x0303, &[0x1301], extensions)).expect("a sound message"))
}

#[test]
fn protocols_are_listed_in_their_order() {
    let check = |extensions: &[u8], expected: &[&[u8]]| {
        assert!(with_offer(extensions, |offer| offer.alpn().eq(expected.iter().copied())), "{extensions:?}");
    };
    check(&alpn(&[b"h2", b"http/1.1"]), &[b"h2", b"http/1.1"]);
    check(&alpn(&[b"\xff\0\n"]), &[b"\xff\0\n"]);
    check(&[], &[]);
    check(&extension(16, &[]), &[]);
    check(&extension(16, &[0, 3, 2, b'h']), &[]);
    check(&extension(16, &[0, 2, 2, b'h']), &[]);
    check(&extension(16, &[0, 4, 0, 2, b'h', b'2']), &[]);
    check(&[alpn(&[b"h2"]), vec![0, 16]].concat()[..0], &[]);
}

#[test]
fn versions_are_those_of_the_extension_or_the_one_of_the_hello() {
    let check = |extensions: &[u8], expected: &str, reaches: u16| {
        with_offer(extensions, |offer| {
            let versions: Vec<_> = offer.versions().map(|version| version.to_string()).collect();
            assert_eq!(versions.join(","), expected);
            for version in [0x0301, 0x0302, 0x0303, 0x0304] {
                assert_eq!(offer.reaches(TlsVersion(version)), version <= reaches, "{expected} {version:x}");
            }
        });
    };
    check(&[], "1.2", 0x0303);
    check(&versions(&[0x0304, 0x0303]), "1.3,1.2", 0x0304);
    check(&versions(&[0x7a7a, 0x0302, 0x0301]), "1.1,1.0", 0x0302);
    check(&versions(&[0x7f1c, 0x0303]), "0x7f1c,1.2", 0x0303);
    check(&versions(&[0x0300]), "ssl3", 0);
    check(&versions(&[]), "", 0);
    check(&extension(43, &[3, 3, 4, 3]), "", 0);
    check(&extension(43, &[2, 3, 4, 9]), "", 0);
}

#[test]
fn encrypted_hellos_are_noticed() {
    assert!(with_offer(&extension(ENCRYPTED_CLIENT_HELLO, &[1]), |offer| offer.ech()));
    assert!(!with_offer(&extension(0xfe0c, &[1]), |offer| offer.ech()));
}

#[test]
fn grease_is_its_sixteen_values() {
    let grease: Vec<u16> = (0..=u16::MAX).filter(|&number| is_grease(number)).collect();
    let expected: Vec<u16> = (0..16).map(|n| 0x0a0a + 0x1010 * n).collect();
    assert_eq!(grease, expected);
}

/// The fingerprint of the example in the description of JA4: Chrome's hello, its lists in the order on the wire.
#[test]
fn the_published_example_gives_its_fingerprint() {
    let suites = [
        0x1a1a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
        0x009c, 0x009d, 0x002f, 0x0035,
    ];
    let algorithms = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
    let algorithms: Vec<u8> = algorithms.iter().flat_map(|&number: &u16| number.to_be_bytes()).collect();
    let mut extensions = Vec::new();
    for kind in [0x1b, 0, 0x33, 0x10, 0x4469, 0x17, 0x2d, 0xd, 5, 0x23, 0x12, 0x2b, 0xff01, 0xb, 0xa, 0x15] {
        extensions.extend(match kind {
            0x10 => alpn(&[b"h2", b"http/1.1"]),
            0xd => extension(kind, &vector16(&algorithms)),
            0x2b => versions(&[0x2a2a, 0x0304, 0x0303]),
            kind => extension(kind, b"?"),
        });
    }
    extensions.extend(extension(0xdada, &[]));
    let message = message(0x0303, &suites, &extensions);
    let offer = Offer::of(&message).unwrap();
    assert_eq!(Ja4::of(&offer).to_string(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

#[test]
fn fingerprints_of_little_are_whole_too() {
    let check = |version: u16, extensions: &[u8], expected: &str| {
        let message = message(version, &[0x0a0a], extensions);
        assert_eq!(Ja4::of(&Offer::of(&message).unwrap()).as_str(), expected);
    };
    let zeros = "000000000000";
    check(0x0303, &[], &format!("t12i000000_{zeros}_{zeros}"));
    check(0x0301, &[], &format!("t10i000000_{zeros}_{zeros}"));
    check(0x0300, &extension(0, b"?"), &format!("ts3d000100_{zeros}_{zeros}"));
    check(0x9999, &alpn(&[b"h"]), &format!("t00i0001hh_{zeros}_{zeros}"));
    check(0x0303, &alpn(&[b"\xab"]), &format!("t12i0001ab_{zeros}_{zeros}"));
    check(0x0303, &alpn(&[b"\xab\xcd"]), &format!("t12i0001ad_{zeros}_{zeros}"));
    check(0x0303, &alpn(&[b"0\xab"]), &format!("t12i00013b_{zeros}_{zeros}"));
    check(0x0303, &alpn(&[b"0\xab\xcd1"]), &format!("t12i000101_{zeros}_{zeros}"));
}

/// An independent program computed these fingerprints from the same files.
#[test]
fn captures_have_their_fingerprints() {
    let expected = [
        ("chromium", "t13d1517h2_8daaf6152771_cb7bf5808d99"),
        ("curl", "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6"),
        ("firefox", "t13d1617h2_86a278354501_3cbfd9057e0d"),
        ("gnutls", "t13d291300_723694b0fccc_2cc26d266019"),
        ("java", "t13d371200_db35923f8641_7c76daad20ec"),
        ("node", "t13d5911h2_a33745022dd6_1f22a2ca17c4"),
        ("openssl-early-data", "t13d311200_e8f1e7e78f70_87f12a3f655c"),
        ("openssl-no-name", "t13i310900_e8f1e7e78f70_1f22a2ca17c4"),
        ("openssl-records", "t13d3111p0_e8f1e7e78f70_1f22a2ca17c4"),
        ("openssl-tls12", "t12d2808ip_d943125447b4_e7e480e5a997"),
        ("openssl-tls13", "t13d311000_e8f1e7e78f70_1f22a2ca17c4"),
        ("openssl-upper", "t13d041000_16476d049b0b_78f1d400d464"),
        ("psql", "t13d311000_e8f1e7e78f70_1f22a2ca17c4"),
        ("python", "t13d181100_85036bcba153_d41ae481755e"),
    ];
    for ((file, raw, _), (named, fingerprint)) in FIXTURES.iter().zip(expected) {
        assert_eq!(*file, named);
        let message = message_of(raw);
        let offer = Offer::of(&message).unwrap();
        assert_eq!(Ja4::of(&offer).as_str(), fingerprint, "{file}");
        assert_eq!(offer.ech(), ["chromium", "firefox"].contains(file), "{file}");
    }
}

#[test]
fn a_hello_in_several_records_is_put_together() {
    let (_, raw, _) = FIXTURES.iter().find(|(file, ..)| *file == "openssl-records").unwrap();
    let hello = super::super::tests::read(raw).unwrap().unwrap();
    assert_eq!(hello.records, 3);
    assert_eq!(hello.message(raw), message_of(raw));
    assert_eq!(Offer::of(&hello.message(raw)).unwrap().alpn().count(), 60);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), extensions in prop::collection::vec(any::<u8>(), 0..200)) {
        for message in [bytes, message(0x0303, &[1], &extensions)] {
            if let Some(offer) = Offer::of(&message) {
                let _ = (offer.alpn().count(), offer.versions().count(), offer.reaches(TlsVersion::V1_3));
                prop_assert_eq!(Ja4::of(&offer).as_str().len(), Ja4::LENGTH);
            }
        }
    }

    #[test]
    fn any_change_of_a_capture_has_some_fingerprint(file in 0..FIXTURES.len(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut message = message_of(FIXTURES[file].1);
        let at = at.index(message.len());
        message[at] = to;
        if let Some(offer) = Offer::of(&message) {
            let _ = Ja4::of(&offer);
        }
    }
}
