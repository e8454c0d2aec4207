//! Networks that an operator writes, such as `10.0.0.0/8`, and sets of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The number of bits before the IPv4 part of a mapped address.
const MAPPED: u8 = 96;

/// A network: an address and the number of its leading bits that count. IPv4 and IPv6 networks are distinct, but a
/// mapped address (`::ffff:10.0.0.1`) is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    /// The address, IPv4 as a mapped one; the bits after the length are 0.
    bits: u128,
    /// The number of leading bits that count, 0 to 128. A network of IPv4 has 96 more bits than its written length.
    length: u8,
}

/// The addresses of a network, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRange {
    /// A range of IPv4 addresses.
    V4(u32, u32),
    /// A range of IPv6 addresses.
    V6(u128, u128),
}

/// The fault of a text that is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixFault {
    /// The text is neither an address nor an address with a length.
    #[error("a network is an address with a length, such as 10.0.0.0/8 or 2001:db8::/32, or one address")]
    Form,
    /// The length is greater than the number of bits in the address.
    #[error("the length is at most {0}")]
    Length(u8),
    /// Bits after the length are set; the network that was probably intended.
    #[error("it has bits set after its length; did you mean {0}?")]
    HostBits(IpPrefix),
}

impl IpPrefix {
    /// Returns the network of this length that contains an address; further bits are cut off. A length beyond the
    /// address counts as all its bits.
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = if address.is_ipv4() { MAPPED + length.min(32) } else { length.min(128) };
        Self { bits: mapped(address) & mask(length), length }
    }

    /// Returns true if an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::of_length(address, self.length) == Some(*self)
    }

    /// Returns the number of leading bits that count, 0 to 128. A network of IPv4 has at least 96.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Returns the network of this [length](Self::length) that contains an address; `None` if the length is for
    /// IPv6 and the address is IPv4.
    pub fn of_length(address: IpAddr, length: u8) -> Option<Self> {
        let is_alike = !address.to_canonical().is_ipv4() || length >= MAPPED;
        is_alike.then(|| Self { bits: mapped(address) & mask(length), length })
    }

    /// Returns the addresses of the network.
    pub fn range(&self) -> AddressRange {
        let (first, last) = (self.bits, self.bits | !mask(self.length));
        match (v4(first), v4(last)) {
            (Some(first), Some(last)) => AddressRange::V4(first, last),
            _ => AddressRange::V6(first, last),
        }
    }

    /// Returns true if the prefix is shorter than /8, or /16 for IPv6. A ban of so many addresses is probably a
    /// mistake.
    pub fn is_wide(&self) -> bool {
        match self.range() {
            AddressRange::V4(..) => self.length < MAPPED + 8,
            AddressRange::V6(..) => self.length < 16,
        }
    }

    /// Returns true if the network contains every address of its family.
    pub fn is_all(&self) -> bool {
        self.length == 0 || (self.length == MAPPED && self.bits == mapped(Ipv4Addr::UNSPECIFIED.into()))
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixFault;

    fn from_str(text: &str) -> Result<Self, PrefixFault> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixFault::Form)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(digits) if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(PrefixFault::Form);
            }
            Some(digits) => {
                digits.parse().ok().filter(|&length| length <= most).ok_or(PrefixFault::Length(most))?
            }
        };
        let prefix = Self::around(address, length);
        if prefix.bits == mapped(address) { Ok(prefix) } else { Err(PrefixFault::HostBits(prefix)) }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(address) if self.length >= MAPPED => write!(f, "{address}/{}", self.length - MAPPED),
            _ => write!(f, "{address}/{}", self.length),
        }
    }
}

/// A set of networks. To find the longest network that contains an address takes one search for each different
/// length, independent of the number of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// The networks by length, the longest first; each list is sorted.
    lengths: Vec<(u8, Vec<u128>)>,
}

impl Prefixes {
    /// Returns true if there is no network.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Returns the [length](IpPrefix::length) of the longest network that contains an address, or `None` if no network
    /// contains the address.
    pub fn longest(&self, address: IpAddr) -> Option<u8> {
        let is_ipv4 = address.to_canonical().is_ipv4();
        let bits = mapped(address);
        let fits = |(length, networks): &&(u8, Vec<u128>)| {
            (!is_ipv4 || *length >= MAPPED) && networks.binary_search(&(bits & mask(*length))).is_ok()
        };
        self.lengths.iter().find(fits).map(|(length, _)| *length)
    }

    /// Returns true if every address of these networks is in a network of `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        let is_inside = |bits: u128, length: u8| {
            other.lengths.iter().any(|(wider, networks)| {
                *wider <= length && networks.binary_search(&(bits & mask(*wider))).is_ok()
            })
        };
        self.lengths.iter().all(|(length, networks)| networks.iter().all(|bits| is_inside(*bits, *length)))
    }

    /// Returns true if the two sets have a network in common.
    pub fn share(&self, other: &Self) -> bool {
        self.lengths.iter().any(|(length, networks)| {
            let same = other.lengths.iter().find(|(other, _)| other == length);
            same.is_some_and(|(_, others)| networks.iter().any(|one| others.binary_search(one).is_ok()))
        })
    }
}

impl FromIterator<IpPrefix> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpPrefix>>(prefixes: I) -> Self {
        let mut all: Vec<IpPrefix> = prefixes.into_iter().collect();
        all.sort_unstable_by_key(|prefix| (std::cmp::Reverse(prefix.length), prefix.bits));
        all.dedup();
        let of_one_length = all.chunk_by(|one, two| one.length == two.length);
        let lengths = of_one_length
            .map(|run| (run[0].length, run.iter().map(|prefix| prefix.bits).collect()))
            .collect();
        Self { lengths }
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the IPv4 address of a mapped address.
fn v4(bits: u128) -> Option<u32> {
    Ipv6Addr::from_bits(bits).to_ipv4_mapped().map(Ipv4Addr::to_bits)
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_has_its_own_addresses_only() {
        let check = |network: &str, address: &str, expected: bool| {
            let prefix: IpPrefix = network.parse().unwrap();
            assert_eq!(prefix.contains(address.parse().unwrap()), expected, "{network} {address}");
        };
        check("10.1.0.0/16", "10.1.255.255", true);
        check("10.1.0.0/16", "::ffff:10.1.0.1", true);
        check("10.1.0.0/16", "10.2.0.0", false);
        check("10.1.0.0/16", "2001:db8::1", false);
        check("::/0", "2001:db8::1", true);
        check("::/0", "10.0.0.1", false);
        check("0.0.0.0/0", "10.0.0.1", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        let is_wide = |network: &str| network.parse::<IpPrefix>().unwrap().is_wide();
        assert!(["0.0.0.0/0", "10.0.0.0/7", "::/0", "2000::/3", "2000::/15"].into_iter().all(is_wide));
        assert!(!["10.0.0.0/8", "10.0.0.1", "2001::/16", "::1"].into_iter().any(is_wide));
        let is_all = |network: &str| network.parse::<IpPrefix>().unwrap().is_all();
        assert!(is_all("0.0.0.0/0") && is_all("::/0"));
        assert!(!is_all("0.0.0.0/1") && !is_all("::/96"));
    }

    #[test]
    fn networks_are_read() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let read = text.parse::<IpPrefix>();
            let read = read.map(|prefix| prefix.to_string()).map_err(|fault| fault.to_string());
            assert_eq!(read, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        };
        let form = PrefixFault::Form.to_string();
        check("10.0.0.0/8", Ok("10.0.0.0/8"));
        check("10.0.0.1", Ok("10.0.0.1/32"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check("2001:db8::/32", Ok("2001:db8::/32"));
        check("::1", Ok("::1/128"));
        check("::/0", Ok("::/0"));
        check("::ffff:10.0.0.0/104", Ok("10.0.0.0/8"));
        check("10.0.0.1/8", Err("it has bits set after its length; did you mean 10.0.0.0/8?"));
        check("10.0.0.0/33", Err("the length is at most 32"));
        check("::/129", Err("the length is at most 128"));
        check("::/1000", Err("the length is at most 128"));
        for text in ["", "/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "example.com", "10.0.0.0/8/8"] {
            check(text, Err(&form));
        }
    }

    fn set(texts: &[&str]) -> Prefixes {
        texts.iter().map(|text| text.parse::<IpPrefix>().unwrap()).collect()
    }

    #[test]
    fn the_longest_is_found() {
        let some = set(&["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "10.1.2.3", "::/0", "2001:db8::/32"]);
        let check = |address: &str, expected: Option<u8>| {
            assert_eq!(some.longest(address.parse().unwrap()), expected, "{address}");
        };
        check("10.9.9.9", Some(96 + 8));
        check("10.1.9.9", Some(96 + 16));
        check("10.1.2.3", Some(128));
        check("::ffff:10.1.2.3", Some(128));
        check("11.0.0.0", None);
        check("2001:db8::1", Some(32));
        check("2001:db9::1", Some(0));
        assert_eq!(set(&["0.0.0.0/0"]).longest("::1".parse().unwrap()), None);
    }

    #[test]
    fn sets_share_networks_not_addresses() {
        assert!(set(&["10.0.0.0/8", "::1"]).share(&set(&["11.0.0.0/8", "::1"])));
        assert!(!set(&["10.0.0.0/8"]).share(&set(&["10.0.0.0/9"])));
        assert!(!set(&["0.0.0.0/0"]).share(&set(&["::/0"])));
    }

    proptest! {
        #[test]
        fn agrees_with_a_search(
            networks in prop::collection::vec((0..8_u8, 0..4_u8), 0..10),
            address in 0..8_u8,
        ) {
            let networks: Vec<IpPrefix> = networks
                .into_iter()
                .map(|(bits, cut)| {
                    let length = 32 - cut;
                    let bits = u32::from(bits) & u32::MAX.checked_shl(u32::from(cut)).unwrap();
                    format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits)).parse().unwrap()
                })
                .collect();
            let address = IpAddr::from([0, 0, 0, address]);
            let around = |prefix: &&IpPrefix| mapped(address) & mask(prefix.length) == prefix.bits;
            let expected = networks.iter().filter(around).map(|prefix| prefix.length).max();
            prop_assert_eq!(networks.into_iter().collect::<Prefixes>().longest(address), expected);
        }
    }
}
