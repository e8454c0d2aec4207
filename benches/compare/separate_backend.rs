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
use crate::cpus::CpuPin;
use crate::{link, roles};

/// The one byte that the backend sends to each client.
pub(crate) const GREETING: u8 = b'!';

/// The place of the backend, and the way in which it accepts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum BackendPlace {
    /// At this address, in the network of the run.
    AtAddress(SocketAddr),
    /// At every loopback address, on a port that the kernel chooses.
    OnLoopback,
    /// At every loopback address, but it accepts no connections. When its queue of one or two connections is
    /// full, connects get no answer.
    NoAccept,
    /// In a network of its own, at [`link::FAR`].
    OwnNetwork,
}

/// Printed when the backend is in its own network; answered when the link to this network is made.
const IN_NETWORK: &str = "in-network";
const LINKED: &str = "linked";

/// The commands for a backend in its own network. It repeats the command when it is done.
const DROP_PACKETS: &str = "drop-packets";
const ANSWER_PACKETS: &str = "answer-packets";

/// A running backend; it is killed when dropped.
pub(crate) struct SeparateBackend {
    role: Role,
    pub(crate) address: SocketAddr,
}

impl SeparateBackend {
    /// Starts the backend and waits until it listens.
    ///
    /// # Errors
    /// Returns an error if the backend cannot listen, or no link to it can be made.
    pub(crate) fn start(place: BackendPlace, pin: CpuPin) -> io::Result<Self> {
        let mut role = Role::start(roles::SEPARATE_BACKEND, &serde_json::to_string(&place)?, pin)?;
        if matches!(place, BackendPlace::OwnNetwork) {
            role.expect(IN_NETWORK)?;
            link::connect_to(role.pid())?;
            role.send_line(LINKED)?;
        }
        let address = role.answer()?;
        Ok(Self { role, address })
    }

    /// Drops all packets to the backend from now on. Only a backend in its own network can do so.
    pub(crate) fn drop_packets(&mut self) -> io::Result<()> {
        self.role.send_line(DROP_PACKETS)?;
        self.role.expect(DROP_PACKETS)
    }

    /// Answers packets again.
    pub(crate) fn answer_packets(&mut self) -> io::Result<()> {
        self.role.send_line(ANSWER_PACKETS)?;
        self.role.expect(ANSWER_PACKETS)
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// Returns an error if the backend cannot listen, or its network cannot be made.
pub(crate) fn run(place: BackendPlace) -> io::Result<()> {
    let mut lines = io::stdin().lines();
    if matches!(place, BackendPlace::OwnNetwork) {
        // This comes before the first thread, because each thread has its own network.
        link::leave()?;
        print_line(IN_NETWORK)?;
        lines.next().transpose()?;
        link::set_up_far()?;
    }
    let listener = listen(place)?;
    print_line(&serde_json::to_string(&listener.local_addr()?)?)?;
    if !matches!(place, BackendPlace::NoAccept) {
        let listener = listener.try_clone()?;
        // The thread ends with the process.
        thread::spawn(move || serve(&listener));
    }
    for line in lines {
        let line = line?;
        match line.as_str() {
            DROP_PACKETS => link::drop_packets()?,
            ANSWER_PACKETS => link::answer_packets()?,
            _ => return Err(io::Error::other(format!("an unknown order: {line}"))),
        }
        print_line(&line)?;
    }
    Ok(())
}

fn print_line(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

fn listen(place: BackendPlace) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let address = match place {
        BackendPlace::AtAddress(address) => address,
        BackendPlace::OwnNetwork => (link::FAR, 0).into(),
        BackendPlace::OnLoopback | BackendPlace::NoAccept => {
            // The listener accepts on all of 127.0.0.0/8, and no connections from outside.
            socket.bind_device(Some(b"lo"))?;
            (Ipv4Addr::UNSPECIFIED, 0).into()
        }
    };
    socket.bind(&address.into())?;
    socket.listen(if matches!(place, BackendPlace::NoAccept) { 0 } else { 4096 })?;
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
