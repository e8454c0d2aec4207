//! Turns the written tables into checked specs: applies the defaults, and checks the values against each other.
//!
//! After a fault every check continues with the other values, so the specs are valid only if no fault was found.

mod access_log;
mod admin_listener;
mod backends;
mod cycles;
mod discover;
pub(super) mod fall_through;
mod forward;
mod health;
mod http_check;
pub(super) mod limits;
mod list_rules;
pub(super) mod listener;
mod near;
mod open_proxy;
mod opening_keys;
mod peers;
mod pool;
pub(super) mod pools;
mod ports;
mod proxy;
mod ready;
mod references;
pub(super) mod routes;
mod tiers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::code::Code;
use super::fault::{Diagnostic, Span};
use super::file::File;
use super::findings::Findings;
use super::read::Key;
use super::words::{Number, SocketPath};
use super::{Config, DEFAULT_HASH_KEY, HandoverSpec, ShutdownSpec, WrittenKeys};
use crate::sys::Address;
use crate::sys::socket::KernelBuffers;
use crate::telemetry::{LogFormat, LogLevel, LogSpec};

/// Returns the configuration of a file; it is valid only if no fault was added.
pub(super) fn check(file: &File, found: &mut Findings<'_>) -> Config {
    let hash_key = file.hash_key.value().map_or(DEFAULT_HASH_KEY, |key| key.0);
    let node = tiers::NodeDefaults::of(file, found);
    let common = limits::Common::of(file);
    let (mut pools, mut known) = pool::pools(&file.pool, hash_key, &node, &common, found);
    let mut binds = Binds::default();
    let admin = admin_listener::admin(file, &mut binds, found);
    let handover = handover(file, &mut binds, found);
    let (lists, mut known_lists) = list_rules::Lists::of(file, found);
    let mut referred = listener::Referred { pools: &mut known, lists: &mut known_lists };
    let listeners = listener::listeners(&file.listener, hash_key, common, &mut referred, &mut binds, found);
    known_lists.warn_of_unused(found);
    let ready = ready::ready(file, &known, found);
    tiers::NodeDefaults::check(file, &pools, found);
    opening_keys::mark_cancel_pools(&listeners, &mut pools);
    opening_keys::warn_of_lost_cancels(&file.listener, &listeners, &pools, found);
    open_proxy::check(&file.listener, &listeners, &pools, found);
    ports::check(file, &listeners, &pools, found);
    proxy::warn_of_late_headers(&file.listener, &file.pool, found);
    cycles::check(file, &listeners, &pools, found);
    // A `routes_file` may refer to further pools, so unused pools are known only after it is read.
    if listeners.iter().all(|listener| listener.policy.routes_file.is_none()) {
        known.warn_of_unused(found);
    }
    Config {
        workers: workers(file),
        max_connections: file.max_connections.value().map(|number| number.0),
        limits: limits::limits(file),
        max_checks: max_checks(file),
        hash_key,
        admin,
        given_admin: None,
        landlock: file.process.value().and_then(|words| words.landlock.value().copied()),
        access_log: access_log::access_log(file, found),
        log: log(file),
        listeners,
        pools,
        lists,
        ready,
        shutdown: shutdown(file),
        handover,
        // They come from the document, once it has no faults.
        written: WrittenKeys::default(),
    }
}

fn workers(file: &File) -> usize {
    match file.workers.value() {
        Some(number) if number.0 > 0 => usize::try_from(number.0).unwrap_or(1),
        _ => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Returns `max_checks`. The default is enough for ten thousand backends every two seconds if few of them hang, and
/// is far below the descriptors that a process may have.
fn max_checks(file: &File) -> usize {
    const DEFAULT: usize = 1000;
    or(&file.max_checks, |number| usize::try_from(number.0).unwrap_or(DEFAULT), DEFAULT)
}

fn log(file: &File) -> LogSpec {
    let words = file.log.value();
    LogSpec {
        level: words.and_then(|words| words.level.value()).map_or(LogLevel::Info, |choice| choice.0),
        format: words.and_then(|words| words.format.value()).map_or(LogFormat::Text, |choice| choice.0),
    }
}

fn shutdown(file: &File) -> ShutdownSpec {
    let words = file.shutdown.value();
    ShutdownSpec {
        grace: words.and_then(|words| words.grace.value()).map_or(Duration::ZERO, |time| time.0),
        drain: words.and_then(|words| words.drain.value()).map_or(Duration::from_secs(30), |time| time.0),
    }
}

fn handover(file: &File, binds: &mut Binds, found: &mut Findings<'_>) -> HandoverSpec {
    let Some(socket) = file.handover.value().map(|words| &words.socket) else {
        return HandoverSpec::default();
    };
    match (socket.value(), socket.place()) {
        (Some(SocketPath(Some(path))), Some(place)) => {
            binds.add(&[Address::Unix(Arc::clone(path))], place, "handover.socket", found);
            HandoverSpec::At(Arc::clone(path))
        }
        (Some(SocketPath(None)), _) => HandoverSpec::Off,
        _ => HandoverSpec::default(),
    }
}

/// Every address that is bound, with its position, to find addresses that are bound twice.
#[derive(Default)]
struct Binds(HashMap<Address, Span>);

impl Binds {
    /// Adds the addresses of one written value, and at most one fault for them.
    fn add(&mut self, addresses: &[Address], at: Span, path: &str, found: &mut Findings<'_>) {
        let mut is_reported = false;
        let is_fixed = |address: &&Address| address.tcp().is_none_or(|address| address.port() != 0);
        for address in addresses.iter().filter(is_fixed) {
            match self.0.insert(address.clone(), at) {
                Some(first) if !is_reported => {
                    is_reported = true;
                    let message = format!("{address} is bound twice");
                    let fault = Diagnostic::new(Code::DoubledBind, path, message);
                    found.add(fault.label(at, "bound here").label(first, "and bound here"));
                }
                _ => {}
            }
        }
    }
}

/// Returns the written value or the default.
fn or<T, U: Copy>(key: &Key<T>, value: impl Fn(&T) -> U, default: U) -> U {
    key.value().map_or(default, value)
}

/// Returns the bounds of the kernel's buffers for one side's connections.
fn kernel_buffers<const LEAST: u64, const MOST: u64>(
    max_unsent: &Key<Number<LEAST, MOST>>,
    max_unread: &Key<Number<LEAST, MOST>>,
) -> KernelBuffers {
    let bytes = |key: &Key<Number<LEAST, MOST>>| key.value().and_then(|number| u32::try_from(number.0).ok());
    KernelBuffers { max_unsent: bytes(max_unsent), max_unread: bytes(max_unread) }
}
