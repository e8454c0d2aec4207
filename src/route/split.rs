//! The choice of one of several targets for a client: by weight, and always the same.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// The first byte of each hashed message. It makes the draw independent of the draws of the hash balancers.
const SPLIT: u8 = 0x21;

/// The weights of several targets.
///
/// The network of a client (its /32, or /64 for IPv6) is hashed with SipHash-2-4. The hash is in one of the shares,
/// which follow one another in written order. So a client keeps its target while the weights are unchanged, and all
/// nodes with one `hash_key` agree. When a share grows, only the clients in the added part move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    key: [u8; 16],
    /// The end of each share.
    ends: Box<[u64]>,
}

impl Split {
    /// Creates shares of these weights. A target of weight 0 gets no client; if all weights are 0, the first target
    /// gets all clients.
    pub fn new(key: [u8; 16], weights: impl IntoIterator<Item: Into<u64>>) -> Self {
        let ends = weights.into_iter().scan(0, |end, weight| {
            *end += weight.into();
            Some(*end)
        });
        Self { key, ends: ends.collect() }
    }

    /// Returns the weights.
    pub fn weights(&self) -> impl Iterator<Item = u64> + '_ {
        self.ends.iter().scan(0, |before, &end| Some(end - std::mem::replace(before, end)))
    }

    /// Returns the index of a client's target in the list of weights. All clients without an address have one target.
    pub fn place(&self, source: Option<IpAddr>) -> usize {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&[SPLIT]);
        hasher.write(&source.map_or(0, network).to_be_bytes());
        let total = self.ends.last().copied().unwrap_or_default();
        let drawn = ((u128::from(hasher.finish()) * u128::from(total)) >> 64) as u64;
        self.ends.iter().position(|&end| drawn < end).unwrap_or_default()
    }
}

/// Returns the network of an address: a whole IPv4 address, or the first 64 bits of an IPv6 address.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn targets(weights: &[u32]) -> Vec<usize> {
        let split = Split::new([7; 16], weights.iter().copied());
        (0..10_000).map(|n| split.place(Some(Ipv4Addr::from_bits(n).into()))).collect()
    }

    #[test]
    fn clients_are_spread_by_weight() {
        let share = |weights: &[u32], place| targets(weights).iter().filter(|&&at| at == place).count();
        assert!((8800..9200).contains(&share(&[9, 1], 0)), "{}", share(&[9, 1], 0));
        assert_eq!(share(&[1, 0, 3], 1), 0);
        assert!((7300..7700).contains(&share(&[1, 0, 3], 2)));
        assert_eq!(share(&[0, 1], 1), 10_000);
        assert_eq!(share(&[0, 0], 0), 10_000);
    }

    #[test]
    fn only_clients_in_the_growth_move() {
        for (before, after) in targets(&[9, 1]).into_iter().zip(targets(&[8, 2])) {
            assert!(before == after || (before, after) == (0, 1), "{before} {after}");
        }
    }

    #[test]
    fn a_network_stays_together() {
        let split = Split::new([1; 16], [1_u32; 7]);
        let place = |address: &str| split.place(Some(address.parse().unwrap()));
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1"));
        assert_eq!(place("::ffff:10.0.0.1"), place("10.0.0.1"));
    }

    /// All versions on all nodes must draw alike: a changed value moves clients.
    #[test]
    fn draws_are_pinned() {
        let split = Split::new(*b"pointsman-hash-1", [1_u32; 100]);
        let place = |address: &str| split.place(Some(address.parse().unwrap()));
        let draws = ["10.0.0.1", "10.0.0.2", "192.0.2.7", "2001:db8::1"].map(place);
        assert_eq!((draws, split.place(None)), ([64, 73, 65, 45], 14));
    }
}
