//! The admin listener of the program: if its address cannot be had, clients are served without it, and it is tried
//! again until it can.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Bound, answer, check_token, take_address};
use crate::config::{AdminSpec, TokenFault};
use crate::server::View;

/// The time between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// The admin listener, bound or to be bound.
#[derive(Debug)]
pub struct AdminListener {
    spec: AdminSpec,
    bound: Option<Bound>,
    /// Why it could not be bound or used, as it was logged.
    said: Option<String>,
}

impl AdminListener {
    /// Looks at the token and takes the address, early, so that a clash is known before anything else starts. An
    /// address that cannot be had is logged, and [`AdminListener::serve`] tries it again.
    ///
    /// # Errors
    ///
    /// What is wrong with the file of the token.
    pub fn open(spec: AdminSpec) -> Result<Self, TokenFault> {
        check_token(&spec)?;
        let mut listener = Self { spec, bound: None, said: None };
        match take_address(listener.spec.clone()) {
            Ok(bound) => listener.bound = Some(bound),
            Err(fault) => listener.say(fault.to_string()),
        }
        Ok(listener)
    }

    /// Answers what is asked, as soon as the address can be had. Does not end.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it takes no more connections. Answers under way are tasks of the runtime and end with it.
    pub async fn serve(mut self, view: Arc<View>) {
        loop {
            if let Some(bound) = self.bound.take()
                && let Err(error) = answer(bound, Arc::clone(&view)).await
            {
                self.say(error.to_string());
            }
            sleep(AGAIN).await;
            let spec = self.spec.clone();
            // The file of a Unix socket is made, and files are slow at times.
            match spawn_blocking(move || take_address(spec)).await {
                Ok(Ok(bound)) => self.bound = Some(bound),
                Ok(Err(fault)) => self.say(fault.to_string()),
                Err(error) => self.say(error.to_string()),
            }
        }
    }

    /// Logs a fault, once for each that is new.
    fn say(&mut self, fault: String) {
        if self.said.as_ref() != Some(&fault) {
            tracing::error!(
                "admin.listen: {fault}; clients are served without admin and metrics; the address is tried again each second"
            );
            self.said = Some(fault);
        }
    }
}
