//! The accept loop: accepts connections in small batches and survives every failed accept.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::conn::{self, AcceptedConnection, WorkerContext};
use crate::executor::{sleep, yield_now};
use crate::limit::Moment;
use crate::snapshot::{Policy, Snapshot, SocketId};
use crate::sys::listen::Accepted;
use crate::sys::{Listening, fault};
use crate::telemetry::Saturation;

/// The number of connections that are accepted before open connections get a turn. It bounds their delay.
const BATCH: usize = 16;

/// More connections than an accept queue holds. Clients that keep connecting while a socket closes do not
/// keep it open.
const LONGEST_QUEUE: usize = 65_536;

/// The pause in accepting when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// The policy of a socket, shared by its accept loop and its worker.
///
/// The loop takes the policy in force at each accept. The worker renews it after a reload: the next client
/// may come late, and an old policy holds a whole table of routes.
pub struct CurrentPolicy(RefCell<Arc<Policy>>);

impl CurrentPolicy {
    /// Creates the value with the policy in force.
    pub fn new(policy: Arc<Policy>) -> Self {
        Self(RefCell::new(policy))
    }

    /// Takes the policy of a snapshot. If the snapshot no longer has the socket, the last policy stays.
    pub fn renew(&self, id: &SocketId, snapshot: &Snapshot) {
        let mut policy = self.0.borrow_mut();
        if let Some(current) = snapshot.policies.get(id)
            && !Arc::ptr_eq(current, &policy)
        {
            *policy = Arc::clone(current);
        }
    }

    /// Returns the policy that was taken last.
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.borrow())
    }
}

/// The rest of the work when an accept loop stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptStop {
    /// The kernel's queue is emptied: the socket closes.
    Empty,
    /// The kernel's queue stays as it is: the socket stays open elsewhere.
    Leave,
}

/// Accepts until `stop`, or until the sender of `stop` is dropped, which is [`AcceptStop::Empty`]. Then empties the
/// kernel's queue if it is to be emptied, so that no connection that the kernel had accepted is lost, and drops the
/// socket.
pub async fn accept_until(
    stop: oneshot::Receiver<AcceptStop>,
    listening: Rc<Listening>,
    id: SocketId,
    policy: Rc<CurrentPolicy>,
    context: Rc<WorkerContext>,
) {
    let stop = tokio::select! {
        biased;
        stop = stop => stop.unwrap_or(AcceptStop::Empty),
        never = accept_all(&listening, &id, &policy, &context) => match never {},
    };
    match stop {
        AcceptStop::Empty => empty(&listening, &id, &policy.get(), &context),
        AcceptStop::Leave => {}
    }
}

/// Accepts the connections that the kernel's queue still holds.
fn empty(listening: &Listening, id: &SocketId, policy: &Arc<Policy>, context: &Rc<WorkerContext>) {
    for _ in 0..LONGEST_QUEUE {
        match listening.accept_now() {
            Ok(accepted) => {
                let arrival =
                    AcceptedConnection { accepted, through: id.clone(), policy: Arc::clone(policy) };
                conn::receive_here(arrival, context);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                policy.metrics.accept_errors.increment(1);
                if !fault::is_of_one_client(&error) {
                    tracing::warn!(%error, socket = %id, "connections that waited to be accepted are lost");
                    return;
                }
            }
        }
    }
}

async fn accept_all(
    listening: &Listening,
    id: &SocketId,
    policy: &CurrentPolicy,
    context: &Rc<WorkerContext>,
) -> Infallible {
    loop {
        let first = listening.accept().await;
        let mut batch = 0;
        let mut next = Some(first);
        while let Some(result) = next {
            batch += 1;
            match result {
                Ok(accepted) => {
                    admit(accepted, id, policy, context);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => handle_failure(&error, id, &policy.get(), context).await,
            }
            next = (batch < BATCH).then(|| listening.try_accept());
        }
        if batch >= BATCH {
            yield_now().await;
        }
    }
}

/// Admits a client by the policy of its socket that is in force.
fn admit(accepted: Accepted, id: &SocketId, policy: &CurrentPolicy, context: &Rc<WorkerContext>) {
    policy.renew(id, &context.snapshot.load());
    conn::receive(AcceptedConnection { accepted, through: id.clone(), policy: policy.get() }, context);
}

/// Counts a failed accept, and pauses if the next accept would fail for the same reason.
async fn handle_failure(error: &io::Error, id: &SocketId, policy: &Policy, context: &WorkerContext) {
    policy.metrics.accept_errors.increment(1);
    if fault::is_of_one_client(error) {
        // The connection ended in the queue; no other connection is affected.
        tracing::debug!(%error, socket = %id, "a connection ended before it was accepted");
        return;
    }
    policy.metrics.accept_pauses.increment(1);
    let now = Moment::now();
    context.bounds.overload.shortage.record(now);
    context.bounds.saturation.note(Saturation::Descriptors, None, None, now);
    sleep(PAUSE).await;
}
