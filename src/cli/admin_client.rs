//! The admin listener on the command line: the target of commands, and the listener that `run` opens.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io};

use clap::Args;

use super::status::{self, Extent};
use super::{FAILED, FAULTY, answer, complain};
use crate::admin;
use crate::config::{self, AdminSpec, Config};
use crate::sys::{Address, socket_file};
use crate::telemetry::program_log::as_text;

/// The admin socket of the unit and of the image.
const SOCKET: &str = "/run/pointsman/admin.sock";

/// The environment variable with the address of the admin listener.
const VARIABLE: &str = "POINTSMAN_ADMIN";

/// The address that commands query if neither the variable nor the socket exists.
const LOOPBACK: &str = "127.0.0.1:10190";

/// The hint for an address at which no process answers.
pub(super) const NO_LISTENER: &str = "is pointsman running, and does it have an admin listener at this address? `[admin] \
    listen = \"unix:/run/pointsman/admin.sock\"` in its configuration or `run --admin ADDRESS` sets one; the option --admin \
    or the variable POINTSMAN_ADMIN of this command names another address";

/// The time that commands wait for the admin listener.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// The longest shown text of a failed request, in characters: another server may send a page.
const LONGEST_FAULT: usize = 300;

#[derive(Args)]
pub(super) struct AdminArgs {
    /// The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else
    /// unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Address>,
    /// The file with the token of the admin listener: the file of admin.token_file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AdminArgs {
    /// Returns true if an option names the listener or its token.
    pub(super) fn is_given(&self) -> bool {
        self.admin.is_some() || self.token_file.is_some()
    }

    /// Returns the listener to query. Faults are printed.
    pub(super) fn at(&self) -> Result<admin::AdminTarget, ExitCode> {
        let token = given_token(self.token_file.as_deref())?;
        let address = match &self.admin {
            Some(address) => address.clone(),
            None => found().map_err(|fault| {
                complain(&fault);
                ExitCode::from(FAULTY)
            })?,
        };
        Ok(admin::AdminTarget { address, token })
    }
}

/// Returns the token of a file, if one is given. Faults are printed.
pub(super) fn given_token(file: Option<&Path>) -> Result<Option<String>, ExitCode> {
    file.map(config::read_given_token).transpose().map_err(|fault| {
        complain(&fault.to_string());
        ExitCode::from(FAILED)
    })
}

/// Returns the listener to query if no argument names one. The variable comes before the socket: an operator has set
/// the variable, and the socket exists on each host with the unit.
fn found() -> Result<Address, String> {
    let parsed = |text: &str| text.parse::<Address>().map_err(|fault| fault.to_string());
    match env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => {
            parsed(&text).map_err(|fault| format!("{VARIABLE} is {text:?}, which is not an address: {fault}"))
        }
        Err(env::VarError::NotUnicode(_)) => Err(format!("{VARIABLE} is not UTF-8")),
        _ if socket_file::is_socket(SOCKET.as_ref()) => Ok(Address::Unix(Path::new(SOCKET).into())),
        _ => parsed(LOOPBACK),
    }
}

/// Queries a page and prints it.
pub(super) fn show_page(args: &AdminArgs, path: &str) -> ExitCode {
    match args.at() {
        Ok(at) => print_answer(&at.address.clone(), admin::ask(at, path, TIMEOUT)),
        Err(code) => code,
    }
}

/// Queries a page. Returns the status code and the page.
pub(super) fn ask_page(args: &AdminArgs, path: &str) -> Result<(u16, String), QueryFault> {
    let at = args.at().map_err(QueryFault::Reported)?;
    admin::ask(at.clone(), path, TIMEOUT).map_err(|error| QueryFault::Unanswered(at.address, error))
}

/// The reason for which a page was not queried.
pub(super) enum QueryFault {
    /// The reason is printed.
    Reported(ExitCode),
    /// The listener did not answer.
    Unanswered(Address, io::Error),
}

/// Prints the reason for which a page was not queried.
pub(super) fn complain_of(fault: QueryFault) -> ExitCode {
    match fault {
        QueryFault::Reported(code) => code,
        QueryFault::Unanswered(address, error) => print_answer(&address, Err(error)),
    }
}

/// Queries the status and prints it as a table. An answer that is not a status is printed unchanged.
pub(super) fn show_status(args: &AdminArgs, extent: Extent) -> ExitCode {
    let at = match args.at() {
        Ok(at) => at,
        Err(code) => return code,
    };
    let response = admin::ask(at.clone(), "/api/v1/status", TIMEOUT);
    print_answer(
        &at.address,
        response.map(|(code, page)| (code, status::table(&page, extent).unwrap_or(page))),
    )
}

/// Requests a change whose answer may take this time. Returns the status code and the page.
pub(super) fn change_page(
    args: &AdminArgs,
    method: &'static str,
    path: &str,
    time: Duration,
) -> Result<(u16, String), QueryFault> {
    let at = args.at().map_err(QueryFault::Reported)?;
    admin::change(at.clone(), method, path, time).map_err(|error| QueryFault::Unanswered(at.address, error))
}

/// Requests a change, by `POST` or `DELETE`.
pub(super) fn change(args: &AdminArgs, method: &'static str, path: &str) -> ExitCode {
    match args.at() {
        Ok(at) => print_answer(&at.address.clone(), admin::change(at, method, path, TIMEOUT)),
        Err(code) => code,
    }
}

/// Sends a request and returns the page of a good answer. All else is printed: a request that is wrong has the exit code of
/// a wrong usage.
pub(super) fn fetch(args: &AdminArgs, method: &'static str, path: &str) -> Result<String, ExitCode> {
    let at = args.at()?;
    let address = at.address.clone();
    match admin::change(at, method, path, TIMEOUT) {
        Ok((200, page)) => Ok(page),
        response => {
            let is_wrong = matches!(response, Ok((400 | 404, _)));
            let failed = print_answer(&address, response);
            Err(if is_wrong { ExitCode::from(FAULTY) } else { failed })
        }
    }
}

/// Prints an answer with control characters escaped: any process may listen at the address.
fn print_answer(address: &Address, response: io::Result<(u16, String)>) -> ExitCode {
    match response {
        Ok((200, body)) => answer(&format!("{}\n", as_text(body.trim_end()))),
        Ok((status, body)) => {
            complain(&format!("{address} answered {status}: {}", as_text(shortened(body.trim_end()))));
            ExitCode::from(FAILED)
        }
        Err(error) => {
            let hint = match (error.kind(), address) {
                (io::ErrorKind::PermissionDenied, Address::Unix(_)) => {
                    "only the owner and the group of the socket file may connect: run the command as the owner or as a member of the group"
                }
                _ => NO_LISTENER,
            };
            complain(&format!("cannot query {address}: {error}; {hint}"));
            ExitCode::from(FAILED)
        }
    }
}

/// A parameter of a query: its name, and its value if it is given.
pub(super) type Parameter<'a> = (&'a str, Option<&'a str>);

/// Returns a query with the parameters that are given, or nothing without any.
pub(super) fn query<'a>(parameters: impl IntoIterator<Item = Parameter<'a>>) -> String {
    let given =
        parameters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?))));
    let given: Vec<_> = given.collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

/// Escapes a text as a part of a path or a query. Characters without a meaning there stay.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// Returns the first characters of a text.
pub(super) fn shortened(text: &str) -> &str {
    text.char_indices().nth(LONGEST_FAULT).map_or(text, |(end, _)| &text[..end])
}

/// Adds the admin listener of `run --admin` to those of the file. On a Unix socket it requires no token: the
/// permissions of the file decide. On any other address it has the settings of the first listener in the file.
///
/// # Errors
///
/// A message, if other machines can reach the address and there is no token.
pub(super) fn give(config: &mut Config, address: &Address) -> Result<(), String> {
    if config.admin.iter().any(|spec| spec.listen == *address) {
        return Ok(());
    }
    let mut spec = AdminSpec::new(address.clone());
    if let (Some(written), false) = (config.admin.first(), spec.is_unix()) {
        spec = AdminSpec { listen: address.clone(), ..written.clone() };
    }
    if !spec.is_local() && spec.token_file.is_none() && !spec.open_metrics {
        return Err(format!(
            "other machines may reach --admin {address}, and there is no token: use \
             unix:/run/pointsman/admin.sock or 127.0.0.1:10190, or write [admin] with token_file or open_metrics in a \
             configuration"
        ));
    }
    config.given_admin = Some(spec);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_listener_comes_beside_those_of_the_file() {
        let with = |admin: &str, address: &str| {
            let text = format!(
                "{admin}\n[listener.a]\nbind = ':1'\npool = 'p'\n[pool.p]\nbackends = ['10.0.0.1:1']"
            );
            let (mut config, _) = config::parse("test.toml", &text).unwrap();
            give(&mut config, &address.parse().unwrap()).map(|()| config.given_admin)
        };
        let socket =
            with("[admin]\nlisten = '0.0.0.0:9'\ntoken_file = '/t'", "unix:/run/a").unwrap().unwrap();
        assert_eq!((socket.token_file, socket.listen.to_string()), (None, "unix:/run/a".to_owned()));
        let other = with("[admin]\nlisten = 'unix:/a'\ntoken_file = '/t'", "0.0.0.0:9").unwrap().unwrap();
        assert!(other.token_file.is_some());
        assert!(with("", "127.0.0.1:9").unwrap().is_some());
        assert_eq!(with("[admin]\nlisten = ['127.0.0.1:8', 'unix:/a']", "unix:/a"), Ok(None));
        assert!(with("", "0.0.0.0:9").unwrap_err().contains("there is no token"));
    }

    #[test]
    fn a_text_stays_one_part_of_the_path() {
        let check = |text: &str, expected: &str| assert_eq!(escaped(text), expected);
        check("192.0.2.0/24", "192.0.2.0/24");
        check("2001:db8::1", "2001:db8::1");
        check("1h 30m", "1h%2030m");
        check("a?b#c%d&e", "a%3Fb%23c%25d%26e");
        check("\r\né", "%0D%0A%C3%A9");
    }

    #[test]
    fn long_pages_are_shortened() {
        assert_eq!(shortened("no\n"), "no\n");
        assert_eq!(shortened(&"é".repeat(5000)).chars().count(), LONGEST_FAULT);
    }
}
