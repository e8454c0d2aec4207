//! Reads the configuration file for a reload and binds its new listeners, while the control loop goes on. At most one
//! such call runs, even if several reloads are requested while a file system does not answer.
//!
//! Reports about list and route files wait until the reload is over, because they are newer than the contents that
//! the reload read.

use std::future::Future;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::SignalKind;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use super::notify::ServiceStage;
use super::reload::ReloadFault;
use super::run::{Control, ControlEvent, ends};
use super::sockets::{NewSockets, SocketPlan, bind_missing};
use super::tentative::wait_for_addresses;
use super::view::ControlRequest;
use crate::config::{self, Config};

/// The time that a reload waits for a file system. Millions of lines take a fraction of it, so a file system that takes
/// longer hangs.
const FILE_SYSTEM_TIMEOUT: Duration = Duration::from_secs(60);

impl Control {
    /// Reloads the file, or leaves everything as it is.
    pub(super) async fn reload_file(&mut self) {
        let Some(path) = self.file.clone() else {
            tracing::warn!("SIGHUP reloads a file, and this process was started without one");
            return;
        };
        self.watchdog.notify(ServiceStage::Reloading);
        let began = Instant::now();
        // A blocking thread reads the file: a list of millions takes seconds, and this thread serves admin.
        let read = match self.begin_wait() {
            None => Err(ReloadFault::StillWaiting),
            Some(waiting) => self.wait_for(read_and_settle(waiting, path)).await.and_then(|read| read),
        };
        let _ = self.reload(began, read).await;
        self.watchdog.notify(ServiceStage::Ready);
    }

    /// Binds, on a blocking thread, the addresses of a configuration that are not bound yet, and handles events
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// The fault of an address that cannot be bound; `NoAnswer` if a file system does not answer; `Stopping` if the
    /// process is to end. The event that ends the process is then the next one.
    pub(super) async fn bind(&mut self, config: &Config) -> Result<SocketPlan, ReloadFault> {
        let missing = self.server.sockets.missing(config);
        let mut fresh = NewSockets::new();
        if !missing.is_empty() {
            let waiting = self.begin_wait().ok_or(ReloadFault::StillWaiting)?;
            let (ours, workers) = (self.server.sockets.bound(), self.server.workers.len());
            let bind = blocking(waiting, move || bind_missing(missing, ours, workers));
            fresh = self.wait_for(bind).await??;
        }
        Ok(self.server.sockets.plan(config, fresh)?)
    }

    /// Returns a value to keep until a file system has answered, or `None` while an earlier reload waits for one.
    fn begin_wait(&mut self) -> Option<Arc<()>> {
        if self.waiting.strong_count() > 0 {
            return None;
        }
        let waiting = Arc::new(());
        self.waiting = Arc::downgrade(&waiting);
        Some(waiting)
    }

    /// Waits for work on a file system, at most a minute, and handles events meanwhile.
    ///
    /// # Errors
    ///
    /// `NoAnswer`, or `Stopping` if the process is to end. The event that ends the process is then the next one.
    async fn wait_for<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ReloadFault> {
        let mut work = pin!(work);
        let deadline = Instant::now() + FILE_SYSTEM_TIMEOUT;
        loop {
            let event = tokio::select! {
                done = &mut work => return Ok(done),
                // The thread of the work still waits; nothing else does.
                () = sleep_until(deadline.into()) => return Err(ReloadFault::NoAnswer),
                event = self.receive() => event,
            };
            if self.handle_while_waiting(event) {
                return Err(ReloadFault::Stopping);
            }
        }
    }

    /// Handles an event that arrives while the control loop waits: at once if possible, or else later. Returns
    /// `true` if the process is about to end. The event that ends the process is then the next one.
    pub(super) fn handle_while_waiting(&mut self, event: ControlEvent) -> bool {
        match event {
            ControlEvent::Signal(kind) if kind == SignalKind::hangup() => self.reload_again(),
            ControlEvent::Signal(kind) if ends(kind) => {
                self.postponed.push_front(event);
                return true;
            }
            ControlEvent::Request(ControlRequest::Stop) | ControlEvent::Worker(..) => {
                self.postponed.push_front(event);
                return true;
            }
            // These wait until the reload is over.
            ControlEvent::Request(ControlRequest::Reload(..)) => self.postponed.push_back(event),
            ControlEvent::Routes(_) | ControlEvent::List(_) => self.postpone_report(event),
            event => self.apply(event),
        }
        false
    }

    /// Keeps a report until the wait is over. It replaces an earlier one of the same file, so that a file that changes
    /// often does not fill the memory.
    fn postpone_report(&mut self, report: ControlEvent) {
        self.postponed.retain(|earlier| match (earlier, &report) {
            (ControlEvent::Routes(earlier), ControlEvent::Routes(report)) => {
                earlier.listener != report.listener
            }
            (ControlEvent::List(earlier), ControlEvent::List(report)) => {
                earlier.reader.list() != report.reader.list()
            }
            _ => true,
        });
        self.postponed.push_back(report);
    }

    /// Postpones one more reload: the file may have changed since it was opened. Several requests need only one.
    fn reload_again(&mut self) {
        let is_hangup = |event: &ControlEvent| matches!(event, ControlEvent::Signal(kind) if *kind == SignalKind::hangup());
        if !self.postponed.iter().any(is_hangup) {
            self.postponed.push_back(ControlEvent::Signal(SignalKind::hangup()));
        }
    }
}

/// Reads the file on another thread, and waits for the addresses in it that the kernel still checks.
async fn read_and_settle(waiting: Arc<()>, path: PathBuf) -> Result<Config, ReloadFault> {
    let config = blocking(waiting, move || read(&path)).await?;
    wait_for_addresses(&config).await;
    Ok(config)
}

/// Does the work on a blocking thread. `waiting` is dropped when the work is done.
async fn blocking<T: Send + 'static>(waiting: Arc<()>, work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = move || {
        let _until_the_end = waiting;
        work()
    };
    spawn_blocking(work).await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

fn read(path: &Path) -> Result<Config, ReloadFault> {
    match config::load(path) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                tracing::warn!("the configuration is good, but:\n{}", warnings.render(false));
            }
            Ok(config)
        }
        Err(faults) => Err(ReloadFault::File(faults)),
    }
}
