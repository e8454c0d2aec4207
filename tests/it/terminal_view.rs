//! The view in the terminal: one frame as text, and the whole program in a pseudo-terminal.

#![cfg(feature = "top")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pointsman::config::AdminSpec;

use crate::process::{command, run};
use crate::support::hello::hello;
use crate::support::pair::connect_from;
use crate::support::{Backend, Proxy, config, find_in_time, wait_for};

/// The size of the pseudo-terminal.
const COLUMNS: usize = 100;
const LINES: usize = 24;

/// The sequences by which a program takes the second screen and leaves it.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// Starts a server with two backends of the pool `app`, whose checks are off, and an admin listener.
fn start(may_change: bool) -> (Proxy, SocketAddr) {
    let backend = Backend::echo().address;
    let text = format!(
        "workers = 2\naccess_log.to = 'off'\n[listener.tls]\nbind = '127.0.0.1:0'\nprotocol = 'tls'\n\
         routes = [{{ sni = '*.example', name = 'examples', pool = 'app' }}]\n\
         [pool.app]\nhealth.check = 'off'\n\
         backends = [{{ name = 'a', address = '{backend}' }}, {{ name = 'b', address = '{backend}' }}]\n"
    );
    let spec = AdminSpec::new("127.0.0.1:0".parse::<SocketAddr>().unwrap());
    let (proxy, address) = Proxy::start_with(config(&text), AdminSpec { open_changes: may_change, ..spec });
    (proxy, address.tcp().unwrap())
}

fn state(proxy: &Proxy, backend: &str) -> String {
    let snapshot = proxy.remote.view().snapshot.load();
    snapshot.pools["app"].pool.backend(backend).unwrap().state().word().to_owned()
}

/// Prints one frame. Returns the exit code and the frame.
fn once(admin: SocketAddr, view: &str, columns: &str) -> (i32, String) {
    let admin = admin.to_string();
    let mut command = command(&["top", "--once", "--view", view, "--admin", &admin]);
    let output = command.env("COLUMNS", columns).env_remove("LINES").output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Opens a pseudo-terminal. Returns its two ends: that of the person and that of the program. Other programs that tests start
/// at the same time inherit neither.
fn pseudo_terminal() -> (File, File) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname_r(&master).unwrap();
    let slave =
        File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).unwrap();
    set_size(&slave, COLUMNS, LINES);
    (File::from(OwnedFd::from(master)), slave)
}

fn set_size(terminal: &File, columns: usize, lines: usize) {
    let (columns, lines) = (columns.to_string(), lines.to_string());
    let arguments = ["cols", &*columns, "rows", &*lines];
    let status = Command::new("stty").args(arguments).stdin(terminal.try_clone().unwrap()).status();
    assert!(status.unwrap().success());
}

/// Returns the lines of the screen after these bytes: text at places that the program has chosen. Colours do not count.
fn screen_of(text: &str) -> String {
    let mut screen = vec![vec![' '; COLUMNS]; LINES];
    let (mut row, mut column) = (0, 0);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let Some(sequence) = rest.strip_prefix('[').filter(|_| c == '\u{1b}') else {
            if let Some(cell) = screen.get_mut(row).and_then(|line: &mut Vec<char>| line.get_mut(column)) {
                *cell = c;
            }
            column += 1;
            continue;
        };
        // A sequence that is not whole yet ends the text.
        let Some(end) = sequence.find(|c: char| c.is_ascii_alphabetic()) else { break };
        let parameters = &sequence[..end];
        match sequence.as_bytes()[end] {
            b'H' => {
                let (line, place) = parameters.split_once(';').unwrap_or(("1", "1"));
                row = line.parse::<usize>().unwrap() - 1;
                column = place.parse::<usize>().unwrap() - 1;
            }
            b'J' => screen.iter_mut().for_each(|line| line.fill(' ')),
            _ => {}
        }
        rest = &sequence[end + 1..];
    }
    screen.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
}

/// The program in a pseudo-terminal. It is killed when dropped, if it has not ended.
struct OnTerminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
    terminal: File,
    before: Termios,
}

impl OnTerminal {
    fn start(admin: SocketAddr) -> Self {
        let (master, slave) = pseudo_terminal();
        let before = tcgetattr(&slave).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = command(&["top", "--interval", "200ms", "--admin", &admin.to_string()]);
        command.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        let keys = master.try_clone().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut source, to) = (master, Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keys, shown, terminal: slave, before }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until this text is in a line of the screen.
    #[track_caller]
    fn wait_for(&self, part: &str) {
        let found = find_in_time(|| self.screen().contains(part).then_some(()));
        assert!(found.is_some(), "no {part} on the screen:\n{}", self.screen());
    }

    /// Returns the lines of the screen.
    fn screen(&self) -> String {
        screen_of(&self.text())
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Waits for the end of the program. The terminal must be as it was before.
    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the end of the program", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.expect_restored();
        status.unwrap()
    }

    #[track_caller]
    fn expect_restored(&self) {
        wait_for("the first screen", || {
            let text = self.text();
            text.rfind(LEAVE).is_some_and(|left| text.rfind(ENTER).is_some_and(|entered| entered < left))
        });
        let text = self.text();
        assert!(text.rfind("\u{1b}[?25h") > text.rfind("\u{1b}[?25l"), "the cursor is shown: {text:?}");
        assert_eq!(tcgetattr(&self.terminal).unwrap(), self.before);
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_frame_is_printed_for_scripts() {
    let (proxy, admin) = start(true);
    let mut client = connect_from("127.0.0.1".parse().unwrap(), proxy.address("tls"));
    client.write_all(&hello(b"www.example")).unwrap();
    wait_for("a connection", || once(admin, "connections", "120").1.contains("www.example"));
    let (code, frame) = once(admin, "pools", "80");
    assert_eq!(code, 0, "{frame}");
    assert!(frame.starts_with(" all is well"), "{frame}");
    assert!(frame.contains("2 of 2 up") && frame.contains("POOL, BACKEND"), "{frame}");
    assert!(!frame.contains('\u{1b}') && frame.lines().all(|line| line.chars().count() <= 80), "{frame}");
    for (view, part) in [
        ("sources", "127.0.0.1"),
        ("events", "serving"),
        ("overrides", "nothing to show"),
        ("listeners", "tls"),
        ("names", "[4 names]"),
    ] {
        let (code, frame) = once(admin, view, "100");
        assert!(code == 0 && frame.contains(part), "{view}: {frame}");
    }
}

#[test]
fn a_server_that_is_gone_is_a_failure() {
    let (proxy, admin) = start(true);
    drop(proxy);
    let (code, frame) = once(admin, "pools", "100");
    assert_eq!(code, 1, "{frame}");
    assert!(frame.starts_with(" NO ANSWER since") && frame.contains("is pointsman running"), "{frame}");
    let wrong = run(&["top", "--admin", &admin.to_string()]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("no terminal; --once"), "it has no terminal");
}

#[test]
fn the_view_ends_by_a_key_and_by_signals_and_restores_the_terminal() {
    let (_proxy, admin) = start(true);
    for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGHUP), Some(Signal::SIGINT)] {
        let mut view = OnTerminal::start(admin);
        view.wait_for("all is well");
        assert!(view.is_raw() && view.text().contains(ENTER));
        match signal {
            None => view.press("q"),
            Some(signal) => view.signal(signal),
        }
        let status = view.end();
        assert_eq!(status.signal(), signal.map(|signal| signal as i32), "{status}");
        assert_eq!(status.code(), signal.is_none().then_some(0), "{status}");
    }
}

/// The program must not be busy for ever with a terminal that is gone. No signal comes here: the terminal has no session.
#[test]
fn the_view_ends_with_its_terminal() {
    let (_proxy, admin) = start(true);
    let (mut master, slave) = pseudo_terminal();
    let mut command = command(&["top", "--admin", &admin.to_string()]);
    let end = || Stdio::from(slave.try_clone().unwrap());
    let mut child = command.stdin(end()).stdout(end()).stderr(Stdio::null()).spawn().unwrap();
    let mut start = [0; 8];
    master.read_exact(&mut start).unwrap();
    assert_eq!(&start, ENTER.as_bytes());
    drop(master);
    let mut status = None;
    wait_for("the end of the program", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn a_backend_is_drained_by_keys() {
    let (proxy, admin) = start(true);
    let mut view = OnTerminal::start(admin);
    view.wait_for("all is well");
    view.press("jd");
    view.wait_for("drain app/a?");
    view.press("n");
    view.wait_for("nothing was changed");
    assert_eq!(state(&proxy, "a"), "up");
    view.press("dy");
    wait_for("the drain", || state(&proxy, "a") == "draining");
    view.wait_for("drain app/a: set");
    view.press("q");
    assert!(view.end().success());
}

#[test]
fn without_the_right_to_change_the_view_says_how_to_get_it() {
    let (proxy, admin) = start(false);
    let mut view = OnTerminal::start(admin);
    view.wait_for("all is well");
    view.press("jdy");
    view.wait_for("refused (401)");
    view.wait_for("or --token-file");
    assert_eq!(state(&proxy, "a"), "up");
    view.press("q");
    assert!(view.end().success());
}

#[test]
fn the_view_follows_the_size_of_the_screen() {
    let (_proxy, admin) = start(true);
    let mut view = OnTerminal::start(admin);
    view.wait_for("6 overrides");
    // There is no session here, so the kernel sends no signal by itself.
    for (columns, lines) in [(40, 12), (0, 0), (1, 1), (COLUMNS, LINES)] {
        set_size(&view.terminal, columns, lines);
        view.signal(Signal::SIGWINCH);
        if columns == 40 {
            wait_for("a narrow screen", || !view.screen().contains("6 overrides"));
        }
    }
    view.wait_for("6 overrides");
    view.press("q");
    assert!(view.end().success());
}

#[test]
fn the_view_is_suspended_and_continues() {
    let (_proxy, admin) = start(true);
    let mut view = OnTerminal::start(admin);
    view.wait_for("all is well");
    view.press("\u{1a}");
    let stopped = waitpid(view.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    view.expect_restored();
    let before = view.text().len();
    view.signal(Signal::SIGCONT);
    wait_for("the second screen", || view.text()[before..].contains(ENTER));
    wait_for("a whole frame", || screen_of(&view.text()[before..]).contains("all is well"));
    assert!(view.is_raw());
    view.press("q");
    let status = view.end();
    assert!(status.success(), "{status}:\n{}", view.text().escape_debug());
}
