//! The admin listener answers an operator over HTTP: metrics, health, readiness, status. The module `ask` is the
//! client of the listener, for `pointsman health`.
//!
//! The listener runs on the control runtime beside the control loop, so a request delays no byte of a connection. A
//! request can add entries to lists, close connections, set overrides and reload the configuration; each change is
//! logged. The answers contain no secret of a client. The module `guard` decides for every path whether a request may be
//! answered. It checks the address of the listener, the token, and headers that web pages of other sites cannot send.
//! There is no TLS. The page for browsers (`web_page`) uses the same paths as the commands.
//!
//! A connection has one request: the answer ends it. So one deadline for the request and one for the answer bound
//! every connection. A new connection for each scrape costs little.

mod acceptor;
mod access;
mod ask;
mod config;
mod connections;
mod endpoints;
mod explain;
mod guard;
mod gzip;
mod history;
mod http;
mod json;
mod list_api;
mod listener;
#[cfg(test)]
mod openapi;
mod overrides;
mod query;
mod rebalance;
mod refusal;
mod reload;
mod route_list;
mod scrape;
mod sources;
mod status;
mod token;
mod top;
mod unknown;
mod upgrade;
mod web_page;

use std::future::IntoFuture;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

pub use acceptor::MOST_CONNECTIONS;
pub use ask::{AdminTarget, ask, change};
pub use listener::AdminListener;

use crate::config::{AdminSpec, TokenFault, read_token};
use crate::listener::{BindFault, InheritedSockets, SocketPart};
use crate::server::{AdminSocket, AdminStage, View};
use crate::sys::{Address, SocketFile};
use acceptor::{AdminAcceptor, ClientLimits};
use guard::RequestGuard;
use refusal::Refusals;

/// Connections that the kernel holds before they are accepted. The standard library uses the same number for
/// TCP.
const BACKLOG: u32 = 128;

/// The reason why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminFault {
    /// Its address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindFault),
    /// Its token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenFault),
}

/// The bound admin listener. When dropped it is closed, and the file of its Unix socket is removed.
#[derive(Debug)]
pub struct BoundAdmin {
    socket: AdminSocket,
    spec: AdminSpec,
}

impl BoundAdmin {
    /// Returns its address; the port is the kernel's choice if the specification has port 0.
    pub fn address(&self) -> &Address {
        &self.socket.address
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
        Ok((listener.local_addr()?.into(), listener.into(), None))
    };
    let bound = match &spec.listen {
        Address::Tcp(address) => bind_tcp(*address),
        Address::Scoped(scoped) => scoped.resolve().and_then(bind_tcp),
        Address::Unix(path) => SocketFile::listen(path, Some(spec.mode), BACKLOG)
            .map(|(socket, file)| (spec.listen.clone(), socket, Some(file))),
    };
    let (address, socket, file) =
        bound.map_err(|source| BindFault::elsewhere(spec.listen.clone(), source))?;
    let socket = AdminSocket { socket: Arc::new(socket), configured: spec.listen.clone(), address, file };
    Ok(BoundAdmin { socket, spec })
}

/// Returns the admin listener with the socket that an incumbent has for its address, if there is one.
fn inherit(spec: &AdminSpec, inherited: &mut InheritedSockets) -> Option<BoundAdmin> {
    let inherited = inherited.take(SocketPart::Admin, "", &spec.listen)?;
    let address = inherited.address().clone();
    let (socket, file) = inherited.single()?;
    if let Some(Err(error)) = file.as_ref().map(|file| file.set_mode(spec.mode)) {
        tracing::warn!(%error, %address, "the permissions of a socket stay as they were");
    }
    let socket = AdminSocket { socket, configured: spec.listen.clone(), address, file };
    Some(BoundAdmin { socket, spec: spec.clone() })
}

/// Answers requests. Returns if the listener cannot be used at all, which is logged, or if the server closes it. At most
/// [`MOST_CONNECTIONS`] are open at once; further ones are closed and counted.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time.
///
/// # Cancel safety
///
/// If the future is dropped, the listener accepts no more connections. Answers under way are tasks of the runtime and
/// end with the runtime.
pub async fn serve(bound: BoundAdmin, view: Arc<View>) {
    if let Err(error) = answer(bound, view).await {
        tracing::error!(%error, "admin cannot serve; clients are served without it");
    }
}

/// Serves as [`serve`] does, but returns an error at once if the listener cannot be used.
async fn answer(bound: BoundAdmin, view: Arc<View>) -> io::Result<()> {
    let BoundAdmin { socket, spec } = bound;
    let (listening, address) = (Arc::clone(&socket.socket), socket.address.clone());
    let (sockets, refusals) = (&view.admin_sockets, Refusals::new(Arc::clone(&view.metrics)));
    let acceptor = AdminAcceptor::open(listening, sockets.stage(), ClientLimits::default(), refusals)?;
    let _registered = sockets.register(socket);
    tracing::info!(%address, "admin listens");
    let guard = RequestGuard::new(spec, Arc::clone(&view.metrics));
    let router = http::router(Arc::clone(&view), guard);
    let service = router.into_make_service_with_connect_info::<acceptor::AdminPeer>();
    tokio::select! {
        biased;
        () = sockets.wait_for(AdminStage::Closed) => tracing::info!(%address, "admin listens no more"),
        // It does not end: the acceptor handles errors of accept.
        _ = axum::serve(acceptor, service).into_future() => {}
    }
    Ok(())
}
