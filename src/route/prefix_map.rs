//! A table of networks with a number for each.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::address_ranges::{AddressBits, AddressRanges, upper};
use super::prefix::{AddressRange, IpPrefix};

/// The lower half of an IPv6 address.
const LOWER: u128 = u64::MAX as u128;

/// Networks with a number for each. Adjacent networks with the same number are one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixMap {
    v4: NumberedRanges<u32>,
    /// Networks up to /64, by the upper half of the address: nearly all networks in use.
    v6_wide: NumberedRanges<u64>,
    /// Networks longer than /64.
    v6_narrow: NumberedRanges<u128>,
}

/// A builder that collects the networks of a table.
#[derive(Debug, Default)]
pub struct PrefixMapBuilder {
    v4: RangeList<u32>,
    v6_wide: RangeList<u64>,
    v6_narrow: RangeList<u128>,
}

impl PrefixMap {
    /// Returns the number of the network that contains an address. A mapped address (`::ffff:10.0.0.1`) is IPv4.
    pub fn number(&self, address: IpAddr) -> Option<u32> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.number(address.to_bits()),
            IpAddr::V6(address) => {
                let address = address.to_bits();
                self.v6_wide.number(upper(address)).or_else(|| self.v6_narrow.number(address))
            }
        }
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.v4.numbers.len() + self.v6_wide.numbers.len() + self.v6_narrow.numbers.len()
    }

    /// Returns true if no address has a number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a fingerprint, which is equal for equal tables.
    pub fn digest(&self) -> u64 {
        let mut hasher = SipHasher24::new();
        self.v4.hash(&mut hasher, |address| address.into());
        self.v6_wide.hash(&mut hasher, |address| u128::from(address) << 64);
        self.v6_narrow.hash(&mut hasher, |address| address);
        hasher.finish()
    }
}

impl PrefixMapBuilder {
    /// Adds a network. It must not overlap another network: then one of the two numbers counts for the common addresses.
    pub fn add(&mut self, prefix: &IpPrefix, number: u32) {
        match prefix.range() {
            AddressRange::V4(first, last) => self.v4.add(first, last, number),
            AddressRange::V6(first, last) if first & LOWER == 0 && last & LOWER == LOWER => {
                self.v6_wide.add(upper(first), upper(last), number);
            }
            AddressRange::V6(first, last) => self.v6_narrow.add(first, last, number),
        }
    }

    /// Returns the number of ranges so far. Networks that were added one after the other and are adjacent count as one.
    pub fn len(&self) -> usize {
        self.v4.0.len() + self.v6_wide.0.len() + self.v6_narrow.0.len()
    }

    /// Returns true if no network was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Builds the table.
    pub fn build(self) -> PrefixMap {
        PrefixMap { v4: self.v4.build(), v6_wide: self.v6_wide.build(), v6_narrow: self.v6_narrow.build() }
    }
}

/// Ranges with a number for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NumberedRanges<T> {
    ranges: AddressRanges<T>,
    numbers: Box<[u32]>,
}

impl<T: AddressBits> NumberedRanges<T> {
    fn number(&self, address: T) -> Option<u32> {
        self.ranges.position(address).map(|at| self.numbers[at])
    }

    fn hash(&self, hasher: &mut impl Hasher, widen: impl Fn(T) -> u128) {
        hasher.write_u64(self.numbers.len() as u64);
        for ((first, last), number) in self.ranges.starts().iter().zip(self.ranges.ends()).zip(&self.numbers)
        {
            hasher.write(&widen(*first).to_le_bytes());
            hasher.write(&widen(*last).to_le_bytes());
            hasher.write(&number.to_le_bytes());
        }
    }
}

/// Ranges that are being collected: first address, last address, number.
#[derive(Debug, Default)]
struct RangeList<T>(Vec<(T, T, u32)>);

impl<T: AddressBits> RangeList<T> {
    /// Adds a range. A database has its networks in order, so most ranges that merge do so here.
    fn add(&mut self, first: T, last: T, number: u32) {
        match self.0.last_mut() {
            Some(before) if before.2 == number && before.1.next() == Some(first) => before.1 = last,
            _ => self.0.push((first, last, number)),
        }
    }

    fn build(self) -> NumberedRanges<T> {
        let Self(mut ranges) = self;
        ranges.sort_unstable();
        let mut merged: RangeList<T> = RangeList(Vec::with_capacity(ranges.len()));
        for (first, last, number) in ranges {
            // Of ranges that overlap, the first one counts.
            let behind = merged.0.last().map(|before| before.1);
            let first = match behind {
                Some(behind) if behind >= last => continue,
                Some(behind) if behind >= first => behind.next().unwrap_or(first),
                _ => first,
            };
            merged.add(first, last, number);
        }
        let ranges: Vec<_> = merged.0.iter().map(|range| (range.0, range.1)).collect();
        NumberedRanges {
            ranges: AddressRanges::of_sorted(&ranges),
            numbers: merged.0.iter().map(|range| range.2).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(networks: &[(&str, u32)]) -> PrefixMap {
        let mut builder = PrefixMapBuilder::default();
        networks.iter().for_each(|(network, number)| builder.add(&network.parse().unwrap(), *number));
        builder.build()
    }

    fn check(networks: &[(&str, u32)], address: &str, expected: Option<u32>) {
        assert_eq!(table(networks).number(address.parse().unwrap()), expected, "{networks:?} {address}");
    }

    #[test]
    fn an_address_has_the_number_of_its_network() {
        let all = [("10.1.0.0/16", 2), ("10.0.0.0/16", 1), ("2001:db8::/32", 3), ("2001:db9::7", 4)];
        check(&all, "10.0.255.255", Some(1));
        check(&all, "10.1.0.0", Some(2));
        check(&all, "::ffff:10.1.2.3", Some(2));
        check(&all, "10.2.0.0", None);
        check(&all, "9.255.255.255", None);
        check(&all, "2001:db8:ffff::", Some(3));
        check(&all, "2001:db9::7", Some(4));
        check(&all, "2001:db9::8", None);
        check(&[("0.0.0.0/0", 9)], "255.255.255.255", Some(9));
        check(&[], "10.0.0.1", None);
    }

    #[test]
    fn adjacent_networks_with_one_number_are_one_range() {
        let split = [("10.0.0.0/25", 1), ("10.0.0.128/25", 1), ("10.0.1.0/24", 2)];
        let shuffled = [("10.0.1.0/24", 2), ("10.0.0.128/25", 1), ("10.0.0.0/25", 1)];
        assert_eq!(table(&split).len(), 2);
        assert_eq!(table(&split), table(&shuffled));
        assert_eq!(table(&split).digest(), table(&[("10.0.0.0/24", 1), ("10.0.1.0/24", 2)]).digest());
        assert_ne!(table(&split).digest(), table(&[("10.0.0.0/24", 2), ("10.0.1.0/24", 2)]).digest());
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn overlapping_networks_do_no_harm() {
        let both = [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("255.0.0.0/8", 3), ("255.255.255.255", 4)];
        check(&both, "10.2.0.0", Some(1));
        check(&both, "10.1.0.1", Some(1));
        check(&both, "255.255.255.255", Some(3));
    }

    proptest! {
        #[test]
        fn agrees_with_a_search(
            networks in prop::collection::btree_map(any::<u8>(), 0..4_u32, 0..100),
            is_v4: bool,
        ) {
            let at = |last: u8| match is_v4 {
                true => format!("10.0.0.{last}"),
                // The upper and the lower halves of these addresses differ in four bits each.
                false => std::net::Ipv6Addr::from_bits(u128::from(last) << 60).to_string(),
            };
            let mut builder = PrefixMapBuilder::default();
            networks.iter().rev().for_each(|(last, number)| builder.add(&at(*last).parse().unwrap(), *number));
            let table = builder.build();
            for last in 0..=u8::MAX {
                prop_assert_eq!(table.number(at(last).parse().unwrap()), networks.get(&last).copied());
            }
        }
    }
}
