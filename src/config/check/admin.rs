//! The admin listener: where it is, and who may ask.

use super::super::code::Code;
use super::super::fault::{Diagnostic, Span};
use super::super::file::{Admin, File};
use super::super::findings::Findings;
use super::super::{AdminSpec, TokenFor};
use super::Binds;

pub(super) fn admin(file: &File, binds: &mut Binds, found: &mut Findings<'_>) -> Option<AdminSpec> {
    let words = file.admin.value()?;
    let listen = words.listen.entry()?;
    binds.add(std::slice::from_ref(&listen.value.0), listen.at, "admin.listen", found);
    let mut spec = AdminSpec::new(listen.value.0.clone());
    if let Some(mode) = words.mode.value() {
        spec.mode = mode.0;
    }
    spec.token_file = words.token_file.value().map(|path| path.0.clone());
    if let Some(choice) = words.token_for.value() {
        spec.token_for = choice.0;
    }
    spec.open_metrics = words.open_metrics.value().copied().unwrap_or_default();
    if let Some(hosts) = words.hosts.value() {
        let lower = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        spec.hosts = hosts.0.items.iter().map(|item| lower(&item.value.0)).collect();
    }
    if !spec.is_local() {
        check_open(&spec, words, listen.at, found);
    }
    warn_of_idle(&spec, words, found);
    Some(spec)
}

/// Whoever reaches the address may ask, so it must be known who.
fn check_open(spec: &AdminSpec, words: &Admin, at: Span, found: &mut Findings<'_>) {
    if words.token_file.is_absent() && !spec.open_metrics {
        let message = "the admin listener may be reached from other machines, and asks nobody for a token";
        found.add(
            Diagnostic::new(Code::OpenAdmin, "admin.listen", message).label(at, "not a loopback address").help(
                "use \"127.0.0.1\" or a Unix socket; or write token_file = \"/etc/pointsman/token\"; or \
                 open_metrics = true, if all may read /metrics, /healthz and /ready, and nobody anything else",
            ),
        );
    }
    if let (TokenFor::Changes, Some(choice)) = (spec.token_for, words.token_for.place()) {
        let message = "the admin listener may be read from other machines without a token";
        found.add(
            Diagnostic::new(Code::OpenAdmin, "admin.token_for", message)
                .label(choice, "only for a loopback address or a Unix socket")
                .help("write open_metrics = true, if all may read /metrics, /healthz and /ready"),
        );
    }
}

fn warn_of_idle(spec: &AdminSpec, words: &Admin, found: &mut Findings<'_>) {
    let is_unix = spec.listen.tcp().is_none();
    let no_token = words.token_file.is_absent();
    let idle = [
        ("mode", words.mode.place(), !is_unix, "it is for Unix sockets"),
        ("token_for", words.token_for.place(), no_token, "there is no token_file"),
        // What other machines may ask without a token, this decides even where there is none.
        ("open_metrics", words.open_metrics.place(), no_token && spec.is_local(), "there is no token_file"),
    ];
    for (key, place, is_idle, why) in idle {
        if let Some(place) = place.filter(|_| is_idle) {
            let message = format!("`{key}` of the admin listener has no effect");
            let warning = Diagnostic::new(Code::IdleSetting, format!("admin.{key}"), message);
            found.add(warning.label(place, why));
        }
    }
}
