//! Describes the route of a client, and the reasons for which it has no other route.

use std::ptr;
use std::sync::Arc;

use super::report::{OtherRoute, RouteReport, SplitPart};
use crate::conn::route::ChosenTarget;
use crate::route::{ConnectionFacts, NameFit, RouteFinding, RouteId, RouteVerdict};
use crate::snapshot::{Action, Policy, PoolSlot, Protocol, RouteTarget};
use crate::wire::ServerName;

/// The most other routes whose names fit that are shown: more than a person reads.
const MOST_FITTING: usize = 20;

/// The most other routes with another name that are shown. A listener may have a million.
const MOST_NAMED: usize = 5;

/// Describes the route of a client with these facts. `chosen` is the decision; `None` if it is a refusal.
pub(super) fn describe(
    policy: &Policy,
    name: Option<&ServerName>,
    facts: &ConnectionFacts<'_>,
    chosen: Option<&ChosenTarget<'_>>,
) -> RouteReport {
    let routes = policy.protocol.routes();
    let findings = routes.table.verdicts(name, facts);
    let target = match chosen {
        Some(ChosenTarget::Route(target)) => Some(*target),
        Some(ChosenTarget::Pool(_)) | None => None,
    };
    // The decision names its target, so the position is found by identity.
    let index = target.and_then(|target| routes.targets.iter().position(|one| ptr::eq(one, target)));
    let by = match (index, &policy.protocol, name) {
        (Some(index), ..) => fit(&findings, index),
        (None, Protocol::Tcp(_) | Protocol::Tunnel(_), _) => "pool",
        (None, Protocol::Tls(_), None) => "no_sni",
        (None, Protocol::Tls(_), Some(_)) => "unmatched",
    };
    let others = others(&routes.targets, &findings, index);
    let shown = others.len() + usize::from(index.is_some());
    RouteReport {
        route: target.map(|target| target.route.to_string()),
        index,
        by,
        action: chosen.map(action_word),
        split: target.map_or_else(Vec::new, split_parts),
        others,
        more: routes.targets.len() - shown,
    }
}

fn fit(findings: &[RouteFinding], index: usize) -> &'static str {
    let finding = findings.iter().find(|finding| finding.route.0 as usize == index);
    match finding.map(|finding| finding.name) {
        Some(NameFit::Exact) => "exact",
        Some(NameFit::Child) => "child",
        Some(NameFit::Below) => "below",
        Some(NameFit::Regex) => "regex",
        Some(NameFit::Any) | None => "any",
    }
}

fn action_word(chosen: &ChosenTarget<'_>) -> &'static str {
    match chosen {
        ChosenTarget::Pool(_) => "pool",
        ChosenTarget::Route(target) => match target.action {
            Action::Pool(_) => "pool",
            Action::Split(_) => "split",
            Action::Reject => "reject",
            Action::Drop => "drop",
        },
    }
}

fn split_parts(target: &RouteTarget) -> Vec<SplitPart> {
    let Action::Split(split) = &target.action else { return Vec::new() };
    let (split, slots) = &**split;
    let total = split.weights().sum::<u64>().max(1) as f64;
    let part = |(slot, weight): (&Arc<PoolSlot>, u64)| SplitPart {
        pool: slot.served().pool.spec().name.to_string(),
        share: weight as f64 / total,
    };
    slots.iter().zip(split.weights()).map(part).collect()
}

/// Returns the other routes: those whose names fit, in the order of the lookup, then the first ones of the rest.
fn others(targets: &[RouteTarget], findings: &[RouteFinding], chosen: Option<usize>) -> Vec<OtherRoute> {
    let other = |index: usize, reason, unmet| OtherRoute {
        route: targets[index].route.to_string(),
        index,
        reason,
        unmet,
    };
    let fitting = findings.iter().filter(|finding| Some(finding.route.0 as usize) != chosen);
    let fitting = fitting.take(MOST_FITTING).map(|finding| {
        let index = finding.route.0 as usize;
        match &finding.verdict {
            RouteVerdict::Unmet(unmet) => other(index, "conditions", unmet.clone()),
            RouteVerdict::WiderName => other(index, "wider_name", Vec::new()),
            RouteVerdict::WiderConditions | RouteVerdict::Chosen => {
                other(index, "wider_conditions", Vec::new())
            }
        }
    });
    let is_named = |index: &usize| !findings.iter().any(|finding| finding.route == RouteId(*index as u32));
    let named = (0..targets.len()).filter(is_named).take(MOST_NAMED);
    fitting.chain(named.map(|index| other(index, "name", Vec::new()))).collect()
}
