//! Which of several targets a client goes to, by weight, and always to the same.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// What is hashed begins with this, so that the draw has nothing to do with those of the hash balancers.
const SPLIT: u8 = 0x21;

/// Weights of several targets.
///
/// The network of a client (its /32, or /64 for IPv6) is hashed with SipHash-2-4 and falls into one of the
/// shares, which lie one behind the other in written order. So a client stays while the weights do, all nodes
/// with one `hash_key` agree, and where a share grows only those that fall into the growth move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    key: [u8; 16],
    /// Where each share ends.
    ends: Box<[u64]>,
}

impl Split {
    /// Shares of these weights. One of weight 0 gets nobody; if all are 0, the first gets everybody.
    pub fn new(key: [u8; 16], weights: impl IntoIterator<Item = u32>) -> Self {
        let ends = weights.into_iter().scan(0, |end, weight| {
            *end += u64::from(weight);
            Some(*end)
        });
        Self { key, ends: ends.collect() }
    }

    /// The place of a client's target in the list of weights. Those without an address share one.
    pub fn place(&self, source: Option<IpAddr>) -> usize {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&[SPLIT]);
        hasher.write(&source.map_or(0, network).to_be_bytes());
        let total = self.ends.last().copied().unwrap_or_default();
        let drawn = ((u128::from(hasher.finish()) * u128::from(total)) >> 64) as u64;
        self.ends.iter().position(|&end| drawn < end).unwrap_or_default()
    }
}

/// IPv4 whole, of IPv6 the first 64 bits.
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

    fn pool_slots(weights: &[u32]) -> Vec<usize> {
        let split = Split::new([7; 16], weights.iter().copied());
        (0..10_000).map(|n| split.place(Some(Ipv4Addr::from_bits(n).into()))).collect()
    }

    #[test]
    fn clients_are_spread_by_weight() {
        let share = |weights: &[u32], place| pool_slots(weights).iter().filter(|&&at| at == place).count();
        assert!((8800..9200).contains(&share(&[9, 1], 0)), "{}", share(&[9, 1], 0));
        assert_eq!(share(&[1, 0, 3], 1), 0);
        assert!((7300..7700).contains(&share(&[1, 0, 3], 2)));
        assert_eq!(share(&[0, 1], 1), 10_000);
        assert_eq!(share(&[0, 0], 0), 10_000);
    }

    #[test]
    fn only_those_in_the_growth_move() {
        for (before, after) in pool_slots(&[9, 1]).into_iter().zip(pool_slots(&[8, 2])) {
            assert!(before == after || (before, after) == (0, 1), "{before} {after}");
        }
    }

    #[test]
    fn a_network_stays_together() {
        let split = Split::new([1; 16], [1, 1, 1, 1, 1, 1, 1]);
        let place = |address: &str| split.place(Some(address.parse().unwrap()));
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1"));
        assert_eq!(place("::ffff:10.0.0.1"), place("10.0.0.1"));
    }

    /// All versions on all nodes must draw alike: changing this moves clients.
    #[test]
    fn draws_are_pinned() {
        let split = Split::new(*b"pointsman-hash-1", [1; 100]);
        let place = |address: &str| split.place(Some(address.parse().unwrap()));
        let draws = ["10.0.0.1", "10.0.0.2", "192.0.2.7", "2001:db8::1"].map(place);
        assert_eq!((draws, split.place(None)), ([64, 73, 65, 45], 14));
    }
}
