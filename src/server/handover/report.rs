//! The steps of a hand-over, as the successor reports them to the command that started it.
//!
//! `pointsman upgrade` starts the successor with one end of a socket pair as its standard input. Each step is a line of
//! JSON there. Without such a command nothing is reported. The command may end at any time.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sys::process;

/// A step of a hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum UpgradeStep {
    /// The successor is built and can accept.
    Ready {
        /// Its version.
        version: String,
        /// Its commit.
        commit: String,
        /// Its process id.
        pid: u32,
        /// The time from its request to this step, in milliseconds.
        after_ms: u64,
        /// The listening sockets that it got.
        sockets: u64,
    },
    /// The connections that can move have moved.
    Moved {
        /// The connections that moved.
        moved: u64,
        /// The time in which they moved, in microseconds.
        moved_in_us: u64,
        /// The longest time in which one of them stood still, in microseconds.
        longest_pause_us: u64,
        /// The connections that remain in the incumbent.
        remaining: u64,
        /// Those that remain, by the word of their stage.
        #[serde(default)]
        stages: BTreeMap<String, u64>,
        /// The process id of the incumbent.
        incumbent: u32,
        /// The time at which the incumbent ends at the latest, in milliseconds since 1970.
        ends_ms: u64,
    },
    /// The hand-over has failed. The incumbent goes on.
    Failed {
        /// The reason.
        reason: String,
    },
}

impl UpgradeStep {
    /// Returns true if no further step follows.
    #[must_use]
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Ready { .. })
    }
}

/// The reports of the successor to the command that started it. All copies share the channel, so the part of the
/// program that fails can report that. Locked for the time of a write that never waits.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Arc<Mutex<Option<UnixStream>>>);

impl Reporter {
    /// Returns the reports of a successor whose standard input is a socket of `pointsman upgrade`. The process gets a
    /// session of its own, so that it survives the end of the command and of its terminal. Its standard input becomes
    /// empty.
    ///
    /// # Errors
    ///
    /// Errors of the kernel.
    pub fn from_standard_input() -> io::Result<Self> {
        let channel = process::take_standard_input()?;
        process::start_session();
        let channel = UnixStream::from(channel);
        // A command that has stopped must not delay the successor. The few lines fit into the socket.
        channel.set_nonblocking(true)?;
        Ok(Self(Arc::new(Mutex::new(Some(channel)))))
    }

    /// Reports a step. After the last step, or if the command is gone, nothing more is reported.
    pub fn report(&self, step: &UpgradeStep) {
        let mut channel = self.channel();
        let Some(open) = &mut *channel else { return };
        let mut line = serde_json::to_vec(step).expect("a step has only texts and numbers");
        line.push(b'\n');
        if open.write_all(&line).is_err() || step.is_last() {
            *channel = None;
        }
    }

    /// Reports that the hand-over has failed.
    pub fn fail(&self, reason: &str) {
        self.report(&UpgradeStep::Failed { reason: reason.to_owned() });
    }

    fn channel(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn steps_are_lines_until_the_last() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reporter = Reporter(Arc::new(Mutex::new(Some(ours))));
        let ready = UpgradeStep::Ready {
            version: "0.4.0".to_owned(),
            commit: "a77c0de".to_owned(),
            pid: 4711,
            after_ms: 38,
            sockets: 12,
        };
        reporter.report(&ready);
        reporter.fail("no \"room\"\n");
        reporter.report(&ready);
        assert!(reporter.channel().is_none());
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        let steps: Vec<UpgradeStep> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(steps, [ready, UpgradeStep::Failed { reason: "no \"room\"\n".to_owned() }]);
        assert!(text.starts_with(r#"{"step":"ready","version":"0.4.0""#), "{text}");
    }

    #[test]
    fn a_command_that_is_gone_is_no_fault() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let reporter = Reporter(Arc::new(Mutex::new(Some(ours))));
        reporter.fail("late");
        assert!(reporter.channel().is_none());
        Reporter::default().fail("without a command");
    }
}
