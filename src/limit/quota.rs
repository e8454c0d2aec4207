//! The limits of a listener, a route or a pool, and the treatment of connections above them.

use std::sync::Arc;
use std::time::Duration;

use super::WhenFull;
use super::gate::{Gate, GatePass};
use super::overload::OverloadSpec;
use super::rate::{Moment, Rate, RateGate};

/// The treatment of a connection above a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverLimit {
    /// It is refused in the form of its protocol if the client has sent bytes, otherwise by a reset.
    #[default]
    Reject,
    /// It is reset without a message.
    Drop,
    /// The connection stays open and unread for this time, and is then reset.
    Tarpit(Duration),
}

/// The limits of a route or a pool, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaSpec {
    /// Open connections. Default: no limit.
    pub connections: Option<u64>,
    /// New connections. Default: no limit.
    pub rate: Option<Rate>,
    /// The treatment of connections above a limit.
    pub over: OverLimit,
}

/// The limits of the process, in addition to those of listeners, routes and pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsSpec {
    /// Slots for sources. Default 65536. A change needs a restart.
    pub sources: usize,
    /// The treatment of sources for which there is no slot. Default: they pass.
    pub when_full: WhenFull,
    /// The most refused clients in the tarpit at once. Default 1000.
    pub tarpit: u64,
    /// The time for which the tarpit holds a refused client. Default 10 s.
    pub tarpit_timeout: Duration,
    /// Bytes of hellos that did not come with the first read, of all connections together. Default 64 MiB.
    pub hello_memory: u64,
    /// The settings for overload of the process.
    pub overload: OverloadSpec,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            sources: 65_536,
            when_full: WhenFull::default(),
            tarpit: 1000,
            tarpit_timeout: Duration::from_secs(10),
            hello_memory: 64 * 1024 * 1024,
            overload: OverloadSpec::default(),
        }
    }
}

/// The open connections and the rate of a route or a pool. It outlives reloads.
#[derive(Debug)]
pub struct Quota {
    gate: Arc<Gate>,
    rate: RateGate,
}

/// The limit that a connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceededLimit {
    /// The open connections.
    Connections,
    /// The rate of new connections.
    Rate,
}

impl Quota {
    /// Returns an unused quota.
    pub fn new(spec: &QuotaSpec) -> Self {
        let quota = Self { gate: Gate::new(u64::MAX), rate: RateGate::default() };
        quota.set(spec);
        quota
    }

    /// Changes the limits. Open connections stay.
    pub fn set(&self, spec: &QuotaSpec) {
        self.gate.set_limit(spec.connections.unwrap_or(u64::MAX));
        self.rate.set(spec.rate);
    }

    /// Takes a slot for a connection.
    ///
    /// # Errors
    ///
    /// The limit that it would exceed. A refused connection counts for neither limit.
    pub fn enter(&self, now: Moment) -> Result<GatePass, ExceededLimit> {
        let pass = self.gate.enter().ok_or(ExceededLimit::Connections)?;
        if self.rate.admit(now) { Ok(pass) } else { Err(ExceededLimit::Rate) }
    }

    /// Returns the result that [`Quota::enter`] would return now. Takes nothing.
    ///
    /// # Errors
    ///
    /// The limit that a connection would exceed.
    pub fn preview(&self, now: Moment) -> Result<(), ExceededLimit> {
        match (self.gate.has_slot(), self.rate.has_token(now)) {
            (false, _) => Err(ExceededLimit::Connections),
            (true, false) => Err(ExceededLimit::Rate),
            (true, true) => Ok(()),
        }
    }

    /// Takes a slot, also beyond the limit and without a token: for a connection that another program admitted.
    pub fn enter_past_limit(&self) -> GatePass {
        self.gate.enter_past_limit()
    }

    /// The gate that counts its open connections.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Refunds the token of a connection that was admitted just now.
    pub fn refund(&self) {
        self.rate.refund();
    }

    /// The rate of new connections.
    pub fn rate(&self) -> &RateGate {
        &self.rate
    }

    /// The number of open connections.
    pub fn open(&self) -> u64 {
        self.gate.inside()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_both_and_gives_back() {
        let spec = QuotaSpec {
            connections: Some(2),
            rate: Some(Rate::new(1, Duration::from_secs(1), 3)),
            ..QuotaSpec::default()
        };
        let quota = Quota::new(&spec);
        let now = Moment::from_nanos(1);
        let (first, second) = (quota.enter(now).unwrap(), quota.enter(now).unwrap());
        assert_eq!(quota.enter(now).unwrap_err(), ExceededLimit::Connections);
        drop(first);
        let third = quota.enter(now).unwrap();
        drop(second);
        assert_eq!(quota.enter(now).unwrap_err(), ExceededLimit::Rate);
        assert_eq!(quota.open(), 1, "a refusal leaves nothing behind");
        quota.set(&QuotaSpec::default());
        assert!((0..9).all(|_| quota.enter(now).is_ok()));
        drop(third);
        assert_eq!(quota.open(), 0);
    }
}
