//! What an operator can ask over HTTP: metrics, health, readiness, status. And the question itself, for
//! `pointsman health`.
//!
//! It runs on the control runtime beside the control loop, so nothing that is asked here delays a byte of
//! a connection. All that a request can change are the entries that are added to lists; what is changed is
//! logged. Nothing it says is a secret of a client. Who may ask is decided in one place, for every path there is
//! (`guard`): by where the listener is reached, a token, and what a web page of others cannot send. There is no
//! TLS.
//!
//! One request per connection: the answer ends it. So one deadline for the request and one for the answer
//! bound every connection, and a scrape every few seconds loses nothing by a new connection.

mod acceptor;
mod ask;
mod guard;
mod gzip;
mod http;
mod list_api;
mod listener;
mod problems;
mod query;
mod refusal;
mod scrape;
mod sources;
mod status;
mod token;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

pub use acceptor::MOST_CONNECTIONS;
pub use ask::{AdminTarget, ask, change};
pub use listener::AdminListener;

use crate::config::{AdminSpec, TokenFault, read_token};
use crate::listener::BindFault;
use crate::server::View;
use crate::sys::{Address, SocketFile};
use acceptor::{AdminAcceptor, ClientLimits};
use guard::RequestGuard;
use refusal::Refusals;

/// Connections that the kernel holds before they are accepted, as the standard library has it for TCP.
const BACKLOG: u32 = 128;

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminFault {
    /// Its address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindFault),
    /// Its token cannot be had.
    #[error(transparent)]
    Token(#[from] TokenFault),
}

/// The admin listener, bound. Dropped, it is closed, and the file of its Unix socket removed.
#[derive(Debug)]
pub struct BoundAdmin {
    socket: AdminSocket,
    address: Address,
    spec: AdminSpec,
    file: Option<SocketFile>,
}

/// A listening socket.
#[derive(Debug)]
enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl BoundAdmin {
    /// Where it listens; the port is the kernel's choice where the specification says 0.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Binds the address of the admin listener and reads its token. Connections wait until [`serve`] runs. With `[::]` it
/// accepts IPv4 connections too, unless `net.ipv6.bindv6only` is set.
///
/// # Errors
///
/// The error of the address, or the fault of the token's file.
pub fn bind(spec: AdminSpec) -> Result<BoundAdmin, AdminFault> {
    check_token(&spec)?;
    Ok(take_address(spec)?)
}

fn check_token(spec: &AdminSpec) -> Result<(), TokenFault> {
    if let Some(path) = &spec.token_file {
        read_token(path)?;
        token::warn_of_readers(path);
    }
    Ok(())
}

fn take_address(spec: AdminSpec) -> Result<BoundAdmin, BindFault> {
    let bind_tcp = |address: SocketAddr| {
        // The standard library sets SO_REUSEADDR, so a restart need not wait for old connections.
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?.into(), AdminSocket::Tcp(listener), None))
    };
    let bound = match &spec.listen {
        Address::Tcp(address) => bind_tcp(*address),
        Address::Scoped(scoped) => scoped.resolve().and_then(bind_tcp),
        Address::Unix(path) => SocketFile::listen(path, Some(spec.mode), BACKLOG)
            .map(|(socket, file)| (spec.listen.clone(), AdminSocket::Unix(socket.into()), Some(file))),
    };
    let (address, socket, file) =
        bound.map_err(|source| BindFault::elsewhere(spec.listen.clone(), source))?;
    Ok(BoundAdmin { socket, address, spec, file })
}

/// Answers what is asked, and never ends by itself, unless the listener cannot be used at all, which is
/// logged. At most [`MOST_CONNECTIONS`] at once; more are closed, and counted.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time.
///
/// # Cancel safety
///
/// Dropped, it takes no more connections. Answers under way are tasks of the runtime and end with it.
pub async fn serve(bound: BoundAdmin, view: Arc<View>) {
    if let Err(error) = answer(bound, view).await {
        tracing::error!(%error, "admin cannot serve; connections are served without it");
    }
}

/// Serves as [`serve`] does, but returns an error at once if the listener cannot be used.
async fn answer(bound: BoundAdmin, view: Arc<View>) -> io::Result<()> {
    let BoundAdmin { socket, address, spec, file: _file } = bound;
    let refusals = Refusals::new(Arc::clone(&view.metrics));
    let acceptor = AdminAcceptor::open(socket, address.clone(), ClientLimits::default(), refusals)?;
    tracing::info!(%address, "admin listens");
    let guard = RequestGuard::new(spec, Arc::clone(&view.metrics));
    let service = http::router(view, guard).into_make_service_with_connect_info::<acceptor::AdminPeer>();
    // No result to check: the door handles errors of accept, and the loop has no other end.
    let _ = axum::serve(acceptor, service).await;
    Ok(())
}
