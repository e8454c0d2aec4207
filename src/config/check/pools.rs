//! The pools of a configuration as listeners refer to them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::ForwardTo;
use crate::config::findings::{Findings, did_you_mean};
use crate::config::read::TableEntry;

/// The most names that a hint lists.
const LISTED: usize = 10;

/// Every pool by name, sorted, including pools with faults.
pub(in crate::config) struct Pools {
    sorted: Vec<Known>,
    by_name: HashMap<Arc<str>, usize>,
}

/// The properties of a pool that the checks of a reference to the pool use.
pub(in crate::config) struct Known {
    pub(super) name: Arc<str>,
    /// The position of its header.
    pub(super) place: Span,
    /// The position of its `hash_on`, if it hashes the server name.
    pub(super) hashes_sni: Option<Span>,
    /// Its `forward`, if it forwards.
    pub(super) forwards: Option<ForwardWords>,
    /// True if the hashed name may also come from a PROXY header.
    pub(super) hashes_authority: bool,
    is_used: bool,
}

/// The `forward` of a pool, as the checks of a reference to the pool use it.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct ForwardWords {
    /// The position of the key.
    pub(in crate::config) at: Span,
    /// The host to which a client goes; `None` if its word is wrong.
    pub(in crate::config) to: Option<ForwardTo>,
}

impl Known {
    pub(in crate::config) fn new(name: Arc<str>, place: Span, hashes_sni: Option<Span>) -> Self {
        Self { name, place, hashes_sni, hashes_authority: false, forwards: None, is_used: false }
    }

    /// Sets the `forward` of a pool that forwards.
    pub(in crate::config) fn forwarding(self, forwards: Option<ForwardWords>) -> Self {
        Self { forwards, ..self }
    }

    /// Sets whether the hashed name may also come from a PROXY header.
    pub(in crate::config) fn hashing_authority(self, hashes_authority: bool) -> Self {
        Self { hashes_authority, ..self }
    }
}

impl Pools {
    pub(in crate::config) fn new(sorted: Vec<Known>) -> Self {
        let by_name = sorted.iter().enumerate().map(|(at, pool)| (Arc::clone(&pool.name), at)).collect();
        Self { sorted, by_name }
    }

    /// Returns the pool that a key names and marks it as used, or adds a fault.
    pub(in crate::config) fn refer(
        &mut self,
        written: &TableEntry<String>,
        path: impl Fn() -> String,
        found: &mut Findings<'_>,
    ) -> Option<&Known> {
        let at = self.place(written, path, found)?;
        let pool = &mut self.sorted[at];
        pool.is_used = true;
        Some(pool)
    }

    /// Returns the pool that a key names without connections to it, or adds a fault. The pool may still be unused.
    pub(super) fn find(
        &self,
        written: &TableEntry<String>,
        path: impl Fn() -> String,
        found: &mut Findings<'_>,
    ) -> Option<&Known> {
        self.place(written, path, found).map(|at| &self.sorted[at])
    }

    fn place(
        &self,
        written: &TableEntry<String>,
        path: impl Fn() -> String,
        found: &mut Findings<'_>,
    ) -> Option<usize> {
        let at = self.by_name.get(written.value.as_str()).copied();
        if at.is_none() {
            found.add(self.unknown(written, path(), found));
        }
        at
    }

    /// Returns true if a pool of this name exists and forwards.
    pub(super) fn forwards(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|at| self.sorted[*at].forwards.is_some())
    }

    fn unknown(&self, written: &TableEntry<String>, path: String, found: &Findings<'_>) -> Diagnostic {
        let name = &written.value;
        let fault = Diagnostic::new(Code::UnknownPool, path, format!("there is no pool {name:?}"));
        if found.is_full() {
            return fault;
        }
        let names = || self.sorted.iter().map(|pool| pool.name.as_ref());
        let label = match did_you_mean(name, names()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => "not defined".to_owned(),
        };
        let fault = fault.label(written.at, label);
        if self.sorted.is_empty() {
            return fault.help("this file defines no pool; add: [pool.NAME] with backends = [\"IP:PORT\"]");
        }
        let listed = names().take(LISTED).collect::<Vec<_>>().join(", ");
        let more = match self.sorted.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        fault.help(format!("pools in this file: {listed}{more}"))
    }

    /// Warns of each pool that nothing refers to. If there are faults it adds no warning: the reference may be in a
    /// part that could not be read.
    pub(in crate::config) fn warn_of_unused(&self, found: &mut Findings<'_>) {
        if found.has_faults() {
            return;
        }
        for pool in self.sorted.iter().filter(|pool| !pool.is_used) {
            let message = format!("pool `{}` is never used", pool.name);
            let path = format!("pool.{}", pool.name);
            let warning = Diagnostic::new(Code::UnusedPool, path, message);
            found.add(warning.label(pool.place, "no listener and no route leads to it"));
        }
    }
}
