//! The opening of a listener's protocol, before a ClientHello.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::policy_spec::TunnelOpening;
use super::routes::RouteTarget;
use crate::relay::RelayOptions;
use crate::wire::{BackendGreeting, DetectedProtocol, TunnelProtocol};

/// The opening before the hello.
#[derive(Default)]
pub enum OpeningPolicy {
    /// Nothing.
    #[default]
    Straight,
    /// PostgreSQL.
    Postgres(Box<PostgresPolicy>),
    /// A mail protocol.
    Starttls(Box<GreetingPolicy>),
    /// One of several protocols.
    Detect(Box<DetectPolicy>),
}

/// The exchange with a backend before it gets the hello, and its time limit.
#[derive(Clone, Debug)]
pub struct GreetingPolicy {
    /// The messages of the exchange.
    pub greeting: BackendGreeting,
    /// The time from the connect to the go-ahead.
    pub timeout: Duration,
}

/// The targets of PostgreSQL sessions that have no server name.
pub struct PostgresPolicy {
    /// Sessions without TLS; `None` rejects.
    pub plaintext: Option<RouteTarget>,
    /// Sessions without TLS, by the name of the database.
    pub databases: HashMap<Box<[u8]>, RouteTarget>,
    /// Sessions without TLS, by the name of the user.
    pub users: HashMap<Box<[u8]>, RouteTarget>,
    /// Requests to cancel; `None` rejects.
    pub cancel: Option<CancelPolicy>,
    /// The exchange that opens TLS with the backends.
    pub greet: GreetingPolicy,
}

/// The target of requests to cancel a query, and the options of their relays.
pub struct CancelPolicy {
    /// The target.
    pub target: RouteTarget,
    /// The options of the relay.
    pub relay: Arc<RelayOptions>,
}

impl CancelPolicy {
    /// The idle time of a request, which bounds the time that the server takes for it.
    const IDLE: Duration = Duration::from_secs(10);
    /// The half-closed time of a request, in which its client must close.
    const HALF_CLOSED: Duration = Duration::from_secs(1);

    /// Returns the policy of a listener with these relay options. A request is done when its server has closed. It
    /// bypasses limits, so its client must not keep it open.
    pub fn new(target: RouteTarget, listener: &RelayOptions) -> Self {
        let relay = RelayOptions {
            idle_timeout: listener.idle_timeout.min(Self::IDLE),
            half_closed_timeout: listener.half_closed_timeout.min(Self::HALF_CLOSED),
            ..*listener
        };
        Self { target, relay: Arc::new(relay) }
    }
}

/// The targets of detected protocols; `None` rejects.
pub struct DetectPolicy {
    /// SOCKS 5.
    pub socks5: Option<RouteTarget>,
    /// The method CONNECT of HTTP. If it is rejected, such a client counts as one of HTTP.
    pub connect: Option<RouteTarget>,
    /// SSH.
    pub ssh: Option<RouteTarget>,
    /// HTTP without TLS.
    pub http: Option<RouteTarget>,
    /// PostgreSQL.
    pub postgres: Option<RouteTarget>,
    /// All other protocols.
    pub other: Option<RouteTarget>,
    /// Silent clients.
    pub on_timeout: Option<RouteTarget>,
    /// The time for which a client must be silent before `on_timeout` applies.
    pub timeout: Duration,
}

impl PostgresPolicy {
    /// Returns the target of a session without TLS: the target of its database, else the target of its user, else the
    /// common target.
    pub fn plaintext(&self, user: &[u8], database: &[u8]) -> Option<&RouteTarget> {
        self.databases.get(database).or_else(|| self.users.get(user)).or(self.plaintext.as_ref())
    }
}

impl DetectPolicy {
    /// Returns the protocol in which requests for tunnels are read, if a client begins with such a request and the listener
    /// serves it. A client that requests another tunnel counts as one of HTTP or of another protocol.
    pub fn tunnel(&self, spoken: DetectedProtocol) -> Option<TunnelOpening> {
        match spoken {
            DetectedProtocol::Socks5 if self.socks5.is_some() => {
                Some(TunnelOpening::Socks { reads_version_4: false })
            }
            DetectedProtocol::Connect if self.connect.is_some() => Some(TunnelOpening::Connect),
            _ => None,
        }
    }

    /// Returns the target of a request for a tunnel.
    pub fn tunnel_target(&self, protocol: TunnelProtocol) -> Option<&RouteTarget> {
        match protocol {
            TunnelProtocol::Socks5 | TunnelProtocol::Socks4 => self.socks5.as_ref(),
            TunnelProtocol::Connect => self.connect.as_ref(),
        }
    }

    /// Returns the target of a protocol. A TLS client has no target here: its server name decides.
    pub fn target(&self, spoken: DetectedProtocol) -> Option<&RouteTarget> {
        match spoken {
            DetectedProtocol::Tls => None,
            DetectedProtocol::Socks5 => self.other.as_ref(),
            DetectedProtocol::Connect => self.http.as_ref(),
            DetectedProtocol::Ssh => self.ssh.as_ref(),
            DetectedProtocol::Http => self.http.as_ref(),
            DetectedProtocol::Postgres => self.postgres.as_ref(),
            DetectedProtocol::Other => self.other.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Action;

    fn check(idle: u64, half_closed: u64, expected: [u64; 2]) {
        let target =
            RouteTarget { route: "cancel".into(), action: Action::Reject, limits: None, counts: None };
        let listener = RelayOptions {
            idle_timeout: Duration::from_secs(idle),
            half_closed_timeout: Duration::from_secs(half_closed),
            ..RelayOptions::default()
        };
        let relay = CancelPolicy::new(target, &listener).relay;
        let [idle_timeout, half_closed_timeout] = expected.map(Duration::from_secs);
        assert_eq!(*relay, RelayOptions { idle_timeout, half_closed_timeout, ..listener });
    }

    #[test]
    fn a_request_to_cancel_is_short() {
        check(3600, 60, [10, 1]);
        check(5, 60, [5, 1]);
        check(3600, 0, [10, 0]);
    }
}
