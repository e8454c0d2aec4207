//! Integration tests: the whole server in this process, on real sockets, with ports that the kernel chooses.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]
// The whole status page is one value of `json!`.
#![recursion_limit = "256"]

mod accept;
mod admin;
mod balance;
mod checks_by_name;
mod child;
mod conditions;
mod confined;
mod connections;
mod dial;
mod discovery;
mod down;
mod ends;
mod events;
mod explain;
mod files;
mod forward;
mod gone;
mod guarded;
mod handover;
mod history;
mod injection;
mod last_use;
mod life;
mod limits;
mod lists;
mod logs;
mod manuals;
mod messages;
mod metrics;
mod names;
mod openings;
mod packages;
mod ports;
mod pressure;
mod probes;
mod process;
mod proxied;
mod queue;
mod real;
mod rebalance;
mod recipes;
mod records;
mod reference;
mod relay;
mod reloads;
mod routes;
mod running_config;
mod saturation;
mod starting;
mod states;
mod status;
mod steer;
mod stuck;
mod support;
mod terminal_view;
mod tidy;
mod tidy_circles;
mod tidy_docs;
mod tidy_functions;
mod tidy_paths;
mod tidy_source;
mod tidy_workers;
mod tiers;
mod tls;
mod tunnels;
mod unix;
mod upgrade;
mod version;
mod workers;
