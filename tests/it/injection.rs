//! Hostile bytes of peers in all texts that operators read: logs, metrics, status. Such bytes must not look
//! like other content, control a terminal, or make a series.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use pointsman::wire::proxy_protocol::{HeaderVersion, OutgoingHeader, Tlv};
use serde_json::Value;

use crate::process::{Folder, command, run};
use crate::support::hello::{extension, message, records, server_name};
use crate::support::{Backend, PATIENCE, own_address, wait_for};

/// Bytes of several kinds: a word, a title for the terminal, a log line, C1 controls with and without UTF-8,
/// quotes. The last one changes the direction of text.
const HOSTILE: &[u8] =
    b"ev\x1b]0;il\x07\r\n2001-01-01T00:00:00.000000Z  INFO forged x=1\n\x9b31m\xc2\x9b31m\"'\\ =\x7f\xe2\x80\xae";

/// The same without zeros and within UTF-8, for files.
const HOSTILE_TEXT: &str =
    "ev\u{1b}]0;il\u{7}\r\n2001-01-01T00:00:00.000000Z  INFO forged\u{9b}31m\"'\\\u{202e}";

/// A running program that writes all its output to files.
struct Program {
    folder: Folder,
    child: Child,
    tls: SocketAddr,
    postgres: SocketAddr,
    sent: usize,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts a program whose backends, agents, files and checks are all hostile too.
    fn start(test: &str, format: &str) -> Self {
        let folder = Folder::new(test);
        let (tls, postgres) = (own_address(), own_address());
        let (honest, hostile) = (Backend::echo(), hostile_server());
        let found = serde_json::json!({ "version": 1, "backends": [
            { "address": honest.address.to_string(), "name": HOSTILE_TEXT, "zone": HOSTILE_TEXT },
        ]});
        folder.write("found.json", &found.to_string());
        folder.write("routes.toml", "routes = []");
        let config = format!(
            r#"
            workers = 2
            access_log = {{ to = "./access.log", format = "{format}" }}
            log = {{ level = "trace", format = "{format}" }}
            [admin]
            listen = "unix:{admin}"
            [listener.tls]
            bind = "{tls}"
            protocol = "tls"
            routes = [{{ sni = "bad.example", pool = "bad" }}, {{ sni = "found.example", pool = "found" }}]
            routes_file = "routes.toml"
            no_sni = "main"
            unmatched = "main"
            proxy_protocol = {{ mode = "accept", trusted = ["127.0.0.0/8"] }}
            [listener.postgres]
            bind = "{postgres}"
            protocol = "postgres"
            plaintext = "main"
            unmatched = "main"
            [pool.main]
            backends = ["{honest}"]
            health.check = "off"
            [pool.bad]
            backends = ["{honest}"]
            health = {{ check = "smtp", address = "{hostile}", interval = "50ms" }}
            agent = {{ address = "{hostile}", interval = "50ms" }}
            [pool.found]
            discover = {{ file = "found.json" }}
            health.check = "off"
            "#,
            admin = folder.path("admin.sock").display(),
            honest = honest.address,
            hostile = hostile.address,
        );
        let file = folder.write("config.toml", &config);
        let child = command(&["run"])
            .arg(&file)
            .current_dir(file.parent().unwrap())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path("log")).unwrap())
            .spawn()
            .unwrap();
        let program = Self { folder, child, tls, postgres, sent: 0 };
        program.wait_for("serving");
        program
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.folder.path("log")).unwrap()
    }

    fn access_log(&self) -> Vec<u8> {
        fs::read(self.folder.path("access.log")).unwrap_or_default()
    }

    fn wait_for(&self, part: &str) {
        let has = || self.log().windows(part.len()).any(|window| window == part.as_bytes());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(part, has)));
        assert!(result.is_ok(), "no {part} in {}", String::from_utf8_lossy(&self.log()));
    }

    /// Makes a connection, whatever its result.
    fn send(&mut self, address: SocketAddr, bytes: &[u8]) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        self.sent += 1;
    }

    /// Returns the status as an operator reads it, by the program's own command.
    fn status(&self) -> String {
        let admin = format!("unix:{}", self.folder.path("admin.sock").display());
        let output = run(&["status", "--json", "--admin", &admin]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn metrics(&self) -> String {
        let address: pointsman::sys::Address =
            format!("unix:{}", self.folder.path("admin.sock").display()).parse().unwrap();
        pointsman::admin::ask(address, "/metrics", PATIENCE).unwrap().1
    }

    /// Sends each hostile text that a client can send, once.
    fn send_all(&mut self) {
        let (tls, postgres) = (self.tls, self.postgres);
        for name in
            [HOSTILE, &HOSTILE[..4], b"ev\nil.example", b"ev\x1b[31m.example", b"a b", b"\xff.example"]
        {
            self.send(tls, &records(&message(&server_name(name)), &[]));
        }
        let alpn = |name: &[u8]| {
            let one = [&[u8::try_from(name.len()).unwrap()], name].concat();
            let list = [&u16::try_from(one.len()).unwrap().to_be_bytes()[..], &one].concat();
            extension(16, &list)
        };
        for name in ["found.example", "bad.example", "other.example"] {
            let hello = message(&[server_name(name.as_bytes()), alpn(HOSTILE)].concat());
            self.send(tls, &records(&hello, &[]));
        }
        let hello = records(&message(&server_name(b"other.example")), &[]);
        for kind in [Tlv::AUTHORITY, Tlv::ALPN, 0x05, 0xea] {
            let endpoints = Some(("198.51.100.1:1".parse().unwrap(), tls));
            let tlvs = vec![(kind, HOSTILE)];
            let header =
                OutgoingHeader { version: HeaderVersion::V2, endpoints, tlvs, crc32c: false }.write();
            self.send(tls, &[header, hello.clone()].concat());
        }
        self.send(tls, &[b"PROXY TCP4 ", HOSTILE, b"\r\n", &hello].concat());
        self.send(tls, HOSTILE);
        for key in ["user", "database", "application_name", "options"] {
            self.send(postgres, &startup(key, HOSTILE));
        }
        self.send(postgres, HOSTILE);
    }
}

/// Starts a server that answers all clients with hostile bytes, such as checks and agents.
fn hostile_server() -> Backend {
    Backend::serve(|mut stream| {
        let _ = stream.write_all(&[HOSTILE, b"\r\n"].concat());
        let _ = stream.read(&mut [0; 1024]);
    })
}

/// Returns the first message of a PostgreSQL client without TLS.
fn startup(key: &str, value: &[u8]) -> Vec<u8> {
    let user: &[u8] = if key == "user" { b"" } else { b"user\0postgres\0" };
    let body = [&196_608_u32.to_be_bytes()[..], user, key.as_bytes(), b"\0", value, b"\0\0"].concat();
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], &body].concat()
}

/// Checks that a text has no bytes that control a terminal or deceive a reader.
fn check_harmless(text: &[u8], what: &str) {
    let text = str::from_utf8(text).unwrap_or_else(|error| panic!("{what}: {error}"));
    for line in text.split('\n') {
        let harmful =
            |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!line.contains(harmful), "{what}: {line:?}");
        assert!(!line.starts_with("2001-"), "{what}: forged: {line:?}");
    }
}

fn check_logs(test: &str, format: &str) {
    let mut program = Program::start(test, format);
    program.send_all();
    program.wait_for("check failed");
    program.wait_for("the agent gave no usable answer");
    program.wait_for("discovery failed");
    // Another program wrote this file with routes, and it has a fault.
    program.folder.write(
        "routes.toml",
        &format!("routes = [{{ sni = {HOSTILE_TEXT:?}, pool = \"x\" }}]\n'{HOSTILE_TEXT}"),
    );
    program.wait_for("routes.toml");
    program.wait_for("forged");
    let lines = || program.access_log().iter().filter(|byte| **byte == b'\n').count();
    wait_for("the lines of the access log", || lines() >= program.sent);
    assert_eq!(lines(), program.sent, "a line for each connection");
    let (access_log, log) = (program.access_log(), program.log());
    assert!(access_log.is_ascii());
    check_harmless(&access_log, "access log");
    check_harmless(&log, "log");
    let (access_log, log) = (String::from_utf8(access_log).unwrap(), String::from_utf8(log).unwrap());
    for line in log.lines() {
        match format {
            "json" => assert!(serde_json::from_str::<Value>(line).unwrap().is_object(), "{line}"),
            _ => assert!(line.starts_with("20") || line.starts_with("    "), "{line:?}"),
        }
    }
    for line in access_log.lines() {
        match format {
            "json" => assert!(serde_json::from_str::<Value>(line).unwrap().is_object(), "{line}"),
            _ => assert!(line.starts_with("time="), "{line:?}"),
        }
    }
    assert!(access_log.contains("forged"), "what was said is there, harmlessly");
}

#[test]
fn no_line_is_forged_in_text() {
    check_logs("injection-text", "text");
}

#[test]
fn no_line_is_forged_in_json() {
    check_logs("injection-json", "json");
}

#[test]
fn names_make_no_series_and_status_is_harmless() {
    let mut program = Program::start("injection-series", "json");
    let series = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut series: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
        series.sort();
        series
    };
    program.send_all();
    let before = series(&program.metrics());
    for number in 0..200 {
        let name = format!("name-{number}.example");
        program.send(program.tls, &records(&message(&server_name(name.as_bytes())), &[]));
    }
    program.send_all();
    let text = program.metrics();
    assert_eq!(series(&text), before);
    assert!(before.len() > 100);
    check_harmless(text.as_bytes(), "metrics");
    assert!(!text.contains("forged") && !text.contains("name-"), "{text}");
    assert!(text.contains("process_open_fds "), "a confined process still sees itself: {text}");
    let status = program.status();
    check_harmless(status.as_bytes(), "status");
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["life"], "serving");
}

/// Another program listens at the address of the admin listener.
#[test]
fn an_impostor_cannot_speak_to_the_terminal() {
    for answer in ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0 500 No\r\n\r\n"] {
        let impostor = Backend::serve(move |mut stream| {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&[answer.as_bytes(), HOSTILE_TEXT.as_bytes()].concat());
        });
        for command in ["status", "health"] {
            let output = run(&[command, "--admin", &impostor.address.to_string()]);
            let said = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(said).unwrap();
            assert!(text.contains("forged"), "{text:?}");
            assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
        }
    }
}

/// If another program wrote a file, it is shown with its faults.
#[test]
fn faults_of_a_file_cannot_speak_to_the_terminal() {
    let folder = Folder::new("injection-check");
    let texts = [
        format!("{HOSTILE_TEXT:?} = 1"),
        format!("workers = {HOSTILE_TEXT:?}"),
        format!("[listener.{:?}]\nbind = 1\n[pool.x]\nbackends = [\"\u{1b}[31m\"]", "ev\u{1b}[31mil"),
        "workers = '\u{9b}31m\u{202e}'".to_owned(),
        "workers = \u{1b}[31m".to_owned(),
        "# \u{1b}[31m\nworkers = 1".to_owned(),
        "workers = \"\\u001b[31m\\n2001-01-01 forged\"".to_owned(),
    ];
    for text in texts {
        let file = folder.write("config.toml", &text);
        let output = run(&["check", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{text:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !said.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')),
            "{text:?}: {said:?}"
        );
        assert!(!said.lines().any(|line| line.starts_with("2001-")), "{said:?}");
    }
}
