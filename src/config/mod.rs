//! Turns the configuration file into checked specs, and reports all faults at once.
//!
//! The text becomes a document (`document`), the document becomes written tables (`file`, by means of `read`), and
//! the tables become specs (`check`). Each step adds its faults and continues with the remaining values. Nothing is
//! bound, opened or resolved here: only the text decides whether a configuration is valid. A new key is a line in
//! `file`, its use in `check`, and a line in `config.example.toml`.

mod address;
mod admin_keys;
mod answers;
#[cfg(feature = "tls-checks")]
mod ca_file;
mod check;
mod code;
mod conditions;
mod country_file;
pub mod cycles;
mod defaults;
mod document;
mod fault;
mod file;
mod findings;
mod foreign;
mod forward_keys;
mod handover_keys;
mod hints;
mod limits;
mod list_file;
mod list_keys;
mod load;
mod named_files;
mod near_file;
mod near_keys;
mod network_file;
mod proxy;
mod read;
mod ready_keys;
mod render;
mod route_places;
mod routes_file;
mod script;
mod text;
mod token;
mod words;
mod written;

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::limit::LimitsSpec;
use crate::listener::ListenerSpec;
use crate::pool::PoolSpec;
use crate::snapshot::ListSpec;
use crate::telemetry::{AccessLogSpec, LogSpec};

pub use admin_keys::{AdminSpec, TokenFor};
pub use code::{Code, Level};
pub use defaults::{DefaultText, DefaultsWalk, SCHEMA, SchemaDefaults};
pub use fault::{Diagnostic, FaultLabel, Faults, Span, Warnings};
pub(crate) use findings::did_you_mean;
pub use handover_keys::HandoverSpec;
pub use list_file::ListReader;
pub use load::{check_given, load, load_given, load_with_places, one_liner, parse};
pub use near_file::NearReader;
pub use ready_keys::ReadySpec;
pub use route_places::{ConfigWithPlaces, RoutePlaces};
pub use routes_file::{RoutesReader, left_to_wider};
pub use token::{TokenFault, read_given_token, read_token};
pub use written::{KeyPath, KeyStep, RESTART_KEYS, WrittenKey, WrittenKeys, WrittenSource};

/// The `hash_key` of a configuration without one: fixed, so that nodes agree without any setting.
pub const DEFAULT_HASH_KEY: [u8; 16] = *b"pointsman-hash-1";

/// A whole configuration, checked: every reference resolves, every value is in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Worker threads, at least 1 (0 in the file is one for each core). A change needs a restart.
    pub workers: usize,
    /// Open connections of the process; `None` is half of the descriptors that are left after a reserve.
    pub max_connections: Option<u64>,
    /// Limits of the process, and settings that the limits of listeners, routes and pools have in common.
    pub limits: LimitsSpec,
    /// Health and agent checks in progress at once, at least 1. Default 1000.
    pub max_checks: usize,
    /// The key of the hashes in splits of routes and in pools, unless a pool has its own.
    pub hash_key: [u8; 16],
    /// The admin listener at each of its addresses; empty if there is none.
    pub admin: Vec<AdminSpec>,
    /// A further admin listener from the command line; a file has none.
    pub given_admin: Option<AdminSpec>,
    /// True if Landlock must confine the process, false if it must not; `None` confines the process if that breaks
    /// nothing.
    pub landlock: Option<bool>,
    /// The access log.
    pub access_log: AccessLogSpec,
    /// The program's own log.
    pub log: LogSpec,
    /// The listeners, sorted by name.
    pub listeners: Vec<ListenerSpec>,
    /// The pools, sorted by name.
    pub pools: Vec<PoolSpec>,
    /// The lists of addresses, sorted by name.
    pub lists: Vec<ListSpec>,
    /// The pools without which the node is not ready.
    pub ready: ReadySpec,
    /// The end of the process.
    pub shutdown: ShutdownSpec,
    /// The hand-over to a new program. A change needs a restart.
    pub handover: HandoverSpec,
    /// The keys as they are written, without secrets.
    pub written: WrittenKeys,
}

impl Config {
    /// Returns the admin listeners of the file and of the command line.
    pub fn admins(&self) -> impl Iterator<Item = &AdminSpec> {
        self.admin.iter().chain(&self.given_admin)
    }
}

/// The end of the process after SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSpec {
    /// The time for which /ready answers 503 and connections are still accepted, so that routers can send new ones
    /// elsewhere. Default 0.
    pub grace: Duration,
    /// The time that open connections then get before they are closed. Default 30 s.
    pub drain: Duration,
}
