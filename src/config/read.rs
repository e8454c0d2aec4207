//! Reads the values of a document into written tables: it reads every value, adds every fault, and continues with
//! the next value.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::code::Code;
use super::fault::{Diagnostic, Span};
use super::findings::{Findings, did_you_mean};
use super::foreign;

/// A value with its position.
pub(super) type Value<'i> = toml::Spanned<DeValue<'i>>;

/// A type that can be read from a value of the file.
pub(super) trait Read: Sized {
    /// Reads a value, or adds at least one fault and returns `None`.
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self>;
}

/// The path of a value, as a chain of steps through the tables that contain it.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: PathStep<'a>,
    /// The position of the last key; for an item of an array, the position of the item.
    pub(super) key: Span,
}

#[derive(Clone, Copy)]
enum PathStep<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Self = Self { parent: None, step: PathStep::Root, key: Span { start: 0, end: 0 } };

    fn key(&'a self, name: &'a str, key: Span) -> Self {
        Self { parent: Some(self), step: PathStep::Key(name), key }
    }

    /// Returns the last key of the path; for an item of an array, the key of the array.
    pub(super) fn last_key(&self) -> &'a str {
        match (self.step, self.parent) {
            (PathStep::Key(name), _) => name,
            (PathStep::Index(_), Some(parent)) => parent.last_key(),
            _ => "",
        }
    }

    fn index(&'a self, index: usize, item: Span) -> Self {
        Self { parent: Some(self), step: PathStep::Index(index), key: item }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let at_root = self.parent.is_none_or(|parent| matches!(parent.step, PathStep::Root));
        match self.step {
            PathStep::Root => Ok(()),
            PathStep::Key(name) if at_root => write!(f, "{name}"),
            PathStep::Key(name) => write!(f, ".{name}"),
            PathStep::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A key of a table: absent, wrong (its fault is added), or good.
#[derive(Debug, Default)]
pub(super) enum Key<T> {
    #[default]
    Absent,
    Wrong,
    Good(TableEntry<T>),
}

/// A key and its value with their positions.
#[derive(Debug)]
pub(super) struct TableEntry<T> {
    pub(super) key: Span,
    pub(super) at: Span,
    pub(super) value: T,
}

impl<T> Key<T> {
    pub(super) fn entry(&self) -> Option<&TableEntry<T>> {
        match self {
            Self::Good(entry) => Some(entry),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn value(&self) -> Option<&T> {
        self.entry().map(|entry| &entry.value)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns the position of the key, if it is good.
    pub(super) fn place(&self) -> Option<Span> {
        self.entry().map(|entry| entry.key)
    }
}

/// An array of values, each with its position.
#[derive(Debug)]
pub(super) struct ArrayOf<T> {
    pub(super) items: Vec<ArrayItem<T>>,
    /// True if every item could be read. If false, an item that seems to be missing may be in the file, but could not
    /// be read.
    pub(super) complete: bool,
}

/// A value in an array.
#[derive(Debug)]
pub(super) struct ArrayItem<T> {
    pub(super) at: Span,
    pub(super) value: T,
}

impl<T: Read> Read for ArrayOf<T> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Array(array) = value.get_ref() else {
            wrong_type(value, path, "an array in [ ]", found);
            return None;
        };
        let mut items = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            let at = Span::from(item.span());
            let read = T::read(item, path.index(index, at), found);
            items.extend(read.map(|value| ArrayItem { at, value }));
        }
        let complete = items.len() == array.len();
        Some(Self { items, complete })
    }
}

/// An array of values, or one value without the brackets.
#[derive(Debug)]
pub(super) struct OneOrMany<T>(pub(super) ArrayOf<T>);

impl<T: Read> Read for OneOrMany<T> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        if let DeValue::Array(_) = value.get_ref() {
            return ArrayOf::read(value, path, found).map(Self);
        }
        let item = ArrayItem { at: value.span().into(), value: T::read(value, path, found)? };
        Some(Self(ArrayOf { items: vec![item], complete: true }))
    }
}

/// Tables by a name that the operator chose, such as `[pool.mail]`, sorted by name.
#[derive(Debug)]
pub(super) struct NamedTables<T>(pub(super) Vec<NamedTable<T>>);

/// A table with its name.
#[derive(Debug)]
pub(super) struct NamedTable<T> {
    pub(super) name: String,
    /// The position that messages show for the whole table: its header, or its name.
    pub(super) place: Span,
    /// `None` if it is not a table; references to it are still valid.
    pub(super) table: Option<T>,
}

impl<T: Read> Read for NamedTables<T> {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let DeValue::Table(tables) = value.get_ref() else {
            wrong_type(value, path, "named tables", found);
            return None;
        };
        let named = tables.iter().map(|(name, value)| {
            let key = Span::from(name.span());
            let path = path.key(name.get_ref(), key);
            let place = place_of(value, path, found);
            NamedTable { name: name.get_ref().to_string(), place, table: T::read(value, path, found) }
        });
        Some(Self(named.collect()))
    }
}

/// Returns the position of a table's header, or of its key if it has no header.
fn place_of(value: &Value<'_>, path: Path<'_>, found: &Findings<'_>) -> Span {
    let span = Span::from(value.span());
    match found.text().as_bytes().get(span.start) {
        Some(b'[') => span,
        _ => path.key,
    }
}

/// Declares written tables. Each table has a struct, a reader that fills it, and a schema that describes it. All
/// three come from one list of keys, so they cannot differ. The text before `struct` is its name in messages; doc
/// comments become the descriptions in the schema.
macro_rules! tables {
    ($(
        $(#[$meta:meta])*
        $noun:literal struct $name:ident {
            $( $(#[$doc:meta])* $key:ident: $word:ty, )*
        }
    )*) => { $(
        #[derive(Debug, Default)]
        #[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields, default))]
        $(#[$meta])*
        pub(super) struct $name {
            $( $(#[$doc])* pub(super) $key: $crate::config::read::Key<$word>, )*
        }

        impl $crate::config::read::Read for $name {
            fn read(
                value: &$crate::config::read::Value<'_>,
                path: $crate::config::read::Path<'_>,
                found: &mut $crate::config::findings::Findings<'_>,
            ) -> Option<Self> {
                use $crate::config::read::{open_table, read_key, refuse_others};
                const KEYS: &[&str] = &[$( $crate::config::read::word_of(stringify!($key)) ),*];
                let table = open_table(value, path, $noun, KEYS, found)?;
                let read = Self { $( $key: read_key(table, $crate::config::read::word_of(stringify!($key)), path, found), )* };
                refuse_others(value, path, $noun, KEYS, found);
                Some(read)
            }
        }
    )* };
}
pub(super) use tables;

/// Returns the word of a key. Its identifier may be a keyword of Rust, such as `r#type`.
pub(super) const fn word_of(identifier: &'static str) -> &'static str {
    match identifier.as_bytes() {
        [b'r', b'#', ..] => identifier.split_at(2).1,
        _ => identifier,
    }
}

/// Returns the table in a value; `noun` is the name of the table in messages, such as `a pool`.
pub(super) fn open_table<'v, 'i>(
    value: &'v Value<'i>,
    path: Path<'_>,
    noun: &str,
    keys: &[&str],
    found: &mut Findings<'_>,
) -> Option<&'v DeTable<'i>> {
    let table = value.get_ref().as_table();
    if table.is_none() {
        let fault = type_fault(value, path, "a table");
        found.add(fault.help(format!("{noun} takes: {}", keys.join(", "))));
    }
    table
}

/// Reads the value of one key of a table.
pub(super) fn read_key<T: Read>(
    table: &DeTable<'_>,
    name: &str,
    path: Path<'_>,
    found: &mut Findings<'_>,
) -> Key<T> {
    let Some((key, value)) = table.get_key_value(name) else { return Key::Absent };
    let key = Span::from(key.span());
    match T::read(value, path.key(name, key), found) {
        Some(read) => Key::Good(TableEntry { key, at: value.span().into(), value: read }),
        None => Key::Wrong,
    }
}

/// Adds a fault for every key of a table that is not among `known`.
pub(super) fn refuse_others(
    value: &Value<'_>,
    path: Path<'_>,
    noun: &str,
    known: &[&str],
    found: &mut Findings<'_>,
) {
    let keys = value.get_ref().as_table().into_iter().flat_map(DeTable::keys);
    for key in keys.filter(|key| !known.contains(&key.get_ref().as_ref())) {
        let name: &str = key.get_ref();
        let hint = foreign::key(noun, name);
        let meant = did_you_mean(name, known.iter().copied()).filter(|_| hint.is_none());
        let written = hint.and_then(|hint| hint.strip_prefix("write ")?.split([' ', ',']).next());
        if let Some(meant) = meant.or(written.filter(|written| known.contains(written))) {
            found.misspelt(path.key(meant, path.key).to_string());
        }
        if found.is_full() {
            found.add(Diagnostic::new(Code::UnknownKey, "", ""));
            continue;
        }
        let key = Span::from(key.span());
        let label = match (hint, meant) {
            (Some(hint), _) => hint.to_owned(),
            (None, Some(meant)) => format!("did you mean `{meant}`?"),
            (None, None) => "no such key here".to_owned(),
        };
        let message = match path.step {
            PathStep::Root => format!("unknown key `{name}`"),
            _ => format!("unknown key `{name}` in `{path}`"),
        };
        let mut fault = Diagnostic::new(Code::UnknownKey, path.key(name, key), message).label(key, label);
        let place = place_of(value, path, found);
        if !matches!(path.step, PathStep::Root) && place != key {
            fault = fault.label(place, "");
        }
        found.add(fault.help(format!("{noun} takes: {}", known.join(", "))));
    }
}

/// Adds the fault that a value is not what its key takes.
pub(super) fn wrong_type(value: &Value<'_>, path: Path<'_>, expected: &str, found: &mut Findings<'_>) {
    found.add(type_fault(value, path, expected));
}

/// Returns that fault.
pub(super) fn type_fault(value: &Value<'_>, path: Path<'_>, expected: &str) -> Diagnostic {
    let message = format!("`{path}` takes {expected}, not {}", kind(value.get_ref()));
    let fault = Diagnostic::new(Code::WrongType, path, message);
    fault.label(value.span().into(), format!("expected {expected}"))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
