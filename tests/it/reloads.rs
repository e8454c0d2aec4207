//! The log of a reload: each backend by its name, open connections, and the end of drains.

use std::net::{SocketAddr, TcpStream};

use crate::process::{Folder, Program};
use crate::support::Backend;
use crate::support::pair::{expect_reset, patient};

fn text(process: &str, backends: &str) -> String {
    format!(
        "access_log.to = 'off'\n{process}\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'app'\n\
         [pool.app]\nbackends = [{backends}]\nhealth.check = 'off'\n"
    )
}

fn backend(name: &str, address: SocketAddr, keys: &str) -> String {
    format!("{{ name = '{name}', address = '{address}'{keys} }}")
}

fn served(address: SocketAddr) -> TcpStream {
    use std::io::{Read, Write};
    let mut stream = patient(TcpStream::connect(address).unwrap());
    stream.write_all(b"?").unwrap();
    stream.read_exact(&mut [0]).expect("the client is served");
    stream
}

#[test]
fn a_reload_names_backends_and_the_end_of_their_drain() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let folder = Folder::new("reload-backends");
    let process = "workers = 1\nshutdown.drain = '100ms'";
    let [b1, b2, b3] = [("b1", one.address), ("b2", other.address), ("b3", other.address)]
        .map(|(name, address)| backend(name, address, if name == "b1" { "" } else { ", weight = 0" }));
    let path = folder.write("config.toml", &text(process, &[b1, b2.clone()].join(", ")));
    let mut program = Program::serve(&path);
    let open = served(program.address("main"));
    folder.write("config.toml", &text(process, &[b2.replace("= 0", "= 1"), b3].join(", ")));
    program.signal("HUP");
    let line = program.stderr.wait_for("reloaded");
    assert!(line.contains("changed pool app [added b3; removed b1 (1 open); changed b2]"), "{line}");
    let line = program.stderr.wait_for("the drain of a removed backend is over");
    assert!(line.contains("pool=app backend=b1 reset=1"), "{line}");
    expect_reset(&open);
    program.expect_end_by("TERM");
    let lines = program.stderr.all();
    assert_eq!(lines.iter().filter(|line| line.contains("the drain of")).count(), 1, "{lines:?}");
}

#[test]
fn a_backend_that_drains_in_time_is_reported_too() {
    let (one, other) = (Backend::echo(), Backend::echo());
    let folder = Folder::new("reload-drained");
    let path = folder.write("config.toml", &text("workers = 1", &backend("b1", one.address, "")));
    let mut program = Program::serve(&path);
    let open = served(program.address("main"));
    folder.write("config.toml", &text("workers = 2", &backend("b2", other.address, "")));
    program.signal("HUP");
    let line = program.stderr.wait_for("a restart is needed for workers; until then");
    assert!(line.contains("WARN"), "{line}");
    drop(open);
    let line = program.stderr.wait_for("the drain of a removed backend is over");
    assert!(line.contains("pool=app backend=b1 reset=0"), "{line}");
    program.expect_end_by("TERM");
}

#[test]
fn a_removed_listener_is_named_with_what_is_open() {
    let backend_of = Backend::echo();
    let folder = Folder::new("reload-listener");
    let process = "workers = 1\nshutdown.drain = '100ms'";
    let both = text(process, &backend("b1", backend_of.address, ""))
        + "[listener.extra]\nbind = '127.0.0.1:0'\npool = 'app'\n";
    let path = folder.write("config.toml", &both);
    let mut program = Program::serve(&path);
    let open = served(program.address("extra"));
    folder.write("config.toml", &text(process, &backend("b1", backend_of.address, "")));
    program.signal("HUP");
    let line = program.stderr.wait_for("reloaded");
    assert!(line.contains("removed listener extra [1 open]"), "{line}");
    let line = program.stderr.wait_for("the drain of a removed listener is over");
    assert!(line.contains("listener=extra reset=1"), "{line}");
    expect_reset(&open);
    program.expect_end_by("TERM");
}
