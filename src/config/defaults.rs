//! The defaults of keys, as the JSON Schema describes them, for `pointsman config --all`.
//!
//! The description of each key names its default. So the text of a default cannot differ from the documentation. A
//! default that depends on other keys or on the host has only words.

use std::iter::Peekable;
use std::vec;

use serde_json::Value;

use super::written::{KeyPath, KeyStep};

/// The JSON Schema of the configuration file.
pub const SCHEMA: &str = include_str!("../../config.schema.json");

/// The mark behind a word that is the default.
const MARK: &str = " (default)";

/// The default of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultText<'s> {
    /// The value.
    Value(Value),
    /// A description of the value.
    Words(&'s str),
}

/// The defaults of all keys.
pub struct SchemaDefaults(Value);

impl SchemaDefaults {
    /// Parses the schema.
    pub fn parse() -> Self {
        // It is a constant of the program; without it, no key has a default.
        Self(serde_json::from_str(SCHEMA).unwrap_or_default())
    }

    /// Returns the default of a key; `None` if it has none.
    pub fn of(&self, path: &KeyPath) -> Option<DefaultText<'_>> {
        default_of(path.steps().iter().try_fold(&self.0, child)?)
    }

    /// Starts to find the keys that are not written.
    pub fn walk(&self) -> DefaultsWalk<'_> {
        DefaultsWalk { at: KeyPath::default(), tables: vec![OpenTable::of(Some(&self.0))] }
    }
}

/// Finds the keys that are not written, between the written keys in their order. It gives each key that has a default, of
/// each table that is written or has defaults of its own. A table that is off by default counts as one key.
pub struct DefaultsWalk<'s> {
    /// The last written key.
    at: KeyPath,
    /// The tables on its path: first the document, last the value at `at`.
    tables: Vec<OpenTable<'s>>,
}

/// A table, and its keys that the walk has not passed.
struct OpenTable<'s> {
    schema: Option<&'s Value>,
    keys: Peekable<vec::IntoIter<(&'s str, &'s Value)>>,
}

impl<'s> DefaultsWalk<'s> {
    /// Passes a written key. Calls `give` for the keys between the last one and this one that are not written.
    pub fn pass(
        &mut self,
        path: &KeyPath,
        value: Option<&Value>,
        give: &mut impl FnMut(&KeyPath, DefaultText<'s>),
    ) {
        self.close(self.at.in_common(path), give);
        for depth in self.tables.len() - 1..path.steps().len() {
            let step = &path.steps()[depth];
            if let KeyStep::Name(name) = step {
                self.tables[depth].give_until(Some(name), &mut path.first(depth), give);
            }
            let schema = self.tables[depth].schema.and_then(|schema| child(schema, step));
            let is_array = match path.steps().get(depth + 1) {
                Some(next) => !matches!(next, KeyStep::Name(_)),
                None => value.is_some_and(Value::is_array),
            };
            self.tables.push(if is_array { OpenTable::of_array(schema) } else { OpenTable::of(schema) });
        }
        self.at = path.clone();
    }

    /// Gives the keys after the last written key.
    pub fn finish(mut self, give: &mut impl FnMut(&KeyPath, DefaultText<'s>)) {
        self.close(0, give);
        if let Some(document) = self.tables.first_mut() {
            document.give_until(None, &mut KeyPath::default(), give);
        }
    }

    /// Gives the rest of the tables below a depth.
    fn close(&mut self, depth: usize, give: &mut impl FnMut(&KeyPath, DefaultText<'s>)) {
        while self.tables.len() > depth + 1
            && let Some(mut table) = self.tables.pop()
        {
            table.give_until(None, &mut self.at.first(self.tables.len()), give);
        }
    }
}

impl<'s> OpenTable<'s> {
    fn of(schema: Option<&'s Value>) -> Self {
        Self { schema, keys: schema.map(sorted_keys).unwrap_or_default().into_iter().peekable() }
    }

    /// Returns an array, which has no keys of its own.
    fn of_array(schema: Option<&'s Value>) -> Self {
        Self { schema, keys: Vec::new().into_iter().peekable() }
    }

    /// Gives the keys before `name`, and passes `name`. Without a name, gives all that are left. `path` is the path of
    /// the table.
    fn give_until(
        &mut self,
        name: Option<&str>,
        path: &mut KeyPath,
        give: &mut impl FnMut(&KeyPath, DefaultText<'s>),
    ) {
        while let Some((key, schema)) = self.keys.next_if(|(key, _)| name.is_none_or(|name| *key < name)) {
            path.push(KeyStep::Name(key.to_owned()));
            give_unwritten(schema, path, give);
            path.pop();
        }
        self.keys.next_if(|(key, _)| name == Some(*key));
    }
}

/// Gives the default of a key, or those of the keys in a table.
fn give_unwritten<'s>(
    schema: &'s Value,
    path: &mut KeyPath,
    give: &mut impl FnMut(&KeyPath, DefaultText<'s>),
) {
    if let Some(text) = default_of(schema) {
        give(path, text);
    } else if schema["properties"].is_object() {
        OpenTable::of(Some(schema)).give_until(None, path, give);
    }
}

/// Returns a schema and its alternatives: many keys take a value or an array, or a text or a table.
fn forms(schema: &Value) -> impl Iterator<Item = &Value> {
    std::iter::once(schema).chain(schema["anyOf"].as_array().into_iter().flatten())
}

/// Returns the keys that a table has by its schema, sorted.
fn sorted_keys(schema: &Value) -> Vec<(&str, &Value)> {
    let properties = forms(schema).find_map(|form| form["properties"].as_object());
    let mut keys: Vec<_> = properties.into_iter().flatten().map(|(key, value)| (&**key, value)).collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    keys
}

/// Returns the schema of a key or an item; `None` for an item that no array has.
fn child<'s>(schema: &'s Value, step: &KeyStep) -> Option<&'s Value> {
    let of_form = |form: &'s Value| match step {
        KeyStep::Name(name) => form["properties"]
            .get(name)
            .or_else(|| form.get("additionalProperties"))
            .filter(|found| found.is_object()),
        KeyStep::Index(_) => form.get("items"),
        KeyStep::Member(_) => None,
    };
    forms(schema).find_map(of_form)
}

fn default_of(schema: &Value) -> Option<DefaultText<'_>> {
    let words = default_in(schema["description"].as_str()?)?;
    Some(match serde_json::from_str(words) {
        Ok(value) => DefaultText::Value(value),
        Err(_) => DefaultText::Words(words),
    })
}

/// Returns the default in a description: the quoted word before `(default)`, or the rest of the sentence that begins with
/// `Default`.
fn default_in(description: &str) -> Option<&str> {
    if let Some((before, _)) = description.split_once(MARK) {
        let quote = before.strip_suffix('"')?.rfind('"')?;
        return before.get(quote..);
    }
    let (_, rest) = description.split_once("Default")?;
    let rest = rest.strip_prefix(':').unwrap_or(rest).trim_start();
    let end = rest.find(". ").unwrap_or(rest.trim_end_matches('.').len());
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    #[test]
    fn a_description_has_a_default() {
        let check = |description: &str, expected: Option<&str>| {
            assert_eq!(default_in(description), expected, "{description}");
        };
        check(
            "Threads, 0 to 9. Default 0: one for each core. A change needs a restart.",
            Some("0: one for each core"),
        );
        check("A time. Default \"5s\".", Some("\"5s\""));
        check("\"tcp\" (default): no name. \"tls\": a name.", Some("\"tcp\""));
        check("With \"off\" (default), no timeout applies.", Some("\"off\""));
        check("A file. Default: h.sock in RUNTIME_DIRECTORY.", Some("h.sock in RUNTIME_DIRECTORY"));
        check("The pool. Required.", None);
    }

    /// A key whose default cannot be found in its description would be missing in `config --all`.
    #[test]
    fn each_key_with_a_default_shows_it() {
        let (defaults, mut values, mut words) = (SchemaDefaults::parse(), 0, 0);
        for key in schema::keys() {
            // An item of an array has the path of the array here; the schema of an item is below `items`.
            let mut schema = &defaults.0;
            for name in key.split('.') {
                let name = KeyStep::Name(name.to_owned());
                let item = child(schema, &KeyStep::Index(0)).filter(|_| child(schema, &name).is_none());
                schema = child(item.unwrap_or(schema), &name).unwrap_or_else(|| panic!("{key}: {name}"));
            }
            match default_of(schema) {
                Some(DefaultText::Value(_)) => values += 1,
                Some(DefaultText::Words(text)) => {
                    assert!(!text.is_empty() && !text.contains(['\n', '\u{1b}']), "{key}: {text:?}");
                    words += 1;
                }
                None => {
                    let description = schema["description"].as_str().unwrap();
                    let is_table =
                        !sorted_keys(schema).is_empty() || schema["additionalProperties"].is_object();
                    assert!(is_table || description.contains("Required"), "{key}: {description}");
                }
            }
        }
        assert!(values > 60 && words > 60, "{values} {words}");
    }

    /// Returns the keys that are not written beside these, with their defaults.
    fn unwritten(written: &[(&str, Value)]) -> Vec<String> {
        let defaults = SchemaDefaults::parse();
        let (mut walk, mut found) = (defaults.walk(), Vec::new());
        let mut give = |path: &KeyPath, text: DefaultText<'_>| {
            found.push(match text {
                DefaultText::Value(value) => format!("{path} = {value}"),
                DefaultText::Words(words) => format!("{path}: {words}"),
            });
        };
        for (path, value) in written {
            let steps = path.split('.').map(|step| match step.parse() {
                Ok(index) => KeyStep::Index(index),
                Err(_) => KeyStep::Name(step.to_owned()),
            });
            walk.pass(&steps.fold(KeyPath::default(), KeyPath::with), Some(value), &mut give);
        }
        walk.finish(&mut give);
        found
    }

    #[test]
    fn without_a_file_each_table_of_the_process_has_its_defaults() {
        let found = unwritten(&[]);
        let sorted = found.is_sorted();
        assert!(sorted && found[0] == "access_log.empty = true", "{found:?}");
        for expected in [
            "log.level = \"info\"",
            "shutdown.drain = \"30s\"",
            "workers: 0: one thread for each core",
            "zones: none",
        ] {
            assert!(found.iter().any(|line| line == expected), "{expected}: {found:?}");
        }
        assert!(
            !found.iter().any(|line| line.starts_with("pool") || line.starts_with("listener")),
            "{found:?}"
        );
    }

    #[test]
    fn a_written_table_has_the_defaults_of_its_other_keys() {
        let found = unwritten(&[
            ("log.level", "debug".into()),
            ("pool.p.backends.0", "10.0.0.1:1".into()),
            ("pool.p.backends.1.address", "10.0.0.2:1".into()),
            ("pool.p.backends.1.weight", 7.into()),
            ("pool.p.ejection", serde_json::json!({})),
            ("pool.q.discover.0.dns", "a.example".into()),
        ]);
        let has = |line: &str| found.iter().any(|found| found == line);
        assert!(
            has("log.format = \"text\"") && !found.iter().any(|line| line.starts_with("log.level")),
            "{found:?}"
        );
        // A backend that is only an address has the defaults of a table.
        assert!(
            has("pool.p.backends[0].weight = 1") && has("pool.p.backends[0].name: the address"),
            "{found:?}"
        );
        assert!(has("pool.p.backends[1].state = \"ready\""), "{found:?}");
        assert!(!found.iter().any(|line| line.starts_with("pool.p.backends[1].weight")), "{found:?}");
        // An empty table turns ejection on; in the other pool it is off.
        assert!(has("pool.p.ejection.base_time = \"30s\"") && has("pool.q.ejection: none"), "{found:?}");
        assert!(has("pool.q.discover[0].jitter = 10") && !has("pool.q.discover.jitter = 10"), "{found:?}");
        assert!(has("pool.p.health.check = \"tcp\"") && has("pool.q.balance = \"maglev\""), "{found:?}");
        let place = |line: &str| found.iter().position(|found| found == line).unwrap();
        assert!(place("pool.p.backends[0].weight = 1") < place("pool.p.backends[1].state = \"ready\""));
        assert!(place("pool.p.attempts = 3") < place("pool.p.backends[0].weight = 1"));
        assert!(place("pool.p.zones: the `zones` of the node") < place("pool.q.attempts = 3"));
        let mut once = found.clone();
        once.dedup();
        assert_eq!(once, found);
    }

    #[test]
    fn the_default_of_a_key_is_found_by_its_path() {
        let defaults = SchemaDefaults::parse();
        let weight =
            KeyPath::of_names("pool.p.backends").with(KeyStep::Index(3)).with(KeyStep::Name("weight".into()));
        assert_eq!(defaults.of(&weight), Some(DefaultText::Value(1.into())));
        assert_eq!(defaults.of(&KeyPath::of_names("listener.l.bind")), None);
        assert_eq!(defaults.of(&KeyPath::of_names("no.such.key")), None);
    }
}
