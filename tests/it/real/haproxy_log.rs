//! The access log in the forms of HAProxy: halog reads it, and haproxy writes the same for the same connections.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::checks::RunningServer;
use super::proxied::haproxy;
use super::{Program, finish, said};
use crate::support::hello::hello;
use crate::support::pair::{connect_from, expect_bytes, patient, reset};
use crate::support::{Backend, own_address, wait_for};

/// A backend that echoes, and resets a connection that sends `r`.
fn backend() -> Backend {
    Backend::serve(|mut stream| {
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if buffer[0] == b'r' {
                return reset(stream);
            }
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// The way in which a client uses a connection.
#[derive(Clone, Copy, Debug)]
enum Use {
    /// Sends some bytes, reads them, and closes.
    Echo,
    /// Sends some bytes, reads them, and resets.
    Reset,
    /// Makes the backend reset.
    BackendReset,
    /// Sends some bytes, reads them, and waits until the proxy closes.
    Idle,
    /// Waits until the proxy closes.
    Refused,
}

fn connect(to: SocketAddr, usage: Use) {
    let mut stream = patient(TcpStream::connect(to).unwrap());
    if let Use::Echo | Use::Reset | Use::Idle = usage {
        stream.write_all(b"four").unwrap();
        expect_bytes(&stream, b"four");
    }
    match usage {
        Use::Echo => {}
        Use::Reset => reset(stream),
        Use::BackendReset => {
            stream.write_all(b"r").unwrap();
            _ = stream.read(&mut [0]);
        }
        Use::Idle | Use::Refused => _ = stream.read(&mut [0]),
    }
}

/// Runs halog in UTC on a log and returns its lines. Its last line on standard error has the number of lines that it could
/// not read.
#[track_caller]
fn halog(arguments: &str, log: &str) -> Vec<String> {
    let mut command = Command::new("halog");
    command.args(arguments.split(' ')).env("TZ", "UTC");
    let output = finish(&mut command, log.as_bytes());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && !told.contains("Truncated") && !told.contains("ERR"),
        "{}",
        said(&output)
    );
    assert!(arguments.contains("-c") || told.contains(", 0 parsing errors"), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Starts the program with an access log in a form of HAProxy, with two backends, a dead backend and a listener for each.
fn program(keys: &str) -> Program {
    let ([one, two], dead) = ([backend(), backend()], own_address());
    let listener = |name: &str, keys: &str| format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\n{keys}\n");
    let pool = |name: &str, backend: &str| {
        format!("[pool.{name}]\nbackends = [{backend}]\nhealth.check = \"off\"\n")
    };
    let named = |name: &str, address: SocketAddr| format!("{{ name = \"{name}\", address = \"{address}\" }}");
    Program::start(&format!(
        "{keys}\n{}{}{}{}{}{}{}",
        listener("first", "pool = \"app\"\ndeny = \"127.0.0.9\"\nidle_timeout = \"1s\""),
        listener("second", "pool = \"web\""),
        listener("third", "pool = \"dead\""),
        listener("names", "protocol = \"tls\"\nunmatched = \"web\""),
        pool("app", &named("one", one.address)),
        pool("web", &named("two", two.address)),
        pool("dead", &named("down", dead)),
    ))
}

/// Makes connections of each kind. Returns their number.
fn make_connections(program: &Program) -> usize {
    let uses = [
        ("first", Use::Echo, 7),
        ("second", Use::Echo, 5),
        ("first", Use::Reset, 2),
        ("first", Use::BackendReset, 3),
        ("first", Use::Idle, 1),
        ("third", Use::Refused, 4),
    ];
    for (listener, usage, count) in uses {
        let address = program.address(listener);
        (0..count).for_each(|_| connect(address, usage));
    }
    let denied = connect_from("127.0.0.9".parse().unwrap(), program.address("first"));
    _ = (&denied).read(&mut [0]);
    for name in ["a.example", "b.example", "b.example"] {
        let (mut stream, hello) =
            (patient(TcpStream::connect(program.address("names")).unwrap()), hello(name.as_bytes()));
        stream.write_all(&hello).unwrap();
        expect_bytes(&stream, &hello);
    }
    22 + 1 + 3
}

/// Returns the whole access log, once it has this many lines.
fn log(program: &Program, lines: usize) -> String {
    let path = program.directory.file("access.log");
    let mut text = String::new();
    wait_for("the lines of the access log", || {
        text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().count() >= lines && text.ends_with('\n')
    });
    assert_eq!(text.lines().count(), lines, "{text}");
    text
}

/// Returns the fields of a row of halog's table that begins with a name.
#[track_caller]
fn row(table: &[String], column: usize, name: &str) -> Vec<String> {
    let rows = table.iter().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let found = rows.into_iter().find(|fields| fields.get(column).is_some_and(|field| field == name));
    found.unwrap_or_else(|| panic!("no {name} in {table:#?}"))
}

#[test]
#[ignore = "needs halog of haproxy"]
fn halog_makes_statistics_of_httplog() {
    let program = program("format = \"httplog\"");
    let lines = make_connections(&program);
    let log = log(&program, lines);
    assert_eq!(halog("-c", &log), [lines.to_string()]);
    assert_eq!(halog("-H -c", &log), [lines.to_string()]);
    assert_eq!(halog("-tcn SD -c", &log), ["3"]);
    let states: BTreeMap<_, _> = halog("-tc", &log)
        .iter()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect();
    let expected = [("--", "15"), ("CD", "2"), ("PR", "1"), ("SC", "4"), ("SD", "3"), ("cD", "1")];
    assert_eq!(states, expected.map(|(state, count)| (state.to_owned(), count.to_owned())).into());
    // The name, five classes of HTTP, others, all, those without an error, their part, times.
    let servers = halog("-srv", &log);
    for (server, all, good) in
        [("app/one", "13", "13"), ("web/two", "8", "8"), ("dead/down", "4", "0"), ("first/<NOSRV>", "1", "0")]
    {
        let fields = row(&servers, 0, server);
        assert_eq!((&*fields[6], &*fields[7], &*fields[8]), (all, all, good), "{servers:#?}");
    }
    assert_eq!(servers.len(), 5, "{servers:#?}");
    // The last line has all connections that were served, and the longest times.
    let percentiles = halog("-pct", &log);
    let last: Vec<_> = percentiles.last().unwrap().split(' ').collect();
    assert_eq!(&last[..2], ["100.0", "21"], "{percentiles:#?}");
    let longest: u64 = last[5].parse().unwrap();
    assert!((900..20_000).contains(&longest), "the idle connection in {percentiles:#?}");
    // Requests, errors, times, the average and the sum of bytes, the source.
    let sources = halog("-ic", &log);
    let own = row(&sources, 8, "127.0.0.1");
    let echoed = 15 * "four".len() + 3 * hello(b"a.example").len();
    assert_eq!((&*own[0], &*own[7]), ("25", &*echoed.to_string()), "{sources:#?}");
    assert_eq!(row(&sources, 8, "127.0.0.9")[0], "1");
    let names = halog("-uc", &log);
    for (name, count) in [("a.example\"", "1"), ("b.example\"", "2"), ("-\"", "23")] {
        assert_eq!(row(&names, 8, name)[0], count, "{names:#?}");
    }
    program.stop();
}

/// halog finds times, servers and states only in lines of HTTP. It does not find those in the TCP log of haproxy either.
#[test]
#[ignore = "needs halog of haproxy"]
fn halog_counts_lines_and_accepts_of_tcplog() {
    let program = program("format = \"tcplog\"");
    let lines = make_connections(&program);
    let log = log(&program, lines);
    assert_eq!(halog("-c", &log), [lines.to_string()]);
    assert_eq!(halog("-E -c", &log), [lines.to_string()], "the field of a status is the number of bytes");
    assert_eq!(halog("-H -c", &log), ["0"], "no line is one of HTTP");
    assert_eq!(halog("-v -H -c", &log), [lines.to_string()]);
    assert_eq!(halog("-time 1:2 -c", &log), ["0"]);
    assert_eq!(halog("-time 1:4294967295 -c", &log), [lines.to_string()]);
    // Each row has the accepts of a millisecond.
    let accepts = halog("-ac 1", &log);
    let counts = accepts.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
    assert_eq!(counts.sum::<usize>(), lines, "{accepts:#?}");
    program.stop();
}

/// A line of a TCP log, read as programs do that know its form.
#[derive(Debug, PartialEq)]
struct TcpLine {
    names: [String; 2],
    /// True for each of `Tw` and `Tc` that is known.
    times: [bool; 2],
    is_open: bool,
    bytes: String,
    state: String,
    retries: String,
    queues: String,
}

#[track_caller]
fn read(line: &str) -> TcpLine {
    let fields: Vec<_> = line.split_whitespace().skip(5).collect();
    let [client, date, listener, server, times, bytes, state, counts, queues] = fields[..] else {
        panic!("{line}")
    };
    let (address, port) = client.rsplit_once(':').unwrap();
    assert!(address.parse::<std::net::IpAddr>().is_ok() && port.parse::<u16>().is_ok(), "{line}");
    let is_date =
        date.len() == "[06/Feb/2009:12:12:51.443]".len() && date.starts_with('[') && date.ends_with(']');
    assert!(is_date, "{line}");
    let times: Vec<_> = times.split('/').collect();
    let counts: Vec<u64> = counts.split('/').map(|count| count.parse().unwrap()).collect();
    assert_eq!((times.len(), counts.len()), (3, 5), "{line}");
    assert!(times.iter().all(|time| time.parse::<i64>().is_ok()), "{line}");
    TcpLine {
        names: [listener.to_owned(), server.to_owned()],
        times: [times[0] != "-1", times[1] != "-1"],
        is_open: times[2].starts_with('+'),
        bytes: bytes.to_owned(),
        state: state.to_owned(),
        retries: counts[4].to_string(),
        queues: queues.to_owned(),
    }
}

/// The listeners of both proxies, with their pools.
const LISTENERS: [(&str, &str); 4] =
    [("first", "app"), ("third", "dead"), ("none", "down"), ("early", "app")];

/// Runs haproxy with these addresses of listeners, backend and dead backend.
fn their_proxy(listeners: &[SocketAddr; 4], [one, dead]: [SocketAddr; 2]) -> RunningServer {
    let mut text = "global\n log stdout format rfc3164 local0\n log-send-hostname lb\ndefaults\n mode tcp\n log global\n \
        retries 0\n timeout connect 5s\n timeout client 1s\n timeout server 1s\nlisten ready\n bind 127.0.0.1:PORT\n no log\n"
        .to_owned();
    for ((name, pool), address) in LISTENERS.iter().zip(listeners) {
        let asap = if *name == "early" { " option logasap\n" } else { "" };
        text += &format!("frontend {name}\n bind {address}\n option tcplog\n{asap} default_backend {pool}\n");
    }
    text += &format!("backend app\n server one {one}\nbackend dead\n server gone {dead}\n");
    haproxy(&(text + &format!("backend down\n server off {dead} disabled\n")))
}

/// Runs the program with the same listeners and pools.
fn our_proxy(events: &str, [one, dead]: [SocketAddr; 2]) -> Program {
    let mut text = format!("format = \"tcplog\"\nevents = \"{events}\"\n");
    for (name, pool) in LISTENERS {
        text +=
            &format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\nidle_timeout = \"1s\"\n");
    }
    for (pool, server, address, state) in
        [("app", "one", one, "ready"), ("dead", "gone", dead, "ready"), ("down", "off", dead, "maintenance")]
    {
        text += &format!(
            "[pool.{pool}]\nbackends = [{{ name = \"{server}\", address = \"{address}\", state = \"{state}\" }}]\n\
             attempts = 1\nhealth.check = \"off\"\n"
        );
    }
    Program::start(&text)
}

/// Both proxies get the same clients.
#[test]
#[ignore = "needs haproxy"]
fn haproxy_writes_the_same_lines() {
    let backends = [backend().address, own_address()];
    let addresses = [(); 4].map(|()| own_address());
    let theirs = their_proxy(&addresses, backends);
    let (ours, early) = (our_proxy("end", backends), our_proxy("start", backends));
    let uses = [
        (0, Use::Echo),
        (0, Use::Reset),
        (0, Use::BackendReset),
        (0, Use::Idle),
        (1, Use::Refused),
        (2, Use::Refused),
        (3, Use::Echo),
    ];
    for (at, (listener, usage)) in uses.into_iter().enumerate() {
        let name = LISTENERS[listener].0;
        let (program, count) = if name == "early" { (&early, 1) } else { (&ours, at + 1) };
        connect(addresses[listener], usage);
        connect(program.address(name), usage);
        let mut their_lines = Vec::new();
        wait_for("a line of haproxy", || {
            let log = theirs.log();
            their_lines = log.lines().filter(|line| line.starts_with("<134>")).map(str::to_owned).collect();
            their_lines.len() > at
        });
        let log = log(program, count);
        let (our_line, their_line) = (log.lines().last().unwrap(), &their_lines[at]);
        assert_eq!(read(our_line), read(their_line), "{usage:?}\n{our_line}\n{their_line}");
    }
    ours.stop();
    early.stop();
}
