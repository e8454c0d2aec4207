//! Faults that last until they are corrected: a broken file, settings that wait for a restart. Old events leave the
//! status; these faults stay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kind of a standing fault. Each list, pool and listener has at most one fault of
/// a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StandingKind {
    /// Settings of the last reload that need a restart.
    Restart,
    /// The file of a list.
    List,
    /// The database with the places of a pool's clients.
    Near,
    /// The file with routes of a listener.
    Routes,
}

impl StandingKind {
    /// The word in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::List => "list",
            Self::Near => "near",
            Self::Routes => "routes",
        }
    }
}

/// The faults that last now, by kind and by the name of the list, pool or listener. The names come from the
/// configuration, so the configuration bounds the table. Control writes, admin reads.
#[derive(Debug, Default)]
pub struct StandingFaults {
    /// A lock, because admin reads on other tasks. It is held for one change or one copy.
    faults: Mutex<BTreeMap<(StandingKind, Arc<str>), String>>,
}

impl StandingFaults {
    /// Sets the fault of a list, pool or listener. The new fault replaces an earlier fault.
    pub(super) fn set(&self, kind: StandingKind, name: &Arc<str>, text: String) {
        self.lock().insert((kind, Arc::clone(name)), text);
    }

    /// Removes the fault of a list, pool or listener.
    pub(super) fn clear(&self, kind: StandingKind, name: &Arc<str>) {
        self.lock().remove(&(kind, Arc::clone(name)));
    }

    /// Keeps the faults of one kind whose names `is_kept` accepts, and removes the other faults of this kind.
    pub(super) fn retain(&self, kind: StandingKind, is_kept: impl Fn(&Arc<str>) -> bool) {
        self.lock().retain(|(of, name), _| *of != kind || is_kept(name));
    }

    /// Sets the keys that need a restart. Without keys it removes the fault.
    pub(super) fn set_restart(&self, keys: &[&str]) {
        let process = Arc::from("");
        if keys.is_empty() {
            return self.clear(StandingKind::Restart, &process);
        }
        let keys = keys.join(", ");
        let text =
            format!("a restart is needed for {keys}; until then the values of the start stay in force");
        self.set(StandingKind::Restart, &process, text);
    }

    /// Returns all faults, by kind and name.
    pub fn all(&self) -> Vec<(StandingKind, Arc<str>, String)> {
        self.lock().iter().map(|((kind, name), text)| (*kind, Arc::clone(name), text.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(StandingKind, Arc<str>), String>> {
        // No fault is ever half set.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the first line of a fault, without spaces at its ends.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_stands_until_it_is_cleared() {
        let faults = StandingFaults::default();
        let shown = || -> Vec<_> {
            let all = faults.all().into_iter();
            all.map(|(kind, name, text)| format!("{} {name}: {text}", kind.word())).collect()
        };
        let names = ["a", "b"].map(Arc::from);
        names.iter().for_each(|name| faults.set(StandingKind::List, name, "broken".to_owned()));
        faults.set(StandingKind::Routes, &names[0], "broken".to_owned());
        faults.set(StandingKind::List, &names[0], "empty".to_owned());
        faults.set_restart(&["workers", "admin"]);
        let restart = "restart : a restart is needed for workers, admin; until then the values of the start stay in force";
        assert_eq!(shown(), [restart, "list a: empty", "list b: broken", "routes a: broken"]);
        faults.set_restart(&[]);
        faults.retain(StandingKind::List, |name| **name == *"b");
        assert_eq!(shown(), ["list b: broken", "routes a: broken"]);
        faults.clear(StandingKind::List, &names[1]);
        faults.clear(StandingKind::List, &names[0]);
        assert_eq!(shown(), ["routes a: broken"]);
    }
}
