//! The limits on admission: counts, rates and the table of sources. `now` is a parameter, and guards return the
//! slots that were taken.
//!
//! This module uses no socket and no configuration. Its memory does not grow with the number of clients: gates and
//! rates are a few numbers, and the table of sources has a fixed size.

mod gate;
mod overload;
mod quota;
mod rate;
mod shortage;
mod sources;

pub use gate::{AdmissionRefusal, Gate, GatePass, GateShare, Permit};
pub use overload::{Overload, OverloadSpec};
pub use quota::{ExceededLimit, LimitsSpec, OverLimit, Quota, QuotaSpec};
pub use rate::{Moment, Rate, RateGate};
pub use shortage::Shortage;
pub use sources::{
    AdmissionRequest, Link, PrefixLengths, SourceBy, SourceKey, SourceLimits, SourceName, SourcePass,
    SourceRate, SourceRefusal, SourceReport, SourceTable, WhenFull,
};
