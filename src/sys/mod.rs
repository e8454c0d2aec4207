//! Wraps the kernel: addresses, sockets and their options, pipes and splice, limits of the process.
//!
//! This module alone uses raw descriptors, names of `nix` and `libc`, and `unsafe`. It has no knowledge of routes,
//! pools, configuration or metrics.
//!
//! Descriptors are owned values and close-on-exec; every socket is non-blocking. `EINTR` is retried here. Would-block
//! is a state that callers get as [`std::io::ErrorKind::WouldBlock`] or as `Poll::Pending`.

pub mod address;
pub mod control_connect;
mod control_listen;
pub mod descriptors;
pub mod directory_watch;
pub mod fault;
pub mod file;
pub mod file_call;
pub mod frames;
pub mod landlock;
pub mod listen;
pub mod memory;
pub mod notify_socket;
pub mod pipe;
pub mod privileges;
pub mod process;
pub mod reactor;
pub mod self_connect;
pub mod socket;
pub mod socket_file;
pub mod standard_error;
pub mod stream;
pub mod tcp;
pub mod tcp_details;
mod unix_connect;
pub mod watch;

pub use address::Address;
pub use control_listen::ControlListening;
pub use listen::Listening;
pub use pipe::Pipe;
pub use socket_file::{FileIdentity, SocketFile};
pub use stream::Stream;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::thread;
use std::time::Duration;

/// Repeats `call` as long as a signal interrupts it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Blocks the thread for some milliseconds of random length, before it repeats an attempt that clashed with another
/// process.
#[allow(
    clippy::disallowed_methods,
    reason = "some milliseconds of the thread that binds, which serves no connections"
)]
pub(crate) fn pause() {
    /// The longest pause, in milliseconds.
    const LONGEST: u64 = 8;
    let randomness = RandomState::new().build_hasher().finish();
    thread::sleep(Duration::from_millis(1 + randomness % LONGEST));
}
