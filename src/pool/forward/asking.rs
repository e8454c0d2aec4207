//! The task that asks the DNS for the names of one pool.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::cache::Answer;
use super::{Counts, LookupFault, LookupResult, Question};
use crate::pool::discover::{Asker, Askers, DnsFault, Heard, SystemNames};

/// Names that are asked for at once, each by two questions: a socket for each.
pub const NAMES_AT_ONCE: usize = 32;

/// Addresses of one name that are kept: far more than are ever tried.
const MOST_ADDRESSES: usize = 32;

/// How long a client waits for the addresses of the other family when those of one are there: some resolvers never
/// answer a question for AAAA. RFC 8305, section 3 has 50 ms, of those that have asked one that is near.
const OTHER_FAMILY: Duration = Duration::from_millis(300);

/// Answers questions until there is nobody to ask one.
pub(super) async fn answer_all(
    mut questions: mpsc::Receiver<Question>,
    resolvers: Arc<[SocketAddr]>,
    counts: Arc<Counts>,
) {
    let mut under_way = JoinSet::new();
    let names = Arc::new(Semaphore::new(NAMES_AT_ONCE));
    let askers = Askers::new(&resolvers, SystemNames::follow, names);
    loop {
        tokio::select! {
            question = questions.recv(), if under_way.len() < NAMES_AT_ONCE => match question {
                Some(question) => {
                    under_way.spawn(answer(question, askers.clone(), Arc::clone(&counts)));
                }
                None => return,
            },
            Some(_) = under_way.join_next() => {}
        }
    }
}

async fn answer(mut question: Question, mut askers: Askers, counts: Arc<Counts>) {
    let (answer, ttl) = match askers.now().await {
        Ok(asker) => ask(&question, &asker).await,
        Err(fault) => (Err(meaning(&fault)), Duration::ZERO),
    };
    counts.count(LookupResult::of(&answer));
    question.answer(answer, ttl);
}

async fn ask(question: &Question, asker: &Asker) -> (Answer, Duration) {
    // Names of clients are whole: no search list.
    let (v4, v6) = asker.addresses(&format!("{}.", question.name), OTHER_FAMILY).await;
    both(v4, v6)
}

/// The answers of both families as one, and how long it holds. One that failed does not spoil the other.
fn both(v4: Heard<IpAddr>, v6: Heard<IpAddr>) -> (Answer, Duration) {
    let mut ttl = None::<Duration>;
    let mut fault = None;
    let mut records = |heard: Heard<IpAddr>| match heard {
        Ok(answer) if !answer.records.is_empty() => {
            ttl = Some(ttl.map_or(answer.ttl, |ttl| ttl.min(answer.ttl)));
            answer.records
        }
        Ok(_) => Vec::new(),
        Err(error) => {
            // That there is no such name is said of both families.
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

/// One of each in turn (RFC 8305, section 4), so that a family that does not work here costs one attempt.
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
    use crate::pool::discover::DnsAnswer;

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
        // An answer without records says nothing of those of the other family.
        assert_eq!(ttl("1.1.1.1", ""), 60);
        assert_eq!(ttl("", "2600::1"), 30);
    }

    #[test]
    fn the_addresses_of_a_name_are_bounded() {
        let (answer, _) = both(heard("many", 60), heard("", 60));
        assert_eq!(answer.unwrap().len(), MOST_ADDRESSES);
    }
}
