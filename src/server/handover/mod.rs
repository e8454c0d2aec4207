//! The hand-over to a newer program.

pub(super) mod world;
