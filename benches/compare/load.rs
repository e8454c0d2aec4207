//! The load: one process with one thread and many connections of one kind of work.
//!
//! The load prints an [`Outcome`] as JSON. It ends by itself, whatever the proxy does: a connection that
//! makes no progress after the measured time becomes an error.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::client::{Client, SharedState, Step};
use crate::order::{ALL_IDLE, Order, Outcome, Work};
use crate::poller::{Interest, Poller};
use crate::proc::{self, CpuTimes};

/// The number of connections that are opened at the same time.
const OPENING: usize = 64;

/// The longest time from the start until every connection is open.
const OPENING_PATIENCE: Duration = Duration::from_secs(30);

/// A connection that makes no progress for this time after the measured time has failed. A busy machine may
/// pause for a second.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that uploads have to drain and to be counted.
const DRAIN: Duration = Duration::from_secs(10);

/// The time for which idle connections stay open: the parent needs some seconds to measure them.
const HOLD_TIMEOUT: Duration = Duration::from_secs(120);

/// The number of latencies that are kept: some seconds at any rate that one core can serve.
const LATENCIES: usize = 4_000_000;

/// After more errors than this the run ends.
const ERRORS: u64 = 1000;

const STDIN: u64 = u64::MAX;

/// Runs the order.
///
/// # Errors
/// Returns an error if epoll or standard output fails. Faults of connections are counted instead.
pub(crate) fn run(order: Order) -> io::Result<()> {
    let mut load = Load::new(order)?;
    load.open_all()?;
    let outcome = match load.order.work {
        Work::Hold => load.hold()?,
        _ => load.measure()?,
    };
    print_line(&serde_json::to_string(&outcome)?)
}

fn print_line(line: &str) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

struct Load {
    order: Order,
    shared: SharedState,
    poller: Poller,
    clients: Vec<Client>,
    tokens: Vec<u64>,
    latencies: Vec<u32>,
    outcome: Outcome,
}

impl Load {
    fn new(order: Order) -> io::Result<Self> {
        Ok(Self {
            shared: SharedState::new(&order),
            poller: Poller::new()?,
            clients: Vec::with_capacity(order.connections),
            tokens: Vec::new(),
            latencies: Vec::new(),
            outcome: Outcome::default(),
            order,
        })
    }

    /// Opens the connections in batches. The open connections work meanwhile.
    fn open_all(&mut self) -> io::Result<()> {
        let until = Instant::now() + OPENING_PATIENCE;
        loop {
            let opening = self.clients.iter().filter(|client| client.is_opening(&self.shared)).count();
            let unopened = self.order.connections - self.clients.len();
            if unopened == 0 && (opening == 0 || self.order.work == Work::Connect) {
                break;
            }
            for _ in 0..unopened.min(OPENING.saturating_sub(opening)) {
                self.clients.push(Client::new(self.clients.len()));
                self.open(self.clients.len() - 1);
            }
            self.wait_once(Duration::from_millis(100))?;
            if Instant::now() > until || self.outcome.errors > ERRORS {
                self.fail("not every connection came up");
                break;
            }
        }
        Ok(())
    }

    fn go(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.outcome.errors > ERRORS {
                return Ok(());
            }
            self.wait_once(left.min(Duration::from_millis(50)))?;
        }
    }

    /// Waits once and serves the ready sockets. Returns `true` if standard input was ready.
    fn wait_once(&mut self, patience: Duration) -> io::Result<bool> {
        let mut tokens = std::mem::take(&mut self.tokens);
        self.poller.wait(patience, &mut tokens)?;
        let mut stdin_is_ready = false;
        for token in &tokens {
            if *token == STDIN {
                stdin_is_ready = true;
            } else {
                self.advance(*token as usize);
            }
        }
        self.tokens = tokens;
        Ok(stdin_is_ready)
    }

    fn open(&mut self, slot: usize) {
        let opened = self.clients[slot].open(&mut self.shared).and_then(|interest| {
            let socket = self.clients[slot].socket().ok_or(io::ErrorKind::NotConnected)?;
            self.poller.add(socket, slot as u64, interest)
        });
        if let Err(error) = opened {
            self.fail_connection(slot, &error.to_string());
        }
    }

    fn advance(&mut self, slot: usize) {
        let client = &mut self.clients[slot];
        let was = client.interest();
        match client.advance(&mut self.shared) {
            Ok(Step::Wait) => {}
            Ok(Step::Moved(bytes)) => self.outcome.total += bytes,
            Ok(Step::Done(latency)) => self.count(latency),
            Ok(Step::Closed(latency)) => {
                self.count(latency);
                self.open(slot);
                return;
            }
            Err(error) => return self.fail_connection(slot, &error.to_string()),
        }
        let client = &self.clients[slot];
        if let Some(socket) = client.socket()
            && client.interest() != was
            && let Err(error) = self.poller.change(socket, slot as u64, client.interest())
        {
            self.fail_connection(slot, &error.to_string());
        }
    }

    fn count(&mut self, latency: Duration) {
        self.outcome.total += 1;
        if self.latencies.len() < LATENCIES {
            self.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn fail(&mut self, why: &str) {
        self.outcome.errors += 1;
        self.outcome.fault.get_or_insert_with(|| why.to_owned());
    }

    /// Counts a failed connection as an error. A short connection is then opened anew; others stay closed.
    fn fail_connection(&mut self, slot: usize, why: &str) {
        self.fail(why);
        self.clients[slot].close();
        if self.order.work == Work::Connect && self.outcome.errors < ERRORS {
            self.open(slot);
        }
    }

    fn measure(&mut self) -> io::Result<Outcome> {
        // The list is made before the measured time, because a pass over all processes takes time.
        let mut watched = self.order.watch.map(proc::tree).unwrap_or_default();
        watched.extend(self.order.own_cpu.and_then(proc::softirq_thread));
        self.go(self.order.warm)?;
        self.latencies.clear();
        let (before, earlier, began) = (self.outcome.total, CpuTimes::by(&watched), Instant::now());
        self.go(self.order.measure)?;
        self.outcome.seconds = began.elapsed().as_secs_f64();
        let spent = CpuTimes::by(&watched);
        self.outcome.cpu = spent.seconds() - earlier.seconds();
        self.outcome.threads = spent.by_name_since(&earlier);
        self.outcome.operations = self.outcome.total - before;
        self.latencies.sort_unstable();
        self.outcome.p50 = self.per_mille(500);
        self.outcome.p99 = self.per_mille(990);
        self.outcome.p999 = self.per_mille(999);
        self.await_progress()?;
        if self.order.work == Work::Up {
            self.collect()?;
        }
        Ok(self.outcome.clone())
    }

    /// Continues until every connection has made progress since now. Each connection without progress is an
    /// error.
    fn await_progress(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let stalled =
            |clients: &[Client]| clients.iter().filter(|client| client.is_stalled_since(now)).count();
        while stalled(&self.clients) > 0 && now.elapsed() < STALL_TIMEOUT {
            self.wait_once(Duration::from_millis(50))?;
        }
        for _ in 0..stalled(&self.clients) {
            self.fail("a connection stands still");
        }
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        for slot in 0..self.clients.len() {
            if let Err(error) = self.clients[slot].finish_sending()
                && self.clients[slot].socket().is_some()
            {
                self.fail_connection(slot, &error.to_string());
                continue;
            }
            if let Some(socket) = self.clients[slot].socket() {
                self.poller.change(socket, slot as u64, Interest::Read)?;
            }
        }
        let until = Instant::now() + DRAIN;
        while self.clients.iter().any(|client| client.socket().is_some()) && Instant::now() < until {
            self.wait_once(Duration::from_millis(50))?;
        }
        let uncounted = self.clients.iter().filter(|client| client.socket().is_some()).count();
        for _ in 0..uncounted {
            self.fail("the byte count did not come back after the half-close");
        }
        Ok(())
    }

    fn per_mille(&self, share: usize) -> u32 {
        let slot = (self.latencies.len() * share / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(slot).copied().unwrap_or(0)
    }

    /// Keeps all connections open until standard input ends.
    fn hold(&mut self) -> io::Result<Outcome> {
        self.poller.add(io::stdin(), STDIN, Interest::Read)?;
        print_line(ALL_IDLE)?;
        let until = Instant::now() + HOLD_TIMEOUT;
        while Instant::now() < until && !self.wait_once(Duration::from_millis(500))? {}
        self.outcome.operations =
            self.clients.iter().filter(|client| client.socket().is_some()).count() as u64;
        Ok(self.outcome.clone())
    }
}
