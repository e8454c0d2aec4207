//! What the admin listener counts.

use super::families::MetricKind::Counter;
use super::families::{MetricDoc, doc};

pub(crate) const ADMIN_REFUSED: MetricDoc = doc(
    "pointsman_admin_requests_refused_total",
    Counter,
    &["reason"],
    "Requests that the admin listener refused, by reason: host, cross_site, token, content_type; \
     busy, too_large and timeout are connections over a bound.",
);

/// Why the admin listener refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdminRefusal {
    /// The header Host has a name that is none of this listener's.
    Host,
    /// A web page of another site sent it.
    CrossSite,
    /// It has no token where one is needed, or a wrong one.
    Token,
    /// It changes something, and its content is of a kind that web pages can send.
    ContentType,
    /// There are as many connections as may be at once.
    Busy,
    /// It is longer than may be.
    TooLarge,
    /// It, or the taking of its answer, took longer than may be.
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

    /// The value of the label `reason`.
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
