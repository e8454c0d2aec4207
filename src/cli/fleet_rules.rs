//! `pointsman fleet-rules`: the rules by which the nodes of a fleet serve one virtual address together.
//!
//! The command reads the arguments and the configuration, checks both, and prints a text. It changes nothing on this host.
//! All faults are reported at once, and then nothing is printed.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::fleet_rules_text::{bird_ring, no_ring, removal_script, setup_script};
use super::{FAULTY, answer, complain, read};
use crate::listener::ListenerSpec;

/// The greatest number of a node: the DSCP field has 6 bits.
const MOST_NODES: u8 = 63;

/// IFNAMSIZ, without the NUL byte at the end.
const LONGEST_INTERFACE: usize = 15;

/// The arguments of `fleet-rules`.
#[derive(Args)]
pub(super) struct FleetRulesArgs {
    /// The configuration file; the rules are for the ports of its listeners
    #[arg(value_name = "FILE", required_unless_present = "remove")]
    file: Option<PathBuf>,
    /// The virtual addresses that all nodes serve, such as `10.9.9.9,2001:db8::9`
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = parse_vip)]
    #[arg(required_unless_present = "remove")]
    vip: Vec<IpAddr>,
    /// The interfaces at which packets of clients come in
    #[arg(long, value_name = "INTERFACES", value_delimiter = ',', value_parser = parse_interface)]
    #[arg(required_unless_present = "remove")]
    uplink: Vec<String>,
    /// The interface of the link between the nodes
    #[arg(long, value_name = "INTERFACE", value_parser = parse_interface, required_unless_present = "remove")]
    peer: Option<String>,
    /// The number of this node, from 1 to 63
    #[arg(long, value_name = "NUMBER", value_parser = parse_node, required_unless_present = "remove")]
    node: Option<u8>,
    /// The numbers of the other nodes and their addresses on the link between the nodes, such as
    /// `1=10.9.2.11,3=10.9.2.13`; a node may have an address of each family
    #[arg(long, value_name = "NUMBER=ADDRESS", value_delimiter = ',', value_parser = parse_peer)]
    #[arg(required_unless_present = "remove")]
    peers: Vec<FleetPeer>,
    /// The form of the text: `sh`, the nftables rules and the routing rules as a script for a shell; `bird`, the routes to
    /// the other nodes for the routing daemon bird
    #[arg(long, value_enum, default_value_t = FleetFormat::Sh)]
    format: FleetFormat,
    /// Print the text that removes the rules; it needs no further argument
    #[arg(long)]
    remove: bool,
}

/// The form of the text.
#[derive(Clone, Copy, ValueEnum)]
enum FleetFormat {
    /// A script for a shell.
    Sh,
    /// A part of the configuration of bird.
    Bird,
}

/// An address of another node on the link between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FleetPeer {
    /// The number of the node.
    pub(super) node: u8,
    /// The address of the node.
    pub(super) address: IpAddr,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One address family of a fleet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FleetFamily {
    /// The family.
    pub(super) family: Family,
    /// The virtual addresses, at least one.
    pub(super) vips: Vec<IpAddr>,
    /// The ports that listeners have on all addresses of the family, at least one, in ascending order.
    pub(super) ports: BTreeSet<u16>,
    /// The other nodes, at least one. The first one gets the packets that this node forwards; the next one gets them if
    /// the first is gone.
    pub(super) ring: Vec<FleetPeer>,
}

/// A fleet as one of its nodes sees it. It is checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fleet {
    /// The number of this node.
    pub(super) node: u8,
    /// The number of nodes, this node included.
    pub(super) nodes: usize,
    /// The interfaces of clients.
    pub(super) uplink: Vec<String>,
    /// The interface of the link between the nodes.
    pub(super) peer: String,
    /// The families, at least one.
    pub(super) families: Vec<FleetFamily>,
}

/// A reason for which no rules are printed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum FleetFault {
    #[error("--vip: {0} is written twice; write each address once")]
    VipTwice(IpAddr),
    #[error(
        "--uplink and --peer: both have the interface {0}, so packets of clients could not be distinguished from packets \
         of other nodes; use an interface, a VLAN or a tunnel of its own for the link between the nodes"
    )]
    OneInterface(String),
    #[error(
        "--peers: node {0} is this node (--node {0}), which cannot forward packets to itself; write the other nodes only"
    )]
    PeerIsThisNode(u8),
    #[error(
        "--peers: node {0} has two {1} addresses; give each node its own number: a node identifies its packets by this number"
    )]
    NodeTwice(u8, Family),
    #[error("--peers: nodes {0} and {1} have the same address {2}; write the address of each node")]
    AddressTwice(u8, u8, IpAddr),
    #[error(
        "--peers: node {0} has the virtual address {1}, which all nodes have; write its address on the link between the nodes"
    )]
    PeerIsVip(u8, IpAddr),
    #[error(
        "--peers: node {0} has no {1} address, and --vip has {2}: packets could not be forwarded to it; \
         add {0}=ADDRESS"
    )]
    NoPeerAddress(u8, Family, IpAddr),
    #[error(
        "listener `{0}` is bound to the virtual address {1}: bind `:{2}`, because only then can the kernel distinguish a \
         listener from a connection"
    )]
    BoundToVip(Arc<str>, IpAddr, u16),
    #[error(
        "--vip {0}: no listener has a port on all {1} addresses, so the rules would have no port; bind `:PORT` in the file"
    )]
    NoPort(IpAddr, Family),
}

/// Returns true if one host can have the address. An IPv4 address must not be in its IPv6 form.
fn is_of_a_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast)
}

fn parse_vip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "write an IP address without a port".to_owned())?;
    let canonical = address.to_canonical();
    let is_link_local = match canonical {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if !is_of_a_host(canonical) || is_link_local {
        return Err(
            "clients of other networks cannot reach this address; write the address that routers or \
                    keepalived give to the nodes"
                .to_owned(),
        );
    }
    if address != canonical {
        return Err(format!("write the IPv4 address itself: {canonical}"));
    }
    Ok(address)
}

fn parse_interface(text: &str) -> Result<String, String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = (1..=LONGEST_INTERFACE).contains(&text.len()) && text.chars().all(is_known);
    if !is_name || text.starts_with(['.', '-']) {
        return Err(format!(
            "the name of an interface has 1 to {LONGEST_INTERFACE} letters, digits, `.`, `_` or `-`, because the name \
             becomes a part of a script"
        ));
    }
    if text == "lo" {
        return Err("no packet of another host comes in at lo; write the interface of a network".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_node(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|node| (1..=MOST_NODES).contains(node)).ok_or_else(|| {
        format!(
            "a node has a number from 1 to {MOST_NODES}, because the number is written into the 6 bits of the DSCP field \
             of packets, where 0 is the usual value"
        )
    })
}

fn parse_peer(text: &str) -> Result<FleetPeer, String> {
    let form = "write the number of a node and its address, such as 1=10.9.2.11";
    let (node, address) = text.split_once('=').ok_or(form)?;
    let address = address.parse::<IpAddr>().map_err(|_| form)?.to_canonical();
    if !is_of_a_host(address) {
        return Err(format!("{address} is no address of another node; {form}"));
    }
    if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        return Err(format!(
            "{address} is link-local, and bird takes no route over it, so this node would forward no packet; write \
             another address of the node on the link between the nodes"
        ));
    }
    Ok(FleetPeer { node: parse_node(node)?, address })
}

/// Prints the rules, or the faults.
pub(super) fn fleet_rules(args: &FleetRulesArgs) -> ExitCode {
    if args.remove {
        return answer(&match args.format {
            FleetFormat::Sh => removal_script(),
            FleetFormat::Bird => no_ring(),
        });
    }
    let config = match read(args.file.as_deref(), &[], &[], &complain) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match fleet(args, &config.listeners) {
        Ok(fleet) => answer(&match args.format {
            FleetFormat::Sh => setup_script(&fleet),
            FleetFormat::Bird => bird_ring(&fleet),
        }),
        Err(faults) => {
            faults.iter().for_each(|fault| complain(&fault.to_string()));
            ExitCode::from(FAULTY)
        }
    }
}

/// Returns the checked fleet.
///
/// # Errors
///
/// All faults of the arguments, and those of the listeners.
fn fleet(args: &FleetRulesArgs, listeners: &[ListenerSpec]) -> Result<Fleet, Vec<FleetFault>> {
    let (Some(node), Some(peer)) = (args.node, args.peer.clone()) else {
        unreachable!("clap requires both without --remove");
    };
    let mut faults = Vec::new();
    if args.uplink.contains(&peer) {
        faults.push(FleetFault::OneInterface(peer.clone()));
    }
    check_vips(&args.vip, &mut faults);
    check_peers(node, args, &mut faults);
    let families: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| fleet_family(family, node, args, listeners, &mut faults))
        .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let others: BTreeSet<u8> = args.peers.iter().map(|peer| peer.node).collect();
    Ok(Fleet { node, nodes: others.len() + 1, uplink: args.uplink.clone(), peer, families })
}

fn check_vips(vips: &[IpAddr], faults: &mut Vec<FleetFault>) {
    for (at, vip) in vips.iter().enumerate() {
        if vips[..at].contains(vip) {
            faults.push(FleetFault::VipTwice(*vip));
        }
    }
}

fn check_peers(node: u8, args: &FleetRulesArgs, faults: &mut Vec<FleetFault>) {
    for (at, peer) in args.peers.iter().enumerate() {
        let before = &args.peers[..at];
        let family = Family::of(peer.address);
        if peer.node == node {
            faults.push(FleetFault::PeerIsThisNode(node));
        }
        if args.vip.contains(&peer.address) {
            faults.push(FleetFault::PeerIsVip(peer.node, peer.address));
        }
        if before.iter().any(|other| other.node == peer.node && Family::of(other.address) == family) {
            faults.push(FleetFault::NodeTwice(peer.node, family));
        } else if let Some(other) = before.iter().find(|other| other.address == peer.address) {
            faults.push(FleetFault::AddressTwice(other.node, peer.node, peer.address));
        }
    }
}

/// Returns one family of the fleet, or `None` if the fleet has no virtual address of the family.
fn fleet_family(
    family: Family,
    node: u8,
    args: &FleetRulesArgs,
    listeners: &[ListenerSpec],
    faults: &mut Vec<FleetFault>,
) -> Option<FleetFamily> {
    let vips: Vec<_> = args.vip.iter().copied().filter(|vip| Family::of(*vip) == family).collect();
    let vip = *vips.first()?;
    let ports = ports(family, &vips, listeners, faults);
    if ports.is_empty() {
        faults.push(FleetFault::NoPort(vip, family));
    }
    let mut ring: Vec<_> =
        args.peers.iter().copied().filter(|peer| Family::of(peer.address) == family).collect();
    let others: BTreeSet<u8> = args.peers.iter().map(|peer| peer.node).collect();
    let has_address = |other: u8| ring.iter().any(|peer| peer.node == other);
    let missing = others.into_iter().filter(|other| !has_address(*other));
    faults.extend(missing.map(|other| FleetFault::NoPeerAddress(other, family, vip)));
    // The ring goes to the next greater number, and from the greatest number to the least.
    ring.sort_by_key(|peer| (peer.node < node, peer.node));
    Some(FleetFamily { family, vips, ports, ring })
}

/// Returns the ports that listeners have on all addresses of a family. A port that the kernel chooses is none.
fn ports(
    family: Family,
    vips: &[IpAddr],
    listeners: &[ListenerSpec],
    faults: &mut Vec<FleetFault>,
) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for listener in listeners {
        for bind in listener.binds.iter().filter_map(|bind| bind.to_canonical().tcp()) {
            if vips.contains(&bind.ip()) {
                faults.push(FleetFault::BoundToVip(Arc::clone(&listener.name), bind.ip(), bind.port()));
            } else if bind.ip().is_unspecified() && Family::of(bind.ip()) == family && bind.port() != 0 {
                ports.insert(bind.port());
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FleetRulesArgs,
    }

    const TWO: &str = "--vip 10.9.9.9,2001:db8::9 --uplink eth0 --peer eth1 --node 2 \
                       --peers 1=10.9.2.11,3=10.9.2.13,1=fd00:2::11,3=fd00:2::13";

    /// Returns the fleet of a command line without the name of the file, and of a list of `bind`.
    fn of(line: &str, bind: &str) -> Result<Fleet, String> {
        let words = ["fleet-rules", "x.toml"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|fault| fault.to_string())?;
        let text =
            format!("[listener.db]\nbind = [{bind}]\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']\n");
        let (config, _) = config::parse("x.toml", &text).map_err(|faults| faults.render(false))?;
        fleet(&line.args, &config.listeners)
            .map_err(|faults| faults.iter().map(FleetFault::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_fleet_has_the_ports_on_all_addresses_and_a_ring() {
        let fleet = of(TWO, "':443', '0.0.0.0:80', '10.0.0.5:25', '127.0.0.1:81', ':0', 'unix:/x'").unwrap();
        assert_eq!((fleet.node, fleet.nodes, &*fleet.peer), (2, 3, "eth1"));
        let ports: Vec<Vec<u16>> =
            fleet.families.iter().map(|family| family.ports.iter().copied().collect()).collect();
        assert_eq!(ports, [vec![80, 443], vec![443]]);
        for family in &fleet.families {
            assert_eq!(family.ring.iter().map(|peer| peer.node).collect::<Vec<_>>(), [3, 1]);
        }
    }

    #[test]
    fn a_family_without_a_virtual_address_needs_nothing() {
        let line =
            "--vip 10.9.9.9 --uplink eth0,bond0.5 --peer eth1 --node 63 --peers 1=10.9.2.11,1=fd00:2::11";
        let fleet = of(line, "'0.0.0.0:443'").unwrap();
        assert_eq!(fleet.families.len(), 1);
        assert_eq!(fleet.uplink, ["eth0", "bond0.5"]);
    }

    /// Replaces a part of the line of two families, and looks for these parts of the faults.
    fn check_refused(part: &str, other: &str, bind: &str, parts: &[&str]) {
        assert!(TWO.contains(part), "{part}");
        let fault = of(&TWO.replace(part, other), bind).unwrap_err();
        for part in parts {
            assert!(fault.contains(part), "{other}: {fault}");
        }
    }

    #[test]
    fn bad_input_is_refused_with_its_reason() {
        let all = "':443'";
        check_refused(
            "eth0",
            "eth0",
            "'10.9.9.9:443', ':444'",
            &["listener `db`", "bind `:443`, because only then"],
        );
        check_refused(
            "eth0",
            "eth0",
            "'10.0.0.5:443'",
            &["10.9.9.9: no listener has", "2001:db8::9: no listener"],
        );
        check_refused("eth0", "eth0", "':0'", &["so the rules would have no port"]);
        check_refused("eth0", "eth0", "'unix:/x'", &["so the rules would have no port"]);
        check_refused("eth0", "eth0", "'0.0.0.0:443'", &["no listener has a port on all IPv6 addresses"]);
        check_refused("--node 2", "--node 0", all, &["from 1 to 63", "6 bits"]);
        check_refused("--node 2", "--node 64", all, &["from 1 to 63"]);
        check_refused("--node 2", "--node two", all, &["from 1 to 63"]);
        check_refused("--node 2", "--node 3", all, &["node 3 is this node"]);
        check_refused("3=10.9.2.13", "1=10.9.2.13", all, &["node 1 has two IPv4 addresses"]);
        check_refused("3=10.9.2.13", "3=10.9.2.11", all, &["nodes 1 and 3 have the same address 10.9.2.11"]);
        check_refused("3=10.9.2.13", "64=10.9.2.13", all, &["from 1 to 63"]);
        check_refused("3=10.9.2.13", "3=10.9.9.9", all, &["node 3 has the virtual address"]);
        check_refused("3=10.9.2.13", "3=10.9.2.13:1", all, &["such as 1=10.9.2.11"]);
        check_refused("3=10.9.2.13", "10.9.2.13", all, &["such as 1=10.9.2.11"]);
        check_refused(",3=fd00:2::13", "", all, &["node 3 has no IPv6 address"]);
        check_refused("2001:db8::9", "10.9.9.9", all, &["10.9.9.9 is written twice"]);
        check_refused("2001:db8::9", "::ffff:10.9.9.8", all, &["10.9.9.8"]);
        for vip in ["0.0.0.0", "127.0.0.1", "ff02::1", "fe80::1", "169.254.1.1", "224.0.0.5"] {
            check_refused("2001:db8::9", vip, all, &["clients of other networks"]);
        }
        for vip in ["255.255.255.255", "::ffff:127.0.0.1", "::ffff:169.254.1.1"] {
            check_refused("2001:db8::9", vip, all, &["clients of other networks"]);
        }
        for peer in ["0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255", "::", "::1", "ff02::1"] {
            check_refused("fd00:2::13", peer, all, &["no address of another node"]);
        }
        for peer in ["::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:255.255.255.255"] {
            check_refused("fd00:2::13", peer, all, &["no address of another node"]);
        }
        check_refused("fd00:2::13", "fe80::1", all, &["fe80::1 is link-local"]);
        check_refused("2001:db8::9", "vip.example", all, &["IP address without a port"]);
        check_refused("--peer eth1", "--peer eth0", all, &["both have the interface eth0"]);
        for name in ["e;reboot", "eth\"0", "a-name-of-16-byte", "eth*", "$(x)", ".", "-x", "ü"] {
            check_refused("--uplink eth0", &format!("--uplink={name}"), all, &["a part of a script"]);
        }
        check_refused("--uplink eth0", "--uplink lo", all, &["comes in at lo"]);
        check_refused("--node 2", "", all, &["--node"]);
        check_refused("--vip", "--vip= --vip", all, &["IP address without a port"]);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let fault = of(&TWO.replace("--node 2", "--node 1"), "'10.9.9.9:443'").unwrap_err();
        assert_eq!(fault.lines().count(), 5, "{fault}");
    }
}
