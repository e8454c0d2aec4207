//! The path /api/v1/access: the right of a client to change something, without a change.

use serde::Serialize;

use super::json;

/// The path.
pub(super) const PATH: &str = "/api/v1/access";

/// The right of a request to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangeRight {
    /// A change is admitted.
    Allowed,
    /// A change needs the token.
    NeedsToken,
    /// No token is configured, and a change needs a Unix socket.
    NeedsSocket,
}

/// The answer. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct AccessPage {
    may_change: bool,
    /// `token` or `unix_socket`; null if changes are allowed.
    needs: Option<&'static str>,
}

/// Returns the whole answer, with a line end.
pub(super) fn json(right: ChangeRight) -> String {
    let needs = match right {
        ChangeRight::Allowed => None,
        ChangeRight::NeedsToken => Some("token"),
        ChangeRight::NeedsSocket => Some("unix_socket"),
    };
    json::page(&AccessPage { may_change: needs.is_none(), needs })
}
