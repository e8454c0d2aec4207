//! The settings of a forwarding pool: plain values that the configuration fills and checks.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::route::IpPrefix;
use crate::route::pattern::NamePattern;

/// The settings of a forwarding pool: a client goes to the host that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSpec {
    /// The host to which a client goes.
    pub to: ForwardTo,
    /// The hosts and ports to which clients may go.
    pub rules: ForwardRules,
    /// True if the server name of a hello in a tunnel must be the requested name. Default false.
    pub verify_sni: bool,
    /// Networks that may be dialled although they are not public. Default: none. Danger: the owner of an allowed name
    /// can send clients to any host in these networks.
    pub allow_private: Vec<IpPrefix>,
    /// The servers to ask. Empty (default): the hosts file of the system first, then its resolvers.
    pub resolvers: Vec<SocketAddr>,
}

/// The host to which a client of a forwarding pool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardTo {
    /// The server name in its hello, at this port, at least 1.
    Sni {
        /// The port that is dialled.
        port: u16,
    },
    /// The host and the port in its request for a tunnel.
    Requested,
}

/// The hosts and ports to which clients may go. `deny` and `deny_networks` are stronger than the lists that allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardRules {
    /// The names to which clients may go.
    pub allow: Vec<HostPattern>,
    /// The names to which clients must not go. Default: none.
    pub deny: Vec<HostPattern>,
    /// The networks with the addresses for which clients may ask. Default: none, so only names may be asked for.
    pub allow_networks: Vec<IpPrefix>,
    /// The networks to which clients must not go, by name or by address. Default: none.
    pub deny_networks: Vec<IpPrefix>,
    /// The ports to which clients may go.
    pub ports: Vec<RangeInclusive<u16>>,
    /// The effect of these rules.
    pub mode: RuleMode,
}

/// The effect of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleMode {
    /// They refuse clients.
    #[default]
    Enforce,
    /// They refuse no client. The access log has the connections that they would refuse.
    Report,
}

/// A pattern of names in a list of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Every name.
    Any,
    /// The names of a pattern.
    Names(NamePattern),
}

impl ForwardRules {
    /// Returns true if clients may go to any host on the Internet: by any name, or by any address.
    pub fn is_open(&self) -> bool {
        let is_all = self.allow_networks.iter().any(IpPrefix::is_all);
        self.mode == RuleMode::Report || is_all || self.allow.contains(&HostPattern::Any)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Names(pattern) => pattern.fmt(f),
        }
    }
}
