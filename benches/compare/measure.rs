//! One test on one proxy: its results, and their cost.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::child::{IdleLoad, Role, load, pause};
use crate::configurations::Shape;
use crate::cpus::{CpuPin, Cpus};
use crate::order::{Order, Outcome, Work};
use crate::peers::Peer;
use crate::points::{Figures, IdleFigures, LoadFigures, Point, ProxyVariant, Test};
use crate::proc;
use crate::proxy::{Plan, Proxy};
use crate::roles;

/// The concurrent connections of the short and the ping-pong tests.
const MANY: usize = 64;

/// The concurrent streams.
const STREAMS: usize = 8;

/// The concurrent streams of [`Test::Beside`], and the connections with small requests beside them.
const STREAMS_BESIDE: usize = 40;
const BESIDE: usize = 4;

/// The further time of those streams. The load beside them must open its connections first.
const LONGER: Duration = Duration::from_millis(500);

/// The time from the start of the last idle connection until memory is read. It suffices for work that a
/// proxy delays.
const SETTLE: Duration = Duration::from_millis(500);

/// The kernel is calm if its memory changes by less than this in one [`SETTLE`]. The bench waits this many
/// times for a calm kernel.
const CALM_KIB: u64 = 256;
const CALM_TRIES: usize = 5;

/// Returns the work of the load in a test, and the number of its connections.
fn work(test: Test) -> (Work, usize) {
    match test {
        Test::Conn => (Work::Connect, MANY),
        Test::Pp64 => (Work::PingPong(64), MANY),
        Test::Pp4k => (Work::PingPong(4096), MANY),
        Test::Down => (Work::Down, STREAMS),
        Test::Up => (Work::Up, STREAMS),
        Test::Beside => (Work::PingPong(64), BESIDE),
        Test::Idle => (Work::Hold, 0),
    }
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) cpus: Cpus,
    /// The number of workers of pointsman, unless a variant has another number.
    pub(crate) workers: usize,
    pub(crate) backend_port: u16,
    pub(crate) directory: &'a Path,
    pub(crate) warm: Duration,
    pub(crate) time: Duration,
    /// The numbers of idle connections, rising.
    pub(crate) idle: Vec<usize>,
}

impl Bench<'_> {
    /// Starts pointsman alone, with a configuration of this size.
    pub(crate) fn start_pointsman(&self, shape: Shape) -> io::Result<Proxy> {
        self.start(ProxyVariant { peer: Peer::Pointsman, workers: self.workers }, shape)
    }

    /// Starts a proxy on its CPU.
    pub(crate) fn start(&self, variant: ProxyVariant, shape: Shape) -> io::Result<Proxy> {
        Proxy::start(Plan {
            variant,
            shape,
            pin: self.cpus.proxy,
            backend_port: self.backend_port,
            directory: self.directory,
        })
    }

    /// Runs one test. `Idle` returns a point for each number of connections.
    pub(crate) fn test(&self, proxy: &Proxy, test: Test, round: usize) -> io::Result<Vec<Point>> {
        let point = |outcome: &Outcome, figures| {
            if let Some(fault) = &outcome.fault {
                eprintln!(
                    "  {}: {test:?}: {} errors, the first: {fault}",
                    proxy.variant.peer.name(),
                    outcome.errors
                );
            }
            Point { variant: proxy.variant, round, test, errors: outcome.errors, figures }
        };
        if test != Test::Idle {
            let (outcome, flow) = self.flow(proxy, test)?;
            return Ok(vec![point(&outcome, Figures::Load(flow))]);
        }
        wait_for_calm();
        let before = Memory::of(proxy);
        let mut points = Vec::new();
        for connections in &self.idle {
            let (outcome, idle_figures) = self.idle_figures(proxy, *connections, before)?;
            points.push(point(&outcome, Figures::Idle(idle_figures)));
        }
        Ok(points)
    }

    /// Returns the order for a test on this proxy.
    pub(crate) fn order(&self, proxy: &Proxy, test: Test) -> Order {
        let (work, connections) = work(test);
        Order {
            work,
            to: proxy.address,
            connections,
            warm: self.warm,
            measure: self.time,
            watch: proxy.pid(),
            own_cpu: self.cpus.proxy,
        }
    }

    /// Returns the CPU of the load. Without a proxy it is the CPU of the proxy, so that two CPUs work in both
    /// cases.
    pub(crate) fn load_pin(&self, proxy: &Proxy) -> CpuPin {
        if proxy.variant.peer == Peer::Direct { self.cpus.proxy } else { self.cpus.load }
    }

    /// Runs a test that moves bytes, between two calibrations.
    pub(crate) fn flow(&self, proxy: &Proxy, test: Test) -> io::Result<(Outcome, LoadFigures)> {
        let earlier = self.pace()?;
        let (order, pin) = (self.order(proxy, test), self.load_pin(proxy));
        let (outcome, moved) = if test == Test::Beside {
            let (outcome, streams) = self.beside(order, pin)?;
            (outcome, Some(streams))
        } else {
            (load(&order, pin)?, None)
        };
        let moved = moved.as_ref().unwrap_or(&outcome);
        let operations = moved.operations.max(1) as f64;
        let latency = |micros: u32| (micros > 0).then_some(f64::from(micros));
        let flow = LoadFigures {
            rate: moved.operations as f64 / moved.seconds.max(f64::MIN_POSITIVE),
            cpu: proxy.pid().map(|_| moved.cpu / operations),
            pace: (earlier + self.pace()?) / 2.0,
            p50: latency(outcome.p50),
            p99: latency(outcome.p99),
            p999: latency(outcome.p999),
        };
        Ok((outcome, flow))
    }

    /// Runs a load beside streams, and returns the outcomes of both. The streams have a process of their own,
    /// so that reading them delays the load as little as possible. Errors of the streams count for the load.
    fn beside(&self, order: Order, pin: CpuPin) -> io::Result<(Outcome, Outcome)> {
        let streams = Order {
            work: Work::Down,
            connections: STREAMS_BESIDE,
            measure: order.warm + order.measure + LONGER,
            ..order.clone()
        };
        let streams = Role::start(roles::LOAD, &serde_json::to_string(&streams)?, pin)?;
        pause(order.warm);
        let mut outcome = load(&order, pin)?;
        let streams: Outcome = streams.answer()?;
        outcome.errors += streams.errors;
        outcome.fault = outcome.fault.or_else(|| streams.fault.clone());
        Ok((outcome, streams))
    }

    /// Opens this many connections, which then stay idle.
    pub(crate) fn hold(&self, proxy: &Proxy, connections: usize) -> io::Result<IdleLoad> {
        let order = Order { connections, ..self.order(proxy, Test::Idle) };
        IdleLoad::start(&order, self.load_pin(proxy))
    }

    fn idle_figures(
        &self,
        proxy: &Proxy,
        connections: usize,
        before: Memory,
    ) -> io::Result<(Outcome, IdleFigures)> {
        let held = self.hold(proxy, connections)?;
        pause(SETTLE);
        let during = Memory::of(proxy);
        let outcome = held.release()?;
        let known = |value: f64| proxy.pid().map(|_| value);
        let each = |value: f64| known(value / outcome.operations.max(1) as f64);
        let idle_figures = IdleFigures {
            connections,
            pss: each(during.pss - before.pss),
            base: known(before.pss / 1024.0),
            descriptors: each(during.descriptors - before.descriptors),
            kernel: (during.kernel - before.kernel) / outcome.operations.max(1) as f64,
        };
        Ok((outcome, idle_figures))
    }

    /// Measures the present pace of the proxy's CPU; a larger number is a slower CPU.
    fn pace(&self) -> io::Result<f64> {
        Role::start(roles::CALIBRATE, "", self.cpus.proxy)?.answer()
    }
}

/// Waits until the kernel has freed the sockets of earlier tests, and of the connection that proved that the
/// proxy forwards.
fn wait_for_calm() {
    let mut last = u64::MAX;
    for _ in 0..CALM_TRIES {
        pause(SETTLE);
        let now = proc::slab_kib();
        if now.abs_diff(last) < CALM_KIB {
            return;
        }
        last = now;
    }
}

#[derive(Clone, Copy)]
struct Memory {
    /// KiB.
    pss: f64,
    descriptors: f64,
    /// KiB, of the whole machine.
    kernel: f64,
}

impl Memory {
    /// Reads the memory of the proxy and of the kernel. Without a proxy it reads that of the kernel alone.
    fn of(proxy: &Proxy) -> Self {
        let kernel = proc::slab_kib() as f64;
        let Some(pid) = proxy.pid() else { return Self { pss: 0.0, descriptors: 0.0, kernel } };
        Self { pss: proc::pss_kib(pid) as f64, descriptors: proc::descriptors(pid) as f64, kernel }
    }
}
