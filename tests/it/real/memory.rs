//! Memory after a reload: the thread that frees old tables, and the resident memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::process::{Folder, Program};
use crate::support::wait_for;

/// Enough routes that their tables need more memory than the rest of the process.
const ROUTES: usize = 30_000;

/// The number of reloads.
const RELOADS: usize = 6;

/// The most memory after the last reload, in percent of the memory after the first.
const MOST: u64 = 130;

/// A program with a listener whose routes are in a large file.
struct LargeProgram {
    program: Program,
    folder: Folder,
}

impl LargeProgram {
    fn start(test: &str) -> Self {
        let folder = Folder::new(test);
        let large = Self { program: Program::serve(&write(&folder)), folder };
        assert!(large.resident() > 0);
        large
    }

    /// Replaces the file at once by a rename, as other programs do.
    fn write_routes(&self, generation: usize) {
        write_routes(&self.folder, generation);
    }

    /// Returns the resident memory in KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the resident memory after it has stayed equal for a while: values are freed after the reload.
    fn settled(&self) -> u64 {
        let mut last = (self.resident(), Instant::now());
        wait_for("memory that stands still", || {
            let now = self.resident();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(1500)
        });
        last.0
    }

    /// Returns the processor time in milliseconds, by the names of threads without their numbers.
    fn cpu(&self) -> BTreeMap<String, u64> {
        let mut cpu = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.program.child.id())).unwrap() {
            let path = task.unwrap().path();
            let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
            let Ok(stat) = fs::read_to_string(path.join("schedstat")) else { continue };
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
            let spent: u64 = stat.split_whitespace().next().unwrap().parse().unwrap();
            *cpu.entry(name).or_default() += spent / 1_000_000;
        }
        cpu
    }
}

fn write_routes(folder: &Folder, generation: usize) {
    let mut text = "routes = [\n".to_owned();
    for route in 0..ROUTES {
        writeln!(text, "{{ sni = \"h{route}-{generation}.example.com\", pool = \"p\" }},").unwrap();
    }
    text.push_str("]\n");
    let new = folder.write("routes.new", &text);
    fs::rename(new, folder.path("routes.toml")).unwrap();
}

fn write(folder: &Folder) -> PathBuf {
    write_routes(folder, 0);
    let text = r#"
        workers = 2
        access_log.to = "off"
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        routes_file = "routes.toml"
        [pool.p]
        backends = ["127.0.0.1:1"]
        health.check = "off"
    "#;
    folder.write("large.toml", text)
}

#[test]
#[ignore = "large tables take long in a debug build"]
fn reloads_give_their_memory_back_and_work_beside_control_and_workers() {
    let large = LargeProgram::start("reloads-give-back");
    let address = large.program.address("main");
    let mut first = 0;
    let before = large.cpu();
    for reload in 1..=RELOADS {
        // The file is read in both ways: by its follower, and with the configuration.
        if reload % 2 == 1 {
            large.write_routes(reload);
            large.program.stderr.wait_for_nth(reload.div_ceil(2), "the routes were read again");
        } else {
            large.program.signal("HUP");
            large.program.stderr.wait_for_nth(reload / 2, "reloaded");
        }
        // No client has connected since the reload. An accept loop must not hold the old table until a client
        // connects.
        let settled = large.settled();
        first = if reload == 1 { settled } else { first };
        assert!(
            settled <= first * MOST / 100,
            "{settled} KiB after reload {reload}, {first} after the first"
        );
    }
    for _ in 0..40 {
        drop(TcpStream::connect(address).unwrap());
    }
    let after = large.cpu();
    let spent = |name: &str| {
        let at = |cpu: &BTreeMap<String, u64>| cpu.get(name).copied();
        at(&after).unwrap_or_else(|| panic!("no {name} in {after:?}")) - at(&before).unwrap_or(0)
    };
    let (control, workers, reclaim) = (spent("pointsman"), spent("worker"), spent("reclaim"));
    println!("first {first} KiB, last {} KiB, CPU ms of {before:?} to {after:?}", large.resident());
    assert!(reclaim > 4 * workers, "{workers} ms of the workers, {reclaim} of the thread that frees");
    // Other threads need many times as long: they parse, compare, build and free the tables.
    assert!(control < reclaim, "{control} ms of control, {reclaim} of the thread that frees");
}
