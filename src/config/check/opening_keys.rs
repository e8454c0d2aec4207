//! Checks the openings before a hello: PostgreSQL, STARTTLS, and several protocols on one port.

use std::sync::Arc;
use std::time::Duration;

use super::listener::ListenerChecker;
use super::or;
use super::pool::REJECT;
use super::pools::Pools;
use super::references::{NamedHost, PoolReference};
use crate::balance::Algorithm;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::{Detect, Listener, Protocol};
use crate::config::findings::Findings;
use crate::config::read::{Key, NamedTable, NamedTables, TableEntry};
use crate::config::words::KeywordEnum;
use crate::listener::ListenerSpec;
use crate::pool::HashOn;
use crate::pool::PoolSpec;
use crate::snapshot::{ActionSpec, DetectSpec, OpeningSpec, PolicySpec, ProtocolSpec, TargetSpec};
use crate::sys::process::host_name;
use crate::wire::Starttls;

/// Some mail servers delay their greeting for six seconds, to detect clients that do not wait for it.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The default of `detect.timeout`. In this time a client that sends first has sent bytes, except on very bad links.
const DETECT_TIMEOUT: Duration = Duration::from_secs(3);

impl ListenerChecker<'_> {
    /// Returns the opening of a listener that reads hellos; `tls` is how it routes them.
    pub(super) fn opening(
        &self,
        tls: &ProtocolSpec,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> OpeningSpec {
        let words = self.words;
        let protocol = words.protocol.value().map_or(Protocol::Tcp, |choice| choice.0);
        self.refuse_opening_keys(protocol, found);
        let greeting_timeout = or(&words.greeting_timeout, |time| time.0, GREETING_TIMEOUT);
        // Every reference is resolved for any protocol, so that all faults are reported at once.
        let plaintext = self.target("plaintext", &words.plaintext, pools, found);
        let cancel = self.target("cancel", &words.cancel, pools, found);
        let databases = self.named("databases", &words.databases, pools, found);
        let users = self.named("users", &words.users, pools, found);
        let detect = self.detect(pools, found);
        let starttls = |protocol| OpeningSpec::Starttls {
            protocol,
            hostname: words.hostname.value().map_or_else(host_name, |name| name.0.as_str().to_owned()).into(),
            greeting_timeout,
        };
        match protocol {
            Protocol::Tcp | Protocol::Tls | Protocol::Socks5 | Protocol::Connect => OpeningSpec::Straight,
            Protocol::Postgres => {
                let cancel = match &words.cancel {
                    // A file may lead to further pools, now or later, whose servers must not get the secret.
                    Key::Absent if words.routes_file.is_absent() => {
                        only(pools_of_sessions(tls, &plaintext, &databases, &users))
                    }
                    _ => cancel,
                };
                OpeningSpec::Postgres { plaintext, databases, users, cancel, greeting_timeout }
            }
            Protocol::Smtp => starttls(Starttls::Smtp),
            Protocol::Imap => starttls(Starttls::Imap),
            Protocol::Pop3 => starttls(Starttls::Pop3),
            Protocol::Auto => OpeningSpec::Detect(detect),
        }
    }

    fn detect(&self, pools: &mut Pools, found: &mut Findings<'_>) -> DetectSpec {
        let absent = Detect::default();
        let words = self.words.detect.value().unwrap_or(&absent);
        let mut target = |key: &str, written| self.target(&format!("detect.{key}"), written, pools, found);
        DetectSpec {
            socks5: target("socks5", &words.socks5),
            connect: target("connect", &words.connect),
            ssh: target("ssh", &words.ssh),
            http: target("http", &words.http),
            postgres: target("postgres", &words.postgres),
            other: target("other", &words.other),
            on_timeout: target("on_timeout", &words.on_timeout),
            timeout: or(&words.timeout, |time| time.0, DETECT_TIMEOUT),
        }
    }

    /// Returns the names that the operator chose, with their pools.
    fn named(
        &self,
        key: &str,
        written: &Key<NamedTables<String>>,
        pools: &mut Pools,
        found: &mut Findings<'_>,
    ) -> Vec<(Arc<str>, Arc<str>)> {
        let named = written.value().map_or(&[][..], |named| &named.0);
        let resolved = named.iter().filter_map(|entry| {
            let value = entry.table.clone()?;
            let written = TableEntry { key: entry.place, at: entry.place, value };
            let path = self.key(&format!("{key}.{}", entry.name));
            let pool = pools.refer(&written, || path.clone(), found)?;
            let used = "for sessions without TLS".to_owned();
            PoolReference { written: &written, used, path: &path, names: NamedHost::Nothing }
                .check(pool, found);
            Some((entry.name.as_str().into(), Arc::clone(&pool.name)))
        });
        resolved.collect()
    }

    /// Returns true if a key names a pool for clients that send no hello, or if such a key has a wrong value.
    pub(super) fn serves_without_tls(&self) -> bool {
        let words = self.words;
        let is_pool = |target: &Key<String>| match target {
            Key::Good(written) => written.value != REJECT,
            Key::Wrong => true,
            Key::Absent => false,
        };
        let detects = |detect: &Detect| {
            let Detect { socks5, connect, ssh, http, postgres, other, on_timeout, timeout: _ } = detect;
            [socks5, connect, ssh, http, postgres, other, on_timeout].into_iter().any(is_pool)
        };
        is_pool(&words.plaintext)
            || !words.databases.is_absent()
            || !words.users.is_absent()
            || words.detect.value().is_some_and(detects)
            || matches!(words.detect, Key::Wrong)
    }

    fn refuse_opening_keys(&self, protocol: Protocol, found: &mut Findings<'_>) {
        use Protocol::{Auto, Imap, Pop3, Postgres, Smtp, Socks5};
        let words = self.words;
        let keys: [(&str, Option<Span>, &[Protocol], &str); 8] = [
            ("plaintext", words.plaintext.place(), &[Postgres], "\"postgres\""),
            ("databases", words.databases.place(), &[Postgres], "\"postgres\""),
            ("users", words.users.place(), &[Postgres], "\"postgres\""),
            ("cancel", words.cancel.place(), &[Postgres], "\"postgres\""),
            ("hostname", words.hostname.place(), &[Smtp, Imap, Pop3], "\"smtp\", \"imap\" or \"pop3\""),
            (
                "greeting_timeout",
                words.greeting_timeout.place(),
                &[Postgres, Smtp, Imap, Pop3],
                "\"postgres\", \"smtp\", \"imap\" or \"pop3\"",
            ),
            ("detect", words.detect.place(), &[Auto], "\"auto\""),
            ("legacy", words.legacy.place(), &[Socks5], "\"socks5\""),
        ];
        if matches!(words.protocol, Key::Wrong) {
            return;
        }
        for (key, place, protocols, words) in keys {
            let Some(place) = place.filter(|_| !protocols.contains(&protocol)) else { continue };
            let word = protocol.word();
            let message = format!("`{key}` is not allowed on the {word} listener `{}`", self.name);
            let fault = Diagnostic::new(Code::MisplacedKey, self.key(key), message).label(place, "");
            found.add(fault.help(format!("it is for listeners with protocol = {words}")));
        }
    }
}

/// Marks the pools that get requests to cancel a query.
pub(super) fn mark_cancel_pools(listeners: &[ListenerSpec], pools: &mut [PoolSpec]) {
    for listener in listeners {
        if let OpeningSpec::Postgres { cancel: TargetSpec::Pool(name), .. } = &listener.policy.opening
            && let Some(pool) = pools.iter_mut().find(|pool| pool.name == *name)
        {
            pool.gets_cancels = true;
        }
    }
}

/// Warns of each listener whose requests to cancel a query may miss the session. There are two causes. The listener
/// refuses these requests without a key that says so, or the pool of the requests may pick another backend.
pub(super) fn warn_of_lost_cancels(
    written: &Key<NamedTables<Listener>>,
    listeners: &[ListenerSpec],
    pools: &[PoolSpec],
    found: &mut Findings<'_>,
) {
    for NamedTable { name, place, table } in written.value().map_or(&[][..], |named| &named.0) {
        let spec = listeners.iter().find(|listener| *listener.name == **name);
        let (Some(words), Some(PolicySpec { protocol, opening, .. })) =
            (table, spec.map(|spec| &spec.policy))
        else {
            continue;
        };
        let OpeningSpec::Postgres { plaintext, databases, users, cancel, .. } = opening else { continue };
        let (message, help) = match cancel {
            TargetSpec::Pool(name) => {
                if pools.iter().find(|pool| pool.name == *name).is_none_or(leads_back) {
                    continue;
                }
                let message = format!(
                    "requests to cancel a query may miss the backend of their session: pool `{name}` has several \
                     backends, and does not pick by the client's address alone"
                );
                (
                    message,
                    "such a request has no server name: use balance = \"maglev\" with hash_on = \"source-ip\"",
                )
            }
            TargetSpec::Reject => {
                let goes_nowhere = pools_of_sessions(protocol, plaintext, databases, users).next().is_none();
                if !words.cancel.is_absent() || (goes_nowhere && words.routes_file.is_absent()) {
                    continue;
                }
                let message = format!(
                    "requests to cancel a query will be refused: sessions of listener `{name}` may go to several \
                     pools, and such a request has no server name that chooses a pool"
                );
                (message, "write the pool for such requests: cancel = \"POOL\", or cancel = \"reject\"")
            }
        };
        let warning = Diagnostic::new(Code::LostCancel, format!("listener.{name}.cancel"), message);
        found.add(warning.label(words.cancel.place().unwrap_or(*place), "").help(help));
    }
}

/// Returns true if all connections of a client's address go to one backend.
fn leads_back(pool: &PoolSpec) -> bool {
    match pool.algorithm {
        Algorithm::Failover => true,
        Algorithm::Maglev if pool.hash_on.alone() == Some(HashOn::SourceIp) && pool.max_load.is_none() => {
            true
        }
        _ => pool.backends.len() < 2 && pool.discover.is_empty(),
    }
}

/// Returns the pools that sessions may go to by the configuration itself, without files; a pool may come several
/// times.
fn pools_of_sessions<'s>(
    tls: &'s ProtocolSpec,
    plaintext: &'s TargetSpec,
    databases: &'s [(Arc<str>, Arc<str>)],
    users: &'s [(Arc<str>, Arc<str>)],
) -> impl Iterator<Item = &'s Arc<str>> {
    let (routes, fallbacks) = match tls {
        ProtocolSpec::Tls { routes, no_sni, unmatched, .. } => (&routes[..], [Some(no_sni), Some(unmatched)]),
        ProtocolSpec::Tcp { .. } | ProtocolSpec::Tunnel { .. } => (&[][..], [None, None]),
    };
    let fallbacks = fallbacks.into_iter().flatten().chain([plaintext]).filter_map(|target| match target {
        TargetSpec::Pool(pool) => Some(pool),
        TargetSpec::Reject => None,
    });
    let named = databases.iter().chain(users).map(|(_, pool)| pool);
    let routed = routes.iter().flat_map(|route| match &route.action {
        ActionSpec::Pool(pool) => std::slice::from_ref(pool),
        ActionSpec::Split(_, pools) => pools,
        ActionSpec::Reject | ActionSpec::Drop => &[],
    });
    routed.chain(fallbacks).chain(named)
}

/// Returns the pool if all of `pools` are the same pool, else `Reject`.
fn only<'s>(mut pools: impl Iterator<Item = &'s Arc<str>>) -> TargetSpec {
    match pools.next() {
        Some(first) if pools.all(|pool| pool == first) => TargetSpec::Pool(Arc::clone(first)),
        _ => TargetSpec::Reject,
    }
}
