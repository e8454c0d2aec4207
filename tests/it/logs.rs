//! The program's own log and the access log: changes by a reload, the journal, and probes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use crate::process::{Folder, Lines, Program, command};
use crate::support::pair::patient;
use crate::support::{Backend, wait_for};

fn text(keys: &str, backend: SocketAddr) -> String {
    format!(
        "workers = 1\n{keys}\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n[pool.app]\nbackends = ['{backend}']\n\
         health.check = 'off'\n"
    )
}

fn serve_one(address: SocketAddr) {
    let mut stream = patient(TcpStream::connect(address).unwrap());
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut [0]).expect("the client is served");
}

#[test]
fn a_reload_changes_the_level_and_the_form_of_the_log() {
    let (folder, backend) = (Folder::new("log-reload"), Backend::echo());
    let admin = format!("unix:{}", folder.path("admin.sock").display());
    let with = |keys: &str| {
        folder.write(
            "config.toml",
            &text(&format!("access_log.to = 'off'\nadmin.listen = '{admin}'\n{keys}"), backend.address),
        )
    };
    let mut program = Program::serve(&with(""));
    let reload = |keys: &str| {
        with(keys);
        program.signal("HUP");
    };
    reload("log.format = 'json'");
    let line = program.stderr.wait_for("reloaded");
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(json["time"].is_string() && json["fields"]["changes"] == "changed log", "{line}");
    // The line of the second reload is below the level that it sets.
    reload("log.level = 'error'");
    let admin: pointsman::sys::Address = admin.parse().unwrap();
    wait_for("the second reload", || {
        let (_, metrics) =
            pointsman::admin::ask(admin.clone(), "/metrics", crate::support::PATIENCE).unwrap();
        metrics.contains("pointsman_config_reloads_total{result=\"ok\"} 2")
    });
    reload("log.level = 'debug'\nshutdown.drain = '1s'");
    let line = program.stderr.wait_for("changed shutdown, log");
    assert!(line.contains(" INFO reloaded"), "{line}");
    program.expect_end_by("TERM");
    let lines = program.stderr.all();
    assert_eq!(lines.iter().filter(|line| line.contains("changes=")).count(), 1, "{lines:?}");
}

#[test]
fn the_level_of_the_environment_comes_first_and_the_reload_says_so() {
    let (folder, backend) = (Folder::new("log-environment"), Backend::echo());
    let path = folder.write("config.toml", &text("access_log.to = 'off'", backend.address));
    let mut program = Program::start(command(&["run"]).arg(&path).env("POINTSMAN_LOG", "info"));
    program.stderr.wait_for("serving");
    folder.write("config.toml", &text("access_log.to = 'off'\nlog.level = 'error'", backend.address));
    program.signal("HUP");
    let line = program.stderr.wait_for("log.level = \"error\" is not in force");
    assert!(line.contains("WARN") && line.contains("POINTSMAN_LOG=info"), "{line}");
    program.stderr.wait_for("reloaded");
    program.expect_end_by("TERM");
}

/// Counts the lines of a file that begin in this way.
fn lines_of(path: &Path, start: &str) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(start)).count()
}

#[test]
fn a_reload_changes_the_access_log() {
    let (folder, other, backend) =
        (Folder::new("access-reload"), Folder::new("access-other"), Backend::echo());
    let with = |keys: &str| folder.write("config.toml", &text(keys, backend.address));
    let log = folder.path("access.log");
    let to_file = |keys: &str| format!("access_log = {{ to = {log:?}{keys} }}");
    let mut program = Program::serve(&with(&to_file("")));
    let is_confined = program.stderr.wait_for("confined").contains("landlock=on");
    let reload = |keys: &str, said: &str| {
        with(keys);
        program.signal("HUP");
        program.stderr.wait_for(said)
    };
    let address = program.address("main");
    serve_one(address);
    wait_for("a line in the file", || lines_of(&log, "{\"time\":") == 1);
    reload(&to_file(", format = 'text'"), "changed access_log");
    serve_one(address);
    wait_for("a line of text", || lines_of(&log, "time=") == 1);
    let there = other.path("access.log");
    let line = match is_confined {
        true => reload(&format!("access_log.to = {there:?}"), "Landlock bars directories"),
        false => reload(&format!("access_log.to = {:?}", other.path("none/access.log")), "cannot open"),
    };
    assert!(line.contains("not reloaded") && line.contains("cannot open the access log"), "{line}");
    serve_one(address);
    wait_for("a line in the file in use", || lines_of(&log, "time=") == 2);
    reload("access_log.to = 'off'\nmax_connections = 99", "changed max_connections, access_log");
    serve_one(address);
    with("access_log.to = 'stdout'");
    program.signal("HUP");
    program.stderr.wait_for_nth(2, "changed max_connections, access_log");
    serve_one(address);
    program.stdout.wait_for("\"listener\":\"main\"");
    program.expect_end_by("TERM");
    assert_eq!(
        (program.stdout.all().len(), lines_of(&log, "time=")),
        (1, 2),
        "nothing was written while it was off"
    );
}

/// `access_log.format` has no default of its own. The format for a terminal is for people, and the other one
/// for programs.
#[test]
fn the_access_log_is_text_on_a_terminal() {
    let (folder, backend) = (Folder::new("access-terminal"), Backend::echo());
    let with = |keys: &str| folder.write("config.toml", &text(keys, backend.address));
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut run = command(&["run"]);
    let mut child = run.arg(with("")).stdout(pty.slave).stderr(Stdio::piped()).spawn().unwrap();
    // The other end is closed when the program ends.
    drop(run);
    let stderr = Lines::follow(child.stderr.take().unwrap());
    let mut program = Program { child, stderr, stdout: Lines::follow(File::from(pty.master)) };
    let address = program.address("main");
    serve_one(address);
    let line = program.stdout.wait_for("client=");
    assert!(line.starts_with("time=") && line.contains(" listener=main ") && !line.contains('{'), "{line}");
    // A reload sets the same keys again; then the format is asked for.
    with("access_log.empty = false");
    program.signal("HUP");
    program.stderr.wait_for("changed access_log");
    serve_one(address);
    let line = program.stdout.wait_for_nth(2, "client=");
    assert!(line.starts_with("time="), "{line}");
    with("access_log.format = 'json'");
    program.signal("HUP");
    program.stderr.wait_for_nth(2, "changed access_log");
    serve_one(address);
    let line = program.stdout.wait_for("\"client\":");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["listener"], "main");
    program.expect_end_by("TERM");
}

#[test]
fn probes_can_be_left_out_of_the_access_log() {
    let (folder, backend) = (Folder::new("access-empty"), Backend::echo());
    let admin = format!("unix:{}", folder.path("admin.sock").display());
    let keys = format!(
        "admin.listen = '{admin}'\naccess_log.empty = false\n[listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\n\
         routes = [{{ sni = 'a.example', pool = 'app' }}]"
    );
    let path = folder.write("config.toml", &text(&keys, backend.address));
    let mut program = Program::serve(&path);
    let admin: pointsman::sys::Address = admin.parse().unwrap();
    let closed = |listener: &str, reasons: &[&str]| {
        let (_, metrics) =
            pointsman::admin::ask(admin.clone(), "/metrics", crate::support::PATIENCE).unwrap();
        let value = |reason: &&str| {
            let series =
                format!("pointsman_connections_closed_total{{listener=\"{listener}\",reason=\"{reason}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned));
            line.map_or(0, |value| value.parse::<u64>().unwrap())
        };
        reasons.iter().map(value).sum::<u64>()
    };
    for listener in ["main", "tls"] {
        let address = program.address(listener);
        drop(TcpStream::connect(address).unwrap());
        let reset = TcpStream::connect(address).unwrap();
        crate::support::pair::reset(reset);
        let reasons = ["no_data", "client_gone", "client_fin", "client_reset", "backend_fin"];
        wait_for("both are counted", || closed(listener, &reasons) == 2);
    }
    serve_one(program.address("main"));
    let mut garbage = patient(TcpStream::connect(program.address("tls")).unwrap());
    garbage.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    program.stdout.wait_for("not_tls");
    program.expect_end_by("TERM");
    let lines = program.stdout.all();
    assert_eq!(lines.len(), 2, "{lines:?}");
}

/// A client that sent its request and left the queue is not a probe.
#[test]
fn clients_that_gave_up_keep_their_lines() {
    let (folder, backend) = (Folder::new("access-gave-up"), Backend::echo());
    let keys = "access_log.empty = false\n[listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\n\
                routes = [{ sni = 'a.example', pool = 'app' }]";
    let pool = "max_connections = 1\nqueue = { length = 10, timeout = '60s' }\n";
    let path = folder.write("config.toml", &(text(keys, backend.address) + pool));
    let mut program = Program::serve(&path);
    let mut held = patient(TcpStream::connect(program.address("main")).unwrap());
    held.write_all(b"?").unwrap();
    held.read_exact(&mut [0]).expect("it has the only place");
    let mut waiting = patient(TcpStream::connect(program.address("tls")).unwrap());
    waiting.write_all(&crate::support::hello::hello(b"a.example")).unwrap();
    drop(waiting);
    program.stdout.wait_for("client_gone");
    drop(held);
    program.expect_end_by("TERM");
}

/// sd-daemon(3): a priority before each line, and one line for each message.
#[test]
fn the_journal_gets_priorities() {
    let (folder, backend) = (Folder::new("journal"), Backend::echo());
    let keys = "access_log.to = 'off'";
    let path = folder.write("config.toml", &text(keys, backend.address));
    let (reader, writer) = UnixStream::pair().unwrap();
    let metadata = File::from(OwnedFd::from(writer.try_clone().unwrap())).metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    let mut command = command(&["run"]);
    command.arg(&path).env("JOURNAL_STREAM", stream).stdout(Stdio::null()).stderr(OwnedFd::from(writer));
    let mut child = command.spawn().unwrap();
    drop(command);
    let lines = Lines::follow(reader);
    lines.wait_for("serving");
    folder.write("config.toml", &(text(keys, backend.address) + "oops = 1\n[pool.q]\nbackends = ['x']\n"));
    let signal = |name: &str| {
        let kill = format!("kill -s {name} {}", child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    };
    signal("HUP");
    let line = lines.wait_for("not reloaded");
    assert!(line.starts_with("<3>") && line.contains("oops"), "{line}");
    signal("TERM");
    wait_for("the end", || child.try_wait().unwrap().is_some());
    for line in lines.all() {
        let (priority, word) = (&line[..3], &line[3..]);
        let expected = [("<3>", "ERROR"), ("<4>", " WARN"), ("<6>", " INFO")];
        assert!(expected.iter().any(|(at, level)| *at == priority && word.starts_with(level)), "{line}");
    }
}
