//! Child processes that never outlive the run.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::cpus::{self, CpuPin};
use crate::order::{ALL_IDLE, Order, Outcome};
use crate::proc;
use crate::roles;

/// The time that a proxy has to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait for a line of a child process. A load process ends by itself before: the longest one ends
/// after one measured minute and all its waits.
const LINE_TIMEOUT: Duration = Duration::from_secs(150);

/// The lock that is held while a process is started. A thread that keeps this lock knows that no further
/// process starts.
static SPAWN_LOCK: Mutex<()> = Mutex::new(());

/// Allows no further child processes until the guard is dropped.
pub(crate) fn no_more() -> MutexGuard<'static, ()> {
    // The lock guards no value that a panic could have left half-done.
    SPAWN_LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(mut command: Command, pin: CpuPin) -> io::Result<Child> {
    let _lock = no_more();
    cpus::at(pin, || command.spawn())
}

/// Blocks the thread for this time. The bench serves no clients in this process, so no client waits.
#[allow(clippy::disallowed_methods)]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// A foreign program. When dropped, it gets SIGTERM; if it does not end, it is killed with its descendants.
pub(crate) struct Program(Child);

impl Program {
    /// Starts the program. Its standard output and its standard error go to the file `log`.
    pub(crate) fn start(mut command: Command, pin: CpuPin, log: &Path) -> io::Result<Self> {
        let output = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        spawn(command, pin).map(Self)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.0.id(), signal);
    }

    /// Waits for the end of the program until the deadline. Returns `true` if the program ended.
    pub(crate) fn ends_within(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() > until {
                return false;
            }
            pause(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let processes = proc::tree(self.pid());
        self.signal(Signal::SIGTERM);
        if self.ends_within(STOP_TIMEOUT) {
            return;
        }
        for pid in processes {
            send(pid, Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    // An error means that the process has ended already, which is the aim.
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// A process of this program in another role. It prints lines, and ends when its standard input ends.
pub(crate) struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Role {
    pub(crate) fn start(role: &str, argument: &str, pin: CpuPin) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([role, argument]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command, pin)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("a child without output"))?;
        let (sender, lines) = channel();
        // The thread ends with the child, because the end of the child closes the pipe.
        thread::spawn(move || forward(BufReader::new(stdout), &sender));
        Ok(Self { child, stdin, lines })
    }

    /// Returns the next line that the process prints.
    pub(crate) fn line(&self) -> io::Result<String> {
        self.lines.recv_timeout(LINE_TIMEOUT).map_err(|_| io::Error::other("a child process did not answer"))
    }

    pub(crate) fn answer<T: DeserializeOwned>(&self) -> io::Result<T> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to the standard input of the process.
    pub(crate) fn send_line(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{line}")
    }

    /// Reads the next line, and fails if the line is not `expected`.
    pub(crate) fn expect(&self, expected: &str) -> io::Result<()> {
        let line = self.line()?;
        if line == expected { Ok(()) } else { Err(io::Error::other(format!("a child said {line:?}"))) }
    }
}

fn forward(lines: impl BufRead, to: &std::sync::mpsc::Sender<String>) {
    for line in lines.lines() {
        let Ok(line) = line else { return };
        if to.send(line).is_err() {
            return;
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a load to its end.
pub(crate) fn load(order: &Order, pin: CpuPin) -> io::Result<Outcome> {
    Role::start(roles::LOAD, &serde_json::to_string(order)?, pin)?.answer()
}

/// A load whose connections stay open and idle until they are released.
pub(crate) struct IdleLoad(Role);

impl IdleLoad {
    /// Opens the connections.
    pub(crate) fn start(order: &Order, pin: CpuPin) -> io::Result<Self> {
        let role = Role::start(roles::LOAD, &serde_json::to_string(order)?, pin)?;
        role.expect(ALL_IDLE)?;
        Ok(Self(role))
    }

    /// Closes the connections. A connection that did not last until now counts as an error.
    pub(crate) fn release(mut self) -> io::Result<Outcome> {
        self.0.stdin = None;
        self.0.answer()
    }
}
