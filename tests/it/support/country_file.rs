//! Writes files in MaxMind's format: a tree of the bits of addresses, then the records of its leaves, then
//! the metadata. Tests use these files for both accepted and refused content.
#![allow(dead_code, reason = "no test uses all of it")]

use std::net::IpAddr;

/// The prefixes of IPv6 where writers repeat IPv4: mapped, Teredo, 6to4.
const ALIASES: [(u128, u8); 3] = [(0xffff << 32, 96), (0x2001 << 112, 32), (0x2002 << 112, 16)];

/// A builder of a file.
pub(crate) struct CountryFile {
    pub(crate) ip_version: u16,
    /// The bits of a record of the tree: 24, 28 or 32.
    pub(crate) record_size: u16,
    /// True if IPv4 is found at its aliases too.
    pub(crate) has_aliases: bool,
    /// The type of the database in the metadata.
    pub(crate) kind: &'static str,
    pub(crate) nodes: Vec<[Slot; 2]>,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Slot {
    Empty,
    Node(usize),
    /// A record, by its offset in the data.
    Record(usize),
}

impl CountryFile {
    /// Returns an empty file of IPv6, whose tree contains IPv4.
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

    /// Returns the bytes of a file with these networks and the codes of their countries.
    pub(crate) fn of(networks: &[(&str, &str)]) -> Vec<u8> {
        let mut file = Self::new();
        for (network, code) in networks {
            let record = file.record(&by_code(code));
            file.put(network, record);
        }
        file.bytes()
    }

    /// Adds a record and returns its offset, which networks refer to.
    pub(crate) fn record(&mut self, bytes: &[u8]) -> usize {
        self.data.extend_from_slice(bytes);
        self.data.len() - bytes.len()
    }

    /// Assigns a record to a network. If networks overlap, the last one counts.
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

    /// Assigns a record to the first bits of a number.
    pub(crate) fn put_bits(&mut self, bits: u128, length: u8, record: usize) {
        let slot = self.slot(bits, length);
        *slot = Slot::Record(record);
    }

    /// Makes the first bits of an address lead to the same slot as those of another address.
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
                // The record of a network is valid for both halves of the network.
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

    /// Returns the whole file.
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

/// Returns a record as MaxMind and DB-IP write it.
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

/// Returns the bytes of a table.
pub(crate) fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let head = vec![7 << 5 | u8::try_from(pairs.len()).expect("few")];
    pairs.iter().fold(head, |bytes, (key, value)| [bytes, text(key), value.clone()].concat())
}

/// Returns the bytes of a text of less than 29 bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 29, "{text}");
    [&[2 << 5 | text.len() as u8], text.as_bytes()].concat()
}

/// Returns the bytes of a number of this type: 5 has at most 16 bits, 6 has 32.
pub(crate) fn number_of(kind: u8, number: u32) -> Vec<u8> {
    let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    [vec![kind << 5 | bytes.len() as u8], bytes].concat()
}

/// Returns a record with coordinates, as MaxMind and DB-IP write it.
pub(crate) fn at(latitude: f64, longitude: f64) -> Vec<u8> {
    let number = |number: f64| [&[3 << 5 | 8], &number.to_be_bytes()[..]].concat();
    map(&[("location", map(&[("latitude", number(latitude)), ("longitude", number(longitude))]))])
}
