//! The cases: attacks on the server, and shortages.

use std::path::PathBuf;

use crate::attack::{AfterPayload, Attack};
use crate::payload::Payload;
use crate::round::Extent;
use crate::server::{Server, ServerSettings};

/// The errors that honest clients may get meanwhile; in every case they may wait longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedErrors {
    /// None.
    Nothing,
    /// New connections may be refused, because a resource that they need is exhausted. Open connections must
    /// not fail.
    Refusals,
}

/// Attackers of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attackers {
    listener: &'static str,
    connections: usize,
    rate: u32,
    payload: Payload,
    then: AfterPayload,
}

/// An attack or a shortage.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The description in the table.
    pub(crate) what: &'static str,
    pub(crate) settings: ServerSettings,
    pub(crate) attackers: Vec<Attackers>,
    pub(crate) allowed: AllowedErrors,
    /// True if the server's wall clock goes an hour forth and back, twice a second.
    pub(crate) steps_clock: bool,
    /// True if the attack is on admin, so that its metrics may be unavailable meanwhile.
    pub(crate) is_at_admin: bool,
}

impl Attackers {
    /// Returns the order for a process. A brief run has a tenth of the connections and of the rate.
    pub(crate) fn attack(self, server: &Server, extent: Extent) -> Attack {
        let part = if extent.is_brief { 10 } else { 1 };
        Attack {
            to: server.address(self.listener),
            connections: (self.connections / part).max(20),
            rate: (self.rate / part as u32).max(100),
            payload: self.payload,
            then: self.then,
            sources: extent.sources,
        }
    }
}

const fn attackers(
    listener: &'static str,
    connections: usize,
    rate: u32,
    payload: Payload,
    then: AfterPayload,
) -> Attackers {
    Attackers { listener, connections, rate, payload, then }
}

fn case(name: &'static str, what: &'static str, attackers: &[Attackers]) -> Case {
    Case {
        name,
        what,
        settings: ServerSettings::default(),
        attackers: attackers.to_vec(),
        allowed: AllowedErrors::Nothing,
        steps_clock: false,
        is_at_admin: false,
    }
}

/// Returns all cases, in the order of the table.
pub(crate) fn all() -> Vec<Case> {
    vec![
        Case {
            // Half-open connections have no backend, and so one descriptor each. The default limit counts
            // with two.
            settings: ServerSettings { lines: "max_connections = 15000", ..ServerSettings::default() },
            ..case(
                "half-open",
                "10,000 half-open hellos, a byte a second each",
                // Each connection is closed after five seconds, so this many come anew in each second.
                &[attackers("tls", 10_000, 2000, Payload::Hello, AfterPayload::Trickle)],
            )
        },
        case(
            "connects",
            "5,000 connects a second that leave at once",
            &[flood(Payload::Nothing, AfterPayload::Close)],
        ),
        case("resets", "5,000 resets a second", &[flood(Payload::Nothing, AfterPayload::Reset)]),
        case(
            "garbage",
            "5,000 times 256 bytes of garbage a second",
            &[flood(Payload::Garbage, AfterPayload::Await)],
        ),
        case(
            "large-hellos",
            "2,000 hellos of 16 KiB a second",
            &[attackers("tls", 500, 2000, Payload::LargeHello, AfterPayload::Await)],
        ),
        case(
            "never-read",
            "400 clients that never read what their backends send",
            &[attackers("tls", 400, 400, Payload::Endless, AfterPayload::Stay)],
        ),
        Case {
            settings: ServerSettings {
                listeners: "max_unsent = 262144",
                pool: "max_unread = 262144",
                ..ServerSettings::default()
            },
            ..case(
                "never-read-bounded",
                "the same with `max_unsent = 262144` at the listener and `max_unread = 262144` at the pool",
                &[attackers("tls", 400, 400, Payload::Endless, AfterPayload::Stay)],
            )
        },
        Case {
            settings: ServerSettings { listeners: "stall_timeout = \"2s\"", ..ServerSettings::default() },
            ..case(
                "never-read-stalled",
                "400 clients that never read, with `stall_timeout = \"2s\"` at the listener",
                &[attackers("tls", 400, 400, Payload::Endless, AfterPayload::Stay)],
            )
        },
        case(
            "sip",
            "400 clients that read a byte a second",
            &[attackers("tls", 400, 400, Payload::Endless, AfterPayload::Sip)],
        ),
        case(
            "broken-headers",
            "5,000 malformed PROXY headers a second",
            &[attackers("proxied", 500, 5000, Payload::BrokenHeader, AfterPayload::Await)],
        ),
        case(
            "openings",
            "2,000 PostgreSQL startups and 2,000 lines of SMTP that never end, a byte a second each",
            &[
                attackers("postgres", 2000, 2000, Payload::Startup, AfterPayload::Trickle),
                attackers("smtp", 2000, 2000, Payload::MailLine, AfterPayload::Trickle),
            ],
        ),
        Case {
            is_at_admin: true,
            ..case(
                "admin-slow",
                "200 clients at the admin listener, a byte a second each",
                &[attackers("admin", 200, 400, Payload::Request, AfterPayload::Trickle)],
            )
        },
        Case {
            is_at_admin: true,
            ..case(
                "scrapes",
                "500 scrapes a second",
                &[attackers("admin", 60, 500, Payload::Scrape, AfterPayload::Await)],
            )
        },
        Case {
            settings: ServerSettings { descriptors: Some(1024), ..ServerSettings::default() },
            allowed: AllowedErrors::Refusals,
            ..case(
                "limit",
                "1,000 idle clients at a server with 1,024 descriptors",
                &[attackers("tls", 1000, 2000, Payload::Hello, AfterPayload::Trickle)],
            )
        },
        Case {
            settings: ServerSettings {
                lines: "max_connections = 10000",
                descriptors: Some(512),
                ..ServerSettings::default()
            },
            allowed: AllowedErrors::Refusals,
            ..case(
                "descriptors",
                "1,000 idle clients at a server with 512 descriptors and too high a limit",
                &[attackers("tls", 1000, 2000, Payload::Hello, AfterPayload::Trickle)],
            )
        },
        Case {
            settings: ServerSettings { is_ordinary: true, ..ServerSettings::default() },
            ..case(
                "pipes",
                "200 streams that are not read; an ordinary user's pipes are used up",
                &[attackers("tls", 200, 400, Payload::Endless, AfterPayload::Stay)],
            )
        },
        Case {
            settings: ServerSettings { is_disk_small: true, ..ServerSettings::default() },
            ..case(
                "disk",
                "the disk of the access log is full; 2,000 resets a second",
                &[attackers("tls", 200, 2000, Payload::Nothing, AfterPayload::Reset)],
            )
        },
        Case {
            settings: ServerSettings { clock: faketime(), ..ServerSettings::default() },
            steps_clock: true,
            ..case(
                "clock",
                "the wall clock goes an hour forth and back twice a second; 500 half-open hellos",
                &[attackers("tls", 500, 1000, Payload::Hello, AfterPayload::Trickle)],
            )
        },
    ]
}

const fn flood(payload: Payload, then: AfterPayload) -> Attackers {
    attackers("tls", 500, 5000, payload, then)
}

/// Returns the library that moves the clock of a program, if it is installed.
fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    folders
        .iter()
        .map(|place| PathBuf::from(place).join("faketime/libfaketime.so.1"))
        .find(|file| file.exists())
}
