//! The parts of a connection that a hash balancer hashes. Pure.

use std::fmt;

/// A part of a connection that a hash balancer may hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address, cut to a prefix.
    SourceIp,
    /// The client's whole address and port.
    SourceIpPort,
    /// The server name. If it is the only part and a client sends no name, the source address is hashed.
    Sni,
    /// The host name in a PROXY header. Without such a host name, the server name is hashed.
    ProxyAuthority,
}

impl HashOn {
    /// Returns the word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SourceIp => "source-ip",
            Self::SourceIpPort => "source-ip-port",
            Self::Sni => "sni",
            Self::ProxyAuthority => "proxy-authority",
        }
    }
}

/// The parts that a hash balancer hashes: one, or several together.
///
/// The order in which they were given does not count. A source address adds nothing to a source address with its
/// port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashParts(u8);

impl HashParts {
    const ALL: [HashOn; 4] = [HashOn::SourceIp, HashOn::SourceIpPort, HashOn::Sni, HashOn::ProxyAuthority];

    /// Adds a part.
    #[must_use]
    pub fn and(self, part: HashOn) -> Self {
        Self(self.0 | bit(part))
    }

    /// Returns true if a part counts.
    pub fn contains(self, part: HashOn) -> bool {
        let is_in = self.0 & bit(part) == bit(part);
        is_in
            && match part {
                HashOn::SourceIp => !self.contains(HashOn::SourceIpPort),
                HashOn::Sni => !self.contains(HashOn::ProxyAuthority),
                HashOn::SourceIpPort | HashOn::ProxyAuthority => true,
            }
    }

    /// The parts that count, in the order of the key.
    pub fn iter(self) -> impl Iterator<Item = HashOn> {
        Self::ALL.into_iter().filter(move |part| self.contains(*part))
    }

    /// The part that counts, if it is the only one.
    pub fn alone(self) -> Option<HashOn> {
        Self::ALL.into_iter().find(|part| Self(bit(*part)) == self)
    }
}

impl From<HashOn> for HashParts {
    fn from(part: HashOn) -> Self {
        Self(bit(part))
    }
}

impl fmt::Debug for HashParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

const fn bit(part: HashOn) -> u8 {
    match part {
        HashOn::SourceIp => 1,
        // The address is a part of the address with its port, so it makes no difference if both are given.
        HashOn::SourceIpPort => 3,
        HashOn::Sni => 4,
        // The host name of the header replaces the server name, so it makes no difference if both are given.
        HashOn::ProxyAuthority => 12,
    }
}

/// The number of leading bits of a source address that are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// For IPv4 and IPv4-mapped addresses, 1 to 32. Default 32.
    pub v4: u8,
    /// For IPv6, 1 to 128. Default 64: one network, one user.
    pub v6: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}
