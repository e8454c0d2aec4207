//! PostgreSQL, and a service whose server sends first, through a `tcp` listener.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{ChildGuard, Directory, Lines, Program, finish, run};
use crate::support::{Backend, PATIENCE, wait_for};

/// A PostgreSQL with a new cluster, at a loopback port and a Unix socket.
pub(super) struct Postgres {
    server: ChildGuard,
    address: SocketAddr,
    directory: Directory,
}

impl Postgres {
    pub(super) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts PostgreSQL with further arguments of the server.
    pub(super) fn start_with(more: &[&str]) -> Self {
        let programs = programs();
        let directory = Directory::new();
        // PostgreSQL refuses to run as root.
        run(Command::new("chown").arg("postgres").arg(&directory.0));
        let data = directory.file("data");
        let mut initdb = as_postgres(&programs.join("initdb"));
        run(initdb.args(["--auth=trust", "--no-sync", "--locale=C", "--username=postgres", "-D"]).arg(&data));
        Self::serve(directory, more)
    }

    /// Starts a standby of this server, which follows it.
    fn standby(&self) -> Self {
        let directory = Directory::new();
        run(Command::new("chown").arg("postgres").arg(&directory.0));
        let mut copy = as_postgres(&programs().join("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--username=postgres"]);
        copy.args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-D"]);
        run(copy.arg(directory.file("data")));
        Self::serve(directory, &[])
    }

    /// Starts the server of a cluster, at a new port.
    fn serve(directory: Directory, more: &[&str]) -> Self {
        let (programs, data) = (programs(), directory.file("data"));
        for _ in 0..5 {
            // PostgreSQL cannot use port 0. Another program may take this port before PostgreSQL binds it.
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = as_postgres(&programs.join("postgres"));
            command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &free.port().to_string(), "-k"]);
            command
                .arg(&directory.0)
                .args(["-c", "fsync=off"])
                .args(more)
                .stderr(Stdio::piped())
                .stdout(Stdio::null());
            let mut server = ChildGuard::spawn(&mut command);
            let log = Lines::follow(server.0.stderr.take().unwrap());
            let mut ready = false;
            wait_for("postgres", || {
                ready = log.have("ready to accept");
                ready || server.0.try_wait().unwrap().is_some()
            });
            if ready {
                return Self { server, address: free, directory };
            }
        }
        panic!("postgres found no port");
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the answer to a query, on a connection that does not use the proxy.
    pub(super) fn ask(&self, question: &str) -> String {
        run(psql(self.address).args(["-c", question]))
    }

    /// Starts a session that stays open until its standard input ends.
    pub(super) fn session(&self) -> ChildGuard {
        let mut command = psql(self.address);
        let mut session = ChildGuard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut questions = session.0.stdin.take().unwrap();
        writeln!(questions, "select 1;").unwrap();
        let mut answer = String::new();
        BufReader::new(session.0.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        session.0.stdin = Some(questions);
        session
    }

    /// Refuses new sessions, and ends when the last session ends.
    pub(super) fn stop_slowly(&self) {
        self.server.signal("TERM");
    }

    /// Ends all sessions and the server, if it runs. Its children end only if it can end in order.
    fn stop_fast(&mut self) {
        if self.server.0.try_wait().unwrap().is_none() {
            self.server.signal("INT");
            self.server.wait();
        }
    }

    fn unix(&self) -> PathBuf {
        self.directory.file(&format!(".s.PGSQL.{}", self.address.port()))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop_fast();
    }
}

/// Returns the directory where Debian has the newest PostgreSQL.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.map(|entry| entry.unwrap().path()).max().expect("PostgreSQL is installed");
    newest.join("bin")
}

/// Returns a command that runs as the user postgres. It replaces the process that changes the user, so that
/// signals reach the right process.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]).arg(program);
    command
}

fn psql(address: SocketAddr) -> Command {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-U", "postgres"]);
    command.arg("postgres");
    command
}

fn configuration(backend: &str) -> String {
    format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n[pool.main]\nbackends = [\"{backend}\"]\n"
    )
}

#[test]
#[ignore = "needs postgresql"]
fn postgres_answers_and_takes_bulk() {
    let postgres = Postgres::start();
    let files = Directory::new();
    let table = files.file("table");
    let generate = "copy (select i, md5(i::text) from generate_series(1, 1300000) i) to stdout";
    fs::write(&table, finish(psql(postgres.address).args(["-c", generate]), b"").stdout).unwrap();
    assert!(fs::metadata(&table).unwrap().len() > 50_000_000);

    let unix = format!("unix:{}", postgres.unix().display());
    for backend in [postgres.address.to_string(), unix] {
        for engine in ["auto", "splice", "copy"] {
            let text = configuration(&backend).replace("pool =", &format!("engine = \"{engine}\"\npool ="));
            let program = Program::start(&text);
            let psql = || psql(program.address("main"));
            assert_eq!(run(psql().args(["-c", "select 6 * 7"])), "42\n");
            let back = files.file("back");
            let copy = |words: &str, file: &Path| format!("\\copy t {words} '{}'", file.display());
            run(psql().args(["-c", "create table t (i int, t text)", "-c", &copy("from", &table)]));
            run(psql().args(["-c", &copy("to", &back), "-c", "drop table t"]));
            assert_eq!(md5(&back), md5(&table), "{backend}, {engine}");
            let bulk = program.wait_for_record("a record of the bulk", |record| {
                record["from_client_bytes"].as_u64() > Some(50_000_000)
            });
            // The client sends a goodbye and closes. A fast server has closed between these two.
            assert!(bulk["close"] == "client_fin" || bulk["close"] == "backend_fin", "{bulk}");
            program.stop();
        }
    }
}

fn md5(file: &Path) -> String {
    run(Command::new("md5sum").arg(file)).split(' ').next().unwrap().to_owned()
}

#[test]
#[ignore = "needs postgresql"]
fn a_session_survives_reloads() {
    let postgres = Postgres::start();
    let text = configuration(&postgres.address.to_string());
    let program = Program::start(&text);
    let mut command = psql(program.address("main"));
    let mut session = ChildGuard::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut questions = session.0.stdin.take().unwrap();
    let mut answers = BufReader::new(session.0.stdout.take().unwrap());
    let mut ask = |question: &str| {
        writeln!(questions, "{question}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        answer
    };
    let process = ask("create temp table kept as select 7 as seven; select pg_backend_pid();");
    let reloads = |result: &str| program.sum("pointsman_config_reloads_total", &format!("\"{result}\""));

    // One reload changes another part, one is refused, and one changes the pool of the session.
    program.reload(&format!("{text}\n[listener.other]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n"));
    wait_for("a reload", || reloads("ok") == 1.0);
    assert_eq!(ask("select seven from kept;"), "7\n");
    program.reload("nonsense");
    wait_for("a refused reload", || reloads("failed") == 1.0);
    assert_eq!(ask("select seven from kept;"), "7\n");
    program.reload(&text.replace("pool = \"main\"", "pool = \"main\"\nidle_timeout = \"20m\""));
    wait_for("another reload", || reloads("ok") == 2.0);
    assert_eq!(ask("select pg_backend_pid();"), process);

    // The process may get SIGTERM while the session is open; it drains.
    program.process.signal("TERM");
    program.log.wait_for("stopping");
    assert_eq!(ask("select seven from kept;"), "7\n");
    drop(questions);
    assert!(session.wait().success());
    let Program { mut process, .. } = program;
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
#[ignore = "needs python3"]
fn a_mail_client_is_greeted_first() {
    let backend = Backend::serve(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut say = |words: &str| stream.write_all(words.as_bytes()).is_ok();
        say("220 mail.example.test ready\r\n");
        while let Some(Ok(line)) = lines.next() {
            match line.to_ascii_lowercase().get(..4) {
                Some("ehlo") => say("250-mail.example.test\r\n250 8BITMIME\r\n"),
                Some("quit") => say("221 until then\r\n"),
                _ => say("250 noted\r\n"),
            };
        }
    });
    let program = Program::start(&configuration(&backend.address.to_string()));
    let script = "import smtplib, sys\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), timeout=20) as mail:\n    \
            print(mail.ehlo()[0], mail.noop()[0])";
    let port = program.address("main").port().to_string();
    assert_eq!(run(Command::new("python3").args(["-c", script, &port])), "250 250\n");
    program.stop();
}

/// Runs a command of pointsman that must succeed.
#[track_caller]
fn steer(program: &Program, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    run(command.args(arguments).args(["--admin", &program.admin.to_string()]));
}

/// Returns the number behind a text in the report of pgbench.
fn reported(report: &str, text: &str) -> u64 {
    let line =
        report.lines().find(|line| line.starts_with(text)).unwrap_or_else(|| panic!("no {text} in {report}"));
    line[text.len()..].trim().split([' ', '/']).next().unwrap().parse().unwrap()
}

/// Clients that connect for each transaction notice the failover as a wait, and not as an error.
#[test]
#[ignore = "needs postgresql"]
fn a_pause_makes_a_failover_without_a_failed_transaction() {
    let mut primary = Postgres::start();
    let standby = primary.standby();
    let pgbench = || {
        let mut command = as_postgres(&programs().join("pgbench"));
        command.args(["-h", "127.0.0.1", "-U", "postgres"]);
        command
    };
    run(pgbench().args(["-i", "-q", "-p", &primary.address.port().to_string(), "postgres"]));
    let config = format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"db\"\n[pool.db]\nbackends = [{{ name = \"a\", address = \
         \"{}\" }}, {{ name = \"b\", address = \"{}\", state = \"maintenance\" }}]\n",
        primary.address, standby.address
    );
    let command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    let program = Program::start_with(command, Directory::new(), "open_changes = true\n", &config);
    let port = program.address("main").port().to_string();
    let logs = Directory::new();
    run(Command::new("chown").arg("postgres").arg(&logs.0));
    let mut load = pgbench();
    // A thread for each client: a thread that waits for a connection would hold the open transaction of its other client.
    load.args(["-C", "-n", "-c", "4", "-j", "4", "-T", "12", "-l", "-p", &port, "postgres"])
        .current_dir(&logs.0);
    let load = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let count =
        |server: &Postgres| server.ask("select count(*) from pgbench_history").trim().parse::<u64>().unwrap();
    wait_for("some transactions", || count(&primary) > 40);

    steer(&program, &["pause", "db", "--for", "60s", "--wait", "30s"]);
    primary.stop_fast();
    assert_eq!(standby.ask("select pg_promote()").trim(), "t");
    steer(&program, &["maintenance", "db/a"]);
    steer(&program, &["ready", "db/b"]);
    let before = count(&standby);
    steer(&program, &["resume", "db"]);

    let output = load.wait_with_output().unwrap();
    let (report, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{report}\n{errors}", output.status);
    assert_eq!(reported(&report, "number of failed transactions:"), 0, "{report}\n{errors}");
    let processed = reported(&report, "number of transactions actually processed:");
    assert_eq!(count(&standby), processed, "each transaction is in the new primary");
    assert!(processed > before, "none came after the failover");
    let longest = fs::read_dir(&logs.0).unwrap().flat_map(|file| {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        text.lines().map(|line| line.split(' ').nth(2).unwrap().parse::<u64>().unwrap()).collect::<Vec<_>>()
    });
    let longest = longest.max().unwrap();
    println!(
        "{processed} transactions, {before} before the failover; the longest took {} ms",
        longest / 1000
    );
}
