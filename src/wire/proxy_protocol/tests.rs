use proptest::prelude::*;

use super::*;

/// Builds a header of version 2: version and command, family and protocol, and the rest.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&V2_SIGNATURE[..], &[command, family], &length, block].concat()
}

/// 10.0.0.1:1000 to 10.0.0.2:443.
const TCP4: &[u8] = &[10, 0, 0, 1, 10, 0, 0, 2, 0x03, 0xe8, 0x01, 0xbb];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind, high, low], value].concat()
}

fn with_tlvs(tlvs: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[TCP4, &tlvs.concat()].concat())
}

/// Formats a result in one line.
fn shown(answer: &Result<Option<HeaderSearch>, HeaderFault>) -> String {
    let (header, length) = match answer {
        Ok(Some(HeaderSearch::Header(header, length))) => (header, length),
        Ok(Some(HeaderSearch::Nothing)) => return "nothing".into(),
        Ok(None) => return "more".into(),
        Err(fault) => return format!("{fault:?}"),
    };
    let origin = match &header.origin {
        HeaderOrigin::Sender => "sender".into(),
        HeaderOrigin::Unknown => "unknown".into(),
        HeaderOrigin::Tcp { source, destination } => format!("{source} > {destination}"),
        HeaderOrigin::Unix { source, destination } => {
            format!("{} > {}", source.escape_ascii(), destination.escape_ascii())
        }
    };
    let tlvs: String =
        header.tlvs.iter().map(|tlv| format!(", {:#x} {}", tlv.kind, tlv.value.escape_ascii())).collect();
    format!("{:?} {origin}{tlvs} ({length})", header.version)
}

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    assert_eq!(shown(&read(bytes)), expected, "{}", bytes.escape_ascii());
}

#[test]
fn lines() {
    check(b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 443\r\n", "V1 10.0.0.1:1000 > 10.0.0.2:443 (39)");
    check(b"PROXY TCP4 10.0.0.1 10.0.0.2 0 65535\r\nGET", "V1 10.0.0.1:0 > 10.0.0.2:65535 (38)");
    check(b"PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", "V1 [2001:db8::1]:1 > [::1]:2 (32)");
    check(b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n", "V1 10.0.0.1:1 > 10.0.0.2:2 (45)");
    check(b"PROXY UNKNOWN\r\n", "V1 unknown (15)");
    check(b"PROXY UNKNOWN \xff\0 anything at all\r\nx", "V1 unknown (34)");
    let longest = format!("PROXY UNKNOWN {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
    check(longest.as_bytes(), "V1 unknown (107)");
}

#[test]
fn lines_that_are_none() {
    for line in [
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000 443\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000 443 \r\n",
        "PROXY TCP4  10.0.0.1 10.0.0.2 1000 443\r\n",
        "PROXY  TCP4 10.0.0.1 10.0.0.2 1000 443\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1000 443 1\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 65536 443\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 01000 443\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 +1000 443\r\n",
        "PROXY TCP4 10.0.0.01 10.0.0.2 1000 443\r\n",
        "PROXY TCP4 10.0.1 10.0.0.2 1000 443\r\n",
        "PROXY TCP4 ::1 ::2 1000 443\r\n",
        "PROXY TCP6 10.0.0.1 10.0.0.2 1000 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::2 1000 443\r\n",
        "PROXY UDP4 10.0.0.1 10.0.0.2 1000 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY tcp4 10.0.0.1 10.0.0.2 1000 443\r\n",
        "PROXY UNKNOWN\rx\n",
        "PROXY \r\n",
    ] {
        check(line.as_bytes(), "Line");
    }
    let long = format!("PROXY UNKNOWN {}", "x".repeat(93));
    check(long.as_bytes(), "LongLine");
    check(&long.as_bytes()[..106], "more");
    check(format!("{}\r\n", &long[..106]).as_bytes(), "LongLine");
}

#[test]
fn bytes_without_a_header() {
    for bytes in [&b"\x16\x03\x01"[..], b"GET / HTTP/1.1\r\n", b"PROXYT", b"PRAXY", b"\r\n\r\nx", b"\0"] {
        check(bytes, "nothing");
        assert!(!begins_like_one(bytes));
    }
    check(b"", "more");
    check(b"PROXY", "more");
    check(b"\r\n\r\n\0\r\nQUIT", "more");
    assert!(begins_like_one(b"PROXY x") && begins_like_one(V2_SIGNATURE) && !begins_like_one(b"PROXY"));
}

#[test]
fn binary_headers() {
    check(&v2(0x21, 0x11, TCP4), "V2 10.0.0.1:1000 > 10.0.0.2:443 (28)");
    let six: Vec<u8> = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 80, 1, 187]].concat();
    check(&v2(0x21, 0x21, &six), "V2 [::1]:80 > [::2]:443 (52)");
    let mut mapped = [0; 36];
    mapped[10..16].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    check(&v2(0x21, 0x21, &mapped), "V2 10.0.0.1:0 > [::]:0 (52)");
    let mut paths = [0; 216];
    paths[..4].copy_from_slice(b"/run");
    paths[108..].fill(b'x');
    check(&v2(0x21, 0x31, &paths), &format!("V2 /run > {} (232)", "x".repeat(108)));
    check(&v2(0x21, 0x00, b""), "V2 unknown (16)");
    check(&v2(0x21, 0x12, TCP4), "V2 unknown (28)");
    check(&v2(0x21, 0x10, TCP4), "V2 unknown (28)");
    check(&v2(0x20, 0x00, b""), "V2 sender (16)");
    check(&v2(0x20, 0x11, TCP4), "V2 sender (28)");
    check(&v2(0x20, 0x11, b"whatever"), "V2 sender (24)");
    check(&v2(0x21, 0x00, b"whatever"), "V2 unknown (24)");
}

/// proxy-protocol.txt 2.2: the receiver of LOCAL discards "the protocol block including the family".
#[test]
fn local_is_taken_whatever_its_family() {
    for family in 0..=u8::MAX {
        check(&v2(0x20, family, b""), "V2 sender (16)");
        check(&v2(0x20, family, b"whatever"), "V2 sender (24)");
        check(&[&V2_SIGNATURE[..], &[0x20, family]].concat(), "more");
    }
    // In a block of an unknown family these bytes are not a checksum.
    check(&v2(0x20, 0x41, &tlv(3, &[0; 4])), "V2 sender (23)");
    check(&v2(0x20, 0x13, &tlv(3, &[0; 4])), "V2 sender (23)");
    check(&v2(0x20, 0x11, &[TCP4, &tlv(3, &[0; 4])].concat()), "Checksum");
    check(&[&V2_SIGNATURE[..], &[0x20, 0xff, 0x0f, 0xf1]].concat(), "TooLong");
}

#[test]
fn binary_headers_that_are_none() {
    check(&v2(0x31, 0x11, TCP4), "Version");
    check(&v2(0x11, 0x11, TCP4), "Version");
    check(&v2(0x22, 0x11, TCP4), "Command");
    check(&v2(0x21, 0x41, TCP4), "Family");
    check(&v2(0x21, 0x13, TCP4), "Family");
    check(&v2(0x21, 0x11, &TCP4[..11]), "Addresses");
    check(&v2(0x21, 0x21, &[0; 35]), "Addresses");
    check(&v2(0x21, 0x31, &[0; 215]), "Addresses");
    check(&[&V2_SIGNATURE[..], &[0x31]].concat(), "Version");
    check(&[&V2_SIGNATURE[..], &[0x21, 0xff]].concat(), "Family");
    // A length beyond the bound is refused before more bytes arrive.
    check(&[&V2_SIGNATURE[..], &[0x21, 0x11, 0x0f, 0xf1]].concat(), "TooLong");
    check(&[&V2_SIGNATURE[..], &[0x21, 0x11, 0x0f, 0xf0]].concat(), "more");
}

#[test]
fn tlvs_are_kept_in_their_order() {
    let tlvs = [tlv(2, b"a.example"), tlv(1, b"h2"), tlv(0xe0, b""), tlv(4, b"xx"), tlv(0x20, &[1; 9])];
    let expected = "V2 10.0.0.1:1000 > 10.0.0.2:443, 0x2 a.example, 0x1 h2, 0xe0 , \
        0x20 \\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01 (65)";
    check(&with_tlvs(&tlvs), expected);
    check(&v2(0x21, 0x00, &tlv(5, b"id")), "V2 unknown, 0x5 id (21)");
    check(&v2(0x20, 0x00, &tlv(5, b"id")), "V2 sender (21)");
    let Ok(Some(HeaderSearch::Header(header, _))) = read(&with_tlvs(&[tlv(2, b"a"), tlv(2, b"b")])) else {
        panic!()
    };
    assert_eq!((header.tlv(Tlv::AUTHORITY), header.tlv(Tlv::ALPN)), (Some(&b"a"[..]), None));
    check(&with_tlvs(&[tlv(5, &[b'x'; 129])]), "Tlv");
    check(&with_tlvs(&[tlv(3, b"abc")]), "Tlv");
    let many = |count| read(&with_tlvs(&vec![tlv(0xe0, b""); count]));
    assert!(many(MOST_TLVS).is_ok() && many(MOST_TLVS + 1) == Err(HeaderFault::Tlv));
    check(&with_tlvs(&[vec![2, 0]]), "Tlv");
    check(&with_tlvs(&[vec![2, 0, 2, b'x']]), "Tlv");
    check(&v2(0x20, 0x00, &[2, 0, 2, b'x']), "V2 sender (20)");
}

fn summed(version_2: &OutgoingHeader<'_>) -> Vec<u8> {
    OutgoingHeader { crc32c: true, ..version_2.clone() }.write()
}

fn outgoing<'a>(source: &str, destination: &str, tlvs: &[(u8, &'a [u8])]) -> OutgoingHeader<'a> {
    let endpoints = Some((source.parse().unwrap(), destination.parse().unwrap()));
    OutgoingHeader { version: HeaderVersion::V2, endpoints, tlvs: tlvs.to_vec(), crc32c: false }
}

#[test]
fn checksums_are_checked() {
    let header = summed(&outgoing("10.0.0.1:1000", "10.0.0.2:443", &[(2, b"a.example")]));
    check(&header, "V2 10.0.0.1:1000 > 10.0.0.2:443, 0x2 a.example (47)");
    let mut seen = 0;
    for at in 16..header.len() {
        let mut changed = header.clone();
        changed[at] ^= 1;
        let answer = shown(&read(&changed));
        // A change of a kind or a length may hide the checksum itself.
        let is_frame = (28..31).contains(&at) || (40..43).contains(&at);
        assert!(is_frame || answer == "Checksum", "{at}: {answer}");
        seen += usize::from(answer == "Checksum");
    }
    assert!(seen >= 25, "{seen}");
    let doubled = with_tlvs(&[tlv(3, &[0; 4]), tlv(3, &[0; 4])]);
    check(&doubled, "Tlv");
    check(&v2(0x20, 0x00, &tlv(3, &[0; 4])), "Checksum");
}

#[track_caller]
fn check_line(source: &str, destination: &str, expected: &str) {
    let line =
        OutgoingHeader { version: HeaderVersion::V1, ..outgoing(source, destination, &[(2, b"lost")]) }
            .write();
    assert_eq!(String::from_utf8(line).unwrap(), format!("PROXY {expected}\r\n"));
}

#[test]
fn lines_are_written() {
    check_line("10.0.0.1:1", "10.0.0.2:65535", "TCP4 10.0.0.1 10.0.0.2 1 65535");
    check_line("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2", "TCP4 10.0.0.1 10.0.0.2 1 2");
    check_line("[::ffff:10.0.0.1]:1", "10.0.0.2:2", "TCP4 10.0.0.1 10.0.0.2 1 2");
    check_line("[2001:db8::1]:1", "[::1]:2", "TCP6 2001:db8::1 ::1 1 2");
    check_line("10.0.0.1:1", "[::1]:2", "TCP6 ::ffff:a00:1 ::1 1 2");
    check_line("[::1]:1", "10.0.0.2:2", "TCP6 ::1 ::ffff:a00:2 1 2");
    let unknown =
        OutgoingHeader { version: HeaderVersion::V1, endpoints: None, tlvs: Vec::new(), crc32c: true };
    assert_eq!(unknown.write(), b"PROXY UNKNOWN\r\n");
}

#[test]
fn binary_headers_are_written() {
    let plain = outgoing("10.0.0.1:1000", "10.0.0.2:443", &[]);
    assert_eq!(plain.write(), v2(0x21, 0x11, TCP4));
    let mapped = outgoing("[::ffff:10.0.0.1]:1000", "10.0.0.2:443", &[]);
    assert_eq!(mapped.write(), v2(0x21, 0x11, TCP4));
    let unknown = OutgoingHeader { endpoints: None, tlvs: vec![(5, b"id")], ..plain };
    assert_eq!(unknown.write(), v2(0x21, 0x00, &tlv(5, b"id")));
    check(&summed(&unknown), "V2 unknown, 0x5 id (28)");
    check(&outgoing("10.0.0.1:1", "[::1]:2", &[]).write(), "V2 10.0.0.1:1 > [::1]:2 (52)");
}

#[test]
fn tlvs_beyond_the_bound_are_omitted() {
    let long = vec![b'x'; LONGEST_V2];
    let header = outgoing("10.0.0.1:1", "10.0.0.2:2", &[(0xe0, &long), (5, b"id")]).write();
    check(&header, "V2 10.0.0.1:1 > 10.0.0.2:2, 0x5 id (33)");
    let exact = &long[..LONGEST_V2 - 16 - 12 - 3 - 7];
    let full = summed(&outgoing("10.0.0.1:1", "10.0.0.2:2", &[(0xe0, exact), (0xe1, b"")]));
    assert_eq!(full.len(), LONGEST_V2);
    assert!(
        matches!(read(&full), Ok(Some(HeaderSearch::Header(header, LONGEST_V2))) if header.tlvs.len() == 1)
    );
}

#[test]
fn a_connection_of_our_own_is_local() {
    let ends = Some(("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()));
    assert_eq!(local(HeaderVersion::V1, ends), b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    assert_eq!(local(HeaderVersion::V1, None), b"PROXY UNKNOWN\r\n");
    for ends in [ends, None] {
        assert_eq!(local(HeaderVersion::V2, ends), v2(0x20, 0, b""));
    }
}

/// Returns headers of every form, with bytes that may follow them.
fn samples() -> Vec<Vec<u8>> {
    let tlvs: &[(u8, &[u8])] = &[(2, b"mail.example.com"), (5, b"id"), (0xea, &[0, 1, 2])];
    let four = outgoing("10.0.0.1:1000", "10.0.0.2:443", tlvs);
    let six = outgoing("[2001:db8::1]:1000", "[::1]:443", tlvs);
    let mut samples =
        vec![local(HeaderVersion::V1, None), local(HeaderVersion::V2, None), v2(0x21, 0x31, &[b'p'; 216])];
    samples.push(v2(0x20, 0xf1, b"junk"));
    for one in [&four, &six] {
        samples.extend([
            one.write(),
            summed(one),
            OutgoingHeader { version: HeaderVersion::V1, ..one.clone() }.write(),
        ]);
    }
    samples
}

#[test]
fn every_prefix_is_incomplete() {
    let mut seen = 0;
    for sample in samples() {
        for end in 0..sample.len() {
            assert_eq!(read(&sample[..end]), Ok(None), "{}", sample[..end].escape_ascii());
            seen += 1;
        }
        let whole = read(&sample).unwrap();
        assert!(matches!(&whole, Some(HeaderSearch::Header(_, length)) if *length == sample.len()));
        assert_eq!(read(&[&sample[..], b"\x16\x03\x01 and more\r\n"].concat()).unwrap(), whole);
    }
    assert!(seen > 500, "{seen}");
}

/// Checks that the result for a prefix, once it is not "more", equals the result for the whole.
fn check_segments(bytes: &[u8]) {
    let whole = read(bytes);
    let mut answered = false;
    for end in 0..=bytes.len() {
        let answer = read(&bytes[..end]);
        if answer != Ok(None) {
            assert_eq!(answer, whole, "{} of {}", end, bytes.escape_ascii());
            answered = true;
        }
        assert!(!answered || answer != Ok(None));
    }
    if whole == Ok(None) {
        assert!(bytes.len() < LONGEST_V2);
    }
}

#[test]
fn no_change_of_a_byte_panics_or_depends_on_segments() {
    let mut seen = 0;
    for sample in samples() {
        for at in 0..sample.len() {
            for value in [0, 1, 2, 0x0a, 0x0d, 0x20, 0x7f, 0xff, sample[at] ^ 1, sample[at] ^ 0x80] {
                let mut changed = sample.clone();
                changed[at] = value;
                check_segments(&changed);
                seen += 1;
            }
        }
    }
    assert!(seen > 5000, "{seen}");
}

proptest! {
    #[test]
    fn a_written_header_reads_back(
        source: SocketAddr,
        destination: SocketAddr,
        is_known: bool,
        crc32c: bool,
        tlvs in prop::collection::vec((prop_oneof![Just(1_u8), Just(2), 0x20_u8..], prop::collection::vec(any::<u8>(), 0..200)), 0..8),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let endpoints = is_known.then_some((source, destination));
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let origin = match endpoints {
            Some(_) => HeaderOrigin::Tcp { source: canonical(source), destination: canonical(destination) },
            None => HeaderOrigin::Unknown,
        };
        let given: Vec<_> = tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        for version in [HeaderVersion::V1, HeaderVersion::V2] {
            let header = OutgoingHeader { version, endpoints, tlvs: given.clone(), crc32c }.write();
            let tlvs = match version {
                HeaderVersion::V1 => Vec::new(),
                HeaderVersion::V2 => given.iter().map(|(kind, value)| Tlv::new(*kind, *value)).collect(),
            };
            let expected = HeaderSearch::Header(ProxyHeader { version, origin: origin.clone(), tlvs }, header.len());
            prop_assert_eq!(read(&[header, behind.clone()].concat()), Ok(Some(expected)));
        }
    }

    #[test]
    fn anything_may_be_read(
        start in prop_oneof![Just(&b""[..]), Just(V1_SIGNATURE), Just(&V2_SIGNATURE[..])],
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        check_segments(&[start, &rest].concat());
    }

    #[test]
    fn any_tlvs_may_be_read(block in prop::collection::vec(prop_oneof![0_u8..6, any::<u8>()], 0..80)) {
        for family in [0x00, 0x11, 0x41] {
            for command in [0x20, 0x21] {
                check_segments(&v2(command, family, &[TCP4, &block].concat()));
            }
        }
    }
}
