//! What an operator can ask over HTTP: metrics, health, readiness, status. And the question itself, for
//! `pointsman health`.
//!
//! It runs on the control runtime beside the control loop, so nothing that is asked here delays a byte of
//! a connection. It only reads: no request changes anything, and nothing it says is a secret of a client.
//! It has no passwords and no TLS, so whoever reaches its address may ask; keep that address inside.
//!
//! One request per connection: the answer ends it. So one deadline for the request and one for the answer
//! bound every connection, and a scrape every few seconds loses nothing by a new connection.

mod ask;
mod door;
mod http;
mod scrape;
mod sources;
mod status;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

pub use ask::ask;
pub use door::MOST_CONNECTIONS;

use crate::listener::BindFault;
use crate::server::View;
use door::{Door, Limits};

/// Takes the address of the admin listener, early, so that a clash is known before anything else starts.
/// Connections wait until [`serve`] runs. With `[::]` it takes IPv4 connections too, unless
/// `net.ipv6.bindv6only` is set.
///
/// # Errors
///
/// The address and what the kernel said of it.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindFault> {
    let bind = || {
        // The standard library sets SO_REUSEADDR, so a restart need not wait for old connections.
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| BindFault { address: address.into(), source })
}

/// Answers what is asked, and never ends by itself, unless the listener cannot be used at all, which is
/// logged. At most [`MOST_CONNECTIONS`] at once; more are closed.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time.
///
/// # Cancel safety
///
/// Dropped, it takes no more connections. Answers under way are tasks of the runtime and end with it.
pub async fn serve(listener: TcpListener, view: Arc<View>) {
    let ready =
        listener.local_addr().and_then(|address| Ok((address, Door::open(listener, Limits::default())?)));
    match ready {
        Ok((address, door)) => {
            tracing::info!(%address, "admin listens");
            // Its result says nothing: accept errors are dealt with in the door, and it has no other end.
            let _ = axum::serve(door, http::router(view, address)).await;
        }
        Err(error) => tracing::error!(%error, "admin cannot serve; connections are served without it"),
    }
}
