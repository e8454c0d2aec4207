//! Each kind of check against a server of its protocol: up while the server runs, down after its end.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::postgres::Postgres;
use super::{ChildGuard, Directory, Program, run};
use crate::support::wait_for;

/// A server on a port of its own; it is stopped when dropped.
pub(super) struct RunningServer {
    _process: ChildGuard,
    pub(super) address: SocketAddr,
    directory: Directory,
}

impl RunningServer {
    /// Starts the command that `command` returns for a directory and a port, and waits until it accepts. None
    /// of these servers can use port 0, and another program may take a free port before they bind it.
    pub(super) fn start(directory: Directory, command: impl Fn(&Directory, u16) -> Command) -> Self {
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = command(&directory, address.port());
            let log = std::fs::File::create(directory.file("log")).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            let mut process = ChildGuard::spawn(&mut command);
            let mut accepts = false;
            wait_for("a server", || {
                accepts = TcpStream::connect(address).is_ok();
                accepts || process.0.try_wait().unwrap().is_some()
            });
            if accepts {
                return Self { _process: process, address, directory };
            }
        }
        panic!("no server would start:\n{}", std::fs::read_to_string(directory.file("log")).unwrap());
    }

    /// Returns the output of the server so far.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.file("log")).unwrap()
    }
}

fn program(address: SocketAddr, health: &str) -> Program {
    Program::start(&format!(
        "[listener.main]\nbind = \"127.0.0.1:0\"\npool = \"main\"\n[pool.main]\nbackends = [\"{address}\"]\n\
         health = {{ interval = \"300ms\", fast_interval = \"50ms\", {health} }}\n"
    ))
}

/// Checks that several checks pass and none fails, twice as many as are needed.
fn expect_up(address: SocketAddr, health: &str) -> Program {
    let program = program(address, health);
    let checks = |result: &str| program.sum("pointsman_backend_checks_total", &format!("\"{result}\""));
    wait_for("checks", || checks("passed") > 3.0 || checks("failed") > 0.0);
    assert_eq!(checks("failed"), 0.0, "{health}\n{}", program.ask("/metrics"));
    program
}

fn expect_down(program: Program, fault: &str) {
    wait_for("down", || program.sum("pointsman_backend_up", "main") == 0.0);
    let count = program.sum("pointsman_check_failures_total", &format!("\"{fault}\""));
    assert!(count > 0.0, "{}", program.ask("/metrics"));
    program.stop();
}

/// Checks that the backend is up while the server runs, and refuses after its end.
pub(super) fn check(server: RunningServer, healths: &[&str]) {
    let programs: Vec<_> = healths.iter().map(|health| expect_up(server.address, health)).collect();
    assert!(!programs.is_empty());
    drop(server);
    programs.into_iter().for_each(|program| expect_down(program, "refused"));
}

#[test]
#[ignore = "needs postgresql"]
fn postgres_is_checked() {
    let postgres = Postgres::start();
    let of_nobody = expect_up(postgres.address(), "check = \"postgres\"");
    let of_one = expect_up(postgres.address(), "check = \"postgres\", user = \"postgres\"");
    let of_a_stranger = expect_up(postgres.address(), "check = \"postgres\", user = \"stranger\"");
    // PostgreSQL ends in order. While a session stays it refuses new sessions, which only a check with a
    // login sees.
    let mut session = postgres.session();
    postgres.stop_slowly();
    expect_down(of_one, "unexpected");
    expect_down(of_a_stranger, "unexpected");
    assert_eq!(of_nobody.sum("pointsman_backend_up", "main"), 1.0);
    drop(session.0.stdin.take());
    expect_down(of_nobody, "refused");
}

#[test]
#[ignore = "needs redis-server"]
fn redis_is_checked() {
    for password in [&[][..], &["--requirepass", "secret"]] {
        let server = RunningServer::start(Directory::new(), |directory, port| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"]);
            command.arg(&directory.0).args(password);
            command
        });
        check(server, &["check = \"redis\""]);
    }
}

#[test]
#[ignore = "needs mariadb-server"]
fn mariadb_is_checked() {
    let directory = Directory::new();
    run(Command::new("chown").arg("mysql").arg(&directory.0));
    let data = format!("--datadir={}", directory.file("data").display());
    run(Command::new("mariadb-install-db").args(["--no-defaults", "--user=mysql", &data]));
    let init = directory.write("init.sql", "CREATE USER nobody@'127.0.0.1';\n");
    let init = format!("--init-file={}", init.display());
    let socket = format!("--socket={}", directory.file("socket").display());
    let server = RunningServer::start(directory, |_, port| {
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--user=mysql", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args([&data, &init, &socket, &format!("--port={port}")]);
        command
    });
    let aborted = || {
        let mut ask = Command::new("mariadb");
        ask.args(["--no-defaults", &socket, "-BNe", "SHOW GLOBAL STATUS LIKE 'Aborted_connects'"]);
        let answer = run(&mut ask);
        answer.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    let with_user = "check = \"mysql\", user = \"nobody\"";
    let stranger = program(server.address, "check = \"mysql\", user = \"stranger\"");
    expect_down(stranger, "unexpected");
    // A whole login is not one of the errors that would block this host. An end after the greeting is one.
    let before = aborted();
    expect_up(server.address, with_user).stop();
    assert_eq!(aborted(), before);
    expect_up(server.address, "check = \"mysql\"").stop();
    assert!(aborted() > before);
    check(server, &[with_user, "check = \"mysql\""]);
}

#[test]
#[ignore = "needs mosquitto"]
fn mosquitto_is_checked() {
    let server = RunningServer::start(Directory::new(), |directory, port| {
        let conf = format!("listener {port} 127.0.0.1\nallow_anonymous false\nuser root\n");
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(directory.write("conf", conf));
        command
    });
    check(server, &["check = \"mqtt\""]);
}

#[test]
#[ignore = "needs openssh-server"]
fn sshd_is_checked() {
    let directory = Directory::new();
    let key = directory.file("key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    // Without this directory sshd refuses to start.
    std::fs::create_dir_all("/run/sshd").unwrap();
    let server = RunningServer::start(directory, |directory, port| {
        let conf = format!("Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\n", key.display());
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(directory.write("conf", conf));
        command
    });
    check(server, &["check = \"ssh\"", "check = \"send-expect\", steps = [{ expect = \"OpenSSH\" }]"]);
}

#[test]
#[ignore = "needs opensmtpd"]
fn opensmtpd_is_checked() {
    let server = RunningServer::start(Directory::new(), |directory, port| {
        let conf =
            format!("listen on 127.0.0.1 port {port}\naction a relay\nmatch from local for any action a\n");
        let mut command = Command::new("smtpd");
        command.args(["-d", "-f"]).arg(directory.write("conf", conf));
        command
    });
    let noop = "check = \"send-expect\", steps = [{ expect = \"220 \" }, { send = \"NOOP\\r\\n\" }, \
                { expect = \"250 \" }, { send = \"QUIT\\r\\n\" }]";
    check(server, &["check = \"smtp\"", noop]);
}

#[test]
#[ignore = "needs nginx"]
fn nginx_is_checked() {
    let server = RunningServer::start(Directory::new(), |directory, port| {
        let conf = format!(
            "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             server {{ listen 127.0.0.1:{port}; server_name up.test; location = /up {{ return 204; }} }}\n\
             server {{ listen 127.0.0.1:{port} default_server; return 503; }} }}\n",
            directory.0.display()
        );
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory.0).arg("-c").arg(directory.write("conf", conf));
        command
    });
    for wrong in ["path = \"/up\"", "path = \"/\", host = \"up.test\""] {
        expect_down(program(server.address, &format!("check = \"http\", {wrong}")), "unexpected");
    }
    check(server, &["check = \"http\", path = \"/up\", host = \"up.test\""]);
}

/// Makes a key and a self-signed certificate for these names.
fn certificate(directory: &Directory, names: &str) -> (PathBuf, PathBuf) {
    let (key, cert) = (directory.file("tls.key"), directory.file("tls.crt"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    make.args(["-subj", "/CN=up.test", "-addext", &format!("subjectAltName={names}"), "-keyout"]);
    run(make.arg(&key).arg("-out").arg(&cert));
    (key, cert)
}

#[test]
#[ignore = "needs nginx and openssl"]
fn nginx_is_checked_over_tls() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (directory, files) = (Directory::new(), Directory::new());
        let (key, cert) = certificate(&files, "DNS:up.test,IP:127.0.0.1");
        let server = RunningServer::start(directory, |directory, port| {
            let tls = format!(
                "listen 127.0.0.1:{port} ssl; ssl_protocols {version}; ssl_certificate {}; ssl_certificate_key {};",
                cert.display(),
                key.display()
            );
            let conf = format!(
                "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
                 server {{ {tls} server_name other.test; return 503; }}\n\
                 server {{ {tls} server_name up.test; location = /up {{ return 200 \"role=primary\"; }} }} }}\n",
                directory.0.display()
            );
            let mut command = Command::new("nginx");
            command.arg("-p").arg(&directory.0).arg("-c").arg(directory.write("conf", conf));
            command
        });
        let tls = "check = \"http\", tls = true";
        expect_down(program(server.address, &format!("{tls}, path = \"/up\"")), "unexpected");
        expect_down(program(server.address, &format!("{tls}, alpn = \"x\"")), "tls_alert");
        let ca = format!("ca_file = {:?}", cert.display().to_string());
        let wrong = format!("{tls}, path = \"/up\", server_name = \"down.test\", {ca}");
        expect_down(program(server.address, &wrong), "certificate");
        let named = format!("{tls}, path = \"/up\", host = \"up.test\", body = \"role=primary\"");
        check(server, &[&named, &format!("{named}, {ca}"), &format!("{named}, alpn = \"http/1.1\"")]);
    }
}

#[test]
#[ignore = "needs redis-server and openssl"]
fn redis_is_checked_over_tls() {
    let files = Directory::new();
    let (key, cert) = certificate(&files, "DNS:up.test,IP:127.0.0.1");
    let server = RunningServer::start(Directory::new(), |directory, port| {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", "0", "--tls-port", &port.to_string()]);
        command
            .args(["--tls-auth-clients", "no", "--tls-key-file"])
            .arg(&key)
            .arg("--tls-cert-file")
            .arg(&cert);
        command.arg("--dir").arg(&directory.0);
        command
    });
    let ca = format!("check = \"redis\", tls = true, ca_file = {:?}", cert.display().to_string());
    expect_down(program(server.address, "check = \"redis\""), "closed");
    check(server, &["check = \"redis\", tls = true", &ca]);
}

#[test]
#[ignore = "needs openssl"]
fn openssl_is_checked() {
    for version in ["-tls1_2", "-tls1_3"] {
        let directory = Directory::new();
        let (key, cert) = (directory.file("key"), directory.file("cert"));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        run(make.args(["-subj", "/CN=a.test", "-keyout"]).arg(&key).arg("-out").arg(&cert));
        let server = RunningServer::start(directory, |_, port| {
            let mut command = Command::new("openssl");
            command.args(["s_server", version, "-quiet", "-accept", &format!("127.0.0.1:{port}")]);
            command.args(["-servername", "a.test", "-servername_fatal"]);
            for name in ["-cert", "-cert2"] {
                command.arg(name).arg(&cert);
            }
            for name in ["-key", "-key2"] {
                command.arg(name).arg(&key);
            }
            command
        });
        let of = |name: &str| format!("check = \"tls\", server_name = \"{name}\"");
        expect_down(program(server.address, &of("b.test")), "tls_alert");
        check(server, &[&of("a.test")]);
    }
}

/// Starts Postfix with postscreen, whose greeting comes in two lines with 6 s between them. Postfix cannot be
/// installed beside OpenSMTPD. So its programs run from the directory into which `.ci/run` has unpacked the
/// package.
fn postscreen() -> RunningServer {
    let unpacked = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/postfix"));
    RunningServer::start(Directory::new(), |directory, port| {
        let (at, programs) = (directory.0.display(), unpacked.display());
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
             daemon_directory = {programs}/usr/lib/postfix/sbin\ncommand_directory = {programs}/usr/sbin\n\
             shlib_directory = {programs}/usr/lib/postfix\nmeta_directory = {programs}/etc/postfix\nmail_owner = daemon\n\
             setgid_group = tty\nmyhostname = mail.example.test\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             import_environment = LD_LIBRARY_PATH MAIL_CONFIG\nalias_maps =\nmaillog_file = /dev/stdout\n\
             postscreen_cache_map =\npostscreen_access_list =\npostscreen_greet_banner = wait\n"
        );
        let master = format!(
            "127.0.0.1:{port} inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\ndnsblog unix - - n - 0 dnsblog\n\
             tlsproxy unix - - n - 0 tlsproxy\nanvil unix - - n - 1 anvil\nproxymap unix - - n - - proxymap\n\
             cleanup unix n - n - 0 cleanup\nrewrite unix - - n - - trivial-rewrite\npostlog unix-dgram n - n - 1 postlogd\n"
        );
        let folders = "mkdir etc data queue; cd queue\n\
                       mkdir active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace\n\
                       chown daemon ../data *; chown root pid; chgrp tty public maildrop; chmod 710 public; chmod 700 private\n\
                       chmod 1730 maildrop";
        if !directory.file("etc").exists() {
            run(Command::new("sh").args(["-ec", folders]).current_dir(&directory.0));
        }
        directory.write("etc/main.cf", main);
        directory.write("etc/master.cf", master);
        let mut command = Command::new(unpacked.join("usr/lib/postfix/sbin/master"));
        command.args(["-d", "-c"]).arg(directory.file("etc"));
        command
            .env("LD_LIBRARY_PATH", unpacked.join("usr/lib/postfix"))
            .env("MAIL_CONFIG", directory.file("etc"));
        command
    })
}

#[test]
#[ignore = "needs root, and postfix as .ci/run unpacks it"]
fn a_check_waits_for_the_whole_greeting_of_postscreen() {
    let server = postscreen();
    let program = program(server.address, "check = \"smtp\"");
    let checks = |result: &str| program.sum("pointsman_backend_checks_total", &format!("\"{result}\""));
    wait_for("a check", || checks("passed") + checks("failed") > 0.0);
    assert_eq!((checks("passed"), checks("failed")), (1.0, 0.0), "{}", program.ask("/metrics"));
    let took = program.sum("pointsman_backend_check_seconds", "main");
    assert!((6.0..10.0).contains(&took), "{took}");
    program.stop();
    // The first line alone is not a greeting.
    expect_down(self::program(server.address, "check = \"smtp\", timeout = \"2s\""), "timeout");
}
