//! A connection that leaves this program, as messages have it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::words;
use crate::conn::fields::LogFields;
use crate::conn::leaving::LeavingConnection;
use crate::conn::migration::{
    MigratingRecord, MigrationContent, MigrationSenders, StoppedReading, StoppedRelay,
};
use crate::limit::{Gate, GatePass};
use crate::live::{ConnectionCard, LoggedProgress};
use crate::relay::StoppedFlow;
use crate::snapshot::Snapshot;
use crate::sys::tcp;
use crate::telemetry::{Direction, RouteCounts};
use crate::wire::handover::{
    HandedConnection, HandedFlow, HandedIntervals, HandedLog, HandedOptions, HandedReading, HandedRelay,
    micros, millis,
};

/// The options of the relays of one batch. Equal options are sent once.
#[derive(Default)]
pub struct BatchOptions {
    list: Vec<HandedOptions>,
    indices: HashMap<HandedOptions, usize>,
}

impl BatchOptions {
    fn index(&mut self, options: HandedOptions) -> usize {
        *self.indices.entry(options).or_insert_with_key(|options| {
            self.list.push(options.clone());
            self.list.len() - 1
        })
    }

    /// Returns the options by their index.
    pub fn into_list(self) -> Vec<HandedOptions> {
        self.list
    }
}

/// The names of routes, found by their limits and counts, which connections hold.
#[derive(Default)]
pub struct RouteNames {
    gates: HashMap<*const Gate, Arc<str>>,
    counts: HashMap<*const RouteCounts, Arc<str>>,
}

impl RouteNames {
    /// Returns the names of the routes in a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut names = Self::default();
        for policy in snapshot.policies.values() {
            for target in &policy.protocol.routes().targets {
                if let Some(limits) = &target.limits {
                    names.gates.insert(Arc::as_ptr(limits.quota.gate()), Arc::clone(&target.route));
                }
                if let Some(counts) = target.named_counts() {
                    names.counts.insert(Arc::as_ptr(counts), Arc::clone(&target.route));
                }
            }
        }
        names
    }

    fn find(&self, pass: Option<&GatePass>, counts: Option<&Arc<RouteCounts>>) -> Option<&Arc<str>> {
        let of_pass = pass.and_then(|pass| self.gates.get(&Arc::as_ptr(pass.gate())));
        of_pass.or_else(|| self.counts.get(&Arc::as_ptr(counts?)))
    }
}

impl LeavingConnection {
    /// The connection's number.
    pub fn id(&self) -> u64 {
        self.record().map_or(0, |record| record.holds.entry.id())
    }

    /// Returns the time since the connection has left its worker.
    pub fn pause(&self) -> Duration {
        self.left.elapsed()
    }

    /// Returns its sockets, in the order in which they are sent.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.migration.content {
            MigrationContent::Admitted(_) => Vec::new(),
            MigrationContent::Reading(stopped) => vec![stopped.client.client.as_fd()],
            MigrationContent::Relay(stopped) => vec![stopped.client.as_fd(), stopped.backend.as_fd()],
        }
    }

    /// Returns the bytes that it holds, in the order in which they are sent.
    pub fn held_bytes(&self) -> Vec<&[u8]> {
        match &self.migration.content {
            MigrationContent::Admitted(_) => Vec::new(),
            MigrationContent::Reading(stopped) => vec![&stopped.client.first.bytes],
            MigrationContent::Relay(stopped) => vec![&stopped.from_client.held, &stopped.from_backend.held],
        }
    }

    /// Returns the message about the connection.
    pub fn message(&self, names: &RouteNames, options: &mut BatchOptions) -> HandedConnection {
        match &self.migration.content {
            // Only connections that a worker has begun leave it.
            MigrationContent::Admitted(_) => HandedConnection::default(),
            MigrationContent::Reading(stopped) => {
                let reading = Some(reading(stopped));
                HandedConnection { reading, ..connection(&stopped.record) }
            }
            MigrationContent::Relay(stopped) => {
                let index = options.index(words::options(&stopped.settings));
                let relay = Some(Box::new(relay(stopped, index, names)));
                let connection = connection(&stopped.record);
                let quiet_ms = connection.quiet_ms.max(quiet_in_kernel(stopped).map_or(0, millis));
                HandedConnection { relay, quiet_ms, ..connection }
            }
        }
    }

    /// Gives the connection back to its worker, where it goes on.
    pub fn give_back(self, senders: &MigrationSenders) {
        // The connection holds a slot of its worker, so the worker has not ended. If it panicked, the process ends.
        let _ = senders.send(self.worker, self.migration);
    }

    /// Gives back a connection that the successor does not take. It goes on here, and a client whose first bytes are being
    /// read may leave again once its backend is connected.
    pub fn stay(mut self, senders: &MigrationSenders) {
        match &mut self.migration.content {
            MigrationContent::Admitted(_) => {}
            MigrationContent::Reading(stopped) => stopped.record.holds.entry.stay(),
            MigrationContent::Relay(stopped) => stopped.record.holds.entry.stay(),
        }
        self.give_back(senders);
    }

    /// Ends the connection here: the successor has it. It is counted as handed over, and has no close reason.
    pub fn handed_over(self) {
        if let Some(record) = self.record() {
            record.holds.listener.handed_over.increment(1);
        }
    }

    fn record(&self) -> Option<&MigratingRecord> {
        self.migration.content.record()
    }
}

/// Returns the parts of the message that every connection has.
fn connection(record: &MigratingRecord) -> HandedConnection {
    let MigratingRecord { holds, fields } = record;
    let card = holds.entry.card();
    let source = holds.permit.source().and_then(|pass| pass.source());
    HandedConnection {
        id: holds.entry.id(),
        listener: holds.listener.name.to_string(),
        client: fields.client.to_string(),
        age_us: micros(holds.entry.began().elapsed()),
        accepted_ms: fields.accepted,
        quiet_ms: millis(holds.entry.quiet()),
        source: source.map(|source| format!("{:032x}", source.bits())),
        link: holds.entry.link().map(|link| (link.kind(), link.id().to_owned())),
        pool: card.pool.as_deref().map(str::to_owned),
        sni: card.sni.as_deref().map(str::to_owned),
        route: card.route.as_deref().map(str::to_owned),
        authority: card.authority.as_deref().map(ToString::to_string),
        log: fields.log.as_deref().map(|log_fields| Box::new(log(log_fields, card))),
        reading: None,
        relay: None,
    }
}

/// Returns the time for which neither side sent a byte, as the kernel has it. The sweeps of a worker count whole ticks, so
/// a connection that moves more often than they come would never be silent.
fn quiet_in_kernel(stopped: &StoppedRelay) -> Option<Duration> {
    Some(tcp::quiet_time(&stopped.client)?.min(tcp::quiet_time(&stopped.backend)?))
}

fn reading(stopped: &StoppedReading) -> HandedReading {
    let first = &stopped.client.first;
    HandedReading {
        socket: stopped.policy.through.to_string(),
        bytes: first.bytes.len(),
        header: first.header,
        begun_us: first.begun.map(|begun| micros(begun.elapsed())),
    }
}

fn relay(stopped: &StoppedRelay, options: usize, names: &RouteNames) -> HandedRelay {
    let MigratingRecord { holds, fields } = &stopped.record;
    let mut handed = HandedRelay {
        options,
        from_client: flow(&stopped.from_client),
        from_backend: flow(&stopped.from_backend),
        total_from_client: holds.entry.total(Direction::FromClient),
        total_from_backend: holds.entry.total(Direction::FromBackend),
        dropped: holds.entry.total_dropped(),
        is_session: holds.is_session(),
        forward_mark: holds.forward_mark(),
        route: names.find(holds.permit.route(), holds.entry.tallies().route()).map(|name| name.to_string()),
        holds_route: holds.permit.route().is_some(),
        holds_pool: holds.permit.has_pool(),
        connected_us: fields.connected,
        intervals: intervals(holds.entry.log_progress()),
        ..HandedRelay::default()
    };
    if let Some(lease) = &holds.lease {
        let backend = lease.backend();
        handed.pool = backend.pool().to_string();
        handed.backend = backend.name().to_string();
        handed.backend_address = backend.address().to_string();
        handed.reports_troubles = lease.reports_troubles();
        handed.waits_for_first_byte = lease.is_waiting();
    }
    handed
}

fn intervals(progress: LoggedProgress) -> Option<HandedIntervals> {
    let LoggedProgress { after, counted: [from_client, from_backend] } = progress;
    let is_used = progress != LoggedProgress::default();
    is_used.then_some(HandedIntervals { after_s: after, from_client, from_backend })
}

fn flow(stopped: &StoppedFlow) -> HandedFlow {
    HandedFlow {
        stage: words::stage(stopped.stage).to_owned(),
        held: stopped.held.len(),
        nodelay: words::nodelay(stopped.nodelay).to_owned(),
    }
}

fn log(fields: &LogFields, card: &ConnectionCard) -> HandedLog {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let proxy = fields.proxy_fields.as_deref();
    let of_proxy = |part: fn(&crate::conn::fields::ProxyFields) -> &Option<Box<str>>| {
        proxy.and_then(|proxy| text(part(proxy)))
    };
    HandedLog {
        peer: proxy.and_then(|proxy| proxy.peer.as_ref()).map(ToString::to_string),
        proxy_authority: of_proxy(|proxy| &proxy.authority),
        proxy_alpn: of_proxy(|proxy| &proxy.alpn),
        unique_id: of_proxy(|proxy| &proxy.unique_id),
        private_link: of_proxy(|proxy| &proxy.private_link),
        sni: text(&card.sni),
        route: card.route.as_deref().map(str::to_owned),
        attempts: fields.attempts,
        dialled: fields.dialled.map(|address| address.to_string()),
        reported: fields.reported.map(|reason| reason.word().to_owned()),
        port: fields.port,
        offered: fields.offered.as_deref().map(words::offer),
        hello_us: fields.hello.map(micros),
        queue_us: fields.queue.map(micros),
        connect_us: fields.connect.map(micros),
    }
}
