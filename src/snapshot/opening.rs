//! What a listener does before it reads a ClientHello, as configured and as it lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{RouteTarget, TargetSpec};
use crate::wire::{BackendGreeting, DetectedProtocol, Starttls};

/// What comes before the hello, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OpeningSpec {
    /// Nothing: the client begins with its hello.
    #[default]
    Straight,
    /// PostgreSQL.
    Postgres {
        /// Sessions without TLS that no name below leads elsewhere.
        plaintext: TargetSpec,
        /// Those by their database, and its pool.
        databases: Vec<(Arc<str>, Arc<str>)>,
        /// Those by their user, and its pool; a database comes first.
        users: Vec<(Arc<str>, Arc<str>)>,
        /// Requests to cancel a query.
        cancel: TargetSpec,
        /// How long a backend may take to answer the SSLRequest.
        greeting_timeout: Duration,
    },
    /// A protocol of mail with STARTTLS.
    Starttls {
        /// Which.
        protocol: Starttls,
        /// The name that the listener gives for itself.
        hostname: Arc<str>,
        /// How long a backend may take up to its go-ahead.
        greeting_timeout: Duration,
    },
    /// One of several protocols, told by the first bytes.
    Detect(DetectSpec),
}

/// Where each protocol that is told by its first bytes goes, and clients that are silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectSpec {
    /// SSH.
    pub ssh: TargetSpec,
    /// HTTP without TLS.
    pub http: TargetSpec,
    /// PostgreSQL, with or without TLS.
    pub postgres: TargetSpec,
    /// Whatever else.
    pub other: TargetSpec,
    /// Clients that wait for the server to speak. With "reject" they have the listener's first-byte timeout.
    pub on_timeout: TargetSpec,
    /// How long a client may be silent before it goes there. Default 3 s.
    pub timeout: Duration,
}

/// What comes before the hello.
#[derive(Default)]
pub enum OpeningPolicy {
    /// Nothing.
    #[default]
    Straight,
    /// PostgreSQL.
    Postgres(Box<PostgresPolicy>),
    /// A protocol of mail.
    Starttls(Box<GreetingPolicy>),
    /// One of several protocols.
    Detect(Box<DetectPolicy>),
}

/// What a backend is asked before it gets the hello, and how long it may take.
#[derive(Clone, Debug)]
pub struct GreetingPolicy {
    /// What is said.
    pub greeting: BackendGreeting,
    /// From the connect to the go-ahead.
    pub timeout: Duration,
}

/// Where sessions of PostgreSQL go that have no server name.
pub struct PostgresPolicy {
    /// Without TLS; `None` rejects.
    pub plaintext: Option<RouteTarget>,
    /// Without TLS, by the name of the database.
    pub databases: HashMap<Box<[u8]>, RouteTarget>,
    /// Without TLS, by the name of the user.
    pub users: HashMap<Box<[u8]>, RouteTarget>,
    /// Requests to cancel; `None` rejects.
    pub cancel: Option<RouteTarget>,
    /// How TLS is opened with the backends.
    pub greet: GreetingPolicy,
}

/// Where the protocols go; `None` rejects.
pub struct DetectPolicy {
    /// SSH.
    pub ssh: Option<RouteTarget>,
    /// HTTP without TLS.
    pub http: Option<RouteTarget>,
    /// PostgreSQL.
    pub postgres: Option<RouteTarget>,
    /// Whatever else.
    pub other: Option<RouteTarget>,
    /// Clients that are silent.
    pub on_timeout: Option<RouteTarget>,
    /// How long they may be.
    pub timeout: Duration,
}

impl PostgresPolicy {
    /// The target of a session without TLS: by its database, else by its user, else the common one.
    pub fn plaintext(&self, user: &[u8], database: &[u8]) -> Option<&RouteTarget> {
        self.databases.get(database).or_else(|| self.users.get(user)).or(self.plaintext.as_ref())
    }
}

impl DetectPolicy {
    /// The target of a protocol. That of TLS is found by its server name.
    pub fn target(&self, spoken: DetectedProtocol) -> Option<&RouteTarget> {
        match spoken {
            DetectedProtocol::Tls => None,
            DetectedProtocol::Ssh => self.ssh.as_ref(),
            DetectedProtocol::Http => self.http.as_ref(),
            DetectedProtocol::Postgres => self.postgres.as_ref(),
            DetectedProtocol::Other => self.other.as_ref(),
        }
    }
}
