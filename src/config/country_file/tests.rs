use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maxminddb::Reader;
use proptest::prelude::*;

use super::*;

#[path = "../../../tests/it/support/country_file.rs"]
pub(in crate::config) mod made;

use made::{CountryFile, by_code, map, number_of, text};

const SOME: &[(&str, &str)] = &[
    ("192.0.2.0/24", "DE"),
    ("192.0.2.128/25", "AT"),
    ("198.51.100.0/24", "CH"),
    ("203.0.113.0/24", "-"),
    ("2001:db8::/32", "DE"),
    ("2001:db8:1::/48", "at"),
];

fn countries(texts: &str) -> Vec<Country> {
    let mut countries: Vec<_> = texts.split_whitespace().map(|text| text.parse().unwrap()).collect();
    countries.sort_unstable();
    countries
}

fn read(bytes: &[u8], asked: &str) -> FileEntries {
    parse("bad.mmdb", bytes, &countries(asked)).unwrap_or_else(|faults| panic!("{asked}: {faults}"))
}

fn check(bytes: &[u8], asked: &str, count: usize, holds: &str, lacks: &str) {
    let read = read(bytes, asked);
    assert_eq!(read.count, count, "{asked}");
    for (addresses, expected) in [(holds, true), (lacks, false)] {
        for address in addresses.split_whitespace() {
            assert_eq!(read.set.contains(address.parse().unwrap()), expected, "{asked} {address}");
        }
    }
}

fn check_fault(bytes: &[u8], asked: &str, expected: &[&str]) {
    let faults = parse("bad.mmdb", bytes, &countries(asked)).unwrap_err();
    let rendered = faults.render(false);
    assert!(!expected.is_empty());
    for words in expected {
        assert!(rendered.contains(words), "{words:?} is not in\n{rendered}");
    }
    assert_eq!(faults.diagnostics()[0].code, Code::BadCountryFile);
}

#[test]
fn the_networks_of_countries_are_taken() {
    let of = |record_size| {
        let mut file = CountryFile { record_size, ..CountryFile::new() };
        for (network, code) in SOME {
            let record = file.record(&by_code(code));
            file.put(network, record);
        }
        file.bytes()
    };
    for file in [24, 28, 32].map(of) {
        check(&file, "AT", 2, "192.0.2.128 192.0.2.255 2001:db8:1::9", "192.0.2.127 2001:db8::1 203.0.113.1");
        // Sixteen pieces of the shorter network of IPv6 surround the longer one.
        check(&file, "DE", 17, "192.0.2.0 192.0.2.127 2001:db8::1", "192.0.2.128 2001:db8:1:: 10.0.0.1");
        check(&file, "DE AT CH", 20, "192.0.2.200 198.51.100.1 ::ffff:192.0.2.1", "203.0.113.1 198.51.101.0");
    }
}

#[test]
fn a_file_of_ipv4_alone_is_read() {
    let mut file = CountryFile { ip_version: 4, ..CountryFile::new() };
    let record = file.record(&by_code("DE"));
    file.put("192.0.2.0/24", record);
    file.put("64.0.0.0/2", record);
    check(&file.bytes(), "DE", 2, "192.0.2.1 127.255.255.255", "128.0.0.0 63.255.255.255 ::1 4000::");
}

#[test]
fn ipv4_is_counted_once_and_is_no_ipv6() {
    let file = CountryFile::of(&[("192.0.2.0/24", "DE"), ("2001:db8::/32", "DE")]);
    let elsewhere = "::c000:201 2002:c000:201::1 2001:0:c000:201::1 64:ff9b::c000:201";
    check(&file, "DE", 2, "192.0.2.1 ::ffff:192.0.2.1 2001:db8::1", elsewhere);

    // All of IPv4 is one record, so there is no subtree for aliases; other networks have the same record.
    let mut file = CountryFile { has_aliases: false, ..CountryFile::new() };
    let record = file.record(&by_code("DE"));
    file.put("::/96", record);
    file.put("2001:db8::/32", record);
    check(&file.bytes(), "DE", 3, "192.0.2.1 2001:db8::1", "2001:db9::1 ::1:0:0");

    // Without aliases a network of 2002::/16 is a network of IPv6. A network of ::ffff:0:0/96 is ignored, because
    // readers never search IPv4 there.
    let mut file = CountryFile { has_aliases: false, ..CountryFile::new() };
    let record = file.record(&by_code("DE"));
    file.put("::ffff:192.0.2.0/120", record);
    file.put("2002:c000:200::/40", record);
    check(&file.bytes(), "DE", 1, "2002:c000:201::", "192.0.2.1 ::ffff:192.0.2.1");
}

#[test]
fn a_country_stands_where_files_have_it() {
    let check = |record: Vec<u8>, expected: Option<&str>| {
        let mut file = CountryFile::new();
        let (record, other) = (file.record(&record), file.record(&by_code("XX")));
        file.put("192.0.2.0/24", record);
        file.put("198.51.100.0/24", other);
        let bytes = file.bytes();
        match expected {
            Some(code) => check(&bytes, code, 1, "192.0.2.1", "198.51.100.1"),
            None => check(&bytes, "XX", 1, "198.51.100.1", "192.0.2.1"),
        }
    };
    let code = |code| map(&[("iso_code", text(code))]);
    check(map(&[("country", code("DE"))]), Some("DE"));
    check(map(&[("country", text("Germany")), ("country_code", text("DE"))]), Some("DE"));
    check(map(&[("registered_country", code("XX")), ("country", code("DE"))]), Some("DE"));
    check(map(&[("registered_country", code("XX"))]), None);
    check(map(&[("represented_country", code("XX")), ("continent", code("XX"))]), None);
    check(map(&[("country", map(&[("geoname_id", number_of(6, 1))]))]), None);
    check(map(&[("country", code(""))]), None);
    check(map(&[]), None);
}

#[test]
fn faults_tell_what_to_do() {
    let file = CountryFile::of(SOME);
    check_fault(b"", "DE", &["bad.mmdb", "not in MaxMind's format", "GeoLite2-Country.mmdb"]);
    check_fault(b"10.0.0.0/8\n", "DE", &["not in MaxMind's format", "one network a line is used without"]);
    check_fault(&file[..file.len() / 2], "DE", &["not in MaxMind's format, or not whole"]);
    check_fault(&file, "FR DE LI", &["no network of FR, LI", "ISO 3166-1 alpha-2"]);
    check_fault(&file, "UK", &["no network of UK", "is GB, not UK"]);
    check_fault(&CountryFile::of(&[]), "DE", &["no countries", "\"Test-Country\""]);

    let mut file = CountryFile { kind: "GeoLite2-ASN", ..CountryFile::new() };
    let record = file.record(&map(&[("autonomous_system_number", number_of(6, 64496))]));
    file.put("192.0.2.0/24", record);
    check_fault(&file.bytes(), "DE", &["no countries: its kind is \"GeoLite2-ASN\"", "countries or cities"]);

    for record in [text("DE"), map(&[("country", text("DE"))]), map(&[("country_code", number_of(6, 49))])] {
        let mut file = CountryFile::new();
        let record = file.record(&record);
        file.put("192.0.2.0/24", record);
        check_fault(&file.bytes(), "DE", &["the file of the list is broken"]);
    }
}

#[test]
fn trees_that_are_none_are_refused() {
    // Each node leads to the next one on both sides: there are as many paths as addresses.
    let mut file = CountryFile { has_aliases: false, ..CountryFile::new() };
    let record = file.record(&by_code("DE"));
    file.put("2001:db8::/128", record);
    for depth in (1..=127).rev() {
        let bits = 0x2001_0db8_u128 << 96;
        file.link((bits ^ 1 << (128 - depth), depth), (bits, depth));
    }
    check_fault(&file.bytes(), "DE", &["far more paths than nodes"]);

    // The same tree, whose end leads to the start of IPv4, so that a walk would pass over all of its paths.
    let mut file = CountryFile { has_aliases: false, ..CountryFile::new() };
    let record = file.record(&by_code("DE"));
    file.put("192.0.2.0/24", record);
    let bits = 0x2001_0db8_u128 << 96;
    file.link((bits, 128), (0, 96));
    for depth in (1..=127).rev() {
        file.link((bits ^ 1 << (128 - depth), depth), (bits, depth));
    }
    check_fault(&file.bytes(), "DE", &["far more paths than nodes"]);

    // A node leads back to the root.
    let mut file = CountryFile::of(SOME);
    file[..3].fill(0);
    assert!(parse("bad.mmdb", &file, &countries("DE")).is_err());
}

/// Returns true if a file is read, false if it is refused. Neither this nor a query of its entries may panic.
fn survives(bytes: &[u8]) -> bool {
    let read = parse("bad.mmdb", bytes, &countries("AT DE"));
    if let Ok(entries) = &read {
        for address in ["192.0.2.1", "2001:db8::1", "::"] {
            let _ = entries.set.contains(address.parse().unwrap());
        }
    }
    read.is_ok()
}

/// Cuts a file at every byte, and changes every byte in the given ways.
fn check_broken_files(changes: &[fn(u8) -> u8]) {
    let whole = CountryFile::of(SOME);
    assert!(survives(&whole));
    let cut = (0..whole.len()).filter(|end| survives(&whole[..*end])).count();
    assert_eq!(cut, 0, "the metadata stand at the end");
    let mut file = whole.clone();
    let (mut read, mut refused) = (0, 0);
    for at in 0..file.len() {
        let was = file[at];
        for change in changes {
            file[at] = change(was);
            *if survives(&file) { &mut read } else { &mut refused } += 1;
        }
        file[at] = was;
    }
    assert!(read > 100 && refused > 100, "{read} {refused}");
}

#[test]
fn broken_files_are_read_or_refused() {
    check_broken_files(&[|byte| byte ^ 0x80]);
}

#[test]
#[ignore = "takes long in a debug build"]
fn files_with_any_broken_byte_are_read_or_refused() {
    check_broken_files(&[
        |byte| byte ^ 1,
        |byte| byte ^ 0x80,
        |byte| byte.wrapping_add(1),
        |byte| byte ^ 0x20,
        |_| 0,
        |_| 0xff,
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn files_of_several_wounds_are_read_or_refused(
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = CountryFile::of(SOME);
        for (at, byte) in wounds {
            let at = at.index(file.len());
            file[at] = byte;
        }
        survives(&file);
        // The file without its middle, so that the records no longer fit the tree.
        let at = cut.index(file.len());
        file.drain(at..file.len().min(at + 64));
        survives(&file);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn answers_are_those_of_a_reader(
        networks in prop::collection::vec((any::<u8>(), 1..=16_u8, 0..4_u8, any::<bool>()), 1..60),
        record_size in prop::sample::select(vec![24, 28, 32]),
        has_aliases in any::<bool>(),
    ) {
        let mut file = CountryFile { record_size, has_aliases, ..CountryFile::new() };
        let records = ["DE", "AT", "CH", ""].map(|code| file.record(&by_code(code)));
        for (bits, length, record, is_v4) in networks {
            // IPv6 without its aliases of IPv4.
            let (start, skipped) = if is_v4 { (0, 96) } else { (3 << 126, 2) };
            let bits = start | u128::from(bits) << (128 - skipped - 8);
            file.put_bits(bits, skipped + length, records[usize::from(record)]);
        }
        let bytes = file.bytes();
        let reader = Reader::from_source(&bytes[..]).unwrap();
        let answer = |address: IpAddr| {
            let found = reader.lookup(address).unwrap();
            found.decode_path::<&str>(COUNTRY_PATHS[1]).unwrap().map(str::to_owned)
        };
        let v4 = (0..=u16::MAX).step_by(97).map(|bits| IpAddr::from(Ipv4Addr::from_bits(u32::from(bits) << 16)));
        let v6 = (0..=u16::MAX).step_by(97).map(|bits| {
            IpAddr::from(Ipv6Addr::from_bits(3 << 126 | u128::from(bits) << 110))
        });
        let addresses: Vec<_> = v4.chain(v6).collect();
        for code in ["DE", "AT", "CH"] {
            let asked = countries(code);
            let Ok(read) = parse("bad.mmdb", &bytes, &asked) else { continue };
            for address in &addresses {
                let expected = answer(*address).as_deref() == Some(code);
                prop_assert_eq!(read.set.contains(*address), expected, "{} {}", code, address);
            }
        }
    }
}
