//! The reading of the configuration's file for a reload: beside the control loop, which goes on meanwhile. One such
//! read is under way at most, however many reloads are asked for while a file system does not answer.
//!
//! Only what files of lists and routes have now, told by the tasks that follow them, waits until the reload is over: it
//! comes after what the reload read of them, and not before.

use std::panic::resume_unwind;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::SignalKind;
use tokio::time::sleep_until;

use super::notify::{tell, tell_of_reload};
use super::reload::ReloadFault;
use super::run::{Control, Event, ends};
use super::view::Request;
use crate::config::{self, Config};
use crate::sys::file_call::Turn;

/// How long reading may take: many times what millions of lines do, so a file system hangs then.
const READ_PATIENCE: Duration = Duration::from_secs(60);

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
        let read = match Turn::try_take(&path) {
            Some(turn) => self.wait_for_read(turn, move || read(&path)).await,
            None => Some(Err(ReloadFault::StillReading)),
        };
        let Some(read) = read else {
            tracing::warn!("not reloaded: the file was still being read");
            return;
        };
        let _ = self.reload(began, read).await;
        tell(&[NotifyState::Ready]);
    }

    /// What was read, or `None` if the process is to end meanwhile; that comes next then.
    async fn wait_for_read(
        &mut self,
        turn: Turn,
        read: impl FnOnce() -> Result<Config, ReloadFault> + Send + 'static,
    ) -> Option<Result<Config, ReloadFault>> {
        let mut reading = pin!(turn.call(read));
        let deadline = Instant::now() + READ_PATIENCE;
        loop {
            let event = tokio::select! {
                read = &mut reading => match read {
                    Ok(read) => return Some(read),
                    Err(error) => resume_unwind(error.into_panic()),
                },
                // Its thread waits on; nothing else does.
                () = sleep_until(deadline.into()) => return Some(Err(ReloadFault::Unread)),
                event = self.hear() => event,
            };
            match event {
                Event::Signal(kind) if kind == SignalKind::hangup() => self.reload_again(),
                Event::Signal(kind) if ends(kind) => {
                    self.postponed.push_front(event);
                    return None;
                }
                Event::Request(Request::Stop) | Event::Worker(..) => {
                    self.postponed.push_front(event);
                    return None;
                }
                // Another configuration waits for this one.
                Event::Request(Request::Reload(..)) | Event::Routes(_) | Event::List(_) => {
                    self.postponed.push_back(event);
                }
                event => self.apply(event),
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
