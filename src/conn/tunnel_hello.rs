//! Verifies that a TLS hello in a tunnel names the host that its client requested.
//!
//! A client could request an allowed name and then send a hello for another name, which a server of many names would
//! serve. So the hello is read before the backend gets a byte of it. A server that sends first does not begin TLS: its bytes
//! are never delayed, and nothing is verified.

use super::context::WorkerContext;
use super::dial::DialledClient;
use super::hello::{self, HelloStop};
use super::record::ConnectionRecord;
use super::refusal::RefusalProtocol;
use crate::executor::sleep;
use crate::snapshot::HelloSpec;
use crate::sys::Stream;
use crate::telemetry::CloseReason;
use crate::wire::{HelloFault, ServerName};

/// Verifies the first bytes in the tunnel of a client, if its pool demands this.
///
/// # Errors
///
/// The close reason; the client got a TLS alert.
pub(super) async fn verify(
    mut dialled: DialledClient,
    spec: &HelloSpec,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<DialledClient, CloseReason> {
    let plan = &mut dialled.routed.plan;
    let Some(bytes) = plan.unverified.take() else { return Ok(dialled) };
    let (client, backend) = (&dialled.routed.sniffed.client, &dialled.backend.backend);
    if bytes.is_empty() {
        tokio::select! {
            biased;
            () = client.readable() => {}
            () = backend.readable() => return Ok(dialled),
            () = sleep(plan.relay.listener.idle_timeout) => return Err(CloseReason::IdleTimeout),
        }
    }
    let name = plan.request.as_ref().and_then(|request| request.target.host.name());
    match first_bytes(client, bytes, name, spec, context).await {
        Ok(bytes) => {
            dialled.routed.sniffed.bytes = bytes;
            Ok(dialled)
        }
        Err(reason) => {
            record.entry().refuse();
            Err(RefusalProtocol::Tls.refuse(client, reason).await)
        }
    }
}

/// Reads the first bytes of a client, and returns them if they are no hello or a hello with this name.
async fn first_bytes(
    client: &Stream,
    bytes: Vec<u8>,
    name: Option<&ServerName>,
    spec: &HelloSpec,
    context: &WorkerContext,
) -> Result<Vec<u8>, CloseReason> {
    let (bytes, hello) = hello::read_in_tunnel(client, bytes, spec, context).await;
    match hello {
        Ok(hello) if hello.server_name.as_ref() == name => Ok(bytes),
        Err(HelloStop::Fault(HelloFault::NotTls)) => Ok(bytes),
        // The client has ended its direction, and the relay passes its end on.
        Err(HelloStop::NoData | HelloStop::Truncated) if bytes.is_empty() => Ok(bytes),
        Ok(_) | Err(HelloStop::Fault(_)) => Err(CloseReason::SniMismatch),
        Err(stopped) => Err(stopped.reason()),
    }
}
