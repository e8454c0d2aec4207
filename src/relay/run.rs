//! Drives a relay to its end.
//!
//! A run is a part of the memory of each idle connection. So it holds two references and its stage, and the rare work
//! after the break of a side is boxed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::broken::BrokenSide;
use super::{Relay, RelayEnd, RelayStop};
use crate::live::{ConnectionCommand, RegistryGuard};
use crate::telemetry::Direction;

/// The owner of the connection that a relay serves.
pub trait RelayOwner {
    /// The entry that counts the connection's bytes and gets its commands.
    fn entry(&self) -> &RegistryGuard;

    /// Notes the first byte of the backend. Called once, in the turn in which the byte is written to the client, by the
    /// run that writes it.
    fn first_byte(&self);

    /// Writes an interval record of the connection to the access log.
    fn log(&self);
}

/// The owner of a relay of which only the bytes are counted.
impl RelayOwner for RegistryGuard {
    fn entry(&self) -> &RegistryGuard {
        self
    }

    fn first_byte(&self) {}

    fn log(&self) {}
}

/// A run of a relay to its end; made by [`Relay::run`].
pub struct RelayRun<'a, O> {
    /// `None` once the end was returned.
    stage: Option<RunStage<'a, O>>,
}

/// The stage of a run.
enum RunStage<'a, O> {
    /// No byte of the backend was written to the client.
    Silent(&'a mut Relay, &'a O),
    /// Bytes of the backend were written to the client.
    Moving(&'a mut Relay, &'a O),
    /// A side broke.
    Broken(PassingOn<'a>),
}

/// The future that passes the break of a side on.
type PassingOn<'a> = Pin<Box<dyn Future<Output = RelayEnd> + 'a>>;

impl Relay {
    /// Moves bytes until the connection has ended. The sockets are closed only when the relay is dropped.
    ///
    /// # Panics
    ///
    /// The run panics if it is polled after its end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost while bytes move: call it again, or [`Relay::stop`] it. Once a side is broken, a
    /// cancelled run loses the bytes that were still to be delivered.
    pub fn run<'a, O: RelayOwner>(&'a mut self, owner: &'a O) -> RelayRun<'a, O> {
        self.begin(owner.entry());
        RelayRun { stage: Some(RunStage::of(self, owner)) }
    }
}

impl<'a, O: RelayOwner> RunStage<'a, O> {
    /// Returns the stage of a relay that moves bytes.
    fn of(relay: &'a mut Relay, owner: &'a O) -> Self {
        match has_first_byte(owner) {
            false => Self::Silent(relay, owner),
            true => Self::Moving(relay, owner),
        }
    }
}

impl<O: RelayOwner> Future for RelayRun<'_, O> {
    type Output = RelayEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        match self.stage.take().expect("a run is polled only until its end") {
            RunStage::Silent(relay, owner) => {
                let polled = relay.poll(cx, owner.entry());
                let has_spoken = has_first_byte(owner);
                if has_spoken {
                    owner.first_byte();
                }
                match polled {
                    Poll::Ready(stop) => self.end(relay, owner, stop, cx),
                    Poll::Pending if has_spoken => self.go_on(RunStage::Moving(relay, owner)),
                    Poll::Pending => self.go_on(RunStage::Silent(relay, owner)),
                }
            }
            RunStage::Moving(relay, owner) => match relay.poll(cx, owner.entry()) {
                Poll::Ready(stop) => self.end(relay, owner, stop, cx),
                Poll::Pending => self.go_on(RunStage::Moving(relay, owner)),
            },
            RunStage::Broken(passing_on) => self.pass_on(passing_on, cx),
        }
    }
}

impl<'a, O: RelayOwner> RelayRun<'a, O> {
    fn go_on(&mut self, stage: RunStage<'a, O>) -> Poll<RelayEnd> {
        self.stage = Some(stage);
        Poll::Pending
    }

    /// Ends the connection when its directions have stopped. A command to log has stopped them only for this turn.
    fn end(
        &mut self,
        relay: &'a mut Relay,
        owner: &'a O,
        stop: RelayStop,
        cx: &mut Context<'_>,
    ) -> Poll<RelayEnd> {
        if matches!(stop, RelayStop::Command(ConnectionCommand::Log)) {
            owner.log();
            cx.waker().wake_by_ref();
            return self.go_on(RunStage::of(relay, owner));
        }
        match relay.end(stop, owner.entry()) {
            Ok(end) => Poll::Ready(end),
            Err(broken) => self.pass_on(Box::pin(pass_on(relay, broken, owner)), cx),
        }
    }

    fn pass_on(&mut self, mut passing_on: PassingOn<'a>, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        match passing_on.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => self.go_on(RunStage::Broken(passing_on)),
        }
    }
}

/// Passes the break of a side on to the other side.
async fn pass_on(relay: &mut Relay, broken: BrokenSide, owner: &impl RelayOwner) -> RelayEnd {
    let was_silent = !has_first_byte(owner);
    let end = broken.pass_on(relay, owner.entry()).await;
    if was_silent && has_first_byte(owner) {
        owner.first_byte();
    }
    end
}

fn has_first_byte(owner: &impl RelayOwner) -> bool {
    owner.entry().total(Direction::FromBackend) > 0
}
