//! Reads the configuration's file for a reload, beside the control loop, which goes on meanwhile. At most one such read
//! is under way, even if several reloads are requested while a file system does not answer.
//!
//! Reports of the tasks that follow files of lists and routes wait until the reload is over: they are newer than the
//! contents that the reload read.

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
use super::run::{Control, Event, ends};
use super::tentative::wait_for_addresses;
use super::view::Request;
use crate::config::{self, Config};

/// How long reading may take. Millions of lines take a fraction of it, so after this time a file system hangs.
const READ_PATIENCE: Duration = Duration::from_secs(60);

impl Control {
    /// Reloads the file, or leaves everything as it is.
    pub(super) async fn reload_file(&mut self) {
        let Some(path) = self.file.clone() else {
            tracing::warn!("SIGHUP reloads a file, and this process was started without one");
            return;
        };
        self.watchdog.notify(ServiceStage::Reloading);
        let began = Instant::now();
        // Elsewhere than on this thread: a list of millions takes seconds, and admin is asked here.
        let read = if self.reading.strong_count() > 0 {
            Some(Err(ReloadFault::StillReading))
        } else {
            let reading = Arc::new(());
            self.reading = Arc::downgrade(&reading);
            self.wait_for_read(read_and_settle(reading, path)).await
        };
        let Some(read) = read else {
            tracing::warn!("not reloaded: the file was still being read");
            return;
        };
        let _ = self.reload(began, read).await;
        self.watchdog.notify(ServiceStage::Ready);
    }

    /// What was read, or `None` if the process is to end meanwhile; that comes next then.
    async fn wait_for_read(
        &mut self,
        reading: impl Future<Output = Result<Config, ReloadFault>>,
    ) -> Option<Result<Config, ReloadFault>> {
        let mut reading = pin!(reading);
        let deadline = Instant::now() + READ_PATIENCE;
        loop {
            let event = tokio::select! {
                read = &mut reading => return Some(read),
                // Its thread waits on; nothing else does.
                () = sleep_until(deadline.into()) => return Some(Err(ReloadFault::Unread)),
                event = self.hear() => event,
            };
            if self.meanwhile(event) {
                return None;
            }
        }
    }

    /// Handles an event that comes while the control loop waits: it is handled at once if possible, or else postponed.
    /// Returns `true` if the process is about to end; the event for that is the next one.
    pub(super) fn meanwhile(&mut self, event: Event) -> bool {
        match event {
            Event::Signal(kind) if kind == SignalKind::hangup() => self.reload_again(),
            Event::Signal(kind) if ends(kind) => {
                self.postponed.push_front(event);
                return true;
            }
            Event::Request(Request::Stop) | Event::Worker(..) => {
                self.postponed.push_front(event);
                return true;
            }
            // These wait until the reload is over.
            Event::Request(Request::Reload(..)) => self.postponed.push_back(event),
            Event::Routes(_) | Event::List(_) => self.postpone_report(event),
            event => self.apply(event),
        }
        false
    }

    /// Keeps a report until the wait is over. It replaces an earlier one of the same file, so that a file that changes
    /// often does not fill the memory.
    fn postpone_report(&mut self, report: Event) {
        self.postponed.retain(|earlier| match (earlier, &report) {
            (Event::Routes(earlier), Event::Routes(report)) => earlier.listener != report.listener,
            (Event::List(earlier), Event::List(report)) => earlier.reader.list() != report.reader.list(),
            _ => true,
        });
        self.postponed.push_back(report);
    }

    /// The file may have changed since it was opened. Once more is enough, however often that is said.
    fn reload_again(&mut self) {
        let is_hangup = |event: &Event| matches!(event, Event::Signal(kind) if *kind == SignalKind::hangup());
        if !self.postponed.iter().any(is_hangup) {
            self.postponed.push_back(Event::Signal(SignalKind::hangup()));
        }
    }
}

/// Reads the file on another thread, and waits for addresses of it that the kernel still checks.
/// `reading` lives as long as that thread reads.
async fn read_and_settle(reading: Arc<()>, path: PathBuf) -> Result<Config, ReloadFault> {
    let read = spawn_blocking(move || {
        let _until_the_end = reading;
        read(&path)
    });
    let read = read.await;
    let config = read.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
    wait_for_addresses(&config).await;
    Ok(config)
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
