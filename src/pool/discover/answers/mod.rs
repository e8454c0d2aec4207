//! What answers of the DNS come to: which backends, and for how long. Pure.
//!
//! Every question keeps its last good answer. An answer without records is a failure like any other: a
//! zone that was cut short by mistake must not empty a pool. Only the two families of one name stand for
//! each other: a name that has A records and says that it has no AAAA has none.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::dns::{DnsFault, Part};
use super::set::{Discovered, DiscoveredSet, MOST_BACKENDS};
use crate::pool::destination;

/// The most SRV records that one name may have: each target is two further questions.
const MOST_SERVICES: usize = 512;

/// How much more an SRV record with a weight weighs than one with weight 0 beside it, which "should have
/// a very small chance of being selected" (RFC 2782).
const ABOVE_NONE: u16 = 100;

/// How one question ended.
pub(in crate::pool) type Heard<T> = Result<Answer<T>, DnsFault>;

/// The records of an answer, perhaps none, and how long they hold.
#[derive(Clone, Debug)]
pub(in crate::pool) struct Answer<T> {
    pub(in crate::pool) records: Vec<T>,
    pub(in crate::pool) ttl: Duration,
}

/// What a round of questions came to.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundResult {
    /// The least TTL of its good answers.
    pub(super) ttl: Option<Duration>,
    /// The first of its failures.
    pub(super) fault: Option<DnsFault>,
    /// Whether an answer is yet to come.
    pub(super) is_unfinished: bool,
}

impl RoundResult {
    fn good(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..Self::default() }
    }

    pub(super) fn bad(fault: DnsFault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// Both rounds as one.
    pub(super) fn and(self, other: Self) -> Self {
        let ttl = match (self.ttl, other.ttl) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        let is_unfinished = self.is_unfinished || other.is_unfinished;
        Self { ttl, fault: self.fault.or(other.fault), is_unfinished }
    }
}

/// The addresses of one name, as last heard of each family.
#[derive(Clone, Debug, Default)]
pub(super) struct HostAnswers {
    /// The whole name that has them: of a search list one of several.
    name: Option<Arc<str>>,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl HostAnswers {
    /// Takes in answers: the first of a round, or one that came late. `None` if they are of a name that counts no more.
    pub(super) fn take_in(&mut self, part: Part, is_late: bool) -> Option<RoundResult> {
        if is_late { self.hear_late(part) } else { Some(self.hear(part)) }
    }

    /// Takes in the answers of a round, for both families or for the one that has come.
    fn hear(&mut self, part: Part) -> RoundResult {
        if !part.has_addresses() {
            let faults = [part.v4, part.v6].into_iter().flatten().filter_map(Result::err);
            return RoundResult::bad(faults.into_iter().next().unwrap_or(DnsFault::Empty));
        }
        if self.name.replace(Arc::clone(&part.name)).is_some_and(|last| last != part.name) {
            // The addresses of another name are those of another host.
            (self.v4, self.v6) = Default::default();
        }
        let is_unfinished = part.v4.is_none() || part.v6.is_none();
        RoundResult { is_unfinished, ..self.keep(part) }
    }

    fn hear_late(&mut self, part: Part) -> Option<RoundResult> {
        (self.name.as_ref() == Some(&part.name)).then(|| self.keep(part))
    }

    fn keep(&mut self, part: Part) -> RoundResult {
        let keep = |records: &'static str, last: &mut Vec<IpAddr>, heard: Option<Heard<IpAddr>>| match heard {
            None => RoundResult::default(),
            Some(Ok(answer)) if answer.records.is_empty() => {
                last.clear();
                RoundResult::default()
            }
            Some(Ok(answer)) => {
                *last = answer.records;
                RoundResult::good(answer.ttl)
            }
            // To say that there is no such name is to say that it has no addresses, which the other
            // family has just disproved; some servers do it for a family they do not know.
            Some(Err(DnsFault::NoName)) => {
                last.clear();
                RoundResult::default()
            }
            Some(Err(fault)) => RoundResult::bad(DnsFault::OneFamily { records, fault: Box::new(fault) }),
        };
        keep("A", &mut self.v4, part.v4).and(keep("AAAA", &mut self.v6, part.v6))
    }

    /// The backends of these addresses with one port.
    pub(super) fn backends(&self, port: u16) -> Vec<Discovered> {
        let addresses = self.v4.iter().chain(&self.v6).filter(|ip| is_usable(**ip));
        addresses.map(|ip| backend(None, *ip, port, 1, false)).collect()
    }

    /// Backends of an SRV record.
    fn services(&self, record: &SrvRecord, weight: u16, backup: bool) -> Vec<Discovered> {
        let mut backends = Vec::new();
        for family in [&self.v4, &self.v6] {
            let usable: Vec<IpAddr> = family.iter().copied().filter(|ip| is_usable(*ip)).collect();
            let name = match usable[..] {
                [only] => service_name(record, only),
                _ => None,
            };
            let of = |ip: &IpAddr| backend(name.clone(), *ip, record.port, weight, backup);
            backends.extend(usable.iter().map(of));
        }
        backends
    }
}

/// Addresses that reach this very host or several at once lead to no backend. Servers that block names
/// answer with them.
fn is_usable(ip: IpAddr) -> bool {
    destination::is_host(ip)
}

fn backend(name: Option<Arc<str>>, ip: IpAddr, port: u16, weight: u16, backup: bool) -> Discovered {
    let address = SocketAddr::new(ip.to_canonical(), port);
    let name = name.unwrap_or_else(|| address.to_string().into());
    Discovered { name, address: address.into(), weight, zone: None, backup }
}

/// The name of a target's only address of a family: then the target is an identity that outlives the
/// address, and hash balancers keep its clients when it moves. IPv6 is in brackets, so that a target may
/// have one of each.
fn service_name(record: &SrvRecord, ip: IpAddr) -> Option<Arc<str>> {
    let SrvRecord { target, port, .. } = record;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    target.chars().all(fits).then(|| match ip {
        IpAddr::V4(_) => format!("{target}:{port}").into(),
        IpAddr::V6(_) => format!("[{target}]:{port}").into(),
    })
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SrvRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// In lower case, without the final dot.
    pub(super) target: Arc<str>,
}

/// The SRV records of one name and the addresses of their targets, as last heard.
#[derive(Clone, Debug, Default)]
pub(super) struct SrvAnswers {
    records: Vec<SrvRecord>,
    /// Whether the last answer says that the service is decidedly not there: then its backends take no new connections,
    /// and those that are open stay.
    is_closed: bool,
    hosts: HashMap<Arc<str>, HostAnswers>,
}

impl SrvAnswers {
    /// Takes in the answer for the records themselves.
    pub(super) fn hear(&mut self, heard: Heard<SrvRecord>) -> RoundResult {
        let Answer { mut records, ttl } = match heard {
            Ok(answer) => answer,
            Err(fault) => return RoundResult::bad(fault),
        };
        // A target that is the root says that the service is decidedly not there (RFC 2782). Beside others it says nothing.
        let is_closed = records.iter().any(|record| record.target.is_empty());
        records.retain(|record| !record.target.is_empty() && record.port > 0);
        records.sort();
        records.dedup();
        if records.is_empty() {
            if is_closed {
                self.is_closed = true;
                return RoundResult::good(ttl);
            }
            return RoundResult::bad(DnsFault::Empty);
        }
        if records.len() > MOST_SERVICES {
            return RoundResult::bad(DnsFault::TooMany(records.len()));
        }
        self.is_closed = false;
        self.records = records;
        self.hosts.retain(|target, _| self.records.iter().any(|record| record.target == *target));
        RoundResult::good(ttl)
    }

    /// Whether the service is decidedly not there.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The targets whose addresses are to be asked for.
    pub(super) fn targets(&self) -> Vec<Arc<str>> {
        if self.is_closed {
            return Vec::new();
        }
        let mut targets: Vec<_> = self.records.iter().map(|record| Arc::clone(&record.target)).collect();
        targets.sort();
        targets.dedup();
        targets
    }

    /// What is known of a target; `None` if no record names it.
    pub(super) fn host(&mut self, target: &str) -> Option<&mut HostAnswers> {
        let target = &self.records.iter().find(|record| *record.target == *target)?.target;
        Some(self.hosts.entry(Arc::clone(target)).or_default())
    }

    /// What is found of the service. One that is not there has no backends, or those that it had, without a share.
    pub(super) fn set(&self) -> Result<DiscoveredSet, DnsFault> {
        let mut backends = self.backends();
        if self.is_closed {
            backends.iter_mut().for_each(|backend| backend.weight = 0);
            return Ok(DiscoveredSet::new(backends));
        }
        set(backends)
    }

    /// The backends of all records: those of the lowest priority whose targets have addresses, and the
    /// others as their backups.
    pub(super) fn backends(&self) -> Vec<Discovered> {
        let known = |record: &&SrvRecord| self.hosts.get(&record.target).is_some_and(HostAnswers::is_known);
        let Some(first) = self.records.iter().filter(known).map(|record| record.priority).min() else {
            return Vec::new();
        };
        let mut backends = Vec::new();
        for tier in self.records.chunk_by(|one, two| one.priority == two.priority) {
            for (record, weight) in tier.iter().zip(weights(tier)) {
                let Some(host) = self.hosts.get(&record.target) else { continue };
                backends.extend(host.services(record, weight, record.priority > first));
            }
        }
        backends
    }
}

impl HostAnswers {
    fn is_known(&self) -> bool {
        self.v4.iter().chain(&self.v6).any(|ip| is_usable(*ip))
    }
}

/// The weights of records of one priority as ours, where 0 would be none at all.
fn weights(tier: &[SrvRecord]) -> impl Iterator<Item = u16> {
    let has_zero = tier.iter().any(|record| record.weight == 0);
    let most = tier.iter().map(|record| record.weight).max().unwrap_or(0);
    let factor = if has_zero { ABOVE_NONE.min(u16::MAX / most.max(1)).max(1) } else { 1 };
    tier.iter().map(move |record| (record.weight.saturating_mul(factor)).max(1))
}

/// A set of what was found, if it is one.
pub(super) fn set(backends: Vec<Discovered>) -> Result<DiscoveredSet, DnsFault> {
    match backends.len() {
        0 => Err(DnsFault::Empty),
        count if count > MOST_BACKENDS => Err(DnsFault::TooMany(count)),
        _ => Ok(DiscoveredSet::new(backends)),
    }
}

#[cfg(test)]
mod tests;
