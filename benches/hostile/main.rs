//! pointsman under attack: the service of honest clients, and the cost of the attack.
//!
//! ```text
//! cargo bench --bench hostile -- --secs 10                      the tables
//! cargo bench --bench hostile -- --only half-open,garbage       some of the attacks
//! cargo bench --bench hostile -- --further 'max_unsent = 1048576'   each without and with further lines
//! cargo bench --bench hostile                                   only: does everything work?
//! ```
//!
//! The server, the backends, the honest clients and the attackers are processes of this run. They use only
//! 127.0.0.0/8, and end with the run. No process has more than 20,000 descriptors, and no attack lasts longer
//! than it is measured. Quiet and attacked times of one server take turns, so that a ratio compares the same
//! machine in the same state. The attackers share the CPUs with the server, so the results are worse than
//! over a network.
//!
//! These errors make the bench fail; no time does:
//!
//! - the server ends or panics,
//! - honest clients fail in a case that does not allow it,
//! - descriptors stay open after the attack.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod attack;
#[path = "../compare/backend.rs"]
mod backend;
mod cases;
#[path = "../compare/child.rs"]
#[allow(dead_code)]
mod child;
mod clients;
#[path = "../compare/cpus.rs"]
#[allow(dead_code)]
mod cpus;
#[path = "../compare/hello.rs"]
#[allow(dead_code)]
mod hello;
#[path = "../compare/interrupt.rs"]
mod interrupt;
mod metrics;
mod options;
#[path = "../compare/order.rs"]
#[allow(dead_code)]
mod order;
mod payload;
#[path = "../compare/poller.rs"]
#[allow(dead_code)]
mod poller;
#[path = "../compare/proc.rs"]
#[allow(dead_code)]
mod proc;
mod report;
mod roles;
mod round;
mod server;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::backend::ADDRESSES;
use crate::cases::Case;
use crate::child::Role;
use crate::options::Options;
use crate::report::Row;
use crate::round::Extent;
use crate::server::RunContext;

/// The most descriptors of one process.
const DESCRIPTORS: u64 = 20_000;

/// The length of a quiet or attacked time in a brief run.
const BRIEF: Duration = Duration::from_millis(700);

fn main() -> ExitCode {
    let result = match roles::run() {
        Some(result) => result.map(|()| 0),
        None => run(&Options::parse()),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("hostile: {faults} faults");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases that the options name. Returns the number of faults.
fn run(options: &Options) -> io::Result<usize> {
    if options.filter.as_ref().is_some_and(|filter| !"hostile".contains(filter.as_str())) {
        return Ok(0);
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(DESCRIPTORS), most.min(DESCRIPTORS))?;
    let scratch = Scratch::new()?;
    interrupt::clean_up_on_signal(scratch.0.clone())?;
    let cases = chosen(options)?;
    let backend = Role::start(roles::BACKEND, "", None)?;
    let port: u16 = backend.answer()?;
    let backends = ADDRESSES.map(|address| SocketAddr::from((address, port)));
    let is_brief = options.is_brief();
    let extent = Extent {
        rounds: if is_brief { 1 } else { usize::from(options.rounds) },
        time: if is_brief { BRIEF } else { Duration::from_secs(u64::from(options.secs)) },
        is_brief,
        sources: options.sources as usize,
    };
    let mut variants = vec![("", "")];
    variants.extend(options.further.as_deref().map(|lines| ("with the further lines", lines)));
    let mut rows = Vec::new();
    for case in &cases {
        for (setting, further) in &variants {
            eprintln!("{} {setting}", case.name);
            let context = RunContext { directory: &scratch.0, backends: &backends, further };
            let report = round::run(case, context, extent)
                .map_err(|error| io::Error::other(format!("{}: {error}", case.name)))?;
            rows.push(Row { case, setting, report });
        }
    }
    println!("{}", report::tables(&rows));
    if extent.is_brief {
        println!("Only a look whether everything works; give --secs to measure, --help for more.");
    }
    let mut faults = 0;
    for row in &rows {
        for fault in &row.report.faults {
            faults += 1;
            println!("FAULT in {} {}: {fault}", row.case.name, row.setting);
        }
    }
    Ok(faults)
}

/// Returns the cases that the options name and this host can run.
fn chosen(options: &Options) -> io::Result<Vec<Case>> {
    let mut cases = cases::all();
    if let Some(unknown) = options.only.iter().find(|name| cases.iter().all(|case| case.name != *name)) {
        let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
        return Err(io::Error::other(format!("there is no case {unknown:?}, but {}", names.join(", "))));
    }
    cases.retain(|case| options.only.is_empty() || options.only.iter().any(|name| name == case.name));
    cases.retain(|case| {
        let is_possible = !case.steps_clock || case.settings.clock.is_some();
        if !is_possible {
            println!("`{}` was left out: it needs libfaketime.\n", case.name);
        }
        is_possible
    });
    Ok(cases)
}

/// A directory that every user may list; it is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("pointsman-hostile-{}", std::process::id()));
        // The directory is left over from a killed process that had our process id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
