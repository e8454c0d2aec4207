//! The version and the commit that this program was built from.

/// The version in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first digits of the commit, or `unknown` if the build had no repository; `build.rs` finds it.
pub const COMMIT: &str = env!("POINTSMAN_COMMIT");

/// Both, as `--version` prints them.
pub const VERSION_AND_COMMIT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("POINTSMAN_COMMIT"), ")");
