//! The programs of the proxies: their paths, their versions, and the commands that run them.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::configurations::{self, Setup, Shape, configuration};
use crate::peers::Peer;
use crate::roles;

/// Returns the path of the program if it is installed. The variable with its name in capitals (`HAPROXY`) has
/// precedence over the installed program. So a newer program than that of the system can be measured.
pub(crate) fn program(peer: Peer) -> Option<PathBuf> {
    match peer {
        Peer::Pointsman => Some(env!("CARGO_BIN_EXE_pointsman").into()),
        Peer::TokioCopy | Peer::Direct => env::current_exe().ok(),
        Peer::Haproxy | Peer::Haproxy1m => chosen("HAPROXY", "haproxy"),
        Peer::Nginx => chosen("NGINX", "nginx"),
        Peer::Sniproxy => chosen("SNIPROXY", "sniproxy"),
        Peer::Envoy => chosen("ENVOY", "envoy"),
    }
}

fn chosen(variable: &str, name: &str) -> Option<PathBuf> {
    let named = env::var_os(variable).filter(|program| !program.is_empty());
    let program = PathBuf::from(named.unwrap_or_else(|| name.into()));
    // The path is made absolute, because the program is started in another directory.
    if program.components().count() > 1 { std::path::absolute(program).ok() } else { installed(&program) }
}

/// Finds a program. Daemons are often installed in a directory that the PATH of an ordinary user lacks.
fn installed(name: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let further = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(further).map(|place| place.join(name)).find(|file| file.is_file())
}

/// Returns the first line that the program prints about its version, or the reason why it prints none.
pub(crate) fn version(peer: Peer) -> String {
    let argument = match peer {
        Peer::Pointsman | Peer::Envoy => "--version",
        Peer::Haproxy | Peer::Haproxy1m | Peer::Nginx => "-v",
        Peer::Sniproxy => "-V",
        Peer::TokioCopy | Peer::Direct => return "part of this program".to_owned(),
    };
    match says(peer, argument) {
        Ok(text) => text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing").to_owned(),
        Err(error) => format!("cannot be run: {error}"),
    }
}

fn says(peer: Peer, argument: &str) -> io::Result<String> {
    let program = program(peer).ok_or(io::ErrorKind::NotFound)?;
    let output = Command::new(program).arg(argument).output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Writes the configuration and returns the command that runs the program in the foreground.
///
/// # Errors
/// Returns an error if the program is missing, or a file cannot be written.
pub(crate) fn command(peer: Peer, setup: &Setup, shape: Shape) -> io::Result<Command> {
    let text = match peer {
        Peer::Pointsman => configurations::pointsman(setup, shape),
        Peer::Haproxy => configurations::haproxy(setup, ""),
        Peer::Haproxy1m => configurations::haproxy(setup, "tune.pipesize 1048576"),
        Peer::Nginx => configurations::nginx(setup, nginx_module()?.as_deref()),
        Peer::Sniproxy => configurations::sniproxy(setup),
        Peer::Envoy => configurations::envoy(setup),
        Peer::TokioCopy | Peer::Direct => String::new(),
    };
    let file = configuration(setup, peer);
    fs::write(&file, text)?;
    let mut command = Command::new(program(peer).ok_or(io::ErrorKind::NotFound)?);
    command.current_dir(&setup.directory);
    match peer {
        Peer::Pointsman => command.arg("run").arg(file),
        Peer::Haproxy | Peer::Haproxy1m => command.arg("-db").arg("-f").arg(file),
        Peer::Nginx => command.arg("-p").arg(&setup.directory).args(["-e", "stderr"]).arg("-c").arg(file),
        Peer::Sniproxy => command.arg("-f").arg("-c").arg(file),
        Peer::Envoy => command
            .arg("-c")
            .arg(file)
            .arg("--concurrency")
            .arg(setup.workers.to_string())
            .args(["--disable-hot-restart", "-l", "off"]),
        Peer::TokioCopy | Peer::Direct => {
            command.args([roles::TOKIO_COPY, &setup.port.to_string(), &setup.backend_port.to_string()])
        }
    };
    Ok(command)
}

/// Returns the file that the installed nginx must load for `stream`, if it must.
///
/// # Errors
/// Returns an error if nginx cannot be run.
pub(crate) fn nginx_module() -> io::Result<Option<String>> {
    Ok(stream_module(&says(Peer::Nginx, "-V")?))
}

/// Returns the file that nginx must load for `stream`, from the output of `nginx -V`. `None` if the module is
/// built in.
pub(crate) fn stream_module(built: &str) -> Option<String> {
    let mut options = built.split_whitespace();
    if !options.any(|option| option == "--with-stream=dynamic") {
        return None;
    }
    let directory = built.split_whitespace().find_map(|option| option.strip_prefix("--modules-path="))?;
    Some(format!("{directory}/ngx_stream_module.so"))
}
