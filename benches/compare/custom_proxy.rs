//! pointsman with a configuration of its own, for runs that the common configuration of the peers does not
//! fit.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::child::{Program, pause};
use crate::cpus::CpuPin;
use crate::peers::Peer;
use crate::{programs, scrape};

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(20);

/// A running pointsman, which is stopped when dropped.
pub(crate) struct CustomProxy {
    program: Program,
    /// The address of its only listener.
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl CustomProxy {
    /// Starts pointsman in this directory with `text` as its file, and waits until it serves. The text has
    /// one listener and an admin listener. The kernel chooses both ports.
    ///
    /// # Errors
    /// Returns an error with the log if pointsman does not serve in time.
    pub(crate) fn start(directory: &Path, text: &str, pin: CpuPin) -> io::Result<Self> {
        let (file, log) = (directory.join("lone.toml"), directory.join("lone.log"));
        fs::write(&file, text)?;
        let mut command = Command::new(programs::program(Peer::Pointsman).ok_or(io::ErrorKind::NotFound)?);
        command.arg("run").arg(file);
        let mut program = Program::start(command, pin, &log)?;
        let address = Self::address(&mut program, &log)?;
        let admin = scrape::admin(&log)?;
        Ok(Self { program, address, admin })
    }

    fn address(program: &mut Program, log: &Path) -> io::Result<SocketAddr> {
        let until = Instant::now() + START;
        loop {
            let text = fs::read_to_string(log)?;
            if let Some(address) = served(&text) {
                return Ok(address);
            }
            if program.ended().is_some() || Instant::now() > until {
                return Err(io::Error::other(format!("it does not serve: {text}")));
            }
            pause(Duration::from_millis(1));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// Returns the first address in the log line that reports the listener.
pub(crate) fn served(log: &str) -> Option<SocketAddr> {
    let (_, line) = log.lines().find_map(|line| line.split_once(" serving "))?;
    line.split_once('[')?.1.split(['[', ']', ',']).find_map(|word| word.trim().parse().ok())
}
