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

/// The option of `ip` for a family, and a network of the family.
const FAMILIES: [(&str, &str); 2] = [("-4", "10.77.0.0/16"), ("-6", "fd00:77::/64")];

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
    for (family, network) in FAMILIES {
        lab.ip("n1", &format!("{family} rule add from {network} lookup 77"));
        let rules = lab.ip("n1", &format!("{family} rule"));
        let [own, other] = ["lookup local", "lookup 77"].map(|rule| rules.find(rule).unwrap());
        assert!(own < other, "a rule without a preference is before the rule for own addresses: {rules}");
        lab.ip("n1", &format!("{family} rule del lookup 77"));
    }
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

/// Makes a script write a line to a file after each of its commands of `ip`: the state of the rules for own addresses.
fn watched(script: &str, file: &str) -> String {
    let watch = format!(
        r#"#!/bin/sh
ip() {{
    command ip "$@" && code=0 || code=$?
    for option in -4 -6; do
        if command ip $option rule show pref 0 | grep -Eq '^0:[[:space:]]+(not from all fwmark 0x706e|from all) lookup local$'
        then echo present; else echo "missing: ip $*"; fi >>{file}
    done
    return $code
}}
"#
    );
    script.replacen("#!/bin/sh\n", &watch, 1)
}

#[test]
#[ignore = "needs root, iproute2 and nftables"]
fn rules_of_other_programs_stay_and_own_addresses_always_have_a_rule() {
    let lab = Lab::new(2);
    let rules = |family: &str| {
        let text = lab.ip("n1", &format!("-d {family} rule"));
        let mut rules: Vec<String> = text.lines().map(str::to_owned).collect();
        rules.sort();
        rules
    };
    let foreign: Vec<String> = [0, 32000, 32001]
        .into_iter()
        .flat_map(|pref| [format!("pref {pref} fwmark 0x5 lookup local"), format!("pref {pref} lookup 77")])
        .chain(["pref 32000 fwmark 0x706e/0xffff lookup 28782".to_owned()])
        .collect();
    for (family, _) in FAMILIES {
        for rule in &foreign {
            lab.ip("n1", &format!("{family} rule add {rule}"));
        }
    }
    let before = FAMILIES.map(|(family, _)| rules(family));
    let file = lab.path("watched");
    let setup = lab.write("setup.sh", watched(&lab.rules(1, "sh"), &file));
    let removal = lab.write("remove.sh", watched(&lab.command(1, &["fleet-rules", "--remove"]), &file));
    // The first removal puts the rule of the kernel behind that of the other program.
    for _ in 0..2 {
        for _ in 0..2 {
            run(lab.at("n1", "sh").arg(&setup));
            for ((family, _), before) in FAMILIES.into_iter().zip(&before) {
                let set = rules(family);
                let is_moved = |rule: &&String| rule.starts_with("0:\tfrom all lookup local ");
                assert_eq!(set.iter().find(is_moved), None);
                let missing: Vec<_> = before.iter().filter(|rule| !set.contains(rule)).collect();
                assert!(missing.iter().all(is_moved) && missing.len() == 1, "{missing:?}");
                assert_eq!(set.len(), before.len() + 2, "{set:?}");
            }
        }
        for _ in 0..2 {
            run(lab.at("n1", "sh").arg(&removal));
            assert_eq!(FAMILIES.map(|(family, _)| rules(family)), before);
        }
    }
    // A removal that was interrupted leaves both rules.
    run(lab.at("n1", "sh").arg(&setup));
    for (family, _) in FAMILIES {
        lab.ip("n1", &format!("{family} rule add pref 0 lookup local protocol kernel"));
    }
    run(lab.at("n1", "sh").arg(&setup));
    let set = rules("-4");
    assert!(set.iter().any(|rule| rule.starts_with("0:\tnot from all fwmark 0x706e")), "{set:?}");
    run(lab.at("n1", "sh").arg(&removal));
    assert_eq!(FAMILIES.map(|(family, _)| rules(family)), before);
    let watched = std::fs::read_to_string(file).unwrap();
    assert!(watched.lines().count() > 50 && !watched.contains("missing"), "{watched}");
}
