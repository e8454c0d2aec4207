//! Paths that are not regular files: no such path makes the process wait.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use pointsman::admin;
use pointsman::relay::EngineChoice;
use pointsman::server::{Server, Signals};
use pointsman::sys::Address;

use crate::process::{Folder, Program, ServiceManager, command};
use crate::support::{Backend, PATIENCE, own_address, tcp, wait_for};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Returns a configuration with a file of each kind.
fn configured(admin: SocketAddr, backend: SocketAddr) -> String {
    format!(
        r#"
        access_log.to = "off"
        admin = {{ listen = "{admin}", token_file = "token", token_for = "changes" }}
        [lists]
        deny = "bad"
        [list.bad]
        file = "bad.txt"
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        unmatched = "main"
        routes_file = "routes.toml"
        [pool.main]
        backends = ["{backend}"]
        health.check = "off"
        "#
    )
}

const FILES: [(&str, &str); 3] =
    [("bad.txt", "203.0.113.1\n"), ("routes.toml", "routes = []"), ("token", TOKEN)];

fn write_all(folder: &Folder, admin: SocketAddr) {
    for (name, text) in FILES {
        // A writer of a FIFO waits as well.
        let _ = fs::remove_file(folder.path(name));
        folder.write(name, text);
    }
    folder.write("config.toml", &configured(admin, Backend::echo().address));
}

/// Puts a FIFO without a writer in the place of a file.
fn put_fifo(path: &Path) {
    let new = path.with_extension("new");
    mkfifo(&new, Mode::S_IRWXU).unwrap();
    fs::rename(new, path).unwrap();
}

/// Returns the exit code and the output of a program that ends.
fn run_to_end(command: &mut Command) -> (Option<i32>, String) {
    let mut program = Program::start(command);
    let status = program.end();
    // Threads read both outputs, and may be a little late.
    let all = || [program.stdout.all(), program.stderr.all()].concat().join("\n");
    wait_for("its last words", || !all().is_empty());
    (status.code(), all())
}

#[test]
fn a_fifo_in_a_files_place_is_a_fault() {
    let folder = Folder::new("fifos");
    let fifo = folder.path("a-fifo");
    put_fifo(&fifo);
    let check = |arguments: &[&str], code: i32, part: &str| {
        let (ended, said) = run_to_end(command(arguments).stdin(Stdio::null()));
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        assert!(said.contains("it is not a regular file but a FIFO") && said.contains(part), "{said}");
    };
    for command in ["check", "run", "tproxy-rules"] {
        check(&[command, fifo.to_str().unwrap()], 2, "a-fifo");
    }
    check(&["status", "--token-file", fifo.to_str().unwrap()], 1, "a-fifo");
    for (name, _) in &FILES[..2] {
        write_all(&folder, own_address());
        put_fifo(&folder.path(name));
        check(&["check", folder.path("config.toml").to_str().unwrap()], 2, name);
    }
    write_all(&folder, own_address());
    put_fifo(&folder.path("token"));
    check(&["run", folder.path("config.toml").to_str().unwrap()], 1, "token");
}

#[test]
fn a_configuration_comes_through_a_pipe() {
    // The files that the configuration names are relative to the directory of the start.
    let folder = Folder::new("piped");
    folder.write("bad.txt", "203.0.113.1\n");
    let text = "[list.bad]\nfile = 'bad.txt'\n[listener.l]\nbind = ':1'\npool = 'p'\ndeny = 'bad'\n\
        [pool.p]\nbackends = ['10.0.0.1:1']\n";
    for path in ["/dev/stdin", "/dev/fd/0"] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (start, stdin) = (folder.path(""), Stdio::from(OwnedFd::from(reader)));
        let check =
            thread::spawn(move || run_to_end(command(&["check", path]).stdin(stdin).current_dir(start)));
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        let (code, said) = check.join().unwrap();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("good: 1 listener"), "{said}");
    }
}

#[test]
fn a_fifo_in_a_files_place_keeps_nobody_waiting() {
    let folder = Folder::new("later-fifos");
    let admin = own_address();
    write_all(&folder, admin);
    let mut program = Program::serve(&folder.path("config.toml"));
    program.stderr.wait_for("admin listens");

    put_fifo(&folder.path("bad.txt"));
    program.stderr.wait_for("the list keeps its entries");
    program.stderr.wait_for("the file of the list cannot be read: it is not a regular file but a FIFO");
    put_fifo(&folder.path("routes.toml"));
    program.stderr.wait_for("the file with routes cannot be read: it is not a regular file but a FIFO");
    program.signal("HUP");
    program.stderr.wait_for("not reloaded; the running configuration stays");

    put_fifo(&folder.path("token"));
    let mut change = TcpStream::connect(admin).unwrap();
    change.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("POST /api/v1/lists/bad/10.0.0.1 HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    change.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    change.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 500"), "{answer}");
    program.stderr.wait_for("admin refuses all requests that need the token");

    // The files are still watched.
    fs::remove_file(folder.path("bad.txt")).unwrap();
    folder.write("bad.txt", "203.0.113.1\n203.0.113.2\n");
    program.stderr.wait_for("the list was read again");
    put_fifo(&folder.path("config.toml"));
    program.signal("HUP");
    program.stderr.wait_for("the configuration cannot be read: it is not a regular file but a FIFO");
    program.expect_end_by("TERM");
}

#[test]
fn an_access_log_that_no_process_reads_stops_nothing() {
    let folder = Folder::new("unread-log");
    let fifo = folder.path("log.fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let admin = own_address();
    let text = format!(
        "access_log.to = {fifo:?}\nadmin.listen = \"{admin}\"\n[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [pool.p]\nbackends = [\"{}\"]\nhealth.check = \"off\"\n",
        Backend::echo().address
    );
    let config = folder.write("config.toml", &text);
    let (code, said) = run_to_end(command(&["check", config.to_str().unwrap()]).stdin(Stdio::null()));
    assert_eq!(code, Some(0), "{said}");
    let mut program = Program::serve(&config);
    program.stderr.wait_for("no process reads the FIFO");
    let dropped = || {
        let (_, text) = admin::ask(Address::from(admin), "/metrics", PATIENCE).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("pointsman_access_log_dropped_total "));
        line.unwrap().parse::<f64>().unwrap()
    };
    drop(TcpStream::connect(program.address("main")).unwrap());
    wait_for("a line that is dropped", || dropped() == 1.0);
    program.signal("USR1");
    program.stderr.wait_for("lines go to the file that was open");

    let mut reader = BufReader::new(fs::File::open(&fifo).unwrap());
    program.stderr.wait_for("access log: opened again");
    drop(TcpStream::connect(program.address("main")).unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("main"), "{line}");
    drop(reader);
    program.expect_end_by("TERM");
}

#[test]
fn who_asks_does_not_wait_for_a_reload() {
    let folder = Folder::new("long-reload");
    let address = own_address();
    write_all(&folder, address);
    let networks: String =
        (0..200_000_u32).map(|n| format!("10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255)).collect();
    folder.write("bad.txt", &networks);
    let manager = ServiceManager::new(&folder);
    let file = folder.path("config.toml");
    let mut program = Program::start(command(&["run"]).arg(file).env("NOTIFY_SOCKET", &manager.path));
    assert_eq!(manager.receive(), ["READY=1"]);
    // On a busy machine the file may be read before the request is sent, but hardly each time.
    let is_first = (0..5).any(|_| {
        program.signal("HUP");
        assert_eq!(manager.receive()[0], "RELOADING=1");
        let (code, _) = admin::ask(Address::from(address), "/healthz", PATIENCE).unwrap();
        assert_eq!(code, 200);
        manager.socket.set_nonblocking(true).unwrap();
        let is_first = manager.socket.recv(&mut [0; 64]).is_err();
        manager.socket.set_nonblocking(false).unwrap();
        is_first
    });
    assert!(is_first, "no answer came before the end of a reload");
    program.expect_end_by("TERM");
}

#[test]
fn the_end_waits_for_no_file_for_ever() {
    let server = Server::start(tcp(&[Backend::echo().address], EngineChoice::Auto)).unwrap();
    let remote = server.remote();
    let (release, blocked) = mpsc::channel::<()>();
    let (tell, started) = mpsc::channel();
    let (tell_end, ended) = mpsc::channel();
    thread::spawn(move || {
        let also = async move {
            let read = tokio::task::spawn_blocking(move || {
                let _ = tell.send(());
                // This blocks like the open of a file on a server that is gone.
                let _ = blocked.recv();
            });
            let _ = read.await;
        };
        let _ = tell_end.send(server.run(Signals::Ignore, also).is_ok());
    });
    started.recv_timeout(PATIENCE).unwrap();
    remote.stop();
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(true), "it ends in order");
    drop(release);
}
