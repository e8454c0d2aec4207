//! Catches the signals of the process from its start, and passes them to the control loop.
//!
//! A signal whose default action ends the process needs a handler at any moment. `systemctl reload` or a log
//! rotation may come while a large configuration is read. Until the control loop runs, the handler of SIGTERM and
//! SIGINT ends the process, because nothing is served yet. Every other signal is remembered.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Returns the signals that end the process. The control loop polls these first.
fn ends() -> [SignalKind; 2] {
    [SignalKind::terminate(), SignalKind::interrupt()]
}

/// Returns the other signals that the process handles.
fn others() -> [SignalKind; 4] {
    [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::quit()]
}

/// The signals that are caught before the control loop runs.
#[derive(Debug)]
pub struct EarlySignals {
    /// While it is true, SIGTERM and SIGINT end the process at once. The handlers share it.
    is_early: Arc<AtomicBool>,
    /// The other signals, each with true if it has arrived. The handlers share the flags.
    seen: Vec<(SignalKind, Arc<AtomicBool>)>,
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
        for kind in ends() {
            flag::register_conditional_shutdown(kind.as_raw_value(), 0, Arc::clone(&is_early))?;
        }
        let mut seen = Vec::new();
        for kind in others() {
            let flag = Arc::new(AtomicBool::new(false));
            flag::register(kind.as_raw_value(), Arc::clone(&flag))?;
            seen.push((kind, flag));
        }
        Ok(Self { is_early, seen })
    }

    /// Moves the signals to the current tokio runtime. Returns their streams, and the signals that have already
    /// arrived. A signal that arrives meanwhile may be in both.
    pub(super) fn hand_over(self) -> io::Result<(SignalStreams, Vec<SignalKind>)> {
        let kinds = ends().into_iter().chain(others());
        let streams = kinds.map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<Vec<_>>>()?;
        self.is_early.store(false, Ordering::SeqCst);
        let has_come = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        let seen = self.seen.iter().filter(|(_, flag)| has_come(flag)).map(|(kind, _)| *kind).collect();
        Ok((streams, seen))
    }
}

/// The signals of a control loop.
pub(super) type SignalStreams = Vec<(SignalKind, Signal)>;

/// Waits for the next signal.
///
/// # Cancel safety
///
/// A signal is taken only when this returns it.
pub(super) async fn any_signal(signals: &mut SignalStreams) -> SignalKind {
    std::future::poll_fn(|cx| {
        for (kind, signal) in signals.iter_mut() {
            if signal.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(*kind);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Logs the signal to use instead of SIGUSR2 or SIGQUIT. Returns `false` for all other signals.
pub(super) fn log_unused_signal(kind: SignalKind) -> bool {
    if kind == SignalKind::user_defined2() {
        tracing::warn!(
            "SIGUSR2 has no effect: SIGHUP reloads the configuration, SIGUSR1 opens the access log again"
        );
    } else if kind == SignalKind::quit() {
        tracing::warn!(
            "SIGQUIT has no effect: SIGTERM drains the connections and ends the process, a second SIGTERM ends it at once"
        );
    } else {
        return false;
    }
    true
}
