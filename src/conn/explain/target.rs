//! Describes the pool of a client, its backend, the first bytes to the backend, and the bounds of the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use super::report::{
    BackendReport, BoundsReport, LimitReport, NearReport, PickReport, PoolReport, SendsReport, seconds,
};
use super::{ExplainedState, Journey, notes};
use crate::conn::admission;
use crate::conn::announce::HeaderFacts;
use crate::conn::hosts;
use crate::conn::plan::{DialPlan, PickRule};
use crate::conn::route::{ChosenTarget, pool_of};
use crate::pool::near::Sites;
use crate::pool::{Backend, Forward, PickPreview, Pool, RuleMode, Unavailable};
use crate::snapshot::{OpeningPolicy, ServedPool, UsageLimit};
use crate::telemetry::CloseReason;
use crate::wire::proxy_protocol::{HeaderVersion, Tlv};
use crate::wire::{BackendGreeting, ServerName};

/// The most backends of a pick that are shown. Pools with more backends show the first ones.
const MOST_PICKS: usize = 10;

impl Journey<'_> {
    /// Returns the pool that a target leads to. Describes and checks the limits of the route and of the pool.
    pub(super) fn enter_target(&mut self, chosen: ChosenTarget<'_>) -> Result<Arc<ServedPool>, CloseReason> {
        let served = match chosen {
            ChosenTarget::Pool(slot) => slot.served(),
            ChosenTarget::Route(target) => {
                let slot = pool_of(&target.action, self.request.source.map(|source| source.ip()))?;
                if let Some(limited) = &target.limits {
                    self.describe_limit("route", limited);
                    admission::preview_route(limited)?;
                }
                slot.served()
            }
        };
        if let Some(limited) = &served.limits {
            self.describe_limit("pool", limited);
            admission::preview_pool(limited)?;
        }
        Ok(served)
    }

    fn describe_limit(&mut self, of: &'static str, limited: &UsageLimit) {
        let quota = &limited.quota;
        let limit = LimitReport::new(of, quota.open(), quota.gate().limit(), quota.rate().rate());
        self.report.admission.limits.push(limit);
    }

    /// Describes the pool and the backend that it picks.
    pub(super) fn pick(&mut self, plan: &DialPlan, name: Option<&ServerName>) -> Result<(), CloseReason> {
        let pool = &plan.served.pool;
        self.report.pool = Some(describe_pool(pool, self.request.source));
        if let (PickRule::Named, Some(forward)) = (plan.pick, pool.forward()) {
            let host = forwarded(forward, plan, name)?;
            self.report.pick = Some(PickReport { host: Some(host), ..PickReport::unknown() });
            return Ok(());
        }
        notes::of_pool(self, pool);
        let most = usize::try_from(plan.attempts).unwrap_or(MOST_PICKS);
        let most = if pool.is_ordered() { most.min(MOST_PICKS) } else { MOST_PICKS };
        let is_alone = matches!(self.state, ExplainedState::Configuration);
        match pool.preview(self.request.source, name, most) {
            Ok(preview) => {
                let slots = preview.picks.first().and_then(|pick| pick.slot.as_ref()).map(|slot| slot.slots);
                self.report.pool.iter_mut().for_each(|pool| pool.slots = slots);
                self.report.pick = Some(PickReport { ordered: pool.is_ordered(), ..PickReport::of(preview) });
            }
            // The backends are found only in a running process.
            Err(Unavailable::NoneUp) if is_alone && pool.spec().has_sources() => {
                self.report.pick = Some(PickReport::unknown());
            }
            Err(Unavailable::NoneUp) => return Err(CloseReason::NoBackend),
            Err(Unavailable::Full) => match pool.wait_length() {
                length if pool.waiting() < length => {
                    self.report.pick =
                        Some(PickReport { queued: true, paused: pool.is_paused(), ..PickReport::unknown() });
                }
                _ => return Err(CloseReason::QueueFull),
            },
        }
        Ok(())
    }

    /// Describes the first bytes to the backend.
    pub(super) fn describe_first_bytes(
        &mut self,
        plan: &DialPlan,
        server_name: Option<&ServerName>,
        message: Option<&[u8]>,
    ) {
        let announce = plan.served.pool.spec().proxy_protocol.as_ref();
        let tlvs = announce.filter(|announce| announce.version == HeaderVersion::V2).map(|announce| {
            // The value of the identifier is not known before the accept.
            let unique_id = announce.unique_id.then_some(&b""[..]);
            let tlvs = HeaderFacts { came: None, server_name, message, unique_id }.tlvs(announce);
            let mut words: Vec<_> = tlvs.into_iter().map(|(kind, _)| tlv_word(kind)).collect();
            words.extend(announce.crc32c.then(|| "crc32c".to_owned()));
            words
        });
        let greeting = match &self.policy.opening {
            OpeningPolicy::Postgres(postgres) => Some(&postgres.greet.greeting),
            OpeningPolicy::Starttls(greet) => Some(&greet.greeting),
            OpeningPolicy::Straight | OpeningPolicy::Detect(_) => None,
        };
        self.report.sends = Some(SendsReport {
            proxy_protocol: announce.map(|announce| announce.version.word()),
            tlvs: tlvs.unwrap_or_default(),
            greeting: greeting.map(|greeting| match greeting {
                BackendGreeting::Postgres => "postgres",
                BackendGreeting::Starttls { .. } => "starttls",
            }),
            hello_bytes: message.map(<[u8]>::len),
        });
    }

    /// Describes the bounds of the connection.
    pub(super) fn describe_bounds(&mut self, plan: &DialPlan) {
        let spec = plan.served.pool.spec();
        let hello = self.policy.protocol.first_bytes();
        self.report.bounds = Some(BoundsReport {
            attempts: plan.attempts,
            connect_timeout_seconds: seconds(spec.dial.connect_timeout),
            dial_timeout_seconds: seconds(spec.dial.dial_timeout),
            queue_length: spec.queue.map(|queue| queue.length),
            queue_timeout_seconds: spec.queue.map(|queue| seconds(queue.timeout)),
            idle_timeout_seconds: seconds(plan.relay.listener.idle_timeout),
            half_closed_timeout_seconds: seconds(plan.relay.listener.half_closed_timeout),
            first_byte_timeout_seconds: hello.map(|hello| seconds(hello.first_byte_timeout)),
            hello_timeout_seconds: hello.map(|hello| seconds(hello.hello_timeout)),
        });
    }
}

fn describe_pool(pool: &Pool, source: Option<SocketAddr>) -> PoolReport {
    let spec = pool.spec();
    let digest = pool.digest().map(|digest| format!("{digest:016x}"));
    let hash_on =
        if digest.is_some() { spec.hash_on.iter().map(|part| part.word()).collect() } else { Vec::new() };
    PoolReport {
        name: spec.name.to_string(),
        balance: spec.algorithm.word(),
        hash_on,
        slots: None,
        digest,
        available: pool.available(),
        backends: pool.backends().len(),
        panic: pool.is_in_panic(),
        near: pool.places().map(|places| describe_near(pool, &places.source().sites, source)),
    }
}

/// Describes the order of zones for a client.
fn describe_near(pool: &Pool, sites: &Sites, source: Option<SocketAddr>) -> NearReport {
    let zones = pool.zones_of(source);
    let by = match (&zones, source, sites) {
        (None, None, _) => "no_address",
        (None, Some(_), _) => "unknown",
        (Some(_), _, Sites::At(_)) => "distance",
        (Some(_), _, Sites::For(_)) => "country",
    };
    NearReport { by, zones: zones.unwrap_or_default().iter().map(|zone| zone.to_string()).collect() }
}

/// Returns the host to which a client is forwarded, with its port.
fn forwarded(forward: &Forward, plan: &DialPlan, name: Option<&ServerName>) -> Result<String, CloseReason> {
    let requested = plan.request.as_ref().map(|request| &request.target);
    let target = forward.target(name, requested).map_err(hosts::reason)?;
    match forward.preview(&target) {
        Err(fault) if forward.spec().rules.mode == RuleMode::Enforce => Err(hosts::reason(fault)),
        _ => Ok(target.to_string()),
    }
}

impl PickReport {
    /// Returns the report of a backend that is not known.
    fn unknown() -> Self {
        Self {
            certain: false,
            ordered: false,
            backend: None,
            slot: None,
            owner: None,
            next: Vec::new(),
            queued: false,
            paused: false,
            host: None,
        }
    }

    fn of(preview: PickPreview) -> Self {
        let mut backends = preview.picks.iter().map(|pick| BackendReport::of(&pick.backend));
        let backend = backends.next();
        let slot = preview.picks.first().and_then(|pick| pick.slot.as_ref());
        let owner =
            slot.map(|slot| BackendReport::of(&slot.owner)).filter(|owner| Some(owner) != backend.as_ref());
        Self {
            certain: preview.is_certain,
            backend,
            slot: slot.map(|slot| slot.position),
            owner,
            next: backends.collect(),
            ..Self::unknown()
        }
    }
}

impl BackendReport {
    fn of(backend: &Backend) -> Self {
        Self {
            name: backend.name().to_string(),
            address: backend.address().to_string(),
            state: backend.health().state().word(),
            active: backend.active(),
        }
    }
}

/// Returns the word for a kind of TLV: its name in the configuration, or its number.
fn tlv_word(kind: u8) -> String {
    match kind {
        Tlv::ALPN => "alpn".to_owned(),
        Tlv::AUTHORITY => "authority".to_owned(),
        Tlv::UNIQUE_ID => "unique-id".to_owned(),
        Tlv::SSL => "ssl".to_owned(),
        Tlv::NETNS => "netns".to_owned(),
        kind => format!("0x{kind:02X}"),
    }
}
