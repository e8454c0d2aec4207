//! Whose word a listener takes for who its clients are.

use std::time::Duration;

use crate::route::Prefixes;
use crate::sys::Address;

/// What a listener makes of PROXY headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySpec {
    /// What becomes of peers that are not trusted, and of connections without a header.
    pub mode: ProxyMode,
    /// Whose headers are believed.
    pub trusted: TrustedPeers,
    /// From the accept to the end of the header. Default 30 s.
    pub timeout: Duration,
}

/// What becomes of connections that no header can be believed of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// They are refused.
    #[default]
    Require,
    /// They are their peers' own.
    Accept,
    /// The same, and it is counted that they would be refused.
    Shadow,
}

impl ProxyMode {
    /// The word in the file and in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Accept => "accept",
            Self::Shadow => "shadow",
        }
    }
}

/// The peers whose headers are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    /// Those with these addresses; IPv4-mapped ones count as IPv4.
    pub prefixes: Prefixes,
    /// Those that come through a Unix socket: whoever may open it.
    pub unix: bool,
}

impl TrustedPeers {
    /// Whether a peer is one of them.
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
