//! One thread: its runtime, its connections, its pipes and its inbox.
//!
//! Workers share nothing on the byte path. A worker that ends in any way but the ordered one takes the
//! process with it: a listener without its worker would leave connections waiting for ever.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::conn::{self, Migration, MigrationSenders, ProcessBounds, WorkerContext};
use crate::executor::{self, Executor, Sleep, TaskNext, sleep};
use crate::listener::{CurrentPolicy, accept_until};
use crate::live::{CloseNotice, ConnectionRegistry, Loads, OpenConnections, TICK};
use crate::pool::FailureReport;
use crate::relay::{Engines, PipePool};
use crate::snapshot::{Policy, Snapshot, SocketId};
use crate::sys::Listening;
use crate::sys::listen::{self, ListenOptions};
use crate::telemetry::{AccessLog, Metrics};

/// What a worker is told.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Accept connections of this socket.
    Listen {
        /// The socket's identity.
        id: SocketId,
        /// The socket, listening.
        socket: OwnedFd,
    },
    /// Change what newly accepted connections of a socket inherit.
    Reconfigure {
        /// The socket's identity.
        id: SocketId,
        /// The options.
        options: ListenOptions,
    },
    /// Empty the socket's queue and close it.
    StopListening {
        /// The socket's identity.
        id: SocketId,
        /// Dropped when the socket is closed: its address is free then.
        closed: mpsc::Sender<Infallible>,
    },
    /// Drop policies that a reload has replaced: without new clients the accept loops would keep them.
    RenewPolicies,
    /// Send the connections that are open, within a [`TICK`].
    ListOpen(oneshot::Sender<OpenConnections>),
    /// Close the connections of groups that are gone: listeners and backends by their numbers.
    CloseGroups(Arc<[u64]>),
    /// Close the connections of a backend one after the other, until the notice is withdrawn.
    CloseInTurn(Arc<CloseNotice>),
    /// Close every connection.
    CloseAll,
    /// End when every listener has stopped and every connection has ended.
    Finish,
}

/// What every worker is given at its start.
#[derive(Clone)]
pub struct WorkerResources {
    /// The living configuration.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The bounds of the process.
    pub bounds: Arc<ProcessBounds>,
    /// Where records go.
    pub access_log: AccessLog,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Pipes each worker may have open.
    pub pipes: usize,
    /// The ways to all workers.
    pub migration_senders: Arc<MigrationSenders>,
    /// How much each worker has to do.
    pub loads: Arc<Loads>,
    /// Where it is told that clients fail at a backend.
    pub failure_reports: mpsc::Sender<FailureReport>,
}

/// Ticks between two looks at whether streams should move to another worker.
const REBALANCE: u64 = 2;

/// A running worker.
pub struct Worker {
    number: usize,
    inbox: mpsc::UnboundedSender<WorkerCommand>,
    beats: Arc<AtomicU64>,
    /// Says how the worker ended; an error of the channel itself means that it panicked.
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Worker {
    /// Starts a thread that serves.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start(
        number: usize,
        supplies: WorkerResources,
        migrations: mpsc::UnboundedReceiver<Migration>,
    ) -> io::Result<Self> {
        let (inbox, orders) = mpsc::unbounded_channel();
        let (tell_end, ended) = oneshot::channel();
        let beats = Arc::new(AtomicU64::new(0));
        let beating = Arc::clone(&beats);
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let inbox = WorkerQueues { orders, migrations };
            let _ = tell_end.send(run(number, supplies, inbox, &beating));
        })?;
        Ok(Self { number, inbox, beats, ended })
    }

    /// Its number, from 0; as in the name of its thread.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Gives an order; a worker that has ended ignores it.
    pub fn order(&self, order: WorkerCommand) {
        let _ = self.inbox.send(order);
    }

    /// Another way to its inbox.
    pub fn inbox(&self) -> WorkerHandle {
        WorkerHandle(self.inbox.clone())
    }

    /// A number that rises with every [`TICK`] in which the worker is alive.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Ready when the worker has ended, with an error if that was not in order: a panic, for instance.
    /// Once it was ready the worker must not be asked again.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.ended).poll(cx));
        Poll::Ready(ended.unwrap_or_else(|_| Err(io::Error::other("it panicked"))))
    }

    /// Waits until the worker has ended; as [`Worker::poll_ended`].
    ///
    /// # Errors
    ///
    /// Why it ended without an order.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn ended(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_ended(cx)).await
    }
}

/// Sends requests to a worker. It may outlive the worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle(mpsc::UnboundedSender<WorkerCommand>);

impl WorkerHandle {
    /// Asks for the connections that are open. They come within a [`TICK`] of a worker that is not overloaded; the
    /// channel closes if the worker has ended.
    pub fn list_open(&self) -> oneshot::Receiver<OpenConnections> {
        let (to, listed) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::ListOpen(to));
        listed
    }
}

/// What reaches a worker from outside.
struct WorkerQueues {
    orders: mpsc::UnboundedReceiver<WorkerCommand>,
    migrations: mpsc::UnboundedReceiver<Migration>,
}

fn run(number: usize, supplies: WorkerResources, inbox: WorkerQueues, beats: &AtomicU64) -> io::Result<()> {
    Executor::new()?.block_on(work(number, supplies, inbox, beats))?
}

async fn work(
    number: usize,
    supplies: WorkerResources,
    mut inbox: WorkerQueues,
    beats: &AtomicU64,
) -> io::Result<()> {
    let mut state = WorkerState::new(number, supplies);
    let mut tick = sleep(Duration::ZERO);
    loop {
        tokio::select! {
            order = inbox.orders.recv() => match order {
                Some(WorkerCommand::Finish) | None => break,
                Some(order) => state.obey(order),
            },
            Some(migration) = inbox.migrations.recv() => conn::take_over(migration, &state.context),
            () = &mut tick => {
                tick = sleep(TICK);
                state.sweep();
                state.check_listeners()?;
                state.register_again();
                if beats.fetch_add(1, Ordering::Relaxed).is_multiple_of(REBALANCE) {
                    state.context.registry.give_streams_away();
                }
            }
        }
    }
    state.finish(&mut inbox, &mut tick, beats).await
}

/// A socket that is accepted from.
struct AcceptingSocket {
    /// Dropped to stop.
    _stop: oneshot::Sender<()>,
    accepting: TaskEnd,
    /// Shared with the accept loop, for its options. Not a descriptor of its own: to make one could fail.
    listening: Rc<Listening>,
    policy: Rc<CurrentPolicy>,
}

/// Tells when a task has ended, by an error if it panicked.
type TaskEnd = oneshot::Receiver<()>;

/// Starts a task whose end matters.
fn start(work: impl Future<Output = ()> + 'static) -> TaskEnd {
    let (tell, ended) = oneshot::channel();
    executor::spawn(async {
        work.await;
        let _ = tell.send(());
        TaskNext::Done
    });
    ended
}

/// Whether a task has ended; if so, it must not be asked again.
fn has_ended(task: &mut TaskEnd) -> bool {
    task.try_recv() != Err(TryRecvError::Empty)
}

/// Waits until an accept loop has emptied its queue and closed its socket, and tells by dropping `closed`.
async fn leave(accepting: TaskEnd, closed: mpsc::Sender<Infallible>) {
    let _ = accepting.await;
    drop(closed);
}

/// What a worker works with.
struct WorkerState {
    context: Rc<WorkerContext>,
    sockets: HashMap<SocketId, AcceptingSocket>,
    /// Listening sockets that the reactor could not register. Each tick tries them again; clients that the kernel gives
    /// to such a socket wait in its queue.
    unregistered: Vec<(SocketId, OwnedFd)>,
    /// Accept loops that empty their queues.
    leaving: Vec<TaskEnd>,
}

impl WorkerState {
    fn new(number: usize, supplies: WorkerResources) -> Self {
        let pipes = PipePool::new(supplies.pipes, Arc::clone(&supplies.metrics));
        let context = WorkerContext {
            snapshot: supplies.snapshot,
            registry: ConnectionRegistry::new(supplies.loads, number),
            engines: Rc::new(Engines::new(pipes)),
            bounds: supplies.bounds,
            access_log: supplies.access_log,
            metrics: supplies.metrics,
            migration_senders: supplies.migration_senders,
            failure_reports: supplies.failure_reports,
        };
        Self {
            context: Rc::new(context),
            sockets: HashMap::new(),
            unregistered: Vec::new(),
            leaving: Vec::new(),
        }
    }

    fn sweep(&self) {
        self.context.registry.sweep();
        self.context.engines.pipes.sweep();
    }

    fn obey(&mut self, order: WorkerCommand) {
        match order {
            WorkerCommand::Listen { id, socket } => self.listen(id, socket),
            WorkerCommand::Reconfigure { id, options } => {
                let registered = self.sockets.get(&id).map(|socket| socket.listening.as_fd());
                let unregistered = self.unregistered.iter().find(|(other, _)| *other == id);
                let socket = registered.or(unregistered.map(|(_, socket)| socket.as_fd()));
                if let Some(Err(error)) = socket.map(|socket| listen::reconfigure(socket, &options)) {
                    tracing::warn!(%error, socket = %id, "the options of a listening socket stay as they were");
                }
            }
            WorkerCommand::StopListening { id, closed } => {
                self.unregistered.retain(|(other, _)| *other != id);
                if let Some(accepting) = self.stop_listening(&id) {
                    self.leaving.push(start(leave(accepting, closed)));
                }
            }
            WorkerCommand::RenewPolicies => {
                let snapshot = self.context.snapshot.load();
                self.sockets.iter().for_each(|(id, socket)| socket.policy.renew(id, &snapshot));
            }
            WorkerCommand::ListOpen(to) => self.context.registry.list(to),
            WorkerCommand::CloseGroups(groups) => self.context.registry.close_groups(&groups),
            WorkerCommand::CloseInTurn(notice) => self.context.registry.close_in_turn(notice),
            WorkerCommand::CloseAll => self.context.registry.close_all(),
            WorkerCommand::Finish => {}
        }
    }

    fn listen(&mut self, id: SocketId, socket: OwnedFd) {
        if let Err((socket, error)) = self.try_listen(&id, socket) {
            tracing::error!(
                %error, socket = %id,
                "a worker cannot watch a listening socket (is fs.epoll.max_user_watches reached?); its clients wait, \
                 and the socket is tried again twice a second"
            );
            self.unregistered.push((id, socket));
        }
    }

    /// Tries again to register the sockets that could not be registered.
    fn register_again(&mut self) {
        for (id, socket) in std::mem::take(&mut self.unregistered) {
            match self.try_listen(&id, socket) {
                Ok(()) => {
                    tracing::info!(socket = %id, "a worker watches a listening socket now: its clients are served")
                }
                Err((socket, _)) => self.unregistered.push((id, socket)),
            }
        }
    }

    fn try_listen(&mut self, id: &SocketId, socket: OwnedFd) -> Result<(), (OwnedFd, io::Error)> {
        let Some(policy) = self.policy(id) else {
            tracing::warn!(socket = %id, "a socket came without a policy and is closed");
            return Ok(());
        };
        let listening = Rc::new(Listening::register(socket)?);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let policy = Rc::new(CurrentPolicy::new(policy));
        let context = Rc::clone(&self.context);
        let until = accept_until(stopped, Rc::clone(&listening), id.clone(), Rc::clone(&policy), context);
        let accepting = start(until);
        self.sockets.insert(id.clone(), AcceptingSocket { _stop: stop, accepting, listening, policy });
        Ok(())
    }

    fn policy(&self, id: &SocketId) -> Option<Arc<Policy>> {
        self.context.snapshot.load().policies.get(id).map(Arc::clone)
    }

    /// Tells an accept loop to end; when it has, the socket is closed.
    fn stop_listening(&mut self, id: &SocketId) -> Option<TaskEnd> {
        self.sockets.remove(id).map(|socket| socket.accepting)
    }

    /// An accept loop ends only when it is told to, or by a panic.
    fn check_listeners(&mut self) -> io::Result<()> {
        let dead = self.sockets.values_mut().any(|socket| has_ended(&mut socket.accepting));
        self.leaving.retain_mut(|leaving| !has_ended(leaving));
        if dead {
            return Err(io::Error::other("an accept loop panicked"));
        }
        Ok(())
    }

    /// Empties and closes the listeners, then waits until every connection has ended.
    async fn finish(
        mut self,
        inbox: &mut WorkerQueues,
        tick: &mut Sleep,
        beats: &AtomicU64,
    ) -> io::Result<()> {
        self.register_again();
        for (id, _socket) in self.unregistered.drain(..) {
            tracing::warn!(socket = %id, "connections that waited to be accepted are lost");
        }
        let ids: Vec<_> = self.sockets.keys().cloned().collect();
        let last: Vec<_> = ids.iter().filter_map(|id| self.stop_listening(id)).collect();
        for accepting in last.into_iter().chain(std::mem::take(&mut self.leaving)) {
            let _ = accepting.await;
        }
        let registry = Rc::clone(&self.context.registry);
        let mut closing = false;
        // A seat is taken before its parcel is sent, so nothing is on its way when none is taken. Another
        // worker may take one between that look and the end; once the door is shut it keeps its parcel,
        // and what came before that is served.
        loop {
            while registry.seats_taken() {
                tokio::select! {
                    () = registry.emptied() => {}
                    Some(order) = inbox.orders.recv() => {
                        closing |= matches!(order, WorkerCommand::CloseAll);
                        self.obey(order);
                    }
                    Some(migration) = inbox.migrations.recv() => self.take_over(migration, closing),
                    () = &mut *tick => {
                        *tick = sleep(TICK);
                        self.sweep();
                        beats.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            inbox.migrations.close();
            match inbox.migrations.recv().await {
                Some(migration) => self.take_over(migration, closing),
                None => return Ok(()),
            }
        }
    }

    /// Goes on with what another worker sent while this one ends.
    fn take_over(&self, migration: Migration, closing: bool) {
        conn::take_over(migration, &self.context);
        if closing {
            self.context.registry.close_all();
        }
    }
}
