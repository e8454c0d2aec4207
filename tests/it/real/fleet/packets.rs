//! The rules by the packets that they move: SYN cookies, a stray packet, a large stream, and the rules themselves.

use std::io::Write;
use std::process::Stdio;

use super::super::{ChildGuard, Lines, run};
use super::lab::{Lab, PORT, VIP, VIP6};

/// Returns a counter of the kernel in the namespace of a node.
fn counter(lab: &Lab, node: usize, name: &str) -> u64 {
    let text = lab.sh(&format!("n{node}"), &format!("nstat -asz {name} | tail -n 1"));
    text.split_whitespace().nth(1).unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn a_handshake_with_a_cookie_ends_where_it_began() {
    let lab = Lab::start_behind_router(3);
    lab.set_rules();
    for node in 1..=3 {
        lab.sh(&format!("n{node}"), "sysctl -qw net.ipv4.tcp_syncookies=2");
    }
    let before: Vec<_> = (1..=3).map(|node| counter(&lab, node, "TcpExtSyncookiesRecv")).collect();
    for vip in [VIP, VIP6] {
        lab.clients(vip, 100, 0).end().assert_whole("rules, SYN cookies forced");
    }
    for node in 1..=3 {
        let [sent, taken] =
            ["Sent", "Recv"].map(|word| counter(&lab, node, &format!("TcpExtSyncookies{word}")));
        println!("fleet: SYN cookies of node {node}: sent {sent}, taken {taken}");
        assert!(taken > before[node - 1], "node {node}: {taken}");
        assert_eq!(sent, taken, "node {node}");
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn a_stray_packet_goes_once_around_and_gets_a_reset() {
    let lab = Lab::start_behind_router(3);
    lab.set_rules();
    let count = format!(
        "nft -f - <<'END'\ntable inet count {{\nchain count {{ type filter hook prerouting priority -300; \
         iifname \"eth1\" tcp dport {PORT} counter\n}}\n}}\nEND\n"
    );
    for node in 1..=3 {
        lab.sh(&format!("n{node}"), &count);
    }
    let mut stray = lab.python("client", "stray.py", include_str!("stray.py"));
    assert_eq!(run(stray.args(["10.9.0.2", VIP, PORT])), "reset\n");
    for node in 1..=3 {
        let counted = lab.sh(&format!("n{node}"), "nft list table inet count");
        assert!(counted.contains("counter packets 1 "), "node {node}: {counted}");
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn a_large_stream_is_forwarded_whole() {
    let lab = Lab::start_behind_router(3);
    lab.set_rules();
    let mut command = lab.python("client", "upload.py", include_str!("upload.py"));
    command.args([VIP, PORT, "1024"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut upload = ChildGuard::spawn(&mut command);
    let mut input = upload.0.stdin.take().unwrap();
    let lines = Lines::follow(upload.0.stdout.take().unwrap());
    let node: usize = lines.wait_for("NODE 10.9.1.1").parse().unwrap();
    let mut send = |what: &str| {
        let before = lines.lines.lock().unwrap().len();
        writeln!(input, "{what}").unwrap();
        crate::support::wait_for(what, || lines.lines.lock().unwrap().len() > before);
        lines.lines.lock().unwrap().last().unwrap().clone()
    };
    let direct = send("1 GiB to the node itself");
    lab.command(node, &["leave"]);
    lab.wait_for_paths(2);
    let before = counter(&lab, node, "IpExtInOctets");
    let forwarded = send("1 GiB over another node");
    println!("fleet: 1 GiB through one connection, MiB/s: direct {direct}, forwarded {forwarded}");
    assert!(counter(&lab, node, "IpExtInOctets") - before > 1 << 30, "the bytes did not come to the node");
    // They came over the link between the nodes.
    let link = lab.sh(&format!("n{node}"), "cat /sys/class/net/eth1/statistics/rx_bytes");
    assert!(link.trim().parse::<u64>().unwrap() > 1 << 30, "{link}");
    drop(input);
    assert!(upload.wait().success());
}

#[test]
#[ignore = "needs root, iproute2 and nftables"]
fn rules_set_twice_are_the_same_and_removal_leaves_nothing() {
    let lab = Lab::new(2);
    let state = || {
        // The kernel makes routes for its link-local addresses at its own time.
        lab.sh(
            "n1",
            "nft list ruleset; ip -d rule; ip -d -6 rule; \
             ip -4 route show table all; ip -6 route show table all | grep -v 'proto kernel'",
        )
    };
    let before = state();
    lab.set_rules();
    let once = state();
    assert!(once.contains("pointsman_fleet") && once.contains("fwmark 0x706e"), "{once}");
    lab.set_rules();
    assert_eq!(state(), once);
    // bird leaves routes if it is killed.
    lab.ip("n1", "route add default via 10.9.2.12 table 28782");
    lab.ip("n1", "-6 route add default via fd00:2::12 table 28782");
    let removal = lab.write("remove.sh", lab.command(1, &["fleet-rules", "--remove"]));
    for _ in 0..2 {
        run(lab.at("n1", "sh").arg(&removal));
        assert_eq!(state(), before);
    }
    // An nft that refuses the rules leaves the node as it was.
    let script = lab.rules(1, "sh").replace("socket wildcard 1", "socket unknown 1");
    let script = lab.write("broken.sh", script);
    let output = super::super::finish(lab.at("n1", "sh").arg(script), b"");
    assert!(!output.status.success());
    assert_eq!(state(), before);
}
