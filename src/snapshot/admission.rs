//! What is asked of who comes, alive.

use std::sync::Arc;

use super::AdmissionSpec;
use crate::limit::{OverLimit, Quota, RateGate};

/// What a listener asks of who comes.
#[derive(Debug)]
pub struct Admission {
    /// As configured.
    pub spec: AdmissionSpec,
    /// The rate of the listener; outlives reloads.
    pub rate: Arc<RateGate>,
}

/// What a route or a pool may have.
#[derive(Clone, Debug)]
pub struct UsageLimit {
    /// What is used of it; outlives reloads.
    pub quota: Arc<Quota>,
    /// What becomes of a connection above it.
    pub over: OverLimit,
}
