//! The access to the admin listener, through its sockets and by the commands of the program.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Output;

use pointsman::admin::{self, AdminTarget};
use pointsman::config::{AdminSpec, TokenFor};
use pointsman::relay::EngineChoice;
use pointsman::sys::Address;

use crate::process::{Folder, Program, command, run};
use crate::support::{Backend, PATIENCE, Proxy, tcp};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Starts an admin listener with a change of its settings, and returns its address.
fn start(change: impl FnOnce(&mut AdminSpec)) -> (Proxy, Address) {
    let mut spec = AdminSpec::new("127.0.0.1:0".parse::<Address>().unwrap());
    change(&mut spec);
    Proxy::start_with(tcp(&[Backend::echo().address], EngineChoice::Auto), spec)
}

fn socket(folder: &Folder) -> Address {
    Address::Unix(folder.path("admin.sock").as_path().into())
}

/// Returns the status code of the answer to a request with these lines.
fn code(address: &Address, lines: &[&str]) -> u16 {
    let request = format!("{}\r\n\r\n", lines.join("\r\n"));
    let mut answer = Vec::new();
    let read = match address {
        Address::Tcp(address) => {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_end(&mut answer)
        }
        Address::Scoped(scoped) => panic!("no test listens at {scoped}"),
        Address::Unix(path) => {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_end(&mut answer)
        }
    };
    if let Err(error) = read {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed: {error}");
    }
    let answer = String::from_utf8(answer).unwrap();
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{request}: {answer}"))
}

fn ask(address: &Address, token: Option<&str>, path: &str) -> u16 {
    let at = AdminTarget { address: address.clone(), token: token.map(str::to_owned) };
    admin::ask(at, path, PATIENCE).unwrap_or_else(|error| panic!("{path}: {error}")).0
}

fn refusals(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("pointsman_admin_requests_refused_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_unix_socket_is_asked_by_who_may_write_it() {
    let folder = Folder::new("admin-socket");
    let (proxy, address) = start(|spec| {
        spec.listen = socket(&folder);
        spec.mode = 0o600;
    });
    let found = fs::symlink_metadata(folder.path("admin.sock")).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&address, None, "/ready"), 200);
    assert_eq!(ask(&address, None, "/metrics"), 200);
    assert_eq!(ask(&address, None, "/api/v1/status"), 200);
    assert_eq!(code(&address, &["GET /ready HTTP/1.1", "Host: anything"]), 200);
    assert_eq!(code(&address, &["GET /ready HTTP/1.1", "Host: evil.example"]), 421, "through a tunnel");
    drop(proxy);
    assert!(!folder.path("admin.sock").exists(), "its file goes with it");
}

#[test]
fn a_socket_that_is_in_use_is_left_alone() {
    let folder = Folder::new("admin-clash");
    let (_proxy, address) = start(|spec| spec.listen = socket(&folder));
    let message = admin::bind(AdminSpec::new(socket(&folder))).unwrap_err().to_string();
    assert!(message.contains("something listens there already"), "{message}");
    assert_eq!(ask(&address, None, "/ready"), 200);
}

#[test]
fn without_the_token_nothing_is_told() {
    let folder = Folder::new("admin-token");
    let file = folder.write("token", TOKEN);
    let (proxy, address) = start(|spec| spec.token_file = Some(file));
    for path in ["/metrics", "/healthz", "/ready", "/api/v1/status", "/nowhere"] {
        assert_eq!(ask(&address, None, path), 401, "{path}");
        assert_eq!(ask(&address, Some("0123456789abcdef"), path), 401, "{path}");
        assert_eq!(ask(&address, Some(&TOKEN[..31]), path), 401, "{path}");
    }
    assert_eq!(refusals(&proxy, "token"), 15.0);
    assert_eq!(ask(&address, Some(TOKEN), "/api/v1/status"), 200);
    assert_eq!(ask(&address, Some(TOKEN), "/nowhere"), 404);
    folder.write("token", "another-token-of-some-length");
    assert_eq!(ask(&address, Some(TOKEN), "/metrics"), 401, "a new token is in force at once");
    assert_eq!(ask(&address, Some("another-token-of-some-length"), "/metrics"), 200);
    fs::remove_file(folder.path("token")).unwrap();
    assert_eq!(ask(&address, Some("another-token-of-some-length"), "/metrics"), 500);
    folder.write("token", "");
    assert_eq!(
        code(&address, &["GET /ready HTTP/1.0", "Authorization: Bearer "]),
        401,
        "nothing is no token"
    );
    assert_eq!(code(&address, &["GET /ready HTTP/1.0", "Authorization: Bearer x"]), 500);
}

#[test]
fn changing_and_asking_are_two_things() {
    let folder = Folder::new("admin-changes");
    let file = folder.write("token", TOKEN);
    let (_proxy, address) = start(|spec| {
        spec.token_file = Some(file);
        spec.token_for = TokenFor::Changes;
    });
    assert_eq!(ask(&address, None, "/api/v1/status"), 200);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let change = |token: Option<&str>| {
            let at = AdminTarget { address: address.clone(), token: token.map(str::to_owned) };
            admin::change(at, method, "/metrics", PATIENCE).unwrap().0
        };
        assert_eq!((change(None), change(Some("wrong")), change(Some(TOKEN))), (401, 401, 405), "{method}");
    }
}

#[test]
fn the_right_to_change_is_told_without_a_change() {
    let folder = Folder::new("admin-access");
    let file = folder.write("token", TOKEN);
    let right = |address: &Address, token: Option<&str>| {
        let at = AdminTarget { address: address.clone(), token: token.map(str::to_owned) };
        let (code, body) = admin::ask(at, "/api/v1/access", PATIENCE).unwrap();
        (code, body.split_whitespace().collect::<String>())
    };
    let answer =
        |may_change: bool, needs: &str| (200, format!("{{\"may_change\":{may_change},\"needs\":{needs}}}"));
    let (_proxy, address) = start(|_| ());
    assert_eq!(right(&address, None), answer(false, "\"unix_socket\""));
    assert_eq!(right(&address, Some(TOKEN)), answer(false, "\"unix_socket\""));
    let (_proxy, address) = start(|spec| spec.listen = socket(&folder));
    assert_eq!(right(&address, None), answer(true, "null"));
    let (proxy, address) = start(|spec| {
        spec.token_file = Some(file);
        spec.token_for = TokenFor::Changes;
    });
    assert_eq!(right(&address, None), answer(false, "\"token\""));
    assert_eq!(right(&address, Some(TOKEN)), answer(true, "null"));
    assert_eq!(right(&address, Some("wrong")).0, 401);
    assert_eq!(refusals(&proxy, "token"), 1.0);
}

#[test]
fn the_page_is_open_and_its_data_are_not() {
    let folder = Folder::new("admin-page");
    let file = folder.write("token", TOKEN);
    let (_proxy, address) = start(|spec| spec.token_file = Some(file));
    assert_eq!(ask(&address, None, "/"), 200);
    assert_eq!(ask(&address, None, "/favicon.ico"), 204);
    assert_eq!(ask(&address, None, "/api/v1/status"), 401);
    assert_eq!(ask(&address, None, "/api/v1/access"), 401);
    assert_eq!(code(&address, &["GET / HTTP/1.1", "Host: evil.example"]), 421);
    assert_eq!(code(&address, &["GET / HTTP/1.1", "Host: localhost", "Sec-Fetch-Site: cross-site"]), 200);
    assert_eq!(code(&address, &["POST / HTTP/1.1", "Host: localhost"]), 401);
    let at = AdminTarget { address, token: Some(TOKEN.to_owned()) };
    assert_eq!(admin::change(at, "POST", "/", PATIENCE).unwrap().0, 405);
}

#[test]
fn open_metrics_open_nothing_else() {
    let (_proxy, address) = start(|spec| {
        spec.listen = "0.0.0.0:0".parse().unwrap();
        spec.open_metrics = true;
    });
    assert_eq!(ask(&address, None, "/metrics"), 200);
    assert_eq!(ask(&address, None, "/ready"), 200);
    assert_eq!(ask(&address, None, "/healthz"), 200);
    assert_eq!(ask(&address, None, "/api/v1/status"), 401);
    assert_eq!(ask(&address, Some(TOKEN), "/api/v1/status"), 401);
    assert_eq!(code(&address, &["POST /metrics HTTP/1.0"]), 401);
    for path in ["/metrics", "/ready", "/healthz"] {
        let line = format!("GET {path} HTTP/1.1");
        assert_eq!(code(&address, &[&line, "Host: pointsman:10190"]), 200, "{path} is open by any name");
    }
    assert_eq!(code(&address, &["GET /api/v1/status HTTP/1.1", "Host: pointsman:10190"]), 421);
}

#[test]
fn no_page_of_another_site_gets_through() {
    let (proxy, address) = start(|spec| {
        spec.hosts = vec!["lb.example".to_owned()];
        spec.open_changes = true;
    });
    let check = |line: &str, header: &str, expected: u16| {
        assert_eq!(code(&address, &[line, "Host: localhost", header]), expected, "{line} {header}");
    };
    for line in ["GET /api/v1/status HTTP/1.1", "POST /api/v1/status HTTP/1.1", "OPTIONS /metrics HTTP/1.1"] {
        check(line, "Origin: http://evil.example", 403);
        check(line, "Origin: null", 403);
        check(line, "Sec-Fetch-Site: cross-site", 403);
        check(line, "Host: evil.example", 421);
    }
    assert_eq!((refusals(&proxy, "cross_site"), refusals(&proxy, "host")), (9.0, 3.0));
    check("POST /metrics HTTP/1.1", "Content-Type: text/plain", 415);
    check("POST /metrics HTTP/1.1", "Content-Type: application/x-www-form-urlencoded", 415);
    assert_eq!(refusals(&proxy, "content_type"), 2.0);
    check("POST /metrics HTTP/1.1", "Content-Type: application/json", 405);
    check("GET /metrics HTTP/1.1", "Host: lb.example:9100", 200);
    check("GET /metrics HTTP/1.1", "Sec-Fetch-Site: none", 200);
}

#[test]
fn a_token_that_cannot_be_read_ends_the_start() {
    let mut spec = AdminSpec::new("127.0.0.1:0".parse::<Address>().unwrap());
    spec.token_file = Some("/nowhere/token".into());
    let message = admin::bind(spec).unwrap_err().to_string();
    assert!(message.contains("/nowhere/token"), "{message}");
}

/// Returns a configuration with this admin table.
fn configured(backend: SocketAddr, admin: &str) -> String {
    format!(
        r#"
        access_log.to = "off"
        [admin]
        {admin}
        [listener.main]
        bind = "127.0.0.1:0"
        pool = "main"
        [pool.main]
        backends = ["{backend}"]
        health.check = "off"
        "#
    )
}

fn check_run(arguments: &[&str], code: i32, part: &str) -> Output {
    let output = run(arguments);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(part), "{arguments:?}: no {part} in {said}");
    output
}

#[test]
fn the_commands_ask_a_unix_socket_with_a_token() {
    let folder = Folder::new("admin-commands");
    let token = folder.write("token", TOKEN);
    let wrong = folder.write("wrong", "fedcba9876543210");
    let listen = format!("unix:{}", folder.path("admin.sock").display());
    let admin = format!("listen = \"{listen}\"\ntoken_file = \"token\"");
    let file = folder.write("config.toml", &configured(Backend::echo().address, &admin));
    let mut program = Program::serve(&file);
    let [token, wrong] = [&token, &wrong].map(|path| path.to_str().unwrap());
    let with = |command: &'static str, file: &'static str| [command, "--admin", file];
    let listen: &'static str = listen.leak();
    check_run(&[&with("status", listen)[..], &["--token-file", token]].concat(), 0, ": serving for ");
    let json = ["--json", "--token-file", token];
    check_run(&[&with("status", listen)[..], &json].concat(), 0, "\"life\": \"serving\"");
    check_run(&[&with("health", listen)[..], &["--token-file", token, "--ready"]].concat(), 0, "ready");
    check_run(&with("status", listen), 1, "401");
    check_run(&[&with("status", listen)[..], &["--token-file", wrong]].concat(), 1, "401");
    check_run(&[&with("status", listen)[..], &["--token-file", "/nowhere"]].concat(), 1, "/nowhere");
    check_run(&with("status", "unix:/nowhere/s"), 1, "cannot query unix:/nowhere/s");
    program.stderr.wait_for("admin refused a request with a wrong token");
    program.expect_end_by("TERM");
}

#[test]
fn a_check_looks_at_the_token() {
    let folder = Folder::new("admin-checked");
    let text = configured(Backend::echo().address, "listen = \"127.0.0.1:0\"\ntoken_file = \"token\"");
    let file = folder.write("config.toml", &text);
    let file = file.to_str().unwrap();
    check_run(&["check", file], 2, "the token of `admin.token_file` cannot be read: there is no such file");
    folder.write("token", "short");
    check_run(&["check", file], 2, "openssl rand -hex 32");
    folder.write("token", TOKEN);
    check_run(&["check", file], 0, "good");
}

#[test]
fn a_check_refuses_an_open_admin_listener() {
    let folder = Folder::new("admin-open");
    let text = configured(Backend::echo().address, "listen = \"0.0.0.0:9100\"");
    let file = folder.write("config.toml", &text);
    check_run(&["check", file.to_str().unwrap()], 2, "C0360");
}

/// Every user of a host reaches its loopback addresses, so these accept no changes. The log has the origin of
/// each change.
#[test]
fn changes_need_a_unix_socket_or_a_token() {
    let folder = Folder::new("admin-by");
    folder.write("token", TOKEN);
    let lists = "\n[list.bans]\n[lists]\ndeny = \"bans\"";
    let socket = format!("unix:{}", folder.path("admin.sock").display());
    let text = |admin: &str| configured(Backend::echo().address, admin) + lists;
    let file = folder.write("both.toml", &text(&format!("listen = [\"{socket}\", \"127.0.0.1:0\"]")));
    let mut program = Program::serve(&file);
    program.stderr.wait_for(&format!("admin listens address={socket}"));
    let line = program.stderr.wait_for("admin listens address=127");
    let tcp = line.split("address=").nth(1).unwrap();
    let add = |at: &str, more: &[&str]| -> Vec<String> {
        let words = ["list", "add", "bans", "203.0.113.7", "--admin", at];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let run = |arguments: &[String], code: i32, part: &str| {
        check_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, part);
    };
    run(&add(tcp, &[]), 1, "changes need a Unix socket");
    check_run(&["status", "--admin", tcp], 0, "serving");
    run(&add(&socket, &[]), 0, "added");
    let line = program.stderr.wait_for("an entry was added");
    let user = format!("uid={}", nix_uid());
    assert!(line.contains("203.0.113.7/32") && line.contains(&user) && line.contains("pid="), "{line}");
    // The message is always the same; the fields have the values that differ between changes.
    assert!(
        line.contains("an entry was added to a list list=\"bans\" entry=203.0.113.7/32 result=\"added\" by=")
    );
    run(&add(&socket, &["--ttl", "1h"]), 0, "extended");
    let line = program.stderr.wait_for("the end of an entry of a list was changed list=\"bans\"");
    assert!(line.contains("result=\"extended\" ttl=3600 by="), "{line}");
    for (nth, result, message) in [
        (1, "removed", "an entry was removed from a list"),
        (1, "absent", "an entry to remove is not in the list"),
    ] {
        run(&["list", "remove", "bans", "203.0.113.7", "--admin", &socket].map(str::to_owned), 0, result);
        let line = program.stderr.wait_for_nth(nth, message);
        assert!(
            line.contains(&format!("list=\"bans\" entry=203.0.113.7/32 result=\"{result}\" by=")),
            "{line}"
        );
    }
    program.expect_end_by("TERM");

    let file = folder.write("token.toml", &text("listen = \"127.0.0.1:0\"\ntoken_file = \"token\""));
    let mut program = Program::serve(&file);
    let line = program.stderr.wait_for("admin listens address=");
    let tcp = line.split("address=").nth(1).unwrap();
    run(&add(tcp, &[]), 1, "401");
    run(&add(tcp, &["--token-file", folder.path("token").to_str().unwrap()]), 0, "added");
    let line = program.stderr.wait_for("an entry was added");
    assert!(line.contains("by=127.0.0.1:") && line.contains("with the token"), "{line}");
    program.expect_end_by("TERM");
}

/// Returns the user id of this process, as the kernel has it.
fn nix_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid()
}

/// `run --admin` needs no [admin] table, and commands find the listener by POINTSMAN_ADMIN.
#[test]
fn the_command_line_may_give_an_admin_listener() {
    let folder = Folder::new("admin-given");
    let socket = format!("unix:{}", folder.path("given.sock").display());
    let text = configured(Backend::echo().address, "").replace("[admin]", "");
    let file = folder.write("config.toml", &text);
    let mut program = Program::start(&mut command(&["run", "--admin", &socket, file.to_str().unwrap()]));
    program.stderr.wait_for("admin listens");
    program.stderr.wait_for("serving");
    let with = |arguments: &[&str], variable: &str| {
        let output = command(arguments).env("POINTSMAN_ADMIN", variable).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    assert_eq!(with(&["health", "--ready"], &socket).0, Some(0));
    assert!(
        with(&["status"], "nonsense").1.contains("POINTSMAN_ADMIN is \"nonsense\", which is not an address")
    );
    assert_eq!(with(&["status"], "nonsense").0, Some(2));
    assert_eq!(with(&["health", "--admin", &socket], "unix:/nowhere").0, Some(0), "the argument comes first");
    // A reload keeps the listener, and finds no difference.
    program.signal("HUP");
    let line = program.stderr.wait_for("reload");
    assert!(!line.contains("restart"), "{line}");
    assert_eq!(with(&["health"], &socket).0, Some(0));
    program.expect_end_by("TERM");
    let alone = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", "0.0.0.0:0"];
    check_run(&alone, 2, "there is no token");
}
