//! The thread that sends the requests of the view, so that a slow server never delays a key.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use super::request::{TopAnswer, TopReply, TopRequest};
use crate::admin::{self, AdminTarget};

/// The time that a request may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The requests under way. The view makes the next request after the answer to the last one.
const UNDER_WAY: usize = 1;

/// The thread of the requests. It ends with the view.
pub(super) struct TopClient {
    requests: SyncSender<TopRequest>,
    answers: Receiver<TopAnswer>,
}

impl TopClient {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// That of the start.
    pub(super) fn start(target: AdminTarget) -> io::Result<Self> {
        let (requests, waiting) = sync_channel(UNDER_WAY);
        let (done, answers) = sync_channel(UNDER_WAY);
        thread::Builder::new()
            .name("admin-requests".to_owned())
            .spawn(move || answer_all(&target, &waiting, &done))?;
        Ok(Self { requests, answers })
    }

    /// Sends a request. The view has no other request under way, so this does not wait.
    pub(super) fn send(&self, request: TopRequest) {
        // A thread that has ended is found by `answer`.
        let _ = self.requests.send(request);
    }

    /// Returns the next answer, if there is one.
    ///
    /// # Errors
    ///
    /// If the thread has ended, which it does by a panic alone.
    pub(super) fn answer(&self) -> io::Result<Option<TopAnswer>> {
        match self.answers.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the thread of the requests has ended")),
        }
    }
}

fn answer_all(target: &AdminTarget, requests: &Receiver<TopRequest>, done: &SyncSender<TopAnswer>) {
    while let Ok(request) = requests.recv() {
        if done.send(answer(target, request)).is_err() {
            return;
        }
    }
}

/// Sends one request and waits for its answer.
pub(super) fn answer(target: &AdminTarget, request: TopRequest) -> TopAnswer {
    let answered = match &request {
        TopRequest::Page(_, path) => admin::ask(target.clone(), path, TIMEOUT),
        TopRequest::Change(change) => admin::change(target.clone(), change.method, &change.path, TIMEOUT),
    };
    let reply = match answered {
        Ok((200, page)) => TopReply::Json(serde_json::from_str(&page).unwrap_or_default()),
        Ok((code, text)) => TopReply::Refused(code, text),
        Err(error) => TopReply::Unanswered(error.to_string()),
    };
    TopAnswer { request, reply }
}
