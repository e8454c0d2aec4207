//! One test on one proxy: what it did, and what that cost.

use std::io;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use crate::child::{Resting, Role, load, pause};
use crate::cpus::{Cpus, Place};
use crate::order::{Order, Outcome, Work};
use crate::peers::{Peer, Shape};
use crate::proc;
use crate::proxy::{Plan, Proxy};

/// Concurrent connections of the short and the ping-pong tests.
const MANY: usize = 64;

/// Concurrent streams.
const STREAMS: usize = 8;

/// From the last idle connection's start until memory is read: long enough for what a proxy puts off.
const SETTLE: Duration = Duration::from_millis(500);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Test {
    /// Short connections: connect, hello, 64 bytes back, close.
    Conn,
    /// Ping-pong of 64 bytes.
    Pp64,
    /// Ping-pong of 4 KiB.
    Pp4k,
    /// Streams from the backend.
    Down,
    /// Streams to the backend, each ended by a half-close and answered with its byte count.
    Up,
    /// Connections that do nothing.
    Idle,
}

impl Test {
    fn work(self) -> (Work, usize) {
        match self {
            Self::Conn => (Work::Connect, MANY),
            Self::Pp64 => (Work::PingPong(64), MANY),
            Self::Pp4k => (Work::PingPong(4096), MANY),
            Self::Down => (Work::Down, STREAMS),
            Self::Up => (Work::Up, STREAMS),
            Self::Idle => (Work::Hold, 0),
        }
    }
}

/// What happened in one test of one round.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) peer: Peer,
    pub(crate) round: usize,
    pub(crate) test: Test,
    pub(crate) errors: u64,
    pub(crate) figures: Figures,
}

#[derive(Clone, Debug)]
pub(crate) enum Figures {
    Flow(Flow),
    Rest(Rest),
}

/// A test in which something moves.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Operations in a second: connections, round trips or bytes.
    pub(crate) rate: f64,
    /// CPU seconds of the proxy for one operation; `None` without a proxy.
    pub(crate) cpu: Option<f64>,
    /// The calibration's result around the test: larger is a slower machine.
    pub(crate) pace: f64,
    /// Microseconds; `None` for streams.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// A test in which nothing does.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub(crate) connections: usize,
    /// KiB for each connection, beyond what the proxy had before.
    pub(crate) pss: Option<f64>,
    /// MiB before the first connection.
    pub(crate) base: Option<f64>,
    /// For each connection.
    pub(crate) descriptors: Option<f64>,
}

/// How a run measures.
#[derive(Clone, Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) cpus: Cpus,
    pub(crate) workers: usize,
    pub(crate) backend_port: u16,
    pub(crate) directory: &'a Path,
    pub(crate) warm: Duration,
    pub(crate) time: Duration,
    /// How many idle connections, rising.
    pub(crate) idle: Vec<usize>,
}

impl Bench<'_> {
    /// Starts a proxy where it belongs.
    pub(crate) fn start(&self, peer: Peer, shape: Shape) -> io::Result<Proxy> {
        Proxy::start(Plan {
            peer,
            shape,
            workers: self.workers,
            place: self.cpus.proxy,
            backend_port: self.backend_port,
            directory: self.directory,
        })
    }

    /// Runs one test; `Idle` gives a point for each number of connections.
    pub(crate) fn test(&self, proxy: &Proxy, test: Test, round: usize) -> io::Result<Vec<Point>> {
        let point = |outcome: &Outcome, figures| {
            if let Some(fault) = &outcome.fault {
                eprintln!("  {}: {test:?}: {} errors, the first: {fault}", proxy.peer.name(), outcome.errors);
            }
            Point { peer: proxy.peer, round, test, errors: outcome.errors, figures }
        };
        if test != Test::Idle {
            let (outcome, flow) = self.flow(proxy, test)?;
            return Ok(vec![point(&outcome, Figures::Flow(flow))]);
        }
        let before = Memory::of(proxy);
        let mut points = Vec::new();
        for connections in &self.idle {
            let (outcome, rest) = self.rest(proxy, *connections, before)?;
            points.push(point(&outcome, Figures::Rest(rest)));
        }
        Ok(points)
    }

    /// The order for a test on this proxy.
    pub(crate) fn order(&self, proxy: &Proxy, test: Test) -> Order {
        let (work, connections) = test.work();
        Order {
            work,
            to: proxy.address,
            connections,
            warm: self.warm,
            measure: self.time,
            watch: proxy.pid(),
        }
    }

    /// Where the load belongs: without a proxy, in its place, so that two CPUs work in either case.
    pub(crate) fn load_place(&self, proxy: &Proxy) -> Place {
        if proxy.peer == Peer::Direct { self.cpus.proxy } else { self.cpus.load }
    }

    /// Runs a test in which something moves, between two calibrations.
    pub(crate) fn flow(&self, proxy: &Proxy, test: Test) -> io::Result<(Outcome, Flow)> {
        let earlier = self.pace()?;
        let outcome = load(&self.order(proxy, test), self.load_place(proxy))?;
        let operations = outcome.operations.max(1) as f64;
        let latency = |micros: u32| (micros > 0).then_some(f64::from(micros));
        let flow = Flow {
            rate: outcome.operations as f64 / outcome.seconds.max(f64::MIN_POSITIVE),
            cpu: proxy.pid().map(|_| outcome.cpu / operations),
            pace: (earlier + self.pace()?) / 2.0,
            p50: latency(outcome.p50),
            p99: latency(outcome.p99),
        };
        Ok((outcome, flow))
    }

    /// Opens so many connections that then rest.
    pub(crate) fn hold(&self, proxy: &Proxy, connections: usize) -> io::Result<Resting> {
        let order = Order { connections, ..self.order(proxy, Test::Idle) };
        Resting::start(&order, self.load_place(proxy))
    }

    fn rest(&self, proxy: &Proxy, connections: usize, before: Memory) -> io::Result<(Outcome, Rest)> {
        let held = self.hold(proxy, connections)?;
        pause(SETTLE);
        let during = Memory::of(proxy);
        let outcome = held.release()?;
        let known = |value: f64| proxy.pid().map(|_| value);
        let each = |value: f64| known(value / outcome.operations.max(1) as f64);
        let rest = Rest {
            connections,
            pss: each(during.pss - before.pss),
            base: known(before.pss / 1024.0),
            descriptors: each(during.descriptors - before.descriptors),
        };
        Ok((outcome, rest))
    }

    /// How slow the proxy's CPU is now.
    fn pace(&self) -> io::Result<f64> {
        Role::start(crate::CALIBRATE, "", self.cpus.proxy)?.answer()
    }
}

#[derive(Clone, Copy)]
struct Memory {
    pss: f64,
    descriptors: f64,
}

impl Memory {
    /// Zero without a proxy.
    fn of(proxy: &Proxy) -> Self {
        let Some(pid) = proxy.pid() else { return Self { pss: 0.0, descriptors: 0.0 } };
        Self { pss: proc::pss_kib(pid) as f64, descriptors: proc::descriptors(pid) as f64 }
    }
}
