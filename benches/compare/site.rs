//! A backend with a process of its own, so that it can die alone: it greets whoever comes, and closes.
//!
//! It says where it listens, obeys the lines of its standard input, and ends with that.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::child::Role;
use crate::cpus::Place;
use crate::{link, roles};

/// The one byte that it says to everyone.
pub(crate) const GREETING: u8 = b'!';

/// Where it stands, and what it does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Stand {
    /// In this network, at this address.
    Here(SocketAddr),
    /// At every loopback address, on a port of the kernel's choice.
    Everywhere,
    /// The same, but it accepts nobody: when its queue of a connection or two is full, connects hang.
    Deaf,
    /// In a network of its own, at [`link::FAR`].
    Apart,
}

/// Printed when it is in its own network, and heard when a link to that is laid.
const APART: &str = "apart";
const LINKED: &str = "linked";

/// What a site in its own network obeys; it repeats the word when it is done.
const SILENCE: &str = "silence";
const SPEAK: &str = "speak";

/// A running site; dropped, it is killed.
pub(crate) struct Site {
    role: Role,
    pub(crate) address: SocketAddr,
}

impl Site {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it cannot listen, or there can be no link to it.
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

    /// Nothing that is sent to it is answered any more. Only for one that stands apart.
    pub(crate) fn silence(&mut self) -> io::Result<()> {
        self.role.say(SILENCE)?;
        self.role.expect(SILENCE)
    }

    /// The end of its silence.
    pub(crate) fn speak(&mut self) -> io::Result<()> {
        self.role.say(SPEAK)?;
        self.role.expect(SPEAK)
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// When it cannot listen, or its network cannot be made.
pub(crate) fn run(stand: Stand) -> io::Result<()> {
    let mut lines = io::stdin().lines();
    if matches!(stand, Stand::Apart) {
        // Before the first thread: each has its own network.
        link::leave()?;
        say(APART)?;
        lines.next().transpose()?;
        link::set_up_far()?;
    }
    let listener = listen(stand)?;
    say(&serde_json::to_string(&listener.local_addr()?)?)?;
    if !matches!(stand, Stand::Deaf) {
        let listener = listener.try_clone()?;
        // It ends with the process.
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
            // All of 127.0.0.0/8, and nothing that comes from outside.
            socket.bind_device(Some(b"lo"))?;
            (Ipv4Addr::UNSPECIFIED, 0).into()
        }
    };
    socket.bind(&address.into())?;
    socket.listen(if matches!(stand, Stand::Deaf) { 0 } else { 4096 })?;
    Ok(socket.into())
}

/// Nobody says anything first, so nothing is left unread and the close is orderly.
fn serve(listener: &TcpListener) {
    loop {
        // A failure is the client's, or passes.
        let Ok((mut client, _)) = listener.accept() else { continue };
        // A check may be gone already.
        let _ = client.write_all(&[GREETING]);
    }
}
