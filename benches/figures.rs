//! The figures of docs/guide/balancing.md other than the times of a pick: how evenly the balancers spread
//! connections, and how many move when backends fail. Prints them as Markdown tables.
//!
//! All figures but the build times are the same in each run.
#![allow(missing_docs)]
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

mod inputs;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use pointsman::balance::{Algorithm, Balancer, Candidates, FULL_SHARE, Maglev, MaxLoad, Member};

fn main() {
    // `cargo test --all-targets` starts benches too, without this flag. It only needs to see that they start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    tables();
    failures();
    clients();
}

/// The number of backends in the figures of the Maglev paper.
const BACKENDS: usize = 1000;

/// The two table sizes of the paper, and between them the size that a table for this many backends has here.
const SIZES: [u64; 3] = [65_537, 131_101, 655_373];

fn equal(identities: &[String]) -> Vec<Member<'_>> {
    identities.iter().map(|identity| Member { identity: identity.as_bytes(), weight: 1 }).collect()
}

fn tables() {
    println!("| entries | fewest of a backend | most | most against average | build |");
    println!("|---|---|---|---|---|");
    let identities = inputs::identities(BACKENDS);
    let members = equal(&identities);
    assert_eq!(Maglev::build(&members, &inputs::HASH_KEY).size() as u64, SIZES[1]);
    for size in SIZES {
        let mut times = Vec::new();
        for _ in 0..15 {
            let began = Instant::now();
            black_box(Maglev::build_sized(black_box(&members), &inputs::HASH_KEY, size));
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let entries = Maglev::build_sized(&members, &inputs::HASH_KEY, size).entries();
        let (least, most) = (entries.iter().min().expect("some"), entries.iter().max().expect("some"));
        let against = f64::from(*most) * BACKENDS as f64 / size as f64 - 1.0;
        println!(
            "| {size} | {least} | {most} | +{:.2} % | {:.1} ms |",
            against * 100.0,
            times[times.len() / 2].as_secs_f64() * 1000.0
        );
    }
    println!();
}

/// Returns a flag for each backend: true for `count` failed backends, which are spread by a fixed rule.
fn failed(count: usize, trial: u64) -> Vec<bool> {
    let mut failed = vec![false; BACKENDS];
    let mut numbers = Numbers(trial);
    while failed.iter().filter(|&&failed| failed).count() < count {
        failed[numbers.below(BACKENDS)] = true;
    }
    failed
}

fn failures() {
    const TRIALS: u64 = 20;
    const KEYS: u64 = 200_000;
    println!(
        "| entries | backends failed | entries moved without need, by a rebuild | keys moved whose owner is up, here |"
    );
    println!("|---|---|---|---|");
    let identities = inputs::identities(BACKENDS);
    let members = equal(&identities);
    for size in SIZES {
        let whole = Maglev::build_sized(&members, &inputs::HASH_KEY, size);
        for count in [1, 10] {
            let (mut moved, mut most, mut kept_from_owner) = (0.0, 0_f64, 0_u64);
            for trial in 0..TRIALS {
                let failed = failed(count, trial);
                let part = moved_by_rebuild(&whole, &members, &failed, size);
                moved += part / TRIALS as f64;
                most = most.max(part);
                let up = CountingCandidates::new(BACKENDS).without(failed);
                kept_from_owner += (0..KEYS)
                    .filter(|&key| {
                        let owner = whole.owner(key).expect("an owner");
                        up.accepts(owner) && whole.pick(key, &up) != Some(owner)
                    })
                    .count() as u64;
            }
            println!(
                "| {size} | {count} ({:.1} %) | {:.2} %, at most {:.2} % | {kept_from_owner} of {} |",
                count as f64 * 100.0 / BACKENDS as f64,
                moved * 100.0,
                most * 100.0,
                KEYS * TRIALS,
            );
        }
    }
    println!();
}

/// Returns the part of the entries that a rebuild without the failed backends changes, although the backend
/// of the entry has not failed.
fn moved_by_rebuild(whole: &Maglev, members: &[Member<'_>], failed: &[bool], size: u64) -> f64 {
    let left: Vec<usize> = (0..members.len()).filter(|&member| !failed[member]).collect();
    let of_left: Vec<Member<'_>> = left.iter().map(|&member| members[member]).collect();
    let rebuilt = Maglev::build_sized(&of_left, &inputs::HASH_KEY, size);
    let entries = whole.slots().zip(rebuilt.slots());
    entries.filter(|&(before, after)| !failed[before] && before != left[after]).count() as f64 / size as f64
}

/// Prints the spread of the connections of clients of very different size over 100 backends.
fn clients() {
    println!("| balancer | even clients | s = 0.8 | s = 1.0 | s = 1.2 | sent to the key's owner, s = 1.0 |");
    println!("|---|---|---|---|---|---|");
    let bounds = [None, Some(150), Some(125), Some(110)];
    for bound in bounds {
        let word = bound.map_or("maglev".to_owned(), |percent| {
            format!("maglev, max_load = {}", f64::from(percent) / 100.0)
        });
        row(&word, Algorithm::Maglev, bound.map(MaxLoad::of_percent));
    }
    for algorithm in [Algorithm::RoundRobin, Algorithm::RandomTwo, Algorithm::LeastConnections] {
        row(algorithm.word(), algorithm, None);
    }
}

fn row(word: &str, algorithm: Algorithm, max_load: Option<MaxLoad>) {
    let spreads = [0.0, 0.8, 1.0, 1.2].map(|exponent| spread(algorithm, max_load, exponent));
    let fullest = spreads.each_ref().map(|spread| format!("{:.2}", spread.fullest));
    let owned = match algorithm {
        Algorithm::Maglev => format!("{:.1} %", spreads[2].owned * 100.0),
        _ => "-".to_owned(),
    };
    println!("| {word} | {} | {owned} |", fullest.join(" | "));
}

struct Spread {
    /// The load of the fullest backend against the average load, as a mean over time.
    fullest: f64,
    /// The part of the connections that went to the owner of their key.
    owned: f64,
}

/// Simulates 10,000 sources, of which the n-th has 1/n^exponent as many connections as the first. 100,000
/// connections are open, and each new connection replaces an open one.
fn spread(algorithm: Algorithm, max_load: Option<MaxLoad>, exponent: f64) -> Spread {
    const BACKENDS: usize = 100;
    const SOURCES: usize = 10_000;
    const OPEN: usize = 100_000;
    let identities = inputs::identities(BACKENDS);
    let members = equal(&identities);
    let owners = Maglev::build(&members, &inputs::HASH_KEY);
    let balancer = Balancer::build(algorithm, &members, &inputs::HASH_KEY, 0).bounded(max_load, &members);
    let candidates = CountingCandidates::new(BACKENDS);
    let mut sum = 0.0;
    let shares: Vec<f64> = (1..=SOURCES)
        .map(|source| {
            sum += (source as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut numbers = Numbers(1);
    let mut open: Vec<usize> = Vec::with_capacity(OPEN);
    let (mut fullest, mut seen, mut owned) = (0.0, 0_u32, 0_u32);
    for step in 0..4 * OPEN {
        if open.len() == OPEN {
            candidates.change(open.swap_remove(numbers.below(OPEN)), -1);
        }
        let drawn = numbers.fraction() * sum;
        let source = shares.partition_point(|&share| share < drawn);
        // Keys are hashes of addresses. The number of a source serves as well, because the table hashes it
        // once more.
        let backend = balancer.pick(source as u64, numbers.next(), &candidates).expect("all accept");
        candidates.change(backend, 1);
        open.push(backend);
        if step >= 2 * OPEN {
            seen += 1;
            owned += u32::from(owners.owner(source as u64) == Some(backend));
            fullest += candidates.most() as f64 * BACKENDS as f64 / OPEN as f64;
        }
    }
    Spread { fullest: fullest / f64::from(seen), owned: f64::from(owned) / f64::from(seen) }
}

/// Candidates that count their connections.
struct CountingCandidates {
    active: RefCell<Vec<u64>>,
    refused: Vec<bool>,
}

impl CountingCandidates {
    fn new(count: usize) -> Self {
        Self { active: RefCell::new(vec![0; count]), refused: vec![false; count] }
    }

    fn without(self, refused: Vec<bool>) -> Self {
        Self { refused, ..self }
    }

    fn change(&self, index: usize, by: i64) {
        let mut active = self.active.borrow_mut();
        active[index] = active[index].checked_add_signed(by).expect("it was counted");
    }

    fn most(&self) -> u64 {
        *self.active.borrow().iter().max().expect("some")
    }
}

impl Candidates for CountingCandidates {
    fn accepts(&self, index: usize) -> bool {
        !self.refused[index]
    }

    fn active(&self, index: usize) -> u64 {
        self.active.borrow()[index]
    }

    fn share(&self, _: usize) -> u32 {
        FULL_SHARE
    }

    fn latency(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

/// Pseudo-random numbers that are the same in each run: a linear congruence, of which the upper half is used.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        let mut half = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 32
        };
        half() << 32 | half()
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    fn fraction(&mut self) -> f64 {
        self.next() as f64 / 2_f64.powi(64)
    }
}
