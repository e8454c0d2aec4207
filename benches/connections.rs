//! The cost of a list of connections: for a worker with 100,000 of them, as a whole and for one slice, which is the time for
//! which a list delays the other tasks of the worker.
#![allow(missing_docs)]
#![allow(clippy::print_stdout, reason = "it prints the longest slice beside the times")]

mod inputs;

use std::future::Future;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::ids::ListenerId;
use pointsman::live::{
    BackendFilter, ConnectionFilter, ConnectionQuery, ConnectionRegistry, ConnectionSort, Loads, NameGlob,
    RegistryGuard, requests,
};
use pointsman::sys::Address;
use pointsman::telemetry::{Direction, Engine, Metrics};
use tokio::sync::oneshot;

const CONNECTIONS: u64 = 100_000;

/// Returns a registry with connections of ten backends and a thousand server names, and the guards that keep them in it.
fn registry() -> (Rc<ConnectionRegistry>, Vec<RegistryGuard>) {
    let metrics = Metrics::new();
    let listener = metrics.listener("l");
    let registry = ConnectionRegistry::new(Loads::new(1), 0);
    let (pool, route): (Arc<str>, Arc<str>) = ("app".into(), "examples".into());
    let backends: Vec<Arc<str>> = (0..10).map(|number| format!("b{number}").into()).collect();
    let guards = (0..CONNECTIONS).map(|id| {
        let slot = registry.worker_slot();
        let guard = registry.register(id, ListenerId::nth(0), slot, Arc::clone(&listener));
        let address = format!("10.{}.{}.{}:{}", id % 7, id / 256 % 256, id % 256, 1024 + id % 60_000);
        guard.set_client(&Address::Tcp(address.parse().expect("an address")));
        guard.note(|card| {
            card.sni = Some(format!("host-{}.example.com", id % 1000).into());
            card.route = Some(Arc::clone(&route));
            card.pool = Some(Arc::clone(&pool));
            card.backend = Some(Arc::clone(&backends[id as usize % 10]));
        });
        guard.establish();
        // The order is one that is neither rising nor falling.
        guard.moved(Direction::FromBackend, Engine::Copied, id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
        guard
    });
    let guards = guards.collect();
    registry.sweep();
    (registry, guards)
}

/// Polls a list to its end and returns the number of its slices and the time of the longest.
fn list(registry: &Rc<ConnectionRegistry>, query: ConnectionQuery) -> (u32, Duration) {
    let (to, mut page) = oneshot::channel();
    let mut list = Box::pin(requests::list(Rc::clone(registry), query, to));
    let mut cx = Context::from_waker(Waker::noop());
    let (mut slices, mut longest) = (0, Duration::ZERO);
    loop {
        let began = Instant::now();
        let polled = list.as_mut().poll(&mut cx);
        longest = longest.max(began.elapsed());
        slices += 1;
        if polled == Poll::Ready(()) {
            break;
        }
    }
    let page = page.try_recv().expect("the list has ended");
    assert_eq!(page.open, CONNECTIONS);
    black_box(page);
    (slices, longest)
}

fn query(filter: ConnectionFilter, sort: ConnectionSort, limit: usize) -> ConnectionQuery {
    ConnectionQuery { filter, sort, limit, now: Instant::now() }
}

fn lists(c: &mut Criterion) {
    let (registry, _guards) = registry();
    let all = ConnectionFilter::default;
    let backend = BackendFilter { pool: Some("app".into()), name: "b3".into() };
    let by_name = ConnectionFilter { sni: Some(NameGlob::new("*-7*.example.com")), ..all() };
    let by_source = ConnectionFilter { source: "10.3.0.0/16".parse().ok(), ..all() };
    let mut group = c.benchmark_group("connections/100000");
    group.sample_size(10);
    for (name, filter, sort, limit) in [
        ("age_100", all(), ConnectionSort::Age, 100),
        ("bytes_1000", all(), ConnectionSort::Bytes, 1000),
        ("backend", ConnectionFilter { backend: Some(backend), ..all() }, ConnectionSort::Age, 100),
        ("sni", by_name, ConnectionSort::Age, 100),
        ("source", by_source, ConnectionSort::Age, 100),
    ] {
        group.bench_function(name, |b| b.iter(|| list(&registry, query(filter.clone(), sort, limit))));
        let (slices, longest) = list(&registry, query(filter.clone(), sort, limit));
        println!("connections/100000/{name}: {slices} slices, the longest takes {longest:?}");
    }
}

criterion_group! {
    name = benches;
    config = inputs::brief();
    targets = lists
}
criterion_main!(benches);
