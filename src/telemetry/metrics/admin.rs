//! The metrics of the admin listener.

use super::families::MetricKind::Counter;
use super::families::{MetricDoc, doc};

pub(crate) const ADMIN_REFUSED: MetricDoc = doc(
    "pointsman_admin_requests_refused_total",
    Counter,
    &["reason"],
    "Requests that the admin listener refused, by reason: host, cross_site, token, content_type, busy, too_large, \
     timeout. The reasons busy, too_large and timeout are about connections over a limit.",
);

/// The reason for which the admin listener refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdminRefusal {
    /// The name in the header Host is not one of this listener's.
    Host,
    /// A web page of another site sent the request.
    CrossSite,
    /// The request has no token where one is required, or a wrong one.
    Token,
    /// The request is a change, and its content is of a kind that web pages can send.
    ContentType,
    /// The admin listener is at its limit of connections.
    Busy,
    /// The request is longer than allowed.
    TooLarge,
    /// The request, or the reading of its answer, took longer than allowed.
    Timeout,
}

impl AdminRefusal {
    /// Every reason, in the order of the declaration.
    pub const ALL: [Self; 7] = [
        Self::Host,
        Self::CrossSite,
        Self::Token,
        Self::ContentType,
        Self::Busy,
        Self::TooLarge,
        Self::Timeout,
    ];

    /// Returns the value of the label `reason`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::CrossSite => "cross_site",
            Self::Token => "token",
            Self::ContentType => "content_type",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
        }
    }
}
