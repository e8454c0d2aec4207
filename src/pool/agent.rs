//! Agents: programs on the backends' hosts that report the state of their backends. One task for each backend queries
//! its agent at intervals and sends its answer, as the checks do.
//!
//! A property that an answer leaves out stays as it was. While the agent does not answer, all properties stay
//! as they were. Only checks find out if the backend itself can be reached.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::agent_spec::AgentSpec;
use super::backend::Backend;
use super::check_target::CheckTargets;
use super::discover::CheckNames;
use super::health::AgentWord;
use super::pool_in_use::Pool;
use super::probe::{CheckEndpoint, CheckLimit, ConnectFault, Shared, Watch, Watches, connect};
use crate::sys::Address;
use crate::telemetry::AgentAnswer;
use crate::wire::agent::{self, AgentDirective, LONGEST_LINE};

/// The result of one query to the agent of one backend.
#[derive(Clone, Debug)]
pub struct AgentReport {
    /// The name of the backend's pool.
    pub pool: Arc<str>,
    /// The backend as it was when its task was started; a reload may have replaced it since.
    pub backend: Arc<Backend>,
    /// The directives of the agent.
    pub heard: Result<Vec<AgentDirective>, AgentFault>,
}

/// The fault of an agent that gave no directives.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentFault {
    /// The connect failed, or the connection broke.
    #[error("{0}")]
    Broken(Arc<io::Error>),
    /// The host name of the agent has no address.
    #[error("{0}")]
    NoAddress(#[source] Arc<ConnectFault>),
    /// The agent closed the connection before its line ended.
    #[error("closed before its line ended")]
    Closed,
    /// The agent sent no whole line in time.
    #[error("timed out")]
    Timeout,
    /// The line has no valid directive.
    #[error(transparent)]
    Nonsense(#[from] agent::AgentFault),
}

impl AgentReport {
    /// Returns the kind under which the result is counted.
    pub fn answer(&self) -> AgentAnswer {
        match self.heard {
            Ok(_) => AgentAnswer::Heard,
            Err(AgentFault::Nonsense(_)) => AgentAnswer::Nonsense,
            Err(
                AgentFault::Broken(_) | AgentFault::NoAddress(_) | AgentFault::Closed | AgentFault::Timeout,
            ) => AgentAnswer::Silent,
        }
    }
}

/// The demand of a directive for the backend's state; `None` if the directive is about the load.
pub(super) fn of_state(word: AgentDirective) -> Option<AgentWord> {
    match word {
        AgentDirective::Up => Some(AgentWord::Up),
        AgentDirective::Down => Some(AgentWord::Down),
        AgentDirective::Ready => Some(AgentWord::Ready),
        AgentDirective::Drain => Some(AgentWord::Drain),
        AgentDirective::Maintenance => Some(AgentWord::Maintenance),
        AgentDirective::Share(_) | AgentDirective::MaxConnections(_) => None,
    }
}

/// The agents of one pool that are queried. The queries end when this is dropped.
#[derive(Debug, Default)]
pub struct Agents(Watches<AgentSpec>);

impl Agents {
    /// Creates a set without agents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queries the agents of the present backends of `pool`, as [`Checks::follow`](super::Checks::follow) does.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn follow(
        &mut self,
        pool: &Pool,
        names: &CheckNames,
        reports: &mpsc::Sender<AgentReport>,
        limit: &Arc<CheckLimit>,
        randomness: u64,
    ) {
        let shared = Shared { names, limit, reports, randomness };
        let endpoint = |spec: &AgentSpec, targets: &CheckTargets, backend: &Address| {
            spec.target.endpoint(&targets.agent, backend)
        };
        self.0.follow(pool, pool.spec().agent.as_ref(), &shared, endpoint, run);
    }
}

/// Queries an agent until the receiver of the reports is closed.
///
/// # Cancel safety
///
/// May be dropped at any moment: a running query is aborted and not reported.
async fn run(watch: Watch<AgentSpec, AgentReport>) {
    let Watch { backend, asked, spec, limit, reports, mut schedule } = watch;
    sleep_until(Instant::now() + schedule.first(spec.interval)).await;
    loop {
        let place = limit.enter().await;
        let started = Instant::now();
        let heard = bounded_ask(&asked, &spec).await;
        drop(place);
        let report = AgentReport { pool: Arc::clone(backend.pool()), backend: Arc::clone(&backend), heard };
        if reports.send(report).await.is_err() {
            return;
        }
        sleep_until(started + schedule.period(spec.interval)).await;
    }
}

/// Queries once, within the time limit.
async fn bounded_ask(asked: &CheckEndpoint, spec: &AgentSpec) -> Result<Vec<AgentDirective>, AgentFault> {
    let until = Instant::now() + spec.timeout;
    timeout_at(until, ask(asked, until, spec.send.as_deref())).await.unwrap_or(Err(AgentFault::Timeout))
}

/// Connects, sends the configured bytes, and reads one line.
async fn ask(
    asked: &CheckEndpoint,
    until: Instant,
    send: Option<&[u8]>,
) -> Result<Vec<AgentDirective>, AgentFault> {
    let mut stream = connect(asked, until).await.map_err(|fault| match fault {
        ConnectFault::Connect(error) => broken(error),
        ConnectFault::NoAddress { .. } => AgentFault::NoAddress(Arc::new(fault)),
    })?;
    if let Some(words) = send {
        stream.write_all(words).await.map_err(broken)?;
    }
    let mut line = Vec::with_capacity(LONGEST_LINE);
    loop {
        if stream.read_buf(&mut line).await.map_err(broken)? == 0 {
            return Err(AgentFault::Closed);
        }
        if let Some(words) = agent::read(&line)? {
            return Ok(words);
        }
    }
}

fn broken(error: io::Error) -> AgentFault {
    AgentFault::Broken(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::pool::CheckTarget;

    fn spec(send: Option<&[u8]>) -> AgentSpec {
        AgentSpec {
            target: CheckTarget::default(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(20),
            send: send.map(Into::into),
        }
    }

    /// An agent that reads so many bytes, then sends an answer and closes.
    fn agent(expected: usize, says: &'static [u8]) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = vec![0; expected];
            stream.read_exact(&mut heard).unwrap();
            let _ = stream.write_all(says);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = io::copy(&mut stream, &mut io::sink());
            heard
        });
        (address, thread)
    }

    async fn check(says: &'static [u8], expected: &str) {
        let (address, thread) = agent(0, says);
        let heard = bounded_ask(&address.into(), &spec(None)).await;
        let found = match heard {
            Ok(words) => format!("{words:?}"),
            Err(fault) => fault.to_string(),
        };
        assert_eq!(found, expected, "{says:?}");
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn an_agent_is_heard() {
        check(b"up 75%\n", "[Up, Share(75)]").await;
        check(b"down#disk\r\n", "[Down]").await;
        check(b"up", "closed before its line ended").await;
        check(b"", "closed before its line ended").await;
        check(b"hello\n", "no known word").await;
        check(&[b'u'; 3 * LONGEST_LINE], "the line is longer than 1024 bytes").await;
    }

    #[tokio::test]
    async fn an_agent_may_be_told_something_first() {
        let (address, thread) = agent(5, b"drain\n");
        let heard = bounded_ask(&address.into(), &spec(Some(b"db-1\n"))).await;
        assert_eq!(heard.unwrap(), [AgentDirective::Drain]);
        assert_eq!(thread.join().unwrap(), b"db-1\n");
    }

    #[tokio::test]
    async fn a_silent_agent_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = AgentSpec { timeout: Duration::from_millis(30), ..spec(None) };
        let heard = bounded_ask(&listener.local_addr().unwrap().into(), &spec).await;
        assert!(matches!(heard, Err(AgentFault::Timeout)), "{heard:?}");
    }
}
