//! The 64-bit key of a connection, from which a hash balancer computes its backend.
//!
//! All nodes with the same `hash_key` must compute the same key in every version. So the hashed bytes (SipHash-2-4)
//! are a contract, which golden vectors pin:
//!
//! | what           | bytes                                                                  |
//! |----------------|------------------------------------------------------------------------|
//! | source network | `0x11`, then the 16-byte address with the bits after the prefix zeroed  |
//! | source         | `0x12`, then the 16-byte address, then the port, big-endian              |
//! | server name    | `0x13`, then the name, lower-case ASCII without a trailing dot          |
//! | no address     | `0x14`                                                                 |
//! | several parts  | `0x15`, then the source as above, then the name's part                  |
//! | a name's part  | `0x13`, then the length of the name in two bytes, big-endian, then the name as above; `0x16` where there is none |
//!
//! A key of several parts has only the configured parts.
//!
//! The high half of the first byte is the version of the layout, the low half distinguishes the kinds. An IPv4
//! address is written IPv4-mapped (`::ffff:a.b.c.d`), so a client that connects over a dual-stack socket keeps its
//! key; the IPv4 prefix applies to it. Flow labels and scopes do not count.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use super::hash_parts::{HashOn, SourcePrefix};
use super::pool_in_use::Pool;
use super::pool_spec::PoolSpec;
use crate::wire::ServerName;
use crate::wire::proxy_protocol::{ProxyHeader, Tlv};

const NETWORK: u8 = 0x11;
const SOURCE: u8 = 0x12;
const NAME: u8 = 0x13;
const NO_ADDRESS: u8 = 0x14;
const SEVERAL: u8 = 0x15;
const NO_NAME: u8 = 0x16;

/// The number of bits before the IPv4 part of a mapped address.
const MAPPED_BITS: u8 = 96;

/// The key of a connection in `pool`.
///
/// `source` is `None` for a client without an IP address (a Unix socket): all such clients share one key. If
/// [`HashOn::ProxyAuthority`] is hashed and the PROXY header has a valid host name ([`Pool::authority`]),
/// `server_name` is this host name. If only the name is hashed and the client sent no name, the key is the key
/// of the source's network.
pub(super) fn key(pool: &PoolSpec, source: Option<SocketAddr>, server_name: Option<&ServerName>) -> u64 {
    let mut key = HashInput { hasher: SipHasher24::new_with_key(&pool.hash_key), prefix: pool.source_prefix };
    match (pool.hash_on.alone(), server_name) {
        (Some(HashOn::Sni | HashOn::ProxyAuthority), Some(name)) => {
            key.hasher.write(&[NAME]);
            key.hasher.write(name.as_str().as_bytes());
        }
        (Some(HashOn::Sni | HashOn::ProxyAuthority), None) => key.source(HashOn::SourceIp, source),
        (Some(part), _) => key.source(part, source),
        (None, name) => {
            key.hasher.write(&[SEVERAL]);
            for part in pool.hash_on.iter() {
                match part {
                    HashOn::Sni | HashOn::ProxyAuthority => key.name(name),
                    HashOn::SourceIp | HashOn::SourceIpPort => key.source(part, source),
                }
            }
        }
    }
    key.hasher.finish()
}

/// The key of a client's network, independent of the parts that `pool` hashes.
pub(super) fn network_key(pool: &PoolSpec, source: Option<SocketAddr>) -> u64 {
    let mut key = HashInput { hasher: SipHasher24::new_with_key(&pool.hash_key), prefix: pool.source_prefix };
    key.source(HashOn::SourceIp, source);
    key.hasher.finish()
}

impl Pool {
    /// The host name in a PROXY header, if this pool hashes it and it is valid.
    pub fn authority(&self, header: &ProxyHeader) -> Option<ServerName> {
        if !self.spec.hash_on.contains(HashOn::ProxyAuthority) {
            return None;
        }
        ServerName::from_client(header.tlv(Tlv::AUTHORITY)?).ok()
    }
}

/// The input of a key.
struct HashInput {
    hasher: SipHasher24,
    prefix: SourcePrefix,
}

impl HashInput {
    fn source(&mut self, part: HashOn, source: Option<SocketAddr>) {
        let Some(source) = source else {
            self.hasher.write(&[NO_ADDRESS]);
            return;
        };
        // Written at once: the hasher is slow with pieces that are not whole words.
        let (kind, address, port) = match part {
            HashOn::SourceIpPort => (SOURCE, mapped(source.ip()), Some(source.port())),
            _ => (NETWORK, network(source.ip(), self.prefix), None),
        };
        let mut bytes = [0; 19];
        bytes[0] = kind;
        bytes[1..17].copy_from_slice(&address.to_be_bytes());
        bytes[17..].copy_from_slice(&port.unwrap_or(0).to_be_bytes());
        self.hasher.write(if port.is_some() { &bytes } else { &bytes[..17] });
    }

    /// Adds a name with its length. So a part that a later version adds after the name cannot be read as the
    /// end of the name.
    fn name(&mut self, name: Option<&ServerName>) {
        let Some(name) = name else {
            self.hasher.write(&[NO_NAME]);
            return;
        };
        let [high, low] = (name.as_str().len() as u16).to_be_bytes();
        self.hasher.write(&[NAME, high, low]);
        self.hasher.write(name.as_str().as_bytes());
    }
}

/// The 16-byte form of an address, IPv4 as IPv4-mapped.
fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address with the bits after its prefix zeroed.
fn network(address: IpAddr, prefix: SourcePrefix) -> u128 {
    let bits = match address.to_canonical() {
        IpAddr::V4(_) => MAPPED_BITS.saturating_add(prefix.v4),
        IpAddr::V6(_) => prefix.v6,
    };
    let behind = 128_u32.saturating_sub(u32::from(bits));
    mapped(address) & u128::MAX.checked_shl(behind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

    use proptest::prelude::*;

    use super::*;

    use crate::pool::HashParts;
    use crate::wire::proxy_protocol;

    fn pool(hash_on: impl Into<HashParts>, v4: u8, v6: u8) -> PoolSpec {
        PoolSpec {
            hash_on: hash_on.into(),
            source_prefix: SourcePrefix { v4, v6 },
            hash_key: *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f",
            ..PoolSpec::new("p".into(), Vec::new())
        }
    }

    /// `source` and `name` are text; empty is none.
    fn key_of(hash_on: HashParts, prefix: (u8, u8), source: &str, name: &str) -> u64 {
        let source = (!source.is_empty()).then(|| source.parse().unwrap());
        let name = (!name.is_empty()).then(|| name.parse().unwrap());
        key(&pool(hash_on, prefix.0, prefix.1), source, name.as_ref())
    }

    fn check(hash_on: impl Into<HashParts>, prefix: (u8, u8), source: &str, name: &str, expected: u64) {
        let hash_on = hash_on.into();
        let found = key_of(hash_on, prefix, source, name);
        assert_eq!(found, expected, "{hash_on:?} {prefix:?} {source} {name}: {found:#x}");
    }

    /// Computed from the layout by another SipHash. A change here moves clients of every cluster that is upgraded
    /// node by node: it is a breaking change.
    #[test]
    fn golden_vectors() {
        use HashOn::{Sni, SourceIp, SourceIpPort};
        let default = (32, 64);
        check(SourceIp, default, "192.0.2.7:4711", "", 0x8620_d2d3_48cd_714b);
        check(SourceIp, default, "192.0.2.7:1", "mail.example.com", 0x8620_d2d3_48cd_714b);
        check(SourceIp, default, "[::ffff:192.0.2.7]:4711", "", 0x8620_d2d3_48cd_714b);
        check(SourceIp, (24, 64), "192.0.2.7:4711", "", 0xa40f_f87e_5fcb_a782);
        check(SourceIp, (24, 64), "[::ffff:192.0.2.9]:4711", "", 0xa40f_f87e_5fcb_a782);
        check(SourceIp, default, "[2001:db8:1:2:3:4:5:6]:4711", "", 0x029d_0ac2_5202_b116);
        check(SourceIpPort, default, "192.0.2.7:4711", "", 0xfa02_e33e_f432_407c);
        check(SourceIpPort, default, "[::ffff:192.0.2.7]:4711", "", 0xfa02_e33e_f432_407c);
        check(SourceIpPort, default, "[2001:db8:1:2:3:4:5:6]:4711", "", 0xff2e_08a9_d9b8_fc2b);
        check(Sni, default, "192.0.2.7:4711", "mail.example.com", 0x28d9_1ca8_184b_69ab);
        check(Sni, default, "", "mail.example.com", 0x28d9_1ca8_184b_69ab);
        check(Sni, default, "192.0.2.7:4711", "", 0x8620_d2d3_48cd_714b);
        for hash_on in [SourceIp, SourceIpPort, Sni] {
            check(hash_on, default, "", "", 0x33e5_7faa_ef46_1c19);
        }
    }

    #[test]
    fn golden_vectors_of_several_parts() {
        let default = (32, 64);
        let with_ip = HashParts::from(HashOn::Sni).and(HashOn::SourceIp);
        check(with_ip, default, "192.0.2.7:4711", "mail.example.com", 0x6f62_8fb5_f6d4_156a);
        check(with_ip, default, "[::ffff:192.0.2.7]:1", "mail.example.com", 0x6f62_8fb5_f6d4_156a);
        check(with_ip, (24, 64), "192.0.2.7:4711", "mail.example.com", 0xe08f_0c8c_eecc_be10);
        check(with_ip, default, "[2001:db8:1:2:3:4:5:6]:4711", "mail.example.com", 0xb33c_34b7_c8f5_ab1a);
        check(with_ip, default, "192.0.2.7:4711", "", 0x367f_5bed_7720_899b);
        check(with_ip, default, "", "mail.example.com", 0xa294_d762_24d5_7bc5);
        check(with_ip, default, "", "", 0xc1fd_da77_2dc3_5639);
        let with_port = HashParts::from(HashOn::Sni).and(HashOn::SourceIpPort);
        check(with_port, default, "192.0.2.7:4711", "mail.example.com", 0x35a9_289f_af37_bc0d);
    }

    #[test]
    fn parts_have_one_order_and_count_once() {
        use HashOn::{ProxyAuthority, Sni, SourceIp, SourceIpPort};
        let parts =
            |given: &[HashOn]| given[1..].iter().fold(HashParts::from(given[0]), |all, &part| all.and(part));
        let check = |given: &[HashOn], expected: &[HashOn]| {
            assert!(parts(given).iter().eq(expected.iter().copied()), "{given:?}: {:?}", parts(given));
            assert_eq!(parts(given), parts(expected));
            assert_eq!(parts(given).alone(), (expected.len() == 1).then(|| expected[0]));
        };
        check(&[SourceIp], &[SourceIp]);
        check(&[Sni, Sni], &[Sni]);
        check(&[Sni, SourceIp], &[SourceIp, Sni]);
        check(&[SourceIp, Sni], &[SourceIp, Sni]);
        check(&[SourceIp, SourceIpPort], &[SourceIpPort]);
        check(&[SourceIpPort, Sni, SourceIp], &[SourceIpPort, Sni]);
        check(&[Sni, ProxyAuthority], &[ProxyAuthority]);
        check(&[ProxyAuthority, SourceIp, Sni], &[SourceIp, ProxyAuthority]);
    }

    /// A name has the same key from a hello and from a header.
    #[test]
    fn an_authority_is_hashed_as_a_server_name() {
        for (source, name) in [("192.0.2.7:1", "mail.example.com"), ("192.0.2.7:1", ""), ("", "")] {
            let of = |hash_on: HashParts| key_of(hash_on, (32, 64), source, name);
            assert_eq!(of(HashOn::ProxyAuthority.into()), of(HashOn::Sni.into()));
            let [one, other] = [HashOn::ProxyAuthority, HashOn::Sni].map(HashParts::from);
            assert_eq!(of(one.and(HashOn::SourceIp)), of(other.and(HashOn::SourceIp)));
        }
    }

    #[test]
    fn only_who_hashes_an_authority_has_one() {
        let header = |authority: &[u8]| ProxyHeader {
            version: proxy_protocol::HeaderVersion::V2,
            origin: proxy_protocol::HeaderOrigin::Unknown,
            tlvs: vec![Tlv::new(Tlv::AUTHORITY, authority)],
        };
        let authority = |hash_on: HashOn, name: &[u8]| {
            let pool = Pool::build(pool(hash_on, 32, 64), None, 0);
            pool.authority(&header(name)).map(|name| name.to_string())
        };
        assert_eq!(authority(HashOn::ProxyAuthority, b"Mail.Example.").as_deref(), Some("mail.example"));
        assert_eq!(authority(HashOn::ProxyAuthority, b"no name"), None);
        assert_eq!(authority(HashOn::Sni, b"mail.example"), None);
    }

    #[test]
    fn the_hash_key_matters() {
        let mut other = pool(HashOn::SourceIp, 32, 64);
        let source = Some("192.0.2.7:1".parse().unwrap());
        let before = key(&other, source, None);
        other.hash_key[15] ^= 1;
        assert_ne!(key(&other, source, None), before);
    }

    #[test]
    fn a_scope_does_not_count() {
        let address = "fe80::1".parse().unwrap();
        let pool = pool(HashOn::SourceIpPort, 32, 128);
        let keys = [(0, 0), (7, 2)]
            .map(|(flow, scope)| key(&pool, Some(SocketAddrV6::new(address, 1, flow, scope).into()), None));
        assert_eq!(keys[0], keys[1]);
    }

    fn of_source(hash_on: HashOn, v4: u8, v6: u8, address: IpAddr, port: u16) -> u64 {
        key(&pool(hash_on, v4, v6), Some(SocketAddr::new(address, port)), None)
    }

    proptest! {
        #[test]
        fn one_v6_network_is_one_key(address: u128, other: u128, bits in 1_u8..=128, ports: (u16, u16)) {
            let outside = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let neighbour = (address & outside) | (other & !outside);
            // Addresses that are IPv4-mapped follow the other prefix.
            prop_assume!(Ipv6Addr::from(address).to_ipv4_mapped().is_none());
            prop_assume!(Ipv6Addr::from(neighbour).to_ipv4_mapped().is_none());
            let [one, two] = [(address, ports.0), (neighbour, ports.1)]
                .map(|(bits_of, port)| of_source(HashOn::SourceIp, 32, bits, Ipv6Addr::from(bits_of).into(), port));
            prop_assert_eq!(one, two);
            let beyond = address ^ (1 << (128 - bits));
            prop_assert_ne!(one, of_source(HashOn::SourceIp, 32, bits, Ipv6Addr::from(beyond).into(), 1));
        }

        #[test]
        fn one_v4_network_is_one_key(address: u32, other: u32, bits in 1_u8..=32, ports: (u16, u16)) {
            let outside = u32::MAX << (32 - bits);
            let neighbour = Ipv4Addr::from((address & outside) | (other & !outside));
            let address = Ipv4Addr::from(address);
            let one = of_source(HashOn::SourceIp, bits, 64, address.into(), ports.0);
            prop_assert_eq!(one, of_source(HashOn::SourceIp, bits, 64, neighbour.into(), ports.1));
            prop_assert_eq!(one, of_source(HashOn::SourceIp, bits, 1, neighbour.to_ipv6_mapped().into(), 1));
            let beyond = Ipv4Addr::from_bits(address.to_bits() ^ (1 << (32 - bits)));
            prop_assert_ne!(one, of_source(HashOn::SourceIp, bits, 64, beyond.into(), 1));
        }

        #[test]
        fn any_prefix_is_taken(v4: u8, v6: u8, address: IpAddr) {
            of_source(HashOn::SourceIp, v4, v6, address, 1);
        }

        #[test]
        fn with_the_port_each_source_has_its_own(address: IpAddr, port: u16, flip in 0..16_u32) {
            let one = of_source(HashOn::SourceIpPort, 32, 64, address, port);
            prop_assert_ne!(one, of_source(HashOn::SourceIpPort, 32, 64, address, port ^ (1_u16 << flip)));
        }
    }
}
