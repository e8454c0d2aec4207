//! The requests of the view and their answers.

use serde_json::Value;

/// A page of the server that the view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ViewPage {
    Status,
    History,
    Connections,
    Sources,
    /// The names and sources with the most connections.
    Top,
    /// One connection, of the details.
    Connection,
}

impl ViewPage {
    /// Every page.
    pub(super) const ALL: [Self; 6] =
        [Self::Status, Self::History, Self::Connections, Self::Sources, Self::Top, Self::Connection];

    /// Returns the path of the page without its query.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Status => "/api/v1/status",
            Self::History => "/api/v1/history",
            Self::Connections | Self::Connection => "/api/v1/connections",
            Self::Sources => "/api/v1/sources",
            Self::Top => "/api/v1/top",
        }
    }
}

/// A change that the operator has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopChange {
    pub(super) method: &'static str,
    pub(super) path: String,
    /// The change in words, such as `drain app/b1`.
    pub(super) words: String,
}

/// A request to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ViewRequest {
    /// A page, with its path and query.
    Page(ViewPage, String),
    Change(TopChange),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ViewReply {
    /// The page of a good answer; null if it is no JSON.
    Json(Value),
    /// The status code and the text of a refusal.
    Refused(u16, String),
    /// The reason for which there is no answer.
    Unanswered(String),
}

/// A request with its answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ViewAnswer {
    pub(super) request: ViewRequest,
    pub(super) reply: ViewReply,
}
