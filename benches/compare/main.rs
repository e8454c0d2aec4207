//! pointsman beside its peers, measured in one run on this machine.
//!
//! ```text
//! cargo bench --bench compare -- --rounds 5 --secs 3           the tables, and the goals
//! cargo bench --bench compare -- --rounds 5 --svg plots        and plots
//! cargo bench --bench compare -- --packets-1500                the same in small packets
//! cargo bench --bench compare -- --workers 1,2                 what a second worker costs
//! cargo bench --bench compare -- --busy                        how workers share few streams
//! cargo bench --bench compare -- --scrape                      metrics scraped under load
//! cargo bench --bench compare -- --strace                      system calls for one operation
//! cargo bench --bench compare -- --growth --rounds 3           many routes, backends, connections
//! cargo bench --bench compare -- --failover                    backends that fail under load
//! cargo bench --bench compare -- --checks --rounds 3           10,000 backends checked
//! cargo bench --bench compare -- --upgrade --rounds 3          upgrades under load
//! cargo bench --bench compare                                  only: does everything work?
//! ```
//!
//! Every round starts each proxy anew and runs the same tests on it, so that all proxies meet the same states
//! of the machine. The load and the backend are processes of their own: this program in other roles. The CPU
//! time of the proxy is read from `/proc` around the measured time. It is compared with a fixed piece of work
//! that runs just before and after. All traffic stays on 127.0.0.0/8, and every process ends by itself.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod arriving_clients;
mod backend;
mod busy;
mod calibrate;
mod checks;
mod child;
mod client;
mod configurations;
mod cpus;
mod custom_proxy;
mod failover;
mod figures;
mod goals;
mod growth;
mod hello;
mod interrupt;
mod link;
mod load;
mod measure;
mod options;
mod order;
mod packets;
mod peers;
mod plots;
mod points;
mod poller;
mod proc;
mod programs;
mod proxy;
mod report;
mod roles;
mod rounds;
mod scrape;
mod separate_backend;
mod smoke;
mod spread;
mod svg;
mod tokio_copy;
mod trace;
mod upgrade;
mod upgrade_load;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cpus::Cpus;
use crate::measure::Bench;
use crate::options::Options;
use crate::points::count;
use crate::proxy::{Backend, Scratch};

/// The numbers of idle connections, rising.
const IDLE: [usize; 2] = [4500, 9000];

/// The unmeasured time before each test, in which buffers grow and caches fill.
const WARM: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let result = match roles::run() {
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

/// Runs the mode that the options name. Returns the number of errors of pointsman.
fn measure(options: &Options) -> io::Result<u64> {
    if options.filter.as_ref().is_some_and(|filter| !"compare".contains(filter.as_str())) {
        return Ok(0);
    }
    if options.packets_1500 {
        // This comes first: the process must have no socket and no thread yet.
        println!("- packets of {:.0} bytes on average, acknowledgements included", packets::enter()?);
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let scratch = Scratch::new()?;
    interrupt::clean_up_on_signal(scratch.path().to_owned())?;
    let smoke = options.is_smoke_run();
    let workers = options.workers();
    // A proxy with one thread gets a CPU of its own, if all proxies have one thread.
    let cpus = if workers == [1] && !smoke { Cpus::apart()? } else { Cpus::ANY };
    let backend = Backend::start(cpus.load)?;
    let mut bench = Bench {
        cpus,
        workers: workers[0],
        backend_port: backend.port,
        directory: scratch.path(),
        warm: WARM,
        time: Duration::from_secs(u64::from(options.secs)),
        idle: IDLE.into_iter().filter(|count| growth::fits(*count)).collect(),
    };
    if smoke { smoke::run(&mut bench) } else { mode(&bench, options) }
}

/// Runs a full measurement.
fn mode(bench: &Bench<'_>, options: &Options) -> io::Result<u64> {
    let rounds = usize::from(options.rounds);
    let (text, errors) = if options.growth {
        growth::run(bench, rounds, growth::Extent::All, options.svg.as_deref())?
    } else if options.busy {
        busy::run(bench, busy::Extent::full(rounds))?
    } else if options.scrape {
        scrape::run(bench, rounds)?
    } else if options.failover {
        failover::run(bench, failover::Extent::full(rounds))?
    } else if options.checks {
        (checks::run(bench, checks::Extent::full(rounds))?, 0)
    } else if options.upgrade {
        upgrade::run(bench, &rounds::installed(&options.peers), upgrade::Extent::full(rounds))?
    } else {
        let peers = rounds::installed(&options.peers);
        if !options.strace {
            return rounds::run(bench, options, &peers);
        }
        (format!("\n### System calls, {}\n\n{}", count(bench.workers), trace::run(bench, &peers)?), 0)
    };
    println!("{text}");
    Ok(errors)
}
