//! The cases: attacks on the server, and shortages.

use std::path::PathBuf;

use crate::attack::{Attack, Then};
use crate::round::Extent;
use crate::stand::{Means, Stand};
use crate::words::Words;

/// The errors that honest clients may get meanwhile; in every case they may wait longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bears {
    /// None.
    Nothing,
    /// New connections may be refused, because a resource that they need is exhausted. Open connections must
    /// not fail.
    Refusals,
}

/// Attackers of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foes {
    listener: &'static str,
    connections: usize,
    rate: u32,
    words: Words,
    then: Then,
}

/// An attack or a shortage.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The description in the table.
    pub(crate) what: &'static str,
    pub(crate) means: Means,
    pub(crate) foes: Vec<Foes>,
    pub(crate) bears: Bears,
    /// True if the server's wall clock goes an hour forth and back, twice a second.
    pub(crate) steps_clock: bool,
    /// True if the attack is on admin, so that its metrics may be unavailable meanwhile.
    pub(crate) is_at_admin: bool,
}

impl Foes {
    /// Returns the order for a process. A brief run has a tenth of the connections and of the rate.
    pub(crate) fn attack(self, stand: &Stand, extent: Extent) -> Attack {
        let part = if extent.is_brief { 10 } else { 1 };
        Attack {
            to: stand.address(self.listener),
            connections: (self.connections / part).max(20),
            rate: (self.rate / part as u32).max(100),
            words: self.words,
            then: self.then,
            sources: extent.sources,
        }
    }
}

const fn foes(listener: &'static str, connections: usize, rate: u32, words: Words, then: Then) -> Foes {
    Foes { listener, connections, rate, words, then }
}

fn case(name: &'static str, what: &'static str, foes: &[Foes]) -> Case {
    Case {
        name,
        what,
        means: Means::default(),
        foes: foes.to_vec(),
        bears: Bears::Nothing,
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
            means: Means { lines: "max_connections = 15000", ..Means::default() },
            ..case(
                "half-open",
                "10,000 half-open hellos, a byte a second each",
                // Each connection is closed after five seconds, so this many come anew in each second.
                &[foes("tls", 10_000, 2000, Words::Hello, Then::Trickle)],
            )
        },
        case("connects", "5,000 connects a second that leave at once", &[flood(Words::Nothing, Then::Close)]),
        case("resets", "5,000 resets a second", &[flood(Words::Nothing, Then::Reset)]),
        case("garbage", "5,000 times 256 bytes of garbage a second", &[flood(Words::Garbage, Then::Await)]),
        case(
            "large-hellos",
            "2,000 hellos of 16 KiB a second",
            &[foes("tls", 500, 2000, Words::LargeHello, Then::Await)],
        ),
        case(
            "never-read",
            "400 clients that never read what their backends send",
            &[foes("tls", 400, 400, Words::Endless, Then::Stay)],
        ),
        Case {
            means: Means {
                listeners: "max_unsent = 262144",
                pool: "max_unread = 262144",
                ..Means::default()
            },
            ..case(
                "never-read-bounded",
                "the same with `max_unsent = 262144` at the listener and `max_unread = 262144` at the pool",
                &[foes("tls", 400, 400, Words::Endless, Then::Stay)],
            )
        },
        Case {
            means: Means { listeners: "stall_timeout = \"2s\"", ..Means::default() },
            ..case(
                "never-read-stalled",
                "400 clients that never read, with `stall_timeout = \"2s\"` at the listener",
                &[foes("tls", 400, 400, Words::Endless, Then::Stay)],
            )
        },
        case(
            "sip",
            "400 clients that read a byte a second",
            &[foes("tls", 400, 400, Words::Endless, Then::Sip)],
        ),
        case(
            "broken-headers",
            "5,000 malformed PROXY headers a second",
            &[foes("proxied", 500, 5000, Words::BrokenHeader, Then::Await)],
        ),
        case(
            "openings",
            "2,000 PostgreSQL startups and 2,000 lines of SMTP that never end, a byte a second each",
            &[
                foes("postgres", 2000, 2000, Words::Startup, Then::Trickle),
                foes("smtp", 2000, 2000, Words::MailLine, Then::Trickle),
            ],
        ),
        Case {
            is_at_admin: true,
            ..case(
                "admin-slow",
                "200 clients at the admin listener, a byte a second each",
                &[foes("admin", 200, 400, Words::Request, Then::Trickle)],
            )
        },
        Case {
            is_at_admin: true,
            ..case("scrapes", "500 scrapes a second", &[foes("admin", 60, 500, Words::Scrape, Then::Await)])
        },
        Case {
            means: Means { descriptors: Some(1024), ..Means::default() },
            bears: Bears::Refusals,
            ..case(
                "limit",
                "1,000 idle clients at a server with 1,024 descriptors",
                &[foes("tls", 1000, 2000, Words::Hello, Then::Trickle)],
            )
        },
        Case {
            means: Means { lines: "max_connections = 10000", descriptors: Some(512), ..Means::default() },
            bears: Bears::Refusals,
            ..case(
                "descriptors",
                "1,000 idle clients at a server with 512 descriptors and too high a limit",
                &[foes("tls", 1000, 2000, Words::Hello, Then::Trickle)],
            )
        },
        Case {
            means: Means { is_ordinary: true, ..Means::default() },
            ..case(
                "pipes",
                "200 streams that are not read; an ordinary user's pipes are used up",
                &[foes("tls", 200, 400, Words::Endless, Then::Stay)],
            )
        },
        Case {
            means: Means { is_disk_small: true, ..Means::default() },
            ..case(
                "disk",
                "the disk of the access log is full; 2,000 resets a second",
                &[foes("tls", 200, 2000, Words::Nothing, Then::Reset)],
            )
        },
        Case {
            means: Means { clock: faketime(), ..Means::default() },
            steps_clock: true,
            ..case(
                "clock",
                "the wall clock goes an hour forth and back twice a second; 500 half-open hellos",
                &[foes("tls", 500, 1000, Words::Hello, Then::Trickle)],
            )
        },
    ]
}

const fn flood(words: Words, then: Then) -> Foes {
    foes("tls", 500, 5000, words, then)
}

/// Returns the library that moves the clock of a program, if it is installed.
fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    folders
        .iter()
        .map(|place| PathBuf::from(place).join("faketime/libfaketime.so.1"))
        .find(|file| file.exists())
}
