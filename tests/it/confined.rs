//! The privileges that the running program has dropped, as the kernel shows them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::process::{Folder, Program, command};
use crate::support::Backend;

/// Returns a configuration whose files are all in the folder.
fn configured(folder: &Folder, backend: SocketAddr, more: &str) -> String {
    format!(
        r#"
        access_log.to = "{log}"
        workers = 2
        [process]
        {more}
        [listener.main]
        bind = ["127.0.0.1:0", "unix:{socket}"]
        pool = "main"
        [pool.main]
        backends = ["{backend}"]
        health.check = "off"
        "#,
        log = folder.path("access.log").display(),
        socket = folder.path("socket").display(),
    )
}

/// Returns the lines with this key in the status of every thread.
fn of_threads(program: &Program, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", program.child.id())).unwrap();
    let of_task = |task: std::path::PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let line =
            status.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned());
        line.unwrap_or_else(|| panic!("no {key} in {status}"))
    };
    let values: Vec<_> = tasks.map(|task| of_task(task.unwrap().path())).collect();
    assert!(values.len() >= 3, "the control loop, two workers: {values:?}");
    values
}

/// The capabilities of a program that started with all of them: CAP_NET_BIND_SERVICE.
const LOW_PORTS: u64 = 1 << 10;

#[test]
fn every_thread_has_given_up_what_it_does_not_need() {
    let folder = Folder::new("confined");
    let file = folder.write("config.toml", &configured(&folder, Backend::echo().address, ""));
    let mut program = Program::serve(&file);
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        for value in of_threads(&program, set) {
            let held = u64::from_str_radix(&value, 16).unwrap();
            assert_eq!(held & !LOW_PORTS, 0, "{set} {value}");
        }
    }
    assert!(of_threads(&program, "NoNewPrivs:").iter().all(|value| value == "1"));
    program.stderr.wait_for("confined");
    program.expect_end_by("TERM");
}

#[test]
fn a_release_is_switched_by_a_link() {
    let folder = Folder::new("current");
    for release in ["1", "2"] {
        fs::create_dir(folder.path(release)).unwrap();
        let text = configured(&folder, Backend::echo().address, "");
        folder.write(&format!("{release}/config.toml"), &text);
    }
    let link = folder.path("current");
    std::os::unix::fs::symlink("1", &link).unwrap();
    let mut program = Program::serve(&link.join("config.toml"));
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("2", &link).unwrap();
    program.signal("HUP");
    let line = program.stderr.wait_for("reloaded");
    assert!(!line.contains("not reloaded"), "{line}");
    program.expect_end_by("TERM");
}

/// Returns true if Landlock confines the program, by the log line about it.
fn landlock(program: &Program) -> bool {
    program.stderr.wait_for("confined").contains("landlock=on")
}

/// Returns true if this kernel has Landlock: a program that demands it starts.
fn has_landlock(folder: &Folder, backend: SocketAddr) -> bool {
    let file = folder.write("demand.toml", &configured(folder, backend, "landlock = true"));
    let mut program = Program::start(command(&["run"]).arg(file));
    let found = crate::support::find_in_time(|| {
        let lines = program.stderr.all().join("\n");
        (lines.contains("serving") || lines.contains("Landlock is not available")).then_some(lines)
    });
    let found = found.expect("it starts or not");
    if found.contains("serving") {
        program.expect_end_by("TERM");
        return true;
    }
    assert_eq!(program.end().code(), Some(1), "{found}");
    false
}

#[test]
fn landlock_is_on_where_it_breaks_nothing() {
    let folder = Folder::new("landlock");
    let backend = Backend::echo().address;
    let is_there = has_landlock(&folder, backend);
    let file = folder.write("config.toml", &configured(&folder, backend, ""));
    let mut program = Program::serve(&file);
    assert_eq!(landlock(&program), is_there);
    // Files can be added later in the directories of the start, and the log can be made anew.
    let more = configured(&folder, backend, "")
        .replace("socket\"]", &format!("socket\", \"unix:{}\"]", folder.path("second").display()));
    folder.write("config.toml", &more);
    program.signal("HUP");
    program.stderr.wait_for("reloaded");
    assert!(folder.path("second").exists());
    fs::rename(folder.path("access.log"), folder.path("access.log.1")).unwrap();
    program.signal("USR1");
    program.stderr.wait_for("opened again");
    assert!(folder.path("access.log").exists());
    // In other directories files cannot be added, and the message has the reason. The running configuration
    // stays.
    let elsewhere = Folder::new("landlock-elsewhere");
    let barred = elsewhere.path("socket");
    folder.write(
        "config.toml",
        &more.replace(folder.path("second").to_str().unwrap(), barred.to_str().unwrap()),
    );
    program.signal("HUP");
    if is_there {
        let line = program.stderr.wait_for("not reloaded");
        assert!(line.contains("Landlock") && line.contains("restart"), "{line}");
        assert!(!barred.exists() && folder.path("second").exists());
    } else {
        program.stderr.wait_for_nth(2, "reloaded");
    }
    program.expect_end_by("TERM");
    assert!(!Path::new(&folder.path("socket")).exists(), "it may still remove its sockets");
}

#[test]
fn landlock_is_off_where_it_may_break_something() {
    let (folder, elsewhere) = (Folder::new("landlock-off"), Folder::new("landlock-target"));
    let backend = Backend::echo().address;
    let real = elsewhere.write("real.toml", &configured(&folder, backend, ""));
    std::os::unix::fs::symlink(&real, folder.path("config.toml")).unwrap();
    let mut program = Program::serve(&folder.path("config.toml"));
    let line = program.stderr.wait_for("confined");
    assert!(line.contains("off: ") && line.contains("a link out of its directory"), "{line}");
    program.expect_end_by("TERM");
    // If the path of the log is a link, the file that the link names is made, in whichever directory it is.
    let log = folder.path("access.log");
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink(elsewhere.path("late.log"), &log).unwrap();
    let file = folder.write("late.toml", &configured(&folder, backend, ""));
    let mut program = Program::serve(&file);
    let line = program.stderr.wait_for("confined");
    assert!(line.contains("off: ") && line.contains("does not exist yet"), "{line}");
    assert!(elsewhere.path("late.log").exists());
    program.expect_end_by("TERM");
    fs::remove_file(log).unwrap();
    let file = folder.write("off.toml", &configured(&folder, backend, "landlock = false"));
    let mut program = Program::serve(&file);
    let line = program.stderr.wait_for("confined");
    assert!(line.contains("off: process.landlock = false"), "{line}");
    program.expect_end_by("TERM");
}
