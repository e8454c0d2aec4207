//! The reading of the configuration's file for a reload: beside the control loop, which waits for it and hears
//! meanwhile what cannot wait.
//!
//! Reports of tasks stay where they are until the reload is over. So what the file of a list has now, told by the
//! task that follows it, comes after what the reload read of it, and not before.

use std::panic::resume_unwind;
use std::path::Path;
use std::time::Instant;

use sd_notify::NotifyState;
use tokio::signal::unix::SignalKind;
use tokio::task::spawn_blocking;

use super::notify::{tell, tell_of_reload};
use super::reload::ReloadFault;
use super::run::{Control, Event, any_signal, any_worker, ends};
use super::view::Request;
use crate::config::{self, Config};

impl Control {
    /// Reloads the file, or leaves everything as it is.
    pub(super) async fn reload_file(&mut self) {
        let Some(path) = self.file.clone() else {
            tracing::warn!("SIGHUP reloads a file, and this process was started without one");
            return;
        };
        tell_of_reload();
        let began = Instant::now();
        // Elsewhere than on this thread: a list of millions takes seconds, and admin is asked here.
        let Some(read) = self.wait_for_read(move || read(&path)).await else {
            tracing::warn!("not reloaded: the file was still being read");
            return;
        };
        let _ = self.reload(began, read).await;
        tell(&[NotifyState::Ready]);
    }

    /// What was read, or `None` if the process is to end meanwhile; that comes next then.
    async fn wait_for_read(
        &mut self,
        read: impl FnOnce() -> Result<Config, ReloadFault> + Send + 'static,
    ) -> Option<Result<Config, ReloadFault>> {
        let mut reading = spawn_blocking(read);
        loop {
            tokio::select! {
                read = &mut reading => match read {
                    Ok(read) => return Some(read),
                    Err(error) => resume_unwind(error.into_panic()),
                },
                kind = any_signal(&mut self.signals) => match kind {
                    _ if ends(kind) => {
                        self.postponed.push_front(Event::Signal(kind));
                        return None;
                    }
                    _ if kind == SignalKind::hangup() => self.reload_again(),
                    _ => self.server.access_log.reopen(),
                },
                // Another configuration waits for this one, and what comes behind it does too.
                Some(request) = self.server.requests.recv(), if self.postponed.is_empty() => match request {
                    Request::Stop => {
                        self.postponed.push_front(Event::Request(request));
                        return None;
                    }
                    Request::Reload(..) => self.postponed.push_back(Event::Request(request)),
                },
                (at, result) = any_worker(&mut self.server.workers) => {
                    self.postponed.push_front(Event::Worker(at, result));
                    return None;
                }
                () = self.watchdog.due() => self.watchdog.beat(&self.server.workers),
            }
        }
    }

    /// The file may have changed since it was opened. Once more is enough, however often that is said.
    fn reload_again(&mut self) {
        let is_hangup = |event: &Event| matches!(event, Event::Signal(kind) if *kind == SignalKind::hangup());
        if !self.postponed.iter().any(is_hangup) {
            self.postponed.push_back(Event::Signal(SignalKind::hangup()));
        }
    }
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
