//! Explains what happens to a connection, without a connection: it calls the decisions of the journey and changes nothing.
//!
//! [`explain`] has the steps of `prepare` and of the admission before it. Each step calls the decision that a connection
//! calls: `list_access`, `admission`, the reader of hellos, `route` and the pick of the pool. The steps of this module
//! only describe the results. A step that refuses the connection ends the report.
//!
//! The report is about a client that begins TLS, about a request for a tunnel, or about any client of a listener
//! that reads nothing. It knows no PROXY
//! header. At a listener that reads them, the source is the client that a trusted peer names.

mod notes;
mod report;
mod request;
mod routes;
mod target;

use super::context::ProcessBounds;
use super::hello::HelloStop;
use super::{admission, list_access, route};
use crate::route::ConnectionFacts;
use crate::snapshot::access::AccessDecision;
use crate::snapshot::{Policy, Protocol, TunnelOpening};
use crate::telemetry::CloseReason;
use crate::wire::{ClientHello, HelloReader, Offer, TunnelProtocol, TunnelRequest};
use report::LimitReport;
pub use report::{
    AdmissionReport, BackendReport, BoundsReport, Explanation, OtherRoute, PickReport, PoolReport,
    RefusalReport, RouteReport, SendsReport,
};
pub use request::{ExplainRequest, ExplainedHello, ExplainedSource, SourceTextFault};

/// The state that a report uses.
#[derive(Clone, Copy)]
pub enum ExplainedState<'a> {
    /// The configuration alone: no connection is open, and all backends are up.
    Configuration,
    /// The state of a running process.
    Running(&'a ProcessBounds),
}

/// Explains what happens to a client of a listener.
pub fn explain(request: &ExplainRequest, policy: &Policy, state: ExplainedState<'_>) -> Explanation {
    let mut journey = Journey { request, policy, state, report: begin(request, policy, state) };
    notes::before(&mut journey);
    match journey.go() {
        Ok(()) => journey.report.served = true,
        Err(reason) => journey.report.refused = Some(reason.into()),
    }
    journey.report
}

/// The journey of the client, and the report so far.
struct Journey<'a> {
    request: &'a ExplainRequest,
    policy: &'a Policy,
    state: ExplainedState<'a>,
    report: Explanation,
}

/// The hello as the listener reads it.
struct ReadHello {
    bytes: Vec<u8>,
    hello: ClientHello,
}

fn begin(request: &ExplainRequest, policy: &Policy, state: ExplainedState<'_>) -> Explanation {
    let source = request.source.map(|source| match source.port() {
        0 => source.ip().to_string(),
        _ => source.to_string(),
    });
    Explanation {
        listener: policy.listener.to_string(),
        source,
        destination: request.destination.map(|destination| destination.to_string()),
        server_name: None,
        alpn: Vec::new(),
        ja4: None,
        running: matches!(state, ExplainedState::Running(_)),
        served: false,
        refused: None,
        admission: AdmissionReport::default(),
        route: None,
        pool: None,
        pick: None,
        sends: None,
        bounds: None,
        notes: Vec::new(),
    }
}

impl Journey<'_> {
    /// Takes each step until one refuses the client.
    fn go(&mut self) -> Result<(), CloseReason> {
        self.check_lists()?;
        self.check_limits()?;
        self.report.admission.admitted = true;
        let hello = self.read_hello()?;
        let message = hello.as_ref().map(|read| read.hello.message(&read.bytes));
        let offer = message.as_deref().and_then(Offer::of);
        let source = self.request.source.map(|source| source.ip());
        let facts = ConnectionFacts::new(source, self.request.destination, offer);
        let policy = self.policy;
        let request = self.tunnel_request()?;
        let requested = request.as_ref().and_then(|request| request.target.host.name());
        let name = hello.as_ref().and_then(|read| read.hello.server_name.as_ref()).or(requested);
        let host = request.as_ref().map(|request| request.target.host.to_string());
        self.note_hello(host.or(name.map(ToString::to_string)), &facts);
        let chosen = route::choose_explained(policy, request.as_ref(), name, &facts);
        self.report.route = Some(routes::describe(policy, name, &facts, chosen.as_ref().ok()));
        let served = self.enter_target(chosen?)?;
        let plan = route::explained_plan(served, policy, request.as_ref());
        self.pick(&plan, name)?;
        self.describe_first_bytes(&plan, name, message.as_deref());
        self.describe_bounds(&plan);
        Ok(())
    }

    fn check_lists(&mut self) -> Result<(), CloseReason> {
        let client = self.request.client();
        let admission = &mut self.report.admission;
        if let Some(access) = &self.policy.access {
            let [deny, allow] = access.lists().map(|lists| lists.into_iter().map(ToString::to_string));
            (admission.deny_lists, admission.allow_lists) = (deny.collect(), allow.collect());
            admission.has_allow = access.has_allow();
        }
        let Err(decision) = list_access::preview(&client, self.policy) else { return Ok(()) };
        let (word, list) = match decision {
            AccessDecision::InList(list) => ("list", Some(list.name.to_string())),
            AccessDecision::InNetworks => ("networks", None),
            AccessDecision::NotAllowed => ("not_allowed", None),
        };
        (admission.denied_by, admission.list) = (Some(word), list);
        Err(list_access::refusal(decision.denial()))
    }

    /// Describes the limits that apply at the accept, and checks them with the counts of a running process.
    fn check_limits(&mut self) -> Result<(), CloseReason> {
        let (policy, client) = (self.policy, self.request.client());
        let ExplainedState::Running(bounds) = self.state else {
            let limits = admission_limits(policy, 0);
            self.report.admission.limits.extend(limits.into_iter().filter(LimitReport::is_limit));
            return Ok(());
        };
        let source = policy.admission.as_deref().and_then(|admission| {
            let source = admission::address_source(&client, admission)?;
            Some(u64::from(bounds.sources.open_of(policy.listener_id, source)))
        });
        let process =
            LimitReport::new("process", bounds.connections.inside(), bounds.connections.limit(), None);
        let limits = admission_limits(policy, source.unwrap_or(0)).into_iter().chain([process]);
        self.report.admission.limits.extend(limits.filter(LimitReport::is_limit));
        admission::preview(&client, policy, bounds)
    }

    /// Returns the request for a tunnel; `None` if the listener reads none.
    fn tunnel_request(&self) -> Result<Option<TunnelRequest>, CloseReason> {
        let Protocol::Tunnel(tunnel) = &self.policy.protocol else { return Ok(None) };
        let target = self.request.requested.clone().ok_or(CloseReason::OpeningTruncated)?;
        let protocol = match tunnel.opening {
            TunnelOpening::Socks { .. } => TunnelProtocol::Socks5,
            TunnelOpening::Connect => TunnelProtocol::Connect,
        };
        Ok(Some(TunnelRequest { target, protocol }))
    }

    /// Reads the hello as the listener does; `None` if the listener reads none.
    fn read_hello(&self) -> Result<Option<ReadHello>, CloseReason> {
        let Protocol::Tls(tls) = &self.policy.protocol else { return Ok(None) };
        let bytes = self.request.hello.bytes();
        match HelloReader::new(tls.hello.max_size).read(&bytes) {
            Ok(Some(hello)) => Ok(Some(ReadHello { bytes, hello })),
            Ok(None) => Err(CloseReason::HelloTruncated),
            Err(fault) => Err(HelloStop::Fault(fault).reason()),
        }
    }

    fn note_hello(&mut self, name: Option<String>, facts: &ConnectionFacts<'_>) {
        self.report.server_name = name;
        let offered = facts.offer.iter().flat_map(Offer::alpn);
        self.report.alpn = offered.map(|protocol| protocol.escape_ascii().to_string()).collect();
        let ja4 = facts.ja4().filter(|_| !self.request.hello.is_made());
        self.report.ja4 = ja4.map(|ja4| ja4.as_str().to_owned());
    }
}

/// Returns the limits of a source, of which `open` connections are open, and of the listener.
fn admission_limits(policy: &Policy, open: u64) -> Vec<LimitReport> {
    let mut limits = Vec::new();
    if let Some(of_source) = policy.admission.as_deref().and_then(|admission| admission.spec.per_source) {
        let most = of_source.connections.map_or(u64::MAX, u64::from);
        let hellos = of_source.hellos.map(u64::from);
        limits.push(LimitReport { hellos, ..LimitReport::new("source", open, most, of_source.rate) });
    }
    let rate = policy.admission.as_deref().and_then(|admission| admission.rate.rate());
    limits.push(LimitReport::new("listener", policy.gate.inside(), policy.gate.limit(), rate));
    limits
}
