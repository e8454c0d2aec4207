//! The admin listener of the program. If its address cannot be bound, clients are served without admin, and the
//! address is tried again until it can be bound.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{BoundAdmin, answer, check_token, inherit, take_address};
use crate::config::{AdminSpec, TokenFault};
use crate::listener::InheritedSockets;
use crate::server::{AdminStage, View};

/// The time between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// The admin listener, bound or to be bound.
#[derive(Debug)]
pub struct AdminListener {
    spec: AdminSpec,
    bound: Option<BoundAdmin>,
    /// The last logged fault. The address could not be bound or used because of this fault.
    logged: Option<String>,
}

impl AdminListener {
    /// Reads the token, and binds the address or takes its socket out of the inherited ones. If the address cannot be bound, the fault is logged, and
    /// [`AdminListener::serve`] tries the address again.
    ///
    /// # Errors
    ///
    /// The fault of the token's file.
    pub fn open(spec: AdminSpec, inherited: &mut InheritedSockets) -> Result<Self, TokenFault> {
        check_token(&spec)?;
        let bound = inherit(&spec, inherited);
        let mut listener = Self { spec, bound, logged: None };
        if listener.bound.is_some() {
            return Ok(listener);
        }
        match take_address(listener.spec.clone()) {
            Ok(bound) => listener.bound = Some(bound),
            Err(fault) => listener.log(fault.to_string()),
        }
        Ok(listener)
    }

    /// Answers requests, as soon as the address can be bound, until the server closes the admin listeners. Never returns.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the listener accepts no more connections. Answers under way are tasks of the runtime
    /// and end with the runtime.
    pub async fn serve(mut self, view: Arc<View>) {
        loop {
            if let Some(bound) = self.bound.take()
                && let Err(error) = answer(bound, Arc::clone(&view)).await
            {
                self.log(error.to_string());
            }
            sleep(AGAIN).await;
            view.admin_sockets.wait_for(AdminStage::Accepting).await;
            let spec = self.spec.clone();
            // It may create the file of a Unix socket, and a file system may be slow.
            match spawn_blocking(move || take_address(spec)).await {
                Ok(Ok(bound)) => self.bound = Some(bound),
                Ok(Err(fault)) => self.log(fault.to_string()),
                Err(error) => self.log(error.to_string()),
            }
        }
    }

    /// Logs a fault, unless the last logged fault is the same.
    fn log(&mut self, fault: String) {
        if self.logged.as_ref() != Some(&fault) {
            tracing::error!(
                "admin.listen: {fault}; clients are served without admin and metrics; the address is tried again each \
                 second"
            );
            self.logged = Some(fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::thread::{self, JoinHandle};

    use tokio::runtime::Builder;
    use tokio::sync::oneshot;

    use super::*;
    use crate::admin::ask;
    use crate::config;
    use crate::server::Server;
    use crate::sys::Address;
    use crate::wire::handover::HandedSocket;

    /// The time after which a test fails that waits for an answer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server without clients, and its admin listener on a thread.
    struct AdminPart {
        view: Arc<View>,
        stop: oneshot::Sender<()>,
        thread: JoinHandle<()>,
        _server: Server,
    }

    impl AdminPart {
        fn start(path: &Path, mut inherited: InheritedSockets) -> Self {
            let text = "workers = 1\naccess_log.to = 'off'\n[listener.a]\nbind = '127.0.0.1:0'\npool = 'a'\n\
                [pool.a]\nbackends = ['127.0.0.1:1']\nhealth.check = 'off'\n";
            let config = config::parse("test.toml", text).unwrap().0;
            let server = Server::start_with(config, &mut inherited).unwrap();
            let spec = AdminSpec::new(Address::Unix(path.into()));
            let listener = AdminListener::open(spec, &mut inherited).unwrap();
            assert!(listener.bound.is_some(), "the address can be used");
            let view = Arc::clone(server.remote().view());
            let (stop, stopped) = oneshot::channel();
            let serving = listener.serve(Arc::clone(&view));
            let thread = thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        () = serving => {}
                        _ = stopped => {}
                    }
                });
            });
            Self { view, stop, thread, _server: server }
        }

        /// Returns the socket as another program gets it.
        fn lend(&self) -> Vec<(HandedSocket, OwnedFd)> {
            let deadline = std::time::Instant::now() + PATIENCE;
            loop {
                let lent = self.view.admin_sockets.lend().into_iter();
                let lent: Vec<_> =
                    lent.map(|(handed, socket)| (handed, socket.try_clone().unwrap())).collect();
                if !lent.is_empty() {
                    return lent;
                }
                assert!(std::time::Instant::now() < deadline, "the listener does not serve");
                thread::yield_now();
            }
        }

        fn end(self) {
            drop(self.stop);
            self.thread.join().unwrap();
        }
    }

    fn check_answer(path: &Path) {
        let (code, _) = ask(Address::Unix(path.into()), "/healthz", PATIENCE).expect("it answers");
        assert_eq!(code, 200);
    }

    #[test]
    fn the_socket_goes_over_to_a_successor() {
        let path = std::env::temp_dir().join(format!("pointsman-admin-{}.sock", std::process::id()));
        let incumbent = AdminPart::start(&path, InheritedSockets::default());
        check_answer(&path);

        // A successor that fails before it serves.
        AdminPart::start(&path, InheritedSockets::new(incumbent.lend())).end();
        check_answer(&path);

        let successor = AdminPart::start(&path, InheritedSockets::new(incumbent.lend()));
        incumbent.view.admin_sockets.pause();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| check_answer(&path));
            successor.view.admin_sockets.resume();
            waiting.join().unwrap();
        });
        incumbent.view.admin_sockets.disarm();
        incumbent.end();
        check_answer(&path);
        successor.end();
        assert!(!path.exists(), "the successor is responsible for the file");
    }

    #[test]
    fn a_paused_listener_answers_later_and_a_closed_one_never() {
        let path = std::env::temp_dir().join(format!("pointsman-paused-{}.sock", std::process::id()));
        let part = AdminPart::start(&path, InheritedSockets::default());
        part.lend();
        part.view.admin_sockets.pause();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| check_answer(&path));
            part.view.admin_sockets.resume();
            waiting.join().unwrap();
        });
        part.view.admin_sockets.close();
        assert!(!path.exists(), "its file is removed");
        part.view.admin_sockets.resume();
        assert!(ask(Address::Unix(path.as_path().into()), "/healthz", PATIENCE).is_err());
        part.end();
    }
}
