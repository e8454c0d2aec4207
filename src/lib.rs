//! pointsman: a layer-4 TCP and TLS-passthrough load balancer.
//!
//! It reads the first bytes a client sends (a TLS ClientHello's server name), picks a backend by
//! consistent hashing and moves bytes both ways through kernel pipes, never decrypting.
//!
//! The modules stand in one order, and a module uses only what stands above it: the kernel first,
//! then pure values, then what lives, then the data path, then the life of the process. `ARCHITECTURE.md`
//! walks through it; `conn` is the best place to start reading.

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
