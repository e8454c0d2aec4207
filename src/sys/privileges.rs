//! The privileges of this process: its capabilities, and the permission to gain more.
//!
//! The kernel stores both for each thread, and a new thread inherits both from the thread that started it. So the first
//! thread gives up the privileges before it starts another thread.

use std::fmt;
use std::io;

use nix::libc;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// The right to listen on ports below 1024.
    pub const NET_BIND_SERVICE: Self = Self(1 << 10);
    /// The right to change the network of this machine. It includes connections from foreign addresses.
    pub const NET_ADMIN: Self = Self(1 << 12);
    /// The right to send raw packets. It includes connections from foreign addresses.
    pub const NET_RAW: Self = Self(1 << 13);

    /// Returns the capabilities that are in both sets.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the capabilities that are in either set.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns true if the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the capabilities that this thread may use.
    ///
    /// # Errors
    ///
    /// Errors of `capget`.
    pub fn held() -> io::Result<Self> {
        Ok(CapabilitySets::read()?.permitted())
    }
}

impl fmt::Display for Capabilities {
    /// Writes the names as in capabilities(7), or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            (Self::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
            (Self::NET_ADMIN, "CAP_NET_ADMIN"),
            (Self::NET_RAW, "CAP_NET_RAW"),
        ];
        let names = known.iter().filter(|(one, _)| !self.and(*one).is_empty()).map(|(_, name)| *name);
        let names: Vec<_> = names.collect();
        let others = known.iter().fold(self.0, |left, (one, _)| left & !one.0).count_ones();
        match (names.as_slice(), others) {
            ([], 0) => f.write_str("none"),
            (names, 0) => f.write_str(&names.join(" ")),
            ([], others) => write!(f, "{others} of them"),
            (names, others) => write!(f, "{} and {others} others", names.join(" ")),
        }
    }
}

/// Drops every capability of this thread that is not in `keep`. Returns the capabilities that are left: those of
/// `keep` that the thread had.
///
/// # Errors
///
/// Errors of `capset`. After an error nothing has changed.
pub fn keep_only(keep: Capabilities) -> io::Result<Capabilities> {
    let before = CapabilitySets::read()?;
    let after = before.within(keep);
    // A filter of system calls may forbid the second call, which is needed only if there is something to drop.
    if after != before {
        after.write()?;
    }
    Ok(after.permitted())
}

/// Prevents any program that this process starts from getting more privileges than this process has, whatever the
/// mode bits of its file are.
///
/// # Errors
///
/// Errors of `prctl`.
pub fn gain_no_more() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Returns true if this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Returns the text to add to an error of a file. The text names a possible cause: root lacks a capability that the
/// process gave up. Without this cause the text is empty.
pub fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if is_root() => {
            "; root without capabilities needs permission as others do: give the file and its directory to root, or \
             run as their owner"
        }
        _ => "",
    }
}

/// The version of the kernel's interface that has 64 capabilities in two words.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    /// 0 is the calling thread.
    pid: libc::c_int,
}

/// The sets of a thread, 32 capabilities in each word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct CapabilitySets([CapabilityWord; 2]);

impl CapabilitySets {
    fn read() -> io::Result<Self> {
        let mut header = CapabilityHeader { version: VERSION, pid: 0 };
        let mut sets = Self::default();
        // SAFETY: both values live until the call returns, and have the layout that this version requires.
        #[allow(unsafe_code)]
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.0.as_mut_ptr()) };
        if result == 0 { Ok(sets) } else { Err(io::Error::last_os_error()) }
    }

    fn write(&self) -> io::Result<()> {
        let mut header = CapabilityHeader { version: VERSION, pid: 0 };
        // SAFETY: as above; the kernel only reads the sets.
        #[allow(unsafe_code)]
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, self.0.as_ptr()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn permitted(&self) -> Capabilities {
        Capabilities(u64::from(self.0[0].permitted) | u64::from(self.0[1].permitted) << 32)
    }

    /// Returns the sets with only the capabilities in `keep`. The kernel itself reduces the ambient set to capabilities
    /// that are in the permitted set and in the inheritable set.
    fn within(&self, keep: Capabilities) -> Self {
        let [low, high] = self.0;
        Self([low.within(keep.0 as u32), high.within((keep.0 >> 32) as u32)])
    }
}

impl CapabilityWord {
    fn within(self, keep: u32) -> Self {
        Self {
            effective: self.effective & keep,
            permitted: self.permitted & keep,
            inheritable: self.inheritable & keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn check(set: Capabilities, expected: &str) {
        assert_eq!(set.to_string(), expected);
    }

    #[test]
    fn sets_have_names() {
        check(Capabilities::NONE, "none");
        check(Capabilities::NET_RAW, "CAP_NET_RAW");
        check(Capabilities::NET_RAW.or(Capabilities::NET_BIND_SERVICE), "CAP_NET_BIND_SERVICE CAP_NET_RAW");
        check(Capabilities(1 | 1 << 39), "2 of them");
        check(Capabilities(1 << 39).or(Capabilities::NET_ADMIN), "CAP_NET_ADMIN and 1 others");
    }

    /// Runs in a thread of its own, because dropped capabilities cannot be restored.
    fn kept(keep: Capabilities) -> (Capabilities, Capabilities) {
        thread::spawn(move || (keep_only(keep).unwrap(), Capabilities::held().unwrap())).join().unwrap()
    }

    #[test]
    fn what_is_not_kept_is_gone() {
        let held = Capabilities::held().unwrap();
        let wanted = Capabilities::NET_BIND_SERVICE.or(Capabilities::NET_RAW);
        let left = held.and(wanted);
        assert_eq!(kept(wanted), (left, left));
        assert_eq!(kept(Capabilities::NONE), (Capabilities::NONE, Capabilities::NONE));
        assert_eq!(Capabilities::held().unwrap(), held, "other threads keep theirs");
    }

    #[test]
    fn no_more_is_gained() {
        let is_set = thread::spawn(|| {
            gain_no_more().unwrap();
            nix::sys::prctl::get_no_new_privs().unwrap()
        });
        assert!(is_set.join().unwrap());
    }
}
