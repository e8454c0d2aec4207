//! Nodes that serve one address, with real routers, keepalived, exabgp and the rules that the program prints.
//!
//! A test counts the connections that break, not the seconds that a change takes. Each event is tried with the rules, and
//! the first ones also without: there, connections of nodes that stay must break, or the test would prove nothing.

mod balancers;
mod behind_router;
mod lab;
mod packets;

/// The connections that stay open over an event.
const CLIENTS: usize = 300;
