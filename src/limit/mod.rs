//! May it come in? Counts, rates and the table of sources. `now` is passed in, and guards give back.
//!
//! Nothing here knows a socket or a configuration, and nothing grows with what clients do: gates and rates are
//! a few numbers, the table of sources has the size it was made with.

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
    SourceRefusal, SourceReport, SourceTable, WhenFull,
};
