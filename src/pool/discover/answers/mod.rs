//! Computes the backends from answers of the DNS, and the time for which they count. Pure.
//!
//! Each question keeps its last good answer. An answer without records is a failure: a zone that lost its records
//! by mistake must not empty a pool. There is one exception. If one family of a name has addresses, an answer
//! without records for the other family is good: the name has no addresses of that family.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Heard, Part, SrvRecord};
use super::fault::DnsFault;
use super::set::{Discovered, DiscoveredSet, MOST_BACKENDS};
use crate::pool::destination;

/// The most SRV records of one name. Each target needs two further questions.
const MOST_SERVICES: usize = 512;

/// The largest factor for the weights of SRV records if a record has weight 0. Such a record gets weight 1,
/// because it "should have a very small chance of being selected" (RFC 2782).
const ABOVE_NONE: u16 = 100;

/// The result of a round of questions, or of a part of it.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundResult {
    /// The shortest TTL of its good answers.
    pub(super) ttl: Option<Duration>,
    /// The first of its faults.
    pub(super) fault: Option<DnsFault>,
    /// True if an answer has not come yet.
    pub(super) is_unfinished: bool,
}

impl RoundResult {
    fn good(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..Self::default() }
    }

    pub(super) fn bad(fault: DnsFault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// Joins two results into one.
    pub(super) fn and(self, other: Self) -> Self {
        let ttl = match (self.ttl, other.ttl) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        let is_unfinished = self.is_unfinished || other.is_unfinished;
        Self { ttl, fault: self.fault.or(other.fault), is_unfinished }
    }
}

/// The addresses of one name: the last good answer of each family.
#[derive(Clone, Debug, Default)]
pub(super) struct HostAnswers {
    /// The whole name that has the addresses: one of the names of a search list.
    name: Option<Arc<str>>,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl HostAnswers {
    /// Takes in the first answers of a round, or a late answer. Returns `None` for a late answer of a name that
    /// no longer counts.
    pub(super) fn take_in(&mut self, part: Part, is_late: bool) -> Option<RoundResult> {
        if is_late { self.take_late_answer(part) } else { Some(self.take_answer(part)) }
    }

    /// Takes in the first answers of a round: of both families or of one family.
    fn take_answer(&mut self, part: Part) -> RoundResult {
        if !part.has_addresses() {
            let faults = [part.v4, part.v6].into_iter().flatten().filter_map(Result::err);
            return RoundResult::bad(faults.into_iter().next().unwrap_or(DnsFault::Empty));
        }
        if self.name.replace(Arc::clone(&part.name)).is_some_and(|last| last != part.name) {
            // Another name is another host, so the old addresses do not count.
            (self.v4, self.v6) = Default::default();
        }
        let is_unfinished = part.v4.is_none() || part.v6.is_none();
        RoundResult { is_unfinished, ..self.keep(part) }
    }

    fn take_late_answer(&mut self, part: Part) -> Option<RoundResult> {
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
            // NXDOMAIN means that the name has no records of any type. The other family has addresses, so here
            // it means no addresses of this family. Some servers send NXDOMAIN for a family that they do not
            // support.
            Some(Err(DnsFault::NoName)) => {
                last.clear();
                RoundResult::default()
            }
            Some(Err(fault)) => RoundResult::bad(DnsFault::OneFamily { records, fault: Box::new(fault) }),
        };
        keep("A", &mut self.v4, part.v4).and(keep("AAAA", &mut self.v6, part.v6))
    }

    /// Returns a backend with this port for each address.
    pub(super) fn backends(&self, port: u16) -> Vec<Discovered> {
        let addresses = self.v4.iter().chain(&self.v6).filter(|ip| is_usable(**ip));
        addresses.map(|ip| backend(None, *ip, port, 1, false)).collect()
    }

    /// Returns the backends of an SRV record whose target has these addresses.
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

/// Returns true if the address is the address of one host. 0.0.0.0, multicast and similar addresses are not.
/// Resolvers that block names answer with such addresses.
fn is_usable(ip: IpAddr) -> bool {
    destination::is_host(ip)
}

fn backend(name: Option<Arc<str>>, ip: IpAddr, port: u16, weight: u16, backup: bool) -> Discovered {
    let address = SocketAddr::new(ip.to_canonical(), port);
    let name = name.unwrap_or_else(|| address.to_string().into());
    Discovered { name, address: address.into(), weight, zone: None, backup }
}

/// Returns the backend name for a target that has only one address of a family. The name has the target, not the
/// address, so that hash balancers keep the clients of the target when its address changes. An IPv6 name has brackets,
/// so that a target may have one address of each family.
fn service_name(record: &SrvRecord, ip: IpAddr) -> Option<Arc<str>> {
    let SrvRecord { target, port, .. } = record;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    target.chars().all(fits).then(|| match ip {
        IpAddr::V4(_) => format!("{target}:{port}").into(),
        IpAddr::V6(_) => format!("[{target}]:{port}").into(),
    })
}

/// The SRV records of one name and the addresses of their targets: the last good answers.
#[derive(Clone, Debug, Default)]
pub(super) struct SrvAnswers {
    records: Vec<SrvRecord>,
    /// True if the last answer states that the service is not available (RFC 2782). Then its backends take no new
    /// connections, and the open connections stay.
    is_closed: bool,
    hosts: HashMap<Arc<str>, HostAnswers>,
}

impl SrvAnswers {
    /// Takes in the answer to the question for SRV records.
    pub(super) fn take_answer(&mut self, heard: Heard<SrvRecord>) -> RoundResult {
        let Answer { mut records, ttl } = match heard {
            Ok(answer) => answer,
            Err(fault) => return RoundResult::bad(fault),
        };
        // A root target means that the service is not available (RFC 2782). Beside other records, a root target
        // has no meaning.
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

    /// Returns true if the service is not available (RFC 2782).
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns the targets whose addresses a round asks for.
    pub(super) fn targets(&self) -> Vec<Arc<str>> {
        if self.is_closed {
            return Vec::new();
        }
        let mut targets: Vec<_> = self.records.iter().map(|record| Arc::clone(&record.target)).collect();
        targets.sort();
        targets.dedup();
        targets
    }

    /// Returns the addresses of a target, or `None` if no record names it.
    pub(super) fn host(&mut self, target: &str) -> Option<&mut HostAnswers> {
        let target = &self.records.iter().find(|record| *record.target == *target)?.target;
        Some(self.hosts.entry(Arc::clone(target)).or_default())
    }

    /// Returns the backends of the service. A service that is not available keeps its last backends, with weight 0.
    pub(super) fn set(&self) -> Result<DiscoveredSet, DnsFault> {
        let mut backends = self.backends();
        if self.is_closed {
            backends.iter_mut().for_each(|backend| backend.weight = 0);
            return Ok(DiscoveredSet::new(backends));
        }
        set(backends)
    }

    /// Returns the backends of all records. The records with the lowest priority number whose targets have
    /// addresses come first. The backends of the other records are their backups.
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

/// Returns the weights of backends for records of one priority. No weight is 0, which would be no share.
fn weights(tier: &[SrvRecord]) -> impl Iterator<Item = u16> {
    let has_zero = tier.iter().any(|record| record.weight == 0);
    let most = tier.iter().map(|record| record.weight).max().unwrap_or(0);
    let factor = if has_zero { ABOVE_NONE.min(u16::MAX / most.max(1)).max(1) } else { 1 };
    tier.iter().map(move |record| (record.weight.saturating_mul(factor)).max(1))
}

/// Returns the set of these backends. A set without backends is a fault, and so is a set with more than
/// [`MOST_BACKENDS`].
pub(super) fn set(backends: Vec<Discovered>) -> Result<DiscoveredSet, DnsFault> {
    match backends.len() {
        0 => Err(DnsFault::Empty),
        count if count > MOST_BACKENDS => Err(DnsFault::TooMany(count)),
        _ => Ok(DiscoveredSet::new(backends)),
    }
}

#[cfg(test)]
mod tests;
