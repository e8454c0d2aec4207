//! pointsman: a layer-4 TCP and TLS-passthrough load balancer.
//!
//! It reads the first bytes of a client (the server name in a TLS ClientHello) and picks a backend, by default by
//! consistent hashing. It moves bytes in both directions through kernel pipes. It never decrypts.
//!
//! The modules below are in one order: system calls, pure functions, shared state, the data path, the process. A
//! module uses only modules above it. `ARCHITECTURE.md` describes them; `conn` is the best module to start reading.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read and write files; tests/it/tidy.rs forbids the rest"
    )
)]

pub mod sys;

pub mod reclaim;

pub mod executor;

pub mod wire;

pub mod route;

pub mod balance;

pub mod ids;

pub mod limit;

pub mod telemetry;

pub mod live;

pub mod pool;

pub mod relay;

pub mod snapshot;

pub mod conn;

pub mod listener;

pub mod worker;

pub mod config;

pub mod server;

pub mod admin;

pub mod cli;
