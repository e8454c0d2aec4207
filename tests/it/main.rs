//! Integration tests: the whole server in this process, on real sockets, with ports that the kernel chooses.

mod relay;
mod support;
