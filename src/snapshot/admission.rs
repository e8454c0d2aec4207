//! The limits on admission that are in use.

use std::sync::Arc;

use super::AdmissionSpec;
use crate::limit::{OverLimit, Quota, RateGate};

/// The limits that a listener sets on its connections.
#[derive(Debug)]
pub struct Admission {
    /// The limits as configured.
    pub spec: AdmissionSpec,
    /// The rate of the listener; kept over reloads.
    pub rate: Arc<RateGate>,
}

/// The limits of a route or a pool.
#[derive(Clone, Debug)]
pub struct UsageLimit {
    /// The use of the limits; kept over reloads.
    pub quota: Arc<Quota>,
    /// The treatment of a connection above a limit.
    pub over: OverLimit,
}
