//! A running proxy that has proved that it forwards.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::backend::ADDRESSES;
use crate::child::{Program, Role, pause};
use crate::configurations::{Setup, Shape};
use crate::cpus::CpuPin;
use crate::hello::{self, Command};
use crate::peers::Peer;
use crate::points::ProxyVariant;
use crate::programs;
use crate::roles;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(20);

/// The number of attempts to start: another process can take a port between the choice and the bind.
const ATTEMPTS: usize = 3;

/// The longest wait for one answer of the proof that the proxy forwards.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory that is removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        let name = format!("pointsman-compare-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // The directory is left over from a killed process that had our process id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The backend process, with one port on all its addresses.
pub(crate) struct Backend {
    _role: Role,
    pub(crate) port: u16,
}

impl Backend {
    pub(crate) fn start(pin: CpuPin) -> io::Result<Self> {
        let role = Role::start(roles::BACKEND, "", pin)?;
        let port = role.answer()?;
        Ok(Self { _role: role, port })
    }
}

/// The proxy to start, its CPU and its directory.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) variant: ProxyVariant,
    pub(crate) shape: Shape,
    pub(crate) pin: CpuPin,
    pub(crate) backend_port: u16,
    pub(crate) directory: &'a Path,
}

/// A running proxy; it is stopped when dropped.
pub(crate) struct Proxy {
    /// `None`: the backend itself takes the place of the proxy.
    program: Option<Program>,
    pub(crate) variant: ProxyVariant,
    pub(crate) address: SocketAddr,
    pub(crate) setup: Setup,
    pub(crate) log: PathBuf,
    /// The time from the start of the process to its first accepted connection.
    pub(crate) start_up: Duration,
}

impl Proxy {
    /// Starts the proxy, waits until it accepts, and proves that it forwards.
    ///
    /// # Errors
    /// Returns an error with the end of the log if the proxy does not start, or if it does not forward.
    pub(crate) fn start(plan: Plan<'_>) -> io::Result<Self> {
        let mut failed = io::Error::other("no attempt was made");
        for _ in 0..ATTEMPTS {
            match Self::launch(plan) {
                Ok(proxy) => {
                    prove(proxy.address)?;
                    return Ok(proxy);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn launch(plan: Plan<'_>) -> io::Result<Self> {
        let setup = Setup {
            port: free_port()?,
            backend_port: plan.backend_port,
            workers: plan.variant.workers,
            directory: plan.directory.to_owned(),
        };
        let log = plan.directory.join(format!("{}.log", plan.variant.peer.name()));
        let mut proxy = Self {
            program: None,
            variant: plan.variant,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, setup.port)),
            setup,
            log,
            start_up: Duration::ZERO,
        };
        if plan.variant.peer == Peer::Direct {
            proxy.address = SocketAddr::from((ADDRESSES[0], plan.backend_port));
            return Ok(proxy);
        }
        let command = programs::command(plan.variant.peer, &proxy.setup, plan.shape)?;
        let began = Instant::now();
        let program = proxy.program.insert(Program::start(command, plan.pin, &proxy.log)?);
        while TcpStream::connect_timeout(&proxy.address, PATIENCE).is_err() {
            if program.ended().is_some() || began.elapsed() > START {
                return Err(io::Error::other(format!("it did not start: {}", end_of(&proxy.log))));
            }
            pause(Duration::from_millis(1));
        }
        proxy.start_up = began.elapsed();
        Ok(proxy)
    }

    /// Returns the process to measure, if there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Program::pid)
    }

    pub(crate) fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }
}

pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

/// Sends a hello in two pieces and reads back the bytes that follow it.
pub(crate) fn prove(address: SocketAddr) -> io::Result<()> {
    let forward = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let greeting = hello::build(Command::Echo);
        let (first, second) = greeting.split_at(700);
        stream.write_all(first)?;
        stream.write_all(second)?;
        for size in [1, 1000, 50_000] {
            let message = hello::filler(size);
            let mut echo = vec![0; size];
            stream.write_all(&message)?;
            stream.read_exact(&mut echo)?;
            if echo != message {
                return Err(io::Error::other("it returned other bytes"));
            }
        }
        Ok(())
    };
    forward().map_err(|error: io::Error| io::Error::other(format!("it does not forward: {error}")))
}
