//! The thread that sends the requests of the view, so that a slow server never delays a key.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::request::{ViewAnswer, ViewReply, ViewRequest};
use crate::admin::{self, AdminTarget};

/// The time that a request may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The requests under way. The view makes the next request after the answer to the last one.
const UNDER_WAY: usize = 1;

/// The thread of the requests. It ends with the view.
pub(super) struct TopClient {
    requests: SyncSender<ViewRequest>,
    thread: JoinHandle<()>,
}

impl TopClient {
    /// Starts the thread, which sends the answers.
    ///
    /// # Errors
    ///
    /// That of the start.
    pub(super) fn start<T: Send + 'static>(
        target: AdminTarget,
        to: SyncSender<T>,
        wrap: fn(ViewAnswer) -> T,
    ) -> io::Result<Self> {
        let (requests, waiting) = sync_channel(UNDER_WAY);
        let answer_all = move || {
            while let Ok(request) = waiting.recv() {
                if to.send(wrap(answer(&target, request))).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("admin-requests".to_owned()).spawn(answer_all)?;
        Ok(Self { requests, thread })
    }

    /// Sends a request. The view has no other request under way, so this does not wait.
    ///
    /// # Errors
    ///
    /// If the thread has ended, which it does by a panic alone.
    pub(super) fn send(&self, request: ViewRequest) -> io::Result<()> {
        self.requests.send(request).map_err(|_| io::Error::other("the thread of the requests has ended"))
    }

    /// Returns true while the thread can answer.
    pub(super) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// Sends one request and waits for its answer.
pub(super) fn answer(target: &AdminTarget, request: ViewRequest) -> ViewAnswer {
    let answered = match &request {
        ViewRequest::Page(_, path) => admin::ask(target.clone(), path, TIMEOUT),
        ViewRequest::Change(change) => admin::change(target.clone(), change.method, &change.path, TIMEOUT),
    };
    let reply = match answered {
        Ok((200, page)) => ViewReply::Json(serde_json::from_str(&page).unwrap_or_default()),
        Ok((code, text)) => ViewReply::Refused(code, text),
        Err(error) => ViewReply::Unanswered(error.to_string()),
    };
    ViewAnswer { request, reply }
}
