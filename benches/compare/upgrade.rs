//! Measures upgrades under load: the program is replaced by a new process, some times in a row, as its operator does it.
//!
//! The table shows the clients that failed, the old processes that are left, the memory of all processes, and the waits
//! of clients. pointsman hands its connections over; HAProxy (SIGUSR2 to its master) and nginx (SIGUSR2 and SIGQUIT) hand
//! over only what listens, so old processes stay as long as their connections. At the end these are stopped, as an
//! operator must do at some time, and the clients that fail by it are counted too.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backend::ADDRESSES;
use crate::child::{Program, pause};
use crate::configurations::{self, Setup, Shape};
use crate::figures::Spread;
use crate::measure::Bench;
use crate::peers::Peer;
use crate::report::{markdown, show};
use crate::upgrade_load::UpgradeLoad;
use crate::{proc, programs, proxy};

/// The longest wait for a step of an upgrade.
const STEP: Duration = Duration::from_secs(30);

/// The time from one look at the processes to the next.
const LOOK: Duration = Duration::from_millis(5);

/// The proxies that this mode can upgrade.
const PEERS: [Peer; 3] = [Peer::Pointsman, Peer::Haproxy, Peer::Nginx];

/// The size of the measurement.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    /// The clients that stay.
    connections: usize,
    /// The upgrades in a row.
    upgrades: usize,
    /// The time from one short client to the next.
    every: Duration,
    /// The time before and after all upgrades, in which the waits without one are seen.
    settle: Duration,
}

impl Extent {
    /// The size of a full measurement.
    pub(crate) fn full(rounds: usize) -> Self {
        let (every, settle) = (Duration::from_millis(5), Duration::from_secs(3));
        Self { rounds, connections: 5000, upgrades: 3, every, settle }
    }

    /// The smallest size that shows that everything works.
    pub(crate) fn brief() -> Self {
        let (every, settle) = (Duration::from_millis(10), Duration::from_millis(500));
        Self { rounds: 1, connections: 50, upgrades: 2, every, settle }
    }
}

/// The result of some upgrades in a row.
struct Sample {
    peer: Peer,
    /// The clients that failed until the last upgrade was over.
    failed: u64,
    short: u64,
    short_failed: u64,
    /// The old processes that are left after the last upgrade.
    old: usize,
    /// The clients that failed when these were stopped.
    failed_at_stop: u64,
    /// The memory of all processes before, at the most, and after, in MiB.
    before: f64,
    most: f64,
    after: f64,
    /// Milliseconds of each upgrade: until the new process serves, and until the old process is gone.
    serves: Vec<f64>,
    gone: Vec<f64>,
    /// The waits of clients without an upgrade, and around the upgrades, in milliseconds.
    calm: (f64, f64),
    waits: (f64, f64),
    fault: Option<String>,
}

/// Returns the table, and the number of clients of pointsman that failed.
///
/// # Errors
/// Returns an error if a proxy does not start, or an upgrade does not come to its end.
pub(crate) fn run(bench: &Bench<'_>, peers: &[Peer], extent: Extent) -> io::Result<(String, u64)> {
    let mut samples = Vec::new();
    for round in 1..=extent.rounds {
        for peer in PEERS.into_iter().filter(|peer| peers.contains(peer)) {
            eprintln!("round {round}/{}: upgrades, {}", extent.rounds, peer.name());
            samples.push(sample(bench, peer, extent)?);
        }
    }
    let own = samples.iter().filter(|sample| sample.peer == Peer::Pointsman);
    let errors = own.map(|sample| sample.failed + sample.short_failed + sample.failed_at_stop).sum();
    Ok((text(&samples, extent, bench.workers), errors))
}

fn sample(bench: &Bench<'_>, peer: Peer, extent: Extent) -> io::Result<Sample> {
    let mut running = Upgradable::start(bench, peer)?;
    let load = UpgradeLoad::start(running.address, extent.connections, extent.every)?;
    pause(extent.settle);
    let calm = load.take_longest();
    let before = running.memory();
    let mut most = before;
    let (mut serves, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..extent.upgrades {
        let Some(times) = running.upgrade(&mut most)? else { break };
        serves.push(times.serves);
        gone.extend(times.gone);
    }
    // Each client has sent a message since.
    pause(extent.settle.max(Duration::from_millis(1500)));
    let waits = load.take_longest();
    let (counts, after, old) = (load.counts(), running.memory(), running.old().len());
    most = most.max(after);
    running.stop_old();
    let failed_at_stop = settled_failures(&load) - counts.failed;
    let last = load.finish()?;
    Ok(Sample {
        peer,
        failed: counts.failed,
        short: last.short,
        short_failed: last.short_failed,
        old,
        failed_at_stop,
        before,
        most,
        after,
        serves,
        gone,
        calm,
        waits,
        fault: counts.fault,
    })
}

/// Returns the number of clients that failed, when it no longer grows.
fn settled_failures(load: &UpgradeLoad) -> u64 {
    let mut failed = load.counts().failed;
    loop {
        // Each client sends a message in this time.
        pause(Duration::from_millis(2500));
        let before = std::mem::replace(&mut failed, load.counts().failed);
        if failed == before {
            return failed;
        }
    }
}

/// The milliseconds of an upgrade.
struct Times {
    serves: f64,
    gone: Option<f64>,
}

/// A proxy that can be upgraded. Its processes are stopped when this is dropped.
struct Upgradable {
    peer: Peer,
    address: SocketAddr,
    directory: PathBuf,
    command: Vec<String>,
    pin: crate::cpus::CpuPin,
    /// The children: of pointsman each process, of HAProxy the master, of nginx none.
    programs: Vec<Program>,
    /// The session of nginx's processes.
    session: Option<u32>,
    /// The master of nginx before the last upgrade.
    retired_master: Option<u32>,
    /// The starts and reloads of HAProxy that its log reports.
    reloads: usize,
    started: usize,
}

impl Upgradable {
    fn start(bench: &Bench<'_>, peer: Peer) -> io::Result<Self> {
        let directory = bench.directory.join(format!("upgrade-{}", peer.name()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let setup = Setup {
            port: proxy::free_port()?,
            backend_port: bench.backend_port,
            workers: bench.workers,
            directory: directory.clone(),
        };
        let file = configurations::configuration(&setup, peer);
        fs::write(&file, configuration(peer, &setup)?)?;
        let mut running = Self {
            peer,
            address: SocketAddr::from(([127, 0, 0, 1], setup.port)),
            command: arguments(peer, &directory, &file),
            directory,
            pin: bench.cpus.proxy,
            programs: Vec::new(),
            session: None,
            retired_master: None,
            reloads: 1,
            started: 0,
        };
        let mut program = running.launch(&running.command.clone())?;
        if peer == Peer::Nginx {
            // The program that was started leaves a daemon behind.
            if !program.ends_within(STEP) {
                return Err(io::Error::other("nginx does not become a daemon"));
            }
            running.session =
                Some(wait_for("the file of nginx's process id", || running.pid_in("nginx.pid"))?);
        } else {
            running.programs.push(program);
        }
        let until = Instant::now() + STEP;
        while proxy::prove(running.address).is_err() {
            if Instant::now() > until {
                return Err(io::Error::other(format!("{} does not start", peer.name())));
            }
            pause(LOOK);
        }
        Ok(running)
    }

    fn launch(&mut self, arguments: &[String]) -> io::Result<Program> {
        self.started += 1;
        let mut command = Command::new(programs::program(self.peer).ok_or(io::ErrorKind::NotFound)?);
        command.args(arguments).current_dir(&self.directory);
        Program::start(command, self.pin, &self.log())
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.started))
    }

    fn pid_in(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.directory.join(name)).ok()?.trim().parse().ok()
    }

    /// Returns all processes of the proxy.
    fn processes(&self) -> Vec<u32> {
        match self.session {
            Some(session) => proc::session(session),
            None => self.programs.iter().flat_map(|program| proc::tree(program.pid())).collect(),
        }
    }

    /// Returns the processes that would not run without the upgrades.
    fn old(&self) -> Vec<u32> {
        let current = match (self.peer, self.session) {
            (Peer::Nginx, _) => self.pid_in("nginx.pid").map(proc::tree).unwrap_or_default(),
            (Peer::Haproxy, _) => {
                let mut tree = self.processes();
                // The master, and the worker that it started last.
                let newest = tree.iter().copied().skip(1).max_by_key(|pid| proc::started(*pid));
                tree.retain(|pid| tree_root(&self.programs) == Some(*pid) || newest == Some(*pid));
                tree
            }
            _ => self.programs.last().map(|program| vec![program.pid()]).unwrap_or_default(),
        };
        self.processes().into_iter().filter(|pid| !current.contains(pid) && proc::is_alive(*pid)).collect()
    }

    /// Returns the memory of all processes in MiB.
    fn memory(&self) -> f64 {
        proc::pss_kib_of(&self.processes()) as f64 / 1024.0
    }

    /// Waits for a step, and notes the most memory meanwhile.
    fn until(&self, what: &str, most: &mut f64, mut is_so: impl FnMut() -> bool) -> io::Result<()> {
        let until = Instant::now() + STEP;
        // To read the memory costs the process time, so it is not read at each look.
        for look in 0_u32.. {
            if is_so() {
                break;
            }
            if look % 8 == 0 {
                *most = most.max(self.memory());
            }
            if Instant::now() > until {
                return Err(io::Error::other(format!("{}: {what} did not come", self.peer.name())));
            }
            pause(LOOK);
        }
        Ok(())
    }

    /// Replaces the process by a new one. Returns `None` if the program takes no new process now: the new master of nginx
    /// ignores SIGUSR2 as long as the old master waits for its connections.
    fn upgrade(&mut self, most: &mut f64) -> io::Result<Option<Times>> {
        let begun = Instant::now();
        let millis = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
        match self.peer {
            Peer::Haproxy => {
                let before = self.processes();
                self.programs[0].signal(Signal::SIGUSR2);
                let mut sent = Instant::now();
                let signalled = &self.programs[0];
                self.until("a new worker", most, || {
                    // A master that is still busy with the reload before loses the signal.
                    if sent.elapsed() > Duration::from_secs(1) {
                        signalled.signal(Signal::SIGUSR2);
                        sent = Instant::now();
                    }
                    self.processes().iter().any(|pid| !before.contains(pid))
                })?;
                let serves = millis(begun);
                // Before that the master loses the next signal.
                self.until("the end of the reload", most, || {
                    let log = fs::read_to_string(self.log()).unwrap_or_default();
                    log.matches("Loading success").count() > self.reloads
                })?;
                self.reloads += 1;
                Ok(Some(Times { serves, gone: None }))
            }
            Peer::Nginx => {
                let old = self.pid_in("nginx.pid").ok_or(io::ErrorKind::NotFound)?;
                if self.retired_master.is_some_and(proc::is_alive) {
                    return Ok(None);
                }
                send(old, Signal::SIGUSR2);
                self.until("a new master", most, || {
                    let new = self.pid_in("nginx.pid");
                    new.is_some_and(|new| new != old && proc::tree(new).len() > 1)
                })?;
                let serves = millis(begun);
                send(old, Signal::SIGQUIT);
                self.retired_master = Some(old);
                Ok(Some(Times { serves, gone: None }))
            }
            _ => {
                let mut arguments = self.command.clone();
                arguments.insert(1, "--take-over".to_owned());
                let next = self.launch(&arguments)?;
                self.programs.push(next);
                let log = self.log();
                self.until("a successor that serves", most, || {
                    fs::read_to_string(&log).is_ok_and(|text| text.contains(" serving "))
                })?;
                let serves = millis(begun);
                let old = self.programs.len() - 2;
                let pid = self.programs[old].pid();
                let mut retired = self.programs.remove(old);
                let ended = self.until("the end of the old process", most, || retired.ended().is_some());
                ended.map_err(|error| io::Error::other(format!("{error}, pid {pid}")))?;
                Ok(Some(Times { serves, gone: Some(millis(begun)) }))
            }
        }
    }

    /// Stops the old processes.
    fn stop_old(&self) {
        for pid in self.old() {
            send(pid, Signal::SIGTERM);
        }
    }
}

impl Drop for Upgradable {
    fn drop(&mut self) {
        for (signal, time) in [(Signal::SIGTERM, Duration::from_secs(2)), (Signal::SIGKILL, Duration::ZERO)] {
            let Some(session) = self.session else { return };
            proc::session(session).into_iter().for_each(|pid| send(pid, signal));
            let until = Instant::now() + time;
            while Instant::now() < until && !proc::session(session).is_empty() {
                pause(LOOK);
            }
        }
    }
}

fn tree_root(programs: &[Program]) -> Option<u32> {
    programs.first().map(Program::pid)
}

fn send(pid: u32, signal: Signal) {
    // An error means that the process has ended already, which is the aim.
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> io::Result<T> {
    let until = Instant::now() + STEP;
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if Instant::now() > until {
            return Err(io::Error::other(format!("{what} did not come")));
        }
        pause(LOOK);
    }
}

/// The common configuration of each peer, with what an upgrade needs.
fn configuration(peer: Peer, setup: &Setup) -> io::Result<String> {
    Ok(match peer {
        Peer::Haproxy => configurations::haproxy(setup, ""),
        Peer::Nginx => {
            let module = programs::nginx_module()?;
            configurations::nginx(setup, module.as_deref()).replace("daemon off;", "daemon on;")
        }
        _ => {
            let socket = setup.directory.join("handover.sock");
            configurations::pointsman(setup, Shape::PLAIN) + &format!("[handover]\nsocket = {socket:?}\n")
        }
    })
}

fn arguments(peer: Peer, directory: &Path, file: &Path) -> Vec<String> {
    let (directory, file) = (directory.display().to_string(), file.display().to_string());
    let words: &[&str] = match peer {
        Peer::Haproxy => &["-W", "-db", "-f", &file],
        Peer::Nginx => &["-p", &directory, "-e", "stderr", "-c", &file],
        _ => &["run", &file],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(samples: &[Sample], extent: Extent, workers: usize) -> String {
    let heads = [
        "program",
        "upgrades done",
        "clients failed",
        "short clients failed",
        "old processes left",
        "clients failed when these were stopped",
        "MiB before",
        "MiB at most",
        "MiB after",
        "new serves after ms",
        "old gone after ms",
        "longest wait without, ms: p99",
        "longest",
        "with upgrades, ms: p99",
        "longest",
    ]
    .map(str::to_owned);
    let mut rows = Vec::new();
    for peer in PEERS {
        let own: Vec<&Sample> = samples.iter().filter(|sample| sample.peer == peer).collect();
        if own.is_empty() {
            continue;
        }
        let over = |value: fn(&Sample) -> f64, decimals| {
            show(Spread::of(own.iter().map(|one| value(one))), decimals)
        };
        let all = |value: fn(&Sample) -> &Vec<f64>| {
            show(Spread::of(own.iter().flat_map(|one| value(one).clone())), 0)
        };
        rows.push(vec![
            peer.name().to_owned(),
            over(|one| one.serves.len() as f64, 0),
            over(|one| one.failed as f64, 0),
            format!(
                "{} of {}",
                own.iter().map(|one| one.short_failed).sum::<u64>(),
                own.iter().map(|one| one.short + one.short_failed).sum::<u64>()
            ),
            over(|one| one.old as f64, 0),
            over(|one| one.failed_at_stop as f64, 0),
            over(|one| one.before, 1),
            over(|one| one.most, 1),
            over(|one| one.after, 1),
            all(|one| &one.serves),
            all(|one| &one.gone),
            over(|one| one.calm.0, 1),
            over(|one| one.calm.1, 1),
            over(|one| one.waits.0, 1),
            over(|one| one.waits.1, 1),
        ]);
    }
    let faults: Vec<String> = samples
        .iter()
        .filter_map(|one| {
            Some(format!("\n{}: the first fault of a client: {}\n", one.peer.name(), one.fault.as_ref()?))
        })
        .collect();
    format!(
        "\n### Upgrades under load: {} in a row if possible, {}\n\n{}\n{} clients stay and exchange a message each second; one more \
         comes and goes every {} ms, over {} backends. The waits are those of the clients that stay: the longest of each, \
         and over them the 99th percentile and the most.\n{}",
        extent.upgrades,
        crate::points::count(workers),
        markdown(&heads, &rows),
        extent.connections,
        extent.every.as_millis(),
        ADDRESSES.len(),
        faults.concat(),
    )
}
