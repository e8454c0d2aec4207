//! The settings of a listener for PROXY headers: the trusted peers, and the treatment of all others.

use std::time::Duration;

use crate::route::Prefixes;
use crate::sys::Address;

/// The settings of a listener for PROXY headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySpec {
    /// The treatment of peers that are not trusted, and of connections without a header.
    pub mode: ProxyMode,
    /// The peers whose headers are trusted.
    pub trusted: TrustedPeers,
    /// The time from the accept to the end of the header. Default 30 s.
    pub timeout: Duration,
}

/// The treatment of connections without a trusted header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// They are refused.
    #[default]
    Require,
    /// They are served; the peer is the client.
    Accept,
    /// They are served too, and counted as connections that `Require` would refuse.
    Shadow,
}

impl ProxyMode {
    /// Returns the word for the mode in the configuration and in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Accept => "accept",
            Self::Shadow => "shadow",
        }
    }
}

/// The peers whose headers are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    /// Peers with these addresses; IPv4-mapped addresses count as IPv4.
    pub prefixes: Prefixes,
    /// True if peers on a Unix socket are trusted. The permissions of its file restrict them.
    pub unix: bool,
}

impl TrustedPeers {
    /// Returns true if a peer is trusted.
    pub fn contains(&self, peer: &Address) -> bool {
        match peer.tcp() {
            Some(address) => self.prefixes.longest(address.ip()).is_some(),
            None => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(trusted: &str, peer: &str, expected: bool) {
        let prefixes: Prefixes = trusted.split_whitespace().map(|prefix| prefix.parse().unwrap()).collect();
        let found = TrustedPeers { prefixes, unix: false }.contains(&peer.parse().unwrap());
        assert_eq!(found, expected, "{trusted} {peer}");
    }

    #[test]
    fn peers_are_trusted_by_their_networks() {
        check("10.0.0.0/8 2001:db8::/32", "10.1.2.3:4", true);
        check("10.0.0.0/8 2001:db8::/32", "[::ffff:10.1.2.3]:4", true);
        check("10.0.0.0/8 2001:db8::/32", "[2001:db8::1]:4", true);
        check("10.0.0.0/8", "11.1.2.3:4", false);
        check("10.0.0.0/8", "[::1]:4", false);
        check("0.0.0.0/0", "[::1]:4", false);
        check("::/0", "10.1.2.3:4", false);
        check("0.0.0.0/0 ::/0", "unix:/x", false);
        assert!(TrustedPeers { unix: true, ..TrustedPeers::default() }.contains(&"unix:/x".parse().unwrap()));
    }
}
