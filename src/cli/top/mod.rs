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
mod input;
mod keys;
mod layout;
mod once;
mod request;
mod rounds;
mod state;
mod style;
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
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::top_args::TopArgs;
use super::{FAILED, FAULTY, answer, complain};
use crate::admin::AdminTarget;
use client::TopClient;
use event::{TopEvent, update};
use input::{KeyReader, TerminalEvent};
use request::{ViewAnswer, ViewPage};
use state::{Reach, TopState, TopView};
use style::TopStyle;
use terminal::TopTerminal;

/// The longest time until a signal has its effect.
const WAIT: Duration = Duration::from_millis(100);

/// The wait after which the start of a sequence is the key Esc.
const UNDECIDED: Duration = Duration::from_millis(40);

/// The keys and answers that wait for the view. Their threads wait if there are more.
const ARRIVALS: usize = 16;

/// Shows the view, or prints one frame.
pub(super) fn run(args: &TopArgs) -> ExitCode {
    let target = match args.admin.at() {
        Ok(target) => target,
        Err(code) => return code,
    };
    let style = TopStyle::of_environment();
    let mut state = TopState::new(target.address.to_string(), args.interval, style, SystemTime::now());
    if let Some(view) = TopView::ALL.into_iter().find(|view| args.view.as_deref() == Some(view.word())) {
        state.view = view;
    }
    if args.once {
        return print_once(&mut state, &target);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        complain("standard input and output are no terminal; --once prints one frame as text");
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
fn show(state: TopState, target: AdminTarget) -> io::Result<Option<i32>> {
    let (sender, arrivals) = sync_channel(ARRIVALS);
    let client = TopClient::start(target, sender.clone(), Arrival::Answer)?;
    let mut terminal = TopTerminal::open()?;
    terminal::read_keys(sender, Arrival::Keys)?;
    let mut shown = Shown { state, client, keys: KeyReader::default(), due: Instant::now() };
    shown.state.size = terminal.size();
    while !shown.state.has_ended && terminal.end().is_none() {
        if Instant::now() >= shown.due {
            shown.due = Instant::now() + shown.state.interval;
            shown.apply(TopEvent::Due)?;
        }
        terminal.draw(&shown.state)?;
        shown.wait(&mut terminal, &arrivals)?;
    }
    Ok(terminal.end())
}

/// The view while it is shown.
struct Shown {
    state: TopState,
    client: TopClient,
    keys: KeyReader,
    /// The time of the next round of requests.
    due: Instant,
}

impl Shown {
    /// Waits until something changes the frame: a key, a signal, an answer, or the next round.
    fn wait(&mut self, terminal: &mut TopTerminal, arrivals: &Receiver<Arrival>) -> io::Result<()> {
        loop {
            let patience = if self.keys.is_undecided() { UNDECIDED } else { WAIT };
            let wait = patience.min(self.due.saturating_duration_since(Instant::now()));
            let mut events = match arrivals.recv_timeout(wait) {
                Ok(arrival) => self.take(arrival)?,
                Err(_) if wait == patience => self.keys.decide(),
                Err(_) => Vec::new(),
            };
            // What has come meanwhile needs no frame of its own.
            for arrival in arrivals.try_iter().take(ARRIVALS) {
                events.extend(self.take(arrival)?);
            }
            events.extend(terminal.events()?);
            let is_due = Instant::now() >= self.due || terminal.end().is_some();
            let is_changed = !events.is_empty();
            for event in events {
                match event {
                    TerminalEvent::Top(event) => self.apply(event)?,
                    TerminalEvent::Redraw => terminal.redraw()?,
                    TerminalEvent::Suspend => terminal.suspend()?,
                }
            }
            if is_changed || is_due || self.state.has_ended {
                return Ok(());
            }
            if !self.client.is_alive() {
                return Err(io::Error::other("the thread of the requests has ended"));
            }
        }
    }

    fn take(&mut self, arrival: Arrival) -> io::Result<Vec<TerminalEvent>> {
        Ok(match arrival {
            Arrival::Keys(bytes) => self.keys.read(&bytes?),
            Arrival::Answer(answer) => vec![TerminalEvent::Top(TopEvent::Answer(answer))],
        })
    }

    fn apply(&mut self, event: TopEvent) -> io::Result<()> {
        match update(&mut self.state, event, SystemTime::now()) {
            Some(request) => self.client.send(request),
            None => Ok(()),
        }
    }
}

/// A thing that another thread sends to the view.
enum Arrival {
    /// The bytes of keys, or the end of the terminal.
    Keys(io::Result<Vec<u8>>),
    Answer(ViewAnswer),
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
        matches!(state.reach, Reach::Answered(_)) && state.pages.refusal(ViewPage::Status).is_none();
    if is_reached { printed } else { ExitCode::from(FAILED) }
}

/// Returns the words of the tables, for the test of the arguments.
#[cfg(test)]
pub(super) fn view_words() -> [&'static str; TopView::ALL.len()] {
    TopView::ALL.map(TopView::word)
}
