//! keepalived and exabgp in front of nodes, with the files of `dist/fleet`.

use std::fs;

use super::lab::{Lab, VIP};
use crate::support::{repository, wait_for};

/// The connections that stay open while an address moves.
const CLIENTS: usize = 200;

impl Lab {
    /// Starts two nodes with keepalived, and waits until node 1 has the address.
    fn start_pair() -> Self {
        let mut lab = Self::new(2);
        lab.ip("router", &format!("route add {VIP}/32 dev switch"));
        lab.start_birds(|_| {
            "log \"LOG\" all;\nrouter id 10.9.1.12;\nprotocol device {}\ninclude \"/etc/bird/pointsman-ring.conf\";\n"
                .to_owned()
        });
        let file = fs::read_to_string(repository("dist/fleet/keepalived.conf")).unwrap();
        for node in 1..=2 {
            lab.start(node);
            let config = file.replace("/usr/bin/pointsman", env!("CARGO_BIN_EXE_pointsman"));
            let config = if node == 2 { config.replace("priority 105", "priority 100") } else { config };
            let config = lab.write(&format!("keepalived-{node}.conf"), config);
            let mut command = lab.at(&format!("n{node}"), "keepalived");
            command.args(["--dont-fork", "--log-console", "--use-file", &config]);
            for (option, name) in [("--pid", "k"), ("--vrrp_pid", "v"), ("--checkers_pid", "c")] {
                command.arg(option).arg(lab.path(&format!("{name}{node}.pid")));
            }
            lab.serve(&mut command, &format!("keepalived-{node}.log"));
        }
        lab.wait_for_owner(1);
        lab
    }

    fn wait_for_owner(&self, node: usize) {
        wait_for(&format!("the address at node {node}"), || {
            std::thread::park_timeout(std::time::Duration::from_millis(50));
            let has = |node| self.ip(&format!("n{node}"), "-4 addr show dev eth0").contains(VIP);
            has(node) && !has(3 - node)
        });
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird, keepalived and python3"]
fn an_address_moves_between_two_nodes_and_back() {
    for has_rules in [false, true] {
        let mut lab = Lab::start_pair();
        let name = if has_rules { "pair with the rules" } else { "plain pair" };
        if has_rules {
            lab.set_rules();
        }
        let clients = lab.clients(VIP, CLIENTS, 0);
        lab.signal(1, "TERM");
        lab.wait_for_owner(2);
        let there = clients.end();
        // Without the rules, its clients cannot end its connections: their packets go to the other node.
        if has_rules {
            lab.wait_for_end(1);
        } else {
            lab.kill(1);
        }
        let clients = lab.clients(VIP, CLIENTS, 0);
        lab.start(1);
        lab.wait_for_owner(1);
        let back = clients.end();
        for (outcome, event, node) in [(there, "the address moves", 1), (back, "the address comes back", 2)] {
            let event = format!("{name}, {event}");
            assert_eq!(outcome.owned_by(node), CLIENTS as u64, "{event}");
            if has_rules {
                outcome.assert_whole(&event);
            } else {
                outcome.show(&event);
                assert_eq!(outcome.all_lost(), CLIENTS as u64, "{event}");
            }
        }
    }
}

#[test]
#[ignore = "needs root, iproute2, bird, exabgp and python3"]
fn exabgp_announces_the_address_while_the_node_is_ready() {
    let mut lab = Lab::new(2);
    lab.start_router(false);
    let file = fs::read_to_string(repository("dist/fleet/exabgp.conf")).unwrap();
    let config =
        file.replace("/usr/bin/pointsman", env!("CARGO_BIN_EXE_pointsman")).replace("10.9.1.12", "10.9.1.11");
    let config = lab.write("exabgp.conf", config);
    let mut command = lab.at("n1", "exabgp");
    command.arg(config).env("exabgp.daemon.user", "root").env("exabgp.tcp.bind", "");
    lab.serve(&mut command, "exabgp.log");
    for _ in 0..2 {
        lab.start(1);
        lab.wait_for_route("router", &format!("-4 route show {VIP}"), 1);
        lab.command(1, &["leave"]);
        lab.wait_for_route("router", &format!("-4 route show {VIP}"), 0);
        lab.command(1, &["join"]);
        lab.wait_for_route("router", &format!("-4 route show {VIP}"), 1);
        lab.signal(1, "TERM");
        lab.wait_for_route("router", &format!("-4 route show {VIP}"), 0);
        lab.wait_for_end(1);
    }
}
