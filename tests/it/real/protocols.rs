//! PostgreSQL and SSH, detected by their first bytes, with common clients and servers.

use std::process::{Command, Stdio};

use super::certificates::{Authority, SignedCertificate};
use super::checks::RunningServer;
use super::postgres::Postgres;
use super::{ChildGuard, Directory, Program, finish, run, said};
use crate::support::wait_for;

const NAME: &str = "db.example.test";

/// Starts a PostgreSQL with TLS.
fn with_tls(signed: &SignedCertificate) -> Postgres {
    // PostgreSQL accepts a key of root that its group may read, and no other user.
    run(Command::new("chgrp").arg("postgres").arg(&signed.key));
    run(Command::new("chmod").arg("640").arg(&signed.key));
    let setting = |name: &str, file: &std::path::Path| format!("{name}={}", file.display());
    let (certificate, key) =
        (setting("ssl_cert_file", &signed.certificate), setting("ssl_key_file", &signed.key));
    Postgres::start_with(&["-c", "ssl=on", "-c", &certificate, "-c", &key])
}

/// Returns a `psql` for a server at this port, which takes `NAME` as the host.
fn psql(port: u16, authority: &Authority, mode: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1", "-d"]);
    command.arg(format!(
        "host={NAME} hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres sslmode={mode} \
         sslrootcert={} connect_timeout=20",
        authority.file().display()
    ));
    command
}

/// A query with one value: true if its session has TLS.
const HAS_TLS: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[test]
#[ignore = "needs postgresql and openssl"]
fn psql_comes_through_with_every_sslmode() {
    let authority = Authority::new();
    let servers = [0, 1].map(|_| with_tls(&authority.sign(NAME)));
    let backends = servers.each_ref().map(|server| format!("\"{}\"", server.address())).join(", ");
    let program = Program::start(&format!(
        "[listener.strict]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\n\
         routes = [{{ sni = \"{NAME}\", pool = \"db\" }}]\n\
         [listener.open]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\nplaintext = \"db\"\n\
         routes = [{{ sni = \"{NAME}\", pool = \"db\" }}]\n\
         [listener.full]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\n\
         routes = [{{ sni = \"{NAME}\", pool = \"full\" }}]\n\
         [pool.db]\nbackends = [{backends}]\nhealth = {{ check = \"postgres\" }}\n\
         [pool.full]\nbackends = [{backends}]\nhealth.check = \"off\"\nmax_connections = 1\n"
    ));
    let [strict, open, full] = ["strict", "open", "full"].map(|listener| program.address(listener).port());
    let check = |port, mode: &str, expected: &str| {
        assert_eq!(run(psql(port, &authority, mode).args(["-c", HAS_TLS])), expected, "{mode}");
    };
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        check(strict, mode, "t\n");
        check(open, mode, if mode == "allow" { "f\n" } else { "t\n" });
    }
    check(open, "disable", "f\n");
    let refused = finish(psql(strict, &authority, "disable").args(["-c", HAS_TLS]), b"");
    assert!(!refused.status.success());
    let told = said(&refused);
    assert!(told.contains("sessions without TLS are not accepted here"), "{told}");
    assert!(told.contains("sslmode=require"), "{told}");
    program.wait_for_record("the refusal", |record| record["close"] == "plaintext_refused");

    let starttls = |name: &str| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-starttls", "postgres", "-connect", &format!("127.0.0.1:{strict}")]);
        command.args(["-servername", name, "-verify_return_error", "-verify_hostname", name, "-CAfile"]);
        command.arg(authority.file());
        finish(&mut command, b"")
    };
    let told = said(&starttls(NAME));
    assert!(told.contains("Verify return code: 0 (ok)"), "{told}");
    let told = said(&starttls("other.example.test"));
    assert!(told.contains("unrecognized name"), "{told}");

    for (port, mode) in [(strict, "verify-full"), (open, "disable"), (full, "verify-full")] {
        cancel_a_query(psql(port, &authority, mode), &servers);
    }
    program.wait_for_record("the request to cancel", |record| record["route"] == "cancel");
    program.stop();
}

/// Cancels a query that takes long.
fn cancel_a_query(mut psql: Command, servers: &[Postgres]) {
    let sleeping = || {
        let question =
            "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
        servers.iter().map(|server| server.ask(question).trim().parse::<u32>().unwrap()).sum::<u32>()
    };
    psql.args(["-c", "select pg_sleep(600)"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut session = ChildGuard::spawn(&mut psql);
    wait_for("a sleeping query", || sleeping() == 1);
    session.signal("INT");
    assert!(!session.wait().success());
    let mut told = String::new();
    std::io::Read::read_to_string(&mut session.0.stderr.take().unwrap(), &mut told).unwrap();
    assert!(told.contains("canceling statement due to user request"), "{told}");
    wait_for("no sleeping query", || sleeping() == 0);
}

#[test]
#[ignore = "needs openssh-server and openssh-client"]
fn ssh_comes_through_auto_and_tcp() {
    let directory = Directory::new();
    let [host, user] = ["host", "user"].map(|name| directory.file(name));
    for key in [&host, &user] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key));
    }
    let authorized = directory.write("authorized", std::fs::read(directory.file("user.pub")).unwrap());
    std::fs::create_dir_all("/run/sshd").unwrap();
    let server = RunningServer::start(directory, |directory, port| {
        let conf = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nAuthorizedKeysFile {}\n",
            host.display(),
            authorized.display()
        );
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(directory.write("conf", conf));
        command
    });
    let program = Program::start(&format!(
        "[listener.auto]\nbind = \"127.0.0.1:0\"\nprotocol = \"auto\"\ndetect = {{ ssh = \"ssh\" }}\n\
         [listener.silent]\nbind = \"127.0.0.1:0\"\nprotocol = \"auto\"\n\
         detect = {{ on_timeout = \"ssh\", timeout = \"200ms\" }}\n\
         [listener.tcp]\nbind = \"127.0.0.1:0\"\npool = \"ssh\"\n[pool.ssh]\nbackends = [\"{}\"]\n",
        server.address
    ));
    for listener in ["auto", "tcp"] {
        let mut ssh = Command::new("ssh");
        ssh.args(["-p", &program.address(listener).port().to_string(), "-F", "none", "-o", "BatchMode=yes"]);
        ssh.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ]);
        ssh.arg("-i").arg(&user).args(["root@127.0.0.1", "echo came through"]);
        assert_eq!(run(&mut ssh), "came through\n", "{listener}");
        program.wait_for_record("the session", |record| record["listener"] == listener);
    }
    // The SSH server greets a client that waits.
    let silent = std::net::TcpStream::connect(program.address("silent")).unwrap();
    silent.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    crate::support::pair::expect_bytes(&silent, b"SSH-2.0-");
    drop(silent);
    program.wait_for_record("the route", |record| record["route"] == "on_timeout");
    program.stop();
}

/// A driver with its own libpq of version 17 or later: TLS at once, and requests to cancel in both ways.
#[test]
#[ignore = "needs postgresql and psycopg"]
fn a_python_driver_cancels_and_begins_tls_at_once() {
    const SCRIPT: &str = "import psycopg, sys, threading\n\
        base = 'hostaddr=127.0.0.1 host=%s port=%s user=postgres dbname=postgres connect_timeout=20 sslrootcert=%s ' % tuple(sys.argv[1:4])\n\
        with psycopg.connect(base + 'sslmode=verify-full', autocommit=True) as session:\n    \
            number = session.info.backend_pid\n    \
            for cancel in [session.cancel_safe, session.cancel]:\n        \
                timer = threading.Timer(1, cancel)\n        \
                timer.start()\n        \
                try: session.execute('select pg_sleep(600)')\n        \
                except psycopg.errors.QueryCanceled: print('cancelled')\n        \
                timer.join()\n    \
            assert session.execute('select pg_backend_pid()').fetchone()[0] == number\n\
        base = base.replace(sys.argv[1], sys.argv[4])\n\
        try: psycopg.connect(base + 'sslmode=verify-full sslnegotiation=direct')\n\
        except psycopg.OperationalError as error: print(error)\n";
    let authority = Authority::new();
    let server = with_tls(&authority.sign(NAME));
    // This backend is not PostgreSQL and selects no ALPN protocol. A client learns that after its handshake.
    let other = "tls.example.test";
    let tls = authority.backend(other);
    let program = Program::start(&format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\nprotocol = \"postgres\"\ncancel = \"db\"\n\
         routes = [{{ sni = \"{NAME}\", pool = \"db\" }}, {{ sni = \"{other}\", pool = \"tls\" }}]\n\
         [pool.db]\nbackends = [\"{}\"]\n[pool.tls]\nbackends = [\"{}\"]\n",
        server.address(),
        tls.address
    ));
    let port = program.address("main").port().to_string();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, NAME, &port]).arg(authority.file()).arg(other);
    let told = run(&mut python);
    assert!(told.starts_with("cancelled\ncancelled\n"), "{told}");
    assert!(told.contains("without ALPN"), "{told}");
    let opened = |kind: &str| program.sum("pointsman_client_openings_total", &format!("\"{kind}\""));
    // The session and its first request to cancel; then the second request; then TLS at once.
    assert_eq!([opened("upgraded"), opened("cancel"), opened("tls")], [2.0, 1.0, 1.0]);
    program.stop();
}
