//! Three nodes behind a router that spreads clients over them by ECMP.
//!
//! A fleet without the rules is not used with the rules afterwards: its nodes have connections whose clients have seen a
//! reset of another node, and a client may use the port of such a connection again.

use super::CLIENTS;
use super::lab::{Clients, Lab, VIP, VIP6};

/// Lets a node leave by SIGTERM.
fn leave(lab: &mut Lab, node: usize, left: usize) {
    lab.signal(node, "TERM");
    lab.wait_for_paths(left);
}

/// Lets a node come back after the end of its process.
fn come_back(lab: &mut Lab, node: usize, paths: usize) {
    lab.wait_for_end(node);
    begin(lab, node, paths);
}

/// Starts pointsman on a node.
fn begin(lab: &mut Lab, node: usize, paths: usize) {
    lab.start(node);
    lab.wait_for_paths(paths);
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn without_the_rules_nodes_that_stay_lose_connections() {
    let mut lab = Lab::start_behind_router(3);
    let check = |clients: Clients, event: &str| {
        let plain = clients.end();
        plain.show(event);
        assert!(
            plain.all_lost() > plain.lost_of(1),
            "{event}: the router moved no connection of another node"
        );
    };
    for (vip, event) in
        [(VIP, "plain ECMP, leaves by SIGTERM"), (VIP6, "IPv6, plain ECMP, leaves by SIGTERM")]
    {
        let clients = lab.clients(vip, CLIENTS, 0);
        leave(&mut lab, 1, 2);
        check(clients, event);
        // Its clients cannot end its connections: their packets go elsewhere.
        lab.kill(1);
        let clients = lab.clients(vip, CLIENTS, 0);
        begin(&mut lab, 1, 3);
        check(clients, &event.replace("leaves by SIGTERM", "returns"));
    }
    let clients = lab.clients(VIP, CLIENTS, 0);
    lab.kill(1);
    lab.wait_for_paths(2);
    check(clients, "plain ECMP, SIGKILL");
    begin(&mut lab, 1, 3);
    let clients = lab.clients(VIP, CLIENTS, 0);
    lab.silence(1);
    lab.wait_for_paths(2);
    check(clients, "plain ECMP, the machine is silent");
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn a_node_that_leaves_and_returns_breaks_no_connection() {
    let mut lab = Lab::start_behind_router(3);
    lab.set_rules();
    for (vip, family) in [(VIP, ""), (VIP6, "IPv6, ")] {
        let clients = lab.clients(vip, CLIENTS, 0);
        leave(&mut lab, 1, 2);
        clients.end().assert_whole(&format!("{family}rules, leaves by SIGTERM with grace 0"));
        lab.wait_for_end(1);
        let clients = lab.clients(vip, CLIENTS, 0);
        begin(&mut lab, 1, 3);
        clients.end().assert_whole(&format!("{family}rules, returns"));
    }
    let clients = lab.clients(VIP, CLIENTS, 0);
    lab.command(1, &["leave"]);
    lab.wait_for_paths(2);
    clients.settle();
    lab.signal(1, "TERM");
    clients.end().assert_whole("rules, `leave` and then SIGTERM");
    come_back(&mut lab, 1, 3);
}

/// Starts clients of IPv4 and of IPv6.
fn of_both_families(lab: &Lab) -> [(&'static str, Clients); 2] {
    [("", VIP), ("IPv6, ", VIP6)].map(|(family, vip)| (family, lab.clients(vip, CLIENTS, 0)))
}

/// Checks that only connections of node 1 are lost.
fn assert_lost_only_of_the_first(clients: [(&str, Clients); 2], event: &str) {
    for (family, clients) in clients {
        clients.end().assert_lost_only_of(1, &format!("{family}{event}"));
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn a_killed_process_breaks_only_its_own_connections() {
    let mut lab = Lab::start_behind_router(3);
    lab.set_rules();
    let clients = of_both_families(&lab);
    lab.kill(1);
    lab.wait_for_paths(2);
    assert_lost_only_of_the_first(clients, "rules, SIGKILL");
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn a_silent_machine_breaks_only_its_own_connections() {
    let lab = Lab::start_behind_router(3);
    lab.set_rules();
    let clients = of_both_families(&lab);
    lab.silence(1);
    lab.wait_for_paths(2);
    assert_lost_only_of_the_first(clients, "rules, the machine is silent");
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn nodes_leave_and_restart_one_after_the_other() {
    let mut lab = Lab::start_behind_router(3);
    lab.set_rules();
    lab.configure(2, "3s");

    let clients = lab.clients(VIP, CLIENTS, 3);
    for node in 1..=3 {
        leave(&mut lab, node, 2);
        come_back(&mut lab, node, 3);
    }
    clients.end().assert_whole("rules, all nodes restart in turn under connections of 3 s");

    let clients = lab.clients(VIP, CLIENTS, 3);
    for node in 1..=3 {
        // The command fails unless the last connection of the node has ended.
        lab.command(node, &["leave", "--wait", "60s"]);
        lab.signal(node, "TERM");
        come_back(&mut lab, node, 3);
    }
    clients.end().assert_whole("rules, `leave --wait` on all nodes in turn under connections of 3 s");

    // Node 2 has now loaded its grace of 3 s.
    let clients = lab.clients(VIP, CLIENTS, 0);
    leave(&mut lab, 2, 2);
    leave(&mut lab, 1, 1);
    clients.end().assert_whole("rules, two nodes leave, one with grace 3 s");
}

#[test]
#[ignore = "needs root, iproute2, nftables, bird and python3"]
fn upgrades_of_all_nodes_break_no_connection() {
    let mut lab = Lab::start_behind_router(3);
    lab.set_rules();
    let clients = lab.clients(VIP, CLIENTS, 0);
    for node in 1..=3 {
        lab.upgrade(node);
    }
    clients.end().assert_whole("rules, all nodes are upgraded in turn");
}
