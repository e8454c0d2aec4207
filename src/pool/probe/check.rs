//! One check: a connection, and the dialogue on it if the check has a dialogue.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::endpoint::{CheckConnection, CheckEndpoint, ConnectFault};
use super::talking::{Talking, broken, fault, first_words, talking};
#[cfg(feature = "tls-checks")]
use super::tls::TlsSession;
use crate::pool::check_spec::{CheckHeader, CheckKind, HealthSpec};
use crate::pool::check_target::Endpoint;
use crate::pool::health::{CheckFailure, CheckFault, CheckFinding, CheckOutcome};
use crate::sys::{Address, socket};
use crate::wire::{Dialogue, DialogueFault, DialogueStep, Script, proxy_protocol};

/// The number of bytes that one read takes; greetings and status lines are shorter.
const CHUNK: usize = 1024;

/// The time for which a server must send nothing after an answer that further bytes would make wrong. A whole
/// greeting comes in one segment, or in several segments right after each other.
const SILENCE: Duration = Duration::from_millis(100);

/// Makes one check of the endpoint `asked`. Values that must look random are computed from `random`.
///
/// # Cancel safety
///
/// If the future is dropped, the connection is closed.
pub(super) async fn check(asked: &CheckEndpoint, spec: &HealthSpec, random: [u8; 64]) -> CheckFinding {
    let until = Instant::now() + spec.timeout;
    let is_busy = AtomicBool::new(false);
    let mut dialogue = match &spec.check {
        CheckKind::Tcp => None,
        CheckKind::Dialogue(script) => Some(dialogue(script, asked.endpoint(), &random)),
    };
    let attempt = attempt(asked, until, spec, dialogue.as_mut(), &is_busy);
    let CheckFailure { fault, heard } = match timeout_at(until, attempt).await {
        Ok(Ok(listened)) => return CheckFinding { listened, ..CheckOutcome::Passed.into() },
        Ok(Err(failure)) => failure,
        // The accept queue of the Unix socket was full for the whole time: the check counts as not made.
        Err(_elapsed) if is_busy.into_inner() => CheckFault::Local.into(),
        Err(_elapsed) => CheckFault::Timeout.into(),
    };
    let heard = heard.or_else(|| first_words(dialogue?.heard()));
    CheckFinding { heard, ..CheckOutcome::Failed(fault).into() }
}

/// Connects, and runs the dialogue of a check that has a dialogue. Returns the time for which it only waited for
/// further bytes.
async fn attempt(
    asked: &CheckEndpoint,
    until: Instant,
    spec: &HealthSpec,
    dialogue: Option<&mut Dialogue>,
    is_busy: &AtomicBool,
) -> Result<Duration, CheckFailure> {
    let CheckConnection { socket, address } = asked.connect(until, is_busy).await.map_err(unconnected)?;
    let header = spec.proxy_protocol.map(|header| match header {
        CheckHeader::Local(version) => proxy_protocol::local(version, ends(&socket, &address)),
        CheckHeader::Proxy(version) => proxy_protocol::own(version, ends(&socket, &address)),
    });
    if dialogue.is_none() && header.is_none() {
        return Ok(Duration::ZERO);
    }
    let mut stream = talking(socket, &address).map_err(|error| fault(&error))?;
    let header = header.unwrap_or_default();
    let Some(dialogue) = dialogue else {
        stream.write_all(&header).await.map_err(|error| broken(&error))?;
        return Ok(Duration::ZERO);
    };
    let silence = SILENCE.min(spec.timeout / 4);
    match &spec.tls {
        None => Ok(talk(stream, header, dialogue, silence).await?),
        #[cfg(feature = "tls-checks")]
        Some(tls) => {
            // The header is for the first reader of the connection, which is not the TLS of the server.
            stream.write_all(&header).await.map_err(|error| broken(&error))?;
            let mut session = TlsSession::connect(stream, tls, asked.endpoint()).await?;
            let ended = talk(&mut session, Vec::new(), dialogue, silence).await;
            ended.map_err(|fault| session.failure().unwrap_or(fault.into()))
        }
        #[cfg(not(feature = "tls-checks"))]
        Some(_) => Err(CheckFault::Other.into()),
    }
}

/// Connects for a check or an agent before `until`.
///
/// # Errors
///
/// Those of [`CheckEndpoint::connect`].
///
/// # Cancel safety
///
/// If the future is dropped, the attempt is aborted.
pub(in crate::pool) async fn connect(
    asked: &CheckEndpoint,
    until: Instant,
) -> Result<Box<dyn Talking>, ConnectFault> {
    let CheckConnection { socket, address } = asked.connect(until, &AtomicBool::new(false)).await?;
    talking(socket, &address).map_err(ConnectFault::Connect)
}

/// The failure of a check that has no connection.
fn unconnected(fault: ConnectFault) -> CheckFailure {
    match fault {
        // A reset here came after the handshake: it counts as an early close.
        ConnectFault::Connect(error) => broken(&error).into(),
        ConnectFault::NoAddress { .. } => {
            /// Room for the longest name and a reason.
            const SHOWN: usize = 400;
            let told: String = fault.to_string().escape_default().take(SHOWN).collect();
            CheckFailure { fault: CheckFault::NoAddress, heard: Some(told.into()) }
        }
    }
}

/// The two ends of a check, for the line of version 1; `None` for a Unix socket.
fn ends(socket: &OwnedFd, address: &Address) -> Option<(SocketAddr, SocketAddr)> {
    socket::local_address(socket).ok().zip(address.tcp())
}

fn dialogue(script: &Script, endpoint: &Endpoint, random: &[u8; 64]) -> Dialogue {
    let authority = match endpoint {
        Endpoint::Name { .. } => endpoint.to_string(),
        // HTTP clients send this over Unix sockets.
        Endpoint::Address(address) => {
            address.tcp().map_or_else(|| "localhost".to_owned(), |tcp| tcp.to_string())
        }
    };
    Dialogue::new(script, &authority, random)
}

/// Runs a dialogue to its end. The PROXY header in `header` goes with the first bytes if the dialogue begins on our
/// side. Returns the time for which it only waited for further bytes.
async fn talk(
    mut stream: impl Talking,
    mut header: Vec<u8>,
    dialogue: &mut Dialogue,
    silence: Duration,
) -> Result<Duration, CheckFault> {
    let mut chunk = [0; CHUNK];
    let mut listened = Duration::ZERO;
    loop {
        let next = dialogue.go_on().map_err(|fault| match fault {
            DialogueFault::Unexpected | DialogueFault::Endless => CheckFault::Unexpected,
            DialogueFault::Closed => CheckFault::Closed,
            DialogueFault::TlsAlert(alert) => CheckFault::TlsAlert(alert),
        })?;
        let mut words = std::mem::take(&mut header);
        if let DialogueStep::Send(bytes) = &next {
            words.extend_from_slice(bytes);
        }
        if !words.is_empty() {
            match stream.write_all(&words).await {
                Err(error) if !dialogue.is_alive() => return Err(broken(&error)),
                _ => {}
            }
        }
        let read = match next {
            DialogueStep::Send(_) => continue,
            DialogueStep::Done => return Ok(listened),
            DialogueStep::Read => stream.read(&mut chunk).await,
            DialogueStep::Listen => match timeout(silence, stream.read(&mut chunk)).await {
                Ok(read) => read,
                Err(_elapsed) => {
                    listened += silence;
                    dialogue.silent();
                    continue;
                }
            },
        };
        match read.map_err(|error| broken(&error))? {
            0 => dialogue.closed(),
            count => dialogue.receive(&chunk[..count]),
        }
    }
}
