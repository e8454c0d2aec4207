//! The terminal: raw mode, the second screen, the bytes of keys, signals. Whatever ends the view, the terminal is restored.

use std::io::{self, Read as _, Stdout, stdin, stdout};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::{flag, low_level};

use super::draw;
use super::event::TopEvent;
use super::input::TerminalEvent;
use super::state::TopState;

/// The bytes of one read. A key has a few.
const CHUNK: usize = 1024;

/// True while the view uses the terminal. The handler of panics reads it too, and a panic has no access to the view.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// The terminal while the view uses it. It is restored when this is dropped, and by a panic.
pub(super) struct TopTerminal {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    signals: TopSignals,
    _restored: RestoredAtEnd,
}

impl TopTerminal {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// Those of the terminal. It is restored then.
    pub(super) fn open() -> io::Result<Self> {
        let signals = TopSignals::catch()?;
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
        let restored = RestoredAtEnd;
        enter()?;
        Ok(Self { terminal: empty(size()?)?, signals, _restored: restored })
    }

    /// Returns the columns and lines of the screen.
    pub(super) fn size(&mut self) -> (u16, u16) {
        let area = self.terminal.get_frame().area();
        (area.width, area.height)
    }

    /// Draws a frame.
    ///
    /// # Errors
    ///
    /// Those of the terminal.
    pub(super) fn draw(&mut self, state: &TopState) -> io::Result<()> {
        self.terminal.draw(|frame| draw::draw(state, frame.buffer_mut())).map(|_| ())
    }

    /// Draws all cells with the next frame.
    ///
    /// # Errors
    ///
    /// Those of the terminal.
    pub(super) fn redraw(&mut self) -> io::Result<()> {
        self.terminal = empty(size()?)?;
        Ok(())
    }

    /// Returns the events of signals that came.
    ///
    /// # Errors
    ///
    /// Those of the terminal.
    pub(super) fn events(&mut self) -> io::Result<Vec<TerminalEvent>> {
        let mut events = Vec::new();
        if TopSignals::take(&self.signals.resized) {
            self.redraw()?;
            let (columns, lines) = self.size();
            events.push(TerminalEvent::Top(TopEvent::Resized(columns, lines)));
        }
        if TopSignals::take(&self.signals.suspend) {
            events.push(TerminalEvent::Suspend);
        }
        if TopSignals::take(&self.signals.continued) {
            events.push(TerminalEvent::Redraw);
        }
        Ok(events)
    }

    /// Returns the signal that ends the view, if one came.
    pub(super) fn end(&self) -> Option<i32> {
        self.signals.end()
    }

    /// Restores the terminal, stops the process as the shell expects, and takes the terminal when the process continues.
    ///
    /// # Errors
    ///
    /// Those of the terminal.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        restore();
        low_level::emulate_default_handler(SIGTSTP)?;
        enter()?;
        self.redraw()
    }
}

/// Starts the thread that reads the keys. It sends their bytes, and an error as the last piece: the terminal is gone then. The
/// thread ends with the process.
///
/// # Errors
///
/// That of the start.
pub(super) fn read_keys<T: Send + 'static>(
    to: SyncSender<T>,
    wrap: fn(io::Result<Vec<u8>>) -> T,
) -> io::Result<()> {
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        let mut chunk = [0; CHUNK];
        loop {
            let piece = match stdin().read(&mut chunk) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => Ok(chunk[..count].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if to.send(wrap(piece)).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(())
}

/// Clears the screen. Returns it with an area of its own: with an area that follows the screen, the library asks the
/// terminal for the place of the cursor, and fails if there is no answer.
fn empty((columns, lines): (u16, u16)) -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    execute!(stdout(), Clear(ClearType::All))?;
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns, lines));
    Terminal::with_options(CrosstermBackend::new(stdout()), TerminalOptions { viewport })
}

/// Ends the process by a signal that came, so that its parent sees the signal. The terminal must be restored.
pub(super) fn end_by(signal: i32) {
    // It returns for signals that do not end a process, and those are not caught.
    let _ = low_level::emulate_default_handler(signal);
}

/// Restores the terminal when it is dropped.
struct RestoredAtEnd;

impl Drop for RestoredAtEnd {
    fn drop(&mut self) {
        restore();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    IS_ENTERED.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide)
}

/// Restores the terminal, once for each time that it was taken.
fn restore() {
    if IS_ENTERED.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing, and no output is left to report a fault.
        let _ = execute!(stdout(), Show, DisableBracketedPaste, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// The signals that came.
struct TopSignals {
    /// The last signal that ends the view; 0 if there was none.
    end: Arc<AtomicUsize>,
    suspend: Arc<AtomicBool>,
    /// The process was stopped and goes on: another program may have written to the screen.
    continued: Arc<AtomicBool>,
    /// The screen has another size.
    resized: Arc<AtomicBool>,
}

impl TopSignals {
    fn catch() -> io::Result<Self> {
        let signals = Self {
            end: Arc::default(),
            suspend: Arc::default(),
            continued: Arc::default(),
            resized: Arc::default(),
        };
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGQUIT] {
            let number = usize::try_from(signal).map_err(io::Error::other)?;
            flag::register_usize(signal, Arc::clone(&signals.end), number)?;
        }
        flag::register(SIGTSTP, Arc::clone(&signals.suspend))?;
        flag::register(SIGCONT, Arc::clone(&signals.continued))?;
        flag::register(SIGWINCH, Arc::clone(&signals.resized))?;
        Ok(signals)
    }

    fn end(&self) -> Option<i32> {
        i32::try_from(self.end.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
    }

    /// Returns true if a signal came since the last call.
    fn take(signal: &AtomicBool) -> bool {
        signal.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::{Command, Stdio};

    use super::*;

    /// The name of the next test, as the test program has it.
    const PART: &str = "cli::top::terminal::tests::a_view_that_panics";

    #[test]
    #[ignore = "the test below runs it in a terminal"]
    #[should_panic(expected = "a fault of the view")]
    fn a_view_that_panics() {
        let _terminal = TopTerminal::open();
        panic!("a fault of the view");
    }

    #[test]
    fn a_panic_restores_the_terminal_before_its_message() {
        let own = env::current_exe().unwrap();
        let part = format!("'{}' --exact {PART} --ignored --nocapture", own.display());
        let script = format!("stty -g; {part}; echo; stty -g");
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &script, "/dev/null"]).stdin(Stdio::null());
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let at = |part: &str| output.find(part).unwrap_or_else(|| panic!("no {part:?} in {output:?}"));
        assert!(at("\u{1b}[?1049h") < at("\u{1b}[?1049l"), "{output:?}");
        assert!(at("\u{1b}[?1049l") < at("a fault of the view"), "{output:?}");
        assert_eq!(output.matches("\u{1b}[?1049l").count(), 1, "{output:?}");
        let is_of_modes = |c: char| c == ':' || c.is_ascii_hexdigit();
        let modes: Vec<_> =
            output.lines().filter(|line| line.contains(':') && line.chars().all(is_of_modes)).collect();
        assert!(modes.len() == 2 && modes[0] == modes[1], "{output:?}");
    }
}
