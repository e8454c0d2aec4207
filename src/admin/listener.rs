//! The admin listener of the program. If its address cannot be bound, clients are served without admin, and the
//! address is tried again until it can be bound.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{BoundAdmin, answer, check_token, take_address};
use crate::config::{AdminSpec, TokenFault};
use crate::server::View;

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
    /// Reads the token and binds the address. If the address cannot be bound, the fault is logged, and
    /// [`AdminListener::serve`] tries the address again.
    ///
    /// # Errors
    ///
    /// The fault of the token's file.
    pub fn open(spec: AdminSpec) -> Result<Self, TokenFault> {
        check_token(&spec)?;
        let mut listener = Self { spec, bound: None, logged: None };
        match take_address(listener.spec.clone()) {
            Ok(bound) => listener.bound = Some(bound),
            Err(fault) => listener.log(fault.to_string()),
        }
        Ok(listener)
    }

    /// Answers requests, as soon as the address can be bound. Never returns.
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
