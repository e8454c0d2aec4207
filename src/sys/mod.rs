//! The kernel: addresses, sockets and their options, pipes and splice, limits of the process.
//!
//! The only home of raw descriptors, of `nix` and `libc` names and of `unsafe`. It knows nothing of
//! routes, pools, configuration or metrics.

pub mod address;

pub use address::Address;
