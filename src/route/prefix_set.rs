//! Large sets of networks that find whether an address is in one of the networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address_ranges::{AddressRanges, upper};
use super::prefix::{AddressRange, IpPrefix};

/// The bits of the half of an IPv6 address that identifies the interface.
const LOWER: u128 = u64::MAX as u128;

/// A set of networks as sorted ranges of addresses that neither overlap nor touch; IPv4 and IPv6 are separate.
///
/// A million networks are built in a fraction of a second. An IPv4 network takes some 8 bytes, an IPv6 network 18, and
/// one longer than /64 takes 36. A lookup descends a flat tree and waits for memory about twice; a binary search would
/// wait a dozen times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    v4: AddressRanges<u32>,
    /// Networks up to /64, by the upper half of the address: nearly all networks in use.
    v6_wide: AddressRanges<u64>,
    /// Networks longer than /64.
    v6_narrow: AddressRanges<u128>,
}

/// A builder that collects the networks of a set.
#[derive(Debug, Default)]
pub struct PrefixSetBuilder {
    v4: Vec<(u32, u32)>,
    v6_wide: Vec<(u64, u64)>,
    v6_narrow: Vec<(u128, u128)>,
}

/// The longest run of addresses in a set without a gap; the addresses before and after it are not in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpan {
    /// The first address.
    pub first: IpAddr,
    /// The last address; it may equal the first.
    pub last: IpAddr,
}

impl fmt::Display for AddressSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl PrefixSet {
    /// Returns true if an address is in one of the networks. A mapped address (`::ffff:10.0.0.1`) is IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.position(address.to_bits()).is_some(),
            IpAddr::V6(address) => {
                let address = address.to_bits();
                self.v6_wide.position(upper(address)).or_else(|| self.v6_narrow.position(address)).is_some()
            }
        }
    }

    /// Returns the range of IPv6 addresses that contains an address.
    fn v6(&self, address: u128) -> Option<(u128, u128)> {
        let wide = self.v6_wide.around(upper(address));
        let wide = wide.map(|(first, last)| (u128::from(first) << 64, u128::from(last) << 64 | LOWER));
        wide.or_else(|| self.v6_narrow.around(address))
    }

    /// Returns the longest run of addresses in the set that contains an address. Networks that touch or overlap are
    /// merged, so the single network is not available.
    pub fn around(&self, address: IpAddr) -> Option<AddressSpan> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.around(address.to_bits()).map(|(first, last)| AddressSpan {
                first: Ipv4Addr::from_bits(first).into(),
                last: Ipv4Addr::from_bits(last).into(),
            }),
            IpAddr::V6(address) => self.v6(address.to_bits()).map(|(first, last)| AddressSpan {
                first: Ipv6Addr::from_bits(first).into(),
                last: Ipv6Addr::from_bits(last).into(),
            }),
        }
    }

    /// Returns true if the set has no address.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6_wide.is_empty() && self.v6_narrow.is_empty()
    }
}

impl PrefixSetBuilder {
    /// Adds a network.
    pub fn add(&mut self, prefix: &IpPrefix) {
        match prefix.range() {
            AddressRange::V4(first, last) => self.v4.push((first, last)),
            AddressRange::V6(first, last) if first & LOWER == 0 && last & LOWER == LOWER => {
                self.v6_wide.push((upper(first), upper(last)));
            }
            AddressRange::V6(first, last) => self.v6_narrow.push((first, last)),
        }
    }

    /// Returns the number of added networks.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6_wide.len() + self.v6_narrow.len()
    }

    /// Returns true if no network was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Builds the set.
    pub fn build(self) -> PrefixSet {
        PrefixSet {
            v4: AddressRanges::merge(self.v4),
            v6_wide: AddressRanges::merge(self.v6_wide),
            v6_narrow: AddressRanges::merge(self.v6_narrow),
        }
    }
}

impl<'a> FromIterator<&'a IpPrefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = &'a IpPrefix>>(prefixes: I) -> Self {
        let mut builder = PrefixSetBuilder::default();
        prefixes.into_iter().for_each(|prefix| builder.add(prefix));
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &str) -> PrefixSet {
        let networks: Vec<IpPrefix> = networks.split_whitespace().map(|one| one.parse().unwrap()).collect();
        networks.iter().collect()
    }

    fn check(networks: &str, address: &str, expected: Option<&str>) {
        let address = address.parse().unwrap();
        let set = set(networks);
        let found = set.around(address);
        assert_eq!(found.map(|span| span.to_string()).as_deref(), expected, "{networks} {address}");
        assert_eq!(set.contains(address), expected.is_some());
    }

    #[test]
    fn addresses_are_found() {
        check("", "10.0.0.1", None);
        check("10.0.0.0/8", "10.0.0.0", Some("10.0.0.0-10.255.255.255"));
        check("10.0.0.0/8", "10.255.255.255", Some("10.0.0.0-10.255.255.255"));
        check("10.0.0.0/8", "9.255.255.255", None);
        check("10.0.0.0/8", "11.0.0.0", None);
        check("10.0.0.1", "::ffff:10.0.0.1", Some("10.0.0.1"));
        check("::ffff:10.0.0.1", "10.0.0.1", Some("10.0.0.1"));
        check("0.0.0.0/0", "255.255.255.255", Some("0.0.0.0-255.255.255.255"));
        check("0.0.0.0/0", "::", None);
        check("::/0", "::", Some("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        check("::/0", "10.0.0.1", None);
        check(
            "2001:db8::/32 10.0.0.1",
            "2001:db8::1",
            Some("2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        );
        check("2001:db8::/32", "2001:db9::", None);
        check("2001:db8::/64", "2001:db8::ffff", Some("2001:db8::-2001:db8::ffff:ffff:ffff:ffff"));
        check("2001:db8::/65", "2001:db8:0:0:8000::", None);
        check("2001:db8::/65", "2001:db8::1", Some("2001:db8::-2001:db8::7fff:ffff:ffff:ffff"));
        check("2001:db8::7 2001:db8:1::/48", "2001:db8::7", Some("2001:db8::7"));
        check("2001:db8::7 2001:db8::8/125", "2001:db8::f", Some("2001:db8::7-2001:db8::f"));
    }

    #[test]
    fn networks_that_touch_are_merged() {
        check("10.0.0.0/25 10.0.0.128/25", "10.0.0.1", Some("10.0.0.0-10.0.0.255"));
        check("10.0.0.0/8 10.1.0.0/16", "10.2.0.0", Some("10.0.0.0-10.255.255.255"));
        check("10.1.0.0/16 10.0.0.0/8", "10.1.0.0", Some("10.0.0.0-10.255.255.255"));
        check(
            "255.255.255.255 255.255.255.255 255.255.255.254",
            "255.255.255.255",
            Some("255.255.255.254-255.255.255.255"),
        );
        check("10.0.0.1 10.0.0.3", "10.0.0.2", None);
        assert_eq!(set("10.0.0.0/25 10.0.0.128/25 ::1"), set("::1 10.0.0.0/24"));
        assert!(set("").is_empty() && !set("::1").is_empty());
    }

    #[test]
    fn many_are_found() {
        let odd = |n: u32| Ipv4Addr::from_bits(2 * n + 1);
        let mut builder = PrefixSetBuilder::default();
        (0..10_000).for_each(|n| builder.add(&odd(n).to_string().parse().unwrap()));
        assert_eq!(builder.len(), 10_000);
        let set = builder.build();
        for n in 0..20_010 {
            let expected = n % 2 == 1 && n < 20_000;
            assert_eq!(set.contains(Ipv4Addr::from_bits(n).into()), expected, "{n}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_search(
            networks in prop::collection::vec((0..=u8::MAX, 0..=8_u32, any::<bool>()), 0..200),
            addresses in prop::collection::vec((0..=u8::MAX, any::<bool>()), 1..50),
        ) {
            let at = |last: u8, is_v4: bool| -> IpAddr {
                // The upper and the lower halves of these addresses differ in four bits each.
                let v6 = || Ipv6Addr::from_bits(u128::from(last) << 60);
                if is_v4 { Ipv4Addr::new(10, 0, 0, last).into() } else { v6().into() }
            };
            let networks: Vec<IpPrefix> = networks
                .into_iter()
                .map(|(last, cut, is_v4)| {
                    let last = last & u8::MAX.checked_shl(cut).unwrap_or(0);
                    let length = if is_v4 { 32 } else { 68 } - cut;
                    format!("{}/{length}", at(last, is_v4)).parse().unwrap()
                })
                .collect();
            let set: PrefixSet = networks.iter().collect();
            for (last, is_v4) in addresses {
                let address = at(last, is_v4);
                prop_assert_eq!(set.contains(address), networks.iter().any(|one| one.contains(address)));
            }
        }
    }
}
