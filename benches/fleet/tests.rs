//! Tests of the simulation. The bench has no test harness, so these tests are a program of their own.

#![allow(dead_code, reason = "the tests do not need the arguments and plots of the bench")]

mod backends;
mod nodes;
mod paper;
mod pickers;
mod report;
mod routers;
mod seeded;
#[path = "../compare/spread.rs"]
mod spread;
#[path = "../compare/svg.rs"]
mod svg;

use backends::{AllBut, BackendEvent, identities, members, table};
use nodes::{NodeEvent, Outcome, Scheme, flows, ring_distance, simulate};
use pickers::{Rendezvous, Ring};
use report::{NodeRow, Report, percent};
use routers::{BusyBuckets, HashThreshold, Modulo, NextHop, Resilient, Router};
use seeded::{hash, part, scaled};

const FLOWS: usize = 20_000;

fn hops(nodes: &[usize]) -> Vec<NextHop> {
    nodes.iter().map(|node| NextHop { node: *node, weight: 1 }).collect()
}

#[track_caller]
fn check_near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 0.012, "{found} is not about {expected}");
}

/// Checks that a node has its fair share: a part of it is sampled, so the error is larger.
#[track_caller]
fn check_share(found: f64) {
    assert!((found - 1.0).abs() < 0.06, "{found} is not the fair share");
}

fn outcome(scheme: Scheme, event: NodeEvent, count: usize) -> Outcome {
    simulate(scheme, event, count, &flows(FLOWS)).expect("a fleet of this size")
}

#[test]
fn hashes_are_spread_and_repeat() {
    assert_eq!(hash(1, 7), hash(1, 7));
    assert_ne!(hash(1, 7), hash(2, 7));
    assert_eq!((scaled(0, 5), scaled(u64::MAX, 5), scaled(1 << 63, 4)), (0, 4, 2));
    assert_eq!(part(0), 0.0);
    assert!(part(u64::MAX) < 1.0);
}

#[test]
fn every_router_gives_equal_shares_and_follows_weights() {
    for scheme in [Scheme::Modulo, Scheme::HashThreshold, Scheme::ResilientForced] {
        for event in [NodeEvent::Doubles, NodeEvent::Returns] {
            check_share(outcome(scheme, event, 4).fair_share);
        }
    }
    let mut modulo = Modulo::default();
    modulo.announce(&[NextHop { node: 5, weight: 2 }, NextHop { node: 7, weight: 1 }], &[]);
    assert_eq!([0, 1, 2, 3].map(|hash| modulo.node(hash)), [5, 5, 7, 5]);
}

/// The figure of RFC 2992: of five next hops the third is deleted.
#[test]
fn the_hash_threshold_is_that_of_rfc_2992() {
    let mut router = HashThreshold::default();
    let at = |router: &HashThreshold, part: f64| router.node((part * 2_f64.powi(64)) as u64);
    router.announce(&hops(&[1, 2, 3, 4, 5]), &[]);
    assert_eq!([0.1, 0.3, 0.5, 0.7, 0.9].map(|part| at(&router, part)), [1, 2, 3, 4, 5]);
    router.announce(&hops(&[1, 2, 4, 5]), &[]);
    // Next hop 2 gives a part to 1, and 4 gives a part to 5.
    let after = [0.21, 0.24, 0.26, 0.45, 0.55, 0.74, 0.76].map(|part| at(&router, part));
    assert_eq!(after, [1, 1, 2, 2, 4, 4, 5]);
}

/// With three nodes: the shares of the node, and a sixth if it is at an end of the list.
#[test]
fn plain_ecmp_breaks_connections_of_nodes_that_stay() {
    let threshold = outcome(Scheme::HashThreshold, NodeEvent::Leaves, 3);
    check_near(threshold.own, 1.0 / 3.0);
    check_near(threshold.others, (1.0 / 6.0 + 0.0 + 1.0 / 6.0) / 3.0);
    let modulo = outcome(Scheme::Modulo, NodeEvent::Leaves, 3);
    check_near(modulo.own, 1.0 / 3.0);
    assert!(modulo.others > 0.25, "{modulo:?}");
    for scheme in Scheme::ALL.into_iter().filter(|scheme| !scheme.forwards()) {
        check_near(outcome(scheme, NodeEvent::EachInTurn, 3).others, 1.0);
    }
}

#[test]
fn a_resilient_group_moves_the_buckets_of_the_kernel() {
    let all = hops(&[0, 1, 2, 3]);
    let mut router = Resilient::new(16, BusyBuckets::Stay);
    let nodes = |router: &Resilient| -> Vec<usize> { (0..16).map(|hash| router.node(hash)).collect() };
    let count = |nodes: &[usize], node: usize| nodes.iter().filter(|found| **found == node).count();
    router.announce(&all, &[]);
    let before = nodes(&router);
    assert!((0..4).all(|node| count(&before, node) == 4), "{before:?}");
    router.announce(&hops(&[0, 1, 3]), &[false; 16]);
    let without = nodes(&router);
    // Only the buckets of the removed next hop moved, though all were busy.
    assert!(before.iter().zip(&without).all(|(old, new)| (*old == 2) == (old != new)), "{without:?}");
    router.announce(&all, &[false; 16]);
    assert_eq!(nodes(&router), without, "busy buckets stay");
    let mut idle = [false; 16];
    let first = without.iter().position(|node| *node == 0).unwrap();
    idle[first] = true;
    router.announce(&all, &idle);
    assert_eq!((router.node(first as u64), count(&nodes(&router), 2)), (2, 1), "an idle bucket moves");
    router.busy = BusyBuckets::Move;
    router.announce(&all, &[false; 16]);
    let forced = nodes(&router);
    assert!((0..4).all(|node| count(&forced, node) == 4), "{forced:?}");
}

#[test]
fn a_resilient_group_protects_the_nodes_that_stay() {
    let leaves = outcome(Scheme::Resilient, NodeEvent::Leaves, 10);
    check_near(leaves.own, 0.1);
    assert_eq!(leaves.others, 0.0);
    // 20,000 connections in 2048 buckets: hardly a bucket is silent, so a returned node gets next to nothing.
    let stay = outcome(Scheme::Resilient, NodeEvent::Returns, 10);
    assert!(stay.others + stay.own < 0.01 && stay.fair_share < 0.1, "{stay:?}");
    let forced = outcome(Scheme::ResilientForced, NodeEvent::Returns, 10);
    check_near(forced.others, 0.1);
    check_share(forced.fair_share);
}

#[test]
fn nodes_that_forward_lose_only_what_dies() {
    for event in NodeEvent::ALL {
        let found = outcome(Scheme::Forward, event, 3);
        assert_eq!(found.others, 0.0, "{event:?}");
        match event {
            NodeEvent::Dies => check_near(found.own, 1.0 / 3.0),
            _ => assert_eq!(found.own, 0.0, "{event:?}"),
        }
        let plain = outcome(Scheme::HashThreshold, event, 3);
        assert!(plain.own + plain.others > found.own, "{event:?}: plain ECMP must lose more");
        if !matches!(event, NodeEvent::Dies | NodeEvent::EachInTurn) {
            check_near(found.forwarded, plain.own + plain.others);
            assert!(found.hops >= 1.0 && found.hops < 3.0, "{found:?}");
        }
    }
    // Behind a resilient group only the connections of the node that leaves are forwarded.
    let both = outcome(Scheme::ResilientForward, NodeEvent::Leaves, 10);
    assert_eq!(both.own + both.others, 0.0);
    check_near(both.forwarded, 0.1);
    assert_eq!(
        simulate(Scheme::Forward, NodeEvent::Leaves, 64, &flows(10)),
        None,
        "the DSCP field has 63 numbers"
    );
}

#[test]
fn a_packet_goes_around_the_ring_at_most_once() {
    assert_eq!([(0, 1), (1, 0), (2, 2)].map(|(at, owner)| ring_distance(at, owner, 3)), [1, 2, 0]);
}

#[test]
fn a_run_repeats() {
    for scheme in Scheme::ALL {
        assert_eq!(outcome(scheme, NodeEvent::Returns, 5), outcome(scheme, NodeEvent::Returns, 5));
    }
}

#[test]
fn a_ring_moves_only_the_keys_of_the_changed_backend() {
    let ring = Ring::new(20, 160);
    let further = Ring::further_points(3, 160);
    assert_eq!(further.len(), 160);
    let (mut own, mut taken) = (0, 0);
    for key in (0..FLOWS as u64).map(|number| hash(9, number)) {
        let (old, new) = (ring.backend(key, None), ring.backend(key, Some(3)));
        assert!(new != 3 && (old == 3 || old == new));
        own += usize::from(old == 3);
        taken += usize::from(old != 3 && ring.doubled_takes(key, 3, &further));
    }
    let shares = ring.shares(20);
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    check_near(own as f64 / FLOWS as f64, shares[3]);
    assert!(taken * 2 > own && taken < own * 2, "{taken} beside {own}");
    assert!(shares.iter().any(|share| *share > 0.055), "a ring is uneven: {shares:?}");
}

#[test]
fn rendezvous_hashing_moves_only_the_keys_of_the_changed_backend() {
    let mut counts = [0; 5];
    let mut taken = 0;
    for key in (0..FLOWS as u64).map(|number| hash(9, number)) {
        let pick = Rendezvous::of(key, 5, 4);
        assert_ne!(pick.first, pick.second);
        counts[pick.first] += 1;
        taken += usize::from(pick.doubled_takes);
        assert!(!pick.doubled_takes || pick.first != 4);
        // A pool of four has the same order, without the last backend.
        let smaller = Rendezvous::of(key, 4, 0);
        assert_eq!(smaller.first, if pick.first == 4 { pick.second } else { pick.first });
    }
    counts.iter().for_each(|count| check_near(f64::from(*count) / FLOWS as f64, 0.2));
    // With the double weight its share is 2/6.
    check_near(f64::from(counts[4] + taken as i32) / FLOWS as f64, 1.0 / 3.0);
}

#[test]
fn maglev_moves_needless_keys_only_when_it_is_rebuilt() {
    let (rows, load) = backends::simulate(10, FLOWS);
    let row = |event| *rows.iter().find(|row| row.event == event).unwrap();
    let down = row(BackendEvent::GoesDown);
    assert_eq!(down.maglev.needless, 0.0);
    check_near(down.maglev.needed, 0.1);
    let removed = row(BackendEvent::IsRemoved);
    assert!(removed.maglev.needless > 0.0 && removed.maglev.needless < 0.01, "{removed:?}");
    for row in &rows {
        assert_eq!((row.ring.unwrap().needless, row.rendezvous.unwrap().needless), (0.0, 0.0), "{row:?}");
    }
    check_near(row(BackendEvent::Doubles).maglev.needed, 2.0 / 11.0 - 0.1);
    assert!(load.maglev < 0.001 && load.ring > 0.02, "{load:?}");
}

#[test]
fn a_larger_table_moves_nearly_all_keys() {
    let [same, larger] = [654, 655].map(|count| backends::one_more(count, FLOWS).maglev);
    assert!(same.needless < 0.02 && larger.needless > 0.9, "{same:?} {larger:?}");
}

#[test]
fn a_pick_skips_what_is_down() {
    let names = identities(3);
    let table = table(&members(&names, |_| 1));
    assert!((0..100).all(|key| table.pick(key, &AllBut(&[0, 2])) == Some(1)));
}

#[test]
fn the_figures_of_the_paper_come_out() {
    let rows = paper::overprovisions(&[paper::SIZES[0]]);
    let [maglev, karger, rendezvous] = [0, 1, 2].map(|number| rows[number].here);
    assert!(maglev < 0.01, "{rows:?}");
    assert!((0.2..0.7).contains(&karger) && (0.3..0.7).contains(&rendezvous), "{rows:?}");
    let failed = paper::failures(10, paper::SIZES[0], 1);
    assert!(failed.changed > failed.needless && failed.needless > 0.01, "{failed:?}");
    assert_eq!(failed.needless_here, 0.0);
    // The entries of the failed backends are the others.
    check_near(failed.changed - failed.needless, 0.01);
}

#[test]
fn a_report_has_each_row_and_each_plot() {
    let outcomes = Scheme::ALL.map(|scheme| simulate(scheme, NodeEvent::Leaves, 64, &flows(100))).to_vec();
    let (events, load) = backends::simulate(10, 100);
    let report = Report {
        nodes: vec![NodeRow { nodes: 64, event: NodeEvent::Leaves, outcomes }],
        events,
        loads: vec![load],
        overprovisions: Vec::new(),
        failures: vec![paper::failures(1, paper::SIZES[0], 1)],
    };
    let tables = report.tables();
    assert!(tables.contains("| 64 | a node leaves | ") && tables.contains(" | - |\n"), "{tables}");
    assert!(tables.contains("| 10 | 65537 | "), "{tables}");
    for (name, plot) in report.plots() {
        assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"), "{name}: {plot}");
    }
}

#[test]
fn parts_are_shown_with_digits_enough() {
    let check = |part: f64, expected: &str| assert_eq!(percent(part), expected);
    check(0.0, "0");
    check(0.33333, "33.3");
    check(0.0056, "0.56");
    check(0.000_012, "0.0012");
}
