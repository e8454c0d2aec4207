//! Bytes to values and values to bytes, pure: no sockets, no clocks, no logging.

pub mod server_name;

pub use server_name::{NameFault, ServerName};
