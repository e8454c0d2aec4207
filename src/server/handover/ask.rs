//! The requests to the running program. All calls block.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::access::{AccessFault, connect};
use crate::sys::frames::{FrameFault, FrameSocket};
use crate::sys::process;
use crate::telemetry::{COMMIT, VERSION};
use crate::wire::handover::{Hello, Message, MessageFault, PROTOCOLS, Query, Reload, Reloaded, Welcome};

/// The time limit for answers that need no work in the running program.
const ANSWER: Duration = Duration::from_secs(10);

/// The reason why the running program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskFault {
    /// The socket cannot be used.
    #[error(transparent)]
    Access(#[from] AccessFault),
    /// The connection failed.
    #[error(
        "no valid answer came: {0}; check that this is the socket of a running pointsman, or name another one with --socket"
    )]
    Frame(#[from] FrameFault),
    /// The answer cannot be read.
    #[error("the running program sent {0}; its version may be too different")]
    Message(#[from] MessageFault),
    /// The running program refuses.
    #[error("the running program refuses: {0}")]
    Refused(String),
    /// The answer belongs to another question.
    #[error("the running program answered with the message {0}, which does not belong to the question")]
    Unexpected(&'static str),
    /// This process is in another service or control group than the running program.
    #[error(
        "the running program (pid {pid}) is a service in another control group, and the service manager accepts no main \
         process from outside: use `systemctl reload pointsman`"
    )]
    OtherService {
        /// The process id of the running program.
        pid: u32,
    },
    /// The limit of descriptors cannot be read.
    #[error("cannot read the limit of descriptors: {0}")]
    Limit(#[source] io::Error),
}

impl AskFault {
    /// Returns true if no process listens at the socket.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Access(fault) if fault.is_absent())
    }
}

/// The begin of a hand-over: the running program has agreed.
#[derive(Debug)]
pub struct Takeover {
    /// The running program.
    pub welcome: Welcome,
    /// The path of the socket at which it listens.
    pub path: Arc<Path>,
    /// The connection to it, on which the hand-over goes on.
    pub socket: FrameSocket,
}

/// Asks the running program for the hand-over.
///
/// # Errors
///
/// If no program answers, or if it refuses.
pub fn ask(path: &Path) -> Result<Takeover, AskFault> {
    let socket = connect(path)?;
    let hello = Hello {
        protocols: PROTOCOLS,
        version: VERSION.to_owned(),
        commit: COMMIT.to_owned(),
        pid: std::process::id(),
        nofile: process::raise_descriptor_limit().map_err(AskFault::Limit)?,
        cgroup: process::control_group(),
    };
    match exchange(&socket, &Message::Hello(hello), Some(ANSWER))? {
        (Message::Welcome(welcome), _) if !is_same_service(&welcome) => {
            Err(AskFault::OtherService { pid: welcome.pid })
        }
        (Message::Welcome(welcome), _) => Ok(Takeover { welcome: *welcome, path: path.into(), socket }),
        (other, _) => Err(unexpected(other)),
    }
}

/// Asks the running program for its description. Its standard output and standard error come with the description, if
/// it sends them.
///
/// # Errors
///
/// If no program answers, or if it refuses.
pub fn query(path: &Path) -> Result<(Welcome, Vec<OwnedFd>), AskFault> {
    let query = Message::Query(Query { protocols: PROTOCOLS });
    match exchange(&connect(path)?, &query, Some(ANSWER))? {
        (Message::Welcome(welcome), outputs) => Ok((*welcome, outputs)),
        (other, _) => Err(unexpected(other)),
    }
}

/// Asks the running program to reload its configuration, and waits for the result.
///
/// # Errors
///
/// If no program answers, or if it refuses.
pub fn reload(path: &Path) -> Result<Reloaded, AskFault> {
    // A reload may read large files. It ends with the running program at the latest.
    match exchange(&connect(path)?, &Message::Reload(Reload {}), None)? {
        (Message::Reloaded(reloaded), _) => Ok(reloaded),
        (other, _) => Err(unexpected(other)),
    }
}

/// Returns false if the running program has a service manager that would not accept a process of this control group
/// as the main process of the service.
#[must_use]
pub fn is_same_service(welcome: &Welcome) -> bool {
    is_same_group(welcome, process::control_group().as_deref())
}

pub(super) fn is_same_group(welcome: &Welcome, own: Option<&str>) -> bool {
    match (&welcome.notify_socket, &welcome.cgroup) {
        (Some(_), Some(cgroup)) => own.is_none_or(|own| own.trim() == cgroup.trim()),
        _ => true,
    }
}

/// Sends a question and waits for its answer.
fn exchange(
    socket: &FrameSocket,
    question: &Message,
    limit: Option<Duration>,
) -> Result<(Message, Vec<OwnedFd>), AskFault> {
    const NO_DESCRIPTORS: &[BorrowedFd<'_>] = &[];
    socket.set_timeout(limit).map_err(FrameFault::Io)?;
    let (kind, json) = question.encode();
    socket.send(kind, &json, &[], NO_DESCRIPTORS)?;
    let frame = socket.receive()?;
    Ok((Message::decode(frame.kind, &frame.json)?, frame.descriptors))
}

fn unexpected(answer: Message) -> AskFault {
    match answer {
        Message::Refused(refused) => AskFault::Refused(refused.reason),
        other => AskFault::Unexpected(other.name()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;
    use crate::sys::frames::Frame;
    use crate::wire::handover::Refused;

    /// Starts a running program that takes one question and gives `answer`.
    fn incumbent(answer: impl FnOnce(Frame, &FrameSocket) + Send + 'static) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pointsman-ask-{}-{number}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = path.clone();
        thread::spawn(move || {
            let socket = FrameSocket::new(listener.accept().unwrap().0).unwrap();
            std::fs::remove_file(file).unwrap();
            answer(socket.receive().unwrap(), &socket);
        });
        path
    }

    fn send(socket: &FrameSocket, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        let (kind, json) = message.encode();
        socket.send(kind, &json, &[], descriptors).unwrap();
    }

    fn welcome() -> Welcome {
        Welcome { version: "0.3.0".to_owned(), pid: 812, ..Welcome::default() }
    }

    #[test]
    fn a_running_program_agrees() {
        let path = incumbent(|frame, socket| {
            let Message::Hello(hello) = Message::decode(frame.kind, &frame.json).unwrap() else {
                panic!("no hello")
            };
            assert_eq!((hello.pid, &*hello.version), (std::process::id(), VERSION));
            assert!(hello.nofile > 3);
            send(socket, &Message::Welcome(Box::new(welcome())), &[]);
        });
        assert_eq!(ask(&path).unwrap().welcome, welcome());
    }

    #[test]
    fn a_query_gets_the_outputs_too() {
        let path = incumbent(|frame, socket| {
            assert_eq!(Message::decode(frame.kind, &frame.json).unwrap().name(), "Query");
            let (output, error) = (std::io::stdout(), std::io::stderr());
            send(socket, &Message::Welcome(Box::new(welcome())), &[output.as_fd(), error.as_fd()]);
        });
        let (found, outputs) = query(&path).unwrap();
        assert_eq!((found, outputs.len()), (welcome(), 2));
    }

    #[test]
    fn a_reload_has_its_result() {
        let done = Reloaded { changes: Some("changed: pool a".to_owned()), fault: None };
        let answer = done.clone();
        let path = incumbent(move |_, socket| send(socket, &Message::Reloaded(answer), &[]));
        assert_eq!(reload(&path).unwrap(), done);
    }

    #[test]
    fn each_wrong_answer_has_a_reason() {
        let check = |answer: fn(&FrameSocket), expected: &str| {
            let fault = ask(&incumbent(move |_, socket| answer(socket))).unwrap_err().to_string();
            assert!(fault.contains(expected), "{fault}");
        };
        check(|_| (), "has ended or closed the connection");
        check(
            |socket| send(socket, &Message::Refused(Refused { reason: "it is busy".to_owned() }), &[]),
            "refuses: it is busy",
        );
        check(|socket| send(socket, &Message::Reload(Reload {}), &[]), "the message Reload");
        check(|socket| socket.send(99, b"{}", &[], &[]).unwrap(), "unknown kind 99");
        check(|socket| socket.send(2, b"[", &[], &[]).unwrap(), "a message Welcome that cannot be read");
        check(
            |socket| {
                let cgroup = Some("0::/system.slice/other.service".to_owned());
                let notify_socket = Some("/run/systemd/notify".to_owned());
                send(
                    socket,
                    &Message::Welcome(Box::new(Welcome { cgroup, notify_socket, ..welcome() })),
                    &[],
                );
            },
            "(pid 812) is a service in another control group",
        );
    }

    #[test]
    fn a_service_accepts_only_processes_of_its_control_group() {
        let check = |manager: Option<&str>, cgroup: Option<&str>, own: Option<&str>, expected: bool| {
            let (notify_socket, cgroup) = (manager.map(str::to_owned), cgroup.map(str::to_owned));
            let welcome = Welcome { notify_socket, cgroup, ..Welcome::default() };
            assert_eq!(is_same_group(&welcome, own), expected, "{manager:?} {own:?}");
        };
        let (service, shell) = (Some("0::/system.slice/p.service\n"), Some("0::/user.slice\n"));
        check(Some("/run/n"), service, service, true);
        check(Some("/run/n"), service, shell, false);
        check(None, service, shell, true);
        check(Some("/run/n"), None, shell, true);
        check(Some("/run/n"), service, None, true);
    }
}
