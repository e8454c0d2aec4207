//! Classifies errors of the kernel that [`io::ErrorKind`] does not distinguish.

use std::io;

use nix::errno::Errno;

/// Returns true if a resource of the process or the host has run out: descriptors, buffers, memory, watches of epoll.
/// The peer of the failed call is not the cause, and the next call would fail in the same way.
pub fn is_out_of_resources(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC])
}

/// Returns true if the kernel does not have the family of an address, which is mostly IPv6.
pub fn is_missing_family(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::EAFNOSUPPORT])
}

/// Returns the error of a process that may open no further descriptor.
pub(crate) fn out_of_descriptors() -> io::Error {
    Errno::EMFILE.into()
}

/// Returns true if a failed accept concerns only the connection that it was about to return.
///
/// accept(2) returns errors that the network reported for that connection, and the next accept may succeed. An error of
/// an unknown kind returns false, because an immediate retry after such an error would spin.
pub fn is_of_one_client(error: &io::Error) -> bool {
    is_one_of(
        error,
        &[
            Errno::ECONNABORTED,
            Errno::EPROTO,
            Errno::EPERM,
            Errno::ENETDOWN,
            Errno::ENOPROTOOPT,
            Errno::EHOSTDOWN,
            Errno::ENONET,
            Errno::EHOSTUNREACH,
            Errno::EOPNOTSUPP,
            Errno::ENETUNREACH,
            Errno::ETIMEDOUT,
            Errno::ECONNRESET,
        ],
    )
}

fn is_one_of(error: &io::Error, list: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|code| list.contains(&Errno::from_raw(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errno: Errno, out_of_resources: bool, of_one_client: bool) {
        let error = io::Error::from(errno);
        assert_eq!(is_out_of_resources(&error), out_of_resources, "{errno}");
        assert_eq!(is_of_one_client(&error), of_one_client, "{errno}");
    }

    #[test]
    fn each_error_concerns_one_client_or_all() {
        check(Errno::EMFILE, true, false);
        check(Errno::ENFILE, true, false);
        check(Errno::ENOBUFS, true, false);
        check(Errno::ENOMEM, true, false);
        // The error of epoll_ctl(2) at fs.epoll.max_user_watches.
        check(Errno::ENOSPC, true, false);
        check(Errno::ECONNABORTED, false, true);
        check(Errno::EPERM, false, true);
        check(Errno::EAGAIN, false, false);
        check(Errno::EINVAL, false, false);
        check(Errno::ECONNREFUSED, false, false);
        check(Errno::UnknownErrno, false, false);
    }

    #[test]
    fn an_error_without_a_number_is_neither() {
        let error = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(!is_out_of_resources(&error) && !is_of_one_client(&error));
    }
}
