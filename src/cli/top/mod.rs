//! `pointsman top`: a view of a running pointsman in the terminal.
//!
//! The state changes by events alone, and a frame is a function of the state. A thread of its own sends the requests, one
//! after the other. All text is cleaned where it is drawn, because names may come from clients.

mod actions;
mod canvas;
mod charts;
mod clean;
mod client;
mod details;
mod draw;
mod event;
mod filter;
mod help;
mod keys;
mod layout;
mod looks;
mod once;
mod request;
mod rounds;
mod state;
mod table;
mod tables;
mod terminal;
#[cfg(test)]
mod tests;
mod values;
mod verdict;
mod view_lists;
mod view_pools;

use std::env;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use super::top_args::TopArgs;
use super::{FAILED, FAULTY, answer, complain};
use crate::admin::AdminTarget;
use client::TopClient;
use event::{TopEvent, update};
use looks::Looks;
use request::TopPage;
use state::{Reach, TopState, TopView};
use terminal::{TerminalEvent, TopTerminal};

/// The longest wait for a key: an answer of the server is shown after this time at the latest.
const WAIT: Duration = Duration::from_millis(100);

/// Shows the view, or prints one frame.
pub(super) fn run(args: &TopArgs) -> ExitCode {
    let target = match args.admin.at() {
        Ok(target) => target,
        Err(code) => return code,
    };
    let looks = Looks::of_environment();
    let mut state = TopState::new(target.address.to_string(), args.interval, looks, SystemTime::now());
    if let Some(view) = TopView::ALL.into_iter().find(|view| args.view.as_deref() == Some(view.word())) {
        state.view = view;
    }
    if args.once {
        return print_once(&mut state, &target);
    }
    if !io::stdout().is_terminal() {
        complain("standard output is no terminal; --once prints one frame as text");
        return ExitCode::from(FAULTY);
    }
    match show(state, target) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(signal)) => {
            terminal::end_by(signal);
            ExitCode::from(FAILED)
        }
        Err(error) => {
            complain(&format!("the view has ended: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Shows the view until the operator or a signal ends it. Returns the signal.
fn show(mut state: TopState, target: AdminTarget) -> io::Result<Option<i32>> {
    let client = TopClient::start(target)?;
    let mut terminal = TopTerminal::open()?;
    state.size = terminal.size();
    let mut due = Instant::now();
    let mut is_changed = true;
    while !state.has_ended && terminal.end().is_none() {
        let apply = |event, state: &mut TopState| {
            if let Some(request) = update(state, event, SystemTime::now()) {
                client.send(request);
            }
        };
        if Instant::now() >= due {
            apply(TopEvent::Due, &mut state);
            due = Instant::now() + state.interval;
            is_changed = true;
        }
        if is_changed {
            terminal.draw(&state)?;
        }
        let events = terminal.events(WAIT.min(due.saturating_duration_since(Instant::now())))?;
        is_changed = !events.is_empty();
        for event in events {
            match event {
                TerminalEvent::Top(event) => apply(event, &mut state),
                TerminalEvent::Redraw => terminal.redraw()?,
                TerminalEvent::Suspend => terminal.suspend()?,
            }
        }
        if let Some(answer) = client.answer()? {
            apply(TopEvent::Answer(answer), &mut state);
            is_changed = true;
        }
    }
    Ok(terminal.end())
}

/// Makes one round of requests and prints the frame.
fn print_once(state: &mut TopState, target: &AdminTarget) -> ExitCode {
    state.has_keys = false;
    let mut request = update(state, TopEvent::Due, SystemTime::now());
    while let Some(sent) = request {
        let answered = client::answer(target, sent);
        request = update(state, TopEvent::Answer(answered), SystemTime::now());
    }
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let printed = answer(&once::frame(state, number("COLUMNS"), number("LINES")));
    let is_reached =
        matches!(state.reach, Reach::Answered(_)) && state.pages.refusal(TopPage::Status).is_none();
    if is_reached { printed } else { ExitCode::from(FAILED) }
}

/// Returns the words of the tables, for the test of the arguments.
#[cfg(test)]
pub(super) fn view_words() -> [&'static str; TopView::ALL.len()] {
    TopView::ALL.map(TopView::word)
}
