//! The task that asks the DNS for the names of one pool.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cache::{CachedAnswer, LookupFault};
use super::lookup_result::{ForwardCounts, LookupResult};
use super::question::{ForwardQuestion, KnownNames, lock};
use crate::pool::discover::{Askers, DnsAnswer, DnsFault, Heard, Late, QuestionLimits, SystemNames};
use crate::wire::ServerName;

/// The most names of one pool that are looked up at once. Each name has two queries, and each query a socket.
pub const NAMES_AT_ONCE: usize = 32;

/// The most addresses of one name that are kept, far more than a dial tries.
const MOST_ADDRESSES: usize = 32;

/// The most late answers that are awaited at once. Each has a socket.
const LATE_AT_ONCE: usize = 32;

/// Answers questions until no pool is left that can send a question.
pub(super) async fn answer_all(
    mut questions: mpsc::Receiver<ForwardQuestion>,
    resolvers: Arc<[SocketAddr]>,
    names: KnownNames,
    counts: Arc<ForwardCounts>,
) {
    let (mut under_way, mut late) = (JoinSet::new(), JoinSet::new());
    let limits = QuestionLimits::new(NAMES_AT_ONCE, LATE_AT_ONCE);
    let mut askers = Askers::new(&resolvers, SystemNames::follow, limits);
    loop {
        tokio::select! {
            question = questions.recv(), if under_way.len() < NAMES_AT_ONCE => match question {
                Some(question) => {
                    under_way.spawn(answer(question, askers.clone(), Arc::clone(&counts)));
                }
                None => return,
            },
            Some(answered) = under_way.join_next() => {
                if let Ok(Some(joining)) = answered {
                    late.spawn(joining.join());
                }
            }
            Some(_) = late.join_next() => {}
            // The files of the system have changed: names may have other addresses before their TTLs end.
            () = askers.changed() => lock(&names).forget(),
        }
    }
}

/// Answers a question. Returns the late family, if one of the two families is late.
async fn answer(
    mut question: ForwardQuestion,
    mut askers: Askers,
    counts: Arc<ForwardCounts>,
) -> Option<LateFamily> {
    let asker = match askers.now().await {
        Ok(asker) => asker,
        Err(fault) => {
            let answer = Err(meaning(&fault));
            counts.count(LookupResult::of(&answer));
            question.answer(answer, Duration::ZERO);
            return None;
        }
    };
    // The name of a client is a whole name, for which no search list applies.
    let (part, late) = asker.addresses(&format!("{}.", question.name)).await;
    let (answer, ttl) = both(or_none(part.v4), or_none(part.v6));
    counts.count(LookupResult::of(&answer));
    question.answer(answer.clone(), ttl);
    let (first, late) = (answer.ok()?, late?);
    Some(LateFamily { name: question.name.clone(), names: Arc::clone(&question.names), first, late })
}

/// A name with the addresses of one family, while the answer of the other family is late.
struct LateFamily {
    name: ServerName,
    names: KnownNames,
    first: Arc<[IpAddr]>,
    late: Late,
}

impl LateFamily {
    /// Waits for the late family, and adds its addresses to the cache. The expiry of the name stays the same.
    async fn join(self) {
        let part = self.late.await;
        let addresses = |heard| or_none(heard).map_or_else(|_| Vec::new(), |answer| answer.records);
        let (v4, v6) = (addresses(part.v4), addresses(part.v6));
        let first = self.first.to_vec();
        let all = if v6.is_empty() { in_turn(first, v4) } else { in_turn(v6, first) };
        lock(&self.names).join(&self.name, all, Instant::now());
    }
}

fn or_none(heard: Option<Heard<IpAddr>>) -> Heard<IpAddr> {
    heard.unwrap_or(Ok(DnsAnswer { records: Vec::new(), ttl: Duration::ZERO }))
}

/// Joins the answers of both families. Returns the addresses and their TTL. If one family failed, the other
/// family counts.
fn both(v4: Heard<IpAddr>, v6: Heard<IpAddr>) -> (CachedAnswer, Duration) {
    let mut ttl = None::<Duration>;
    let mut fault = None;
    let mut records = |heard: Heard<IpAddr>| match heard {
        Ok(answer) if !answer.records.is_empty() => {
            ttl = Some(ttl.map_or(answer.ttl, |ttl| ttl.min(answer.ttl)));
            answer.records
        }
        Ok(_) => Vec::new(),
        Err(error) => {
            // Only the first fault counts. NXDOMAIN comes for both families.
            fault.get_or_insert(meaning(&error));
            Vec::new()
        }
    };
    let (v4, v6) = (records(v4), records(v6));
    let addresses = in_turn(v6, v4);
    if addresses.is_empty() {
        return (Err(fault.unwrap_or(LookupFault::NoAddress)), Duration::ZERO);
    }
    (Ok(addresses), ttl.unwrap_or_default())
}

/// Interleaves two families (RFC 8305, section 4), so that a family that does not work here costs one attempt.
fn in_turn(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Arc<[IpAddr]> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before || all.len() >= MOST_ADDRESSES {
            return all.into();
        }
    }
}

fn meaning(fault: &DnsFault) -> LookupFault {
    match fault {
        DnsFault::NoName => LookupFault::NoName,
        DnsFault::Empty => LookupFault::NoAddress,
        DnsFault::Timeout => LookupFault::Timeout,
        DnsFault::ByDefault(fault) => meaning(fault),
        DnsFault::Unread
        | DnsFault::ResolvConf(_)
        | DnsFault::TooMany(_)
        | DnsFault::Refused(_)
        | DnsFault::Net(_)
        | DnsFault::OneFamily { .. } => LookupFault::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str, ttl: u64) -> Heard<IpAddr> {
        match text {
            "no name" => Err(DnsFault::NoName),
            "timeout" => Err(DnsFault::Timeout),
            "many" => {
                let records = (0..100).map(|number| IpAddr::from([1, 1, 1, number])).collect();
                Ok(DnsAnswer { records, ttl: Duration::from_secs(ttl) })
            }
            text => {
                let records = text.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
                Ok(DnsAnswer { records, ttl: Duration::from_secs(ttl) })
            }
        }
    }

    fn check(v4: &str, v6: &str, expected: &str) {
        let text = match both(heard(v4, 60), heard(v6, 30)).0 {
            Ok(ips) => ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            Err(fault) => fault.to_string(),
        };
        assert_eq!(text, expected, "{v4} {v6}");
    }

    #[test]
    fn families_take_turns() {
        check("1.1.1.1", "", "1.1.1.1");
        check("", "2600::1", "2600::1");
        check("1.1.1.1 1.1.1.2 1.1.1.3", "2600::1", "2600::1 1.1.1.1 1.1.1.2 1.1.1.3");
        check("1.1.1.1", "2600::1 2600::2", "2600::1 1.1.1.1 2600::2");
        check("1.1.1.1", "timeout", "1.1.1.1");
        check("no name", "2600::1", "2600::1");
        check("", "", "the name has no address");
        check("", "timeout", "no resolver answered in time");
        check("no name", "no name", "there is no such name");
    }

    #[test]
    fn an_answer_holds_as_long_as_its_shortest_record() {
        let ttl = |v4: &str, v6: &str| both(heard(v4, 60), heard(v6, 30)).1.as_secs();
        assert_eq!(ttl("1.1.1.1", "2600::1"), 30);
        // The TTL of an answer without records does not count.
        assert_eq!(ttl("1.1.1.1", ""), 60);
        assert_eq!(ttl("", "2600::1"), 30);
    }

    #[test]
    fn the_addresses_of_a_name_are_bounded() {
        let (answer, _) = both(heard("many", 60), heard("", 60));
        assert_eq!(answer.unwrap().len(), MOST_ADDRESSES);
    }
}
