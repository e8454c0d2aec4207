//! The texts of `pointsman fleet-rules`: a script for a shell, and a part of the configuration of bird.
//!
//! Each node forwards the packets that belong to no connection of its own. nftables finds such packets and marks them, a
//! rule of the routing sends marked packets to a table of their own, and bird fills this table with the nodes that
//! answer. If no node has the connection, the packet returns to the node that received it first. This node answers it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::fleet_rules::{Family, Fleet, FleetFamily, FleetPeer};

/// The mark of the packets that are forwarded, and the number of their routing table: "pn" in ASCII.
const MARK: u16 = 0x706e;

/// The table of nftables.
const NFT_TABLE: &str = "pointsman_fleet";

/// The preference of the rule for marked packets. The second rule of a host must have a great one: a rule that another
/// program adds without a preference gets that of the second rule minus 1, and so it stands behind the rule for own addresses.
const MARKED_RULE: u16 = 32000;

/// The preference of the rule that looks up marked packets in the table of own addresses while their table is empty. It
/// is before that of the main table, 32766.
const LOCAL_RULE: u16 = 32001;

/// The preference of the first node of the ring in bird; the nodes behind it have less.
const FIRST_PREFERENCE: usize = 200;

/// The option of `ip` for a family, and the word of bird for a channel of the family.
fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("-4", "ipv4"),
        Family::V6 => ("-6", "ipv6"),
    }
}

/// Returns a script that sets the rules. It may run again, also under load, and replaces the rules of an earlier run.
pub(super) fn setup_script(fleet: &Fleet) -> String {
    let vips: Vec<_> = fleet.families.iter().flat_map(|family| &family.vips).map(IpAddr::to_string).collect();
    let mut script = format!(
        "#!/bin/sh\n\
         # The rules of node {} of {} nodes that serve {}.\n\
         # Run it as root after each boot. It may run again, also under load. `pointsman fleet-rules --remove` undoes it.\n\
         # It needs: the virtual addresses on the interface lo, the settings in pointsman-fleet.sysctl.conf, and the ring\n\
         # of `--format bird` in bird. Without bird, each node serves only its own connections, as without these rules.\n\
         set -e\n",
        fleet.node,
        fleet.nodes,
        vips.join(", ")
    );
    script += &nft_part(fleet);
    script += &rule_functions();
    script += &rule_part(&fleet.families);
    script += "# The rules of nftables come into force as a whole, in place of those of an earlier run.\n\
               printf '%s\\n' \"$rules\" | nft -f -\n";
    script
}

/// Returns the part that sets `rules` to the text for nftables and checks it with `nft -c`.
fn nft_part(fleet: &Fleet) -> String {
    let mut part = format!(
        "# The rules of nftables. They need nft 1.0.6 and Linux 5.10, or later, and no earlier rule that drops packets of\n\
         # unknown connections, such as `ct state invalid drop`. The forward hook must let packets pass from {} to {}\n\
         # and from {1} to {1}.\n\
         rules=$(cat <<'END'\n\
         table inet {NFT_TABLE}\n\
         delete table inet {NFT_TABLE}\n\
         table inet {NFT_TABLE} {{\n\
         \x20   chain prerouting {{\n\
         \x20       type filter hook prerouting priority mangle; policy accept;\n",
        fleet.uplink.join(", "),
        fleet.peer
    );
    let interfaces: Vec<_> =
        fleet.uplink.iter().chain([&fleet.peer]).map(|name| format!("\"{name}\"")).collect();
    for family in &fleet.families {
        let (header, vips) = (nft_header(family.family), join(&family.vips));
        _ = writeln!(
            part,
            "        iifname {{ {} }} {header} daddr {{ {vips} }} tcp dport {{ {} }} goto {header}_check",
            interfaces.join(", "),
            ranges(&family.ports)
        );
    }
    part += "    }\n";
    for family in &fleet.families {
        part += &nft_chains(fleet, family.family);
    }
    part += "}\n\
             END\n\
             )\n\
             # An nft or a kernel that is too old is found here, before anything is changed.\n\
             printf '%s\\n' \"$rules\" | nft -c -f -\n";
    part
}

/// Returns the word of nftables for the header of a family.
fn nft_header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Returns the two chains of a family: the first finds packets that are not this node's, the second forwards them.
fn nft_chains(fleet: &Fleet, family: Family) -> String {
    let Fleet { node, nodes, peer, .. } = fleet;
    let header = nft_header(family);
    let hops = if family == Family::V4 { "ttl" } else { "hoplimit" };
    format!(
        "    chain {header}_check {{\n\
         \x20       # Accepts packets that this node forwarded and that have passed all nodes: no node has the connection. The\n\
         \x20       # kernel answers with a reset, or finds that the packet ends a handshake with a SYN cookie of this node.\n\
         \x20       iifname \"{peer}\" {header} dscp {node} accept\n\
         \x20       # Forwards packets without SYN for which the kernel finds only a listener: another node has the connection.\n\
         \x20       tcp flags & (fin|syn|rst|ack) != syn socket wildcard 1 goto {header}_forward\n\
         \x20       # Accepts packets with any other socket: a connection, a handshake, a listener for a SYN.\n\
         \x20       socket transparent 0 accept\n\
         \x20       socket transparent 1 accept\n\
         \x20       # Forwards packets without a socket, also SYNs: no process listens here.\n\
         \x20       goto {header}_forward\n\
         \x20   }}\n\
         \x20   chain {header}_forward {{\n\
         \x20       # Writes the number of this node into packets of clients, so that each returns here at most once. The hop\n\
         \x20       # limit ends a loop between nodes with different rules.\n\
         \x20       iifname != \"{peer}\" {header} dscp set {node} {header} {hops} set {}\n\
         \x20       iifname \"{peer}\" {header} {hops} <= 1 accept\n\
         \x20       meta mark set {MARK:#x} accept\n\
         \x20   }}\n",
        nodes + 2
    )
}

fn join(vips: &[IpAddr]) -> String {
    vips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns ports such as `80, 443, 30000-30100`.
fn ranges(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *port => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let text = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Returns the functions of the shell that both scripts use, and the rules of the routing.
fn rule_functions() -> String {
    format!(
        "# The rules of the routing. They are compared as a whole, with `protocol kernel` (2), and table 255 is the table\n\
         # `local`. So no rule of another program is taken for one of them. systemd-networkd leaves rules with `protocol\n\
         # kernel` alone.\n\
         unmarked='not from all fwmark {MARK:#x} lookup 255'\n\
         marked='from all fwmark {MARK:#x} lookup {MARK}'\n\
         own='from all lookup 255'\n\
         # Each function has a family, a preference and a rule as its arguments.\n\
         has() {{ ip -N -d \"$1\" rule show pref \"$2\" 2>/dev/null | grep -q \"^$2:[[:space:]]*$3 proto 2[[:space:]]*\\$\"; }}\n\
         add() {{ has \"$@\" || ip \"$1\" rule add pref \"$2\" $3 protocol kernel; }}\n\
         del() {{ ! has \"$@\" || ip \"$1\" rule del pref \"$2\" $3 protocol kernel; }}\n"
    )
}

/// Returns the commands that set the rules of the routing. Each family has a rule for its own addresses at any time.
fn rule_part(families: &[FleetFamily]) -> String {
    let options: Vec<_> = families.iter().map(|family| words(family.family).0).collect();
    format!(
        "# Marked packets use table {MARK}. While it is empty, they come to this host. So the rule of the kernel for own\n\
         # addresses at preference 0 is replaced by one for packets without the mark. The preferences of the other rules are\n\
         # great, because the kernel puts rules without a preference before the second rule.\n\
         for family in {}; do\n\
         \x20   add $family 0 \"$unmarked\"\n\
         \x20   add $family {MARKED_RULE} \"$marked\"\n\
         \x20   add $family {LOCAL_RULE} \"$own\"\n\
         \x20   # This deletes the first rule with table 255. If it was the rule for packets without the mark, that rule is added\n\
         \x20   # again behind the rule of the kernel.\n\
         \x20   while has $family 0 \"$own\"; do\n\
         \x20       ip $family rule del pref 0 $own protocol kernel\n\
         \x20       add $family 0 \"$unmarked\"\n\
         \x20   done\n\
         done\n",
        options.join(" ")
    )
}

/// Returns a script that removes the rules of both families. It may run again, and on a host without rules.
pub(super) fn removal_script() -> String {
    format!(
        "#!/bin/sh\n\
         # Removes the rules of `pointsman fleet-rules`. Remove the ring from bird first: bird would fill its table again.\n\
         # Packets of connections at other nodes are no longer forwarded: the kernel of this node resets them.\n\
         set -e\n\
         # The rules of nftables.\n\
         nft -f - <<'END'\n\
         table inet {NFT_TABLE}\n\
         delete table inet {NFT_TABLE}\n\
         END\n\
         {}\
         # The rule of the kernel is added before the rule in its place is deleted.\n\
         for family in -4 -6; do\n\
         \x20   if has $family 0 \"$unmarked\"; then\n\
         \x20       add $family 0 \"$own\"\n\
         \x20       del $family 0 \"$unmarked\"\n\
         \x20   fi\n\
         \x20   del $family {MARKED_RULE} \"$marked\"\n\
         \x20   del $family {LOCAL_RULE} \"$own\"\n\
         \x20   ip $family route flush table {MARK} 2>/dev/null || true\n\
         done\n",
        rule_functions()
    )
}

/// Returns the part of bird's configuration that fills the table of marked packets.
pub(super) fn bird_ring(fleet: &Fleet) -> String {
    let mut text = format!(
        "# The ring of node {} of {} nodes: the routes of packets that this node forwards. Save it as a file, include the file\n\
         # in bird.conf, and run `birdc configure`. It needs bird 2 with `protocol device`, and the addresses of the nodes\n\
         # in the network of {}. Each node must have the same set of nodes.\n\
         \n\
         # BFD finds a node that is silent after 0.3 s. bird has one protocol bfd: if bird.conf has one already, remove this\n\
         # one. BGP sessions with `bfd on` use it too.\n\
         protocol bfd pointsman_bfd {{\n\
         \x20   interface \"*\" {{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }};\n\
         }}\n",
        fleet.node, fleet.nodes, fleet.peer
    );
    for family in &fleet.families {
        text += &ring_part(family);
    }
    text
}

fn ring_part(family: &FleetFamily) -> String {
    let (_, channel) = words(family.family);
    let all = if family.family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
    let mut part = format!(
        "\n\
         # {}: the first node that answers gets the packets. Without any, the table is empty and this node keeps them.\n\
         {channel} table pointsman_{channel};\n\
         protocol kernel pointsman_kernel_{channel} {{\n\
         \x20   {channel} {{ table pointsman_{channel}; import none; export all; }};\n\
         \x20   kernel table {MARK};\n\
         }}\n",
        family.family
    );
    for (at, FleetPeer { node, address }) in family.ring.iter().enumerate() {
        _ = write!(
            part,
            "protocol static pointsman_node{node}_{channel} {{\n\
             \x20   {channel} {{ table pointsman_{channel}; preference {}; }};\n\
             \x20   route {all} via {address} bfd;\n\
             }}\n",
            FIRST_PREFERENCE - at
        );
    }
    part
}

/// Returns the part of bird's configuration of a node that forwards nothing: a comment.
pub(super) fn no_ring() -> String {
    "# No ring: this node forwards no packets. Save it in place of the ring and run `birdc configure`.\n"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet {
        let family = |family, vip: &str, peers: [&str; 2]| FleetFamily {
            family,
            vips: vec![vip.parse().unwrap()],
            ports: [80, 443, 444, 445].into(),
            ring: vec![
                FleetPeer { node: 3, address: peers[0].parse().unwrap() },
                FleetPeer { node: 1, address: peers[1].parse().unwrap() },
            ],
        };
        Fleet {
            node: 2,
            nodes: 3,
            uplink: vec!["eth0".to_owned()],
            peer: "eth1".to_owned(),
            families: vec![
                family(Family::V4, "10.9.9.9", ["10.9.2.13", "10.9.2.11"]),
                family(Family::V6, "2001:db8::9", ["fd00:2::13", "fd00:2::11"]),
            ],
        }
    }

    #[test]
    fn the_script_has_its_blocks_in_order() {
        let script = setup_script(&fleet());
        let parts = [
            "node 2 of 3 nodes that serve 10.9.9.9, 2001:db8::9",
            "nft 1.0.6",
            "iifname { \"eth0\", \"eth1\" } ip daddr { 10.9.9.9 } tcp dport { 80, 443-445 } goto ip_check",
            "iifname { \"eth0\", \"eth1\" } ip6 daddr { 2001:db8::9 } tcp dport { 80, 443-445 } goto ip6_check",
            "iifname \"eth1\" ip dscp 2 accept",
            "socket wildcard 1 goto ip_forward",
            "socket transparent 0 accept",
            "iifname != \"eth1\" ip dscp set 2 ip ttl set 5",
            "iifname \"eth1\" ip6 dscp 2 accept",
            "ip6 hoplimit <= 1",
            "nft -c -f -",
            "for family in -4 -6; do",
            "add $family 0 \"$unmarked\"",
            "add $family 32000 \"$marked\"",
            "add $family 32001 \"$own\"",
            "ip $family rule del pref 0 $own",
            "| nft -f -",
        ];
        let mut rest = &*script;
        for part in parts {
            rest = rest.split_once(part).unwrap_or_else(|| panic!("{part} is missing in {rest}")).1;
        }
    }

    #[test]
    fn a_fleet_of_one_family_leaves_the_other_alone() {
        let mut fleet = fleet();
        fleet.families.pop();
        for text in [setup_script(&fleet), bird_ring(&fleet)] {
            assert!(!text.contains("ip6") && !text.contains("-6") && !text.contains("ipv6"), "{text}");
        }
        assert!(setup_script(&fleet).contains("for family in -4; do"));
    }

    #[test]
    fn the_ring_prefers_the_next_node() {
        let ring = bird_ring(&fleet());
        for (node, preference, address) in [(3, 200, "10.9.2.13"), (1, 199, "10.9.2.11")] {
            let part = ring.split_once(&format!("pointsman_node{node}_ipv4 {{")).unwrap().1;
            let part = part.split_once("\n}").unwrap().0;
            assert!(part.contains(&format!("preference {preference};")), "{part}");
            assert!(part.contains(&format!("route 0.0.0.0/0 via {address} bfd;")), "{part}");
        }
        assert!(ring.contains("route ::/0 via fd00:2::11 bfd;"), "{ring}");
        assert_eq!(ring.matches("protocol bfd").count() - ring.matches("one protocol bfd").count(), 1);
    }

    #[test]
    fn ports_are_joined_to_ranges() {
        let check = |ports: &[u16], expected: &str| {
            assert_eq!(ranges(&ports.iter().copied().collect()), expected);
        };
        check(&[443], "443");
        check(&[1, 2, 4, 65534, 65535], "1-2, 4, 65534-65535");
    }
}
