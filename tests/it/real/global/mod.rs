//! The files of `dist/global`, with a real name server: clients get the nearest site, and the next nearest if
//! their own leaves or dies.

mod world;

use std::net::IpAddr;
use std::time::Instant;

use self::world::{
    AMERICA, ASIA, EUROPE, ISLANDER, NAME, NAME_SERVER, NAME_SERVER_V6, REGIONS, Region, UNKNOWN, World,
};
use super::run;
use crate::support::wait_for;

#[test]
#[ignore = "needs root, iproute2, nftables, pdns-server with its backends bind and geoip, dig, unbound, nginx, curl and socat"]
fn each_client_gets_the_nearest_site() {
    let mut world = World::new();
    let _sites = [&EUROPE, &AMERICA].map(|region| world.start_site(region));
    let _asia = world.start_site_behind_nginx(&ASIA);
    world.start_name_server();
    world.start_resolver();
    let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    for region in REGIONS {
        let [v4, v6] = region.site;
        let Region { name, client, client_v6, .. } = region;
        assert_eq!(world.ask(NAME_SERVER, client, NAME, "A"), address(v4), "{name}, by the address");
        assert_eq!(world.ask(NAME_SERVER, client, NAME, "AAAA"), address(v6), "{name}, by the address");
        assert_eq!(world.ask(NAME_SERVER_V6, client_v6, NAME, "A"), address(v4), "{name}, by IPv6");
        // The resolver is at an unknown place, and sends the networks of its clients along.
        assert_eq!(world.ask(UNKNOWN, client, NAME, "A"), address(v4), "{name}, by a resolver");
        let subnet = format!("+subnet={client}/24");
        let sent = world.dig(UNKNOWN, &["+noall", "+answer", &subnet, &format!("@{NAME_SERVER}"), NAME]);
        let record = format!("\t5\tIN\tA\t{v4}");
        assert!(sent.as_ref().is_some_and(|text| text.contains(&record)), "{name}, by dig: {sent:?}");
        // This name has checks of its own.
        wait_for("the short record", || {
            world.ask(NAME_SERVER, client, "short.example.com", "A") == address(v4)
        });
        assert_eq!(world.connect(client).site, *name);
    }
    assert_eq!(
        world.ask(NAME_SERVER, ISLANDER, NAME, "A"),
        address(ASIA.site[0]),
        "across the 180th meridian"
    );
    assert_eq!(world.ask(NAME_SERVER, UNKNOWN, NAME, "A"), address(EUROPE.site[0]), "an unknown place");
    let place = world.dig(ISLANDER, &["+short", &format!("@{NAME_SERVER}"), "where.example.com", "TXT"]);
    assert_eq!(place.as_deref().map(str::trim), Some("\"21.310000 -157.860000 203.0.113.200\""));
}

#[test]
#[ignore = "needs root, iproute2, nftables, nginx, curl and socat"]
fn only_ready_is_open_and_only_for_the_name_servers() {
    let world = World::new();
    let _europe = world.start_site(&EUROPE);
    let _asia = world.start_site_behind_nginx(&ASIA);
    let [ready, metrics] = ["ready", "metrics"].map(|path| format!("http://{}:10190/{path}", EUROPE.site[0]));
    assert_eq!(world.code("names", &["--interface", NAME_SERVER, &ready]), 200);
    assert_eq!(world.code("client", &["--interface", EUROPE.client, &ready]), 0);
    assert_eq!(world.code("client", &["--interface", EUROPE.client, &metrics]), 0);
    let ready_v6 = format!("http://[{}]:10190/ready", EUROPE.site[1]);
    assert_eq!(world.code("names", &["--interface", NAME_SERVER_V6, &ready_v6]), 200);
    assert_eq!(world.code("client", &["--interface", EUROPE.client_v6, &ready_v6]), 0);
    // The rules are of one port.
    assert_eq!(world.connect_to(EUROPE.site[0], EUROPE.client).site, "europe");

    let asia = |path: &str| format!("http://{}:10190/{path}", ASIA.site[0]);
    wait_for("nginx", || world.code("client", &[&asia("ready")]) != 0);
    assert_eq!(world.code("client", &[&asia("ready")]), 200);
    for path in ["metrics", "api/v1/status", "ready/", "ready/../metrics", ""] {
        assert_eq!(world.code("client", &["--path-as-is", &asia(path)]), 404, "{path}");
    }
    assert_eq!(world.code("client", &["--request", "POST", &asia("ready")]), 403);
    world.order(&ASIA, "leave");
    assert_eq!(world.code("client", &[&asia("ready")]), 503);
}

#[test]
#[ignore = "needs root, iproute2, nftables, pdns-server with its backends bind and geoip, dig, unbound and socat"]
fn clients_of_a_site_that_leaves_get_the_next_nearest() {
    let mut world = World::new();
    let sites = REGIONS.map(|region| world.start_site(region));
    world.start_name_server();
    world.start_resolver();
    let client = EUROPE.client;
    let mut open = world.connect(client);
    assert_eq!(open.site, "europe");
    assert_eq!(world.ask(UNKNOWN, client, NAME, "A"), Some(EUROPE.site[0].parse().unwrap()));

    let begin = Instant::now();
    world.order(&EUROPE, "leave");
    let took = world.wait_for_move(begin, NAME_SERVER, client, &EUROPE, &AMERICA);
    println!("leave: {took:.1?} to the first answer with the next site");
    let took = world.wait_for_move(begin, UNKNOWN, client, &EUROPE, &AMERICA);
    println!("leave: {took:.1?} at a resolver with a cache, TTL 5 s");
    assert_eq!(world.connect(client).site, "america");
    open.echo();
    for region in [&AMERICA, &ASIA] {
        let site = world.ask(NAME_SERVER, region.client, NAME, "A");
        assert_eq!(site, Some(region.site[0].parse().unwrap()), "{} is not touched", region.name);
    }

    let begin = Instant::now();
    world.order(&EUROPE, "join");
    let took = world.wait_for_move(begin, NAME_SERVER, client, &AMERICA, &EUROPE);
    println!("join: {took:.1?} to the first answer with the site");
    let took = world.wait_for_move(begin, UNKNOWN, client, &AMERICA, &EUROPE);
    println!("join: {took:.1?} at a resolver with a cache, TTL 5 s");
    assert_eq!(world.connect(client).site, "europe");

    // During the grace of a stop, clients with the old answer are still served.
    let begin = Instant::now();
    sites[0].process.signal("TERM");
    let took = world.wait_for_move(begin, NAME_SERVER, client, &EUROPE, &AMERICA);
    println!("SIGTERM: {took:.1?} to the first answer with the next site");
    assert_eq!(world.connect_to(EUROPE.site[0], client).site, "europe");
    open.echo();

    // A site that is silent, as if it had no power.
    let silence = "table inet silence { chain input { type filter hook input priority -5; policy drop; }; }";
    let begin = Instant::now();
    run(world.at("asia", "nft").arg(silence));
    let took = world.wait_for_move(begin, NAME_SERVER, ASIA.client, &ASIA, &AMERICA);
    println!("silence: {took:.1?} to the first answer with the next site");
    run(world.at("asia", "nft").arg("delete table inet silence"));
    world.wait_for_move(begin, NAME_SERVER, ASIA.client, &AMERICA, &ASIA);
}

#[test]
#[ignore = "needs root, iproute2, nftables, pdns-server with its backends bind and geoip, dig, nginx and socat"]
fn clients_of_a_site_that_dies_get_the_next_nearest() {
    let mut world = World::new();
    let europe = world.start_site(&EUROPE);
    let _america = world.start_site(&AMERICA);
    let asia = world.start_site_behind_nginx(&ASIA);
    world.start_name_server();
    let mut open = world.connect(EUROPE.client);

    let begin = Instant::now();
    europe.process.signal("KILL");
    let took = world.wait_for_move(begin, NAME_SERVER, EUROPE.client, &EUROPE, &AMERICA);
    println!("SIGKILL: {took:.1?} to the first answer with the next site");
    assert_eq!(world.connect(EUROPE.client).site, "america");
    assert_eq!(open.line(), "", "the connections of a site end with it");
    // nginx still runs, and has no answer from the program.
    let begin = Instant::now();
    asia.process.signal("KILL");
    let took = world.wait_for_move(begin, NAME_SERVER, ASIA.client, &ASIA, &AMERICA);
    println!("SIGKILL behind nginx: {took:.1?} to the first answer with the next site");

    drop(europe);
    let begin = Instant::now();
    let _europe = world.start_site(&EUROPE);
    let took = world.wait_for_move(begin, NAME_SERVER, EUROPE.client, &AMERICA, &EUROPE);
    println!("a start: {took:.1?} to the first answer with the site");
    assert_eq!(world.connect(EUROPE.client).site, "europe");
    // Europe is nearer to Singapore than America.
    world.wait_for_move(begin, NAME_SERVER, ASIA.client, &AMERICA, &EUROPE);

    // If no site is ready, the checks may be wrong, so each client gets the nearest site.
    world.order(&EUROPE, "leave");
    world.wait_for_move(begin, NAME_SERVER, ASIA.client, &EUROPE, &AMERICA);
    world.order(&AMERICA, "leave");
    world.wait_for_move(begin, NAME_SERVER, ASIA.client, &AMERICA, &ASIA);
    world.wait_for_move(begin, NAME_SERVER, EUROPE.client, &AMERICA, &EUROPE);
}
