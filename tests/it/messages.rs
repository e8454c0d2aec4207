//! The messages of the program for the mistakes of operators. Each is a snapshot of the whole text, because a
//! message must say what is wrong, where, and what to write instead.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use crate::process::{Folder, command};
use crate::support::PATIENCE;

/// The pools and listeners of the configuration with the mistake.
const REST: &str =
    "[listener.db]\nbind = \":5432\"\npool = \"db\"\n[pool.db]\nbackends = [\"10.0.0.1:5432\"]\n";

/// Compares the output of a command with the snapshot of that name. The folder is `.` in the snapshot.
#[track_caller]
fn snapshot(name: &str, folder: &Folder, texts: &[String]) {
    let path = folder.path("");
    let path = path.to_str().unwrap().trim_end_matches('/');
    let all = texts.join("\n").replace(&format!("{path}/"), "").replace(path, ".");
    // The list of known keys is not part of the message.
    let keys = |line: &str| {
        line.split_once(" takes: ").map_or(line.to_owned(), |(noun, _)| format!("{noun} takes: ..."))
    };
    let all = all.lines().map(keys).collect::<Vec<_>>().join("\n");
    insta::with_settings!({
        snapshot_path => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/messages"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, all);
    });
}

/// Returns the output of a command, and its exit code.
fn said(folder: &Folder, arguments: &[&str], input: &str) -> String {
    let mut child = command(arguments)
        .current_dir(folder.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap();
    format!("$ pointsman {}\nexit {code}\n{}", arguments.join(" "), String::from_utf8(text).unwrap())
}

/// Compares the answer of `check` to a text.
#[track_caller]
fn check(name: &str, text: &str) {
    check_each(name, &[text]);
}

/// Compares the answers of `check` to several texts.
#[track_caller]
fn check_each(name: &str, texts: &[&str]) {
    let folder = Folder::new(&format!("message-{name}"));
    let answers = texts.iter().map(|text| {
        folder.write("config.toml", text);
        said(&folder, &["check", "config.toml"], "")
    });
    snapshot(name, &folder, &answers.collect::<Vec<_>>());
}

fn with_listener(keys: &str) -> String {
    REST.replace("pool = \"db\"\n", &format!("pool = \"db\"\n{keys}\n"))
}

fn with_pool(keys: &str) -> String {
    format!("{REST}{keys}\n")
}

fn with_backends(backends: &str) -> String {
    REST.replace("[\"10.0.0.1:5432\"]", backends)
}

#[test]
fn keys_and_values() {
    check("01_typo", &REST.replace("backends", "backend"));
    check(
        "02_wrong_types",
        &with_listener("routes = \"x\"\nidle_timeout = true")
            .replace("[\"10.0.0.1:5432\"]", "\"10.0.0.1:5432\""),
    );
    check_each(
        "20_weights",
        &["-1", "100000", "1.5"]
            .map(|weight| with_backends(&format!("[{{ address = \"10.0.0.1:1\", weight = {weight} }}]")))
            .each_ref()
            .map(String::as_str),
    );
    check("21_no_unit", &with_listener("idle_timeout = \"30\"\nhalf_closed_timeout = 60"));
    check("43_off", &with_listener("idle_timeout = \"off\"\nhalf_closed_timeout = \"0s\""));
}

#[test]
fn keys_of_the_whole_file_below_a_table() {
    check(
        "top_keys_below_a_table",
        "[admin]\nlisten = \"127.0.0.1:10190\"\nmax_connections = 100\nworkers = 2\n[listener.a]\nbind = \":5432\"\n\
         pool = \"a\"\n[pool.a]\nbackends = [\"10.0.0.1:5432\"]\n",
    );
}

#[test]
fn addresses() {
    check("06_networks", &with_listener("deny = [\"10.0.0.1/8\", \"300.1.1.1\", \"10.0.0.0/40\"]"));
    check(
        "35_networks_of_others",
        &with_listener(
            "deny = [\"10.0.0.1-10.0.0.9\", \"10.0.0.0/255.0.0.0\", \"10.1.*\", \"[::1]\", \"10.0.0.1:80\"]",
        ),
    );
    check(
        "16_variables",
        "[listener.db]\nbind = \"${BIND}\"\npool = \"$POOL\"\ndeny = \"${NET}\"\nidle_timeout = \"${TIME}\"\n\
         [pool.db]\nbackends = [\"${DB_HOST}:5432\", \"$DB\"]\nbalance = \"${BALANCE}\"\n",
    );
    check(
        "17_ipv6_without_brackets",
        &with_backends("[\"::1:5432\", \"fe80::1%eth0:5432\", \"[fe80::1]:5432\"]"),
    );
    check("18_missing_port", &with_backends("[\"10.0.0.1\", \"::1\", \"[::2]\", \"db1\"]"));
    check_each(
        "addresses_of_checks",
        &["10.0.0.300:80", "db1:http"]
            .map(|address| with_pool(&format!("health.address = \"{address}\"")))
            .each_ref()
            .map(String::as_str),
    );
    check(
        "names_in_one_source",
        &with_backends("[]").replace("backends = []", "discover = { dns = [\"a\", \"b\"], port = 443 }"),
    );
    check(
        "backend_without_a_port_is_the_listener",
        &with_pool("health.check = \"off\"")
            .replace("\":5432\"", "\"127.0.0.1:30000-30009\"")
            .replace("10.0.0.1:5432", "127.0.0.1"),
    );
    check(
        "broken_host_names",
        &with_backends("[\"a..b:80\", \".a:80\", \"дб:80\", \"дб\", \"a b:80\", \"db.1:80\", \"a,b\"]"),
    );
    check(
        "broken_range",
        &REST
            .replace("\":5432\"", "\":30100-30000\"")
            .replace("\"10.0.0.1:5432\"", "\"10.0.0.1\"")
            .replace("[pool.db]", "[pool.db]\nhealth.check = \"off\""),
    );
    check("19_ports", &with_backends("[\"10.0.0.1:0\", \"10.0.0.1:70000\", \"10.0.0.1:http\"]"));
    let binds = "[\"[::]\", \"::443\", \"0.0.0.0\", \"*:443\", \"443\", \"/run/x.sock\", \"unix:x.sock\", \"tcp://0.0.0.0:443\", \
                 \" 127.0.0.1:443 \", \"[2001:db8::1%eth0]:443\", \"10.0.0.1%eth0:443\", \"127.0.0.1:99999\"]";
    check("35_binds_of_others", &REST.replace("\":5432\"", binds));
    let backends = "[\"http://10.0.0.2:443\", \"10.0.0.3:443 weight=3\", \"10.0.0.0/24:80\", \"10.0.0.1:80-90\", \
                    { host = \"10.0.0.4\", port = 443 }, \"0.0.0.0:80\"]";
    check("35_backends_of_others", &with_backends(backends));
}

#[test]
fn references() {
    check("05_bound_twice", &format!("{REST}[listener.b]\nbind = \"0.0.0.0:5432\"\npool = \"db\"\n"));
    check("07_unknown_pool", &REST.replace("pool = \"db\"", "pool = \"dv\""));
    check(
        "08_equal_routes",
        "[listener.web]\nbind = \":443\"\nprotocol = \"tls\"\nroutes = [\n  { sni = \"a.example.com\", pool = \"web\" },\n  \
         { sni = \"A.Example.COM\", pool = \"web\" },\n]\n[pool.web]\nbackends = [\"10.0.0.1:443\"]\n",
    );
    check("09_backend_is_the_listener", &REST.replace("10.0.0.1:5432", "127.0.0.1:5432"));
    check("26_open_admin", &format!("[admin]\nlisten = \"0.0.0.0:9100\"\n{REST}"));
    let tls = |routes: &str| {
        format!(
            "[listener.web]\nbind = \":443\"\nprotocol = \"tls\"\nroutes = [{routes}]\n[pool.web]\nbackends = [\"10.0.0.1:443\"]\n"
        )
    };
    let names = ["*", "*.*.example.com", "a*.example.com", "bücher.example", "10.0.0.1", "a.example.com:443"];
    let names = names.map(|name| format!("  {{ sni = \"{name}\", pool = \"web\" }},\n"));
    check("36_names", &tls(&format!("\n{}  {{ sni_regex = \"(\", pool = \"web\" }},\n", names.concat())));
    check(
        "A2_left_to_unmatched",
        &tls("{ sni = \"admin.example.com\", source = \"10.0.0.0/8\", pool = \"web\" }").replacen(
            "routes",
            "unmatched = \"web\"\nroutes",
            1,
        ),
    );
    check(
        "A2_left_to_a_wider_name",
        &tls(
            "\n  { sni = \"admin.example.com\", source = \"10.0.0.0/8\", pool = \"web\" },\n  { sni = \"*.example.com\", pool = \"web\" },\n",
        ),
    );
    let admin = r#"{ sni_regex = "admin\\..*", source = "10.0.0.0/8", pool = "web" }"#;
    check(
        "A2_left_to_an_expression",
        &tls(&format!("\n  {admin},\n  {{ sni_regex = \".*\", pool = \"web\" }},\n")),
    );
    check(
        "A2_wildcard_before_an_expression",
        &tls(&format!("\n  {admin},\n  {{ sni = \"*.example.com\", pool = \"web\" }},\n")),
    );
}

#[test]
fn files() {
    let folder = Folder::new("message-files");
    let file = |name: &str, bytes: &[u8]| fs::write(folder.path(name), bytes).unwrap();
    let checked = |name: &str| said(&folder, &["check", name], "");
    let both = |name: &str| [checked(name), said(&folder, &["run", name], "")];
    snapshot("04_no_file", &folder, &both("nowhere.toml"));
    file("empty.toml", b"");
    snapshot("11_empty", &folder, &[checked("empty.toml")]);
    file("binary.toml", b"\x7fELF\x02\x01\x01\0\0\xff\xfe");
    snapshot("12_binary", &folder, &[checked("binary.toml")]);
    File::create(folder.path("large.toml")).unwrap().set_len(300 << 20).unwrap();
    snapshot("13_large", &folder, &[checked("large.toml")]);
    fs::create_dir(folder.path("directory")).unwrap();
    snapshot("14_directory", &folder, &[checked("directory")]);
    file("end.toml", format!("{REST}[pool.db\nx = \"").as_bytes());
    snapshot("15_syntax", &folder, &[checked("end.toml")]);
    let typed = said(&folder, &["check", "-"], REST);
    snapshot("23_standard_input", &folder, &[typed, said(&folder, &["check", "-"], "[listener.db]\n")]);

    let beside = |name: &str, text: String| {
        file(name, text.as_bytes());
        checked(name)
    };
    let list = with_listener("deny = \"bad\"") + "[list.bad]\nfile = \"bad.txt\"\n";
    let routes = with_listener("routes_file = \"more.toml\"");
    let admin = format!("[admin]\nlisten = \"127.0.0.1:10190\"\ntoken_file = \"token\"\n{REST}");
    let discover = REST.replace("backends = [\"10.0.0.1:5432\"]", "discover = { file = \"db.json\" }");
    let log = format!("access_log.to = \"nowhere/access.log\"\n{REST}");
    let missing = [list, routes, admin.clone(), discover, log.clone()];
    let answers = missing.map(|text| beside("beside.toml", text));
    snapshot("24_missing_side_files", &folder, &answers);
    let all = format!(
        "access_log.to = \"nowhere/access.log\"\n[list.one]\nfile = \"one.txt\"\n[list.two]\nfile = \"two.txt\"\n[list.three]\n\
         file = \"three.txt\"\n{}[listener.more]\nbind = \":5433\"\npool = \"db\"\nroutes_file = \"more.toml\"\n",
        with_listener("routes_file = \"broken.toml\"")
    );
    file("one.txt", b"192.0.2.1\n192.0.2.2/99\n");
    file("two.txt", b"nonsense\n");
    file("broken.toml", b"routes = [{ source = \"x\", pool = \"db\" }]\n");
    snapshot("files_all_at_once", &folder, &[beside("all.toml", all)]);
    let tokens = ["", "short"].map(|token| {
        file("token", token.as_bytes());
        beside("tokens.toml", admin.clone())
    });
    snapshot("25_tokens", &folder, &tokens);
    snapshot("33_log_without_directory", &folder, &[beside("log.toml", log)]);
}

#[test]
fn configurations_of_others() {
    let yaml = "listeners:\n  - name: web\n    bind: \":443\"\n    pool: web\npools:\n  web:\n    backends:\n      - 10.0.0.1:443\n";
    let nginx = "stream {\n    upstream db {\n        server 10.0.0.1:5432;\n    }\n    server {\n        listen 5432;\n        proxy_pass db;\n    }\n}\n";
    let haproxy = "frontend web\n    bind :443\n    mode tcp\n    default_backend app\nbackend app\n    balance leastconn\n    server a 10.0.0.1:443 check\n";
    check_each("27_yaml_nginx_haproxy_json", &[yaml, nginx, haproxy, "{ \"listener\": { \"db\": {} } }\n"]);
    check_each(
        "short_forms_of_others",
        &[
            "stream {\n  upstream db { server 10.0.0.1:5432; }\n  server { listen 5432; proxy_pass db; }\n}\n",
            "stream { upstream db { server 10.0.0.1:5432; } server { listen 5432; proxy_pass db; } }\n",
            "listener:\n  db:\n    bind:\n      - \":5432\"\n      - \":5433\"\n      - \":5434\"\n",
            "# c\nlistener:\n- a\n",
        ],
    );
    check(
        "29_words_of_others",
        "include = \"conf.d/*.toml\"\ndaemon = true\ntimeout = \"5s\"\n\
         [listener.web]\nlisten = \":443\"\nserver_name = \"a.example.com\"\nprotocol = \"mysql\"\ndefault_backend = \"app\"\n\
         [pool.app]\nservers = [\"10.0.0.1:443\"]\nalgorithm = \"leastconn\"\nbalance = \"source\"\nsend_proxy = true\ntimeout = \"5s\"\nmaxconn = 5\n\
         [pool.db]\nbackends = [{ host = \"10.0.0.1\" }]\nbalance = \"leastconn\"\nhealth = { inter = \"2s\" }\n",
    );
}

#[test]
fn ports_and_addresses_of_this_host() {
    let folder = Folder::new("message-ports");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = |bind: &str| {
        format!("access_log.to = \"off\"\n{}", REST.replace(":5432\"\npool", &format!("{bind}\"\npool")))
    };
    // Times, and reports about the user, differ between runs; only the error is compared.
    let errors = |said: String| {
        let lines = said.lines().filter_map(|line| Some(format!("ERROR {}", line.split(" ERROR ").nth(1)?)));
        lines.collect::<Vec<_>>().join("\n").replace(&address, "127.0.0.1:PORT")
    };
    folder.write("taken.toml", &text(&address));
    folder.write("foreign.toml", &text("192.0.2.1:5432"));
    let of = |name: &str| errors(said(&folder, &["run", name], ""));
    snapshot("03_port_in_use", &folder, &[of("taken.toml")]);
    snapshot("31_foreign_address", &folder, &[of("foreign.toml")]);
}

#[test]
fn commands() {
    let folder = Folder::new("message-commands");
    snapshot("rnu", &folder, &[said(&folder, &["rnu"], ""), said(&folder, &["chekc", "x"], "")]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let told = said(&folder, &["status", "--admin", &nobody], "").replace(&nobody, "127.0.0.1:PORT");
    // A server that is not pointsman, with a page of its own.
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = foreign.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        let (mut stream, _) = foreign.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // If the request stayed unread, the end of the page would be a reset.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let page = "<p>a page</p>".repeat(500);
        let _ = write!(stream, "HTTP/1.0 404 Not Found\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    });
    let page = said(&folder, &["status", "--admin", &address], "").replace(&address, "127.0.0.1:PORT");
    served.join().unwrap();
    snapshot("40_nobody_there", &folder, &[told, page]);
}
