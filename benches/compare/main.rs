//! pointsman beside its peers, measured in one run on this machine.
//!
//! ```text
//! cargo bench --bench compare -- --rounds 5 --secs 3           the tables
//! cargo bench --bench compare -- --rounds 5 --svg plots        and plots
//! cargo bench --bench compare -- --strace                      system calls for one operation
//! cargo bench --bench compare -- --growth --rounds 3           many routes, backends, connections
//! cargo bench --bench compare                                  only: does everything work?
//! ```
//!
//! Every round starts each proxy anew and gives it the same tests, so that all meet the machine in the
//! same moods. Load and backend are processes of their own, this program in other roles; the proxy's CPU
//! time is read from `/proc` around the measured time, and set against a fixed piece of work done just
//! before and after. Everything stays on 127.0.0.0/8 and ends by itself.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backend;
mod calibrate;
mod child;
mod client;
mod cpus;
mod figures;
mod growth;
mod hello;
mod interrupt;
mod load;
mod measure;
mod options;
mod order;
mod peers;
mod plots;
mod poller;
mod proc;
mod proxy;
mod report;
mod svg;
mod tokio_copy;
mod trace;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cpus::Cpus;
use crate::figures::Results;
use crate::measure::{Bench, Point, Test};
use crate::options::Options;
use crate::peers::{Peer, Shape};
use crate::proxy::{Backend, Scratch};

// The roles of child processes, as first arguments.
const BACKEND: &str = "role-backend";
const LOAD: &str = "role-load";
const CALIBRATE: &str = "role-calibrate";
const TOKIO_COPY: &str = "role-tokio-copy";

/// Idle connections, rising.
const IDLE: [usize; 2] = [4500, 9000];

/// Not measured, before each test: buffers have grown, caches are warm.
const WARM: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let result = match role() {
        Some(result) => result.map(|()| 0),
        None => measure(&Options::parse()),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(errors) => {
            eprintln!("pointsman had {errors} errors");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the role that the arguments name, if they do.
fn role() -> Option<io::Result<()>> {
    let mut arguments = std::env::args().skip(1);
    let (role, mut argument) = (arguments.next()?, || arguments.next().unwrap_or_default());
    match role.as_str() {
        BACKEND => Some(backend::run()),
        CALIBRATE => Some(calibrate::run()),
        LOAD => Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(load::run)),
        TOKIO_COPY => {
            let mut port = || argument().parse().map_err(io::Error::other);
            Some(port().and_then(|own| tokio_copy::run(own, port()?)))
        }
        _ => None,
    }
}

/// Does what the options ask for; gives the number of pointsman's errors.
fn measure(options: &Options) -> io::Result<u64> {
    if options.filter.as_ref().is_some_and(|filter| !"compare".contains(filter.as_str())) {
        return Ok(0);
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let scratch = Scratch::new()?;
    interrupt::clean_up_on_signal(scratch.path().to_owned())?;
    let cpus = Cpus::choose(usize::from(options.workers))?;
    let backend = Backend::start(cpus.load)?;
    let mut bench = Bench {
        cpus,
        workers: usize::from(options.workers),
        backend_port: backend.port,
        directory: scratch.path(),
        warm: WARM,
        time: Duration::from_secs(u64::from(options.secs)),
        idle: IDLE.into_iter().filter(|count| growth::fits(*count)).collect(),
    };
    let asked = std::env::args().skip(1).any(|argument| argument != "--bench");
    if options.test || options.filter.is_some() || !asked {
        return smoke(&mut bench);
    }
    let peers = available(options);
    if options.growth {
        let (table, errors) = growth::run(&bench, usize::from(options.rounds), options.svg.as_deref())?;
        println!("\n### What grows: pointsman, {} worker\n\n{table}", options.workers);
        return Ok(errors);
    }
    if options.strace {
        println!("\n### System calls, {} worker\n\n{}", options.workers, trace::run(&bench, &peers)?);
        return Ok(0);
    }
    let results = Results::new(rounds(&bench, options, &peers));
    println!("\n## {} worker, {} rounds of {} s", options.workers, options.rounds, options.secs);
    print!("{}", report::tables(&results, options.reference));
    if let Some(directory) = &options.svg {
        plots::write(&results, directory)?;
    }
    Ok(results.errors(Peer::Pointsman))
}

/// A tiny round of pointsman alone.
fn smoke(bench: &mut Bench<'_>) -> io::Result<u64> {
    (bench.warm, bench.time, bench.idle) = (Duration::from_millis(50), Duration::from_millis(200), vec![50]);
    let proxy = bench.start(Peer::Pointsman, Shape::PLAIN)?;
    let mut points = Vec::new();
    for test in [Test::Idle, Test::Conn, Test::Pp64, Test::Pp4k, Test::Down, Test::Up] {
        points.extend(bench.test(&proxy, test, 0)?);
    }
    let results = Results::new(points);
    print!("{}", report::tables(&results, Peer::Pointsman));
    println!("\nOnly a look whether everything works; give --rounds to measure, --help for more.");
    Ok(results.errors(Peer::Pointsman))
}

/// Who is installed and can use so many workers; tells about the others.
fn available(options: &Options) -> Vec<Peer> {
    let mut peers = Vec::new();
    for peer in &options.peers {
        if peer.program().is_none() {
            eprintln!("{}: not installed, skipped", peer.name());
        } else if !peer.can_use(usize::from(options.workers)) {
            eprintln!("{}: has one thread only, skipped", peer.name());
        } else {
            println!("- {}: {}", peer.name(), peer.version().as_deref().unwrap_or("part of this program"));
            peers.push(*peer);
        }
    }
    peers
}

fn rounds(bench: &Bench<'_>, options: &Options, peers: &[Peer]) -> Vec<Point> {
    // First what looks at memory: a proxy that has worked keeps some for later.
    let mut tests = options.tests.clone();
    tests.sort_by_key(|test| *test != Test::Idle);
    let mut points = Vec::new();
    for round in 0..usize::from(options.rounds) {
        for peer in peers {
            eprintln!("round {}/{}: {}", round + 1, options.rounds, peer.name());
            match slot(bench, *peer, &tests, round) {
                Ok(new) => points.extend(new),
                Err(error) => eprintln!("  {}: {error}", peer.name()),
            }
        }
    }
    points
}

fn slot(bench: &Bench<'_>, peer: Peer, tests: &[Test], round: usize) -> io::Result<Vec<Point>> {
    let proxy = bench.start(peer, Shape::PLAIN)?;
    let mut points = Vec::new();
    for test in tests {
        points.extend(bench.test(&proxy, *test, round)?);
    }
    Ok(points)
}
