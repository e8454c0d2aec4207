//! Sends notifications to the service manager (systemd): ready, reloading, stopping, and that every worker is alive.
//!
//! A send never waits: the manager may be busy, with the queue of its socket full. A stage that could not be sent is
//! sent again until the manager takes it or a later stage replaces it. The watchdog is fed again at its next beat.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

use super::service_manager::ServiceManager;
use crate::live::TICK;
use crate::sys::notify_socket::address;
use crate::telemetry::Counter;
use crate::worker::Worker;

/// The time until a stage is sent again to a manager whose queue is full. Nothing reports that the queue has room.
const RETRY_FULL: Duration = Duration::from_millis(100);

/// The time until a stage is sent again after any other error: the socket may be gone for good.
const RETRY_FAILED: Duration = Duration::from_secs(5);

/// The state of the process that is sent to the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceStage {
    /// The process serves, or serves again after a reload.
    Ready,
    /// A reload begins.
    Reloading,
    /// The process stops.
    Stopping,
    /// The process serves as the successor of the process with this id.
    TookOver(u32),
}

impl ServiceStage {
    /// Returns the message. systemd ends a service of `Type=notify-reload` whose message lacks the start of the reload.
    fn text(self) -> String {
        match self {
            Self::Ready => NotifyState::Ready.to_string(),
            Self::Reloading => match NotifyState::monotonic_usec_now() {
                Ok(now) => format!("{}\n{now}", NotifyState::Reloading),
                Err(_) => NotifyState::Reloading.to_string(),
            },
            Self::Stopping => NotifyState::Stopping.to_string(),
            Self::TookOver(from) => {
                format!("{}\nSTATUS=Took over from process {from}", NotifyState::Ready)
            }
        }
    }
}

/// The sender to the service manager.
struct Notifier {
    /// The socket of the manager; `None` if no manager requires notifications.
    manager: Option<SocketAddr>,
    /// Stages to send, in order: at most a start, a reload with its end, and the stop.
    pending: VecDeque<(ServiceStage, String)>,
    /// The time at which they are sent again.
    retry: Option<Instant>,
    /// True if the last send failed. The log has this failure already.
    is_failing: bool,
    failures: Counter,
}

impl Notifier {
    fn new(socket: Option<&OsStr>, failures: Counter) -> Self {
        let manager = socket.filter(|name| !name.is_empty()).and_then(|name| {
            address(name)
                .inspect_err(|error| {
                    tracing::warn!(
                        socket = %name.display(), %error,
                        "NOTIFY_SOCKET cannot be used, so the service manager is not notified; the variable must be an absolute path or @NAME"
                    );
                })
                .ok()
        });
        Self { manager, pending: VecDeque::new(), retry: None, is_failing: false, failures }
    }

    fn stage(&mut self, stage: ServiceStage) {
        if self.manager.is_none() {
            return;
        }
        if stage == ServiceStage::Reloading
            && let Some(before) =
                self.pending.iter().position(|(pending, _)| *pending == ServiceStage::Reloading)
        {
            // The manager did not get the earlier reload, and needs only the last reload.
            self.pending.truncate(before);
        }
        self.pending.push_back((stage, stage.text()));
        self.send_pending();
    }

    /// Sends the pending stages, in order, until the manager takes no more.
    fn send_pending(&mut self) {
        self.retry = None;
        while let Some((_, text)) = self.pending.front() {
            if let Err(error) = self.send(text) {
                let pause = if error.kind() == ErrorKind::WouldBlock { RETRY_FULL } else { RETRY_FAILED };
                self.retry = Some(Instant::now() + pause);
                return self.note_failure(&error);
            }
            self.pending.pop_front();
            self.note_success();
        }
    }

    /// Feeds the watchdog, unless a stage waits that must be sent first.
    fn feed_watchdog(&mut self) {
        self.send_pending();
        if self.manager.is_none() || !self.pending.is_empty() {
            return;
        }
        match self.send(&NotifyState::Watchdog.to_string()) {
            Ok(()) => self.note_success(),
            Err(error) => self.note_failure(&error),
        }
    }

    /// Sends one message, or fails at once. Each message uses a new socket, because the manager may have
    /// replaced its own socket.
    fn send(&self, text: &str) -> io::Result<()> {
        let Some(manager) = &self.manager else { return Ok(()) };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // A datagram is sent whole or not at all.
        socket.send_to_addr(text.as_bytes(), manager).map(drop)
    }

    fn note_failure(&mut self, error: &io::Error) {
        self.failures.increment(1);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                %error,
                "the service manager does not take notifications; clients are served, and the state is sent again until the manager takes it"
            );
        }
    }

    fn note_success(&mut self) {
        if std::mem::replace(&mut self.is_failing, false) {
            tracing::info!("the service manager takes notifications again");
        }
    }
}

/// The notifications of the control loop, and the watchdog that the manager requires by WATCHDOG_USEC.
pub(super) struct Watchdog {
    notifier: Notifier,
    interval: Option<Interval>,
    /// True if the interval is over and the watchdog is not yet fed.
    is_due: bool,
    /// The beats at the last comparison, by worker number. In a drain the workers end one after the other.
    beats: HashMap<usize, u64>,
    /// The time of the last comparison.
    compared_at: Instant,
}

impl Watchdog {
    /// Returns the notifications of a manager. `failures` counts notifications that could not be sent.
    pub(super) fn new(manager: &ServiceManager, failures: Counter) -> Self {
        Self {
            notifier: Notifier::new(manager.socket.as_deref(), failures),
            interval: manager.watchdog.map(feeding),
            is_due: false,
            beats: HashMap::new(),
            compared_at: Instant::now(),
        }
    }

    /// Feeds the watchdog, for a process without workers. Never returns.
    pub(super) async fn feed_for_ever(&mut self) {
        loop {
            self.due().await;
            self.is_due = false;
            self.notifier.feed_watchdog();
        }
    }

    /// Ends all notifications: the successor of this process sends them from now on. Stages that wait are dropped.
    pub(super) fn hand_over(&mut self) {
        self.notifier.manager = None;
        self.notifier.pending.clear();
        self.notifier.retry = None;
        self.interval = None;
        self.is_due = false;
    }

    /// Begins to notify the manager of the process `from`, which has made this process the main process. Until then
    /// the manager takes nothing from this process.
    pub(super) fn take_over(&mut self, manager: &ServiceManager, from: u32) {
        let failures = self.notifier.failures.clone();
        *self = Self::new(manager, failures);
        self.notify(ServiceStage::TookOver(from));
    }

    /// Notifies the manager of a stage; does nothing without a manager. Never waits.
    pub(super) fn notify(&mut self, stage: ServiceStage) {
        self.notifier.stage(stage);
    }

    /// Waits until the watchdog is due or a stage is to be sent again. Without both it waits for ever.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub(super) async fn due(&mut self) {
        let tick = async {
            match &mut self.interval {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        match self.notifier.retry {
            Some(retry) => self.is_due |= timeout_at(retry, tick).await.is_ok(),
            None => {
                tick.await;
                self.is_due = true;
            }
        }
    }

    /// Sends pending stages. Feeds the watchdog if it is due and the beats of every worker have changed since
    /// the last comparison.
    ///
    /// A worker beats once in a [`TICK`]. If the interval of a watchdog is shorter, the result of the last
    /// comparison decides whether it is fed.
    pub(super) fn beat(&mut self, workers: &[Worker]) {
        if !std::mem::take(&mut self.is_due) {
            return self.notifier.send_pending();
        }
        if self.compared_at.elapsed() < 2 * TICK {
            return self.notifier.feed_watchdog();
        }
        let beats: HashMap<_, _> = workers.iter().map(|worker| (worker.number(), worker.beats())).collect();
        match beats.iter().find(|(worker, now)| self.beats.get(worker) == Some(now)) {
            Some((worker, _)) => {
                tracing::error!(
                    worker,
                    "a worker does not respond; the watchdog of the service manager is not notified"
                );
                self.notifier.send_pending();
            }
            None => self.notifier.feed_watchdog(),
        }
        self.beats = beats;
        self.compared_at = Instant::now();
    }
}

/// Returns the interval at which the watchdog is fed.
fn feeding(limit: Duration) -> Interval {
    let mut interval = interval((limit / 2).max(Duration::from_millis(100)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::linux::net::SocketAddrExt;
    use std::path::PathBuf;

    use super::*;

    /// A manager with a socket of its own.
    struct Manager {
        socket: UnixDatagram,
        path: PathBuf,
    }

    impl Manager {
        fn new(test: &str) -> Self {
            let path = env::temp_dir().join(format!("pointsman-notify-{test}-{}", std::process::id()));
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, path }
        }

        fn notifier(&self) -> Notifier {
            Notifier::new(Some(self.path.as_os_str()), Counter::noop())
        }

        /// Sends until the queue takes no more. Returns the number of messages that it took.
        fn fill(&self) -> usize {
            let other = UnixDatagram::unbound().unwrap();
            other.set_nonblocking(true).unwrap();
            let taken = std::iter::from_fn(|| other.send_to(b"X=1", &self.path).ok()).count();
            assert!(taken > 0);
            taken
        }

        /// Returns the first line of each message in the queue.
        fn read(&self) -> Vec<String> {
            let mut buffer = [0; 4096];
            let next = || {
                let length = self.socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            std::iter::from_fn(next).map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
        }
    }

    impl Drop for Manager {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn check_pending(test: &str, stages: &[ServiceStage], expected: &[&str]) {
        let manager = Manager::new(test);
        let mut notifier = manager.notifier();
        let filled = manager.fill();
        stages.iter().for_each(|stage| notifier.stage(*stage));
        assert!(notifier.retry.is_some());
        notifier.feed_watchdog();
        assert_eq!(manager.read().len(), filled, "nothing got in between");
        notifier.send_pending();
        assert_eq!(manager.read(), expected);
        assert!(notifier.retry.is_none() && !notifier.is_failing);
    }

    #[test]
    fn stages_wait_in_order_and_later_reloads_replace_earlier_ones() {
        use ServiceStage::{Ready, Reloading, Stopping};
        check_pending("start", &[Ready], &["READY=1"]);
        check_pending("stop", &[Ready, Stopping], &["READY=1", "STOPPING=1"]);
        let reloads = [Ready, Reloading, Ready, Reloading, Ready, Reloading, Ready];
        check_pending("reloads", &reloads, &["READY=1", "RELOADING=1", "READY=1"]);
        let half = [Reloading, Ready, Reloading];
        check_pending("half", &half, &["RELOADING=1"]);
        let all = [Reloading, Ready, Reloading, Ready, Stopping];
        check_pending("all", &all, &["RELOADING=1", "READY=1", "STOPPING=1"]);
    }

    #[test]
    fn a_reload_has_the_time_of_its_start() {
        let text = ServiceStage::Reloading.text();
        let moment = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time follows the stage");
        assert!(moment.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn a_manager_that_is_gone_is_tried_again_later() {
        let manager = Manager::new("gone");
        let mut notifier = manager.notifier();
        drop(manager);
        notifier.stage(ServiceStage::Ready);
        assert!(notifier.retry.is_some_and(|retry| retry > Instant::now() + RETRY_FULL));
        let manager = Manager::new("gone");
        notifier.send_pending();
        assert_eq!(manager.read(), ["READY=1"]);
    }

    #[test]
    fn after_a_hand_over_the_successor_notifies() {
        let manager = Manager::new("hand-over");
        let service = ServiceManager { socket: Some(manager.path.clone().into()), watchdog: None };
        let mut incumbent = Watchdog::new(&service, Counter::noop());
        let mut successor = Watchdog::new(&ServiceManager::default(), Counter::noop());
        incumbent.notify(ServiceStage::Ready);
        successor.notify(ServiceStage::Ready);
        incumbent.hand_over();
        incumbent.notify(ServiceStage::Stopping);
        successor.take_over(&service, 812);
        successor.notify(ServiceStage::Stopping);
        assert_eq!(manager.read(), ["READY=1", "READY=1", "STOPPING=1"]);
        assert_eq!(ServiceStage::TookOver(812).text(), "READY=1\nSTATUS=Took over from process 812");
    }

    #[tokio::test]
    async fn the_successor_feeds_the_watchdog_of_the_incumbent() {
        let manager = Manager::new("fed");
        let limit = Duration::from_millis(1);
        let service = ServiceManager { socket: Some(manager.path.clone().into()), watchdog: Some(limit) };
        let mut successor = Watchdog::new(&ServiceManager::default(), Counter::noop());
        successor.take_over(&service, 1);
        successor.due().await;
        successor.beat(&[]);
        assert_eq!(manager.read(), ["READY=1", "WATCHDOG=1"]);
        successor.hand_over();
        successor.beat(&[]);
        assert!(manager.read().is_empty());
    }

    #[test]
    fn addresses_are_paths_or_names() {
        let path = address(OsStr::new("/run/notify")).unwrap();
        assert_eq!(path.as_pathname(), Some(std::path::Path::new("/run/notify")));
        let name = address(OsStr::new("@a/b")).unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"a/b"[..]));
        for wrong in ["vsock:2:1234", "relative", ""] {
            assert!(address(OsStr::new(wrong)).is_err(), "{wrong}");
        }
        let mut unnotified = Notifier::new(Some(OsStr::new("relative")), Counter::noop());
        unnotified.stage(ServiceStage::Ready);
        assert!(unnotified.pending.is_empty());
    }
}
