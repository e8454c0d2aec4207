//! The worker threads: each has an executor, connections, pipes and an inbox.
//!
//! Workers share nothing on the byte path. A worker that ends without a command ends the process: a listener
//! without its worker would leave connections waiting for ever.

use std::cell::RefCell;
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

use crate::conn::handover::LeavingQueue;
use crate::conn::{self, Migration, MigrationSenders, ProcessBounds, WorkerContext};
use crate::executor::{self, Executor, Sleep, sleep};
use crate::listener::{AcceptStop, CurrentPolicy, accept_until};
use crate::live::log_orders;
use crate::live::requests::{self, ConnectionDetails};
use crate::live::{
    CloseNotice, CloseOrder, ConnectionGroup, ConnectionPage, ConnectionQuery, ConnectionRegistry,
    ConnectionRow, Loads, OpenConnections, StageCounts, TICK, TopItems,
};
use crate::pool::FailureReport;
use crate::relay::{Engines, PipePool};
use crate::snapshot::{Policy, Snapshot, SocketId};
use crate::sys::Listening;
use crate::sys::listen::{self, ListenOptions};
use crate::telemetry::{AccessLog, Metrics};

/// A command to a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Accept connections of this socket.
    Listen {
        /// The socket's identity.
        id: SocketId,
        /// The socket, listening. A worker may get several sockets of one identity.
        socket: Arc<OwnedFd>,
    },
    /// Change the options that newly accepted connections of a socket inherit.
    Reconfigure {
        /// The socket's identity.
        id: SocketId,
        /// The options.
        options: ListenOptions,
    },
    /// Empty the queues of the sockets of an identity and close them.
    StopListening {
        /// The identity of the sockets.
        id: SocketId,
        /// Dropped when this worker has no such socket any more. When no worker and no other owner has it, its address
        /// is free.
        closed: mpsc::Sender<Infallible>,
    },
    /// Accept no connection of any socket. The kernel's queues stay as they are, and control keeps the sockets.
    LeaveSockets {
        /// Dropped when this worker accepts no more.
        left: mpsc::Sender<Infallible>,
    },
    /// Drop policies that a reload has replaced. Without new clients the accept loops would keep them.
    RenewPolicies,
    /// Send the list of open connections.
    ListOpen(oneshot::Sender<OpenConnections>),
    /// Send a list of connections. The walk gives other tasks a turn after each slice.
    ListConnections(ConnectionQuery, oneshot::Sender<ConnectionPage>),
    /// Send the names and sources with the most connections.
    CountTop(oneshot::Sender<Vec<TopItems>>),
    /// Describe the connection with this number, if it is here.
    DescribeConnection(u64, oneshot::Sender<ConnectionDetails>),
    /// Close the connection with this number, if it is here.
    CloseConnection(u64, oneshot::Sender<ConnectionRow>),
    /// Close the connections of an operator's filter, each in its turn, and send their number.
    CloseInOrder(Arc<CloseOrder>, oneshot::Sender<u64>),
    /// Send some connections to the queue of the successor.
    HandOver {
        /// The queue.
        queue: Arc<LeavingQueue>,
        /// The most connections.
        most: usize,
        /// Gets the number of connections that were ordered to leave.
        ordered: std::sync::mpsc::SyncSender<usize>,
    },
    /// Send the numbers of open connections by stage.
    CountStages(std::sync::mpsc::SyncSender<StageCounts>),
    /// Close the connections of listeners and backends that were removed.
    CloseGroups(Arc<[ConnectionGroup]>),
    /// Close the connections of a backend one after the other, until the notice is withdrawn.
    CloseInTurn(Arc<CloseNotice>),
    /// Close every connection.
    CloseAll,
    /// End when every listener has stopped and every connection has ended.
    Finish,
}

/// The shared values that every worker gets at its start.
#[derive(Clone)]
pub struct WorkerResources {
    /// The snapshot in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The limits of the process.
    pub bounds: Arc<ProcessBounds>,
    /// The access log.
    pub access_log: AccessLog,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// The most pipes that each worker may have open.
    pub pipes: usize,
    /// The channels to all workers.
    pub migration_senders: Arc<MigrationSenders>,
    /// The loads of all workers.
    pub loads: Arc<Loads>,
    /// The channel to control for failures of clients at a backend.
    pub failure_reports: mpsc::Sender<FailureReport>,
}

/// Ticks between two checks whether streams should move to another worker.
const REBALANCE: u64 = 2;

/// A running worker.
pub struct Worker {
    number: usize,
    inbox: mpsc::UnboundedSender<WorkerCommand>,
    beats: Arc<AtomicU64>,
    /// The result of the worker. If the channel itself has an error, the worker panicked.
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Worker {
    /// Starts the thread of a worker.
    ///
    /// # Errors
    ///
    /// The error of the system if the thread cannot be started.
    pub fn start(
        number: usize,
        resources: WorkerResources,
        migrations: mpsc::UnboundedReceiver<Migration>,
    ) -> io::Result<Self> {
        let (inbox, commands) = mpsc::unbounded_channel();
        let (report_end, ended) = oneshot::channel();
        let beats = Arc::new(AtomicU64::new(0));
        let beating = Arc::clone(&beats);
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let inbox = WorkerQueues { commands, migrations };
            let _ = report_end.send(run(number, resources, inbox, &beating));
        })?;
        Ok(Self { number, inbox, beats, ended })
    }

    /// The number of the worker, from 0; as in the name of its thread.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Sends a command. A worker that has ended ignores it.
    pub fn order(&self, command: WorkerCommand) {
        let _ = self.inbox.send(command);
    }

    /// Returns another sender to its inbox.
    pub fn inbox(&self) -> WorkerHandle {
        WorkerHandle(self.inbox.clone())
    }

    /// A number that rises with every [`TICK`] in which the worker runs.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Ready when the worker has ended, with an error if it ended without a command, for example by a panic.
    /// Must not be called again once it was ready.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.ended).poll(cx));
        Poll::Ready(ended.unwrap_or_else(|_| Err(io::Error::other("it panicked"))))
    }

    /// Waits until the worker has ended, as [`Worker::poll_ended`].
    ///
    /// # Errors
    ///
    /// The cause of an end without a command.
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
    /// Orders at most `most` connections to leave for the queue of the successor. `ordered` gets the number of orders, or
    /// is dropped if the worker has ended.
    pub fn hand_over(
        &self,
        queue: Arc<LeavingQueue>,
        most: usize,
        ordered: std::sync::mpsc::SyncSender<usize>,
    ) {
        let _ = self.0.send(WorkerCommand::HandOver { queue, most, ordered });
    }

    /// Requests the numbers of open connections by stage. `to` is dropped if the worker has ended.
    pub fn count_stages(&self, to: std::sync::mpsc::SyncSender<StageCounts>) {
        let _ = self.0.send(WorkerCommand::CountStages(to));
    }

    /// Requests a list of connections. The channel closes if the worker has ended.
    pub fn list_connections(&self, query: ConnectionQuery) -> oneshot::Receiver<ConnectionPage> {
        let (to, listed) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::ListConnections(query, to));
        listed
    }

    /// Requests the names and sources with the most connections, for each window. The channel closes if the worker has
    /// ended.
    pub fn count_top(&self) -> oneshot::Receiver<Vec<TopItems>> {
        let (to, counted) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::CountTop(to));
        counted
    }

    /// Requests the state of a connection. The channel closes if the worker does not have it.
    pub fn describe_connection(&self, id: u64) -> oneshot::Receiver<ConnectionDetails> {
        let (to, described) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::DescribeConnection(id, to));
        described
    }

    /// Closes a connection. The channel closes if the worker does not have it.
    pub fn close_connection(&self, id: u64) -> oneshot::Receiver<ConnectionRow> {
        let (to, closed) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::CloseConnection(id, to));
        closed
    }

    /// Closes the connections of an order, and returns their number before the first is closed.
    pub fn close_in_order(&self, order: Arc<CloseOrder>) -> oneshot::Receiver<u64> {
        let (to, count) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::CloseInOrder(order, to));
        count
    }

    /// Requests the list of open connections. The channel closes if the worker has ended.
    pub fn list_open(&self) -> oneshot::Receiver<OpenConnections> {
        let (to, listed) = oneshot::channel();
        let _ = self.0.send(WorkerCommand::ListOpen(to));
        listed
    }
}

/// The queues of a worker's inbox.
struct WorkerQueues {
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
    migrations: mpsc::UnboundedReceiver<Migration>,
}

fn run(number: usize, resources: WorkerResources, inbox: WorkerQueues, beats: &AtomicU64) -> io::Result<()> {
    Executor::new()?.block_on(work(number, resources, inbox, beats))?
}

async fn work(
    number: usize,
    resources: WorkerResources,
    mut inbox: WorkerQueues,
    beats: &AtomicU64,
) -> io::Result<()> {
    let mut state = WorkerState::new(number, resources);
    let mut tick = sleep(Duration::ZERO);
    loop {
        tokio::select! {
            command = inbox.commands.recv() => match command {
                Some(WorkerCommand::Finish) | None => break,
                Some(command) => state.execute(command),
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

/// A listening socket and its accept loop.
struct AcceptingSocket {
    /// Dropping it stops the accept loop with [`AcceptStop::Empty`].
    stop: oneshot::Sender<AcceptStop>,
    accepting: TaskEnd,
    /// Shared with the accept loop, to set options. It is not a duplicate of the descriptor, because a duplication
    /// could fail.
    listening: Rc<Listening>,
    policy: Rc<CurrentPolicy>,
}

/// Receives the end of a task; an error means a panic.
type TaskEnd = oneshot::Receiver<()>;

/// Starts a task and returns the receiver of its end.
fn start(work: impl Future<Output = ()> + 'static) -> TaskEnd {
    let (sender, ended) = oneshot::channel();
    executor::spawn(async {
        work.await;
        let _ = sender.send(());
    });
    ended
}

/// Returns true if a task has ended. Must not be called again then.
fn has_ended(task: &mut TaskEnd) -> bool {
    task.try_recv() != Err(TryRecvError::Empty)
}

/// Waits until an accept loop has emptied its queue and dropped its socket, then drops `closed`.
async fn wait_for_close(accepting: TaskEnd, closed: mpsc::Sender<Infallible>) {
    let _ = accepting.await;
    drop(closed);
}

/// The state of a worker.
struct WorkerState {
    context: Rc<WorkerContext>,
    /// A worker has more than one socket of an identity if another program with more workers has opened them.
    sockets: HashMap<SocketId, Vec<AcceptingSocket>>,
    /// Listening sockets that the reactor could not register. Each tick tries again. Until then the kernel
    /// may give such a socket clients, which wait in its queue.
    unregistered: Vec<(SocketId, Arc<OwnedFd>)>,
    /// Accept loops that empty their queues, or end without that.
    leaving: Vec<TaskEnd>,
}

impl WorkerState {
    fn new(number: usize, resources: WorkerResources) -> Self {
        let pipes = PipePool::new(resources.pipes, Arc::clone(&resources.metrics));
        let context = WorkerContext {
            snapshot: resources.snapshot,
            registry: ConnectionRegistry::new(resources.loads, number),
            engines: Rc::new(Engines::new(pipes)),
            bounds: resources.bounds,
            access_log: resources.access_log,
            metrics: resources.metrics,
            migration_senders: resources.migration_senders,
            failure_reports: resources.failure_reports,
            leaving: RefCell::default(),
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
        log_orders::order(&self.context.registry, self.context.access_log.interval());
    }

    fn execute(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Listen { id, socket } => self.listen(id, socket),
            WorkerCommand::Reconfigure { id, options } => {
                let registered = self.sockets.get(&id).into_iter().flatten();
                let registered = registered.map(|socket| socket.listening.as_fd());
                let unregistered = self.unregistered.iter().filter(|(other, _)| *other == id);
                for socket in registered.chain(unregistered.map(|(_, socket)| socket.as_fd())) {
                    if let Err(error) = listen::reconfigure(socket, &options) {
                        tracing::warn!(%error, socket = %id, "the options of a listening socket stay as they were");
                    }
                }
            }
            WorkerCommand::StopListening { id, closed } => {
                self.unregistered.retain(|(other, _)| *other != id);
                for accepting in self.stop_listening(&id) {
                    self.leaving.push(start(wait_for_close(accepting, closed.clone())));
                }
            }
            WorkerCommand::LeaveSockets { left } => {
                self.leave_sockets();
                drop(left);
            }
            WorkerCommand::RenewPolicies => {
                let snapshot = self.context.snapshot.load();
                for (id, sockets) in &self.sockets {
                    sockets.iter().for_each(|socket| socket.policy.renew(id, &snapshot));
                }
            }
            WorkerCommand::ListConnections(query, to) => {
                executor::spawn(requests::list(self.registry(), query, to));
            }
            WorkerCommand::DescribeConnection(id, to) => {
                executor::spawn(requests::describe(self.registry(), id, to));
            }
            WorkerCommand::CloseConnection(id, to) => {
                executor::spawn(requests::close(self.registry(), id, to));
            }
            WorkerCommand::CloseInOrder(order, to) => {
                executor::spawn(requests::close_in_order(self.registry(), order, to));
            }
            WorkerCommand::ListOpen(to) => executor::spawn(requests::list_open(self.registry(), to)),
            WorkerCommand::HandOver { queue, most, ordered } => {
                *self.context.leaving.borrow_mut() = Some(queue);
                let _ = ordered.try_send(self.context.registry.hand_over(most));
            }
            // At most 896 items of each kind and window are copied, which takes about 0.15 ms.
            WorkerCommand::CountTop(to) => _ = to.send(self.context.registry.top().items()),
            WorkerCommand::CountStages(to) => _ = to.try_send(self.context.registry.stages()),
            WorkerCommand::CloseGroups(groups) => self.context.registry.close_groups(&groups),
            WorkerCommand::CloseInTurn(notice) => self.context.registry.close_in_turn(notice),
            WorkerCommand::CloseAll => self.context.registry.close_all(),
            WorkerCommand::Finish => {}
        }
    }

    fn registry(&self) -> Rc<ConnectionRegistry> {
        Rc::clone(&self.context.registry)
    }

    fn listen(&mut self, id: SocketId, socket: Arc<OwnedFd>) {
        if let Err((socket, error)) = self.try_listen(&id, socket) {
            tracing::error!(
                %error, socket = %id,
                "a worker cannot watch a listening socket (is fs.epoll.max_user_watches reached?); its clients wait, \
                 and the worker retries twice a second"
            );
            self.unregistered.push((id, socket));
        }
    }

    /// Registers again the sockets that could not be registered.
    fn register_again(&mut self) {
        for (id, socket) in std::mem::take(&mut self.unregistered) {
            match self.try_listen(&id, socket) {
                Ok(()) => {
                    tracing::info!(socket = %id, "a worker now watches a listening socket: its clients are served")
                }
                Err((socket, _)) => self.unregistered.push((id, socket)),
            }
        }
    }

    fn try_listen(&mut self, id: &SocketId, socket: Arc<OwnedFd>) -> Result<(), (Arc<OwnedFd>, io::Error)> {
        let Some(policy) = self.policy(id) else {
            tracing::warn!(socket = %id, "a listening socket has no policy; its clients are not served");
            return Ok(());
        };
        let listening = Rc::new(Listening::register(socket)?);
        let (stop, stopped) = oneshot::channel();
        let policy = Rc::new(CurrentPolicy::new(policy));
        let context = Rc::clone(&self.context);
        let until = accept_until(stopped, Rc::clone(&listening), id.clone(), Rc::clone(&policy), context);
        let accepting = start(until);
        let socket = AcceptingSocket { stop, accepting, listening, policy };
        self.sockets.entry(id.clone()).or_default().push(socket);
        Ok(())
    }

    fn policy(&self, id: &SocketId) -> Option<Arc<Policy>> {
        self.context.snapshot.load().policies.get(id).map(Arc::clone)
    }

    /// Stops the accept loops of an identity. When a loop has ended, this worker has dropped the socket.
    fn stop_listening(&mut self, id: &SocketId) -> Vec<TaskEnd> {
        let sockets = self.sockets.remove(id).into_iter().flatten();
        sockets.map(|socket| socket.accepting).collect()
    }

    /// Stops all accept loops without emptying their queues. No connection is accepted from now on.
    fn leave_sockets(&mut self) {
        self.unregistered.clear();
        for AcceptingSocket { stop, accepting, listening, .. } in
            self.sockets.drain().flat_map(|(_, sockets)| sockets)
        {
            // The loop ends at its next turn. The socket may be registered again before that.
            listening.leave();
            let _ = stop.send(AcceptStop::Leave);
            self.leaving.push(accepting);
        }
    }

    /// Returns an error if an accept loop ended without a command, which only a panic can cause.
    fn check_listeners(&mut self) -> io::Result<()> {
        let dead = self.sockets.values_mut().flatten().any(|socket| has_ended(&mut socket.accepting));
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
        let last: Vec<_> = ids.iter().flat_map(|id| self.stop_listening(id)).collect();
        for accepting in last.into_iter().chain(std::mem::take(&mut self.leaving)) {
            let _ = accepting.await;
        }
        let registry = Rc::clone(&self.context.registry);
        let mut closing = false;
        // A seat is taken before its connection is sent, so no connection is on its way if no seat is taken.
        // Another worker may take a seat between that check and the end. Once the channel is closed that
        // worker keeps its connection; connections that were sent before are served.
        loop {
            while registry.worker_slots_taken() {
                tokio::select! {
                    () = registry.emptied() => {}
                    Some(command) = inbox.commands.recv() => {
                        closing |= matches!(command, WorkerCommand::CloseAll);
                        self.execute(command);
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

    /// Continues a connection that came from another worker. If `closing` is true, this worker ends, and the connection
    /// is closed like all others.
    fn take_over(&self, migration: Migration, closing: bool) {
        conn::take_over(migration, &self.context);
        if closing {
            self.context.registry.close_all();
        }
    }
}
