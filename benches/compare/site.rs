//! A backend in a process of its own, which can fail alone. It sends a greeting to each client and closes.
//!
//! The process prints its address and runs the commands on its standard input. It ends when its standard
//! input ends.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::child::Role;
use crate::cpus::Place;
use crate::{link, roles};

/// The one byte that the backend sends to each client.
pub(crate) const GREETING: u8 = b'!';

/// The place of the backend, and the way in which it accepts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Stand {
    /// At this address, in the network of the run.
    Here(SocketAddr),
    /// At every loopback address, on a port that the kernel chooses.
    Everywhere,
    /// At every loopback address, but it accepts no connections. When its queue of one or two connections is
    /// full, connects get no answer.
    Deaf,
    /// In a network of its own, at [`link::FAR`].
    Apart,
}

/// Printed when the backend is in its own network; answered when the link to this network is made.
const APART: &str = "apart";
const LINKED: &str = "linked";

/// The commands for a backend in its own network. It repeats the command when it is done.
const SILENCE: &str = "silence";
const SPEAK: &str = "speak";

/// A running backend; it is killed when dropped.
pub(crate) struct Site {
    role: Role,
    pub(crate) address: SocketAddr,
}

impl Site {
    /// Starts the backend and waits until it listens.
    ///
    /// # Errors
    /// Returns an error if the backend cannot listen, or no link to it can be made.
    pub(crate) fn start(stand: Stand, place: Place) -> io::Result<Self> {
        let mut role = Role::start(roles::SITE, &serde_json::to_string(&stand)?, place)?;
        if matches!(stand, Stand::Apart) {
            role.expect(APART)?;
            link::lay(role.pid())?;
            role.say(LINKED)?;
        }
        let address = role.answer()?;
        Ok(Self { role, address })
    }

    /// Drops all packets to the backend from now on. Only a backend in its own network can do so.
    pub(crate) fn silence(&mut self) -> io::Result<()> {
        self.role.say(SILENCE)?;
        self.role.expect(SILENCE)
    }

    /// Answers packets again.
    pub(crate) fn speak(&mut self) -> io::Result<()> {
        self.role.say(SPEAK)?;
        self.role.expect(SPEAK)
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// Returns an error if the backend cannot listen, or its network cannot be made.
pub(crate) fn run(stand: Stand) -> io::Result<()> {
    let mut lines = io::stdin().lines();
    if matches!(stand, Stand::Apart) {
        // This comes before the first thread, because each thread has its own network.
        link::leave()?;
        say(APART)?;
        lines.next().transpose()?;
        link::set_up_far()?;
    }
    let listener = listen(stand)?;
    say(&serde_json::to_string(&listener.local_addr()?)?)?;
    if !matches!(stand, Stand::Deaf) {
        let listener = listener.try_clone()?;
        // The thread ends with the process.
        thread::spawn(move || serve(&listener));
    }
    for line in lines {
        let line = line?;
        match line.as_str() {
            SILENCE => link::fall_silent()?,
            SPEAK => link::speak_again()?,
            _ => return Err(io::Error::other(format!("an unknown order: {line}"))),
        }
        say(&line)?;
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

fn listen(stand: Stand) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let address = match stand {
        Stand::Here(address) => address,
        Stand::Apart => (link::FAR, 0).into(),
        Stand::Everywhere | Stand::Deaf => {
            // The listener accepts on all of 127.0.0.0/8, and no connections from outside.
            socket.bind_device(Some(b"lo"))?;
            (Ipv4Addr::UNSPECIFIED, 0).into()
        }
    };
    socket.bind(&address.into())?;
    socket.listen(if matches!(stand, Stand::Deaf) { 0 } else { 4096 })?;
    Ok(socket.into())
}

/// Accepts and greets. Clients send nothing, so no bytes are left unread and the close is orderly.
fn serve(listener: &TcpListener) {
    loop {
        // The failure is temporary, or the client caused it.
        let Ok((mut client, _)) = listener.accept() else { continue };
        // The connection of a check may be closed already.
        let _ = client.write_all(&[GREETING]);
    }
}
