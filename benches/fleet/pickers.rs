//! The hashes that are set beside the Maglev table: a ring, as ketama has it, and rendezvous hashing.

use crate::seeded::{hash, mix, part};

/// The points of a backend of weight 1 on a ring, as in ketama.
pub(crate) const KETAMA_POINTS: u64 = 160;

/// A ring of points. A key belongs to the backend of the first point at or after its hash.
pub(crate) struct Ring {
    /// The upper 32 bits of a point's hash, then its backend.
    points: Vec<u64>,
}

impl Ring {
    /// Creates a ring of backends of weight 1.
    pub(crate) fn new(backends: usize, points_each: u64) -> Self {
        let mut points: Vec<u64> = (0..backends as u64)
            .flat_map(|backend| (0..points_each).map(move |number| Self::point(backend, number)))
            .collect();
        points.sort_unstable();
        Self { points }
    }

    fn point(backend: u64, number: u64) -> u64 {
        ((hash(3, (backend << 20) | number) >> 32) << 32) | backend
    }

    /// Returns the backend of a hash, without the points of one backend.
    pub(crate) fn backend(&self, hash: u64, without: Option<usize>) -> usize {
        let from = self.points.partition_point(|point| point >> 32 < hash >> 32);
        let around = self.points[from..].iter().chain(&self.points);
        let backends = around.map(|point| (point & u64::from(u32::MAX)) as usize);
        backends.into_iter().find(|backend| Some(*backend) != without).expect("two backends at least")
    }

    /// Returns true if a backend takes a hash from the ring when its weight becomes 2.
    pub(crate) fn doubled_takes(&self, hash: u64, backend: usize, further: &[u64]) -> bool {
        debug_assert!(further.is_sorted(), "points of backend {backend}");
        let distance = |points: &[u64]| {
            let from = points.partition_point(|point| point >> 32 < hash >> 32);
            let point = points.get(from).unwrap_or(&points[0]);
            ((point >> 32) as u32).wrapping_sub((hash >> 32) as u32)
        };
        distance(further) < distance(&self.points)
    }

    /// Returns the points that a backend gets for its second weight.
    pub(crate) fn further_points(backend: usize, points_each: u64) -> Vec<u64> {
        let mut points: Vec<u64> =
            (points_each..2 * points_each).map(|number| Self::point(backend as u64, number)).collect();
        points.sort_unstable();
        points
    }

    /// Returns the part of the hashes that each backend has.
    pub(crate) fn shares(&self, backends: usize) -> Vec<f64> {
        let mut shares = vec![0.0; backends];
        let mut before = self.points.last().expect("points") >> 32;
        for point in &self.points {
            let arc = ((point >> 32) as u32).wrapping_sub(before as u32);
            shares[(point & u64::from(u32::MAX)) as usize] += f64::from(arc) / 2_f64.powi(32);
            before = point >> 32;
        }
        shares
    }
}

/// The first two backends of a key by rendezvous hashing, and the score of one more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rendezvous {
    pub(crate) first: usize,
    pub(crate) second: usize,
    /// True if one backend would be the first with weight 2.
    pub(crate) doubled_takes: bool,
}

impl Rendezvous {
    /// Scores all backends for a key. O(backends), as each pick of this kind.
    pub(crate) fn of(key: u64, backends: usize, doubled: usize) -> Self {
        let score = |backend: usize| mix(key ^ mix(backend as u64 ^ 0x5ca1_ab1e));
        let (mut first, mut second) = ((0, 0), (0, 0));
        for backend in 0..backends {
            let scored = (score(backend), backend);
            if scored > first {
                (first, second) = (scored, first);
            } else if scored > second {
                second = scored;
            }
        }
        // The score with a weight w is -w / ln(score).
        let weighted = |score: u64, weight: f64| -weight / part(score).ln();
        let doubled_takes = first.1 != doubled && weighted(score(doubled), 2.0) > weighted(first.0, 1.0);
        Self { first: first.1, second: second.1, doubled_takes }
    }
}
