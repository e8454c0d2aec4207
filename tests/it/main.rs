//! Integration tests: the whole server in this process, on real sockets, with ports that the kernel chooses.

#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

mod accept;
mod admin;
mod child;
mod dial;
mod discovery;
mod ends;
mod life;
mod pressure;
mod process;
mod real;
mod records;
mod relay;
mod routes;
mod support;
mod tidy;
mod tls;
mod workers;
