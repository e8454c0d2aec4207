//! Writes files in MaxMind's format: a tree of the bits of addresses, then the records that its leaves point at, then
//! the metadata. The readers of such files are tried with what they must read and with what they must refuse.
#![allow(dead_code, reason = "no test uses all of it")]

use std::net::IpAddr;

/// The places of IPv6 where writers repeat IPv4: mapped, Teredo, 6to4.
const ALIASES: [(u128, u8); 3] = [(0xffff << 32, 96), (0x2001 << 112, 32), (0x2002 << 112, 16)];

/// A file to be.
pub(crate) struct CountryFile {
    pub(crate) ip_version: u16,
    /// Bits of a record of the tree: 24, 28 or 32.
    pub(crate) record_size: u16,
    /// Whether IPv4 is found at its aliases too.
    pub(crate) has_aliases: bool,
    /// As the metadata say it.
    pub(crate) kind: &'static str,
    pub(crate) nodes: Vec<[Slot; 2]>,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Slot {
    Empty,
    Node(usize),
    /// By its place in the data.
    Record(usize),
}

impl CountryFile {
    /// One of IPv6, in whose tree IPv4 is.
    pub(crate) fn new() -> Self {
        let nodes = vec![[Slot::Empty; 2]];
        Self {
            ip_version: 6,
            record_size: 24,
            has_aliases: true,
            kind: "Test-Country",
            nodes,
            data: Vec::new(),
        }
    }

    /// With these networks and the codes of their countries.
    pub(crate) fn of(networks: &[(&str, &str)]) -> Vec<u8> {
        let mut file = Self::new();
        for (network, code) in networks {
            let record = file.record(&by_code(code));
            file.put(network, record);
        }
        file.bytes()
    }

    /// Adds a record, whose place networks are told.
    pub(crate) fn record(&mut self, bytes: &[u8]) -> usize {
        self.data.extend_from_slice(bytes);
        self.data.len() - bytes.len()
    }

    /// Puts a record at a network. The last one of an address counts.
    pub(crate) fn put(&mut self, network: &str, record: usize) {
        let (address, length) = network.split_once('/').expect("a length");
        let length: u8 = length.parse().expect("a number");
        let (bits, length) = match address.parse().expect("an address") {
            IpAddr::V4(address) if self.ip_version == 4 => (u128::from(address.to_bits()) << 96, length),
            IpAddr::V4(address) => (u128::from(address.to_bits()), 96 + length),
            IpAddr::V6(address) => (address.to_bits(), length),
        };
        self.put_bits(bits, length, record);
    }

    /// The same for the first bits of a number.
    pub(crate) fn put_bits(&mut self, bits: u128, length: u8, record: usize) {
        let slot = self.slot(bits, length);
        *slot = Slot::Record(record);
    }

    /// Lets the first bits of an address lead where those of another one lead.
    pub(crate) fn link(&mut self, (bits, length): (u128, u8), to: (u128, u8)) {
        let to = *self.slot(to.0, to.1);
        *self.slot(bits, length) = to;
    }

    fn slot(&mut self, bits: u128, length: u8) -> &mut Slot {
        assert!(length > 0, "the root is a node");
        let side = |depth: u8| (bits >> (127 - depth) & 1) as usize;
        let mut node = 0;
        for depth in 0..length - 1 {
            let slot = self.nodes[node][side(depth)];
            let Slot::Node(next) = slot else {
                // What was said of a network goes for its halves.
                self.nodes.push([slot; 2]);
                let next = self.nodes.len() - 1;
                self.nodes[node][side(depth)] = Slot::Node(next);
                node = next;
                continue;
            };
            node = next;
        }
        &mut self.nodes[node][side(length - 1)]
    }

    /// The whole file.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        if self.ip_version == 6 && self.has_aliases {
            ALIASES.into_iter().for_each(|alias| self.link(alias, (0, 96)));
        }
        let count = self.nodes.len();
        let number = |slot: Slot| {
            let number = match slot {
                Slot::Empty => count,
                Slot::Node(node) => node,
                Slot::Record(place) => count + 16 + place,
            };
            u32::try_from(number).expect("few enough").to_be_bytes()
        };
        let mut bytes = Vec::new();
        for [left, right] in self.nodes.iter().map(|node| node.map(number)) {
            match self.record_size {
                24 => bytes.extend([&left[1..], &right[1..]].concat()),
                28 => bytes.extend([&left[1..], &[left[0] << 4 | right[0]], &right[1..]].concat()),
                _ => bytes.extend([left, right].concat()),
            }
        }
        bytes.extend([0; 16]);
        bytes.extend(&self.data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.extend(map(&[
            ("binary_format_major_version", number_of(5, 2)),
            ("binary_format_minor_version", number_of(5, 0)),
            ("build_epoch", [&[8, 2], &1_700_000_000_u64.to_be_bytes()[..]].concat()),
            ("database_type", text(self.kind)),
            ("description", map(&[("en", text("for tests"))])),
            ("ip_version", number_of(5, u32::from(self.ip_version))),
            ("languages", vec![1, 4, 0x42, b'e', b'n']),
            ("node_count", number_of(6, u32::try_from(count).expect("few enough"))),
            ("record_size", number_of(5, u32::from(self.record_size))),
        ]));
        bytes
    }
}

/// A record as MaxMind and DB-IP write it.
pub(crate) fn by_code(code: &str) -> Vec<u8> {
    let names = map(&[("en", text("a name"))]);
    map(&[
        ("continent", map(&[("code", text("EU")), ("names", names.clone())])),
        (
            "country",
            map(&[("geoname_id", number_of(6, 2_921_044)), ("iso_code", text(code)), ("names", names)]),
        ),
    ])
}

/// The bytes of a table.
pub(crate) fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let head = vec![7 << 5 | u8::try_from(pairs.len()).expect("few")];
    pairs.iter().fold(head, |bytes, (key, value)| [bytes, text(key), value.clone()].concat())
}

/// The bytes of a text of less than 29 bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 29, "{text}");
    [&[2 << 5 | text.len() as u8], text.as_bytes()].concat()
}

/// The bytes of a number of such a type: 5 has 16 bits at most, 6 has 32.
pub(crate) fn number_of(kind: u8, number: u32) -> Vec<u8> {
    let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    [vec![kind << 5 | bytes.len() as u8], bytes].concat()
}
