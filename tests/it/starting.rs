//! Starts under bad conditions: early signals, ports in use, few descriptors, an admin address that cannot be
//! bound yet.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Folder, Program, command, run};
use crate::support::{Backend, PATIENCE, own_address, wait_for};

/// More bytes than a pipe holds and the program reads at once. After such a write the program has begun to
/// read.
const MUCH: usize = 1 << 20;

fn file(process: &str, bind: &str, backend: SocketAddr) -> String {
    format!(
        "{process}\nworkers = 2\n[listener.main]\nbind = \"{bind}\"\npool = \"main\"\n\
         [pool.main]\nbackends = [\"{backend}\"]\nhealth.check = \"off\"\n"
    )
}

const OFF: &str = "access_log.to = \"off\"";

/// Makes a connection and checks that it works from end to end.
fn echo(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    stream
}

/// Starts a program that is still reading its configuration, which is as long as the test makes it.
fn reading(folder: &Folder) -> (Program, std::process::ChildStdin) {
    let mut command = command(&["run", "/dev/stdin"]);
    let mut program = Program::start(command.current_dir(folder.path("")).stdin(Stdio::piped()));
    let mut input = program.child.stdin.take().unwrap();
    input.write_all("# a long comment\n".repeat(MUCH / 17).as_bytes()).unwrap();
    (program, input)
}

#[test]
fn signals_while_the_configuration_is_read_are_not_lost_and_not_deadly() {
    let folder = Folder::new("early");
    let backend = Backend::echo();
    let (mut program, mut input) = reading(&folder);
    for signal in ["HUP", "USR1", "USR2", "QUIT", "HUP"] {
        program.signal(signal);
    }
    let log = format!("access_log.to = {:?}", folder.path("access.log"));
    input.write_all(file(&log, "127.0.0.1:0", backend.address).as_bytes()).unwrap();
    drop(input);
    drop(echo(program.address("main")));
    program.stderr.wait_for("opened again");
    program.stderr.wait_for("SIGUSR2 has no effect: SIGHUP reloads");
    program.stderr.wait_for("SIGQUIT has no effect: SIGTERM drains");
    // The end of the pipe is all that is left to read, so the reload finds no listener.
    program.stderr.wait_for("not reloaded; the running configuration stays");
    drop(echo(program.address("main")));
    program.expect_end_by("TERM");
}

#[test]
fn a_request_to_end_is_obeyed_while_the_configuration_is_read() {
    for signal in ["TERM", "INT"] {
        let folder = Folder::new(&format!("early-{signal}"));
        let (mut program, _input) = reading(&folder);
        program.expect_end_by(signal);
    }
}

#[test]
fn signals_of_other_programs_end_nothing() {
    let folder = Folder::new("foreign");
    let backend = Backend::echo();
    let path = folder.write("foreign.toml", &file(OFF, "127.0.0.1:0", backend.address));
    let mut program = Program::serve(&path);
    let open = echo(program.address("main"));
    for (signal, said) in [("USR2", "SIGUSR2 has no effect"), ("QUIT", "SIGQUIT has no effect")] {
        program.signal(signal);
        program.stderr.wait_for(said);
    }
    program.signal("TERM");
    program.stderr.wait_for("stopping");
    program.signal("USR2");
    program.stderr.wait_for_nth(2, "SIGUSR2 has no effect");
    drop(open);
    assert_eq!(program.end().code(), Some(0));
}

/// Returns a pool whose DNS server never answers.
fn silent_dns() -> (UdpSocket, String) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = server.local_addr().unwrap();
    let pool = format!(
        "[listener.dns]\nbind = \"127.0.0.1:0\"\npool = \"dns\"\n\
         [pool.dns]\ndiscover = {{ dns = \"app.test.\", port = 1, resolvers = \"{address}\" }}\n"
    );
    (server, pool)
}

/// Stops the program while it waits for a DNS server, long before the wait would end.
fn end_in_the_wait(mut program: Program, server: &UdpSocket) {
    server.recv(&mut [0; 512]).expect("it asks");
    let asked = Instant::now();
    program.expect_end_by("TERM");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}

#[test]
fn a_request_to_end_is_obeyed_in_the_wait_for_the_dns() {
    let folder = Folder::new("dns-wait");
    let backend = Backend::echo();
    let (server, pool) = silent_dns();
    // No client was accepted, so there is no grace.
    let process = format!("{OFF}\nshutdown.grace = \"1h\"");
    let path = folder.write("start.toml", &(file(&process, "127.0.0.1:0", backend.address) + &pool));
    end_in_the_wait(Program::start(command(&["run"]).arg(&path)), &server);

    let (server, pool) = silent_dns();
    let path = folder.write("reload.toml", &file(OFF, "127.0.0.1:0", backend.address));
    let program = Program::serve(&path);
    folder.write("reload.toml", &(file(OFF, "127.0.0.1:0", backend.address) + &pool));
    program.signal("HUP");
    let stderr = program.stderr.clone();
    end_in_the_wait(program, &server);
    stderr.wait_for("not reloaded: the process is about to end");
}

/// `systemctl reload` runs this line. It checks the file first.
#[test]
fn the_unit_upgrades_at_a_reload() {
    let unit = include_str!("../../dist/pointsman.service");
    let lines: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
    assert_eq!(lines, ["/usr/bin/pointsman upgrade /etc/pointsman/config.toml"]);
    let keys: Vec<_> = unit.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    // The new process would be killed at a stop, or at the end of the command that started it.
    assert!(!keys.contains(&"KillMode") && !keys.contains(&"Delegate"), "{keys:?}");
    assert!(keys.contains(&"RuntimeDirectory"), "the socket of the hand-over is there");
    let (general, service) = unit.split_once("[Service]").unwrap();
    assert!(general.contains("\nStartLimitIntervalSec=0\n") && service.contains("\nRestart=always\n"));
}

#[test]
fn of_two_that_start_together_one_serves() {
    let folder = Folder::new("together");
    let backend = Backend::echo();
    let bind = own_address();
    let path = folder.write("together.toml", &file(OFF, &bind.to_string(), backend.address));
    for _ in 0..40 {
        let mut both = [(); 2].map(|()| Program::start(command(&["run"]).arg(&path)));
        let mut refused = None;
        wait_for("the end of one of them", || {
            refused = both.iter_mut().position(|program| program.child.try_wait().unwrap().is_some());
            refused.is_some()
        });
        let [one, other] = &mut both;
        let (refused, serving) = if refused == Some(0) { (one, other) } else { (other, one) };
        assert_eq!(refused.end().code(), Some(1));
        refused.stderr.wait_for("in use");
        drop(echo(serving.address("main")));
        serving.expect_end_by("TERM");
    }
}

#[test]
fn the_next_one_starts_while_the_last_one_drains() {
    let folder = Folder::new("next");
    let backend = Backend::echo();
    let bind = own_address();
    let process = format!("{OFF}\nshutdown.drain = \"1h\"");
    let path = folder.write("next.toml", &file(&process, &bind.to_string(), backend.address));
    let mut last = Program::serve(&path);
    let mut open = echo(bind);
    last.signal("TERM");
    wait_for("refusal", || TcpStream::connect(bind).is_err());
    let mut next = Program::serve(&path);
    drop(echo(bind));
    open.write_all(b"still").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(last.child.try_wait().unwrap(), None, "it drains");
    next.expect_end_by("TERM");
    drop(open);
    assert_eq!(last.end().code(), Some(0));
}

/// A stop closes the admin listeners with the listeners: until then they answer that the process is about to end.
#[test]
fn the_next_one_has_every_address_while_the_last_one_drains() {
    let folder = Folder::new("next-admin");
    let backend = Backend::echo();
    let (bind, admin) = (own_address(), own_address());
    let socket = std::env::temp_dir().join(format!("pointsman-next-{}.sock", std::process::id()));
    let process = format!(
        "{OFF}\nshutdown.drain = \"1h\"\nshutdown.grace = \"1h\"\n\
         admin.listen = [\"{admin}\", \"unix:{}\"]",
        socket.display()
    );
    let path = folder.write("next.toml", &file(&process, &bind.to_string(), backend.address));
    let mut last = Program::serve(&path);
    last.stderr.wait_for_nth(2, "admin listens address");
    let mut open = echo(bind);
    last.signal("TERM");
    last.stderr.wait_for("stopping");
    let ready = || pointsman::admin::ask(admin, "/ready", PATIENCE).map(|(code, _)| code);
    assert_eq!(ready().unwrap(), 503, "the grace is not over");
    last.signal("TERM");
    last.stderr.wait_for_nth(2, "admin listens no more");
    wait_for("refusal", || TcpStream::connect(bind).is_err());

    let mut next = Program::serve(&path);
    drop(echo(bind));
    next.stderr.wait_for_nth(2, "admin listens address");
    assert_eq!(ready().unwrap(), 200);
    let unix = format!("unix:{}", socket.display());
    assert_eq!(run(&["health", "--ready", "--admin", &unix]).status.code(), Some(0));
    open.write_all(b"still").unwrap();
    open.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(last.child.try_wait().unwrap(), None, "it drains");
    drop(open);
    assert_eq!(last.end().code(), Some(0));
    assert!(socket.exists(), "it is the socket of the next one");
    for _ in 0..3 {
        next.signal("TERM");
    }
    assert_eq!(next.end().code(), Some(0));
}

#[test]
fn an_admin_address_that_is_taken_is_had_later() {
    let folder = Folder::new("admin-later");
    let backend = Backend::echo();
    let taken = TcpListener::bind(own_address()).unwrap();
    let address = taken.local_addr().unwrap();
    let process = format!("{OFF}\nadmin.listen = \"{address}\"");
    let path = folder.write("later.toml", &file(&process, "127.0.0.1:0", backend.address));
    let mut program = Program::serve(&path);
    let line = program.stderr.wait_for("admin.listen");
    assert!(line.contains("ERROR") && line.contains("in use") && line.contains("tried again"), "{line}");
    drop(echo(program.address("main")));
    drop(taken);
    program.stderr.wait_for(&format!("admin listens address={address}"));
    assert_eq!(run(&["health", "--ready", "--admin", &address.to_string()]).status.code(), Some(0));
    // The log has the failure once, although the bind was tried several times.
    assert_eq!(program.stderr.all().iter().filter(|line| line.contains("admin.listen")).count(), 1);
    program.expect_end_by("TERM");
}

/// Starts the program with a hard limit of descriptors.
fn limited(descriptors: u32, path: &std::path::Path) -> Program {
    let program = env!("CARGO_BIN_EXE_pointsman");
    let script = format!("ulimit -n {descriptors} && exec {program:?} run {path:?}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_remove("POINTSMAN_LOG").stdin(Stdio::null());
    let program = Program::start(&mut command);
    program.stderr.wait_for("serving");
    program
}

#[test]
fn few_descriptors_serve_few_clients_and_that_is_said() {
    let folder = Folder::new("few");
    let backend = Backend::echo();
    let path = folder.write("few.toml", &file(OFF, "127.0.0.1:0", backend.address));
    let mut program = limited(200, &path);
    let line = program.stderr.wait_for("serving");
    assert!(line.contains("max_connections=") && line.contains("descriptors=200"), "{line}");
    let line = program.stderr.wait_for("few connections fit");
    assert!(line.contains("WARN") && line.contains("LimitNOFILE"), "{line}");
    let clients: Vec<_> = (0..30).map(|_| echo(program.address("main"))).collect();
    drop(clients);
    program.expect_end_by("TERM");
}

#[test]
fn admin_answers_when_clients_have_used_up_the_descriptors() {
    let folder = Folder::new("used-up");
    // The backend accepts every connection and keeps it.
    let backend = Backend::serve(|mut stream| while stream.read(&mut [0; 64]).is_ok_and(|n| n > 0) {});
    let admin = own_address();
    let process = format!("{OFF}\nmax_connections = 10000\nadmin.listen = \"{admin}\"");
    let path = folder.write("used-up.toml", &file(&process, "127.0.0.1:0", backend.address));
    let mut program = limited(160, &path);
    let address = program.address("main");
    let clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let line = program.stderr.wait_for("new connections wait: descriptors or memory have run out");
    assert!(line.contains("saturation=\"descriptors\"") && line.contains("pauses="), "{line}");
    assert!(!line.contains("refused="), "they wait: {line}");
    for _ in 0..20 {
        // A scrape opens files too.
        let (code, metrics) = pointsman::admin::ask(admin, "/metrics", PATIENCE).unwrap();
        assert_eq!(code, 200);
        assert!(metrics.contains("process_open_fds"), "{metrics}");
        // A dial may fail too; that depends on the worker that takes the last descriptors.
        if !metrics.contains("pointsman_connect_attempts_total{pool=\"main\",outcome=\"local\"} 0") {
            program.stderr.wait_for("clients are refused: this host has no descriptor or memory left");
        }
    }
    drop(clients);
    program.expect_end_by("TERM");
}
