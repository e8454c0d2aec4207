//! The kernel: addresses, sockets and their options, pipes and splice, limits of the process.
//!
//! The only home of raw descriptors, of `nix` and `libc` names and of `unsafe`. It knows nothing of
//! routes, pools, configuration or metrics.
//!
//! Descriptors are owned values and close-on-exec; every socket is non-blocking. `EINTR` is retried
//! here; would-block is a state that the callers above see as [`std::io::ErrorKind::WouldBlock`] or
//! as `Poll::Pending`.

pub mod address;
pub mod fault;
pub mod file;
pub mod landlock;
pub mod listen;
pub mod pipe;
pub mod privileges;
pub mod process;
pub mod reactor;
pub mod socket;
pub mod socket_file;
pub mod stream;
pub mod tcp;
pub mod watch;

pub use address::Address;
pub use listen::Listening;
pub use pipe::Pipe;
pub use socket_file::SocketFile;
pub use stream::Stream;

use std::io;

/// Repeats `call` for as long as a signal interrupts it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
