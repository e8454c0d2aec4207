//! Reads files with further routes of a listener. They have the same keys as the configuration. Such a file is read
//! apart from it, and again whenever the file changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Config;
use super::check::fall_through;
use super::check::limits::Common;
use super::check::listener::Hashing;
use super::check::pools::{ForwardWords, Known, Pools};
use super::check::routes::RoutesChecker;
use super::fault::{Faults, Span};
use super::file::{ForwardTo, RoutesFile};
use super::findings::Findings;
use super::named_files::FileFindings;
use super::read::{self, Key, Read as _};
use super::text::read_text;
use super::{code::Code, document, fault::Diagnostic};
use crate::balance::Algorithm;
use crate::listener::ListenerSpec;
use crate::pool::{self, HashOn, PoolSpec};
use crate::reclaim::Deferred;
use crate::snapshot::{ProtocolSpec, RouteSpec, TargetSpec};
use crate::sys::file_call::FileTurn;

/// Reads the file of one listener's routes, any number of times, and checks it against its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesReader {
    path: Arc<Path>,
    listener: Arc<str>,
    hashing: Hashing,
    reads_headers: bool,
    hash_key: [u8; 16],
    tarpit_timeout: Duration,
    pools: Arc<[PoolTarget]>,
    /// The routes in the configuration itself.
    written: Arc<Deferred<Vec<RouteSpec>>>,
}

/// The properties of a pool that the checks of routes to the pool use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PoolTarget {
    name: Arc<str>,
    hashes_sni: bool,
    hashes_authority: bool,
    forwards: Option<ForwardTo>,
}

impl PoolTarget {
    fn new(pool: &PoolSpec) -> Self {
        let hashes = |wanted| pool.algorithm == Algorithm::Maglev && pool.hash_on.contains(wanted);
        let hashes_authority = hashes(HashOn::ProxyAuthority);
        Self {
            name: Arc::clone(&pool.name),
            hashes_sni: hashes(HashOn::Sni) || hashes_authority,
            hashes_authority,
            forwards: pool.forward.as_ref().map(|forward| match forward.to {
                pool::ForwardTo::Sni { .. } => ForwardTo::Sni,
                pool::ForwardTo::Requested => ForwardTo::Requested,
            }),
        }
    }

    /// Returns the pool for a check. The pool is written in the configuration, so it has no position in the file of
    /// routes.
    fn known(&self) -> Known {
        let at = Span::default();
        Known::new(Arc::clone(&self.name), at, self.hashes_sni.then_some(at))
            .forwarding(self.forwards.map(|to| ForwardWords { at, to: Some(to) }))
            .hashing_authority(self.hashes_authority)
    }
}

impl RoutesReader {
    /// Returns the readers of a configuration, sorted by the listener's name.
    pub fn all(config: &Config) -> Vec<Self> {
        let pools: Arc<[_]> = config.pools.iter().map(PoolTarget::new).collect();
        let readers = config.listeners.iter().filter_map(|listener| {
            let file = listener.policy.routes_file.as_ref()?;
            let protocol = &listener.policy.protocol;
            Some(Self {
                path: Arc::clone(&file.path),
                listener: Arc::clone(&listener.name),
                hashing: match protocol {
                    ProtocolSpec::Tls { .. } => Hashing::Any,
                    ProtocolSpec::Tunnel { .. } => Hashing::Requests,
                    ProtocolSpec::Tcp { .. } if listener.policy.proxy.is_some() => Hashing::Authorities,
                    ProtocolSpec::Tcp { .. } => Hashing::NoNames,
                },
                reads_headers: listener.policy.proxy.is_some(),
                hash_key: config.hash_key,
                tarpit_timeout: config.limits.tarpit_timeout,
                pools: Arc::clone(&pools),
                written: Arc::new(Deferred::new(protocol.routes()[..file.written].to_vec())),
            })
        });
        readers.collect()
    }

    /// Returns the listener of these routes.
    pub fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// The routes in the configuration itself.
    pub fn written(&self) -> &[RouteSpec] {
        &self.written
    }

    /// Reads and checks the file, and returns its routes without the routes of the configuration. It blocks.
    ///
    /// # Errors
    ///
    /// All faults of the file at once.
    pub fn read(&self) -> Result<Vec<RouteSpec>, Faults> {
        self.parse(&read_text(&self.path, "the file with routes")?)
    }

    /// Checks a text as if it were the content of the file.
    ///
    /// # Errors
    ///
    /// All faults of the text at once.
    pub fn parse(&self, text: &str) -> Result<Vec<RouteSpec>, Faults> {
        let mut found = Findings::new(text);
        let document = document::parse(&mut found);
        let words = RoutesFile::read(&document, read::Path::ROOT, &mut found);
        let routes = words.as_ref().map(|words| self.check(words, &mut found));
        // There are no warnings.
        found.conclude(&self.path.display().to_string())?;
        Ok(routes.unwrap_or_default())
    }

    fn check(&self, words: &RoutesFile, found: &mut Findings<'_>) -> Vec<RouteSpec> {
        let mut pools = Pools::new(self.pools.iter().map(PoolTarget::known).collect());
        let list = match &words.routes {
            Key::Good(list) => &list.value,
            Key::Wrong => return Vec::new(),
            Key::Absent => {
                let fault = Diagnostic::new(Code::MissingKey, "routes", "a file with routes needs `routes`");
                found.add(fault.help("write: routes = [{ sni = \"mail.example.com\", pool = \"mail\" }]"));
                return Vec::new();
            }
        };
        let checker = RoutesChecker {
            listener: &self.listener,
            path: "routes",
            hashing: self.hashing,
            reads_headers: self.reads_headers,
            hash_key: self.hash_key,
            common: Common::of_routes(self.tarpit_timeout),
            others: &self.written,
            is_all: false,
            // `read_all` warns of connections that are left to `unmatched`.
            unmatched: (TargetSpec::Reject, None),
        };
        checker.check(list, &mut pools, found)
    }
}

/// Adds the routes of each file to its listener, and warns of connections that these routes leave to wider routes.
pub(super) fn read_all(config: &mut Config, found: &mut FileFindings<'_>) {
    for reader in RoutesReader::all(config) {
        let turn = FileTurn::wait_blocking(&reader.path);
        let read = reader.read();
        drop(turn);
        let keys = ["listener", &reader.listener, "routes_file"];
        let routes = match read {
            Ok(routes) => routes,
            Err(faults) => {
                found.add(faults, &keys);
                continue;
            }
        };
        let own = config.listeners.iter_mut().find(|listener| listener.name == reader.listener);
        if let Some(listener) = own {
            Arc::make_mut(listener.policy.protocol.routes_mut()).extend(routes);
            for warning in left_to_wider(listener) {
                found.warn(warning, &keys, &reader.path);
            }
        }
    }
}

/// Returns a warning for each route of a listener with a `routes_file` whose conditions leave connections to a wider
/// route, or to a pool in `unmatched`. A million routes take a second.
pub fn left_to_wider(listener: &ListenerSpec) -> Vec<Diagnostic> {
    let unmatched = match &listener.policy.protocol {
        ProtocolSpec::Tls { unmatched, .. } => unmatched.clone(),
        ProtocolSpec::Tcp { .. } | ProtocolSpec::Tunnel { .. } => TargetSpec::Reject,
    };
    let routes = listener.policy.protocol.routes();
    let path = format!("listener.{}.routes_file", listener.name);
    let leaks = fall_through::leaks(routes, &unmatched);
    leaks.iter().map(|leak| fall_through::warning(routes, leak, path.clone(), |_| None)).collect()
}
