//! Connections on their way from one worker to another.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::story::{Packed, Story};
use super::{Admitted, Surroundings, reading};
use crate::live::Seat;
use crate::relay::{Engines, FlowStage, Relay, RelayParts, RelaySettings};
use crate::sys::{Stream, socket};
use crate::telemetry::CloseReason;

/// A connection that another worker is to serve, with its place there.
pub struct Parcel {
    pub(super) seat: Seat,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Fresh from a listener's queue.
    Admitted(Box<Admitted>),
    /// A stopped relay.
    Relay(Box<Luggage>),
}

/// A stopped relay out of its reactor.
pub(super) struct Luggage {
    client: OwnedFd,
    backend: OwnedFd,
    from_client: (Vec<u8>, FlowStage),
    from_backend: (Vec<u8>, FlowStage),
    settings: RelaySettings,
    story: Packed,
}

/// The doors of all workers, by their numbers.
pub struct Doors(Vec<mpsc::UnboundedSender<Parcel>>);

impl Doors {
    /// Opens a door for each worker. What waits behind one is bounded by the seats taken there: a worker
    /// is sent something only while it has fewer connections, or moves fewer bytes, than the sender.
    pub fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Parcel>>) {
        let (doors, parcels) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        (Arc::new(Self(doors)), parcels)
    }

    /// Sends a parcel, or gives it back when that worker has ended.
    pub(super) fn send(&self, worker: usize, parcel: Parcel) -> Result<(), Parcel> {
        self.0[worker].send(parcel).map_err(|returned| returned.0)
    }
}

impl Luggage {
    /// Packs a relay that was stopped.
    ///
    /// A connection whose bytes cannot be taken out of their pipe is lost; both sides see a reset.
    pub(super) fn pack(relay: Relay, story: Story) -> Option<Box<Self>> {
        let settings = relay.settings();
        let RelayParts { client, backend, from_client, from_backend } = match relay.stop() {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(%error, "a connection was lost on its way to another worker");
                story.close(CloseReason::Internal);
                return None;
            }
        };
        let (client, backend) = (client.into_fd(), backend.into_fd());
        Some(Box::new(Self { client, backend, from_client, from_backend, settings, story: story.pack() }))
    }

    /// Goes on in this worker.
    pub(super) fn unpack(self, seat: Seat, around: &Rc<Surroundings>) -> Option<(Relay, Story)> {
        let story = Story::unpack(self.story, seat, around);
        let (client, backend) = match (Stream::register(self.client), Stream::register(self.backend)) {
            (Ok(client), Ok(backend)) => (client, backend),
            (client, backend) => {
                let mut reason = CloseReason::Internal;
                for stream in [client, backend] {
                    match stream {
                        Ok(stream) => _ = socket::reset_on_close(&stream),
                        Err(error) => reason = reading::unregistered(&error),
                    }
                }
                story.close(reason);
                return None;
            }
        };
        let parts =
            RelayParts { client, backend, from_client: self.from_client, from_backend: self.from_backend };
        let engines: Rc<Engines> = Rc::clone(&around.engines);
        Some((Relay::resume(parts, self.settings, engines), story))
    }
}
