//! The message about a key that does not exist.

use super::{KeyExtent, each_key};
use crate::admin::unknown::unknown;
use crate::config::KeyPath;
use crate::server::View;

/// Returns the message about a prefix that no key has: the nearest name, and the names that exist.
pub(super) fn message(view: &View, prefix: &str) -> String {
    let mut near = NearKeys::default();
    each_key(view, KeyExtent::All, &mut |entry, _| near.note(&entry.path, prefix));
    near.message(prefix)
}

/// The names below the longest part of a prefix that exists.
#[derive(Default)]
struct NearKeys {
    /// The steps of this part, and its text.
    depth: usize,
    table: String,
    names: Vec<String>,
}

impl NearKeys {
    /// Notes a key. Keys come in the order of their paths.
    fn note(&mut self, path: &KeyPath, prefix: &str) {
        let mut table = String::new();
        for (depth, step) in path.steps().iter().enumerate() {
            let step = step.to_string();
            let dot = if depth == 0 || step.starts_with('[') { "" } else { "." };
            let longer = format!("{table}{dot}{step}");
            if super::is_below(prefix, &longer) {
                table = longer;
                continue;
            }
            if depth > self.depth {
                *self = Self { depth, table, names: Vec::new() };
            }
            if depth == self.depth && self.names.last() != Some(&step) {
                self.names.push(step);
            }
            return;
        }
        // The whole path is in the prefix, which goes on.
        let depth = path.steps().len();
        if depth > self.depth {
            *self = Self { depth, table, names: Vec::new() };
        }
    }

    fn message(&self, prefix: &str) -> String {
        let rest = prefix.strip_prefix(&*self.table).unwrap_or(prefix).trim_start_matches('.');
        let end = rest.char_indices().skip(1).find(|(_, letter)| matches!(letter, '.' | '['));
        let name = end.map_or(rest, |(end, _)| &rest[..end]);
        let list = match (&*self.table, self.names.first()) {
            (table, None) => return format!("there is no key below {table}"),
            (table, Some(first)) if first.starts_with('[') => {
                return format!("there is no item `{name}` in {table}, which has {} items", self.names.len());
            }
            ("", _) => "The keys are".to_owned(),
            (table, _) => format!("The keys of {table} are"),
        };
        unknown("key", name, &list, self.names.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyStep;

    #[test]
    fn the_message_names_the_keys_beside_an_unknown_one() {
        let paths: Vec<_> =
            ["log.level", "pool.db.attempts", "pool.db.backends.0", "pool.db.backends.1", "pool.web.zones"]
                .map(|path| {
                    let steps = path.split('.').map(|step| match step.parse() {
                        Ok(index) => KeyStep::Index(index),
                        Err(_) => KeyStep::Name(step.to_owned()),
                    });
                    steps.fold(KeyPath::default(), KeyPath::with)
                })
                .into();
        let check = |prefix: &str, expected: &str| {
            let mut near = NearKeys::default();
            paths.iter().for_each(|path| near.note(path, prefix));
            assert_eq!(near.message(prefix), expected);
        };
        check("pol", "there is no key `pol`; did you mean `pool`? The keys are: log, pool");
        check(
            "pool.wbe.attempts",
            "there is no key `wbe`; did you mean `web`? The keys of pool are: db, web",
        );
        check(
            "pool.db.atempts",
            "there is no key `atempts`; did you mean `attempts`? The keys of pool.db are: attempts, backends",
        );
        check("pool.db.backends[7].x", "there is no item `[7]` in pool.db.backends, which has 2 items");
        check("log.level.x", "there is no key below log.level");
        check("pool.x", "there is no key `x`. The keys of pool are: db, web");
    }
}
