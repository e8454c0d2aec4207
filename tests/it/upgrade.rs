//! `pointsman upgrade` and `run --take-over`: each refusal with its reason, beside a fake running program.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::{self, JoinHandle};

use pointsman::sys::frames::FrameSocket;
use pointsman::telemetry::{COMMIT, VERSION};
use pointsman::wire::handover::{Hello, Message, Refused, Reloaded, Welcome};

use crate::process::{Folder, Program, command};
use crate::support::Backend;

/// The arguments of a command that uses a configuration and a socket.
struct Place {
    folder: Folder,
    file: PathBuf,
    socket: PathBuf,
}

impl Place {
    fn new(test: &str) -> Self {
        let folder = Folder::new(test);
        let backend = Backend::echo();
        let socket = folder.path("h");
        let text = format!(
            "access_log.to = 'off'\nhandover.socket = '{}'\n[listener.main]\nbind = '127.0.0.1:0'\npool = 'main'\n\
             [pool.main]\nbackends = ['{}']\nhealth.check = 'off'\n",
            socket.display(),
            backend.address
        );
        let file = folder.write("config.toml", &text);
        Self { folder, file, socket }
    }

    /// Runs `upgrade` with the configuration and further arguments to its end.
    fn upgrade(&self, arguments: &[&str]) -> Output {
        command(&["upgrade"]).args(arguments).arg(&self.file).output().unwrap()
    }

    /// Starts a running program that answers each question by `answer`, and counts the questions. It ends when `answer`
    /// returns false.
    fn incumbent(
        &self,
        mut answer: impl FnMut(&Message, &FrameSocket) -> bool + Send + 'static,
    ) -> JoinHandle<()> {
        let listener = UnixListener::bind(&self.socket).unwrap();
        fs::set_permissions(&self.socket, fs::Permissions::from_mode(0o600)).unwrap();
        thread::spawn(move || {
            loop {
                let socket = FrameSocket::new(listener.accept().unwrap().0).unwrap();
                let Ok(frame) = socket.receive() else { continue };
                if !answer(&Message::decode(frame.kind, &frame.json).unwrap(), &socket) {
                    return;
                }
            }
        })
    }
}

fn send(socket: &FrameSocket, message: &Message, descriptors: &[BorrowedFd<'_>]) {
    let (kind, json) = message.encode();
    socket.send(kind, &json, &[], descriptors).unwrap();
}

/// Returns the description of a program of another version.
fn other_version() -> Welcome {
    Welcome {
        protocol: Some(1),
        version: "0.0.1".to_owned(),
        commit: "abc".to_owned(),
        pid: 812,
        ..Welcome::default()
    }
}

/// Returns the description of a program of this build with a file.
fn same_build(file: &Path) -> Welcome {
    Welcome {
        version: VERSION.to_owned(),
        commit: COMMIT.to_owned(),
        config_file: Some(file.to_str().unwrap().to_owned()),
        ..other_version()
    }
}

fn welcome(socket: &FrameSocket, welcome: &Welcome) {
    send(socket, &Message::Welcome(Box::new(welcome.clone())), &[]);
}

fn expect(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn without_a_running_program_an_upgrade_names_the_start() {
    let place = Place::new("upgrade-absent");
    let hint = "start it with `pointsman run FILE` or `systemctl start pointsman`";
    expect(&place.upgrade(&[]), 1, &["no pointsman answers at ", "No such file", hint]);
    drop(UnixListener::bind(&place.socket).unwrap());
    expect(&place.upgrade(&[]), 1, &["no pointsman answers at ", "refused", hint]);
}

#[test]
fn a_configuration_with_faults_ends_before_the_running_program_is_asked() {
    let place = Place::new("upgrade-faulty");
    let listener = UnixListener::bind(&place.socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    place.folder.write("config.toml", "nonsense = 1\n");
    let socket = place.socket.to_str().unwrap();
    expect(&place.upgrade(&["--socket", socket]), 2, &["unknown key", "the running program was not asked"]);
    assert!(listener.accept().is_err(), "no connection came");
    place.folder.write(
        "config.toml",
        "handover.socket = 'off'\n[listener.a]\nbind = ':1'\npool = 'p'\n\
        [pool.p]\nbackends = ['10.0.0.1:1']\n",
    );
    expect(&place.upgrade(&[]), 2, &["[handover] socket is \"off\"", "--socket"]);
    let output = command(&["upgrade", "-"]).output().unwrap();
    expect(&output, 2, &["needs a configuration file with a path"]);
}

#[test]
fn a_socket_that_may_be_that_of_another_is_refused() {
    let place = Place::new("upgrade-socket");
    fs::write(&place.socket, "").unwrap();
    expect(&place.upgrade(&[]), 1, &["is not a socket", "--socket PATH"]);
    fs::remove_file(&place.socket).unwrap();
    let _listener = UnixListener::bind(&place.socket).unwrap();
    fs::set_permissions(&place.socket, fs::Permissions::from_mode(0o622)).unwrap();
    expect(&place.upgrade(&[]), 1, &["has the mode 0622, so other users can connect", "chmod 0600"]);
    // Only root can give a file to another user.
    if std::os::unix::fs::chown(&place.socket, Some(1), None).is_ok() {
        fs::set_permissions(&place.socket, fs::Permissions::from_mode(0o600)).unwrap();
        let parts =
            ["belongs to the user 1, and this command runs as the user 0", "systemctl reload pointsman"];
        expect(&place.upgrade(&[]), 1, &parts);
    }
}

#[test]
fn the_reason_of_the_running_program_is_printed_without_control_characters() {
    let place = Place::new("upgrade-refused");
    let incumbent = place.incumbent(|_, socket| {
        let reason = "process 9 takes over since 2 s\u{1b}[2J".to_owned();
        send(socket, &Message::Refused(Refused { reason }), &[]);
        false
    });
    let output = place.upgrade(&[]);
    expect(&output, 1, &["the running program refuses: process 9 takes over since 2 s\\u001b[2J"]);
    incumbent.join().unwrap();
}

#[test]
fn the_same_build_with_the_same_file_reloads() {
    let place = Place::new("upgrade-reload");
    let file = place.file.clone();
    let mut faults = [None, Some("the port is in use".to_owned())].into_iter();
    let mut questions = 0;
    let incumbent = place.incumbent(move |message, socket| {
        questions += 1;
        match message {
            Message::Query(_) => welcome(socket, &same_build(&file)),
            Message::Reload(_) => {
                let fault = faults.next().unwrap();
                let changes = fault.is_none().then(|| "changed: pool main".to_owned());
                send(socket, &Message::Reloaded(Reloaded { changes, fault }), &[]);
            }
            other => panic!("{}", other.name()),
        }
        questions < 4
    });
    expect(&place.upgrade(&[]), 0, &["checked    ", "running    ", "reloaded   pid 812: changed: pool main"]);
    expect(&place.upgrade(&[]), 1, &["pid 812 keeps its earlier configuration: the port is in use"]);
    incumbent.join().unwrap();
}

#[test]
fn without_a_file_the_file_of_the_running_program_is_used() {
    let place = Place::new("upgrade-file");
    let directory = place.file.parent().unwrap().to_str().unwrap().to_owned();
    let mut files = [Some("config.toml".to_owned()), None].into_iter();
    let incumbent = place.incumbent(move |message, socket| match message {
        Message::Query(_) => {
            let config_file = files.next().unwrap();
            let is_last = config_file.is_none();
            let directory = Some(directory.clone());
            let same = same_build(Path::new(""));
            welcome(socket, &Welcome { config_file, directory, ..same });
            !is_last
        }
        _ => {
            send(socket, &Message::Reloaded(Reloaded::default()), &[]);
            true
        }
    });
    let upgrade = || command(&["upgrade", "--socket"]).arg(&place.socket).output().unwrap();
    expect(&upgrade(), 0, &["config.toml: good", "reloaded   pid 812: nothing has changed"]);
    expect(&upgrade(), 2, &["(pid 812) has no configuration file", "pointsman upgrade FILE"]);
    incumbent.join().unwrap();
}

#[test]
fn a_shell_outside_of_the_service_is_told_the_command_of_systemd() {
    let place = Place::new("upgrade-cgroup");
    let incumbent = place.incumbent(|message, socket| {
        assert_eq!(message.name(), "Query");
        let notify_socket = Some("/run/systemd/notify".to_owned());
        let cgroup = Some("0::/system.slice/pointsman.service\n".to_owned());
        welcome(socket, &Welcome { notify_socket, cgroup, ..other_version() });
        false
    });
    expect(&place.upgrade(&[]), 1, &["running    0.0.1 (abc) pid 812", "use `systemctl reload pointsman`"]);
    incumbent.join().unwrap();
}

/// The successor asks with its limit of descriptors. The refusal reaches the command, and the log of the successor is
/// that of the running program.
#[test]
fn a_refused_successor_reports_the_reason() {
    let place = Place::new("upgrade-successor");
    let (log, written) = (place.folder.path("log"), place.folder.path("log"));
    let file = place.file.clone();
    let mut is_refused = false;
    let incumbent = place.incumbent(move |message, socket| match message {
        Message::Query(_) if is_refused => {
            welcome(socket, &same_build(&file));
            false
        }
        Message::Query(_) => {
            let log = fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
            let same = Box::new(same_build(&file));
            send(socket, &Message::Welcome(same), &[log.as_fd(), log.as_fd()]);
            true
        }
        Message::Hello(found) => {
            let Hello { pid, nofile, .. } = found;
            assert!(*pid != std::process::id() && *nofile > 3, "{found:?}");
            send(socket, &Message::Refused(Refused { reason: "no: it is busy".to_owned() }), &[]);
            is_refused = true;
            true
        }
        other => panic!("{}", other.name()),
    });
    expect(
        &place.upgrade(&["--again"]),
        1,
        &["no hand-over: the running program refuses: no: it is busy", "pid 812 still runs"],
    );
    incumbent.join().unwrap();
    crate::support::wait_for("the log of the successor", || {
        fs::read_to_string(&written).is_ok_and(|log| log.contains("no: it is busy"))
    });
}

/// The command looks which program runs. Here none does.
#[test]
fn a_successor_that_dies_without_a_running_program_is_reported_as_such() {
    let place = Place::new("upgrade-dead");
    let file = place.file.clone();
    let incumbent = place.incumbent(move |message, socket| match message {
        Message::Query(_) => {
            welcome(socket, &same_build(&file));
            true
        }
        // It ends, and its socket with it.
        _ => false,
    });
    let parts = ["no hand-over", "pid 812 no longer answers, so perhaps no program serves: start it with"];
    expect(&place.upgrade(&["--again"]), 1, &parts);
    incumbent.join().unwrap();
}

#[test]
fn to_take_over_from_nobody_is_an_ordinary_start() {
    let place = Place::new("take-over-alone");
    let mut program = Program::start(command(&["run", "--take-over"]).arg(&place.file));
    program.stderr.wait_for("no running program to take over from: an ordinary start");
    program.stderr.wait_for("serving");
    program.expect_end_by("TERM");
}

#[test]
fn to_take_over_needs_a_socket_that_is_known_and_safe() {
    let place = Place::new("take-over-refused");
    let take_over = |file: &Path| command(&["run", "--take-over"]).arg(file).output().unwrap();
    fs::write(&place.socket, "").unwrap();
    expect(&take_over(&place.file), 1, &["is not a socket"]);
    let text = fs::read_to_string(&place.file).unwrap();
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("handover"))
        .fold(String::new(), |text, line| text + line + "\n");
    let file = place.folder.write("without.toml", &without);
    expect(&take_over(&file), 2, &["--take-over: no socket of a running program is known"]);
    let output = command(&["run", "--socket", "/a"]).arg(&place.file).output().unwrap();
    expect(&output, 2, &["--take-over"]);
}
