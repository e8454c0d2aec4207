//! The rules of a forwarding pool: the names, addresses and ports to which clients may go. Pure.
//!
//! These are the lists of the operator. `reach` has the rules about inner networks, which no list lifts.

use std::collections::HashSet;
use std::net::IpAddr;

use super::ForwardFault;
use super::reach;
use crate::pool::forward_spec::{ForwardRules, HostPattern};
use crate::route::IpPrefix;
use crate::route::pattern::NamePattern;
use crate::wire::{RequestedHost, ServerName, TunnelTarget};

/// The rules in the form in which a connection uses them.
#[derive(Debug)]
pub(super) struct HostRules {
    spec: ForwardRules,
    allow: HostNames,
    deny: HostNames,
}

impl HostRules {
    pub(super) fn new(spec: &ForwardRules) -> Self {
        Self { allow: HostNames::new(&spec.allow), deny: HostNames::new(&spec.deny), spec: spec.clone() }
    }

    /// Checks a host and a port before the look-up.
    ///
    /// # Errors
    ///
    /// The fault of a target to which clients may not go.
    pub(super) fn check(&self, target: &TunnelTarget) -> Result<(), ForwardFault> {
        match &target.host {
            RequestedHost::Name(name) if !self.allow.has(name) || self.deny.has(name) => {
                return Err(ForwardFault::NotAllowed);
            }
            RequestedHost::Address(ip) if !has(&self.spec.allow_networks, *ip) || self.denies(*ip) => {
                return Err(ForwardFault::AddressNotAllowed);
            }
            RequestedHost::Name(_) | RequestedHost::Address(_) => {}
        }
        match self.spec.ports.iter().any(|range| range.contains(&target.port)) {
            true => Ok(()),
            false => Err(ForwardFault::PortNotAllowed),
        }
    }

    /// Returns true if clients must not go to an address, whatever name it has. An address that embeds another address
    /// is denied with that address.
    pub(super) fn denies(&self, ip: IpAddr) -> bool {
        reach::forms(ip).any(|ip| has(&self.spec.deny_networks, ip))
    }
}

fn has(networks: &[IpPrefix], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(ip))
}

/// A list of names. A check takes one step for each label of the name.
#[derive(Debug, Default)]
struct HostNames {
    has_all: bool,
    exact: HashSet<ServerName>,
    child: HashSet<ServerName>,
    below: HashSet<ServerName>,
}

impl HostNames {
    fn new(patterns: &[HostPattern]) -> Self {
        let mut names = Self::default();
        for pattern in patterns {
            match pattern {
                HostPattern::Any => names.has_all = true,
                HostPattern::Names(NamePattern::Exact(name)) => _ = names.exact.insert(name.clone()),
                HostPattern::Names(NamePattern::Child(suffix)) => _ = names.child.insert(suffix.clone()),
                HostPattern::Names(NamePattern::Below(suffix)) => _ = names.below.insert(suffix.clone()),
            }
        }
        names
    }

    fn has(&self, name: &ServerName) -> bool {
        let name = name.as_str();
        let mut suffixes = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let is_child = name.split_once('.').is_some_and(|(_, suffix)| self.child.contains(suffix));
        self.has_all
            || self.exact.contains(name)
            || is_child
            || suffixes.any(|suffix| self.below.contains(suffix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::forward_spec::RuleMode;

    fn patterns(text: &str) -> Vec<HostPattern> {
        let read = |word: &str| match word {
            "*" => HostPattern::Any,
            word => HostPattern::Names(word.parse().unwrap()),
        };
        text.split_whitespace().map(read).collect()
    }

    fn networks(text: &str) -> Vec<IpPrefix> {
        text.split_whitespace().map(|network| network.parse().unwrap()).collect()
    }

    fn rules(allow: &str, deny: &str, [allow_networks, deny_networks]: [&str; 2]) -> HostRules {
        HostRules::new(&ForwardRules {
            allow: patterns(allow),
            deny: patterns(deny),
            allow_networks: networks(allow_networks),
            deny_networks: networks(deny_networks),
            ports: vec![443..=443, 8000..=8100],
            mode: RuleMode::Enforce,
        })
    }

    #[track_caller]
    fn check(rules: &HostRules, host: &str, port: u16, expected: Result<(), ForwardFault>) {
        let target = TunnelTarget { host: RequestedHost::from_client(host.as_bytes()).unwrap(), port };
        assert_eq!(rules.check(&target), expected, "{target}");
    }

    const NAME: Result<(), ForwardFault> = Err(ForwardFault::NotAllowed);
    const ADDRESS: Result<(), ForwardFault> = Err(ForwardFault::AddressNotAllowed);
    const PORT: Result<(), ForwardFault> = Err(ForwardFault::PortNotAllowed);

    #[test]
    fn names_are_allowed_as_in_routes() {
        let rules = rules("api.test *.example.org", "", ["", ""]);
        for name in ["api.test", "API.test.", "a.example.org", "a.b.c.example.org"] {
            check(&rules, name, 443, Ok(()));
        }
        for name in ["example.org", "badexample.org", "a.example.org.evil.test", "x.api.test", "test"] {
            check(&rules, name, 443, NAME);
        }
    }

    #[test]
    fn a_list_that_denies_is_stronger() {
        let rules = rules("*", "bad.test *.bad.test", ["192.0.2.0/24 2001:db8::/32", "192.0.2.7"]);
        check(&rules, "a.test", 443, Ok(()));
        check(&rules, "bad.test", 443, NAME);
        check(&rules, "a.bad.test", 443, NAME);
        check(&rules, "192.0.2.6", 443, Ok(()));
        check(&rules, "192.0.2.7", 443, ADDRESS);
        check(&rules, "2001:db8::1", 443, Ok(()));
        check(&rules, "2001:db9::1", 443, ADDRESS);
    }

    #[test]
    fn a_list_of_names_allows_no_address() {
        check(&rules("*", "", ["", ""]), "192.0.2.1", 443, ADDRESS);
        check(&rules("", "", ["0.0.0.0/0", ""]), "192.0.2.1", 443, Ok(()));
        check(&rules("", "", ["0.0.0.0/0", ""]), "2001:db8::1", 443, ADDRESS);
        check(&rules("", "", ["0.0.0.0/0", ""]), "a.test", 443, NAME);
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        let rules = rules("*", "", ["", ""]);
        for port in [443, 8000, 8100] {
            check(&rules, "a.test", port, Ok(()));
        }
        for port in [1, 80, 442, 444, 7999, 8101, 65535] {
            check(&rules, "a.test", port, PORT);
        }
    }

    /// A translator would lead to the denied address.
    #[test]
    fn other_forms_of_an_address_are_denied_too() {
        let rules = rules("*", "", ["::/0 0.0.0.0/0", "192.0.2.0/24"]);
        for ip in ["192.0.2.1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::1"] {
            check(&rules, ip, 443, ADDRESS);
        }
        for ip in ["192.0.3.1", "64:ff9b::192.0.3.1", "2002:c000:301::1", "2001:db8::c000:201"] {
            check(&rules, ip, 443, Ok(()));
        }
    }
}
