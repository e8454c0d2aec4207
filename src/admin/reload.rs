//! The page /api/v1/reload: reads the configuration file again.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::guard::RequestOrigin;
use super::json;
use super::query::{self, QueryFault};
use crate::server::{ReloadFault, ReloadRules, View};

/// The time that a request waits for the end of the reload. A request has 10 s in all.
const PATIENCE: Duration = Duration::from_secs(8);

/// The reason for which a request is refused, or for which the running configuration stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadRefusal {
    /// The query has other parameters.
    #[error("the query of a reload takes: max_moved (such as 5%) and reset (true or false)")]
    Query,
    /// The query has a broken escape.
    #[error(
        "in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8: write 5%25 for 5%"
    )]
    Escape,
    /// The text is no percentage.
    #[error("`max_moved` must be a percentage from 0% to 100%, such as 5%")]
    Share,
    /// The running configuration stays.
    #[error("not reloaded: {0}")]
    Fault(#[from] ReloadFault),
}

/// The page of a reload that was requested.
pub(super) enum ReloadPage {
    /// The reload is in force.
    Done(String),
    /// The reload goes on.
    Running(String),
}

/// The result of a reload.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ReloadResult {
    /// `ok`, or `running` if the reload goes on: the status has its result later.
    result: &'static str,
    changes: Option<String>,
}

/// Reloads the file. The query may have `max_moved` and `reset`.
pub(super) async fn reload(
    view: &View,
    query: Option<&str>,
    by: RequestOrigin,
) -> Result<ReloadPage, ReloadRefusal> {
    let [max_moved, reset] = query::values(query, ["max_moved", "reset"]).map_err(|fault| match fault {
        QueryFault::Other => ReloadRefusal::Query,
        QueryFault::Escape => ReloadRefusal::Escape,
    })?;
    let max_moved = max_moved.as_deref().map(|text| share(text).ok_or(ReloadRefusal::Share)).transpose()?;
    let resets = query::truth(reset.as_deref()).ok_or(ReloadRefusal::Query)?;
    tracing::info!(%by, ?max_moved, reset = resets, "a reload was requested");
    let reset_by = resets.then(|| by.to_string().into());
    let result = match timeout(PATIENCE, view.reload_file(ReloadRules { max_moved, reset_by })).await {
        Ok(changes) => ReloadResult { result: "ok", changes: Some(changes?.to_string()) },
        Err(_) => ReloadResult { result: "running", changes: None },
    };
    let text = json::page(&result);
    Ok(if result.changes.is_some() { ReloadPage::Done(text) } else { ReloadPage::Running(text) })
}

/// Reads a percentage as a share from 0 to 1.
pub(super) fn share(text: &str) -> Option<f64> {
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim();
    let percent: f64 = number.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_a_share() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(share(text), expected, "{text}");
        check("5%", Some(0.05));
        check("0", Some(0.0));
        check("12.5 %", Some(0.125));
        check("100%", Some(1.0));
        check("101%", None);
        check("-1%", None);
        check("NaN", None);
        check("x", None);
    }
}
