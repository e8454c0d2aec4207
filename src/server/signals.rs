//! Catches the signals of the process from its start, and passes them to the control loop.
//!
//! A signal whose default action ends the process needs a handler at any moment. `systemctl reload` or a log
//! rotation may come while a large configuration is read. Until the control loop runs, the handler of SIGTERM and
//! SIGINT ends the process, because nothing is served yet. Every other signal is remembered.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::telemetry::LogControl;

/// The effect of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalEffect {
    /// Drain and end.
    Stop,
    /// Reload the file.
    Reload,
    /// Open the access log again.
    ReopenLog,
    /// Log that SIGUSR2 has no effect, and the signals to use instead.
    LogSigusr2,
    /// Log that SIGQUIT has no effect, and the signals to use instead.
    LogSigquit,
}

/// Returns the signals that end the process. The control loop polls these first.
fn ends() -> [(SignalKind, SignalEffect); 2] {
    [(SignalKind::terminate(), SignalEffect::Stop), (SignalKind::interrupt(), SignalEffect::Stop)]
}

/// Returns the other signals that the process handles.
fn others() -> [(SignalKind, SignalEffect); 4] {
    [
        (SignalKind::hangup(), SignalEffect::Reload),
        (SignalKind::user_defined1(), SignalEffect::ReopenLog),
        (SignalKind::user_defined2(), SignalEffect::LogSigusr2),
        (SignalKind::quit(), SignalEffect::LogSigquit),
    ]
}

/// The signals of the process: handled or ignored.
#[derive(Debug)]
pub enum Signals {
    /// Another part of the program handles them.
    Ignore,
    /// SIGTERM and SIGINT drain, SIGHUP reloads the file, SIGUSR1 opens the access log again.
    Obey {
        /// The signals that were caught while the program started.
        early: EarlySignals,
        /// The file that SIGHUP reads; `None` if there is none.
        file: Option<PathBuf>,
        /// The program's own log, which a reload changes; `None` if another part of the program set it up.
        log: Option<LogControl>,
    },
}

/// The signals that are caught before the control loop runs.
#[derive(Debug)]
pub struct EarlySignals {
    /// While it is true, SIGTERM and SIGINT end the process at once. The handlers share it.
    is_early: Arc<AtomicBool>,
    /// The effects of the other signals, each with true if the signal has arrived. The handlers share the flags.
    seen: Vec<(SignalEffect, Arc<AtomicBool>)>,
}

impl EarlySignals {
    /// Catches the signals from now on. SIGTERM and SIGINT end the process with exit code 0, because nothing was served
    /// yet. The others wait for [`Server::run`](super::Server::run). Call it at the start of a program.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a handler.
    pub fn catch() -> io::Result<Self> {
        let is_early = Arc::new(AtomicBool::new(true));
        for (kind, _) in ends() {
            flag::register_conditional_shutdown(kind.as_raw_value(), 0, Arc::clone(&is_early))?;
        }
        let mut seen = Vec::new();
        for (kind, effect) in others() {
            let flag = Arc::new(AtomicBool::new(false));
            flag::register(kind.as_raw_value(), Arc::clone(&flag))?;
            seen.push((effect, flag));
        }
        Ok(Self { is_early, seen })
    }

    /// Moves the signals to the current tokio runtime, with those that have already arrived. A signal that arrives
    /// meanwhile may count twice.
    pub(super) fn hand_over(self) -> io::Result<SignalStreams> {
        let all = ends().into_iter().chain(others());
        let streams = all.map(|(kind, effect)| Ok((effect, signal(kind)?))).collect::<io::Result<_>>()?;
        self.is_early.store(false, Ordering::SeqCst);
        let has_come = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        let early = self.seen.iter().filter(|(_, flag)| has_come(flag)).map(|(effect, _)| *effect).collect();
        Ok(SignalStreams { early, streams })
    }
}

impl SignalStreams {
    /// Waits for a signal that ends the process. Without handlers it returns at once.
    pub(super) async fn stopped(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        while self.next().await != SignalEffect::Stop {}
    }
}

/// The signals of a control loop.
#[derive(Default)]
pub(super) struct SignalStreams {
    /// The signals that arrived before the control loop ran.
    pub(super) early: VecDeque<SignalEffect>,
    streams: Vec<(SignalEffect, Signal)>,
}

impl SignalStreams {
    /// Waits for the next signal. Without streams it waits for ever.
    ///
    /// # Cancel safety
    ///
    /// A signal is taken only when this returns it.
    pub(super) async fn next(&mut self) -> SignalEffect {
        if let Some(effect) = self.early.pop_front() {
            return effect;
        }
        std::future::poll_fn(|cx| {
            for (effect, signal) in &mut self.streams {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready(*effect);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Logs the signal to use instead of SIGUSR2.
pub(super) fn log_sigusr2() {
    tracing::warn!(
        "SIGUSR2 has no effect: SIGHUP reloads the configuration, SIGUSR1 opens the access log again"
    );
}

/// Logs the signal to use instead of SIGQUIT.
pub(super) fn log_sigquit() {
    tracing::warn!(
        "SIGQUIT has no effect: SIGTERM drains the connections and ends the process, a second SIGTERM ends it at once"
    );
}
