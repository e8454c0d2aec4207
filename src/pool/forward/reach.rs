//! Checks whether clients may be forwarded to an address: a public address, or one in the networks that an operator
//! opens (`allow_private`). Pure.
//!
//! The IANA registries of special-purpose addresses (RFC 6890) define which addresses are public. Addresses
//! that are not globally reachable, multicast, the reserved class E and deprecated networks are not public. In
//! IPv6, IANA assigns global addresses from 2000::/3 only, so no list is needed for other addresses: they are
//! not public.
//!
//! Some IPv6 addresses embed an IPv4 address for a translator or a tunnel (the well-known prefix of NAT64, 6to4). The
//! check uses the embedded address. A NAT64 prefix of a single network has no mark and is checked as any other address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pool::destination;
use crate::route::IpPrefix;

/// Returns true if clients may be forwarded to this address. `open` has the networks that the operator opens.
pub(super) fn may_reach(ip: IpAddr, open: &[IpPrefix]) -> bool {
    let ip = ip.to_canonical();
    is_public(ip) || (!is_no_host(ip) && is_open(ip, open))
}

/// Returns the address, and the IPv4 address to which a translator or a tunnel leads its packets, if it embeds one.
pub(super) fn forms(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let ip = ip.to_canonical();
    let embedded = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => embedded_v4(ip),
    };
    [Some(ip), embedded.map(IpAddr::V4)].into_iter().flatten()
}

/// Returns the IPv4 address in an address of NAT64's well-known prefix (RFC 6052) or of 6to4.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = ip.segments();
    let (high, low) = match (a, b) {
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => (high, low),
        (0x2002, high) => (high, c),
        _ => return None,
    };
    Some(((u32::from(high) << 16) | u32::from(low)).into())
}

/// Returns true if the operator opens this address.
pub(super) fn is_open(ip: IpAddr, open: &[IpPrefix]) -> bool {
    open.iter().any(|prefix| prefix.contains(ip))
}

/// Returns true for an address that no configuration can allow: no host has the address, or the address needs an
/// interface, which the DNS does not return.
fn is_no_host(ip: IpAddr) -> bool {
    !destination::is_host(ip)
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !matches!(
        ip.octets(),
        // This network, private, shared (CGNAT), loopback, link-local, private, protocol assignments.
        [0 | 10 | 127, ..] | [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 0, 0, _]
        // Documentation, the relays of 6to4, private, benchmarks, documentation twice.
        | [192, 0, 2, _] | [192, 88, 99, _] | [192, 168, ..] | [198, 18..=19, ..] | [198, 51, 100, _]
        | [203, 0, 113, _]
        // Multicast, then the reserved class E, which includes broadcast.
        | [224..=255, ..]
    )
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(embedded) = embedded_v4(ip) {
        return is_public_v4(embedded);
    }
    match ip.segments() {
        // Protocol assignments, which include Teredo, then documentation, which has two networks (RFC 9637).
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // The prefixes of NAT64 are elsewhere. That for local use, 64:ff9b:1::/48, is not public.
        [a, ..] => a >> 13 == 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(ip: &str, expected: bool) {
        assert_eq!(may_reach(ip.parse().unwrap(), &[]), expected, "{ip}");
    }

    #[test]
    fn public_addresses_are_reached() {
        for ip in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2000::1",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            "2606:4700::1111",
            "3ffe::1",
            "3fff:1000::1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            check(ip, true);
        }
    }

    #[test]
    fn others_are_not() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.9",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::1.1.1.1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0:1.1.1.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1.1.1.1",
            "64:ff9b:0:1::101:101",
            "100::1",
            "2001::1",
            "2001:0:1:2::3",
            "2001:1ff::1",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "2002:7f00:1::1",
            "2002:c0a8:101::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            check(ip, false);
        }
    }

    #[test]
    fn an_operator_opens_networks() {
        fn check(ip: &str, open: &str, expected: bool) {
            let open: Vec<IpPrefix> = open.split(' ').map(|prefix| prefix.parse().unwrap()).collect();
            assert_eq!(may_reach(ip.parse().unwrap(), &open), expected, "{ip} {open:?}");
        }
        check("10.1.2.3", "10.1.0.0/16", true);
        check("10.2.2.3", "10.1.0.0/16", false);
        check("10.2.2.3", "10.1.0.0/16 10.2.0.0/16", true);
        check("::ffff:10.1.2.3", "10.1.0.0/16", true);
        check("127.0.0.1", "127.0.0.0/8", true);
        check("fd00::1", "fd00::/8", true);
        check("1.1.1.1", "10.1.0.0/16", true);
        // The address of a translator must be opened by itself.
        check("64:ff9b::10.1.2.3", "10.1.0.0/16", false);
        check("64:ff9b::10.1.2.3", "64:ff9b::a01:0/112", true);
        check("0.0.0.0", "0.0.0.0/8", false);
        check("255.255.255.255", "240.0.0.0/4", false);
        check("224.0.0.1", "224.0.0.0/4", false);
        check("ff02::1", "ff00::/8", false);
        check("::", "::/8", false);
    }

    proptest! {
        /// The standard library has functions for some of these networks.
        #[test]
        fn the_standard_library_agrees(bits: u32) {
            let ip = Ipv4Addr::from_bits(bits);
            let is_known = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast()
                || ip.is_broadcast() || ip.is_documentation() || ip.is_unspecified();
            prop_assert!(!(is_known && is_public_v4(ip)), "{ip}");
            let mapped = IpAddr::V6(ip.to_ipv6_mapped());
            prop_assert_eq!(may_reach(mapped, &[]), is_public_v4(ip));
        }
    }
}
