//! Counts open connections by source, at every listener, with or without limits by source.
//!
//! Each worker lists its connections in a walk over its registry. The lists are counted on a thread that may block. Nothing is kept between two counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::view::View;
use crate::ids::{BackendId, ListenerId};
use crate::limit::{PrefixLengths, SourceName};
use crate::live::{OpenConnection, OpenConnections};

/// The time that a worker may take to list its connections. The connections of a slower worker are not counted.
const LISTING: Duration = Duration::from_secs(2);

/// The connections that are counted.
#[derive(Clone, Debug)]
pub enum CensusScope {
    /// All connections of the process.
    All,
    /// The connections of a listener.
    Listener(ListenerId),
    /// The connections of backends.
    Backends(HashSet<BackendId>),
}

impl CensusScope {
    fn has(&self, connection: &OpenConnection) -> bool {
        match self {
            Self::All => true,
            Self::Listener(listener) => connection.listener == *listener,
            Self::Backends(backends) => connection.backend.is_some_and(|backend| backends.contains(&backend)),
        }
    }
}

/// The open connections of a source at one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCount {
    /// The source, as the listener counts it.
    pub source: SourceName,
    /// The listener.
    pub listener: ListenerId,
    /// Open connections.
    pub open: u32,
    /// The open connections whose first bytes are still being read.
    pub reading: u32,
}

/// The open connections at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The number of connections that were counted.
    pub connections: u64,
    /// The sources with open connections. A source counts once at each listener.
    pub sources: u64,
    /// The sources with the most open connections, the heaviest first.
    pub heaviest: Vec<SourceCount>,
}

impl View {
    /// Counts open connections by source, and returns the `top` sources with the most open connections.
    pub async fn census(&self, among: CensusScope, top: usize) -> Census {
        self.censuses(vec![among], top).await.pop().unwrap_or_default()
    }

    /// Makes several counts from one list of the connections.
    pub(super) async fn censuses(&self, among: Vec<CensusScope>, top: usize) -> Vec<Census> {
        let listings: Vec<_> = self.inboxes.iter().map(|inbox| inbox.list_open()).collect();
        let mut listed = Vec::with_capacity(listings.len());
        for listing in listings {
            if let Ok(Ok(connections)) = timeout(LISTING, listing).await {
                listed.push(connections);
            }
        }
        let prefixes = self.prefixes();
        let counted =
            spawn_blocking(move || among.iter().map(|among| count(&listed, among, &prefixes, top)).collect());
        counted.await.unwrap_or_default()
    }

    /// Returns the prefix lengths of sources by listener, for the listeners that configure them.
    fn prefixes(&self) -> HashMap<ListenerId, PrefixLengths> {
        let snapshot = self.snapshot.load();
        let policies = snapshot.policies.values();
        policies
            .filter_map(|policy| Some((policy.listener_id, policy.admission.as_ref()?.spec.prefix)))
            .collect()
    }
}

fn count(
    listed: &[OpenConnections],
    among: &CensusScope,
    prefixes: &HashMap<ListenerId, PrefixLengths>,
    top: usize,
) -> Census {
    let mut counts: HashMap<(ListenerId, SourceName), (u32, u32)> = HashMap::new();
    let mut connections = 0;
    let all = listed.iter().flat_map(|connections| connections.iter());
    for connection in all.filter(|connection| among.has(connection)) {
        connections += 1;
        let source = match (&connection.link, connection.client) {
            (Some(link), _) => SourceName::Link(Arc::clone(link)),
            (None, Some(ip)) => {
                let prefix = prefixes.get(&connection.listener).copied().unwrap_or_default();
                SourceName::of(ip, prefix)
            }
            (None, None) => continue,
        };
        let (open, reading) = counts.entry((connection.listener, source)).or_insert((0, 0));
        *open += 1;
        *reading += u32::from(connection.is_reading);
    }
    let sources = counts.len() as u64;
    let report = |((listener, source), (open, reading)): ((ListenerId, SourceName), (u32, u32))| {
        SourceCount { source, listener, open, reading }
    };
    let mut heaviest: Vec<_> = counts.into_iter().map(report).collect();
    let order = |a: &SourceCount, b: &SourceCount| {
        let heavier = b.open.cmp(&a.open);
        heavier.then_with(|| a.source.cmp(&b.source)).then_with(|| a.listener.cmp(&b.listener))
    };
    if heaviest.len() > top && top > 0 {
        heaviest.select_nth_unstable_by(top - 1, order);
    }
    heaviest.truncate(top);
    heaviest.sort_unstable_by(order);
    Census { connections, sources, heaviest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Link;

    /// A connection of the listener and the backend with these indices; backend 0 is none.
    fn open(client: &str, listener: u32, backend: u32) -> OpenConnection {
        let (client, link) = match client.strip_prefix("link ") {
            Some(id) => ("10.0.0.1".parse().ok(), Some(Link::new(0xea, id).into())),
            None => (client.parse().ok(), None),
        };
        let backend = (backend > 0).then(|| BackendId::nth(backend));
        OpenConnection {
            client,
            link,
            listener: ListenerId::nth(listener),
            backend,
            is_reading: backend.is_none(),
        }
    }

    /// The index of a listener that [`open`] made.
    fn index(listener: ListenerId) -> u32 {
        (0..9).find(|&index| ListenerId::nth(index) == listener).unwrap()
    }

    #[test]
    fn the_heaviest_come_first() {
        let listed = [
            vec![open("10.0.0.1", 1, 7), open("10.0.0.2", 1, 0), open("unix", 1, 7)],
            vec![open("::ffff:10.0.0.2", 1, 8), open("10.0.0.2", 2, 8), open("2001:db8::1", 2, 8)],
            vec![open("2001:db8::2", 2, 9), open("10.0.0.2", 1, 0)],
        ]
        .map(Arc::new);
        let count_of = |among: &CensusScope, top| count(&listed, among, &HashMap::new(), top);
        let summary = |census: &Census| -> Vec<_> {
            let heaviest = census.heaviest.iter();
            heaviest.map(|one| (one.source.to_string(), index(one.listener), one.open, one.reading)).collect()
        };
        let all = count_of(&CensusScope::All, 2);
        assert_eq!((all.connections, all.sources), (8, 4));
        assert_eq!(summary(&all), [("10.0.0.2".into(), 1, 3, 2), ("2001:db8::".into(), 2, 2, 0)]);
        let one = count_of(&CensusScope::Listener(ListenerId::nth(1)), 9);
        assert_eq!(summary(&one), [("10.0.0.2".into(), 1, 3, 2), ("10.0.0.1".into(), 1, 1, 0)]);
        let backends = count_of(&CensusScope::Backends([8, 9].map(BackendId::nth).into()), 1);
        assert_eq!((backends.connections, summary(&backends)), (4, vec![("2001:db8::".into(), 2, 2, 0)]));
        assert_eq!(count_of(&CensusScope::Listener(ListenerId::nth(3)), 5), Census::default());
        let wide: HashMap<_, _> = [(ListenerId::nth(1), PrefixLengths { v4: 24, v6: 64 })].into();
        let wide = count(&listed, &CensusScope::Listener(ListenerId::nth(1)), &wide, 5);
        assert_eq!(summary(&wide), [("10.0.0.0".into(), 1, 4, 2)]);
    }

    /// All clients of a link have one address. Connections without a link count for their address.
    #[test]
    fn connections_of_a_link_count_for_it() {
        let listed = [
            vec![open("link a", 1, 7), open("10.0.0.1", 1, 7)],
            vec![open("link b", 1, 7), open("link a", 1, 0)],
        ];
        let census = count(&listed.map(Arc::new), &CensusScope::All, &HashMap::new(), 5);
        let summary: Vec<_> = census.heaviest.iter().map(|one| (one.source.to_string(), one.open)).collect();
        let expected = [("link:0xEA:a", 2), ("10.0.0.1", 1), ("link:0xEA:b", 1)];
        assert_eq!(summary, expected.map(|(name, open)| (name.to_owned(), open)));
        assert_eq!((census.connections, census.sources), (4, 3));
    }
}
