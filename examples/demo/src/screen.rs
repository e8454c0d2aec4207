//! The screen: a line with counts, and the lines that the user types.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::client::Load;

/// The time between two states of the line with counts.
const REDRAW: Duration = Duration::from_millis(100);

/// The terminal, or the file or pipe in its place.
pub(crate) struct Screen {
    /// The lines of standard input, read by a separate thread. Closed at the end of the input.
    typed: Receiver<String>,
    /// True if standard output is a terminal, so that a line can be written again.
    can_redraw: bool,
    /// True if standard input is a terminal, so that a person types.
    has_prompt: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let (send, typed) = mpsc::channel();
        thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        Self {
            typed,
            can_redraw: stdout.is_terminal(),
            has_prompt: stdin.is_terminal() && stdout.is_terminal(),
        }
    }

    /// Waits for the next typed line. Returns `None` at the end of standard input.
    pub(crate) fn command(&self) -> Option<String> {
        if self.has_prompt {
            print!("demo> ");
            let _ = std::io::stdout().flush();
        }
        self.typed.recv().ok()
    }

    /// Counts the requests from now on, until `done` or until a line is typed. The last state stays on the screen.
    pub(crate) fn count(&self, load: &Load, mut done: impl FnMut(Duration) -> bool) {
        let start = load.counts();
        let mut shown_for = Duration::ZERO;
        loop {
            let counts = load.counts().since(start);
            if self.can_redraw {
                // The cursor stays at the left, so that a line of the log replaces this one and does not follow it.
                print!("\r   {counts}\x1b[K\r");
                let _ = std::io::stdout().flush();
            }
            if done(shown_for) {
                println!("   {counts}");
                return;
            }
            if self.typed.recv_timeout(REDRAW) != Err(RecvTimeoutError::Timeout) {
                // The typed line end has left the last state on a terminal.
                if !self.has_prompt {
                    println!("   {counts}");
                }
                return;
            }
            shown_for += REDRAW;
        }
    }
}
