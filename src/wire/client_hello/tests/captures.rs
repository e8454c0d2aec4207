//! Tests with captured hellos, which are cut and changed, and compared with the result of rustls.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::tests::bit_flips;

#[test]
fn captures_give_their_names() {
    for (file, raw, name) in FIXTURES {
        let hello = read(raw).unwrap().expect(file);
        assert_eq!(name_of(&hello), name, "{file}");
        assert_eq!(hello.records, if file == "openssl-records" { 3 } else { 1 }, "{file}");
    }
}

#[test]
fn every_prefix_of_a_capture_is_incomplete() {
    for (file, raw, _) in FIXTURES {
        let hello = read(raw);
        let mut reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
        let end = (1..=raw.len()).find(|&end| reader.read(&raw[..end]) != Ok(None)).expect(file);
        for prefix in 0..end {
            assert_eq!(read(&raw[..prefix]), Ok(None), "{file} up to {prefix}");
        }
        for prefix in end..=raw.len() {
            assert_eq!(read(&raw[..prefix]), hello, "{file} up to {prefix}");
        }
        assert_eq!(end == raw.len(), file != "openssl-early-data", "{file} ends at {end}");
    }
}

#[test]
fn every_cut_of_a_capture_gives_the_same_answer() {
    for (file, raw, _) in FIXTURES {
        let reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
        for cut in 0..raw.len() {
            assert_eq!(read_pieces(reader.clone(), raw, [cut]), read(raw), "{file} cut at {cut}");
        }
        assert_eq!(read_pieces(reader, raw, 1..=raw.len()), read(raw), "{file} byte by byte");
    }
}

#[test]
fn every_record_split_of_a_capture_gives_the_same_name() {
    for (file, raw, name) in FIXTURES {
        let message = message_of(raw);
        for cut in 1..message.len() {
            let hello = read(&records(&message, [cut])).unwrap().expect(file);
            assert_eq!((name_of(&hello), hello.records), (name, 2), "{file} split at {cut}");
        }
        let hello = read(&records(&message, iter::repeat(1))).unwrap().expect(file);
        assert_eq!((name_of(&hello), hello.records as usize), (name, message.len()), "{file}");
    }
}

/// No changed byte may give a hello another name, except a byte of the name itself. A few changes remove the name from
/// a hello that is still well-formed: a change of the extension's type, and a length that grows so that one extension
/// includes others whole. For these, rustls must not find a name either.
fn check_changed_bytes(values: impl Fn(u8) -> Vec<u8>, hiding: std::ops::RangeInclusive<usize>) {
    for (file, raw, name) in FIXTURES {
        let range = name.map(|name| range_of(raw, name)).unwrap_or_default();
        let mut changed = raw.to_vec();
        let mut vanished = 0;
        for (at, byte) in
            (0..raw.len()).flat_map(|at| values(raw[at]).into_iter().map(move |byte| (at, byte)))
        {
            changed[at] = byte;
            let answer = read(&changed);
            if range.contains(&at) {
                let expected = ServerName::from_client(&changed[range.clone()]).map_err(HelloFault::BadName);
                assert_eq!(answer.map(|hello| hello.unwrap().server_name.unwrap()), expected, "{file}");
            } else if let Ok(Some(hello)) = answer
                && name_of(&hello) != name
            {
                assert_eq!(name_of(&hello), None, "{file}: {byte} at {at}");
                compare_with_rustls(&changed).unwrap();
                vanished += 1;
            }
            changed[at] = raw[at];
        }
        let expected = if name.is_some() { hiding.clone() } else { 0..=0 };
        assert!(expected.contains(&vanished), "{file}: {vanished} of the changes hide the name");
    }
}

#[test]
fn a_flipped_bit_of_a_capture_is_a_fault_or_keeps_the_name() {
    // The sixteen bits of the type, except types that the hello already has.
    check_changed_bytes(bit_flips, 10..=30);
}

#[test]
#[ignore = "takes long in a debug build"]
fn every_changed_byte_of_a_capture_is_a_fault_or_keeps_the_name() {
    // All other values of the two bytes of the type, except types that the hello already has.
    check_changed_bytes(|_| (0..=255).collect(), 400..=600);
}

/// Returns the range of a capture's name in its bytes.
fn range_of(raw: &[u8], name: &str) -> std::ops::Range<usize> {
    let mut windows = raw.windows(name.len());
    let start = windows.position(|window| window.eq_ignore_ascii_case(name.as_bytes())).unwrap();
    let length = usize::from(u16::from_be_bytes([raw[start - 2], raw[start - 1]]));
    start..start + length
}

/// The result of rustls for the same bytes.
#[derive(Debug, PartialEq)]
enum Oracle {
    Accepts(Option<String>),
    Waits,
    Rejects,
}

fn read_with_rustls(raw: &[u8]) -> Oracle {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut bytes = raw;
    loop {
        let Ok(count) = acceptor.read_tls(&mut bytes) else { return Oracle::Rejects };
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Oracle::Accepts(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) if count == 0 => return Oracle::Waits,
            Ok(None) => (),
            Err(_) => return Oracle::Rejects,
        }
    }
}

/// Compares our result with that of rustls. If rustls accepts, we must read the same name or return a fault of the list
/// below. If rustls waits for more, we may return a hello only if its last record has not ended: we do not wait for the
/// bytes after the hello. If rustls rejects, nothing is compared, because it checks contents of other extensions too.
fn compare_with_rustls(raw: &[u8]) -> Result<(), TestCaseError> {
    let mut reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
    let ours = reader.read(raw);
    match read_with_rustls(raw) {
        Oracle::Accepts(theirs) => match ours {
            Ok(Some(hello)) => {
                // rustls keeps the trailing dot.
                let theirs = theirs.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
                prop_assert_eq!(name_of(&hello), theirs);
            }
            Ok(None) => prop_assert!(false, "rustls has a whole hello where we wait"),
            Err(fault) => prop_assert!(is_stricter(fault, theirs.as_deref()), "{fault:?}, not {theirs:?}"),
        },
        Oracle::Waits => {
            let cut_off = reader.position == raw.len() && reader.fragment > 0;
            prop_assert!(!matches!(ours, Ok(Some(_))) || cut_off, "rustls waits, we read {ours:?}");
        }
        Oracle::Rejects => (),
    }
    Ok(())
}

/// Returns true for the faults that we return on purpose although rustls accepts the hello.
fn is_stricter(fault: HelloFault, theirs: Option<&str>) -> bool {
    match fault {
        // rustls ignores an IP address in the extension.
        HelloFault::BadName(NameFault::IpLiteral) => theirs.is_none(),
        // rustls stops at an entry of unknown type in the list, and keeps the entries before it.
        HelloFault::Malformed(Malformed::ServerName) => true,
        _ => false,
    }
}

/// Returns a capture's hello with another server name extension.
fn with_server_name(raw: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let message = message_of(raw);
    let range = range_of(&message, name);
    let mut rest = message.clone();
    rest.splice(range.start - 9..range.end, extension(0, content));
    let grown = rest.len() as isize - message.len() as isize;
    let body = rest.len() - MESSAGE_HEADER;
    rest[1..4].copy_from_slice(&(body as u32).to_be_bytes()[1..]);
    let session = MESSAGE_HEADER + 34;
    let suites = session + 1 + usize::from(rest[session]);
    let compression = suites + 2 + usize::from(u16::from_be_bytes([rest[suites], rest[suites + 1]]));
    let block = compression + 1 + usize::from(rest[compression]);
    let length = u16::from_be_bytes([rest[block], rest[block + 1]]).wrapping_add_signed(grown as i16);
    rest[block..block + 2].copy_from_slice(&length.to_be_bytes());
    record(&rest)
}

#[test]
fn rustls_agrees_on_captures() {
    let mut accepted = 0;
    for (file, raw, name) in FIXTURES {
        compare_with_rustls(raw).unwrap();
        let theirs = read_with_rustls(raw);
        accepted += usize::from(matches!(theirs, Oracle::Accepts(_)));
        if let Some(name) = name {
            let changed = with_server_name(raw, name, &vector16(&entry(0, b"Other.Example")));
            assert_eq!(read(&changed).unwrap().as_ref().map(name_of), Some(Some("other.example")), "{file}");
            compare_with_rustls(&changed).unwrap();
        }
    }
    assert_eq!(accepted, FIXTURES.len());
}

fn a_fixture() -> impl Strategy<Value = (&'static str, &'static [u8], Option<&'static str>)> {
    prop::sample::select(FIXTURES.to_vec())
}

/// One change to some bytes: overwrite, insert, remove, or repeat a range.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Repeat(Index, usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Set(at, byte) => *at.get_mut(bytes) = *byte,
            Change::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Change::Remove(at) if bytes.len() > 1 => drop(bytes.remove(at.index(bytes.len()))),
            Change::Remove(_) => (),
            Change::Repeat(at, length) => {
                let start = at.index(bytes.len());
                let end = bytes.len().min(start + length);
                bytes.extend_from_within(start..end);
                bytes[start..].rotate_right(end - start);
            }
        }
    }
}

fn a_change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let byte = || prop_oneof![any::<u8>(), 0..4u8];
    prop_oneof![
        4 => (at(), byte()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at(), byte()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => at().prop_map(Change::Remove),
        1 => (at(), 1..40usize).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

/// Generates names and contents of server name extensions that are nearly valid.
fn a_server_name_content() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        "[a-zA-Z0-9._-]{0,20}",
        "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}",
        "(0x[0-9a-f]{0,3}\\.?){1,2}",
        "[a-z]{60,64}(\\.[a-z]{58,64}){0,4}\\.?",
        "\\PC{1,6}",
    ];
    let entries = prop::collection::vec((prop_oneof![9 => Just(0), 1 => any::<u8>()], name), 0..3);
    entries.prop_map(|entries| {
        vector16(&entries.iter().flat_map(|(kind, name)| entry(*kind, name.as_bytes())).collect::<Vec<_>>())
    })
}

proptest! {
    #[test]
    fn exactly_repeated_types_are_refused(
        kinds in prop_oneof![
            prop::collection::vec(any::<u16>(), 0..400),
            prop::collection::vec(1..2000_u16, 0..200),
        ],
    ) {
        let block: Vec<u8> = kinds.iter().flat_map(|&kind| extension(kind, &[])).collect();
        let repeats = kinds.iter().collect::<HashSet<_>>().len() < kinds.len();
        // An empty server name extension is a fault too, but a fault of its content.
        let expected = match (repeats, kinds.contains(&0)) {
            (true, _) => Err(HelloFault::Malformed(Malformed::DuplicateExtension)),
            (false, true) => Err(HelloFault::Malformed(Malformed::ServerName)),
            (false, false) => Ok(None),
        };
        let name = read(&record(&hello(&block))).map(|hello| hello.unwrap().server_name);
        prop_assert_eq!(name, expected);
    }

    #[test]
    fn any_segmentation_and_record_split_gives_the_same_answer(
        (_, raw, name) in a_fixture(),
        change in prop::option::of(a_change()),
        lengths in prop::collection::vec(prop_oneof![1..8usize, 1..600usize], 0..400),
        steps in prop::collection::vec(prop_oneof![1..8usize, 1..600usize], 0..400),
    ) {
        let mut message = message_of(raw);
        if let Some(change) = &change {
            change.apply(&mut message);
        }
        let whole = read(&record(&message));
        let split = records(&message, lengths);
        let ends = steps.iter().scan(0, |end, step| {
            *end += step;
            Some(*end)
        });
        let ends = ends.take_while(|&end| end <= split.len());
        let reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
        let answer = read_pieces(reader, &split, ends);
        prop_assert_eq!(&answer, &read(&split));
        let named = |answer: Answer| answer.map(|hello| hello.map(|hello| (hello.server_name, hello.size)));
        prop_assert_eq!(named(answer), named(whole.clone()));
        if change.is_none() {
            let whole = whole.unwrap();
            prop_assert_eq!(whole.as_ref().map(name_of), Some(name));
        }
    }

    #[test]
    fn any_bytes_give_the_same_answer_in_one_byte_segments(
        mut raw in prop::collection::vec(any::<u8>(), 0..200),
        start in prop::sample::select(vec![&[][..], &[22, 3, 1], &[22, 3, 1, 0, 150, 1, 0, 0], &[22, 3, 3, 0, 1, 1]]),
    ) {
        raw.splice(0..0, start.iter().copied());
        let reader = HelloReader::new(HelloReader::DEFAULT_MAX_SIZE);
        prop_assert_eq!(read_pieces(reader, &raw, 1..=raw.len()), read(&raw));
    }

    #[test]
    fn rustls_agrees_on_changed_captures(
        (_, raw, _) in a_fixture(),
        changes in prop::collection::vec(a_change(), 1..4),
    ) {
        let mut raw = raw.to_vec();
        for change in &changes {
            change.apply(&mut raw);
        }
        compare_with_rustls(&raw)?;
    }

    #[test]
    fn rustls_agrees_on_changed_messages(
        (_, raw, _) in a_fixture(),
        changes in prop::collection::vec(a_change(), 1..4),
        lengths in prop::collection::vec(1..600usize, 0..4),
    ) {
        let mut message = message_of(raw);
        for change in &changes {
            change.apply(&mut message);
        }
        compare_with_rustls(&records(&message, lengths))?;
    }

    #[test]
    fn rustls_agrees_on_other_names(
        (_, raw, name) in a_fixture(),
        content in a_server_name_content(),
    ) {
        let Some(name) = name else { return Ok(()) };
        compare_with_rustls(&with_server_name(raw, name, &content))?;
    }
}
