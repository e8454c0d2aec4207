//! The service manager (systemd) of the process, from the environment or from the process that hands over.

use std::env;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::sys::notify_socket;

/// The longest time for which a process that hands over waits for its manager.
const LIMIT: Duration = Duration::from_secs(5);

/// The service manager that requires notifications.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceManager {
    /// Its socket, as in NOTIFY_SOCKET; `None` if no manager requires notifications.
    pub(super) socket: Option<OsString>,
    /// The longest time between two messages for its watchdog; `None` if it has no watchdog.
    pub(super) watchdog: Option<Duration>,
}

/// The reason why the manager did not make the successor the main process.
#[derive(Debug, thiserror::Error)]
pub(super) enum MainProcessFault {
    /// The manager does not take messages.
    #[error("the service manager does not take notifications: {0}")]
    Io(#[from] io::Error),
    /// The manager has not handled the message in time.
    #[error("the service manager has not answered for 5 s")]
    NoAnswer,
}

impl ServiceManager {
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    pub(super) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        Self { socket, watchdog: sd_notify::watchdog_enabled() }
    }

    /// Returns the manager of a successor. `incumbent` is the manager of the process that hands over, and `own` the
    /// manager in the environment. They differ if another service started the successor. A process that a reload starts
    /// has no watchdog in its environment, so the watchdog of the incumbent counts.
    pub(super) fn of_successor(own: Self, incumbent: Self) -> Self {
        match own.socket.is_some() && own.socket != incumbent.socket {
            true => own,
            false => incumbent,
        }
    }

    /// Makes another process of the service its main process, and waits until the manager has done that. Then that
    /// process may send notifications, and this process must send no more. Blocks for at most 10 s. Without a manager
    /// it does nothing.
    ///
    /// # Errors
    ///
    /// If the manager does not take the messages, or does not answer in time.
    pub(super) fn make_main(&self, pid: u32) -> Result<(), MainProcessFault> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let manager = notify_socket::address(socket)?;
        notify_socket::send(&manager, &NotifyState::MainPid(pid).to_string(), LIMIT)?;
        match notify_socket::barrier(&manager, LIMIT)? {
            true => Ok(()),
            false => Err(MainProcessFault::NoAnswer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    /// A manager that keeps the messages.
    fn manager(test: &str) -> (UnixDatagram, PathBuf) {
        let path = env::temp_dir().join(format!("pointsman-main-{test}-{}", std::process::id()));
        (UnixDatagram::bind(&path).unwrap(), path)
    }

    /// Receives a message. The kernel closes the descriptors that come with it.
    fn receive(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn the_main_process_is_sent_before_the_barrier() {
        let (socket, path) = manager("order");
        let service = ServiceManager { socket: Some(path.clone().into()), watchdog: None };
        let answering = thread::spawn(move || [receive(&socket), receive(&socket)]);
        service.make_main(4711).unwrap();
        let messages = answering.join().unwrap();
        assert_eq!(messages, ["MAINPID=4711", "BARRIER=1"]);
        assert!(service.make_main(1).is_err(), "the manager is gone");
        std::fs::remove_file(path).unwrap();
        ServiceManager::default().make_main(1).unwrap();
    }

    #[test]
    fn a_successor_has_the_manager_of_the_incumbent_or_its_own() {
        let manager = |socket: Option<&str>, seconds: Option<u64>| ServiceManager {
            socket: socket.map(OsString::from),
            watchdog: seconds.map(Duration::from_secs),
        };
        let (none, incumbent) = (ServiceManager::default(), manager(Some("/run/a"), Some(30)));
        let check = |own: &ServiceManager, of: &ServiceManager, expected: &ServiceManager| {
            assert_eq!(ServiceManager::of_successor(own.clone(), of.clone()), *expected);
        };
        check(&none, &incumbent, &incumbent);
        check(&manager(Some("/run/a"), None), &incumbent, &incumbent);
        let other = manager(Some("/run/b"), Some(1));
        check(&other, &incumbent, &other);
        check(&other, &none, &other);
        check(&none, &none, &none);
    }
}
