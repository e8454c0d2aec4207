//! The keys of a configuration as they are written, with their lines, for `pointsman config`.
//!
//! The file on the disk may have changed since it was loaded, or may be broken. So the process keeps the keys of the text
//! that it loaded. The thread that reads the file makes a line of text for each key, and compresses the lines. They take
//! about a fifth of the memory that the text would: 1.2 MB for 100,000 routes in the file. A reader gets one line after the
//! other, so it needs no memory for all of them. The values of secrets are left out from the start (`secret`).

mod path;
mod secret;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::iter;
use std::sync::Arc;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::{Number, Value};
use toml::de::DeValue;

use super::read;
use crate::pool::{BackendSpec, PoolSpec};

pub use path::{KeyPath, KeyStep};

/// The keys that only a restart can change, and the tables of which no key can.
pub const RESTART_KEYS: [&str; 5] = ["workers", "admin", "process", "handover", "limits.sources"];

/// The longest text of a value that is kept, in bytes.
const LONGEST_VALUE: usize = 1024;

/// The text of a secret in the compressed lines. No value has this text.
const HIDDEN: &str = "-";

/// The bytes that are compressed at once.
const CHUNK: usize = 64 * 1024;

/// The bytes of a text for which the number of its lines is kept: a line end is searched in so many bytes.
const BLOCK: usize = 1024;

/// The keys of a configuration as they are written. A key of an array or a table without items has one entry; in all
/// others, each item has its own.
#[derive(Clone, Default)]
pub struct WrittenKeys {
    source: WrittenSource,
    /// The keys that only a restart can change, sorted.
    fixed: Vec<WrittenKey>,
    /// The keys and tables that wait for a restart, of [`RESTART_KEYS`].
    waiting: Vec<&'static str>,
    /// The keys of these as the last reload has them, sorted.
    after_restart: Vec<WrittenKey>,
    /// All other keys: a line for each, compressed.
    others: Arc<[u8]>,
    /// By pool, the position of each backend that is written with an address.
    backends: Arc<BTreeMap<Arc<str>, BackendPositions>>,
}

/// The positions of backends in the `backends` of their pool, by name.
type BackendPositions = HashMap<Arc<str>, usize>;

/// The origin of the written keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WrittenSource {
    /// The command line, with `--listen` and `--backend`.
    #[default]
    CommandLine,
    /// A file with this name.
    File(Arc<str>),
}

/// A key as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenKey {
    /// Its path.
    pub path: KeyPath,
    /// Its value; `None` for a secret. A long text is cut.
    pub value: Option<Value>,
    /// Its line in the file, from 1.
    pub line: usize,
}

/// Configurations are compared by their effect. Texts that are written in different ways may have the same effect.
impl PartialEq for WrittenKeys {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for WrittenKeys {}

impl fmt::Debug for WrittenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrittenKeys").field("source", &self.source).finish_non_exhaustive()
    }
}

impl WrittenSource {
    /// Returns the source of a file with this path.
    pub(super) fn of_file(path: &str) -> Self {
        let name = std::path::Path::new(path).file_name();
        Self::File(name.map_or_else(|| path.into(), |name| name.to_string_lossy().into()))
    }

    /// Returns the place of a line, such as `config.toml:14`; `None` for the command line.
    pub fn place(&self, line: usize) -> Option<String> {
        match self {
            Self::File(name) => Some(format!("{name}:{line}")),
            Self::CommandLine => None,
        }
    }
}

impl WrittenKeys {
    /// Returns the keys of a document without faults. `pools` are its pools.
    pub(super) fn of(
        document: &read::Value<'_>,
        text: &str,
        source: WrittenSource,
        pools: &[PoolSpec],
    ) -> Self {
        let mut writer = KeyWriter::new(text);
        writer.write_all(document, 0);
        let KeyWriter { fixed, others, .. } = writer;
        // Writing to a vector cannot fail.
        let others = others.into_inner().ok().and_then(|encoder| encoder.finish().ok()).unwrap_or_default();
        // The one backend of a forwarding pool is not written.
        let pools = pools.iter().filter(|pool| pool.forward.is_none());
        let backends = pools.map(|pool| (Arc::clone(&pool.name), positions(pool)));
        let backends = Arc::new(backends.collect());
        Self { source, fixed, others: others.into(), backends, ..Self::default() }
    }

    /// Returns the path of a backend; `None` if the backend is not written with an address.
    pub fn backend(&self, pool: &str, backend: &str) -> Option<KeyPath> {
        let position = *self.backends.get(pool)?.get(backend)?;
        Some(KeyPath::backends(pool).with(KeyStep::Index(position)))
    }

    /// Returns the origin of these keys.
    pub fn source(&self) -> &WrittenSource {
        &self.source
    }

    /// Returns the keys in force, in the order of their paths.
    pub fn in_order(&self) -> impl Iterator<Item = WrittenKey> {
        let mut fixed = self.fixed.iter().cloned().peekable();
        let mut others = self.others().peekable();
        iter::from_fn(move || match (fixed.peek(), others.peek()) {
            (Some(one), Some(other)) if one.path < other.path => fixed.next(),
            (Some(_), None) => fixed.next(),
            _ => others.next(),
        })
    }

    /// Returns the keys as the last reload has them that wait for a restart, in the order of their paths.
    pub fn after_restart(&self) -> &[WrittenKey] {
        &self.after_restart
    }

    /// Returns true if the value of a key waits for a restart, or if it is not written after a restart.
    pub fn waits(&self, path: &KeyPath) -> bool {
        self.waiting.iter().any(|key| path.is_in(key))
    }

    /// Returns the keys in force after a reload. The keys that `waiting` has of [`RESTART_KEYS`] stay as `running` has
    /// them, because their values differ.
    #[must_use]
    pub fn after_reload(self, running: &Self, waiting: &[&'static str]) -> Self {
        let waits = |key: &WrittenKey| waiting.iter().any(|name| key.path.is_in(name));
        let (after_restart, mut fixed): (Vec<_>, Vec<_>) = self.fixed.into_iter().partition(waits);
        let kept = running.fixed.iter().filter(|key| waits(key));
        // A key whose value is the same may have another line now.
        let find = |key: &WrittenKey| {
            after_restart.iter().find(|new| new.path == key.path && new.value == key.value)
        };
        fixed.extend(kept.map(|key| find(key).unwrap_or(key).clone()));
        fixed.sort_by(|one, other| one.path.cmp(&other.path));
        Self { fixed, waiting: waiting.to_vec(), after_restart, ..self }
    }

    fn others(&self) -> impl Iterator<Item = WrittenKey> {
        let mut lines = BufReader::new(DeflateDecoder::new(&*self.others));
        let mut line = String::new();
        iter::from_fn(move || {
            line.clear();
            // The bytes come from this process, so they are whole.
            lines.read_line(&mut line).ok().filter(|count| *count > 0)?;
            WrittenKey::of_line(line.trim_end_matches('\n'))
        })
    }
}

impl WrittenKey {
    /// Reads a line that [`KeyWriter`] wrote.
    fn of_line(text: &str) -> Option<Self> {
        let (line, text) = text.split_once('\t')?;
        let (steps, value) = text.rsplit_once('\t')?;
        let path = steps.split('\t').map(KeyStep::of_text).fold(KeyPath::default(), KeyPath::with);
        let value = if value == HIDDEN { None } else { Some(serde_json::from_str(value).ok()?) };
        Some(Self { path, value, line: line.parse().ok()? })
    }
}

/// Writes the keys of a document.
struct KeyWriter<'t> {
    lines: LineCounts<'t>,
    path: KeyPath,
    fixed: Vec<WrittenKey>,
    others: BufWriter<DeflateEncoder<Vec<u8>>>,
}

impl<'t> KeyWriter<'t> {
    fn new(text: &'t str) -> Self {
        let encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        Self {
            lines: LineCounts::of(text),
            path: KeyPath::default(),
            fixed: Vec::new(),
            others: BufWriter::with_capacity(CHUNK, encoder),
        }
    }

    /// Writes a value, and all values below it. `at` is the position of its key in the text.
    fn write_all(&mut self, value: &read::Value<'_>, at: usize) {
        match value.get_ref() {
            DeValue::Table(table) if !table.is_empty() => {
                for (key, value) in table {
                    self.path.push(KeyStep::of_key(key.get_ref()));
                    self.write_all(value, key.span().start);
                    self.path.pop();
                }
            }
            DeValue::Array(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(KeyStep::Index(index));
                    self.write_all(item, item.span().start);
                    self.path.pop();
                }
            }
            value => self.write(plain(value), at),
        }
    }

    fn write(&mut self, value: Value, at: usize) {
        let line = self.lines.line(at);
        let value = Some(value).filter(|value| !secret::is_secret(&self.path, value));
        if RESTART_KEYS.iter().any(|key| self.path.is_in(key)) {
            self.fixed.push(WrittenKey { path: self.path.clone(), value, line });
            return;
        }
        // Writing to a vector cannot fail.
        _ = write!(self.others, "{line}");
        for step in self.path.steps() {
            _ = write!(self.others, "\t{step}");
        }
        _ = match value {
            Some(value) => writeln!(self.others, "\t{value}"),
            None => writeln!(self.others, "\t{HIDDEN}"),
        };
    }
}

/// A text with the number of lines before each of its blocks. The positions of all lines would take more memory than the
/// text, if its lines are short.
struct LineCounts<'t> {
    text: &'t [u8],
    before: Vec<usize>,
}

impl<'t> LineCounts<'t> {
    fn of(text: &'t str) -> Self {
        let text = text.as_bytes();
        let before = text.chunks(BLOCK).scan(0, |lines, block| {
            let before = *lines;
            *lines += line_ends(block);
            Some(before)
        });
        Self { text, before: before.collect() }
    }

    /// Returns the line of a position, from 1.
    fn line(&self, at: usize) -> usize {
        let block = (at / BLOCK).min(self.before.len().saturating_sub(1));
        let rest = self.text.get(block * BLOCK..at).unwrap_or_default();
        self.before.get(block).copied().unwrap_or_default() + line_ends(rest) + 1
    }
}

fn line_ends(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the positions of the backends with an address. The host names are between them.
fn positions(pool: &PoolSpec) -> BackendPositions {
    let mut hosts = pool.discover.iter().filter_map(|source| source.host.as_ref()).peekable();
    let mut before = 0;
    let place = |(index, backend): (usize, &BackendSpec)| {
        while hosts.next_if(|host| host.place <= index).is_some() {
            before += 1;
        }
        (Arc::clone(&backend.name), index + before)
    };
    pool.backends.iter().enumerate().map(place).collect()
}

/// Returns a value without items.
fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => path::cut(text, LONGEST_VALUE).into(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => number.to_string().into(),
        },
        DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => number.into(),
            None => number.as_str().into(),
        },
        DeValue::Boolean(is_so) => (*is_so).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(_) => Value::Array(Vec::new()),
        DeValue::Table(_) => Value::Object(serde_json::Map::new()),
    }
}

#[cfg(test)]
mod tests;
