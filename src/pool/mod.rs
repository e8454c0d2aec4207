//! A named set of backends, how to choose among them, and how their health is known.

pub mod spec;

pub use spec::{BackendSpec, CheckKind, DialSpec, HashOn, HealthSpec, PoolSpec, SourcePrefix};
