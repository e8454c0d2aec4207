//! An open connection as a walk sees it, and as a row of a list has it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::card::ConnectionCard;
use super::stage::OpenStage;
use crate::ids::BackendId;
use crate::telemetry::Direction;

/// The figures of an open connection by which lists are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFigures {
    /// The time since the connection was accepted.
    pub age: Duration,
    /// The time for which no byte has moved, to a [`TICK`](super::TICK).
    pub idle: Duration,
    /// The bytes delivered since the start, by direction.
    pub bytes: [u64; 2],
    /// Bytes a second in both directions, in the last [`TICK`](super::TICK).
    pub rate: u64,
}

impl ConnectionFigures {
    /// Returns the bytes delivered in one direction.
    pub fn total(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize]
    }
}

/// An open connection, seen for a moment. Nothing is copied: a walk sees many connections and keeps few.
#[derive(Debug)]
pub struct ConnectionView<'a> {
    /// The connection's number.
    pub id: u64,
    /// The client's address; `None` for a client of a Unix socket.
    pub client: Option<SocketAddr>,
    /// The name of its listener.
    pub listener: &'a Arc<str>,
    /// Its stage.
    pub stage: OpenStage,
    /// The backend of the last attempt.
    pub backend: Option<BackendId>,
    /// Its names.
    pub card: &'a ConnectionCard,
    /// Its figures.
    pub figures: ConnectionFigures,
}

impl ConnectionView<'_> {
    /// Returns the row of the connection.
    pub fn row(&self) -> ConnectionRow {
        ConnectionRow {
            id: self.id,
            client: self.client,
            listener: Arc::clone(self.listener),
            stage: self.stage,
            card: self.card.clone(),
            figures: self.figures,
        }
    }
}

/// A row of a list of connections: a [`ConnectionView`] that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// The connection's number.
    pub id: u64,
    /// The client's address; `None` for a client of a Unix socket.
    pub client: Option<SocketAddr>,
    /// The name of its listener.
    pub listener: Arc<str>,
    /// Its stage.
    pub stage: OpenStage,
    /// Its names.
    pub card: ConnectionCard,
    /// Its figures.
    pub figures: ConnectionFigures,
}
