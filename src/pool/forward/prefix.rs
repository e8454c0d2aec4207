//! Networks as operators write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    network: IpAddr,
    bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixFault {
    /// Neither an address nor one with `/BITS`.
    #[error("a network is IP/BITS, as in \"10.1.0.0/16\"")]
    Form,
    /// An address with bits behind its network.
    #[error("the address has bits behind its network, which is {0}")]
    HostBits(Prefix),
}

impl Prefix {
    /// Whether an address is in it. An IPv4-mapped address is the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        Self::cut(ip.to_canonical(), self.bits) == Some(*self)
    }

    /// How many leading bits count; 0 is every address of the family.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The network of so many bits that an address is in; `None` for more bits than it has.
    fn cut(ip: IpAddr, bits: u8) -> Option<Self> {
        let network = match ip {
            IpAddr::V4(ip) => {
                let rest = 32_u32.checked_sub(bits.into())?;
                IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(rest).unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                let rest = 128_u32.checked_sub(bits.into())?;
                IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(rest).unwrap_or(0)).into())
            }
        };
        Some(Self { network, bits })
    }
}

impl FromStr for Prefix {
    type Err = PrefixFault;

    fn from_str(text: &str) -> Result<Self, PrefixFault> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| PrefixFault::Form)?;
        let all = if ip.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &str| !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => all,
            Some(bits) if is_number(bits) => bits.parse().map_err(|_| PrefixFault::Form)?,
            Some(_) => return Err(PrefixFault::Form),
        };
        let prefix = Self::cut(ip, bits).ok_or(PrefixFault::Form)?;
        if prefix.network == ip { Ok(prefix) } else { Err(PrefixFault::HostBits(prefix)) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        fn check(text: &str, expected: &str) {
            let found = match text.parse::<Prefix>() {
                Ok(prefix) => prefix.to_string(),
                Err(PrefixFault::Form) => "form".to_owned(),
                Err(PrefixFault::HostBits(prefix)) => format!("bits behind {prefix}"),
            };
            assert_eq!(found, expected, "{text:?}");
        }
        check("10.1.0.0/16", "10.1.0.0/16");
        check("10.1.2.3", "10.1.2.3/32");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("fd00::/8", "fd00::/8");
        check("::1", "::1/128");
        check("::/0", "::/0");
        check("10.1.2.0/16", "bits behind 10.1.0.0/16");
        check("fd00::1/64", "bits behind fd00::/64");
        check("10.1.0.0/33", "form");
        check("::/129", "form");
        check("10.1.0.0/", "form");
        check("10.1.0.0/+8", "form");
        check("10.1/16", "form");
        check("example.org", "form");
        check("", "form");
    }

    #[test]
    fn a_network_has_its_addresses() {
        fn check(prefix: &str, ip: &str, expected: bool) {
            let prefix: Prefix = prefix.parse().unwrap();
            assert_eq!(prefix.contains(ip.parse().unwrap()), expected, "{prefix} {ip}");
        }
        check("10.1.0.0/16", "10.1.255.255", true);
        check("10.1.0.0/16", "10.2.0.0", false);
        check("10.1.0.0/16", "::ffff:10.1.0.1", true);
        check("10.1.2.3/32", "10.1.2.3", true);
        check("10.1.2.3/32", "10.1.2.2", false);
        check("0.0.0.0/0", "255.255.255.255", true);
        check("0.0.0.0/0", "::1", false);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe00::1", false);
        check("::/0", "10.0.0.1", false);
    }
}
