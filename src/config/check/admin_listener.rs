//! Checks the admin listener: its addresses, and the rules for requests.

use super::super::code::Code;
use super::super::fault::{Diagnostic, Span};
use super::super::file::{Admin, File};
use super::super::findings::Findings;
use super::super::{AdminSpec, TokenFor};
use super::Binds;
use crate::sys::Address;

pub(super) fn admin(file: &File, binds: &mut Binds, found: &mut Findings<'_>) -> Vec<AdminSpec> {
    let Some(words) = file.admin.value() else { return Vec::new() };
    let Some(listen) = words.listen.value() else { return Vec::new() };
    let mut specs = Vec::with_capacity(listen.0.items.len());
    for item in &listen.0.items {
        binds.add(std::slice::from_ref(&item.value.0), item.at, "admin.listen", found);
        let spec = of_address(item.value.0.clone(), words);
        if !spec.is_local() {
            check_open(&spec, words, item.at, found);
        }
        specs.push(spec);
    }
    if listen.0.complete {
        warn_of_idle(&specs, words, found);
    }
    specs
}

/// Returns the spec of the admin listener for one of its addresses.
fn of_address(address: Address, words: &Admin) -> AdminSpec {
    let mut spec = AdminSpec::new(address);
    if let Some(mode) = words.mode.value() {
        spec.mode = mode.0;
    }
    spec.token_file = words.token_file.value().map(|path| path.0.clone());
    if let Some(choice) = words.token_for.value() {
        spec.token_for = choice.0;
    }
    spec.open_changes = words.open_changes.value().copied().unwrap_or_default();
    spec.open_metrics = words.open_metrics.value().copied().unwrap_or_default();
    if let Some(hosts) = words.hosts.value() {
        let lower = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        spec.hosts = hosts.0.items.iter().map(|item| lower(&item.value.0)).collect();
    }
    spec
}

/// Adds a fault if other machines can send requests without a token, and no key allows this.
fn check_open(spec: &AdminSpec, words: &Admin, at: Span, found: &mut Findings<'_>) {
    if words.token_file.is_absent() && !spec.open_metrics {
        let message = "other machines may reach the admin listener, and it requires no token";
        found.add(
            Diagnostic::new(Code::OpenAdmin, "admin.listen", message).label(at, "not a loopback address").help(
                "use \"127.0.0.1\" or a Unix socket; or write token_file = \"/etc/pointsman/token\"; or \
                 write open_metrics = true, which allows all to read /metrics, /healthz and /ready, and nothing else",
            ),
        );
    }
    if let (TokenFor::Changes, Some(choice)) = (spec.token_for, words.token_for.place()) {
        let message = "other machines may read the admin listener without a token";
        found.add(
            Diagnostic::new(Code::OpenAdmin, "admin.token_for", message)
                .label(choice, "only for a loopback address or a Unix socket")
                .help("write open_metrics = true, which allows all to read /metrics, /healthz and /ready"),
        );
    }
}

fn warn_of_idle(specs: &[AdminSpec], words: &Admin, found: &mut Findings<'_>) {
    let no_token = words.token_file.is_absent();
    let is_unix = specs.iter().all(AdminSpec::is_unix);
    let has_loopback = specs.iter().any(|spec| spec.is_local() && !spec.is_unix());
    let opens = words.open_changes.value() == Some(&true);
    let why_not_open =
        if no_token { "it applies to loopback addresses only" } else { "changes need the token" };
    let idle = [
        (
            "mode",
            words.mode.place(),
            !specs.iter().any(AdminSpec::is_unix),
            "it applies to Unix sockets only",
        ),
        ("open_changes", words.open_changes.place(), opens && (!no_token || !has_loopback), why_not_open),
        ("token_for", words.token_for.place(), no_token, "there is no token_file"),
        // Over TCP it opens these paths to any name in the header Host, even if no token is needed.
        ("open_metrics", words.open_metrics.place(), no_token && is_unix, "there is no token_file"),
    ];
    for (key, place, is_idle, why) in idle {
        if let Some(place) = place.filter(|_| is_idle) {
            let message = format!("`{key}` of the admin listener has no effect");
            let warning = Diagnostic::new(Code::IdleSetting, format!("admin.{key}"), message);
            found.add(warning.label(place, why));
        }
    }
}
