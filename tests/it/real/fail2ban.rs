//! The files for fail2ban in `dist/`, with the real fail2ban.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use pointsman::config::AdminSpec;
use pointsman::sys::Address;

use super::{ChildGuard, Directory, run};
use crate::support::pair::connect_from;
use crate::support::recorder::Recorder;
use crate::support::{Proxy, config, wait_for};

/// Sends bytes that are not TLS from this source. Returns true if they were read: a denied client gets a
/// reset instead.
fn is_let_in(proxy: &Proxy, source: &str) -> bool {
    const ACCESS_DENIED: u8 = 49;
    let mut client = connect_from(source.parse().unwrap(), proxy.address("main"));
    let _ = client.write_all(b"SSH-2.0-scanner\r\n");
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    answer.last() != Some(&ACCESS_DENIED)
}

#[test]
#[ignore = "needs fail2ban"]
fn fail2ban_bans_and_lifts_its_bans() {
    let directory = Directory::new();
    let log = directory.file("access.log");
    let backend = Recorder::start("b");
    let text = format!(
        r#"
        workers = 1
        access_log.to = "{}"
        [listener.main]
        bind = "127.0.0.1:0"
        protocol = "tls"
        unmatched = "p"
        [list.bans]
        [lists]
        deny = "bans"
        [pool.p]
        backends = [{}]
        health.check = "off"
        "#,
        log.display(),
        backend.written()
    );
    let socket = Address::Unix(directory.file("admin.sock").as_path().into());
    let (proxy, admin) = Proxy::start_with(config(&text), AdminSpec::new(socket));
    wait_for("the log", || log.exists());

    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/fail2ban");
    let conf = directory.file("fail2ban");
    for (folder, name) in [("filter.d", "pointsman.conf"), ("action.d", "pointsman.conf")] {
        fs::create_dir_all(conf.join(folder)).unwrap();
        fs::copy(dist.join(folder).join(name), conf.join(folder).join(name)).unwrap();
    }
    fs::write(
        conf.join("fail2ban.conf"),
        "[Definition]\nloglevel = DEBUG\nsyslogsocket = auto\ndbfile = None\n",
    )
    .unwrap();
    let program = env!("CARGO_BIN_EXE_pointsman");
    let shipped = fs::read_to_string(dist.join("jail.d/pointsman.conf")).unwrap();
    let jail = shipped
        .replace("/var/log/pointsman/access.log", &log.display().to_string())
        .replace(
            "admin=\"unix:/run/pointsman/admin.sock\"",
            &format!("admin=\"{admin}\", pointsman=\"{program}\""),
        )
        .replace("maxretry = 20", "maxretry = 2")
        .replace("backend = auto", "backend = polling");
    assert!(jail.contains(program) && jail.contains("= 2") && jail.contains("polling"), "{jail}");
    fs::write(conf.join("jail.conf"), format!("[DEFAULT]\nignoreself = false\n{jail}")).unwrap();

    let (socket, told) = (directory.file("socket"), directory.file("fail2ban.log"));
    let common = |command: &mut Command| {
        command.arg("-c").arg(&conf).arg("-s").arg(&socket).arg("-p").arg(directory.file("pid"));
    };
    let mut server = Command::new("fail2ban-server");
    common(&mut server);
    server.args(["-f", "--logtarget"]).arg(&told).arg("start").stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = ChildGuard::spawn(&mut server);
    let client = |words: &[&str]| {
        let mut command = Command::new("fail2ban-client");
        common(&mut command);
        command.args(words).output().unwrap()
    };
    wait_for("fail2ban", || client(&["status", "pointsman"]).status.success());

    assert!(is_let_in(&proxy, "127.0.2.2") && is_let_in(&proxy, "127.0.2.2"));
    // No client connects meanwhile. fail2ban would read the line of its refusal after the end of the ban, and
    // would begin another ban.
    let bans =
        || pointsman::admin::ask(admin.clone(), "/api/v1/lists/bans", crate::support::PATIENCE).unwrap().1;
    wait_for("the ban", || bans().contains("127.0.2.2/32"));
    assert!(!is_let_in(&proxy, "127.0.2.2"));
    assert!(is_let_in(&proxy, "127.0.0.1"), "others are not banned");
    let listed = bans();
    assert!(listed.contains("127.0.2.2/32") && listed.contains("\"ttl_seconds\": 3"), "{listed}");
    // fail2ban runs no command to lift a ban whose own command has not ended, although the entry may be there already.
    wait_for("the end of the command", || fs::read_to_string(&told).unwrap().contains("Banned 1 / 1"));
    let lifted = client(&["set", "pointsman", "unbanip", "127.0.2.2"]);
    assert!(lifted.status.success(), "{lifted:?}");
    // A client that is refused meanwhile would have a line in the log, and fail2ban would begin another ban.
    wait_for("the end of the ban", || !bans().contains("127.0.2.2/32"));
    assert!(is_let_in(&proxy, "127.0.2.2"));
    let said = fs::read_to_string(&told).unwrap();
    assert!(!said.contains("ERROR"), "{said}");
    run(Command::new("kill").arg(server.0.id().to_string()));
    server.wait();
}
