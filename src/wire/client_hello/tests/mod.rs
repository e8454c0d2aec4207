mod captures;

use std::iter;

use super::*;

type Answer = Result<Option<ClientHello>, HelloFault>;

/// One row of [`FIXTURES`].
macro_rules! fixture {
    ($file:literal, $name:expr) => {
        (
            $file,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hello/", $file, ".bin")),
            $name,
        )
    };
}
/// Captured hellos of real clients, each with the name that the client was given, in lower case. The README beside them
/// describes them.
pub(super) const FIXTURES: [(&str, &[u8], Option<&str>); 14] = [
    fixture!("chromium", Some("shop.example.com")),
    fixture!("curl", Some("www.example.org")),
    fixture!("firefox", Some("shop.example.org")),
    fixture!("gnutls", Some("imap.example.net")),
    fixture!("java", Some("java.example.com")),
    fixture!("node", Some("node.example.com")),
    fixture!("openssl-early-data", Some("early.example.com")),
    fixture!("openssl-no-name", None),
    fixture!("openssl-records", Some("records.example.com")),
    fixture!("openssl-tls12", Some("mail.example.com")),
    fixture!("openssl-tls13", Some("mail.example.com")),
    fixture!("openssl-upper", Some("mail.example.com")),
    fixture!("psql", Some("db.example.com")),
    fixture!("python", Some("py.example.com")),
];

pub(super) fn read(raw: &[u8]) -> Answer {
    HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(raw)
}

/// Reads `raw` as it grows to each of `ends`, and stops at the first result, which a second call must repeat.
fn read_pieces(mut reader: HelloReader, raw: &[u8], ends: impl IntoIterator<Item = usize>) -> Answer {
    for end in ends.into_iter().chain([raw.len()]) {
        let answer = reader.read(&raw[..end]);
        if answer != Ok(None) {
            assert_eq!(reader.read(raw), answer, "a repeated call");
            return answer;
        }
        let header_at_most = end.min(reader.max_raw()) - reader.position;
        assert!(header_at_most < RECORD_HEADER, "only a partial record header is ever read again");
    }
    Ok(None)
}

/// Wraps a handshake message in records with fragments of the given lengths, and one record for the rest.
fn records(message: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut rest = message;
    for length in lengths.into_iter().chain(iter::repeat(usize::from(MAX_FRAGMENT))) {
        let (fragment, next) = rest.split_at(length.min(rest.len()));
        raw.extend([22, 3, 1]);
        raw.extend((fragment.len() as u16).to_be_bytes());
        raw.extend(fragment);
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    raw
}

fn record(message: &[u8]) -> Vec<u8> {
    records(message, [])
}

/// Returns the handshake bytes of a fixture's hello, without record headers.
pub(super) fn message_of(raw: &[u8]) -> Vec<u8> {
    let mut reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    let size = reader.read(raw).unwrap().unwrap().size;
    message_in(raw, reader.records, size).into_owned()
}

pub(super) fn vector8(content: &[u8]) -> Vec<u8> {
    [&[content.len() as u8], content].concat()
}

pub(super) fn vector16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes(), content].concat()
}

pub(super) fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), vector16(content).as_slice()].concat()
}

/// Builds an entry of the list of server names.
fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], vector16(name).as_slice()].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&entry(0, name)))
}

/// Builds a handshake message of the type of a hello.
fn message(body: &[u8]) -> Vec<u8> {
    [&[1], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// Builds the fields before the extensions.
fn preamble() -> Vec<u8> {
    [&[3, 3], [7; 32].as_slice(), &vector8(&[9; 32]), &vector16(&[0x13, 1, 0x13, 2]), &vector8(&[0])].concat()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    message(&[preamble(), vector16(extensions)].concat())
}

/// Checks the result for the bytes as a whole and in one-byte segments.
#[track_caller]
fn check(raw: impl AsRef<[u8]>, expected: Result<Option<&str>, HelloFault>) {
    let raw = raw.as_ref();
    let reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    let answer = read(raw);
    assert_eq!(read_pieces(reader, raw, 1..=raw.len()), answer, "in one-byte segments");
    let hello = answer.map(|hello| hello.expect("the bytes decide"));
    assert_eq!(hello.as_ref().map(name_of).map_err(|fault| *fault), expected);
}

fn name_of(hello: &ClientHello) -> Option<&str> {
    hello.server_name.as_ref().map(ServerName::as_str)
}

#[track_caller]
fn check_malformed(raw: impl AsRef<[u8]>, which: Malformed) {
    check(raw, Err(HelloFault::Malformed(which)));
}

#[track_caller]
fn check_incomplete(raw: &[u8]) {
    let reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    assert_eq!(read_pieces(reader, raw, 1..=raw.len()), Ok(None));
    assert_eq!(read(raw), Ok(None));
}

#[test]
fn names_are_read() {
    check(record(&hello(&sni(b"mail.example.com"))), Ok(Some("mail.example.com")));
    check(record(&hello(&sni(b"MAIL.example.com."))), Ok(Some("mail.example.com")));
    check(record(&hello(&[])), Ok(None));
    check(record(&hello(&extension(16, b"\0\x03\x02h2"))), Ok(None));
    check(record(&message(&preamble())), Ok(None));
}

#[test]
fn a_name_is_found_behind_odd_extensions() {
    let odd = [0x17, 0x1c, 0x0f, 0x01, 0x16, 0x10, 0x0b, 0xffce, 0x2d, 0xff01, 0x31, 0x0a, 0x0d, 0x33];
    for kind in odd {
        for content in [&[][..], &[0xff], &[0xff; 7]] {
            let extensions = [extension(kind, content), sni(b"a.example")].concat();
            check(record(&hello(&extensions)), Ok(Some("a.example")));
        }
    }
}

#[test]
fn the_version_is_not_looked_at() {
    for minor in [0, 1, 4, 255] {
        let mut raw = record(&hello(&sni(b"a.example")));
        raw[2] = minor;
        raw[10] = minor;
        check(raw, Ok(Some("a.example")));
    }
}

#[test]
fn bytes_behind_the_hello_are_left_alone() {
    let hello = hello(&sni(b"a.example"));
    let early_data = [record(&hello), vec![20, 3, 3, 0, 1, 1], vec![0xff; 9]].concat();
    check(early_data, Ok(Some("a.example")));
    check(record(&[hello.clone(), vec![11, 0, 0, 0]].concat()), Ok(Some("a.example")));
    check(record(&[hello.clone(), vec![0xff]].concat()), Ok(Some("a.example")));
    let endless = [record(&hello), vec![0; 7 * HelloReader::DEFAULT_MAX_SIZE]].concat();
    assert_eq!(read(&endless).unwrap().as_ref().map(name_of), Some(Some("a.example")));
}

#[test]
fn the_first_bytes_show_what_is_not_tls() {
    check("G", Err(HelloFault::NotTls));
    check("SSH-2.0-OpenSSH_9.2\r\n", Err(HelloFault::NotTls));
    check([0x80], Err(HelloFault::NotTls));
    check([0x80, 0x2e, 0x01, 0x03, 0x01], Err(HelloFault::NotTls));
    check([0], Err(HelloFault::NotTls));
    check([21, 3, 3, 0, 2, 2, 40], Err(HelloFault::NotTls));
    check([23], Err(HelloFault::NotTls));
    check([22, 2], Err(HelloFault::NotTls));
    check([22, 0xfe, 0xfd], Err(HelloFault::NotTls));
    check_incomplete(&[]);
    check_incomplete(&[22]);
    check_incomplete(&[22, 3]);
}

#[test]
fn records_are_judged() {
    let hello = hello(&sni(b"a.example"));
    let first = record(&hello[..20]);
    check_malformed([&first[..], &[21]].concat(), Malformed::RecordType);
    check_malformed([&first[..], &[23, 3, 3]].concat(), Malformed::RecordType);
    check_malformed([&first[..], &[22, 2]].concat(), Malformed::RecordVersion);
    check_malformed([&first[..], &[22, 3, 3, 0, 0]].concat(), Malformed::EmptyRecord);
    check_malformed([22, 3, 1, 0, 0], Malformed::EmptyRecord);
    check_malformed([22, 3, 1, 0x40, 1], Malformed::LongRecord);
    check_malformed([22, 3, 1, 0xff, 0xff], Malformed::LongRecord);
    check_incomplete(&[22, 3, 1, 0x40, 0]);
    check_malformed(record(&[2, 0, 0, 40]), Malformed::MessageType);
    check_malformed(record(&[0]), Malformed::MessageType);
    // The result is the first fault in the order of the bytes.
    check_malformed([&record(&[2])[..], &[21]].concat(), Malformed::MessageType);
}

#[test]
fn fields_are_judged() {
    let malformed = |body: &[&[u8]], which| check_malformed(record(&message(&body.concat())), which);
    let random = [3; 34];
    malformed(&[], Malformed::Random);
    malformed(&[&random[1..]], Malformed::Random);
    malformed(&[&random], Malformed::SessionId);
    malformed(&[&random, &[2, 0]], Malformed::SessionId);
    malformed(&[&random, &[33], &[0; 80]], Malformed::SessionId);
    malformed(&[&random, &[0], &[0]], Malformed::CipherSuites);
    malformed(&[&random, &[0], &[0, 0, 1, 0]], Malformed::CipherSuites);
    malformed(&[&random, &[0], &[0, 3, 1, 2, 3, 1, 0]], Malformed::CipherSuites);
    malformed(&[&random, &[0], &[0, 4, 1, 2, 3]], Malformed::CipherSuites);
    malformed(&[&random, &[0], &[0, 2, 1, 2]], Malformed::Compression);
    malformed(&[&random, &[0], &[0, 2, 1, 2, 0]], Malformed::Compression);
    malformed(&[&random, &[0], &[0, 2, 1, 2, 2, 0]], Malformed::Compression);
    let preamble = preamble();
    malformed(&[&preamble, &[0]], Malformed::Extensions);
    malformed(&[&preamble, &[0, 1]], Malformed::Extensions);
    malformed(&[&preamble, &[0, 0, 0]], Malformed::TrailingBytes);
    malformed(&[&preamble, &vector16(&sni(b"a.example")), &[0]], Malformed::TrailingBytes);
}

#[test]
fn extensions_are_judged() {
    let malformed =
        |extensions: &[&[u8]], which| check_malformed(record(&hello(&extensions.concat())), which);
    let name = sni(b"a.example");
    malformed(&[&name, &[0]], Malformed::Extension);
    malformed(&[&name, &[0, 7]], Malformed::Extension);
    malformed(&[&name, &[0, 7, 0]], Malformed::Extension);
    malformed(&[&name, &[0, 7, 0, 2, 1]], Malformed::Extension);
    malformed(&[&name, &name], Malformed::DuplicateExtension);
    malformed(&[&name, &sni(b"b.example")], Malformed::DuplicateExtension);
    malformed(&[&extension(0xfafa, &[]), &name, &extension(0xfafa, &[1])], Malformed::DuplicateExtension);
    // A bad name does not hide the fault of the structure.
    malformed(&[&sni(b"1.2.3.4"), &[0]], Malformed::Extension);
}

#[test]
fn a_repeated_extension_is_found_among_thousands() {
    let types: Vec<u16> = (1..4000).map(|n: u16| n.wrapping_mul(0x1f35)).collect();
    let hello_of = |types: &[u16]| {
        let empty: Vec<u8> = types.iter().flat_map(|&kind| extension(kind, &[])).collect();
        record(&hello(&[empty, sni(b"a.example")].concat()))
    };
    assert_eq!(read(&hello_of(&types)).unwrap().as_ref().map(name_of), Some(Some("a.example")));
    for (first, second) in [(0, 1), (0, 3998), (2000, 2001), (3997, 3998)] {
        let mut repeating = types.clone();
        repeating[second] = types[first];
        let expected = Err(HelloFault::Malformed(Malformed::DuplicateExtension));
        assert_eq!(read(&hello_of(&repeating)), expected, "{first} and {second}");
    }
}

#[test]
fn the_server_name_extension_is_judged() {
    let malformed =
        |content: &[u8]| check_malformed(record(&hello(&extension(0, content))), Malformed::ServerName);
    let one = entry(0, b"a.example");
    malformed(&[]);
    malformed(&[0]);
    malformed(&[0, 0]);
    malformed(&vector16(&[0]));
    malformed(&vector16(&[0, 0]));
    malformed(&vector16(&one[..11]));
    malformed(&[vector16(&one), vec![0]].concat());
    malformed(&vector16(&one)[..11]);
    malformed(&vector16(&[one.clone(), vec![0]].concat()));
    malformed(&vector16(&[one.clone(), one.clone()].concat()));
    malformed(&vector16(&[one.clone(), entry(1, b"x")].concat()));
    malformed(&vector16(&entry(1, b"a.example")));
    malformed(&vector16(&[entry(255, b""), one].concat()));
}

#[test]
fn names_are_judged() {
    let bad = |name: &[u8], fault| check(record(&hello(&sni(name))), Err(HelloFault::BadName(fault)));
    bad(b"", NameFault::Empty);
    bad(b"a.example\0", NameFault::Nul);
    bad(b"127.1", NameFault::IpLiteral);
    bad(b"1.2.3.999", NameFault::IpLiteral);
    bad(b"*.example", NameFault::Wildcard);
    bad(&[b'a'; 254], NameFault::TooLong);
    bad(&[b'a'; 16_000], NameFault::TooLong);
}

/// Clients that connect to an address send it as the name, against RFC 6066, section 3.
#[test]
fn an_address_is_no_name() {
    for address in
        ["192.0.2.1", "192.0.2.1.", "2001:db8::1", "[2001:db8::1]", "::ffff:192.0.2.1", "fe80::1%2"]
    {
        let raw = record(&hello(&sni(address.as_bytes())));
        let read = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).read(&raw).unwrap().unwrap();
        assert_eq!(read.server_name, None, "{address}");
    }
}

#[test]
fn size_is_bounded_by_the_limit() {
    let padded = |padding: usize| hello(&[sni(b"a.example"), extension(21, &vec![0; padding])].concat());
    let fits = padded(HelloReader::DEFAULT_MAX_SIZE - padded(0).len());
    let answer = ClientHello {
        server_name: Some("a.example".parse().unwrap()),
        records: 1,
        size: HelloReader::DEFAULT_MAX_SIZE,
    };
    assert_eq!(read(&record(&fits)), Ok(Some(answer.clone())));
    let smallest = records(&fits, iter::repeat(1));
    assert_eq!(smallest.len(), HelloReader::new(HelloReader::DEFAULT_MAX_SIZE).max_raw());
    let in_each = ClientHello { records: HelloReader::DEFAULT_MAX_SIZE as u32, ..answer };
    assert_eq!(read(&smallest), Ok(Some(in_each.clone())));
    let reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    assert_eq!(read_pieces(reader, &smallest, 1..=smallest.len()), Ok(Some(in_each)));
    let over = padded(HelloReader::DEFAULT_MAX_SIZE - padded(0).len() + 1);
    check(&record(&over)[..9], Err(HelloFault::TooLarge));
    check(record(&over), Err(HelloFault::TooLarge));
    check(records(&[1, 0xff, 0xff, 0xff], [1, 1, 1]), Err(HelloFault::TooLarge));
    check_incomplete(&record(&over)[..8]);
}

/// Feeds endless bytes to a reader; returns the number of bytes after which it failed, and its fault.
fn feed(max_size: usize, endless: impl IntoIterator<Item = u8>) -> (usize, HelloFault) {
    let mut reader = HelloReader::new(max_size);
    let mut raw = Vec::new();
    for byte in endless {
        raw.push(byte);
        match reader.read(&raw) {
            Ok(None) => assert!(raw.len() < reader.max_raw(), "more than max_raw bytes are needed"),
            Ok(Some(hello)) => panic!("a hello in endless bytes: {hello:?}"),
            Err(fault) => return (raw.len(), fault),
        }
    }
    panic!("the bytes ended");
}

#[test]
fn an_endless_hello_is_stopped() {
    let tiny_records =
        |message: Vec<u8>| message.into_iter().chain(iter::repeat(7)).flat_map(|byte| [22, 3, 1, 0, 1, byte]);
    let random = HelloFault::Malformed(Malformed::SessionId);
    let (bytes, fault) = feed(16_384, tiny_records(vec![1, 0, 0x3f, 0xfc]));
    assert_eq!((bytes, fault), (6 * 16_384, HelloFault::Malformed(Malformed::CipherSuites)));
    assert_eq!(feed(16_384, tiny_records(vec![1, 0, 0x3f, 0xfd])), (24, HelloFault::TooLarge));
    assert_eq!(feed(40, tiny_records(vec![1, 0, 0, 36, 3, 3])).0, 240);
    assert_eq!(feed(40, tiny_records(vec![1, 0, 0, 35, 3, 3])), (39 * 6, random));
    assert_eq!(feed(3, tiny_records(vec![1])), (18, HelloFault::TooLarge));
    assert_eq!(feed(16_384, iter::repeat(22)).0, 2);
    assert_eq!(feed(16_384, [22, 3, 1, 0].into_iter().cycle()).0, 6);
}

#[test]
fn faults_get_their_alerts() {
    let malformed = |which| HelloFault::Malformed(which).alert();
    assert_eq!(HelloFault::NotTls.alert(), None);
    assert_eq!(HelloFault::TooLarge.alert(), Some(Alert::DecodeError));
    assert_eq!(HelloFault::BadName(NameFault::Nul).alert(), Some(Alert::UnrecognizedName));
    assert_eq!(malformed(Malformed::RecordType), Some(Alert::UnexpectedMessage));
    assert_eq!(malformed(Malformed::MessageType), Some(Alert::UnexpectedMessage));
    assert_eq!(malformed(Malformed::LongRecord), Some(Alert::RecordOverflow));
    assert_eq!(malformed(Malformed::EmptyRecord), Some(Alert::DecodeError));
    assert_eq!(malformed(Malformed::Extensions), Some(Alert::DecodeError));
}

#[test]
fn a_name_can_be_had_as_it_was_sent() {
    fn check(raw: &[u8], expected: Option<&[u8]>) {
        let mut reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
        let _ = reader.read(raw);
        assert_eq!(reader.sent_name(raw).as_deref(), expected);
    }
    let name = b"A\r\n\0.example.";
    let whole = hello(&[extension(21, &[0; 9]), sni(name)].concat());
    check(&record(&whole), Some(name));
    check(&records(&whole, [1, 2, 3, 40, 5]), Some(name));
    check(&[record(&whole), vec![23, 3, 3, 0, 1, 0]].concat(), Some(name));
    check(&record(&hello(&sni(b""))), Some(b""));
    check(&record(&whole)[..record(&whole).len() - 1], None);
    check(&record(&hello(&[])), None);
    check(&record(&hello(&extension(0, &[]))), None);
    check(b"", None);
    check(b"GET /", None);
}
