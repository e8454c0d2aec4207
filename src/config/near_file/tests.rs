use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::config::country_file::tests::made::{CountryFile, at, by_code, map, number_of, text};
use crate::pool::near::NearSpec;
use crate::pool::{BackendSpec, Pool, PoolSpec, TierSpec};
use crate::route::Country;

/// Networks with a latitude and a longitude.
const SOME: &[(&str, f64, f64)] = &[
    ("192.0.2.0/25", 52.5, 13.4),
    ("192.0.2.128/25", 40.7, -74.0),
    ("198.51.100.0/24", 35.7, 139.7),
    ("2001:db8::/32", 40.7, -74.0),
];

fn by_place() -> Sites {
    let site =
        |name: &str, latitude, longitude| (name.into(), Coordinates::new(latitude, longitude).unwrap());
    Sites::At(vec![site("eu", 52.37, 4.9), site("jp", 34.7, 135.5), site("us", 38.95, -77.45)])
}

fn by_country() -> Sites {
    let countries = |texts: &str| texts.split(' ').map(|text| text.parse::<Country>().unwrap()).collect();
    Sites::For(vec![("eu".into(), countries("DE NL")), ("us".into(), countries("US DE"))])
}

/// Returns the zones of a client, the nearest first.
fn zones(bytes: &[u8], sites: &Sites, address: &str) -> String {
    let table = parse("geo.mmdb", bytes, sites).unwrap_or_else(|faults| panic!("{faults}"));
    let source = NearSource { path: Path::new("geo.mmdb").into(), sites: Arc::new(sites.clone()) };
    let tiers =
        TierSpec { near: Some(NearSpec { source, read: Some(Arc::new(table)) }), ..TierSpec::default() };
    let backend = |zone: &Arc<str>| BackendSpec {
        zone: Some(Arc::clone(zone)),
        ..BackendSpec::new(Arc::clone(zone), "10.0.0.1:1".parse().unwrap())
    };
    let backends = sites.names().map(backend).collect();
    let pool = Pool::build(PoolSpec { tiers, ..PoolSpec::new("p".into(), backends) }, None, 0);
    let address = address.parse::<IpAddr>().unwrap();
    let zones = pool.zones_of(Some((address, 1).into())).unwrap_or_default();
    zones.iter().map(|zone| zone.to_string()).collect::<Vec<_>>().join(" ")
}

fn of_cities(cities: &[(&str, f64, f64)]) -> Vec<u8> {
    let mut file = CountryFile::new();
    for (network, latitude, longitude) in cities {
        let record = file.record(&at(*latitude, *longitude));
        file.put(network, record);
    }
    file.bytes()
}

#[test]
fn a_client_is_where_the_database_has_it() {
    let bytes = of_cities(SOME);
    let check =
        |address, expected: &str| assert_eq!(zones(&bytes, &by_place(), address), expected, "{address}");
    check("192.0.2.1", "eu us jp");
    check("192.0.2.200", "us eu jp");
    check("::ffff:192.0.2.200", "us eu jp");
    check("198.51.100.7", "jp eu us");
    check("2001:db8::9", "us eu jp");
    check("203.0.113.1", "");
    check("2001:db9::", "");
}

#[test]
fn countries_are_at_the_sites_that_list_them() {
    let bytes =
        CountryFile::of(&[("192.0.2.0/24", "DE"), ("198.51.100.0/24", "US"), ("203.0.113.0/24", "FR")]);
    let check =
        |address, expected: &str| assert_eq!(zones(&bytes, &by_country(), address), expected, "{address}");
    check("192.0.2.1", "eu us");
    check("198.51.100.1", "us eu");
    check("203.0.113.1", "");
    check("10.0.0.1", "");
}

#[test]
fn a_place_stands_where_files_have_it() {
    let check = |record: Vec<u8>, expected: &str| {
        let mut file = CountryFile::new();
        let (record, other) = (file.record(&record), file.record(&at(0.0, 0.0)));
        file.put("192.0.2.0/24", record);
        file.put("198.51.100.0/24", other);
        assert_eq!(zones(&file.bytes(), &by_place(), "192.0.2.1"), expected);
    };
    let number = |number: f64| [&[3 << 5 | 8], &number.to_be_bytes()[..]].concat();
    let both = |latitude, longitude| map(&[("latitude", number(latitude)), ("longitude", number(longitude))]);
    check(both(40.7, -74.0), "us eu jp");
    check(map(&[("location", both(40.7, -74.0)), ("country", map(&[("iso_code", text("JP"))]))]), "us eu jp");
    // Without a place, or with one that does not exist, a client is unknown.
    check(map(&[("location", map(&[("latitude", number(40.7))]))]), "");
    check(map(&[("location", both(91.0, 0.0))]), "");
    check(map(&[("location", both(f64::NAN, 0.0))]), "");
    check(by_code("DE"), "");
}

#[test]
fn networks_with_one_order_are_one_range() {
    let cities = [("10.0.0.0/24", 52.0, 5.0), ("10.0.1.0/24", 52.1, 5.1), ("10.0.2.0/24", 40.0, -74.0)];
    let table = parse("geo.mmdb", &of_cities(&cities), &by_place()).unwrap();
    assert_eq!((table.ranges(), table.orders()), (2, 2));
    let same = parse("geo.mmdb", &of_cities(&cities), &by_place()).unwrap();
    assert_eq!(table.digest(), same.digest());
    let other = parse("geo.mmdb", &of_cities(&cities[..2]), &by_place()).unwrap();
    assert_ne!(table.digest(), other.digest());
}

fn check_fault(bytes: &[u8], sites: &Sites, expected: &[&str]) {
    let faults = parse("geo.mmdb", bytes, sites).unwrap_err();
    let rendered = faults.render(false);
    assert!(!expected.is_empty());
    for words in expected {
        assert!(rendered.contains(words), "{words:?} is not in\n{rendered}");
    }
    assert_eq!(faults.diagnostics()[0].code, Code::BadNearFile);
}

#[test]
fn faults_say_what_to_do() {
    let cities = of_cities(SOME);
    check_fault(b"", &by_place(), &["geo.mmdb", "not in MaxMind's format", "GeoLite2-City.mmdb"]);
    check_fault(&cities[..cities.len() / 2], &by_place(), &["or not whole"]);
    let countries = CountryFile::of(&[("192.0.2.0/24", "FR")]);
    check_fault(&countries, &by_place(), &["no coordinates", "\"Test-Country\"", "its countries instead"]);
    check_fault(&countries, &by_country(), &["no country that a site lists", "ISO 3166-1"]);
    check_fault(&cities, &by_country(), &["no country that a site lists"]);
    let wrong = map(&[("location", map(&[("latitude", text("x")), ("longitude", number_of(6, 1))]))]);
    let mut file = CountryFile::new();
    let record = file.record(&wrong);
    file.put("192.0.2.0/24", record);
    check_fault(&file.bytes(), &by_place(), &["the database of `near` is broken"]);
}

#[test]
fn broken_bytes_are_faults() {
    let whole = of_cities(SOME);
    let mut faults = 0;
    for length in 0..whole.len() {
        faults += u32::from(parse("geo.mmdb", &whole[..length], &by_place()).is_err());
    }
    assert_eq!(faults as usize, whole.len(), "each prefix lacks its metadata");
    for place in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] ^= change;
            // A changed byte may give another valid file. It must not end the process or take long.
            _ = parse("geo.mmdb", &bytes, &by_place());
        }
    }
}
