//! The access rules of a listener: what it denies and allows, by lists, networks and JA4 fingerprints.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::list::List;
use crate::route::condition::Ja4Pattern;
use crate::route::{IpPrefix, PrefixSet};
use crate::wire::Ja4;

/// The access rules of a listener, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSpec {
    /// Addresses that are refused.
    pub deny: RuleSpec,
    /// JA4 fingerprints that are refused, once the hello is read.
    pub deny_ja4: Vec<Ja4Pattern>,
    /// The only addresses that are admitted; `None` admits all that are not denied.
    pub allow: Option<RuleSpec>,
    /// The form of a refusal.
    pub refused: ClientRefusal,
}

/// A set of addresses: lists, by name, and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// The lists.
    pub lists: Vec<Arc<str>>,
    /// The networks.
    pub prefixes: Vec<IpPrefix>,
}

/// The form in which a client is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientRefusal {
    /// By a TLS alert on listeners for TLS, otherwise by a reset.
    #[default]
    Reject,
    /// By a reset.
    Drop,
}

/// The access rules of a listener.
#[derive(Debug)]
pub struct AccessRules {
    deny: Rule,
    deny_ja4: Box<[Ja4Pattern]>,
    allow: Option<Rule>,
    /// The form of a refusal.
    pub refused: ClientRefusal,
}

#[derive(Debug)]
struct Rule {
    lists: Vec<Arc<List>>,
    prefixes: PrefixSet,
}

/// The reason for which an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessDenial {
    /// A `deny` rule has the address.
    Denied,
    /// The listener has an `allow` rule, and the address is not in it.
    NotAllowed,
}

/// The rule that refuses an address.
#[derive(Clone, Copy, Debug)]
pub enum AccessDecision<'a> {
    /// This list of a `deny` rule has the address.
    InList(&'a List),
    /// The networks of a `deny` rule have the address.
    InNetworks,
    /// The listener has an `allow` rule, and the address is not in it.
    NotAllowed,
}

impl AccessDecision<'_> {
    /// Returns the reason for the refusal.
    pub fn denial(self) -> AccessDenial {
        match self {
            Self::InList(_) | Self::InNetworks => AccessDenial::Denied,
            Self::NotAllowed => AccessDenial::NotAllowed,
        }
    }
}

/// The rules that apply to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleScope {
    /// All rules: the address is the client's.
    Client,
    /// Only `deny`: the address belongs to a proxy, and its client is not known yet.
    Proxy,
}

impl Rule {
    fn build(spec: &RuleSpec, list: &impl Fn(&Arc<str>) -> Option<Arc<List>>) -> Result<Self, Arc<str>> {
        let lists = spec.lists.iter().map(|name| list(name).ok_or_else(|| Arc::clone(name)));
        Ok(Self { lists: lists.collect::<Result<_, _>>()?, prefixes: spec.prefixes.iter().collect() })
    }

    fn names(&self) -> Vec<&Arc<str>> {
        self.lists.iter().map(|list| &list.name).collect()
    }

    fn list(&self, address: IpAddr, now: impl Fn() -> Instant) -> Option<&List> {
        self.lists.iter().map(|list| &**list).find(|list| list.contains(address, &now))
    }
}

impl AccessRules {
    /// Builds the rules with the lists that `list` returns.
    ///
    /// # Errors
    ///
    /// The name of a list that does not exist.
    pub fn build(spec: &AccessSpec, list: impl Fn(&Arc<str>) -> Option<Arc<List>>) -> Result<Self, Arc<str>> {
        let allow = spec.allow.as_ref().map(|rule| Rule::build(rule, &list)).transpose()?;
        let deny_ja4 = spec.deny_ja4.as_slice().into();
        Ok(Self { deny: Rule::build(&spec.deny, &list)?, deny_ja4, allow, refused: spec.refused })
    }

    /// Checks an address. `deny` has precedence over `allow`. A list that refuses the address counts the
    /// refusal.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    pub fn check(
        &self,
        address: IpAddr,
        scope: RuleScope,
        now: impl Fn() -> Instant,
    ) -> Result<(), AccessDenial> {
        self.decide(address, scope, now).map_err(|decision| {
            if let AccessDecision::InList(list) = decision {
                list.kept.count_refusal();
            }
            decision.denial()
        })
    }

    /// Checks an address as [`AccessRules::check`] does, and counts nothing.
    ///
    /// # Errors
    ///
    /// The rule that refuses the address.
    pub fn decide(
        &self,
        address: IpAddr,
        scope: RuleScope,
        now: impl Fn() -> Instant,
    ) -> Result<(), AccessDecision<'_>> {
        if let Some(list) = self.deny.list(address, &now) {
            return Err(AccessDecision::InList(list));
        }
        if self.deny.prefixes.contains(address) {
            return Err(AccessDecision::InNetworks);
        }
        let is_allowed = |rule: &Rule| rule.prefixes.contains(address) || rule.list(address, &now).is_some();
        match &self.allow {
            Some(rule) if scope == RuleScope::Client && !is_allowed(rule) => Err(AccessDecision::NotAllowed),
            _ => Ok(()),
        }
    }

    /// Returns the names of the lists: first those that deny, then those that allow.
    pub fn lists(&self) -> [Vec<&Arc<str>>; 2] {
        [self.deny.names(), self.allow.as_ref().map_or_else(Vec::new, Rule::names)]
    }

    /// Returns true if only addresses of an `allow` rule are admitted.
    pub fn has_allow(&self) -> bool {
        self.allow.is_some()
    }

    /// Returns true if the rules need the fingerprint of a hello.
    pub fn needs_ja4(&self) -> bool {
        !self.deny_ja4.is_empty()
    }

    /// Returns true if a fingerprint is denied.
    pub fn denies_ja4(&self, ja4: &Ja4) -> bool {
        self.deny_ja4.iter().any(|pattern| pattern.fits(ja4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::list::ListSpec;

    fn prefixes(texts: &str) -> Vec<IpPrefix> {
        texts.split_whitespace().map(|text| text.parse().unwrap()).collect()
    }

    fn rule(lists: &[&str], texts: &str) -> RuleSpec {
        RuleSpec { lists: lists.iter().map(|name| (*name).into()).collect(), prefixes: prefixes(texts) }
    }

    fn check(access: &AccessRules, address: &str, scope: RuleScope, expected: Result<(), AccessDenial>) {
        assert_eq!(
            access.check(address.parse().unwrap(), scope, Instant::now),
            expected,
            "{address} {scope:?}"
        );
    }

    #[test]
    fn deny_comes_before_allow() {
        use AccessDenial::{Denied, NotAllowed};
        use RuleScope::{Client, Proxy};
        let list = ListSpec { name: "bad".into(), entries: prefixes("10.1.0.0/16 10.2.0.0/16"), file: None };
        let list = List::build(&list, None);
        let find = |name: &Arc<str>| (**name == *"bad").then(|| Arc::clone(&list));
        let spec = AccessSpec {
            deny: rule(&["bad"], "10.3.0.0/16"),
            allow: Some(rule(&[], "10.0.0.0/8")),
            ..AccessSpec::default()
        };
        let access = AccessRules::build(&spec, find).unwrap();
        check(&access, "10.0.0.1", Client, Ok(()));
        check(&access, "10.1.0.1", Client, Err(Denied));
        check(&access, "::ffff:10.2.0.1", Client, Err(Denied));
        check(&access, "10.3.0.1", Client, Err(Denied));
        check(&access, "11.0.0.1", Client, Err(NotAllowed));
        check(&access, "11.0.0.1", Proxy, Ok(()));
        check(&access, "10.1.0.1", Proxy, Err(Denied));
        assert_eq!(list.kept.refusals(), 3, "only those by the list");
        let only = AccessSpec { allow: Some(rule(&["bad"], "")), ..AccessSpec::default() };
        let only = AccessRules::build(&only, find).unwrap();
        check(&only, "10.1.0.1", Client, Ok(()));
        check(&only, "10.3.0.1", Client, Err(NotAllowed));
        let unknown = AccessSpec { deny: rule(&["other"], ""), ..AccessSpec::default() };
        assert_eq!(AccessRules::build(&unknown, find).unwrap_err(), "other".into());
    }

    /// Policies hold the list itself, so that a change of its entries needs no new policy.
    #[test]
    fn an_entry_that_is_added_counts_at_once() {
        let list = List::build(&ListSpec { name: "bad".into(), entries: Vec::new(), file: None }, None);
        let spec = AccessSpec { deny: rule(&["bad"], ""), ..AccessSpec::default() };
        let access = AccessRules::build(&spec, |_| Some(Arc::clone(&list))).unwrap();
        check(&access, "10.5.0.1", RuleScope::Client, Ok(()));
        list.kept.additions.add("10.5.0.0/16".parse().unwrap(), None, Instant::now()).unwrap();
        check(&access, "10.5.0.1", RuleScope::Client, Err(AccessDenial::Denied));
    }
}
